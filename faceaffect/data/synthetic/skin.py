"""The bare skin: light on the relief of the face, creases, spots."""

from functools import lru_cache
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

from faceaffect.data.synthetic import marks
from faceaffect.data.synthetic.canvas import Canvas, Image, fixed
from faceaffect.data.synthetic.geometry import TEMPLATE, Array
from faceaffect.data.synthetic.identity import Identity
from faceaffect.data.synthetic.scene import Scene

_LINES: Final = len(marks.CREASES)
_FIRST_CREASE: Final = len(TEMPLATE)
_FIRST_BUMP: Final = _FIRST_CREASE + len(marks.CREASE_POINTS)
_CREASE_OWNER: Final = np.repeat([0, 1], _LINES)
_BUMP_SIDE: Final = np.concatenate(
    [np.full(marks.MIDLINE_BUMPS, 2), np.repeat([0, 1], marks.SIDE_BUMPS)]
)
_THROUGH_FOUR: Final = np.array(
    [
        [np.prod([(t - b) / (a - b) for b in (0, 1, 2, 3) if b != a]) for a in (0, 1, 2, 3)]
        for t in np.linspace(0, 3, 8)
    ],
    np.float32,
)
"""Cubic through four control points."""
LIT: Final = 160
"""Brightness index of evenly lit skin."""


def crease_strength(person: Identity, amount: Array) -> Array:
    """(2 * creases,) from 0 to 1: what the actions draw over what age has drawn."""
    drawn = np.clip(amount @ marks.CREASE_AUS.T, 0, 1.1).reshape(-1) ** 0.85
    return np.asarray(1 - (1 - person.crease) * (1 - np.clip(0.92 * drawn, 0, 0.97)), np.float32)


def brightness(
    person: Identity, scene: Scene, flat: Array, turn: Array, unit: float, centre: Array, size: int
) -> Image:
    """(S, S) index into the skin ramp: relief under the scene's lamp, creases and spots."""
    amount = np.concatenate([scene.amount, scene.amount.mean(0, keepdims=True)])
    shade = _relief(person, scene, amount, flat, turn, unit, centre, size)
    dark = _creases(person, amount, flat, unit, size)
    # Light catches the far lip of a furrow: the same furrow, brighter, a step away from the lamp.
    step = np.array(scene.light[:2]) * 1.3 * size / 112
    glow = cv2.warpAffine(dark, np.array([[1, 0, -step[0]], [0, 1, -step[1]]]), (size, size))
    lit = cv2.scaleAdd(glow, 0.10, shade)
    return np.asarray(cv2.addWeighted(lit, 1.0, dark, -0.32, 0, dtype=cv2.CV_8U), np.uint8)


@lru_cache(maxsize=8)
def _grid(cells: int) -> Array:
    """(6, cells**2): 1, x, y, x², xy, y² of the cell centres, in shares of the image from its middle."""
    axis = (np.arange(cells, dtype=np.float32) + 0.5) / cells - 0.5
    y, x = (a.ravel() for a in np.meshgrid(axis, axis, indexing="ij"))
    return np.stack([np.ones_like(x), x, y, x * x, x * y, y * y])


def _relief(
    person: Identity, scene: Scene, amount: Array, flat: Array, turn: Array, unit: float, centre: Array, size: int
) -> Array:
    """Light on an ellipsoid with Gaussian bumps, at a quarter of the resolution: it is soft anyway."""
    cells = max(size // 4, 24)
    extra = (marks.BUMP_AUS * amount[_BUMP_SIDE]).sum(-1)
    weight = person.relief + extra
    where = flat[_FIRST_BUMP : _FIRST_BUMP + len(marks.BUMP_POINTS)] / size - 0.5
    width = marks.BUMP_SIZE * np.array([max(float(turn[0, 0]), 0.6), 1.0], np.float32) * (unit / size)
    bells = np.exp(_quadratics(where, width, float(np.arctan2(turn[1, 0], turn[0, 0]))) @ _grid(cells))
    height, shadow = (weight.astype(np.float32) @ bells).reshape(2, cells, cells)
    slope = unit / size * cells
    gy, gx = (g * slope for g in np.gradient(height))
    x, y = (_grid(cells)[1:3] * (size / unit)).reshape(2, cells, cells)
    ball_x = (x - float(centre[0] / size - 0.5) * size / unit) / 1.22
    ball_y = (y - float(centre[1] / size - 0.5) * size / unit) / 1.75
    ball_z = np.sqrt(np.clip(1 - ball_x**2 - ball_y**2, 0.12, 1))
    nx, ny = ball_x / ball_z * 0.8 - gx, ball_y / ball_z * 0.7 - gy
    facing = (nx * scene.light[0] + ny * scene.light[1] + scene.light[2]) / np.sqrt(1 + nx * nx + ny * ny)
    lit = scene.ambient + (1 - scene.ambient) * 1.25 * np.maximum(facing, 0)
    low = np.clip(LIT * lit * (1 + shadow), 0, 255).astype(np.float32)
    return np.asarray(cv2.resize(low, (size, size), interpolation=cv2.INTER_LINEAR), np.float32)


def _quadratics(where: Array, width: Array, angle: float) -> Array:
    """(bumps, 6): exponents of the bells as polynomials over `_grid`."""
    c, s = np.cos(angle), np.sin(angle)
    u, v = 0.5 / width.T**2
    xx, xy, yy = c * c * u + s * s * v, 2 * c * s * (u - v), s * s * u + c * c * v
    x, y = where.T
    constant = xx * x * x + xy * x * y + yy * y * y
    terms = np.stack([constant, -(2 * xx * x + xy * y), -(2 * yy * y + xy * x), xx, xy, yy], 1)
    return (-terms).astype(np.float32)


def _creases(person: Identity, amount: Array, flat: Array, unit: float, size: int) -> Array:
    """(S, S) darkness 0 to 255."""
    layer = np.zeros((size, size), np.uint8)
    pen = size / 112
    strength = crease_strength(person, amount[:2])
    shown = np.flatnonzero(strength > 0.04)
    shown = shown[np.argsort(strength[shown])]
    knots = flat[_FIRST_CREASE:_FIRST_BUMP].reshape(-1, 4, 2)[shown]
    curves = fixed(_THROUGH_FOUR @ knots)
    width = marks.CREASE_WIDTH[shown % _LINES] * (0.6 + 0.7 * strength[shown]) * pen
    for curve, value, thick in zip(curves, strength[shown], width, strict=True):
        # The ends fade: a thin full line first, then its middle at full width.
        cv2.polylines(layer, [curve], False, float(150 * value), max(1, round(0.6 * thick)), cv2.LINE_AA, 4)
        cv2.polylines(layer, [curve[1:-1]], False, float(255 * value), max(1, round(thick)), cv2.LINE_AA, 4)
    for spot, value in zip(flat[len(person.rest) :], person.spot_strength, strict=True):
        radius = (0.4 + 0.9 * value) * pen
        cv2.circle(layer, fixed(spot), round(radius * 16), float(255 * value), -1, cv2.LINE_AA, 4)
    return cv2.GaussianBlur(layer, (0, 0), 0.55 * pen).astype(np.float32)


def paint_skin(canvas: Canvas, person: Identity, index: Image, mask: Image) -> None:
    """Colour the masked part of the canvas by the brightness index (S, S)."""
    cv2.copyTo(cv2.applyColorMap(index, person.ramp), mask, canvas.image)
