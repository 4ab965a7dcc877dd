"""A run that ends at any of its writes goes on and ends with the same numbers."""

import hashlib
import json
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from faceaffect.cli import main
from faceaffect.module import AffectModule
from faceaffect.runs import cost
from faces import write_csv

RECIPE = """
seed: 1
model: {name: timm_classifier, backbone: test_vit, dropout: 0.3}
data:
  name: csv
  table: %s
  protocol: {name: subject_kfold, folds: 3, fold: 1, val_fraction: 0.34}
  image_size: 48
  batch_size: 4
  augment: [light]
  num_workers: 0
optim: {lr: 1e-3, warmup_epochs: 0.5}
trainer: {max_epochs: 2, accelerator: cpu}
checkpoint: {every_n_steps: 1}
output: %s
"""

Watch = dict[str, Any]
_watch: Watch = {}


def _on_event(event: str, args: tuple[Any, ...]) -> None:
    """Keep a copy of the watched folder as it is before a file in it is written or moved."""
    if not _watch or event not in ("open", "os.rename", "os.remove"):
        return
    path, mode = str(args[0]), args[1] if event == "open" else ""
    reads = event == "open" and not (isinstance(mode, str) and set(mode) & set("wax+"))
    if reads or not path.startswith(str(_watch["folder"])):
        return
    watch = dict(_watch)
    _watch.clear()  # copying opens files too
    keep(watch["folder"], watch["into"])
    _watch.update(watch)


sys.addaudithook(_on_event)


def keep(folder: Path, into: Path) -> None:
    """Copy a folder unless a copy of the same contents is there."""
    digest = hashlib.sha256()
    for file in sorted(folder.rglob("*")):
        if file.is_dir() or "log" in file.parts or file.suffix == ".part":  # nobody reads them
            continue
        digest.update(str(file.relative_to(folder)).encode() + file.read_bytes())
    name = digest.hexdigest()[:12]
    if not list(into.glob(f"*-{name}")):
        shutil.copytree(folder, into / f"{len(list(into.iterdir())):03d}-{name}")


@contextmanager
def states(folder: Path, into: Path) -> Iterator[None]:
    """Collect every state in which a kill can leave a folder."""
    into.mkdir()
    _watch.update(folder=folder, into=into)
    try:
        yield
    finally:
        _watch.clear()
    keep(folder, into)


def numbers(folder: Path) -> tuple[str, dict[str, Any]]:
    """Return the newest run's predictions, bit for bit, and which checkpoint was chosen."""
    run = max(folder.glob("*/*/metrics.json")).parent
    table = hashlib.sha256((run / "predictions.csv").read_bytes()).hexdigest()
    result = json.loads((run / "metrics.json").read_text())
    return table, {key: result[key] for key in ("metrics", "checkpoint", "n")}


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the command of a training of two steps an epoch; its cost is not measured."""
    monkeypatch.setattr(cost, "measure", lambda *_: {"device": "cpu"})
    table = write_csv(tmp_path / "faces", people=6, each=3)
    (tmp_path / "tiny.yaml").write_text(RECIPE % (table, tmp_path / "runs"))
    return ["train", str(tmp_path / "tiny.yaml")]


def check_every_state(command: list[str], tmp_path: Path) -> list[Path]:
    """Go on from every state that a run passes through; return the states."""
    runs = tmp_path / "runs"
    with states(runs, tmp_path / "states"):
        assert main(command) == 0
    wanted = numbers(runs)
    found = sorted((tmp_path / "states").iterdir())
    for state in found:
        shutil.rmtree(runs)
        shutil.copytree(state, runs)
        assert main([*command, "--resume"]) == 0, state
        assert numbers(runs) == wanted, state
    return found


def written(state: Path) -> tuple[int, int] | None:
    """Return epoch and step of the checkpoint from which a state goes on."""
    found = list(state.rglob("last.ckpt"))
    if not found:
        return None
    last = torch.load(found[0], weights_only=True)
    return last["epoch"], last["global_step"]


@pytest.mark.slow
def test_a_run_killed_at_any_write_ends_with_the_same_numbers(
    tiny: list[str], tmp_path: Path
) -> None:
    found = check_every_state(tiny, tmp_path)
    places = [written(state) for state in found]
    assert list(dict.fromkeys(places)) == [None, (0, 1), (0, 2), (1, 3), (1, 4)]
    assert len(found) >= 11  # three before training, eight checkpoints, the result's files


ACCUMULATING = ["trainer.accumulate_grad_batches=2", "data.batch_size=2"]


def second_lives(command: list[str], tmp_path: Path) -> list[Path]:
    """Return the states of a run that was killed after its first step and goes on."""
    runs = tmp_path / "runs"
    with states(runs, tmp_path / "states"):
        assert main(command) == 0
    first = next(s for s in sorted((tmp_path / "states").iterdir()) if written(s) == (0, 1))
    shutil.rmtree(runs)
    shutil.copytree(first, runs)
    with states(runs, tmp_path / "again"):
        assert main([*command, "--resume"]) == 0
    return sorted((tmp_path / "again").iterdir())


def test_a_run_that_goes_on_writes_no_checkpoint_amid_accumulated_gradients(
    tiny: list[str], tmp_path: Path
) -> None:
    found = second_lives([*tiny, *ACCUMULATING], tmp_path)
    assert len({written(state) for state in found}) >= 3
    for state in found:
        (last,) = state.rglob("last.ckpt")
        batches = torch.load(last, weights_only=True)["loops"]["fit_loop"][
            "epoch_loop.batch_progress"
        ]
        assert batches["current"]["processed"] % 2 == 0 or batches["is_last_batch"], state


@pytest.mark.slow
@pytest.mark.parametrize("changes", [[], ACCUMULATING])
def test_a_run_killed_twice_ends_with_the_same_numbers(
    tiny: list[str], tmp_path: Path, changes: list[str]
) -> None:
    command, runs = [*tiny, *changes], tmp_path / "runs"
    found = second_lives(command, tmp_path)
    wanted = numbers(runs)
    assert len(found) > 5
    for state in found:
        shutil.rmtree(runs)
        shutil.copytree(state, runs)
        assert main([*command, "--resume"]) == 0, state
        assert numbers(runs) == wanted, state


def stopped_after_a_step(command: list[str], runs: Path) -> Path:
    """Begin a run that ends by a signal, and return its last checkpoint."""
    original = AffectModule.training_step

    def signalled(self: AffectModule, batch: Any, batch_idx: int) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        return original(self, batch, batch_idx)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(AffectModule, "training_step", signalled)
        assert main(command) == 143
    (last,) = runs.rglob("last.ckpt")
    return last


def test_another_number_of_processes_is_one_line(
    tiny: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As where the devices are all that a machine has, and now there are fewer."""
    last = stopped_after_a_step(tiny, tmp_path / "runs")
    stored = torch.load(last, weights_only=True)
    assert stored["callbacks"]["Resuming"]["processes"] == 1
    stored["callbacks"]["Resuming"]["processes"] = 2
    torch.save(stored, last)
    capsys.readouterr()
    assert main([*tiny, "--resume"]) == 2
    error = capsys.readouterr().err
    assert "2 processes trained this run, and now there are 1" in error
    assert "Go on with 2 (trainer.devices), or remove the folder" in error
    assert error.count("\n") == 1
    assert last.exists()


def test_what_cannot_be_gone_on_with_is_said_where_a_setting_is_another(
    tiny: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    last = stopped_after_a_step(tiny, tmp_path / "runs")
    run = last.parents[1]
    assert main([*tiny, "trainer.max_epochs=1", "optim.weight_decay=0.1", "--resume"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "starting a new one" in said
    assert f"{run.name} is not finished" in said
    assert "but has another trainer.max_epochs, optim.weight_decay)" in said.replace(
        "optim.weight_decay, trainer.max_epochs", "trainer.max_epochs, optim.weight_decay"
    )


EMO = [
    "train", "mini_emo_llama", "data.n=24", "data.subjects=8", "data.batch_size=4",
    "data.num_workers=0", "data.image_size=64", "data.protocol.folds=3",
    "data.protocol.val_fraction=0.4", "data.cache=null", "checkpoint.every_n_steps=1",
    "trainer.max_epochs=null", "trainer.max_steps=3", "trainer.accelerator=cpu",
    "trainer.limit_train_batches=1.0",
]  # fmt: skip


@pytest.mark.slow
def test_a_language_model_killed_at_any_write_ends_with_the_same_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cost, "measure", lambda *_: {"device": "cpu"})
    found = check_every_state([*EMO, f"output={tmp_path / 'runs'}"], tmp_path)
    places = list(dict.fromkeys(written(state) for state in found))
    assert [place[1] for place in places if place] == [1, 2, 3]


@pytest.mark.slow
@pytest.mark.parametrize("changes", [
    "trainer.val_check_interval=0.5 data.batch_size=2",
    "trainer.val_check_interval=3 trainer.check_val_every_n_epoch=null data.batch_size=2",
    "trainer.max_epochs=null trainer.max_steps=4",
    "trainer.max_epochs=null trainer.max_steps=7 data.batch_size=2",
    "trainer.accumulate_grad_batches=2 data.batch_size=2",
    "trainer.check_val_every_n_epoch=2 trainer.max_epochs=4",
    "checkpoint.choose=last",
    "checkpoint={}",
    "checkpoint.every_n_steps=3 data.batch_size=2",
    "callbacks=[{name: early_stopping, monitor: val/score, mode: max, patience: 1}]"
    " trainer.max_epochs=4",
])  # fmt: skip
def test_so_does_one_that_validates_and_ends_otherwise(
    tiny: list[str], tmp_path: Path, changes: str
) -> None:
    words = changes.replace(", ", ",").replace(": ", ":").split()
    check_every_state([*tiny, *(w.replace(",", ", ").replace(":", ": ") for w in words)], tmp_path)


@pytest.mark.parametrize(("name", "hook", "step"), [
    ("SIGTERM", "training_step", 0), ("SIGHUP", "training_step", 1),
    ("SIGUSR1", "validation_step", 0), ("SIGTERM", "test_step", 0),
])  # fmt: skip
def test_a_signal_ends_a_run_that_goes_on_with_the_same_numbers(
    tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str], name: str, hook: str, step: int,
) -> None:  # fmt: skip
    command = [*tiny, "checkpoint={}", "data.batch_size=2"]
    assert main(command) == 0
    wanted = numbers(tmp_path / "runs")
    shutil.rmtree(tmp_path / "runs")
    original = getattr(AffectModule, hook)

    def signalled(self: AffectModule, batch: Any, batch_idx: int) -> Any:
        if batch_idx == step and not self.trainer.sanity_checking:
            os.kill(os.getpid(), getattr(signal, name))
        return original(self, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(AffectModule, hook, signalled)
        assert main(command) == 143
    assert f"stopped by {name}; the same command with --resume" in capsys.readouterr().err
    (last,) = (tmp_path / "runs").rglob("last.ckpt")
    if hook != "test_step":
        assert torch.load(last, weights_only=True)["epoch"] == 0
    assert main([*command, "--resume"]) == 0
    assert numbers(tmp_path / "runs") == wanted


def test_a_full_disk_is_one_line_and_the_run_goes_on_after_room_is_made(
    tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    resource = pytest.importorskip("resource")
    assert main(tiny) == 0
    wanted = numbers(tmp_path / "runs")
    shutil.rmtree(tmp_path / "runs")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    try:
        code = main(tiny)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    error = capsys.readouterr().err
    assert code == 2
    assert "File too large. Make room; the same command with --resume" in error
    assert error.count("\n") == 1
    assert main([*tiny, "--resume"]) == 0
    assert numbers(tmp_path / "runs") == wanted


def test_a_run_whose_folder_is_removed_ends_in_one_line(
    tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    original = AffectModule.training_step

    def removes(self: AffectModule, batch: Any, batch_idx: int) -> Any:
        shutil.rmtree(tmp_path / "runs", ignore_errors=True)
        return original(self, batch, batch_idx)

    monkeypatch.setattr(AffectModule, "training_step", removes)
    assert main(tiny) == 2
    error = capsys.readouterr().err
    assert "No such file or directory" in error
    assert error.count("\n") == 1
