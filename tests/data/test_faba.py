"""FABA-Bench's faces in the layout that EmoLA's repository describes."""

from pathlib import Path

import numpy as np
import pytest

from faceaffect.data.faba import FabaBench
from faceaffect.errors import DataError
from faceaffect.instructions.formats import read_items
from faceaffect.instructions.items import turns_by_id
from faceaffect.scores.rege import EXPRESSIONS
from trees.faba import record, write


def test_labels_are_what_the_texts_affirm(tmp_path: Path) -> None:
    train = [record(0, "The person shows joy."), record(1, "Hard to say."), record(9, "Fear.")]
    root = write(tmp_path, train, [record(2, "", label="sad"), record(2, "", label="sad")])
    data = FabaBench(str(root))
    assert data.schema.expressions == EXPRESSIONS
    assert data.samples.expression is not None
    assert data.samples.expression.tolist() == [0, -1, 1]
    assert data.samples.part is not None
    assert data.samples.part.tolist() == ["train", "train", "test"]
    assert data.left_out == {"records of a picture that has one": 1,
                             "pictures that are not on disk": 1}  # fmt: skip
    found, left_out = turns_by_id(read_items(root / "train.json"), data.samples.id[:2].tolist())
    assert found["images/0.jpg"] == [[("Describe.", "The person shows joy.")]]
    assert left_out == 1  # its picture is not there


def test_aus(tmp_path: Path) -> None:
    root = write(tmp_path, [record(0, "AU6 and AU12 are active.")], [record(1, "", label="1,25")])
    data = FabaBench(str(root), task="au")
    assert data.samples.au is not None
    active = [{data.schema.aus[i] for i in np.flatnonzero(row)} for row in data.samples.au]
    assert active == [{6, 12}, {1, 25}]


def test_what_is_wrong_names_file_and_record(tmp_path: Path) -> None:
    good = [record(0, "Joy.")]
    for train, test, said in (
        (good, [record(1, "")], r"test\.json, record 1: no field 'label'"),
        (good, [record(1, "", label="AU1")], "the label 'AU1' is none of data.task=emotion"),
        (good, [record(0, "", label="sad")], r"record 1: 'images/0\.jpg' is in both files"),
        ([3], [], r"train\.json, record 1"),
        ([record(9, "Joy.")], [], "none of the 1 pictures is there"),
        ({"a": 1}, [], r"train\.json: no list of records"),
    ):
        with pytest.raises(DataError, match=said):
            FabaBench(str(write(tmp_path, train, test)))
    with pytest.raises(DataError, match=r"no records at .*other\.json"):
        FabaBench(str(tmp_path), train="other.json")
