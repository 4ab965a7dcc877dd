"""The bare skin: light on the relief of the face, creases, spots."""

from functools import lru_cache
from typing import Final

import cv2
import numpy as np

from faceaffect.data.synthetic import marks
from faceaffect.data.synthetic.canvas import Canvas, Image, fixed
from faceaffect.data.synthetic.geometry import TEMPLATE, Array
from faceaffect.data.synthetic.identity import Identity
from faceaffect.data.synthetic.scene import Scene

_LINES: Final = len(marks.CREASES)
_FIRST_CREASE: Final = len(TEMPLATE)
_FIRST_BUMP: Final = _FIRST_CREASE + len(marks.CREASE_POINTS)
_WIDTH: Final = np.tile(marks.CREASE_WIDTH, 2)
_LEVELS: Final = 14
"""Creases are drawn in this many steps of strength, all lines of one step at once."""
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
    dark = _creases(person, amount, flat, size)
    cv2.addWeighted(shade, 1.0, dark, -0.32, 0, dst=shade)
    # Light catches the far lip of a furrow: the same furrow, brighter, a step away from the lamp.
    dx, dy = (round(float(step) * -1.3 * size / 112) for step in scene.light[:2])
    to, source = _shifted(dx, dy, size), _shifted(-dx, -dy, size)
    lit = shade[to]
    cv2.addWeighted(lit, 1.0, dark[source], 0.10, 0, dst=lit)
    return shade


def _shifted(dx: int, dy: int, size: int) -> tuple[slice, slice]:
    """The part of an image that a shift by (dx, dy) fills."""
    return slice(max(dy, 0), size + min(dy, 0)), slice(max(dx, 0), size + min(dx, 0))


@lru_cache(maxsize=8)
def _grid(cells: int) -> Array:
    """1, x, y, x², xy, y² of the cell centres (6, cells**2), in image sides from the middle."""
    axis = (np.arange(cells, dtype=np.float32) + 0.5) / cells - 0.5
    y, x = (a.ravel() for a in np.meshgrid(axis, axis, indexing="ij"))
    return np.stack([np.ones_like(x), x, y, x * x, x * y, y * y])


def _relief(
    person: Identity,
    scene: Scene,
    amount: Array,
    flat: Array,
    turn: Array,
    unit: float,
    centre: Array,
    size: int,
) -> Image:
    """Light on an ellipsoid with Gaussian bumps, at a quarter of the resolution: it is soft."""
    cells = max(size // 4, 24)
    extra = (marks.BUMP_AUS * amount[_BUMP_SIDE]).sum(-1)
    weight = person.relief + extra
    where = flat[_FIRST_BUMP : _FIRST_BUMP + len(marks.BUMP_POINTS)] / size - 0.5
    width = (
        marks.BUMP_SIZE
        * np.array([max(float(turn[0, 0]), 0.6), 1.0], np.float32)
        * np.float32(unit / size)
    )
    bells = np.exp(
        _quadratics(where, width, float(np.arctan2(turn[1, 0], turn[0, 0]))) @ _grid(cells)
    )
    height, shadow = (weight.astype(np.float32) @ bells).reshape(2, cells, cells)
    slope = 0.5 * unit / size * cells
    gy, gx = np.zeros_like(height), np.zeros_like(height)
    gy[1:-1], gx[:, 1:-1] = height[2:] - height[:-2], height[:, 2:] - height[:, :-2]
    x, y = (_grid(cells)[1:3] * (size / unit)).reshape(2, cells, cells)
    ball_x = (x - float(centre[0] / size - 0.5) * size / unit) / 1.22
    ball_y = (y - float(centre[1] / size - 0.5) * size / unit) / 1.75
    ball_z = np.sqrt(np.clip(1 - ball_x**2 - ball_y**2, 0.12, 1))
    nx, ny = ball_x / ball_z * 0.8 - slope * gx, ball_y / ball_z * 0.7 - slope * gy
    facing = (nx * scene.light[0] + ny * scene.light[1] + scene.light[2]) / np.sqrt(
        1 + nx * nx + ny * ny
    )
    lit = scene.ambient + (1 - scene.ambient) * 1.25 * np.maximum(facing, 0)
    low = np.clip(LIT * lit * (1 + shadow), 0, 255).astype(np.uint8)
    return np.asarray(cv2.resize(low, (size, size), interpolation=cv2.INTER_LINEAR), np.uint8)


def _quadratics(where: Array, width: Array, angle: float) -> Array:
    """(bumps, 6): exponents of the bells as polynomials over `_grid`."""
    c, s = np.cos(angle), np.sin(angle)
    u, v = 0.5 / width.T**2
    xx, xy, yy = c * c * u + s * s * v, 2 * c * s * (u - v), s * s * u + c * c * v
    x, y = where.T
    constant = xx * x * x + xy * x * y + yy * y * y
    terms = np.stack([constant, -(2 * xx * x + xy * y), -(2 * yy * y + xy * x), xx, xy, yy], 1)
    return (-terms).astype(np.float32)


def _creases(person: Identity, amount: Array, flat: Array, size: int) -> Image:
    """(S, S) darkness 0 to 255."""
    layer = np.zeros((size, size), np.uint8)
    pen = size / 112
    strength = crease_strength(person, amount[:2])
    level = np.ceil(strength * _LEVELS - 0.5).astype(int)
    curves = fixed(_THROUGH_FOUR @ flat[_FIRST_CREASE:_FIRST_BUMP].reshape(-1, 4, 2))
    thick = np.maximum(np.rint(_WIDTH * (0.6 + 0.7 * strength) * pen), 1).astype(int)
    for step in range(1, _LEVELS + 1):
        shade = 255.0 * step / _LEVELS
        for width in np.unique(thick[level == step]).tolist():
            lines = curves[(level == step) & (thick == width)]
            # The ends fade: a thin faint line first, then its middle at full width.
            cv2.polylines(
                layer, [*lines], False, 0.6 * shade, max(1, round(0.6 * width)), cv2.LINE_AA, 4
            )
            cv2.polylines(layer, [*lines[:, 1:-1]], False, shade, width, cv2.LINE_AA, 4)
    for spot, value in zip(flat[len(person.rest) :], person.spot_strength, strict=True):
        radius = (0.4 + 0.9 * value) * pen
        cv2.circle(
            layer, fixed(spot).tolist(), round(radius * 16), float(255 * value), -1, cv2.LINE_AA, 4
        )
    return np.asarray(cv2.GaussianBlur(layer, (0, 0), 0.55 * pen), np.uint8)


def paint_skin(canvas: Canvas, person: Identity, index: Image, mask: Image) -> None:
    """Colour the masked part of the canvas by the brightness index (S, S)."""
    cv2.copyTo(cv2.applyColorMap(index, person.ramp), mask, canvas.image)
