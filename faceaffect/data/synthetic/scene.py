"""One picture: all that changes from one to the next, and the actions of the face."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from faceaffect.data.synthetic.facs import AUS, COLUMN
from faceaffect.data.synthetic.geometry import Array

MAX_YAW = np.deg2rad(30)
MAX_TILT = np.deg2rad(15)

# Where the evidence of an AU lies, (x, y, half width, half height) in face units: what an occluder
# has to cover.
_REGION = {
    **dict.fromkeys((1, 2, 4), (0.0, -0.38, 0.85, 0.30)),
    **dict.fromkeys((5, 6, 7, 43), (0.0, 0.03, 0.95, 0.22)),
    9: (0.0, 0.12, 0.32, 0.38),
    **dict.fromkeys((10, 12, 14, 15, 20, 23, 24, 25, 26), (0.0, 0.80, 0.68, 0.42)),
    17: (0.0, 1.05, 0.45, 0.30),
}


@dataclass(frozen=True)
class Scene:
    """Everything about one picture except the person.

    Attributes:
        amount: (2, 18) what is drawn of each AU, intensity / 5, on the right and the left of the
            image.
        pose: (3,) pitch, yaw, roll in radians.
        zoom: size of the face relative to the normal crop.
        shift: (2,) offset of the face, in shares of the image.
        light: (3,) unit vector towards the lamp.
        ambient: share of light that comes from everywhere.
        tint: (3,) gain of R, G, B.
        gamma: exponent of the exposure.
        gaze: (2,) offset of the irises in face units.
        backdrop: (k, k, 3) colours that are spread over the background.
        clothes: (3,) colour.
        occluders: each (polygon in face units (K, 2), colour).
        blur: sigma in pixels of a 112 px face.
        noise: sigma in grey levels.
        grain: (2,) where the noise tile is cut.
        jpeg: quality, or 0 for none.
        texture: seed of the hair strands.
    """

    amount: Array
    pose: Array
    zoom: float
    shift: Array
    light: Array
    ambient: float
    tint: Array
    gamma: float
    gaze: Array
    backdrop: npt.NDArray[np.uint8]
    clothes: Array
    occluders: tuple[tuple[Array, Array], ...]
    blur: float
    noise: float
    grain: tuple[int, int]
    jpeg: int


def plain_scene(
    grades: Mapping[int, float],
    pose: tuple[float, float, float] = (0.0, 0.0, 0.0),
    *,
    one_sided: bool = False,
) -> Scene:
    """A studio picture of the given AU intensities: no noise, no occluder, soft light.

    Args:
        grades: {AU: intensity 0 to 5}.
        pose: pitch, yaw, roll in radians.
        one_sided: draw AU12 and AU14 mainly on the right of the image, as in contempt.
    """
    amount = np.zeros((2, len(AUS)), np.float32)
    for au, grade in grades.items():
        amount[:, COLUMN[au]] = grade / 5
    if one_sided:
        _weaken(amount[1])
    return Scene(
        amount=amount, pose=np.array(pose, np.float32), zoom=1.0, shift=np.zeros(2, np.float32),
        light=_direction(-0.45, 0.5), ambient=0.45, tint=np.ones(3, np.float32), gamma=1.0,
        gaze=np.zeros(2, np.float32), backdrop=np.array([[(206, 214, 222)], [(178, 188, 200)]],
        np.uint8),
        clothes=np.array((92, 108, 132), np.float32), occluders=(), blur=0.0, noise=0.0, grain=(0,
        0), jpeg=0,
    )  # fmt: skip


def draw_scene(
    rng: np.random.Generator,
    grades: npt.NDArray[np.float32],
    *,
    one_sided: bool = False,
    occlusion: float = 0.08,
    hide: dict[int, float] | None = None,
) -> Scene:
    """A random picture of someone who shows these AU intensities.

    Args:
        rng: source of all that is random.
        grades: (18,) intensity 0 to 5.
        one_sided: draw AU12 and AU14 mainly on one side, as in contempt.
        occlusion: probability of a random object before the face.
        hide: {AU: probability that an object covers its evidence}.
    """
    return Scene(
        amount=_amount(rng, grades, one_sided),
        pose=_pose(rng),
        zoom=float(rng.uniform(0.95, 1.06)),
        shift=rng.normal(0, 0.012, 2).astype(np.float32),
        light=_direction(rng.uniform(-1.1, 1.1), rng.uniform(0.05, 0.9)),
        ambient=float(rng.uniform(0.38, 0.68)),
        tint=(rng.uniform(0.84, 1.12) * rng.normal(1, 0.035, 3)).astype(np.float32),
        gamma=float(rng.uniform(0.85, 1.2)),
        gaze=(rng.normal(0, 1, 2) * (0.025, 0.012)).astype(np.float32),
        backdrop=_backdrop(rng),
        clothes=rng.uniform(30, 225, 3).astype(np.float32),
        occluders=_occluders(rng, occlusion, hide or {}),
        blur=float(max(0.0, rng.uniform(-0.4, 0.65))),
        noise=float(rng.uniform(0, 5.5)),
        grain=(int(rng.integers(0, 256)), int(rng.integers(0, 256))),
        jpeg=int(rng.integers(55, 96)) if rng.random() < 0.7 else 0,
    )


def move_scene(scene: Scene, amount: Array, pose: Array, grain: tuple[int, int]) -> Scene:
    """The same picture a moment later."""
    return replace(scene, amount=amount, pose=pose, grain=grain)


def _amount(rng: np.random.Generator, grades: npt.NDArray[np.float32], one_sided: bool) -> Array:
    """A grade covers a range of strengths, and the two sides are never quite equal."""
    strength = np.where(grades > 0, grades + rng.uniform(-0.3, 0.3, len(AUS)), 0.0)
    tilt = rng.normal(0, 0.09, len(AUS))
    sides = np.stack([strength * (1 + tilt), strength * (1 - tilt)])
    if one_sided:
        _weaken(sides[int(rng.integers(2))])
    return np.clip(sides / 5, 0, 1.05).astype(np.float32)


def _weaken(side: npt.NDArray[np.floating[Any]]) -> None:
    """Leave a trace of AU12 and AU14 on this side (18,), in place."""
    side[[COLUMN[12], COLUMN[14]]] *= 0.25


def _pose(rng: np.random.Generator) -> Array:
    pitch, roll = np.clip(rng.normal(0, MAX_TILT / 2.4, 2), -MAX_TILT, MAX_TILT)
    yaw = np.clip(rng.normal(0, MAX_YAW / 2.2), -MAX_YAW, MAX_YAW)
    return np.array([pitch, yaw, roll], np.float32)


def _direction(azimuth: float, elevation: float) -> Array:
    """Unit vector (y down) towards a lamp right of and above the viewer, angles in radians."""
    return np.array(
        [
            np.sin(azimuth) * np.cos(elevation),
            -np.sin(elevation),
            np.cos(azimuth) * np.cos(elevation),
        ],
        np.float32,
    )


def _backdrop(rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    side = int(rng.choice((1, 2, 2, 4, 7)))
    base = rng.uniform(30, 225) + rng.normal(0, 22, 3)
    grey, colour = (
        rng.normal(0, rng.uniform(4, 50), (side, side, 1)),
        rng.normal(0, 12, (side, side, 3)),
    )
    return np.clip(base + grey + colour, 0, 255).astype(np.uint8)


def _occluders(
    rng: np.random.Generator, occlusion: float, hide: dict[int, float]
) -> tuple[tuple[Array, Array], ...]:
    out = []
    if rng.random() < occlusion:
        angle = rng.uniform(0, 2 * np.pi)
        centre = (0.75 * np.cos(angle), 0.25 + 0.95 * np.sin(angle))
        out.append(_object(rng, centre, rng.uniform(0.18, 0.34, 2)))
    for au, share in sorted(hide.items()):
        if rng.random() < share:
            x, y, width, height = _REGION[au]
            out.append(_object(rng, (x, y), np.array((width, height)) * 1.1))
    return tuple(out)


def _object(
    rng: np.random.Generator, centre: tuple[float, float], size: npt.NDArray[np.float64]
) -> tuple[Array, Array]:
    """A rounded shape: superellipse with wobble."""
    t = np.linspace(0, 2 * np.pi, 20, endpoint=False)
    power = rng.uniform(0.4, 1.0)
    ring = np.stack([np.sign(f(t)) * np.abs(f(t)) ** power for f in (np.cos, np.sin)], 1)
    ring *= rng.uniform(0.94, 1.06, (20, 1))
    return (ring * size + np.array(centre)).astype(np.float32), rng.uniform(25, 230, 3).astype(
        np.float32
    )
