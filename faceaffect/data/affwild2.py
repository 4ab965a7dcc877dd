"""Aff-Wild2 (Kollias and Zafeiriou, 2019): films whose frames have AUs, expression, affect."""

import re
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from faceaffect.data.dataset import FaceDataset, Samples
from faceaffect.data.frames import locate, numbered_files
from faceaffect.data.labels import LabelTable, choose_tasks
from faceaffect.data.listed import added
from faceaffect.errors import DataError, RecipeError, shown
from faceaffect.files import entries
from faceaffect.schema import LabelSchema

AUS = (1, 2, 4, 6, 7, 10, 12, 15, 23, 24, 25, 26)
LABELS = LabelTable(
    {"0": "neutral", "1": "anger", "2": "disgust", "3": "fear", "4": "happiness", "5": "sadness",
     "6": "surprise", "7": "other"},
    {"-1": "unknown"},
)  # fmt: skip
"""The codes of expressions, as the first line of each file names them."""

_HEADER = {
    "au": tuple(f"AU{au}" for au in AUS),
    "expression": ("Neutral", "Anger", "Disgust", "Fear", "Happiness", "Sadness", "Surprise",
                   "Other"),
    "va": ("valence", "arousal"),
}  # fmt: skip
_CHALLENGE = {"au": "AU_Detection", "expression": "EXPR_Recognition", "va": "VA_Estimation"}
_OLD = {"au": "AU_Set", "expression": "EXPR_Set", "va": "VA_Set"}
_SETS = {"train": "Train_Set", "test": "Validation_Set"}
_UNKNOWN = {"au": -1, "expression": -1, "va": -5}
_RANGE = {"au": (0, 1), "expression": (0, 7), "va": (-1, 1)}
_HELP = (
    "Expected under data.root, as the ABAW challenges distribute it on request "
    "(https://ibug.doc.ic.ac.uk/resources/aff-wild2/): '6th ABAW Annotations/"
    "EXPR_Recognition_Challenge/Train_Set/video1.txt' (AU_Detection_Challenge, "
    "VA_Estimation_Challenge, Validation_Set) and cropped_aligned/video1/00001.jpg"
)


class AffWild2(FaceDataset):
    """Aff-Wild2's cropped frames with the labels of the challenges that are on disk.

    A label's line number behind the first line is its frame. The published validation part is the
    test part, since the labels of the test part are not published; validation films are carved out
    of the training part. A film is a person, and one that ends in ``_left`` or ``_right`` is the
    second person of a film, a person of its own. A film that one challenge trains on and another
    validates on is tested, by its labels of the latter alone. Frames without any label and labels
    without a frame (nobody was found) are left out and counted.

    Args:
        root: the folder that holds the annotations and the frames.
        tasks: of ``au``, ``expression`` and ``va`` those to use; absent, those that are there.
        abaw: number of the challenge whose annotations are used, where there are several.
        images: folder of the frames.
        every: use every n-th frame: those whose number it divides.

    Raises:
        DataError: something is missing or makes no sense; the file is named.
        RecipeError: an argument is out of range.
    """

    def __init__(
        self,
        root: str,
        *,
        tasks: list[str] | None = None,
        abaw: int | None = None,
        images: str = "cropped_aligned",
        every: int = 1,
    ) -> None:
        if every < 1:
            raise RecipeError(f"data.every: {every} is not positive")
        chosen, folder = choose_tasks(tasks, tuple(_CHALLENGE)), Path(root)
        place = _annotations(folder, abaw)
        lists = _lists(place, chosen, tasks is not None)
        pictures = _pictures(folder, images)
        left_out: Counter[str] = Counter()
        tables = []
        for (video, part), files in _films(lists, left_out).items():
            labels = pd.concat([_read(file, task) for task, file in files.items()], axis=1)
            at = pictures.get(video)
            found = locate(labels, numbered_files(folder / at) if at else None, left_out)
            found = found[found.index % every == 0]
            names = [f"{at}/{Path(file).name}" for file in found["file"]]
            tables.append(found.assign(file=names, video=video, part=part))
        table = pd.concat(tables, ignore_index=True)
        if table.empty:
            raise DataError(f"{folder}: no frame has a label and a picture. {_HELP}")
        there = [task for task in chosen if task in lists]
        samples = Samples(
            id=table["file"].to_numpy(str),
            subject=table["video"].to_numpy(str),
            part=table["part"].to_numpy(str),
            au=_numbers(table, "au") if "au" in there else None,
            expression=_codes(table) if "expression" in there else None,
            va=_numbers(table, "va") if "va" in there else None,
        )
        super().__init__(
            LabelSchema(
                aus=AUS if "au" in there else (),
                expressions=LABELS.classes if "expression" in there else (),
                valence_arousal="va" in there,
            ),
            samples,
            root=folder,
            left_out=added(left_out),
            notes={"annotations": place.name, "every": every, "images": images},
            labels=LABELS if "expression" in there else None,
        )


def _annotations(root: Path, abaw: int | None) -> Path:
    """Return the folder of one challenge's annotations."""
    inside = entries(root) if root.is_dir() else []
    found: dict[int | None, Path] = {}
    for folder in inside:
        match = re.fullmatch(
            r"(?:(\d+)(?:st|nd|rd|th)[ _])?(?:ABAW[ _])?Annotations", folder.name, re.I
        )
        if match and folder.is_dir():
            found[int(match[1]) if match[1] else None] = folder
    if abaw is not None and abaw not in found:
        there = ", ".join(folder.name for folder in found.values()) or "no annotations"
        raise DataError(f"data.abaw: {abaw} is not in {root}, which holds {there}. {_HELP}")
    if not found:
        raise DataError(f"data.root: no folder of annotations in {root}. {_HELP}")
    if abaw is None and len(found) > 1:
        names = ", ".join(folder.name for folder in found.values())
        raise DataError(f"data.root: several annotations in {root}: {names}; data.abaw chooses one")
    return found[abaw] if abaw is not None else next(iter(found.values()))


def _lists(
    place: Path, tasks: tuple[str, ...], asked: bool
) -> dict[str, dict[str, dict[str, Path]]]:
    """Return the label files of each task and part, by film."""
    found: dict[str, dict[str, dict[str, Path]]] = {}
    tried = []
    for task in tasks:
        names = (f"{_CHALLENGE[task]}_Challenge", _CHALLENGE[task], _OLD[task])
        folder = next((place / name for name in names if (place / name).is_dir()), None)
        if folder is None:
            tried += [str(place / names[0])]
            continue
        found[task] = {}
        for part, name in _SETS.items():
            if not (folder / name).is_dir():
                raise DataError(f"the folder {folder / name} is missing. {_HELP}")
            found[task][part] = {f.stem: f for f in entries(folder / name) if f.suffix == ".txt"}
    if (asked and tried) or not found:
        raise DataError(f"no labels for the task: {', '.join(tried)} is missing. {_HELP}")
    return found


def _films(
    lists: dict[str, dict[str, dict[str, Path]]], left_out: Counter[str]
) -> dict[tuple[str, str], dict[str, Path]]:
    """Return the label files of each film by task, under its name and part."""
    tested = {video for parts in lists.values() for video in parts["test"]}
    films: dict[tuple[str, str], dict[str, Path]] = {}
    for task, parts in lists.items():
        for part, files in parts.items():
            for video, file in files.items():
                if part == "train" and video in tested:
                    left_out[f"films whose training labels of {task} stand beside a test"] += 1
                else:
                    films.setdefault((video, part), {})[task] = file
    if not films:
        raise DataError(f"no label files in the parts of {', '.join(lists)}. {_HELP}")
    return films


def _read(file: Path, task: str) -> pd.DataFrame:
    """Return the labels of a film, NaN unknown; the index counts frames from 1."""
    try:
        table = pd.read_csv(
            file,
            header=None,
            skiprows=1,
            dtype=float,
            skipinitialspace=True,
            skip_blank_lines=False,  # an empty line would move the frames behind it by one
        )
        with file.open(encoding="utf-8-sig") as lines:
            header = [cell.strip() for cell in lines.readline().split(",")]
    except (ValueError, OSError) as error:
        raise DataError(f"{file}: not readable as labels of frames: {error}") from None
    expected = _HEADER[task]
    if [name.lower() for name in header] != [name.lower() for name in expected]:
        raise DataError(
            f"{file}: its first line is {shown(','.join(header))}, that of another year or "
            f"another task; '{','.join(expected)}' was expected"
        )
    columns = ["expression"] if task == "expression" else list(expected)
    if table.shape[1] != len(columns):
        raise DataError(f"{file}: {table.shape[1]} values in a line, expected {len(columns)}")
    said = np.flatnonzero(table.notna().any(axis=1))
    table = table.iloc[: said[-1] + 1 if len(said) else 0]  # without empty lines at the end
    values = _checked(table.to_numpy(np.float64), task, file)
    return pd.DataFrame(values, columns=columns, index=np.arange(1, len(values) + 1))


def _checked(values: NDArray[np.float64], task: str, file: Path) -> NDArray[np.float64]:
    code, (low, high) = _UNKNOWN[task], _RANGE[task]
    absent = values == code
    wrong = ~absent & ~((values >= low) & (values <= high))
    if task != "va":
        wrong |= ~absent & (values % 1 != 0)
    if wrong.any():
        row, column = np.argwhere(wrong)[0].tolist()
        value = values[row, column]
        said = "an empty value" if np.isnan(value) else f"{value:g}"
        raise DataError(f"{file}:{row + 2}: {said} is not {low} to {high}, nor {code} for unknown")
    absent = absent.any(1, keepdims=True) | absent if task == "va" else absent
    return np.where(absent, np.nan, values)


def _pictures(root: Path, images: str) -> dict[str, str]:
    """Return the folder of each film's frames, relative to the root."""
    places = [p for p in sorted(root.glob(f"{images}*")) if p.is_dir()]
    if not places:
        raise DataError(f"data.images: the folder {root / images} is missing. {_HELP}")
    found = {}
    for place in places:
        inner = place / images if (place / images).is_dir() else place
        for film in entries(inner):
            if film.is_dir():
                found[film.name] = film.relative_to(root).as_posix()
    return found


def _codes(table: pd.DataFrame) -> NDArray[np.int64]:
    """Return (N,) the expressions; a table in which no film has any has no column of them."""
    return table.reindex(columns=["expression"])["expression"].fillna(-1).to_numpy(np.int64)


def _numbers(table: pd.DataFrame, task: str) -> NDArray[np.float32]:
    return table.reindex(columns=list(_HEADER[task])).to_numpy(np.float32)
