"""The face as 3D points: rest shape, how each action unit moves it, projection to pixels.

Face coordinates: x to the right of the image, y down, z towards the viewer, origin between the eyes; one unit is half
the width of the face. A point of the half x > 0 is mirrored to the other half; points on the midline stand alone.
Displacements are those of an action unit at intensity 5 and scale linearly with intensity, except for the eyelids and
the gap between the lips, which `deform` solves so that they can close but never cross.
"""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from scipy.interpolate import CubicSpline

from faceaffect.data.synthetic.facs import AUS, COLUMN

Array = npt.NDArray[np.float32]
Field = Mapping[str, tuple[float, float, float]]

CENTRE: Final[Field] = {
    "jaw8": (0.0, 1.33, 0.66), "skull0": (0.0, -1.20, 0.05),
    "bridge0": (0.0, -0.02, 0.80), "bridge1": (0.0, 0.14, 0.90), "bridge2": (0.0, 0.30, 1.01),
    "tip": (0.0, 0.44, 1.10), "subnasal": (0.0, 0.565, 0.95),
    "lip_up0": (0.0, 0.775, 0.91), "in_up0": (0.0, 0.845, 0.89), "in_low0": (0.0, 0.845, 0.89),
    "lip_low0": (0.0, 0.955, 0.88), "glabella": (0.0, -0.22, 0.80), "forehead": (0.0, -0.60, 0.66),
}  # fmt: skip
HALF: Final[Field] = {
    "jaw9": (0.20, 1.31, 0.62), "jaw10": (0.40, 1.24, 0.55), "jaw11": (0.58, 1.12, 0.42), "jaw12": (0.74, 0.95, 0.27),
    "jaw13": (0.86, 0.73, 0.14), "jaw14": (0.93, 0.48, 0.05), "jaw15": (0.97, 0.22, 0.0), "jaw16": (0.98, -0.05, -0.05),
    "skull1": (0.97, -0.35, -0.03), "skull2": (0.88, -0.70, 0.0), "skull3": (0.64, -0.99, 0.03),
    "skull4": (0.33, -1.15, 0.05),
    "brow0": (0.17, -0.235, 0.76), "brow1": (0.28, -0.29, 0.75), "brow2": (0.42, -0.315, 0.70),
    "brow3": (0.56, -0.29, 0.60), "brow4": (0.69, -0.225, 0.47),
    "eye_in": (0.245, 0.02, 0.66), "eye_u1": (0.345, -0.075, 0.69), "eye_u2": (0.475, -0.08, 0.66),
    "eye_out": (0.60, 0.0, 0.54), "eye_d2": (0.475, 0.055, 0.64), "eye_d1": (0.345, 0.06, 0.67),
    "ala": (0.17, 0.50, 0.83), "nostril": (0.09, 0.55, 0.91),
    "lip_up1": (0.075, 0.755, 0.90), "lip_up2": (0.20, 0.785, 0.86), "corner": (0.34, 0.845, 0.77),
    "lip_low2": (0.22, 0.915, 0.84), "lip_low1": (0.11, 0.95, 0.87),
    "in_corner": (0.295, 0.845, 0.79), "in_up1": (0.10, 0.84, 0.88), "in_low1": (0.10, 0.847, 0.88),
    "cheek": (0.52, 0.40, 0.62), "cheek_low": (0.55, 0.75, 0.50), "temple": (0.85, -0.10, 0.20),
    "lid_fold": (0.42, -0.16, 0.70), "under_eye": (0.42, 0.17, 0.68), "forehead_side": (0.40, -0.60, 0.58),
    "chin_side": (0.16, 1.10, 0.72),
}  # fmt: skip

# What each action unit does at intensity 5, on one half (dx towards the outside of the face).
ACTIONS: Final[Mapping[int, Field]] = {
    1: {"brow0": (0.0, -0.15, 0.0), "brow1": (0.0, -0.115, 0.0), "brow2": (0.0, -0.04, 0.0),
        "glabella": (0.0, -0.06, 0.0), "forehead": (0.0, -0.05, 0.0)},
    2: {"brow1": (0.0, -0.02, 0.0), "brow2": (0.0, -0.085, 0.0), "brow3": (0.01, -0.155, 0.0),
        "brow4": (0.015, -0.13, 0.0), "lid_fold": (0.02, -0.04, 0.0), "forehead_side": (0.0, -0.05, 0.0)},
    4: {"brow0": (-0.055, 0.095, 0.02), "brow1": (-0.05, 0.10, 0.02), "brow2": (-0.03, 0.075, 0.01),
        "brow3": (-0.01, 0.03, 0.0), "lid_fold": (0.0, 0.05, 0.0), "glabella": (0.0, 0.04, 0.01)},
    5: {"lid_fold": (0.0, -0.01, 0.0)},
    6: {"under_eye": (0.0, -0.035, 0.03), "cheek": (0.01, -0.09, 0.05), "brow4": (0.0, 0.025, 0.0),
        "brow3": (0.0, 0.015, 0.0), "eye_out": (-0.008, 0.004, 0.0)},
    7: {"eye_out": (-0.008, 0.0, 0.0), "under_eye": (0.0, -0.012, 0.01)},
    9: {"ala": (0.02, -0.065, 0.0), "nostril": (0.005, -0.045, 0.0), "tip": (0.0, -0.035, 0.0),
        "subnasal": (0.0, -0.035, 0.0), "brow0": (-0.02, 0.065, 0.01), "brow1": (-0.01, 0.055, 0.0),
        "brow2": (0.0, 0.03, 0.0), "glabella": (0.0, 0.05, 0.0), "under_eye": (0.0, -0.02, 0.0),
        "lip_up1": (0.0, -0.045, 0.0), "lip_up0": (0.0, -0.045, 0.0), "lip_up2": (0.0, -0.035, 0.0)},
    10: {"lip_up0": (0.0, -0.075, 0.02), "lip_up1": (0.0, -0.085, 0.02), "lip_up2": (0.01, -0.085, 0.02),
         "in_up0": (0.0, -0.05, 0.0), "in_up1": (0.0, -0.055, 0.0), "in_low0": (0.0, -0.04, 0.0),
         "in_low1": (0.0, -0.04, 0.0), "corner": (0.0, -0.012, 0.0), "ala": (0.015, -0.02, 0.0),
         "under_eye": (0.0, -0.012, 0.0), "cheek": (0.0, -0.03, 0.0)},
    12: {"corner": (0.125, -0.125, -0.07), "in_corner": (0.115, -0.11, -0.06), "lip_up2": (0.06, -0.05, -0.02),
         "lip_low2": (0.065, -0.06, -0.02), "lip_up1": (0.01, 0.0, -0.01), "lip_low1": (0.02, -0.01, -0.01),
         "lip_up0": (0.0, 0.015, -0.01), "cheek": (0.03, -0.05, 0.05), "cheek_low": (0.06, -0.06, 0.02),
         "ala": (0.025, 0.0, 0.0), "jaw13": (0.015, 0.0, 0.0), "jaw12": (0.02, 0.0, 0.0)},
    14: {"corner": (0.03, -0.022, -0.07), "in_corner": (0.02, -0.02, -0.06), "lip_up2": (0.01, 0.01, -0.02),
         "lip_low2": (0.01, -0.015, -0.02)},
    15: {"corner": (0.015, 0.115, -0.03), "in_corner": (0.01, 0.105, -0.02), "lip_up2": (0.01, 0.05, 0.0),
         "lip_low2": (0.01, 0.05, 0.0), "in_up1": (0.0, -0.005, 0.0), "cheek_low": (0.0, 0.03, 0.0),
         "lip_low1": (0.0, -0.01, 0.0)},
    17: {"jaw8": (0.0, -0.05, 0.03), "jaw9": (0.0, -0.045, 0.03), "jaw10": (0.0, -0.025, 0.01),
         "chin_side": (0.0, -0.05, 0.03), "lip_low0": (0.0, -0.06, 0.03), "lip_low1": (0.0, -0.055, 0.03),
         "lip_low2": (0.0, -0.03, 0.0), "in_low0": (0.0, -0.05, 0.0), "in_low1": (0.0, -0.045, 0.0),
         "in_up0": (0.0, -0.04, 0.0), "in_up1": (0.0, -0.035, 0.0), "lip_up0": (0.0, -0.03, 0.0),
         "lip_up1": (0.0, -0.028, 0.0), "corner": (0.0, 0.025, 0.0), "in_corner": (0.0, 0.022, 0.0)},
    20: {"corner": (0.13, 0.02, -0.08), "in_corner": (0.12, 0.018, -0.07), "lip_up2": (0.075, 0.01, -0.02),
         "lip_low2": (0.085, -0.005, -0.02), "lip_up1": (0.02, 0.012, 0.0), "lip_low1": (0.03, -0.015, 0.0),
         "lip_up0": (0.0, 0.015, 0.0), "lip_low0": (0.0, -0.018, 0.0), "cheek_low": (0.05, 0.02, 0.0),
         "jaw12": (0.02, 0.01, 0.0), "chin_side": (0.03, 0.0, 0.0)},
    23: {"corner": (-0.045, 0.0, 0.01), "in_corner": (-0.04, 0.0, 0.01), "lip_up0": (0.0, 0.028, 0.0),
         "lip_up1": (-0.01, 0.034, 0.0), "lip_up2": (-0.025, 0.022, 0.0), "lip_low0": (0.0, -0.035, 0.0),
         "lip_low1": (-0.015, -0.034, 0.0), "lip_low2": (-0.03, -0.022, 0.0)},
    24: {"corner": (-0.05, 0.0, 0.0), "in_corner": (-0.045, 0.0, 0.0), "lip_up0": (0.0, 0.040, -0.02),
         "lip_up1": (-0.01, 0.046, -0.02), "lip_up2": (-0.025, 0.030, -0.02), "lip_low0": (0.0, -0.052, -0.02),
         "lip_low1": (-0.015, -0.050, -0.02), "lip_low2": (-0.03, -0.034, -0.02)},
    26: {"jaw8": (0.0, 0.23, -0.04), "jaw9": (0.0, 0.22, -0.04), "jaw10": (0.0, 0.20, -0.03),
         "jaw11": (-0.01, 0.15, -0.02), "jaw12": (-0.015, 0.09, 0.0), "jaw13": (-0.01, 0.04, 0.0),
         "chin_side": (0.0, 0.21, -0.04), "lip_low0": (0.0, 0.10, -0.02), "lip_low1": (0.0, 0.09, -0.02),
         "lip_low2": (-0.02, 0.07, -0.01), "corner": (-0.03, 0.045, 0.0), "in_corner": (-0.03, 0.045, 0.0),
         "in_low0": (0.0, 0.03, 0.0), "in_low1": (0.0, 0.03, 0.0), "in_up0": (0.0, 0.02, 0.0),
         "in_up1": (0.0, 0.02, 0.0), "cheek_low": (-0.03, 0.05, 0.0)},
}  # fmt: skip

# Directions in which people differ, each at one standard deviation. They are as large as an action unit at 2 or 3,
# so that where a brow or a lip corner lies says little by itself.
SHAPES: Final[Mapping[str, Field]] = {
    "face_width": {**{f"jaw{i}": (0.05, 0.0, 0.0) for i in range(11, 17)},
                   **{f"skull{i}": (0.045, 0.0, 0.0) for i in (1, 2, 3)}, "temple": (0.04, 0.0, 0.0)},
    "jaw_width": {"jaw13": (0.035, 0.0, 0.0), "jaw12": (0.06, 0.02, 0.0), "jaw11": (0.065, 0.03, 0.0),
                  "jaw10": (0.04, 0.025, 0.0), "jaw9": (0.015, 0.01, 0.0)},
    "chin_length": {"jaw8": (0.0, 0.06, 0.0), "jaw9": (0.0, 0.055, 0.0), "jaw10": (0.0, 0.04, 0.0),
                    "jaw11": (0.0, 0.02, 0.0), "chin_side": (0.0, 0.03, 0.0)},
    "forehead": {f"skull{i}": (0.0, -0.05, 0.0) for i in range(5)},
    "brow_height": {f"brow{i}": (0.0, -0.038, 0.0) for i in range(5)},
    "brow_tilt": {f"brow{i}": (0.0, 0.016 * (2 - i), 0.0) for i in range(5)},
    "brow_arch": {"brow1": (0.0, -0.010, 0.0), "brow2": (0.0, -0.022, 0.0), "brow3": (0.0, -0.012, 0.0)},
    "brow_gap": {"brow0": (0.026, 0.0, 0.0), "brow1": (0.018, 0.0, 0.0), "brow2": (0.01, 0.0, 0.0)},
    "eye_gap": {f"eye_{k}": (0.022, 0.0, 0.0) for k in ("in", "u1", "u2", "out", "d2", "d1")},
    "eye_length": {"eye_in": (-0.012, 0.0, 0.0), "eye_out": (0.02, 0.0, 0.0)},
    "eye_open": {"eye_u1": (0.0, -0.019, 0.0), "eye_u2": (0.0, -0.019, 0.0)},
    "lower_lid": {"eye_d1": (0.0, 0.014, 0.0), "eye_d2": (0.0, 0.014, 0.0)},
    "eye_tilt": {"eye_in": (0.0, 0.012, 0.0), "eye_out": (0.0, -0.02, 0.0), "eye_u2": (0.0, -0.010, 0.0),
                 "eye_d2": (0.0, -0.010, 0.0)},
    "nose_width": {"ala": (0.028, 0.0, 0.0), "nostril": (0.012, 0.0, 0.0)},
    "nose_length": {"ala": (0.0, 0.032, 0.0), "nostril": (0.0, 0.034, 0.0), "subnasal": (0.0, 0.034, 0.0),
                    "tip": (0.0, 0.034, 0.0), "bridge2": (0.0, 0.02, 0.0), "bridge1": (0.0, 0.01, 0.0)},
    "mouth_height": {k: (0.0, 0.028, 0.0) for k in (
        "lip_up0", "lip_up1", "lip_up2", "lip_low0", "lip_low1", "lip_low2", "corner", "in_corner", "in_up0",
        "in_up1", "in_low0", "in_low1")},
    "mouth_width": {"corner": (0.040, 0.0, 0.0), "in_corner": (0.036, 0.0, 0.0), "lip_up2": (0.022, 0.0, 0.0),
                    "lip_low2": (0.024, 0.0, 0.0), "lip_up1": (0.006, 0.0, 0.0), "lip_low1": (0.01, 0.0, 0.0)},
    "mouth_curve": {"corner": (0.0, -0.036, 0.0), "in_corner": (0.0, -0.033, 0.0), "lip_up2": (0.0, -0.012, 0.0),
                    "lip_low2": (0.0, -0.015, 0.0)},
    "upper_lip": {"lip_up0": (0.0, -0.018, 0.0), "lip_up1": (0.0, -0.020, 0.0), "lip_up2": (0.0, -0.012, 0.0)},
    "lower_lip": {"lip_low0": (0.0, 0.022, 0.0), "lip_low1": (0.0, 0.021, 0.0), "lip_low2": (0.0, 0.012, 0.0)},
    "philtrum": {"lip_up0": (0.0, -0.022, 0.0), "lip_up1": (0.0, -0.022, 0.0), "in_up0": (0.0, -0.014, 0.0),
                 "in_low0": (0.0, -0.014, 0.0), "in_up1": (0.0, -0.012, 0.0), "in_low1": (0.0, -0.012, 0.0)},
}  # fmt: skip

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
    """One displacement table as (N, 3). Midline points take their share of each side and never leave the midline."""
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

ACTION_FIELDS: Final = np.stack([[_field(ACTIONS.get(au, {}), (side,)) for au in AUS] for side in (0, 1)])
"""(2 sides, AUs, N, 3): what each action unit moves at intensity 5."""


def attach(points: Array, sigma: float = 0.13) -> Array:
    """Weights (M, N) by which further points (M, 3) follow the displacements of the named ones.

    A Gaussian of the distance in the image plane, so that a wrinkle moves with the skin that it lies on.
    """
    squared = ((points[:, None, :2] - TEMPLATE[None, :, :2]) ** 2).sum(-1)
    weight = np.exp(-0.5 * squared / sigma**2)
    # The constant keeps points far from any landmark still.
    return (weight / (weight.sum(1, keepdims=True) + 0.25)).astype(np.float32)


_EYE = [np.array([at("eye_in", "eye_u1", "eye_u2", "eye_out", "eye_d2", "eye_d1", side=s)]).ravel() for s in (0, 1)]
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
    low = (y[4:6] - line) * max(0.12, 1 - 0.40 * a7 - 0.40 * a6 - 0.12 * a12)
    high = (y[1:3] - line) * (1 + 0.50 * a5 - 0.26 * a7 - 0.08 * a6 - 0.15 * a9)
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


def rotation(pitch: float, yaw: float, roll: float) -> Array:
    """(3, 3) matrix `Rz(roll) Ry(yaw) Rx(pitch)` of a head pose in radians.

    A positive pitch looks up, a positive yaw to the right of the image, a positive roll tilts the head clockwise.
    """
    (cp, sp), (cy, sy), (cr, sr) = ((np.cos(a), np.sin(a)) for a in (pitch, yaw, roll))
    turn = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    nod = np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
    tilt = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])
    return (tilt @ turn @ nod).astype(np.float32)


def project(points: Array, turn: Array, scale: float, centre: tuple[float, float]) -> Array:
    """Pixels (N, 2) of face points (N, 3) under a weak perspective: `scale` pixels per unit around `centre`."""
    pivot = np.array([0.0, 0.30, 0.0], np.float32)
    rotated = (points - pivot) @ turn.T
    depth = scale * 9.0 / (9.6 - rotated[:, 2:])
    flat: Array = rotated[:, :2] * depth + np.array(centre, np.float32)
    return flat


def _landmark_rows() -> list[int]:
    rows = [at(f"jaw{16 - i}", side=1)[0] for i in range(8)] + at("jaw8")
    rows += [at(f"jaw{i}", side=0)[0] for i in range(9, 17)]
    rows += at(*(f"brow{i}" for i in (4, 3, 2, 1, 0)), side=1) + at(*(f"brow{i}" for i in range(5)), side=0)
    rows += at("bridge0", "bridge1", "bridge2", "tip")
    rows += at("ala", "nostril", side=1) + at("subnasal") + at("nostril", "ala", side=0)
    rows += at("eye_out", "eye_u2", "eye_u1", "eye_in", "eye_d1", "eye_d2", side=1)
    rows += at("eye_in", "eye_u1", "eye_u2", "eye_out", "eye_d2", "eye_d1", side=0)
    rows += at("corner", "lip_up2", "lip_up1", side=1) + at("lip_up0") + at("lip_up1", "lip_up2", "corner", side=0)
    rows += at("lip_low2", "lip_low1", side=0) + at("lip_low0") + at("lip_low1", "lip_low2", side=1)
    rows += at("in_corner", "in_up1", side=1) + at("in_up0") + at("in_up1", "in_corner", side=0)
    return rows + at("in_low1", side=0) + at("in_low0") + at("in_low1", side=1)


LANDMARKS: Final = np.array(_landmark_rows())
"""Rows of the 68 iBUG landmarks, in their order."""


@lru_cache(maxsize=64)
def spline(knots: int, samples: int, closed: bool = False) -> Array:
    """Matrix (samples, knots) of the cubic spline through `knots` points; multiply it by the points (knots, 2)."""
    if closed:
        eye = np.concatenate([np.eye(knots), np.eye(knots)[:1]])
        t = np.linspace(0, knots, samples, endpoint=False)
        return np.asarray(CubicSpline(np.arange(knots + 1), eye, bc_type="periodic")(t), np.float32)
    t = np.linspace(0, knots - 1, samples)
    return np.asarray(CubicSpline(np.arange(knots), np.eye(knots), bc_type="natural")(t), np.float32)
