"""Prediction tables as tensors, the counts of each person in them, and the metrics of counts.

Every compared metric of any group of people follows from sums over these people: confusions for F1
and recalls, moments for the concordance. So a person is reduced to a row of counts, and choosing
people, once or ten thousand times, is one product of matrices.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from faceaffect.schema import VA_NAMES, LabelSchema
from faceaffect.scores.counts import au_confusion, ccc_of, f1, ratio

HEADLINE = {"au": ("au_f1",), "expression": ("expression_war", "expression_uar"), "va": ("va_ccc",)}
"""The metrics of each task that models are compared by."""

_RANGE = {"au_f1": (0.0, 1.0), "expression": (0.0, 1.0), "va_ccc": (-1.0, 1.0)}


@dataclass(frozen=True)
class Sheet:
    """A table of predictions as tensors, its rows sorted by id.

    Args:
        ids: of the samples.
        people: names of the S subjects, sorted.
        subject: (N,) index of each sample's subject.
        answers: by task, as of a model's ``predict``; NaN unreadable.
        truth: by task, as in a batch; NaN unknown, for classes -1.
        attributes: by name, the value of each sample; None unknown.
        texts: what the model wrote; empty if it does not write.
    """

    ids: list[str]
    people: list[str]
    subject: Tensor
    answers: dict[str, Tensor]
    truth: dict[str, Any]
    attributes: dict[str, list[Any]]
    texts: list[str]

    @classmethod
    def read(cls, table: pd.DataFrame, schema: LabelSchema) -> "Sheet":
        """Read a table with the columns of ``predictions.csv``."""
        table = table.assign(id=table["id"].astype(str)).sort_values("id", ignore_index=True)
        people, subject = np.unique(table["subject"].astype(str), return_inverse=True)
        answers, truth = {}, {}
        if "au" in schema.tasks:
            answers["au"] = _columns(table, [f"prob/{name}" for name in schema.au_names])
            truth["au"] = _columns(table, [f"target/{name}" for name in schema.au_names])
        if "expression" in schema.tasks:
            answers["expression"] = _columns(table, [f"prob/{name}" for name in schema.expressions])
            index = pd.Index(schema.expressions).get_indexer(pd.Index(table["target/expression"]))
            truth["expression"] = torch.as_tensor(index, dtype=torch.long)
        if "va" in schema.tasks:
            answers["va"] = _columns(table, [f"pred/{name}" for name in VA_NAMES])
            truth["va"] = _columns(table, [f"target/{name}" for name in VA_NAMES])
        attributes = {
            str(column).removeprefix("attribute/"): [
                None if pd.isna(v) else v for v in table[column]
            ]
            for column in table.columns
            if str(column).startswith("attribute/")
        }
        texts = table["text"].fillna("").astype(str).tolist() if "text" in table else []
        return cls(
            table["id"].tolist(),
            [str(name) for name in people],
            torch.as_tensor(subject),
            answers,
            truth,
            attributes,
            texts,
        )


def _columns(table: pd.DataFrame, names: list[str]) -> Tensor:
    values = [table[name].to_numpy(dtype=float, na_value=np.nan) for name in names]
    return torch.as_tensor(np.stack(values, 1))


def sample_counts(sheet: Sheet, schema: LabelSchema) -> dict[str, Tensor]:
    """Return what each sample adds to the counts of its person.

    Returns:
        by task (N, C) float64: ``au`` 4 cells of A AUs; ``expression`` K x (K + 1) cells, the last
        column unreadable; ``va`` 6 sums (n, x, y, xx, yy, xy) of both dimensions, of values
        less the mean truth, which concordance does not feel.
    """
    counts = {}
    for task in schema.tasks:
        answer, truth = sheet.answers[task], sheet.truth[task]
        if task == "au":
            cells = au_confusion(answer.reshape(1, -1), truth.reshape(1, -1), 0.5)
            counts[task] = cells.view(4, *truth.shape).transpose(0, 1).flatten(1)
        elif task == "expression":
            classes = answer.shape[1]
            top, chosen = answer.max(1)
            chosen = chosen.where(~top.isnan(), classes)
            cells = torch.zeros(len(truth), classes * (classes + 1))
            known = truth >= 0
            cells[known, (truth * (classes + 1) + chosen)[known]] = 1
            counts[task] = cells
        else:
            middle = truth.nanmean(0).nan_to_num(0)
            known = ~truth.isnan()
            x = (answer.nan_to_num(0) - middle).where(known, 0)
            y = (truth - middle).where(known, 0)
            counts[task] = torch.stack([known.to(x), x, y, x * x, y * y, x * y], 1).flatten(1)
    return {task: value.double() for task, value in counts.items()}


def subject_counts(sheet: Sheet, schema: LabelSchema) -> dict[str, Tensor]:
    """Return the counts of each person, by task (S, C), see :func:`sample_counts`."""
    zero = torch.zeros(len(sheet.people), 1, dtype=torch.float64)
    return {
        task: zero.expand(-1, cells.shape[1]).clone().index_add_(0, sheet.subject, cells)
        for task, cells in sample_counts(sheet, schema).items()
    }


def metric_names(task: str, schema: LabelSchema) -> list[str]:
    """Return the names of the metrics that follow from the counts of a task, headline first."""
    parts = {
        "au": [f"au_f1/{name}" for name in schema.au_names],
        "expression": [f"expression_recall/{name}" for name in schema.expressions],
        "va": [f"va_ccc/{name}" for name in VA_NAMES],
    }
    return [*HEADLINE[task], *parts[task]]


def metrics_of(task: str, counts: Tensor) -> Tensor:
    """Return the metrics of counts, (..., C) to (..., M) in the order of :func:`metric_names`.

    >>> metrics_of("au", torch.tensor([3.0, 1.0, 1.0, 5.0]))  # one AU: tp, fp, fn, tn
    tensor([0.7500, 0.7500], dtype=torch.float64)
    """
    if task == "au":
        each = f1(_cells(counts, 4).movedim(-2, 0))
        return torch.cat([each.nanmean(-1, keepdim=True), each], -1)
    if task == "expression":
        classes = (math.isqrt(1 + 4 * counts.shape[-1]) - 1) // 2
        table = _cells(counts, classes)
        right, rows = table.diagonal(dim1=-2, dim2=-1), table.sum(-1)
        recalls = ratio(right, rows)
        war = ratio(right.sum(-1, keepdim=True), rows.sum(-1, keepdim=True))
        return torch.cat([war, recalls.nanmean(-1, keepdim=True), recalls], -1)
    n, x, y, xx, yy, xy = _cells(counts, 6).movedim(-2, 0)
    rows = n.clamp(min=1)
    # What rounding leaves of the squares of a constant is no variance.
    dxx = (xx - x * x / rows).where(xx - x * x / rows > 1e-12 * xx, 0)
    dyy = (yy - y * y / rows).where(yy - y * y / rows > 1e-12 * yy, 0)
    dxy = (xy - x * y / rows).where((dxx > 0) & (dyy > 0), 0)
    each = ccc_of(torch.stack([n, x / rows, y / rows, dxx, dyy, dxy]))
    return torch.cat([each.nanmean(-1, keepdim=True), each], -1)


def _cells(counts: Tensor, rows: int) -> Tensor:
    """(..., C) to (..., rows, C / rows)."""
    return counts.reshape(*counts.shape[:-1], rows, -1)


def headlines_of(task: str, counts: Tensor) -> Tensor:
    """Return the headline metrics of counts, (..., C) to (..., M)."""
    return metrics_of(task, counts)[..., : len(HEADLINE[task])]


def bounds(name: str) -> tuple[float, float]:
    """Return the smallest and the largest value of a metric of counts."""
    return next(bounds for start, bounds in _RANGE.items() if name.startswith(start))


def trivial_answers(sheet: Sheet, schema: LabelSchema, baselines: Mapping[str, float]) -> Sheet:
    """Return the answers that look at no face, about the samples of a sheet.

    All AUs are present, every expression is the class that the baselines recall, valence and
    arousal are the middle of the scale.

    Args:
        sheet: the samples.
        schema: names of the classes.
        baselines: metrics of :func:`~faceaffect.scores.metrics.trivial_baselines`.
    """
    answers = {task: torch.ones_like(answer) for task, answer in sheet.answers.items()}
    if "expression" in answers:
        recalls = [baselines.get(f"expression_recall/{n}") == 1 for n in schema.expressions]
        # A most frequent class that does not occur here has no recall: always wrong.
        row = (
            torch.tensor(recalls).float()
            if any(recalls)
            else torch.full((len(recalls),), torch.nan)
        )
        answers["expression"] = row.expand(len(sheet.ids), -1)
    if "va" in answers:
        answers["va"] = torch.zeros_like(answers["va"])
    return Sheet(sheet.ids, sheet.people, sheet.subject, answers, sheet.truth, {}, [])
