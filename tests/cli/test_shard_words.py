"""The command that ``shard`` says."""

import shlex
from pathlib import Path

from faceaffect.cli.shard import trains_from
from faceaffect.recipe import load_recipe


def test_what_is_asked_of_all_data_is_said_again() -> None:
    before = load_recipe("csv_faces", ["data.protocol={name: subject_kfold, folds: 3}"])
    words = shlex.split(trains_from("csv_faces", Path("a folder"), before["data"]))
    assert words[:3] == ["faceaffect", "train", "csv_faces"]
    after = load_recipe("csv_faces", words[3:])
    assert after["data"]["name"] == "shards"
    assert after["data"]["root"] == "a folder"
    own = {"name", "table", "frames"}
    assert {k: v for k, v in before["data"].items() if k not in own} == {
        k: v for k, v in after["data"].items() if k not in ("name", "root")
    }
