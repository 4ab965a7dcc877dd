"""Weights that leave the package and come back: safetensors, folders for the hub, eight bits."""

import json
import math
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

import vlm_tiny
from batches import FULL, face_batch
from emo_tiny import LLAMA, LORA
from exporting import SPECIALISTS, onnx_file, specialist, write
from faceaffect import create_model, load_model
from faceaffect.cli import main
from faceaffect.data.base import create_data
from faceaffect.data.batch import as_clips
from faceaffect.errors import CheckpointError, RecipeError
from faceaffect.export.folder import to_folder, to_safetensors
from faceaffect.export.graph import to_onnx
from faceaffect.export.int8 import load, measure, to_int8, told_loss
from faceaffect.instructions.items import Labels
from faceaffect.models.vlm.shots import Shot


@pytest.mark.parametrize("name", SPECIALISTS)
def test_weights_come_back_whole(name: str, tmp_path: Path) -> None:
    model = specialist(name)
    to_safetensors(model, tmp_path / "model.safetensors")
    loaded = load_model(tmp_path / "model.safetensors")
    image = face_batch(n=3)["image"]
    for task, value in model.predict(image).items():
        assert torch.equal(loaded.predict(image)[task], value)
    assert (loaded.crop, loaded.image_size) == (model.crop, model.image_size)
    assert loaded.statistics == model.statistics


def test_a_frozen_backbone_is_in_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = create_model("timm_classifier", FULL, backbone="asset:mini_vit", mode="linear").eval()
    to_safetensors(model, tmp_path / "model.safetensors")
    monkeypatch.setattr("faceaffect.networks.backbones.fill", None)  # no other weights are read
    loaded = load_model(tmp_path / "model.safetensors")
    image = face_batch(n=2)["image"]
    assert torch.equal(loaded.predict(image)["va"], model.predict(image)["va"])


def test_a_folder_for_the_hub_says_what_it_is_and_holds_no_path(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = specialist("timm_classifier")
    model.recipe = {"name": "tiny", "sections": {"data": {"name": "csv", "root": "/home/ann"}}}
    checkpoint = write(model, tmp_path / "best.ckpt")
    assert main(["export", str(checkpoint), "--to", "hf"]) == 0
    folder = tmp_path / "export" / "hub"
    assert {file.name for file in folder.iterdir()} == {
        "README.md", "config.json", "model.safetensors",
    }  # fmt: skip
    for file in folder.iterdir():
        assert b"/home/ann" not in file.read_bytes()
    card = (folder / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: faceaffect\n")
    assert "# tiny" in card
    assert "AU1, AU4, AU12" in card
    assert json.loads((folder / "config.json").read_text())["names"]["va"] == ["valence", "arousal"]
    image = face_batch(n=2)["image"]
    assert torch.equal(load_model(folder).predict(image)["au"], model.predict(image)["au"])
    assert main(["export", str(checkpoint), "--to", "hf"]) == 2
    assert "is there already" in capsys.readouterr().err


def test_a_model_that_speaks_leaves_adapter_and_merged_weights(words: str, tmp_path: Path) -> None:
    llm = {"config": LLAMA, "tokenizer": words, "lora": LORA}
    model = create_model("emo_llama", FULL, llm=llm).eval()
    for name, parameter in model.llm.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    written = to_folder(model, tmp_path, None, merge=True)
    assert written == [
        "model.safetensors", "config.json", "adapter", "language_model", "README.md",
    ]  # fmt: skip
    assert (tmp_path / "adapter" / "adapter_config.json").is_file()
    batch = as_clips(face_batch(n=2))
    loaded = load_model(tmp_path)
    for task, value in model.predict(batch).items():
        torch.testing.assert_close(loaded.predict(batch)[task], value)
    assert isinstance(model.llm.net, PeftModel)  # what was merged is a copy
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "language_model").eval()
    ids = torch.arange(12)[None]
    with torch.no_grad():
        torch.testing.assert_close(merged(ids).logits, model.llm.net(ids).logits, atol=1e-4, rtol=0)


def test_a_vision_language_model_leaves_adapter_and_merged_weights(tmp_path: Path) -> None:
    model = vlm_tiny.make(vlm_tiny.llava(tmp_path / "base"), dtype="float32").eval()
    for name, parameter in model.llm.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    written = to_folder(model, tmp_path / "hub", None, merge=True)
    assert {"adapter", "language_model"} < set(written)
    batch = vlm_tiny.batch_of(2)
    merged = vlm_tiny.make(tmp_path / "hub" / "language_model", dtype="float32").eval()
    loaded = load_model(tmp_path / "hub")
    with torch.no_grad():
        answers = model.predict(batch)
        for task, value in answers.items():
            torch.testing.assert_close(loaded.predict(batch)[task], value)
            torch.testing.assert_close(merged.predict(batch)[task], value, atol=1e-4, rtol=0)
    own = AutoModelForImageTextToText.from_pretrained  # without this package
    base = own(tmp_path / "base", dtype=torch.float32)
    plain = PeftModel.from_pretrained(base, str(tmp_path / "hub" / "adapter")).merge_and_unload()
    folder = own(tmp_path / "hub" / "language_model", dtype=torch.float32).state_dict()
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(value, folder[name], atol=1e-6, rtol=0)
    labels = Labels("happiness", {}, None)
    model.shots = [Shot("ann.png", torch.zeros(1, 3, 8, 8, dtype=torch.uint8), labels)]
    with pytest.raises(RecipeError, match="pictures of training people, which are not exported"):
        to_folder(model, tmp_path / "other", None)
    assert not (tmp_path / "other").exists()


def test_damaged_and_foreign_weights_are_named(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    file = tmp_path / "model.safetensors"
    for content in (b"", b"not weights", b"\xff" * 40):
        file.write_bytes(content)
        with pytest.raises(CheckpointError, match=r"model\.safetensors: not readable"):
            load_model(file)
    weights = {"a": torch.zeros(1)}
    for header, said in (
        (None, "not exported by it"),
        ({"faceaffect": "{"}, "damaged"),
        ({"faceaffect": '{"format": 1}'}, "is not right"),
    ):
        save_file(weights, file, header)
        with pytest.raises(CheckpointError, match=said):
            load_model(file)


@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("gimefive", "static"),
        pytest.param("timm_classifier", "dynamic", marks=pytest.mark.slow),
    ],
)
def test_eight_bits_are_smaller_and_their_loss_is_measured(
    name: str, how: str, tmp_path: Path
) -> None:
    data = create_data(
        "synthetic", n=40, subjects=10, image_size=56, aus=list(FULL.aus), num_workers=0,
        expressions=list(FULL.expressions), valence_arousal=True, batch_size=8,
        protocol={"name": "subject_kfold", "folds": 2, "fold": 1, "val_fraction": 0.4},
    )  # fmt: skip
    small = tmp_path / "small.onnx"
    if how == "static":
        model, whole = specialist(name), onnx_file(name)
    else:
        model = create_model(name, FULL, backbone="asset:mini_vit", mode="lora").eval()
        model.image_size, whole = 56, tmp_path / "whole.onnx"
        to_onnx(model, whole)
    assert to_int8(whole, small, data) == how
    assert small.stat().st_size < whole.stat().st_size * 0.4
    before, after = measure(model, data), measure(load(small), data)
    assert before == pytest.approx(measure(load(whole), data), abs=0.02)
    assert set(before) == {"score", "au_f1", "expression_uar", "va_ccc"}
    assert all(math.isfinite(value) for value in after.values())
    assert f"au_f1 {before['au_f1']:.3f} -> {after['au_f1']:.3f}" in told_loss(before, after, 8)
    image = face_batch(FULL, 4, 56)["image"]
    apart = (load(small).predict(image)["va"] - model.predict(image)["va"]).abs().max()
    assert 0 < apart < 0.2


@pytest.mark.slow
def test_the_benchmark_times_a_run_and_its_graphs_on_one_thread(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    trained = [
        "train", str(root / "recipes" / "mini_probe.yaml"), "data.n=60", "data.subjects=20",
        "data.cache=null", "data.num_workers=0", "trainer.max_epochs=1", f"output={tmp_path}",
    ]  # fmt: skip
    assert main(trained) == 0
    (run,) = (tmp_path / "mini_probe").iterdir()
    done = subprocess.run(
        [sys.executable, root / "benchmarks" / "export.py", run, "--rounds", "1"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert ", 1 threads, " in done.stdout
    assert re.search(r"model\.int8\.onnx: [\d.]+ MB.* validation faces", done.stdout)
    for count in (1, 32):
        assert f"mini_probe, {count} faces at once" in done.stdout
    told = re.findall(r"^onnxruntime(?:, int8)?: ([\d.]+) times as fast", done.stdout, re.M)
    assert len(told) == 4
    assert all(float(times) > 0 for times in told)
    assert not (run / "export").exists()  # only looked at
