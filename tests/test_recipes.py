"""Every shipped recipe through the command line, on small data with small networks."""

import json
from pathlib import Path

import pytest

from faceaffect.cli import main
from faceaffect.recipe import list_recipes, load_recipe
<<<<<<< HEAD
from trees.of_recipes import data_of
=======
from faces import write_csv, write_facial_expressions
from trees import bp4d as bp4d_tree
from trees import dfew, rafdb, sets
from trees import disfa as disfa_tree
>>>>>>> bf0970f (Recipes, pages and tests of the sets; each transform is compared with its twin of torchvision; JPEG compresses red as red)

SHORT = ["trainer.max_epochs=1", "trainer.limit_train_batches=2", "trainer.limit_val_batches=2",
         "trainer.limit_test_batches=2", "trainer.accelerator=cpu", "data.batch_size=4",
         "data.num_workers=0"]  # fmt: skip


<<<<<<< HEAD
=======
def disfa(root: Path) -> list[str]:
    disfa_tree.write_labels(root)
    disfa_tree.write_frames(root)
    return [f"data.root={root}", "data.align=none"]


def bp4d(root: Path) -> list[str]:
    bp4d_tree.write_labels(root)
    bp4d_tree.write_images(root)
    return [f"data.root={root}", "data.align=none"]


def hub(root: Path) -> list[str]:
    pytest.importorskip("datasets", reason="the extra 'hf' is not installed")
    return [f"data.path={sets.hub(root)}", "data.image=picture", "data.label=emotion"]


def mixture(root: Path, recipe: str) -> list[str]:
    if recipe.startswith("emo_llama"):
        faces, clips = rafdb.write(root / "rafdb"), dfew.write(root / "dfew")
        return [f"data.sources.0.root={faces}", f"data.sources.1.root={clips}",
                "data.sources.1.frames=2"]  # fmt: skip
    if recipe == "auformer_lodo":
        roots = [bp4d(root / "bp4d")[0], disfa(root / "disfa")[0]]
        return [word for i, place in enumerate(roots)
                for word in (f"data.sources.{i}.{place.removeprefix('data.')}",
                             f"data.sources.{i}.align=none")]  # fmt: skip
    table, other = write_csv(root / "csv"), write_facial_expressions(root / "other")
    return [f"data.sources.0.table={table}", f"data.sources.1.root={other}"]


DATA: dict[str, Any] = {
    "affectnet": lambda root: [f"data.root={sets.affectnet_npy(root)}"],
    "affwild2": lambda root: [f"data.root={sets.affwild2(root)}", "data.every=1"],
    "bp4d": bp4d,
    "bp4d_plus": bp4d,
    "casme2": lambda root: [f"data.root={sets.casme2(root)}"],
    "csv": lambda root: [f"data.table={write_csv(root)}"],
    "dfew": lambda root: [f"data.root={dfew.write(root)}", "data.frames=2"],
    "disfa": disfa,
    "disfa_plus": lambda root: [f"data.root={sets.disfa_plus(root)}", "data.align=none"],
    "facial_expressions": lambda root: [f"data.root={write_facial_expressions(root)}"],
    "ferplus": lambda root: [f"data.root={sets.ferplus(root)}"],
    "ferv39k": lambda root: [f"data.root={sets.ferv39k(root)}", "data.frames=2"],
    "folder": lambda root: [f"data.root={sets.folder(root)}"],
    "hf": hub,
    "mafw": lambda root: [f"data.root={sets.mafw(root)}", "data.frames=2"],
    "rafdb": lambda root: [f"data.root={rafdb.write(root)}"],
    "template_labels": lambda root: ["data.n=60"],
    "synthetic": lambda root: ["data.n=60", "data.subjects=20", f"data.cache={root}"],
}
"""For each dataset: writes a small tree in its layout and returns overrides that point to it."""


def data_of(recipe: str, root: Path) -> list[str]:
    name = load_recipe(recipe)["data"]["name"]
    return mixture(root, recipe) if name == "mixture" else DATA[name](root)


>>>>>>> bf0970f (Recipes, pages and tests of the sets; each transform is compared with its twin of torchvision; JPEG compresses red as red)
def small(recipe: str) -> list[str]:
    """Return overrides that put a small network without downloads in place of a large one."""
    model = load_recipe(recipe)["model"]
    if recipe.startswith("emo_llama_7b"):
        return ["model.tower=asset:mini_vit", "model.prior=face_analysis",
                "model.aggregator={qformer: null, pretrained: false, width: 32, heads: 2}",
                "model.llm={name: 'asset:mini_llama', pretrained: false, dtype: float32}",
                "model.max_new_tokens=4", "trainer.accumulate_grad_batches=1"]  # fmt: skip
    backbone = model.get("backbone")
    if isinstance(backbone, dict) and backbone.get("pretrained"):
        kind = "test_vit" if "vit" in backbone["name"] else "test_resnet"
        return [f"model.backbone.name={kind}", "model.backbone.pretrained=false"]
    return []


@pytest.mark.parametrize("recipe", list_recipes())
def test_a_recipe_trains_and_its_checkpoint_is_tested(recipe: str, tmp_path: Path) -> None:
    data = data_of(recipe, tmp_path / "data")
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


def test_every_shipped_recipe_leaves_the_precision_to_the_machine() -> None:
    taken = {name: load_recipe(name)["trainer"].get("precision") for name in list_recipes()}
    assert set(taken.values()) == {"auto"}, taken


def test_there_are_recipes() -> None:
    assert len(list_recipes()) > 3
