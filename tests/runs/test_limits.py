"""Tests that do not see all of their protocol, trainings without an end, and where a test goes."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from faceaffect.cli import main
from faceaffect.errors import RecipeError
from faceaffect.runs.limits import check_trainer, limits_of, partial_test
from faces import write_csv

RECIPE = """
model: {name: timm_classifier, backbone: test_vit}
data:
  name: csv
  table: %s
  protocol: {name: subject_kfold, folds: 3, val_fraction: 0.34}
  image_size: 48
  batch_size: 4
  num_workers: 0
trainer: {max_epochs: 1, accelerator: cpu, limit_test_batches: 1}
output: %s
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a recipe whose test sees one batch only, and a run of it."""
    folder = tmp_path_factory.mktemp("limits")
    table = write_csv(folder / "faces", people=7, each=4)
    (folder / "part.yaml").write_text(RECIPE % (table, folder / "runs"), encoding="utf-8")
    assert main(["train", str(folder / "part.yaml")]) == 0
    return folder


def run_of(place: Path) -> Path:
    (run,) = (place / "runs" / "part").iterdir()
    return run


def result(run: Path) -> dict[str, Any]:
    return json.loads((run / "metrics.json").read_text(encoding="utf-8"))


def test_a_test_of_some_batches_is_stamped_and_refused_by_compare(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    got, whole = result(run_of(place)), result(run_of(place))["protocol"]["sizes"]["test"]
    assert got["n"] == 4 < whole
    assert got["partial"] == {"seen": 4, "of": whole}
    assert got["limits"] == {"limit_test_batches": 1}
    assert main(["compare", str(run_of(place))]) == 2
    error = capsys.readouterr().err
    assert f"a partial test, 4 of {whole} samples (trainer.limit_test_batches=1)" in error
    for command in ("compare", "crossval"):
        assert main([command, str(place / "part.yaml"), f"output={place}/none"]) == 2
        assert "limit_test_batches: 1 leaves test samples unseen" in capsys.readouterr().err
    assert not (place / "none").exists()


def test_a_test_goes_where_output_says_and_sees_all_without_the_limit(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, there = run_of(place), f"output={tmp_path}/out"
    before = sorted(path.name for path in run.iterdir())
    assert main(["test", str(run), there, "trainer.limit_test_batches=1.0"]) == 0
    assert "PARTIAL" not in capsys.readouterr().out
    assert sorted(path.name for path in run.iterdir()) == before
    (test,) = (tmp_path / "out" / "part-test").iterdir()
    got = result(test)
    assert (got["partial"], got["limits"]) == (None, {})
    assert (
        got["n"] == len(pd.read_csv(test / "predictions.csv")) == got["protocol"]["sizes"]["test"]
    )
    assert main(["test", str(run)]) == 0
    assert "PARTIAL TEST of 4 samples of" in capsys.readouterr().out


def test_limits_are_told_from_settings_that_pass_over_nothing() -> None:
    section = {"limit_train_batches": 0.5, "limit_val_batches": 1.0, "overfit_batches": 0.0}
    assert limits_of(section) == {"limit_train_batches": 0.5}
    assert limits_of({"limit_test_batches": 0, "overfit_batches": 2}) == {
        "limit_test_batches": 0, "overfit_batches": 2,
    }  # fmt: skip
    assert limits_of({"limit_test_batches": None, "max_epochs": 3}) == {}
    assert partial_test({"partial": None, "limits": {}}) == partial_test({}) == ""
    assert partial_test({"partial": {"seen": 3, "of": 5}, "limits": {}}).endswith("3 of 5 samples")


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"fast_dev_run": True}, "fast_dev_run: writes no checkpoint"),
        ({"fast_dev_run": 3}, "fast_dev_run: writes no checkpoint"),
        ({"max_epochs": -1}, "max_epochs: -1 has no end"),
        ({"max_epochs": None}, "max_epochs: None has no end"),
        ({"max_epochs": 0}, "max_epochs: with 0 nothing is trained"),
        ({"max_epochs": 3, "max_steps": 0}, "max_steps: with 0 nothing is trained"),
        ({"limit_train_batches": 0}, "limit_train_batches: with 0 nothing is trained"),
        ({"limit_val_batches": 0.0}, "limit_val_batches: with 0.0 nothing is trained, or no epoch"),
        ({"max_epochs": -1, "max_steps": -1, "max_time": "00:01:00:00"}, "-1 has no end"),
    ],
)
def test_a_training_without_a_result_is_refused(section: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        check_trainer(section)
    check_trainer({"max_epochs": -1, "max_steps": 5, "fast_dev_run": False})


def test_what_has_no_result_is_one_line_of_the_command(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for override in ("trainer.fast_dev_run=true", "trainer.max_epochs=-1"):
        argv = ["train", str(place / "part.yaml"), override, "output=/dev/null/none"]
        assert main(argv) == 2
        assert override.partition("=")[0] in capsys.readouterr().err
    assert main(["test", str(run_of(place)), "trainer.fast_dev_run=1"]) == 2
    assert not (run_of(place) / "checkpoints" / "tests").exists()


def test_a_checkpoint_beside_one_is_tested(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(run_of(place) / "checkpoints")
    assert main(["test", "best.ckpt", f"output={tmp_path}"]) == 0
    assert list(tmp_path.glob("part-test/*/metrics.json"))


def test_batch_norm_and_a_batch_of_one_say_what_to_do(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = "model={name: timm_classifier, backbone: {name: test_resnet, image_size: 32}}"
    argv = ["train", str(place / "part.yaml"), model, "data.batch_size=1", "data.image_size=32"]
    assert main([*argv, f"output={place}/one"]) == 2
    assert "data.batch_size: batch norm cannot learn from" in capsys.readouterr().err
