"""Less data to learn from, by people."""

from pathlib import Path

import pytest

from faceaffect.data.base import create_data
from faceaffect.errors import RecipeError
from faceaffect.evaluation.agreement import HOW_IT_IS_READ
from faces import write_csv


@pytest.fixture
def table(tmp_path: Path) -> str:
    return str(write_csv(tmp_path / "faces", people=16, each=3))


def test_a_smaller_part_lies_in_a_larger_one_and_the_rest_stays(table: str) -> None:
    whole, seen = create_data("csv", table=table).split, []
    for people in (1, 2, 5, 8):
        data = create_data("csv", table=table, people=people)
        split = data.split
        names = {*data.dataset.samples.subject[split.train].tolist()}
        assert len(names) == people == split.info["subjects"]["train"]
        assert len(split.train) == 3 * people == split.info["sizes"]["train"]
        for side in ("val", "test"):
            assert split.info["sha256"][side] == whole.info["sha256"][side]
        assert split.info["sha256"]["train"] != whole.info["sha256"]["train"]
        assert split.info["unused"] == len(whole.train) - len(split.train)
        assert split.info["subset"]["people"] == people
        assert split.info["subject_names"]["train"] == sorted(names)
        seen.append(names)
    assert seen[0] < seen[1] < seen[2] < seen[3]
    other = create_data("csv", table=table, people=5, subset_seed=1)
    assert {*other.dataset.samples.subject[other.split.train].tolist()} != seen[2]
    assert other.statistics()["n"] == 15


def test_a_share_of_the_people(table: str) -> None:
    whole = create_data("csv", table=table).split
    half = create_data("csv", table=table, fraction=0.5).split
    assert half.info["subset"]["of"] == whole.info["subjects"]["train"] == 10
    assert half.info["subjects"]["train"] == 5
    tenth = create_data("csv", table=table, fraction=0.1).split
    assert tenth.info["subset"] == {"people": 1, "of": 10, "seed": 0}
    assert {*tenth.info["subject_names"]["train"]} < {*half.info["subject_names"]["train"]}
    all_of_them = create_data("csv", table=table, fraction=1.0).split
    assert all_of_them.info["sha256"] == whole.info["sha256"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"people": 0}, "data.people: 0, and the training part has 1 to 10 to give"),
        ({"people": 11}, "data.people: 11"),
        ({"fraction": 0.0}, r"data.fraction: 0.0 is not in \(0, 1\]"),
        ({"fraction": 1.5}, "data.fraction: 1.5"),
        ({"fraction": 0.04}, "0.04 of the training part's 10 people is nobody; data.people=1"),
        ({"people": 2, "fraction": 0.5}, "say the same"),
    ],
)
def test_numbers_out_of_range_are_refused(table: str, given: dict, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        create_data("csv", table=table, **given)


def test_models_are_only_compared_on_the_same_subset() -> None:
    assert not {"people", "fraction", "subset_seed"} & set(HOW_IT_IS_READ)
