from pathlib import Path

import av
import cv2
import numpy as np
import pandas as pd
import pytest

from faceaffect.cli import main
from faceaffect.data.faces.finder import Face
from faceaffect.data.image import read_image
from faceaffect.data.video import read_frames
from faceaffect.prediction import run as running
from faceaffect.prediction.draw import draw, hide
from faceaffect.prediction.film import Film
from faceaffect.prediction.inputs import Input
from faceaffect.prediction.overlay import Overlay
from faceaffect.prediction.reading import Ended, Shot
from faceaffect.prediction.seen import Answered, Seen
from faceaffect.prediction.timeline import Timeline
from faceaffect.registry import TABLES
from faceaffect.schema import LabelSchema
from finders import Bright
from predicting import SCHEMA, scene, write_film, write_model, write_scene

WIDE = LabelSchema((1, 2, 4, 6, 7, 10, 12, 14, 15, 17, 23, 24), ("neutral", "happiness"), True)


def answered(box: tuple[float, float, float, float], schema: LabelSchema = WIDE) -> Answered:
    x, y, width, height = box
    points = np.array([(0.3, 0.4), (0.7, 0.4), (0.5, 0.6), (0.35, 0.8), (0.65, 0.8)])
    face = Face(box, 0.99, (points * (width, height) + (x, y)).astype(np.float32))
    names = (*schema.au_names, *schema.expressions, "valence", "arousal")
    values = np.linspace(0.1, 0.9, len(names)).tolist()
    return Answered(face, 3, dict(zip(names, values, strict=True)))


@pytest.mark.parametrize("size", [(320, 480), (480, 320), (2160, 3840), (40, 30)])
def test_what_is_drawn_fits_the_picture(size: tuple[int, int]) -> None:
    height, width = size
    image = np.full((height, width, 3), 70, np.uint8)
    box = (0.1 * width, 0.2 * height, 0.3 * width, 0.4 * height)
    drawn = draw(image, [answered(box)], WIDE)
    assert drawn.shape == image.shape
    assert (image == 70).all()  # not drawn into
    changed = (drawn != image).any(2)
    columns = np.nonzero(changed)[1]
    inside = changed[round(0.3 * height) : round(0.5 * height), round(0.2 * width) : round(0.3 * width)]  # fmt: skip # noqa: E501
    if min(size) > 100:
        assert inside.mean() < 0.5  # the face is to be seen
        letters = (drawn.min(2) > 200).sum() / (height * width)  # pale words of the panel
        assert letters > 0.002
        assert np.ptp(columns) > 0.45 * width  # bars beside the face


def test_panels_do_not_cover_faces() -> None:
    image = np.full((720, 1280, 3), 70, np.uint8)
    faces = [answered((100 + 290 * n, 250, 160, 200)) for n in range(4)]
    drawn = draw(image, faces, WIDE)
    for found in faces:
        x, y, width, height = (round(v) for v in found.face.box)
        part = drawn[y + 8 : y + height - 8, x + 8 : x + width - 8]
        assert (part == 70).all(2).mean() > 0.97  # only its points


def test_faces_at_and_beyond_the_border() -> None:
    image = np.full((200, 300, 3), 70, np.uint8)
    for box in ((-60.0, -50.0, 120.0, 120.0), (250.0, 150.0, 120.0, 140.0), (0.0, 0.0, 300.0, 200.0)):  # fmt: skip # noqa: E501
        assert draw(image, [answered(box)], WIDE).shape == image.shape
        assert hide(image, [box]).shape == image.shape


def test_hidden_faces_cannot_be_told_apart() -> None:
    rng = np.random.default_rng(0)
    image = cv2.resize(rng.integers(0, 255, (60, 60, 3), dtype=np.uint8), (600, 600))
    hidden = hide(image, [(200, 200, 150, 180)])
    assert (hidden[:100] == image[:100]).all()
    part = hidden[200:380, 200:350].astype(float)
    # Nothing finer than a fifth of the box is left: shrinking it loses hardly anything.
    coarse = cv2.resize(cv2.resize(part, (8, 8), interpolation=cv2.INTER_AREA), (150, 180))
    assert np.abs(part - coarse)[20:-20, 20:-20].mean() < 5
    assert np.abs(image[200:380, 200:350].astype(float) - coarse).mean() > 30


def sound_of(path: Path) -> tuple[str, float]:
    with av.open(str(path)) as container:
        stream = container.streams.audio[0]
        frames = list(container.decode(audio=0))
        return stream.codec_context.name, float(sum(f.samples for f in frames) / 16_000)


@pytest.fixture
def bright(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TABLES["finders"], "bright", "finders:Bright")


def test_copies_have_the_same_names_in_a_run_that_goes_on(tmp_path: Path) -> None:
    names = ["x/a.png", "y/A.png", "z/a-2.png", "camera:0"]
    inputs = [Input(name, name, camera=name == "camera:0") for name in names]
    image = scene()
    for at in (2, 0, 1, 3):  # each in a run of its own
        overlay = Overlay(tmp_path / "drawn", SCHEMA, inputs)
        overlay.take(Seen(Shot(at, names[at], names[at], image + np.uint8(at)), []))
    drawn = {file.name: read_image(file).mean() for file in (tmp_path / "drawn").iterdir()}
    expected = {"a.jpg": 0, "A-2.jpg": 1, "a-2-2.jpg": 2, "camera-0.jpg": 3}
    assert drawn == {n: pytest.approx(image.mean() + at, abs=0.3) for n, at in expected.items()}


@pytest.mark.usefixtures("bright")
def test_copies_never_overwrite_what_is_looked_at(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    album = tmp_path / "album"
    picture = write_scene(album / "a.jpg", (30, 30, 40))
    before = picture.read_bytes()
    words = ["predict", str(write_model(tmp_path / "m.ckpt")), str(album), "--finder", "bright",
             "--device", "cpu"]  # fmt: skip
    out = ["--out", str(tmp_path / "t.csv")]
    assert main([*words, *out, "--overlay", str(album)]) == 2
    assert "copies could overwrite" in capsys.readouterr().err
    assert picture.read_bytes() == before
    assert not (tmp_path / "t.csv.part").exists()
    for number in range(2):  # the copies of the first are no inputs of the second
        out = ["--out", str(tmp_path / f"{number}.csv")]
        assert main([*words, *out, "--overlay", str(album / "drawn")]) == 0
        assert "1 faces in 1 pictures or frames of 1 inputs" in capsys.readouterr().out


@pytest.mark.usefixtures("bright")
def test_an_interrupted_film_is_drawn_anew_and_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(running, "_EVERY", 0.0)
    folder = tmp_path / "in"
    write_scene(folder / "a.png", (30, 30, 40))
    write_film(folder / "film.mp4", [scene((4 + n, 10, 24)) for n in range(12)])
    words = ["predict", str(write_model(tmp_path / "m.ckpt")), str(folder), "--finder", "bright",
             "--device", "cpu", "--batch", "2", "--out", str(tmp_path / "t.csv")]  # fmt: skip
    drawn = ["--overlay", str(tmp_path / "drawn")]
    with monkeypatch.context() as patch:
        looks, find = iter(range(99)), Bright.find

        def stop(self: Bright, images: list[np.ndarray]) -> list[list[Face]]:
            if next(looks) == 4:
                raise KeyboardInterrupt
            return find(self, images)

        patch.setattr(Bright, "find", stop)
        assert main([*words, *drawn]) == 130
    assert [file.name for file in (tmp_path / "drawn").iterdir()] == ["a.jpg"]
    capsys.readouterr()
    assert main(words) == 2  # without the overlay it would not be the same run
    assert "with other settings" in capsys.readouterr().err
    assert main([*words, *drawn]) == 0
    assert (
        "going on at input 2 of 2 (a video with an overlay starts over)" in capsys.readouterr().out
    )
    assert len(read_frames(tmp_path / "drawn" / "film.mp4")) == 12
    table = pd.read_csv(tmp_path / "t.csv")
    assert table["frame"].dropna().tolist() == list(range(12))
    assert table["input"].value_counts().tolist() == [12, 1]


@pytest.mark.usefixtures("bright")
def test_a_film_keeps_its_frames_times_and_sound(tmp_path: Path) -> None:
    frames = [scene((4 + n, 10, 24), (90 - n, 50, 30)) for n in range(20)]
    film = write_film(tmp_path / "my.film.mp4", frames, sound=True)
    picture = write_scene(tmp_path / "a.b.png", (30, 30, 40))
    model = write_model(tmp_path / "m.ckpt")
    words = ["predict", str(model), str(film), str(picture), "--fps", "5", "--finder", "bright"]
    words += ["--out", str(tmp_path / "t.csv"), "--overlay", str(tmp_path / "drawn")]
    assert main([*words, "--device", "cpu"]) == 0
    names = sorted(file.name for file in (tmp_path / "drawn").iterdir())
    assert names == ["a.b.jpg", "my.film.mp4", "my.film.person1.png", "my.film.person2.png"]
    drawn = read_frames(tmp_path / "drawn" / "my.film.mp4")
    assert drawn.shape == (20, 96, 128, 3)
    with av.open(str(tmp_path / "drawn" / "my.film.mp4")) as container:
        times = [frame.time for frame in container.decode(video=0)]
    np.testing.assert_allclose(times, np.arange(20) / 10, atol=1e-3)
    name, seconds = sound_of(tmp_path / "drawn" / "my.film.mp4")
    assert (name, seconds) == (sound_of(film)[0], pytest.approx(sound_of(film)[1], abs=0.1))
    # A box is drawn in every frame, between two looks where it was at the last.
    plain = read_frames(film)
    for n in (0, 1, 7):
        assert np.abs(drawn[n].astype(int) - plain[n]).mean() > 3
    jpeg = read_image(tmp_path / "drawn" / "a.b.jpg")
    assert np.abs(jpeg.astype(int) - read_image(picture)).mean() > 1


def detail(image: np.ndarray) -> float:
    """How much changes from pixel to pixel within the face of `speckled`."""
    return float(np.abs(np.diff(image[36:56, 46:66].astype(float), axis=0)).mean())


def speckled() -> np.ndarray:
    image = scene(size=(300, 400))  # room for the panel beside the face
    noise = np.random.default_rng(0).integers(0, 255, (16, 16, 3), dtype=np.uint8)
    image[30:62, 40:72] = noise.repeat(2, 0).repeat(2, 1)
    return image


def test_a_blurred_overlay_shows_nobody_not_even_one_who_was_lost(tmp_path: Path) -> None:
    overlay = Overlay(tmp_path / "drawn", SCHEMA, blur=True)
    image, film = speckled(), write_film(tmp_path / "f.mp4", [speckled()] * 2)
    names = ("AU1", "AU12", "neutral", "happiness", "valence", "arousal")
    found = Answered(Face((40, 30, 32, 32), 1.0), 1, dict.fromkeys(names, 0.5))
    overlay.take(Seen(Shot(0, "p.png", "p.png", image), [found]))
    overlay.take(Ended(0, "p.png"))
    for time, faces in ((0.0, [found]), (0.9, []), (5.0, [])):
        shot = Shot(1, "f.mp4", str(film), image, round(10 * time), time)
        overlay.take(Seen(shot, faces))
    overlay.take(Ended(1, "f.mp4"))
    assert detail(read_image(tmp_path / "drawn" / "p.jpg")) < 0.2 * detail(image)
    near, soon, late = read_frames(tmp_path / "drawn" / "f.mp4")
    assert detail(near) < 0.2 * detail(image)
    assert detail(soon) < 0.2 * detail(image)  # lost, but not for long
    assert detail(late) > 0.5 * detail(image)


def test_hiding_needs_every_face_of_every_frame(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, picture = write_model(tmp_path / "m.ckpt"), write_scene(tmp_path / "a.png")
    words = ["predict", str(model), str(picture), "--blur", "--overlay", str(tmp_path / "drawn")]
    for more in (["--fps", "2"], ["--faces", "largest"]):
        assert main([*words, *more]) == 2
        assert "every face in every frame" in capsys.readouterr().err


def test_a_film_of_odd_and_changing_size_and_times(tmp_path: Path) -> None:
    film = Film(tmp_path / "odd", None)
    for n, (size, time) in enumerate([((51, 67), 0.0), ((51, 67), 0.5), ((80, 40), 0.5)]):
        film.add(np.full((*size, 3), 60 * n + 60, np.uint8), time)
    assert film.finish() == tmp_path / "odd.mp4"
    frames = read_frames(tmp_path / "odd.mp4")
    assert frames.shape == (3, 50, 66, 3)
    assert [round(float(f.mean()) / 60) for f in frames] == [1, 2, 3]
    assert Film(tmp_path / "none").finish() is None
    half = Film(tmp_path / "half")
    half.add(np.zeros((20, 20, 3), np.uint8), 0.0)
    half.drop()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["odd.mp4"]


def test_sound_that_mp4_cannot_hold_makes_another_container(tmp_path: Path) -> None:
    source = tmp_path / "in.mkv"
    with av.open(str(source), "w") as container:
        video = container.add_stream("mpeg4", rate=10)
        video.width = video.height = 32
        video.pix_fmt = "yuv420p"
        audio = container.add_stream("pcm_s16le", rate=16_000, layout="mono")
        for n in range(5):
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 90, np.uint8), format="rgb24")
            container.mux(video.encode(frame))
            wave = av.AudioFrame.from_ndarray(np.zeros((1, 1600), np.int16), layout="mono")
            wave.sample_rate, wave.pts = 16_000, n * 1600
            container.mux(audio.encode(wave))
        container.mux(video.encode(None))
        container.mux(audio.encode(None))
    film = Film(tmp_path / "out", source)
    for n in range(5):
        film.add(np.full((32, 32, 3), 40 * n, np.uint8), n / 10)
    assert film.finish() == tmp_path / "out.mkv"
    assert sound_of(tmp_path / "out.mkv") == ("pcm_s16le", pytest.approx(0.5))
    assert len(read_frames(tmp_path / "out.mkv")) == 5


def test_a_timeline_stays_small_and_draws_the_longest(tmp_path: Path) -> None:
    timeline = Timeline(SCHEMA)
    names = ("AU1", "AU12", "neutral", "happiness", "valence", "arousal")
    face = Face((0, 0, 9, 9), 1.0)
    for n in range(9000):
        answers = dict.fromkeys(names, n / 9000)
        own = [Answered(face, 1, answers), Answered(face, 2 + n // 40, answers)]
        timeline.add(n / 25, own)
    assert len(timeline._lines) <= 64
    assert max(len(line.times) for line in timeline._lines.values()) <= 2001
    line = timeline._lines[1]
    np.testing.assert_allclose(np.array(line.values)[:, 0], np.array(line.times) * 25 / 9000)
    assert line.times[-1] > 355
    files = timeline.write(tmp_path / "film")
    assert files[0].name == "film.person1.png"
    assert len(files) == 12
    assert read_image(files[0]).shape[1] > 1000
