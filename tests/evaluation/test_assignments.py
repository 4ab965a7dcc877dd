"""Several assignments of people to folds: what a lead varies between them, and what is said."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from compared import report_of
from dies_in_compare import fake_cost
from faceaffect.cli import main
from faceaffect.errors import DataError
from faceaffect.evaluation.assignments import doubtful_leads, over_assignments
from faceaffect.evaluation.published import FLOOR
from faceaffect.evaluation.report import complete, write_report
from faceaffect.runs import cost
from faces import write_csv

RECIPE = """
seed: 1
model: {name: timm_classifier, backbone: %s}
data:
  name: csv
  table: %s
  protocol: {name: subject_kfold, folds: 2, fold: 1, val_fraction: 0.34}
  image_size: 32
  num_workers: 0
trainer: {max_epochs: 1, accelerator: cpu}
output: %s
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two recipes and their cross-validations under two assignments."""
    folder = tmp_path_factory.mktemp("assignments")
    table = write_csv(folder / "faces", people=8, each=3)
    for name, backbone in (("a", "test_vit"), ("b", "test_resnet")):
        text = RECIPE % (backbone, table, folder / "runs")
        (folder / f"{name}.yaml").write_text(text, encoding="utf-8")
    assert main(["crossval", str(folder / "a.yaml"), "--repeats", "2"]) == 0
    return folder


def summary_of(place: Path) -> tuple[dict[str, Any], str]:
    (folder,) = (place / "runs" / "a-crossval").iterdir()
    text = (folder / "summary.json").read_text(encoding="utf-8")
    return json.loads(text), (folder / "summary.md").read_text(encoding="utf-8")


def test_repeated_folds_have_a_spread_over_assignments(place: Path) -> None:
    summary, text = summary_of(place)
    runs = [json.loads((Path(r) / "metrics.json").read_text()) for r in summary["runs"]]
    assert [(r["protocol"]["seed"], r["protocol"]["fold"]) for r in runs] == [
        (0, 1), (0, 2), (1, 1), (1, 2),
    ]  # fmt: skip
    assert summary["assignments"] == [0, 1]
    assert summary["folds"] == [1, 2]
    ids = [set(pd.read_csv(Path(r) / "predictions.csv")["id"]) for r in summary["runs"]]
    assert ids[0] | ids[1] == ids[2] | ids[3]
    assert ids[0] not in (ids[2], ids[3])
    for metric in ("expression_war", "va_ccc"):
        values = np.array([r["metrics"][metric] for r in runs])
        means = [values[:2].mean(), values[2:].mean()]
        assert summary["per_assignment"][metric] == pytest.approx(means)
        assert summary["mean"][metric] == pytest.approx(values.mean())
        assert summary["spread"][metric] == pytest.approx(np.std(means, ddof=1))
        assert summary["std"][metric] == pytest.approx(np.std(values, ddof=1))
    assert "24 test samples" in text
    assert "| spread of assignments |" in text
    assert "| AU AUC (%) | 1 | 12 | avg |" in text


def test_compare_takes_the_runs_over_and_follows_the_lead(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cost, "measure_alone", fake_cost)
    argv = ["compare", str(place / "a.yaml"), str(place / "b.yaml"), "--repeats", "2"]
    assert main([*argv, "--folder", str(place / "report")]) == 0
    printed = capsys.readouterr().out.replace("\n", " ")
    assert printed.count("a, seed 1: done in") == 2  # of the cross-validation
    report = json.loads((place / "report" / "report.json").read_text(encoding="utf-8"))
    found = report["assignments"]
    assert found["seeds"] == [0, 1]
    war = {name: found["models"][name]["expression_war"] for name in "ab"}
    assert war["a"][0] == report["models"]["a"]["metrics"]["expression_war"]
    (lead,) = (r for r in found["leads"] if r["metric"] == "expression_war")
    leads = np.array(war["a"]) - np.array(war["b"])
    assert lead["mean"] == pytest.approx(leads.mean())
    assert lead["spread"] == pytest.approx(leads.std(ddof=1))
    assert "--repeats 2" in report["command"]
    page = (place / "report" / "report.html").read_text(encoding="utf-8")
    assert "Each assignment of people to folds" in page
    assert "AUC of each AU" in page


@pytest.mark.parametrize("command", ["crossval", "compare"])
def test_a_protocol_with_one_assignment_cannot_be_repeated(
    place: Path, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = [command, str(place / "a.yaml"), "--repeats", "2", f"output={place}/none"]
    assert main([*argv, "data.protocol=leave_one_subject_out"]) == 2
    assert "knows but one assignment" in capsys.readouterr().err
    assert main([command, str(place / "a.yaml"), "--repeats", "0"]) == 2
    assert "--repeats: 0 is not positive" in capsys.readouterr().err
    assert not (place / "none").exists()


def with_lead(lead: float, **changes: Any) -> dict[str, Any]:
    report = complete(report_of())
    for pair in report["pairs"]:
        if pair["metric"] == "au_f1":
            pair["difference"] = lead
    return report | changes


def assigned(spread: float | None) -> dict[str, Any]:
    lead = {"a": "mini_auformer", "b": "mini_emo_llama", "metric": "au_f1"}
    values = {"au_f1": [0.5, 0.6, 0.7]}
    return {
        "seeds": [0, 1, 2],
        "models": {"mini_auformer": values, "mini_emo_llama": values},
        "leads": [lead | {"mean": 0.02, "spread": spread}],
    }


@pytest.mark.usefixtures("undrawn")
def test_a_lead_within_the_spread_is_doubtful(tmp_path: Path) -> None:
    (line,) = doubtful_leads(with_lead(0.03, assignments=assigned(0.031)), "au_f1")
    assert "mini_auformer is ahead of mini_emo_llama by 3.0 points of mean AU F1" in line
    assert "over 3 assignments of people to folds (3.1)" in line
    (line,) = doubtful_leads(with_lead(-0.03, assignments=assigned(0.031)), "au_f1")
    assert line.startswith("mini_emo_llama is ahead of mini_auformer by 3.0")
    assert doubtful_leads(with_lead(0.032, assignments=assigned(0.031)), "au_f1") == []
    report = with_lead(0.03, assignments=assigned(0.031))
    write_report(tmp_path, report)
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    row = "| mini_auformer | AU F1 | 50.0 | 60.0 | 70.0 |"
    assert row in text


def test_three_folds_without_a_measured_spread_meet_the_published_one() -> None:
    three = {"name": "three_fold", "folds": 3}
    (line,) = doubtful_leads(with_lead(FLOOR - 0.001, protocol=three), "au_f1")
    assert "0.065" in line
    assert "arXiv 2604.02162" in line
    assert doubtful_leads(with_lead(FLOOR + 0.001, protocol=three), "au_f1") == []
    assert doubtful_leads(with_lead(0.01, protocol=three | {"folds": 5}), "au_f1") == []
    assert doubtful_leads(with_lead(0.01, protocol=three), "expression_war") == []
    measured = with_lead(0.03, protocol=three, assignments=assigned(0.01))
    assert doubtful_leads(measured, "au_f1") == []


def test_other_samples_under_an_assignment_are_refused(place: Path, tmp_path: Path) -> None:
    runs = [Path(run) for run in summary_of(place)[0]["runs"]]
    found = over_assignments({"a": [[runs[0]], [runs[2]]]}, ["expression_war"])
    assert found["leads"] == []
    with pytest.raises(DataError, match="assignment 2: the models were not tested on the same"):
        over_assignments({"a": [[runs[0]], [runs[2]]], "b": [[runs[0]], [runs[3]]]}, ["au_f1"])
