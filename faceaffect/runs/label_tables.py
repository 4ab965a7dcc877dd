"""The labels of a dataset beside what its files write for them, so that a wrong order is seen."""

from collections.abc import Iterator

import numpy as np
from rich.table import Table

from faceaffect.data.base import FaceDataModule
from faceaffect.data.labels import LabelTable
from faceaffect.data.protocols import SIDES


def label_tables(data: FaceDataModule) -> Iterator[Table]:
    """Yield tables of expressions, felt emotions and action units, as far as there are any.

    Beside each expression stands its index, what the files of the dataset write for it, and how
    many samples of each side have it; beside each action unit how many samples show it.
    """
    if data.schema.expressions:
        yield _classes(data, "expression", "expressions")
    if data.schema.felt:
        yield _classes(data, "felt", "felt emotions")
    if data.schema.aus:
        yield _action_units(data)


def unused_codes(table: LabelTable | None, classes: tuple[str, ...]) -> list[str]:
    """Return the codes of a dataset that stand for no class that is used, with their meaning.

    >>> table = LabelTable({"0": "neutral", "7": "contempt"}, {"9": "uncertain"})
    >>> unused_codes(table, ("neutral",))
    ['7 contempt', '9 uncertain']
    """
    return [
        code if code == meaning else f"{code} {meaning}"
        for code, meaning in (table.pairs() if table else [])
        if meaning not in classes or (table and code in table.unknown)
    ]


def _classes(data: FaceDataModule, task: str, title: str) -> Table:
    written: dict[str, list[str]] = {}
    if data.dataset.labels is not None:
        for code, name in data.dataset.labels.codes.items():
            written.setdefault(name, []).append(code)
    samples, names = data.dataset.samples, data.schema.names(task)
    counts = []
    for side in SIDES:
        label = getattr(samples.take(getattr(data.split, side)), task)
        counts.append(np.bincount(label[label >= 0], minlength=len(names)))
    columns = ["index", task, *(["in the files"] if written else []), *SIDES]
    table = Table(*columns, title=title, title_justify="left")
    for index, name in enumerate(names):
        cells = [", ".join(written.get(name, []))] if written else []
        table.add_row(str(index), name, *cells, *(f"{count[index]:,}" for count in counts))
    return table


def _action_units(data: FaceDataModule) -> Table:
    table = Table("action unit", *SIDES, title="samples that show it", title_justify="left")
    parts = [data.dataset.samples.take(getattr(data.split, side)).au for side in SIDES]
    for column, name in enumerate(data.schema.au_names):
        shown = [(part[:, column] == 1).sum() for part in parts if part is not None]
        table.add_row(name, *(f"{count:,}" for count in shown))
    return table
