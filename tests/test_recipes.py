"""Every shipped recipe through the command line, on small data with small networks."""

import json
from pathlib import Path
from typing import Any

import pytest

import test_bp4d
import test_disfa
from faceaffect.cli import main
from faceaffect.recipe import list_recipes, load_recipe
from faces import write_csv, write_facial_expressions

SHORT = ["trainer.max_epochs=1", "trainer.limit_train_batches=2", "trainer.limit_val_batches=2",
         "trainer.limit_test_batches=2", "trainer.accelerator=cpu", "data.batch_size=4",
         "data.num_workers=0"]  # fmt: skip


def disfa(root: Path) -> list[str]:
    test_disfa.write_labels(root)
    test_disfa.write_frames(root)
    return [f"data.root={root}", "data.align=none"]


def bp4d(root: Path) -> list[str]:
    test_bp4d.write_labels(root)
    test_bp4d.write_images(root)
    return [f"data.root={root}", "data.align=none"]


def mixture(root: Path) -> list[str]:
    table, other = write_csv(root / "csv"), write_facial_expressions(root / "other")
    return [f"data.sources.0.table={table}", f"data.sources.1.root={other}"]


DATA: dict[str, Any] = {
    "bp4d": bp4d,
    "csv": lambda root: [f"data.table={write_csv(root)}"],
    "disfa": disfa,
    "facial_expressions": lambda root: [f"data.root={write_facial_expressions(root)}"],
    "mixture": mixture,
    "template_labels": lambda root: ["data.n=60"],
    "synthetic": lambda root: ["data.n=60", "data.subjects=20", f"data.cache={root}"],
}
"""For each dataset: writes a small tree in its layout and returns overrides that point to it."""


def small(recipe: str) -> list[str]:
    """Return overrides that put a small network without downloads in place of a large one."""
    model = load_recipe(recipe)["model"]
    backbone = model.get("backbone")
    if isinstance(backbone, dict) and backbone.get("pretrained"):
        kind = "test_vit" if "vit" in backbone["name"] else "test_resnet"
        return [f"model.backbone.name={kind}", "model.backbone.pretrained=false"]
    return []


@pytest.mark.parametrize("recipe", list_recipes())
def test_a_recipe_trains_and_its_checkpoint_is_tested(recipe: str, tmp_path: Path) -> None:
    data = DATA[load_recipe(recipe)["data"]["name"]](tmp_path / "data")
    overrides = [*SHORT, *data, *small(recipe), f"output={tmp_path}/runs"]
    assert main(["train", recipe, *overrides]) == 0
    (run,) = (tmp_path / "runs" / recipe).iterdir()
    trained = json.loads((run / "metrics.json").read_text())
    assert trained["metrics"]
    if "n" not in trained:
        return  # a pre-training: its product is its weights, not answers
    assert main(["test", str(run)]) == 0
    (tested,) = (run / "tests").iterdir()
    again = json.loads((tested / "metrics.json").read_text())
    assert again["metrics"] == pytest.approx(trained["metrics"], abs=1e-4, nan_ok=True)


def test_there_are_recipes() -> None:
    assert len(list_recipes()) > 3
