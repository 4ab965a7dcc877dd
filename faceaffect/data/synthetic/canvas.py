"""A picture that can be painted on: anti-aliased shapes with opacity, over OpenCV."""

from functools import lru_cache
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from faceaffect.data.synthetic.geometry import Array, View
from faceaffect.data.synthetic.identity import Identity
from faceaffect.data.synthetic.scene import Scene

Image = npt.NDArray[np.uint8]
_SHIFT = 4


def fixed(points: Array) -> npt.NDArray[np.int32]:
    """Pixels as the fixed-point integers that OpenCV takes for sub-pixel drawing."""
    return np.rint(points * (1 << _SHIFT)).astype(np.int32)


def rgb(colour: Any) -> list[float]:
    """A colour as the plain numbers that OpenCV takes."""
    numbers: list[float] = np.asarray(colour, np.float64).tolist()
    return numbers


class Canvas:
    """A square RGB image and the size of the face on it.

    Attributes:
        image: (S, S, 3), painted in place.
        unit: pixels per face unit.
        pen: width in pixels of a line that is one pixel wide on a 112 px face.
    """

    def __init__(self, image: Image, unit: float) -> None:
        self.image = image
        self.unit = unit
        self.pen = image.shape[0] / 112

    def box(self, points: Array, margin: float = 2) -> tuple[slice, slice] | None:
        """Rows and columns of the image that hold the points, None if all lie outside."""
        height, width = self.image.shape[:2]
        x, y, w, h = cv2.boundingRect(np.asarray(points, np.float32))
        edge = int(margin) + 1
        left, top = max(x - edge, 0), max(y - edge, 0)
        right, bottom = min(x + w + edge, width), min(y + h + edge, height)
        return (slice(top, bottom), slice(left, right)) if left < right and top < bottom else None

    def fill(self, polygon: Array, colour: Any, opacity: float = 1.0, blur: float = 0.0) -> None:
        """Fill a polygon (K, 2); `blur` softens its edge, in pixels."""
        if opacity >= 1 and not blur:
            cv2.fillPoly(self.image, [fixed(polygon)], rgb(colour), cv2.LINE_AA, _SHIFT)
            return
        box = self.box(polygon, 2 + 2 * blur)
        if box is None:
            return
        patch = self.image[box]
        # OpenCV counts the offset in the same fixed point as the polygon.
        ring, corner = [fixed(polygon)], (-box[1].start << _SHIFT, -box[0].start << _SHIFT)
        if not blur:
            over = patch.copy()
            cv2.fillPoly(over, ring, rgb(colour), cv2.LINE_AA, _SHIFT, corner)
            cv2.addWeighted(over, opacity, patch, 1 - opacity, 0, dst=patch)
            return
        mask = np.zeros(patch.shape, np.uint8)
        cv2.fillPoly(mask, ring, [255.0 * opacity] * 3, cv2.LINE_AA, _SHIFT, corner)
        mask = np.asarray(cv2.GaussianBlur(mask, (0, 0), blur), np.uint8)
        over = np.empty_like(patch)
        over[...] = np.clip(colour, 0, 255)
        cv2.multiply(over, mask, dst=over, scale=1 / 255)
        cv2.multiply(patch, cv2.bitwise_not(mask), dst=patch, scale=1 / 255)
        cv2.add(patch, over, dst=patch)

    def line(self, points: Array, colour: Any, width: float, opacity: float = 1.0) -> None:
        """A polyline through points (K, 2), `width` in pens."""
        thick = max(1, round(width * self.pen))
        if opacity >= 1:
            cv2.polylines(
                self.image, [fixed(points)], False, rgb(colour), thick, cv2.LINE_AA, _SHIFT
            )
            return
        box = self.box(points, thick + 1)
        if box is None:
            return
        patch = self.image[box]
        over = patch.copy()
        corner = np.array([box[1].start, box[0].start], np.float32)
        cv2.polylines(
            over, [fixed(points - corner)], False, rgb(colour), thick, cv2.LINE_AA, _SHIFT
        )
        cv2.addWeighted(over, opacity, patch, 1 - opacity, 0, dst=patch)

    def clip(self, polygon: Array, painted: Image, box: tuple[slice, slice]) -> None:
        """Copy `painted`, which has the size of `box`, into the image where `polygon` covers it."""
        mask = np.zeros(painted.shape[:2], np.uint8)
        corner = np.array([box[1].start, box[0].start], np.float32)
        cv2.fillPoly(mask, [fixed(polygon - corner)], 255.0, cv2.LINE_8, _SHIFT)
        patch = self.image[box]
        cv2.copyTo(painted, mask, patch)


def ellipse(
    centre: Array, radii: tuple[float, float], angle: float = 0.0, points: int = 18
) -> Array:
    """A polygon (points, 2) around `centre`; `angle` in radians, clockwise on the image."""
    c, s = np.cos(angle), np.sin(angle)
    axes = np.array([[c, s], [-s, c]]) * np.array([[radii[0]], [radii[1]]])
    return np.asarray(circle(points) @ axes + centre, np.float32)


@lru_cache(maxsize=16)
def circle(points: int) -> Array:
    """(points, 2) on the unit circle."""
    t = np.linspace(0, 2 * np.pi, points, endpoint=False)
    return np.stack([np.cos(t), np.sin(t)], 1).astype(np.float32)


class Face(NamedTuple):
    """What every brush needs: where to paint, whom, when, and the pixels of all points.

    Attributes:
        canvas: the picture.
        person: who is painted.
        scene: actions and circumstances.
        flat: (N + M + S, 2) pixels of the named points, the marks and the spots.
        seen: the view that `flat` was projected by.
        light: brightness of what has no relief of its own, around 1.
    """

    canvas: Canvas
    person: Identity
    scene: Scene
    flat: Array
    seen: View
    light: float
