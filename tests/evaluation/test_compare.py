"""Comparisons through the command line: one report, same numbers after a kill, what is refused."""

import functools
import gc
import json
import re
import shlex
import signal
import sys
from collections.abc import Callable
from multiprocessing import active_children, get_context
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from dies_in_compare import POINTS, compare_until, fake_cost
from faceaffect.cli import main
from faceaffect.evaluation.gallery import disagreement
from faceaffect.models.gimefive import GiMeFive
from faceaffect.module import AffectModule
from faceaffect.recipe import interpolation
from faceaffect.runs import cost
from faceaffect.runs.people import hash_of
from faceaffect.schema import LabelSchema
from faces import EXPRESSIONS, write_csv, write_facial_expressions

RECIPE = """
seed: 1
model: {name: timm_classifier, backbone: %s, dropout: 0.2}
data:
  name: csv
  table: %s
  protocol: {name: subject_kfold, folds: 3, fold: 1, val_fraction: 0.34}
  image_size: 48
  batch_size: 4
  num_workers: 0
optim: {lr: 1e-3, warmup_epochs: 0.5}
trainer: {max_epochs: 2, accelerator: cpu}
output: %s
"""


def write_recipes(folder: Path, table: Path) -> list[str]:
    """Write the recipes a and b, which differ in the model, and return their paths."""
    for name, backbone in (("a", "test_vit"), ("b", "test_resnet")):
        (folder / f"{name}.yaml").write_text(RECIPE % (backbone, table, folder / "runs"))
    return [str(folder / f"{name}.yaml") for name in "ab"]


def reports(folder: Path) -> list[dict[str, Any]]:
    """Return the reports below a folder, the oldest first."""
    files = sorted(folder.glob("runs/compare/*/report.json"))
    return [json.loads(file.read_text()) for file in files]


def runs(folder: Path) -> list[Path]:
    return sorted(file.parent for file in folder.glob("runs/[ab]/*/recipe.yaml"))


def people_of(run: Path) -> dict[str, Any]:
    return json.loads((run / "metrics.json").read_text())["people"]


def numbers(report: dict[str, Any]) -> dict[str, Any]:
    """Return what has to be the same however often a comparison was interrupted."""
    parts = ("metrics", "per_seed", "spread", "intervals", "baselines", "confusion", "calibration")
    models = {
        name: {part: model[part] for part in parts} for name, model in report["models"].items()
    }
    gallery = [(d["id"], d["truth"], d["answers"]) for d in report["disagreements"]]
    return {"models": models, "pairs": report["pairs"], "gallery": gallery, "n": report["n"]}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, undrawn: None) -> None:
    """Leave out what takes seconds and no test here looks at."""
    monkeypatch.setattr(cost, "measure_alone", fake_cost)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with two recipes, their data, and a comparison of two seeds."""
    folder = tmp_path_factory.mktemp("compare")
    recipes = write_recipes(folder, write_csv(folder / "faces", people=9, each=4))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cost, "measure_alone", fake_cost)
        patch.setattr("faceaffect.evaluation.report.plots", lambda _: [])
        assert main(["compare", *recipes, "--seeds", "2"]) == 0
    return folder


def test_the_report_holds_what_the_runs_say(place: Path) -> None:
    report = reports(place)[0]
    assert list(report["models"]) == ["a", "b"]
    assert report["seeds"] == [1, 2]
    assert report["failed"] == {}
    assert report["words"]
    assert not {"subject_names", "joined"} & set(report["protocol"])
    assert "person " not in json.dumps(report)
    for name, model in report["models"].items():
        results = [json.loads((Path(run) / "metrics.json").read_text()) for run in model["runs"]]
        assert [r["environment"]["seed"] for r in results] == [1, 2]
        assert all(Path(run).parent.name == name for run in model["runs"])
        assert report["n"] == results[0]["n"]
        assert report["protocol"]["sha256"] == results[0]["protocol"]["sha256"]
        for metric in ("au_f1", "expression_war", "va_ccc"):
            each = [r["metrics"][metric] for r in results]
            assert model["per_seed"][metric] == pytest.approx(each, abs=1e-4)
            assert model["metrics"][metric] == pytest.approx(np.mean(each), abs=1e-4)
            low, high = model["intervals"][metric]
            assert low <= model["metrics"][metric] <= high
        assert model["baselines"] == pytest.approx(results[0]["baselines"])
        assert model["cost"]["checkpoint_bytes"] > 0
        spent = np.mean([r["cost"]["training_seconds"] for r in results])
        assert model["cost"]["training_seconds"] == pytest.approx(spent)
    assert {(p["a"], p["b"]) for p in report["pairs"]} == {("a", "b")}
    (folder,) = (place / "runs" / "compare").iterdir()
    names = {"report.html", "report.json", "report.md", "report.tex"}
    assert names <= {file.name for file in folder.iterdir()}


def test_nothing_of_a_training_is_left_in_the_process(place: Path) -> None:
    gc.collect()
    assert not [thing for thing in gc.get_objects() if isinstance(thing, AffectModule)]
    assert not active_children()


def test_finished_runs_are_taken_over_and_give_the_same_numbers(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = runs(place)
    recipes = [str(place / "a.yaml"), str(place / "b.yaml")]
    assert main(["compare", *recipes, "--seeds", "2", "--folder", str(tmp_path / "x")]) == 0
    assert runs(place) == before
    assert capsys.readouterr().out.count("done in") == 4
    again = json.loads((tmp_path / "x" / "report.json").read_text())
    assert numbers(again) == numbers(reports(place)[0])


def test_a_run_stands_beside_a_recipe_and_pictures_are_shown_if_asked(
    place: Path, tmp_path: Path
) -> None:
    run = str(next(r for r in runs(place) if r.parent.name == "b"))
    argv = ["compare", run, str(place / "a.yaml"), "--folder", str(tmp_path)]
    assert main(argv) == 0
    plain = json.loads((tmp_path / "report.json").read_text())
    assert list(plain["models"]) == ["b", "a"]
    assert plain["models"]["b"]["runs"] == [run]
    assert plain["disagreements"]
    hidden = ("image", "id", "subject")
    assert all(face[key] is None for face in plain["disagreements"] for key in hidden)
    assert not re.search(r"person \d", (tmp_path / "report.html").read_text())
    assert main([*argv, "--faces"]) == 0
    shown = json.loads((tmp_path / "report.json").read_text())
    assert all(f["image"].startswith("data:image/jpeg;base64,") for f in shown["disagreements"])
    people = [face["subject"] for face in shown["disagreements"]]
    assert len(people) == len(set(people))
    assert set(shown["disagreements"][0]["answers"]["a"]) == {
        "expression", "au", "valence", "arousal"
    }  # fmt: skip


def test_two_runs_of_one_recipe_get_names_of_their_own(place: Path, tmp_path: Path) -> None:
    one, two = [str(run) for run in runs(place) if run.parent.name == "a"]
    assert main(["compare", one, two, "--folder", str(tmp_path)]) == 0
    report = json.loads((tmp_path / "report.json").read_text())
    assert list(report["models"]) == ["a", f"a ({Path(two).name})"]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("fold: 1", "fold: 2", ["protocol.fold: 1 in a; 2 in b", "test sha256"]),
        ("val_fraction: 0.34", "val_fraction: 0.2", ["protocol, train samples"]),
        ("val_fraction: 0.34", "selection: test", ['protocol.selection: "val" in a; "test" in b']),
        ("faces.csv", "other_aus.csv", ["schema.aus: [1, 12] in a; [1, 9] in b"]),
        ("faces.csv", "other_labels.csv", ["labels of the test part"]),
        ("faces.csv", "other_training.csv", ["labels of the train part"]),
        ("faces.csv", "fewer.csv", ["protocol, train samples: 16 in a; 15 in b"]),
        ("faces.csv", "leaking.csv", ["leaks", "'person 0' is in train and in test"]),
        ("name: timm", "nmae: timm", ["model.name"]),
        ("dropout", "dropuot", ["b.yaml: model.dropuot: unknown key; did you mean 'dropout'"]),
        ("accelerator: cpu", "accelerator: cpu, devices: 2", ["one device, not on 2"]),
    ],
)
def test_what_cannot_be_compared_is_refused_before_any_training(
    place: Path, tmp_path: Path, old: str, new: str, said: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    table = pd.read_csv(place / "faces" / "faces.csv")
    tested = table["subject"].isin(pd.read_csv(runs(place)[0] / "predictions.csv")["subject"])
    broken = {
        "other_aus": table.rename(columns={"AU12": "AU9"}),
        "other_labels": table.assign(AU1=table["AU1"].where(~tested, 1 - table["AU1"])),
        "other_training": table.assign(AU1=table["AU1"].where(tested, 1 - table["AU1"])),
        "fewer": table.drop(index=table.index[tested][0]),
        "leaking": table.assign(split=["test", "train", "train", "test"] * 9),
    }
    for name, frame in broken.items():
        frame.to_csv(place / "faces" / f"{name}.csv", index=False)
    recipes = write_recipes(tmp_path, place / "faces" / "faces.csv")
    text = Path(recipes[1]).read_text().replace(old, new)
    if new == "leaking.csv":
        text = text.replace("{name: subject_kfold, folds: 3, fold: 1, val_fraction: 0.34}",
                            "official")  # fmt: skip
    Path(recipes[1]).write_text(text)
    assert main(["compare", *recipes]) == 2
    error = capsys.readouterr().err
    assert not [part for part in said if part not in error], error
    assert not (tmp_path / "runs").exists()


def copy_run(place: Path, tmp_path: Path) -> Path:
    """Copy the result of a run, without its checkpoints."""
    source = next(run for run in runs(place) if run.parent.name == "b")
    target = tmp_path / "runs" / "b" / "20260101-000000"
    target.mkdir(parents=True)
    for name in ("recipe.yaml", "metrics.json", "predictions.csv", "made_of.json"):
        (target / name).write_text((source / name).read_text())
    return target


@pytest.mark.parametrize(
    ("breaks", "said"),
    [
        (lambda t: t.iloc[1:], "lacks 1 of the 12 test samples"),
        (lambda t: pd.concat([t, t.iloc[:1]]), "answers samples more than once"),
        (lambda t: t.replace(t["id"][0], "elsewhere"), "outside the test part: elsewhere"),
        (lambda t: t.drop(columns="prob/AU12"), "lacks columns in its predictions: prob/AU12"),
        (lambda t: t.assign(**{"target/AU1": 1 - t["target/AU1"]}), "with another AU1 for 12"),
        (lambda t: t.assign(subject="a stranger"), "with another subject for 12"),
    ],
)
def test_a_run_with_broken_predictions_is_refused(
    place: Path, tmp_path: Path, breaks: Callable[[pd.DataFrame], pd.DataFrame], said: str,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    run = copy_run(place, tmp_path)
    breaks(pd.read_csv(run / "predictions.csv")).to_csv(run / "predictions.csv", index=False)
    assert main(["compare", str(place / "a.yaml"), str(run)]) == 2
    assert said in capsys.readouterr().err


def test_predictions_about_people_of_the_training_are_refused(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = copy_run(place, tmp_path)
    table = pd.read_csv(run / "predictions.csv")
    everybody = pd.read_csv(place / "faces" / "faces.csv")["subject"]
    trained = {hash_of(n, people_of(run)["salt"]): n for n in everybody}
    known = trained[people_of(run)["train"][0]]
    table.assign(subject=known).to_csv(run / "predictions.csv", index=False)
    assert main(["compare", str(place / "a.yaml"), str(run)]) == 2
    assert f"people that it was trained on: {known}" in capsys.readouterr().err


def test_a_run_that_was_trained_on_other_labels_is_refused(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = copy_run(place, tmp_path)
    made = json.loads((run / "made_of.json").read_text())
    (run / "made_of.json").write_text(json.dumps(made | {"labels of the train part": "others"}))
    assert main(["compare", str(place / "a.yaml"), str(run)]) == 2
    assert 'labels of the train part: "' in capsys.readouterr().err
    (run / "made_of.json").unlink()  # a run that did not note them is held to the rest
    argv = ["compare", str(place / "a.yaml"), str(run), "--folder", str(tmp_path / "x")]
    assert main(argv) == 0


def test_a_result_of_labels_that_have_changed_is_not_taken_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = write_csv(tmp_path / "faces", people=9, each=2)
    argv = ["compare", write_recipes(tmp_path, table)[0], "trainer.max_epochs=1"]
    assert main(argv) == 0
    first = runs(tmp_path)
    frame = pd.read_csv(table)
    frame.assign(AU1=1 - frame["AU1"]).to_csv(table, index=False)
    assert main(argv) == 0
    assert f"{first[0]} is passed over, not made of the same: labels of" in capsys.readouterr().out
    assert len(runs(tmp_path)) == 2


def test_a_run_of_the_last_epoch_is_compared_and_said_to_be_one(
    place: Path, tmp_path: Path
) -> None:
    argv = [f"output={tmp_path}/runs", "checkpoint.choose=last"]
    assert main(["train", str(place / "b.yaml"), *argv]) == 0
    (run,) = runs(tmp_path)
    argv = ["compare", str(place / "a.yaml"), str(run), "--folder", str(tmp_path / "x")]
    assert main(argv) == 0
    models = json.loads((tmp_path / "x" / "report.json").read_text())["models"]
    assert models["b"]["checkpoint"] == [{"choose": "last", "epoch": 2}]
    assert models["a"]["checkpoint"][0]["choose"] == "best"


def test_a_run_whose_result_tells_of_a_leak_or_another_split_is_refused(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = copy_run(place, tmp_path)
    result = json.loads((run / "metrics.json").read_text())
    hashes = result["people"]
    hashes["train"].append(hashes["test"][0])
    (run / "metrics.json").write_text(json.dumps(result))
    assert main(["compare", str(place / "a.yaml"), str(run)]) == 2
    error = capsys.readouterr().err
    people = pd.read_csv(run / "predictions.csv")["subject"]
    (name,) = {n for n in people if hash_of(n, hashes["salt"]) == hashes["test"][0]}
    assert f"on 1 people that it was trained on: {name}" in error
    result["protocol"]["sha256"]["test"] = "0" * 64
    (run / "metrics.json").write_text(json.dumps(result))
    assert main(["compare", str(run)]) == 2
    assert 'test sha256: "000000000000" in b' in capsys.readouterr().err
    (run / "metrics.json").unlink()
    assert main(["compare", str(run)]) == 2
    assert "this run is not finished" in capsys.readouterr().err


@pytest.mark.parametrize(("path", "value", "says"), [
    ("environment.versions.faceaffect", None, "environment.versions.faceaffect is not there"),
    ("protocol.sizes.test", "many", "protocol.sizes.test is 'many'"),
    ("metrics.au_f1", "<b>", "metrics.au_f1 is '<b>'"),
    ("scored.aus", [0], "scored: schema.aus: 0 is no FACS number"),
    ("scored.aus", 3, "scored: 'int' object is not iterable"),
    ("data.name", None, "data.name is not there"),
    ("cost", [], "cost is []"),
    ("skipped", "all\u001b[31m", "skipped is 'all"),
    ("baselines", None, "baselines is not there"),
    ("people.train", "me", "people.train is 'me'"),
    ("people.train", [["me"]], "people.train is [['me']]"),
    ("people.salt", "salt", "people.salt is 'salt'"),
    ("people.salt", "ab" * 65, "people.salt is 'abab"),
    ("metrics.au_f1", 10**400, "metrics.au_f1 is 1000"),
    ("started_from", [{}], "started_from is [{}]"),
    ("tuned", {"chosen": 3}, "tuned.chosen is 3"),
    ("recipe", "../../elsewhere", "is no name of a recipe"),
    ("checkpoint", 7, "checkpoint is 7"),
])  # fmt: skip
def test_a_strangers_result_that_is_none_is_one_line(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    path: str, value: Any, says: str,
) -> None:  # fmt: skip
    run = copy_run(place, tmp_path)
    result = json.loads((run / "metrics.json").read_text())
    *outer, last = path.split(".")
    table = functools.reduce(lambda found, key: found[key], outer, result)
    if value is None:
        del table[last]
    else:
        table[last] = value
    (run / "metrics.json").write_text(json.dumps(result))
    capsys.readouterr()
    assert main(["compare", str(run)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert str(run) in error
    assert says in error
    assert error.count("\n") == 1
    assert error.strip().isprintable()


@pytest.mark.parametrize(("column", "value"), [
    ("prob/AU1", "much"), ("prob/AU1", 1.5), ("prob/happiness", "inf"), ("target/AU1", "NaN"),
    ("pred/valence", -2),
])  # fmt: skip
def test_answers_that_are_no_numbers_are_one_line(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], column: str, value: Any
) -> None:
    file = copy_run(place, tmp_path) / "predictions.csv"
    table = pd.read_csv(file, dtype=object)
    table.loc[3, column] = value
    table.to_csv(file, index=False)
    capsys.readouterr()
    assert main(["compare", str(file.parent)]) == 2
    assert f"{file}: '{column}' is " in (error := capsys.readouterr().err)
    assert error.count("\n") == 1


@pytest.mark.parametrize("content", [b"[]", b"7", b"\xff", b"[" * 99_999, b"{", b"null"])
def test_what_is_no_table_of_results_is_one_line(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes
) -> None:
    run = copy_run(place, tmp_path)
    (run / "metrics.json").write_bytes(content)
    capsys.readouterr()
    assert main(["compare", str(run)]) == 2
    error = capsys.readouterr().err
    assert str(run / "metrics.json") in error
    assert error.count("\n") == 1


def test_a_strangers_damaged_recipe_is_one_line(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = copy_run(place, tmp_path)
    for content in ("a: [", "- 1", "seed: 1"):
        (run / "recipe.yaml").write_text(content)
        capsys.readouterr()
        assert main(["compare", str(run)]) == 2
        assert capsys.readouterr().err.count("\n") == 1


def test_the_command_of_a_report_can_be_repeated(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(interpolation, "allowed_env", set())
    monkeypatch.setenv("MY_FACES", str(place / "faces"))
    recipe = (place / "a.yaml").read_text().replace(
        str(place / "faces" / "faces.csv"), "${oc.env:MY_FACES}/faces.csv"
    )  # fmt: skip
    (tmp_path / "a.yaml").write_text(recipe.replace(str(place / "runs"), str(tmp_path / "runs")))
    argv = ["compare", str(tmp_path / "a.yaml"), "trainer.max_epochs=1", "--allow-env", "MY_FACES"]
    assert main(argv) == 0
    (report,) = reports(tmp_path)
    assert shlex.split(report["command"]) == ["faceaffect", *argv]


FAILING = """
from faceaffect.models.timm_classifier import TimmClassifier
from faceaffect.registry import TABLES

class Failing(TimmClassifier):
    def loss(self, batch):
        raise RuntimeError("no luck")

TABLES["models"]["failing"] = "failing_model:Failing"
"""


def test_a_failing_model_does_not_lose_the_others(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = tmp_path / "failing_model.py"
    own.write_text(FAILING)
    recipe = tmp_path / "c.yaml"
    recipe.write_text((place / "a.yaml").read_text().replace("timm_classifier", "failing"))
    argv = ["--import", str(own), "--folder", str(tmp_path / "x")]
    assert main(["compare", str(recipe), str(place / "a.yaml"), *argv]) == 1
    report = json.loads((tmp_path / "x" / "report.json").read_text())
    assert list(report["models"]) == ["a"]
    assert report["failed"] == {"c": "seed 1: RuntimeError('no luck')"}
    assert main(["compare", str(recipe), *argv]) == 2
    error = capsys.readouterr().err
    assert "no model is left to compare" in error
    assert "no luck" in error


@pytest.mark.slow
def test_a_comparison_killed_at_any_point_ends_with_the_same_numbers(
    place: Path, tmp_path: Path
) -> None:
    recipes = write_recipes(tmp_path, place / "faces" / "faces.csv")
    argv, log = ["compare", *recipes, "--seeds", "2"], tmp_path / "log"
    for point in POINTS:
        process = get_context("forkserver").Process(target=compare_until, args=(point, argv, log))
        process.start()
        process.join(300)
        assert process.exitcode == -signal.SIGKILL, (point, log.read_text())
    assert not reports(tmp_path)
    assert main(argv) == 0
    (end,) = reports(tmp_path)
    assert numbers(end) == numbers(reports(place)[0])
    assert len(runs(tmp_path)) == 4, "interrupted runs go on"


def test_cost_is_measured_in_a_process_of_its_own(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(cost, "BATCHES", (1, 2))
    checkpoint = runs(place)[0] / "checkpoints" / "best.ckpt"
    found = cost.measure_alone(checkpoint, 48, "cpu")
    assert set(found) == set(cost.EMPTY)
    stored = json.loads((runs(place)[0] / "metrics.json").read_text())["cost"]
    for key in ("parameters", "trainable_parameters", "flops_per_image"):
        assert found[key] == stored[key]
    assert set(found["throughput"]) <= {"1", "2"}
    assert found["images_per_second"] == max(found["throughput"].values())
    assert 50e6 < found["peak_memory_bytes"] < 4e9
    with pytest.raises(Exception, match="no checkpoint at"):
        cost.measure_alone(checkpoint.with_name("none.ckpt"), 48, "cpu")


class Attention(GiMeFive):
    """Adds a fused attention over 10 tokens of 8 to a network."""

    def predict(self, batch: Any) -> dict[str, Tensor]:
        token = torch.ones(len(batch["image"]), 1, 10, 8)
        F.scaled_dot_product_attention(token, token, token)
        return super().predict(batch)


def test_fused_attention_is_counted() -> None:
    schema = LabelSchema(aus=(1, 12))
    with torch.no_grad():
        plain, more = (
            cost.flops_per_image(model(schema).eval(), 64) for model in (GiMeFive, Attention)
        )
    assert more - plain == 2 * (2 * 10 * 10 * 8)


def test_peak_memory_is_that_of_one_face(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    batch = cost.random_batch

    def noted(size: int, *args: Any) -> Any:
        sizes.append(size)
        return batch(size, *args)

    monkeypatch.setattr(cost, "random_batch", noted)
    monkeypatch.setattr(cost, "peak_memory", lambda device: max(sizes))
    checkpoint = runs(place)[0] / "checkpoints" / "best.ckpt"
    assert cost._measure_here(checkpoint, 48, "cpu", (1, 2), {}, sys.path)["peak_memory_bytes"] == 1
    assert max(sizes) == 2


def test_the_device_is_named() -> None:
    name, _, threads = cost.device_name(torch.device("cpu")).rpartition(", ")
    assert threads == f"{torch.get_num_threads()} threads"
    assert name not in ("", "cpu")


def test_specialists_are_compared_on_facial_expressions(tmp_path: Path) -> None:
    root = write_facial_expressions(tmp_path / "faces", people=9, each=3)
    small = [f"data.root={root}", "data.protocol.folds=3", "data.protocol.val_fraction=0.3",
             "data.num_workers=0", "data.batch_size=8", "data.image_size=32",
             "trainer.max_epochs=1", "trainer.accelerator=cpu", "optim.warmup_epochs=0",
             f"output={tmp_path}/runs"]  # fmt: skip
    recipes = ["gimefive_facial_expressions", "facial_expressions_cnn"]
    assert main(["compare", *recipes, *small]) == 0
    (report,) = reports(tmp_path)
    assert list(report["models"]) == recipes
    assert "data.balance" in str(report["warnings"])
    assert report["schema"]["aus"] == []
    assert {"expression_war", "expression_uar"} <= set(report["models"][recipes[0]]["metrics"])
    assert all("au" not in face["truth"] for face in report["disagreements"])


def test_the_llm_is_compared_with_specialists_on_facial_expressions(tmp_path: Path) -> None:
    root = write_facial_expressions(tmp_path / "faces", people=9, each=2)
    recipes = ["mini_gimefive", "mini_probe", "mini_auformer", "mini_emo_llama"]
    data = ["data.name=facial_expressions", f"data.root={root}"]  # the rest is for speed
    small = ["data.protocol={name: subject_kfold, folds: 3, val_fraction: 0.3}",
             "data.batch_size=4", "data.image_size=64", "data.num_workers=0",
             "trainer.max_epochs=1", "trainer.limit_train_batches=1",
             "trainer.limit_val_batches=1", "trainer.accelerator=cpu", "optim.warmup_epochs=0",
             f"output={tmp_path}/runs"]  # fmt: skip
    assert main(["compare", *recipes, *data, *small]) == 0
    (report,) = reports(tmp_path)
    assert list(report["models"]) == recipes
    assert report["schema"]["expressions"] == list(EXPRESSIONS)
    for name, model in report["models"].items():
        assert 0 <= model["metrics"]["expression_war"] <= 1
        assert ("generated/expression_war" in model["metrics"]) == (name == "mini_emo_llama")
    assert {face["image"] for face in report["disagreements"]} == {None}
    assert "mini_emo_llama" in report["disagreements"][0]["text"]


def test_disagreement_counts_votes() -> None:
    schema = LabelSchema(aus=(1,), expressions=("x", "y"), valence_arousal=True)
    columns = ["prob/AU1", "prob/x", "prob/y", "pred/valence", "pred/arousal"]
    one = pd.DataFrame([[0.9, 0.8, 0.2, 1, 0], [0.9, 0.8, 0.2, 0, 0]], columns=columns)
    two = pd.DataFrame([[0.1, 0.3, 0.7, -1, 0], [0.9, 0.6, 0.4, 0, 0]], columns=columns)
    assert disagreement([one, two], schema).tolist() == [1 + 1 + 0.5, 0]
    two.loc[1, ["prob/x", "prob/y"]] = np.nan
    assert disagreement([one, two], schema)[1] == 1
    assert disagreement([one], schema).tolist() == [0, 0]


SPACE = "optim.lr: {low: 1e-4, high: 1e-1, log: true}\nmodel.dropout: {low: 0, high: 0.5}\n"


@pytest.mark.slow
def test_every_recipe_is_searched_alike_before_it_is_trained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipes = write_recipes(tmp_path, write_csv(tmp_path / "faces", people=9, each=4))
    space = tmp_path / "timm_classifier.yaml"
    space.write_text(SPACE)
    argv = ["compare", *recipes, "--tune", "2", "--space", str(space), "trainer.max_epochs=1"]
    assert main(argv) == 0
    (report,) = reports(tmp_path)
    assert list(report["models"]) == ["a", "b"]
    assert "--tune 2" in report["command"]
    assert not any("equal terms" in sentence for sentence in report["words"])
    for name, model in report["models"].items():
        (folder,) = (tmp_path / "runs" / "tune").glob(f"{name}-*")
        assert len(pd.read_csv(folder / "history.csv")) == 2
        assert model["terms"]["trials"] == 2
        assert model["terms"]["epochs"] == [1]
        assert "optim.lr" in model["terms"]["chosen"]
        (run,) = (Path(run) for run in model["runs"])
        tuned = json.loads((run / "metrics.json").read_text())["tuned"]
        assert tuned["chosen"].keys() == {"optim.lr", "model.dropout"}
    # An entrant as it stands beside them is not on equal terms.
    assert main(["compare", *recipes[:1], model["runs"][0], "trainer.max_epochs=1"]) == 0
    assert any("not tuned alike" in warning for warning in reports(tmp_path)[-1]["warnings"])


def test_bad_words_about_tuning(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = str(place / "a.yaml")
    assert main(["compare", recipe, "--tune", "-1"]) == 2
    assert "--tune: -1 is negative" in capsys.readouterr().err
    (tmp_path / "timm_clasifier.yaml").write_text(SPACE)
    space = ["--space", str(tmp_path / "timm_clasifier.yaml")]
    assert main(["compare", recipe, "--tune", "2", *space]) == 2
    assert "did you mean 'timm_classifier'?" in capsys.readouterr().err
