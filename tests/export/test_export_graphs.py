"""ONNX and programs of torch: every specialist, alone in an environment without torch, failures."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from batches import FULL
from exporting import SPECIALISTS, onnx_file, specialist, write
from faceaffect import AffectModule, Predictor, load_model
from faceaffect.cli import main
from faceaffect.data.batch import FaceBatch
from faceaffect.data.faces.crop import Crop
from faceaffect.data.faces.finder import Face
from faceaffect.errors import CheckpointError, FaceAffectError
from faceaffect.export import graph
from faceaffect.export.graph import example_faces, to_onnx, to_torch
from faceaffect.models.exported import HEADER
from faceaffect.models.onnx import Onnx
from faces import write_image
from predicting import model as corners
from predicting import scene

LOADER = Path(__file__).parents[2] / "docs" / "examples" / "onnx_answer.py"

ALONE = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "faceaffect", "lightning", "timm", "transformers"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Absent())
import runpy
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def photo(path: Path, scale: int = 1) -> tuple[Path, np.ndarray]:
    """Write a photo with a face somewhere in it, and return where eyes and nose lie."""
    draw = np.random.default_rng(0)
    small = draw.integers(0, 256, (12, 16, 3), dtype=np.uint8)
    image = cv2.resize(small, (160 * scale, 120 * scale), interpolation=cv2.INTER_CUBIC)
    points = np.array([[65.0, 50.0], [84.0, 55.0], [75.0, 68.0]], np.float32) * scale
    return write_image(path, image), points


@pytest.mark.parametrize("name", SPECIALISTS)
def test_any_number_of_faces_is_answered_as_by_the_model(name: str) -> None:
    session = onnxruntime.InferenceSession(onnx_file(name))
    model = specialist(name)
    assert [one.name for one in session.get_outputs()] == list(FULL.tasks)
    (taken,) = session.get_inputs()
    assert (taken.name, taken.type, taken.shape[1:]) == ("image", "tensor(uint8)", [3, 56, 56])
    for count in (1, 3, 7):
        image = example_faces(count, 56)
        expected = model.predict(image)
        got = dict(zip(FULL.tasks, session.run(None, {"image": image.numpy()}), strict=True))
        for task in FULL.tasks:
            np.testing.assert_allclose(got[task], expected[task].numpy(), atol=1e-4)


@pytest.mark.parametrize("name", SPECIALISTS)
def test_the_loader_of_the_docs_answers_a_photo_without_torch(name: str, tmp_path: Path) -> None:
    """With points of a face in a photo, as the predictor does with the same points."""
    command = [sys.executable, "-c", ALONE, str(LOADER), str(onnx_file(name))]
    for scale, close in ((1, 1e-3), (8, 0.05)):  # a large face is averaged, on another grid
        picture, points = photo(tmp_path / f"{scale}.png", scale)
        words = [f"{x},{y}" for x, y in points]
        done = subprocess.run([*command, str(picture), *words], capture_output=True, check=False)
        assert done.returncode == 0, done.stderr
        got = json.loads(done.stdout)
        predictor = Predictor(specialist(name), finder=Fixed(points), device="cpu")
        row = predictor.predict(picture).iloc[0]
        assert list(got) == [*FULL.au_names, *FULL.expressions, "valence", "arousal"]
        for key, value in got.items():
            assert value == pytest.approx(row[key], abs=close), (scale, key)
    if name == "timm_classifier":  # a ready crop
        crop = write_image(tmp_path / "crop.png", example_faces(1, 56)[0].permute(1, 2, 0).numpy())
        done = subprocess.run([*command, str(crop)], capture_output=True, check=True)
        valence = specialist(name).predict(crop)["va"][0, 0]
        assert json.loads(done.stdout)["valence"] == pytest.approx(float(valence), abs=1e-4)


class Fixed:
    """Finds the same face in every picture."""

    def __init__(self, points: np.ndarray) -> None:
        left, right, nose = points
        mouth = nose + (nose - (left + right) / 2) * 0.6  # no stable point: of no weight
        self.points = np.stack([left, right, nose, mouth - 5, mouth + 5]).astype(np.float32)

    def find(self, images: Any) -> list[list[Face]]:
        box = (*self.points.min(0).tolist(), 40.0, 40.0)
        return [[Face(box, 1.0, self.points)] for _ in images]


def test_the_loader_is_short_and_tight_crops_land_where_they_should(tmp_path: Path) -> None:
    text = LOADER.read_text()
    body = text.partition("def answer")[2].partition("\n\n\n")[0]
    assert len(body.splitlines()) <= 21
    crop = Crop("tight", 40, margin=0.25)
    (left, top), (right, bottom) = crop.landing()
    assert left == top == pytest.approx(40 / 6 - 0.5)
    assert right == bottom == pytest.approx(40 * 5 / 6 - 0.5)


@pytest.mark.slow
def test_the_loader_answers_in_a_fresh_environment(tmp_path: Path) -> None:
    """In one that holds onnxruntime and opencv, neither torch nor this package."""
    python = tmp_path / "venv" / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True)
    install = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    done = subprocess.run(
        [*install, "onnxruntime", "opencv-python-headless"], check=False, capture_output=True
    )
    if done.returncode:
        pytest.skip("no package registry is reached")
    picture, points = photo(tmp_path / "photo.png")
    words = [f"{x},{y}" for x, y in points]
    for file in map(onnx_file, SPECIALISTS):
        got = subprocess.run(
            [str(python), "-I", str(LOADER), str(file), str(picture), *words],
            check=True, capture_output=True,
        )  # fmt: skip
        assert len(json.loads(got.stdout)) == len(FULL.aus) + len(FULL.expressions) + 2
    for module in ("torch", "faceaffect"):
        code = [str(python), "-I", "-c", f"import {module}"]
        assert subprocess.run(code, check=False, capture_output=True).returncode == 1


def test_an_exported_model_predicts_tests_and_says_what_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, picture = onnx_file("timm_classifier"), photo(tmp_path / "photo.png")[0]
    loaded = load_model(file)
    assert isinstance(loaded, Onnx)
    assert (loaded.schema, loaded.crop, loaded.image_size) == (FULL, Crop("landmarks", 56), 56)
    assert loaded.about["model"] == "timm_classifier"
    assert loaded.about["trained_by"] == "tiny"
    words = ["--crop", "none", "--device", "cpu"]
    for source, out in ((file, "a.csv"), (write(specialist("timm_classifier"),
                                                tmp_path / "m.ckpt"), "b.csv")):  # fmt: skip
        argv = ["predict", str(source), str(picture), "--out", str(tmp_path / out), *words]
        assert main(argv) == 0
    one, other = (
        np.genfromtxt(tmp_path / n, delimiter=",", names=True) for n in ("a.csv", "b.csv")
    )
    for name in ("AU12", "happiness", "valence"):
        assert one[name] == pytest.approx(other[name], abs=1e-4)
    clip = torch.stack([example_faces(2, 64)] * 2)
    batch = FaceBatch(video=clip, frame_mask=torch.ones(2, 2, dtype=torch.bool), id=["a", "b"])
    assert loaded.answer(batch)[1]["au"].shape == (2, 3)
    capsys.readouterr()
    assert main(["test", str(file)]) == 2
    assert "name: onnx" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["timm_classifier", "gimefive"])
def test_a_program_of_torch_answers_as_the_model(name: str, tmp_path: Path) -> None:
    file = tmp_path / "model.pt2"
    assert to_torch(specialist(name), file) < 1e-5
    assert list(tmp_path.iterdir()) == [file]
    extra = {"faceaffect.json": ""}
    program = torch.export.load(file, extra_files=extra)
    assert json.loads(extra["faceaffect.json"])["names"]["au"] == list(FULL.au_names)
    image = example_faces(4, 56)
    for task, value in program.module()(image).items():
        torch.testing.assert_close(value, specialist(name).predict(image)[task])


# What goes wrong.


def test_an_export_that_answers_otherwise_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "model.onnx"
    real = graph.open_session

    class Wrong:
        def __init__(self, path: Path) -> None:
            self.session = real(path)

        def run(self, *args: Any) -> list[np.ndarray]:
            return [value + 2e-4 for value in self.session.run(*args)]

    monkeypatch.setattr(graph, "open_session", Wrong)
    with pytest.raises(FaceAffectError, match=r"not kept.*2\.0e-04"):
        to_onnx(specialist("timm_classifier"), file)
    assert not list(tmp_path.iterdir())


class Branching(AffectModule):
    """Asks a value of a tensor, which no graph can hold."""

    def loss(self, batch: FaceBatch) -> torch.Tensor:
        raise NotImplementedError

    def predict(self, batch: FaceBatch) -> dict[str, torch.Tensor]:
        image = batch["image"].float()
        if image.mean() > 100:
            image = 255 - image
        return {"va": image.mean((1, 2))[:, :2] / 255}


def test_what_is_no_graph_is_refused_in_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from predicting import Speaking, write_model

    for kind in (to_onnx, to_torch):
        with pytest.raises(FaceAffectError, match="Branching cannot be exported") as caught:
            kind(Branching({"valence_arousal": True}).eval(), tmp_path / "model.onnx")
        assert "\n" not in str(caught.value)
        with pytest.raises(FaceAffectError, match=r"language model.*--to hf"):
            kind(corners(kind=Speaking), tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())
    checkpoint = write_model(tmp_path / "run" / "best.ckpt")
    for words, said in (
        (["--to", "torch", "--int8"], "--int8 is an option of --to onnx"),
        (["--to", "onnx", "--merge"], "--merge is an option of --to hf"),
        (["--to", "onnx", "data.root=x"], "used by --int8 alone"),
        (["--to", "hf", "--merge"], "holds no language model"),
    ):
        assert main(["export", str(checkpoint), *words]) == 2
        assert said in capsys.readouterr().err
    assert main(["export", str(tmp_path / "no"), "--to", "onnx"]) == 2


def test_nothing_is_written_over_and_a_missing_package_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = write(specialist("timm_classifier"), tmp_path / "best.ckpt")
    (tmp_path / "export").mkdir()
    (tmp_path / "export" / "model.onnx").write_text("mine")
    assert main(["export", str(checkpoint), "--to", "onnx"]) == 2
    assert "is there already" in capsys.readouterr().err
    assert (tmp_path / "export" / "model.onnx").read_text() == "mine"
    monkeypatch.setattr(graph, "find_spec", lambda name: None)
    assert main(["export", str(checkpoint), "--to", "onnx", "--folder", str(tmp_path / "b")]) == 2
    assert "pip install 'faceaffect[export]'" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert main(["predict", str(tmp_path / "export" / "model.onnx"), str(checkpoint)]) == 2
    assert "pip install 'faceaffect[export]'" in capsys.readouterr().err


def test_damaged_and_foreign_files_are_named(tmp_path: Path) -> None:
    good = onnx.load(onnx_file("timm_classifier"))
    about = json.loads({p.key: p.value for p in good.metadata_props}[HEADER])
    broken = tmp_path / "broken.onnx"
    for content in (b"", b"no model", onnx_file("timm_classifier").read_bytes()[:2000]):
        broken.write_bytes(content)
        with pytest.raises(CheckpointError, match=r"broken\.onnx: no model that onnxruntime"):
            load_model(broken)
    with pytest.raises(CheckpointError, match="no exported model"):
        load_model(tmp_path / "none.onnx")
    for said, words in (
        (None, "not exported by it"),
        ("{", "damaged"),
        ("[1]", "no JSON object"),
        (json.dumps(about | {"format": 99}), "of format 99"),
        (json.dumps(about | {"image_size": 10**9}), "image size"),
        (json.dumps(about | {"image_size": 64}), "other things than it says"),
        (json.dumps(about | {"schema": {"aus": [1]}}), "other things than it says"),
        (json.dumps(about | {"schema": 5}), "damaged"),
        (json.dumps(about | {"crop": {"size": -3}}), "crop"),
    ):
        changed = onnx.ModelProto()
        changed.CopyFrom(good)
        del changed.metadata_props[:]
        if said is not None:
            changed.metadata_props.add(key=HEADER, value=said)
        onnx.save(changed, broken)
        with pytest.raises(CheckpointError, match=words):
            load_model(broken)


def test_a_picture_that_is_none_is_counted(tmp_path: Path) -> None:
    (tmp_path / "text.jpg").write_text("no picture")
    write_image(tmp_path / "photo.png", scene((10, 10, 30)))
    out = tmp_path / "a.csv"
    argv = ["predict", str(onnx_file("timm_classifier")), str(tmp_path), "--out", str(out)]
    assert main([*argv, "--crop", "none"]) == 1
    assert "text.jpg" in out.with_suffix(".unreadable.csv").read_text()
