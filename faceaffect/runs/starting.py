"""Weights of a finished run as the start of another (``model.from``)."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from faceaffect import registry
from faceaffect.data.base import FaceDataModule
from faceaffect.errors import CheckpointError, RecipeError, SchemaError
from faceaffect.models.loading import read_checkpoint
from faceaffect.models.pretraining import EXPORT, PretrainingModule
from faceaffect.module import FaceModule
from faceaffect.networks.backbones import Backbone
from faceaffect.networks.weights import fingerprint, frozen_sources
from faceaffect.progress import console
from faceaffect.recipe import Recipe
from faceaffect.runs.people import people_of
from faceaffect.runs.processes import is_first
from faceaffect.runs.result import RESULT
from faceaffect.schema import LabelSchema

FROM = "from"
"""The key of the model section that names a run; no argument of the model."""

_BACKBONE = "backbone."
"""What the weights of a backbone are called in every model that has one."""


def own_section(recipe: Recipe) -> dict[str, Any]:
    """Return the model section without where its weights start from."""
    return {key: value for key, value in recipe["model"].items() if key != FROM}


def checkpoint_before(recipe: Recipe) -> Path | None:
    """Return the checkpoint that a recipe starts from; None if it names none.

    ``model.from`` is a checkpoint, the folder of a run, or the folder of all runs of a recipe, of
    which the newest finished one is taken.

    Raises:
        RecipeError: there is no finished run.
    """
    given = recipe["model"].get(FROM)
    if given is None:
        return None
    if not isinstance(given, str) or not given:
        raise RecipeError(f"model.from: {given!r} is no run folder")
    place = Path(given).expanduser()
    if place.is_file():
        return place
    runs = [place, *sorted((path for path in place.glob("*") if path.is_dir()), reverse=True)]
    for run in runs:
        best = run / "checkpoints" / "best.ckpt"
        if best.is_file() and (run / RESULT).is_file():
            return best
    hint = f"; train it first: faceaffect train {place.name}" if not place.exists() else ""
    raise RecipeError(f"model.from: no finished run in {place}{hint}")


def take_weights(model: FaceModule, file: Path) -> None:
    """Put the weights of a checkpoint into a model that is built.

    Every weight that was trained has to find its place, with its shape; what the model has besides,
    such as adapters that the run before did not have, stays as it is built. Adapters may be new.
    A run that pre-trained a backbone gives it to any model with such a backbone, whatever the
    labels; what pre-training had besides stays behind.

    Raises:
        CheckpointError: the weights are of another model, or do not fit.
        SchemaError: the model has heads for other labels.
    """
    checkpoint = read_checkpoint(file)
    own = checkpoint["faceaffect"]
    name = registry.name_of("models", type(model))
    backbone = getattr(model, "backbone", None)
    if own["model"] != name and isinstance(backbone, Backbone) and _pretrains(own["model"]):
        _take_backbone(model, backbone, file, checkpoint["state_dict"])
        return
    if own["model"] != name:
        raise CheckpointError(f"model.from: {file} is a '{own['model']}', this is a '{name}'")
    stored = LabelSchema.from_dict(own["schema"])
    if stored != model.schema and not hasattr(model, "describe"):
        lines = stored.difference(model.schema, ("the run before", "this one"))
        raise SchemaError(
            f"model.from: {file} has heads for other labels: "
            + "; ".join(lines or ["the order of names differs"])
        )
    _check_frozen(model, file, own["frozen"])
    _take(model, file, checkpoint["state_dict"])


def _pretrains(name: str) -> bool:
    """Return whether the model of this name trains a network for others to build on."""
    if name not in registry.TABLES["models"]:
        return False
    return issubclass(registry.get("models", name), PretrainingModule)


def _take_backbone(
    model: FaceModule, backbone: Backbone, file: Path, state: Mapping[str, Tensor]
) -> None:
    """Put the backbone of a pre-training into a model, and note where it is from."""
    _take(model, file, {key: v for key, v in state.items() if key.startswith(_BACKBONE)})
    export = file.parent.parent / EXPORT
    backbone.source = {
        "kind": "run",
        "name": str(export if export.is_file() else file),
        "fingerprint": fingerprint(backbone.net.state_dict()),
    }


def _take(model: FaceModule, file: Path, state: Mapping[str, Tensor]) -> None:
    """Put weights into a model, all of them, and say how many."""
    taken = _fitting(model, file, state)
    with torch.no_grad():
        for target, value in taken:
            target.copy_(value)
    fresh = sum(p.requires_grad for p in model.parameters()) - sum(
        target.requires_grad for target, _ in taken
    )
    new = f", {fresh} that are trained are new" if fresh > 0 else ""
    if is_first():
        console.print(f"starts from {file}: {len(taken)} weights taken{new}", markup=False)


def _check_frozen(model: FaceModule, file: Path, frozen: Mapping[str, Any]) -> None:
    present = {_plain(prefix): source for prefix, source in frozen_sources(model).items()}
    for prefix, source in frozen.items():
        here = present.get(_plain(prefix))
        if here is None or here["fingerprint"] != source["fingerprint"]:
            raise CheckpointError(
                f"model.from: {file} was trained on the frozen weights '{source['name']}' at "
                f"{prefix.rstrip('.')}, and this model has "
                f"{repr(here['name']) if here else 'none there'}"
            )


def _fitting(
    model: FaceModule, file: Path, state: Mapping[str, Tensor]
) -> list[tuple[Tensor, Tensor]]:
    places = {_plain(key): value for key, value in model.state_dict(keep_vars=True).items()}
    lost = [key for key in state if _plain(key) not in places]
    if lost:
        raise CheckpointError(
            f"model.from: {file} does not fit: {len(lost)} of its {len(state)} weights have no "
            f"place in this model, the first {lost[0]}"
        )
    taken = []
    for key, value in state.items():
        target = places[_plain(key)]
        if target.shape != value.shape:
            raise CheckpointError(
                f"model.from: {file} does not fit: {key} has the shape {tuple(value.shape)} there "
                f"and {tuple(target.shape)} here"
            )
        taken.append((target, value))
    if not taken:
        raise CheckpointError(f"model.from: {file} holds no trained weights")
    return taken


def _plain(key: str) -> str:
    """Return what a weight is called whether or not there are adapters beside it."""
    return key.replace("base_model.model.", "").replace(".base_layer.", ".")


def check_people(data: FaceDataModule, file: Path, name: str) -> None:
    """See that nobody is tested here whom the run before was trained on.

    Args:
        data: of the recipe.
        file: the checkpoint that it starts from.
        name: of the dataset.

    Raises:
        RecipeError: somebody is.
    """
    result = file.parent.parent / RESULT
    if not result.is_file():
        return
    before = json.loads(result.read_text(encoding="utf-8"))
    if before.get("data", {}).get("name") != name:
        return
    sides, called = people_of(before)
    tested = {called(str(person)) for person in data.dataset.samples.subject[data.split.test]}
    both = tested & (sides["train"] | sides["val"])
    if both:
        raise RecipeError(
            f"model.from: {file} was trained on {len(both)} of the {len(tested)} people who are "
            "tested here; take the same protocol, fold and people in both"
        )
