"""Labelled frames of camera recordings, as image files or in videos, cropped to the face once."""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from rich.progress import track

from faceaffect.data.align import Aligner
from faceaffect.data.cropping import check_inside
from faceaffect.data.dataset import FaceDataset, Loaded, Samples
from faceaffect.data.faces.crop import Crop
from faceaffect.data.image import read_image
from faceaffect.data.video import IMAGE_SUFFIXES, open_video, read_frames
from faceaffect.errors import DataError
from faceaffect.files import entries
from faceaffect.schema import LabelSchema

UNKNOWN = (9, 999, -1)
"""Codes for an unknown AU label that one or another distribution uses."""

Landmarks = Callable[[int], Callable[[], NDArray[np.float32]] | None]


@dataclass
class Frames:
    """Where each of N samples lies, and how its face is cut out.

    Attributes:
        ids: (N,) unique names, under which crops are stored.
        files: (N,) paths of image files or videos.
        places: (N,) index of the frame in its video from 0; -1 for an image file.
        aligner: makes the crops and keeps them.
        landmarks: gives what reads the dataset's own (68, 2) landmarks of a sample, None where
            it has none.
    """

    ids: NDArray[np.str_]
    files: NDArray[np.str_]
    places: NDArray[np.int64]
    aligner: Aligner
    landmarks: Landmarks | None = None

    def notes(self) -> dict[str, Any]:
        """Return how faces are cropped, for a result."""
        return {"crop": self.aligner.settings()}

    def crop(self) -> Crop | None:
        """Return how faces are cut out, None where pictures are taken as they are."""
        return None if self.aligner.method == "none" else self.aligner.crop

    def load(self, index: int) -> Loaded:
        """Return a sample's crop, from disk if it was made before.

        Raises:
            DataError: the frame cannot be read, or no face is found in it.
        """
        return self._crop(index, lambda: self._read(index))

    def prepare(self) -> dict[str, Any]:
        """Make the crops that are not there yet, in one pass over each video or folder.

        A frame that fails stays without; :meth:`load` says why.

        Returns:
            For a result, ``crops``: how many there are by each method, for how many frames that
            ``failed``, and how many are ``missing`` since something could not be read. Nothing
            where no crops are kept.
        """
        if self.aligner.method == "none" or self.aligner.cache is None:
            return {}
        groups: dict[Path, list[int]] = defaultdict(list)
        made = self._made()
        for index in [index for index, state in enumerate(made) if state == "missing"]:
            file = Path(str(self.files[index]))
            groups[file if self.places[index] >= 0 else file.parent].append(index)
        for source, some in track(groups.items(), "cropping faces", disable=not groups):
            if self.places[some[0]] >= 0:
                self._crop_video(source, {int(self.places[index]): index for index in some})
            else:
                for index in some:
                    with suppress(DataError):
                        self.load(index)
        count = Counter(self._made() if groups else made)
        states = ("landmarks", "finder", "failed", "missing")
        return {"crops": {state: count[state] for state in states}}

    def _made(self) -> list[str]:
        """Return what there is of each sample, see :meth:`.Aligner.made`."""
        own = [bool(self.landmarks and self.landmarks(i)) for i in range(len(self.ids))]
        return list(self.aligner.made(dict(zip(self.ids.tolist(), own, strict=True))).values())

    def _crop_video(self, video: Path, index_of: Mapping[int, int]) -> None:
        with suppress(DataError), open_video(video) as source:
            for place, frame in source.frames(sorted(index_of)):
                with suppress(DataError):
                    self._crop(index_of[place], lambda frame=frame: frame)  # type: ignore[misc]

    def _crop(self, index: int, image: Callable[[], NDArray[np.uint8]]) -> Loaded:
        read = self.landmarks(index) if self.landmarks else None
        points = cache(read) if read else None  # not read at all where the crop is there

        def checked() -> NDArray[np.uint8]:
            frame = image()
            if points is not None:
                check_inside(str(self.files[index]), points(), frame)
            return frame

        found = self.aligner(str(self.ids[index]), checked, points)
        return Loaded(found.image, found.landmarks)

    def _read(self, index: int) -> NDArray[np.uint8]:
        file, place = Path(str(self.files[index])), int(self.places[index])
        return read_image(file) if place < 0 else read_frames(file, indices=[place])[0]


class FrameDataset(FaceDataset):
    """A dataset of labelled frames of recordings.

    Args:
        schema: see :class:`.FaceDataset`.
        samples: likewise.
        table: of the samples, from :func:`locate_all`.
        aligner: makes the crops and keeps them.
        landmarks: as in :class:`Frames`.
        root: as in :class:`.FaceDataset`.
        left_out: likewise.
        folds: likewise.
        notes: likewise; what is told of the frames and their crops is added.

    Attributes:
        frames: where the samples lie, and how faces are cut out.
    """

    def __init__(
        self,
        schema: LabelSchema,
        samples: Samples,
        table: pd.DataFrame,
        aligner: Aligner,
        *,
        landmarks: Landmarks | None = None,
        root: Path,
        left_out: dict[str, int],
        folds: dict[str, tuple[str, ...]] | None = None,
        notes: dict[str, Any],
    ) -> None:
        self.frames = Frames(
            ids=samples.id,
            files=table["file"].to_numpy(str),
            places=table["place"].to_numpy(np.int64),
            aligner=aligner,
            landmarks=landmarks,
        )
        super().__init__(
            schema,
            samples,
            root=root,
            left_out=left_out,
            folds=folds,
            crop=self.frames.crop(),
            notes={"frames": len(samples), **notes, **self.frames.notes()},
        )

    def path(self, index: int) -> Path:
        """Return the image file or the video behind a sample."""
        return Path(str(self.frames.files[index]))

    def load(self, index: int) -> Loaded:
        """Return the crop of one frame; see :meth:`FaceDataset.load`."""
        return self.frames.load(index)

    def prepare(self) -> None:
        """Make all crops and note how many; see :meth:`FaceDataset.prepare`."""
        self.notes |= self.frames.prepare()


def find_folder(root: Path, names: Iterable[str]) -> Path | None:
    """Return the first folder in ``root`` with one of the names, whatever their case."""
    inside = {p.name.lower(): p for p in entries(root)} if root.is_dir() else {}
    return next((inside[n.lower()] for n in names if n.lower() in inside), None)


def named_folders(root: Path, pattern: str) -> dict[str, Path]:
    """Return the folders in ``root`` whose upper-case name matches, by that name, in order."""
    folders = {path.name.upper(): path for path in entries(root) if path.is_dir()}
    return {name: folders[name] for name in sorted(folders) if re.fullmatch(pattern, name)}


def numbered_files(
    folder: Path, suffixes: Sequence[str] = IMAGE_SUFFIXES, pattern: str = r"(\d+)$"
) -> dict[int, Path]:
    """Return the files of a folder by the number in their name, however it is padded.

    Args:
        folder: where to look.
        suffixes: lower-case endings that count.
        pattern: finds the number in the name without its ending.

    Raises:
        DataError: two files have one number.
    """
    found: dict[int, Path] = {}
    for file in entries(folder):
        match = re.search(pattern, file.stem)
        if match is None or file.suffix.lower() not in suffixes:
            continue
        number = int(match[1])
        if number in found:
            raise DataError(f"{folder}: {found[number].name} and {file.name} have one number")
        found[number] = file
    return found


def locate(
    labels: pd.DataFrame, source: Path | Mapping[int, Path] | None, left_out: Counter[str]
) -> pd.DataFrame:
    """Add ``file`` and ``place`` to one recording's labels; count and drop what has no partner.

    Args:
        labels: a column for each AU, NaN unknown; the index counts frames as labels do.
        source: the recording's video, whose first frame is label frame 1, or its images by label
            frame; None if it has neither.
        left_out: reason to count, added to.

    Raises:
        DataError: there is a label for a frame before the first of a video.
    """
    if source is None:
        left_out["labels without a video or frames"] += len(labels)
        return labels.iloc[:0].assign(file="", place=-1)
    known = labels[labels.notna().any(axis=1)]
    if isinstance(source, Path):
        if labels.index.min() < 1:
            raise DataError(
                f"{source}: there is a label for frame {labels.index.min()}, but the first frame "
                "of a video is number 1: number the labels from 1"
            )
        left_out["frames without a label"] += len(labels) - len(known)
        return known.assign(file=str(source), place=known.index - 1)
    there = known.index.isin(list(source))
    left_out["labels without a frame"] += int((~there).sum())
    left_out["frames without a label"] += len(set(source) - set(known.index))
    known = known[there]
    return known.assign(file=[str(source[frame]) for frame in known.index], place=-1)


def locate_all(
    labels: Mapping[str, pd.DataFrame],
    sources: Mapping[str, Path | Mapping[int, Path]],
    every: int,
) -> tuple[pd.DataFrame, dict[str, int]]:
    """Return the labelled frames of all recordings in one table, and what was left out and why.

    Args:
        labels: of each recording, see :func:`locate`.
        sources: likewise.
        every: take every n-th frame: those whose number it divides.

    Returns:
        What :func:`locate` gives, with ``recording`` and the unique ``id`` of each frame; and
        reasons with how many they concern.
    """
    left_out: Counter[str] = Counter()
    tables = [
        locate(table, sources.get(name), left_out).assign(recording=name)
        for name, table in labels.items()
    ]
    left_out["recordings without labels"] = len(set(sources) - set(labels))
    table = pd.concat(tables)
    table = table[table.index % every == 0]
    ids = [f"{name}/{number:05d}" for number, name in table["recording"].items()]
    return table.assign(id=ids), {reason: count for reason, count in left_out.items() if count}


def check_labels(values: NDArray[np.float64], most: float, file: Path) -> NDArray[np.float32]:
    """Return labels with NaN for unknown ones.

    Args:
        values: as read.
        most: the largest value that makes sense.
        file: where they come from.

    Raises:
        DataError: a label lies outside of 0 to ``most`` and is no code for an unknown one.
    """
    values = np.where(np.isin(values, UNKNOWN), np.nan, values)
    wrong = values[(values < 0) | (values > most) | ((most == 1) & (values % 1 > 0))]
    if len(wrong):
        raise DataError(
            f"{file}: the label {wrong[0]:g} is none of 0 to {most:g} and no code for an unknown "
            f"label ({', '.join(map(str, UNKNOWN))})"
        )
    return values.astype(np.float32)
