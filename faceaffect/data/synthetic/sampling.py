"""Labels of the synthetic faces: expression, action units, valence, arousal; no rendering."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.special import expit, ndtr, ndtri

from faceaffect.data.synthetic import facs
from faceaffect.data.synthetic.facs import AUS, COLUMN
from faceaffect.errors import DataError

Floats = npt.NDArray[np.float64]

# Columns of the table of uniform draws that one sample owns; a new use takes a new column, so that
# old labels stay.
_DRAWS: Final = 96
GRADE_SHARES: Final = (0.36, 0.28, 0.22, 0.14)  # of intensities 2, 3, 4, 5 among positives (ours)
TRACE_SHARE: Final = 0.22  # of intensity 1 among negatives (ours)
_CORE: Final = np.array(
    [[facs.PROTOTYPES[e].get(au, 0.0) >= 3 for au in AUS] for e in facs.EXPRESSIONS]
)


@dataclass(frozen=True)
class Labels:
    """What is known of each sample before it is drawn.

    Attributes:
        expression: (N,) index into `facs.EXPRESSIONS`.
        grade: (N, 18) intensity 0 to 5 of every AU in `facs.AUS`, whole numbers.
        va: (N, 2) valence and arousal in [-1, 1].
    """

    expression: npt.NDArray[np.int64]
    grade: npt.NDArray[np.float32]
    va: npt.NDArray[np.float32]

    def take(self, index: npt.NDArray[np.int64]) -> "Labels":
        """Labels of some samples, of a sample as often as its index stands there."""
        return Labels(self.expression[index], self.grade[index], self.va[index])


class LabelSampler:
    """Draws labels whose AU rates, expression shares and co-occurrence follow the given numbers.

    The expression is drawn first. An AU's probability given the expression is `expit(b +
    prototype)`, `b` solved so that its rate over all expressions is the one asked for. A Gaussian
    copula adds co-occurrence that expressions do not explain. The grade follows the position in the
    tail, so that correlated AUs also have correlated intensity.

    Args:
        rates: preset name ("bp4d", "disfa", "uniform") or {AU: share of positives}; AUs that a
            mapping does not name keep the "uniform" rate.
        expressions: class names that occur; shares come from the preset (equal under a mapping).
        cooccurrence: {(AU, AU): correlation} that replaces entries of `facs.COOCCURRENCE`. A
            correlation of 1 makes the second AU a copy of the first, rate included.

    Raises:
        DataError: an unknown preset, AU or expression, or a number out of range.
    """

    def __init__(
        self,
        rates: str | Mapping[int, float] = "bp4d",
        expressions: Sequence[str] = facs.EXPRESSIONS[:7],
        cooccurrence: Mapping[tuple[int, int], float] | None = None,
    ) -> None:
        self.rates = resolve_rates(rates)
        shares = facs.EXPRESSION_SHARES[rates if isinstance(rates, str) else "uniform"]
        self.allowed = np.array([facs.EXPRESSIONS.index(_known_expression(e)) for e in expressions])
        self.share = np.array(shares)[self.allowed] / np.array(shares)[self.allowed].sum()
        self.copies: dict[int, int] = {}
        self._root = np.linalg.cholesky(self._correlation(cooccurrence or {}))
        self.probability = self._conditional()

    def _correlation(self, changes: Mapping[tuple[int, int], float]) -> Floats:
        """Copula correlation, made a proper one where the pairs contradict each other."""
        matrix = np.eye(len(AUS))
        for (a, b), value in {**facs.COOCCURRENCE, **changes}.items():
            if a not in COLUMN or b not in COLUMN or a == b or not -1 <= value <= 1:
                raise DataError(
                    f"cooccurrence of AU{a} and AU{b}: {value}: "
                    f"two different AUs of {list(AUS)}, -1 to 1"
                )
            if value == 1 and (a, b) in changes:
                self.copies[COLUMN[b]] = COLUMN[a]
                continue
            matrix[COLUMN[a], COLUMN[b]] = matrix[COLUMN[b], COLUMN[a]] = value
        values, vectors = np.linalg.eigh(matrix)
        matrix = (vectors * np.maximum(values, 1e-3)) @ vectors.T
        scale = np.sqrt(np.diag(matrix))
        return np.asarray(matrix / np.outer(scale, scale))

    def _conditional(self) -> Floats:
        """Probability of each AU given the expression, (expressions, AUs); bisects intercepts."""
        shift = np.array(
            [
                [facs.PROTOTYPES[facs.EXPRESSIONS[e]].get(au, 0.0) for au in AUS]
                for e in self.allowed
            ]
        )
        rate = np.array([self.rates[au] for au in AUS])
        low, high = np.full(len(AUS), -40.0), np.full(len(AUS), 40.0)
        for _ in range(80):
            middle = (low + high) / 2
            above = self.share @ expit(middle + shift) > rate
            low, high = np.where(above, low, middle), np.where(above, middle, high)
        probability = expit(middle + shift)
        probability[:, rate <= 0], probability[:, rate >= 1] = 0.0, 1.0
        return np.asarray(probability)

    def __call__(self, n: int, seed: int) -> Labels:
        """Labels of samples 0 to n - 1; sample i does not depend on n."""
        draw = np.random.Generator(np.random.PCG64([seed, 101])).random((n, _DRAWS))
        which = np.minimum(
            np.searchsorted(np.cumsum(self.share), draw[:, 0], side="right"), len(self.share) - 1
        )
        probability = self.probability[which]
        latent = ndtr(ndtri(np.clip(draw[:, 1 : 1 + len(AUS)], 1e-9, 1 - 1e-9)) @ self._root.T)
        expression = self.allowed[which].astype(np.int64)
        grade = _grades(latent, probability, _CORE[expression])
        exclude(grade)
        for copy, source in self.copies.items():
            grade[:, copy] = grade[:, source]
        va = valence_arousal(expression, grade)
        va += 0.05 * ndtri(np.clip(draw[:, 60:62], 1e-9, 1 - 1e-9))
        return Labels(expression, grade.astype(np.float32), np.clip(va, -1, 1).astype(np.float32))


def _grades(latent: Floats, probability: Floats, core: npt.NDArray[np.bool_]) -> Floats:
    """Intensity 0 to 5 from the position of `latent` in the upper tail of mass `probability`.

    An expression shows its `core` actions more strongly than an action that comes by itself.
    """
    tail = (latent - (1 - probability)) / np.maximum(probability, 1e-12)
    height = np.clip(tail, 0, 1) ** np.where(core, 0.55, 1.0)
    positive = 2 + np.searchsorted(np.cumsum(GRADE_SHARES)[:-1], height)
    trace = latent > (1 - probability) * (1 - TRACE_SHARE)
    return np.where(tail > 0, positive, trace.astype(np.float64))


def exclude(grade: Floats) -> None:
    """Take back, in (N, 18) grades, what one face cannot show at once."""
    for winner, loser in facs.EXCLUSIVE:
        clash = (grade[:, COLUMN[winner]] >= 2) & (grade[:, COLUMN[loser]] > 0)
        grade[clash, COLUMN[loser]] = 0.0


def valence_arousal(expression: npt.NDArray[np.int64], grade: Floats) -> Floats:
    """(N, 2) in [-1, 1]: the place of the expression, by its strength, plus what each AU adds."""
    place = np.array([facs.EXPRESSION_VA[name] for name in facs.EXPRESSIONS])
    core = _CORE[expression]
    strength = (grade * core).sum(1) / np.maximum(core.sum(1), 1) / 4
    action = np.array([facs.AU_VA.get(au, (0.0, 0.0)) for au in AUS])
    felt = (
        place[expression]
        * np.where(expression == 0, 1.0, 0.35 + 0.65 * np.minimum(strength, 1))[:, None]
    )
    return np.asarray(np.clip(felt + grade / 5 @ action, -1, 1))


def resolve_rates(rates: str | Mapping[int, float]) -> dict[int, float]:
    """Share of positives for every AU of `facs.AUS`.

    Raises:
        DataError: an unknown preset or AU, or a share outside [0, 1].
    """
    if isinstance(rates, str):
        if rates not in facs.RATE_PRESETS:
            raise DataError(
                f"rates: {rates!r}: choose one of {sorted(facs.RATE_PRESETS)} or give {{AU: share}}"
            )
        return dict(facs.RATE_PRESETS[rates])
    given = {int(au): float(share) for au, share in rates.items()}
    for au, share in given.items():
        if au not in COLUMN or not 0 <= share <= 1:
            raise DataError(
                f"rates: AU{au}: {share}: an AU of {list(AUS)} with a share from 0 to 1"
            )
    return {**facs.RATE_PRESETS["uniform"], **given}


def _known_expression(name: str) -> str:
    if name not in facs.EXPRESSIONS:
        raise DataError(f"expressions: {name!r}: choose from {list(facs.EXPRESSIONS)}")
    return name
