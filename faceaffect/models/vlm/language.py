"""The language part of a vision-language model: what it can do, and where adapters go."""

import re
from typing import Any

import torch
from torch import Tensor, nn

from faceaffect.errors import RecipeError, suggest
from faceaffect.models.emo_llama.adapters import LanguageLoRA

_ATTENTION = {"full_attention", "sliding_attention", "chunked_attention"}


def unshared(net: Any, text: Any) -> str | None:
    """Return why a model's answers cannot stand side by side behind a prompt; None if they can."""
    kinds = set(getattr(text, "layer_types", None) or ()) - _ATTENTION
    if kinds or getattr(net, "_is_stateful", False):
        return f"{type(net).__name__} keeps a state ({', '.join(sorted(kinds)) or 'recurrent'})"
    if "flash" in str(getattr(net.config, "_attn_implementation", "")):
        return "flash attention takes no mask of its own"
    return None


def language_layers(model: Any, lora: LanguageLoRA) -> str:
    """Return a pattern of the linear layers of the language part that get an adapter.

    Raises:
        RecipeError: a target names no such layer.
    """
    base: Any = model.base
    head = base.get_output_embeddings()
    found = [name for name, part in model.decoder.named_modules()
             if isinstance(part, nn.Linear) and part is not head]  # fmt: skip
    ends = {name.rpartition(".")[2] for name in found}
    for target in lora.targets or ():
        if target not in ends:
            raise RecipeError(
                f"model.lora.targets: '{target}': the language part has no such layer"
                f"{suggest(target, ends) or '.'} It has: {', '.join(sorted(ends))}"
            )
    wanted = "|".join(sorted(re.escape(end) for end in lora.targets or ends))
    return rf"{re.escape(model.decoder_name)}\.(.*\.)?({wanted})"


def thaw(model: Any, part: nn.Module) -> list[nn.Parameter]:
    """Let a part learn, in full precision whatever the type of the frozen weights; return them.

    Raises:
        RecipeError: they have 4 bits.
    """
    own = {id(module) for module in part.modules()}
    model.frozen_parts = [module for module in model.frozen_parts if id(module) not in own]
    outside = next(part.parameters()).dtype
    if not outside.is_floating_point:
        raise RecipeError("model.projector: weights in 4 bits cannot be trained")
    part.float().requires_grad_(True)
    if outside != torch.float32:
        part.register_forward_pre_hook(lambda _, given: tuple(
            x.float() if isinstance(x, Tensor) and x.is_floating_point() else x for x in given
        ))  # fmt: skip
        part.register_forward_hook(lambda _, given, output: output.to(outside))
    return list(part.parameters())
