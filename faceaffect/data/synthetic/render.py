"""From a person and a scene to a picture and its exact landmarks."""

from functools import lru_cache
from typing import Any, Final, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from faceaffect.data.synthetic import dressing, features, geometry, marks, skin
from faceaffect.data.synthetic.canvas import Canvas, Image
from faceaffect.data.synthetic.geometry import LANDMARKS, TEMPLATE, Array
from faceaffect.data.synthetic.identity import Identity
from faceaffect.data.synthetic.scene import Scene

_FOLLOW = np.concatenate([np.eye(len(TEMPLATE), dtype=np.float32), marks.MARK_WEIGHTS])
_FIELDS: Final = np.einsum("mn,sanc->samc", _FOLLOW, geometry.ACTION_FIELDS).reshape(
    2 * geometry.ACTION_FIELDS.shape[1], -1
)
"""(2 * AUs, (N + M) * 3): what every action moves, marks included."""
_TILE: Final = 512


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


def view(scene: Scene, size: int) -> tuple[float, tuple[float, float]]:
    """Pixels per face unit, and where the middle of the face lies on an image of `size` pixels."""
    unit = size / 112 * 42.5 * scene.zoom
    return unit, (
        size * (0.5 + float(scene.shift[0])) - 0.5,
        size * (0.515 + float(scene.shift[1])) - 0.5,
    )


def landmarks(person: Identity, scene: Scene, size: int) -> Array:
    """(68, 2) landmarks in pixels of an image of `size` pixels, without drawing it."""
    unit, centre = view(scene, size)
    points = shape(person, scene.amount)[LANDMARKS]
    return geometry.project(points, geometry.rotation(*scene.pose), unit, centre)


def render(person: Identity, scene: Scene, size: int = 112) -> Picture:
    """Draw a face on an image of `size` x `size` pixels.

    Small images are drawn at twice their size and averaged down, which is what smooths their edges.
    """
    drawn = max(size, min(2 * size, 288))
    image = _draw(person, scene, drawn)
    if drawn != size:
        image = np.asarray(cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA), np.uint8)
    return Picture(_camera(image, scene), landmarks(person, scene, size))


def _draw(person: Identity, scene: Scene, size: int) -> Image:
    turn = geometry.rotation(*scene.pose)
    unit, centre = view(scene, size)
    canvas = Canvas(dressing.backdrop(scene, size), unit)
    border, ear = dressing.hairline(person), dressing.ears(person)
    solid = np.concatenate([shape(person, scene.amount), person.spots, border, ear])
    flat = geometry.project(solid, turn, unit, centre)
    flat, ear_flat, border_flat = flat[:-33], flat[-24:], flat[-33:-24]
    outline = dressing.face_outline(flat)
    light = float(np.clip(scene.ambient + (1 - scene.ambient) * 1.25 * scene.light[2], 0.55, 1.12))
    middle = 0.5 * (outline.min(0) + outline.max(0))
    index = skin.brightness(person, scene, flat, turn, unit, middle, size)
    dressing.paint_hair_behind(canvas, person, flat, light)
    dressing.paint_body(canvas, person, scene, flat, light)
    mask = dressing.skin_mask(canvas, outline, ear_flat)
    skin.paint_skin(canvas, person, index, mask)
    dressing.paint_beard(canvas, person, flat, light)
    features.paint_nose(canvas, person, flat, light)
    features.paint_mouth(canvas, person, scene, flat, light)
    features.paint_eyes(canvas, person, scene, flat, turn, light)
    features.paint_brows(canvas, person, flat, light)
    dressing.paint_hair(canvas, person, flat, border_flat, light)
    if person.glasses:
        features.paint_glasses(
            canvas, person, geometry.project(features.glasses_points(person), turn, unit, centre)
        )
    dressing.paint_occluders(canvas, scene, turn, centre)
    return canvas.image


@lru_cache(maxsize=1)
def _noise() -> npt.NDArray[np.float32]:
    """A tile of unit noise, cut anew for each picture, since drawing fresh noise costs a lot."""
    return np.random.Generator(np.random.PCG64(7)).standard_normal((_TILE, _TILE, 3), np.float32)


def _camera(image: Image, scene: Scene) -> Image:
    """Exposure, lens, sensor and file: tint and gamma, blur, noise, JPEG."""
    size = image.shape[0]
    level = np.linspace(0, 1, 256)[:, None] ** scene.gamma * scene.tint * 255
    shot: Any = cv2.LUT(image, np.clip(level, 0, 255).astype(np.uint8)[:, None])
    if scene.blur > 0.15:
        shot = cv2.GaussianBlur(shot, (0, 0), scene.blur * size / 112)
    if scene.noise > 0:
        tile = _noise()
        while tile.shape[0] < size + 256:
            tile = np.tile(tile, (2, 2, 1))
        top, left = scene.grain
        grain = tile[top : top + size, left : left + size]
        shot = cv2.scaleAdd(grain, scene.noise, shot.astype(np.float32))
        shot = cv2.convertScaleAbs(np.maximum(shot, 0))
    if scene.jpeg:
        _, code = cv2.imencode(".jpg", shot, [cv2.IMWRITE_JPEG_QUALITY, scene.jpeg])
        shot = cv2.imdecode(code, cv2.IMREAD_COLOR)
    return np.asarray(shot, np.uint8)
