import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import faceaffect
from dies_in_compare import fake_cost
from faceaffect.cli import main
from faceaffect.data.batch import FaceBatch
from faceaffect.errors import DataError, RecipeError
from faceaffect.models.loading import load_model
from faceaffect.models.table import Table
from faceaffect.runs import cost
from faceaffect.runs.train import evaluate
from faceaffect.schema import LabelSchema
from faces import write_csv, write_table

SCHEMA = LabelSchema((1, 12), ("neutral", "happiness", "anger"), True)
IDS = ["p0/1.jpg", "p0/2.jpg", "p1/1.jpg"]
OPENFACE = {"frame": 1, "face_id": 0, "timestamp": 0.0}


def table(tmp_path: Path, rows: list[dict[str, Any]], **args: Any) -> Table:
    schema = args.pop("schema", SCHEMA)
    return Table(schema, file=str(write_table(tmp_path / "theirs.csv", rows)), **args)


def ask(model: Table, ids: list[str] = IDS) -> dict[str, np.ndarray]:
    image = torch.zeros(len(ids), 3, 8, 8, dtype=torch.uint8)
    answers = model.predict(FaceBatch(image=image, id=ids, subject=ids))
    return {task: value.numpy() for task, value in answers.items()}


def test_py_feat(tmp_path: Path) -> None:
    rows = [
        {"FaceRectWidth": 40, "FaceRectHeight": 50, "FaceScore": 0.99, "AU01": 0.2, "AU12": 0.9,
         "anger": 0.1, "disgust": 0.05, "fear": 0.0, "happiness": 0.6, "sadness": 0.05,
         "surprise": 0.0, "neutral": 0.2, "input": f"/home/me/data/{name}", "frame": 0}
        for name in IDS[:2]
    ]  # fmt: skip
    rows.append(rows[0] | {"FaceRectWidth": 90, "AU12": 0.4})  # a larger face in the same picture
    model = table(tmp_path, rows, columns="pyfeat")
    assert model.schema == LabelSchema((1, 12), SCHEMA.expressions)  # py-feat says no valence
    answers = ask(model)
    np.testing.assert_allclose(answers["au"][:2], [[0.2, 0.4], [0.2, 0.9]], atol=1e-6)
    # Of the classes that the data has; the rest is left aside.
    np.testing.assert_allclose(answers["expression"][0], np.array([0.2, 0.6, 0.1]) / 0.9, atol=1e-6)
    assert np.isnan(answers["au"][2]).all()
    assert np.isnan(answers["expression"][2]).all()
    assert model.rows == 2


def test_openface_writes_a_file_a_picture(tmp_path: Path) -> None:
    folder = tmp_path / "processed"
    for name, present, strength, success in (("p0/1", 1, 2.5, 1), ("p0/2", 0, 0.2, 1), ("p1/1", 0, 0, 0)):  # fmt: skip # noqa: E501
        row = {**OPENFACE, " confidence": 0.9, " success": success}
        row |= {" AU01_r": strength, " AU12_r": 0.4, " AU01_c": present}
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_table(folder / f"{name}.csv", [row])
    model = Table(SCHEMA, file=str(folder), columns="openface")
    assert model.schema == LabelSchema((1, 12))
    answers = ask(model)["au"]
    np.testing.assert_allclose(answers[:2], [[1, 0.2], [0, 0.2]])  # 0.4 of 5, 1 being the limit
    assert np.isnan(answers[2]).all()  # success 0: no face, no answer
    strict = Table(SCHEMA, file=str(folder), columns={"AU12": "AU12_r"}, au_threshold=2.0)
    np.testing.assert_allclose(ask(strict)["au"][:2], [[0.1], [0.1]])


def test_frames_of_a_clip_are_averaged(tmp_path: Path) -> None:
    rows = [
        {"file": "clip.mp4", "frame": n // 2, "confidence": (0.9, 0.5)[n % 2], "AU12_c": n % 2}
        for n in range(8)
    ]
    rows[2] |= {"AU12_c": 1}
    model = table(tmp_path, rows, schema=LabelSchema((12,)))
    assert ask(model, ["clips/clip.mp4"])["au"].item() == 0.25  # the surer face of each frame


def test_libreface_names_one_expression(tmp_path: Path) -> None:
    rows = [
        {"image_path": name, "au_1": 1, "au_12": 0, "au_1_intensity": 2.2, "facial_expression": e}
        for name, e in zip(IDS, ("Happiness", "Neutral", "Contempt"), strict=True)
    ]
    answers = ask(table(tmp_path, rows, columns="libreface"))
    np.testing.assert_array_equal(answers["au"], [[1, 0]] * 3)
    np.testing.assert_array_equal(answers["expression"], [[0, 1, 0], [1, 0, 0], [0, 0, 0]])


def test_scores_that_are_no_probabilities(tmp_path: Path) -> None:
    logits = {"Anger": -1.0, "Happiness": 2.0, "Neutral": 0.5, "valence": 0.3, "arousal": -0.2}
    answers = ask(table(tmp_path, [{"path": IDS[0], **logits}], columns="emotiefflib"))
    expected = np.exp([0.5, 2.0, -1.0]) / np.exp([0.5, 2.0, -1.0]).sum()
    np.testing.assert_allclose(answers["expression"][0], expected, rtol=1e-5)
    np.testing.assert_allclose(answers["va"][0], [0.3, -0.2], rtol=1e-6)
    percent = {"emotion.angry": 10, "emotion.happy": 60, "emotion.neutral": 30}
    found = ask(table(tmp_path, [{"input": IDS[0], **percent}], columns="deepface"))
    np.testing.assert_allclose(found["expression"][0], [0.3, 0.6, 0.1], rtol=1e-6)


def test_what_a_run_wrote_comes_back(tmp_path: Path) -> None:
    rows = [
        {"id": name, "subject": "s", "target/AU1": 1, "prob/AU1": 0.25, "prob/AU12": 0.75,
         "target/expression": "anger", "prob/neutral": 0.1, "prob/happiness": 0.7,
         "prob/anger": 0.2, "pred/valence": 0.5, "pred/arousal": -0.5}
        for name in IDS
    ]  # fmt: skip
    for columns in ("auto", "faceaffect"):
        answers = ask(table(tmp_path, rows, columns=columns))
        np.testing.assert_allclose(answers["au"], [[0.25, 0.75]] * 3)
        np.testing.assert_allclose(answers["expression"], [[0.1, 0.7, 0.2]] * 3, rtol=1e-6)
        np.testing.assert_allclose(answers["va"], [[0.5, -0.5]] * 3)


def test_samples_are_matched_by_the_end_of_their_path(tmp_path: Path) -> None:
    rows = [
        {"image": "C:\\faces\\p0\\1.jpg", "AU1": 0.1},
        {"image": "faces/p1/1.jpg", "AU1": 0.2},
        {"image": "2.jpg", "AU1": 0.3},
    ]
    model = table(tmp_path, rows, schema=LabelSchema((1,)))
    np.testing.assert_allclose(ask(model)["au"][:, 0], [0.1, 0.3, 0.2])
    twice = [{"image": "a/1.jpg", "AU1": 0}, {"image": "b/1.jpg", "AU1": 1}]
    with pytest.raises(DataError, match=r"2 rows that may be the sample 1\.jpg"):
        ask(table(tmp_path, twice, schema=LabelSchema((1,))), ["1.jpg"])


def test_tables_that_cannot_be_used_say_why(tmp_path: Path) -> None:
    good = {"image": IDS[0], "AU1": 0.5}
    for rows, args, message in (
        ([{"image": IDS[0], "age": 30}], {}, "no column answers AU1, AU12"),
        ([{"AU1": 0.5}], {}, "model.columns.id"),
        ([{**good, "AU1": "high"}], {}, r"row 2, column 'AU1': 'high'"),
        ([{**good, "AU1": 3}], {}, "model.au_threshold"),
        ([{**good, "happy": 0.5}], {}, "none for neutral, anger"),
        ([{**good, "happy": 1, "joy": 1}], {}, "both mean happiness"),
        ([{**good, "AU1": ""}], {}, "no row of this table holds an answer"),
        ([good], {"columns": {"AU1": "au"}}, "has no column 'au'"),
        ([good], {"columns": {"AU5": "AU1"}}, "no such label"),
        ([good], {"columns": "opnface"}, "did you mean 'openface'"),
        ([good], {"au_threshold": 9.0}, "au_threshold"),
    ):
        with pytest.raises((DataError, RecipeError), match=message):
            table(tmp_path, rows, **args)
    for file, message in ((tmp_path / "gone.csv", "no table at"), (tmp_path, None)):
        if message:
            with pytest.raises(DataError, match=message):
                Table(SCHEMA, file=str(file))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no table"):
        Table(SCHEMA, file=str(tmp_path / "empty"))


# As a contestant.


def recipe(tmp_path: Path, name: str, error: float, missing: int = 0) -> Path:
    """Write a recipe of a table that is right but for some noise, and lacks some rows."""
    rng = np.random.default_rng(7)
    truth = pd.read_csv(tmp_path / "faces" / "faces.csv")
    rows = []
    for index, row in truth.iterrows():
        classes = {n: float(row["expression"] == n) for n in ("anger", "happiness", "neutral")}
        noisy = {n: v + error * rng.random() for n, v in classes.items()}
        aus = {f"AU{a:02d}": np.clip(row[f"AU{a}"] + rng.normal(0, error), 0, 1) for a in (1, 12)}
        va = {n: np.clip(row[n] + rng.normal(0, error), -1, 1) for n in ("valence", "arousal")}
        if int(index) >= missing:
            rows.append({"input": f"elsewhere/{row['image']}", **aus, **noisy, **va})
    write_table(tmp_path / f"{name}.csv", rows)
    file = tmp_path / f"{name}.yaml"
    file.write_text(f"""
model: {{name: table, file: {tmp_path / f"{name}.csv"}}}
data:
  name: csv
  table: {tmp_path / "faces" / "faces.csv"}
  protocol: all
  num_workers: 0
trainer: {{accelerator: cpu}}
output: {tmp_path / "runs"}
""")
    return file


@pytest.fixture
def faces(tmp_path: Path) -> Path:
    return write_csv(tmp_path / "faces", people=6, each=4)


@pytest.mark.usefixtures("faces")
def test_a_table_is_tested_and_what_it_lacks_counts_as_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["test", str(recipe(tmp_path, "theirs", 0.01, missing=6))]) == 0
    assert "6 samples have no answer" in capsys.readouterr().out
    (run,) = (tmp_path / "runs" / "theirs").iterdir()
    result = json.loads((run / "metrics.json").read_text())
    assert (result["n"], result["unanswered"]) == (24, 6)
    assert result["metrics"]["expression_war"] == pytest.approx(18 / 24)
    predictions = pd.read_csv(run / "predictions.csv")
    assert predictions["prob/AU12"].isna().sum() == 6
    assert isinstance(load_model(run), Table)
    assert result["cost"]["device"] is None
    again = evaluate(run, ["data.protocol=all"])
    assert json.loads((again / "metrics.json").read_text())["metrics"] == result["metrics"]
    with pytest.raises(RecipeError, match="has to be trained before"):
        faceaffect.test("mini_probe")


@pytest.mark.usefixtures("faces")
def test_tables_stand_in_a_report(tmp_path: Path) -> None:
    sources = [recipe(tmp_path, "sharp", 0.05), recipe(tmp_path, "dull", 0.9, missing=2)]
    folder = faceaffect.compare(*sources, folder=tmp_path / "report")
    report = json.loads((folder / "report.json").read_text())
    assert list(report["models"]) == ["sharp", "dull"]
    assert not report["failed"]
    scores = {name: m["metrics"]["expression_war"] for name, m in report["models"].items()}
    assert scores["sharp"] == 1.0
    assert scores["dull"] < 1.0
    assert any("made elsewhere" in warning for warning in report["warnings"])
    assert report["models"]["sharp"]["cost"]["images_per_second"] is None
    assert "sharp" in (folder / "report.html").read_text(encoding="utf-8")


AUS = (1, 2, 4, 5, 6, 7, 9, 10, 12, 14, 15, 17, 20, 23, 25, 26)


def write_openface(folder: Path, faces: pd.DataFrame, lost: str) -> None:
    """Write a table a picture with OpenFace's columns; in one it finds no face."""
    rng = np.random.default_rng(3)
    for row in faces.to_dict("records"):
        found = int(row["image"] != lost)
        cells = OPENFACE | {"confidence": 0.98 * found, "success": found}
        cells |= {f"gaze_{eye}_{axis}": rng.normal() for eye in (0, 1) for axis in "xyz"}
        cells |= {f"pose_{name}": rng.normal() for name in ("Tx", "Ty", "Tz", "Rx", "Ry", "Rz")}
        cells |= {f"{axis}_{n}": rng.uniform(0, 48) for axis in "xy" for n in range(68)}
        cells |= {f"AU{au:02d}_r": rng.uniform(0, 5) for au in AUS}  # says nothing: _c is there
        cells |= {f"AU{au:02d}_c": found * row.get(f"AU{au}", 0) for au in (*AUS, 28)}
        place = (folder / row["image"]).with_suffix(".csv")
        place.parent.mkdir(parents=True, exist_ok=True)
        write_table(place, [{f" {name}": value for name, value in cells.items()}])


def test_openface_stands_beside_a_trained_model_in_a_report(
    tmp_path: Path, faces: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cost, "measure_alone", fake_cost)
    table = pd.read_csv(faces)[["image", "subject", "AU1", "AU12"]]
    table.to_csv(faces, index=False)  # what both answer
    write_openface(tmp_path / "openface", table, lost="p1/2.jpg")
    data = {"name": "csv", "table": str(faces), "num_workers": 0, "batch_size": 4, "image_size": 48,
            "protocol": {"name": "subject_kfold", "folds": 2, "fold": 1, "val_fraction": 0.4}}  # fmt: skip # noqa: E501
    models = {
        "openface": {"name": "table", "file": str(tmp_path / "openface"), "columns": "openface"},
        "ours": {"name": "timm_classifier", "backbone": "test_vit"},
    }
    trainer = {"max_epochs": 1, "accelerator": "cpu"}
    for name, node in models.items():
        recipe = {"model": node, "data": data, "trainer": trainer, "output": str(tmp_path / "runs")}
        (tmp_path / f"{name}.yaml").write_text(json.dumps(recipe))  # JSON is YAML
    trained = faceaffect.train(tmp_path / "ours.yaml")
    folder = faceaffect.compare(tmp_path / "openface.yaml", trained, folder=tmp_path / "report")
    report = json.loads((folder / "report.json").read_text())
    assert not report["failed"]
    assert list(report["models"]) == ["openface", "ours"]
    scores = {name: model["metrics"] for name, model in report["models"].items()}
    assert report["n"] == 12
    assert scores["openface"]["au_accuracy"] == pytest.approx(11 / 12)  # the face it did not find
    assert scores["ours"]["au_accuracy"] < 11 / 12
    assert "openface: 1 of 12 answers" in " ".join(report["warnings"])
    assert report["models"]["openface"]["cost"]["parameters"] is None
    assert report["models"]["openface"]["terms"]["epochs"] is None
    assert report["pairs"]


@pytest.mark.usefixtures("faces")
def test_train_and_test_from_python(tmp_path: Path) -> None:
    run = faceaffect.train(recipe(tmp_path, "theirs", 0.1), {"output": str(tmp_path / "mine")})
    assert run.parent == tmp_path / "mine" / "theirs"
    folder = faceaffect.test(run, ["data.protocol=all"])
    assert (folder / "predictions.csv").exists()
