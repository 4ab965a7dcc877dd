"""The mini_* recipes: one data block, offline, and pre-training on other people."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from faceaffect.data.base import create_data
from faceaffect.recipe import Recipe, list_recipes, load_recipe, recipe_folder
from faceaffect.runs.space import load_space
from faceaffect.runs.tuned import tuned_section

MULTIVIEW = [name for name in list_recipes() if name.startswith("mini_multiview_")]
"""Those have a world of their own, seen from five sides."""
EMERT = ["mini_emert", "mini_emert_face_only"]
"""Those too: one in which faces deceive."""
COMPARED = [n for n in list_recipes() if n.startswith("mini_") and n not in MULTIVIEW + EMERT]
BP4D = [1, 2, 4, 6, 7, 10, 12, 14, 15, 17, 23, 24]


def test_all_compared_recipes_carry_the_same_data_block(
    data_block: Callable[[Path], str],
) -> None:
    assert {"mini_probe", "mini_full", "mini_lora"} <= set(COMPARED)
    # A matter of how long a model trains, and of how much of it learns; not of what is tested.
    own = ("\n  augment: [light]", "\n  fraction: 0.01")
    blocks = {}
    for name in COMPARED:
        blocks[name] = data_block(recipe_folder() / f"{name}.yaml")
        for line in own:
            blocks[name] = blocks[name].replace(line, "")
    assert len(set(blocks.values())) == 1, blocks
    free = {"augment": None, "fraction": None}
    sections = [load_recipe(name)["data"] | free for name in COMPARED]
    assert all(section == sections[0] for section in sections)


def test_recipes_of_several_views_carry_the_same_people_and_parts() -> None:
    assert len(MULTIVIEW) == 3
    drawn = {"views": None, "instances": None, "batch_size": None, "augment": None}
    sections = [load_recipe(name)["data"] | drawn for name in MULTIVIEW]
    assert all(section == sections[0] for section in sections)
    twins = [load_recipe(f"mini_multiview_{name}") for name in ("finetuned", "scratch")]
    models = [{k: v for k, v in twin["model"].items() if k != "from"} for twin in twins]
    for section in ("data", "optim", "trainer", "checkpoint"):
        assert twins[0][section] == twins[1][section]
    assert models[0] == models[1] == twins[1]["model"]
    assert create_data(**twins[0]["data"]).split.info["subjects"]["test"] >= 50


def test_the_twins_of_emert_differ_in_what_they_see_alone() -> None:
    both = [load_recipe(name) for name in EMERT]
    assert both[0]["model"].pop("modalities") == ["face", "eyes", "fixations"]
    assert both[1]["model"].pop("modalities") == ["face"]
    for section in ("model", "data", "optim", "trainer", "seed"):
        assert both[0][section] == both[1][section]
    assert 0 < both[0]["data"]["deceive"] < 1


RACE = ["mini_probe", "mini_auformer", "mini_sacl", "mini_emo_llama"]
"""The recipes of the command in the README."""


def test_the_race_is_searched_within_the_same_learning_rates() -> None:
    searched = [load_space(load_recipe(name)).keys for name in RACE]
    for key in ("optim.lr", "optim.weight_decay"):
        assert all(keys[key] == searched[0][key] for keys in searched)
    assert {len(keys) for keys in searched} == {5}


def test_the_race_is_run_on_equal_terms() -> None:
    entrants = [load_recipe(name) for name in RACE]
    assert {recipe["optim"]["name"] for recipe in entrants} == {"nmuon"}
    for recipe, name in zip(entrants, RACE, strict=True):
        tuned = tuned_section(recipe)
        assert tuned is not None, name
        assert tuned.trials == 8
        space = load_space(recipe)
        assert set(tuned.chosen) == set(space.keys), name
        stated = {key: at(recipe, key) for key in tuned.chosen}  # a silent recipe keeps defaults
        assert all(value in (None, tuned.chosen[key]) for key, value in stated.items()), name


def at(recipe: Recipe, key: str) -> Any:
    """Return what a recipe says of a dotted key, None where it is silent."""
    section, name = key.split(".")
    return recipe[section].get(name)


def test_the_data_is_bp4d_like_and_people_do_not_cross() -> None:
    data = create_data(**load_recipe("mini_probe")["data"])
    assert list(data.schema.aus) == BP4D
    assert len(data.schema.expressions) == 7
    assert data.schema.valence_arousal
    subject = data.dataset.samples.subject
    split = data.split
    parts = [set(subject[i]) for i in (split.train, split.val, split.test)]
    assert all(not a & b for a in parts for b in parts if a is not b)
    assert min(len(p) for p in parts) >= 20


def test_no_mini_recipe_asks_the_hub() -> None:
    for name in [*COMPARED, *EMERT]:
        assert "pretrained: true" not in (recipe_folder() / f"{name}.yaml").read_text()


def test_pretraining_shows_other_people_and_no_affect_label() -> None:
    compared = load_recipe("mini_probe")["data"]
    for name in ("pretrain_mini_vit", "pretrain_mini_face"):
        data = load_recipe(name)["data"]
        assert data["seed"] != compared["seed"]
        assert data["seed"] >= 1000
        assert create_data(**{**data, "n": 200, "subjects": 100}).schema.tasks == ()
