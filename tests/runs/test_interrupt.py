"""Ctrl-C in real processes: what is printed, the exit code, and that the work goes on."""

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from faceaffect.cli import main
from faces import write_csv
from forked import Command

RECIPE = """
model: {name: timm_classifier, backbone: test_vit}
data:
  name: csv
  table: %s
  protocol: {name: subject_kfold, folds: 3, fold: 1, val_fraction: 0.34}
  image_size: 32
  batch_size: 4
  num_workers: %d
optim: {lr: 1e-3}
trainer: {max_epochs: 2, accelerator: cpu}
output: %s
"""
SLOW = str(Path(__file__).parents[1] / "slow_steps.py")


@pytest.fixture
def recipe(tmp_path: Path) -> str:
    return write_recipe(tmp_path)


def write_recipe(folder: Path, workers: int = 0) -> str:
    table = write_csv(folder / "faces", people=7, each=4)
    (folder / "tiny.yaml").write_text(RECIPE % (table, workers, folder / "runs"))
    return str(folder / "tiny.yaml")


class Process:
    """A command in a process group of its own, as a shell starts it."""

    def __init__(self, *argv: str) -> None:
        self.process = Command(*argv, session=True)

    def wait_for(self, condition: Callable[[], object]) -> None:
        deadline = time.monotonic() + 300
        while not condition():
            assert self.process.poll() is None, self.process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def press(self, times: int = 1) -> None:
        """Press Ctrl-C: the terminal sends it to the whole group."""
        for _ in range(times):
            os.killpg(self.process.pid, signal.SIGINT)
            time.sleep(0.05)

    def terminate(self) -> None:
        """Send SIGTERM to all processes of the job at once, as a scheduler does."""
        os.killpg(self.process.pid, signal.SIGTERM)

    def end(self) -> tuple[int | None, str]:
        _, err = self.process.communicate()
        return self.process.returncode, err


@pytest.mark.parametrize(("times", "workers"), [(1, 0), (3, 2)])
def test_a_training_says_how_to_go_on_and_goes_on(tmp_path: Path, times: int, workers: int) -> None:
    argv = ["train", write_recipe(tmp_path, workers), "--import", SLOW]
    process = Process(*argv)
    process.wait_for(lambda: list(tmp_path.glob("runs/tiny/*/checkpoints/last.ckpt")))
    process.press(times)
    code, err = process.end()
    assert code == 130, err
    line = "interrupted; the same command with --resume goes on from the last checkpoint"
    assert err.strip().splitlines()[-1] == line
    assert "Traceback" not in err
    (run,) = (tmp_path / "runs" / "tiny").iterdir()
    assert not (run / "metrics.json").exists()
    if workers:
        return
    assert main([*argv, "--resume"]) == 0
    assert json.loads((run / "metrics.json").read_text())["checkpoint"]["epoch"] in (1, 2)
    assert list((tmp_path / "runs" / "tiny").iterdir()) == [run]


def members(group: int) -> list[int]:
    """Return the processes of a group that still run."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, own = stat.read_text().rpartition(")")[2].split()[:3]
        except OSError:  # gone meanwhile
            continue
        if int(own) == group and state != "Z":
            found.append(int(stat.parent.name))
    return found


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_a_scheduler_ends_a_training_and_the_processes_that_read_for_it(tmp_path: Path) -> None:
    argv = ["train", write_recipe(tmp_path, workers=2), "--import", SLOW]
    process = Process(*argv)
    process.wait_for(lambda: list(tmp_path.glob("runs/tiny/*/checkpoints/last.ckpt")))
    assert len(members(process.process.pid)) > 1
    process.terminate()
    code, err = process.end()
    assert code == 143, err
    line = "stopped by SIGTERM; the same command with --resume goes on from the last checkpoint"
    assert err.strip().splitlines()[-1] == line
    assert "Traceback" not in err
    deadline = time.monotonic() + 20
    while members(process.process.pid):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert main([*argv, "data.num_workers=2", "--resume"]) == 0
    (run,) = (tmp_path / "runs" / "tiny").iterdir()
    assert (run / "metrics.json").exists()


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_a_killed_reader_ends_the_training_with_a_line_and_soon(tmp_path: Path) -> None:
    process = Process("train", write_recipe(tmp_path, workers=2), "--import", SLOW)
    process.wait_for(lambda: list(tmp_path.glob("runs/tiny/*/checkpoints/last.ckpt")))
    os.kill(max(members(process.process.pid)), signal.SIGKILL)
    killed = time.monotonic()
    code, err = process.end()
    assert code == 2, err
    assert err.strip().splitlines()[-1].startswith("error: a process that reads faces was killed")
    assert "Traceback" not in err
    assert time.monotonic() - killed < 15  # the others would take half a minute for themselves


@pytest.mark.parametrize("command", ["crossval", "compare"])
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_crossval_and_compare_end_at_once(
    recipe: str, tmp_path: Path, name: str, command: str
) -> None:
    """Not the fold or the model alone, the others going on."""
    two = ["--seeds", "2"] if command == "compare" else []
    process = Process(command, recipe, *two, "--import", SLOW)
    process.wait_for(lambda: list(tmp_path.glob("runs/tiny/*/checkpoints/last.ckpt")))
    process.press() if name == "SIGINT" else process.terminate()
    code, err = process.end()
    expected, word = {"SIGINT": (130, "interrupted"), "SIGTERM": (143, "stopped by SIGTERM")}[name]
    assert code == expected, err
    last = err.strip().splitlines()[-1]
    assert last == f"{word}; the same command goes on where it stopped"
    assert "Traceback" not in err
    assert len(list((tmp_path / "runs" / "tiny").iterdir())) == 1
    assert not list(tmp_path.glob("runs/compare/*"))


SLEEPS = """
import pathlib, time
pathlib.Path(__file__).with_suffix(".here").touch()
time.sleep(600)
"""


def test_a_command_that_trains_nothing_promises_nothing(recipe: str, tmp_path: Path) -> None:
    (tmp_path / "sleeps.py").write_text(SLEEPS)
    process = Process("check", recipe, "--import", str(tmp_path / "sleeps.py"))
    process.wait_for((tmp_path / "sleeps.here").exists)
    process.press()
    assert process.end() == (130, "interrupted\n")
