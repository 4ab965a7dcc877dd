"""Self-supervised pre-training of the general ViT."""

from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch

from batches import face_batch
from faceaffect import LabelSchema, load_model
from faceaffect.errors import RecipeError
from faceaffect.models.vit_pretraining import VitPretraining, describe_patches
from faceaffect.networks.backbones import create_backbone, load_asset_metadata

SMALL: dict[str, Any] = {
    "backbone": {
        "name": "vit_tiny_patch16_224",
        "image_size": 32,
        "args": {"patch_size": 8, "depth": 2, "embed_dim": 32, "num_heads": 2},
    },
    "decoder_width": 32,
}


def module(**args: Any) -> VitPretraining:
    torch.manual_seed(0)
    return VitPretraining(LabelSchema(), **{**SMALL, **args})


def test_a_description_says_which_way_edges_run() -> None:
    image = torch.zeros(2, 3, 16, 16, dtype=torch.uint8)
    image[0, :, :, 4:] = 255  # a vertical edge, within the left patches
    image[1, :, 4:] = 255  # a horizontal one, within the upper patches
    found = describe_patches(image, 16, 8, 1)
    assert found.shape == (2, 4, 11)
    edges = found[..., :8]
    assert edges[0, 0].argmax() == 0
    assert edges[1, 0].argmax() == 4
    torch.testing.assert_close(edges[0, [0, 2]].norm(dim=1), torch.ones(2), atol=0.05, rtol=0)
    assert (edges[0, [1, 3]] == 0).all()
    assert (found[0, 1, 8:] > found[0, 0, 8:]).all()


def test_orientations_match_a_loop() -> None:
    image = torch.randint(0, 256, (1, 3, 8, 8), dtype=torch.uint8)
    grey = np.pad(image[0].float().mean(0).numpy() / 255, 1, mode="edge")
    histogram = np.zeros(8)
    for y in range(1, 9):
        for x in range(1, 9):
            dx, dy = grey[y, x + 1] - grey[y, x - 1], grey[y + 1, x] - grey[y - 1, x]
            double, length = 2 * np.arctan2(dy, dx), np.hypot(dx, dy)
            reach = np.cos(np.pi / 4)
            for k in range(8):
                share = np.cos(double - k * np.pi / 4) - reach
                histogram[k] += length * max(share, 0) / (1 - reach) / 64
    histogram /= np.sqrt((histogram**2).sum() + 0.05**2)
    found = describe_patches(image, 8, 8, 1)[0, 0, :8]
    np.testing.assert_allclose(found.numpy(), histogram, atol=1e-5)


def test_hidden_patches_do_not_reach_the_encoder() -> None:
    net = module(mask_ratio=0.75).eval()
    image = face_batch(n=2, size=32)["image"]
    order = torch.arange(16).expand(2, -1)
    changed = image.clone()
    changed[:, :, 8:] = 0  # patches 4 to 15
    with torch.no_grad():
        for one, other in zip(net(image, order), net(changed, order), strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=0)
        changed[:, :, :8] = 0
        assert not torch.equal(net(image, order)[1], net(changed, order)[1])


def test_learns_a_batch_better_than_its_mean() -> None:
    net = module().train()
    batch = face_batch(n=8, size=32)
    batch["image"] = batch["image"][:, :, :1, :1].repeat(1, 1, 32, 32)  # one colour each
    optimiser = torch.optim.AdamW(net.parameters(), 3e-3)
    for _ in range(60):
        loss = net.loss(batch)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert net.losses(batch)["whole"] < 0.9
    unused = {name for name, p in net.named_parameters() if p.grad is None}
    assert not unused


def test_an_export_is_a_backbone(tmp_path: Path) -> None:
    net = module()
    net.recipe = {"name": "mine", "sections": {"data": {"name": "synthetic"}}}
    loader = torch.utils.data.DataLoader([face_batch(n=4, size=32)], batch_size=None)
    trainer = L.Trainer(
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        accelerator="cpu",
        default_root_dir=tmp_path,
    )
    trainer.fit(net, loader, loader)
    assert torch.isfinite(trainer.callback_metrics["val/score"])
    trainer.test(net, loader, verbose=False)
    assert {"test/explained_hidden", "test/explained_whole"} <= set(trainer.callback_metrics)
    about = load_asset_metadata(tmp_path / "export.safetensors")
    assert about["trained_by"] == "mine"
    again = create_backbone(
        about["architecture"],
        weights=str(tmp_path / "export.safetensors"),
        image_size=about["image_size"],
        args=about["args"],
    )
    for key, value in net.backbone.net.state_dict().items():
        torch.testing.assert_close(again.net.state_dict()[key], value, atol=1e-3, rtol=1e-3)

    checkpoint = tmp_path / "model.ckpt"
    trainer.save_checkpoint(checkpoint, weights_only=True)
    loaded = load_model(checkpoint)
    torch.testing.assert_close(loaded.whole.weight, net.whole.weight)


def test_what_does_not_fit_is_named() -> None:
    with pytest.raises(RecipeError, match=r"mask_ratio: 1\.0"):
        module(mask_ratio=1.0)
    with pytest.raises(RecipeError, match="cells: 3 does not divide"):
        module(cells=3)
    with pytest.raises(RecipeError, match="no plain ViT"):
        module(backbone={"name": "resnet18", "image_size": 32})


def test_the_shipped_vit_is_what_the_design_says() -> None:
    vit = create_backbone("asset:mini_vit", frozen=True)
    assert (vit.width, len(vit.net.blocks), vit.grid) == (192, 6, (8, 8))
