"""FABA-Bench (Li et al., 2024): faces of AffectNet with answers in words about emotion or AUs."""

from collections import Counter
from pathlib import Path
from typing import Any, Literal

import numpy as np

from faceaffect.data.dataset import FaceDataset, Samples
from faceaffect.data.places import find_files
from faceaffect.data.question_layouts import faba_labels
from faceaffect.errors import DataError, shown
from faceaffect.files import read_json
from faceaffect.schema import LabelSchema
from faceaffect.scores.answers import UNREADABLE, parse_aus, parse_expression
from faceaffect.scores.rege import EXPRESSIONS, SCORED_AUS

_HELP = (
    "Expected: lists of records (source, image, id, conversations, landmark; to test label and "
    "gpt4 besides), as EmoLA's repository describes them; data.root is the folder of their pictures"
)


class FabaBench(FaceDataset):
    """The faces of FABA-Bench, labelled by what is said of them.

    Records to test have a ``label``. Those to train have none; their label is what their text
    affirms, as answers of models are read, and unknown where it affirms none, or several. Pictures
    that are not on disk are left out and counted, and so are records that repeat one. People are
    not known. To learn the texts themselves, name the file as ``model.instructions``, too.

    Args:
        root: the folder of the pictures.
        train: the file of records to train on, relative to the root.
        test: that of records to test.
        task: what the files are about: one expression of seven, or twelve AUs.

    Raises:
        DataError: a file is missing or of another form, or no picture is there.
    """

    def __init__(
        self,
        root: str,
        *,
        train: str = "train.json",
        test: str = "test.json",
        task: Literal["emotion", "au"] = "emotion",
    ) -> None:
        folder = Path(root)
        left_out: Counter[str] = Counter()
        rows: dict[str, tuple[str, tuple[str, ...] | None]] = {}
        for part, name in (("train", train), ("test", test)):
            for number, record in enumerate(_records(folder / name), 1):
                where = f"{folder / name}, record {number}"
                image, labels = _face(record, part, task, where)
                if image in rows and rows[image][0] != part:
                    raise DataError(f"{where}: {shown(image)} is in both files")
                left_out["records of a picture that has one"] += image in rows
                rows.setdefault(image, (part, labels))
        there = find_files(folder, rows).there
        left_out["pictures that are not on disk"] = int((~there).sum())
        found = [row for row, here in zip(rows.items(), there, strict=True) if here]
        if not found:
            raise DataError(f"{folder}: none of the {len(rows)} pictures is there. {_HELP}")
        names = np.array([name for name, _ in found], str)
        known = [label for _, (_, label) in found]
        schema = LabelSchema(aus=SCORED_AUS) if task == "au" else LabelSchema((), EXPRESSIONS)
        super().__init__(
            schema,
            Samples(
                id=names,
                subject=names,
                part=np.array([part for _, (part, _) in found], str),
                au=_table(known) if task == "au" else None,
                expression=None if task == "au" else _index(known),
            ),
            root=folder,
            subjects_known=False,
            left_out={why: count for why, count in left_out.items() if count},
            notes={"labels to train on": "what the texts affirm"},
        )


def _records(file: Path) -> list[Any]:
    if not file.is_file():
        raise DataError(f"no records at {file}. {_HELP}")
    try:
        found = read_json(file.read_bytes())
    except ValueError as error:
        raise DataError(f"{file}: no JSON: {error}") from None
    if not isinstance(found, list):
        raise DataError(f"{file}: no list of records. {_HELP}")
    return found


def _face(record: Any, part: str, task: str, where: str) -> tuple[str, tuple[str, ...] | None]:
    """Return the picture of a record and its labels; None where its text affirms none."""
    try:
        image = record["image"]
        if not isinstance(image, str) or not image:
            raise ValueError("no image")
        if part == "test":
            labels, about = faba_labels(record["label"])
            if about != task or (about == "emotion" and labels[0] not in EXPRESSIONS):
                raise ValueError(f"the label {shown(record['label'])} is none of data.task={task}")
            return image, labels
        said = " ".join(t["value"] for t in record["conversations"] if t["from"] == "gpt")
    except (KeyError, TypeError, ValueError) as error:
        what = f"no field {error}" if isinstance(error, KeyError) else str(error)
        raise DataError(f"{where}: {what}. {_HELP}") from None
    if task == "au":
        active = parse_aus(said, SCORED_AUS)
        if active is None:
            return image, None
        return image, tuple(f"AU{a}" for a, on in zip(SCORED_AUS, active, strict=True) if on)
    place = parse_expression(said, EXPRESSIONS)
    return image, None if place == UNREADABLE else (EXPRESSIONS[place],)


def _table(labels: list[tuple[str, ...] | None]) -> np.ndarray[Any, np.dtype[np.float32]]:
    blank = [np.nan] * len(SCORED_AUS)
    rows = [blank if own is None else [float(f"AU{au}" in own) for au in SCORED_AUS]
            for own in labels]  # fmt: skip
    return np.array(rows, np.float32)


def _index(labels: list[tuple[str, ...] | None]) -> np.ndarray[Any, np.dtype[np.int64]]:
    return np.array([-1 if own is None else EXPRESSIONS.index(own[0]) for own in labels], np.int64)
