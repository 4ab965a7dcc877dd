import math
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest

from faceaffect.components import Component, Options, arguments, create
from faceaffect.data.base import create_data
from faceaffect.errors import RecipeError
from faceaffect.recipe import find_recipe, list_recipes, load_recipe

GOOD = """
# a comment
seed: 3
model: {name: timm_classifier, backbone: resnet18, dropout: 0.1}
data: {name: csv, table: a.csv, batch_size: 4}
trainer: {max_epochs: 2}
"""


def write(folder: Path, text: str) -> str:
    path = folder / "mine.yaml"
    path.write_text(text)
    return str(path)


def test_overrides_win_and_interpolations_see_them(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD + "optim: {lr: '${model.dropout}'}\n")
    recipe = load_recipe(path, ["model.dropout=0.5", "data.table=b=c.csv", "trainer.devices=[0]"])
    assert recipe.name == "mine"
    assert recipe["optim"] == {"lr": 0.5}
    assert recipe["data"]["table"] == "b=c.csv"
    assert recipe["trainer"] == {"max_epochs": 2, "devices": [0]}
    assert type(recipe["data"]) is dict


def test_another_name_replaces_the_section_whatever_the_order(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD)
    for overrides in (
        ["data.name=facial_expressions", "data.root=x"],
        ["data.root=x", "data.name=facial_expressions"],
    ):
        assert load_recipe(path, overrides)["data"] == {"name": "facial_expressions", "root": "x"}
    assert load_recipe(path, ["data.name=csv"])["data"]["batch_size"] == 4


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (GOOD.replace("trainer", "trainr"), "unknown section 'trainr'; did you mean 'trainer'?"),
        (GOOD.replace("timm_classifier", "os.system"), "model.name: unknown name 'os.system'"),
        (GOOD.replace("csv,", "cvs,"), "data.name: unknown name 'cvs'; did you mean 'csv'?"),
        (GOOD.replace("seed: 3", "seed: x"), "seed: 'x' is no int"),
        (GOOD.replace("seed: 3", "seed: true"), "seed: True is no int"),
        (
            GOOD.replace("0.1", "'${data.nope}'"),
            "model.dropout: Interpolation key 'data.nope' not found",
        ),
        (
            GOOD + "callbacks: [{name: early_stoping}]",
            "callbacks[0].name: unknown name 'early_stoping'",
        ),
        ("model: [1", "not readable as YAML"),
        ("- 1", "a recipe is a mapping"),
        ("model: {name: timm_classifier}", "the section 'data' is missing"),
        (GOOD + "seed: 4\n", "not readable as YAML"),
    ],
)
def test_an_error_in_the_file_names_key_value_and_choice(
    tmp_path: Path, text: str, message: str
) -> None:
    with pytest.raises(RecipeError) as error:
        load_recipe(write(tmp_path, text))
    assert message in str(error.value)


def test_a_malformed_override_says_how_to_write_one(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="write key=value"):
        load_recipe(write(tmp_path, GOOD), ["data.batch_size"])


def test_unknown_recipe_names_the_nearest() -> None:
    name = list_recipes()[0]
    assert find_recipe(name).stem == name
    with pytest.raises(RecipeError, match=f"did you mean '{name}'"):
        find_recipe(name[:-1])


def nested(name: str, pretrained: bool = False) -> None:
    """Stand for a backbone builder."""


class Toy:
    def __init__(
        self,
        schema: object,
        *,
        width: int = 8,
        mode: Literal["a", "b"] = "a",
        rate: float | None = None,
        layers: list[int] | None = None,
        backbone: Annotated[str | dict[str, Any], Options(nested)] = "x",
        protocol: Annotated[str | dict[str, Any], Component("protocols")] = "all",
    ) -> None: ...


def test_arguments_come_back_as_plain_python() -> None:
    node = {
        "width": 4,
        "rate": None,
        "layers": [1, 2],
        "backbone": {"name": "y", "pretrained": True},
    }
    assert arguments(Toy, node, "model", given={"schema": None}) == node


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ({"widht": 1}, "model.widht: unknown key; did you mean 'width'?"),
        ({"rate": math.nan}, "model.rate: nan is no finite number"),
        ({"rate": "inf"}, "model.rate: inf is no finite number"),
        ({"width": "fast"}, "model.width: Value 'fast' of type 'str' could not be converted"),
        ({"mode": "c"}, "model.mode: Invalid value 'c', expected one of ['a', 'b']"),
        ({"layers": [1, "x"]}, "model.layers[1]: Value 'x'"),
        ({"schema": 1}, "model.schema: unknown key"),
        (
            {"backbone": {"name": "y", "pretraind": 1}},
            "model.backbone.pretraind: unknown key; did you",
        ),
        (
            {"protocol": {"name": "subject_kfold", "flod": 2}},
            "model.protocol.flod: unknown key; did you",
        ),
        ({"protocol": "subjects"}, "model.protocol.name: unknown name 'subjects'"),
    ],
)
def test_wrong_arguments_are_named_at_every_level(node: dict, message: str) -> None:
    with pytest.raises(RecipeError) as error:
        arguments(Toy, node, "model", given={"schema": None})
    assert message in str(error.value)


def test_missing_arguments_are_named() -> None:
    with pytest.raises(RecipeError, match="backbone: nested needs name"):
        arguments(nested, {}, "backbone")


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_that_no_generator_takes_is_named(seed: int) -> None:
    node = {"name": "subject_kfold", "seed": seed}
    with pytest.raises(RecipeError, match=r"protocol\.seed: -?\d+ is not between 0 and 4294967295"):
        create("protocols", node)


def test_a_negative_number_of_workers_is_named() -> None:
    with pytest.raises(RecipeError, match=r"data\.num_workers: -1 is not between 0 and 256"):
        create_data("synthetic", n=40, subjects=20, num_workers=-1)
