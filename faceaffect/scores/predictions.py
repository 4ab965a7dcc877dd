"""The pooled predictions of a test: every sample once, in one table, with its truth.

All that knows the columns of ``predictions.csv`` stands here.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.distributed as dist
from torch import Tensor

from faceaffect.errors import DataError, printable, shown
from faceaffect.files import replacing
from faceaffect.schema import CLASS_TASKS, STRONGEST, VA_NAMES, LabelSchema
from faceaffect.scores.answers import generated_metrics
from faceaffect.scores.metrics import TaskMetrics

_ATTRIBUTE = "attribute/"
_CLASSES = tuple(f"target/{task}" for task in CLASS_TASKS)
"""The columns of true classes, by name."""


def answer_columns(schema: LabelSchema) -> dict[str, list[str]]:
    """Return, by task, the columns of a ``predictions.csv`` that hold a model's answers.

    >>> answer_columns(LabelSchema((12,), ("calm", "angry")))
    {'au': ['prob/AU12'], 'expression': ['prob/calm', 'prob/angry']}
    """
    columns = {
        "au": [f"prob/{name}" for name in schema.au_names],
        "expression": [f"prob/{name}" for name in schema.expressions],
        "va": [f"pred/{name}" for name in VA_NAMES],
        "felt": [f"prob/felt/{name}" for name in schema.felt],
        "intensity": ["pred/intensity"],
    }
    return {task: columns[task] for task in schema.tasks}


def truth_columns(schema: LabelSchema) -> dict[str, list[str]]:
    """Return, by task, the columns of a ``predictions.csv`` that hold the truth.

    >>> truth_columns(LabelSchema((12,), ("calm", "angry")))
    {'au': ['target/AU12'], 'expression': ['target/expression']}
    """
    columns = {
        "au": [f"target/{name}" for name in schema.au_names],
        "expression": ["target/expression"],
        "va": [f"target/{name}" for name in VA_NAMES],
        "felt": ["target/felt"],
        "intensity": ["target/intensity"],
    }
    return {task: columns[task] for task in schema.tasks}


class Predictions:
    """Predictions and truth of many samples; a sample that comes twice counts once.

    Args:
        schema: names of the columns.
    """

    def __init__(self, schema: LabelSchema) -> None:
        self.schema = schema
        self._seen: set[str] = set()
        self.id: list[str] = []
        self.subject: list[str] = []
        self.text: list[str] = []
        self._target: dict[str, list[Tensor]] = {task: [] for task in schema.tasks}
        self._answer: dict[str, list[Tensor]] = {task: [] for task in schema.tasks}
        self._attributes: dict[str, list[Tensor]] = {}

    def __len__(self) -> int:
        return len(self.id)

    def add(self, batch: Mapping[str, Any], prediction: Mapping[str, Any]) -> None:
        """Add the samples of a batch that are not in the table yet.

        Args:
            batch: truth and names, labels in the order of the schema; an absent task is unknown.
            prediction: ``au`` (B, A), ``expression`` (B, K), ``va`` (B, 2), ``felt`` (B, F),
                ``intensity`` (B, 1), optionally ``text``.
        """
        new = []
        for row, name in enumerate(batch["id"]):
            if name not in self._seen:
                self._seen.add(name)
                new.append(row)
        self.id += [batch["id"][row] for row in new]
        self.subject += [batch["subject"][row] for row in new]
        if "text" in prediction:
            self.text += [prediction["text"][row] for row in new]
        for task in self.schema.tasks:
            answer = prediction[task].detach().float().cpu()[new]
            self._answer[task].append(answer)
            self._target[task].append(_truth(batch, task, answer, new))
        for name, value in batch.get("attributes", {}).items():
            self._attributes.setdefault(name, []).append(value.cpu()[new])

    def gather(self) -> None:
        """Pool the tables of all processes; without several processes nothing changes."""
        if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
            return
        tables: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(tables, (self.batch(), self.answers(), self.text))
        self.__init__(self.schema)  # type: ignore[misc]
        for batch, answers, text in tables:
            if batch["id"]:
                self.add(batch, answers | ({"text": text} if text else {}))

    def batch(self) -> dict[str, Any]:
        """Return names and truth of all samples as one batch without images."""
        batch: dict[str, Any] = {"id": self.id, "subject": self.subject}
        for task in self.schema.tasks:
            if self._target[task]:
                batch[task] = torch.cat(self._target[task])
        if self._attributes:
            batch["attributes"] = {name: torch.cat(v) for name, v in self._attributes.items()}
        return batch

    def known(self) -> int:
        """Return of how many samples any label is known, and so scored."""
        known = torch.zeros(len(self), dtype=torch.bool)
        for task, truth in self.batch().items():
            if task in CLASS_TASKS:
                known |= truth >= 0
            elif task in self.schema.tasks:
                known |= ~truth.isnan().all(1)
        return int(known.sum())

    def answers(self) -> dict[str, Tensor]:
        """Return the predictions of all samples, as a model's ``predict`` gives them."""
        return {task: torch.cat(value) for task, value in self._answer.items() if value}

    def unanswered(self) -> int:
        """Return how many samples have no answer at all: NaN everywhere."""
        answers = [value.isnan().all(1) for value in self.answers().values()]
        return int(torch.stack(answers).all(0).sum()) if answers else 0

    def metrics(self) -> dict[str, float]:
        """Return the pooled metrics, see :class:`~faceaffect.scores.metrics.TaskMetrics`.

        Of a model that answers in words also those of its texts, under ``generated/``.
        """
        metrics = TaskMetrics(self.schema, sync=False)  # the table is pooled already
        if self.id:
            metrics.update(self.answers(), self.batch())
        said = generated_metrics(self.text, self.batch(), self.schema) if self.text else {}
        return metrics.compute() | said

    def table(self, attribute_names: dict[str, tuple[str, ...]] | None = None) -> pd.DataFrame:
        """Return one row a sample, sorted by id; an unknown truth is an empty cell.

        Args:
            attribute_names: class names of the attributes; absent, their indices stand.
        """
        batch, answers = self.batch(), self.answers()
        columns: dict[str, Any] = {"id": self.id, "subject": self.subject}
        said, true = answer_columns(self.schema), truth_columns(self.schema)
        for task in sorted(said, key=lambda task: task not in CLASS_TASKS):
            if task in CLASS_TASKS:
                columns[true[task][0]] = _names(batch[task], self.schema.names(task))
                columns |= dict(zip(said[task], answers[task].T.numpy(), strict=True))
                continue
            for c, (truth, answer) in enumerate(zip(true[task], said[task], strict=True)):
                value = batch[task][:, c].numpy()
                columns[truth] = pd.array(value, dtype="Int64") if task == "au" else value
                columns[answer] = answers[task][:, c].numpy()
        for name, value in batch.get("attributes", {}).items():
            names = (attribute_names or {}).get(name)
            columns[f"{_ATTRIBUTE}{name}"] = _names(value, names) if names else value.tolist()
        if self.text:
            columns["text"] = self.text
        return pd.DataFrame(columns).sort_values("id", ignore_index=True)

    def write(
        self,
        path: Path,
        attribute_names: dict[str, tuple[str, ...]] | None = None,
        *,
        spreadsheet_safe: bool = False,
    ) -> None:
        """Write the table as CSV, atomically; :func:`read_table` returns the texts as they are.

        Args:
            path: of the file.
            attribute_names: as in :meth:`table`.
            spreadsheet_safe: put an apostrophe before a text that a spreadsheet would compute.
        """
        table = self.table(attribute_names)
        for name in filter(_is_text, map(str, table)):
            table[name] = [_quoted(cell, spreadsheet_safe) for cell in table[name]]
        with replacing(path) as part:
            table.to_csv(part, index=False, float_format="%.6g")


_FORMULA = re.compile(r"[=+\-@\t\r]")
_APOSTROPHE = re.compile(rf"'+{_FORMULA.pattern}")


def _is_text(column: str) -> bool:
    return column in ("id", "subject", *_CLASSES, "text") or column.startswith("attribute/")


def _quoted(cell: Any, spreadsheet_safe: bool) -> Any:
    """Put an apostrophe before a formula, and always where one stands, so that none is ambiguous.

    >>> [_quoted(cell, True) for cell in ("=1+1", "'=1+1", "a=1", -1)]
    ["'=1+1", "''=1+1", 'a=1', -1]
    """
    if not isinstance(cell, str):
        return cell
    formula = spreadsheet_safe and _FORMULA.match(cell)
    return f"'{cell}" if formula or _APOSTROPHE.match(cell) else cell


def _unquoted(cell: Any) -> Any:
    return cell[1:] if isinstance(cell, str) and _APOSTROPHE.match(cell) else cell


def _truth(batch: Mapping[str, Any], task: str, answer: Tensor, rows: list[int]) -> Tensor:
    if task in batch:
        return batch[task].cpu()[rows]  # type: ignore[no-any-return]
    if task in CLASS_TASKS:
        return torch.full((len(answer),), -1)
    return torch.full_like(answer, torch.nan)


def _names(index: Tensor, names: tuple[str, ...]) -> list[str | None]:
    return [names[i] if i >= 0 else None for i in index.tolist()]


_RANGES = {
    "pred/intensity": (0, STRONGEST),
    "target/intensity": (0, STRONGEST),
    "prob/": (0, 1),
    "pred/": (-1, 1),
    "target/": (-1, 1),
}
"""What columns of numbers begin with, and between which values those are; the first counts."""


def read_table(file: Path) -> pd.DataFrame:
    """Return a ``predictions.csv``, sorted by id; unknown truths and unreadable answers are NaN.

    Raises:
        DataError: it is missing or no such table, or a cell is no number or out of range.
    """
    texts = {"id": str, "subject": str, **dict.fromkeys(_CLASSES, object)}
    if file.exists() and not file.is_file():
        raise DataError(f"{file}: not a regular file")
    try:
        table = pd.read_csv(file, dtype=texts, keep_default_na=False, na_values=[""])
    except (OSError, ValueError) as error:
        raise DataError(f"{file}: not readable as predictions: {error}") from None
    if not {"id", "subject"} <= set(table):
        raise DataError(f"{file}: no predictions, the columns id and subject are missing")
    for name in filter(_is_text, map(str, table)):
        table[name] = table[name].map(_unquoted)
    for name in [name for name in map(str, table) if not _is_text(name)]:
        table[name] = _numbers(file, table[name])
    if "text" in table:
        table["text"] = table["text"].fillna("")
    return table.sort_values("id", ignore_index=True)


def _numbers(file: Path, column: "pd.Series[Any]") -> "pd.Series[Any]":
    ends = next(
        (ends for begin, ends in _RANGES.items() if str(column.name).startswith(begin)), None
    )
    if ends is None:
        return column
    numbers = pd.to_numeric(column, errors="coerce")
    wrong = column[column.notna() & ~numbers.between(ends[0] - 1e-4, ends[1] + 1e-4)]
    if len(wrong):
        raise DataError(
            f"{file}: {shown(column.name)} is {printable(str(wrong.iloc[0]), 80)} in one row, no "
            f"number from {ends[0]} to {ends[1]}"
        )
    return numbers


@dataclass(frozen=True)
class Outcome:
    """What a model answered about samples, and what is true, as tensors in the order of the ids.

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
    def read(cls, table: pd.DataFrame, schema: LabelSchema) -> "Outcome":
        """Read a table with the columns of ``predictions.csv``."""
        table = table.assign(id=table["id"].astype(str)).sort_values("id", ignore_index=True)
        people, subject = np.unique(table["subject"].astype(str), return_inverse=True)
        answers = {task: _values(table, of) for task, of in answer_columns(schema).items()}
        truth = {}
        for task, columns in truth_columns(schema).items():
            if task in CLASS_TASKS:
                index = pd.Index(schema.names(task)).get_indexer(pd.Index(table[columns[0]]))
                truth[task] = torch.as_tensor(index, dtype=torch.long)
            else:
                truth[task] = _values(table, columns)
        attributes = {
            column.removeprefix(_ATTRIBUTE): [None if pd.isna(v) else v for v in table[column]]
            for column in map(str, table.columns)
            if column.startswith(_ATTRIBUTE)
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


def _values(table: pd.DataFrame, names: list[str]) -> Tensor:
    values = [table[name].to_numpy(dtype=float, na_value=np.nan) for name in names]
    return torch.as_tensor(np.stack(values, 1))
