"""The bare skin: light on the relief of the face, creases, spots."""

from functools import lru_cache
from typing import Final

import cv2
import numpy as np

from faceaffect.data.synthetic import marks
from faceaffect.data.synthetic.canvas import Face, Image, fixed
from faceaffect.data.synthetic.geometry import TEMPLATE, Array
from faceaffect.data.synthetic.identity import Identity

_FIRST_CREASE: Final = len(TEMPLATE)
_FIRST_BUMP: Final = _FIRST_CREASE + len(marks.CREASE_POINTS)
_WIDTH: Final = np.tile(marks.CREASE_WIDTH, 2)
_LEVELS: Final = 10
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
    drawn = np.clip(marks.visible(amount) @ marks.CREASE_AUS.T, 0, 1).reshape(-1)
    return np.asarray(1 - (1 - person.crease) * (1 - 0.95 * drawn), np.float32)


def brightness(face: Face, middle: Array) -> Image:
    """(S, S) index into the skin ramp: relief under the lamp, creases and spots.

    Drawn at half the resolution of the canvas, which is that of the picture it becomes.

    Args:
        face: what is painted.
        middle: (2,) pixel in the middle of the head.
    """
    size = (face.seen.size + 1) // 2
    shade, dark = _relief(face, middle, size), _creases(face, size)
    cv2.addWeighted(shade, 1.0, dark, -0.34, 0, dst=shade)
    # Light catches the far lip of a furrow: the same furrow, brighter, a step away from the lamp.
    dx, dy = (round(float(step) * -1.4 * size / 112) for step in face.scene.light[:2])
    to, source = _shifted(dx, dy, size), _shifted(-dx, -dy, size)
    lit = shade[to]
    cv2.addWeighted(lit, 1.0, dark[source], 0.11, 0, dst=lit)
    return np.asarray(cv2.resize(shade, (face.seen.size,) * 2), np.uint8)


def _shifted(dx: int, dy: int, size: int) -> tuple[slice, slice]:
    """The part of an image that a shift by (dx, dy) fills."""
    return slice(max(dy, 0), size + min(dy, 0)), slice(max(dx, 0), size + min(dx, 0))


@lru_cache(maxsize=8)
def _grid(cells: int) -> Array:
    """1, x, y, x², xy, y² of the cell centres (6, cells**2), in image sides from the middle."""
    axis = (np.arange(cells, dtype=np.float32) + 0.5) / cells - 0.5
    y, x = (a.ravel() for a in np.meshgrid(axis, axis, indexing="ij"))
    return np.stack([np.ones_like(x), x, y, x * x, x * y, y * y])


def _relief(face: Face, middle: Array, size: int) -> Image:
    """Light on an ellipsoid with Gaussian bumps, computed at half of `size`: it is soft."""
    seen, lamp, ambient = face.seen, face.scene.light, face.scene.ambient
    cells = max(size // 2, 24)
    height, shadow = _bumps(face, cells)
    slope = 0.5 * seen.unit / seen.size * cells
    gy, gx = np.zeros_like(height), np.zeros_like(height)
    gy[1:-1], gx[:, 1:-1] = height[2:] - height[:-2], height[:, 2:] - height[:, :-2]
    x, y = _grid(cells)[1:3].reshape(2, cells, cells)
    units = seen.size / seen.unit
    ball_x = (x - float(middle[0] / seen.size - 0.5)) * np.float32(units / 1.22)
    ball_y = (y - float(middle[1] / seen.size - 0.5)) * np.float32(units / 1.75)
    ball_z = np.sqrt(np.clip(1 - ball_x**2 - ball_y**2, 0.12, 1))
    nx, ny = ball_x / ball_z * 0.8 - slope * gx, ball_y / ball_z * 0.7 - slope * gy
    facing = nx * lamp[0] + ny * lamp[1] + lamp[2]
    facing = np.maximum(facing, 0) / np.sqrt(1 + nx * nx + ny * ny)
    lit = ambient + (1 - ambient) * 1.25 * facing
    low = np.clip(LIT * lit * np.maximum(1 + shadow, 0.62), 0, 255).astype(np.uint8)
    return np.asarray(cv2.resize(low, (size, size)), np.uint8)


def _bumps(face: Face, cells: int) -> Array:
    """(2, cells, cells): height in face units and darkening, of rest and actions together."""
    amount, seen = marks.visible(face.scene.amount), face.seen
    sides = np.concatenate([amount, amount.mean(0, keepdims=True)])
    weight = face.person.relief + (marks.BUMP_AUS * sides[_BUMP_SIDE]).sum(-1)
    pixels = face.flat[_FIRST_BUMP : _FIRST_BUMP + len(marks.BUMP_POINTS)]
    where = np.asarray(pixels / seen.size - 0.5, np.float32)
    shrink = np.array([max(seen.breadth, 0.6), 1.0]) * seen.unit / seen.size
    width = np.asarray(marks.BUMP_SIZE * shrink, np.float32)
    bells = np.exp(_quadratics(where, width, seen.roll) @ _grid(cells))
    return np.asarray((weight @ bells).reshape(2, cells, cells), np.float32)


def _quadratics(where: Array, width: Array, angle: float) -> Array:
    """(bumps, 6): exponents of the bells as polynomials over `_grid`."""
    c, s = np.cos(angle), np.sin(angle)
    u, v = 0.5 / width.T**2
    xx, xy, yy = c * c * u + s * s * v, 2 * c * s * (u - v), s * s * u + c * c * v
    x, y = where.T
    constant = xx * x * x + xy * x * y + yy * y * y
    terms = np.stack([constant, -(2 * xx * x + xy * y), -(2 * yy * y + xy * x), xx, xy, yy], 1)
    return (-terms).astype(np.float32)


def _creases(face: Face, size: int) -> Image:
    """(size, size) darkness 0 to 255."""
    layer = np.zeros((size, size), np.uint8)
    pen, ratio = size / 112, size / face.seen.size
    flat = (face.flat[_FIRST_CREASE:] + 0.5) * ratio - 0.5
    strength = crease_strength(face.person, face.scene.amount)
    level = np.ceil(strength * _LEVELS - 0.5).astype(int)
    curves = fixed(_THROUGH_FOUR @ flat[: 4 * len(level)].reshape(-1, 4, 2))
    thick = np.maximum(np.rint(_WIDTH * (0.6 + 0.7 * strength) * pen), 1).astype(int)
    for step, width in sorted(set(zip(level.tolist(), thick.tolist(), strict=True))):
        if step:
            lines = curves[(level == step) & (thick == width)]
            shade = 255.0 * step / _LEVELS
            cv2.polylines(layer, [*lines], False, shade, width, cv2.LINE_AA, 4)
    spots = fixed(flat[len(flat) - len(face.person.spots) :]).tolist()
    for spot, value in zip(spots, face.person.spot_strength.tolist(), strict=True):
        radius = round((0.4 + 0.9 * value) * pen * 16)
        cv2.circle(layer, spot, radius, 255 * value, -1, cv2.LINE_AA, 4)
    return np.asarray(cv2.GaussianBlur(layer, (0, 0), 0.55 * pen), np.uint8)


def paint_skin(face: Face, middle: Array, mask: Image) -> None:
    """Colour the masked part of the canvas; `middle` as for `brightness`."""
    cv2.copyTo(
        cv2.applyColorMap(brightness(face, middle), face.person.ramp), mask, face.canvas.image
    )
