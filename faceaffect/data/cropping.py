"""The faces of a dataset's pictures and clips, cropped by an aligner."""

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress

import numpy as np
from numpy.typing import NDArray
from rich.progress import track

from faceaffect.data.align import Aligned, Aligner
from faceaffect.errors import DataError


def crop_one(aligner: Aligner, name: str, read: Callable[[], NDArray[np.uint8]]) -> Aligned:
    """Return the face of a picture or of every frame of a clip that shows one.

    Raises:
        DataError: it cannot be read, or shows no face.
    """
    clip: list[NDArray[np.uint8]] = []

    def picture() -> NDArray[np.uint8]:
        pixels = read()
        if pixels.ndim == 4:
            clip.extend(pixels)
            raise _IsClip
        return pixels

    try:
        return aligner(name, picture)
    except _IsClip:
        return _crop_clip(aligner, name, clip)


class _IsClip(Exception):
    """What was taken for a picture is a clip."""


def _crop_clip(aligner: Aligner, name: str, frames: Sequence[NDArray[np.uint8]]) -> Aligned:
    found, reason = [], ""
    for number, frame in enumerate(frames):
        try:
            found.append(aligner(_frame_name(name, number), frame))
        except DataError as error:
            reason = str(error)
    if not found:
        raise DataError(f"{name}: none of its {len(frames)} frames shows a face ({reason})")
    points = [one.landmarks for one in found if one.landmarks is not None]
    whole = np.stack(points) if len(points) == len(found) else None
    return Aligned(np.stack([one.image for one in found]), whole)


def _frame_name(name: str, number: int) -> str:
    return f"{name}#{number}"


def make_crops(
    aligner: Aligner, names: Sequence[str], load: Callable[[int], object]
) -> dict[str, int]:
    """Make the crops of samples that are not there yet, and count them.

    Args:
        aligner: with a cache.
        names: ids of the samples.
        load: makes the crop of one, or raises a DataError.

    Returns:
        how many samples have a crop (``finder``), none (``failed``), or could not be read
        (``missing``).
    """
    if aligner.cache is None:
        return {}
    state = _states(aligner, names)
    todo = [index for index, name in enumerate(names) if state[name] == "missing"]
    for index in track(todo, "cropping faces", disable=not todo):
        with suppress(DataError, OSError):
            load(index)
    count = Counter((_states(aligner, names) if todo else state).values())
    return {name: count[name] for name in ("finder", "failed", "missing")}


def _states(aligner: Aligner, names: Sequence[str]) -> dict[str, str]:
    """Return what there is of each sample; of a clip, of its first frame."""
    pictures = aligner.made(dict.fromkeys(names, False))
    first = aligner.made({_frame_name(name, 0): False for name in names})
    return {
        name: state if state != "missing" else first[_frame_name(name, 0)]
        for name, state in pictures.items()
    }
