import json
import pickle
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from faceaffect.cli import main
from faceaffect.data import sharding
from faceaffect.data.base import FaceDataModule, create_data
from faceaffect.data.dataset import FaceDataset
from faceaffect.errors import DataError
from faces import face, write_image

datasets = pytest.importorskip("datasets")
N = 24


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of eight people with all kinds of labels, gaps, an equal pair and a damaged file."""
    folder = tmp_path_factory.mktemp("faces")
    rng = np.random.default_rng(0)
    rows = []
    for i in range(N):
        write_image(folder / f"{i}.jpg", face(i, size=(24, 24)))
        rows.append(
            {
                "image": f"{i}.jpg",
                "subject": f"p{i % 8}",
                "AU1": "" if i == 3 else i % 2,
                "AU12": int(rng.integers(2)),
                "expression": "" if i == 5 else ("happiness", "anger")[i % 3 % 2],
                "valence": "" if i == 7 else round(float(rng.uniform(-1, 1)), 3),
                "arousal": 0.1,
                "attribute/light": ("dark", "bright")[i % 2],
            }
        )
    (folder / "9.jpg").write_bytes((folder / "0.jpg").read_bytes())
    (folder / "11.jpg").write_bytes((folder / "11.jpg").read_bytes()[:200])
    pd.DataFrame(rows).to_csv(folder / "faces.csv", index=False)
    return folder / "faces.csv"


@pytest.fixture(scope="module")
def shards(table: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shards") / "out"
    words = [f"data.table={table}", "data.num_workers=0"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sharding, "_BATCH", 5)  # several pieces to a file
        assert main(["shard", "csv_faces", str(folder), *words]) == 0
    return folder


def opened(folder: Path | str, **args: object) -> FaceDataModule:
    return create_data("shards", root=str(folder), image_size=16, num_workers=0, **args)


def equal(one: FaceDataset, other: FaceDataset) -> None:
    for name, column in vars(one.samples).items():
        if name != "attributes":
            np.testing.assert_array_equal(column, getattr(other.samples, name))
            assert column is None or column.dtype.kind == getattr(other.samples, name).dtype.kind
    for name, column in one.samples.attributes.items():
        np.testing.assert_array_equal(column, other.samples.attributes[name])
    assert one.schema == other.schema
    assert one.attribute_names == other.attribute_names
    for index in range(len(one)):
        try:
            first = one.load(index)
        except DataError:
            with pytest.raises(DataError, match=r"11\.jpg: not readable"):
                other.load(index)
            continue
        second = other.load(index)
        for name in ("image", "landmarks", "pose"):
            np.testing.assert_array_equal(getattr(first, name), getattr(second, name))


def test_shards_hold_what_the_files_held(table: Path, shards: Path) -> None:
    plain = create_data("csv", table=str(table), image_size=16, num_workers=0)
    sharded = opened(shards)
    equal(plain.dataset, sharded.dataset)
    assert plain.split.info == sharded.split.info
    assert sharded.split.info["identical_images"] == 2
    (picture,), *_ = sharded.dataset.mapped.row(0)
    assert bytes(picture) == (table.parent / "0.jpg").read_bytes()
    equal(plain.dataset, pickle.loads(pickle.dumps(sharded.dataset)))  # as to spawned processes
    assert len(pickle.dumps(sharded.dataset.mapped)) < 2**16


def test_clips_without_files_keep_pixels_and_geometry(tmp_path: Path) -> None:
    recipe = tmp_path / "drawn.yaml"
    recipe.write_text(
        "model: {name: timm_classifier, backbone: test_vit}\n"
        "data: {name: synthetic, n: 6, subjects: 3, image_size: 32, clips: 2, protocol: all, "
        f"num_workers: 0, cache: {tmp_path / 'cache'}}}\n"
    )
    assert main(["shard", str(recipe), str(tmp_path / "out")]) == 0
    drawn = create_data(
        "synthetic", n=6, subjects=3, image_size=32, clips=2, cache=None, protocol="all"
    )
    sharded = opened(tmp_path / "out", protocol="all").dataset
    assert sharded.load(0).image.ndim == 4
    assert sharded.load(0).landmarks is not None
    equal(drawn.dataset, sharded)


def test_a_run_from_shards_ends_with_the_same_answers(
    table: Path, shards: Path, tmp_path: Path
) -> None:
    said = []
    for name, place in (("csv", f"table={table}"), ("shards", f"root={shards}")):
        recipe = tmp_path / f"{name}.yaml"
        recipe.write_text(
            "model: {name: timm_classifier, backbone: test_vit}\n"
            f"data: {{name: {name}, image_size: 32, batch_size: 4, num_workers: 0, "
            "augment: [light], protocol: {name: subject_kfold, folds: 4}}\n"
            "trainer: {max_epochs: 1, accelerator: cpu}\n"
        )
        assert main(["train", str(recipe), f"data.{place}", f"output={tmp_path}"]) == 0
        (run,) = (tmp_path / name).iterdir()
        said.append((run / "predictions.csv").read_bytes())
    assert said[0] == said[1]


def test_a_flipped_bit_is_found(shards: Path, tmp_path: Path) -> None:
    """Whichever bit it is: nothing is read that was not written."""
    whole = (shards / "00000.arrow").read_bytes()
    (tmp_path / "shards.json").write_bytes((shards / "shards.json").read_bytes())
    good, rng, found = opened(shards).dataset, np.random.default_rng(0), []
    for place in rng.integers(len(whole), size=40).tolist():
        damaged = bytearray(whole)
        damaged[place] ^= 1 << int(rng.integers(8))
        (tmp_path / "00000.arrow").write_bytes(damaged)
        try:
            equal(good, opened(tmp_path, protocol="all").dataset)  # a bit that means nothing
        except DataError as error:
            found.append(str(error))
    assert len(found) > 20
    assert all("damaged" in message for message in found)


def test_a_flipped_bit_beside_the_pictures_is_found(shards: Path, tmp_path: Path) -> None:
    """Whether a sample is a clip, and what tells equal pictures, are in no picture's hash."""
    whole = (shards / "00000.arrow").read_bytes()
    (tmp_path / "shards.json").write_bytes((shards / "shards.json").read_bytes())
    data = datasets.Dataset.from_file(str(shards / "00000.arrow")).data
    texts = data.column("content").chunk(0).buffers()[2]
    clip = data.column("clip").chunk(0).buffers()[1]
    place = whole.index(bytes(texts))
    for at in (place + 3, place + clip.address - texts.address):
        damaged = bytearray(whole)
        damaged[at] ^= 1
        (tmp_path / "00000.arrow").write_bytes(damaged)
        with pytest.raises(DataError, match="damaged"):
            opened(tmp_path)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda f: (f / "00000.arrow").write_bytes(b"x" * 99), "cut off or changed: 99 bytes"),
        (lambda f: (f / "00000.arrow").unlink(), "is missing"),
        (lambda f: (f / "shards.json").unlink(), "holds no shards.json"),
        (lambda f: (f / "shards.json").write_text("{"), "damaged"),
        (
            lambda f: (f / "shards.json").write_text(
                (f / "shards.json").read_text().replace("happiness", "sadness")
            ),
            "damaged or changed by hand",
        ),
    ],
)
def test_what_is_not_whole_is_refused(shards: Path, tmp_path: Path, damage, words: str) -> None:  # noqa: ANN001
    for file in shards.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    damage(tmp_path)
    with pytest.raises(DataError, match=words):
        opened(tmp_path)


def test_shards_of_a_store_are_fetched_once(shards: Path, tmp_path: Path) -> None:
    import fsspec

    store = fsspec.filesystem("memory")
    store.put(str(shards), "/bucket/faces", recursive=True)
    data = opened("memory://bucket/faces", cache=str(tmp_path))
    equal(opened(shards).dataset, data.dataset)
    store.rm("/bucket/faces/00000.arrow")
    equal(data.dataset, opened("memory://bucket/faces", cache=str(tmp_path)).dataset)


def test_a_store_that_cannot_be_reached_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"memory://nowhere cannot be read"):
        opened("memory://nowhere", cache=str(tmp_path))


def test_a_folder_that_is_in_use_is_left_alone(
    table: Path, shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    for folder in (shards, tmp_path):
        assert main(["shard", "csv_faces", str(folder), f"data.table={table}"]) == 2
    said = capsys.readouterr().err
    assert "holds shards already" in said
    assert "is not empty (such as thesis.tex)" in said


def test_webdataset_reads_the_export(table: Path, tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    words = [f"data.table={table}", "data.num_workers=0", "--webdataset"]
    assert main(["shard", "csv_faces", str(tmp_path / "tars"), *words]) == 0
    samples = list(webdataset.WebDataset(str(tmp_path / "tars/00000.tar"), shardshuffle=False))
    assert len(samples) == N - 1  # one file is damaged
    assert samples[0]["jpg"] == (table.parent / "0.jpg").read_bytes()
    assert json.loads(samples[0]["json"])["subject"] == "p0"


def test_views_of_an_instance_stay_together_in_shards(tmp_path: Path) -> None:
    world = {"n": 18, "subjects": 3, "image_size": 32, "yaws": [-20, 0, 20], "protocol": "all"}
    recipe = tmp_path / "drawn.yaml"
    section = ", ".join(f"{key}: {value}" for key, value in world.items())
    recipe.write_text(
        "model: {name: timm_classifier, backbone: test_vit}\n"
        f"data: {{name: synthetic, {section}, num_workers: 0}}\n"
    )
    assert main(["shard", str(recipe), str(tmp_path / "out")]) == 0
    drawn = create_data("synthetic", **world).dataset
    assert drawn.samples.instance is not None
    equal(drawn, opened(tmp_path / "out", protocol="all").dataset)
