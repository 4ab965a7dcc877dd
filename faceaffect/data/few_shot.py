"""N-way K-shot: classes that were never trained on, told apart from a few examples of each.

Classes are base or novel, and people are on one side. A model trains on base classes of the people
of the training part. From the novel classes of the people of the test part episodes are drawn: N
classes, K examples of each to learn them from (support), and others to name (query). The people of
the examples are not those of the queries.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from faceaffect.data.dataset import FaceDataset
from faceaffect.data.folds import assign_folds, strata
from faceaffect.data.people import people
from faceaffect.data.protocols import Indices, Selecting, Split, check_fold
from faceaffect.errors import DataError, RecipeError, unknown


@dataclass(frozen=True, kw_only=True)
class NWayKShot(Selecting):
    """Trains and tests on base classes, each of other people, and keeps novel classes for episodes.

    The test part holds base classes, so that ``train`` and ``test`` say how well those are known.
    ``faceaffect fewshot`` draws episodes from the novel classes of the same people.

    Args:
        novel: how many classes are novel; a third of them if no names are given either.
        novel_classes: their names.
        folds: people are shared out over so many parts.
        fold: the part that is tested, from 1.
        val_fraction: about this share of the training part's people choose the checkpoint.
        seed: of drawing the novel classes and shuffling the people; independent of the run's seed.
        selection: ``val``, or ``test`` to choose the checkpoint on the test part.
    """

    name: ClassVar[str] = "n_way_k_shot"
    assigns: ClassVar[bool] = True
    novel: int | None = None
    novel_classes: list[str] | None = None
    folds: int = 3
    fold: int = 1

    def __post_init__(self) -> None:
        """Check the options."""
        super().__post_init__()
        if self.folds < 2:
            raise RecipeError(f"{self.name}.folds: {self.folds} is fewer than 2")
        check_fold(self.name, self.fold, self.folds)
        if self.novel is not None and self.novel_classes is not None:
            raise RecipeError(
                f"{self.name}: novel and novel_classes say the same; give one of them"
            )

    def classes(self, names: Sequence[str]) -> tuple[list[str], list[str]]:
        """Return the base and the novel classes among some names, each in their order.

        Raises:
            RecipeError: there are too few classes, or one is not among the names.
        """
        if len(names) < 4:
            raise RecipeError(
                f"{self.name}: the data has {len(names)} expression classes; two base and two "
                "novel ones are the least"
            )
        if self.novel_classes is None:
            count = len(names) // 3 if self.novel is None else self.novel
            rng = np.random.default_rng([self.seed, 151])
            chosen = set(rng.permutation(list(names))[: max(count, 0)].tolist())
        else:
            for name in self.novel_classes:
                if name not in names:
                    raise RecipeError(unknown(f"{self.name}.novel_classes", name, names))
            chosen = set(self.novel_classes)
        if not 2 <= len(chosen) <= len(names) - 2:
            raise RecipeError(
                f"{self.name}: {len(chosen)} of {len(names)} classes cannot be novel; 2 to "
                f"{len(names) - 2} can"
            )
        return [n for n in names if n not in chosen], [n for n in names if n in chosen]

    def split(self, dataset: FaceDataset) -> Split:
        """Share out people and classes; see :class:`~faceaffect.data.protocols.Protocol`."""
        base, novel = self.classes(dataset.schema.expressions)
        tested = self._tested(dataset)
        label = dataset.samples.expression
        assert label is not None
        known = np.isin(label, [dataset.schema.expressions.index(name) for name in base])
        split = self._divide(
            dataset,
            people(dataset),
            np.flatnonzero(~tested & known),
            np.flatnonzero(tested & known),
            fold=self.fold,
            folds=self.folds,
        )
        few_shot = {"base": base, "novel": novel, "samples": len(self.pool(dataset))}
        return replace(split, info=split.info | {"few_shot": few_shot})

    def pool(self, dataset: FaceDataset) -> Indices:
        """Return the samples that episodes are drawn from: novel classes of the tested people."""
        _, novel = self.classes(dataset.schema.expressions)
        which = [dataset.schema.expressions.index(name) for name in novel]
        label = dataset.samples.expression
        assert label is not None
        return np.flatnonzero(self._tested(dataset) & np.isin(label, which))

    def fold_count(self, dataset: FaceDataset) -> int:
        """Return the number of parts."""
        return self.folds

    def _tested(self, dataset: FaceDataset) -> NDArray[np.bool_]:
        who = people(dataset)
        if who.count < self.folds + 1:
            raise DataError(
                f"{self.name}: {self.folds} parts need more people than there are, {who.count}"
            )
        fold = assign_folds(strata(dataset.samples), who.group, self.folds, self.seed)
        return np.asarray(fold == self.fold - 1)


@dataclass(frozen=True)
class Episode:
    """One draw of a task.

    Attributes:
        number: of the episode, from 0.
        classes: (N,) which classes it asks about, as indices of the data's expressions.
        support: (N, K) samples to learn each class from.
        query: (N, Q) samples to name.
    """

    number: int
    classes: NDArray[np.int64]
    support: Indices
    query: Indices

    def of(self, shot: int) -> "Episode":
        """Return the episode with the first so many examples of each class; same queries."""
        return replace(self, support=self.support[:, :shot])


@dataclass(frozen=True)
class Episodes:
    """Where episodes are drawn from, and of what form they are.

    Args:
        label: (M,) class of each sample of the pool.
        subject: (M,) person of each.
        index: (M,) number of each in the dataset.
        way: N, number of classes.
        shot: K, examples of each.
        query: Q, samples to name of each.
        seed: of the draws.

    Raises:
        RecipeError: a number is out of range.
    """

    label: NDArray[np.int64]
    subject: NDArray[np.str_]
    index: Indices
    way: int
    shot: int
    query: int
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the numbers."""
        if self.way < 2:
            raise RecipeError(f"--way: {self.way} classes cannot be told apart; 2 is the least")
        for name, value in (("shot", self.shot), ("query", self.query)):
            if value < 1:
                raise RecipeError(f"--{name}: {value} is not positive")

    def draw(self, number: int) -> Episode:
        """Return an episode, which depends on the seed and its number alone.

        Half of the people, shuffled, give examples and the other half are asked about.

        Raises:
            DataError: too few classes have as many samples.
        """
        rng = np.random.default_rng([self.seed, 152, number])
        names = np.unique(self.subject)
        shuffled = rng.permutation(names)
        gives = np.isin(self.subject, shuffled[: (len(names) + 1) // 2])
        order = rng.permutation(len(self.label))
        support = self._by_class(order[gives[order]])
        query = self._by_class(order[~gives[order]])
        able = [
            c
            for c in np.unique(self.label).tolist()
            if len(support[c]) >= self.shot and len(query[c]) >= self.query
        ]
        if len(able) < self.way:
            raise DataError(
                f"episode {number}: {len(able)} of {len(np.unique(self.label))} novel classes have "
                f"{self.shot} examples and {self.query} others of other people to ask about, and "
                f"{self.way} are needed; ask for less (--way, --shot, --query) or give more data"
            )
        classes = rng.permutation(able)[: self.way]
        return Episode(
            number,
            classes.astype(np.int64),
            np.stack([support[c][: self.shot] for c in classes.tolist()]),
            np.stack([query[c][: self.query] for c in classes.tolist()]),
        )

    def _by_class(self, rows: NDArray[np.int64]) -> dict[int, Indices]:
        return {c: self.index[rows[self.label[rows] == c]] for c in np.unique(self.label).tolist()}


def episodes_of(
    dataset: FaceDataset, protocol: object, way: int, shot: int, query: int, seed: int
) -> Episodes:
    """Return the episodes of a dataset under a protocol.

    Raises:
        RecipeError: the protocol knows no novel classes, or a number is out of range.
        DataError: there are too few samples.
    """
    if not isinstance(protocol, NWayKShot):
        raise RecipeError(
            f"data.protocol: '{getattr(protocol, 'name', protocol)}' has no novel classes; say "
            f"data.protocol={NWayKShot.name}"
        )
    pool = protocol.pool(dataset)
    assert dataset.samples.expression is not None
    label, subject = dataset.samples.expression[pool], dataset.samples.subject[pool]
    return Episodes(label, subject, pool, way, shot, query, seed)
