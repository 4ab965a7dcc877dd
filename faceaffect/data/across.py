"""Leave one dataset out: trained on some datasets of a mixture, tested on another."""

from copy import copy
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from faceaffect.data.dataset import FaceDataset
from faceaffect.data.people import people
from faceaffect.data.protocols import Indices, Selecting, Split, check_fold
from faceaffect.errors import DataError
from faceaffect.schema import NUMBER_TASKS

_NUMBERS = dict(zip(NUMBER_TASKS, ("valence and arousal", "intensity"), strict=True))
"""How tasks of numbers are called among what is not taught."""


@dataclass(frozen=True, kw_only=True)
class LeaveOneDatasetOut(Selecting):
    """One dataset of a mixture is tested as a whole, in the order of the sources.

    All samples of the other datasets are trained on, whatever the protocols of the sources say,
    less the people who choose the checkpoint. What none of them labels cannot be learned: such
    AUs and classes are unknown in the test, and the result names them.

    Args:
        fold: the number of the dataset that is tested, from 1.
        on_leak: what to do where a byte-identical image lies in the tested dataset and in another:
            ``raise``, or ``drop`` those people from training, which the result counts.
        val_fraction: about this share of the training part's people choose the checkpoint.
        seed: of choosing those; independent of the run's seed.
        selection: ``val``, or ``test`` to choose the checkpoint on the test part.
    """

    name: ClassVar[str] = "lodo"
    fold: int = 1
    on_leak: Literal["raise", "drop"] = "raise"

    def split(self, dataset: FaceDataset) -> Split:
        """Set one dataset apart; see :class:`Protocol`."""
        origin = _origin(dataset)
        names = list(dict.fromkeys(origin.tolist()))
        check_fold(self.name, self.fold, len(names))
        who = people(dataset)
        tested = origin == names[self.fold - 1]
        rest, test = np.flatnonzero(~tested), np.flatnonzero(tested)
        info = {"fold": self.fold, "folds": len(names), "tested": names[self.fold - 1]}
        if self.on_leak == "drop":
            stays = ~np.isin(who.group[rest], who.group[test])
            info["dropped_leaks"] = int((~stays).sum())
            rest = rest[stays]
        split = self._divide(dataset, who, rest, test, **info)
        split.info["not_taught"] = not_taught(dataset, rest, test)
        return split

    def fold_count(self, dataset: FaceDataset) -> int:
        """Return the number of datasets."""
        return len(set(_origin(dataset).tolist()))


def _origin(dataset: FaceDataset) -> NDArray[np.str_]:
    if dataset.origin is None or len(set(dataset.origin.tolist())) < 2:
        raise DataError("lodo: needs data.name=mixture of two datasets or more")
    return dataset.origin


def not_taught(dataset: FaceDataset, rest: Indices, test: Indices) -> list[str]:
    """Return the AUs, classes, felt emotions and tasks of numbers of the test part alone."""
    train, tested, schema = dataset.samples.take(rest), dataset.samples.take(test), dataset.schema
    names: list[str] = []
    if train.au is not None and tested.au is not None:
        only = np.flatnonzero(np.isnan(train.au).all(0) & ~np.isnan(tested.au).all(0))
        names += [schema.au_names[column] for column in only]
    if train.expression is not None and tested.expression is not None:
        only_there = set(tested.expression.tolist()) - set(train.expression.tolist()) - {-1}
        names += [schema.expressions[index] for index in sorted(only_there)]
    if train.felt is not None and tested.felt is not None:
        only_there = set(tested.felt.tolist()) - set(train.felt.tolist()) - {-1}
        names += [f"felt {schema.felt[index]}" for index in sorted(only_there)]
    for task, what in _NUMBERS.items():
        taught, asked = getattr(train, task), getattr(tested, task)
        if taught is not None and asked is not None:
            known = ~np.isnan(asked).all()
            names += [what] * bool(np.isnan(taught).all() and known)
    return names


def hide(dataset: FaceDataset, split: Split) -> FaceDataset:
    """Return the dataset with the labels unknown that its split cannot teach; else itself."""
    names = split.info.get("not_taught")
    if not names:
        return dataset
    samples, schema, test = dataset.samples, dataset.schema, split.test
    hidden = replace(samples)
    if samples.au is not None:
        hidden.au = samples.au.copy()
        for column in (i for i, name in enumerate(schema.au_names) if name in names):
            hidden.au[test, column] = np.nan
    if samples.expression is not None:
        classes = [i for i, name in enumerate(schema.expressions) if name in names]
        hidden.expression = samples.expression.copy()
        lost = test[np.isin(samples.expression[test], classes)]
        hidden.expression[lost] = -1
        if samples.expression_share is not None:
            hidden.expression_share = samples.expression_share.copy()
            hidden.expression_share[lost] = np.nan
    if samples.felt is not None:
        classes = [i for i, name in enumerate(schema.felt) if f"felt {name}" in names]
        hidden.felt = samples.felt.copy()
        hidden.felt[test[np.isin(samples.felt[test], classes)]] = -1
    for task, what in _NUMBERS.items():
        value = getattr(samples, task)
        if value is not None and what in names:
            unknown = value.copy()
            unknown[test] = np.nan
            setattr(hidden, task, unknown)
    changed = copy(dataset)
    changed.samples = hidden
    return changed
