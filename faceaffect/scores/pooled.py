"""Answers that another evaluator collected, scored as ours are: read by the grammar, pooled."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

import torch

from faceaffect.schema import LabelSchema
from faceaffect.scores.answers import read_answers
from faceaffect.scores.metrics import TaskMetrics


def pooled(items: Iterable[Mapping[str, str]]) -> dict[str, float]:
    """Return the pooled metrics of answers to one task.

    Args:
        items: of each sample ``about`` (JSON: its ``id``, the ``task``, the ``labels`` asked for),
            ``truth`` (JSON: a class, a table of AUs to 0, 1 or null, or two numbers) and ``said``.

    Returns:
        The names of :class:`~faceaffect.scores.metrics.TaskMetrics`.
    """
    rows = [{**json.loads(item["about"]), **item} for item in items]
    task, labels = rows[0]["task"], rows[0]["labels"]
    schema = task_schema(task, labels)
    truths = [json.loads(row["truth"]) for row in rows]
    metrics = TaskMetrics(schema, sync=False)
    said = read_answers({task: [row["said"] for row in rows]}, schema)
    metrics.update(said, {task: _truth(task, truths, labels)})
    return metrics.compute()


def task_schema(task: str, labels: Iterable[str]) -> LabelSchema:
    """Return the schema of one task."""
    if task == "expression":
        return LabelSchema(expressions=tuple(labels))
    if task == "au":
        return LabelSchema(aus=tuple(int(name.removeprefix("AU")) for name in labels))
    return LabelSchema(valence_arousal=True)


def _truth(task: str, truths: list[Any], labels: list[str]) -> torch.Tensor:
    if task == "expression":
        return torch.tensor([labels.index(truth) for truth in truths])
    rows = [[truth[name] for name in labels] if task == "au" else truth for truth in truths]
    nan = float("nan")
    return torch.tensor([[nan if value is None else float(value) for value in r] for r in rows])
