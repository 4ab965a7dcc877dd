"""Small data for each shipped recipe."""

from pathlib import Path
from typing import Any

import pytest

from faceaffect.recipe import list_recipes, load_recipe
from faces import write_csv, write_facial_expressions
from trees import bp4d as bp4d_tree
from trees import dfew, faba, rafdb, sets
from trees import disfa as disfa_tree

FULL_SIZE = [name for name in list_recipes()
             if not name.startswith(("mini_", "few_shot_", "pretrain_", "endpoint_", "face_mllm_"))
             and not name.endswith("as_it_is")]  # fmt: skip
"""The recipes for real data, which test_full_size_recipes trains as they stand."""


def takes_long(recipe: str) -> bool:
    """Return whether a recipe of full size is trained among the slow tests alone."""
    return any(family in recipe for family in ("7b", "qwen3_vl", "smolvlm2"))


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
    if recipe == "pretrain_real_face":
        return [f"data.sources.0.root={write_facial_expressions(root / 'all')}",
                f"data.sources.0.without={write_facial_expressions(root / 'part', people=2)}",
                "data.sources.0.align=none", "data.sources.0.crop=null", "data.sources.1.n=60",
                "data.sources.1.subjects=20", f"data.sources.1.cache={root}",
                *(f"data.sources.{i}.protocol.folds=3" for i in (0, 1))]  # fmt: skip
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
    "expression_quartets": lambda root: ["data.n=60", "data.subjects=20", f"data.cache={root}"],
    "faba_bench": lambda root: [f"data.root={faba.tree(root)}"],
    "facial_expressions": lambda root: [f"data.root={write_facial_expressions(root)}"],
    "fer2013": lambda root: [f"data.root={sets.ferplus(root)}"],
    "ferplus": lambda root: [f"data.root={sets.ferplus(root)}"],
    "ferv39k": lambda root: [f"data.root={sets.ferv39k(root)}", "data.frames=2"],
    "folder": lambda root: [f"data.root={sets.folder(root)}"],
    "hf": hub,
    "mafw": lambda root: [f"data.root={sets.mafw(root)}", "data.frames=2"],
    "multiview": lambda root: [f"data.root={sets.kdef(root)}"],
    "rafdb": lambda root: [f"data.root={rafdb.write(root)}"],
    "template_labels": lambda root: ["data.n=60"],
    "synthetic": lambda root: ["data.n=60", "data.subjects=20", f"data.cache={root}"],
}
"""For each dataset: writes a small tree in its layout and returns overrides that point to it."""


def data_of(recipe: str, root: Path) -> list[str]:
    """Write data for a recipe and return the overrides that point to it."""
    data = load_recipe(recipe)["data"]
    if data["name"] == "mixture":
        return mixture(root, recipe)
    placed: list[str] = DATA[data["name"]](root)
    if data["name"] in ("csv", "facial_expressions") and data.get("align") == "auto":
        placed += ["data.align=none", "data.crop=null"]  # no finder sees a face in these pictures
    if data.get("without"):
        part = write_facial_expressions(root / "part", people=2)
        placed += [f"data.without={part}", "data.protocol.folds=3"]
    return placed
