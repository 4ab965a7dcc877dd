"""What action units and age leave on the skin: creases (thin lines) and relief (soft bumps).

Displacement alone does not tell AU6 from AU7 or AU23 from AU24; FACS coders read these marks, and
so must a model. Coordinates are those of `geometry`. Every crease has four control points.
"""

from collections.abc import Mapping
from typing import Final, NamedTuple

import numpy as np

from faceaffect.data.synthetic.facs import AUS, COLUMN
from faceaffect.data.synthetic.geometry import Array, attach, both_halves


class Crease(NamedTuple):
    """A line on one half of the face: four points, the AUs that draw it, width, share of age."""

    points: tuple[tuple[float, float], ...]
    aus: Mapping[int, float]
    width: float = 1.0
    age: float = 0.0


class Bump(NamedTuple):
    """A Gaussian on one half, or on the midline (x = 0): relief, shade, what AUs add to both."""

    name: str
    x: float
    y: float
    width: float
    height: float
    relief: float = 0.0
    shade: float = 0.0
    aus_relief: Mapping[int, float] = {}
    aus_shade: Mapping[int, float] = {}


def _forehead(y: float, strength: float) -> list[Crease]:
    inner = ((0.02, y), (0.11, y - 0.012), (0.21, y - 0.015), (0.31, y + 0.005))
    outer = ((0.31, y + 0.01), (0.43, y - 0.03), (0.55, y - 0.02), (0.66, y + 0.05))
    return [
        Crease(inner, {1: strength}, 1.4, 0.55 * strength),
        Crease(outer, {2: strength}, 1.4, 0.4 * strength),
    ]


def _short(x: float, y: float, dx: float, dy: float) -> tuple[tuple[float, float], ...]:
    return tuple((x + dx * t, y + dy * t) for t in (0.0, 1 / 3, 2 / 3, 1.0))


CREASES: Final = (
    *_forehead(-0.46, 1.0),
    *_forehead(-0.56, 0.9),
    *_forehead(-0.66, 0.7),
    # AU4: the furrow between the brows, and the short oblique one beside it
    Crease(((0.070, -0.37), (0.074, -0.29), (0.068, -0.22), (0.045, -0.14)), {4: 1.0}, 1.6, 0.45),
    Crease(((0.140, -0.39), (0.155, -0.35), (0.160, -0.32), (0.160, -0.29)), {4: 0.5}, 1.0, 0.15),
    # AU9: lines across the root of the nose and down its side
    Crease(((0.0, -0.055), (0.04, -0.06), (0.08, -0.045), (0.115, -0.015)),
           {9: 1.0, 4: 0.15}, 1.2, 0.1),
    Crease(((0.0, 0.02), (0.045, 0.012), (0.09, 0.03), (0.125, 0.06)), {9: 1.0}, 1.2),
    Crease(((0.05, 0.10), (0.08, 0.10), (0.115, 0.12), (0.15, 0.15)), {9: 0.9}, 1.1),
    Crease(((0.07, 0.19), (0.10, 0.20), (0.135, 0.23), (0.165, 0.27)), {9: 0.8}, 1.1),
    Crease(((0.185, 0.27), (0.205, 0.33), (0.225, 0.39), (0.235, 0.45)),
           {9: 0.7, 10: 0.3}, 1.3, 0.1),
    # AU6: crow's feet and the furrow below the eye
    Crease(((0.67, 0.00), (0.73, -0.04), (0.79, -0.09), (0.84, -0.14)), {6: 0.9}, 1.1, 0.45),
    Crease(((0.68, 0.03), (0.75, 0.025), (0.82, 0.02), (0.88, 0.01)), {6: 1.0}, 1.1, 0.5),
    Crease(((0.67, 0.06), (0.73, 0.095), (0.79, 0.13), (0.84, 0.17)), {6: 0.9}, 1.1, 0.45),
    Crease(((0.29, 0.13), (0.38, 0.175), (0.49, 0.175), (0.61, 0.11)),
           {6: 1.0, 12: 0.1}, 1.5, 0.55),
    # AU7: the straight fold of the tightened lower lid, and the pinch at the inner corner
    Crease(((0.27, 0.085), (0.37, 0.103), (0.47, 0.100), (0.58, 0.062)),
           {7: 1.0, 6: 0.15}, 1.4, 0.25),
    Crease(((0.26, 0.075), (0.235, 0.06), (0.215, 0.05), (0.19, 0.045)), {7: 0.8}, 1.0, 0.05),
    # nasolabial fold: AU10 draws its upper half, AU12 its lower half
    Crease(((0.205, 0.42), (0.245, 0.47), (0.285, 0.53), (0.315, 0.60)),
           {10: 1.0, 9: 0.6, 12: 0.45}, 1.8, 0.6),
    Crease(((0.315, 0.60), (0.36, 0.66), (0.41, 0.73), (0.445, 0.81)),
           {12: 0.85, 10: 0.3}, 1.5, 0.6),
    # AU14: the dimple, a short dark comma beside the corner; a second, fainter line runs around it
    Crease(((0.435, 0.77), (0.463, 0.81), (0.466, 0.855), (0.44, 0.895)), {14: 1.0}, 1.7, 0.12),
    Crease(((0.495, 0.76), (0.522, 0.81), (0.522, 0.86), (0.495, 0.91)), {14: 0.65}, 1.1),
    # AU15: the line down from the corner
    Crease(((0.365, 0.875), (0.395, 0.92), (0.415, 0.97), (0.415, 1.03)), {15: 1.0}, 1.7, 0.45),
    # AU17: the crease under the lower lip and the pits of the chin boss
    Crease(((0.0, 1.015), (0.07, 1.018), (0.14, 1.03), (0.21, 1.07)), {17: 1.0}, 1.5, 0.3),
    Crease(_short(0.03, 1.09, 0.035, 0.012), {17: 0.9}, 1.5),
    Crease(_short(0.10, 1.12, 0.035, 0.015), {17: 0.9}, 1.5),
    Crease(_short(0.05, 1.15, 0.03, 0.01), {17: 0.8}, 1.5),
    Crease(_short(0.13, 1.18, 0.03, 0.012), {17: 0.8}, 1.5),
    Crease(_short(0.04, 1.21, 0.035, 0.01), {17: 0.7}, 1.5),
    # AU20: parallel lines beside the stretched corner, a flat line across the chin
    Crease(((0.43, 0.79), (0.45, 0.84), (0.455, 0.89), (0.44, 0.95)), {20: 0.7}, 0.9, 0.1),
    Crease(((0.50, 0.78), (0.525, 0.84), (0.53, 0.90), (0.51, 0.97)), {20: 0.75}, 0.9, 0.1),
    Crease(((0.57, 0.79), (0.60, 0.85), (0.605, 0.91), (0.585, 0.98)), {20: 0.6}, 0.9),
    Crease(((0.0, 1.035), (0.10, 1.035), (0.20, 1.045), (0.30, 1.07)), {20: 0.6}, 1.1),
    # AU23: fine upright lines above and below the lips
    *(Crease(_short(x, 0.675 + 0.10 * x, 0.25 * x, 0.078), {23: 1.0}, 0.8, 0.2)
      for x in (0.055, 0.145, 0.235)),
    *(Crease(_short(x, 0.960 - 0.12 * x, 0.2 * x, 0.070), {23: 0.9}, 0.8) for x in (0.06, 0.17)),
    # AU24: the line that the pressed lip leaves beside the corner
    Crease(((0.325, 0.80), (0.35, 0.825), (0.352, 0.865), (0.325, 0.895)), {24: 1.0}, 1.8),
)  # fmt: skip

BUMPS: Final = (
    Bump("bridge of the nose", 0.0, 0.16, 0.060, 0.22, 0.085, 0.05),
    Bump("tip of the nose", 0.0, 0.43, 0.095, 0.085, 0.085, 0.03),
    Bump("under the nose", 0.0, 0.605, 0.13, 0.035, 0.0, -0.20),
    Bump("under the lower lip", 0.0, 1.00, 0.16, 0.040, -0.01, -0.10, {17: -0.02}, {17: -0.14}),
    Bump("chin boss", 0.0, 1.16, 0.17, 0.12, 0.04, 0.0, {17: 0.075}),
    Bump("between the brows", 0.0, -0.21, 0.060, 0.09, 0.02, 0.0,
         {4: 0.035, 9: 0.03}, {4: -0.05, 9: -0.04}),
    Bump("root of the nose", 0.0, 0.02, 0.07, 0.06, 0.0, -0.03, {}, {9: -0.08}),
    Bump("wing of the nose", 0.15, 0.47, 0.055, 0.06, 0.055, 0.0, {9: 0.03, 10: 0.02}),
    Bump("cheek", 0.52, 0.40, 0.17, 0.14, 0.045, 0.02,
         {6: 0.070, 12: 0.055, 10: 0.01}, {6: 0.05, 12: 0.04}),
    Bump("beside the nose", 0.29, 0.37, 0.08, 0.10, 0.0, 0.0, {10: 0.060, 9: 0.045}, {10: 0.04}),
    Bump("eye socket", 0.42, -0.09, 0.21, 0.075, -0.02, -0.14),
    Bump("inner corner of the eye", 0.20, 0.03, 0.06, 0.09, -0.03, -0.13),
    Bump("lower lid", 0.42, 0.11, 0.14, 0.030, 0.008, 0.0, {7: 0.055, 6: 0.012}, {7: 0.09}),
    Bump("below the eye", 0.43, 0.185, 0.15, 0.032, 0.0, -0.04, {6: -0.02}, {6: -0.16}),
    Bump("bone of the brow", 0.40, -0.28, 0.24, 0.06, 0.03, 0.0, {4: 0.02, 1: -0.01}),
    Bump("head of the brow", 0.14, -0.20, 0.055, 0.07, 0.0, 0.0, {4: 0.060, 9: 0.03}),
    Bump("forehead", 0.30, -0.62, 0.26, 0.18, 0.03),
    Bump("fold, upper half", 0.26, 0.53, 0.040, 0.08, 0.0, -0.04,
         {}, {10: -0.13, 12: -0.04, 9: -0.06}),
    Bump("fold, lower half", 0.40, 0.72, 0.040, 0.09, 0.0, -0.03, {}, {12: -0.09, 10: -0.03}),
    Bump("dimple", 0.47, 0.825, 0.040, 0.055, 0.0, 0.0, {14: -0.025}, {14: -0.20}),
    Bump("rim of the dimple", 0.395, 0.78, 0.035, 0.05, 0.0, 0.0, {14: 0.030}, {14: 0.06}),
    Bump("pouch below the corner", 0.44, 0.98, 0.065, 0.06, 0.0, 0.0, {15: 0.055}),
    Bump("below the corner", 0.38, 0.93, 0.040, 0.06, 0.0, -0.02, {}, {15: -0.14}),
    Bump("above the upper lip", 0.13, 0.715, 0.15, 0.028, 0.006, 0.0,
         {24: 0.055}, {24: 0.14, 23: -0.10}),
    Bump("below the lower lip", 0.12, 0.985, 0.14, 0.030, 0.0, 0.0,
         {24: 0.050}, {24: 0.12, 23: -0.08}),
    Bump("beside the mouth", 0.50, 0.86, 0.06, 0.09, 0.0, 0.0, {20: -0.02}, {20: -0.05}),
    Bump("hollow of the cheek", 0.62, 0.70, 0.16, 0.18, -0.015, -0.02, {12: 0.01}),
)  # fmt: skip


def depth(x: Array, y: Array) -> Array:
    """Height z of the rest face at (x, y), roughly: an ellipsoid, good enough to hang marks on."""
    inside = np.clip(1.0 - (x / 1.05) ** 2 - ((y - 0.15) / 1.55) ** 2, 0.0, 1.0)
    mouth = np.exp(-((x / 0.3) ** 2) - ((y - 0.7) / 0.4) ** 2)
    return np.asarray(0.82 * np.sqrt(inside) + 0.10 * mouth, np.float32)


def _lift(flat: Array) -> Array:
    return np.concatenate([flat, depth(flat[:, 0], flat[:, 1])[:, None]], axis=1)


def _table(rows: list[Mapping[int, float]]) -> Array:
    out = np.zeros((len(rows), len(AUS)), np.float32)
    for row, weights in enumerate(rows):
        for au, weight in weights.items():
            out[row, COLUMN[au]] = weight
    return out


_CREASE_HALF = _lift(np.array([c.points for c in CREASES], np.float32).reshape(-1, 2))
CREASE_POINTS: Final = both_halves(np.zeros((0, 3)), _CREASE_HALF)
"""(2 * creases * 4, 3): control points, the right half first."""
CREASE_AUS: Final = _table([c.aus for c in CREASES])
CREASE_WIDTH: Final = np.array([c.width for c in CREASES], np.float32)
CREASE_AGE: Final = np.array([c.age for c in CREASES], np.float32)

_MIDLINE = [b for b in BUMPS if b.x == 0]
_SIDE = [b for b in BUMPS if b.x > 0]
_BUMP_ORDER = (*_MIDLINE, *_SIDE, *_SIDE)
_MIDLINE_XY = np.array([[b.x, b.y] for b in _MIDLINE], np.float32)
_SIDE_XY = np.array([[b.x, b.y] for b in _SIDE], np.float32)
BUMP_POINTS: Final = both_halves(_lift(_MIDLINE_XY), _lift(_SIDE_XY))
"""(midline + 2 * side, 3): centres of the bumps, midline first, then right, then left."""
BUMP_SIZE: Final = np.array([[b.width, b.height] for b in _BUMP_ORDER], np.float32)
BUMP_BASE: Final = np.array([[b.relief, b.shade] for b in _BUMP_ORDER], np.float32)
BUMP_AUS: Final = np.stack(
    [_table([b.aus_relief for b in _BUMP_ORDER]), _table([b.aus_shade for b in _BUMP_ORDER])]
)
"""(2, bumps, AUs): what an action unit at intensity 5 adds to relief and shade."""
MIDLINE_BUMPS: Final = len(_MIDLINE)
SIDE_BUMPS: Final = len(_SIDE)


def visible(amount: Array) -> Array:
    """How much of its full strength a mark has at an amount 0 to 1 (intensity / 5) of the action.

    A trace hardly marks the skin, a slight action does clearly: what tells FACS A from B.
    """
    return np.asarray(np.interp(amount, _AMOUNTS, _STRENGTHS), np.float32)


_AMOUNTS, _STRENGTHS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.05), (0.0, 0.15, 0.52, 0.74, 0.9, 1.03)

MARK_POINTS: Final = np.concatenate([CREASE_POINTS, BUMP_POINTS])
MARK_WEIGHTS: Final = attach(MARK_POINTS)
"""(M, N): how the marks follow the named points of the face."""
