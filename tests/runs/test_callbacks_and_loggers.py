"""Every callback and logger of the tables, by its name in a recipe, through the command line."""

import importlib.util
import json
import math
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from faceaffect.cli import main
from faceaffect.recipe import load_recipe
from faceaffect.registry import TABLES
from faceaffect.runs.train import check_sections
from faces import write_csv

RECIPE = """
model: {name: timm_classifier, backbone: test_vit}
data:
  name: csv
  table: %s
  protocol: {name: subject_kfold, folds: 3, fold: 1, val_fraction: 0.34}
  image_size: 48
  batch_size: 4
  num_workers: 0
optim: {lr: 1e-3}
trainer: {max_epochs: 1, accelerator: cpu, log_every_n_steps: 1}
"""

NEEDED = {"gradient_accumulation": {"scheduling": {0: 2}}}
"""What has no default, since there is nothing that anybody would expect."""

SLOW_TO_START = ("mlflow", "wandb")


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("recipe")
    (folder / "tiny.yaml").write_text(RECIPE % write_csv(folder / "faces", people=7, each=4))
    return str(folder / "tiny.yaml")


def train(recipe: str, output: Path, *overrides: str) -> Path:
    """Train and test, and return the one run folder."""
    assert main(["train", recipe, f"output={output}", *overrides]) == 0
    (run,) = (output / "tiny").iterdir()
    assert json.loads((run / "metrics.json").read_text())["metrics"]
    return run


def logged(run: Path) -> pd.DataFrame:
    (file,) = run.glob("log/*/metrics.csv")
    return pd.read_csv(file)


@pytest.mark.parametrize("name", sorted(TABLES["callbacks"]))
def test_every_callback_trains_and_tests(recipe: str, tmp_path: Path, name: str) -> None:
    node = {"name": name, **NEEDED.get(name, {})}  # its repr is YAML
    train(recipe, tmp_path, f"callbacks=[{node}]")


def test_all_callbacks_together(
    recipe: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    needed = {**NEEDED, "throughput": {"window_size": 2}}
    nodes = [{"name": name, **needed.get(name, {})} for name in sorted(TABLES["callbacks"])]
    run = train(recipe, tmp_path, f"callbacks={nodes}", "trainer.max_epochs=2")
    table = logged(run)
    assert "lr-AdamW/pg1" in table
    assert table["train/device/samples_per_sec"].max() > 0
    said = capsys.readouterr().out
    assert "Total params" in said  # the summary is there to be seen


def test_the_schedule_ends_with_the_last_step_whatever_is_accumulated(
    recipe: str, tmp_path: Path
) -> None:
    callback = "{name: gradient_accumulation, scheduling: {0: 2, 2: 3}}"
    run = train(recipe, tmp_path, f"callbacks=[{callback}]", "trainer.max_epochs=3",
                "optim.schedule=linear")  # fmt: skip
    last = torch.load(run / "checkpoints" / "last.ckpt", weights_only=False)
    result = json.loads((run / "metrics.json").read_text())
    batches = result["protocol"]["sizes"]["train"] // 4
    assert last["global_step"] == 2 * math.ceil(batches / 2) + math.ceil(batches / 3)
    assert last["lr_schedulers"][0]["_last_lr"] == [0.0, 0.0]


@pytest.mark.parametrize(("node", "says"), [
    ("gradient_accumulation", "callbacks[0]: GradientAccumulationScheduler needs scheduling"),
    ('{"name": "gradient_accumulation", "scheduling": {}}', "callbacks[0]: "),
    ('{"name": "early_stopping", "mode": "up"}', "callbacks[0].mode"),
    ('{"name": "early_stopping", "kwargs": 1}', "callbacks[0].kwargs: unknown key"),
    ('{"name": "early_stopping", "monitor": "val/no"}', "val/no"),
    ('{"name": "model_summary", "max_depht": 1}', "did you mean 'max_depth'?"),
])  # fmt: skip
def test_wrong_callbacks_are_one_line(
    recipe: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], node: str, says: str
) -> None:
    assert main(["train", recipe, f"output={tmp_path}", f"callbacks=[{node}]"]) == 2
    assert says in capsys.readouterr().err


def test_better_is_less_only_of_losses() -> None:
    from faceaffect.runs.callbacks import early_stopping

    modes = {m: early_stopping(m).mode for m in ("val/score", "val/au_f1", "train/loss_epoch")}
    assert modes == {"val/score": "max", "val/au_f1": "max", "train/loss_epoch": "min"}
    assert early_stopping("train/loss", mode="max").mode == "max"


# Loggers


def of_tensorboard(run: Path) -> dict[str, float]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (folder,) = {file.parent for file in run.glob("log/*/events*")}
    events = EventAccumulator(str(folder)).Reload()
    return {tag: events.Scalars(tag)[-1].value for tag in events.Tags()["scalars"]}


def of_wandb(run: Path) -> dict[str, float]:
    from wandb.proto.wandb_internal_pb2 import Record

    (file,) = run.glob("wandb/offline-run-*/*.wandb")
    found = {}
    for data in records(file.read_bytes()):
        record = Record()
        record.ParseFromString(data)
        for item in record.history.item:
            found["/".join(item.nested_key) or item.key] = json.loads(item.value_json)
    return found


def records(data: bytes) -> Iterator[bytes]:
    """Yield the records of a LevelDB log behind the seven bytes by which W&B marks its own.

    Blocks of 32 KiB hold pieces of records: checksum, length, kind (1 a whole one, 4 a last one).
    """
    place, whole = 7, b""
    while place + 7 <= len(data):
        if 2**15 - place % 2**15 < 7:
            place += 2**15 - place % 2**15
        length, kind = struct.unpack_from("<HB", data, place + 4)
        whole += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):
            yield whole
            whole = b""


def of_mlflow(run: Path) -> dict[str, float]:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{run.parents[1] / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("tiny")
    (found,) = client.search_runs([experiment.experiment_id])
    assert found.info.status == "FINISHED"
    assert found.info.run_name == f"tiny/{run.name}"
    return found.data.metrics


def of_csv(run: Path) -> dict[str, float]:
    return logged(run).ffill().iloc[-1].to_dict()


READ = {"csv": of_csv, "mlflow": of_mlflow, "tensorboard": of_tensorboard, "wandb": of_wandb}


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=pytest.mark.slow if n in SLOW_TO_START else ())
     for n in sorted(TABLES["loggers"])],
)  # fmt: skip
def test_every_logger_has_the_metrics_of_training_and_test(
    recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    if name != "csv":
        pytest.importorskip(name, reason=f"the extra '{name}' is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    run = train(recipe, tmp_path, f"logger={name}")
    found: dict[str, Any] = READ[name](run)
    wanted = json.loads((run / "metrics.json").read_text())["metrics"]
    assert found["test/expression_war"] == pytest.approx(wanted["expression_war"], abs=1e-6)
    assert math.isfinite(found["val/score"])
    assert math.isfinite(found["train/loss_epoch"])


@pytest.mark.slow
def test_each_fold_has_a_page_of_its_own(
    recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb", reason="the extra 'wandb' is not installed")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    logger = "logger={name: wandb, offline: true, tags: [a, b]}"
    assert main(["crossval", recipe, f"output={tmp_path}", logger, "--folds", "1", "2"]) == 0
    pages = list(tmp_path.glob("tiny/*/wandb/offline-run-*"))
    assert len({page.parents[1] for page in pages}) == len(pages) == 2


@pytest.mark.slow
def test_a_logger_that_cannot_start_is_one_line_before_any_training(
    recipe: str, tmp_path: Path
) -> None:
    pytest.importorskip("wandb", reason="the extra 'wandb' is not installed")
    done = subprocess.run(
        [sys.executable, "-m", "faceaffect.cli", "train", recipe, f"output={tmp_path}/runs",
         "logger=wandb"],
        capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False,
        env={**_environment(), "HOME": str(tmp_path), "NETRC": str(tmp_path / "none")},
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert line.startswith("error: logger wandb: does not start: ")
    assert "offline: true" in line
    assert not list((tmp_path / "runs" / "tiny").iterdir())


def _environment() -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if not key.startswith("WANDB_")}


@pytest.mark.parametrize("name", ["mlflow", "tensorboard", "wandb"])
def test_a_logger_that_is_not_installed_names_the_extra(
    recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str], name: str,
) -> None:  # fmt: skip
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda n, *a: None if n == name else find(n))
    assert main(["train", recipe, f"output={tmp_path}", f"logger={name}"]) == 2
    assert f"pip install 'faceaffect[{name}]'" in capsys.readouterr().err


@pytest.mark.parametrize("name", sorted(TABLES["loggers"]))
def test_a_recipe_does_not_name_what_the_run_gives(recipe: str, name: str) -> None:
    check_sections(load_recipe(recipe, [f"logger={name}"]))
    for key in ("save_dir", "folder", "kwargs"):
        with pytest.raises(Exception, match="unknown key"):
            check_sections(load_recipe(recipe, [f"logger={{name: {name}, {key}: x}}"]))
