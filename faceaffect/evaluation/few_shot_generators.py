"""The generators of ``--augment generated``: they must not have seen what episodes ask about."""

from typing import Any

import numpy as np

from faceaffect.data.base import FaceDataModule, create_data
from faceaffect.data.few_shot import NWayKShot
from faceaffect.data.synthetic.quartets import OTHER
from faceaffect.errors import DataError, FaceAffectError, RecipeError
from faceaffect.models.loading import read_checkpoint, restore


def find_generators(place: str, data: FaceDataModule) -> Any:
    """Return the generators of a run folder or checkpoint, once it is seen what they learned from.

    Args:
        place: run folder or checkpoint of :class:`~faceaffect.models.comp_gan.CompGan`.
        data: of the episodes, with the protocol ``n_way_k_shot``.

    Raises:
        RecipeError: it holds no generators, or does not say what they learned from.
        DataError: they learned from novel classes, or from people who are asked about.
    """
    checkpoint = read_checkpoint(place)
    editors = restore(checkpoint, place)
    if not hasattr(editors, "edit"):
        raise RecipeError(f"--generators: {place} holds no generators that edit")
    recipe = checkpoint["faceaffect"].get("recipe")
    if recipe is None:
        raise RecipeError(
            f"--generators: {place} does not say what it learned from; name a run of "
            "'faceaffect train few_shot_comp_gan'"
        )
    section = dict(recipe["sections"]["data"])
    if "cache" in section:
        section["cache"] = None  # a checkpoint does not choose what is written to
    try:
        classes, people = _learned(create_data(**section))
    except FaceAffectError as error:
        raise type(error)(f"--generators: the data that {place} learned from: {error}") from None
    protocol, dataset = data.protocol, data.dataset
    assert isinstance(protocol, NWayKShot)
    _, novel = protocol.classes(dataset.schema.expressions)
    learned = [name for name in novel if name in classes]
    if learned:
        raise DataError(
            f"--generators: {place} learned from {len(learned)} of the {len(novel)} classes that "
            f"are novel here: {', '.join(learned[:3])}{', ...' if learned[3:] else ''}; "
            + _way_out(protocol, len(novel))
        )
    both = people & set(dataset.samples.subject[protocol.pool(dataset)].tolist())
    if both:
        raise DataError(
            f"--generators: {place} learned from {len(both)} of the people who are asked about; "
            "train generators on others, such as those of another data.seed"
        )
    return editors


def _learned(data: FaceDataModule) -> tuple[set[str], set[str]]:
    """Return the names of the classes and of the people that generators learned or chose from."""
    dataset: Any = data.dataset
    seen = np.concatenate([data.split.train, data.split.val])
    samples = dataset.samples
    classes = _names(dataset.schema.expressions, samples.expression, seen)
    classes |= _names(dataset.attribute_names.get(OTHER), samples.attributes.get(OTHER), seen)
    second = getattr(dataset, "second_people", samples.subject)
    return classes, {*samples.subject[seen].tolist(), *second[seen].tolist()}


def _names(names: Any, index: Any, seen: Any) -> set[str]:
    return set() if index is None else {names[i] for i in np.unique(index[seen]) if i >= 0}


def _way_out(protocol: NWayKShot, count: int) -> str:
    if protocol.novel_classes is not None:
        return (
            "let data.protocol draw them by novel and seed instead of novel_classes, and train "
            "generators with data.novel and data.class_seed alike"
        )
    return (
        "train generators that never see them: faceaffect train few_shot_comp_gan "
        f"data.novel={count} data.class_seed={protocol.seed}"
    )
