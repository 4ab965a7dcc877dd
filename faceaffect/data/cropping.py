"""The faces of a dataset's pictures and clips, cropped by an aligner."""

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress

import numpy as np
from numpy.typing import NDArray
from rich.progress import track

from faceaffect.data.align import Aligned, Aligner
from faceaffect.errors import DataError


def crop_one(
    aligner: Aligner,
    name: str,
    read: Callable[[], NDArray[np.uint8]],
    points: NDArray[np.float32] | None = None,
) -> Aligned:
    """Return the face of a picture or of every frame of a clip that shows one.

    Args:
        aligner: cuts it out.
        name: of the picture or clip.
        read: returns (H, W, 3) or (T, H, W, 3) uint8 RGB.
        points: (68, 2) landmarks of a picture in its pixels, where the dataset has them.

    Raises:
        DataError: it cannot be read, or shows no face.
    """
    clip: list[NDArray[np.uint8]] = []

    def picture() -> NDArray[np.uint8]:
        pixels = read()
        if pixels.ndim == 4:
            clip.extend(pixels)
            raise _IsClip
        if points is not None:
            check_inside(name, points, pixels)
        return pixels

    try:
        return aligner(name, picture, points)
    except _IsClip:
        return _crop_clip(aligner, name, clip)


def check_inside(name: str, points: NDArray[np.float32], picture: NDArray[np.uint8]) -> None:
    """Raise a DataError where landmarks of a dataset are not those of a picture."""
    if (points > np.array(picture.shape[1::-1]) * 1.5).any():
        raise DataError(
            f"{name}: the dataset's landmarks lie outside of the image; frames that are cropped "
            "already need data.align: none"
        )


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
    aligner: Aligner,
    names: Sequence[str],
    load: Callable[[int], object],
    own: NDArray[np.bool_] | None = None,
) -> dict[str, int]:
    """Make the crops of samples that are not there yet, and count them.

    Args:
        aligner: with a cache.
        names: ids of the samples.
        load: makes the crop of one, or raises a DataError.
        own: (N,) whether the dataset has landmarks of each; None where it has none at all.

    Returns:
        how many samples have a crop (by ``finder``, or by the dataset's own ``landmarks``), none
        (``failed``), or could not be read (``missing``).
    """
    if aligner.cache is None:
        return {}
    state = _states(aligner, names, own)
    todo = [index for index, name in enumerate(names) if state[name] == "missing"]
    for index in track(todo, "cropping faces", disable=not todo):
        with suppress(DataError, OSError):
            load(index)
    count = Counter((_states(aligner, names, own) if todo else state).values())
    ways = ("finder",) if own is None else ("landmarks", "finder")
    return {name: count[name] for name in (*ways, "failed", "missing")}


def _states(
    aligner: Aligner, names: Sequence[str], own: NDArray[np.bool_] | None
) -> dict[str, str]:
    """Return what there is of each sample; of a clip, of its first frame."""
    flags = [False] * len(names) if own is None else own.tolist()
    pictures = aligner.made(dict(zip(names, flags, strict=True)))
    first = aligner.made({_frame_name(name, 0): False for name in names})
    return {
        name: state if state != "missing" else first[_frame_name(name, 0)]
        for name, state in pictures.items()
    }
