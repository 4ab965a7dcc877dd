"""Statistics of a comparison: how good each model is, who is better, and how sure that is.

Frames of one person resemble each other, so the unit of all of it is the person ("subject"). Each
person is reduced to counts (confusions for F1 and recalls, sums for the concordance) from which
every metric of any group of people follows; resampling people is then one product of matrices.

* **Intervals**, 95 %: studentised bootstrap over people, symmetric (Hall, 1988): the error of each
  resample is divided by its own standard error, taken from the derivatives of the metric with
  respect to the counts (infinitesimal jackknife). Simulated with 40 people whose frames resemble
  each other, the plain percentile bootstrap and BCa cover 92 to 94 %, this one 95 %; the tests
  repeat the simulation.
* **Paired differences** on the same samples: one bootstrap of the difference.
* **Tests**: sign-flip permutation over people, see
  :func:`~faceaffect.evaluation.resampling.sign_flip`; exact McNemar for accuracy
  where each person has one sample. **Holm** over the pairs of models, for each metric.
* **Many people**: above 4,000 they are counted in 2,000 random blocks, each of which is then one
  person to all of the above, see :func:`~faceaffect.evaluation.headlines.counted_as`.
* **Seeds**: a metric is the mean over the seeds; the bootstrap resamples people, not trainings, so
  the standard deviation over the seeds is given beside it.
"""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from faceaffect.evaluation.groups import by_group, coded
from faceaffect.evaluation.headlines import (
    MANY_PEOPLE,
    bounds,
    headlines,
    headlines_of,
    metric_names,
    metrics_of,
    subject_counts,
    trivial_answers,
)
from faceaffect.evaluation.resampling import (
    LEVEL,
    bootstrap,
    holm,
    mcnemar_p,
    mean_intervals,
    sign_flip,
)
from faceaffect.schema import CLASS_TASKS, LabelSchema
from faceaffect.scores.answers import generated_metrics
from faceaffect.scores.counts import ECE_BINS
from faceaffect.scores.metrics import TaskMetrics
from faceaffect.scores.predictions import Outcome

FEW_SUBJECTS = 20
FEW_IN_GROUP = 5


def analyse(
    tables: Mapping[str, Sequence[pd.DataFrame]],
    schema: LabelSchema,
    *,
    baselines: Mapping[str, float] | None = None,
    attribute_names: Mapping[str, Sequence[str]] | None = None,
    resamples: int = 2000,
    seed: int = 0,
) -> dict[str, Any]:
    """Return the statistics of models that answered about the same samples.

    Args:
        tables: of each model one table per seed, with the columns of ``predictions.csv``.
        schema: the labels to score, which every table has.
        baselines: trivial baselines of the test; with them, each group of people has its own.
        attribute_names: the order of each attribute's values; sorted where it is absent.
        resamples: of the bootstrap.
        seed: of bootstrap and permutations.

    Returns:
        ``models`` (for each name ``metrics``, ``per_seed``, ``spread``, ``intervals``,
        ``confusion``, ``confusion_felt``, ``calibration``, ``groups``), ``pairs`` and
        ``warnings``, as they stand in ``report.json``; what is undefined is NaN.

    Raises:
        ValueError: the tables are not about the same samples with the same truth.
    """
    outcomes = {name: [Outcome.read(table, schema) for table in of] for name, of in tables.items()}
    first = next(iter(outcomes.values()))[0]
    for name, of in outcomes.items():
        for outcome in of:
            _same_samples(first, outcome, name)
    order = attribute_names or {}
    counts = {name: [_labelled(subject_counts(s, schema)) for s in of]
              for name, of in outcomes.items()}  # fmt: skip
    trivial = trivial_answers(first, schema, baselines) if baselines else None
    models = {}
    for name, of in outcomes.items():
        models[name] = _seeds([_metrics(outcome, schema) for outcome in of]) | {
            "intervals": _intervals(counts[name], schema, resamples, seed),
            "confusion": _confusion(counts[name], schema, "expression"),
            "confusion_felt": _confusion(counts[name], schema, "felt"),
            "calibration": _calibration(of, schema),
            "groups": by_group(of, trivial, schema, resamples, seed, order),
        }
    return {
        "models": models,
        "pairs": _pairs(outcomes, counts, schema, resamples, seed),
        "warnings": _warnings(outcomes, counts, schema, order),
    }


def _labelled(counts: dict[str, Tensor]) -> dict[str, Tensor]:
    """Keep of each task the people with a known label: only they say anything about it."""
    return {task: table[(table != 0).any(1)] for task, table in counts.items()}


def _same_samples(one: Outcome, other: Outcome, name: str) -> None:
    if one.ids != other.ids or one.people != other.people or not one.subject.equal(other.subject):
        raise ValueError(f"{name}: not tested on the same samples of the same people")
    for task, truth in one.truth.items():
        if not torch.equal(truth.nan_to_num(-9), other.truth[task].nan_to_num(-9)):
            raise ValueError(f"{name}: another truth of task '{task}' than the first model has")


def _metrics(outcome: Outcome, schema: LabelSchema) -> dict[str, float]:
    metrics = TaskMetrics(schema, sync=False)
    metrics.update(outcome.answers, outcome.truth)
    said = generated_metrics(outcome.texts, outcome.truth, schema) if outcome.texts else {}
    return metrics.compute() | said


def _seeds(metrics: list[dict[str, float]]) -> dict[str, Any]:
    """Mean, values and standard deviation (ddof 1) over the seeds of each metric."""
    values = {name: [of.get(name, math.nan) for of in metrics] for name in metrics[0]}
    several = len(metrics) > 1
    return {
        "metrics": {name: float(np.mean(v)) for name, v in values.items()},
        "per_seed": values,
        "spread": {n: float(np.std(v, ddof=1)) if several else None for n, v in values.items()},
    }


def _intervals(
    counts: list[dict[str, Tensor]], schema: LabelSchema, resamples: int, seed: int
) -> dict[str, list[float]]:
    ends: dict[str, list[float]] = {}
    for task in schema.tasks:
        of, score = [table[task] for table in counts], partial(metrics_of, task)
        names = metric_names(task, schema)
        ends |= mean_intervals(of, score, names, resamples=resamples, seed=seed)
    return ends


def _pairs(
    outcomes: Mapping[str, list[Outcome]],
    counts: Mapping[str, list[dict[str, Tensor]]],
    schema: LabelSchema,
    resamples: int,
    seed: int,
) -> list[dict[str, Any]]:
    """Every pair of models by every headline metric, grouped by metric; Holm within a metric."""
    rows: list[dict[str, Any]] = []
    people = len(next(iter(outcomes.values()))[0].people)
    unit = f"blocks of {people:,} subjects" if people > MANY_PEOPLE else "subjects"
    for task in schema.tasks:
        of_task = []
        for a, b in combinations(outcomes, 2):
            of_a, of_b = ([table[task] for table in counts[name]] for name in (a, b))
            found = _differences(task, of_a, of_b, resamples, seed, unit)
            if task in CLASS_TASKS:
                found[f"{task}_war"] |= _mcnemar(outcomes[a], outcomes[b], task)
            of_task += [{"a": a, "b": b, "metric": name} | row for name, row in found.items()]
        for name in headlines(task):
            of_metric = [row for row in of_task if row["metric"] == name]
            corrected = holm([row["p"] for row in of_metric])
            rows += [row | {"p_holm": p} for row, p in zip(of_metric, corrected, strict=True)]
    return rows


def _differences(
    task: str, of_a: list[Tensor], of_b: list[Tensor], resamples: int, seed: int, unit: str
) -> dict[str, dict[str, Any]]:
    """Difference of two models in each headline metric of a task."""
    score = partial(headlines_of, task)
    factors = [1 / len(of_a)] * len(of_a) + [-1 / len(of_b)] * len(of_b)
    ends = bootstrap([*of_a, *of_b], factors, score, resamples=resamples, seed=seed)
    columns = [*ends, sign_flip(of_a, of_b, score, seed=seed)]
    found = {}
    for i, metric in enumerate(headlines(task)):
        value, low, high, p = (column[i].item() for column in columns)
        smallest, largest = bounds(metric)
        found[metric] = {
            "difference": value,
            "interval": np.clip([low, high], smallest - largest, largest - smallest).tolist(),
            "p": p,
            "test": f"sign-flip over {len(of_a[0])} {unit}",
        }
    return found


def _mcnemar(a: list[Outcome], b: list[Outcome], task: str) -> dict[str, Any]:
    """Test of the accuracy where people are independent samples and each model has one seed."""
    if len(a) > 1 or len(b) > 1 or len(a[0].people) < len(a[0].ids):
        return {}
    truth = a[0].truth[task]
    known = truth >= 0
    right_a, right_b = (_chosen(of[0], task)[known] == truth[known] for of in (a, b))
    return {"p": mcnemar_p(right_a, right_b), "test": "McNemar"}


def _chosen(outcome: Outcome, task: str) -> Tensor:
    confidence, chosen = outcome.answers[task].max(1)
    return chosen.where(~confidence.isnan(), -1)


# Confusion, calibration, groups of people.


def _confusion(
    counts: list[dict[str, Tensor]], schema: LabelSchema, task: str
) -> dict[str, Any] | None:
    """Counts of all seeds, truth in rows; ``unreadable`` answers of each class beside them."""
    if task not in schema.tasks:
        return None
    total = sum(table[task].sum(0) for table in counts)
    assert isinstance(total, Tensor)
    names = schema.names(task)
    table = total.reshape(len(names), -1).long()
    return {
        "labels": list(names),
        "counts": table[:, :-1].tolist(),
        "unreadable": table[:, -1].tolist(),
    }


def _calibration(outcomes: list[Outcome], schema: LabelSchema) -> dict[str, Any]:
    """Reliability of the AUs' probabilities (all AUs together) and of the chosen class's.

    The bins hold all seeds; the error is the mean over the seeds.
    """
    result: dict[str, Any] = {}
    for task in ("au", *CLASS_TASKS):
        if task not in schema.tasks:
            continue
        pairs = [_confidence(outcome, task) for outcome in outcomes]
        confidence, true = (torch.cat(parts) for parts in zip(*pairs, strict=True))
        result[task] = {
            "ece": float(np.mean([calibration_error(reliability(*pair)) for pair in pairs])),
            "bins": reliability(confidence, true),
        }
    return result


def _confidence(outcome: Outcome, task: str) -> tuple[Tensor, Tensor]:
    """Probabilities (L,) of the readable answers with known truth, and whether they came true."""
    answer, truth = outcome.answers[task], outcome.truth[task]
    if task == "au":
        confidence, true = answer.flatten(), truth.flatten()
    else:
        confidence, chosen = answer.max(1)
        true = (chosen == truth).double().where(truth >= 0, torch.nan)
    usable = ~(confidence.isnan() | true.isnan())
    return confidence[usable].clamp(0, 1), true[usable]


def reliability(confidence: Tensor, true: Tensor, bins: int = ECE_BINS) -> list[dict[str, Any]]:
    """Return mean confidence, share that came true and number of each bin that is not empty.

    Args:
        confidence: (L,) probabilities.
        true: (L,) in {0, 1}.
        bins: of equal width; a probability on an edge belongs to the upper one.
    """
    # Edges in float32, as the metric has them.
    edges = torch.linspace(0, 1, bins + 1)
    index = torch.bucketize(confidence.float(), edges, right=True) - 1
    rows = []
    for i in torch.unique(index).tolist():
        inside = index == i
        mean, share = confidence[inside].mean().item(), true[inside].mean().item()
        rows.append({"confidence": mean, "accuracy": share, "n": int(inside.sum())})
    return rows


def calibration_error(bins: Sequence[Mapping[str, Any]]) -> float:
    """Expected calibration error of :func:`reliability`'s bins, NaN if there are none."""
    n = sum(row["n"] for row in bins)
    if not n:
        return math.nan
    return float(sum(row["n"] * abs(row["accuracy"] - row["confidence"]) for row in bins) / n)


# Warnings.


def _warnings(
    outcomes: Mapping[str, list[Outcome]],
    counts: Mapping[str, list[dict[str, Tensor]]],
    schema: LabelSchema,
    order: Mapping[str, Sequence[str]],
) -> list[str]:
    """What a reader has to know before trusting the numbers."""
    first = next(iter(outcomes.values()))[0]
    tasks: dict[int, list[str]] = {}
    for task, table in next(iter(counts.values()))[0].items():
        tasks.setdefault(len(table), []).append(task)
    found = []
    for people, of in sorted(tasks.items()):
        if people < FEW_SUBJECTS:
            found.append(
                f"Only {people} people with labels of {' and '.join(of)} were tested. Below "
                f"{FEW_SUBJECTS}, intervals and tests over people are rough; test on more people, "
                "for instance on all folds."
            )
        if 2 ** (1 - people) > 1 - LEVEL:
            found.append(
                f"With {people} people a sign-flip test cannot give a p below "
                f"{min(2.0 ** (1 - people), 1):g}: no difference can be significant."
            )
    if any(len(of) == 1 for of in outcomes.values()):
        found.append(
            "Trained with one seed only: intervals speak of other people, not of other trainings, "
            "whose spread is unknown. Several seeds would show it."
        )
    return (
        found + _rare(first, schema) + _unreadable(outcomes, schema) + _small_groups(first, order)
    )


def _rare(outcome: Outcome, schema: LabelSchema) -> list[str]:
    """Labels that are absent from the truth, or there in few people."""
    present: dict[str, Tensor] = {}
    if "au" in schema.tasks:
        present |= {n: outcome.truth["au"][:, i] == 1 for i, n in enumerate(schema.au_names)}
    for task, before in (("expression", ""), ("felt", "felt ")):
        if task in schema.tasks:
            truth = outcome.truth[task]
            present |= {before + n: truth == i for i, n in enumerate(schema.names(task))}
    people = {name: len(torch.unique(outcome.subject[rows])) for name, rows in present.items()}
    absent = [name for name, number in people.items() if number == 0]
    aus = [name for name in absent if name in schema.au_names]
    classes = [name for name in absent if name not in schema.au_names]
    rare = [f"{name} ({number})" for name, number in people.items() if 0 < number < FEW_IN_GROUP]
    found = []
    if aus:
        found.append(
            f"Never in the truth: {', '.join(aus)}. Their F1 is 0 for a model that reports them, "
            "and left out of the mean for one that does not; au_f1_present leaves them out for all."
        )
    if classes:
        found.append(f"Never in the truth, so left out of recalls: {', '.join(classes)}.")
    if rare:
        found.append(
            f"Shown by fewer than {FEW_IN_GROUP} people, so their own numbers and intervals mean "
            f"little: {', '.join(rare)}."
        )
    return found


def _unreadable(outcomes: Mapping[str, list[Outcome]], schema: LabelSchema) -> list[str]:
    found = []
    for name, of in outcomes.items():
        total = sum(len(outcome.ids) for outcome in of)
        for task in schema.tasks:
            count = sum(int(outcome.answers[task].isnan().any(1).sum()) for outcome in of)
            if count:
                found.append(
                    f"{name}: {count} of {total} answers to task '{task}' are unreadable and count "
                    "as wrong."
                )
    return found


def _small_groups(outcome: Outcome, order: Mapping[str, Sequence[str]]) -> list[str]:
    found = []
    for attribute, values in outcome.attributes.items():
        code, names = coded(values, order.get(attribute, ()))
        people = [len(torch.unique(outcome.subject[code == i])) for i in range(len(names))]
        small = [name for name, n in zip(names, people, strict=True) if n < FEW_IN_GROUP]
        if small and len(names) > 1:
            found.append(
                f"Groups of '{attribute}' with fewer than {FEW_IN_GROUP} people, whose numbers "
                f"mean little: {', '.join(small)}."
            )
    return found
