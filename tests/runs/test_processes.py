"""Runs of two processes that torchrun or SLURM has started: one folder, one result, one voice."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from faceaffect.cli import main
from faceaffect.errors import RecipeError
from faceaffect.runs import processes
from faces import write_csv

RECIPE = """
model: {name: timm_classifier, backbone: test_vit}
data:
  name: csv
  table: %s
  protocol: {name: subject_kfold, folds: 3, fold: 1, val_fraction: 0.34}
  image_size: 32
  batch_size: 2
  num_workers: 0
optim: {lr: 1e-3}
trainer: {max_epochs: 2, accelerator: cpu, devices: 2, strategy: ddp}
output: %s
"""
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
CLI = ("-m", "faceaffect.cli")


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("several")
    table = write_csv(folder / "faces", people=7, each=3)
    (folder / "tiny.yaml").write_text(RECIPE % (table, folder / "runs"))
    return folder / "tiny.yaml"


def torchrun(*argv: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *TORCHRUN, *CLI, *argv], capture_output=True, text=True, timeout=500,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment}, check=False,
    )  # fmt: skip


def started(*argv: str, tasks: int = 2) -> list[subprocess.Popen[str]]:
    """Start a command as ``srun --ntasks-per-node=2`` does: at once, told by variables alone."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    common = {
        "SLURM_JOB_ID": "4711", "SLURM_JOB_NAME": "faces", "SLURM_NTASKS": str(tasks),
        "SLURM_NTASKS_PER_NODE": str(tasks), "SLURM_NNODES": "1", "SLURM_NODEID": "0",
        "SLURM_NODELIST": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    return [
        subprocess.Popen(
            [sys.executable, *CLI, *argv], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **common, "SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)},
        )
        for rank in range(tasks)
    ]  # fmt: skip


def srun(*argv: str, tasks: int = 2) -> list[tuple[int, str, str]]:
    """Wait for the end of what is started so."""
    return ends_of(started(*argv, tasks=tasks))


def ends_of(processes: list[subprocess.Popen[str]]) -> list[tuple[int, str, str]]:
    ends = [process.communicate(timeout=500) for process in processes]
    return [(p.returncode, out, err) for p, (out, err) in zip(processes, ends, strict=True)]


def one_run(output: Path) -> dict:
    (run,) = (output / "tiny").iterdir()
    names = sorted(path.name for path in (run / "checkpoints").iterdir())
    assert names == ["best.ckpt", "last.ckpt"]
    return json.loads((run / "metrics.json").read_text())


def assert_one_voice(said: str, samples: int) -> None:
    assert said.count("parameters trained, on ") == 1
    assert said.count(f"tiny: {samples} test samples") == 1
    assert said.count("written to ") == 1
    for word in ("sync_dist", "Warning", "Traceback"):
        assert word not in said, said


@pytest.mark.slow
def test_torchrun_trains_tests_and_goes_on(
    recipe: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    output = f"output={tmp_path}"
    done = torchrun("train", str(recipe), output)
    assert done.returncode == 0, done.stdout + done.stderr
    result = one_run(tmp_path)
    assert_one_voice(done.stdout + done.stderr, result["n"])
    assert result["n"] == result["protocol"]["sizes"]["test"]
    (run,) = (tmp_path / "tiny").iterdir()
    # A test by two processes, and one by this process alone, give the same.
    tested = torchrun("test", str(run))
    assert tested.returncode == 0, tested.stdout + tested.stderr
    assert main(["test", str(run), "trainer.devices=1", "trainer.strategy=auto"]) == 0
    for folder in (run / "tests").iterdir():
        again = json.loads((folder / "metrics.json").read_text())
        assert again["n"] == result["n"]
        assert again["metrics"] == pytest.approx(result["metrics"], abs=1e-5, nan_ok=True)
    assert len(list((run / "tests").iterdir())) == 2
    # Started again after a failure, as torchrun does: goes on with the run, asked or not.
    (run / "metrics.json").unlink()
    program = tmp_path / "again.py"
    program.write_text(
        "import os, sys\nos.environ['TORCHELASTIC_RESTART_COUNT'] = '1'\n"
        "from faceaffect.cli import main\nsys.exit(main(sys.argv[1:]))\n"
    )
    again = subprocess.run(
        [sys.executable, *TORCHRUN, str(program), "train", str(recipe), output],
        capture_output=True, text=True, timeout=500, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert again.returncode == 0, again.stdout + again.stderr
    assert again.stdout.count(f"going on with {run}") == 1
    assert one_run(tmp_path)["metrics"] == pytest.approx(result["metrics"], abs=1e-5, nan_ok=True)


@pytest.mark.slow
def test_torchrun_crosses_folds_into_one_summary(recipe: Path, tmp_path: Path) -> None:
    argv = ("crossval", str(recipe), f"output={tmp_path}", "trainer.max_epochs=1")
    done = torchrun(*argv, "--folds", "1", "2")
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(list((tmp_path / "tiny").iterdir())) == 2
    (summary,) = (tmp_path / "tiny-crossval").iterdir()
    assert json.loads((summary / "summary.json").read_text())["folds"] == [1, 2]
    # As with Lightning's own launcher, whose processes outlive the first fold.
    own = subprocess.run(
        [sys.executable, *CLI, *argv[:2], f"output={tmp_path}/own", *argv[3:], "--folds", "1", "2"],
        capture_output=True, text=True, timeout=500, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert own.returncode == 0, own.stdout + own.stderr
    assert len(list((tmp_path / "own" / "tiny").iterdir())) == 2
    assert len(list((tmp_path / "own" / "tiny-crossval").iterdir())) == 1


@pytest.mark.slow
def test_slurm_trains_and_tests(recipe: Path, tmp_path: Path) -> None:
    ends = srun("train", str(recipe), f"output={tmp_path}", "trainer.max_epochs=1")
    assert [code for code, *_ in ends] == [0, 0], ends
    result = one_run(tmp_path)
    assert_one_voice("".join(out + err for _, out, err in ends), result["n"])
    (run,) = (tmp_path / "tiny").iterdir()
    ends = srun("test", str(run))
    assert [code for code, *_ in ends] == [0, 0], ends
    (tested,) = (run / "tests").iterdir()
    again = json.loads((tested / "metrics.json").read_text())
    assert again["metrics"] == pytest.approx(result["metrics"], abs=1e-5, nan_ok=True)


@pytest.mark.slow
def test_an_error_of_the_first_ends_all(recipe: Path) -> None:
    """Here that no folder can be made; the others must not wait for its name."""
    ends = srun("train", str(recipe), "output=/dev/null/none")
    for rank, (code, _, err) in enumerate(ends):
        assert code == 2, err
        word = "process 1: error: " if rank else "error: "
        line = err.strip().splitlines()[-1]
        assert line.startswith(f"{word}/dev/null/none")
        assert line.endswith("Not a directory")


def wait_for_a_checkpoint(output: Path, processes: list[subprocess.Popen[str]]) -> None:
    deadline = time.monotonic() + 300
    while not list(output.glob("tiny/*/checkpoints/last.ckpt")):
        for process in processes:
            assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)


SLOW = str(Path(__file__).parents[1] / "slow_steps.py")


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["torchrun", "srun"])
def test_a_signal_ends_all_after_one_step_and_they_go_on(
    recipe: Path, tmp_path: Path, launcher: str
) -> None:
    """torchrun passes it on to its processes; of those of srun, the second alone is told here."""
    argv = ["train", str(recipe), f"output={tmp_path}", "data.batch_size=1", "--import", SLOW]
    if launcher == "torchrun":
        own = [subprocess.Popen(
            [sys.executable, *TORCHRUN, *CLI, *argv], stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
        )]  # fmt: skip
    else:
        own = started(*argv)
    wait_for_a_checkpoint(tmp_path, own)
    own[-1].send_signal(signal.SIGTERM)
    ends = ends_of(own)
    said = "".join(err for *_, err in ends)
    codes = [code for code, *_ in ends]
    if launcher == "torchrun":  # its own code
        assert codes[0] != 0, said
    else:
        assert codes == [143, 143], said
    line = "stopped by SIGTERM; the same command with --resume goes on from the last checkpoint"
    assert said.count(line) == 1, said
    (run,) = (tmp_path / "tiny").iterdir()
    assert not (run / "metrics.json").exists()
    last = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    assert last["callbacks"]["Resuming"]["processes"] == 2
    steps = last["loops"]["fit_loop"]["epoch_loop.batch_progress"]["current"]
    assert (last["epoch"], steps["processed"]) > (0, 0)
    done = torchrun(*argv, "--resume") if launcher == "torchrun" else None
    ends = [(done.returncode, done.stdout, done.stderr)] if done else srun(*argv, "--resume")
    assert {code for code, *_ in ends} == {0}, ends
    assert sum(out.count(f"going on with {run}") for _, out, _ in ends) == 1
    one_run(tmp_path)


@pytest.mark.slow
def test_a_process_that_is_killed_ends_the_other_with_a_word(recipe: Path, tmp_path: Path) -> None:
    own = started("train", str(recipe), f"output={tmp_path}", "data.batch_size=1", "--import", SLOW)
    wait_for_a_checkpoint(tmp_path, own)
    own[1].kill()
    (code, _, said), (killed, *_) = ends_of(own)
    assert (code, killed) == (2, -signal.SIGKILL)
    assert "Traceback" not in said
    assert said.count("error: another process has died or cannot be reached") == 1
    (run,) = (tmp_path / "tiny").iterdir()
    torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)  # whole, to go on from


@pytest.fixture
def as_one_of_two(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NTASKS", "NTASKS_PER_NODE"):
        monkeypatch.setenv(f"SLURM_{name}", "2")
    for name in ("PROCID", "LOCALID", "NODEID"):
        monkeypatch.setenv(f"SLURM_{name}", "0")
    monkeypatch.setenv("SLURM_JOB_NAME", "faces")


@pytest.mark.usefixtures("as_one_of_two")
def test_compare_is_refused_in_one_line(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", str(recipe), "trainer.devices=1"]) == 2
    assert "error: compare works in one process, and 2 were started" in capsys.readouterr().err


@pytest.mark.usefixtures("as_one_of_two")
def test_devices_that_do_not_fit_the_tasks_are_named(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for strategy in ("ddp", "auto"):  # the latter would train twice over
        argv = ["train", str(recipe), f"output={tmp_path}", "trainer.devices=1"]
        assert main([*argv, f"trainer.strategy={strategy}"]) == 2
        assert "2 processes were started, for trainer.devices=1" in capsys.readouterr().err
    assert not (tmp_path / "tiny").exists()


def test_tasks_of_slurm_that_lightning_cannot_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_NTASKS", "2")
    monkeypatch.setenv("SLURM_JOB_NAME", "faces")
    monkeypatch.delenv("SLURM_NTASKS_PER_NODE", raising=False)
    with pytest.raises(RecipeError, match="--ntasks-per-node=2"):
        processes.launched()
    monkeypatch.setenv("SLURM_JOB_NAME", "bash")  # a shell within a job
    assert processes.launched() == 1


def test_alone_the_first_decides_and_errors_are_its_own() -> None:
    assert not dist.is_initialized()
    assert processes.is_first()
    assert processes.launched() == 1
    assert processes.of_first(lambda: 3) == 3
    with pytest.raises(RecipeError, match="no"):
        processes.of_first(_refuse)


def _refuse() -> None:
    raise RecipeError("no")


def test_a_second_start_is_told_from_a_first(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not processes.was_restarted()
    for name in ("TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT"):
        for value, expected in (("", False), ("0", False), ("2", True)):
            monkeypatch.setenv(name, value)
            assert processes.was_restarted() == expected
        monkeypatch.delenv(name)
