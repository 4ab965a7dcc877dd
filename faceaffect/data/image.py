"""Reading image files and bringing them to the size of a batch."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from faceaffect.errors import DataError

# A file that cannot be read is reported by us, once and with its name.
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)

_JPEG, _JPEG_SCAN, _JPEG_END = b"\xff\xd8", b"\xff\xda", b"\xff\xd9"


def read_image(path: Path) -> NDArray[np.uint8]:
    """Read an image file of any common format.

    Grey images get three equal channels, 16 bits become 8, transparency is dropped, and the
    orientation that a camera noted is applied.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        DataError: the file is missing, empty, truncated or no image.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from None
    if not data:
        raise DataError(f"{path}: the file is empty")
    if data.startswith(_JPEG) and data.find(_JPEG_END, data.rfind(_JPEG_SCAN)) < 0:
        # Older OpenCV fills the missing part with grey and says nothing.
        raise DataError(f"{path}: the image is truncated")
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
    except cv2.error as error:
        raise DataError(f"{path}: not readable as an image: {error.err}") from None
    if image is None:
        raise DataError(f"{path}: not readable as an image (truncated, damaged or another format)")
    return image  # type: ignore[return-value]


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
