"""Animated GIF, WebP and AVIF pictures, as if they were videos."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray
from PIL.ImageFile import ImageFile

from faceaffect.data.film import VideoInfo
from faceaffect.data.formats import open_picture, upright
from faceaffect.data.image import fits_limit, read_bytes, resize
from faceaffect.data.moments import evenly
from faceaffect.errors import DataError

Frame = NDArray[np.uint8]

_AT_ONCE, _USUAL = 10, 100
"""Browsers show a frame that is to stand for so few milliseconds, or none, for so many."""


class Animation:
    """An animated picture; its frames are decoded one after the other.

    Args:
        path: the file.
        name: its format.

    Raises:
        DataError: not readable, too large, or of a format for which a library is missing.
    """

    def __init__(self, path: Path, name: str) -> None:
        self.path, self._name = path, name
        self._data = read_bytes(path)
        self._times, self._end = [0], 0
        first: Frame | None = None
        for first, milliseconds in self._decode():  # noqa: B007
            self._end = self._times[-1] + max(milliseconds, 1)
            self._times.append(self._end)
        if first is None:
            raise DataError(f"{path}: none of its frames can be decoded; copy it again")
        self._times.pop()
        height, width = first.shape[:2]
        rate = 1000 * len(self._times) / self._end
        self.info = VideoInfo(len(self._times), rate, width, height)

    def __enter__(self) -> Self:
        """Return the animation."""
        return self

    def __exit__(self, *_: object) -> None:
        """Do nothing: no file is held open."""

    def frames(self, wanted: Iterable[int], size: int | None = None) -> Iterator[tuple[int, Frame]]:
        """Yield (index, (H, W, 3) uint8 RGB) of the wanted frames, best in ascending order."""
        place, decoded = -1, self._decode()
        for index in wanted:
            if index <= place:
                place, decoded = -1, self._decode()
            for image, _ in decoded:
                place += 1
                if place == index:
                    yield index, image if size is None else resize(image, size)
                    break

    def evenly(self, frames: Sequence[int], count: int | None) -> list[int]:
        """Return so many of some frames, evenly in time; see :func:`.moments.evenly`."""
        return evenly(frames, count, self._times, self._end)

    def _decode(self) -> Iterator[tuple[Frame, int]]:
        """Yield each frame and how long it stands, in milliseconds, up to the first damaged one."""
        try:
            picture = open_picture(self._data, self._name, fits_limit(self.path))
        except DataError:
            raise
        except Exception as error:  # a decoder that meets damage raises whatever it likes
            raise DataError(f"{self.path}: not readable as an image: {error}") from None
        for number in count():
            try:
                frame = _frame(picture, number)
            except Exception:  # the end, or damage
                return
            told = int(picture.info.get("duration") or 0)
            yield frame, told if told > _AT_ONCE else _USUAL


def _frame(picture: ImageFile, number: int) -> Frame:
    picture.seek(number)
    picture.load()
    return upright(np.asarray(picture.convert("RGB")), picture)
