"""A run that starts from the weights of another (``model.from``)."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import vlm_tiny
from faceaffect.cli import main
from faceaffect.errors import CheckpointError, RecipeError, SchemaError
from faceaffect.models.loading import create_model, restore
from faceaffect.module import FaceModule
from faceaffect.runs.starting import take_weights
from faceaffect.schema import LabelSchema
from faces import write_csv

PART = {"projector": True, "task_rate": 0.0}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return vlm_tiny.llava(tmp_path_factory.mktemp("base") / "llava")


def saved(model: FaceModule, file: Path) -> Path:
    """Write a checkpoint as a run does."""
    checkpoint: dict[str, Any] = {
        "state_dict": model.state_dict(),
        "hyper_parameters": dict(model.hparams),
    }
    model.on_save_checkpoint(checkpoint)
    torch.save(checkpoint, file)
    return file


def stirred(model: FaceModule) -> FaceModule:
    """Return a model whose trained weights have moved."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter))
    return model


def learned(model: FaceModule) -> dict[str, torch.Tensor]:
    return {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}


def test_adapters_come_new_beside_a_projector_that_was_learned(base: Path, tmp_path: Path) -> None:
    first = stirred(vlm_tiny.make(base, lora=None, **PART))
    assert {"multi_modal_projector" in name for name in learned(first)} == {True}
    file = saved(first, tmp_path / "first.ckpt")
    second = vlm_tiny.make(base, **PART)
    before = learned(second)
    take_weights(second, file)
    theirs = [value for _, value in sorted(learned(first).items())]
    now = learned(second)
    own = [value for name, value in sorted(now.items()) if "lora" not in name]
    assert all(torch.equal(a, b) for a, b in zip(theirs, own, strict=True))
    assert all(torch.equal(now[name], before[name]) for name in now if "lora" in name)


def test_a_learned_projector_is_stored_and_comes_back(base: Path, tmp_path: Path) -> None:
    model = stirred(vlm_tiny.make(base, **PART))
    file = saved(model, tmp_path / "whole.ckpt")
    checkpoint = torch.load(file, weights_only=True)
    stored = checkpoint["state_dict"]
    assert sum("multi_modal_projector" in key for key in stored) == 4
    assert not any("vision_tower" in key for key in stored)
    assert sum("multi_modal_projector" in name for name in learned(model)) == 4
    again = restore(checkpoint, file)
    assert all(torch.equal(learned(model)[n], value) for n, value in learned(again).items())


def test_other_labels_are_no_matter_to_a_model_that_answers_in_words(
    base: Path, tmp_path: Path
) -> None:
    file = saved(vlm_tiny.make(base), tmp_path / "first.ckpt")
    take_weights(vlm_tiny.make(base, LabelSchema((1, 26))), file)
    heads = {"name": "timm_classifier", "backbone": {"name": "test_vit", "pretrained": False}}
    file = saved(create_model(schema=LabelSchema((1, 4)), **heads), tmp_path / "heads.ckpt")
    with pytest.raises(SchemaError, match=r"heads for other labels: .*AU26"):
        take_weights(create_model(schema=LabelSchema((1, 26)), **heads), file)
    with pytest.raises(CheckpointError, match="is a 'timm_classifier', this is a 'vlm'"):
        take_weights(vlm_tiny.make(base), file)


def test_weights_that_do_not_fit_are_one_clear_error(base: Path, tmp_path: Path) -> None:
    file = saved(vlm_tiny.make(base), tmp_path / "first.ckpt")
    with pytest.raises(CheckpointError, match=r"does not fit: .*lora_A.* has the shape \(4, "):
        take_weights(vlm_tiny.make(base, lora={"r": 2}), file)
    with pytest.raises(CheckpointError, match=r"have no place in this model, the first .*lora"):
        take_weights(vlm_tiny.make(base, lora=None, projector=True), file)
    other = vlm_tiny.llava(tmp_path / "other")
    from safetensors.torch import load_file, save_file

    weights = load_file(other / "model.safetensors")
    save_file({k: v + 1 for k, v in weights.items()}, other / "model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match="was trained on the frozen weights"):
        take_weights(vlm_tiny.make(other), file)


def recipe(folder: Path, name: str, **model: Any) -> list[str]:
    net = {"name": "timm_classifier", "backbone": {"name": "test_vit", "pretrained": False}}
    table = folder / "faces.csv"
    data = {"name": "csv", "table": str(table), "image_size": 32, "batch_size": 8,
            "num_workers": 0, "protocol": {"name": "subject_kfold", "folds": 3}}  # fmt: skip
    trainer = {"max_epochs": 1, "accelerator": "cpu", "precision": "32-true"}
    text = json.dumps({"model": net | model, "data": data, "trainer": trainer})
    (folder / f"{name}.yaml").write_text(text)
    return [str(folder / f"{name}.yaml"), f"output={folder}/runs"]


@pytest.mark.slow
def test_a_chain_of_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_csv(tmp_path)
    first = recipe(tmp_path, "first")
    second = recipe(tmp_path, "second", **{"from": f"{tmp_path}/runs/first"})
    assert main(["train", *second]) == 2
    assert "no finished run in" in capsys.readouterr().err
    assert not (tmp_path / "runs" / "second").exists()
    assert main(["train", *first]) == 0
    assert main(["train", *second]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "weights taken" in told
    (run,) = (tmp_path / "runs" / "second").iterdir()
    made = json.loads((run / "made_of.json").read_text())
    assert made["weights that the model starts from"]
    assert json.loads((run / "metrics.json").read_text())["model"]["from"].endswith("first")
    assert main(["test", str(run)]) == 0  # needs nothing of the run before
    other_fold = ["data.protocol.fold=2", f"output={tmp_path}/other"]
    assert main(["train", second[0], *other_fold]) == 2
    assert "of the 2 people who are tested here" in capsys.readouterr().err
    assert main(["train", second[0], "model.from=3", f"output={tmp_path}/other"]) == 2
    assert "model.from: 3 is no run folder" in capsys.readouterr().err


def test_only_a_finished_run_is_a_start(tmp_path: Path) -> None:
    from faceaffect.recipe import load_recipe
    from faceaffect.runs.starting import checkpoint_before

    write_csv(tmp_path)
    for name, finished in (("1", True), ("2", False)):
        place = tmp_path / "runs" / name / "checkpoints"
        place.mkdir(parents=True)
        (place / "best.ckpt").write_text("x")
        if finished:
            (place.parent / "metrics.json").write_text("{}")
    (file, _) = recipe(tmp_path, "own", **{"from": f"{tmp_path}/runs"})
    found = checkpoint_before(load_recipe(file))
    assert found == tmp_path / "runs" / "1" / "checkpoints" / "best.ckpt"
    with pytest.raises(RecipeError, match="no finished run in"):
        checkpoint_before(load_recipe(file, [f"model.from={tmp_path}/runs/2"]))
