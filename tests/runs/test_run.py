"""Whole runs through the command line: results, resuming, several processes, bad input."""

import importlib
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from faceaffect import hardware
from faceaffect.cli import main
from faceaffect.data.base import create_data
from faceaffect.networks import origins, weights
from faceaffect.networks.weights import read_weights
from faceaffect.recipe import Recipe
from faceaffect.runs.folder import changed, made_of, write_made_of
from faceaffect.runs.result import environment
from faceaffect.runs.train import reopen
from faces import write_csv
from forked import Command

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
trainer: {max_epochs: 3, accelerator: cpu}
output: %s
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a recipe, its data, and one finished run."""
    folder = tmp_path_factory.mktemp("run")
    table = write_csv(folder / "faces", people=7, each=4)
    (folder / "tiny.yaml").write_text(RECIPE % (table, folder / "runs"))
    assert main(["train", str(folder / "tiny.yaml")]) == 0
    return folder


def only_run(folder: Path, recipe: str = "tiny") -> Path:
    (run,) = (folder / "runs" / recipe).iterdir()
    return run


def result(run: Path) -> dict:
    return json.loads((run / "metrics.json").read_text())


def test_a_run_folder_holds_what_the_docs_say(place: Path) -> None:
    run = only_run(place)
    got = result(run)
    sections = "model recipe schema protocol n metrics baselines cost skipped environment"
    assert set(got) >= set(sections.split())
    assert got["model"]["name"] == "timm_classifier"
    assert got["environment"]["seed"] == 1
    assert set(got["protocol"]["sha256"]) == {"train", "val", "test"}
    assert {"au_f1", "expression_war", "expression_uar", "va_ccc"} <= set(got["metrics"])
    assert set(got["baselines"]) <= set(got["metrics"])
    cost = got["cost"]
    assert cost["trainable_parameters"] == cost["parameters"] > 0
    assert (
        min(cost[key] for key in ("flops_per_image", "images_per_second", "training_seconds")) > 0
    )
    table = pd.read_csv(run / "predictions.csv")
    assert len(table) == got["n"] == got["protocol"]["sizes"]["test"]
    assert {"id", "subject", "target/expression", "target/AU1", "prob/AU1", "pred/valence"} <= set(
        table
    )
    best = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)
    last = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    assert "optimizer_states" not in best
    assert "optimizer_states" in last
    assert list((run / "log").glob("*/metrics.csv"))
    assert got["training"]["epochs"] == 3


def test_epochs_of_a_share_of_the_batches_are_parts_of_one(place: Path, tmp_path: Path) -> None:
    words = ["trainer.max_epochs=2", "trainer.limit_train_batches=2", f"output={tmp_path}/runs"]
    assert main(["train", str(place / "tiny.yaml"), *words]) == 0
    got = result(only_run(tmp_path))
    batches = -(-got["protocol"]["sizes"]["train"] // 4)
    assert got["training"]["epochs"] == pytest.approx(2 * 2 / batches, abs=0.01)


def test_test_repeats_the_result_and_takes_other_data(place: Path, tmp_path: Path) -> None:
    run = only_run(place)
    assert main(["test", str(run)]) == 0
    (again,) = (run / "tests").iterdir()
    assert result(again)["metrics"] == pytest.approx(result(run)["metrics"], nan_ok=True)
    frame = pd.read_csv(write_csv(tmp_path / "other", people=3, each=2))
    frame = frame.drop(columns=["AU1"]).assign(AU9=1)
    frame.to_csv(tmp_path / "other" / "faces.csv", index=False)
    checkpoint = run / "checkpoints" / "best.ckpt"
    overrides = [
        f"data.table={tmp_path}/other/faces.csv",
        "data.protocol=all",
        f"output={tmp_path}/out",
    ]
    assert main(["test", str(checkpoint), "data.name=csv", *overrides]) == 0
    newest = result(max((tmp_path / "out" / "tiny-test").iterdir()))
    assert newest["n"] == len(frame)
    assert "AU9" in str(newest["not_scored"])
    assert "au_f1/AU1" not in newest["metrics"]
    assert any(key.startswith("au_f1/AU") for key in newest["metrics"])


def test_data_without_a_shared_name_is_refused(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frame = pd.read_csv(write_csv(tmp_path / "other", people=3, each=2))
    frame[["image", "subject"]].assign(AU9=1).to_csv(tmp_path / "other" / "faces.csv", index=False)
    overrides = [f"data.table={tmp_path}/other/faces.csv", "data.protocol=all"]
    assert main(["test", str(only_run(place)), *overrides]) == 2
    assert "share no label name" in capsys.readouterr().err


def test_a_killed_run_ends_with_the_numbers_of_one_that_was_not(
    place: Path, tmp_path: Path
) -> None:
    (tmp_path / "tiny.yaml").write_text((place / "tiny.yaml").read_text())
    argv = ("train", str(tmp_path / "tiny.yaml"), f"output={tmp_path}/runs")
    process = Command(*argv, "--import", str(Path(__file__).parents[1] / "slow_steps.py"))
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("runs/tiny/*/checkpoints/last.ckpt")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    time.sleep(0.15)  # into the next epoch, whose steps are slowed down
    process.send_signal(signal.SIGKILL)
    process.communicate()
    run = only_run(tmp_path)
    assert not (run / "metrics.json").exists()
    assert main([*argv, "--resume"]) == 0
    assert only_run(tmp_path) == run
    assert result(run)["metrics"] == result(only_run(place))["metrics"]
    assert result(run)["protocol"] == result(only_run(place))["protocol"]


def test_a_run_killed_within_an_epoch_goes_on_from_its_step(place: Path, tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text((place / "tiny.yaml").read_text())
    argv = (
        "train",
        str(tmp_path / "tiny.yaml"),
        f"output={tmp_path}/runs",
        "checkpoint.every_n_steps=2",
    )
    process = Command(*argv, "--import", str(Path(__file__).parents[1] / "dies_in_epoch.py"))
    output = process.communicate()
    assert process.returncode == -signal.SIGKILL, output
    last = torch.load(only_run(tmp_path) / "checkpoints" / "last.ckpt", weights_only=True)
    assert (last["epoch"], last["global_step"]) == (1, 4)
    assert main([*argv, "--resume"]) == 0
    assert result(only_run(tmp_path))["metrics"] == result(only_run(place))["metrics"]


def test_a_run_killed_while_it_writes_a_checkpoint_goes_on_from_the_one_before(
    place: Path, tmp_path: Path
) -> None:
    argv = ("train", str(place / "tiny.yaml"), f"output={tmp_path}/runs")
    process = Command(*argv, "--import", str(Path(__file__).parents[1] / "dies_in_saving.py"))
    output = process.communicate()
    assert process.returncode == -signal.SIGKILL, output
    folder = only_run(tmp_path) / "checkpoints"
    assert (folder / "last.ckpt.part").exists()
    assert torch.load(folder / "last.ckpt", weights_only=True)["epoch"] == 0
    assert main([*argv, "--resume"]) == 0
    assert result(only_run(tmp_path))["metrics"] == result(only_run(place))["metrics"]
    assert sorted(path.name for path in folder.iterdir()) == ["best.ckpt", "last.ckpt"]


def test_a_damaged_checkpoint_counts_as_none(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["train", str(place / "tiny.yaml"), f"output={tmp_path}/runs", "trainer.max_epochs=1"]
    assert main(argv) == 0
    run = only_run(tmp_path)
    before = result(run)
    (run / "metrics.json").unlink()
    os.truncate(run / "checkpoints" / "last.ckpt", 1000)
    assert main([*argv, "--resume"]) == 0
    assert "last.ckpt is damaged: the run starts again" in capsys.readouterr().out
    assert only_run(tmp_path) == run
    assert result(run)["metrics"] == before["metrics"]


HOLD = """
import fcntl, sys, time
file = open(sys.argv[1], "a+")
fcntl.lockf(file, fcntl.LOCK_EX)
print("held", flush=True)
time.sleep(600)
"""


def test_a_run_that_another_process_trains_is_passed_over(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["train", str(place / "tiny.yaml"), f"output={tmp_path}/runs", "trainer.max_epochs=1"]
    assert main(argv) == 0
    run = only_run(tmp_path)
    (run / "metrics.json").unlink()
    command = [sys.executable, "-c", HOLD, str(run / "lock")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        assert main([*argv, "--resume"]) == 0
        assert f"{run} is passed over: another process trains it" in capsys.readouterr().out
        other.kill()
    assert len(list(run.parent.iterdir())) == 2
    assert not (run / "metrics.json").exists()
    assert main([*argv, "--resume"]) == 0
    assert (run / "metrics.json").exists()


def test_a_run_of_other_labels_is_not_gone_on_with(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = write_csv(tmp_path / "faces", people=7, each=2)
    (tmp_path / "tiny.yaml").write_text(RECIPE % (table, tmp_path / "runs"))
    argv = ["train", str(tmp_path / "tiny.yaml"), "trainer.max_epochs=1"]
    assert main(argv) == 0
    run = only_run(tmp_path)
    (run / "metrics.json").unlink()
    frame = pd.read_csv(table)
    names = json.loads((run / "made_of.json").read_text())
    trained = [side for side in ("train", "val", "test") if f"labels of the {side} part" in names]
    assert trained == ["train", "val", "test"]
    frame["AU1"] = 1 - frame["AU1"]
    frame.to_csv(table, index=False)
    capsys.readouterr()
    assert main([*argv, "--resume"]) == 0
    said = capsys.readouterr().out
    assert f"{run} is passed over" in said
    assert "labels of the train part" in said
    assert "starting a new one" in said
    assert len(list(run.parent.iterdir())) == 2


PART = "from torch import nn\n\nclass Part(nn.Linear):\n    pass\n"
OWN = """
from own_part import Part
from faceaffect.models.timm_classifier import TimmClassifier

class Own(TimmClassifier):
    def __init__(self, schema):
        super().__init__(schema, backbone="asset:mini_vit")
        self.part = Part(2, 2)
"""


def test_what_a_run_is_made_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = write_csv(tmp_path / "faces", people=7, each=2)
    (tmp_path / "own_part.py").write_text(PART)
    (tmp_path / "own_model.py").write_text(OWN)
    (tmp_path / "turns.jsonl").write_text("{}")
    monkeypatch.syspath_prepend(str(tmp_path))
    section = {"instructions": [str(tmp_path / "turns.jsonl"), "no file"]}
    recipe = Recipe("own", {"model": section, "trainer": {"precision": "auto"}})
    own = importlib.import_module("own_model").Own

    def made() -> dict[str, Any]:
        data = create_data("csv", table=str(table))
        return made_of(data, own(data.schema), recipe)

    def differ() -> list[str]:
        return changed(tmp_path, made())

    assert changed(tmp_path, made()) == ["made_of.json (not there)"]
    write_made_of(tmp_path, made())
    assert differ() == []
    for name in ("own_model.py", "own_part.py", "turns.jsonl"):
        file = tmp_path / name
        before = file.read_text()
        file.write_text(before + "\n")
        assert [d.rsplit("/")[-1] for d in differ()] == [name]
        file.write_text(before)
    with monkeypatch.context() as patch:
        patch.setattr(weights, "_SAMPLES", 63)  # as if the asset held other weights
        patch.setattr(origins, "load_asset", lambda path: (read_weights(path), {}))
        assert differ() == ["weights of backbone"]
    with monkeypatch.context() as patch:  # as if the run went on on another machine
        other = (torch.float64, "a machine of dreams")
        patch.setattr(hardware, "best_dtype", lambda device: other)
        patch.setitem(hardware.PRECISIONS, torch.float64, "64-true")
        assert differ() == ["precision"]
    frame = pd.read_csv(table)
    frame.assign(**{"attribute/group": "a"}).to_csv(table, index=False)
    assert differ() == ["attributes, intensities and weights of samples"]
    frame.assign(valence=0.5).to_csv(table, index=False)
    assert differ() == [f"labels of the {side} part" for side in ("train", "val", "test")]
    frame.iloc[1:].to_csv(table, index=False)
    assert "samples of the train part" in differ() or "samples of the test part" in differ()


def test_the_revision_is_that_of_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def git(*words: str) -> str:
        command = ["git", "-c", "user.name=n", "-c", "user.email=e", *words]
        return subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True,
                              ).stdout.strip()  # fmt: skip

    git("init")
    git("commit", "--allow-empty", "-m", "of somebody else")
    mine, monkey = environment(0)["git"], monkeypatch
    monkey.chdir(tmp_path)
    assert environment(0)["git"] == mine != git("rev-parse", "HEAD")
    installed = tmp_path / "venv" / "faceaffect" / "__init__.py"
    monkey.setattr("faceaffect.__file__", str(installed))
    assert environment(0)["git"] is None


def test_the_last_epoch_can_be_chosen_instead_of_the_best(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["train", str(place / "tiny.yaml"), f"output={tmp_path}/runs", "checkpoint.choose=last"]
    assert main(argv) == 0
    run = only_run(tmp_path)
    best, last = (
        torch.load(run / "checkpoints" / f"{name}.ckpt", weights_only=True)
        for name in ("best", "last")
    )
    assert best["epoch"] == last["epoch"] == 2
    for key, value in best["state_dict"].items():
        assert torch.equal(value, last["state_dict"][key])
    assert "optimizer_states" not in best
    assert result(run)["checkpoint"] == {"choose": "last", "epoch": 3}
    assert result(run)["protocol"] == result(only_run(place))["protocol"]
    assert main([*argv[:-1], "checkpoint.choose=worst"]) == 2
    assert "checkpoint.choose" in capsys.readouterr().err


def test_resume_without_an_unfinished_run_says_so(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = [
        "train",
        str(place / "tiny.yaml"),
        f"output={tmp_path}",
        "trainer.max_epochs=1",
        "--resume",
    ]
    assert main(argv) == 0
    assert "no unfinished run" in capsys.readouterr().out


@pytest.mark.slow
def test_two_processes_test_as_one_also_with_an_odd_number(place: Path) -> None:
    run = only_run(place)
    frame = pd.read_csv(place / "faces" / "faces.csv").iloc[:-1]
    frame.to_csv(place / "faces" / "odd.csv", index=False)
    assert len(frame) % 2 == 1
    common = [f"data.table={place}/faces/odd.csv", "data.protocol=all"]
    assert main(["test", str(run), *common]) == 0
    one = max((run / "tests").iterdir())
    command = [sys.executable, "-m", "faceaffect.cli", "test", str(run), *common,
               "trainer.devices=2", "trainer.strategy=ddp"]  # fmt: skip
    done = subprocess.run(
        command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True,
        timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    two = max((run / "tests").iterdir())
    assert two != one
    assert result(two)["n"] == len(frame)
    assert result(two)["metrics"] == pytest.approx(result(one)["metrics"], abs=1e-6, nan_ok=True)


def test_damaged_images_are_left_out_and_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = write_csv(tmp_path / "faces", people=7, each=4)
    frame = pd.read_csv(table)
    broken = [frame["image"][i] for i in (0, 9)]
    (table.parent / broken[0]).write_bytes(b"")
    whole = (table.parent / broken[1]).read_bytes()
    (table.parent / broken[1]).write_bytes(whole[: len(whole) // 3])
    (tmp_path / "tiny.yaml").write_text(RECIPE % (table, tmp_path / "runs"))
    assert main(["train", str(tmp_path / "tiny.yaml"), "trainer.max_epochs=1"]) == 0
    assert set(result(only_run(tmp_path))["skipped"]) == set(broken)
    assert result(only_run(tmp_path))["partial"] is None
    argv = ["train", str(tmp_path / "tiny.yaml"), "data.on_error=raise"]
    assert main(argv) == 2
    assert "on_error=skip" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model.dropuot=0.1"], "model.dropuot: unknown key; did you mean 'dropout'?"),
        (["model.backbone.pretraind=true"], "pretraind"),
        (["model.backbone=resnet1800"], "resnet1800"),
        (["data.batch_sise=3"], "data.batch_sise: unknown key; did you mean 'batch_size'?"),
        (["data.batch_size=many"], "data.batch_size: Value 'many'"),
        (["data.protocol.fold=9"], "fold"),
        (["data.table=nowhere.csv"], "nowhere.csv"),
        (["data.augment=[lihgt]"], "did you mean 'light'?"),
        (["optim.lr=-1"], "optim.lr: -1"),
        (["optim.schedule=cosin"], "did you mean 'cosine'?"),
        (["trainer.max_epoch=1"], "trainer.max_epoch: unknown key; did you mean 'max_epochs'?"),
        (["trainer.precision=bf17"], "trainer"),
        (["checkpoint.every_n_steps=0"], "checkpoint.every_n_steps: 0 is not positive"),
        (["task_weights={gaze: 1}"], "task_weights.gaze"),
        (["logger=[{name: csv, nmae: x}]"], "logger[0].nmae"),
    ],
)
def test_bad_input_is_one_line_that_names_it(
    place: Path, overrides: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", str(place / "tiny.yaml"), *overrides, "output=/dev/null/none"]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("error: ")


def test_a_loss_that_is_not_finite_names_the_samples(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", str(place / "tiny.yaml"), "optim.lr=1e30", "optim.warmup_epochs=0"]) == 2
    error = capsys.readouterr().err
    assert "became NaN or infinite" in error
    assert "optim.lr=1e+29" in error
    assert ".png" in error or ".jpg" in error


def test_a_training_of_so_many_steps_warms_up_by_epochs(place: Path, tmp_path: Path) -> None:
    command = ["train", str(place / "tiny.yaml"), f"output={tmp_path}", "data.batch_size=1",
               "trainer.accumulate_grad_batches=5", "trainer.max_epochs=null",
               "trainer.max_steps=8", "optim.schedule=inverse_sqrt",
               "optim.warmup_epochs=1"]  # fmt: skip
    assert main(command) == 0
    (run,) = tmp_path.glob("*/*/")
    data = reopen(run)[1]
    data.setup("fit")
    warmup = math.ceil(len(data.split.train) / 5)
    state = torch.load(run / "checkpoints" / "last.ckpt", weights_only=False)
    assert warmup < state["global_step"] == 8
    rate = 1e-3 * (warmup / 8) ** 0.5
    assert state["lr_schedulers"][0]["_last_lr"] == [pytest.approx(rate)] * 2


def test_a_training_that_ends_before_any_validation_says_so(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["train", str(place / "tiny.yaml"), f"output={tmp_path}", "data.batch_size=1",
               "trainer.max_epochs=null", "trainer.max_steps=2"]  # fmt: skip
    assert main(command) == 2
    assert "trainer.max_steps" in capsys.readouterr().err


def test_check_and_crossval(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", str(place / "tiny.yaml"), "data.protocol=all"]) == 0
    assert main(["check", str(place / "tiny.yaml")]) == 0
    assert "all good" in capsys.readouterr().out
    argv = ["crossval", str(place / "tiny.yaml"), f"output={tmp_path}", "trainer.max_epochs=1"]
    assert main([*argv, "--folds", "1", "2"]) == 0
    assert main([*argv, "--folds", "1", "2"]) == 0
    assert len(list((tmp_path / "tiny").iterdir())) == 2, "finished folds are taken over"
    summary = json.loads((max((tmp_path / "tiny-crossval").iterdir()) / "summary.json").read_text())
    runs = [result(Path(run)) for run in summary["runs"]]
    assert summary["folds"] == [1, 2]
    mean = sum(r["metrics"]["expression_war"] for r in runs) / 2
    assert summary["mean"]["expression_war"] == pytest.approx(mean)
    pooled = sum(r["metrics"]["expression_war"] * r["n"] for r in runs) / sum(r["n"] for r in runs)
    assert summary["pooled"]["expression_war"] == pytest.approx(pooled, abs=1e-6)
    assert main([*argv, "--folds", "7"]) == 2
    assert "folds 1 to 3" in capsys.readouterr().err
