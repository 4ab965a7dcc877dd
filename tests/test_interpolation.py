"""What a recipe may read, and what it cannot do with references."""

import time
from pathlib import Path

import pytest

from faceaffect.cli import main
from faceaffect.data.base import create_data
from faceaffect.errors import RecipeError
from faceaffect.recipe import Recipe, interpolation, load_recipe, resolve

GOOD = "model: {name: timm_classifier}\ndata: {name: csv, table: '%s'}\n"


def load(folder: Path, text: str, *overrides: str) -> Recipe:
    path = folder / "mine.yaml"
    path.write_text(text)
    return load_recipe(str(path), overrides)


def test_the_environment_names_folders_and_is_stored_as_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FACEAFFECT_DATA", "/mnt/faces")
    text = GOOD % "${oc.env:FACEAFFECT_DATA,data}/a.csv" + "output: '${data.table}.runs'\n"
    recipe = load(tmp_path, text, "data.root=${oc.env:FACEAFFECT_OTHER,here}")
    assert recipe["data"]["table"] == "/mnt/faces/a.csv"
    assert recipe["data"]["root"] == "here"
    assert recipe["output"] == "/mnt/faces/a.csv.runs"
    assert "/mnt" not in recipe.yaml()
    assert recipe.stored["output"] == "${oc.env:FACEAFFECT_DATA,data}/a.csv.runs"
    assert recipe.stored["data"]["root"] == "${oc.env:FACEAFFECT_OTHER,here}"
    again = recipe.changed(lambda s: s | {"seed": 5})
    assert (again["seed"], again.stored["seed"], again["data"]) == (5, 5, recipe["data"])


@pytest.mark.parametrize(("line", "says"), [
    ("output: 'x/${oc.env:SECRET_KEY}'", "output: a recipe may not read .* SECRET_KEY"),
    ("task_weights: {au: '${oc.env:SECRET_KEY}'}", "task_weights.au: a recipe may not read"),
    ("task_weights: {au: '${oc.env:FACEAFFECT_X}'}", "for folders and files alone"),
    ("task_weights: {au: '${output}'}\noutput: '${oc.env:FACEAFFECT_X}'", "folders and files"),
    ("output: '${oc.env:FACEAFFECT_UNSET}'", "FACEAFFECT_UNSET is not set"),
    ("output: '${oc.env:${data.name}}'", "nothing else with"),
    ("output: '${oc.${data.name}:SECRET_KEY}'", "nothing else with"),
    ("output: '${oc.decode:${oc.env:SECRET_KEY}}'", "nothing else with"),
    ("output: '${oc.select:data.name}'", "nothing else with"),
    ("output: '\\${oc.env:SECRET_KEY}'", "nothing else with"),
    ("output: \"a\\0b\"", "output: holds a NUL character"),
    ("seed: -1", "seed: -1 is not between 0 and 4294967295"),
    ("seed: 4294967296", "is not between"),
    ("seed: ${seed}", "seed: refers to itself"),
    ("optim: {lr: '${optim}'}", "refers to itself"),
    ("optim: {lr: '${optim.momentum}', momentum: '${optim.lr}'}", "refers to itself"),
])  # fmt: skip
def test_a_recipe_reads_and_does_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, says: str
) -> None:
    monkeypatch.setenv("SECRET_KEY", "hidden")
    monkeypatch.setenv("FACEAFFECT_X", "x")
    with pytest.raises(RecipeError, match=says) as caught:
        load(tmp_path, GOOD % "a.csv" + line + "\n")
    assert "hidden" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("whole", [False, True])
def test_references_are_no_bomb(tmp_path: Path, whole: bool) -> None:
    lines = ["task_weights:", "  a0: [aaaaaaaaaa]" if whole else "  a0: aaaaaaaaaa"]
    for n in range(1, 12):
        reference = f"${{task_weights.a{n - 1}}}"
        value = str([reference] * 10) if whole else f"'{reference * 10}'"
        lines.append(f"  a{n}: {value}")
    start = time.monotonic()
    with pytest.raises(RecipeError, match="more than 1,048,576 characters"):
        load(tmp_path, GOOD % "a.csv" + "\n".join(lines))
    with pytest.raises(RecipeError, match="more than 1,048,576 characters"):
        load(tmp_path, GOOD % "a.csv" + "\n".join(lines), "data.root=${task_weights.a11}")
    assert time.monotonic() - start < 5


def test_the_person_at_the_keyboard_allows_a_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(interpolation, "allowed_env", set())
    monkeypatch.setenv("SCRATCH", str(tmp_path))
    (tmp_path / "mine.yaml").write_text(GOOD % "${oc.env:SCRATCH}/no.csv")
    assert main(["check", str(tmp_path / "mine.yaml")]) == 2
    assert "--allow-env SCRATCH allows it" in capsys.readouterr().err
    assert main(["check", str(tmp_path / "mine.yaml"), "--allow-env", "SCRATCH"]) == 2
    assert f"{tmp_path}/no.csv" in capsys.readouterr().err


def test_a_stored_recipe_reads_no_environment_and_chooses_no_folder(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FACEAFFECT_DATA", "/mnt/faces")
    sections = {
        "model": {"name": "timm_classifier"},
        "data": {"name": "csv", "table": "${oc.env:FACEAFFECT_DATA}/a.csv", "cache": "/etc/x"},
        "output": "../../up",
    }
    recipe = resolve("r", sections, [], "a.ckpt", stored=True)
    assert recipe["output"] == "runs"
    assert "cache" not in recipe["data"]
    assert interpolation.forgotten(sections) == ["data.cache", "output"]
    with pytest.raises(RecipeError, match=r"data\.table stands in a stored recipe as .*FOLDER"):
        create_data(**recipe["data"])
    mine = ["data.table=${oc.env:FACEAFFECT_DATA}/b.csv", "output=/tmp/mine"]
    placed = resolve("r", sections, mine, "a.ckpt", stored=True)
    assert (placed["data"]["table"], placed["output"]) == ("/mnt/faces/b.csv", "/tmp/mine")


@pytest.mark.parametrize("name", ["..", ".", "", "../up", "a/b", "a\\b", "a\0b", "x" * 300])
def test_a_name_leads_nowhere(name: str) -> None:
    sections = {"model": {"name": "timm_classifier"}, "data": {"name": "csv", "table": "a.csv"}}
    with pytest.raises(RecipeError, match="is no name of a recipe"):
        resolve(name, sections, [], "a.ckpt", stored=True)
