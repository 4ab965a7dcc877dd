"""Who was trained on and who was tested, without their names."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from faceaffect.cli import main
from faceaffect.data.base import create_data
from faceaffect.errors import RecipeError
from faceaffect.evaluation.agreement import leaks
from faceaffect.recipe import resolve
from faceaffect.runs.people import hash_of, people_section, without_people
from faces import write_csv


@pytest.fixture(scope="module")
def info(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    table = write_csv(tmp_path_factory.mktemp("people") / "faces", people=9, each=2)
    found = create_data("csv", table=str(table)).split.info
    return found | {"joined": [["person 1", "person 2"]]}


def test_a_result_holds_hashes_of_its_own_salt(info: dict[str, Any]) -> None:
    one, other = people_section(info, names=False), people_section(info, names=False)
    assert "person" not in json.dumps(one)
    for side, names in info["subject_names"].items():
        assert one[side] == sorted(hash_of(n, one["salt"]) for n in names)
        assert not {*one[side]} & {*other[side]}
    assert len(one["joined"][0]) == 2
    named = people_section(info, names=True)
    assert named == {"salt": None, **info["subject_names"], "joined": info["joined"]}
    assert "person" not in json.dumps(without_people(info))
    unknown = {"joined": [["a.jpg", "b.jpg"]]}  # no subject column
    assert set(people_section(unknown, names=False)) == {"salt", "joined"}


@pytest.mark.parametrize("names", [False, True])
def test_leaks_are_seen_through_hashes_as_through_names(info: dict[str, Any], names: bool) -> None:
    said: dict[str, Any] = {"people": people_section(info, names=names), "protocol": info}
    tested, trained = (info["subject_names"][side] for side in ("test", "train"))
    table = pd.DataFrame({"subject": tested})
    assert leaks(table, said, []) == []
    assert leaks(table, said, trained) == []
    (line,) = leaks(pd.DataFrame({"subject": [*tested, trained[0]]}), said, [])
    assert line == f"is tested on 1 people that it was trained on: {trained[0]}"
    assert leaks(table, said, [tested[0]]) == [
        f"is tested on 1 people that it was trained on: {tested[0]}"
    ]
    chosen = pd.DataFrame({"subject": info["subject_names"]["val"][:1]})
    assert len(leaks(chosen, said, [])) == 1
    assert leaks(chosen, said | {"protocol": {"selection": "test"}}, []) == []
    nothing = {"protocol": info}
    assert leaks(table, nothing, []) == []
    assert len(leaks(table, nothing, tested)) == 1


def test_a_run_names_people_only_if_the_recipe_says_so(tmp_path: Path) -> None:
    table = write_csv(tmp_path / "faces", people=7, each=2)
    (tmp_path / "r.yaml").write_text(
        "model: {name: timm_classifier, backbone: test_vit}\n"
        f"data: {{name: csv, table: {table}, image_size: 48, num_workers: 0}}\n"
        "trainer: {max_epochs: 1, accelerator: cpu}\n"
        f"output: {tmp_path}/runs\n",
        encoding="utf-8",
    )
    assert main(["train", str(tmp_path / "r.yaml")]) == 0
    (run,) = (tmp_path / "runs" / "r").iterdir()
    text = (run / "metrics.json").read_text(encoding="utf-8")
    assert "person " not in text
    assert "predictions.csv holds the ids and people" in json.loads(text)["names"]
    assert main(["test", str(run), "subject_names=true", f"output={tmp_path}/out"]) == 0
    (test,) = (tmp_path / "out" / "r-test").iterdir()
    named = json.loads((test / "metrics.json").read_text(encoding="utf-8"))["people"]
    tested = sorted(set(pd.read_csv(run / "predictions.csv")["subject"]))
    assert named["test"] == tested


def test_the_switch_is_yes_or_no() -> None:
    sections = {"model": {"name": "sacl"}, "data": {"name": "synthetic"}}
    assert resolve("r", sections, [])["subject_names"] is False
    with pytest.raises(RecipeError, match="subject_names: 'maybe' is no bool"):
        resolve("r", sections, ["subject_names=maybe"])
    with pytest.raises(RecipeError, match="seed: True is no int"):
        resolve("r", sections, ["seed=true"])
