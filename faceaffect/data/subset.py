"""A smaller training part, by people: how well a model learns from less data."""

from dataclasses import replace

import numpy as np

from faceaffect.data.dataset import FaceDataset
from faceaffect.data.names import sorted_unique
from faceaffect.data.protocols import Split, hash_ids
from faceaffect.errors import RecipeError


def fewer_people(
    dataset: FaceDataset,
    split: Split,
    *,
    people: int | None = None,
    fraction: float | None = None,
    seed: int = 0,
) -> Split:
    """Return a split of which some people of the training part are left.

    Validation and test stay as they are. The people of a smaller part are among those of a larger
    one of the same seed. Where people are unknown each sample counts as one.

    Args:
        dataset: what was split.
        split: the whole split; itself if neither number is given.
        people: how many stay.
        fraction: which share of them stays, in (0, 1].
        seed: of the choice; independent of the run's seed.

    Raises:
        RecipeError: both numbers are given, one is out of range, or nobody would be left.
    """
    if people is None and fraction is None:
        return split
    names, _ = sorted_unique(dataset.samples.subject[split.train])
    count = people_left(len(names), people, fraction)
    kept = np.random.default_rng(seed).permutation(names)[:count]
    train = split.train[np.isin(dataset.samples.subject[split.train], kept)]
    info = split.info | {
        "subset": {"people": count, "of": len(names), "seed": seed},
        "sizes": split.info["sizes"] | {"train": len(train)},
        "subjects": split.info["subjects"] | {"train": count},
        "sha256": split.info["sha256"] | {"train": hash_ids(dataset.samples.id[train].tolist())},
        "unused": split.info["unused"] + len(split.train) - len(train),
    }
    if "subject_names" in info:
        info["subject_names"] = info["subject_names"] | {"train": sorted(kept.tolist())}
    return replace(split, train=train, info=info)


def people_left(people: int, asked: int | None = None, fraction: float | None = None) -> int:
    """Return how many of so many people stay.

    >>> people_left(40, fraction=0.1), people_left(40, asked=3)
    (4, 3)

    Raises:
        RecipeError: both numbers are given, one is out of range, or nobody would be left.
    """
    if asked is not None and fraction is not None:
        raise RecipeError("data.people and data.fraction say the same; give one of them")
    if fraction is not None:
        if not 0 < fraction <= 1:
            raise RecipeError(f"data.fraction: {fraction} is not in (0, 1]")
        left = round(fraction * people)
        if left < 1:
            raise RecipeError(
                f"data.fraction: {fraction:g} of the training part's {people} people is nobody; "
                f"data.people=1 asks for one, which is {1 / max(people, 1):.2g} of them"
            )
        return left
    assert asked is not None
    if not 1 <= asked <= people:
        raise RecipeError(f"data.people: {asked}, and the training part has 1 to {people} to give")
    return asked
