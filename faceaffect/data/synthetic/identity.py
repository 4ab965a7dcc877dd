"""People: what stays the same from one picture of a subject to the next."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
import numpy.typing as npt

from faceaffect.data.synthetic import geometry, marks
from faceaffect.data.synthetic.anatomy import SHAPES
from faceaffect.data.synthetic.facs import AUS
from faceaffect.data.synthetic.geometry import Array

ATTRIBUTES: Final[dict[str, tuple[str, ...]]] = {
    "age_group": ("18-34", "35-54", "55+"),
    "gender_presentation": ("feminine", "masculine"),
    "skin_tone": ("I", "II", "III", "IV", "V", "VI"),
}
"""Attribute -> class names. Skin tones go from light to dark, in the manner of Fitzpatrick."""

_SHARES: Final = {
    "age_group": (0.45, 0.33, 0.22),
    "gender_presentation": (0.5, 0.5),
    "skin_tone": (0.14, 0.2, 0.2, 0.18, 0.16, 0.12),
}
_TONES: Final = np.array(
    [
        (246, 214, 194),
        (233, 190, 160),
        (214, 164, 128),
        (184, 132, 97),
        (142, 98, 70),
        (100, 68, 50),
    ],
    float,
)
_HAIR: Final = np.array(
    [(34, 27, 25), (62, 43, 33), (96, 64, 42), (146, 98, 56), (205, 165, 102), (138, 62, 34)], float
)
_IRIS: Final = np.array(
    [(70, 44, 28), (104, 70, 38), (96, 106, 60), (74, 112, 150), (110, 122, 130)], float
)
_GREY: Final = np.array((176.0, 174.0, 172.0))
# How far calm faces lie along the directions of the actions themselves, standard deviation in
# shares of intensity 5: some people's brows are low and their lip corners raised at rest, with none
# of the marks that the action would leave.
_RESTING: Final = {
    1: 0.20, 2: 0.14, 4: 0.28, 6: 0.4, 9: 0.2, 10: 0.32, 12: 0.10, 14: 0.5, 15: 0.16, 17: 0.38,
    20: 0.2, 23: 0.36, 24: 0.34,
}  # fmt: skip
HAIR_STYLES: Final = ("bald", "short", "receding", "side", "fringe", "long", "bun", "curly")


@dataclass(frozen=True)
class Identity:
    """One person.

    Attributes:
        attributes: class index of each of `ATTRIBUTES`.
        rest: (N + M, 3) named points and mark points of the calm face.
        crease: (2 * creases,) strength 0 to 1 that creases have without any action.
        relief: (2, bumps) relief and shade of the calm face.
        ramp: (256, 1, 3) skin colour by brightness, index 160 = evenly lit.
        lip, iris, hair, brow: colours, RGB 0 to 255.
        brow_width, lash: thickness of the brow in face units, of the lashes in pixels of a 112 px
            face.
        hair_style: one of `HAIR_STYLES`.
        hairline: (3,) height changes of the hairline, middle to side.
        beard, moustache: opacity 0 to 1.
        glasses: 0 none, else rounder to squarer from 1 to 3.
        glasses_colour: RGB.
        spots: (S, 3) freckles and moles, face units.
        spot_strength: (S,) darkness 0 to 1.
        asymmetry: strength of the left side's actions relative to the right side's, in log units.
    """

    attributes: dict[str, int]
    rest: Array
    crease: Array
    relief: Array
    ramp: npt.NDArray[np.uint8]
    lip: Array
    iris: Array
    hair: Array
    brow: Array
    brow_width: float
    lash: float
    hair_style: str
    hairline: Array
    beard: float
    moustache: float
    glasses: int
    glasses_colour: Array
    spots: Array
    spot_strength: Array
    asymmetry: float


def attribute_table(seed: int, subjects: int) -> dict[str, npt.NDArray[np.int64]]:
    """Attributes of subjects 0 to `subjects` - 1, (subjects,) each; more subjects change none."""
    draw = np.random.Generator(np.random.PCG64([seed, 102])).random((subjects, len(_SHARES)))
    return {
        name: np.searchsorted(np.cumsum(share)[:-1], draw[:, k]).astype(np.int64)
        for k, (name, share) in enumerate(_SHARES.items())
    }


@lru_cache(maxsize=1024)
def make_identity(seed: int, subject: int) -> Identity:
    """The person with this number; depends on `seed` and `subject` alone."""
    attributes = {
        name: int(column[-1]) for name, column in attribute_table(seed, subject + 1).items()
    }
    rng = np.random.default_rng([seed, 103, subject])
    age = attributes["age_group"] + rng.uniform(-0.45, 0.45)
    masculine = attributes["gender_presentation"] == 1
    rest = _rest(rng, age, masculine)
    skin = _TONES[attributes["skin_tone"]] * rng.uniform(0.94, 1.05) + rng.normal(0, 4, 3)
    hair = _hair_colour(rng, age, attributes["skin_tone"])
    style, hairline = _hair_style(rng, age, masculine)
    bearded = masculine and rng.random() < 0.4
    spots, strength = _spots(rng, attributes["skin_tone"])
    return Identity(
        attributes=attributes,
        rest=rest,
        crease=_creases(rng, age),
        relief=_relief(rng, age),
        ramp=_ramp(np.clip(skin, 30, 250)),
        lip=_lip_colour(rng, skin, masculine),
        iris=_iris(rng, attributes["skin_tone"]),
        hair=hair.astype(np.float32),
        brow=(hair * rng.uniform(0.6, 0.95) * (0.85 if hair.mean() > 120 else 1)).astype(
            np.float32
        ),
        brow_width=float(rng.uniform(0.030, 0.048) if masculine else rng.uniform(0.018, 0.034)),
        lash=float(rng.uniform(0.7, 1.0) if masculine else rng.uniform(1.0, 1.7)),
        hair_style=style,
        hairline=hairline,
        beard=float(rng.uniform(0.12, 0.5)) if bearded else 0.0,
        moustache=float(rng.uniform(0.2, 0.6)) if bearded and rng.random() < 0.6 else 0.0,
        glasses=int(rng.integers(1, 4)) if rng.random() < 0.16 else 0,
        glasses_colour=(rng.uniform(15, 90) * rng.uniform(0.5, 1.2, 3)).astype(np.float32),
        spots=spots,
        spot_strength=strength,
        asymmetry=float(rng.normal(0, 0.08)),
    )


def _rest(rng: np.random.Generator, age: float, masculine: bool) -> Array:
    shape = dict(zip(SHAPES, rng.normal(0, 1, len(SHAPES)).clip(-2.2, 2.2), strict=True))
    sign = 1.0 if masculine else -1.0
    shape["jaw_width"] = 0.8 * shape["jaw_width"] + 0.6 * sign
    shape["chin_length"] = 0.9 * shape["chin_length"] + 0.35 * sign
    shape["brow_height"] -= 0.3 * sign
    shape["eye_open"] -= 0.3 * sign + 0.25 * (age - 0.5)
    shape["upper_lip"] -= 0.35 * sign + 0.25 * age
    shape["lower_lip"] -= 0.3 * sign + 0.2 * age
    offset = np.tensordot(np.array([*shape.values()], np.float32), geometry.SHAPE_FIELDS, 1)
    resting = rng.normal(0, 1, len(AUS)).clip(-1.8, 1.8) * [_RESTING.get(au, 0.0) for au in AUS]
    offset += np.tensordot(resting.astype(np.float32), geometry.ACTION_FIELDS.sum(0), 1)
    # Nobody is quite symmetric: smooth noise, the same for neighbouring points.
    knots = rng.normal(0, 0.010, (len(geometry.TEMPLATE), 3)).astype(np.float32)
    offset += geometry.attach(geometry.TEMPLATE, 0.2) @ knots * 2
    follow = marks.MARK_WEIGHTS @ offset
    jitter = rng.normal(0, 0.007, (len(marks.MARK_POINTS) // 4 + 1, 3)).repeat(4, 0)[
        : len(marks.MARK_POINTS)
    ]
    rest = np.concatenate([geometry.TEMPLATE + offset, marks.MARK_POINTS + follow + jitter])
    return np.asarray(rest, np.float32)


def _creases(rng: np.random.Generator, age: float) -> Array:
    """Lines at rest, the chief confounder of actions: some people own each of them."""
    lines = len(marks.CREASES)
    depth = np.clip(0.08 + 0.24 * age, 0.03, 0.7)
    own = marks.CREASE_AGE * depth * rng.uniform(0.2, 1.3, lines)
    own += (rng.random(lines) < 0.12) * rng.uniform(0.1, 0.28, lines)
    sides = np.concatenate([own * rng.uniform(0.8, 1.1, lines), own * rng.uniform(0.8, 1.1, lines)])
    return np.asarray(np.clip(sides, 0, 0.6), np.float32)


def _relief(rng: np.random.Generator, age: float) -> Array:
    """The bumps of the calm face: one person has more of a cheek or a fold than another."""
    middle, side = marks.MIDLINE_BUMPS, marks.SIDE_BUMPS
    factor = np.concatenate(
        [rng.uniform(0.7, 1.35, middle), np.tile(rng.uniform(0.6, 1.4, side), 2)]
    )
    extra = np.concatenate([rng.normal(0, 0.006, middle), np.tile(rng.normal(0, 0.008, side), 2)])
    shade = np.concatenate([rng.normal(0, 0.02, middle), np.tile(rng.normal(0, 0.035, side), 2)])
    base = marks.BUMP_BASE.T * factor
    base[0] += extra
    base[1] = base[1] * (0.85 + 0.2 * age) + shade
    return np.asarray(base, np.float32)


def _ramp(skin: npt.NDArray[np.float64]) -> npt.NDArray[np.uint8]:
    """Shadows turn warmer and more saturated, highlights go towards white."""
    t = np.arange(256)[:, None] / 160
    shadow = skin * t ** np.array([0.92, 1.08, 1.14])
    light = skin + (255 - skin) * 0.55 * (t - 1)
    return np.asarray(np.clip(np.where(t < 1, shadow, light), 0, 255), np.uint8)[:, None]


def _lip_colour(rng: np.random.Generator, skin: npt.NDArray[np.float64], masculine: bool) -> Array:
    natural = skin * np.array([0.88, 0.62, 0.62]) + np.array([4, 0, 4])
    if masculine or rng.random() < 0.55:
        return np.asarray(0.6 * natural + 0.4 * skin * 0.9, np.float32)
    paint = np.array([rng.uniform(140, 200), rng.uniform(30, 80), rng.uniform(45, 95)])
    return np.asarray(0.4 * natural + 0.6 * paint, np.float32)


def _hair_colour(rng: np.random.Generator, age: float, tone: int) -> npt.NDArray[np.float64]:
    weights = (
        np.array([0.12, 0.22, 0.22, 0.18, 0.18, 0.08])
        if tone < 3
        else np.array([0.6, 0.3, 0.08, 0.02, 0, 0])
    )
    colour = _HAIR[rng.choice(len(_HAIR), p=weights)] * rng.uniform(0.8, 1.15)
    grey = np.clip((age - 1.1) * rng.uniform(0.3, 1.0), 0, 0.95)
    return np.asarray(colour * (1 - grey) + _GREY * grey)


def _iris(rng: np.random.Generator, tone: int) -> Array:
    weights = (
        np.array([0.22, 0.26, 0.16, 0.22, 0.14]) if tone < 3 else np.array([0.72, 0.25, 0.03, 0, 0])
    )
    colour = _IRIS[rng.choice(len(_IRIS), p=weights)]
    return np.asarray(colour * rng.uniform(0.85, 1.15), np.float32)


def _hair_style(rng: np.random.Generator, age: float, masculine: bool) -> tuple[str, Array]:
    if masculine:
        bald = 0.06 + 0.1 * max(age, 0)
        weights = np.array([bald, 0.42, 0.1 * max(age, 0), 0.2, 0.06, 0.07, 0.03, 0.12])
    else:
        weights = np.array([0.0, 0.10, 0.0, 0.18, 0.12, 0.34, 0.16, 0.10])
    style = HAIR_STYLES[rng.choice(len(HAIR_STYLES), p=weights / weights.sum())]
    return style, rng.normal(0, (0.035, 0.03, 0.025)).astype(np.float32)


def _spots(rng: np.random.Generator, tone: int) -> tuple[Array, Array]:
    moles = rng.integers(0, 4)
    freckles = 26 if tone < 2 and rng.random() < 0.3 else 0
    xy = np.concatenate(
        [
            rng.uniform((-0.8, -0.8), (0.8, 1.2), (moles, 2)),
            np.stack([rng.normal(0, 0.4, freckles), rng.normal(0.3, 0.12, freckles)], 1),
        ]
    ).astype(np.float32)
    strength = np.concatenate([rng.uniform(0.3, 0.7, moles), rng.uniform(0.08, 0.25, freckles)])
    return np.column_stack([xy, marks.depth(xy[:, 0], xy[:, 1])]).astype(
        np.float32
    ), strength.astype(np.float32)
