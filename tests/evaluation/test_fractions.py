"""Comparisons on shares of the training people: who learns from whom, the curve, refusals."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compared import report_of
from dies_in_compare import fake_cost
from faceaffect.cli import main
from faceaffect.cli.arguments import with_numbers_joined
from faceaffect.data.base import create_data
from faceaffect.errors import DataError
from faceaffect.evaluation.fractions import curve, sentences
from faceaffect.evaluation.report import complete, write_report
from faceaffect.evaluation.report_tables import tables
from faceaffect.recipe import load_recipe
from faceaffect.runs import cost
from faces import write_csv

RECIPE = """
seed: 1
model: {name: timm_classifier, backbone: %s}
data:
  name: csv
  table: %s
  protocol: {name: subject_kfold, folds: 3, fold: 1, val_fraction: 0.2}
  image_size: 32
  num_workers: 0
trainer: {max_epochs: 1, accelerator: cpu}
output: %s
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the recipes a and b."""
    folder = tmp_path_factory.mktemp("fractions")
    table = write_csv(folder / "faces", people=12, each=2)
    for name, backbone in (("a", "test_vit"), ("b", "test_resnet")):
        text = RECIPE % (backbone, table, folder / "runs")
        (folder / f"{name}.yaml").write_text(text, encoding="utf-8")
    return folder


def results(place: Path, name: str) -> list[dict[str, Any]]:
    files = sorted((place / "runs" / name).glob("*/metrics.json"))
    return [json.loads(file.read_text(encoding="utf-8")) for file in files]


@pytest.mark.slow
def test_every_model_learns_from_the_same_people_at_each_share(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cost, "measure_alone", fake_cost)
    words = ["compare", "--fractions", "0.5", "1", str(place / "a.yaml"), str(place / "b.yaml")]
    assert main([*words, "--part", "3"]) == 0  # a on half, as a launcher would have it
    (early,) = results(place, "a")
    assert early["protocol"]["subset"]["people"] == early["protocol"]["subjects"]["train"]
    assert main([*words, "--part", "5"]) == 2
    assert "there are parts 1 to 4" in capsys.readouterr().err
    assert main([*words, "--folder", str(place / "report")]) == 0
    assert "a, seed 1: done in" in capsys.readouterr().out.replace("\n", " ")
    report = json.loads((place / "report" / "report.json").read_text(encoding="utf-8"))
    found = report["fractions"]
    section = load_recipe(words[4])["data"]
    parts = [create_data(**section, fraction=share).split.info for share in (0.5, 1.0)]
    for name in "ab":
        own = {r["protocol"]["subjects"]["train"]: r for r in results(place, name)}
        assert sorted(own) == found["people"]
        whole = max(own)
        assert min(own) == round(0.5 * whole)
        for n, info in zip(sorted(own), parts, strict=True):
            for side in ("train", "val", "test"):
                assert own[n]["protocol"]["sha256"][side] == info["sha256"][side]
        for metric in ("expression_war", "va_ccc"):
            values = [own[n]["metrics"][metric] for n in sorted(own)]
            assert found["models"][name][metric]["per_seed"] == [[v] for v in values]
        assert report["models"][name]["metrics"]["expression_war"] == pytest.approx(
            own[whole]["metrics"]["expression_war"]
        )
    assert "--fractions 0.5 1" in report["command"]
    page = (place / "report" / "report.html").read_text(encoding="utf-8")
    assert "Learning from fewer people" in page
    assert 'aria-label="expression accuracy (WAR) of each model against how many' in page
    text = (place / "report" / "report.md").read_text(encoding="utf-8")
    assert "| model | metric | 50 % | 100 % |" in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--fractions", "0", "1"], "--fractions: 0 is not in (0, 1]"),
        (["--fractions", "1.5"], "--fractions: 1.5 is not in (0, 1]"),
        (["--fractions", "1", "1"], "the same share is named twice"),
        (["--fractions", "0.01", "1"], "is nobody"),
        (["--fractions", "0.5", "0.51", "1"], "0.5 and 0.51 leave the same"),
        (["--fractions", "0.5", "1", "--repeats", "2"], "not with --repeats"),
        (["--fractions", "0.5", "1", "data.people=2"], "a has data.people=2 already"),
    ],
)
def test_shares_that_cannot_be_are_refused_before_anything_is_trained(
    place: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", str(place / "a.yaml"), *words, f"output={place}/none"]) == 2
    assert message in capsys.readouterr().err
    assert not (place / "none").exists()


def test_a_word_that_is_no_number_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["compare", "mini_probe", "--fractions=0.1,many"])
    assert "'0.1,many': numbers are needed" in capsys.readouterr().err
    assert with_numbers_joined(["--fractions", "a"]) == ["--fractions=", "a"]


def result(war: float, train: int, sha: str = "x") -> dict[str, Any]:
    return {
        "metrics": {"expression_war": war},
        "baselines": {"expression_war": 0.3},
        "protocol": {
            "subjects": {"train": train},
            "sizes": {"train": 10 * train},
            "sha256": {"train": sha},
        },
        "training": {"epochs": 1},
    }


def test_means_and_spread_are_over_the_seeds_and_a_failure_is_a_gap() -> None:
    few, many = [0.4, 0.5, 0.45], [0.7, 0.72, 0.75]
    runs = {
        0.1: {"a": [result(v, 2) for v in few]},
        1.0: {
            "a": [result(v, 20) for v in many],
            "b": [result(0.8, 20)],
        },
    }
    found = curve(runs, ["expression_war"])
    of = found["models"]["a"]["expression_war"]
    assert of["mean"] == pytest.approx([np.mean(few), np.mean(many)])
    assert of["spread"] == pytest.approx([np.std(few, ddof=1), np.std(many, ddof=1)])
    assert found["models"]["b"]["expression_war"]["mean"] == [None, 0.8]
    assert (found["people"], found["samples"]) == ([2, 20], [20, 200])
    assert found["baselines"] == {"expression_war": [0.3, 0.3]}


def test_models_that_learned_from_others_are_refused() -> None:
    runs = {0.5: {"a": [result(0.5, 5)], "b": [result(0.5, 5, sha="y")]}}
    with pytest.raises(DataError, match=r"at 0.5 of the people the models learned from different"):
        curve(runs, ["expression_war"])


def with_curve() -> dict[str, Any]:
    def model(*means: float | None) -> dict[str, Any]:
        of = {"mean": [*means], "spread": [0.01, None], "per_seed": [[m, m] for m in means]}
        return dict.fromkeys(("au_f1", "expression_war", "expression_uar", "va_ccc"), of)

    metrics = model(0.0)
    return report_of() | {
        "fractions": {
            "fractions": [0.1, 1.0], "people": [3, 30], "samples": [31, 307],
            "baselines": {metric: [0.3, 0.31] for metric in metrics},
            "models": {"mini_auformer": model(0.4, 0.7), "mini_emo_llama": model(0.5, 0.6)},
        }
    }  # fmt: skip


def test_the_report_draws_the_curve_and_says_where_the_order_turns(tmp_path: Path) -> None:
    report = complete(with_curve())
    lines = sentences(report)
    assert lines[0] == (
        "Who is ahead in mean AU F1 depends on how many people are learned from: "
        "mini_emo_llama from 10 % (50.0), mini_auformer from 100 % (70.0)."
    )
    assert lines[0] in report["words"]
    write_report(tmp_path, report)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert page.count("against how many people it learned from") == 4
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "| mini_auformer | AU F1 | 40.0 ± 1.0 | **70.0** |" in text
    assert "| people |  | 3 | 30 |" in text


def test_a_report_without_shares_has_no_section() -> None:
    assert "fractions" not in tables(complete(report_of()))
