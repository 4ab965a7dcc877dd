import hashlib
import warnings
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.model_selection import StratifiedGroupKFold

from faceaffect.components import create
from faceaffect.data.dataset import FaceDataset, Samples
from faceaffect.data.folds import MANY, assign_folds, most_alike, strata
from faceaffect.data.people import people
from faceaffect.data.protocols import Split
from faceaffect.errors import DataError, RecipeError
from faceaffect.schema import LabelSchema
from faces import face, write_image


def dataset(
    subjects: list[str], *, part: list[str] | None = None, root: Path | None = None, **args: Any
) -> FaceDataset:
    """Return samples ``0.jpg``, ``1.jpg``, ... of these people."""
    n = len(subjects)
    samples = Samples(
        id=np.array([f"{i}.jpg" for i in range(n)]),
        subject=np.array(subjects),
        expression=np.arange(n) % 3,
        part=None if part is None else np.array(part),
    )
    return FaceDataset(LabelSchema(expressions=("a", "b", "c")), samples, root=root, **args)


def split(protocol: str | dict[str, Any], data: FaceDataset) -> Split:
    return create("protocols", protocol).split(data)


CROWD = [f"p{i:02d}" for i in range(20) for _ in range(5)]


def exclusive(data: FaceDataset, found: Split, *, whole: bool = True) -> None:
    sides = [found.train, found.val, found.test]
    for one, other in combinations(sides, 2):
        assert not {*data.samples.subject[one]} & {*data.samples.subject[other]}
    assert all(len(side) and (np.diff(side) > 0).all() for side in sides)
    if whole:
        assert sorted(np.concatenate(sides).tolist()) == list(range(len(data)))


def test_kfold_tests_everybody_once_and_nobody_is_on_two_sides() -> None:
    data, tested = dataset(CROWD), []
    for fold in range(1, 6):
        found = split({"name": "subject_kfold", "fold": fold}, data)
        exclusive(data, found)
        tested += found.test.tolist()
        assert found.info["sizes"]["test"] == 20
        assert 10 <= found.info["sizes"]["val"] <= 15
    assert sorted(tested) == list(range(100))


def test_a_split_is_the_same_every_time_and_changes_with_its_seed() -> None:
    data = dataset(CROWD)
    one, again, other = (split({"name": "subject_kfold", "seed": seed}, data) for seed in (0, 0, 1))
    assert one.info == again.info
    assert np.array_equal(one.val, again.val)
    assert one.info["sha256"] != other.info["sha256"]


def test_info_says_what_was_split() -> None:
    data = dataset(CROWD)
    found = split({"name": "subject_kfold", "fold": 2, "folds": 4}, data)
    info = found.info
    assert (info["name"], info["fold"], info["folds"], info["selection"]) == (
        "subject_kfold", 2, 4, "val",
    )  # fmt: skip
    assert info["subjects"]["test"] == 5
    assert info["subject_names"]["test"] == sorted({*data.samples.subject[found.test].tolist()})
    ids = sorted(data.samples.id[found.test].tolist())
    assert info["sha256"]["test"] == hashlib.sha256("\n".join(ids).encode()).hexdigest()
    assert info["subjects_known"]
    assert info["unused"] == 0
    assert create("protocols", "subject_kfold").fold_count(data) == 5


def test_selection_on_the_test_part_is_stamped() -> None:
    found = split({"name": "subject_kfold", "selection": "test"}, dataset(CROWD))
    assert found.info["selection"] == "test"
    assert np.array_equal(found.val, found.test)
    assert found.info["sizes"]["train"] == 80


def test_leave_one_subject_out_goes_by_name() -> None:
    data = dataset(["zoe", "ann", "ann", "bob", "bob", "eve"])
    found = split({"name": "leave_one_subject_out", "fold": 2}, data)
    assert found.info["subject_names"]["test"] == ["bob"]
    exclusive(data, found)
    protocol = create("protocols", {"name": "leave_one_subject_out", "fold": 5})
    assert protocol.fold_count(data) == 4
    with pytest.raises(RecipeError, match="5 is out of range; the folds are 1 to 4"):
        protocol.split(data)


def test_three_fold_takes_the_published_parts_from_the_last_to_the_first() -> None:
    parts = {"1": ("p00", "p01", "p02"), "2": ("p03", "p04"), "3": ("p05", "p06")}
    data = dataset([*CROWD[:35], "stranger"], folds=parts)
    for fold, part in ((1, "3"), (2, "2"), (3, "1")):
        found = split({"name": "three_fold", "fold": fold}, data)
        assert tuple(found.info["subject_names"]["test"]) == parts[part]
        assert found.info["unused"] == 1
        exclusive(data, found, whole=False)
    with pytest.raises(DataError, match="publishes no three parts"):
        split("three_fold", dataset(CROWD))


def test_official_parts_are_taken_and_validation_is_carved_if_there_is_none() -> None:
    crowd, part = CROWD[:30], ["train"] * 20 + ["test"] * 10
    data = dataset(crowd, part=part)
    found = split("official", data)
    assert found.test.tolist() == list(range(20, 30))
    exclusive(data, found)
    data = dataset(crowd, part=["train"] * 15 + ["val"] * 5 + [*part[20:25], *[""] * 5])
    found = split("official", data)
    assert found.val.tolist() == list(range(15, 20))
    assert found.info["unused"] == 5
    found = split({"name": "official", "selection": "test"}, data)
    assert found.train.tolist() == list(range(20))


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (["train"] * 3 + ["test"] * 3, "'bob' is in train and in test"),
        (["train"] * 3 + ["val"] + ["test"] * 2, "'bob' is in train and in val"),
        (["train"] * 4 + [""] * 2, "no sample is in the part 'test'; parts: train"),
        (None, "names no parts"),
    ],
)
def test_an_official_split_that_cannot_be_trusted_is_refused(
    part: list[str] | None, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        split("official", dataset(["ann", "ann", "bob", "bob", "eve", "eve"], part=part))


def files(tmp_path: Path, same: list[tuple[int, int]], n: int) -> Path:
    for i in range(n):
        write_image(tmp_path / f"{i}.jpg", face(0, i))
    for one, other in same:
        (tmp_path / f"{other}.jpg").write_bytes((tmp_path / f"{one}.jpg").read_bytes())
    return tmp_path


def test_people_with_a_byte_identical_image_are_one(tmp_path: Path) -> None:
    subjects = ["ann", "ann", "bob", "bob", "eve", "eve", "zoe", "zoe"]
    root = files(tmp_path, [(0, 2), (3, 4), (6, 7)], 8)
    for empty in (1, 5):
        (root / f"{empty}.jpg").write_bytes(b"")
    data = dataset(subjects, root=root)
    found = people(data)
    assert found.group.tolist() == [0] * 6 + [1] * 2
    assert found.joined == [["ann", "bob", "eve"]]
    assert found.identical == [[0, 2], [3, 4]]
    info = split({"name": "leave_one_subject_out", "selection": "test"}, data).info
    assert (info["joined_people"], info["identical_images"]) == (3, 4)
    assert info["subject_names"] == {"train": ["zoe"], "val": ["ann", "bob", "eve"],
                                     "test": ["ann", "bob", "eve"]}  # fmt: skip


def test_files_that_only_end_alike_are_different_people(tmp_path: Path) -> None:
    for i, start in enumerate(b"abc"):
        (tmp_path / f"{i}.jpg").write_bytes(bytes([start]) + bytes(10_000))
    (tmp_path / "3.jpg").write_bytes((tmp_path / "1.jpg").read_bytes())
    found = people(dataset(["ann", "bob", "eve", "zoe"], root=tmp_path))
    assert found.joined == [["bob", "zoe"]]


def test_a_byte_identical_image_on_two_official_sides_is_named_or_dropped(tmp_path: Path) -> None:
    subjects = ["ann", "ann", "bob", "bob", "cleo", "eve", "eve"]
    part = ["train"] * 5 + ["test"] * 2
    data = dataset(subjects, part=part, root=files(tmp_path, [(1, 6)], 7))
    with pytest.raises(DataError, match=r"1\.jpg \(train\) and 6\.jpg \(test\) are byte-identical"):
        split("official", data)
    found = split({"name": "official", "on_leak": "drop"}, data)
    assert found.test.tolist() == [5, 6]
    assert sorted([*found.train.tolist(), *found.val.tolist()]) == [2, 3, 4]
    assert (found.info["dropped_leaks"], found.info["unused"]) == (2, 2)


def test_without_people_each_image_is_its_own(tmp_path: Path) -> None:
    names = [f"{i}.jpg" for i in range(30)]
    data = dataset(names, subjects_known=False, root=files(tmp_path, [(0, 9)], 30))
    found = split("subject_kfold", data)
    assert not found.info["subjects_known"]
    assert "subject_names" not in found.info
    assert found.info["identical_images"] == 2
    side = [side for side in (found.train, found.val, found.test) if 0 in side]
    assert 9 in side[0]


def test_all_tests_everything() -> None:
    found = split("all", dataset(CROWD))
    assert (len(found.train), len(found.val), len(found.test)) == (0, 0, 100)
    assert found.info["sizes"]["test"] == 100


@pytest.mark.parametrize(
    ("protocol", "message"),
    [
        ({"name": "subject_kfold", "fold": 0}, "fold: 0 is out of range"),
        ({"name": "subject_kfold", "folds": 1}, "folds: 1 is fewer than 2"),
        ({"name": "three_fold", "fold": 4}, "4 is out of range; the folds are 1 to 3"),
        ({"name": "subject_kfold", "val_fraction": 0.9}, "0.9 is not in"),
        ({"name": "leave_one_subject_ot"}, "did you mean 'leave_one_subject_out'"),
    ],
)
def test_a_wrong_option_is_named(protocol: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        split(protocol, dataset(CROWD))


def test_too_few_people_are_an_error_that_says_so() -> None:
    with pytest.raises(DataError, match="5 folds need as many people, and there are 3"):
        split("subject_kfold", dataset(["ann", "bob", "eve"]))
    with pytest.raises(DataError, match="1 person is left to train on"):
        split({"name": "subject_kfold", "folds": 2}, dataset(["ann", "ann", "bob"]))


def test_folds_are_alike_in_their_labels() -> None:
    rng = np.random.default_rng(0)
    group, label = rng.integers(0, 60, 900), rng.choice(4, 900, p=(0.6, 0.25, 0.1, 0.05))
    fold = assign_folds(label, group, 5, 0)
    counts = np.array([np.bincount(label[fold == f], minlength=4) for f in range(5)])
    assert (np.ptp(counts, 0) <= (30, 15, 9, 8)).all()
    assert all(len(set(fold[group == g])) == 1 for g in range(60))


@pytest.mark.parametrize("n", [7, 40, MANY + 500])
def test_groups_are_kept_together_and_no_fold_is_empty(n: int) -> None:
    rng = np.random.default_rng(n)
    folds = min(n, 6)
    group = np.concatenate([np.arange(n), rng.integers(0, 3, n // 2)])
    fold = assign_folds(rng.integers(-1, 3, len(group)), group, folds, 1)
    assert set(fold.tolist()) == set(range(folds))
    assert all(len(set(fold[group == g])) == 1 for g in range(3))


def test_strata_fall_back_to_units_and_quadrants() -> None:
    names = {"id": np.arange(3).astype(str), "subject": np.arange(3).astype(str)}
    au = np.array([[1, 1], [1, 0], [0, np.nan]], np.float32)
    assert strata(Samples(**names, au=au)).tolist() == [0, 1, -1]
    va = np.array([[1, -1], [np.nan, np.nan], [1, 1]], np.float32)
    assert strata(Samples(**names, va=va)).tolist() == [1, 0, 3]
    assert strata(Samples(**names)).tolist() == [0, 0, 0]


def test_who_chooses_is_like_those_who_are_trained_on() -> None:
    stratum = np.array([0, 1, 0, 1, 0, 0, 0, 0])
    fold = np.array([1, 1, 2, 2, 0, 0, 0, 0])
    assert most_alike(stratum, fold) == 1


@pytest.mark.parametrize("seed", range(12))
def test_folds_are_those_of_scikit_learn(seed: int) -> None:
    rng = np.random.default_rng(seed)
    group = np.concatenate([np.arange(40), rng.integers(40, size=40 * (seed + 1))])
    label = rng.integers(-1, 1 + seed % 7, size=len(group))
    folds = 2 + seed
    expected = np.empty(len(group), np.int64)
    parts = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for number, (_, rows) in enumerate(parts.split(label, label, group)):
            expected[rows] = number
    assert np.array_equal(assign_folds(label, group, folds, seed), expected)


def test_many_people_are_shared_out_over_a_hundred_parts() -> None:
    group = np.repeat(np.arange(1000), 3)
    fold = assign_folds(group % 7, group, 100, 0)
    assert np.abs(np.bincount(fold) - 30).max() <= 6
    assert (fold.reshape(-1, 3) == fold.reshape(-1, 3)[:, :1]).all()
