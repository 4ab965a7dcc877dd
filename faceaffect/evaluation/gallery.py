"""The faces about which models disagree most, with their answers."""

import base64
from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from faceaffect.data.base import FaceDataModule
from faceaffect.data.loader import BatchReader
from faceaffect.errors import DataError
from faceaffect.schema import CLASS_TASKS, NUMBER_TASKS, STRONGEST, LabelSchema
from faceaffect.scores.predictions import answer_columns, truth_columns

FACES = 12
_SIDE = 112


def disagreements(
    tables: Mapping[str, pd.DataFrame],
    schema: LabelSchema,
    data: FaceDataModule,
    *,
    pictures: bool,
    count: int = FACES,
) -> list[dict[str, Any]]:
    """Return the faces about which the models disagree most, one of each person, worst first.

    Args:
        tables: predictions of each model, with the same samples in the same order.
        schema: what they answer.
        data: where the pictures come from.
        pictures: whether to show them: pictures, ids and subjects, which may be names.
        count: at most so many.

    Returns:
        For each face ``truth`` and, for each model, ``answers``, each with ``expression`` and
        ``felt`` (a class), ``au`` (names of those present), ``valence``, ``arousal`` and
        ``intensity`` as far as the schema has them, None where unknown or unreadable; ``text`` of
        models that answer in words; ``id``, ``subject`` and ``image``, a data URI, each None if it
        is not shown.
    """
    first = next(iter(tables.values()))
    if pictures:
        data.prepare_data()
    place = {name: index for index, name in enumerate(data.dataset.samples.id.tolist())}
    found = []
    for row in _choose(tables, schema, count):
        name = str(first["id"][row])
        found.append(
            {
                "id": name if pictures else None,
                "subject": str(first["subject"][row]) if pictures else None,
                "truth": _truth(first.iloc[row], schema),
                "answers": {model: _answer(t.iloc[row], schema) for model, t in tables.items()},
                "text": {m: str(t["text"][row]) for m, t in tables.items() if "text" in t},
                "image": picture(data, place[name]) if pictures else None,
            }
        )
    return found


def is_drawn(data: FaceDataModule) -> bool:
    """Return whether all test pictures are generated, so that they show nobody."""
    return all(data.dataset.path(index) is None for index in data.split.test.tolist())


def picture(data: FaceDataModule, index: int) -> str | None:
    """Return a sample as a model gets it, as a small JPEG data URI; None if it is unreadable.

    Of a clip the frame in the middle is shown.
    """
    side = min(data.image_size, _SIDE)
    try:
        image = BatchReader(data.dataset, side).read(0, index).image
    except (DataError, OSError):
        return None
    frame = image[len(image) // 2] if image.ndim == 4 else image
    _, jpeg = cv2.imencode(".jpg", frame[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 85])
    return "data:image/jpeg;base64," + base64.b64encode(jpeg.tobytes()).decode()


def _choose(tables: Mapping[str, pd.DataFrame], schema: LabelSchema, count: int) -> list[int]:
    """Return rows by falling disagreement, then by id, at most one of a person."""
    first = next(iter(tables.values()))
    score = disagreement(list(tables.values()), schema)
    chosen: dict[str, int] = {}
    for row in np.lexsort((first["id"].to_numpy(str), -score)).tolist():
        if score[row] <= 0 or len(chosen) == count:
            break
        chosen.setdefault(str(first["subject"][row]), row)
    return list(chosen.values())


def disagreement(tables: list[pd.DataFrame], schema: LabelSchema) -> NDArray[np.float64]:
    """Return how much the models disagree about each sample: a sum of one term in [0, 1] a task.

    AUs: how evenly the models are divided about present and absent, mean over the AUs.
    Expression, felt emotion: the share of models that do not name the most frequent answer, 1 if
    all differ.
    Valence, arousal, intensity: the distance between the furthest answers as a share of the scale,
    mean of both of the first two.

    Args:
        tables: predictions of M models for the same N samples; an unreadable answer counts as
            absent, or as an expression of its own.
        schema: what they answer.

    Returns:
        (N,)
    """
    total, columns = np.zeros(len(tables[0])), answer_columns(schema)
    if schema.aus:
        share = np.mean([table[columns["au"]].to_numpy(float) > 0.5 for table in tables], 0)
        total += (4 * share * (1 - share)).mean(1)
    for task in _classes(schema) if len(tables) > 1 else ():
        named = np.stack([_class(table, schema, task) for table in tables])
        votes = np.stack([(named == k).sum(0) for k in range(-1, len(schema.names(task)))])
        total += (1 - votes.max(0) / len(tables)) / (1 - 1 / len(tables))
    for task, scale in (("va", 2), ("intensity", STRONGEST)):
        if task in schema.tasks:
            values = np.stack([table[columns[task]].to_numpy(float) for table in tables])
            total += np.nan_to_num((values.max(0) - values.min(0)) / scale).mean(1)
    return total


def _classes(schema: LabelSchema) -> list[str]:
    return [task for task in CLASS_TASKS if task in schema.tasks]


def _class(table: pd.DataFrame, schema: LabelSchema, task: str) -> NDArray[np.int64]:
    """Return (N,) class indices, -1 where the answer is unreadable."""
    prob = table[answer_columns(schema)[task]].to_numpy(float)
    return np.where(np.isnan(prob).any(1), -1, np.nan_to_num(prob).argmax(1))


def _truth(row: "pd.Series[Any]", schema: LabelSchema) -> dict[str, Any]:
    columns, found = truth_columns(schema), {}
    for task in _classes(schema):
        name = row[columns[task][0]]
        found[task] = None if pd.isna(name) else name
    return found | _labels(row, columns, schema)


def _answer(row: "pd.Series[Any]", schema: LabelSchema) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for task in _classes(schema):
        index = int(_class(row.to_frame().T, schema, task)[0])
        found[task] = schema.names(task)[index] if index >= 0 else None
    return found | _labels(row, answer_columns(schema), schema)


def _labels(
    row: "pd.Series[Any]", columns: Mapping[str, list[str]], schema: LabelSchema
) -> dict[str, Any]:
    """Return the AUs that are present, None if all are unknown, and what is on a scale."""
    found: dict[str, Any] = {}
    if schema.aus:
        cells = dict(zip(schema.au_names, row[columns["au"]], strict=True))
        unknown = all(pd.isna(cell) for cell in cells.values())
        found["au"] = None if unknown else [name for name, cell in cells.items() if cell > 0.5]
    for task in (task for task in NUMBER_TASKS if task in schema.tasks):
        for name, cell in zip(schema.names(task), row[columns[task]], strict=True):
            found[name] = None if pd.isna(cell) else float(cell)
    return found
