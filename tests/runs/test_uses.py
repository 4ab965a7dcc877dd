"""Losses of data stand where one looks: in the headlines of training, test and check."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from faceaffect.cli import main
from faceaffect.components import arguments
from faceaffect.data.base import FaceDataModule, FaceDataset, Samples, create_data
from faceaffect.data.csv import CsvFaces
from faceaffect.errors import RecipeError
from faceaffect.recipe import load_recipe, resolve
from faceaffect.runs.uses import doubts, faces_used
from faceaffect.schema import LabelSchema
from faces import face, write_csv, write_image, write_table

RECIPE = """
model: {name: timm_classifier, backbone: test_vit}
data: {name: csv, table: %s, image_size: 32, batch_size: 8, num_workers: 0}
trainer: {max_epochs: 1, accelerator: cpu}
output: %s
"""
NEW_WORDS = {"neutral": "Neutral", "happiness": "joy", "anger": "pain"}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with one finished run, trained on neutral, happiness and anger."""
    folder = tmp_path_factory.mktemp("uses")
    table = write_csv(folder / "faces", people=6, each=4)
    (folder / "tiny.yaml").write_text(RECIPE % (table, folder / "runs"))
    assert main(["train", str(folder / "tiny.yaml")]) == 0
    return folder


def renamed(place: Path, words: dict[str, str], name: str) -> Path:
    """Write the table with other words for its expressions and no other labels."""
    rows = pd.read_csv(place / "faces" / "faces.csv")[["image", "subject", "expression"]]
    rows["expression"] = rows["expression"].map(words)
    return write_table(place / "faces" / name, rows.to_dict("records"))


def outcome_on(
    place: Path, table: Path, capsys: pytest.CaptureFixture[str]
) -> tuple[int, str, str]:
    (run,) = (place / "runs" / "tiny").iterdir()
    capsys.readouterr()
    code = main(["test", str(run), f"data.table={table}", "data.protocol=all"])
    out, err = capsys.readouterr()
    return code, " ".join(out.split()), err


def test_synonyms_are_scored_as_the_classes_they_are(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = {"neutral": "Neutral", "happiness": "joy", "anger": "ANGRY"}
    code, out, _ = outcome_on(place, renamed(place, words, "spelt.csv"), capsys)
    assert code == 0
    assert "tiny: 24 test samples" in out
    assert "only" not in out


def test_a_test_of_shared_classes_counts_what_it_scores(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = outcome_on(place, renamed(place, NEW_WORDS, "pain.csv"), capsys)
    assert code == 0
    assert "tiny: 16 of 24 test samples, classes: " in out
    file = max(place.glob("runs/tiny/*/tests/*/metrics.json"), key=os.path.getmtime)
    assert json.loads(file.read_text())["n"] == 16


def test_one_shared_class_is_refused(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = {"neutral": "neutral", "happiness": "glee", "anger": "pain"}
    code, _, error = outcome_on(place, renamed(place, words, "one.csv"), capsys)
    assert code == 2
    assert "data and model share one expression only, neutral" in error
    assert len(error.strip().splitlines()) == 1


def test_training_and_check_say_what_is_lost(
    place: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    rows = pd.read_csv(place / "faces" / "faces.csv")[["image", "subject", "expression"]]
    rows.loc[rows.index[:5], "image"] += ".gone"
    rows.loc[rows.index[5:8], "expression"] = None
    table = write_table(place / "faces" / "lossy.csv", rows.to_dict("records"))
    (tmp_path / "lossy.yaml").write_text(RECIPE % (table, tmp_path / "runs"))
    said = "uses 16 of 24 faces (5 not on disk, 3 without a label)"
    for command in ("check", "train"):
        assert main([command, str(tmp_path / "lossy.yaml")]) == 0
        assert said in " ".join(capsys.readouterr().out.split())


class Labels(FaceDataset):
    """Faces of which only labels are there; the first half is trained on."""

    def __init__(self, schema: LabelSchema, subject: list[str], **labels: Any) -> None:
        n = len(subject)
        part = np.array(["train"] * (n - n // 2) + ["test"] * (n // 2))
        ids = np.array([f"{i}.jpg" for i in range(n)])
        super().__init__(schema, Samples(ids, np.array(subject), part=part, **labels))


def found(data: FaceDataset, protocol: Any = "official") -> list[str]:
    return doubts(FaceDataModule(data, protocol=protocol))


def test_classes_that_are_missing_on_a_side_are_said() -> None:
    schema = LabelSchema(expressions=("anger", "fear", "joy"))
    people = [f"p{i}" for i in range(12)]
    mixed = Labels(schema, people, expression=np.arange(12) % 3)
    assert found(mixed) == []
    lines = found(Labels(schema, people, expression=np.array([0, 1, 2, 0, 1, 2] + [2] * 6)))
    assert lines == ["there is one expression only, joy, to test"]
    lines = found(Labels(schema, people, expression=np.array([0, 2, -1, 0, 2, 0, *[0, 1, 2] * 2])))
    assert lines == ["there is no face of fear to train on"]


def test_action_units_without_positives_are_said() -> None:
    people = [f"p{i}" for i in range(8)]
    au = np.array([[1, 0, 1]] * 2 + [[0, 0, 1]] * 2 + [[0, 1, np.nan]] * 4, np.float32)
    lines = found(Labels(LabelSchema(aus=(1, 4, 12)), people, au=au))
    assert lines == [
        "there is no positive of AU4 to train on",
        "there is nothing but positives of AU12 to train on",
        "there is no positive of AU1, AU12 to test",
        "there is nothing but positives of AU4 to test",
    ]


def test_constant_valence_and_one_person_are_said() -> None:
    va = np.array([[0.5, 0.1 * i] for i in range(6)], np.float32)
    lines = found(Labels(LabelSchema(valence_arousal=True), ["ann"] * 6, va=va), "all")
    assert lines == [
        "there is one value of valence only to test",
        "all 6 faces are of one person, 'ann'",
    ]


def test_affect_without_a_known_number_is_said() -> None:
    va = np.array([[0.1 * i, np.nan] for i in range(6)], np.float32)
    lines = found(Labels(LabelSchema(valence_arousal=True), list("abcdef"), va=va), "all")
    assert lines == ["there is no arousal to test"]


def test_a_table_with_parts_is_split_by_them(place: Path, tmp_path: Path) -> None:
    rows = pd.read_csv(place / "faces" / "faces.csv").to_dict("records")
    people = sorted({row["subject"] for row in rows})
    part = dict(zip(people, ["train", "train", "val", "test", "test", "test"], strict=True))
    table = write_table(place / "faces" / "p.csv", [r | {"part": part[r["subject"]]} for r in rows])
    data = create_data(**load_recipe("csv_faces", [f"data.table={table}"])["data"])
    assert data.split.info["name"] == "official"
    assert data.split.info["subjects"] == {"train": 2, "val": 1, "test": 3}


def test_faces_on_no_side_are_no_faces_used() -> None:
    expression = np.array([0, 1, 1, 0, 1, 0, -1, 0])
    data = Labels(LabelSchema(expressions=("a", "b")), list("abcdefgh"), expression=expression)
    data.samples.part[[0, 4]] = ""
    data.left_out = {"not on disk": 3, "duplicate rows": 2}
    words = faces_used(FaceDataModule(data, protocol="official"))
    lost = "3 not on disk, 2 on no side of the split, 1 without a label"
    assert words == f"uses 5 of 11 faces ({lost})"


NAMES = ["a: b", "a #1", "$x", "it's", "[x]", "{y}", "a:", "100%", "a"]


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_may_have_any_name(tmp_path: Path, name: str) -> None:
    write_image(tmp_path / name / "0.jpg", face())
    table = write_table(tmp_path / name / "t.csv", [{"image": "0.jpg", "AU1": 1}])
    recipe = load_recipe("csv_faces", [f"data.table={table}", "data.batch_size=4"])
    assert recipe["data"]["table"] == str(table)
    assert recipe["data"]["batch_size"] == 4
    (tmp_path / "again.yaml").write_text(recipe.yaml(), encoding="utf-8")
    assert load_recipe(str(tmp_path / "again.yaml")).sections == recipe.sections
    assert resolve("again", recipe.stored, ["data.frames=2"])["data"]["table"] == str(table)
    args = arguments(CsvFaces, {"table": recipe["data"]["table"]}, "data")
    assert len(CsvFaces(**args)) == 1


def test_a_name_with_an_interpolation_is_one_clear_error(tmp_path: Path) -> None:
    write_image(tmp_path / "${x}" / "0.jpg", face())
    table = write_table(tmp_path / "${x}" / "t.csv", [{"image": "0.jpg", "AU1": 1}])
    for place in (table, tmp_path / "a${", tmp_path / "${a b}"):
        with pytest.raises(RecipeError, match=r"data\.table.* in its name has to be renamed"):
            load_recipe("csv_faces", [f"data.table={place}"])


def test_the_home_folder_is_written_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    write_image(tmp_path / "faces" / "0.jpg", face())
    write_table(tmp_path / "t.csv", [{"image": "~/faces/0.jpg", "AU1": 1}])
    args = arguments(CsvFaces, {"table": "~/t.csv"}, "data")
    assert CsvFaces(**args).samples.id.tolist() == ["faces/0.jpg"]
    args = arguments(CsvFaces, {"table": "t.csv", "root": "~/"}, "data")
    assert len(CsvFaces(**args)) == 1
    recipe = load_recipe("csv_faces", ["output=~/runs"])
    assert recipe["output"] == str(tmp_path / "runs")
