"""Search spaces: what is read, what is refused, and what a recipe becomes."""

from pathlib import Path

import pytest

from faceaffect import registry
from faceaffect.errors import RecipeError
from faceaffect.module import AffectModule
from faceaffect.recipe import Recipe, list_recipes, load_recipe
from faceaffect.runs.space import list_spaces, load_space, value_of, with_values


def recipe() -> Recipe:
    return load_recipe("mini_probe")


def space(tmp_path: Path, text: str) -> Path:
    (tmp_path / "space.yaml").write_text(text)
    return tmp_path / "space.yaml"


def test_a_space_ships_for_every_model_that_can_be_compared() -> None:
    wanted = [
        name
        for name, path in registry.TABLES["models"].items()
        if path.startswith("faceaffect.")
        and issubclass(model := registry.get("models", name), AffectModule)
        and model.needs_training
    ]
    assert list_spaces() == sorted(wanted)


@pytest.mark.parametrize("name", list_recipes())
def test_shipped_spaces_fit_the_shipped_recipes(name: str) -> None:
    shipped = load_recipe(name)
    if shipped["model"]["name"] not in list_spaces():
        with pytest.raises(RecipeError, match="no space ships"):
            load_space(shipped)
        return
    found = load_space(shipped)
    own = [key for key in found.keys if key.startswith("model.")]
    assert {"optim.lr", "optim.weight_decay"} <= set(found.keys)
    assert 2 <= len(own) <= 3
    if name.startswith("mini_"):  # the first trial is a point of the space
        assert found.own(shipped).keys() == found.keys.keys()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("optim.lrr: {low: 1, high: 2}", r"optim\.lrr: unknown key; did you mean 'lr'\?"),
        ("model.droput: {low: 0, high: 0.5}", r"model\.droput: unknown key; did you mean 'dropout"),
        ("optm.lr: {low: 1, high: 2}", r"unknown name 'optm'; did you mean 'optim'\?"),
        ("data.batchsize: {choices: [8, 16]}", r"did you mean 'batch_size'\?"),
        ("trainer.max_epoch: {choices: [2, 3]}", r"did you mean 'max_epochs'\?"),
        ("model.backbone.drop_pth: {low: 0, high: 0.2}", r"did you mean 'drop_path'\?"),
        ("optim.lr: {low: 1, hihg: 2}", r"optim\.lr\.hihg: unknown key; did you mean 'high'\?"),
        ("optim.lr: {low: 2, high: 1}", r"optim\.lr: low 2 is not below high 1: an empty range"),
        ("optim.lr: {low: 1, high: 1}", "an empty range"),
        ("optim.lr: {low: 0, high: 1, log: true}", "has to be positive where log is true"),
        ("optim.lr: {low: -1, high: 1}", r"optim\.lr: -1.* is negative"),
        ("optim.lr: {low: .nan, high: 1}", "low: nan is no finite number"),
        ("optim.lr: {high: 1}", "needs low and high, or choices"),
        ("optim.lr: {low: small, high: 1}", r"optim\.lr\.low: .*'small'.*Float"),
        ("optim.lr: 3", "3 is no range"),
        ("model.mode: {choices: []}", "leave nothing to choose"),
        ("model.mode: {choices: [full]}", "leave nothing to choose"),
        ("model.mode: {choices: [full, full]}", "name something twice"),
        ("model.mode: {choices: [full, linear], low: 1}", "choices stand alone"),
        ("model.mode: {choices: [full, lineer]}", "model.mode"),
        ("optim.schedule: {choices: [cosine, cosin]}", r"did you mean 'cosine'\?"),
        ("trainer.max_epochs: {low: 1, high: 4}", "max_epochs"),
        ("trainer.max_epochs: {low: 1, high: 3.5, type: int}", "whole numbers"),
        ("seed: {low: 0, high: 9, type: int}", "unknown name 'seed'"),
        ("model.name: {choices: [sacl, auformer]}", "another model is another recipe"),
        ("data.protocol.fold: {choices: [1, 2]}", "the same validation people"),
        ("data.people: {choices: [10, 20]}", "data.people: not searched: how many people"),
        ("data.fraction: {low: 0.1, high: 1}", "data.fraction: not searched: how many people"),
        ("data.subset_seed: {choices: [0, 1]}", "data.subset_seed: not searched"),
        ("data.n: {choices: [10, 20]}", r"data\.n: unknown name 'n'"),
        ("optim: {choices: [1, 2]}", "a section; name a key in it"),
        ("optim.lr.x: {choices: [1, 2]}", "has no key 'x'"),
        ("", "a space maps keys"),
        ("[1, 2]", "a space maps keys"),
        ("a: [", "not readable as YAML"),
    ],
)
def test_a_wrong_space_is_one_clear_error(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message) as caught:
        load_space(recipe(), space(tmp_path, text))
    assert "space.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_space_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"no space at .*none\.yaml"):
        load_space(recipe(), tmp_path / "none.yaml")


def test_keys_are_set_at_any_depth_and_the_recipe_stays_as_it_was() -> None:
    before = load_recipe("mini_probe", ["data.augment=[light]"])
    after = with_values(
        before, {"model.backbone.drop_path": 0.1, "data.augment.0": "blur", "optim.lr": 0.5}
    )
    assert after["model"]["backbone"] == {"name": "asset:mini_vit", "drop_path": 0.1}
    assert after["data"]["augment"] == ["blur"]
    assert after["optim"] == before["optim"] | {"lr": 0.5}
    assert before.sections == load_recipe("mini_probe", ["data.augment=[light]"]).sections


def test_a_value_is_what_the_recipe_says_or_the_default() -> None:
    assert value_of(recipe(), "optim.lr") == recipe()["optim"]["lr"]
    assert value_of(recipe(), "optim.momentum") == 0.9
    assert value_of(recipe(), "model.label_smoothing") == recipe()["model"].get(
        "label_smoothing", 0.0
    )


def test_values_outside_are_told_from_those_inside(tmp_path: Path) -> None:
    text = "optim.lr: {low: 10, high: 20}\nmodel.mode: {choices: [linear, full]}\n"
    found = load_space(recipe(), space(tmp_path, text))
    assert found.own(recipe()) == {"model.mode": "linear"}
    assert found.outside(recipe()) == {"optim.lr": recipe()["optim"]["lr"]}


def test_choices_may_be_anything_a_recipe_holds(tmp_path: Path) -> None:
    text = "data.augment: {choices: [null, [light], [{name: light, strength: 2}]]}"
    (search,) = load_space(recipe(), space(tmp_path, text)).keys.values()
    assert search.choices is not None
    for choice in search.choices:
        assert search.value(search.drawn(choice)) == choice
    assert search.drawn(["blur"]) is None
