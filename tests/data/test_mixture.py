from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from faceaffect.data.base import create_data
from faceaffect.data.mixture import Mixture
from faceaffect.errors import DataError, RecipeError
from faces import write_csv, write_facial_expressions, write_table


@pytest.fixture
def sources(tmp_path: Path) -> list[dict]:
    return [
        {"name": "csv", "table": str(write_csv(tmp_path / "csv", 6, 4, clips=True))},
        {
            "name": "facial_expressions",
            "root": str(write_facial_expressions(tmp_path / "web", 12, 6)),
            "protocol": {"name": "subject_kfold", "folds": 4, "fold": 2},
        },
    ]


def test_labels_are_united_by_name_and_unknown_where_a_source_lacks_them(
    sources: list[dict],
) -> None:
    data = Mixture(sources)
    first, second = data.sources
    assert data.schema.aus == (1, 12)
    assert data.schema.expressions[:3] == ("anger", "happiness", "neutral")
    assert len(data.schema.expressions) == 6
    assert len(data) == 24 + 72
    for source, start in ((first, 0), (second, 24)):
        names = np.array(source.schema.expressions)[source.samples.expression]
        mixed = data.samples.expression[start : start + len(source)]
        assert np.array_equal(names, np.array(data.schema.expressions)[mixed])
    assert np.array_equal(data.samples.au[:24], first.samples.au)
    assert np.isnan(data.samples.au[24:]).all()
    assert np.isnan(data.samples.va[24:]).all()
    assert data.samples.au_intensity is None
    assert set(data.samples.attributes["group"][24:].tolist()) == {-1}
    assert data.samples.id[0] == "csv/p0/0.mp4"
    assert data.samples.subject[24] == "facial_expressions/Person_A-X"
    assert np.array_equal(data.load(25).image, second.load(1).image)
    assert data.path(25) == second.path(1)


def test_each_source_keeps_its_own_split(sources: list[dict]) -> None:
    mixed = create_data("mixture", sources=sources)
    alone = [create_data(**source) for source in sources]
    assert mixed.split.info["name"] == "official"
    for side in ("train", "val", "test"):
        expected = [*getattr(alone[0].split, side).tolist(),
                    *(getattr(alone[1].split, side) + 24).tolist()]  # fmt: skip
        assert getattr(mixed.split, side).tolist() == expected
    assert mixed.dataset.names == ["csv", "facial_expressions"]  # before the ids of each
    notes = mixed.dataset.notes["facial_expressions"]["protocol"]
    assert (notes["name"], notes["fold"], notes["folds"]) == ("subject_kfold", 2, 4)


def test_images_and_clips_are_batched_together(sources: list[dict]) -> None:
    data = create_data("mixture", sources=sources, batch_size=96, image_size=32, protocol="all")
    (batch,) = list(data.test_dataloader())
    assert batch["video"].shape == (96, 8, 3, 32, 32)
    assert sorted(set(batch["frame_mask"].sum(1).tolist())) == [1, 8]


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_sources_are_drawn_by_a_power_of_their_size(sources: list[dict], power: float) -> None:
    data = create_data("mixture", sources=sources, power=power)
    train = data.split.train
    sizes = np.array([(train < 24).sum(), (train >= 24).sum()])
    drawn = np.concatenate([data.train_dataloader().sampler.order(e) for e in range(4)])
    expected = sizes**power / (sizes**power).sum()
    assert np.allclose((drawn < 24).mean(), expected[0], atol=0.02)


def test_one_dataset_twice_gets_numbered_names_and_its_leaks_are_found(
    sources: list[dict], tmp_path: Path
) -> None:
    data = Mixture([sources[1], sources[1] | {"classes": ["anger"]}])
    assert data.samples.id[0].startswith("facial_expressions.1/")
    assert data.samples.id[-1].startswith("facial_expressions.2/")
    other = sources[1] | {"protocol": {"name": "subject_kfold", "folds": 4, "fold": 3}}
    with pytest.raises(DataError, match="byte-identical"):
        create_data("mixture", sources=[sources[1], other])


def test_what_a_source_left_out_is_told(sources: list[dict]) -> None:
    data = Mixture([sources[0], sources[1] | {"classes": ["anger"]}])
    assert data.left_out["facial_expressions: class neutral"] == 12
    assert data.subjects_known


def test_wrong_sources_are_named(sources: list[dict], tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="at least one dataset"):
        create_data("mixture", sources=[])
    with pytest.raises(RecipeError, match="did you mean 'csv'"):
        create_data("mixture", sources=[{"name": "cvs"}])
    with pytest.raises(RecipeError, match=r"data.sources\[0\].tabel: unknown key"):
        create_data("mixture", sources=[{"name": "csv", "tabel": "x"}])
    for option, message in (
        ({"fold": 9}, "subject_kfold.fold: 9 is out of range"),
        ({"selection": "test"}, "cannot choose on its test part"),
    ):
        bad = sources[0] | {"protocol": {"name": "subject_kfold", **option}}
        with pytest.raises(RecipeError, match=message):
            create_data("mixture", sources=[bad])
    unknown = write_table(tmp_path / "csv" / "x.csv", [{"image": "p0/1.jpg", "AU1": 1}])
    data = Mixture([sources[0], {"name": "csv", "table": str(unknown), "protocol": "all"}])
    assert not data.subjects_known


def test_synonyms_of_two_sources_are_one_class(tmp_path: Path) -> None:
    words = {"one": ("Neutral", "Happy", "surprised"), "two": ("neutral", "joy", "Surprise")}
    sources: list[dict] = []
    for name, spelt in words.items():
        table = write_csv(tmp_path / name)
        rows = pd.read_csv(table)
        names = dict(zip(("neutral", "happiness", "anger"), spelt, strict=True))
        rows["expression"] = rows["expression"].map(names)
        rows.to_csv(table, index=False)
        sources.append({"name": "csv", "table": str(table)})
    data = Mixture(sources)
    assert data.schema.expressions == ("happiness", "neutral", "surprise")
    assert data.notes["csv.1"]["expressions renamed"]["Happy"] == "happiness"
    with pytest.raises(DataError, match="are one expression under two names"):
        Mixture([sources[0], sources[1] | {"synonyms": False}])
