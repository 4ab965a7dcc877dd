"""Pure metrics against scikit-learn and by hand; their accumulating classes against them."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torchmetrics import Metric

from answered import random_faces
from faceaffect.scores import counts, metrics


def _shuffled(n: int, seed: int) -> Tensor:
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed))


def _batches(rows: Tensor, size: int) -> tuple[Tensor, ...]:
    return torch.split(rows, size)


def test_au_f1_equals_sklearn() -> None:
    from sklearn.metrics import f1_score

    prediction, batch = random_faces()
    for threshold in (0.5, 0.3):
        f1 = metrics.au_f1(prediction["au"], batch["au"], threshold)
        for a in range(3):
            known = ~batch["au"][:, a].isnan()
            yes = prediction["au"][known, a] > threshold
            assert f1[a] == pytest.approx(f1_score(batch["au"][known, a], yes), rel=1e-12)


def test_au_f1_without_a_positive() -> None:
    prob = torch.tensor([[0.9, 0.1, 0.1, 0.9], [0.9, 0.1, 0.1, 0.1]])
    truth = torch.tensor([[0.0, 0.0, 1.0, torch.nan], [0.0, 0.0, 1.0, torch.nan]])
    f1 = metrics.au_f1(prob, truth)
    assert f1[0] == 0  # false alarms alone
    assert f1[1].isnan()  # nothing there, nothing said
    assert f1[2] == 0
    assert f1[3].isnan()


def test_recalls_equal_sklearn() -> None:
    from sklearn.metrics import accuracy_score, recall_score

    prediction, batch = random_faces()
    pred, truth = prediction["expression"].argmax(1), batch["expression"]
    known = truth >= 0
    war, uar = metrics.war(pred, truth), metrics.uar(pred, truth, 4)
    assert (pred[known] == 3).any()  # a class that is predicted and does not occur
    assert war == pytest.approx(accuracy_score(truth[known], pred[known]), rel=1e-12)
    expected = recall_score(truth[known], pred[known], labels=[0, 1, 2], average="macro")
    assert uar == pytest.approx(expected, rel=1e-12)


def test_recalls_of_unreadable_and_unknown() -> None:
    pred, truth = torch.tensor([-1, 0, 1, 1]), torch.tensor([0, 0, 1, -1])
    assert metrics.war(pred, truth) == pytest.approx(2 / 3)
    assert metrics.uar(pred, truth, 3) == 0.75
    nothing = torch.full((4,), -1)
    assert metrics.war(pred, nothing).isnan()
    assert metrics.uar(pred, nothing, 3).isnan()
    for label in (3, -2):
        with pytest.raises(ValueError, match=f"class index {label}"):
            metrics.uar(pred, torch.tensor([0, 1, 2, label]), 3)


def _ccc(x: np.ndarray, y: np.ndarray) -> Any:
    covariance = np.cov(x, y, ddof=0)
    return 2 * covariance[0, 1] / (np.trace(covariance) + (x.mean() - y.mean()) ** 2)


def _icc31(x: np.ndarray, y: np.ndarray) -> Any:
    """Two-way ANOVA as in Shrout and Fleiss (1979)."""
    table = np.stack([x, y], 1)
    n, k = table.shape
    between = k * ((table.mean(1) - table.mean()) ** 2).sum()
    judges = n * ((table.mean(0) - table.mean()) ** 2).sum()
    residual = ((table - table.mean()) ** 2).sum() - between - judges
    msr, mse = between / (n - 1), residual / ((n - 1) * (k - 1))
    return (msr - mse) / (msr + (k - 1) * mse)


@pytest.mark.parametrize(("ours", "reference"), [(metrics.ccc, _ccc), (metrics.icc31, _icc31)])
def test_agreement(ours: Callable[..., Tensor], reference: Callable[..., float]) -> None:
    prediction, batch = random_faces()
    pred, truth = prediction["va"], batch["va"]
    value = ours(pred, truth)
    for c in range(2):
        known = ~truth[:, c].isnan()
        x, y = pred[known, c].double().numpy(), truth[known, c].double().numpy()
        assert value[c] == pytest.approx(reference(x, y), rel=1e-12)
        single = ours(pred[:, c], truth[:, c])
        assert single.shape == ()
        assert single == pytest.approx(value[c].item(), rel=1e-12)


def test_agreement_by_hand() -> None:
    # Means 3 and 4, variances 2 and 2 (ddof 0), covariance 1.8.
    pred, truth = torch.tensor([1.0, 2, 3, 4, 5]), torch.tensor([2.0, 4, 3, 5, 6])
    assert metrics.ccc(pred, truth) == pytest.approx(3.6 / 5)
    assert metrics.icc31(pred, truth) == pytest.approx(0.9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_ccc_of_a_constant_is_zero(dtype: torch.dtype) -> None:
    constant = torch.full((1001,), 0.1, dtype=dtype)
    truth = torch.linspace(-1, 1, 1001, dtype=dtype)
    assert metrics.ccc(constant, truth) == 0
    assert metrics.ccc(truth, constant) == 0
    assert metrics.ccc(constant, constant) == 0
    assert metrics.icc31(constant, truth) == 0
    assert metrics.icc31(constant, constant).isnan()
    assert metrics.ccc(truth, torch.full_like(truth, torch.nan)).isnan()
    assert metrics.ccc(truth[:1], constant[:1]) == 0


def test_shapes_must_agree() -> None:
    for measure in (metrics.au_f1, metrics.ccc, metrics.icc31):
        with pytest.raises(ValueError, match="shape"):
            measure(torch.rand(4, 3), torch.rand(4, 1))


# Accumulating classes


Case = tuple[Metric, Callable[[Any], Tensor], Tensor, Tensor, Tensor]


def _cases() -> list[Case]:
    """What accumulates, what makes a metric of it, its arguments, and the metric of all of them."""
    prediction, batch = random_faces()
    pred, truth = prediction["expression"].argmax(1), batch["expression"]
    au, va = (prediction["au"], batch["au"]), (prediction["va"], batch["va"])
    return [
        (counts.AUConfusion(3, 0.4), lambda m: counts.f1(m.counts), *au, metrics.au_f1(*au, 0.4)),
        (
            counts.ClassConfusion(4),
            lambda m: counts.recall(m.counts).nanmean(),
            pred,
            truth,
            metrics.uar(pred, truth, 4),
        ),
        (counts.Moments(2), lambda m: counts.ccc_of(m.moments), *va, metrics.ccc(*va)),
        (counts.Moments(2), lambda m: counts.icc31_of(m.moments), *va, metrics.icc31(*va)),
    ]


@pytest.mark.parametrize("case", _cases(), ids=lambda case: type(case[0]).__name__)
@pytest.mark.parametrize("size", [1, 7, 200])
def test_accumulated_equals_pooled_in_any_order(case: Case, size: int) -> None:
    metric, finish, pred, truth, expected = case
    order = _shuffled(len(pred), size)
    metric.reset()
    other = metric.clone()
    for number, rows in enumerate(_batches(order, size)):
        (metric if number % 2 else other)(pred[rows], truth[rows])
    metric.update(pred[:0], truth[:0])
    metric.merge_state(other)
    torch.testing.assert_close(finish(metric), expected, rtol=1e-12, atol=0)


def test_moments_are_stable_far_from_zero() -> None:
    g = torch.Generator().manual_seed(0)
    y = torch.randn(1000, generator=g, dtype=torch.float64)
    x = y + torch.randn(1000, generator=g, dtype=torch.float64)
    metric = counts.Moments()
    for rows in _batches(torch.arange(1000), 10):
        metric.update(x[rows] + 1e7, y[rows] + 1e7)
    assert counts.ccc_of(metric.moments) == pytest.approx(_ccc(x.numpy(), y.numpy()), rel=1e-7)


def test_moments_without_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counts, "NO_FLOAT64", ("meta",))
    metric = counts.Moments(2).to("meta")
    assert metric.moments.dtype == torch.float32
    metric.reset()
    assert metric.moments.dtype == torch.float32
    assert counts.Moments(2).to("cpu").moments.dtype == torch.float64
