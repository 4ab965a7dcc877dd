"""Resampling of people: studentised bootstrap and sign-flip permutation; McNemar and Holm.

All of it works on tables (S, C) of counts of S people, see
:mod:`faceaffect.evaluation.headlines`, and on any function of pooled counts that their scale
leaves alone.
"""

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from faceaffect.evaluation.headlines import bounds

LEVEL = 0.95
PERMUTATIONS = 9999
_CHUNK = 2**22  # numbers in a matrix of weights: 32 MB

Score = Callable[[Tensor], Tensor]
"""Counts (..., C) to metrics (..., M)."""


def bootstrap(
    counts: Sequence[Tensor],
    coefficients: Sequence[float],
    score: Score,
    *,
    resamples: int = 2000,
    seed: int = 0,
    level: float = LEVEL,
) -> tuple[Tensor, Tensor, Tensor]:
    """Symmetric studentised bootstrap over people of a linear combination of metrics.

    The mean over three seeds has the coefficients 1/3, 1/3, 1/3; the difference of two models
    1, -1. A metric may be any smooth function of the pooled counts that their scale leaves alone.

    Args:
        counts: K tables (S, C) of the same S people.
        coefficients: K factors of the tables' metrics.
        score: metrics of counts.
        resamples: number of draws of S people with replacement.
        seed: of the draws; the same seed draws the same people.
        level: of the interval.

    Returns:
        estimate, low end and high end, (M,) each; the ends are NaN below two people.
    """
    people = len(counts[0])
    once = torch.ones(1, people, dtype=torch.float64)
    estimate, error = _with_errors(counts, coefficients, score, once)
    if people < 2:
        return estimate[0], *torch.full((2, estimate.shape[1]), torch.nan, dtype=torch.float64)
    far = []
    for weights in _drawn(people, resamples, seed):
        value, own_error = _with_errors(counts, coefficients, score, weights)
        # A resample without any variation in an AU or class says nothing about it.
        far.append(((value - estimate).abs() / own_error).where(own_error > 0, torch.nan))
    reach = torch.as_tensor(_quantile(torch.cat(far).numpy(), level)) * error[0]
    reach = reach.where(error[0] > 0, 0).where(~estimate[0].isnan(), torch.nan)
    return estimate[0], estimate[0] - reach, estimate[0] + reach


def mean_intervals(
    counts: Sequence[Tensor], score: Score, names: Sequence[str], *, resamples: int, seed: int
) -> dict[str, list[float]]:
    """Return low and high end of the mean over tables (seeds), within the metric's range.

    Args:
        counts: K tables (S, C) of the same S people.
        score: metrics of counts.
        names: of the M metrics.
        resamples: as in :func:`bootstrap`.
        seed: as in :func:`bootstrap`.
    """
    share = [1 / len(counts)] * len(counts)
    _, low, high = bootstrap(counts, share, score, resamples=resamples, seed=seed)
    ends = zip(names, low.tolist(), high.tolist(), strict=True)
    return {name: np.clip(pair, *bounds(name)).tolist() for name, *pair in ends}


def _quantile(values: np.ndarray, level: float) -> np.ndarray:
    """Quantile of the defined values of each column, NaN where none is."""
    columns = [column[~np.isnan(column)] for column in values.T]
    return np.array([np.quantile(c, level) if len(c) else np.nan for c in columns])


def chunks(rows: int, columns: int) -> Iterator[int]:
    """Yield numbers of rows that add up to ``rows``, so that no part of a matrix grows large."""
    most = max(1, _CHUNK // columns)
    while rows > 0:
        yield min(most, rows)
        rows -= most


def _drawn(people: int, resamples: int, seed: int) -> Iterator[Tensor]:
    """Yield (R', S) how often each person is drawn, R rows in all."""
    rng = np.random.default_rng(seed)
    for size in chunks(resamples, people):
        drawn = rng.integers(people, size=(size, people)) + people * np.arange(size)[:, None]
        weights = np.bincount(drawn.ravel(), minlength=size * people).reshape(size, people)
        yield torch.as_tensor(weights, dtype=torch.float64)


def _with_errors(
    counts: Sequence[Tensor], coefficients: Sequence[float], score: Score, weights: Tensor
) -> tuple[Tensor, Tensor]:
    """Metrics of weighted people and their standard errors, (R, M) each.

    The derivative of a metric with respect to a person's weight is the product of its gradient and
    the person's counts; these sum to zero over the people, as the scale of counts does not matter.
    """
    totals = [(weights @ table).requires_grad_() for table in counts]
    values = torch.stack(
        [factor * score(total) for factor, total in zip(coefficients, totals, strict=True)]
    ).sum(0)
    errors = []
    for column in values.unbind(1):
        gradients = torch.autograd.grad(column.nansum(), totals, retain_graph=True)
        influence = torch.stack(
            [
                gradient.nan_to_num(0) @ table.T
                for gradient, table in zip(gradients, counts, strict=True)
            ]
        ).sum(0)
        errors.append((weights * influence.square()).sum(1))
    people = weights.shape[1]
    correction = people / max(people - 1, 1)
    return values.detach(), (torch.stack(errors, 1) * correction).sqrt()


def sign_flip(
    a: Sequence[Tensor],
    b: Sequence[Tensor],
    score: Score,
    *,
    permutations: int = PERMUTATIONS,
    seed: int = 0,
) -> Tensor:
    """Sign-flip permutation test over people, for metrics that are no mean over people.

    Flipping the sign of one person's difference means exchanging the two models' answers about that
    person. So each permutation exchanges the answers of a random half of the people, and the
    metrics are computed anew from the exchanged counts. For a mean over people this is the
    sign-flip test of their differences; for F1, recall or concordance it stays exact under the null
    hypothesis that the two models' answers about a person may be exchanged. All 2^S permutations
    are taken if they are no more than ``permutations``.

    Equal metrics with other kinds of errors are a wider null hypothesis, under which the test is
    not exact. The tests simulate one AU and two models of the same F1, of which one sees it too
    seldom and the other too often. At a level of 5 %, it rejects with 40 people (with 100)

    * 4.7 % (4.6 %) where true and false positives are 60 % and 5 % against 85 % and 25 %,
    * 6.2 % (5.8 %) where they are 35 % and 2 % against 90 % and 73 %,
    * 8.7 % (6.8 %) where they are 26 % and 0.5 % against 90 % and 29 %, the AU is rare (10 %) and
      people differ widely in all of these rates.

    Args:
        a: counts (S, C) of one model, one table per seed.
        b: of the other; with another number of seeds each seed of either counts equally.
        score: metrics of counts.
        permutations: random ones; the identity is added to them.
        seed: of the permutations.

    Returns:
        (M,) two-sided p, NaN for an undefined metric.
    """
    length = math.lcm(len(a), len(b))
    first = torch.stack([a[i % len(a)] for i in range(length)])
    second = torch.stack([b[i % len(b)] for i in range(length)])
    difference = second - first

    def statistic(exchanged: Tensor) -> Tensor:
        """(P, S) ones and zeros to (P, M)."""
        moved = exchanged @ difference  # (L, P, C)
        pooled_a, pooled_b = first.sum(1, keepdim=True), second.sum(1, keepdim=True)
        return (score(pooled_a + moved) - score(pooled_b - moved)).mean(0)

    people = first.shape[1]
    observed = statistic(torch.zeros(1, people, dtype=torch.float64))
    extreme, number = torch.zeros(observed.shape[1], dtype=torch.float64), 0
    for exchanged in _exchanges(people, permutations, seed):
        reached = statistic(exchanged).abs() >= observed.abs() - 1e-12
        extreme, number = extreme + reached.sum(0), number + len(exchanged)
    if 2**people > permutations:
        extreme, number = extreme + 1, number + 1
    return (extreme / number).where(~observed[0].isnan(), torch.nan)


def _exchanges(people: int, permutations: int, seed: int) -> Iterator[Tensor]:
    """Yield (P', S) whose answers are exchanged: all ways if few enough, else random ones."""
    if people < 63 and 2**people <= permutations:
        number = torch.arange(2**people)
        yield (number[:, None] >> torch.arange(people) & 1).double()
        return
    rng = np.random.default_rng(seed)
    for size in chunks(permutations, people):
        yield torch.as_tensor(rng.integers(2, size=(size, people), dtype=np.int8)).double()


def mcnemar_p(right_a: Tensor, right_b: Tensor) -> float:
    """Exact two-sided McNemar test of two models' right answers, (N,) bool each.

    >>> round(mcnemar_p(torch.tensor([True] * 8 + [False]), torch.tensor([False] * 8 + [True])), 4)
    0.0391
    """
    only_a, only_b = int((right_a & ~right_b).sum()), int((~right_a & right_b).sum())
    return min(1.0, 2 * float(stats.binom.cdf(min(only_a, only_b), only_a + only_b, 0.5)))


def holm(p: Sequence[float]) -> list[float]:
    """Holm's correction (1979); an undefined p stays NaN and counts as no test.

    >>> [round(value, 3) for value in holm([0.01, 0.04, 0.03])]
    [0.03, 0.06, 0.06]
    """
    values = np.array(p, dtype=float)
    rising = np.argsort(values)[: np.count_nonzero(~np.isnan(values))]  # NaN is sorted last
    stepped = values[rising] * np.arange(len(rising), 0, -1)
    values[rising] = np.minimum(np.maximum.accumulate(stepped), 1)
    return [float(value) for value in values]
