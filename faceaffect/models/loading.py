"""Models by name, and models out of checkpoints."""

from pathlib import Path
from typing import Any

import torch

from faceaffect import registry
from faceaffect.components import create
from faceaffect.errors import CheckpointError, FaceAffectError, RecipeError
from faceaffect.module import AffectModule, FaceModule
from faceaffect.networks import backbones
from faceaffect.schema import LabelSchema


def create_model(name: str, schema: LabelSchema | dict[str, Any], **args: Any) -> FaceModule:
    """Build a module by its registered name: a model, or one that pre-trains a network.

    Args:
        name: a name of ``list_models()``.
        schema: what it shall answer.
        args: arguments of its constructor, checked as those of a recipe.

    Raises:
        RecipeError: the name, a key or a value is wrong, or what it names is no such module.
    """
    model = create("models", {"name": name, **args}, "model", schema=schema)
    if not isinstance(model, FaceModule):
        raise RecipeError(f"model.name: {name} is no AffectModule; let its class be one")
    return model


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint, or the best one of a run folder, without running any code of it.

    Raises:
        CheckpointError: there is none, it is damaged, or faceaffect did not write it.
    """
    file = Path(path)
    if file.is_dir():
        file = file / "checkpoints" / "best.ckpt"
    if not file.is_file():
        raise CheckpointError(f"no checkpoint at {file}")
    try:
        checkpoint = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        raise CheckpointError(f"{file}: not readable as a checkpoint: {error}") from None
    if not isinstance(checkpoint, dict) or "faceaffect" not in checkpoint:
        raise CheckpointError(f"{file}: not a checkpoint of faceaffect")
    return checkpoint


def load_model(path: str | Path) -> FaceModule:
    """Build the model of a checkpoint, or of a run folder's best one, and load its weights.

    Raises:
        CheckpointError: the checkpoint is missing, damaged, or names a model that is not
            registered (an own model has to be imported first).
    """
    return restore(read_checkpoint(path), path)


def restore(checkpoint: dict[str, Any], path: str | Path) -> FaceModule:
    """Build the model of a checkpoint that has been read, and load its weights.

    Args:
        checkpoint: from :func:`read_checkpoint`; its state is completed.
        path: where it was read, for errors.

    Raises:
        CheckpointError: as :func:`load_model`.
    """
    name = checkpoint["faceaffect"]["model"]
    if name not in registry.TABLES["models"]:
        raise CheckpointError(
            f"{path}: its model is {name}, which no name of the model table points to; "
            "import its module first (--import on the command line)"
        )
    hparams = dict(checkpoint["hyper_parameters"])
    with backbones.restoring():
        model = create_model(name, hparams.pop("schema"), **hparams)
    model.on_load_checkpoint(checkpoint)
    try:
        model.load_state_dict(checkpoint["state_dict"])
    except RuntimeError as error:
        raise CheckpointError(f"{path}: the weights do not fit the model: {error}") from None
    return model.eval()


def answering(model: FaceModule) -> AffectModule:
    """Return a model that answers affect tasks.

    Raises:
        FaceAffectError: it is a pre-training module, which answers none.
    """
    if not isinstance(model, AffectModule):
        raise FaceAffectError(
            f"{type(model).__name__} trains a network for others and answers no affect task"
        )
    return model
