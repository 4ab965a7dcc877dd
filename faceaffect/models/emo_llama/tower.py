"""The frozen vision tower: any backbone of timm, or the vision part of a Hugging Face model."""

import json
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import (
    AutoModel,
    Blip2VisionModel,
    InstructBlipVisionModel,
    PreTrainedConfig,
    PreTrainedModel,
)

from faceaffect.errors import CheckpointError, RecipeError, first_line
from faceaffect.hardware import choose_dtype
from faceaffect.models.emo_llama.checkpoint import (
    Checkpoint,
    fill_part,
    find_checkpoint,
    make_config,
    read_config,
)
from faceaffect.networks.backbones import Backbone, create_backbone, fingerprint
from faceaffect.networks.weights import Freezable

_CLASSES: dict[str, Any] = {
    "instructblip_vision_model": InstructBlipVisionModel,
    "blip_2_vision_model": Blip2VisionModel,
}
_CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
_CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


class TimmTower(nn.Module):
    """Tokens of a frozen timm backbone.

    Attributes:
        width: channels of a token.
        num_prefix_tokens: class and register tokens in front of the patches.
    """

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone
        self.width, self.num_prefix_tokens = backbone.width, backbone.num_prefix_tokens

    @property
    def fingerprint(self) -> str:
        """Name of weights and image size."""
        return f"{fingerprint(self.backbone.state_dict())}-{self.backbone.image_size}"

    def forward(self, image: Tensor) -> Tensor:
        """Return tokens (N, prefix + P, C) of uint8 faces (N, 3, H, W)."""
        tokens: Tensor = self.backbone.tokens(self.backbone.normalise(image))
        return tokens


class HuggingFaceTower(Freezable):
    """Tokens of a frozen vision transformer of transformers, of any of its layers.

    The outputs of a layer are taken as they are, without the final norm, as LLaMA-VID and LLaVA do.

    Args:
        net: the vision model.
        layer: which layer's outputs, counted from the end: -1 is the last.
        mean: of the pixels, RGB in [0, 1].
        std: of the pixels, RGB in [0, 1].
    """

    def __init__(
        self,
        net: PreTrainedModel,
        *,
        layer: int = -1,
        mean: tuple[float, ...] = _CLIP_MEAN,
        std: tuple[float, ...] = _CLIP_STD,
    ) -> None:
        super().__init__()
        self.net, self.layer = net, layer
        config: Any = net.config
        self.image_size: int = config.image_size
        self.width: int = config.hidden_size
        patches = (config.image_size // config.patch_size) ** 2
        self.mean, self.std = mean, std
        self._patches = patches
        self.num_prefix_tokens = 1 + int(getattr(config, "num_register_tokens", 0) or 0)
        if "siglip" in config.model_type:
            self.num_prefix_tokens = 0

    @property
    def fingerprint(self) -> str:
        """Name of weights, image size, layer and normalisation."""
        name = f"{fingerprint(self.net.state_dict())}-{self.image_size}-{self.layer}"
        return f"{name}-{self.mean}-{self.std}"

    def forward(self, image: Tensor) -> Tensor:
        """Return tokens (N, prefix + P, C) of uint8 faces (N, 3, H, W)."""
        pixels = image.float()
        size = (self.image_size, self.image_size)
        if pixels.shape[-2:] != size:
            pixels = F.interpolate(pixels, size, mode="bicubic", antialias=True).clamp(0, 255)
        mean = pixels.new_tensor(self.mean).view(3, 1, 1)
        std = pixels.new_tensor(self.std).view(3, 1, 1)
        pixels = (pixels / 255 - mean) / std
        with torch.no_grad():
            answer = self.net(pixels.to(self.net.dtype), output_hidden_states=True)
        tokens: Tensor = answer.hidden_states[self.layer]
        return tokens


def create_tower(
    name: str | None = None,
    *,
    pretrained: bool = False,
    revision: str | None = None,
    image_size: int | None = None,
    config: dict[str, Any] | None = None,
    layer: int = -1,
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "float32",
) -> TimmTower | HuggingFaceTower:
    """Build a frozen vision tower.

    Args:
        name: a backbone of timm or of the package (see
            :func:`faceaffect.networks.backbones.create_backbone`), or ``hf:`` and a folder or a hub
            name of a Hugging Face model with a vision part: CLIP, SigLIP, DINOv2, or a whole
            multimodal model such as InstructBLIP, whose tower is EVA ViT-g/14.
        pretrained: take weights from the hub or its local cache.
        revision: branch, tag or commit on the hub.
        image_size: pixels, of timm backbones.
        config: in place of a name: ``model_type`` and settings of a vision model of transformers,
            with random weights.
        layer: whose outputs, counted from the end; of Hugging Face models.
        dtype: of the frozen weights of a Hugging Face model; ``auto`` takes what the machine
            computes in hardware.

    Raises:
        RecipeError: settings that contradict each other.
        CheckpointError: weights are missing or damaged.
    """
    if (name is None) == (config is None):
        raise RecipeError("model.tower: give either a name or a config")
    kind = choose_dtype(dtype, "model.tower.dtype")
    if config is not None:
        return _frozen(_build(make_config(config, "model.tower.config")).to(kind), layer)
    assert name is not None
    if name.startswith("hf:"):
        place = name.removeprefix("hf:")
        found = find_checkpoint(
            place, pretrained=pretrained, revision=revision, where="model.tower.name"
        )
        return _from_checkpoint(found, layer, kind)
    if layer != -1:
        raise RecipeError("model.tower.layer: is about Hugging Face models, named hf:...")
    return TimmTower(
        create_backbone(
            name, pretrained=pretrained, revision=revision, image_size=image_size, frozen=True
        )
    )


def _from_checkpoint(found: Checkpoint, layer: int, dtype: torch.dtype) -> HuggingFaceTower:
    whole: Any = read_config(found)
    net = _build(getattr(whole, "vision_config", whole))
    fill_part(net, found)
    name = fingerprint(net.state_dict())  # in full precision: the same on every machine
    tower = _frozen(net.to(dtype), layer, **_pixels(found))
    tower.source = {"kind": found.kind, "name": found.name, "fingerprint": name}
    return tower


def _build(config: PreTrainedConfig) -> Any:
    for key in ("image_size", "patch_size", "hidden_size"):
        if not isinstance(getattr(config, key, None), int):
            raise RecipeError(f"model.tower: {config.model_type} is no vision transformer")
    # InstructBLIP's own default, 1e-10, makes all patches of a random network alike.
    if getattr(config, "initializer_range", 1.0) < 1e-6:
        config.initializer_range = 0.02
    auto: Any = AutoModel
    kind = _CLASSES.get(config.model_type)
    try:
        net = kind._from_config(config) if kind else auto.from_config(config)
    except ValueError as error:
        raise RecipeError(f"model.tower: no vision model: {first_line(error)}") from None
    return net.eval().float()


def _frozen(net: PreTrainedModel, layer: int, **pixels: Any) -> HuggingFaceTower:
    layers = int(net.config.num_hidden_layers)
    if not -layers <= layer <= -1:
        raise RecipeError(f"model.tower.layer: {layer} is not between {-layers} and -1")
    tower = HuggingFaceTower(net, layer=layer, **pixels)
    tower.freeze()
    return tower


def _pixels(found: Checkpoint) -> dict[str, tuple[float, ...]]:
    """Return mean and standard deviation as the checkpoint's preprocessor states them."""
    try:
        about = json.loads(found.file(("preprocessor_config.json",)).read_text(encoding="utf-8"))
    except (CheckpointError, ValueError):
        return {}
    names = {"mean": "image_mean", "std": "image_std"}
    return {key: tuple(about[name]) for key, name in names.items() if name in about}
