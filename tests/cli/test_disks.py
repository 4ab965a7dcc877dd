"""Disks that refuse: one line, exit code 2, and the same command works when they do no more.

The tests may run as a user who may write everywhere, so Python itself refuses here: a hook raises
what the system would, wherever a file or a folder would be made, opened to write or moved.
"""

import errno
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from dies_in_compare import fake_cost
from faceaffect.cli import main
from faceaffect.module import AffectModule
from faceaffect.registry import TABLES
from faceaffect.runs import cost
from faces import write_csv
from predicting import write_model, write_scene

RECIPE = """
model: {name: timm_classifier, backbone: test_vit}
data:
  name: csv
  table: %s
  protocol: {name: subject_kfold, folds: 3, fold: 1, val_fraction: 0.34}
  image_size: 32
  batch_size: 4
  num_workers: 0
optim: {lr: 1e-3}
trainer: {max_epochs: 1, accelerator: cpu}
output: %s
"""
SAYS = [errno.EROFS, errno.EACCES, errno.ENOSPC]

_refused: dict[str, Any] = {}
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT


def _on_event(event: str, args: tuple[Any, ...]) -> None:
    if not _refused or event not in ("open", "os.mkdir", "os.rename"):
        return
    path = os.fsdecode(args[0]) if isinstance(args[0], (str, bytes, Path)) else ""
    if event == "open" and not (
        set(args[1]) & set("wax+") if isinstance(args[1], str) else args[2] & _WRITES
    ):
        return
    if path.startswith(str(_refused["folder"])) and path.endswith(_refused["end"]):
        _refused["times"] += 1
        code = _refused["code"]
        raise OSError(code, os.strerror(code), path)


sys.addaudithook(_on_event)


def refuse(folder: Path, code: int, end: str = "") -> None:
    _refused.update(folder=folder, code=code, times=0, end=end)


@contextmanager
def relenting() -> Iterator[None]:
    """Let everything be written again at the end, if anything was refused."""
    try:
        yield
        assert _refused["times"]
    finally:
        _refused.clear()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, undrawn: None) -> None:
    monkeypatch.setattr(cost, "measure", lambda *_: {"device": "cpu"})
    monkeypatch.setattr(cost, "measure_alone", fake_cost)
    monkeypatch.setitem(TABLES["finders"], "bright", "finders:Bright")


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a table of faces, pictures, a model's checkpoint and a run."""
    folder = tmp_path_factory.mktemp("disks")
    write_csv(folder / "faces", people=6, each=3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cost, "measure", lambda *_: {"device": "cpu"})
        assert main(["train", write_recipe(folder, folder)]) == 0
    for n in range(3):
        write_scene(folder / "pictures" / f"{n}.png", (n, 10, 30))
    write_model(folder / "model.ckpt")
    return folder


def write_recipe(faces: Path, folder: Path) -> str:
    (folder / "tiny.yaml").write_text(RECIPE % (faces / "faces" / "faces.csv", folder / "out"))
    return str(folder / "tiny.yaml")


def command(name: str, faces: Path, folder: Path, end: str = ".csv") -> list[str]:
    """Return a command that writes below the folder ``out``, which is there."""
    (folder / "out").mkdir(exist_ok=True)
    if name == "predict":
        return ["predict", str(faces / "model.ckpt"), str(faces / "pictures"), "--finder", "bright",
                "--device", "cpu", "--out", str(folder / "out" / f"table{end}")]  # fmt: skip
    (run,) = map(str, (faces / "out" / "tiny").iterdir())
    if name == "test":
        return ["test", run, f"output={folder / 'out'}"]
    if name == "explain":
        return ["explain", run, str(faces / "pictures" / "0.png"), "--crop", "none",
                "--device", "cpu", "--folder", str(folder / "out" / "maps")]  # fmt: skip
    if name == "report":
        return ["compare", run, "--folder", str(folder / "out" / "report")]
    if name == "sheet":
        return ["sheet", str(folder / "out" / "sheets")]
    recipe = write_recipe(faces, folder)
    if name == "annotate":
        return ["annotate", recipe, "--out", str(folder / "out" / f"items{end}"),
                "--style", "jsonl" if end == ".jsonl" else "llava"]  # fmt: skip
    return [name, recipe, *(["--trials", "1"] if name == "tune" else [])]


def one_line(error: str, code: int) -> None:
    assert error.startswith("error: "), error
    assert error.count("\n") == 1, error
    assert os.strerror(code) in error
    assert "/out" in error


@pytest.mark.parametrize(("name", "end"), [
    ("train", ""), ("tune", ""), ("predict", ".csv"), ("predict", ".parquet"),
    ("predict", ".jsonl"), ("annotate", ".jsonl"), ("annotate", ".json"), ("test", ""),
    ("explain", ""), ("report", ""), ("compare", ""), ("crossval", ""), ("sheet", ""),
])  # fmt: skip
@pytest.mark.parametrize("code", SAYS)
def test_a_place_that_cannot_be_written_to_is_one_line(
    faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, end: str, code: int
) -> None:
    if end == ".parquet":
        pytest.importorskip("pyarrow")
    argv = command(name, faces, tmp_path, end)
    with relenting():
        refuse(tmp_path / "out", code)
        assert main(argv) == 2
    one_line(capsys.readouterr().err, code)
    assert not list((tmp_path / "out").iterdir())
    if name in ("predict", "annotate"):
        assert main(argv) == 0
        assert list((tmp_path / "out").iterdir())


@pytest.mark.parametrize(("name", "end"), [
    ("test", "csv"), ("test", "json"), ("explain", "png"), ("report", "json"), ("report", "tex"),
    ("crossval", "tex"),
])  # fmt: skip
def test_nothing_is_half_written_where_a_file_is_refused(
    faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, end: str
) -> None:
    argv = command(name, faces, tmp_path)
    with relenting():
        refuse(tmp_path / "out", errno.ENOSPC, f".{end}.part")
        assert main(argv) == 2
    one_line(capsys.readouterr().err, errno.ENOSPC)
    left = [f for f in (tmp_path / "out").rglob("*") if "tiny" not in f.relative_to(tmp_path).parts]
    assert not [file for file in left if file.is_file()]
    assert main(argv) == 0


@pytest.mark.parametrize(("name", "hook"), [
    ("train", "training_step"), ("train", "test_step"),
])  # fmt: skip
def test_so_is_one_that_refuses_amid_the_work(
    faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch, name: str, hook: str,
) -> None:  # fmt: skip
    argv = command(name, faces, tmp_path)
    original = getattr(AffectModule, hook)

    def refused_from_here(self: AffectModule, batch: Any, batch_idx: int) -> torch.Tensor:
        if not _refused:
            refuse(tmp_path / "out", errno.EROFS)
        return original(self, batch, batch_idx)

    with monkeypatch.context() as patch, relenting():
        patch.setattr(AffectModule, hook, refused_from_here)
        assert main(argv) == 2
    one_line(capsys.readouterr().err, errno.EROFS)
    assert main([*argv, *(["--resume"] if name == "train" else [])]) == 0
    assert len(list((tmp_path / "out" / "tiny").glob("*"))) == (name == "train")


def test_a_search_whose_storage_is_gone_amid_a_trial_is_one_line(
    faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    argv = command("tune", faces, tmp_path)
    original = AffectModule.training_step

    def gone(self: AffectModule, batch: Any, batch_idx: int) -> torch.Tensor:
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        return original(self, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(AffectModule, "training_step", gone)
        assert main(argv) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: the storage of the trials failed: "), error
    assert error.count("\n") == 1, error
    assert main(argv) == 0
