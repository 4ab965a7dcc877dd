"""One dataset of a mixture left out, and what the others cannot teach."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from faceaffect.data.base import FaceDataModule, create_data
from faceaffect.errors import DataError, RecipeError
from faces import write_csv


def mixture(tmp_path: Path, **protocol: object) -> FaceDataModule:
    """Return three tables as one: the second has no AU1 and no valence, the third also contempt."""
    for seed, name in enumerate("abc"):
        frame = pd.read_csv(write_csv(tmp_path / name, people=4 + seed, each=3))
        if name != "a":
            frame = frame.drop(columns=["AU1", "valence", "arousal"])
        if name == "c":
            frame.loc[frame["expression"] == "anger", "expression"] = "contempt"
        frame.to_csv(tmp_path / name / "faces.csv", index=False)
        for file in (tmp_path / name).rglob("*.jpg"):  # else the files of all three are the same
            file.write_bytes(file.read_bytes() + name.encode())
    sources = [
        {"name": "csv", "table": str(tmp_path / name / "faces.csv"), "protocol": "all"}
        for name in "abc"
    ]
    return create_data("mixture", sources=sources, protocol={"name": "lodo", **protocol})


def test_each_dataset_is_tested_whole_and_the_others_train(tmp_path: Path) -> None:
    tested = []
    for fold, name in enumerate(("csv.1", "csv.2", "csv.3"), 1):
        data = mixture(tmp_path, fold=fold)
        samples, split = data.dataset.samples, data.split
        assert {i.partition("/")[0] for i in samples.id[split.test].tolist()} == {name}
        others = np.concatenate([split.train, split.val])
        assert len(others) + len(split.test) == len(samples)
        assert not {*samples.subject[split.train]} & {*samples.subject[split.val]}
        assert (split.info["fold"], split.info["folds"], split.info["tested"]) == (fold, 3, name)
        tested += split.test.tolist()
    assert sorted(tested) == list(range(len(samples)))
    assert data.protocol.fold_count(data.dataset) == 3


def test_what_no_other_dataset_labels_is_not_scored_and_named(tmp_path: Path) -> None:
    data = mixture(tmp_path, fold=1)
    samples, split = data.dataset.samples, data.split
    assert split.info["not_taught"] == ["AU1", "valence and arousal"]
    assert samples.au is not None
    assert samples.va is not None
    assert np.isnan(samples.au[split.test, 0]).all()
    assert not np.isnan(samples.au[split.test, 1]).any()
    assert np.isnan(samples.va).all()
    data = mixture(tmp_path, fold=3)
    samples, split = data.dataset.samples, data.split
    assert split.info["not_taught"] == ["contempt"]
    assert samples.expression is not None
    count = np.bincount(samples.expression[split.test] + 1)
    assert count[0] == 6  # contempt, now unknown
    assert count[1:].sum() == 12
    assert mixture(tmp_path, fold=2).split.info["not_taught"] == []


def test_an_image_in_two_datasets_is_refused_or_dropped(tmp_path: Path) -> None:
    mixture(tmp_path)
    same = (tmp_path / "a" / "p0" / "0.jpg").read_bytes()
    (tmp_path / "b" / "p1" / "1.jpg").write_bytes(same)
    sources = [{"name": "csv", "table": str(tmp_path / n / "faces.csv"), "protocol": "all"}
               for n in "ab"]  # fmt: skip
    with pytest.raises(DataError, match=r"byte-identical.*\{name: lodo, on_leak: drop\}"):
        create_data("mixture", sources=sources, protocol="lodo")
    data = create_data("mixture", sources=sources, protocol={"name": "lodo", "on_leak": "drop"})
    assert data.split.info["dropped_leaks"] == data.split.info["unused"] == 3
    assert data.split.info["sizes"]["test"] == 12


def test_one_dataset_cannot_be_left_out(tmp_path: Path) -> None:
    table = write_csv(tmp_path / "faces", people=4, each=2)
    with pytest.raises(DataError, match=r"lodo: needs data\.name=mixture"):
        create_data("csv", table=str(table), protocol="lodo")
    with pytest.raises(RecipeError, match="fold: 4 is out of range; the folds are 1 to 3"):
        mixture(tmp_path, fold=4)


def test_sources_without_a_training_part_are_drawn_by_their_size(tmp_path: Path) -> None:
    data = mixture(tmp_path)
    weights = data.dataset.weights
    assert weights is not None
    assert [weights[:12].sum(), weights[12:27].sum()] == pytest.approx([12**0.5, 15**0.5])
