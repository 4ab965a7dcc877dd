"""MAFW (Liu et al., 2022): clips from films with one of eleven expressions, or several."""

from pathlib import Path
from typing import Literal

import pandas as pd

from faceaffect.data.align import CropNode, FinderNode, Method, open_aligner
from faceaffect.data.labels import LabelTable, line_of
from faceaffect.data.listed import (
    ListedFaces,
    check_fold,
    check_frames,
    first_folder,
    read_lines,
)
from faceaffect.data.video import VIDEO_SUFFIXES
from faceaffect.errors import DataError
from faceaffect.files import entries

CLASSES = (
    "anger", "disgust", "fear", "happiness", "neutral", "sadness", "surprise", "contempt",
    "anxiety", "helplessness", "disappointment",
)  # fmt: skip
"""The expressions in the order of their numbers 1 to 11."""

COMPOUND = (
    "anger_anxiety", "anger_disgust", "anger_disgust_anxiety", "anger_disgust_contempt",
    "anger_helplessness", "anger_sadness", "anger_surprise", "anxiety_helplessness",
    "anxiety_helplessness_disappointment", "disgust_anxiety", "disgust_anxiety_helplessness",
    "disgust_contempt", "disgust_disappointment", "disgust_helplessness",
    "disgust_helplessness_disappointment", "disgust_sadness", "disgust_surprise", "fear_anxiety",
    "fear_sadness", "fear_sadness_anxiety", "fear_surprise", "fear_surprise_anxiety",
    "happiness_contempt", "happiness_surprise", "helplessness_disappointment", "sadness_anxiety",
    "sadness_anxiety_helplessness", "sadness_disappointment", "sadness_helplessness",
    "sadness_helplessness_disappointment", "sadness_surprise", "surprise_anxiety",
)  # fmt: skip
"""The compound expressions, in alphabetical order: each is a class of its own."""

FOLDS = 5

_LISTS = ("Train & Test Set", "Train&Test Set", "Train_Test_Set")
_CLIPS = ("data/clips", "clips", "data/frames", "frames")
_HELP = (
    "Expected under data.root, as https://mafw-database.github.io/MAFW/ distributes it on request: "
    "'Train & Test Set/single/no_caption/set_1/train.txt' and data/clips/00001.mp4, or frames of "
    "the clips, data/frames/00001/1.jpg"
)


class Mafw(ListedFaces):
    """MAFW's clips as they are distributed, one of the five published splits.

    People are not known; papers report the mean over the five folds. Clips that are not on disk
    are left out and counted.

    Args:
        root: the folder that holds the lists and ``data``.
        fold: which published split, 1 to 5.
        labels: ``single`` has eleven classes; ``compound`` has these and 32 mixtures of them, such
            as ``anger_disgust``, each a class of its own.
        classes: the expressions to use, in index order; absent, all.
        clips: folder of the clips in the root; absent, ``data/clips`` or else ``data/frames``.
        frames: evenly spaced frames that are read of a clip.
        image_size: side to which frames are scaled while they are decoded, in pixels; absent, they
            keep their size. Not used where faces are cropped.
        align: ``auto`` finds the face in each picture and crops to it, once, on disk; ``none``
            takes pictures that are cropped already.
        crop: how faces are cut out, see :class:`~faceaffect.data.faces.crop.Crop`.
        finder: finds faces, see ``faceaffect ls finders``; absent, ``mtcnn``.
        crop_cache: folder of the crops; absent, ``faceaffect_crops`` in the root.

    Raises:
        DataError: something is missing or makes no sense; the file is named.
        RecipeError: an argument is out of range.
    """

    def __init__(
        self,
        root: str,
        *,
        fold: int = 1,
        labels: Literal["single", "compound"] = "single",
        classes: list[str] | None = None,
        clips: str | None = None,
        frames: int = 16,
        image_size: int | None = None,
        align: Method = "none",
        crop: CropNode = None,
        finder: FinderNode = None,
        crop_cache: str | None = None,
    ) -> None:
        check_fold(fold, FOLDS)
        check_frames(frames)
        known = CLASSES if labels == "single" else (*CLASSES, *COMPOUND)
        table_of = LabelTable({name: name for name in known})
        names, folder = table_of.choose(classes), Path(root)
        place = first_folder(folder, _CLIPS if clips is None else (clips,))
        if place is None:
            raise DataError(f"{folder}: no folder {clips or ' or '.join(_CLIPS)}. {_HELP}")
        lists = _lists(folder) / labels / "no_caption" / f"set_{fold}"
        table = pd.concat(
            [_read(lists / f"{part}.txt", part, table_of) for part in ("train", "test")]
        )
        names_there = _names(folder / place)
        table["file"] = [f"{place}/{names_there.get(stem, stem)}" for stem in table["stem"]]
        super().__init__(
            table,
            table_of,
            names,
            root=folder,
            help=_HELP,
            frames=frames,
            image_size=image_size,
            notes={"fold": fold, "labels": labels, "clips": place, "frames": frames},
            aligner=open_aligner(align, crop, finder, crop_cache, folder, own=False),
        )


def _lists(root: Path) -> Path:
    place = first_folder(root, _LISTS)
    if place is None:
        raise DataError(f"data.root: the folder {root / _LISTS[0]} is missing. {_HELP}")
    return root / place


def _read(file: Path, part: str, labels: LabelTable) -> pd.DataFrame:
    """Return ``stem``, ``expression`` and ``part`` of one published list."""
    if not file.is_file():
        raise DataError(f"{file} is missing. {_HELP}")
    lines = read_lines(file, r"(\d+)(?:\.\w+)?\s+(\S+)", "00025.mp4 anger")
    codes = [_in_order(code.lower()) for _, code in lines.values()]
    names = labels.read(codes, line_of(file, [*lines]))
    stems = [stem for stem, _ in lines.values()]
    return pd.DataFrame({"stem": stems, "expression": names, "part": part})


def _in_order(code: str) -> str:
    """Return a compound class with its parts in the order of the single ones.

    >>> _in_order("disgust_anger"), _in_order("joy")
    ('anger_disgust', 'joy')
    """
    parts = code.split("_")
    return "_".join(sorted(parts, key=CLASSES.index)) if {*parts} <= {*CLASSES} else code


def _names(folder: Path) -> dict[str, str]:
    """Return the names of the clips, films or folders of frames, by what stands before the dot."""
    return {
        entry.stem: entry.name
        for entry in entries(folder)
        if entry.suffix.lower() in VIDEO_SUFFIXES or not entry.suffix
    }
