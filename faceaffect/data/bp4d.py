"""BP4D-Spontaneous (Zhang et al., 2014): 41 people, 8 tasks each, occurrence of AUs."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd

from faceaffect.data.align import CropNode, FinderNode, Method, open_aligner
from faceaffect.data.dataset import Samples
from faceaffect.data.frames import (
    FrameDataset,
    check_labels,
    find_folder,
    locate_all,
    named_folders,
    numbered_files,
)
from faceaffect.data.video import VIDEO_SUFFIXES
from faceaffect.errors import DataError, RecipeError
from faceaffect.files import entries
from faceaffect.schema import LabelSchema

BENCHMARK_AUS = (1, 2, 4, 6, 7, 10, 12, 14, 15, 17, 23, 24)

PARTS: dict[str, tuple[str, ...]] = {
    "1": (
        "F001", "F002", "F008", "F009", "F010", "F016", "F018", "F023",
        "M001", "M004", "M007", "M008", "M012", "M014",
    ),
    "2": (
        "F003", "F005", "F011", "F013", "F020", "F022",
        "M002", "M005", "M010", "M011", "M013", "M016", "M017", "M018",
    ),
    "3": (
        "F004", "F006", "F007", "F012", "F014", "F015", "F017", "F019", "F021",
        "M003", "M006", "M009", "M015",
    ),
}  # fmt: skip
"""The published parts of people, as in ME-GraphAU's lists; fold k tests part 4 - k."""

_PERSON, _TASK = r"[FM]\d{3}", r"T\d{1,2}"
_IMAGES = ("2D+3D", "Sequences", "Images", "Frames", "img")
_LABELS = ("AUCoding/AU_OCC", "AU_OCC", "AUCoding", "AU-Occurrence-Codes")
_HELP = (
    "Expected under data.root, as Binghamton University distributes BP4D on request "
    "(https://www.cs.binghamton.edu/~lijun/Research/3DFE/3DFE_Analysis.html): "
    f"F001_T1.csv in {', '.join(_LABELS)}, and F001/T1/2440.jpg in {', '.join(_IMAGES)}, in "
    "data.frames or in the root itself, or a video in F001/T1; upper and lower case are not told "
    "apart"
)


class Bp4d(FrameDataset):
    """BP4D as it is distributed: images by person and task, cropped to faces.

    An image belongs to the label of its number. Labels without a frame and frames without a label
    are left out and counted.

    Args:
        root: the folder that holds the labels (``AUCoding``) and the images.
        aus: the AUs in column order; absent, the 12 of the usual benchmark.
        frames: folder of the images in the root; absent, the names of the distributions are tried.
        every: use every n-th frame: those whose number it divides.
        align: how faces are found, see :class:`~faceaffect.data.align.Aligner`; ``none`` for
            frames that are cropped already. BP4D has no 68 landmarks of its own.
        crop: how they are cut out, see :class:`~faceaffect.data.faces.crop.Crop`.
        finder: finds faces, see ``faceaffect ls finders``; absent, ``mtcnn``.
        crop_cache: folder of the stored crops; absent, ``faceaffect_crops`` in the root.

    Raises:
        DataError: something is missing or makes no sense; the file is named.
        RecipeError: an argument is out of range.
    """

    parts: ClassVar[dict[str, tuple[str, ...]] | None] = PARTS
    unfit: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self,
        root: str,
        *,
        aus: list[int] | None = None,
        frames: str | None = None,
        every: int = 1,
        align: Method = "auto",
        crop: CropNode = None,
        finder: FinderNode = None,
        crop_cache: str | None = None,
    ) -> None:
        chosen = BENCHMARK_AUS if aus is None else tuple(aus)
        if every < 1:
            raise RecipeError(f"data.every: {every} is not positive")
        folder = Path(root)
        labels = {name: _read_labels(file, chosen) for name, file in _label_files(folder).items()}
        pictures = _pictures(folder, frames)
        unfit = [name for name in self.unfit if labels.pop(name, None) is not None]
        fitting = {name: place for name, place in pictures.items() if name not in unfit}
        table, left_out = locate_all(labels, fitting, every)
        left_out |= {f"recording whose labels do not fit, {name}": 1 for name in unfit}
        if table.empty:
            raise DataError(f"{folder}: no frame has a label and a picture. {_HELP}")
        samples = Samples(
            id=table["id"].to_numpy(str),
            subject=table["recording"].str.partition("/")[0].to_numpy(str),
            au=table[list(chosen)].to_numpy(np.float32),
        )
        super().__init__(
            LabelSchema(aus=chosen),
            samples,
            table,
            open_aligner(align, crop, finder, crop_cache, folder),
            root=folder,
            left_out=left_out,
            folds=self.parts,
            notes={"every": every},
        )


class Bp4dPlus(Bp4d):
    """BP4D+ (Zhang et al., 2016): 140 people, of whose ten tasks T1, T6, T7 and T8 are coded.

    It is laid out as BP4D, with no published parts of people. Pictures of tasks that are not coded
    are counted. Labels and pictures of F041's T7 do not fit each other, and it is left out.

    Args:
        root: the folder that holds the labels (``AUCoding``) and the images.
        aus: the AUs in column order; absent, the 12 of the usual benchmark.
        frames: folder of the images in the root; absent, the names of the distributions are tried.
        every: use every n-th frame: those whose number it divides.
        align: how faces are found, see :class:`~faceaffect.data.align.Aligner`; ``none`` for
            frames that are cropped already.
        crop: how they are cut out, see :class:`~faceaffect.data.faces.crop.Crop`.
        finder: finds faces, see ``faceaffect ls finders``; absent, ``mtcnn``.
        crop_cache: folder of the stored crops; absent, ``faceaffect_crops`` in the root.

    Raises:
        DataError: something is missing or makes no sense; the file is named.
        RecipeError: an argument is out of range.
    """

    parts: ClassVar[dict[str, tuple[str, ...]] | None] = None
    unfit: ClassVar[tuple[str, ...]] = ("F041/T7",)


def _label_files(root: Path) -> dict[str, Path]:
    """Return the label file of each recording, by person and task, ``F001/T1``."""
    for name in _LABELS:
        folder: Path | None = root
        for part in name.split("/"):
            folder = find_folder(folder, [part]) if folder else None
        if folder is None:
            continue
        found = {}
        for file in entries(folder):
            match = re.fullmatch(rf"({_PERSON})_({_TASK})\.CSV", file.name.upper())
            if match:
                found[f"{match[1]}/{match[2]}"] = file
        if found:
            return found
    raise DataError(f"{root}: no label files. {_HELP}")


def _read_labels(file: Path, aus: tuple[int, ...]) -> pd.DataFrame:
    """Return a recording's labels, a column for each AU, the index counting frames as the file."""
    try:
        # With 'index_col=0' a comma at the end of each line would move all AUs by one column.
        table = pd.read_csv(file, index_col=False, usecols=lambda _: True, dtype=float)
        table = table.set_index(table.columns[0])
        table.index = table.index.astype(np.int64)
    except (ValueError, OSError) as error:
        raise DataError(f"{file}: not readable as a table of AUs: {error}") from None
    numbers = {int(m[1]): c for c in table if (m := re.fullmatch(r"(?:AU)?0*(\d+)", str(c), re.I))}
    absent = [au for au in aus if au not in numbers]
    if absent or not aus:
        raise DataError(
            f"{file}: no column for {', '.join(f'AU{au}' for au in absent) or 'no AU at all'}; the "
            f"columns are {', '.join(map(str, table.columns))}; data.aus chooses among them"
        )
    if table.index.has_duplicates:
        raise DataError(f"{file}: a frame is labelled twice")
    values = table[[numbers[au] for au in aus]].to_numpy(np.float64)
    return pd.DataFrame(check_labels(values, 1, file), index=table.index, columns=list(aus))


def _pictures(root: Path, frames: str | None) -> dict[str, Path | Mapping[int, Path]]:
    """Return each recording's images by number, or its video, by person and task."""
    folder = (find_folder(root, _IMAGES) or root) if frames is None else root / frames
    people = named_folders(folder, _PERSON) if folder.is_dir() else {}
    found: dict[str, Path | Mapping[int, Path]] = {}
    for person, place in people.items():
        for task, recording in named_folders(place, _TASK).items():
            images = numbered_files(recording)
            videos = [f for f in entries(recording) if f.suffix.lower() in VIDEO_SUFFIXES]
            if images or videos:
                found[f"{person}/{task}"] = images or videos[0]
    if not found:
        packed = sorted(folder.glob("[FM][0-9][0-9][0-9].zip")) if folder.is_dir() else []
        unpack = f"; unpack {packed[0].name} and its like there" if packed else ""
        raise DataError(f"{folder}: no images or videos of people here{unpack}. {_HELP}")
    return found
