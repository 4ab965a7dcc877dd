"""The metrics that models are compared by, and the counts of people from which they follow.

Every compared metric of any group of people follows from sums over these people: confusions for F1
and recalls, moments for the concordance. So a person is reduced to a row of counts, and choosing
people, once or ten thousand times, is one product of matrices.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from faceaffect.schema import CLASS_TASKS, LabelSchema
from faceaffect.scores.counts import au_confusion, ccc_of, f1, ratio
from faceaffect.scores.predictions import Outcome

MANY_PEOPLE = 4000
"""More are counted in blocks: a table of weights for each would take minutes and gigabytes."""

BLOCKS = 2000

_ALL = slice(None)
_TOGETHER = 2**16  # samples whose counts are in memory at once


@dataclass(frozen=True)
class Parts:
    """What a metric is the mean of: AUs, classes or dimensions.

    Args:
        prefix: the name of a part is this, ``/`` and the AU, class or dimension.
        title: in a sentence; a table's begins with a capital.
        note: how to read it.
    """

    prefix: str
    title: str
    note: str


@dataclass(frozen=True)
class Headline:
    """A metric that models are compared by.

    Args:
        name: in results and reports.
        task: one of :data:`~faceaffect.schema.TASKS`.
        title: in a sentence.
        short: in a column's head.
        form: how it is written, see :func:`~faceaffect.evaluation.tables.show`.
        bounds: smallest and largest value.
        of: from counts (..., C) to the values of the parts (..., P), of which the metric is the
            mean of the defined; without parts, to the metric itself (..., 1).
        parts: what it is the mean of, if anything.
    """

    name: str
    task: str
    title: str
    short: str
    form: str
    bounds: tuple[float, float]
    of: Callable[[Tensor], Tensor]
    parts: Parts | None = None


def _f1(counts: Tensor) -> Tensor:
    return f1(_cells(counts, 4).movedim(-2, 0))


def _accuracy(counts: Tensor) -> Tensor:
    table = _confusion(counts)
    right, rows = table.diagonal(dim1=-2, dim2=-1), table.sum(-1)
    return ratio(right.sum(-1, keepdim=True), rows.sum(-1, keepdim=True))


def _recall(counts: Tensor) -> Tensor:
    table = _confusion(counts)
    return ratio(table.diagonal(dim1=-2, dim2=-1), table.sum(-1))


def _concordance(counts: Tensor) -> Tensor:
    n, x, y, xx, yy, xy = _cells(counts, 6).movedim(-2, 0)
    rows = n.clamp(min=1)
    # What rounding leaves of the squares of a constant is no variance.
    dxx = (xx - x * x / rows).where(xx - x * x / rows > 1e-12 * xx, 0)
    dyy = (yy - y * y / rows).where(yy - y * y / rows > 1e-12 * yy, 0)
    dxy = (xy - x * y / rows).where((dxx > 0) & (dyy > 0), 0)
    return ccc_of(torch.stack([n, x / rows, y / rows, dxx, dyy, dxy]))


def _confusion(counts: Tensor) -> Tensor:
    """(..., K (K + 1)) to (..., K, K + 1)."""
    return _cells(counts, (math.isqrt(1 + 4 * counts.shape[-1]) - 1) // 2)


def _cells(counts: Tensor, rows: int) -> Tensor:
    """(..., C) to (..., rows, C / rows)."""
    return counts.reshape(*counts.shape[:-1], rows, -1)


_AU = Parts(
    "au_f1",
    "F1 of each AU",
    "In points. An AU that the truth never has counts 0 where a model reports it, and is left out "
    "of the mean where it does not. Trivial: always present.",
)
_CLASS = Parts(
    "expression_recall",
    "recall of each class",
    "In points. Trivial: always the most frequent class of the training part.",
)
_FELT = Parts("felt_recall", "recall of each felt emotion", _CLASS.note)
_DIMENSION = Parts(
    "va_ccc", "concordance", "CCC, from -1 to 1. Trivial: always the training part's mean."
)

HEADLINES = {
    headline.name: headline
    for headline in (
        Headline("au_f1", "au", "mean AU F1", "AU F1", "points", (0, 1), _f1, _AU),
        Headline("expression_war", "expression", "expression accuracy (WAR)", "WAR", "points",
                 (0, 1), _accuracy),
        Headline("expression_uar", "expression", "expression recall (UAR)", "UAR", "points",
                 (0, 1), _recall, _CLASS),
        Headline("va_ccc", "va", "valence-arousal CCC", "VA CCC", "fraction",
                 (-1, 1), _concordance, _DIMENSION),
        Headline("felt_war", "felt", "felt emotion accuracy (WAR)", "felt WAR", "points",
                 (0, 1), _accuracy),
        Headline("felt_uar", "felt", "felt emotion recall (UAR)", "felt UAR", "points",
                 (0, 1), _recall, _FELT),
        Headline("intensity_ccc", "intensity", "CCC of the intensity", "intensity CCC", "fraction",
                 (-1, 1), _concordance),
    )
}  # fmt: skip
"""The metrics that models are compared by, in the order of the tasks."""


def headlines(task: str) -> list[str]:
    """Return the names of a task's metrics."""
    return [name for name, headline in HEADLINES.items() if headline.task == task]


def headline_of(metric: str) -> Headline | None:
    """Return the headline that a metric is, or is a part of.

    >>> headline_of("expression_recall/anger").name
    'expression_uar'
    """
    start = metric.split("/")[0]
    return next(
        (h for h in HEADLINES.values() if start in (h.name, h.parts and h.parts.prefix)), None
    )


def bounds(metric: str) -> tuple[float, float]:
    """Return the smallest and the largest value of a metric of counts."""
    headline = headline_of(metric)
    assert headline is not None
    return headline.bounds


def metric_names(task: str, schema: LabelSchema) -> list[str]:
    """Return the names of the metrics that follow from the counts of a task, headlines first."""
    labels = schema.names(task)
    parts = [h.parts.prefix for h in HEADLINES.values() if h.task == task and h.parts]
    return [*headlines(task), *(f"{prefix}/{label}" for prefix in parts for label in labels)]


def metrics_of(task: str, counts: Tensor) -> Tensor:
    """Return the metrics of counts, (..., C) to (..., M) in the order of :func:`metric_names`.

    >>> metrics_of("au", torch.tensor([3.0, 1.0, 1.0, 5.0]))  # one AU: tp, fp, fn, tn
    tensor([0.7500, 0.7500], dtype=torch.float64)
    """
    of_task = [HEADLINES[name] for name in headlines(task)]
    values = [headline.of(counts) for headline in of_task]
    pairs = list(zip(of_task, values, strict=True))
    means = [v.nanmean(-1, keepdim=True) if headline.parts else v for headline, v in pairs]
    return torch.cat([*means, *(v for headline, v in pairs if headline.parts)], -1)


def headlines_of(task: str, counts: Tensor) -> Tensor:
    """Return the headline metrics of counts, (..., C) to (..., M)."""
    return metrics_of(task, counts)[..., : len(headlines(task))]


def sample_counts(
    outcome: Outcome, schema: LabelSchema, rows: Tensor | slice = _ALL
) -> dict[str, Tensor]:
    """Return what each sample adds to the counts of its person.

    Args:
        outcome: of N samples.
        schema: the labels to count.
        rows: which samples; absent, all.

    Returns:
        by task (N, C) float64: ``au`` 4 cells of A AUs; ``expression`` and ``felt`` K x (K + 1)
        cells, the last column unreadable; ``va`` and ``intensity`` 6 sums (n, x, y,
        xx, yy, xy) of each dimension, of values less the mean truth, which concordance does not
        feel.
    """
    counts = {}
    for task in schema.tasks:
        answer, truth = outcome.answers[task][rows], outcome.truth[task][rows]
        if task == "au":
            cells = au_confusion(answer.reshape(1, -1), truth.reshape(1, -1), 0.5)
            counts[task] = cells.view(4, *truth.shape).transpose(0, 1).flatten(1)
        elif task in CLASS_TASKS:
            classes = answer.shape[1]
            top, chosen = answer.max(1)
            chosen = chosen.where(~top.isnan(), classes)
            cells = torch.zeros(len(truth), classes * (classes + 1))
            known = truth >= 0
            cells[known, (truth * (classes + 1) + chosen)[known]] = 1
            counts[task] = cells
        else:
            middle = outcome.truth[task].nanmean(0).nan_to_num(0)
            known = ~truth.isnan()
            x = (answer.nan_to_num(0) - middle).where(known, 0)
            y = (truth - middle).where(known, 0)
            counts[task] = torch.stack([known.to(x), x, y, x * x, y * y, x * y], 1).flatten(1)
    return {task: value.double() for task, value in counts.items()}


def pooled_counts(
    outcome: Outcome, schema: LabelSchema, owner: Tensor, owners: int, rows: Tensor | None = None
) -> dict[str, Tensor]:
    """Return the counts of each owner of samples, by task (S, C), see :func:`sample_counts`.

    Args:
        outcome: of N samples.
        schema: the labels to count.
        owner: the owner of each sample: its person, or the block of people that it counts in.
        owners: S, how many there are.
        rows: the samples that ``owner`` speaks of; absent, all.
    """
    rows = torch.arange(len(outcome.ids)) if rows is None else rows
    total: dict[str, Tensor] = {}
    for some, whose in zip(
        torch.split(rows, _TOGETHER), torch.split(owner, _TOGETHER), strict=True
    ):
        for task, cells in sample_counts(outcome, schema, some).items():
            if task not in total:
                total[task] = torch.zeros(owners, cells.shape[1], dtype=torch.float64)
            total[task].index_add_(0, whose, cells)
    return total


def subject_counts(outcome: Outcome, schema: LabelSchema) -> dict[str, Tensor]:
    """Return the counts of each person, or of each block of people, by task (S, C)."""
    owner, owners = counted_as(outcome.subject, len(outcome.people))
    return pooled_counts(outcome, schema, owner, owners)


def counted_as(subject: Tensor, people: int) -> tuple[Tensor, int]:
    """Return the unit of each sample (N,), and how many units there are.

    Up to :data:`MANY_PEOPLE` each person is a unit. More are put into :data:`BLOCKS` blocks at
    random, always the same ones: people who are resampled, or whose answers are exchanged,
    together. Blocks of independent people are independent, so intervals cover as before and
    exchanging stays exact; what is lost is that 2,000 units know the width of an interval to 2 %.

    Args:
        subject: (N,) person of each sample, from 0.
        people: how many there are.
    """
    if people <= MANY_PEOPLE:
        return subject, people
    block = np.random.default_rng(0).permutation(people) % BLOCKS
    return torch.as_tensor(block)[subject], BLOCKS


def trivial_answers(
    outcome: Outcome, schema: LabelSchema, baselines: Mapping[str, float]
) -> Outcome:
    """Return the answers that look at no face, about the samples of an outcome.

    All AUs are present, every expression and felt emotion is the class that the baselines recall,
    valence, arousal and intensity are the same for all.

    Args:
        outcome: the samples.
        schema: names of the classes.
        baselines: metrics of :func:`~faceaffect.scores.metrics.trivial_baselines`.
    """
    answers = {task: torch.ones_like(answer) for task, answer in outcome.answers.items()}
    for task in (task for task in CLASS_TASKS if task in answers):
        recalls = [baselines.get(f"{task}_recall/{n}") == 1 for n in schema.names(task)]
        # A most frequent class that does not occur here has no recall: always wrong.
        row = (
            torch.tensor(recalls).float()
            if any(recalls)
            else torch.full((len(recalls),), torch.nan)
        )
        answers[task] = row.expand(len(outcome.ids), -1)
    if "va" in answers:
        answers["va"] = torch.zeros_like(answers["va"])
    return Outcome(outcome.ids, outcome.people, outcome.subject, answers, outcome.truth, {}, [])
