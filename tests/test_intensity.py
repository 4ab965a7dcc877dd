"""How strongly an expression is shown, from the schema to the report."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import mean_absolute_error, root_mean_squared_error

from batches import face_batch
from faceaffect import LabelSchema, create_model
from faceaffect.data.base import create_data
from faceaffect.data.batch import FaceBatch, move_labels, move_predictions
from faceaffect.data.truth import truth_table
from faceaffect.errors import DataError, SchemaError
from faceaffect.evaluation import statistics
from faceaffect.evaluation.gallery import disagreement
from faceaffect.evaluation.report_tables import tables
from faceaffect.networks.heads import TaskLosses, answers
from faceaffect.networks.losses import expected_grade, intensity_loss
from faceaffect.runs.uses import _poor
from faceaffect.scores.metrics import TaskMetrics, score, trivial_baselines
from faceaffect.scores.predictions import Outcome, Predictions, read_table

SHOWN = LabelSchema(expressions=("calm", "angry"), intensity=True)


def answered(n: int = 60) -> tuple[dict, FaceBatch]:
    g = torch.Generator().manual_seed(0)
    truth = 3 * torch.rand(n, 1, generator=g)
    said = (truth + torch.randn(n, 1, generator=g)).clamp(0, 3)
    truth[::7] = torch.nan
    batch = FaceBatch(
        id=[f"{i:03d}" for i in range(n)],
        subject=[f"p{i % 12}" for i in range(n)],
        expression=torch.randint(0, 2, (n,), generator=g),
        intensity=truth,
    )
    classes = torch.rand(n, 2, generator=g).softmax(1)
    return {"expression": classes, "intensity": said}, batch


def known(prediction: dict, batch: FaceBatch) -> tuple[np.ndarray, np.ndarray]:
    there = ~batch["intensity"][:, 0].isnan()
    return batch["intensity"][there, 0].numpy(), prediction["intensity"][there, 0].numpy()


def concordance(x: np.ndarray, y: np.ndarray) -> float:
    both = np.cov(x, y, ddof=0)
    return float(2 * both[0, 1] / (both[0, 0] + both[1, 1] + (x.mean() - y.mean()) ** 2))


def test_the_schema_has_it_as_a_task_and_older_files_stay_as_they_are() -> None:
    assert SHOWN.tasks == ("expression", "intensity")
    assert SHOWN.answers == ("calm", "angry", "intensity")
    assert LabelSchema.from_dict(SHOWN.to_dict()) == SHOWN
    plain = LabelSchema(expressions=SHOWN.expressions)
    assert "intensity" not in plain.to_dict()
    assert SHOWN.difference(plain, ("data", "model")) == [
        "in the data but not in the model: intensity"
    ]
    assert plain.union(SHOWN) == SHOWN
    assert SHOWN.scored_on(plain) == plain


def test_labels_and_answers_are_left_out_where_nobody_asks() -> None:
    prediction, batch = answered()
    plain = LabelSchema(expressions=SHOWN.expressions)
    assert "intensity" not in move_labels(batch, SHOWN, plain)
    assert "intensity" not in move_predictions(prediction, SHOWN, plain)
    turned = LabelSchema(expressions=SHOWN.expressions[::-1], intensity=True)
    assert torch.equal(
        move_labels(batch, SHOWN, turned)["intensity"].nan_to_num(9),
        batch["intensity"].nan_to_num(9),
    )
    moved = move_predictions(prediction, turned, SHOWN)
    assert torch.equal(moved["intensity"], prediction["intensity"])


def test_metrics_are_of_the_known_and_an_unreadable_answer_counts_as_0() -> None:
    prediction, batch = answered()
    prediction["intensity"][3] = torch.nan
    metrics = TaskMetrics(SHOWN)
    for rows in (slice(0, 7), slice(7, 60)):
        metrics.update({k: v[rows] for k, v in prediction.items()},
                       {k: batch[k][rows] for k in SHOWN.tasks})  # fmt: skip
    found = metrics.compute()
    truth, said = known(prediction, batch)
    said = np.nan_to_num(said)
    assert found["intensity_ccc"] == pytest.approx(concordance(truth, said))
    assert found["intensity_mae"] == pytest.approx(mean_absolute_error(truth, said))
    assert found["intensity_rmse"] == pytest.approx(root_mean_squared_error(truth, said), rel=1e-5)
    assert score(found, SHOWN) == pytest.approx(
        (found["expression_uar"] + found["intensity_ccc"]) / 2
    )
    metrics.reset()
    assert np.isnan(metrics.compute()["intensity_mae"])


def test_the_trivial_answer_is_the_mean_of_the_training_part() -> None:
    prediction, batch = answered()
    told = {"expression_count": {"calm": 1, "angry": 2}, "intensity_mean": [1.25]}
    found = trivial_baselines(SHOWN, told, {task: batch[task] for task in SHOWN.tasks})
    truth, _ = known(prediction, batch)
    assert found["intensity_ccc"] == 0
    assert found["intensity_mae"] == pytest.approx(np.abs(truth - 1.25).mean())


def test_predictions_survive_the_disk_and_stay_on_the_scale(tmp_path: Path) -> None:
    prediction, batch = answered()
    table = Predictions(SHOWN)
    table.add(batch, prediction)
    file = tmp_path / "predictions.csv"
    table.write(file)
    outcome = Outcome.read(read_table(file), SHOWN)
    torch.testing.assert_close(
        outcome.answers["intensity"].float(), prediction["intensity"], atol=1e-5, rtol=1e-4
    )
    assert torch.equal(outcome.truth["intensity"].isnan(), batch["intensity"].isnan())
    cells = read_table(file)
    cells.loc[0, "pred/intensity"] = 3.5
    cells.to_csv(file, index=False)
    with pytest.raises(DataError, match=r"'pred/intensity' is 3.5 .* from 0 to 3"):
        read_table(file)


def test_the_loss_is_of_grades_and_leaves_the_unknown_out() -> None:
    _, batch = answered()
    logits = torch.randn(60, 4, generator=torch.Generator().manual_seed(1))
    there = ~batch["intensity"][:, 0].isnan()
    exact = batch["intensity"][there, 0]
    expected = F.cross_entropy(logits[there], exact.round().long()) + F.smooth_l1_loss(
        logits[there].softmax(1) @ torch.arange(4.0), exact
    )
    losses = TaskLosses(LabelSchema(intensity=True), intensity_weight=2.0)
    torch.testing.assert_close(losses({"intensity": logits}, batch), 2 * expected)
    logits.requires_grad_()
    nothing = intensity_loss(logits, torch.full((60, 1), torch.nan))
    nothing.backward()
    assert nothing.item() == 0
    assert not logits.grad.any()
    sure = torch.tensor([[-40.0, -40, 40, -40]])
    assert expected_grade(sure).item() == pytest.approx(2.0)
    assert answers({"intensity": sure})["intensity"].shape == (1, 1)
    assert intensity_loss(sure, torch.tensor([[2.0]])).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("name", ["timm_classifier", "sacl", "gimefive", "emert"])
def test_specialists_answer_it_from_0_to_3(name: str) -> None:
    args = {"gimefive": {}, "emert": {"backbone": "test_resnet", "modalities": ["face"]}}
    model = create_model(name, SHOWN, **args.get(name, {"backbone": "test_resnet"})).eval()
    batch = face_batch(SHOWN, 3, 64, clips=2 if name == "emert" else 0)
    with torch.no_grad():
        said = model.predict(batch)["intensity"]
    assert said.shape == (3, 1)
    assert ((said > 0) & (said < 3)).all()
    assert torch.isfinite(model.loss(batch))


def test_a_model_that_is_asked_in_words_refuses() -> None:
    with pytest.raises(SchemaError, match="cannot answer 'intensity', which the data labels"):
        create_model("endpoint", SHOWN, url="http://127.0.0.1:9/v1", model="x")


def test_drawn_faces_that_deceive_have_it() -> None:
    data = create_data("synthetic", n=40, subjects=10, image_size=32, deceive=0.5)
    truth = truth_table(data)
    own = data.dataset.samples.intensity[np.sort(data.split.test), 0]
    assert sorted(truth["target/intensity"]) == pytest.approx(sorted(own.tolist()))
    assert not create_data("synthetic", n=40, subjects=10, image_size=32).schema.intensity
    part = data.dataset.samples.take(data.split.train)
    part.intensity = np.full_like(part.intensity, np.nan)
    assert "there is no intensity" in list(_poor(part, data.schema))


def test_a_report_shows_who_tells_it_best() -> None:
    prediction, batch = answered()
    worse = prediction | {"intensity": prediction["intensity"].flip(0)}
    made = {}
    for name, said in (("seeing", prediction), ("blind", worse)):
        table = Predictions(SHOWN)
        table.add(batch, said)
        made[name] = [table.table()]
    found = statistics.analyse(made, SHOWN, resamples=50)
    pair = next(pair for pair in found["pairs"] if pair["metric"] == "intensity_ccc")
    expected = [concordance(*known(said, batch)) for said in (prediction, worse)]
    assert pair["difference"] == pytest.approx(expected[0] - expected[1], abs=1e-5)
    for model in found["models"].values():
        model |= {"baselines": {"intensity_ccc": 0.0, "intensity_mae": 0.9}, "seeds": [0]}
        model["cost"] = {}
    page = found | {"schema": SHOWN.to_dict(), "seeds": [0], "protocol": {}}
    agreement, distance = tables(page)["intensity"].rows
    assert agreement[1].best
    assert distance[1].best  # the lowest
    assert not distance[2].best
    apart = disagreement([of[0] for of in made.values()], SHOWN)
    away = (prediction["intensity"] - worse["intensity"]).abs()[:, 0].numpy() / 3
    np.testing.assert_allclose(apart, away, atol=1e-5)  # both name the same expressions
