"""Small data for each shipped recipe."""

from pathlib import Path
from typing import Any

from faceaffect.recipe import load_recipe
from faces import write_csv, write_facial_expressions
from trees import bp4d as bp4d_tree
from trees import dfew, rafdb
from trees import disfa as disfa_tree


def disfa(root: Path) -> list[str]:
    disfa_tree.write_labels(root)
    disfa_tree.write_frames(root)
    return [f"data.root={root}", "data.align=none"]


def bp4d(root: Path) -> list[str]:
    bp4d_tree.write_labels(root)
    bp4d_tree.write_images(root)
    return [f"data.root={root}", "data.align=none"]


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
    "bp4d": bp4d,
    "csv": lambda root: [f"data.table={write_csv(root)}"],
    "dfew": lambda root: [f"data.root={dfew.write(root)}", "data.frames=2"],
    "disfa": disfa,
    "facial_expressions": lambda root: [f"data.root={write_facial_expressions(root)}"],
    "rafdb": lambda root: [f"data.root={rafdb.write(root)}"],
    "template_labels": lambda root: ["data.n=60"],
    "synthetic": lambda root: ["data.n=60", "data.subjects=20", f"data.cache={root}"],
}
"""For each dataset: writes a small tree in its layout and returns overrides that point to it."""


def data_of(recipe: str, root: Path) -> list[str]:
    """Write data for a recipe and return the overrides that point to it."""
    name = load_recipe(recipe)["data"]["name"]
    return mixture(root, recipe) if name == "mixture" else DATA[name](root)
