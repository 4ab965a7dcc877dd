"""Clips: an expression that grows from calm to its apex and fades again."""

import numpy as np

from faceaffect.data.synthetic.facs import AUS, COLUMN
from faceaffect.data.synthetic.geometry import Array
from faceaffect.data.synthetic.scene import MAX_TILT, MAX_YAW, Scene, move_scene


def envelope(time: Array, onset: float, apex: float, offset: float, end: float) -> Array:
    """Strength 0 to 1 over time, in cosine ramps.

    Rises from `onset` to `apex`, holds until `offset`, is gone at `end`.
    """
    rise = np.clip((time - onset) / max(apex - onset, 1e-6), 0, 1)
    fall = np.clip((time - offset) / max(end - offset, 1e-6), 0, 1)
    return np.asarray(0.25 * (1 - np.cos(np.pi * rise)) * (1 + np.cos(np.pi * fall)), np.float32)


def draw_clip(rng: np.random.Generator, scene: Scene, frames: int) -> list[Scene]:
    """The moments of a clip whose apex is `scene`.

    The face is calm in the first frame and, if there are at least three, in the last one, and
    reaches the amounts of `scene` in between. Of two frames the last is the apex; one alone is it.
    Actions start up to a tenth of the clip apart. People blink.
    """
    time = (
        np.linspace(0, 1, frames, dtype=np.float32) if frames > 1 else np.array([0.5], np.float32)
    )
    apex, offset = rng.uniform(0.3, 0.42), rng.uniform(0.58, 0.7)
    lag = rng.uniform(0, 0.1, len(AUS))
    strength = np.stack([envelope(time, 0.02 + a, apex, offset, 0.9 + a) for a in lag], 1)
    # The frame nearest the apex shows exactly the labelled intensities, however few frames there
    # are; of two, which are equally near, the last, since the first is calm.
    strength[1 if frames == 2 else int(np.abs(time - 0.5).argmin())] = 1.0
    shut = _blinks(rng, time)
    drift = rng.normal(0, (0.02, 0.05, 0.02), (2, 3))
    moments = []
    for t, share, lid in zip(time, strength, shut, strict=True):
        amount = scene.amount * share
        amount[:, COLUMN[43]] = np.maximum(amount[:, COLUMN[43]], lid)
        move = drift[0] * np.sin(np.pi * (t - 0.5)) + drift[1] * (np.cos(np.pi * (t - 0.5)) - 1)
        pose = np.clip(
            scene.pose + move, (-MAX_TILT, -MAX_YAW, -MAX_TILT), (MAX_TILT, MAX_YAW, MAX_TILT)
        )
        grain = (int(rng.integers(0, 256)), int(rng.integers(0, 256)))
        moments.append(move_scene(scene, amount.astype(np.float32), pose.astype(np.float32), grain))
    return moments


def _blinks(rng: np.random.Generator, time: Array) -> Array:
    """Lid closure 0 to 1: at most one short blink, away from the apex."""
    if rng.random() < 0.5 or len(time) < 6:
        return np.zeros_like(time)
    moment = rng.choice((rng.uniform(0.1, 0.25), rng.uniform(0.75, 0.9)))
    return np.asarray(np.clip(1 - np.abs(time - moment) / 0.06, 0, 1), np.float32)
