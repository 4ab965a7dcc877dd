"""``faceaffect ask``: questions to a trained model from the command line."""

import sys
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch

from emo_tiny import AGGREGATOR, EXPRESSIONS, MINING, batch_of
from faceaffect.cli import main
from faceaffect.data.batch import FaceBatch
from faceaffect.evaluation import ask as asking
from faceaffect.models.emo_llama import EmoLlama
from faceaffect.prediction.predictor import Predictor
from faces import face, write_clip, write_image
from forked import Command

SMALL = {
    "tower": {"name": "test_vit", "image_size": 64},
    "mining": MINING,
    "aggregator": AGGREGATOR,
}


def checkpoint(folder: Path, model: L.LightningModule, data: dict[str, Any]) -> Path:
    """Write an untrained model as a run would, with the data section of its recipe."""
    model.recipe = {"name": "x", "sections": {"data": data}}  # type: ignore[assignment]
    trainer = L.Trainer(
        max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, accelerator="cpu",
    )  # fmt: skip
    batch = batch_of(2, schema=EXPRESSIONS)
    trainer.fit(model, torch.utils.data.DataLoader([batch], batch_size=None))
    path = folder / "checkpoints" / "best.ckpt"
    trainer.save_checkpoint(path, weights_only=True)
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    model = EmoLlama(EXPRESSIONS, **SMALL, max_new_tokens=8)
    folder = tmp_path_factory.mktemp("run")
    return checkpoint(folder, model, {"name": "csv", "image_size": 64, "frames": 3})


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[FaceBatch]:
    """Collect what the model is shown."""
    batches: list[FaceBatch] = []
    look = EmoLlama.look

    def note(self: EmoLlama, batch: FaceBatch) -> Any:
        batches.append(batch)
        return look(self, batch)

    monkeypatch.setattr(EmoLlama, "look", note)
    return batches


class Pieces:
    """A terminal that remembers what is written at once."""

    def __init__(self) -> None:
        self.written: list[str] = []

    def write(self, text: str) -> int:
        self.written.append(text)
        return len(text)

    def flush(self) -> None:
        pass


def test_an_answer_comes_in_pieces(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor = Predictor(run, device="cpu", crop="none")
    assert (predictor.image_size, asking.frames_of(run)) == (64, 3)
    picture = write_image(tmp_path / "face.png", face())
    terminal = Pieces()
    monkeypatch.setattr(sys, "stdout", terminal)
    answer = asking.ask(predictor, picture, "Well?")
    monkeypatch.undo()
    assert "".join(terminal.written).strip() == answer
    assert sum(1 for text in terminal.written if text.strip()) > 1


def test_pictures_clips_and_folders_of_frames(
    run: Path, tmp_path: Path, seen: list[FaceBatch], capsys: pytest.CaptureFixture[str]
) -> None:
    picture = write_image(tmp_path / "face.png", face())
    clip, folder = write_clip(tmp_path / "clip.mp4"), write_clip(tmp_path / "frames")
    for path, frames in ((picture, 1), (clip, 3), (folder, 3)):  # as many as the run's data takes
        assert main(["ask", str(run), str(path), "--device", "cpu", "--crop", "none"]) == 0
        assert capsys.readouterr().out.strip()
        assert seen.pop()["video"].shape == (1, frames, 3, 64, 64)


def test_what_cannot_be_asked_is_named(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = write_image(tmp_path / "face.png", face())
    (tmp_path / "broken.png").write_bytes(b"no picture")
    for words, says in (
        ([str(run), str(tmp_path / "none.png")], "no picture at"),
        ([str(run), str(tmp_path / "broken.png")], "broken.png"),
        ([str(run), str(picture)], "no face was found; --crop none"),
        (["/no/run", str(picture)], "no run folder or checkpoint at /no/run"),
        ([str(run), str(picture), "--device", "abacus"], "--device abacus: not usable here"),
    ):
        assert main(["ask", *words]) == 2
        assert says in capsys.readouterr().err


def test_frames_of_a_mixture_are_those_of_its_clips(
    monkeypatch: pytest.MonkeyPatch, run: Path
) -> None:
    stored = asking.read_checkpoint(run)
    sources = [{"name": "rafdb"}, {"name": "dfew", "frames": 16}, "disfa"]
    stored["faceaffect"]["recipe"]["sections"]["data"] = {"name": "mixture", "sources": sources}
    monkeypatch.setattr(asking, "read_checkpoint", lambda _: stored)
    assert asking.frames_of(run) == 16


@pytest.mark.slow
def test_the_terminal_shows_the_answer_alone(run: Path, tmp_path: Path) -> None:
    picture = write_image(tmp_path / "face.png", face())
    asked = Command("ask", str(run), str(picture), "Well?", "--crop", "none")
    out, err = asked.communicate()
    assert asked.returncode == 0, err
    assert out.strip()
    assert "Warning" not in err
    assert "Loading" not in err
