"""A picture that can be painted on: anti-aliased shapes with opacity, over OpenCV."""

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
        mask = np.zeros(patch.shape[:2], np.uint8)
        cv2.fillPoly(mask, ring, 255.0 * opacity, cv2.LINE_AA, _SHIFT, corner)
        soft = np.asarray(cv2.GaussianBlur(mask, (0, 0), blur), np.uint8)
        self.blend(box, np.array(colour, np.float32), soft)

    def blend(self, box: tuple[slice, slice], colour: Array, mask: Image) -> None:
        """Mix a colour (3,) into a box of the image, `mask` 0 to 255 the opacity."""
        patch = self.image[box]
        weight = mask[..., None].astype(np.float32) / 255
        patch[...] = patch + weight * (colour - patch) + 0.5

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
    t = np.linspace(0, 2 * np.pi, points, endpoint=False, dtype=np.float32)
    x, y = radii[0] * np.cos(t), radii[1] * np.sin(t)
    c, s = np.cos(angle), np.sin(angle)
    return np.stack([c * x - s * y, s * x + c * y], 1).astype(np.float32) + centre


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
