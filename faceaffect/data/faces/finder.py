"""What a finder of faces is: pictures in, boxes, scores and points in pixels out."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Frame = NDArray[np.uint8]
Points = NDArray[np.float32]


@dataclass(frozen=True)
class Face:
    """One face in a picture; all in the picture's pixels, whose centres lie at whole numbers.

    Attributes:
        box: x, y, width, height; a face at the border may reach beyond the picture.
        score: how sure the finder is, 0 to 1.
        points: (5, 2) float32: the eye on the left of the picture, that on the right, tip of the
            nose, left and right corner of the mouth; or (68, 2) in iBUG order; None where a finder
            gives none.
    """

    box: tuple[float, float, float, float]
    score: float
    points: Points | None = None


class FaceFinder(Protocol):
    """Finds faces; the names of finders stand in the table ``finders`` of the registry."""

    def find(self, images: Sequence[Frame]) -> list[list[Face]]:
        """Return the faces of each picture, the largest first.

        Args:
            images: (H, W, 3) uint8 RGB, each of its own size.
        """
        ...


def largest(faces: Sequence[Face]) -> Face | None:
    """Return the face with the largest box, None of none."""
    return max(faces, key=lambda face: face.box[2] * face.box[3], default=None)
