"""Models that the package ships, and finished ones as entrants of their own."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import exporting
from batches import face_batch
from faceaffect import create_model, load_model
from faceaffect.cli import main
from faceaffect.errors import CheckpointError, RecipeError
from faceaffect.export.folder import to_safetensors
from faceaffect.models.loading import read_checkpoint
from faceaffect.networks.assets import ASSETS, asset_path, file_of, list_assets
from faceaffect.networks.backbones import create_backbone
from faceaffect.schema import LabelSchema
from faces import face


def test_a_model_of_real_faces_is_shipped() -> None:
    model = load_model("asset:real_expression")
    assert model.schema.expressions == (
        "neutral", "happiness", "surprise", "sadness", "anger", "disgust",
    )  # fmt: skip
    assert model.crop is not None
    assert model.crop.kind == "landmarks"
    assert asset_path("real_expression").stat().st_size < 8e6
    about = read_checkpoint("asset:real_expression")["faceaffect"]
    assert about["trained_by"] == "real_expression"
    assert {"fingerprint", "crop", "names"} <= about.keys()


def test_its_backbone_is_the_one_that_it_was_built_on() -> None:
    x = torch.randint(0, 256, (2, 3, 112, 112), dtype=torch.uint8)
    own, base = (create_backbone(f"asset:{name}") for name in ("real_expression", "real_vit"))
    with torch.no_grad():
        own_says, base_says = (b.eval().pooled(b.normalise(x)) for b in (own, base))
    torch.testing.assert_close(own_says, base_says, atol=2e-3, rtol=2e-3)


@pytest.mark.parametrize("name", ["mini_vit", "mini_face", "real_vit", "real_face"])
def test_weights_to_build_on_answer_nothing(name: str) -> None:
    with pytest.raises(CheckpointError, match="answer nothing by themselves"):
        load_model(f"asset:{name}")


def test_no_such_asset(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["predict", "asset:real_expresion", str(tmp_path)]) == 2
    assert "did you mean 'real_expression'" in capsys.readouterr().err
    with pytest.raises(RecipeError, match="unknown name 'x'"):
        file_of("asset:x")
    assert file_of(tmp_path) == tmp_path
    assert set(list_assets()) == {path.stem for path in ASSETS.glob("*.safetensors")}


def test_half_precision_halves_the_file_and_answers_alike(tmp_path: Path) -> None:
    model = exporting.specialist("timm_classifier")
    batch = face_batch(model.schema, 4, size=56)
    to_safetensors(model, tmp_path / "whole.safetensors")
    to_safetensors(model, tmp_path / "half.safetensors", half=True)
    sizes = [(tmp_path / f"{name}.safetensors").stat().st_size for name in ("half", "whole")]
    assert sizes[0] < 0.6 * sizes[1]
    half = load_model(tmp_path / "half.safetensors")
    assert {p.dtype for p in half.parameters()} == {torch.float32}
    for task, said in model.predict(batch).items():
        torch.testing.assert_close(half.predict(batch)[task], said, atol=5e-3, rtol=0)


def test_a_weight_too_large_for_half_precision(tmp_path: Path) -> None:
    model = exporting.specialist("timm_classifier")
    weight = next(model.parameters())
    before = weight.detach().clone()
    weight.data.fill_(1e6)
    try:
        with pytest.raises(CheckpointError, match="does not fit into half precision"):
            to_safetensors(model, tmp_path / "a.safetensors", half=True)
    finally:
        weight.data.copy_(before)
    assert not (tmp_path / "a.safetensors").exists()


def test_a_flipped_bit_is_found(tmp_path: Path) -> None:
    damaged = bytearray(asset_path("real_expression").read_bytes())
    start = 8 + int.from_bytes(damaged[:8], "little")
    damaged[start:] = bytes(b ^ 0x40 for b in damaged[start:])
    (tmp_path / "a.safetensors").write_bytes(damaged)
    with pytest.raises(CheckpointError, match="do not match the file's fingerprint"):
        load_model(tmp_path / "a.safetensors")


def test_half_precision_is_of_safetensors_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["export", "asset:real_expression", "--to", "onnx", "--half"]
    assert main([*argv, "--folder", str(tmp_path)]) == 2
    assert "--half is an option of --to safetensors" in capsys.readouterr().err


def test_a_finished_model_answers_as_it_does_alone() -> None:
    entrant = create_model("trained", LabelSchema(), file="asset:real_expression").eval()
    alone = load_model("asset:real_expression")
    batch = face_batch(entrant.schema, 3, size=112)
    torch.testing.assert_close(entrant.predict(batch), alone.predict(batch))
    assert not any(p.requires_grad for p in entrant.parameters())
    with pytest.raises(RecipeError, match="not trained on"):
        entrant.loss(batch)


def table_of_noise(folder: Path, column: str, values: list[str]) -> Path:
    rng = np.random.default_rng(0)
    rows = []
    for i in range(24):
        pixels = rng.integers(0, 256, (64, 64, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
        rows.append({"image": f"{i}.png", "subject": f"p{i}", column: values[i % len(values)]})
    pd.DataFrame(rows).to_csv(folder / "faces.csv", index=False)
    return folder / "faces.csv"


PLACED = ["data.align=none", "data.crop=null"]


def test_it_is_tested_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = table_of_noise(tmp_path, "expression", ["neutral", "happiness", "sadness"])
    monkeypatch.chdir(tmp_path)
    argv = ["test", "real_expression_as_it_is", f"data.table={table}", *PLACED]
    assert main([*argv, f"output={tmp_path / 'runs'}"]) == 0
    (result,) = (tmp_path / "runs").glob("*/*/metrics.json")
    assert "expression_uar" in json.loads(result.read_text())["metrics"]


def test_labels_that_it_does_not_give(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    table = table_of_noise(tmp_path, "AU12", ["0", "1"])
    monkeypatch.chdir(tmp_path)
    argv = ["test", "real_expression_as_it_is", f"data.table={table}", *PLACED]
    assert main([*argv, f"output={tmp_path / 'runs'}"]) == 2
    assert "share no label name" in capsys.readouterr().err


def test_a_picture_is_answered_from_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.fromarray(face(size=(96, 96))).save(tmp_path / "photo.png")
    monkeypatch.chdir(tmp_path)
    argv = ["predict", "asset:real_expression", "photo.png", "--crop", "none", "--out", "said.csv"]
    assert main(argv) == 0
    said = pd.read_csv("said.csv")
    shares = said[["neutral", "happiness", "surprise", "sadness", "anger", "disgust"]].sum(axis=1)
    np.testing.assert_allclose(shares, 1, atol=1e-3)


def test_nothing_is_written_beside_what_is_shipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["export", "asset:real_expression", "--to", "safetensors"]) == 0
    assert (tmp_path / "export" / "model.safetensors").is_file()
    assert not (ASSETS / "export").exists()
