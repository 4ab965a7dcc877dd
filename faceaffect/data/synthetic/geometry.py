"""The face as 3D points: how they are numbered, moved and projected to pixels.

Coordinates are those of `anatomy`. Displacements scale linearly with intensity, except for the
eyelids and the gap between the lips, which `deform` solves so that they can close but never cross.
"""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.interpolate import CubicSpline

from faceaffect.data.synthetic.anatomy import ACTIONS, CENTRE, HALF, SHAPES, Field
from faceaffect.data.synthetic.facs import AUS, COLUMN

Array = npt.NDArray[np.float32]

_NAMES: Final = (*CENTRE, *(f"{n}:r" for n in HALF), *(f"{n}:l" for n in HALF))
INDEX: Final[Mapping[str, int]] = {name: i for i, name in enumerate(_NAMES)}
MIRROR: Final = np.array([1.0, -1.0], np.float32)
"""Sign of x on the right and on the left half of the image: the order of sides everywhere."""


def at(*names: str, side: int | None = None) -> list[int]:
    """Rows of the named points; points of the half need `side` (0 right of the image, 1 left)."""
    ends = (":r", ":l")
    return [INDEX[n] if n in CENTRE else INDEX[n + ends[side or 0]] for n in names]


def both_halves(centre: Any, half: Any) -> Array:
    """Stack midline points (C, 3), half points (H, 3) and their mirror images into (C + 2H, 3)."""
    centre = np.asarray(centre, np.float32).reshape(-1, 3)
    half = np.asarray(half, np.float32).reshape(-1, 3)
    return np.concatenate([centre, half, half * np.array([-1, 1, 1], np.float32)])


TEMPLATE: Final = both_halves(list(CENTRE.values()), list(HALF.values()))


def _field(displacements: Field, sides: tuple[int, ...]) -> Array:
    """One displacement table as (N, 3); midline points take their share of each side."""
    out = np.zeros_like(TEMPLATE)
    for name, (dx, dy, dz) in displacements.items():
        if name in CENTRE:
            out[INDEX[name]] = np.array([0.0, dy, dz]) * len(sides) / 2
            continue
        for side in sides:
            out[at(name, side=side)[0]] = (dx * MIRROR[side], dy, dz)
    return out


SHAPE_FIELDS: Final = np.stack([_field(SHAPES[name], (0, 1)) for name in SHAPES])
"""(shapes, N, 3): how people differ, one standard deviation each."""

ACTION_FIELDS: Final = np.stack(
    [[_field(ACTIONS.get(au, {}), (side,)) for au in AUS] for side in (0, 1)]
)
"""(2 sides, AUs, N, 3): what each action unit moves at intensity 5."""


def attach(points: Array, sigma: float = 0.13) -> Array:
    """Weights (M, N) by which further points (M, 3) follow the displacements of the named ones.

    A Gaussian of the distance in the image plane, so that a wrinkle moves with the skin that it
    lies on.
    """
    squared = ((points[:, None, :2] - TEMPLATE[None, :, :2]) ** 2).sum(-1)
    weight = np.exp(-0.5 * squared / sigma**2)
    # The constant keeps points far from any landmark still.
    return np.asarray(weight / (weight.sum(1, keepdims=True) + 0.25), np.float32)


_EYE = [
    np.array([at("eye_in", "eye_u1", "eye_u2", "eye_out", "eye_d2", "eye_d1", side=s)]).ravel()
    for s in (0, 1)
]
_SEAM_UP = np.array([at("in_up1", side=1)[0], INDEX["in_up0"], at("in_up1", side=0)[0]])
_SEAM_LOW = np.array([at("in_low1", side=1)[0], INDEX["in_low0"], at("in_low1", side=0)[0]])
_LIP_UP = np.array([at("lip_up1", side=1)[0], INDEX["lip_up0"], at("lip_up1", side=0)[0]])
_LIP_LOW = np.array([at("lip_low1", side=1)[0], INDEX["lip_low0"], at("lip_low1", side=0)[0]])
_LIP_SIDE = np.array(at("lip_low2", side=1) + at("lip_low2", side=0))


def deform(points: Array, amount: Array) -> None:
    """Close or open eyelids and lips in place, after the linear displacements have been added.

    Args:
        points: (>= N, 3), the named points first.
        amount: (2, AUs), intensity / 5 on each side.
    """
    for side in (0, 1):
        _lids(points, _EYE[side], amount[side])
    _lips(points, amount.mean(0))


def _lids(points: Array, eye: npt.NDArray[np.int_], amount: Array) -> None:
    a5, a6, a7, a9, a12, a43 = (float(amount[COLUMN[au]]) for au in (5, 6, 7, 9, 12, 43))
    y = points[eye, 1]
    line = 0.5 * (y[0] + y[3])
    low = (y[4:6] - line) * max(0.12, 1 - 0.52 * a7 - 0.40 * a6 - 0.12 * a12)
    # AU5 bares the white above the iris, also in an eye that is narrow at rest.
    high = (y[1:3] - line) * (1 + 0.30 * a5 - 0.30 * a7 - 0.08 * a6 - 0.15 * a9) - 0.055 * a5
    high = np.minimum(high, low[::-1] - 0.012)
    shut = min(1.0, a43**0.65)
    low = low + 0.3 * shut * (0.03 - low)
    points[eye[1:3], 1] = line + high + shut * (low[::-1] - high)
    points[eye[4:6], 1] = line + low


def _lips(points: Array, amount: Array) -> None:
    a10, a12, a25, a26 = (float(amount[COLUMN[au]]) for au in (10, 12, 25, 26))
    gap = a25 * (0.09 + 0.05 * a12 + 0.03 * a10) + 0.24 * a26 * min(1.0, 2.5 * a25)
    profile = np.array([0.85, 1.0, 0.85], np.float32) * gap
    seam = 0.5 * (points[_SEAM_UP, 1] + points[_SEAM_LOW, 1])
    up = 0.3 if a26 < 0.1 else 0.15
    points[_SEAM_UP, 1], points[_SEAM_LOW, 1] = seam - up * profile, seam + (1 - up) * profile
    points[_LIP_UP, 1] -= up * profile
    points[_LIP_LOW, 1] += (1 - up) * profile
    points[_LIP_SIDE, 1] += 0.45 * gap
    # Lips never get thinner than a line.
    points[_LIP_UP, 1] = np.minimum(points[_LIP_UP, 1], points[_SEAM_UP, 1] - 0.018)
    points[_LIP_LOW, 1] = np.maximum(points[_LIP_LOW, 1], points[_SEAM_LOW, 1] + 0.022)


_PIVOT: Final = np.array([0.0, 0.30, 0.0], np.float32)


def rotation(pitch: float, yaw: float, roll: float) -> Array:
    """(3, 3) matrix `Rz(roll) Ry(yaw) Rx(pitch)` of a head pose in radians.

    A positive pitch looks up, a positive yaw to the right of the image, a positive roll tilts the
    head clockwise.
    """
    (cp, sp), (cy, sy), (cr, sr) = ((np.cos(a), np.sin(a)) for a in (pitch, yaw, roll))
    turn = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    nod = np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
    tilt = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])
    return np.asarray(tilt @ turn @ nod, np.float32)


class View(NamedTuple):
    """How the face is seen: rotation, pixels per face unit, where its middle lies, image side."""

    turn: Array
    unit: float
    centre: tuple[float, float]
    size: int

    @property
    def roll(self) -> float:
        """Angle of the eye line on the image, radians, clockwise."""
        return float(np.arctan2(self.turn[1, 0], self.turn[0, 0]))

    @property
    def breadth(self) -> float:
        """What the turn leaves of widths across the face, at most 1."""
        return float(np.hypot(self.turn[0, 0], self.turn[1, 0]))

    def project(self, points: Array) -> Array:
        """Pixels (N, 2) of face points (N, 3), in a mild perspective."""
        rotated = (points - _PIVOT) @ self.turn.T
        depth = self.unit * 9.0 / (9.6 - rotated[:, 2:])
        return np.asarray(rotated[:, :2] * depth + np.array(self.centre), np.float32)


def _landmark_rows() -> list[int]:
    rows = [at(f"jaw{16 - i}", side=1)[0] for i in range(8)] + at("jaw8")
    rows += [at(f"jaw{i}", side=0)[0] for i in range(9, 17)]
    rows += at(*(f"brow{i}" for i in (4, 3, 2, 1, 0)), side=1) + at(
        *(f"brow{i}" for i in range(5)), side=0
    )
    rows += at("bridge0", "bridge1", "bridge2", "tip")
    rows += at("ala", "nostril", side=1) + at("subnasal") + at("nostril", "ala", side=0)
    rows += at("eye_out", "eye_u2", "eye_u1", "eye_in", "eye_d1", "eye_d2", side=1)
    rows += at("eye_in", "eye_u1", "eye_u2", "eye_out", "eye_d2", "eye_d1", side=0)
    rows += (
        at("corner", "lip_up2", "lip_up1", side=1)
        + at("lip_up0")
        + at("lip_up1", "lip_up2", "corner", side=0)
    )
    rows += at("lip_low2", "lip_low1", side=0) + at("lip_low0") + at("lip_low1", "lip_low2", side=1)
    rows += at("in_corner", "in_up1", side=1) + at("in_up0") + at("in_up1", "in_corner", side=0)
    return rows + at("in_low1", side=0) + at("in_low0") + at("in_low1", side=1)


LANDMARKS: Final = np.array(_landmark_rows())
"""Rows of the 68 iBUG landmarks, in their order."""


@lru_cache(maxsize=64)
def spline(knots: int, samples: int, closed: bool = False) -> Array:
    """Matrix (samples, knots) that takes points (knots, 2) to a cubic spline through them."""
    if closed:
        eye = np.concatenate([np.eye(knots), np.eye(knots)[:1]])
        t = np.linspace(0, knots, samples, endpoint=False)
        return np.asarray(CubicSpline(np.arange(knots + 1), eye, bc_type="periodic")(t), np.float32)
    t = np.linspace(0, knots - 1, samples)
    return np.asarray(
        CubicSpline(np.arange(knots), np.eye(knots), bc_type="natural")(t), np.float32
    )
