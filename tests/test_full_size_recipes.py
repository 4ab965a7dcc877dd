"""Every recipe for real data, as it stands, on shrunken weights of the classes that it names.

Only the places of data and weights are named anew, and how long a model may talk; for timm also how
deep and wide its weights are, all other sizes come from the weights themselves.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import pretrained
import vlm_tiny
from faceaffect.cli import main
from faceaffect.recipe import list_recipes, load_recipe
from faceaffect.runs import cost
from trees.of_recipes import FULL_SIZE, data_of, takes_long

STAGES = [name for name in list_recipes() if name.startswith("face_mllm_")]
"""Each but the first starts from the run before."""

SHORT = ["trainer.max_epochs=1", "trainer.limit_train_batches=1", "trainer.limit_val_batches=1",
         "trainer.accelerator=cpu", "data.batch_size=2", "data.num_workers=0"]  # fmt: skip

PLACES = {"model.tower.name", "model.prior.weights", "model.prior.download",
          "model.aggregator.qformer", "model.llm.name", "model.backbone.pretrained",
          "model.checkpoint", "model.backbone.weights", "model.backbone.args",
          "model.max_new_tokens"}  # fmt: skip
"""What is named anew in the model."""

SHRUNKEN: dict[str, dict[str, Any]] = {
    "vit": {"depth": 2, "embed_dim": 48, "num_heads": 4},
    "resnet50": {"layers": [1, 1, 1, 1], "channels": [16, 24, 32, 48]},
    "resnet18": {"channels": [16, 24, 32, 48]},
}
"""How deep and wide the weights of each family are here; patches, strides and image size stay."""


def places(recipe: str, root: Path) -> list[str]:
    """Write what a recipe would download and return overrides that say where it lies."""
    model = load_recipe(recipe)["model"]
    if model["name"] == "vlm":
        return _vision_language(recipe, model, root)
    if model["name"] == "emo_llama" and "asset:" in str(model["tower"]):
        return []  # of weights that the package ships
    if model["name"] == "emo_llama":
        pytest.importorskip("face_alignment", reason="the extra 'align' is not installed")
        blip = pretrained.instructblip(root / "instructblip")
        return [f"model.tower.name=hf:{blip}", f"model.aggregator.qformer={blip}",
                f"model.llm.name={pretrained.vicuna(root / 'vicuna')}",
                f"model.prior.weights={pretrained.fan(root / 'fan.pth')}",
                "model.max_new_tokens=2"]  # fmt: skip
    backbone = model.get("backbone")
    if isinstance(backbone, dict) and backbone.get("pretrained"):
        name = backbone["name"]
        args = next(args for family, args in SHRUNKEN.items() if name.startswith(family))
        file = pretrained.timm_weights(root / "backbone.safetensors", name, **args)
        return ["model.backbone.pretrained=false", f"model.backbone.weights={file}",
                f"model.backbone.args={json.dumps(args)}"]  # fmt: skip
    return []


def _vision_language(recipe: str, model: dict[str, Any], root: Path) -> list[str]:
    """Write the checkpoint and the prior's weights of a recipe of ``vlm``."""
    family = next(family for key, family in FAMILIES.items() if key in recipe)
    if family is vlm_tiny.smolvlm:
        pytest.importorskip("num2words", reason="the extra 'smolvlm' is not installed")
    named = [f"model.checkpoint={family(root / 'checkpoint')}", "model.max_new_tokens=2"]
    if "prior" in model:
        pytest.importorskip("face_alignment", reason="the extra 'align' is not installed")
        named.append(f"model.prior.weights={pretrained.fan(root / 'fan.pth')}")
    return named


FAMILIES = {"qwen3_vl": vlm_tiny.qwen3_vl, "smolvlm2": vlm_tiny.smolvlm,
            "llava_7b": vlm_tiny.llava}  # fmt: skip


@pytest.mark.parametrize(
    "recipe",
    [
        pytest.param(recipe, marks=pytest.mark.slow if takes_long(recipe) else ())
        for recipe in FULL_SIZE
    ],
)
def test_a_recipe_as_it_stands_trains_a_step_and_tests(
    recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cost, "seconds_per_batch", lambda *_: 1.0)  # of this machine, not of it
    named = places(recipe, tmp_path)
    assert {override.partition("=")[0] for override in named} <= PLACES
    untrained = load_recipe(recipe)["trainer"].get("max_epochs") == 0
    short = [override for override in SHORT if not (untrained and "max_epochs" in override)]
    overrides = [*short, *data_of(recipe, tmp_path / "data"), *named, f"output={tmp_path}/runs"]
    assert main(["train", recipe, *overrides]) == 0
    (run,) = (tmp_path / "runs" / recipe).iterdir()
    trained: dict[str, Any] = json.loads((run / "metrics.json").read_text())
    assert trained["n"] > 0
    if not untrained:
        last = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
        assert last["global_step"] == 1
    monkeypatch.setattr(cost, "measure", lambda *_: trained["cost"])  # the same again
    assert main(["test", str(run)]) == 0
    (tested,) = (run / "tests").iterdir()
    again = json.loads((tested / "metrics.json").read_text())
    assert again["metrics"] == pytest.approx(trained["metrics"], abs=1e-4, nan_ok=True)


@pytest.mark.slow
def test_three_stages_as_they_stand_each_start_from_the_run_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cost, "seconds_per_batch", lambda *_: 1.0)
    assert len(STAGES) == 3
    named = places(STAGES[0], tmp_path)
    data = data_of(STAGES[0], tmp_path / "data")
    for stage in STAGES:
        assert main(["train", stage, *SHORT, *data, *named, f"output={tmp_path}/runs"]) == 0
    (run,) = (tmp_path / "runs" / STAGES[-1]).iterdir()
    assert "weights that the model starts from" in json.loads((run / "made_of.json").read_text())
    assert main(["test", str(run)]) == 0


def test_there_are_recipes_of_every_family() -> None:
    families = {load_recipe(recipe)["model"]["name"] for recipe in FULL_SIZE}
    assert families == {"auformer", "emo_llama", "gimefive", "sacl", "timm_classifier", "vlm"}
