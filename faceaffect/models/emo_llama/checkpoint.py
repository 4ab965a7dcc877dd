"""Hugging Face checkpoints, local or on the hub: configurations, weights, tokenizers."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from transformers import AutoConfig, AutoTokenizer, PreTrainedConfig, PreTrainedTokenizerBase

from faceaffect.errors import CheckpointError, RecipeError, first_line, suggest
from faceaffect.networks.assets import ASSETS
from faceaffect.networks.origins import hub_file

_WHOLE = ("model.safetensors", "pytorch_model.bin")
_INDEX = tuple(f"{name}.index.json" for name in _WHOLE)


@dataclass(frozen=True)
class Checkpoint:
    """Where a Hugging Face model lies.

    Attributes:
        kind: "asset", "file" or "hub".
        name: what names it.
        folder: the local folder; None on the hub.
        revision: branch, tag or commit on the hub.
    """

    kind: str
    name: str
    folder: Path | None
    revision: str | None = None

    def file(self, names: tuple[str, ...]) -> Path:
        """Return the first of some files that is there.

        Raises:
            CheckpointError: there is none, or the hub cannot be reached.
        """
        if self.folder is None:
            return hub_file(self.name, names, self.revision)
        for name in names:
            if (self.folder / name).is_file():
                return self.folder / name
        raise CheckpointError(f"{self.folder}: has none of {', '.join(names)}")

    @property
    def location(self) -> str:
        """What transformers takes as a name."""
        return self.name if self.folder is None else str(self.folder)


def find_checkpoint(name: str, *, pretrained: bool, revision: str | None, where: str) -> Checkpoint:
    """Resolve ``asset:NAME``, a local folder, or a name on the hub.

    Args:
        name: what the recipe says.
        pretrained: whether the hub may be asked.
        revision: branch, tag or commit on the hub.
        where: the recipe's key, for errors.

    Raises:
        RecipeError: the name is no folder and the hub may not be asked.
        CheckpointError: the folder is missing or holds no model.
    """
    if name.startswith("asset:"):
        folder = ASSETS / name.removeprefix("asset:")
        if not (folder / "config.json").is_file():
            raise CheckpointError(f"{where}: the package ships no language model '{name}'")
        return Checkpoint("asset", name, folder)
    folder = Path(name).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise CheckpointError(
                f"{where}: {folder} holds no config.json, so no Hugging Face model"
            )
        return Checkpoint("file", name, folder)
    looks_local = name.startswith((".", "/", "~")) or name.count("/") != 1
    if looks_local:
        raise CheckpointError(
            f"{where}: no folder {name}. Give a folder written by save_pretrained, "
            "or owner/model on the hub"
        )
    if not pretrained:
        raise RecipeError(
            f"{where}: no folder {name}. To take it from the hub, say pretrained: true"
        )
    return Checkpoint("hub", name, None, revision)


def read_config(checkpoint: Checkpoint) -> PreTrainedConfig:
    """Read the configuration of a model, running no code of its repository.

    Raises:
        CheckpointError: it is missing, damaged, or of a kind that transformers does not know.
    """
    file = checkpoint.file(("config.json",))
    try:
        config = AutoConfig.from_pretrained(file.parent, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{file}: not readable as a configuration: {_first(error)}") from None
    assert isinstance(config, PreTrainedConfig)
    return config


def make_config(settings: Mapping[str, Any], where: str) -> PreTrainedConfig:
    """Build a configuration from a recipe: ``model_type`` and any of that type's settings.

    Raises:
        RecipeError: the type or a setting is unknown, or a value does not fit.
    """
    settings = dict(settings)
    kind = settings.pop("model_type", None)
    try:
        default = AutoConfig.for_model(str(kind))
    except ValueError:
        raise RecipeError(f"{where}.model_type: transformers has no model type '{kind}'") from None
    for key in settings:
        if not hasattr(default, key):
            near = suggest(key, default.to_dict())
            raise RecipeError(f"{where}.{key}: {kind} has no such setting{near or ''}")
    try:
        config = AutoConfig.for_model(str(kind), **settings)
    except Exception as error:  # transformers has an exception of its own for each kind of check
        raise RecipeError(f"{where}: {_first(error)}") from None
    assert isinstance(config, PreTrainedConfig)
    return config


def read_tokenizer(checkpoint: Checkpoint, subfolder: str = "") -> PreTrainedTokenizerBase:
    """Read a tokenizer.

    Raises:
        CheckpointError: there is none, or it is damaged.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            checkpoint.location,
            subfolder=subfolder,
            revision=checkpoint.revision,
            trust_remote_code=False,
        )
    except Exception as error:  # anything from a missing file to a Rust panic
        raise CheckpointError(
            f"{checkpoint.location}: no readable tokenizer: {_first(error)}"
        ) from None
    assert isinstance(tokenizer, PreTrainedTokenizerBase)
    return tokenizer


def fill_part(module: nn.Module, checkpoint: Checkpoint) -> None:
    """Load a module's weights out of a larger model's, wherever in it the module stands.

    Only the files that hold the part are read.

    Raises:
        CheckpointError: weights of the module are missing or of other shapes.
    """
    wanted = dict(module.named_parameters())
    files = _files_by_key(checkpoint)
    prefix = _prefix(list(wanted), files)
    if prefix is None:
        raise CheckpointError(
            f"{checkpoint.location}: holds no {type(module).__name__}: no prefix has all of its "
            f"{len(wanted)} weights"
        )
    for file in dict.fromkeys(files[prefix + name] for name in wanted):
        path = checkpoint.file((file,))
        names = [name for name in wanted if files[prefix + name] == file]
        for name, value in _read(path, {prefix + n: n for n in names}).items():
            if value.shape != wanted[name].shape:
                raise CheckpointError(
                    f"{path}: {prefix}{name} has the shape {tuple(value.shape)}, "
                    f"expected {tuple(wanted[name].shape)}"
                )
            wanted[name].data.copy_(value)


def shape_in(checkpoint: Checkpoint, name: str) -> tuple[int, ...]:
    """Return the shape of one weight of a larger model, wherever in it that stands.

    Raises:
        CheckpointError: the model has no such weight.
    """
    files = _files_by_key(checkpoint)
    prefix = _prefix([name], files)
    if prefix is None:
        raise CheckpointError(f"{checkpoint.location}: holds no weight '{name}'")
    path = checkpoint.file((files[prefix + name],))
    if path.suffix != ".safetensors":
        return tuple(_load(path)[prefix + name].shape)
    with safe_open(str(path), framework="pt") as file:
        return tuple(file.get_slice(prefix + name).get_shape())


def _prefix(names: list[str], keys: Mapping[str, str]) -> str | None:
    first = names[0]
    ends = [key for key in keys if key == first or key.endswith(f".{first}")]
    for prefix in sorted((key.removesuffix(first) for key in ends), key=len):
        if all(prefix + name in keys for name in names):
            return prefix
    return None


def _files_by_key(checkpoint: Checkpoint) -> dict[str, str]:
    """Return which file holds each weight."""
    found = checkpoint.file((_WHOLE[0], _INDEX[0], _WHOLE[1], _INDEX[1]))
    if found.name in _INDEX:
        index: dict[str, str] = json.loads(found.read_text(encoding="utf-8"))["weight_map"]
        return index
    return dict.fromkeys(_keys(found), found.name)


def _keys(path: Path) -> list[str]:
    if path.suffix == ".safetensors":
        try:
            with safe_open(str(path), framework="pt") as file:
                return list(file.keys())
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{path}: not readable as weights: {error}") from None
    return list(_load(path))


def _read(path: Path, names: Mapping[str, str]) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":
        with safe_open(str(path), framework="pt") as file:
            return {name: file.get_tensor(key) for key, name in names.items()}
    state = _load(path)
    return {name: state[key] for key, name in names.items()}


def _load(path: Path) -> dict[str, Tensor]:
    try:
        state: dict[str, Tensor] = torch.load(
            path, map_location="cpu", weights_only=True, mmap=True
        )
    except Exception as error:
        raise CheckpointError(f"{path}: not readable as weights: {_first(error)}") from None
    return state


def _first(error: Exception) -> str:
    return first_line(error)
