"""What surrounds the face: background, hair, ears, neck, beard, and objects before it."""

from typing import Final

import cv2
import numpy as np

from faceaffect.data.synthetic.canvas import Canvas, Face, Image, circle, fixed
from faceaffect.data.synthetic.geometry import INDEX, Array, at, spline
from faceaffect.data.synthetic.identity import Identity
from faceaffect.data.synthetic.scene import Scene

_JAW = (
    [at(f"jaw{i}", side=1)[0] for i in range(16, 8, -1)]
    + at("jaw8")
    + [at(f"jaw{i}", side=0)[0] for i in range(9, 17)]
)
_SKULL = (
    [at(f"skull{i}", side=0)[0] for i in (1, 2, 3, 4)]
    + at("skull0")
    + [at(f"skull{i}", side=1)[0] for i in (4, 3, 2, 1)]
)
# Hairline from the right temple over the forehead to the left one, (x, y, z).
_HAIRLINE: Final = np.array(
    [
        (1.00, -0.02, 0.0),
        (0.90, -0.30, 0.15),
        (0.80, -0.58, 0.28),
        (0.52, -0.80, 0.42),
        (0.0, -0.86, 0.52),
    ],
    np.float32,
)
_MIDDLE_WEIGHT: Final = np.array([0.0, 0.2, 0.6, 0.9, 1.0], np.float32)


def face_outline(flat: Array) -> Array:
    """(72, 2) polygon of the head without ears."""
    return spline(len(_JAW) + len(_SKULL), 72, closed=True) @ flat[_JAW + _SKULL]


def backdrop(scene: Scene, size: int) -> Image:
    """(S, S, 3): a few colours, smoothly spread."""
    return np.asarray(
        cv2.resize(scene.backdrop, (size, size), interpolation=cv2.INTER_LINEAR), np.uint8
    )


def ears(person: Identity) -> Array:
    """(24, 3): two ellipses at the ends of the jaw."""
    halves = []
    for name, sign in (("jaw16:r", 1), ("jaw16:l", -1)):
        root = person.rest[INDEX[name]]
        ring = np.column_stack([circle(12) * (0.085 * sign, 0.19), np.full(12, -0.12)])
        halves.append(ring + np.array((root[0] + 0.03 * sign, root[1] + 0.20, 0.0)))
    return np.concatenate(halves).astype(np.float32)


def paint_body(face: Face) -> None:
    """Neck and shoulders, behind the head."""
    canvas, scene, flat, light = face.canvas, face.scene, face.flat, face.light
    unit, size = canvas.unit, canvas.image.shape[0]
    right, left = flat[INDEX["jaw12:r"]], flat[INDEX["jaw12:l"]]
    middle = 0.5 * (right + left)
    down = np.array((0.0, unit), np.float32)
    half = np.array((0.58 * unit, 0.0), np.float32)
    neck = np.stack(
        [middle - half, middle + half, middle + half * 1.1 + down, middle - half * 1.1 + down]
    )
    canvas.fill(neck, face.person.ramp[96, 0] * light)
    line = middle[1] + 0.72 * unit
    if line < size:
        cloth = np.array([(0, size), (0, line + 0.25 * unit), (middle[0] - 0.7 * unit, line),
                          (middle[0], line + 0.22 * unit), (middle[0] + 0.7 * unit, line), (size,
                          line + 0.25 * unit),
                          (size, size)], np.float32)  # fmt: skip
        canvas.fill(cloth, scene.clothes * light)


def paint_hair_behind(face: Face) -> None:
    """What shows beside and below the head."""
    canvas, person, flat, light = face.canvas, face.person, face.flat, face.light
    if person.hair_style in ("bald",):
        return
    outline = flat[_SKULL]
    middle = flat[[INDEX["jaw16:r"], INDEX["jaw16:l"]]].mean(0)
    grow = {
        "short": 1.05,
        "receding": 1.03,
        "bun": 1.05,
        "curly": 1.22,
        "side": 1.09,
        "fringe": 1.10,
        "long": 1.14,
    }
    ring = middle + (outline - middle) * grow[person.hair_style]
    if person.hair_style in ("long", "fringe"):
        down = np.array((0.0, canvas.unit), np.float32)
        length = 1.5 if person.hair_style == "long" else 0.95
        ring = np.concatenate([
            (flat[INDEX["jaw15:r"]] * 1.12 - middle * 0.12 + down * length)[None], ring,
            (flat[INDEX["jaw15:l"]] * 1.12 - middle * 0.12 + down * length)[None],
        ])  # fmt: skip
        canvas.fill(ring, person.hair * (0.72 * light))
        return
    canvas.fill(spline(len(ring), 30) @ ring, person.hair * (0.85 * light))


def hairline(person: Identity) -> Array:
    """(9, 3): the border of the hair on the forehead, right to left, in face units."""
    half = _HAIRLINE.copy()
    top, corner, side = person.hairline
    rise = {"receding": (-0.05, -0.16), "fringe": (0.34, 0.10), "bun": (-0.02, -0.02)}.get(
        person.hair_style, (0.0, 0.0)
    )
    half[:, 1] += (top + rise[0]) * _MIDDLE_WEIGHT + 0.5 * side
    half[2:4, 1] += corner + rise[1]
    left = half[-2::-1] * (-1, 1, 1)
    return np.concatenate([half, left]).astype(np.float32)


def paint_hair(face: Face, border: Array) -> None:
    """The hair over the top of the head, from the pixels of its border (9, 2)."""
    canvas, person, flat, light = face.canvas, face.person, face.flat, face.light
    if person.hair_style == "bald":
        return
    middle = flat[[INDEX["jaw16:r"], INDEX["jaw16:l"]]].mean(0)
    grow = {"curly": 1.22, "long": 1.12, "side": 1.09, "fringe": 1.10}.get(person.hair_style, 1.05)
    crown = middle + (flat[_SKULL] - middle) * grow
    low = border
    if person.hair_style == "side":
        # A parting: the hair hangs deeper on one side.
        low = (
            low
            + np.linspace(-0.02, 0.16, 9, dtype=np.float32)[:, None]
            * (0, canvas.unit)
            * np.sin(np.linspace(0, np.pi, 9, dtype=np.float32))[:, None]
        )
    inner = spline(9, 25) @ low
    if person.hair_style == "curly":
        bump = 0.03 * canvas.unit * np.abs(np.sin(np.arange(25) * 1.3))
        inner = inner + np.stack([np.zeros(25), bump], 1)
    outer = spline(9, 25) @ crown
    canvas.fill(np.concatenate([outer, inner[::-1].astype(np.float32)]), person.hair * light)
    for share, tone in ((0.2, 1.11), (0.45, 0.86), (0.7, 1.08), (0.9, 0.84)):
        strand = outer + (inner - outer) * share
        canvas.line(strand[2:-2], np.minimum(person.hair * (tone * light), 255), 1.2)


def paint_beard(face: Face) -> None:
    """Beard and moustache, thin enough to see the skin through."""
    canvas, person, flat = face.canvas, face.person, face.flat
    colour = person.hair * (0.8 * face.light)
    if person.beard:
        jaw = flat[_JAW[2:-2]]
        mouth = flat[
            at("corner", "lip_low2", side=0) + at("lip_low0") + at("lip_low2", "corner", side=1)
        ]
        middle = flat[INDEX["lip_low0"]]
        inner = middle + (mouth - middle) * (1.35, 1.1)
        ring = np.concatenate([jaw, inner.astype(np.float32)])
        canvas.fill(ring, colour, person.beard, blur=1.6 * canvas.pen)
    if person.moustache:
        lip = flat[
            at("corner", "lip_up2", side=1) + at("lip_up0") + at("lip_up2", "corner", side=0)
        ]
        nose = flat[at("ala", side=1) + at("subnasal") + at("ala", side=0)]
        ring = np.concatenate([lip, (0.45 * nose + 0.55 * lip[[1, 2, 3]])[::-1]])
        canvas.fill(ring.astype(np.float32), colour, person.moustache, blur=0.8 * canvas.pen)


def paint_occluders(face: Face) -> None:
    """Objects before the face; they move with it."""
    for shape, colour in face.scene.occluders:
        solid = np.column_stack([shape, np.full(len(shape), 0.9, np.float32)])
        ring = spline(len(shape), 3 * len(shape), closed=True) @ face.seen.project(solid)
        face.canvas.fill(ring, colour)
        face.canvas.line(np.concatenate([ring, ring[:1]]), colour * 0.7, 1.0)


def skin_mask(canvas: Canvas, outline: Array, ear: Array) -> Image:
    """(S, S) 255 where the head and its ears are."""
    mask = np.zeros(canvas.image.shape[:2], np.uint8)
    cv2.fillPoly(mask, [fixed(outline)], 255.0, cv2.LINE_8, 4)
    for ring in (ear[:12], ear[12:]):
        cv2.fillPoly(mask, [fixed(ring)], 255.0, cv2.LINE_8, 4)
    return mask
