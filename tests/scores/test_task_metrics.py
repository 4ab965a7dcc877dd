"""All metrics of a schema at once: names, values, unknown labels, batches and processes."""

import math
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.multiprocessing.spawn import start_processes
from torchmetrics import Metric

from answered import Labels, random_faces
from faceaffect.schema import LabelSchema
from faceaffect.scores import counts, metrics
from faceaffect.scores.metrics import TaskMetrics

SCHEMA = LabelSchema((1, 4, 12), ("neutral", "happiness", "anger", "fear"), True)
STATISTICS = {
    "n": 10,
    "au_rate": {"AU1": 0.2, "AU4": 0.1, "AU12": 0.4},
    "expression_count": {"happiness": 6, "neutral": 3, "anger": 1},
    "va_mean": [0.1, -0.2],
}


def _rows(labels: Labels, rows: Tensor | slice) -> Labels:
    return {task: value[rows] for task, value in labels.items()}


def _shuffled(n: int, seed: int) -> Tensor:
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed))


def _batches(rows: Tensor, size: int) -> tuple[Tensor, ...]:
    return torch.split(rows, size)


def _all(prediction: Labels, batch: Labels, schema: LabelSchema = SCHEMA) -> dict[str, float]:
    whole = TaskMetrics(schema)
    whole.update(prediction, batch)
    return whole.compute()


def test_states_survive_inference_mode() -> None:
    metric = TaskMetrics(SCHEMA)
    with torch.inference_mode():
        metric.update(*random_faces())
        metric.compute()
        metric.reset()
    metric.update(*random_faces())
    assert metric.compute() == pytest.approx(_all(*random_faces()), nan_ok=True)
    assert not metric.state_dict()


def test_names_depend_on_the_schema_alone() -> None:
    names = list(_all(*random_faces()))
    assert names == [
        *(f"au_{kind}{au}" for kind in ("f1", "accuracy", "auroc", "ece") for au in _AU),
        "au_f1_present",
        *("expression_war", "expression_uar", "expression_f1", "expression_ece"),
        *(f"expression_recall/{name}" for name in SCHEMA.expressions),
        *("va_ccc", "va_ccc/valence", "va_ccc/arousal"),
        *("va_rmse", "va_rmse/valence", "va_rmse/arousal"),
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        nothing = TaskMetrics(SCHEMA).compute()
    assert list(nothing) == names
    assert all(math.isnan(value) for value in nothing.values())
    assert list(_all(*random_faces(), LabelSchema((1, 4, 12)))) == names[:17]


_AU = ("", "/AU1", "/AU4", "/AU12")


def _ece(prob: np.ndarray, hit: np.ndarray) -> float:
    """Expected calibration error of 15 equal bins, by definition."""
    bins = np.minimum((prob * 15).astype(int), 14)
    gaps = [
        abs(prob[bins == b].mean() - hit[bins == b].mean()) * (bins == b).mean()
        for b in range(15)
        if (bins == b).any()
    ]
    return float(np.sum(gaps))


def test_au_metrics_equal_sklearn() -> None:
    from sklearn.metrics import accuracy_score, f1_score, roc_auc_score

    prediction, batch = random_faces()
    values = _all(prediction, batch)
    every: dict[str, list[float]] = {"f1": [], "accuracy": [], "auroc": [], "ece": []}
    for a in range(3):
        known = ~batch["au"][:, a].isnan()
        y = batch["au"][known, a].numpy()
        p = prediction["au"][known, a].double().numpy()
        every["f1"].append(f1_score(y, p > 0.5))
        every["accuracy"].append(accuracy_score(y, p > 0.5))
        every["auroc"].append(roc_auc_score(y, p))
        every["ece"].append(_ece(p, y))
    for kind, per_au in every.items():
        expected = dict(zip(_AU, [np.mean(per_au), *per_au], strict=True))
        for suffix, value in expected.items():
            assert values[f"au_{kind}{suffix}"] == pytest.approx(value, abs=1e-6)


def test_expression_metrics_equal_sklearn() -> None:
    from sklearn.metrics import confusion_matrix, f1_score, recall_score

    prediction, batch = random_faces()
    whole = TaskMetrics(SCHEMA)
    whole.update(prediction, batch)
    values = whole.compute()
    known = batch["expression"] >= 0
    truth = batch["expression"][known].numpy()
    prob = prediction["expression"][known].numpy()
    pred = prob.argmax(1)
    matrix = confusion_matrix(truth, pred, labels=range(4))
    np.testing.assert_array_equal(whole.confusion_matrix["expression"], matrix)
    assert values["expression_war"] == pytest.approx((truth == pred).mean())
    recall = recall_score(truth, pred, labels=[0, 1, 2], average=None)
    assert values["expression_uar"] == pytest.approx(recall.mean())
    assert 3 in pred  # "fear", which the truth never has, counts 0
    expected = f1_score(truth, pred, labels=range(4), average="macro", zero_division=0)
    assert values["expression_f1"] == pytest.approx(expected)
    for name, value in zip(SCHEMA.expressions, [*recall, math.nan], strict=True):
        assert values[f"expression_recall/{name}"] == pytest.approx(value, nan_ok=True)
    assert values["expression_ece"] == pytest.approx(_ece(prob.max(1), truth == pred), abs=1e-6)


def test_va_metrics() -> None:
    prediction, batch = random_faces()
    values = _all(prediction, batch)
    ccc = metrics.ccc(prediction["va"], batch["va"])
    rmse = (prediction["va"] - batch["va"]).double().square().nanmean(0).sqrt()
    for kind, column in (("ccc", ccc), ("rmse", rmse)):
        assert values[f"va_{kind}"] == pytest.approx(column.mean())
        assert values[f"va_{kind}/valence"] == pytest.approx(column[0])
        assert values[f"va_{kind}/arousal"] == pytest.approx(column[1])


def test_an_au_that_the_truth_never_has_counts_0_where_it_is_predicted() -> None:
    from sklearn.metrics import f1_score

    prediction, batch = random_faces()
    batch["au"][:, 1] = batch["au"][:, 1].where(batch["au"][:, 1].isnan(), 0)
    batch["au"][:, 2] = torch.nan
    whole = TaskMetrics(SCHEMA)
    whole.update(prediction, batch)
    values = whole.compute()
    assert metrics.absent(SCHEMA, batch) == ["AU4", "AU12", "fear"]
    known = ~batch["au"][:, 1].isnan()
    said = prediction["au"][known, 1] > 0.5
    assert said.any()
    assert values["au_f1/AU4"] == f1_score(batch["au"][known, 1], said, zero_division=0) == 0
    assert values["au_f1"] == values["au_f1/AU1"] / 2
    assert values["au_f1_present"] == values["au_f1/AU1"]
    assert values["au_auroc"] == values["au_auroc/AU1"]
    assert values["au_accuracy"] == (values["au_accuracy/AU1"] + values["au_accuracy/AU4"]) / 2
    assert math.isnan(values["au_ece/AU12"])
    prediction["au"][:, 1] = 0.1  # nothing there, nothing said: nothing to score
    assert math.isnan(_all(prediction, batch)["au_f1/AU4"])
    assert metrics.absent(SCHEMA, random_faces()[1]) == ["fear"]


def test_a_model_that_fires_on_everything_gains_nothing_by_absent_aus() -> None:
    schema = LabelSchema((1, 2))
    truth = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    values = _all({"au": torch.ones(2, 2)}, {"au": truth}, schema)
    assert (values["au_f1"], values["au_f1_present"]) == (0.5, 1.0)


def test_batches_in_any_order_and_precision() -> None:
    prediction, batch = random_faces()
    expected = _all(prediction, batch)
    whole = TaskMetrics(SCHEMA)
    for rows in _batches(_shuffled(200, 0), 13):
        whole.update(_rows(prediction, rows), _rows(batch, rows))
    assert whole.compute() == pytest.approx(expected, rel=1e-9, nan_ok=True)
    low = {task: value.bfloat16() for task, value in prediction.items()}
    full = {task: value.float() for task, value in low.items()}
    assert _all(low, batch) == pytest.approx(_all(full, batch), nan_ok=True)


def test_absent_tasks_are_unknown() -> None:
    prediction, batch = random_faces()
    whole = TaskMetrics(SCHEMA)
    whole.update(prediction, {"expression": batch["expression"], "id": ["a"]})
    values = whole.compute()
    assert math.isnan(values["au_f1"])
    assert math.isnan(values["va_ccc"])
    assert values["expression_war"] == _all(prediction, batch)["expression_war"]


def test_unreadable_answers_are_wrong() -> None:
    schema = LabelSchema((1,), ("neutral", "happiness"), True)
    nan = torch.nan
    va = torch.tensor([[0.5, 0.1], [nan, 0.2], [-0.5, nan], [0.3, 0.3]])
    true_va = torch.tensor([[0.4, 0.2], [0.3, 0.1], [-0.3, 0.5], [nan, nan]])
    values = _all(
        {
            "au": torch.tensor([[0.9], [nan], [nan], [nan]]),
            "expression": torch.tensor([[0.8, 0.2], [nan, nan], [nan, nan], [0.5, nan]]),
            "va": va,
        },
        {
            "au": torch.tensor([[1.0], [1.0], [0.0], [nan]]),
            "expression": torch.tensor([0, 0, 1, -1]),
            "va": true_va,
        },
        schema,
    )
    assert values["au_f1"] == pytest.approx(0.5)  # 1 hit, 1 missed, 1 false alarm
    assert values["au_accuracy"] == pytest.approx(1 / 3)
    assert values["au_ece"] == pytest.approx(0.1)
    assert values["expression_war"] == pytest.approx(1 / 3)
    assert values["expression_uar"] == pytest.approx(0.25)
    assert values["expression_ece"] == pytest.approx(0.2)
    middle = metrics.ccc(va.nan_to_num(0), true_va)
    assert values["va_ccc"] == pytest.approx(middle.mean().item())


def test_a_probability_rounded_over_one_is_no_logit() -> None:
    prediction, batch = random_faces()
    expected = _all(prediction, batch)
    prediction["au"][0, 0], batch["au"][0, 0] = 1 + 1e-6, torch.nan
    prediction["au"][1, 0], batch["au"][1, 0] = 1 + 1e-6, 1.0
    values = _all(prediction, batch)
    assert values["au_ece/AU1"] == pytest.approx(expected["au_ece/AU1"], abs=0.02)


def test_shapes_of_a_batch_must_agree() -> None:
    prediction, batch = random_faces()
    whole = TaskMetrics(SCHEMA)
    for task in SCHEMA.tasks:
        with pytest.raises(ValueError, match=r"shape|classes"):
            whole.update({**prediction, task: prediction[task][:, :1]}, batch)


def test_score() -> None:
    values = {"au_f1": 0.6, "expression_uar": 0.3, "va_ccc": -0.3}
    assert metrics.score(values, SCHEMA) == pytest.approx(0.2)
    assert metrics.score(values, SCHEMA, {"va": 0}) == pytest.approx(0.45)
    assert metrics.score(values, SCHEMA, {"au": 2}) == pytest.approx(0.3)
    assert metrics.score(values, LabelSchema((1,)), {"va": 5}) == pytest.approx(0.6)
    assert metrics.score(values | {"va_ccc": math.nan}, SCHEMA) == pytest.approx(0.45)
    assert math.isnan(metrics.score(values, LabelSchema((1,)), {"au": 0}))
    for weights in ({"aus": 1}, {"au": -1}, {"au": math.nan}):
        with pytest.raises(ValueError, match=r"task_weights\.au"):
            metrics.score(values, SCHEMA, weights)


def test_trivial_baselines() -> None:
    _, batch = random_faces()
    baselines = metrics.trivial_baselines(SCHEMA, STATISTICS, batch)
    assert list(baselines) == list(_all(*random_faces()))
    rate = batch["au"].nanmean(0)
    for a, name in enumerate(SCHEMA.au_names):
        assert baselines[f"au_f1/{name}"] == pytest.approx(2 * rate[a] / (1 + rate[a]))
        assert baselines[f"au_accuracy/{name}"] == pytest.approx(rate[a])
        assert baselines[f"au_ece/{name}"] == pytest.approx(1 - rate[a])
        assert baselines[f"au_auroc/{name}"] == 0.5
    known = batch["expression"][batch["expression"] >= 0]
    assert baselines["expression_war"] == pytest.approx((known == 1).float().mean())
    assert baselines["expression_uar"] == pytest.approx(1 / 3)
    assert baselines["va_ccc"] == 0
    squares = (batch["va"].double() - torch.tensor([0.1, -0.2])).square().nanmean(0)
    assert baselines["va_rmse"] == pytest.approx(squares.sqrt().mean())
    arrays = {task: value.numpy() for task, value in batch.items()}
    assert metrics.trivial_baselines(SCHEMA, STATISTICS, arrays) == pytest.approx(
        baselines, nan_ok=True
    )
    assert math.isnan(metrics.trivial_baselines(SCHEMA, STATISTICS, {})["au_f1"])


# Processes


def _cases() -> list[tuple[Metric, Tensor, Tensor, Tensor]]:
    """What accumulates, its arguments, and what it holds of all of them."""
    prediction, batch = random_faces()
    pred, truth = prediction["expression"].argmax(1), batch["expression"]
    au, va = (prediction["au"], batch["au"]), (prediction["va"], batch["va"])
    return [
        (counts.AUConfusion(3, 0.4), *au, counts.au_confusion(*au, 0.4)),
        (counts.ClassConfusion(4), pred, truth, counts.class_confusion(pred, truth, 4)),
        (counts.Moments(2), *va, counts.moments(va[0].double(), va[1])),
    ]


def _process(rank: int, folder: str, parts: list[slice]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=len(parts))
    prediction, batch = random_faces()
    whole, local = TaskMetrics(SCHEMA), TaskMetrics(SCHEMA, sync=False)
    for rows in _batches(torch.arange(200)[parts[rank]], 16):
        for each in (whole, local):
            each.update(_rows(prediction, rows), _rows(batch, rows))
    values = {"synced": whole.compute(), "local": local.compute()}
    if rank:  # alone: must not wait for the other process
        values["baselines"] = metrics.trivial_baselines(SCHEMA, STATISTICS, batch)
    classes = {}
    for metric, pred, truth, _ in _cases():
        metric.update(pred[parts[rank]], truth[parts[rank]])
        classes[type(metric).__name__] = metric.compute()
    empty = TaskMetrics(SCHEMA)
    if rank:
        empty.update(prediction, batch)
    values["one_idle"] = empty.compute()
    torch.save((values, classes, whole.confusion_matrix["expression"]), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_pool_their_samples(tmp_path: Path) -> None:
    parts = [slice(0, 71), slice(71, 200)]
    start_processes(  # type: ignore[no-untyped-call]
        _process, args=(str(tmp_path), parts), nprocs=2, start_method="fork"
    )  # which have imported everything
    prediction, batch = random_faces()
    expected = _all(prediction, batch)
    for rank, part in enumerate(parts):
        values, classes, matrix = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert values["synced"] == pytest.approx(expected, rel=1e-9, nan_ok=True)
        assert values["one_idle"] == pytest.approx(expected, rel=1e-9, nan_ok=True)
        alone = _all(_rows(prediction, part), _rows(batch, part))
        assert values["local"] == pytest.approx(alone, rel=1e-9, nan_ok=True)
        for metric, _, _, pooled in _cases():
            torch.testing.assert_close(classes[type(metric).__name__], pooled, rtol=1e-12, atol=0)
        assert matrix.sum() == (batch["expression"] >= 0).sum()
