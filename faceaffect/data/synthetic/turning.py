"""Several cameras around one face: the same person and expression, seen from given sides."""

from collections.abc import Sequence
from dataclasses import replace

import cv2
import numpy as np
import numpy.typing as npt

from faceaffect.data.synthetic.canvas import Face, ellipse
from faceaffect.data.synthetic.facs import AUS
from faceaffect.data.synthetic.geometry import TEMPLATE, Array
from faceaffect.data.synthetic.scene import MAX_YAW, Scene, draw_scene
from faceaffect.data.synthetic.skin import LIT
from faceaffect.errors import DataError

MAX_VIEW = 60.0
"""Degrees to which a face may be turned; further round, its drawing has no far half to show."""

LEAST_APART = 1.0
"""Degrees by which two views differ at least."""


# The back of the head in face units: its middle, half width and half height.
_BACK, _BACK_RADII = np.array([(0.0, -0.18, -0.45)], np.float32), (0.92, 1.02)


def check_yaws(yaws: Sequence[float], clips: int) -> None:
    """Raise a DataError unless faces can be drawn at these yaws, in degrees."""
    if clips:
        raise DataError("synthetic: yaws are for pictures, and clips move by themselves")
    for yaw in yaws:
        if not -MAX_VIEW <= yaw <= MAX_VIEW:
            raise DataError(f"synthetic: yaws: {yaw:g}: from {-MAX_VIEW:g} to {MAX_VIEW:g} degrees")
    if len(yaws) < 2 or min(np.diff(sorted(yaws))) < LEAST_APART:
        raise DataError(f"synthetic: yaws: {list(yaws)}: at least two, a degree or more apart")


def yaw_names(yaws: Sequence[float]) -> dict[str, tuple[str, ...]]:
    """Class names of the attribute ``yaw``, from left to right; none where none is given."""
    return {"yaw": tuple(f"{yaw:g}" for yaw in sorted(yaws))} if yaws else {}


def yaw_column(yaws: Sequence[float], n: int) -> dict[str, npt.NDArray[np.int64]]:
    """The attribute ``yaw`` of n samples, whose views follow each other in the order given."""
    return {"yaw": np.argsort(np.argsort(yaws))[np.arange(n) % len(yaws)]} if yaws else {}


def turned(scene: Scene, yaw: float, rng: np.random.Generator) -> Scene:
    """Return how another camera, in other light before another background, sees a scene.

    What is of the person stays: the actions, where the eyes look, clothes and what is before the
    face; the head is nodded and tilted as it was. What is of the picture is drawn anew, so that
    views have nothing in common but the person and the expression.

    Args:
        scene: seen from anywhere.
        yaw: of the view, degrees; positive to the right of the image.
        rng: source of what is drawn anew.
    """
    other = draw_scene(rng, np.zeros(len(AUS), np.float32), occlusion=0.0)
    pose = np.array([scene.pose[0], np.deg2rad(yaw), scene.pose[2]], np.float32)
    return replace(
        other, amount=scene.amount, pose=pose, gaze=scene.gaze, clothes=scene.clothes,
        occluders=scene.occluders,
    )  # fmt: skip


def far_round(scene: Scene) -> bool:
    """Whether a face is turned further than faces are without `yaws`."""
    return bool(abs(scene.pose[1]) > MAX_YAW + 1e-3)


def side_outline(outline: Array, flat: Array) -> Array:
    """(K, 2) outline of a head that is turned far: brow, nose and lips reach beyond its far cheek.

    Args:
        outline: (N, 2) that of the skull and the jaw.
        flat: pixels of the named points and whatever follows.
    """
    points = np.concatenate([outline, flat[: len(TEMPLATE)]])
    return np.asarray(cv2.convexHull(points.astype(np.float32))[:, 0], np.float32)


def paint_back(face: Face) -> None:
    """The back of the head, which shows beside the near ear; hair, or skin of a bald head."""
    unit, person = face.canvas.unit, face.person
    bald = person.hair_style == "bald"
    colour = person.ramp[LIT - 20, 0].astype(np.float32) if bald else person.hair * 0.85
    ring = ellipse(face.seen.project(_BACK)[0], (_BACK_RADII[0] * unit, _BACK_RADII[1] * unit))
    face.canvas.fill(ring, colour * face.light)
