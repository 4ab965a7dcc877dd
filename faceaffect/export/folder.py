"""Weights that leave the package: one file of safetensors, and a folder for the model hub."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from faceaffect.errors import CheckpointError, RecipeError
from faceaffect.export.card import model_card
from faceaffect.files import replacing, write_atomically
from faceaffect.models.exported import WEIGHTS, describe_model, header_of
from faceaffect.module import AffectModule
from faceaffect.networks.backbones import fingerprint


def check_holds_weights(model: AffectModule) -> None:
    """Refuse a model that has no weights of its own.

    Raises:
        RecipeError: it has none.
    """
    if not model.has_cost:
        raise RecipeError(f"{type(model).__name__} holds no weights that could be exported")


def describe_weights(model: AffectModule) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the weights to write and what loading them needs.

    A model of images is written whole. One that speaks leaves out what an asset, a folder or the
    hub names, as its checkpoint does: a language model of others is not copied. The recipe stays
    behind, since it may name the folders of whoever trained the model.

    Raises:
        RecipeError: the model shows pictures of people as examples.
    """
    checkpoint: dict[str, Any] = {"state_dict": model.state_dict()}
    model.on_save_checkpoint(checkpoint)
    own = checkpoint["faceaffect"] | {"recipe": None}
    if own.get("shots"):
        raise RecipeError(
            "model.shots: its examples are pictures of training people, which are not exported"
        )
    whole = not hasattr(model, "describe")
    if whole:
        own |= {"frozen": {}, "whole": True}
    state = model.state_dict() if whole else checkpoint["state_dict"]
    arguments = {k: v for k, v in model.hparams.items() if k != "cache"}
    return state, own | describe_model(model) | {"hyper_parameters": arguments}


def to_safetensors(model: AffectModule, goal: Path, *, half: bool = False) -> None:
    """Write a model's weights as a file that ``faceaffect.load_model`` reads.

    Args:
        model: in eval mode.
        goal: the file; replaced if it is there.
        half: in half precision, which halves the file; loading makes float32 of it again.

    Raises:
        RecipeError: the model holds no weights.
        CheckpointError: an argument of it is no plain value, or a weight too large for ``half``.
    """
    check_holds_weights(model)
    state, about = describe_weights(model)
    state = {name: _stored(name, value, half) for name, value in state.items()}
    try:
        header = header_of(about | {"fingerprint": fingerprint(state)})
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"an argument of the model is no plain value: {error}") from None
    goal.parent.mkdir(parents=True, exist_ok=True)
    with replacing(goal) as part:
        part.write_bytes(save(state, header))


def _stored(name: str, value: Tensor, half: bool) -> Tensor:
    if half and value.is_floating_point():
        value = value.half()
        if not torch.isfinite(value).all():
            raise CheckpointError(f"--half: {name} does not fit into half precision")
    return value.cpu().contiguous().clone()


def to_folder(
    model: AffectModule, folder: Path, result: dict[str, Any] | None, *, merge: bool = False
) -> list[str]:
    """Write a folder for the model hub: weights, configuration, model card.

    ``faceaffect.load_model(FOLDER)`` reads it, and no code lies in it. A model that speaks adds its
    adapter in peft's format as ``adapter``.

    Args:
        model: on the CPU, in eval mode.
        folder: made if it is not there.
        result: the ``metrics.json`` of its run, for the card; None if there is none.
        merge: write the language model with its adapter merged in, as transformers reads it, as
            ``language_model``.

    Returns:
        The names in the folder, in the order of writing.

    Raises:
        RecipeError: nothing can be merged, or the model holds no weights.
    """
    llm: Any = getattr(model, "llm", None)
    if merge and llm is None:
        raise RecipeError(f"--merge: {type(model).__name__} holds no language model")
    to_safetensors(model, folder / WEIGHTS)
    about = describe_weights(model)[1] | {"library_name": "faceaffect"}
    text = json.dumps(about, indent=2, ensure_ascii=False) + "\n"
    write_atomically(folder / "config.json", text)
    written = [WEIGHTS, "config.json"]
    if llm is not None and llm.has_adapter:
        llm.save_adapter(folder / "adapter")
        (folder / "adapter" / "README.md").unlink(missing_ok=True)  # peft's empty form
        written.append("adapter")
    if merge:
        llm.save_merged(folder / "language_model")
        written.append("language_model")
    write_atomically(folder / "README.md", model_card(about, result, written))
    return [*written, "README.md"]
