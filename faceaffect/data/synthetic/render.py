"""From a person and a scene to a picture and its exact landmarks."""

from functools import lru_cache
from typing import Any, Final, NamedTuple

import cv2
import numpy as np

from faceaffect.data.synthetic import dressing, face_parts, geometry, marks, skin
from faceaffect.data.synthetic.canvas import Canvas, Face, Image
from faceaffect.data.synthetic.geometry import LANDMARKS, TEMPLATE, Array, View, rotation
from faceaffect.data.synthetic.identity import Identity
from faceaffect.data.synthetic.scene import Scene
from faceaffect.data.synthetic.turning import far_round, paint_back, side_outline

_FOLLOW = np.concatenate([np.eye(len(TEMPLATE), dtype=np.float32), marks.MARK_WEIGHTS])
_FIELDS: Final = np.einsum("mn,sanc->samc", _FOLLOW, geometry.ACTION_FIELDS).reshape(
    2 * geometry.ACTION_FIELDS.shape[1], -1
)
"""(2 * AUs, (N + M) * 3): what every action moves, marks included."""
_NOISE: Final = 30.0
_LEVEL: Final = np.linspace(0, 1, 256)[:, None]


class Picture(NamedTuple):
    """One rendered face.

    Attributes:
        image: (S, S, 3) RGB.
        landmarks: (68, 2) iBUG order, pixels of `image`, whole numbers at pixel centres.
    """

    image: Image
    landmarks: Array


def shape(person: Identity, amount: Array) -> Array:
    """Points of the face and its marks (N + M, 3), for actions `amount` (2, 18) of 0 to 1."""
    side = np.exp(person.asymmetry * np.array([[0.5], [-0.5]], np.float32))
    moved = person.rest + ((amount * side).ravel() @ _FIELDS).reshape(-1, 3)
    geometry.deform(moved, amount)
    return np.asarray(moved, np.float32)


def view(scene: Scene, size: int) -> View:
    """How the scene's camera sees the face on an image of `size` pixels."""
    centre = size * (np.array((0.5, 0.505)) + scene.shift) - 0.5
    unit = size / 112 * 45.5 * scene.zoom
    return View(rotation(*scene.pose), unit, (float(centre[0]), float(centre[1])), size)


def landmarks(person: Identity, scene: Scene, size: int) -> Array:
    """(68, 2) landmarks in pixels of an image of `size` pixels, without drawing it."""
    return view(scene, size).project(shape(person, scene.amount)[LANDMARKS])


def render(person: Identity, scene: Scene, size: int = 112) -> Picture:
    """Draw a face on an image of `size` x `size` pixels.

    Small images are drawn at twice their size and averaged down, which is what smooths their edges.
    """
    drawn = max(size, min(2 * size, 288))
    points = shape(person, scene.amount)
    image = _draw(person, scene, points, drawn)
    if drawn != size:
        image = np.asarray(cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA), np.uint8)
    return Picture(_camera(image, scene), view(scene, size).project(points[LANDMARKS]))


def _draw(person: Identity, scene: Scene, points: Array, size: int) -> Image:
    seen = view(scene, size)
    canvas = Canvas(dressing.backdrop(scene, size), seen.unit)
    parts = [points, person.spots, dressing.hairline(person)]
    flat, ear = seen.project(np.concatenate(parts)), seen.project(dressing.ears(person))
    flat, border = flat[: -len(parts[-1])], flat[-len(parts[-1]) :]
    outline, side = dressing.face_outline(flat), far_round(scene)
    if side:
        outline = side_outline(outline, flat)
    light = scene.ambient + (1 - scene.ambient) * 1.25 * float(scene.light[2])
    face = Face(canvas, person, scene, flat, seen, float(np.clip(light, 0.55, 1.12)))
    if side:
        paint_back(face)
    dressing.paint_hair_behind(face)
    dressing.paint_body(face)
    middle = 0.5 * (outline.min(0) + outline.max(0))
    skin.paint_skin(face, middle, dressing.skin_mask(canvas, outline, ear))
    dressing.paint_beard(face)
    face_parts.paint_nose(face)
    face_parts.paint_mouth(face)
    face_parts.paint_eyes(face)
    face_parts.paint_brows(face)
    dressing.paint_hair(face, border)
    if person.glasses:
        face_parts.paint_glasses(face)
    dressing.paint_occluders(face)
    return canvas.image


@lru_cache(maxsize=4)
def _noise(size: int) -> Image:
    """A tile of noise, mean 128, sigma `_NOISE`; cut anew for each picture, as drawing is slow."""
    noise = np.random.Generator(np.random.PCG64(7)).standard_normal((size, size, 3), np.float32)
    return np.asarray(np.clip(128.5 + _NOISE * noise, 0, 255), np.uint8)


def _camera(image: Image, scene: Scene) -> Image:
    """Exposure, lens, sensor and file: tint and gamma, blur, noise, JPEG."""
    size = image.shape[0]
    level = _LEVEL**scene.gamma * scene.tint * 255
    shot: Any = cv2.LUT(image, np.clip(level, 0, 255).astype(np.uint8)[:, None])
    if scene.blur > 0.15:
        shot = cv2.GaussianBlur(shot, (0, 0), scene.blur * size / 112)
    if scene.noise > 0:
        top, left = scene.grain
        grain = _noise(size + 256)[top : top + size, left : left + size]
        share = scene.noise / _NOISE
        shot = cv2.addWeighted(shot, 1.0, grain, share, -128 * share)
    if scene.jpeg:
        _, code = cv2.imencode(".jpg", shot, [cv2.IMWRITE_JPEG_QUALITY, scene.jpeg])
        shot = cv2.imdecode(code, cv2.IMREAD_COLOR)
    return np.asarray(shot, np.uint8)
