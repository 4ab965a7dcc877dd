"""Low-rank adapters (LoRA, arXiv 2106.09685) in a frozen vision backbone, through peft."""

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import nn

from faceaffect.errors import RecipeError, suggest
from faceaffect.networks.backbones import Backbone

if TYPE_CHECKING:
    from peft import LoraConfig  # a second that models without adapters need not wait


@dataclass(frozen=True)
class LoRA:
    """Settings of the adapters; at the start an adapted network equals the frozen one.

    Args:
        r: rank.
        alpha: the adapters' output is scaled by alpha / r.
        dropout: rate on the adapters' input, in [0, 1).
        targets: last parts of the names of the layers that get an adapter, such as ``[qkv, proj]``;
            by default every linear layer (attention and MLP of a transformer), or in a network
            without any, every ungrouped convolution.
    """

    r: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    targets: list[str] | None = None

    def config(self, layers: str | list[str], **more: Any) -> "LoraConfig":
        """Return peft's form of the settings.

        Args:
            layers: which get an adapter: a pattern, last parts of their names, or ``all-linear``.
            more: of peft's settings.
        """
        from peft import LoraConfig

        return LoraConfig(
            r=self.r,
            lora_alpha=self.alpha,  # type: ignore[arg-type]  # peft divides it, a float is fine
            lora_dropout=self.dropout,
            target_modules=layers,
            **more,
        )

    def put_into(self, backbone: Backbone) -> list[str]:
        """Freeze a backbone and give its layers adapters.

        Returns:
            The names of the adapted layers within ``backbone.net``.

        Raises:
            RecipeError: a target names no layer that can be adapted.
        """
        from peft import inject_adapter_in_model

        layers = adaptable_layers(backbone)
        ends = {name.rpartition(".")[2] for name in layers}
        for target in self.targets or []:
            if target not in ends:
                raise RecipeError(
                    f"lora.targets: '{target}': {backbone.name} has no such layer to adapt"
                    f"{suggest(target, ends) or '.'} It has: {', '.join(sorted(ends))}"
                )
        if self.targets is not None:
            layers = [name for name in layers if name.rpartition(".")[2] in self.targets]
        backbone.freeze()
        inject_adapter_in_model(self.config("|".join(map(re.escape, layers))), backbone.net)
        backbone.train(backbone.training)
        return layers


def adaptable_layers(backbone: Backbone) -> list[str]:
    """Return the names of the linear layers, or else of the ungrouped convolutions, of a backbone.

    Only layers that a forward pass calls: some networks use the weights of a layer directly (the
    fused qkv of BEiT), where an adapter would be passed by without a word.
    """
    called: dict[nn.Module, None] = {}
    kinds = (nn.Linear, nn.Conv2d)
    hooks = [
        module.register_forward_hook(lambda layer, *_: called.update({layer: None}))
        for module in backbone.net.modules()
        if isinstance(module, kinds)
    ]
    try:
        backbone.probe(backbone.pooled)
    finally:
        for hook in hooks:
            hook.remove()
    names = {module: name for name, module in backbone.net.named_modules()}
    linear = [names[m] for m in called if isinstance(m, nn.Linear)]
    convolutions = [names[m] for m in called if isinstance(m, nn.Conv2d) and m.groups == 1]
    return linear or convolutions
