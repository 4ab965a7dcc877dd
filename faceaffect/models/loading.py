"""Models by name, and models out of checkpoints."""

from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor

from faceaffect import registry
from faceaffect.components import create
from faceaffect.errors import (
    CheckpointError,
    FaceAffectError,
    RecipeError,
    shown,
)
from faceaffect.models.exported import WEIGHTS, read_exported
from faceaffect.module import FORMAT, AffectModule, FaceModule
from faceaffect.networks import backbones
from faceaffect.networks.assets import file_of
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

    ``asset:NAME`` is a model that the package ships.

    An exported model is read likewise: a ``.safetensors`` file, or a folder with one.

    Raises:
        CheckpointError: there is none, it is damaged, or faceaffect did not write it.
    """
    file = file_of(path)
    if file.is_dir():
        exported = file / WEIGHTS
        file = exported if exported.is_file() else file / "checkpoints" / "best.ckpt"
    if not file.is_file():
        raise CheckpointError(f"no checkpoint at {file}")
    if file.suffix == ".safetensors":
        checkpoint = read_exported(file)
        _check_contents(file, checkpoint)
        return checkpoint
    if file.suffix == ".onnx":
        raise CheckpointError(
            f"{file}: an exported model, which answers and no more; 'predict', 'demo' and a recipe "
            "with model: {name: onnx, file: FILE} take it"
        )
    try:
        checkpoint = torch.load(file, map_location="cpu", weights_only=True)
    except UnpicklingError:
        raise CheckpointError(
            f"{file}: not read: damaged, or it holds more than plain values, which could run code"
        ) from None
    except Exception:  # torch's own reasons are of the kind of '101'
        raise CheckpointError(
            f"{file}: not readable as a checkpoint: another kind of file, or one that was cut short"
        ) from None
    if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get("faceaffect"), dict):
        raise CheckpointError(f"{file}: not a checkpoint of faceaffect")
    _check_contents(file, checkpoint)
    return checkpoint


_TOP: dict[str, type] = {"state_dict": dict, "hyper_parameters": dict}
_OWN: dict[str, type] = {"format": int, "model": str, "schema": dict, "frozen": dict}


def _check_contents(file: Path, checkpoint: dict[str, Any]) -> None:
    """See that a checkpoint holds what reading it on relies on, each of its kind.

    Raises:
        CheckpointError: something is missing or of another kind.
    """
    own = checkpoint["faceaffect"]
    for where, holder, kinds in (("", checkpoint, _TOP), ("faceaffect.", own, _OWN)):
        for key, kind in kinds.items():
            if not isinstance(holder.get(key), kind):
                raise _wrong(file, where + key)
    if own["format"] != FORMAT:
        raise CheckpointError(
            f"{file}: of format {shown(own['format'])}; this version of faceaffect reads {FORMAT}"
        )
    weights = checkpoint["state_dict"].items()
    if not all(isinstance(key, str) and isinstance(value, Tensor) for key, value in weights):
        raise _wrong(file, "state_dict")
    if not all(isinstance(key, str) for key in checkpoint["hyper_parameters"]):
        raise _wrong(file, "hyper_parameters")
    for source in own["frozen"].values():
        if not isinstance(source, dict) or not {"name", "fingerprint"} <= source.keys():
            raise _wrong(file, "faceaffect.frozen")
    if not isinstance(own.get("statistics", 0), dict | None):
        raise _wrong(file, "faceaffect.statistics")
    _check_recipe(file, own.get("recipe", 0))


def _check_recipe(file: Path, recipe: Any) -> None:
    if recipe is None:
        return
    right = isinstance(recipe, dict) and isinstance(recipe.get("name"), str)
    sections = recipe.get("sections") if right else None
    if not isinstance(sections, dict) or not isinstance(sections.get("data"), dict):
        raise _wrong(file, "faceaffect.recipe")


def _wrong(file: Path, key: str) -> CheckpointError:
    return CheckpointError(f"{file}: damaged, or no checkpoint of faceaffect: {key} is not right")


def load_model(path: str | Path) -> FaceModule:
    """Build the model of a checkpoint, or of a run folder's best one, and load its weights.

    Exported models are loaded likewise: ``.onnx``, ``.safetensors``, a folder for the model hub.

    Raises:
        CheckpointError: the checkpoint is missing, damaged, or names a model that is not
            registered (an own model has to be imported first).
    """
    if Path(path).suffix == ".onnx":
        return create_model("onnx", LabelSchema(), file=str(path))
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
            f"{path}: its model is {shown(name)}, which no name of the model table points to; "
            "import its module first (--import on the command line)"
        )
    hparams = dict(checkpoint["hyper_parameters"])
    if hparams.get("cache") is not None:
        hparams["cache"] = None  # a checkpoint does not choose what is written to
    try:
        with backbones.restoring(whole=checkpoint["faceaffect"].get("whole") is True):
            model = create_model(name, hparams.pop("schema"), **hparams)
        model.on_load_checkpoint(checkpoint)
        model.load_state_dict(checkpoint["state_dict"])
    except FaceAffectError as error:
        raise type(error)(f"{path}: {error}") from None
    except RuntimeError as error:
        raise CheckpointError(f"{path}: the weights do not fit the model: {error}") from None
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise CheckpointError(
            f"{path}: damaged, or no checkpoint of faceaffect: {shown(error)}"
        ) from None
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
