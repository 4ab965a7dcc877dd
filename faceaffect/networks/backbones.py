"""The one door to timm: any vision network as pooled features, tokens or a feature pyramid."""

import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cached_property
from typing import Any, Literal, Self, cast

import timm
import torch
import torch.nn.functional as F
from timm.layers import use_fused_attn
from timm.models import group_parameters
from torch import Tensor, nn

from faceaffect.errors import RecipeError
from faceaffect.networks import hybrid as hybrid  # tells timm of its network
from faceaffect.networks.assets import list_assets
from faceaffect.networks.origins import RESERVED, build, fill, find_source
from faceaffect.networks.weights import (
    Freezable,
    fingerprint,
    frozen_keys,
    frozen_sources,
    load_asset_metadata,
    save_asset,
)

__all__ = [
    "Backbone",
    "create_backbone",
    "fingerprint",
    "frozen_keys",
    "frozen_sources",
    "list_backbones",
    "load_asset_metadata",
    "restoring",
    "save_asset",
]

_restoring: ContextVar[Literal["no", "trained", "all"]] = ContextVar("restoring", default="no")


@contextmanager
def restoring(*, whole: bool = False) -> Iterator[None]:
    """Build backbones whose trained weights a checkpoint is about to bring.

    Within this context only frozen backbones read their weights: those of others are in the
    checkpoint, so neither the hub nor the file that training started from is needed again.

    Args:
        whole: the checkpoint brings the frozen weights too, so that no backbone reads any.
    """
    token = _restoring.set("all" if whole else "trained")
    try:
        yield
    finally:
        _restoring.reset(token)


class Backbone(Freezable):
    """A timm network without its classifier, with its own image size and normalisation.

    Built by :func:`create_backbone`. While it is frozen and nothing in it trains, features are
    computed without a graph, unless the input itself asks for a gradient.

    Args:
        net: the timm network, without classifier.
        name: its name in timm.
        args: the arguments that it was built with besides the image size.
        image_size: side of the square input, pixels.

    Attributes:
        net: the timm network; the transformer blocks of a ViT are ``net.blocks``.
        image_size: side of the square input, pixels.
        width: channels of :meth:`tokens`.
        pooled_width: channels of :meth:`pooled`; differs from ``width`` in networks that have a
            hidden layer in their head, such as MobileNetV3.
        num_prefix_tokens: class and register tokens in front of the patch tokens.
    """

    net: Any
    scale: Tensor
    shift: Tensor

    def __init__(self, net: Any, *, name: str, args: Mapping[str, Any], image_size: int) -> None:
        super().__init__()
        # timm's networks share a protocol, not a base class.
        self.net = net
        self.name, self.args, self.image_size = name, dict(args), image_size
        config = self.net.pretrained_cfg
        self.mean, self.std = tuple(config["mean"]), tuple(config["std"])
        self.interpolation = "bilinear" if config.get("interpolation") == "bilinear" else "bicubic"
        std = torch.tensor(self.std).view(3, 1, 1)
        self.register_buffer("scale", 1 / (255 * std), persistent=False)
        self.register_buffer(
            "shift", -torch.tensor(self.mean).view(3, 1, 1) / std, persistent=False
        )
        self.width: int = self.net.num_features
        self.pooled_width: int = getattr(self.net, "head_hidden_size", None) or self.width
        has_class_token = getattr(self.net, "cls_token", None) is not None
        self.num_prefix_tokens: int = getattr(self.net, "num_prefix_tokens", int(has_class_token))
        if not self._flat:
            self.net.to(memory_format=torch.channels_last)  # what convolutions compute fastest in
        self._choose_attention()
        self._frozen_first: list[nn.Module] = []

    def freeze_stages(self, count: int) -> None:
        """Stop training the stem and the first stages of a CNN, or blocks of a ViT.

        They stay in eval mode, too. Which parameters belong to them, timm knows.

        Args:
            count: of stages or blocks, less than there are.

        Raises:
            RecipeError: there are fewer, or timm does not know them.
        """
        if not hasattr(self.net, "group_matcher"):
            raise RecipeError(f"backbone.frozen_stages: timm does not know those of {self.name}")
        groups = group_parameters(self.net, self.net.group_matcher(coarse=True))
        if not 0 < count < len(groups) - 1:
            raise RecipeError(
                f"backbone.frozen_stages: {count} is not from 1 to {len(groups) - 2}, which "
                f"{self.name} allows; backbone.frozen: true freezes all"
            )
        self._frozen_first = []
        first = {name for group in range(count + 1) for name in groups[group]}
        for name, parameter in self.net.named_parameters():
            parameter.requires_grad_(name not in first)
        for module in self.net.modules():
            own = [parameter.requires_grad for parameter in module.parameters()]
            if own and not any(own):
                self._frozen_first += module.modules()
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        """Set the mode of all that is not frozen."""
        super().train(mode)
        for part in self._frozen_first:
            part.training = False
        return self

    def _apply(self, *args: Any, **kwargs: Any) -> Self:
        super()._apply(*args, **kwargs)  # type: ignore[no-untyped-call]
        self._choose_attention()
        return self

    def _choose_attention(self) -> None:
        """Use PyTorch's fused attention on an accelerator and plain products on a CPU.

        On a CPU the backward pass of the fused kernel takes longer in bfloat16 than all the rest of
        a small ViT.
        """
        on_cpu = next(self.net.parameters()).device.type == "cpu"
        for module in self.net.modules():
            if hasattr(module, "fused_attn"):
                module.fused_attn = not on_cpu and use_fused_attn()

    def describe(self) -> dict[str, Any]:
        """Return what :func:`create_backbone` needs to build the network again from an asset."""
        return {
            "architecture": self.name,
            "args": self.args,
            "image_size": self.image_size,
            "mean": list(self.mean),
            "std": list(self.std),
            "interpolation": self.interpolation,
        }

    def normalise(self, image: Tensor) -> Tensor:
        """Bring faces to the network's image size, mean and standard deviation.

        Args:
            image: (B, 3, H, W) uint8 RGB.

        Returns:
            (B, 3, S, S) in the network's float type, S = ``image_size``; resized with
            antialiasing, and only where H, W differ from S.

        Raises:
            TypeError: the image is not uint8.
        """
        if image.dtype != torch.uint8:
            raise TypeError(f"normalise takes uint8 images, got {image.dtype}")
        size = (self.image_size, self.image_size)
        pixels = image.float()
        if pixels.shape[-2:] != size:
            pixels = F.interpolate(pixels, size, mode=self.interpolation, antialias=True)
            pixels = pixels.clamp(0, 255)  # bicubic overshoots at edges
        return torch.addcmul(self.shift.float(), pixels, self.scale.float()).to(self._dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Return :meth:`pooled`."""
        return self.pooled(x)

    def pooled(self, x: Tensor) -> Tensor:
        """Return one vector a face: what the network's own classifier would see.

        Args:
            x: (B, 3, S, S) normalised.

        Returns:
            (B, ``pooled_width``).
        """
        with torch.set_grad_enabled(self._needs_graph(x)):
            return cast(
                Tensor, self.net.forward_head(self.net.forward_features(x), pre_logits=True)
            )

    def pooled_of(self, tokens: Tensor) -> Tensor:
        """Return what :meth:`pooled` makes of :meth:`tokens`.

        Raises:
            RecipeError: the network pools something else than tokens.
        """
        if not self._flat:
            raise RecipeError(f"backbone: {self.name} pools no tokens; only a plain ViT does")
        return cast(Tensor, self.net.forward_head(tokens, pre_logits=True))

    def tokens(self, x: Tensor) -> Tensor:
        """Return the last feature map as tokens, row by row.

        Args:
            x: (B, 3, S, S) normalised.

        Returns:
            (B, P, ``width``), P = ``num_prefix_tokens`` + height * width of ``grid``.
        """
        with torch.set_grad_enabled(self._needs_graph(x)):
            features: Tensor = self.net.forward_features(x)
            if features.ndim == 3:
                return features
            channels_last = features.shape[-1] == self.width != features.shape[1]
            return features.flatten(1, 2) if channels_last else features.flatten(2).mT

    def pyramid(self, x: Tensor, levels: int = 3) -> list[Tensor]:
        """Return feature maps from shallow to deep.

        A CNN gives its last stages, each usually at half the resolution of the one before. A plain
        ViT gives the outputs of evenly spaced blocks up to the last, through the final norm and
        without prefix tokens, all at the resolution of ``grid``.

        Args:
            x: (B, 3, S, S) normalised.
            levels: how many maps.

        Returns:
            ``levels`` tensors (B, C_s, H_s, W_s), C_s as in :meth:`channels`.

        Raises:
            RecipeError: the network has fewer levels.
        """
        with torch.set_grad_enabled(self._needs_graph(x)):
            return cast(
                list[Tensor],
                self.net.forward_intermediates(
                    x, indices=self._levels(levels), norm=self._flat, intermediates_only=True
                ),
            )

    def channels(self, levels: int = 3) -> list[int]:
        """Return the channels of each map of :meth:`pyramid`."""
        return [self.net.feature_info[i]["num_chs"] for i in self._levels(levels)]

    @cached_property
    def grid(self) -> tuple[int, int]:
        """Height and width of the last feature map."""
        if (
            hasattr(self.net, "patch_embed")
            and hasattr(self.net.patch_embed, "grid_size")
            and self._flat
        ):
            return cast(tuple[int, int], tuple(self.net.patch_embed.grid_size))
        height, width = self.probe(lambda x: self.pyramid(x, 1)[0]).shape[-2:]
        return height, width

    def probe(self, call: Callable[[Tensor], Tensor]) -> Tensor:
        """Run ``call`` on one black face in eval mode, without a graph."""
        modes = {module: module.training for module in self.modules()}
        parameter = next(self.net.parameters())
        image = torch.zeros(1, 3, self.image_size, self.image_size, device=parameter.device)
        self.eval()
        try:
            with torch.no_grad():
                return call(image.to(parameter.dtype))
        finally:
            for module, mode in modes.items():
                module.training = mode

    @property
    def _dtype(self) -> torch.dtype:
        return cast(torch.dtype, next(self.net.parameters()).dtype)

    @property
    def _flat(self) -> bool:
        """Whether all levels have one resolution, as the blocks of a plain ViT."""
        return len({level["reduction"] for level in self.net.feature_info}) == 1

    def _levels(self, levels: int) -> list[int]:
        count = len(self.net.feature_info)
        if not 1 <= levels <= count:
            raise RecipeError(f"{self.name} has {count} feature levels; {levels} were asked for")
        if self._flat:
            return [round((i + 1) * count / levels) - 1 for i in range(levels)]
        return list(range(count - levels, count))

    def _needs_graph(self, x: Tensor) -> bool:
        return torch.is_grad_enabled() and (
            not self.frozen
            or x.requires_grad
            or any(p.requires_grad for p in self.net.parameters())
        )


def create_backbone(
    name: str,
    *,
    pretrained: bool = False,
    weights: str | None = None,
    revision: str | None = None,
    image_size: int | None = None,
    frozen: bool = False,
    frozen_stages: int = 0,
    drop_path: float = 0.0,
    grad_checkpointing: bool = False,
    args: dict[str, Any] | None = None,
) -> Backbone:
    """Build a vision backbone; the network is reached only if ``pretrained`` is true.

    Args:
        name: a timm model, with its weights' tag if wanted (``vit_base_patch16_224.augreg_in21k``);
            ``hf-hub:owner/model`` for a timm model that somebody put on the hub;
            ``local-dir:FOLDER`` for such a model in a local folder; ``asset:mini_vit`` for weights
            that the package ships, ``asset:real_expression`` for the backbone of a model that it
            ships. The last three always bring their weights.
        pretrained: take the weights that timm or the hub has under this name, from the local cache
            if they are there.
        weights: take the weights of this file or folder (safetensors, or torch without code;
            a checkpoint of faceaffect gives those of its backbone).
        revision: branch, tag or commit of the weights on the hub.
        image_size: side of the square input, pixels; by default what the weights were made for.
            Position embeddings are resampled.
        frozen: train nothing and stay in eval mode.
        frozen_stages: the same for the stem and so many first stages, blocks of a ViT, only.
        drop_path: rate of stochastic depth, in [0, 1).
        grad_checkpointing: spend time to save memory in training.
        args: further arguments of the timm model, such as ``{depth: 6, embed_dim: 192}``.

    Raises:
        RecipeError: an unknown name or argument, or settings that contradict each other.
        CheckpointError: weights are missing, damaged or of other shapes, or the hub cannot be
            reached.
    """
    reserved = sorted(RESERVED & set(args or {}))
    if reserved:
        raise RecipeError(f"backbone.args.{reserved[0]}: not an argument of the network itself")
    # Weights that a checkpoint will bring need not be found again.
    needed = {"no": True, "trained": frozen, "all": False}[_restoring.get()]
    source = find_source(name, pretrained, weights, revision, fetch=needed)
    size = image_size or source.config.get("input_size", (3, 224, 224))[1]
    options = {
        **source.args,
        **(args or {}),
        **({"drop_path_rate": drop_path} if drop_path else {}),
    }
    net = build(source, size, options)
    described = {key: value for key, value in options.items() if key != "drop_path_rate"}
    backbone = Backbone(net, name=source.name, args=described, image_size=size)
    if source.file is not None:
        if not source.own:
            fill(net, source)
        backbone.source = {
            "kind": source.kind,
            "name": source.title,
            "fingerprint": fingerprint(net.state_dict()),
        }
    if grad_checkpointing:
        try:
            net.set_grad_checkpointing(True)
        except (AssertionError, AttributeError):
            raise RecipeError(f"backbone.grad_checkpointing: {source.name} has none") from None
    if frozen_stages:
        if frozen:
            raise RecipeError("backbone.frozen_stages: all of the backbone is frozen here")
        backbone.freeze_stages(frozen_stages)
    if frozen:
        backbone.freeze()
    if (frozen or frozen_stages) and backbone.source is None and _restoring.get() == "no":
        warnings.warn(
            f"the backbone {name} is frozen with random weights; give it some: "
            "pretrained: true or weights: FILE",
            stacklevel=2,
        )
    return backbone


def grid_side(value: str, key: str, *, other: str) -> int | None:
    """Return how finely a feature map is averaged: G of ``grid:G``, 1 of ``mean``.

    Args:
        value: what the recipe says.
        key: where it says so, for the error.
        other: the word for not averaging at all, which gives None.

    Raises:
        RecipeError: the recipe says something else.
    """
    if value == other:
        return None
    match = re.fullmatch(r"mean|grid:([1-9]\d?)", value)
    if match is None:
        raise RecipeError(f"{key}: '{value}' is not {other}, mean or grid:G (such as grid:4)")
    return int(match[1] or 1)


def pool_grid(patches: Tensor, grid: tuple[int, int], side: int) -> Tensor:
    """Return the means (B, side^2, C) of a feature map over side x side cells, row by row.

    Args:
        patches: (B, P, C), row by row, without prefix tokens.
        grid: height and width of the map, P = height * width.
        side: cells along each direction.
    """
    maps: Tensor = patches.mT.unflatten(2, grid)  # type: ignore[no-untyped-call]
    return F.adaptive_avg_pool2d(maps, side).flatten(2).mT


def list_backbones() -> list[str]:
    """Return every name for :func:`create_backbone`: the package's assets, then timm's models."""
    return [*(f"asset:{name}" for name in list_assets()), *timm.list_models()]
