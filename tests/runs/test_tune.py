"""Searches through the command line: what they leave, resuming, sharing, failing."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
import pytest
import sqlalchemy
import torch
from omegaconf import OmegaConf
from optuna.trial import TrialState
from PIL import Image

from faceaffect.cli import main
from faceaffect.data.dataset import FaceDataset
from faceaffect.errors import RecipeError
from faceaffect.module import AffectModule
from faceaffect.recipe import load_recipe
from faceaffect.runs import study, tune
from faceaffect.runs.train import reopen
from faces import write_csv
from forked import Command

RECIPE = """
seed: 3
model: {name: timm_classifier, backbone: test_vit, mode: linear}
data:
  name: csv
  table: %s
  protocol: {name: subject_kfold, folds: 3, fold: 1, val_fraction: 0.34}
  image_size: 48
  batch_size: 4
  augment: [light]
  num_workers: 0
optim: {lr: 1e-3}
trainer: {max_epochs: 3, accelerator: cpu}
output: %s
"""
SPACE = """
optim.lr: {low: 1e-5, high: 1e-1, log: true}
model.dropout: {low: 0, high: 0.5}
model.au_loss: {choices: [bce, wa]}
"""
pytestmark = pytest.mark.filterwarnings("ignore:.*frozen with random weights")


@pytest.fixture(autouse=True)
def undrawn_history(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the plot, a fifth of the time of a search; that of :func:`place` has it."""
    monkeypatch.setattr(tune, "write_plot", lambda *_: None)


def write(folder: Path) -> list[str]:
    """Write a recipe, its data and a space, and return the command without options."""
    folder.mkdir(exist_ok=True)
    table = write_csv(folder / "faces", people=7, each=4)
    (folder / "tiny.yaml").write_text(RECIPE % (table, folder / "runs"))
    (folder / "space.yaml").write_text(SPACE)
    return ["tune", str(folder / "tiny.yaml"), str(folder / "space.yaml")]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a recipe, its data and a finished search of six trials."""
    folder = tmp_path_factory.mktemp("tune")
    assert main([*write(folder), "--trials", "6"]) == 0
    return folder


def tuning(folder: Path) -> Path:
    (found,) = (folder / "runs" / "tune").iterdir()
    return found


def history(folder: Path) -> pd.DataFrame:
    return pd.read_csv(tuning(folder) / "history.csv")


def study_of(folder: Path, url: str | None = None) -> optuna.Study:
    url = url or f"sqlite:///{tuning(folder) / 'study.db'}"
    return optuna.load_study(study_name=tuning(folder).name, storage=url)


def test_a_search_leaves_recipe_history_and_plot(place: Path) -> None:
    table, folder = history(place), tuning(place)
    assert len(table) == 6
    assert set(table["state"]) <= {"complete", "pruned"}
    assert table["as it stands"].tolist()[0] == "yes"
    assert table["optim.lr"][0] == 1e-3
    assert table["optim.lr"].between(1e-5, 1e-1).all()
    assert table["optim.lr"].nunique() == 6
    best = table.loc[table["val/score"].idxmax()]
    file = folder / "tiny_tuned.yaml"
    recipe = load_recipe(str(file))
    assert recipe["optim"]["lr"] == best["optim.lr"]
    assert recipe["model"].get("au_loss", "bce") == best["model.au_loss"]
    assert recipe["tuned"]["trials"] == 6
    assert recipe["tuned"]["score"] == round(best["val/score"], 4)
    assert recipe["tuned"]["before"] == round(table["val/score"][0], 4)
    head = file.read_text().partition("\nseed")[0]
    assert "faceaffect tune" in head
    assert "--trials 6" in head
    assert f"{best['val/score']:.4f}" in head
    assert all(line.startswith("#") for line in head.splitlines())
    assert Image.open(folder / "history.png").size[0] > 500
    left = {path.name for path in folder.rglob("*")}
    assert left == {"tiny_tuned.yaml", "recipe.yaml", "space.yaml", "history.csv", "history.png",
                    "study.db"}  # fmt: skip


def test_the_first_trial_is_the_recipe_as_it_stands(place: Path) -> None:
    assert main(["train", str(place / "tiny.yaml")]) == 0
    (run,) = (place / "runs" / "tiny").iterdir()
    (log,) = (run / "log").glob("*/metrics.csv")
    scores = pd.read_csv(log)["val/score"].dropna()
    first = history(place).iloc[0]
    assert first["val/score"] == pytest.approx(scores.max(), abs=1e-6)
    assert [float(s) for s in first["epochs"].split()] == pytest.approx(scores.tolist(), abs=1e-4)


def test_the_best_recipe_reaches_its_score_and_its_result_tells_of_the_search(
    place: Path,
) -> None:
    file = tuning(place) / "tiny_tuned.yaml"
    assert main(["train", str(file), f"output={place / 'again'}"]) == 0
    (run,) = (place / "again" / "tiny_tuned").iterdir()
    (log,) = (run / "log").glob("*/metrics.csv")
    score = pd.read_csv(log)["val/score"].max()
    assert score == pytest.approx(load_recipe(str(file))["tuned"]["score"], abs=1e-4)


def test_the_same_command_has_nothing_left_to_do_and_more_trials_go_on(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    argv = write(tmp_path)
    assert main([*argv, "--trials", "2"]) == 0
    trained: list[int] = []
    start = AffectModule.on_fit_start
    monkeypatch.setattr(AffectModule, "on_fit_start", lambda self: trained.append(1) or start(self))
    assert main([*argv, "--trials", "2"]) == 0
    assert trained == []
    assert main([*argv, "--trials", "3"]) == 0
    assert len(trained) == 1
    # As if three had been asked for at once.
    columns = ["state", "optim.lr", "model.dropout", "model.au_loss", "epochs"]
    assert history(tmp_path)[columns].equals(history(place)[columns].head(3))


def test_a_killed_search_goes_on_and_ends_at_the_same_trials(place: Path, tmp_path: Path) -> None:
    argv = [*write(tmp_path), "--trials", "4"]
    killer = Path(__file__).with_name("dies_in_trial.py")
    killed = Command(*argv, "--import", str(killer))
    said = killed.communicate()
    assert killed.returncode == -signal.SIGKILL, said
    states = [trial.state for trial in study_of(tmp_path).trials]
    assert states == [TrialState.COMPLETE, TrialState.COMPLETE, TrialState.RUNNING]
    assert len(history(tmp_path)) == 2  # what ended is there to read
    assert main(argv) == 0
    columns = ["state", "optim.lr", "model.dropout", "model.au_loss", "epochs"]
    got = history(tmp_path)
    assert len(got) == 4
    assert got[columns].equals(history(place)[columns].head(4))
    states = [trial.state for trial in study_of(tmp_path).trials]
    assert states.count(TrialState.RUNNING) == 0
    assert not list(tuning(tmp_path).glob("*.lock"))


def test_ctrl_c_says_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = [*write(tmp_path), "--trials", "2"]
    start = AffectModule.on_train_batch_start

    def pressed(self: Any, batch: Any, batch_idx: int) -> None:
        if self.current_epoch == 1:
            os.kill(os.getpid(), signal.SIGINT)
        start(self, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(AffectModule, "on_train_batch_start", pressed)
        assert main(argv) == 130
    signal.signal(signal.SIGINT, signal.default_int_handler)  # as in a new process
    assert "the same command goes on" in capsys.readouterr().err
    assert main(argv) == 0
    table = history(tmp_path)
    assert len(table) == 2
    assert table["as it stands"].tolist()[0] == "yes"


def test_a_search_that_is_told_to_stop_goes_on_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    argv = [*write(tmp_path), "--trials", "1"]
    start = AffectModule.on_train_batch_start

    def told(self: Any, batch: Any, batch_idx: int) -> None:
        if self.current_epoch == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        start(self, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(AffectModule, "on_train_batch_start", told)
        assert main(argv) == 143
    assert [trial.state for trial in study_of(tmp_path).trials] == [TrialState.FAIL]
    assert not (tuning(tmp_path) / "checkpoints").exists()
    assert main(argv) == 0
    assert history(tmp_path)["as it stands"].tolist() == ["yes"]


def test_nothing_is_read_of_the_test_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    argv = [*write(tmp_path), "--trials", "2"]
    read: set[str] = set()
    (cls,) = [c for c in FaceDataset.__subclasses__() if c.__name__ == "CsvFaces"]
    load = cls.load
    monkeypatch.setattr(
        cls, "load", lambda self, i: read.add(str(self.samples.id[i])) or load(self, i)
    )
    assert main(argv) == 0
    monkeypatch.undo()
    assert main(["train", str(tmp_path / "tiny.yaml"), "trainer.max_epochs=1"]) == 0
    (run,) = (tmp_path / "runs" / "tiny").iterdir()
    _, data = reopen(run)
    ids = data.dataset.samples.id
    assert read == {*ids[data.split.train], *ids[data.split.val]}
    assert not read & set(pd.read_csv(run / "predictions.csv")["id"])


def test_choosing_on_the_test_part_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*write(tmp_path), "data.protocol.selection=test"]) == 2
    assert "tune never looks at" in capsys.readouterr().err


def fail_at(patch: pytest.MonkeyPatch, error: Exception, trials: set[int]) -> None:
    """Let the loss of some trials, counted from 0, raise an error."""
    from faceaffect.models.timm_classifier import TimmClassifier

    loss, fit, begun = TimmClassifier.loss, AffectModule.on_fit_start, []

    def count(self: Any) -> None:
        begun.append(self)
        fit(self)

    def fails(self: Any, batch: Any) -> Any:
        if len(begun) - 1 in trials:
            raise error
        return loss(self, batch)

    patch.setattr(AffectModule, "on_fit_start", count)
    patch.setattr(TimmClassifier, "loss", fails)


def test_trials_that_fail_are_counted_and_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fail_at(monkeypatch, torch.OutOfMemoryError("CUDA out of memory"), {1})
    assert main([*write(tmp_path), "--trials", "3"]) == 0
    table = history(tmp_path)
    assert table["state"].tolist() == ["complete", "failed", "complete"]
    assert "CUDA out of memory" in table["failure"][1]
    assert "1 failed" in capsys.readouterr().out
    assert load_recipe(str(tuning(tmp_path) / "tiny_tuned.yaml"))["tuned"]["failed"] == 1


def test_a_loss_that_is_not_finite_fails_the_trial(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = write(tmp_path)
    (tmp_path / "space.yaml").write_text("optim.lr: {low: 1e30, high: 1e38, log: true}")
    assert main([*argv, "optim.name=sgd", "--trials", "2"]) == 0
    table = history(tmp_path)
    assert table["state"].tolist() == ["complete", "failed"]
    assert "NaN or infinite" in table["failure"][1]
    assert "lies outside the space" in capsys.readouterr().out


def test_a_search_without_a_finished_trial_is_one_error_and_can_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = write(tmp_path)
    with monkeypatch.context() as patch:
        fail_at(patch, ValueError("no such thing"), {0, 1})
        assert main([*argv, "--trials", "2"]) == 2
    error = capsys.readouterr().err.strip()
    assert "\n" not in error
    assert "none of 2 trials came to its end: ValueError: no such thing" in error
    assert history(tmp_path)["state"].tolist() == ["failed", "failed"]
    assert main([*argv, "--trials", "3"]) == 0
    assert history(tmp_path)["state"].tolist() == ["failed", "failed", "complete"]


def test_an_unreadable_face_ends_the_search_and_costs_no_trial(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = [*write(tmp_path), "--trials", "1", "data.on_error=raise"]
    faces = sorted((tmp_path / "faces").rglob("*.png")) + sorted(
        (tmp_path / "faces").rglob("*.jpg")
    )
    kept = {face: face.read_bytes() for face in faces}
    for face in faces:
        face.write_bytes(b"no picture")
    assert main(argv) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
    for face, content in kept.items():
        face.write_bytes(content)
    assert main(argv) == 0
    assert history(tmp_path)["state"].tolist() == ["complete"]


@pytest.mark.slow
def test_two_machines_share_the_trials_of_one_storage(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'shared.db'}"
    argv = [*write(tmp_path), "--trials", "3", "--storage", url]
    assert main([*argv, f"output={tmp_path / 'a'}"]) == 0
    assert main([*argv, f"output={tmp_path / 'b'}"]) == 0
    (a,), (b,) = ((tmp_path / name / "tune").iterdir() for name in "ab")
    assert a.name == b.name
    first, second = (pd.read_csv(folder / "history.csv") for folder in (a, b))
    assert first.equals(second)
    assert len(first) == 3
    assert not (a / "study.db").exists()
    body = [OmegaConf.load(folder / "tiny_tuned.yaml") for folder in (a, b)]
    assert body[0] == body[1]


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("sqlite:////nowhere/at/all.db", "unable to open database file"),
        ("nonsense", "Could not parse"),
        ("cobol://host/db", "cobol"),
        ("postgresql+psycopg2://me:secret@127.0.0.1:9/db", "."),
    ],
)
def test_a_storage_that_cannot_be_used_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], url: str, reason: str
) -> None:
    assert main([*write(tmp_path), "--storage", url]) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: --storage: ")
    assert reason in error
    assert "secret" not in error
    assert "\n" not in error


def test_bad_words_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = write(tmp_path)
    assert main([*argv, "--trials", "0"]) == 2
    assert "--trials: 0 is not positive" in capsys.readouterr().err
    assert main([*argv, "more.yaml"]) == 2
    assert "more.yaml" in capsys.readouterr().err
    assert main([*argv, "trainer.devices=2"]) == 2
    assert "tune trains on one device" in capsys.readouterr().err


@pytest.mark.slow
def test_a_changed_space_or_recipe_is_another_search(tmp_path: Path) -> None:
    argv = [*write(tmp_path), "--trials", "1"]
    assert main(argv) == 0
    assert main([*argv, "optim.name=sgd"]) == 0
    (tmp_path / "space.yaml").write_text(SPACE.replace("1e-1", "1e-2"))
    assert main(argv) == 0
    assert len(list((tmp_path / "runs" / "tune").iterdir())) == 3


def test_a_recipe_that_lies_about_its_search_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path)
    assert main(["train", str(tmp_path / "tiny.yaml"), "tuned.trails=3"]) == 2
    assert "tuned.trails: unknown key; did you mean 'trials'?" in capsys.readouterr().err


def test_json_can_hold_what_the_study_notes(place: Path) -> None:
    notes: dict[str, Any] = load_recipe(str(tuning(place) / "tiny_tuned.yaml"))["tuned"]
    assert json.loads(json.dumps(notes)) == notes
    assert set(notes["chosen"]) == {"optim.lr", "model.dropout", "model.au_loss"}


@pytest.mark.parametrize(
    ("error", "said", "tries"),
    [
        (sqlalchemy.exc.IntegrityError, "UNIQUE constraint failed", 2),
        (sqlalchemy.exc.OperationalError, "table studies already exists", 2),
        (sqlalchemy.exc.OperationalError, "unable to open database file", 1),
    ],
)
def test_searches_that_begin_at_one_moment_share_what_one_of_them_made(
    error: type[sqlalchemy.exc.DBAPIError],
    said: str,
    tries: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    opened: list[str] = []

    def first_refused(url: str, **given: Any) -> optuna.storages.RDBStorage:
        opened.append(url)
        if len(opened) == 1:
            raise error("CREATE TABLE", {}, Exception(said))
        return optuna.storages.RDBStorage(url, **given)

    monkeypatch.setattr(study, "RDBStorage", first_refused)
    monkeypatch.setattr(study.time, "sleep", lambda seconds: None)
    url = study.sqlite(tmp_path / "study.db")
    if tries == 1:
        with pytest.raises(RecipeError, match="unable to open"):
            study.open_storage(url)
    else:
        assert study.open_storage(url).get_all_studies() == []
    assert len(opened) == tries
