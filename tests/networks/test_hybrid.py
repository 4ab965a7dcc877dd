"""The hybrid of convolutions and a ViT."""

import torch

from faceaffect.networks.backbones import create_backbone, list_backbones


def test_tokens_are_places_of_the_convolutions_map() -> None:
    backbone = create_backbone("asset:real_vit").eval()
    assert backbone.grid == (7, 7)
    x = torch.zeros(1, 3, 112, 112)
    other = x.clone()
    other[..., :8, :8] = 1  # one corner
    stem = backbone.net.patch_embed
    moved = (stem(other) - stem(x)).abs().sum(2)[0]
    assert moved[0] > 0
    assert moved[0] > 3 * moved[-1]  # the far corner sees little of it
    assert backbone.tokens(x).shape == (1, 50, 192)


def test_norms_of_the_convolutions_keep_their_statistics() -> None:
    backbone = create_backbone("lite0_vit", image_size=32, args={"depth": 1}).train()
    norm = backbone.net.patch_embed.backbone.bn1
    before = norm.running_mean.clone()
    backbone.pooled(torch.randn(2, 3, 32, 32))
    assert not norm.training
    assert torch.equal(norm.running_mean, before)
    assert backbone.net.blocks.training


def test_it_is_among_the_backbones() -> None:
    assert {"lite0_vit", "asset:real_vit", "asset:real_expression"} <= set(list_backbones())


def test_what_is_pooled_is_had_of_the_tokens() -> None:
    backbone = create_backbone("asset:real_vit").eval()
    x = torch.randn(2, 3, 112, 112)
    torch.testing.assert_close(backbone.pooled_of(backbone.tokens(x)), backbone.pooled(x))
