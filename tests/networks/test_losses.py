"""Losses against closed forms in float64: values and hand-derived gradients."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from faceaffect.networks import losses

WEIGHT = np.array([0.5, 1.0, 2.0])
GAMMA = np.array([1.0, 1.5, 2.0])
Array = np.ndarray[Any, np.dtype[Any]]
Pair = tuple[Array, Array]


def _sigmoid(z: Array) -> Any:
    return 1 / (1 + np.exp(-z))


def _entries(value: Array, slope: Array, y: Array) -> tuple[float, Array]:
    """Mean and its gradient from the loss and slope of every entry."""
    known = ~np.isnan(y)
    loss = np.where(known, WEIGHT * value, 0)
    return loss.sum() / known.sum(), np.where(known, WEIGHT * slope, 0) / known.sum()


def _mdwa(z: Array, y: Array, margin: float = 0.05) -> tuple[float, Array]:
    p = _sigmoid(z)
    q = np.maximum(p - margin, 0)
    negative = -(q**GAMMA) * np.log(1 - q)
    slope = p * (1 - p) * (q**GAMMA / (1 - q) - GAMMA * q ** (GAMMA - 1) * np.log(1 - q))
    return _entries(np.where(y == 1, -np.log(p), negative), np.where(y == 1, p - 1, slope), y)


def _asymmetric(z: Array, y: Array) -> tuple[float, Array]:
    p = _sigmoid(z)
    value = np.where(y == 1, -np.log(p), -p * np.log(1 - p))
    return _entries(value, np.where(y == 1, p - 1, p * p), y)


def _dice(z: Array, y: Array) -> tuple[float, Array]:
    p, value, grad = _sigmoid(z), [], np.zeros_like(z)
    columns = [a for a in range(z.shape[1]) if not np.isnan(y[:, a]).all()]
    for a in columns:
        rows = ~np.isnan(y[:, a])
        t, q = y[rows, a], p[rows, a]
        top, bottom = 2 * (t * q).sum() + 1, (t * t).sum() + (q * q).sum() + 1
        value.append(WEIGHT[a] * (1 - top / bottom))
        slope = -(2 * t * bottom - 2 * q * top) / bottom**2 * q * (1 - q)
        grad[rows, a] = WEIGHT[a] * slope / len(columns)
    return float(np.mean(value)), grad


def _focal(z: Array, y: Array, gamma: float = 1.5, alpha: float = 0.3) -> tuple[float, Array]:
    p = _sigmoid(z)
    q = 1 - p
    value = np.where(y == 1, -alpha * q**gamma * np.log(p), -(1 - alpha) * p**gamma * np.log(q))
    positive = -alpha * q**gamma * (q - gamma * p * np.log(p))
    negative = (1 - alpha) * p**gamma * (p - gamma * q * np.log(q))
    return _entries(value, np.where(y == 1, positive, negative), y)


def _bce(z: Array, y: Array) -> tuple[float, Array]:
    p, boost = _sigmoid(z), np.array([3.0, 1.0, 0.5])
    value = np.where(y == 1, -boost * np.log(p), -np.log(1 - p))
    return _entries(value, np.where(y == 1, boost * (p - 1), p), y)


WEIGHT_T = torch.from_numpy(WEIGHT)
AU_LOSSES: dict[str, tuple[Callable[..., Tensor], Callable[..., tuple[float, Array]]]] = {
    "mdwa": (partial(losses.mdwa_loss, gamma=torch.from_numpy(GAMMA)), _mdwa),
    "mdwa_no_margin": (
        partial(losses.mdwa_loss, gamma=GAMMA.tolist(), margin=0.0),
        partial(_mdwa, margin=0.0),
    ),
    "asymmetric": (losses.weighted_asymmetric_loss, _asymmetric),
    "dice": (losses.weighted_dice_loss, _dice),
    "focal": (partial(losses.focal_loss, gamma=1.5, alpha=0.3), _focal),
    "bce": (partial(losses.bce_loss, pos_weight=torch.tensor([3.0, 1.0, 0.5])), _bce),
}
au_losses = pytest.mark.parametrize("name", AU_LOSSES)


def _sample(seed: int = 0, n: int = 40) -> Pair:
    rng = np.random.default_rng(seed)
    z = rng.normal(0, 3, (n, 3))
    y = rng.integers(0, 2, (n, 3)).astype(float)
    y[rng.random((n, 3)) < 0.3] = np.nan
    return z, y


def _value_and_grad(loss: Callable[[Tensor], Tensor], z: Tensor) -> tuple[Tensor, Tensor]:
    z = z.clone().requires_grad_()
    value = loss(z)
    return value.detach(), torch.autograd.grad(value, z)[0]


@au_losses
def test_closed_form(name: str) -> None:
    loss, reference = AU_LOSSES[name]
    z, y = _sample()
    y[:, 2] = np.nan if name == "dice" else y[:, 2]
    value, grad = _value_and_grad(
        lambda logits: loss(logits, torch.from_numpy(y), weight=WEIGHT_T), torch.from_numpy(z)
    )
    expected_value, expected_grad = reference(z, y)
    assert value.dtype == torch.float64
    np.testing.assert_allclose(value, expected_value, rtol=1e-12)
    np.testing.assert_allclose(grad, expected_grad, rtol=1e-10, atol=1e-15)


@au_losses
def test_nothing_known_is_zero_with_a_graph(name: str) -> None:
    z = torch.randn(4, 3)
    value, grad = _value_and_grad(lambda x: AU_LOSSES[name][0](x, torch.full((4, 3), torch.nan)), z)
    assert value == 0
    assert (grad == 0).all()


@au_losses
def test_broken_logit_of_an_unknown_label_does_no_harm(name: str) -> None:
    z, y = torch.randn(4, 3), torch.ones(4, 3)
    y[0], z[0] = torch.nan, torch.tensor([torch.nan, torch.inf, -torch.inf])
    value, grad = _value_and_grad(lambda x: AU_LOSSES[name][0](x, y), z)
    assert value.isfinite()
    assert (grad[0] == 0).all()
    assert grad.isfinite().all()


@au_losses
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_finite_at_extreme_logits(name: str, dtype: torch.dtype) -> None:
    z = torch.tensor([1e4, -1e4, 100.0, -100.0, 20.0, -20.0, 0.0], dtype=dtype)
    for label in (0.0, 1.0):
        logits = z[:, None].expand(-1, 3)
        target = torch.full_like(logits, label)
        value, grad = _value_and_grad(partial(AU_LOSSES[name][0], target=target), logits)
        assert value.isfinite()
        assert grad.isfinite().all()


def test_values_at_extreme_logits() -> None:
    far = torch.tensor([[1e4]])
    assert losses.mdwa_loss(-far, torch.ones(1, 1)) == 1e4
    assert losses.mdwa_loss(far, torch.zeros(1, 1), margin=0) == 1e4
    assert losses.mdwa_loss(far, torch.zeros(1, 1)) == pytest.approx(-0.95 * math.log(0.05))
    assert losses.weighted_asymmetric_loss(far, torch.zeros(1, 1)) == 1e4
    assert losses.focal_loss(far, torch.zeros(1, 1), gamma=0.5) == 1e4


@au_losses
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_float32_under_autocast(name: str, dtype: torch.dtype) -> None:
    z, y = (torch.from_numpy(part).float() for part in _sample(1))
    low = z.to(dtype)
    expected, _ = _value_and_grad(lambda x: AU_LOSSES[name][0](x, y), low.float())
    with torch.autocast("cpu", dtype=dtype):
        value, grad = _value_and_grad(lambda x: AU_LOSSES[name][0](x, y), low)
    assert value.dtype == torch.float32
    assert value == expected
    assert grad.dtype == dtype


def test_mdwa_gradient_curve() -> None:
    p = torch.linspace(0.001, 0.999, 999, dtype=torch.float64)
    _, slope = _value_and_grad(
        lambda z: 999 * losses.mdwa_loss(z, torch.zeros(999)), torch.logit(p)
    )
    assert (slope[p < 0.05 + 1e-9].abs() < 1e-9).all()
    assert (slope[p < 0.05 - 1e-9] == 0).all()
    assert (slope[p > 0.051] > 0).all()
    assert p[slope.argmax()] == pytest.approx(0.844, abs=0.002)
    assert slope.max() == pytest.approx(0.7155, abs=0.001)
    assert slope[-1] == pytest.approx(0.02, abs=0.005)


def test_mdwa_shapes_and_ranges() -> None:
    z, y = torch.zeros(2, 3), torch.zeros(2, 3)
    for gamma in (0.99, torch.tensor([1.0, 0.5, 2.0]), [1.0, 1.0, math.nan]):
        with pytest.raises(ValueError, match="gamma"):
            losses.mdwa_loss(z, y, gamma=gamma)
    for margin in (-0.1, 1.0):
        with pytest.raises(ValueError, match="margin"):
            losses.mdwa_loss(z, y, margin=margin)
    with pytest.raises(ValueError, match="shape"):
        losses.mdwa_loss(z, y[0])


def test_mdwa_compiles_in_one_graph() -> None:
    z, y = (torch.from_numpy(part) for part in _sample(2))
    gamma = torch.from_numpy(GAMMA)
    compiled = torch.compile(losses.mdwa_loss, backend="eager", fullgraph=True)
    assert compiled(z, y, gamma=gamma) == losses.mdwa_loss(z, y, gamma=gamma)


def test_weights_are_not_normalised() -> None:
    z, y = torch.zeros(2, 3), torch.ones(2, 3)
    doubled = losses.bce_loss(z, y, weight=torch.full((3,), 2.0))
    assert doubled == pytest.approx(2 * math.log(2))


def test_focal_with_gamma_zero_is_bce() -> None:
    z, y = (torch.from_numpy(part) for part in _sample(3))
    torch.testing.assert_close(losses.focal_loss(z, y, gamma=0), losses.bce_loss(z, y))
    with pytest.raises(ValueError, match="alpha"):
        losses.focal_loss(z, y, alpha=1.5)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy(weighted: bool, smoothing: float) -> None:
    rng = np.random.default_rng(0)
    z, y = rng.normal(0, 3, (20, 3)), rng.integers(-1, 3, 20)
    w = WEIGHT if weighted else np.ones(3)
    known = y >= 0
    p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    t = (1 - smoothing) * np.eye(3)[y] + smoothing / 3
    mass = w[y[known]].sum()
    expected = -(w * t * np.log(p))[known].sum() / mass
    slope = ((w * t).sum(1, keepdims=True) * p - w * t) / mass * known[:, None]
    value, grad = _value_and_grad(
        lambda x: losses.cross_entropy_loss(
            x,
            torch.from_numpy(y),
            weight=WEIGHT_T if weighted else None,
            label_smoothing=smoothing,
        ),
        torch.from_numpy(z),
    )
    np.testing.assert_allclose(value, expected, rtol=1e-12)
    np.testing.assert_allclose(grad, slope, rtol=1e-10, atol=1e-15)


def test_cross_entropy_unknown_and_extreme() -> None:
    unknown = torch.full((4,), -1)
    value, grad = _value_and_grad(
        lambda x: losses.cross_entropy_loss(x, unknown), torch.full((4, 3), torch.nan)
    )
    assert value == 0
    assert (grad == 0).all()
    z = torch.tensor([[1e4, -1e4, 0.0]])
    value, grad = _value_and_grad(lambda x: losses.cross_entropy_loss(x, torch.tensor([1])), z)
    assert value == 2e4
    assert grad.isfinite().all()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = losses.cross_entropy_loss(z.bfloat16(), torch.tensor([0]))
    assert low.dtype == torch.float32


def _ccc(x: Array, y: Array) -> Pair:
    """1 - CCC of a column and its gradient."""
    n, dx, dy = len(x), x - x.mean(), y - y.mean()
    bottom = (dx @ dx + dy @ dy) / n + (x.mean() - y.mean()) ** 2
    value = 2 * (dx @ dy) / n / bottom
    slope = 2 * dy / n / bottom - value * 2 * (dx + x.mean() - y.mean()) / n / bottom
    return 1 - value, -slope


def test_ccc_loss() -> None:
    x, y = np.random.default_rng(0).uniform(-1, 1, (2, 20, 2))
    y[3:9, 0] = np.nan
    known = ~np.isnan(y[:, 0])
    first, second = _ccc(x[known, 0], y[known, 0]), _ccc(x[:, 1], y[:, 1])
    expected = np.zeros_like(x)
    expected[known, 0], expected[:, 1] = first[1] / 2, second[1] / 2
    value, grad = _value_and_grad(
        lambda z: losses.ccc_loss(z, torch.from_numpy(y)), torch.from_numpy(x)
    )
    np.testing.assert_allclose(value, (first[0] + second[0]) / 2, rtol=1e-12)
    np.testing.assert_allclose(grad, expected, rtol=1e-10, atol=1e-15)
    perfect = torch.rand(5, 2)
    assert losses.ccc_loss(perfect, perfect) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("known", [0, 1])
def test_ccc_loss_without_enough_labels(known: int) -> None:
    target = torch.full((4, 2), torch.nan)
    target[:known] = 0.5
    value, grad = _value_and_grad(lambda x: losses.ccc_loss(x, target), torch.rand(4, 2))
    assert value == 0
    assert (grad == 0).all()


def test_ccc_loss_of_constants_is_finite() -> None:
    same = torch.full((4, 2), 0.3)
    value, grad = _value_and_grad(lambda x: losses.ccc_loss(x, same), same.clone())
    assert value == 1
    assert grad.isfinite().all()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert losses.ccc_loss(same.bfloat16(), same).dtype == torch.float32


BP4D_RATE = [0.211, 0.171, 0.203, 0.461, 0.549, 0.594, 0.562, 0.466, 0.169, 0.343, 0.165, 0.151]


def test_class_weights() -> None:
    weight = losses.au_class_weights(BP4D_RATE)
    inverse = 1 / np.array(BP4D_RATE)
    np.testing.assert_allclose(weight, 12 * inverse / inverse.sum(), rtol=1e-6)
    assert weight.mean() == pytest.approx(1)
    torch.testing.assert_close(losses.au_class_weights(torch.tensor([0.3, 0.3])), torch.ones(2))


def test_class_weights_without_a_positive() -> None:
    rarest = losses.au_class_weights([0.5, 0.1, 0.1])
    torch.testing.assert_close(losses.au_class_weights([0.5, 0.1, 0.0]), rarest)
    torch.testing.assert_close(losses.au_class_weights([0.5, 0.1, math.nan]), rarest)
    torch.testing.assert_close(losses.au_class_weights([0.0, 0.0]), torch.ones(2))
    for rate in ([-0.1], [1.1], []):
        with pytest.raises(ValueError, match="rate"):
            losses.au_class_weights(rate)


def test_gammas() -> None:
    expected = [1.86, 1.95, 1.88, 1.30, 1.10, 1.00, 1.07, 1.29, 1.96, 1.57, 1.97, 2.00]
    np.testing.assert_allclose(losses.mdwa_gamma(BP4D_RATE), expected, atol=0.0051)
    up = losses.mdwa_gamma(BP4D_RATE, mode="increasing", low=1.5, high=3.5)
    np.testing.assert_allclose(up, 3.5 - 2 * (np.array(expected) - 1), atol=0.011)
    assert (losses.mdwa_gamma(BP4D_RATE, mode="const", low=1.5) == 1.5).all()
    assert (losses.mdwa_gamma([0.2, 0.2]) == 1).all()
    with pytest.raises(ValueError, match="low"):
        losses.mdwa_gamma(BP4D_RATE, low=0.5)
    with pytest.raises(ValueError, match="sideways"):
        losses.mdwa_gamma(BP4D_RATE, mode="sideways")  # type: ignore[arg-type]


def test_cross_entropy_to_shares_equals_the_sum_over_the_classes() -> None:
    rng = torch.Generator().manual_seed(0)
    logits = torch.randn(5, 4, generator=rng, dtype=torch.float64)
    share = torch.rand(5, 4, generator=rng, dtype=torch.float64).softmax(1)
    weight = torch.tensor([1.0, 2.0, 0.5, 3.0], dtype=torch.float64)
    log = logits - logits.exp().sum(1, keepdim=True).log()
    expected = -(share * weight * log).sum() / (share * weight).sum()
    torch.testing.assert_close(losses.cross_entropy_loss(logits, share, weight=weight), expected)
    sure = torch.tensor([0, 3, 1, 2, 2])
    torch.testing.assert_close(
        losses.cross_entropy_loss(logits, torch.eye(4, dtype=torch.float64)[sure], weight=weight),
        losses.cross_entropy_loss(logits, sure, weight=weight),
    )


def test_cross_entropy_to_unknown_shares_is_left_out_with_a_graph() -> None:
    logits = torch.randn(3, 2, requires_grad=True)
    share = torch.tensor([[0.7, 0.3], [torch.nan, torch.nan], [0.0, 1.0]])
    some = losses.cross_entropy_loss(logits, share)
    torch.testing.assert_close(some, losses.cross_entropy_loss(logits[[0, 2]], share[[0, 2]]))
    none = losses.cross_entropy_loss(logits, torch.full((3, 2), torch.nan))
    none.backward()
    assert none == 0
    assert logits.grad is not None
    assert (logits.grad == 0).all()
