"""Fifty-four fine-grained expressions as combinations of AUs: six upper and nine lower faces.

As many as F2ED has classes; which those are its sources here do not tell, so these are ours. Every
class shares its upper half with eight others and its lower half with five, so that a class that was
never seen is made of parts that were.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np

from faceaffect.data.synthetic import facs
from faceaffect.data.synthetic.facs import AUS, COLUMN
from faceaffect.data.synthetic.sampling import (
    GRADE_SHARES,
    TRACE_SHARE,
    Labels,
    exclude,
)

UPPER: Final[dict[str, tuple[int, ...]]] = {
    "calm": (), "raised": (1, 2), "lowered": (4,), "oblique": (1, 4), "wide": (1, 2, 5),
    "narrowed": (4, 7),
}  # fmt: skip
"""Brows and lids: name to the AUs that are active."""

LOWER: Final[dict[str, tuple[int, ...]]] = {
    "rest": (), "smile": (12,), "frown": (15, 17), "stretch": (20, 25), "wrinkle": (9,),
    "press": (23, 24), "gape": (25, 26), "dimple": (14,), "sneer": (10, 25),
}  # fmt: skip
"""Nose, cheeks and mouth: name to the AUs that are active."""

CLASSES: Final[dict[str, tuple[int, ...]]] = {
    f"{upper}_{lower}": (*above, *below)
    for upper, above in UPPER.items()
    for lower, below in LOWER.items()
}
"""Each class, such as ``raised_smile``, and its AUs."""

_ACTIVE: Final = np.array([[au in aus for au in AUS] for aus in CLASSES.values()])
_CHEEK: Final = {True: 0.5, False: 0.1}
"""How often the cheeks (AU6) are raised, with a smile and without: what no class is about."""
_DRAWS: Final = 64  # columns of uniform draws that one sample owns


def fine_labels(n: int, seed: int, among: Sequence[str] = tuple(CLASSES)) -> Labels:
    """Return labels of samples 0 to n - 1; sample i does not depend on n.

    Classes are equally frequent. The AUs of a class are at intensities 2 to 5, all others at 0 or,
    as a trace that counts as absent, at 1. Valence and arousal are what the AUs add.

    Args:
        n: number of samples.
        seed: world.
        among: the classes that occur.

    Returns:
        Labels whose ``expression`` indexes :data:`CLASSES`.
    """
    draw = np.random.Generator(np.random.PCG64([seed, 154])).random((n, _DRAWS))
    allowed = np.array([[*CLASSES].index(name) for name in among], np.int64)
    which = allowed[np.minimum((draw[:, 0] * len(allowed)).astype(np.int64), len(allowed) - 1)]
    active = _ACTIVE[which]
    strength = 2 + np.searchsorted(np.cumsum(GRADE_SHARES)[:-1], draw[:, 1 : 1 + len(AUS)])
    trace = draw[:, 20 : 20 + len(AUS)] < TRACE_SHARE
    grade = np.where(active, strength, trace.astype(np.float64))
    smiles = active[:, COLUMN[12]]
    raised = draw[:, 40] < np.where(smiles, _CHEEK[True], _CHEEK[False])
    grade[raised, COLUMN[6]] = strength[raised, COLUMN[6]]
    exclude(grade)
    action = np.array([facs.AU_VA.get(au, (0.0, 0.0)) for au in AUS])
    va = np.clip(2 * grade / 5 @ action, -1, 1)
    return Labels(which, grade.astype(np.float32), va.astype(np.float32))
