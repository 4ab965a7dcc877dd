"""Every shipped recipe through the command line, on small data with small networks.

Those of full size are trained as they stand by test_full_size_recipes. What of them is too large to
be trained there among the fast tests is checked here.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from faceaffect.cli import main
from faceaffect.models import face_analysis
from faceaffect.recipe import list_recipes, load_recipe
from faceaffect.runs import cost
from servers import completion, send
from teachers_tiny import MiddleMesh, write_teacher
from trees.of_recipes import FULL_SIZE, data_of, takes_long

SHORT = ["trainer.max_epochs=1", "trainer.limit_train_batches=2", "trainer.limit_val_batches=1",
         "trainer.limit_test_batches=1", "trainer.accelerator=cpu", "data.batch_size=2",
         "data.num_workers=0"]  # fmt: skip


def small(recipe: str) -> list[str]:
    """Return overrides that put a small network without downloads in place of a large one."""
    model = load_recipe(recipe)["model"]
    if recipe.startswith("emo_llama_7b"):
        return ["model.tower=asset:mini_vit", "model.prior=face_analysis",
                "model.aggregator={qformer: null, pretrained: false, width: 32, heads: 2}",
                "model.llm={name: 'asset:mini_llama', pretrained: false, dtype: float32}",
                "model.max_new_tokens=4", "trainer.accumulate_grad_batches=1"]  # fmt: skip
    if model["name"] == "multiview_pretraining":
        return ["data.batch_size=4"]  # two people, each seen twice
    if model["name"] == "distillation":
        return ["model.stem=random", "model.frozen_stages=0", "model.backbone.args={depth: 1}"]
    backbone = model.get("backbone")
    if isinstance(backbone, dict) and backbone.get("pretrained"):
        kind = "test_vit" if "vit" in backbone["name"] else "test_resnet"
        return [f"model.backbone.name={kind}", "model.backbone.pretrained=false"]
    if "fraction" in load_recipe(recipe)["data"]:
        return ["data.fraction=0.5"]  # a hundredth of few people is nobody
    return []


def behind(recipe: str, serve: Any) -> list[str]:
    """Return overrides that put a server of this test in place of one that serves a model."""
    if load_recipe(recipe)["model"]["name"] != "endpoint":
        return []
    said = completion('{"expression": "happiness"}')
    return [f"model.url={serve(lambda h, _: send(h, 200, said))}"]


STAGES = [name for name in list_recipes() if name.startswith("mini_face_mllm_")]
"""Each but the first starts from the run before."""

SLOW = {"mini_emola", "mini_vlm_reward", "few_shot_auformer", "few_shot_vlm"}
STARTED = [name for name in list_recipes() if "from" in load_recipe(name)["model"]]
"""Each starts from the run of another recipe, and is trained where that is."""
TRAINED = ["emo_llama_7b_mixture", *(name for name in list_recipes()
           if name not in FULL_SIZE and "face_mllm_" not in name
           and name not in STARTED)]  # fmt: skip
LARGE = [name for name in FULL_SIZE
         if takes_long(name) and name.startswith("emo_llama") and name not in TRAINED]  # fmt: skip


@pytest.mark.parametrize(
    "recipe",
    [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in TRAINED],
)
def test_a_recipe_trains_and_its_checkpoint_is_tested(
    recipe: str, tmp_path: Path, serve: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FACEAFFECT_ANSWERS", str(tmp_path / "kept"))
    monkeypatch.setattr(face_analysis, "MeshTeacher", MiddleMesh)
    monkeypatch.setattr(cost, "seconds_per_batch", lambda *_: 1.0)  # of this machine, not of it
    data = data_of(recipe, tmp_path / "data")
    overrides = [*SHORT, *data, *small(recipe), f"output={tmp_path}/runs"]
    overrides += behind(recipe, serve)
    if load_recipe(recipe)["model"]["name"] == "distillation":
        overrides.append(f"model.teacher={write_teacher(tmp_path / 'teacher')}")
    if load_recipe(recipe)["trainer"].get("max_epochs") == 0:
        overrides.append("trainer.max_epochs=0")
    assert main(["train", recipe, *overrides]) == 0
    (run,) = (tmp_path / "runs" / recipe).iterdir()
    trained = json.loads((run / "metrics.json").read_text())
    assert trained["metrics"]
    if "n" not in trained:
        return  # a pre-training: its product is its weights, not answers
    monkeypatch.setattr(cost, "measure", lambda *_: trained["cost"])  # the same again
    assert main(["test", str(run)]) == 0
    (tested,) = (run / "tests").iterdir()
    again = json.loads((tested / "metrics.json").read_text())
    assert again["metrics"] == pytest.approx(trained["metrics"], abs=1e-4, nan_ok=True)


@pytest.mark.slow
def test_each_stage_starts_from_the_run_before(tmp_path: Path) -> None:
    assert len(STAGES) == 3
    for stage in STAGES:
        words = [*SHORT, *data_of(stage, tmp_path / "data"), f"output={tmp_path}/runs"]
        assert main(["train", stage, *words]) == 0
        (run,) = (tmp_path / "runs" / stage).iterdir()
        made = json.loads((run / "made_of.json").read_text())
        assert ("weights that the model starts from" in made) is (stage != STAGES[0])
    assert json.loads((run / "metrics.json").read_text())["metrics"]


@pytest.mark.parametrize("recipe", LARGE)
def test_a_large_recipe_builds_its_data_and_model_and_answers(
    recipe: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*SHORT, *data_of(recipe, tmp_path / "data"), *small(recipe)]
    assert main(["check", recipe, *words]) == 0
    assert "answers: {'" in capsys.readouterr().out


def test_every_shipped_recipe_leaves_the_precision_to_the_machine() -> None:
    taken = {name: load_recipe(name)["trainer"].get("precision") for name in list_recipes()}
    assert set(taken.values()) == {"auto"}, taken


def test_there_are_recipes() -> None:
    assert len(list_recipes()) > 3
