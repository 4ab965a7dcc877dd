"""Readers of pictures that crop faces themselves, and what a model remembers of it."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from faceaffect.cli import main
from faceaffect.data import base
from faceaffect.data.base import FaceDataModule, create_data
from faceaffect.data.csv import CsvFaces
from faceaffect.data.facial_expressions import FacialExpressions
from faceaffect.errors import DataError, RecipeError
from faceaffect.models.loading import load_model, read_checkpoint
from faceaffect.prediction.predictor import Predictor
from faceaffect.recipe import resolve
from faceaffect.registry import TABLES
from faceaffect.runs.train import train
from faces import write_image, write_table
from finders import Bright
from predicting import scene, write_film, write_scene


@pytest.fixture(autouse=True)
def bright(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TABLES["finders"], "bright", "finders:Bright")
    monkeypatch.setattr(base, "Mtcnn", Bright)


def write_scenes(folder: Path, people: int = 6) -> Path:
    """Write photos with one face somewhere in each, and the table of their labels."""
    rows = []
    rng = np.random.default_rng(0)
    for person in range(people):
        for shot in range(3):
            x, y, side = rng.integers(4, 60), rng.integers(4, 40), rng.integers(24, 44)
            name = f"p{person}_{shot}.png"
            write_scene(folder / name, (int(x), int(y), int(side)))
            rows.append({"image": name, "subject": person, "AU1": shot % 2, "AU12": person % 2})
    return write_table(folder / "faces.csv", rows)


def test_pictures_are_cropped_once_and_counted(tmp_path: Path) -> None:
    table = write_scenes(tmp_path, people=2)
    write_scene(tmp_path / "p0_1.png")  # nobody
    (tmp_path / "p1_0.png").write_bytes(b"broken")
    crop = {"kind": "tight", "size": 40, "margin": 0.0}
    data = CsvFaces(str(table), align="auto", finder="bright", crop=crop)
    data.prepare()
    assert data.notes["crops"] == {"finder": 4, "failed": 1, "missing": 1}
    assert data.notes["crop"]["kind"] == "tight"
    assert data.crop.size == 40
    assert data.load(0).image.shape == (40, 40, 3)
    assert np.percentile(data.load(0).image, 2) > 190  # the face and nothing else
    with pytest.raises(DataError, match="no face was found"):
        data.load(1)
    files = sorted((tmp_path / "faceaffect_crops").rglob("*.jpg"))
    assert len(files) == 4
    (tmp_path / "p0_0.png").unlink()
    (tmp_path / "p0_0.png").touch()
    data.prepare()  # nothing is read again
    assert data.load(0).image.shape == (40, 40, 3)
    whole = CsvFaces(str(table))
    assert whole.crop is None
    assert whole.load(2).image.shape == (96, 128, 3)
    assert "crop" not in whole.notes


def test_each_frame_of_a_clip_is_cropped(tmp_path: Path) -> None:
    frames = [scene((4 + n, 10, 30)) for n in range(12)]
    frames[5] = scene()  # turned away
    write_film(tmp_path / "a.mp4", frames)
    write_film(tmp_path / "b.mp4", [scene()] * 4)
    write_scene(tmp_path / "c.png", (9, 9, 40))
    table = write_table(
        tmp_path / "t.csv", [{"video": name, "AU1": 1} for name in ("a.mp4", "b.mp4", "c.png")]
    )
    data = CsvFaces(str(table), align="auto", finder="bright", crop={"size": 32}, frames=12)
    data.prepare()
    assert data.notes["crops"] == {"finder": 2, "failed": 1, "missing": 0}
    assert data.load(0).image.shape == (11, 32, 32, 3)
    assert data.load(2).image.shape == (32, 32, 3)
    with pytest.raises(DataError, match="none of its 4 frames shows a face"):
        data.load(1)


def test_every_reader_of_pictures_crops(tmp_path: Path) -> None:
    for number in range(3):
        write_scene(tmp_path / "images" / f"Ann_{number}.png", (20, 20, 40))
    rows = [{"user.id": 1, "image": f"Ann_{n}.png", "emotion": "anger"} for n in range(3)]
    (tmp_path / "data").mkdir()
    write_table(tmp_path / "data" / "legend.csv", rows)
    data = FacialExpressions(str(tmp_path), align="auto", finder="bright", crop={"size": 48})
    assert data.load(0).image.shape == (48, 48, 3)
    with pytest.raises(RecipeError, match="this data has none"):
        FacialExpressions(str(tmp_path), align="landmarks")
    with pytest.raises(RecipeError, match=r"data\.crop\.marign.*margin"):
        create_data("facial_expressions", root=str(tmp_path), crop={"marign": 1})
    with pytest.raises(RecipeError, match="mtcnn"):
        create_data("facial_expressions", root=str(tmp_path), finder="mtcn")


def test_a_datamodule_says_how_faces_are_cropped(tmp_path: Path) -> None:
    table = write_scenes(tmp_path)
    args = {"protocol": {"name": "subject_kfold", "folds": 2, "fold": 1}, "image_size": 32}
    aligned = CsvFaces(str(table), align="auto", finder="bright", crop={"size": 40})
    assert FaceDataModule(aligned, **args).crop() == aligned.crop
    raw = FaceDataModule(CsvFaces(str(table)), **args)
    assert raw.crop().kind == "none"
    assert raw.seen.uncropped == raw.seen.pictures > 3
    nobody = tmp_path / "nobody"
    for person in range(4):
        image = scene()
        image[0, 0] = person  # identical pictures would be one person's
        write_image(nobody / f"{person}.png", image)
    rows = [{"image": f"{p}.png", "subject": p, "AU1": p % 2} for p in range(4)]
    empty = FaceDataModule(CsvFaces(str(write_table(nobody / "t.csv", rows))), **args)
    assert empty.crop() is None


def sections(table: Path, folder: Path, **data: object) -> dict:
    protocol = {"name": "subject_kfold", "folds": 2, "fold": 1, "val_fraction": 0.4}
    common = {"image_size": 32, "batch_size": 4, "num_workers": 0, "protocol": protocol}
    return {
        "model": {"name": "timm_classifier", "backbone": "test_vit"},
        "data": {"name": "csv", "table": str(table), **common, **data},
        "trainer": {"max_epochs": 1, "accelerator": "cpu"},
        "output": str(folder),
    }


def test_prediction_repeats_the_test_from_whole_photos(tmp_path: Path) -> None:
    table = write_scenes(tmp_path / "in")
    crop = {"kind": "landmarks", "size": 64, "eye_span": 0.45}
    own = sections(table, tmp_path / "runs", align="auto", finder="bright", crop=crop)
    run = train(resolve("tiny", own, []))
    stored = read_checkpoint(run)["faceaffect"]
    assert stored["crop"]["eye_span"] == 0.45
    assert stored["image_size"] == 32
    tested = pd.read_csv(run / "predictions.csv")
    photos = [tmp_path / "in" / name for name in tested["id"]]
    predicted = Predictor(run, finder="bright").predict(photos)
    for name in ("AU1", "AU12"):
        np.testing.assert_allclose(predicted[name], tested[f"prob/{name}"], atol=0.01)  # JPEG


def test_raw_scenes_are_not_squeezed_in_silence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = write_scenes(tmp_path / "in")
    own = sections(table, tmp_path / "runs")
    run = train(resolve("tiny", own, []))
    assert "pictures look uncropped" in capsys.readouterr().out
    words = ["check", "csv_faces", f"data.table={table}", "data.image_size=32"]
    words += ["data.num_workers=0", "model.backbone=test_vit"]
    assert main(words) == 0
    assert re.search(r"(\d+) of \1 pictures look uncropped", capsys.readouterr().out)
    # A checkpoint of an older version does not tell; the recipe still says the size.
    checkpoint = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)
    del checkpoint["faceaffect"]["crop"], checkpoint["faceaffect"]["image_size"]
    torch.save(checkpoint, tmp_path / "old.ckpt")
    old = load_model(tmp_path / "old.ckpt")
    assert (old.crop, old.image_size) == (None, 32)
    assert "not known" in Predictor(tmp_path / "old.ckpt").expects()
