import json
import multiprocessing
import os
import signal
import time
from pathlib import Path
from typing import Any, ClassVar

import av
import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import Tensor

from faceaffect.cli import main
from faceaffect.data.batch import FaceBatch
from faceaffect.data.faces.crop import Crop, cut
from faceaffect.data.image import read_image, resize
from faceaffect.errors import CheckpointError, DataError, RecipeError
from faceaffect.models.loading import load_model
from faceaffect.prediction import reading
from faceaffect.prediction import run as running
from faceaffect.prediction.inputs import find_inputs
from faceaffect.prediction.predictor import Predictor
from faceaffect.prediction.reading import Ended, Shot, read_inputs
from faceaffect.registry import TABLES
from finders import Bright
from predicting import (
    ANSWERS,
    SCHEMA,
    Corners,
    Speaking,
    model,
    scene,
    write_film,
    write_model,
    write_scene,
)


@pytest.fixture(autouse=True)
def bright(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TABLES["finders"], "bright", "finders:Bright")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "best.ckpt")


def predict(checkpoint: Path, *words: Any, out: Path) -> int:
    return main(["predict", str(checkpoint), *map(str, words), "--out", str(out), "--finder",
                 "bright", "--device", "cpu"])  # fmt: skip


def moving(count: int, cut_at: int | None = None) -> list[np.ndarray]:
    """Two squares that move towards each other; after a cut, one in another picture."""
    frames = []
    for n in range(count):
        if cut_at is not None and n >= cut_at:
            frames.append(190 - scene().clip(0, 100))
            frames[-1][30:54, 40:64] = scene((40, 30, 24))[30:54, 40:64]
        else:
            frames.append(scene((4 + n, 10, 24), (90 - n, 50, 30)))
    return frames


# The table.


def test_a_folder_gives_a_row_a_face_and_counts_what_is_wrong(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "in"
    write_scene(folder / "a.png", (10, 10, 30), (60, 20, 40))
    write_scene(folder / "deep" / "none.png")
    write_scene(folder / "b.jpg", (30, 30, 50))
    (folder / "broken.jpg").write_bytes((folder / "b.jpg").read_bytes()[:300])
    (folder / "empty.png").touch()
    (folder / "notes.txt").write_text("no picture")
    (folder / ".hidden.png").touch()
    out = tmp_path / "out.csv"
    assert predict(checkpoint, folder, out=out) == 1
    table = pd.read_csv(out)
    assert list(table) == ["input", "frame", "time", "face", "track", "x", "y", "w", "h", "score",
                           *ANSWERS]  # fmt: skip
    names = [Path(name).name for name in table["input"]]
    assert names == ["a.png", "a.png", "b.jpg", "none.png"]
    assert table["face"].tolist()[:3] == [1, 2, 1]  # the largest first
    assert table.loc[0, ["x", "y", "w", "h"]].tolist() == [60, 20, 40, 40]
    assert table.loc[3, ["face", "x", "AU12"]].isna().all()  # nobody: a row without a face
    probabilities = table[["neutral", "happiness"]].sum(axis=1)[:3]
    np.testing.assert_allclose(probabilities, 1, atol=2e-5)
    bad = pd.read_csv(tmp_path / "out.unreadable.csv")
    assert [Path(name).name for name in bad["input"]] == ["broken.jpg", "empty.png"]
    said = capsys.readouterr().out
    assert "2 inputs could not be read" in said
    assert "3 faces in 3 pictures" in said
    assert not list(tmp_path.glob("*.part*"))


def test_answers_are_those_of_the_model_about_the_crop(checkpoint: Path, tmp_path: Path) -> None:
    path = write_scene(tmp_path / "a.png", (60, 20, 40), (10, 10, 30))
    table = Predictor(checkpoint, finder=Bright()).predict(path)
    image = read_image(path)
    crops = [
        resize(cut(image, face, Crop("tight", 40, margin=0.0))[0], 32)
        for face in Bright().find([image])[0]
    ]
    batch = torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2)
    with torch.no_grad():
        answers = load_model(checkpoint).predict(FaceBatch(image=batch, id=["", ""]))
    expected = torch.cat([answers[task] for task in SCHEMA.tasks], 1)
    np.testing.assert_allclose(table[ANSWERS].to_numpy(float), expected, atol=1e-6)


def test_a_photo_with_the_trained_crop_equals_the_crop_itself(tmp_path: Path) -> None:
    settings = Crop("landmarks", 40, eye_span=0.5, eye_line=0.4)
    photo = cv2.GaussianBlur(scene((70, 30, 50), size=(160, 220)), (0, 0), 0.8)
    whole = Predictor(model(settings), finder=Bright())
    face = Bright().find([photo])[0][0]
    crop, _ = cut(photo, face, settings)
    ready = Predictor(model(settings), finder=Bright(), crop="none")
    expected = ready.predict(crop)[ANSWERS].to_numpy(float)
    np.testing.assert_allclose(whole.predict(photo)[ANSWERS].to_numpy(float), expected, atol=1e-6)
    other = Predictor(model(settings), finder=Bright(), crop="tight").predict(photo)
    assert np.abs(other[ANSWERS].to_numpy(float) - expected).max() > 1e-4


def test_a_model_of_ready_crops_cuts_likewise_and_says_so(tmp_path: Path) -> None:
    measured = Crop("none", 32, eye_span=0.55, eye_line=0.41)
    predictor = Predictor(write_model(tmp_path / "a.ckpt", measured), finder=Bright())
    assert predictor.crop == Crop("landmarks", 32, eye_span=0.55, eye_line=0.41)
    assert "trained on ready crops" in predictor.expects()
    assert "55 %" in predictor.expects()
    unknown = model()
    unknown.crop = None
    assert "not known" in Predictor(unknown).expects()
    assert "cropped already" in Predictor(unknown, crop="none").expects()
    assert "as those it was trained on" in Predictor(model()).expects()


def test_a_model_of_clips_says_what_a_frame_is_to_it(tmp_path: Path) -> None:
    class Clips(Corners):
        clips = True
        frames: ClassVar[list[int]] = []

        def predict(self, batch: FaceBatch) -> dict[str, Tensor]:
            self.frames.append(batch["video"].shape[1])
            return super().predict(FaceBatch(image=batch["video"][:, 0], id=batch["id"]))

    predictor = Predictor(model(kind=Clips), finder=Bright())
    assert "each frame of a video is to it a clip of one frame" in predictor.expects()
    table = predictor.predict(write_film(tmp_path / "film.mp4", moving(4)))
    assert table["AU12"].notna().all()
    assert set(Clips.frames) == {1}
    assert "clip" not in Predictor(model()).expects()


def test_a_model_that_looks_at_more_than_pictures_says_so() -> None:
    class Eyes(Corners):
        signals = ("eyes",)

    assert "learned to look at eyes too" in Predictor(model(kind=Eyes)).expects()
    assert "eyes too" not in Predictor(model()).expects()


def test_what_python_takes(checkpoint: Path, tmp_path: Path) -> None:
    predictor = Predictor(checkpoint, finder=Bright(), faces="largest")
    image = scene((10, 10, 30), (60, 20, 40))
    path = write_scene(tmp_path / "a.png", (10, 10, 30), (60, 20, 40))
    table = predictor.predict([path, image, Image.fromarray(image), image[..., 0]])
    assert table["input"].tolist() == [str(path), "1", "2", "3"]
    assert len(table) == 4  # the largest face of each
    np.testing.assert_allclose(table[ANSWERS][1:3], table[ANSWERS][:2], atol=1e-6)
    assert predictor.predict([]).empty
    assert list(predictor.predict([])) == predictor.columns
    for wrong in (np.zeros((4, 4, 3)), np.zeros((3, 40, 40), np.uint8), np.zeros((0, 5, 3), "u1")):
        with pytest.raises(DataError, match="no picture"):
            predictor.predict(wrong)
    (tmp_path / "bad.png").write_bytes(b"bad")
    with pytest.raises(DataError, match=r"bad\.png"):
        predictor.predict(tmp_path / "bad.png")
    mixed = predictor.predict([tmp_path / "bad.png", path])
    assert len(mixed) == 1
    assert list(mixed.attrs["unreadable"]) == [str(tmp_path / "bad.png")]


def test_wrong_arguments_are_named(checkpoint: Path) -> None:
    for wrong, what in (({"batch_size": 0}, "batch_size"), ({"smooth": -1.0}, "smooth"),
                        ({"faces": "some"}, "faces"), ({"finder": "mtcn"}, "mtcnn"),
                        ({"finder": {"name": "mtcnn", "min_fac": 1}}, "min_face"),
                        ({"device": "cuda:99"}, "device")):  # fmt: skip
        with pytest.raises(RecipeError, match=what):
            Predictor(checkpoint, **wrong)
    with pytest.raises(CheckpointError, match="no checkpoint"):
        Predictor("nowhere.ckpt")


def test_forms_of_the_table(checkpoint: Path, tmp_path: Path) -> None:
    write_scene(tmp_path / "in" / 'ö "a", b.png', (10, 10, 30), (60, 20, 40))
    write_scene(tmp_path / "in" / "none.png")
    for form in ("csv", "jsonl"):
        assert predict(checkpoint, tmp_path / "in", out=tmp_path / f"t.{form}") == 0
    table = pd.read_csv(tmp_path / "t.csv")
    lines = [json.loads(line) for line in (tmp_path / "t.jsonl").read_text("utf-8").splitlines()]
    assert [line["input"] for line in lines] == table["input"].tolist()
    assert lines[1]["AU12"] == table["AU12"][1]
    assert lines[0].keys() == {"input"}  # nobody
    pytest.importorskip("pyarrow")
    assert predict(checkpoint, tmp_path / "in", out=tmp_path / "t.parquet") == 0
    parquet = pd.read_parquet(tmp_path / "t.parquet")
    assert parquet["face"].tolist()[1:] == [1, 2]
    pd.testing.assert_frame_equal(parquet, table, check_dtype=False)


def test_a_model_that_speaks_writes_lines_of_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(TABLES["models"], "speaking", "predicting:Speaking")
    write_scene(tmp_path / "a.png", (10, 10, 30), (60, 20, 40))
    monkeypatch.chdir(tmp_path)
    path = write_model(tmp_path / "m.ckpt", kind=Speaking)
    assert main(["predict", str(path), "a.png", "--finder", "bright", "--device", "cpu"]) == 0
    lines = [json.loads(line) for line in Path("predictions.jsonl").read_text().splitlines()]
    assert [line["text"][-8:] for line in lines] == ["7 bright", "5 bright"]
    assert all(set(ANSWERS) < set(line) for line in lines)


def test_wrong_words_on_the_command_line(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    picture = write_scene(tmp_path / "a.png", (10, 10, 30))
    (tmp_path / "there.csv").write_text("mine")
    (tmp_path / "no_paths.csv").write_text("a,b\n1,2\n")
    for words, out, message in (
        ([tmp_path / "nowhere.png"], "o.csv", "no such picture"),
        ([tmp_path / "empty"], "o.csv", "no picture or video in this folder"),
        ([tmp_path / "*.tif"], "o.csv", "no file fits"),
        ([tmp_path / "no_paths.csv"], "o.csv", "no column of paths"),
        (["camera:front"], "o.csv", "camera has a number"),
        ([picture], "o.xlsx", "ends in .csv, .parquet, .jsonl"),
        ([picture], "there.csv", "is there already"),
        ([picture, "--fps", "0"], "o.csv", "not positive"),
        ([picture, "--blur"], "o.csv", "add --overlay"),
    ):
        assert predict(checkpoint, *words, out=tmp_path / out) == 2, words
        assert message in capsys.readouterr().err
    assert (tmp_path / "there.csv").read_text() == "mine"
    assert main(["predict", str(tmp_path / "no.ckpt"), str(picture)]) == 2


# What to look at.


def test_inputs_are_found_once_and_in_order(tmp_path: Path) -> None:
    for name in ("b/2.png", "b/1.JPG", "b/clip.mp4", "b/c/3.webp", "x.png"):
        write_scene(tmp_path / "place.png")
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    table = tmp_path / "list.csv"
    table.write_text("﻿path;label\nx.png;1\ngone.png;2\n", encoding="utf-8")
    found = find_inputs([tmp_path / "b", str(tmp_path / "b" / "*.png"), table, "camera:0"])
    assert [Path(one.path).name for one in found] == [
        "1.JPG", "2.png", "clip.mp4", "3.webp", "x.png", "gone.png", "0",
    ]  # fmt: skip
    assert [one.camera for one in found] == [False] * 6 + [True]
    assert found[4].name == "x.png"


def test_a_broken_file_among_many_stops_nothing(tmp_path: Path) -> None:
    for n in range(30):
        write_scene(tmp_path / f"{n:02d}.png", (n, 10, 30))
    (tmp_path / "07.png").write_bytes(b"broken")
    (tmp_path / "19.png").unlink()
    paths = find_inputs([tmp_path])
    (tmp_path / "29.png").unlink()  # gone after it was listed
    items = list(read_inputs(paths))
    shots = [item for item in items if isinstance(item, Shot)]
    ended = [item for item in items if isinstance(item, Ended)]
    assert [item.source for item in ended] == list(range(29))
    assert [Path(item.name).name for item in ended if item.reason] == ["07.png", "29.png"]
    assert len(shots) == 27


def test_files_without_a_known_ending_are_tried(tmp_path: Path) -> None:
    write_scene(tmp_path / "a.png", (1, 1, 30)).rename(tmp_path / "photo")
    write_film(tmp_path / "f.mp4", [scene()] * 4).rename(tmp_path / "film")
    (tmp_path / "text").write_text("neither")
    inputs = find_inputs([tmp_path / "photo", tmp_path / "film", tmp_path / "text"])
    items = list(read_inputs(inputs))
    assert [item.source for item in items if isinstance(item, Shot)] == [0, 1, 1, 1, 1]
    reasons = [item.reason for item in items if isinstance(item, Ended)]
    assert reasons[:2] == [None, None]
    assert "not readable as a picture or a video" in reasons[2]


# Videos.


def test_a_film_gives_times_and_persons(checkpoint: Path, tmp_path: Path) -> None:
    film = write_film(tmp_path / "film.mp4", moving(20, cut_at=12), start=7)
    assert predict(checkpoint, film, out=tmp_path / "t.csv") == 0
    table = pd.read_csv(tmp_path / "t.csv")
    assert table["frame"].nunique() == 20
    np.testing.assert_allclose(table["time"], table["frame"] / 10, atol=1e-3)
    before, after = table[table["frame"] < 12], table[table["frame"] >= 12]
    for track, rows in before.groupby("track"):
        steps = np.diff(rows["x"])
        assert len(rows) == 12
        assert np.allclose(steps, -1 if track == 1 else 1, atol=0.6)  # the larger is number 1
    assert set(before["track"]) == {1, 2}
    assert set(after["track"]) == {3}


@pytest.mark.parametrize(("fps", "expected"), [(5, range(0, 20, 2)), (3, [0, 4, 7, 10, 14, 17])])
def test_looks_are_taken_by_time(
    checkpoint: Path, tmp_path: Path, fps: float, expected: list[int]
) -> None:
    film = write_film(tmp_path / "film.mp4", moving(20))
    table = Predictor(checkpoint, finder=Bright()).predict(film, fps=fps)
    assert table["frame"].drop_duplicates().tolist() == list(expected)


def test_a_stream_yields_frames_as_they_come(checkpoint: Path, tmp_path: Path) -> None:
    film = write_film(tmp_path / "film.mp4", moving(20))
    seen = []
    for look in Predictor(checkpoint, finder=Bright(), batch_size=4).stream(film):
        assert look.shot.image.shape == (96, 128, 3)
        seen.append(look.shot.frame)
        if len(seen) == 6:
            break
    assert seen == [0, 1, 2, 3, 4, 5]
    with pytest.raises(DataError, match="no such"):
        next(Predictor(checkpoint, finder=Bright()).stream(tmp_path / "no.mp4"))


def test_smoothing_calms_the_answers_of_a_person(checkpoint: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    frames = []
    for dark in rng.integers(0, 20, 25):
        frames.append(scene((20, 20, 50)))
        frames[-1][20 : 20 + dark, 20:70] = 202
    film = write_film(tmp_path / "film.mp4", frames)
    plain, calm = (
        Predictor(checkpoint, finder=Bright(), smooth=s).predict(film) for s in (0.0, 1.0)
    )
    assert plain["track"].tolist() == calm["track"].tolist()
    assert calm["AU12"].diff().abs().mean() < 0.5 * plain["AU12"].diff().abs().mean()
    np.testing.assert_allclose(calm[["neutral", "happiness"]].sum(axis=1), 1, atol=1e-6)


def test_bad_films_are_listed_and_the_others_go_on(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    good = write_film(tmp_path / "in" / "good.mp4", moving(6))
    (tmp_path / "in" / "cut.mp4").write_bytes(good.read_bytes()[: good.stat().st_size // 2])
    (tmp_path / "in" / "empty.mkv").touch()
    (tmp_path / "in" / "text.avi").write_text("no film " * 50)
    assert predict(checkpoint, tmp_path / "in", out=tmp_path / "t.csv") == 1
    bad = pd.read_csv(tmp_path / "t.unreadable.csv")
    assert [Path(name).name for name in bad["input"]] == ["cut.mp4", "empty.mkv", "text.avi"]
    assert pd.read_csv(tmp_path / "t.csv")["frame"].max() == 5


def test_a_film_whose_pictures_change_their_size(checkpoint: Path, tmp_path: Path) -> None:
    parts = []
    for size, place in (((96, 128), (20, 30, 30)), ((64, 96), (40, 10, 24))):
        part = tmp_path / f"{size[0]}.h264"
        with av.open(str(part), "w", format="h264") as container:
            stream = container.add_stream("libx264", rate=10, options={"bf": "0", "crf": "1"})
            stream.height, stream.width, stream.pix_fmt = *size, "yuv420p"
            for image in [scene(place, size=size)] * 4:
                frame = av.VideoFrame.from_ndarray(image, format="rgb24")
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        parts.append(part.read_bytes())
    film = tmp_path / "film.h264"
    film.write_bytes(b"".join(parts))
    table = Predictor(checkpoint, finder=Bright()).predict(film)
    assert table["frame"].tolist() == list(range(8))
    np.testing.assert_allclose(table["x"], [20] * 4 + [40] * 4, atol=1)
    np.testing.assert_allclose(table["w"], [30] * 4 + [24] * 4, atol=2)


class FakeCamera:
    """Gives five pictures, and then none, as one that is unplugged."""

    def __init__(self, number: int) -> None:
        self.left = 5 if number == 0 else 0
        self.opened = number == 0

    def isOpened(self) -> bool:
        return self.opened

    def read(self) -> tuple[bool, np.ndarray | None]:
        self.left -= 1
        return (True, scene((20, 20, 40))[..., ::-1]) if self.left >= 0 else (False, None)

    def release(self) -> None:
        self.opened = False


def test_a_camera_that_is_unplugged_or_absent(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(reading.cv2, "VideoCapture", FakeCamera)
    assert predict(checkpoint, "camera:0", out=tmp_path / "t.csv") == 1
    assert len(pd.read_csv(tmp_path / "t.csv")) == 5
    assert "no picture any more after 5 frames" in capsys.readouterr().out
    assert predict(checkpoint, "camera:1", out=tmp_path / "u.csv") == 1
    assert "no camera there" in capsys.readouterr().out


# Going on.


def run_until_stuck(words: list[str], mark: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Start the command in a process of its own and kill it where its finder gets stuck."""
    looks, find = [], Bright.find

    def stuck(self: Bright, images: list[np.ndarray]) -> Any:
        looks.extend([1] * bool(images))
        if len(looks) == 8:
            mark.touch()
            time.sleep(600)
        return find(self, images)

    monkeypatch.setattr(Bright, "find", stuck)
    monkeypatch.setattr(running, "_EVERY", 0.0)
    child = multiprocessing.get_context("fork").Process(target=main, args=(words,))
    child.start()
    end = time.monotonic() + 60
    while not mark.exists() and child.is_alive() and time.monotonic() < end:
        time.sleep(0.01)
    child.kill()
    child.join()
    assert mark.exists()
    monkeypatch.setattr(Bright, "find", find)


def test_a_run_that_was_killed_goes_on_and_ends_the_same(
    checkpoint: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = tmp_path / "in"
    for n in range(12):
        write_scene(folder / f"{n:02d}.png", (n, 10, 30))
    (folder / "05.png").write_bytes(b"broken")
    write_film(folder / "film.mp4", moving(40, cut_at=30))
    assert predict(checkpoint, folder, "--smooth", "0.5", out=tmp_path / "whole.csv") == 1
    out = tmp_path / "t.csv"
    words = ["predict", str(checkpoint), str(folder), "--smooth", "0.5", "--out", str(out)]
    words += ["--finder", "bright", "--device", "cpu", "--batch", "4"]
    run_until_stuck(words, tmp_path / "mark", monkeypatch)
    note = json.loads((tmp_path / "t.csv.part.json").read_text())
    assert note["state"]["input"] == 12  # in the middle of the film
    assert note["state"]["frame"] == 17
    with (tmp_path / "t.csv.part").open("ab") as file:
        file.write(b"half a li")  # what a kill leaves behind
    capsys.readouterr()
    assert predict(checkpoint, folder, "--smooth", "0.9", out=out) == 2  # other settings
    assert "unfinished run on other inputs or with other settings" in capsys.readouterr().err
    assert main(words) == 1
    assert "going on at input" in capsys.readouterr().out
    whole, resumed = pd.read_csv(tmp_path / "whole.csv"), pd.read_csv(out)
    pd.testing.assert_frame_equal(resumed, whole, atol=2e-5, rtol=0)
    bad = pd.read_csv(tmp_path / "t.unreadable.csv")
    assert [Path(name).name for name in bad["input"]] == ["05.png"]
    assert not (tmp_path / "t.csv.part").exists()


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_a_run_that_is_ended_says_how_to_go_on_and_goes_on(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch, name: str, code: int,
) -> None:  # fmt: skip
    folder, out = tmp_path / "in", tmp_path / "t.csv"
    for n in range(8):
        write_scene(folder / f"{n:02d}.png", (n, 10, 30))
    assert predict(checkpoint, folder, "--batch", 2, out=tmp_path / "whole.csv") == 0
    add, found = running.Count.add, []

    def ended(self: Any, item: Any) -> None:
        found.append(item)
        if len(found) == 5:
            os.kill(os.getpid(), getattr(signal, name))
        add(self, item)

    with monkeypatch.context() as patch:
        patch.setattr(running.Count, "add", ended)
        assert predict(checkpoint, folder, "--batch", 2, out=out) == code
    assert "; the same command goes on where it stopped" in capsys.readouterr().err
    assert not out.exists()
    assert predict(checkpoint, folder, "--batch", 2, out=out) == 0
    assert "going on at input 5 of 8" in capsys.readouterr().out
    assert out.read_text() == (tmp_path / "whole.csv").read_text()
