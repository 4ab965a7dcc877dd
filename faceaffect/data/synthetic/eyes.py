"""What people feel behind the face they show, and how their eyes move with it.

The eyes follow what is felt, never what is shown, and none of it is drawn into the picture. That
arousal widens the pupil, that sad eyes are cast down and dwell, that fear scans and disgust looks
away are old findings; every number here is ours.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from faceaffect.data.synthetic.clips import envelope
from faceaffect.data.synthetic.facs import AUS, EXPRESSIONS, PROTOTYPES

Floats = npt.NDArray[np.float32]

STEPS: Final = 32
"""Moments at which the eyes are measured, spread evenly over the clip."""

FIXATIONS: Final = 16
"""So many points are kept of where the eyes rested."""

EYES: Final = ("gaze_x", "gaze_y", "pupil", "lid")
"""What is measured: the place on the screen (0 to 1), the pupil in mm, the lid (0: shut)."""

FACE: Final = ("honest", "deceiving")
"""Values of the attribute ``face``: whether the felt emotion is the one that is shown."""


@dataclass(frozen=True)
class Look:
    """How eyes behave under an emotion.

    Args:
        pupil: by how many mm it widens at the apex.
        height: of the middle of what is looked at, from 0, above, to 1, below.
        spread: standard deviation of the places looked at, of the screen.
        dwell: steps that the eyes rest at a place, on average.
        blinks: in a clip, on average.
        away: share of the places that lie at the rim of the screen.
    """

    pupil: float
    height: float
    spread: float
    dwell: float
    blinks: float
    away: float


LOOKS: Final = {
    "neutral": Look(0.0, 0.50, 0.12, 4.0, 2.0, 0.05),
    "happiness": Look(0.30, 0.46, 0.08, 3.5, 2.0, 0.0),
    "sadness": Look(0.10, 0.66, 0.07, 7.0, 3.0, 0.05),
    "surprise": Look(0.60, 0.40, 0.14, 3.0, 0.5, 0.0),
    "fear": Look(0.65, 0.50, 0.24, 1.8, 0.7, 0.15),
    "disgust": Look(-0.20, 0.60, 0.14, 2.5, 3.5, 0.5),
    "anger": Look(0.45, 0.50, 0.04, 6.0, 0.8, 0.0),
    "contempt": Look(0.05, 0.36, 0.10, 5.0, 2.0, 0.25),
}


@dataclass(frozen=True)
class Felt:
    """What is known of each sample beside its face.

    Attributes:
        felt: (N,) index into ``facs.EXPRESSIONS``.
        eyes: (N, :data:`STEPS`, 4) the values of :data:`EYES`; gaze and pupil NaN in a blink.
        fixations: (N, :data:`FIXATIONS`, 2) places on the screen in order, NaN where none is left.
    """

    felt: npt.NDArray[np.int64]
    eyes: Floats
    fixations: Floats


def draw_felt(
    shown: npt.NDArray[np.int64],
    subject: npt.NDArray[np.int64],
    classes: tuple[str, ...],
    deceive: float,
    seed: int,
) -> Felt:
    """Draw feelings and eyes of samples 0 to N - 1; sample i does not depend on N.

    Args:
        shown: (N,) the expression of each face, an index into ``facs.EXPRESSIONS``.
        subject: (N,) number of the person.
        classes: what is felt, all equally often behind a face that deceives; two or more.
        deceive: share of faces that show something else than is felt.
        seed: of the world.
    """
    draw = np.random.Generator(np.random.PCG64([seed, 121])).random((len(shown), 2))
    allowed = np.array([EXPRESSIONS.index(name) for name in classes])
    place = np.searchsorted(np.sort(allowed), shown)
    place = np.argsort(allowed)[place]
    step = 1 + (draw[:, 1] * (len(allowed) - 1)).astype(np.int64)
    other = allowed[(place + step) % len(allowed)]
    felt = np.where(draw[:, 0] < deceive, other, shown).astype(np.int64)
    eyes = np.full((len(shown), STEPS, len(EYES)), np.nan, np.float32)
    fixations = np.full((len(shown), FIXATIONS, 2), np.nan, np.float32)
    for i, (emotion, person) in enumerate(zip(felt.tolist(), subject.tolist(), strict=True)):
        look, rng = LOOKS[EXPRESSIONS[emotion]], np.random.default_rng([seed, 122, i])
        own = np.random.default_rng([seed, 123, person])
        track, rests = _track(rng, look, pupil=own.normal(3.5, 0.4), blinks=own.lognormal(0, 0.3))
        eyes[i], fixations[i, : len(rests)] = track, rests[:FIXATIONS]
    return Felt(felt, eyes, fixations)


def _track(
    rng: np.random.Generator, look: Look, *, pupil: float, blinks: float
) -> tuple[Floats, Floats]:
    """Return a track (STEPS, 4) and the places (F, 2), F at most FIXATIONS.

    Args:
        rng: draws this sample.
        look: of the emotion.
        pupil: of the person at rest, in mm.
        blinks: how many times as often as others the person blinks.
    """
    length = np.maximum(1, rng.poisson(look.dwell - 1, STEPS) + 1)
    owner = np.repeat(np.arange(STEPS), length)[:STEPS]
    places = _places(rng, look, int(owner[-1]) + 1)
    time = np.linspace(0, 1, STEPS, dtype=np.float32)
    gaze = places[owner] + rng.normal(0, 0.012, (STEPS, 2))
    wide = pupil + look.pupil * rng.normal(1, 0.25) * envelope(time, 0.05, 0.4, 0.7, 1.0)
    lid = np.clip(rng.normal(0.92, 0.03, STEPS), 0, 1)
    shut = rng.random(STEPS) < look.blinks * blinks / STEPS
    track = np.column_stack([gaze, wide + rng.normal(0, 0.06, STEPS), lid])
    track[shut, :3], track[shut, 3] = np.nan, 0.0
    return track.astype(np.float32), places[:FIXATIONS].astype(np.float32)


def _places(rng: np.random.Generator, look: Look, count: int) -> npt.NDArray[np.float64]:
    """Return (count, 2) places on the screen, those of ``look.away`` at its rim."""
    middle = np.array([0.5, look.height]) + rng.normal(0, 0.05, 2)
    places = middle + rng.normal(0, look.spread, (count, 2))
    away = rng.random(count) < look.away
    places[away, 0] = np.where(rng.random(count) < 0.5, 0.04, 0.96)[away]
    return np.clip(places, 0, 1)


def shown_intensity(
    expression: npt.NDArray[np.int64], grade: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32]:
    """Return (N,) how strongly each expression is shown, 0 to 3: the mean of its core actions.

    Args:
        expression: (N,) index into ``facs.EXPRESSIONS``; a neutral face shows 0.
        grade: (N, 18) intensities 0 to 5 of ``facs.AUS``.
    """
    core = np.array([[PROTOTYPES[e].get(au, 0.0) >= 3 for au in AUS] for e in EXPRESSIONS])
    own = core[expression]
    strength = (grade * own).sum(1) / np.maximum(own.sum(1), 1)
    return np.asarray(np.clip(strength * 3 / 5, 0, 3), np.float32)
