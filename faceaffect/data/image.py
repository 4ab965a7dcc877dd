"""Reading image files and bringing them to the size of a batch."""

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from stat import S_ISREG
from typing import Any, BinaryIO

import cv2
import numpy as np
from numpy.typing import NDArray

from faceaffect.data.formats import HEAD, decode, picture_format
from faceaffect.errors import DataError

# A file that cannot be read is reported by us, once and with its name.
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)

MAX_PIXELS = 250_000_000
"""The largest picture that is decoded if nothing else is said; phones make 200 megapixels."""

IMAGE_SIZE = 112
"""Side in pixels of the faces in a batch, unless a recipe or a checkpoint says another."""

_BYTES_A_PIXEL = 0.8
"""A file may have so many bytes for each pixel allowed, and 200 MB in any case."""

_limit: ContextVar[int] = ContextVar("max_pixels", default=MAX_PIXELS)


@contextmanager
def pixel_limit(pixels: int) -> Iterator[None]:
    """Let pictures of at most so many pixels be read within.

    Files may have 200 MB, or more in proportion where more than 250 megapixels are allowed.
    """
    before = _limit.set(pixels)
    try:
        yield
    finally:
        _limit.reset(before)


def max_pixels() -> int:
    """Return of how many pixels the largest picture is that is decoded here."""
    return _limit.get()


def read_image(path: Path) -> NDArray[np.uint8]:
    """Read an image file of any common format, told by its content, not its name.

    Grey images get three equal channels, 16 bits become 8, transparency is dropped, and the
    orientation that a camera noted is applied, as browsers do. What follows the picture in its file
    (the clip of a motion photo) is passed over; of several pictures the first is read.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        DataError: the file is missing, empty, no regular file, too large, truncated, damaged so
            that a decoder would have to invent pixels, no image, or of a format for which a library
            is missing, which is named.
    """
    return decode_image(read_bytes(path), path)


def decode_image(data: bytes, path: Path) -> NDArray[np.uint8]:
    """Decode what an image file holds; see :func:`read_image`.

    Args:
        data: the file's bytes.
        path: what an error calls it.
    """
    name = picture_format(data[:HEAD])
    if name is None:
        raise DataError(f"{path}: not readable as an image (damaged or another format)")
    try:
        return decode(data, name, fits_limit(path))
    except DataError:
        raise
    except Exception as error:  # a decoder that meets damage raises whatever it likes
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{path}: not readable as an image: {name}, {_explain(reason)}") from None


def fits_limit(path: Path) -> Callable[[int, int], None]:
    """Return what raises a DataError about a file for a width and height that are too large."""

    def fits(width: int, height: int) -> None:
        if width * height > _limit.get():
            raise _too_large(path, f"{width} x {height} pixels", width * height)

    return fits


def open_regular(path: Path) -> BinaryIO:
    """Open a file for reading if it is a regular one: a FIFO would hang, a device never end.

    Raises:
        DataError: it is missing, empty or no regular file.
    """
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        file = os.fdopen(os.open(path, flags), "rb")
    except ValueError as error:  # a NUL in the path
        raise DataError(f"{str(path)!r}: no name of a file: {error}") from None
    except OSError as error:
        if path.is_dir():  # which os.fdopen refuses, and Windows' os.open
            raise DataError(f"{path}: is a folder, no file") from None
        raise DataError(f"{path}: {error.strerror or error}") from None
    status = os.fstat(file.fileno())
    if not S_ISREG(status.st_mode) or status.st_size == 0:
        file.close()
        what = "the file is empty" if S_ISREG(status.st_mode) else "no regular file"
        raise DataError(f"{path}: {what}")
    return file


def read_bytes(path: Path) -> bytes:
    """Return what a picture's file holds.

    Raises:
        DataError: it is missing, empty, no regular file or too large.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > _max_bytes():
            raise _too_large(path, f"{size / 1e6:,.0f} MB", int(size / _BYTES_A_PIXEL) + 1)
        try:
            return file.read(size)
        except OSError as error:
            raise DataError(f"{path}: {error.strerror or error}") from None


def _max_bytes() -> float:
    return max(_limit.get(), MAX_PIXELS) * _BYTES_A_PIXEL


def _too_large(path: Path, what: str, needed: int) -> DataError:
    limit = f"{_limit.get() / 1e6:g} megapixels, {_max_bytes() / 1e6:g} MB"
    return DataError(
        f"{path}: {what} are more than is read ({limit}); data.max_pixels={needed} allows it"
    )


def _explain(reason: str) -> str:
    truncated = re.search("premature end|truncated|not enough|unexpected end", reason, re.I)
    return f"the image is truncated ({reason})" if truncated else reason


def as_picture(item: Any) -> NDArray[np.uint8]:
    """Return an array (H, W) or (H, W, 3) of uint8, or a PIL picture, as (H, W, 3) uint8 RGB.

    Raises:
        DataError: it is none.
    """
    image = np.asarray(item.convert("RGB") if hasattr(item, "convert") else item)
    if image.ndim == 2:
        image = np.repeat(image[..., None], 3, axis=2)
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
        raise DataError(
            f"an array of shape {image.shape} and type {image.dtype} is no picture: "
            "(height, width, 3) uint8 RGB is"
        )
    return np.ascontiguousarray(image)


def resize(image: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Return an image or every frame of a clip scaled to a square.

    Shrinking averages over pixels, enlarging interpolates. An image that is not square is
    stretched: a face crop is square or nearly so, and bars would be a foreign shape at its side.

    Args:
        image: (H, W, 3) or (T, H, W, 3) uint8.
        size: side of the result in pixels.

    Returns:
        (size, size, 3) or (T, size, size, 3) uint8; the image itself if it has this size.
    """
    height, width = image.shape[-3:-1]
    if height == width == size:
        return image
    how = cv2.INTER_AREA if min(height, width) >= size else cv2.INTER_LINEAR
    if image.ndim == 3:
        return cv2.resize(image, (size, size), interpolation=how)  # type: ignore[return-value]
    return np.stack([cv2.resize(frame, (size, size), interpolation=how) for frame in image])


def scale_landmarks(landmarks: NDArray[Any], shape: tuple[int, ...], size: int) -> NDArray[Any]:
    """Return landmarks (..., 2) of an image of ``shape`` after :func:`resize`.

    Pixel centres lie at whole numbers, as for OpenCV.
    """
    scale = np.asarray([size / shape[-2], size / shape[-3]], np.float32)
    return (landmarks + 0.5) * scale - 0.5
