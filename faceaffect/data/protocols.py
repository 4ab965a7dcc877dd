"""Protocols: who is trained on, who is validated on, who is tested; and the checks for leaks.

People, never images, are shared out. People who share a byte-identical image count as one. The
folds of a protocol are numbered from 1.
"""

import hashlib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from faceaffect.data.dataset import FaceDataset
from faceaffect.data.folds import assign_folds, most_alike, strata
from faceaffect.data.names import sorted_unique
from faceaffect.data.people import People, people
from faceaffect.errors import DataError, RecipeError

Indices = NDArray[np.int64]
SIDES = ("train", "val", "test")


@dataclass
class Split:
    """The samples on each side, as ascending indices, and what the result says of them.

    Attributes:
        train: indices of the training part.
        val: indices of the part that chooses the checkpoint.
        test: indices of the test part.
        info: ``name``, ``fold``, ``folds``, ``selection``, ``seed`` of the protocol; for each side
            ``sizes``, ``subjects`` (how many), ``subject_names``, ``sha256`` (of its sorted ids);
            ``subjects_known``; ``joined_people`` and ``identical_images``, counts of what was
            joined, with ``joined`` naming the people; ``unused``: samples on no side.
    """

    train: Indices
    val: Indices
    test: Indices
    info: dict[str, Any]


class Protocol(ABC):
    """Base of the protocols.

    Attributes:
        name: its registered name.
        assigns: whether another ``seed`` puts other people into its folds.
    """

    name: ClassVar[str]
    assigns: ClassVar[bool] = False

    @abstractmethod
    def split(self, dataset: FaceDataset) -> Split:
        """Share out the samples of a dataset.

        Raises:
            DataError: the data does not allow this split, or the split would leak.
        """

    def fold_count(self, dataset: FaceDataset) -> int:
        """Return the number of folds of this protocol on a dataset."""
        return 1


@dataclass(frozen=True, kw_only=True)
class Selecting(Protocol):
    """What the protocols with a training part share: how the checkpoint is chosen.

    Args:
        val_fraction: about this share of the training part's people choose the checkpoint.
        seed: of shuffling the people; independent of the run's seed.
        selection: ``val`` chooses on people carved out of the training part; ``test`` chooses on
            the test part, as many papers' code does, which flatters the result.
    """

    val_fraction: float = 0.15
    seed: int = 0
    selection: Literal["val", "test"] = "val"

    def __post_init__(self) -> None:
        if not 0 < self.val_fraction <= 0.5:
            raise RecipeError(f"{self.name}.val_fraction: {self.val_fraction} is not in (0, 0.5]")
        if self.selection not in ("val", "test"):
            raise RecipeError(f"{self.name}.selection: '{self.selection}' is neither val nor test")

    def _divide(
        self, dataset: FaceDataset, who: People, rest: Indices, test: Indices, **info: Any
    ) -> Split:
        """Take the selection part out of ``rest`` and describe the split."""
        if not len(test):
            raise DataError(f"{self.name}: nobody is left to test on")
        if self.selection == "test":
            return describe(self, dataset, who, (rest, test, test), selection="test", **info)
        groups = who.group[rest]
        count = len(np.unique(groups))
        if count < 2:
            raise DataError(
                f"{self.name}: {count} person is left to train on, so nobody can be carved out to "
                "choose the checkpoint; 'selection: test' chooses on the test part"
            )
        parts = min(round(1 / self.val_fraction), count)
        stratum = strata(dataset.samples)[rest]
        part = assign_folds(stratum, groups, parts, self.seed)
        val = part == most_alike(stratum, part)
        return describe(self, dataset, who, (rest[~val], rest[val], test), selection="val", **info)


@dataclass(frozen=True, kw_only=True)
class SubjectKFold(Selecting):
    """People are shared out over folds of like label distribution; one fold is tested.

    Args:
        folds: number of folds.
        fold: the fold to test, from 1.
        val_fraction: about this share of the training part's people choose the checkpoint.
        seed: of shuffling the people; independent of the run's seed.
        selection: ``val``, or ``test`` to choose the checkpoint on the test part.
    """

    name: ClassVar[str] = "subject_kfold"
    assigns: ClassVar[bool] = True
    folds: int = 5
    fold: int = 1

    def __post_init__(self) -> None:
        """Check the options."""
        super().__post_init__()
        if self.folds < 2:
            raise RecipeError(f"{self.name}.folds: {self.folds} is fewer than 2")
        check_fold(self.name, self.fold, self.folds)

    def split(self, dataset: FaceDataset) -> Split:
        """Share out the people; see :class:`Protocol`."""
        who = people(dataset)
        if who.count < self.folds:
            raise DataError(
                f"{self.name}: {self.folds} folds need as many people, and there are "
                f"{who.count}; choose fewer folds"
            )
        fold = assign_folds(strata(dataset.samples), who.group, self.folds, self.seed)
        test = fold == self.fold - 1
        return self._divide(
            dataset,
            who,
            np.flatnonzero(~test),
            np.flatnonzero(test),
            fold=self.fold,
            folds=self.folds,
        )

    def fold_count(self, dataset: FaceDataset) -> int:
        """Return the number of folds."""
        return self.folds


@dataclass(frozen=True, kw_only=True)
class LeaveOneSubjectOut(Selecting):
    """One person is tested, in the order of their names.

    Args:
        fold: the number of the person, from 1.
        val_fraction: about this share of the other people choose the checkpoint.
        seed: of choosing those; independent of the run's seed.
        selection: ``val``, or ``test`` to choose the checkpoint on the test part.
    """

    name: ClassVar[str] = "leave_one_subject_out"
    fold: int = 1

    def split(self, dataset: FaceDataset) -> Split:
        """Set one person apart; see :class:`Protocol`."""
        who = people(dataset)
        check_fold(self.name, self.fold, who.count)
        test = who.group == self.fold - 1
        return self._divide(
            dataset,
            who,
            np.flatnonzero(~test),
            np.flatnonzero(test),
            fold=self.fold,
            folds=who.count,
        )

    def fold_count(self, dataset: FaceDataset) -> int:
        """Return the number of people."""
        return people(dataset).count


@dataclass(frozen=True, kw_only=True)
class ThreeFold(Selecting):
    """The published three parts of people: fold 1 tests part 3, fold 2 part 2, fold 3 part 1.

    So do ME-GraphAU's lists for DISFA and BP4D.

    Args:
        fold: 1, 2 or 3.
        val_fraction: about this share of the training part's people choose the checkpoint.
        seed: of choosing those; independent of the run's seed.
        selection: ``val``, or ``test`` to choose the checkpoint on the test part.
    """

    name: ClassVar[str] = "three_fold"
    fold: int = 1

    def __post_init__(self) -> None:
        """Check the options."""
        super().__post_init__()
        check_fold(self.name, self.fold, 3)

    def split(self, dataset: FaceDataset) -> Split:
        """Set one published part apart; see :class:`Protocol`."""
        folds = dataset.folds
        if folds is None or set(folds) != {"1", "2", "3"}:
            raise DataError(
                f"{self.name}: the dataset publishes no three parts of people; use subject_kfold"
            )
        who = people(dataset)
        subject, tested = dataset.samples.subject, str(4 - self.fold)
        rest = [name for part, names in folds.items() if part != tested for name in names]
        return self._divide(
            dataset,
            who,
            np.flatnonzero(np.isin(subject, rest)),
            np.flatnonzero(np.isin(subject, folds[tested])),
            fold=self.fold,
            folds=3,
        )

    def fold_count(self, dataset: FaceDataset) -> int:
        """Return 3."""
        return 3


@dataclass(frozen=True, kw_only=True)
class Official(Selecting):
    """The parts that the dataset itself names.

    Without a published validation part one is carved out of the training part, by people.

    Args:
        on_leak: what to do where a person, or a byte-identical image, is on two sides: ``raise``,
            or ``drop`` them from training (or validation), which the result counts.
        val_fraction: about this share of the training part's people choose the checkpoint.
        seed: of choosing those; independent of the run's seed.
        selection: ``val``, or ``test`` to choose the checkpoint on the test part.
    """

    name: ClassVar[str] = "official"
    on_leak: Literal["raise", "drop"] = "raise"

    def split(self, dataset: FaceDataset) -> Split:
        """Take the published parts; see :class:`Protocol`."""
        part = dataset.samples.part
        if part is None:
            raise DataError(f"{self.name}: the dataset names no parts; use subject_kfold")
        for side in ("train", "test"):
            if side not in part:
                found = ", ".join(sorted({*part.tolist()} - {""})) or "none"
                raise DataError(f"{self.name}: no sample is in the part '{side}'; parts: {found}")
        who = people(dataset)
        sides = [np.flatnonzero(part == side) for side in SIDES]
        dropped = 0
        if self.on_leak == "drop":
            # A later side keeps what it shares with an earlier one, so the test part stays whole.
            for early in (0, 1):
                later = np.concatenate(sides[early + 1 :])
                stays = ~np.isin(who.group[sides[early]], who.group[later])
                dropped += int((~stays).sum())
                sides[early] = sides[early][stays]
        train, val, test = sides
        info = {"dropped_leaks": dropped} if self.on_leak == "drop" else {}
        _refuse_leaks(self, dataset, who, {"train": train, "val": val, "test": test})
        if len(val) and self.selection == "val":
            return describe(self, dataset, who, (train, val, test), selection="val", **info)
        return self._divide(dataset, who, np.sort(np.concatenate([train, val])), test, **info)


@dataclass(frozen=True)
class All(Protocol):
    """Every sample is tested, for data that a model has never seen."""

    name: ClassVar[str] = "all"

    def split(self, dataset: FaceDataset) -> Split:
        """Put every sample on the test side."""
        none = np.empty(0, np.int64)
        return describe(self, dataset, people(dataset), (none, none, np.arange(len(dataset))))


def default_protocol(dataset: FaceDataset) -> Protocol:
    """Return the protocol of the split that a dataset publishes, or that is usual for it.

    Else it is :class:`SubjectKFold`.
    """
    if dataset.usual_protocol == LeaveOneSubjectOut.name:
        return LeaveOneSubjectOut()
    if dataset.samples.part is not None:
        return Official()
    return ThreeFold() if dataset.folds is not None else SubjectKFold()


def describe(
    protocol: Protocol,
    dataset: FaceDataset,
    who: People,
    sides: tuple[Indices, Indices, Indices],
    **info: Any,
) -> Split:
    """Return the split of three sides with what a result says of it.

    Raises:
        DataError: a person or a byte-identical image is on two sides.
    """
    named = dict(zip(SIDES, sides, strict=True))
    chosen_on_test = info.get("selection") == "test"
    _refuse_leaks(
        protocol,
        dataset,
        who,
        {s: i for s, i in named.items() if not (s == "val" and chosen_on_test)},
    )
    ids = dataset.samples.id
    names, subject = sorted_unique(dataset.samples.subject)
    people_of = {side: names[np.unique(subject[i])].tolist() for side, i in named.items()}
    info = {
        "name": protocol.name,
        "fold": None,
        "folds": 1,
        "selection": None,
        "seed": getattr(protocol, "seed", None),
        **info,
        "sizes": {side: len(i) for side, i in named.items()},
        "subjects": {side: len(names) for side, names in people_of.items()},
        "sha256": {side: hash_ids(ids[i].tolist()) for side, i in named.items()},
        "subjects_known": dataset.subjects_known,
        "joined_people": sum(len(names) for names in who.joined),
        "identical_images": sum(len(same) for same in who.identical),
        "joined": who.joined,
        "unused": len(dataset) - len(np.unique(np.concatenate(sides))),
    }
    if dataset.subjects_known:
        info["subject_names"] = people_of
    return Split(*sides, info)


def hash_ids(ids: list[str]) -> str:
    """Return the SHA-256 of the sorted ids, one a line."""
    return hashlib.sha256("\n".join(sorted(ids)).encode()).hexdigest()


def check_fold(name: str, fold: int, folds: int) -> None:
    """Raise a RecipeError unless the fold is one of 1 to ``folds``."""
    if not 1 <= fold <= folds:
        raise RecipeError(f"{name}.fold: {fold} is out of range; the folds are 1 to {folds}")


def _refuse_leaks(
    protocol: Protocol, dataset: FaceDataset, who: People, sides: dict[str, Indices]
) -> None:
    samples, side_of = dataset.samples, np.full(len(dataset), -1)
    for number, indices in enumerate(sides.values()):
        side_of[indices] = number
    names, subject = sorted_unique(samples.subject)
    there = np.zeros((len(sides), len(names)), bool)
    there[side_of[side_of >= 0], subject[side_of >= 0]] = True
    shared = [(same, side_of[same]) for same in who.identical]
    shared = [(same, of) for same, of in shared if len({*of.tolist()} - {-1}) > 1]
    found = []
    for a, b in (("train", "test"), ("val", "test"), ("train", "val")):
        if a not in sides or b not in sides:
            continue
        one, other = list(sides).index(a), list(sides).index(b)
        both = names[there[one] & there[other]]
        found += [f"'{name}' is in {a} and in {b}" for name in both.tolist()]
        for same, of in shared:
            if (of == one).any() and (of == other).any():
                first, second = same[(of == one).argmax()], same[(of == other).argmax()]
                pair = f"{samples.id[first]} ({a}) and {samples.id[second]} ({b})"
                found.append(f"{pair} are byte-identical")
    if found:
        more = f", and {len(found) - 5} more" if len(found) > 5 else ""
        raise DataError(
            f"{protocol.name}: the split leaks: {'; '.join(found[:5])}{more}. The protocol {{name: "
            f"{protocol.name if hasattr(protocol, 'on_leak') else 'official'}, on_leak: drop}} "
            "leaves them out of training"
        )
