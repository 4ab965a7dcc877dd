"""Sharing out groups of samples over folds of like label distribution."""

import warnings

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedKFold

from faceaffect.data.dataset import Samples

MANY = 10_000
"""From so many groups on they are dealt out by one label each: weighing up all takes minutes."""

_MOST = 10**8
"""The same from so many comparisons on: groups times the square of the folds."""


def strata(samples: Samples) -> NDArray[np.int64]:
    """Return the stratum of each sample, by which folds are made alike.

    The expression class where the dataset has expressions, else the rarest active action unit,
    else the quadrant of valence and arousal, else the felt emotion.

    Returns:
        (N,) int64.
    """
    if samples.expression is not None:
        return samples.expression
    if samples.au is not None:
        positive = samples.au == 1
        rarest_first = np.argsort(positive.sum(0), kind="stable")
        ordered = positive[:, rarest_first]
        return np.where(ordered.any(1), ordered.argmax(1), -1)
    if samples.va is not None:
        return np.asarray((samples.va > 0) @ (1, 2), np.int64)
    if samples.felt is not None:
        return samples.felt
    return np.zeros(len(samples), np.int64)


def assign_folds(
    stratum: NDArray[np.int64], group: NDArray[np.int64], folds: int, seed: int
) -> NDArray[np.int64]:
    """Return the fold of each sample, from 0; a group lies in one fold.

    Args:
        stratum: (N,) what the folds are to be alike in.
        group: (N,) group numbers, of at least as many groups as folds.
        folds: number of folds, at least 2.
        seed: of shuffling the groups.
    """
    _, first, group = np.unique(group, return_index=True, return_inverse=True)
    many = len(first) > MANY or len(first) * folds**2 > _MOST
    if many or len(first) == len(group):
        return _dealt(stratum[first], folds, seed)[group]
    fold = _weighed(stratum, group, folds, seed)
    return fold if len(np.unique(fold)) == folds else _by_size(group, folds)


def most_alike(stratum: NDArray[np.int64], fold: NDArray[np.int64]) -> int:
    """Return the fold whose counts of the strata are nearest to an equal share of each.

    One person with very many faces makes a fold unlike the others; such a fold is a poor judge.

    Args:
        stratum: (N,) what the folds are to be alike in.
        fold: (N,) fold of each sample, from 0.
    """
    kinds, kind = np.unique(stratum, return_inverse=True)
    counts = np.zeros((fold.max() + 1, len(kinds)))
    np.add.at(counts, (fold, kind), 1)
    share = counts.mean(0)
    return int((np.abs(counts - share) / share).sum(1).argmin())


def _dealt(stratum: NDArray[np.int64], folds: int, seed: int) -> NDArray[np.int64]:
    """Return the fold of each of some groups of one label each."""
    stratum = _in_every_fold(stratum, folds)
    fold = np.empty(len(stratum), np.int64)
    parts = StratifiedKFold(folds, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The least populated class", UserWarning)
        for number, (_, indices) in enumerate(parts.split(stratum, stratum)):
            fold[indices] = number
    return fold


def _weighed(
    stratum: NDArray[np.int64], group: NDArray[np.int64], folds: int, seed: int
) -> NDArray[np.int64]:
    """Return the fold of each sample as scikit-learn's StratifiedGroupKFold does, to the bit.

    The groups come in shuffled order, those of most uneven labels first, each into the fold that
    then leaves the shares of the labels most alike. All folds are tried at once for a group, where
    scikit-learn tries one after another: at 4,000 groups and 100 folds a second in place of 30.
    """
    _, label = np.unique(_in_every_fold(stratum, folds), return_inverse=True)
    counts = np.zeros((group.max() + 1, label.max() + 1))
    np.add.at(counts, (group, label), 1)
    of_label = np.bincount(label)
    order = np.random.RandomState(seed).permutation(len(counts))
    counts = counts[order]
    by_spread = np.argsort(-counts.std(1), kind="stable")
    filled, trial = np.zeros((folds, counts.shape[1])), np.arange(folds)
    fold_of = np.empty(len(counts), np.int64)
    for g in by_spread:
        tried = np.repeat(filled[None], folds, 0)
        tried[trial, trial] += counts[g]
        unlike = (tried / of_label).std(1).mean(1)
        best = _best(unlike, filled.sum(1))
        filled[best] += counts[g]
        fold_of[order[g]] = best
    return fold_of[group]


def _best(unlike: NDArray[np.float64], filled: NDArray[np.float64]) -> int:
    """Return the fold that is best tried; of about equal ones the emptiest."""
    best, least, fewest = 0, np.inf, np.inf
    for fold, (value, samples) in enumerate(zip(unlike.tolist(), filled.tolist(), strict=True)):
        about_equal = abs(value - least) <= 1e-8 + 1e-5 * least < np.inf  # as np.isclose has it
        if value < least or (about_equal and samples < fewest):
            best, least, fewest = fold, value, samples
    return best


def _in_every_fold(stratum: NDArray[np.int64], folds: int) -> NDArray[np.int64]:
    """Return the strata, or one for all where too few of every kind are there for all folds."""
    rare = np.bincount(stratum - stratum.min()).max() < folds
    return np.zeros_like(stratum) if rare else stratum


def _by_size(group: NDArray[np.int64], folds: int) -> NDArray[np.int64]:
    """Deal out groups, the largest first, each to the fold that is smallest so far."""
    size = np.bincount(group)
    fold_of, filled = np.empty(len(size), np.int64), np.zeros(folds)
    for g in np.argsort(-size, kind="stable"):
        fold_of[g] = filled.argmin()
        filled[fold_of[g]] += size[g]
    return fold_of[group]
