"""DISFA (Mavadati et al., 2013): 27 people watching videos, 12 AUs with intensities 0 to 5."""

import re
from collections.abc import Callable, Mapping
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.io import loadmat

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
from faceaffect.data.listed import text_of
from faceaffect.data.video import VIDEO_SUFFIXES
from faceaffect.errors import DataError, RecipeError
from faceaffect.files import entries
from faceaffect.schema import LabelSchema

AUS = (1, 2, 4, 5, 6, 9, 12, 15, 17, 20, 25, 26)
BENCHMARK_AUS = (1, 2, 4, 6, 9, 12, 25, 26)

PARTS: dict[str, tuple[str, ...]] = {
    "1": ("SN001", "SN002", "SN009", "SN010", "SN016", "SN026", "SN027", "SN030", "SN032"),
    "2": ("SN006", "SN011", "SN012", "SN013", "SN018", "SN021", "SN024", "SN028", "SN031"),
    "3": ("SN003", "SN004", "SN005", "SN007", "SN008", "SN017", "SN023", "SN025", "SN029"),
}
"""The published parts of people, as in ME-GraphAU's lists; fold k tests part 4 - k."""

_PERSON = r"SN\d{3}"
_IMAGES = ("Images", "Frames", "img")
_HELP = (
    "Expected under data.root, as http://mohammadmahoor.com/disfa/ distributes it on request: "
    "ActionUnit_Labels/SN001/SN001_au1.txt and Videos_LeftCamera/LeftVideoSN001_comp.avi (or "
    "Video_LeftCamera, Videos_RightCamera, Video_RightCamera), or instead of the videos frames "
    f"taken from them, SN001/0.png in {', '.join(_IMAGES)} or data.frames; upper and lower case "
    "are not told apart"
)


class Disfa(FrameDataset):
    """DISFA as it is distributed: a camera's videos, or frames taken from them, cropped to faces.

    Labels count frames from 1; extracted frames may count from 0 or from 1. Labels without a frame
    and frames without a label are left out and counted.

    Args:
        root: the folder that holds ``ActionUnit_Labels``.
        aus: the AUs in column order; absent, the 8 of the usual benchmark.
        threshold: the intensity from which on an AU counts as positive, in (0, 5].
        camera: which camera's videos.
        frames: folder of extracted frames in the root; absent, the videos are read where they are
            there, else a folder ``Images``, ``Frames`` or ``img``.
        every: use every n-th frame: those whose number it divides.
        align: how faces are found, see :class:`~faceaffect.data.align.Aligner`; ``none`` for
            extracted frames that are cropped already.
        crop: how they are cut out, see :class:`~faceaffect.data.faces.crop.Crop`.
        finder: finds faces, see ``faceaffect ls finders``; absent, ``mtcnn``.
        crop_cache: folder of the stored crops; absent, ``faceaffect_crops`` in the root.

    Raises:
        DataError: something is missing or makes no sense; the file is named.
        RecipeError: an argument is out of range.
    """

    def __init__(
        self,
        root: str,
        *,
        aus: list[int] | None = None,
        threshold: float = 2.0,
        camera: Literal["left", "right"] = "left",
        frames: str | None = None,
        every: int = 1,
        align: Method = "auto",
        crop: CropNode = None,
        finder: FinderNode = None,
        crop_cache: str | None = None,
    ) -> None:
        chosen = BENCHMARK_AUS if aus is None else tuple(aus)
        check_aus(chosen, threshold, every)
        folder = Path(root)
        labels = {
            name: _read_labels(place, name, chosen)
            for name, place in _label_folders(folder).items()
        }
        last = {name: int(table.index.max()) for name, table in labels.items()}
        kind, sources = _sources(folder, frames, camera, last)
        if align == "none" and kind == "videos":
            raise RecipeError("data.align: 'none' is for frames that are cropped, not for videos")
        table, left_out = locate_all(labels, sources, every)
        if table.empty:
            raise DataError(f"{folder}: no frame has a label and a picture. {_HELP}")
        intensity = table[list(chosen)].to_numpy(np.float32)
        samples = Samples(
            id=table["id"].to_numpy(str),
            subject=table["recording"].to_numpy(str),
            au=np.where(np.isnan(intensity), np.nan, intensity >= threshold).astype(np.float32),
            au_intensity=intensity,
        )
        own_points = camera == "left" and align in ("auto", "landmarks")
        self.points = _landmark_files(folder, last) if own_points else {}
        super().__init__(
            LabelSchema(aus=chosen),
            samples,
            table,
            open_aligner(align, crop, finder, crop_cache, folder),
            landmarks=self._reader,
            root=folder,
            left_out=left_out,
            folds=PARTS,
            notes={"threshold": threshold, "every": every, "camera": camera, "source": kind},
        )

    def landmarks(self, index: int) -> NDArray[np.float32] | None:
        """Return the (68, 2) landmarks that the dataset has for a frame, in its pixels.

        Raises:
            DataError: the file cannot be read or holds something else.
        """
        read = self._reader(index)
        return None if read is None else read()

    def _reader(self, index: int) -> Callable[[], NDArray[np.float32]] | None:
        name, frame = str(self.samples.id[index]).split("/")
        file = self.points.get(name, {}).get(int(frame))
        return None if file is None else partial(_read_landmarks, file)


def check_aus(aus: tuple[int, ...], threshold: float, every: int) -> None:
    """Raise a RecipeError for AUs that are not coded, or numbers out of range."""
    absent = [au for au in aus if au not in AUS]
    if absent or not aus:
        raise RecipeError(
            f"data.aus: DISFA has no label for {', '.join(map(str, absent)) or 'no AU at all'}; "
            f"choose from {', '.join(map(str, AUS))}"
        )
    if not 0 < threshold <= 5:
        raise RecipeError(f"data.threshold: {threshold} is not in (0, 5]")
    if every < 1:
        raise RecipeError(f"data.every: {every} is not positive")


def _label_folders(root: Path) -> dict[str, Path]:
    folder = find_folder(root, ["ActionUnit_Labels"])
    people = named_folders(folder, _PERSON) if folder else {}
    if not people:
        raise DataError(f"{folder or root / 'ActionUnit_Labels'}: no labels here. {_HELP}")
    return people


def _read_labels(folder: Path, name: str, aus: tuple[int, ...]) -> pd.DataFrame:
    """Return a person's intensities, a column for each AU, the index counting frames from 1."""
    inside = {file.name.lower(): file for file in folder.iterdir()}
    columns = {}
    for au in aus:
        file = inside.get(f"{name}_au{au}.txt".lower())
        if file is None:
            raise DataError(
                f"{folder / f'{name}_au{au}.txt'} is missing: copy the labels again, or leave "
                f"AU{au} out with data.aus"
            )
        columns[au] = _read_column(file)
    return pd.DataFrame(columns)


def _read_column(file: Path) -> pd.Series:
    try:
        text = text_of(file).replace(",", " ")
        table = pd.read_csv(StringIO(text), header=None, sep=r"\s+", dtype=float)
        frames, values = table[0].to_numpy(np.int64), table[1].to_numpy(np.float64)
    except (ValueError, KeyError, OSError) as error:
        raise DataError(f"{file}: not readable as lines 'frame,intensity': {error}") from None
    if len(np.unique(frames)) < len(frames):
        raise DataError(f"{file}: a frame is labelled twice")
    if frames.min() < 1:
        raise DataError(f"{file}: a label for frame {frames.min()}; labels count frames from 1")
    return pd.Series(check_labels(values, 5, file), index=frames)


def _sources(
    root: Path, frames: str | None, camera: str, last: Mapping[str, int]
) -> tuple[str, Mapping[str, Path | Mapping[int, Path]]]:
    """Return what the pictures are, and each person's video or images by label frame."""
    videos = find_folder(root, [f"Videos_{camera}Camera", f"Video_{camera}Camera"])
    if frames is None and videos is not None:
        found = {}
        for file in entries(videos):
            match = re.search(_PERSON, file.name.upper())
            if match and file.suffix.lower() in VIDEO_SUFFIXES:
                found[match[0]] = file
        if found:
            return "videos", found
    folder = find_folder(root, _IMAGES) if frames is None else root / frames
    if folder is None or not folder.is_dir():
        raise DataError(f"{folder or root}: neither videos nor frames here. {_HELP}")
    people = {name: numbered_files(place) for name, place in named_folders(folder, _PERSON).items()}
    return "frames", _from_one({name: files for name, files in people.items() if files}, last)


def _from_one(
    people: Mapping[str, dict[int, Path]], last: Mapping[str, int]
) -> dict[str, dict[int, Path]]:
    """Return each person's files by label frame; files may count from 0, labels count from 1.

    A person whose file 0 is missing counts from 0 as the others do, unless a file has the number of
    the last label.
    """
    from_zero = any(0 in files for files in people.values())
    moved = {}
    for name, files in people.items():
        behind = 0 in files or (from_zero and max(files) < last.get(name, 0))
        moved[name] = {number + behind: file for number, file in files.items()}
    return moved


def _landmark_files(root: Path, last: Mapping[str, int]) -> dict[str, dict[int, Path]]:
    """Return each person's landmark files by label frame, wherever they lie in its folder."""
    folder = find_folder(root, ["Landmark_Points"])
    found = {}
    for name, place in (named_folders(folder, _PERSON) if folder else {}).items():
        inner = next((file.parent for file in sorted(place.rglob("*_lm.mat"))), place)
        found[name] = numbered_files(inner, (".mat",), r"(\d+)_lm$")
    return _from_one({name: files for name, files in found.items() if files}, last)


def _read_landmarks(file: Path) -> NDArray[np.float32]:
    """Return 68 points; where there are 66, the mouth's inner corners are its outer ones."""
    try:
        values = loadmat(str(file)).values()
    except Exception as error:
        raise DataError(f"{file}: not readable as landmarks: {error}") from None
    for points in values:
        shape = np.shape(points)
        if shape == (68, 2):
            return np.asarray(points, np.float32)
        if shape == (66, 2):
            order = [*range(60), 48, 60, 61, 62, 54, 63, 64, 65]
            return np.asarray(points, np.float32)[order]
    raise DataError(f"{file}: holds no (66, 2) or (68, 2) landmarks")
