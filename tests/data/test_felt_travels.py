"""Feelings and eyes through a mixture and through shards."""

from pathlib import Path

import numpy as np
import pytest

from faceaffect.cli import main
from faceaffect.data.base import create_data
from faceaffect.errors import DataError
from faces import face, write_image

WORLD = {"name": "synthetic", "n": 20, "subjects": 10, "image_size": 32, "aus": []}


def test_a_mixture_knows_the_feelings_of_one_source() -> None:
    sources = [
        {**WORLD, "seed": 1, "deceive": 0.5, "expressions": ["anger", "sadness"]},
        {**WORLD, "seed": 2},
        {**WORLD, "seed": 3, "deceive": 0.5, "expressions": ["sadness", "fear"]},
    ]
    data = create_data("mixture", sources=sources, batch_size=4, num_workers=0)
    samples, parts = data.dataset.samples, data.dataset.sources
    assert data.schema.felt == ("anger", "sadness", "fear")
    assert (samples.felt[20:40] == -1).all()
    assert np.isnan(samples.eyes[20:40]).all()
    assert np.isnan(samples.intensity[20:40]).all()
    for first, source in ((0, parts[0]), (40, parts[2])):
        own = [source.schema.felt[i] for i in source.samples.felt]
        assert [data.schema.felt[i] for i in samples.felt[first : first + 20]] == own
        np.testing.assert_array_equal(samples.eyes[first : first + 20], source.samples.eyes)
    assert samples.attributes["face"][20:40].tolist() == [-1] * 20


def test_two_trackers_are_no_mixture(monkeypatch: pytest.MonkeyPatch) -> None:
    from faceaffect.data import mixture

    built = mixture._build

    def other(node: dict, where: str) -> object:
        dataset, split = built(node, where)
        if where.endswith("[1]"):
            dataset.samples.eyes = dataset.samples.eyes[..., :3]
        return dataset, split

    monkeypatch.setattr(mixture, "_build", other)
    sources = [{**WORLD, "seed": seed, "deceive": 0.5} for seed in (1, 2)]
    with pytest.raises(DataError, match=r"eyes of one source have 3 .* another 4"):
        create_data("mixture", sources=sources)


def test_a_table_of_ones_own_may_say_what_is_felt(tmp_path: Path) -> None:
    rows = ["image,subject,expression,felt"]
    for i in range(6):
        write_image(tmp_path / f"{i}.png", face(i, size=(24, 24)))
        felt = ("Sad", "happy", "")[i % 3]
        rows.append(f"{i}.png,p{i},joy,{felt}")
    rows.append("5.png,p5,joy,sad")  # in conflict with the row before in nothing but this
    (tmp_path / "faces.csv").write_text("\n".join(rows))
    dataset = create_data("csv", table=str(tmp_path / "faces.csv")).dataset
    assert dataset.schema.felt == ("happiness", "sadness")
    assert dataset.samples.felt.tolist() == [1, 0, -1, 1, 0]
    assert dataset.left_out == {"conflicting labels": 1}


def test_shards_bring_it_back(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    words = ["data.n=12", "data.subjects=6", "data.image_size=32", "data.cache=null",
             "data.protocol.folds=3", "data.num_workers=0"]  # fmt: skip
    assert main(["shard", "mini_emert", str(tmp_path / "out"), *words]) == 0
    back = create_data("shards", root=str(tmp_path / "out"), num_workers=0).dataset
    drawn = create_data(
        "synthetic", n=12, subjects=6, seed=0, image_size=32, clips=3, aus=[], deceive=0.5,
        rates="uniform", expressions=["neutral", "happiness", "sadness", "anger"],
        valence_arousal=False,
    ).dataset  # fmt: skip
    assert back.schema == drawn.schema
    for name in ("felt", "eyes", "fixations", "intensity", "expression"):
        np.testing.assert_array_equal(getattr(back.samples, name), getattr(drawn.samples, name))
