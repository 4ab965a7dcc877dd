"""Weights from files: reading them safely, naming them by a fingerprint, the package's assets.

An asset is one safetensors file, floats in half precision, whose header holds JSON: how to build
the network, what it is, and the fingerprint of its weights.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from timm.models import load_state_dict
from torch import Tensor, nn

from faceaffect.errors import CheckpointError, first_line

_HEADER = "faceaffect"
_SAMPLES = 64
_FOLDER_FILES = ("model.safetensors", "pytorch_model.bin", "open_clip_model.safetensors")


def fingerprint(state: Mapping[str, Tensor]) -> str:
    """Name weights by their names, shapes and at most 64 sampled values of each tensor.

    Cheap at any size, and equal for equal values whatever the float type. It tells weights apart;
    it is no protection against somebody who forges them.

    Args:
        state: a state dict, on any device.

    Returns:
        16 hexadecimal digits.

    >>> fingerprint({"a": torch.zeros(2)}) == fingerprint({"a": torch.ones(2)})
    False
    """
    digest = hashlib.sha256()
    for name in sorted(state):
        flat = state[name].detach().reshape(-1)
        digest.update(f"{name} {tuple(state[name].shape)} ".encode())
        if flat.numel():
            index = torch.linspace(
                0, flat.numel() - 1, min(_SAMPLES, flat.numel()), dtype=torch.float64
            )
            values = flat[index.round().long().to(flat.device)]
            digest.update(values.to("cpu", torch.float64).numpy().tobytes())
    return digest.hexdigest()[:16]


class Freezable(nn.Module):
    """A module that can be frozen as it stands, while what is put into it later still trains.

    The frozen parts stay in eval mode whatever mode the model around them is in, and if a file, an
    asset or a hub revision names their weights, checkpoints leave them out.

    Attributes:
        source: what names the weights: ``kind`` ("asset", "file", "hub", or "run" for those of
            another run, which a checkpoint stores nevertheless), ``name`` and ``fingerprint``; None
            for weights that nothing names.
        frozen_parts: the module itself and every submodule at the time of freezing.
    """

    source: dict[str, Any] | None

    def __init__(self) -> None:
        super().__init__()
        self.source = None
        self.frozen_parts: list[nn.Module] = []

    @property
    def frozen(self) -> bool:
        """Whether the module has been frozen."""
        return bool(self.frozen_parts)

    @property
    def frozen_source(self) -> dict[str, Any] | None:
        """What names the frozen weights; None if nothing lasting does or the module trains."""
        named = self.frozen and self.source is not None and self.source["kind"] != "run"
        return self.source if named else None

    def freeze(self) -> None:
        """Stop training all parameters and put every present part into eval mode for good."""
        self.requires_grad_(False)
        self.frozen_parts = list(self.modules())
        self.train(self.training)

    def train(self, mode: bool = True) -> "Freezable":
        """Set the mode of all but the frozen parts."""
        super().train(mode)
        for part in self.frozen_parts:
            part.training = False
        return self


def frozen_sources(model: nn.Module) -> dict[str, dict[str, Any]]:
    """Return what names the frozen weights of a model, by the prefix of their state-dict keys."""
    return {
        f"{prefix}." if prefix else "": module.frozen_source
        for prefix, module in model.named_modules()
        if isinstance(module, Freezable) and module.frozen_source is not None
    }


def frozen_keys(model: nn.Module) -> set[str]:
    """Return the state-dict keys of the frozen weights that an asset, a file or the hub names.

    Adapters that were put into a frozen module are not among them.
    """
    keys: set[str] = set()
    for prefix, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, Freezable) and module.frozen_source is not None:
            frozen = {id(part) for part in module.frozen_parts}
            for name, part in module.named_modules(prefix=prefix, remove_duplicate=False):
                if id(part) in frozen:
                    own = [*part._parameters, *part._buffers]
                    keys.update(f"{name}.{key}" if name else key for key in own)
    return keys & set(model.state_dict(keep_vars=True))


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Read a state dict from a safetensors or torch file, running no code of it.

    Args:
        path: a file, or a folder with ``model.safetensors`` or ``pytorch_model.bin``. Of training
            checkpoints the ``state_dict`` or ``model`` entry is taken.

    Raises:
        CheckpointError: there is no such file, or it cannot be read as weights.
    """
    file = Path(path)
    if file.is_dir():
        found = [file / name for name in _FOLDER_FILES if (file / name).is_file()]
        if not found:
            raise CheckpointError(f"{file}: holds none of {', '.join(_FOLDER_FILES)}")
        file = found[0]
    if not file.is_file():
        raise CheckpointError(f"no weights at {file}")
    try:
        state = load_state_dict(str(file), weights_only=True)
    except UnpicklingError:
        raise CheckpointError(
            f"{file}: not readable as weights: damaged, or it holds more than plain values, which "
            "could run code"
        ) from None
    except Exception as error:
        raise CheckpointError(f"{file}: not readable as weights: {first_line(error)}") from None
    tensors = {key: value for key, value in state.items() if isinstance(value, Tensor)}
    if not tensors:
        raise CheckpointError(f"{file}: holds no tensors")
    return tensors


def save_asset(path: str | Path, module: nn.Module, metadata: Mapping[str, Any]) -> None:
    """Write a module's weights as an asset, floats in half precision.

    Args:
        path: the file to write.
        module: its state dict is stored.
        metadata: plain JSON values: what is needed to build the module again (for a backbone
            ``Backbone.describe()``), where the weights come from, what they are good for. The
            ``fingerprint`` is added.

    Raises:
        CheckpointError: a weight does not fit into half precision.
    """
    state = {}
    for name, value in module.state_dict().items():
        half = value.half() if value.is_floating_point() else value
        if not torch.isfinite(half).all():
            raise CheckpointError(f"{path}: {name} does not fit into half precision")
        state[name] = half.cpu().contiguous().clone()
    header = {**metadata, "fingerprint": fingerprint(state)}
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    save_file(state, str(path), metadata={_HEADER: json.dumps(header)})


def load_asset_metadata(path: str | Path) -> dict[str, Any]:
    """Read the metadata of an asset's file without reading its weights.

    Raises:
        CheckpointError: the file is missing, damaged or no asset.
    """
    try:
        with safe_open(str(path), framework="pt") as file:
            header = file.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: not readable as an asset: {error}") from None
    if _HEADER not in header:
        raise CheckpointError(
            f"{path}: a safetensors file, but no asset: it says not what it holds"
        )
    metadata: dict[str, Any] = json.loads(header[_HEADER])
    return metadata


def load_asset(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read an asset's weights, floats as float32, and its metadata; verify the fingerprint.

    Raises:
        CheckpointError: the file is missing, damaged, no asset, or not what its metadata says.
    """
    metadata = load_asset_metadata(path)
    state = {
        name: value.float() if value.is_floating_point() else value
        for name, value in read_weights(path).items()
    }
    if fingerprint(state) != metadata["fingerprint"]:
        raise CheckpointError(f"{path}: damaged: the weights do not match the file's fingerprint")
    return state, metadata
