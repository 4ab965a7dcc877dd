"""Low-rank adapters in the language model, through peft, and how they are computed cheaply."""

import warnings
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from peft import PeftModel, TaskType, get_peft_model
from peft.tuners.lora import Linear as LoraLinear
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from faceaffect.errors import CheckpointError, RecipeError, first_line
from faceaffect.networks.lora import LoRA


@dataclass(frozen=True)
class LanguageLoRA(LoRA):
    """Low-rank adapters in the language model; the defaults are LLaMA-VID's.

    Args:
        r: rank.
        alpha: the adapters' output is scaled by alpha / r.
        dropout: rate on the adapters' input, in [0, 1).
        targets: last parts of the names of the layers that get an adapter, such as
            ``[q_proj, v_proj]``; by default every linear layer but the output head.
    """

    r: int = 64
    dropout: float = 0.05


class Adapted:
    """What a model of transformers with adapters leaves for others.

    Attributes:
        net: the model, a ``PeftModel`` if it has adapters.
        reader: what makes the model's input of text and pictures.
    """

    net: Any
    reader: Any

    @property
    def has_adapter(self) -> bool:
        """Whether there is an adapter to save or merge."""
        return isinstance(self.net, PeftModel)

    def save_adapter(self, folder: str | Path) -> None:
        """Write the adapter in peft's own format.

        Raises:
            CheckpointError: the model has no adapter.
        """
        if not self.has_adapter:
            raise CheckpointError("the language model has no adapter to export")
        self.net.save_pretrained(str(folder))

    def save_merged(self, folder: str | Path) -> None:
        """Write the model with its adapter merged in, and its reader, as transformers reads it.

        A copy is merged, so that as much memory again is needed.
        """
        net: Any = deepcopy(self.net)
        merged = net.merge_and_unload() if self.has_adapter else net
        merged.save_pretrained(str(folder))
        self.reader.save_pretrained(str(folder))


_PASSES = 128
"""What the passes that scale and add an adapter's output cost, in multiplications a value."""


def put_adapters(
    net: Any, lora: LanguageLoRA, layers: str | None = None, where: str = "model.llm.lora"
) -> Any:
    """Return the language model with adapters in it, a ``PeftModel``.

    Args:
        net: the language model.
        lora: settings.
        layers: a pattern of the names of the layers to adapt; by default what ``lora`` says.
        where: the recipe's key, for errors.

    Raises:
        RecipeError: the adapters do not fit the model.
    """
    with warnings.catch_warnings():
        # peft asks for a property that transformers has renamed.
        warnings.filterwarnings("ignore", ".*is_gradient_checkpointing.*", FutureWarning)
        try:
            found = layers or lora.targets or "all-linear"
            config = lora.config(found, task_type=TaskType.CAUSAL_LM)
            adapted = get_peft_model(net, config)
        except ValueError as error:
            raise RecipeError(f"{where}: {first_line(error)}") from None
    net.register_forward_pre_hook(_cast_once)
    for module in net.modules():
        if isinstance(module, LoraLinear) and _pays_composed(module):
            setattr(module, "forward", partial(_composed, module))  # noqa: B010
    return adapted


def _cast_once(net: Any, inputs: Any) -> None:
    """Keep peft from casting inputs to the adapters' float32 where autocast turns it back."""
    cast_inputs = not torch.is_autocast_enabled(net.device.type)
    for module in net.modules():
        if isinstance(module, LoraLayer):
            module.cast_input_dtype_enabled = cast_inputs


def _pays_composed(layer: Any) -> bool:
    """Whether a layer and its adapter are cheaper as one matrix than one beside the other.

    In training a token costs three products with the composed matrix, else two with the frozen one
    and three with each factor of the adapter, and some more passes over what the layer gives.
    """
    if not isinstance(layer.get_base_layer(), nn.Linear):  # GPT-2's holds its matrix transposed
        return False
    size, factors = layer.in_features * layer.out_features, layer.in_features + layer.out_features
    passes = _PASSES * layer.out_features
    return all(size < 3 * rank * factors + passes for rank in layer.r.values())


def _composed(layer: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Return ``(W + s B A) x`` where peft computes ``W x + s B (A x)``, which is the same.

    In full precision only: in half precision the sum of the matrices would lose what the adapter
    adds to large weights.
    """
    active, base = layer.active_adapters, layer.get_base_layer()
    composable = (
        not (args or kwargs or layer.disable_adapters or layer.merged)
        and len(active) == 1
        and active[0] in layer.lora_A
        and isinstance(layer.lora_dropout[active[0]], nn.Identity)
        and base.weight.dtype == x.dtype == torch.float32
        and not torch.is_autocast_enabled(x.device.type)
    )
    if not composable:
        plain: Tensor = LoraLinear.forward(layer, x, *args, **kwargs)
        return plain
    name = active[0]
    change = layer.lora_B[name].weight @ layer.lora_A[name].weight
    return F.linear(x, torch.add(base.weight, change, alpha=layer.scaling[name]), base.bias)
