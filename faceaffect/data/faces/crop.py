"""One way to cut a face out of a picture, with settings that travel with the model.

An upright crop follows only points that an expression does not move (corners of the eyes, bridge
and base of the nose; of five points the eyes and the nose), so a raised brow or an open jaw moves
within the crop instead of moving the crop.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal, get_args

import cv2
import numpy as np
from numpy.typing import NDArray

from faceaffect.data.faces.finder import Face, Frame, Points
from faceaffect.errors import CheckpointError, DataError, RecipeError, unknown

Kind = Literal["landmarks", "tight", "none"]

# iBUG index to (x, y): the origin between the eyes, the unit their outer corners' distance, y down.
# Ours, from mean adult face proportions: inner corners at 0.19, base of the nose half a unit down.
_TEMPLATE = {
    36: (-0.50, 0.00), 39: (-0.19, 0.01), 42: (0.19, 0.01), 45: (0.50, 0.00),
    27: (0.00, -0.03), 28: (0.00, 0.10), 29: (0.00, 0.24), 30: (0.00, 0.38), 33: (0.00, 0.50),
}  # fmt: skip
_TEMPLATE_OF_FIVE = {0: (-0.345, 0.005), 1: (0.345, 0.005), 2: (0.00, 0.38)}  # pupils, nose


@dataclass(frozen=True)
class Crop:
    """How faces are cut out.

    Args:
        kind: ``landmarks`` turns a face upright and scales it by its points; ``tight`` takes a
            square around its box; ``none`` is for pictures that were cropped elsewhere, and then
            ``eye_span`` and ``eye_line`` are what was seen in them, so that a whole photo can be
            cut in the same way.
        size: side of a crop in pixels.
        eye_span: distance of the outer corners of the eyes as a part of the side; less shows more
            around the face.
        eye_line: height of the eyes in the crop, as a part of the side, from above.
        margin: of a tight crop: what is added on each side, as a part of the box.

    Raises:
        RecipeError: a value is out of range.
    """

    kind: Kind = "landmarks"
    size: int = 256
    eye_span: float = 0.4
    eye_line: float = 0.36
    margin: float = 0.1

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.kind not in get_args(Kind):
            raise RecipeError(unknown("crop.kind", str(self.kind), get_args(Kind)))
        ranges = {"size": (8, 4096), "eye_span": (0.02, 1), "eye_line": (0, 1), "margin": (-0.4, 4)}
        for name, (low, high) in ranges.items():
            value = getattr(self, name)
            if not low <= value <= high:
                raise RecipeError(f"crop.{name}: {value} is not between {low} and {high}")

    def to_dict(self) -> dict[str, Any]:
        """Return plain Python, as it lies in checkpoints and results."""
        return asdict(self)

    def landing(self) -> list[list[float]]:
        """Return where points of a face come to lie in a crop, (x, y) in its pixels.

        Of an upright crop the middles of the two eyes (the left of the picture first) and the tip
        of the nose; of a tight one the upper left and lower right corner of the square around the
        face's box. Pixel centres lie at whole numbers.
        """
        if self.kind == "tight":
            edge = self.size * self.margin / (1 + 2 * self.margin)
            return [[edge - 0.5] * 2, [self.size - edge - 0.5] * 2]
        unit, middle = self.eye_span * self.size, _middle(self.size, self.eye_line)
        points = [unit * complex(*point) + middle for point in _TEMPLATE_OF_FIVE.values()]
        return [[point.real, point.imag] for point in points]

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> "Crop":
        """Read what :meth:`to_dict` wrote; an absent field takes its default.

        Raises:
            CheckpointError: a field is unknown or makes no sense.
        """
        try:
            extra = {str(key) for key in dict(plain)} - {field.name for field in fields(cls)}
            if extra:
                raise CheckpointError(f"crop: unknown field {', '.join(sorted(extra))}")
            return cls(**plain)
        except (TypeError, ValueError, RecipeError) as error:
            raise CheckpointError(f"the checkpoint's crop makes no sense: {error}") from None


def cut(image: Frame, face: Face, crop: Crop) -> tuple[Frame, Points | None]:
    """Cut a face out; what lies outside the picture is black.

    A face without points is cut out by its box.

    Args:
        image: (H, W, 3) uint8.
        face: a face of it.
        crop: how.

    Returns:
        the (size, size, 3) crop, and the face's points in its pixels, float32.

    Raises:
        DataError: no crop can be made of this face.
    """
    if crop.kind == "tight" or face.points is None:
        matrix = box_matrix(face.box, crop.size, crop.margin)
    else:
        matrix = similarity_matrix(
            face.points, crop.size, eye_span=crop.eye_span, eye_line=crop.eye_line
        )
    moved = None if face.points is None else face.points @ matrix[:, :2].T + matrix[:, 2]
    return _warp(image, matrix, crop.size), None if moved is None else moved.astype(np.float32)


def crop_for(trained: Crop | None, size: int) -> Crop:
    """Return how to cut faces for a model out of whole photos.

    Args:
        trained: how those were cut out that it was trained on; None where not known.
        size: side of the faces that it was trained on.
    """
    if trained is None:
        return Crop(size=size)
    return replace(trained, kind="landmarks") if trained.kind == "none" else trained


def box_matrix(
    box: tuple[float, float, float, float], size: int, margin: float
) -> NDArray[np.float64]:
    """Return the (2, 3) matrix that takes picture pixels to those of a square around a box.

    Raises:
        DataError: the box is empty or not finite.
    """
    x, y, width, height = box
    side = max(width, height) * (1 + 2 * margin)
    if not np.isfinite(box).all() or side < 1:
        raise DataError(f"the face's box {box} holds no picture")
    scale = size / side
    left, top = x + width / 2 - side / 2, y + height / 2 - side / 2
    # Edges lie half a pixel before centres.
    return np.array(
        [[scale, 0, -left * scale + scale / 2 - 0.5], [0, scale, -top * scale + scale / 2 - 0.5]]
    )


def similarity_matrix(
    points: NDArray[Any], size: int, *, eye_span: float = 0.4, eye_line: float = 0.36
) -> NDArray[np.float64]:
    """Return the (2, 3) matrix that takes picture pixels to pixels of an upright crop.

    Least squares over shift, scale and rotation (Umeyama 1991; in the plane, a quotient of complex
    numbers), from the stable points to the template.

    Args:
        points: (68, 2) pixels in iBUG order, or (5, 2) as in :class:`.Face`.
        size: side of the crop in pixels.
        eye_span: as in :class:`Crop`.
        eye_line: as in :class:`Crop`.

    Raises:
        DataError: the points are not finite or all in one place.
    """
    template = {(68, 2): _TEMPLATE, (5, 2): _TEMPLATE_OF_FIVE}.get(points.shape)
    if template is None:
        raise DataError(f"5 or 68 landmarks (68, 2) are needed, not {points.shape}")
    stable = np.asarray(points, dtype=np.float64)[list(template)]
    if not np.isfinite(stable).all():
        raise DataError("the landmarks are not finite")
    source = stable @ [1, 1j]
    middle = _middle(size, eye_line)
    goal = np.array(list(template.values())) @ [1, 1j] * (eye_span * size) + middle
    centred = source - source.mean()
    spread = (abs(centred) ** 2).sum()
    if spread < 1:
        raise DataError("the landmarks lie all in one place")
    turn = (centred.conj() * (goal - goal.mean())).sum() / spread
    shift = goal.mean() - turn * source.mean()
    return np.array([[turn.real, -turn.imag, shift.real], [turn.imag, turn.real, shift.imag]])


def _middle(size: int, eye_line: float) -> complex:
    """Return the place between the eyes in a crop; pixel centres lie at whole numbers."""
    return (0.5 + eye_line * 1j) * size - (0.5 + 0.5j)


def _warp(image: Frame, matrix: NDArray[np.float64], size: int) -> Frame:
    """Return the (size, size, 3) picture that a matrix cuts out."""
    shrink = int(1 / max(np.hypot(*matrix[:, 0]), 1e-3))
    if shrink >= 2:  # a warp samples single pixels: average first
        image, matrix = _around(image, matrix, size)
        height, width = image.shape[:2]
        small = (max(1, round(width / shrink)), max(1, round(height / shrink)))
        image = np.asarray(cv2.resize(image, small, interpolation=cv2.INTER_AREA), dtype=np.uint8)
        ratio = np.array([width / small[0], height / small[1]])
        matrix = np.column_stack(
            [matrix[:, :2] * ratio, matrix[:, 2] + matrix[:, :2] @ (0.5 * ratio - 0.5)]
        )
    out = cv2.warpAffine(image, matrix, (size, size), flags=cv2.INTER_LINEAR)
    return np.asarray(out, dtype=np.uint8)


def _around(
    image: Frame, matrix: NDArray[np.float64], size: int
) -> tuple[Frame, NDArray[np.float64]]:
    """Return the part of a picture that a crop sees, so that only this is averaged."""
    corners = np.array([[-1, -1], [size, -1], [-1, size], [size, size]]) - matrix[:, 2]
    seen = corners @ np.linalg.inv(matrix[:, :2]).T
    edge = np.array(image.shape[1::-1])
    margin = np.ptp(seen, 0) * 0.02 + 2
    low = np.clip(np.floor(seen.min(0) - margin), 0, edge - 1).astype(int)
    high = np.clip(np.ceil(seen.max(0) + margin) + 1, low + 1, edge).astype(int)
    part = image[low[1] : high[1], low[0] : high[0]]
    return part, np.column_stack([matrix[:, :2], matrix[:, 2] + matrix[:, :2] @ low])


# What ready crops look like.


def seen_in(points: NDArray[Any], shape: tuple[int, ...]) -> tuple[float, float] | None:
    """Return where a face lies in a picture that is a crop already.

    Args:
        points: as for :func:`similarity_matrix`.
        shape: of the picture.

    Returns:
        ``eye_span`` and ``eye_line`` of :class:`Crop`, after the picture is stretched to a square;
        None where the points are of no use.
    """
    try:
        matrix = similarity_matrix(points, 1, eye_span=1.0, eye_line=0.0)
    except DataError:
        return None
    scale = 1 / np.hypot(*matrix[:, 0])  # pixels between the outer corners of the eyes
    between = np.linalg.solve(matrix[:, :2], [0.0, -0.5] - matrix[:, 2])
    return float(scale / shape[1]), float((between[1] + 0.5) / shape[0])
