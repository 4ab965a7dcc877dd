"""The second set of classes: what is felt, beside what is shown, from the schema to the report."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, confusion_matrix

from batches import face_batch
from faceaffect import LabelSchema, create_model
from faceaffect.data.base import create_data
from faceaffect.data.batch import FaceBatch, frames, move_labels, move_predictions
from faceaffect.data.truth import truth_table
from faceaffect.errors import SchemaError
from faceaffect.evaluation import statistics
from faceaffect.evaluation.report_tables import tables
from faceaffect.networks.heads import TaskLosses
from faceaffect.scores.metrics import TaskMetrics, absent, score, trivial_baselines
from faceaffect.scores.predictions import Outcome, Predictions, read_table

BOTH = LabelSchema((12,), ("calm", "angry"), False, ("angry", "sad", "calm"))


def answered(n: int = 60) -> tuple[dict, FaceBatch]:
    g = torch.Generator().manual_seed(0)
    felt = torch.randint(-1, 3, (n,), generator=g)
    batch = FaceBatch(
        id=[f"{i:03d}" for i in range(n)],
        subject=[f"p{i % 12}" for i in range(n)],
        au=torch.randint(0, 2, (n, 1), generator=g).float(),
        expression=torch.randint(0, 2, (n,), generator=g),
        felt=felt,
        attributes={"face": torch.arange(n) % 2},
    )
    prediction = {
        "au": torch.rand(n, 1, generator=g),
        "expression": torch.rand(n, 2, generator=g).softmax(1),
        "felt": (2 * torch.rand(n, 3, generator=g)).softmax(1),
    }
    return prediction, batch


def test_the_schema_knows_it_by_name_and_older_files_stay_as_they_are() -> None:
    assert BOTH.tasks == ("au", "expression", "felt")
    assert BOTH.names("felt") == ("angry", "sad", "calm")
    assert BOTH.answers == ("AU12", "calm", "angry", "felt/angry", "felt/sad", "felt/calm")
    assert LabelSchema.from_dict(BOTH.to_dict()) == BOTH
    assert "felt" not in LabelSchema((12,)).to_dict()
    assert LabelSchema.from_dict({"aus": [12]}).felt == ()
    other = LabelSchema((12,), ("calm", "angry"), False, ("calm", "angry", "joy"))
    assert BOTH.difference(other, ("data", "model")) == [
        "in the data but not in the model: felt sad",
        "in the model but not in the data: felt joy",
    ]
    assert BOTH.union(other).felt == ("angry", "sad", "calm", "joy")
    assert BOTH.scored_on(other).felt == BOTH.felt
    assert BOTH.scored_on(LabelSchema((12,), (), False, ("joy",))).tasks == ("au",)
    with pytest.raises(SchemaError, match="felt: named twice: sad"):
        LabelSchema(felt=("sad", "sad"))
    with pytest.raises(SchemaError, match="'felt/sad' is the name of a felt emotion"):
        LabelSchema(expressions=("felt/sad",), felt=("sad",))


def test_labels_and_answers_move_by_name() -> None:
    prediction, batch = answered()
    target = LabelSchema((12,), ("angry", "calm"), False, ("calm", "angry"))
    moved = move_labels(batch, BOTH, target)
    names = [*BOTH.felt, None]
    expected = [
        -1 if names[i] is None or names[i] == "sad" else target.felt.index(names[i])
        for i in batch["felt"].tolist()
    ]
    assert moved["felt"].tolist() == expected
    assert "felt" not in move_labels(batch, BOTH, LabelSchema((12,)))
    assert "felt" not in move_predictions(prediction, BOTH, LabelSchema((12,)))
    torch.testing.assert_close(
        move_predictions(prediction, BOTH, LabelSchema((), (), False, BOTH.felt))["felt"],
        prediction["felt"],
    )
    clip = face_batch(LabelSchema((12,)), 4, 32, clips=2)
    clip["felt"] = torch.tensor([0, 1, 2, -1])
    clip["frame_mask"] = torch.ones(4, 2, dtype=torch.bool)
    assert frames(clip)[0]["felt"].tolist() == [0, 0, 1, 1, 2, 2, -1, -1]


def test_metrics_are_those_of_scikit_learn_over_the_known() -> None:
    prediction, batch = answered()
    metrics = TaskMetrics(BOTH)
    for rows in (slice(0, 25), slice(25, 60)):
        metrics.update({k: v[rows] for k, v in prediction.items()},
                       {k: batch[k][rows] for k in ("au", "expression", "felt")})  # fmt: skip
    found = metrics.compute()
    known = batch["felt"] >= 0
    truth, said = batch["felt"][known], prediction["felt"].argmax(1)[known]
    assert found["felt_war"] == pytest.approx(float((truth == said).float().mean()))
    assert found["felt_uar"] == pytest.approx(balanced_accuracy_score(truth, said))
    matrix = confusion_matrix(truth, said, labels=range(3))
    np.testing.assert_array_equal(metrics.confusion_matrix["felt"], matrix)
    recalls = matrix.diagonal() / matrix.sum(1)
    assert found["felt_recall/sad"] == pytest.approx(recalls[1])
    assert score(found, BOTH) == pytest.approx(
        (found["au_f1"] + found["expression_uar"] + found["felt_uar"]) / 3
    )
    metrics.reset()
    assert np.isnan(metrics.compute()["felt_war"])


def test_trivial_answers_and_absent_classes() -> None:
    _, batch = answered()
    counts = {"expression_count": {"calm": 1, "angry": 2}, "felt_count": {"angry": 1, "sad": 5}}
    found = trivial_baselines(BOTH, counts, batch)
    assert found["felt_uar"] == pytest.approx(1 / 3)
    assert found["felt_recall/sad"] == 1
    assert absent(BOTH, {"felt": torch.tensor([0, 2, -1])}) == ["felt sad"]


def test_predictions_survive_the_disk(tmp_path: Path) -> None:
    prediction, batch = answered()
    table = Predictions(BOTH)
    table.add(batch, prediction)
    assert table.known() == 60
    table.write(tmp_path / "predictions.csv", {"face": ("honest", "deceiving")})
    read = read_table(tmp_path / "predictions.csv")
    assert {"target/felt", "prob/felt/sad", "prob/angry"} <= set(read)
    outcome = Outcome.read(read, BOTH)
    assert outcome.truth["felt"].tolist() == batch["felt"].tolist()
    torch.testing.assert_close(
        outcome.answers["felt"].float(), prediction["felt"], atol=1e-5, rtol=1e-4
    )


def test_the_loss_leaves_the_unknown_out_and_weighs_rare_feelings() -> None:
    prediction, batch = answered()
    losses = TaskLosses(LabelSchema(felt=BOTH.felt), class_weights=True)
    counts = {"angry": 10, "sad": 30, "calm": 20}
    losses.prepare({"felt_count": counts})
    logits = prediction["felt"].log()
    weight = 60 / (3 * torch.tensor([10.0, 30.0, 20.0]))
    expected = torch.nn.functional.cross_entropy(
        logits, batch["felt"], weight=weight, ignore_index=-1
    )
    torch.testing.assert_close(losses({"felt": logits}, batch), expected)


def test_a_specialist_answers_it_and_one_that_is_asked_in_words_refuses() -> None:
    schema = LabelSchema(expressions=("calm", "angry"), felt=("calm", "sad"))
    model = create_model("timm_classifier", schema, backbone="test_resnet").eval()
    with torch.no_grad():
        said = model.predict(face_batch(schema, 2, 32))
    torch.testing.assert_close(said["felt"].sum(1), torch.ones(2))
    with pytest.raises(SchemaError, match="cannot answer 'felt', which the data labels"):
        create_model("endpoint", schema, url="http://127.0.0.1:9/v1", model="x")


def described(several: bool = True) -> dict:
    prediction, batch = answered()
    worse = prediction | {"felt": prediction["felt"].flip(0)}
    made = {}
    for name, answers in (("seeing", prediction), ("blind", worse)):
        table = Predictions(BOTH)
        table.add(batch, answers)
        made[name] = [table.table({"face": ("honest", "deceiving")})] * (1 + several)
    return statistics.analyse(
        made, BOTH, attribute_names={"face": ("honest", "deceiving")}, resamples=50
    )


def test_a_comparison_tells_honest_and_deceiving_faces_apart() -> None:
    found = described()
    prediction, batch = answered()
    for value, group in ((0, "honest"), (1, "deceiving")):
        rows = (batch["felt"] >= 0) & (torch.arange(60) % 2 == value)
        expected = balanced_accuracy_score(batch["felt"][rows], prediction["felt"].argmax(1)[rows])
        of = found["models"]["seeing"]["groups"]["face"]["groups"][group]
        assert of["metrics"]["felt_uar"] == pytest.approx(expected)
    counts = np.array(found["models"]["seeing"]["confusion_felt"]["counts"])
    assert counts.sum() == 2 * int((batch["felt"] >= 0).sum())
    assert {pair["metric"] for pair in found["pairs"]} >= {"felt_war", "felt_uar"}


def test_truth_and_cross_checks_of_drawn_faces() -> None:
    data = create_data("synthetic", n=40, subjects=10, image_size=32, deceive=0.5)
    truth = truth_table(data)
    felt = data.dataset.samples.felt[np.sort(data.split.test)]
    names = [data.schema.felt[i] for i in felt]
    assert sorted(truth["target/felt"]) == sorted(names)
    assert isinstance(truth, pd.DataFrame)


def test_report_tables_name_feelings() -> None:
    described_ = described()
    for model in described_["models"].values():
        model["baselines"] = {}
        model["seeds"] = [0, 1]
        model["cost"] = {}
    page = described_ | {"schema": BOTH.to_dict(), "seeds": [0, 1], "protocol": {}}
    found = tables(page)
    assert "felt_recall" in found
    assert any("felt UAR, deceiving" in str(row) for row in found["groups-face"].rows)
