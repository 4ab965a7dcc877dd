"""Which column of another tool's table holds what, told by the forms in which tools write."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from faceaffect.errors import DataError, RecipeError
from faceaffect.schema import VA_NAMES, LabelSchema
from faceaffect.scores.vocabulary import EXPRESSION_WORDS


@dataclass(frozen=True)
class Form:
    """How a tool names its columns; patterns match whole names whatever their case.

    Attributes:
        au: of probabilities or 0 and 1; its group is the number.
        intensity: of intensities 0 to 5, taken where there is no column of the first kind.
        expression: of one expression's probability; its group is the expression.
        label: of the name of the one expression that is answered.
        va: of valence and arousal; its group says which.
        id: of the picture's path.
        there: of 1 where a face was found.
        weight: of how sure the face is, where no box is known.
    """

    au: str = r"au[ _]?0*(\d+)(?:_c)?"
    intensity: str = r"au[ _]?0*(\d+)_(?:r|intensity)"
    expression: str = r"(\w+)"
    label: str = r"expression|facial_expression|emotion|dominant_emotion|label"
    va: str = r"(valence|arousal)"
    id: str = r"input|image|path|file|filename|file_?name|image_?name|image_?path|video"
    there: str = r"success"
    weight: str = r"confidence|facescore|face_?confidence|score"


FORMS: dict[str, Form] = {
    "auto": Form(),
    # predictions.csv of a test, and what faceaffect predict writes
    "faceaffect": Form(
        au=r"(?:prob/)?au(\d+)", expression=r"(?:prob/)?([^/]+)", label=r"(?!)",
        va=r"(?:pred/)?(valence|arousal)", id=r"id|input",
    ),
    # AU01_r 0 to 5, AU01_c 0 or 1, success
    "openface": Form(au=r"au(\d+)_c", intensity=r"au(\d+)_r", expression=r"(?!)", label=r"(?!)"),
    # AU01 probabilities, anger, disgust, ..., FaceScore, input
    "pyfeat": Form(intensity=r"(?!)", label=r"(?!)", weight=r"facescore"),
    # au_1 0 or 1, au_1_intensity 0 to 5, facial_expression
    "libreface": Form(au=r"au_(\d+)", intensity=r"au_(\d+)_intensity", expression=r"(?!)"),
    # Anger, Contempt, ...: scores; valence, arousal
    "emotiefflib": Form(au=r"(?!)", intensity=r"(?!)"),
    # emotion.angry or angry, ...: per cent; dominant_emotion
    "deepface": Form(
        au=r"(?!)", intensity=r"(?!)", expression=r"(?:emotion\.)?(\w+)",
        weight=r"face_confidence",
    ),
}  # fmt: skip
"""The forms by name. ``auto`` has the columns of all of them but for ours."""

_OURS = re.compile(r"(?:prob|pred)/.+")
_BOXES = (("w", "h"), ("FaceRectWidth", "FaceRectHeight"), ("region.w", "region.h"))


@dataclass(frozen=True)
class Found:
    """Which columns of a table answer what.

    Attributes:
        schema: what is answered, of what the data asks.
        aus: AU number to column and whether it holds intensities.
        expressions: class to column; empty where ``label`` names the class.
        label: column with the name of a class.
        va: ``valence`` and ``arousal`` to columns.
        id: column of the path; None where each file is a picture's own.
        form: the form.
    """

    schema: LabelSchema
    aus: dict[int, tuple[str, bool]]
    expressions: dict[str, str]
    label: str | None
    va: dict[str, str]
    id: str | None
    form: Form

    def values(
        self, cells: pd.DataFrame, threshold: float | None, file: str
    ) -> NDArray[np.float64]:
        """Return (rows, answers) in the order of the schema, NaN where nothing is answered.

        Raises:
            DataError: a cell is no number, or out of range.
        """
        parts = [self._aus(cells, threshold, file)] if self.schema.aus else []
        parts += [self._expressions(cells, file)] if self.schema.expressions else []
        if self.schema.valence_arousal:
            pair = [numbers(cells, self.va[name], file, -1, 1) for name in VA_NAMES]
            parts.append(np.stack(pair, 1))
        return np.concatenate(parts, 1)

    def _aus(self, cells: pd.DataFrame, threshold: float | None, file: str) -> NDArray[np.float64]:
        columns = []
        for au in self.schema.aus:
            column, intensity = self.aus[au]
            if intensity or threshold is not None:
                limit = 1.0 if threshold is None else threshold  # OpenFace calls 1 a trace
                values = numbers(cells, column, file, 0, 5) / (2 * limit)
                columns.append(values.clip(0, 1))
            else:
                columns.append(numbers(cells, column, file, 0, 1, "model.au_threshold"))
        return np.stack(columns, 1)

    def _expressions(self, cells: pd.DataFrame, file: str) -> NDArray[np.float64]:
        classes = self.schema.expressions
        if self.label is not None:
            named = [_class_of(cell, classes) for cell in cells[self.label]]
            return np.stack([np.array([n == c for n in named], float) for c in classes], 1)
        values = [numbers(cells, self.expressions[c], file, -np.inf, np.inf) for c in classes]
        return _shares(np.stack(values, 1))

    def frames(self, cells: pd.DataFrame) -> NDArray[Any]:
        """Return the frame of each row, empty where the table has none."""
        column = _named(cells, r"frame|frame_idx|frame_number")
        return np.full(len(cells), "") if column is None else cells[column].to_numpy(str)

    def weights(self, cells: pd.DataFrame) -> NDArray[np.float64]:
        """Return how much each face counts: its area, else how sure it is."""
        for pair in _BOXES:
            if set(pair) <= set(cells):
                sides = [pd.to_numeric(cells[name], errors="coerce") for name in pair]
                area = (sides[0] * sides[1]).to_numpy(np.float64)
                return np.asarray(np.nan_to_num(area))
        column = _named(cells, self.form.weight)
        if column is None:
            return np.zeros(len(cells))
        sure = pd.to_numeric(cells[column], errors="coerce").to_numpy(np.float64)
        return np.asarray(np.nan_to_num(sure))

    def there(self, cells: pd.DataFrame) -> "pd.Series[bool]":
        """Return in which rows the tool found a face."""
        column = _named(cells, self.form.there)
        if column is None:
            return pd.Series(True, index=cells.index)
        return pd.to_numeric(cells[column], errors="coerce").fillna(0) > 0


def find_columns(
    cells: pd.DataFrame, asked: LabelSchema, columns: str | Mapping[str, str], file: str
) -> Found:
    """Return which columns answer what the data asks.

    Args:
        cells: the table.
        asked: schema of the data.
        columns: a name of :data:`FORMS`, or names of labels and ``id`` to columns.
        file: its name, for errors.

    Raises:
        DataError: it answers nothing of what is asked, or a class is missing among expressions.
        RecipeError: a column that is named is not there.
    """
    if not isinstance(columns, str):
        return _told(cells, asked, columns, file)
    ours = columns == "auto" and any(_OURS.fullmatch(name) for name in map(str, cells))
    form = FORMS["faceaffect" if ours else columns]
    aus = {number: (name, True) for number, name in _numbered(cells, form.intensity).items()}
    aus |= {number: (name, False) for number, name in _numbered(cells, form.au).items()}
    classes = _classes(cells, form.expression, asked)
    label = None if len(classes) == len(asked.expressions) else _named(cells, form.label)
    va = {}
    for name in map(str, cells):
        match = re.fullmatch(form.va, name, re.IGNORECASE)
        if match:
            va[match[1].lower()] = name
    found = Found(asked, aus, classes, label, va, _named(cells, form.id), form)
    return _answered(found, cells, file)


def _told(cells: pd.DataFrame, asked: LabelSchema, columns: Mapping[str, str], file: str) -> Found:
    known = {*asked.au_names, *asked.expressions, *VA_NAMES, "id", "label"}
    for name, column in columns.items():
        if name not in known:
            raise RecipeError(
                f"model.columns.{name}: the data has no such label; its labels are: "
                f"{', '.join(sorted(known))}"
            )
        if column not in cells:
            raise RecipeError(f"model.columns.{name}: {file} has no column '{column}'")
    aus = {au: (columns[f"AU{au}"], False) for au in asked.aus if f"AU{au}" in columns}
    classes = {name: columns[name] for name in asked.expressions if name in columns}
    va = {name: columns[name] for name in VA_NAMES if name in columns}
    form = FORMS["auto"]
    own = columns.get("id", _named(cells, form.id))
    return _answered(Found(asked, aus, classes, columns.get("label"), va, own, form), cells, file)


def _answered(found: Found, cells: pd.DataFrame, file: str) -> Found:
    """Return what was found with the schema of what it answers."""
    asked = found.schema
    aus = tuple(au for au in asked.aus if au in found.aus)
    some = [name for name in asked.expressions if name in found.expressions]
    if some and len(some) < len(asked.expressions) and found.label is None:
        missing = [name for name in asked.expressions if name not in some]
        raise DataError(
            f"{file}: columns for {', '.join(some)}, but none for {', '.join(missing)}; name them "
            "with model.columns, or leave these classes out of the data (data.classes)"
        )
    spoken = asked.expressions if some or found.label else ()
    va = asked.valence_arousal and set(found.va) == set(VA_NAMES)
    schema = LabelSchema(aus, spoken, va)
    if not schema.tasks:
        raise DataError(
            f"{file}: no column answers {', '.join((*asked.au_names, *asked.expressions))}"
            f"{' or valence and arousal' if asked.valence_arousal else ''}; name them with "
            f"model.columns. The columns are: {', '.join(cells.columns)}"
        )
    return Found(schema, found.aus, found.expressions, found.label, found.va, found.id, found.form)


def numbers(
    cells: pd.DataFrame, column: str, file: str, low: float, high: float, way_out: str = ""
) -> NDArray[np.float64]:
    """Return a column of numbers, NaN for an empty cell.

    Raises:
        DataError: a cell holds something else.
    """
    text = cells[column].str.strip()
    empty = text.str.lower().isin(["", "nan", "na", "none", "null"])
    values = pd.to_numeric(text.where(~empty, "nan"), errors="coerce").to_numpy(np.float64)
    wrong = ~empty.to_numpy() & ~((values >= low) & (values <= high))
    if wrong.any():
        row = int(wrong.argmax())
        hint = f" ({way_out} says from where on intensities count)" if way_out else ""
        raise DataError(
            f"{file}: row {row + 2}, column '{column}': '{text.iloc[row]}' is no number from "
            f"{low:g} to {high:g}{hint}"
        )
    return values


def _shares(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return scores of classes as probabilities: shares of their sum, of logits by softmax."""
    if np.nanmin(values, initial=0) < 0:
        values = np.exp(values - np.nanmax(values, axis=1, keepdims=True))
    total = values.sum(1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(total > 0, values / total, np.nan))


def canonical(word: str) -> str:
    """Return the field's own name of an expression class, the word itself if it is none.

    >>> canonical("Happy"), canonical("AFRAID"), canonical("boredom")
    ('happiness', 'fear', 'boredom')
    """
    word = word.strip().lower().replace("_", " ")
    return next((name for name, words in EXPRESSION_WORDS.items() if word in words), word)


def _class_of(cell: str, classes: tuple[str, ...]) -> str | None:
    return next((name for name in classes if canonical(name) == canonical(cell)), None)


def _classes(cells: pd.DataFrame, pattern: str, asked: LabelSchema) -> dict[str, str]:
    found: dict[str, str] = {}
    for column in map(str, cells):
        match = re.fullmatch(pattern, column, re.IGNORECASE)
        name = match and _class_of(match[1], asked.expressions)
        if name:
            if name in found:
                raise DataError(
                    f"the columns '{found[name]}' and '{column}' both mean {name}; choose with "
                    "model.columns"
                )
            found[name] = column
    return found


def _numbered(cells: pd.DataFrame, pattern: str) -> dict[int, str]:
    found = {}
    for column in map(str, cells):
        match = re.fullmatch(pattern, column, re.IGNORECASE)
        if match:
            found[int(match[1])] = column
    return found


def _named(cells: pd.DataFrame, pattern: str) -> str | None:
    matches = [name for name in map(str, cells) if re.fullmatch(pattern, name, re.IGNORECASE)]
    return matches[0] if matches else None
