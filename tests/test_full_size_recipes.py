"""Every recipe for real data, as it stands: only the places of data and weights are named anew."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import pretrained
from faceaffect.cli import main
from faceaffect.recipe import list_recipes, load_recipe
from trees.of_recipes import data_of

FULL_SIZE = [name for name in list_recipes() if not name.startswith(("mini_", "pretrain_"))]

SHORT = ["trainer.max_epochs=1", "trainer.limit_train_batches=1", "trainer.limit_val_batches=1",
         "trainer.accelerator=cpu", "data.batch_size=2", "data.num_workers=0"]  # fmt: skip

PLACES = {"model.tower.name", "model.prior.weights", "model.prior.download",
          "model.aggregator.qformer", "model.llm.name", "model.backbone.pretrained",
          "model.backbone.weights"}  # fmt: skip
"""What is named anew in the model: where weights lie; nothing that they are."""


def slow(recipe: str) -> bool:
    """Tell whether a recipe takes more than seconds: a ViT of full size, or FAN."""
    model = load_recipe(recipe)["model"]
    backbone = model.get("backbone")
    name = backbone["name"] if isinstance(backbone, dict) else ""
    return model["name"] == "emo_llama" or "vit" in name


def places(recipe: str, root: Path) -> list[str]:
    """Write what a recipe would download and return overrides that say where it lies."""
    model = load_recipe(recipe)["model"]
    if model["name"] == "emo_llama":
        pytest.importorskip("face_alignment", reason="the extra 'align' is not installed")
        blip = pretrained.instructblip(root / "instructblip")
        return [f"model.tower.name=hf:{blip}", f"model.aggregator.qformer={blip}",
                f"model.llm.name={pretrained.vicuna(root / 'vicuna')}",
                f"model.prior.weights={pretrained.fan(root / 'fan.pth')}"]  # fmt: skip
    backbone = model.get("backbone")
    if isinstance(backbone, dict) and backbone.get("pretrained"):
        file = pretrained.timm_weights(root / "backbone.safetensors", backbone["name"])
        return ["model.backbone.pretrained=false", f"model.backbone.weights={file}"]
    return []


@pytest.mark.parametrize(
    "recipe", [pytest.param(r, marks=pytest.mark.slow if slow(r) else ()) for r in FULL_SIZE]
)
def test_a_recipe_as_it_stands_trains_a_step_and_tests(recipe: str, tmp_path: Path) -> None:
    named = places(recipe, tmp_path)
    assert {override.partition("=")[0] for override in named} <= PLACES
    overrides = [*SHORT, *data_of(recipe, tmp_path / "data"), *named, f"output={tmp_path}/runs"]
    assert main(["train", recipe, *overrides]) == 0
    (run,) = (tmp_path / "runs" / recipe).iterdir()
    trained: dict[str, Any] = json.loads((run / "metrics.json").read_text())
    assert trained["n"] > 0
    last = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    assert last["global_step"] == 1
    assert main(["test", str(run)]) == 0
    (tested,) = (run / "tests").iterdir()
    again = json.loads((tested / "metrics.json").read_text())
    assert again["metrics"] == pytest.approx(trained["metrics"], abs=1e-4, nan_ok=True)


def test_there_are_recipes_of_every_family() -> None:
    families = {load_recipe(recipe)["model"]["name"] for recipe in FULL_SIZE}
    assert families == {"auformer", "emo_llama", "gimefive", "sacl", "timm_classifier"}
