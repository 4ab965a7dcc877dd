"""Sharing out groups of samples over folds of like label distribution."""

import warnings

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from faceaffect.data.dataset import Samples

MANY = 10_000
"""From so many groups on they are dealt out by one label each: weighing up all takes minutes."""


def strata(samples: Samples) -> NDArray[np.int64]:
    """Return the stratum of each sample, by which folds are made alike.

    The expression class where the dataset has expressions, else the rarest active action unit,
    else the quadrant of valence and arousal.

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
    if len(first) > MANY or len(first) == len(group):
        return _stratified(StratifiedKFold, stratum[first], None, folds, seed)[group]
    fold = _stratified(StratifiedGroupKFold, stratum, group, folds, seed)
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


def _stratified(
    splitter: type[StratifiedKFold] | type[StratifiedGroupKFold],
    stratum: NDArray[np.int64],
    group: NDArray[np.int64] | None,
    folds: int,
    seed: int,
) -> NDArray[np.int64]:
    if np.bincount(stratum - stratum.min()).max() < folds:
        stratum = np.zeros_like(stratum)  # too few of every kind to be in every fold
    fold = np.empty(len(stratum), np.int64)
    parts = splitter(folds, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The least populated class", UserWarning)
        for number, (_, indices) in enumerate(parts.split(stratum, stratum, group)):
            fold[indices] = number
    return fold


def _by_size(group: NDArray[np.int64], folds: int) -> NDArray[np.int64]:
    """Deal out groups, the largest first, each to the fold that is smallest so far."""
    size = np.bincount(group)
    fold_of, filled = np.empty(len(size), np.int64), np.zeros(folds)
    for g in np.argsort(-size, kind="stable"):
        fold_of[g] = filled.argmin()
        filled[fold_of[g]] += size[g]
    return fold_of[group]
