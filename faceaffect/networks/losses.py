"""Losses of facial affect, as functions.

All of them leave unknown labels out (NaN, for classes -1), give zero with a graph when nothing is
known, stay finite for any finite logit, and compute in float32 under autocast (float64 stays).
AU losses take logits and targets of one shape (B, A), targets in {0, 1}, and an optional ``weight``
of (A,), which is not normalised: the mean runs over the known entries, whatever they weigh.
"""

import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from faceaffect.schema import STRONGEST

GammaMode = Literal["decreasing", "increasing", "const"]


def mdwa_loss(
    logits: Tensor,
    target: Tensor,
    *,
    weight: Tensor | None = None,
    margin: float = 0.05,
    gamma: float | Sequence[float] | Tensor = 1.0,
) -> Tensor:
    """Margin-truncated difficulty-aware weighted asymmetric loss (AUFormer, ECCV 2024).

    -w [ y log p + (1 - y) q^gamma log(1 - q) ] with q = max(p - margin, 0), for each AU.

    The gradient of a negative is zero up to p = margin, so easy ones are ignored. With the defaults
    it peaks at 0.7155 (p = 0.844) and falls beyond, so negatives that look mislabelled are
    discarded. It flows through the focusing factor. The form is fitted to the gradient curve of the
    paper's figure; that the experiments use the figure's margin and gamma is inferred.

    Args:
        logits: (B, A).
        target: (B, A) in {0, 1}, NaN unknown.
        weight: (A,), see :func:`au_class_weights`.
        margin: probability below which a negative costs nothing, in [0, 1).
        gamma: focusing exponent >= 1, one for all AUs or one per AU, see :func:`mdwa_gamma`.

    Returns:
        Mean over all known entries.

    Raises:
        ValueError: margin or gamma out of range, or shapes that differ.

    >>> logits = torch.logit(torch.tensor([[0.05, 0.844]])).requires_grad_()
    >>> loss = mdwa_loss(logits, torch.zeros(1, 2))
    >>> torch.autograd.grad(2 * loss, logits)[0]
    tensor([[0.0000, 0.7155]])
    """
    if not 0 <= margin < 1:
        raise ValueError(f"margin must lie in [0, 1), got {margin}")
    z, y, known = _known(logits, target)
    shifted = F.relu(torch.sigmoid(z) - margin)
    # 1 - (p - m) = sigmoid(-z) + m, taken in the log domain: exact where sigmoid saturates.
    log_margin = z.new_full((), math.log(margin) if margin else -math.inf)
    log_rest = torch.logaddexp(F.logsigmoid(-z), log_margin)
    negative = shifted.pow(_exponent(gamma, z)) * log_rest
    return _mean(-(y * F.logsigmoid(z) + (1 - y) * negative), known, weight)


def weighted_asymmetric_loss(
    logits: Tensor, target: Tensor, *, weight: Tensor | None = None
) -> Tensor:
    """Weighted asymmetric loss (ME-GraphAU, IJCAI 2022): a negative counts by its probability.

    -w [ y log p + (1 - y) p log(1 - p) ]. As in the authors' code no gradient flows through the
    focusing factor p, unlike :func:`mdwa_loss`.

    Args:
        logits: (B, A).
        target: (B, A) in {0, 1}, NaN unknown.
        weight: (A,), see :func:`au_class_weights`.

    Returns:
        Mean over all known entries.
    """
    z, y, known = _known(logits, target)
    factor = torch.sigmoid(z).detach()
    loss = -(y * F.logsigmoid(z) + (1 - y) * factor * F.logsigmoid(-z))
    return _mean(loss, known, weight)


def weighted_dice_loss(
    logits: Tensor, target: Tensor, *, weight: Tensor | None = None, eps: float = 1.0
) -> Tensor:
    """Weighted Dice loss over the batch (JAA-Net's form, ECCV 2018; the WDI term of AUFormer).

    w [ 1 - (2 sum(y p) + eps) / (sum(y^2) + sum(p^2) + eps) ] per AU, sums over its known entries.

    Args:
        logits: (B, A).
        target: (B, A) in {0, 1}, NaN unknown.
        weight: (A,), see :func:`au_class_weights`.
        eps: smoothing; 1 as JAA-Net.

    Returns:
        Mean over the AUs with a known entry.
    """
    z, y, known = _known(logits, target)
    p = torch.sigmoid(z) * known
    dice = (2 * (y * p).sum(0) + eps) / (y.square().sum(0) + p.square().sum(0) + eps)
    return _mean(1 - dice, known.any(0), weight)


def focal_loss(
    logits: Tensor,
    target: Tensor,
    *,
    weight: Tensor | None = None,
    gamma: float = 2.0,
    alpha: float | None = None,
) -> Tensor:
    """Focal loss per AU (Lin et al., ICCV 2017): -(1 - p_t)^gamma log p_t.

    Args:
        logits: (B, A).
        target: (B, A) in {0, 1}, NaN unknown.
        weight: (A,), see :func:`au_class_weights`.
        gamma: focusing exponent >= 0; 0 is :func:`bce_loss`.
        alpha: share of the positives in [0, 1], the negatives get 1 - alpha; None weighs both 1.

    Returns:
        Mean over all known entries.

    Raises:
        ValueError: gamma or alpha out of range, or shapes that differ.
    """
    if gamma < 0 or (alpha is not None and not 0 <= alpha <= 1):
        raise ValueError(f"gamma must be >= 0 and alpha in [0, 1], got {gamma} and {alpha}")
    z, y, known = _known(logits, target)
    log_p, log_q = F.logsigmoid(z), F.logsigmoid(-z)
    # exp of the logarithm, not pow: its gradient is finite at p_t = 1 for gamma < 1 too.
    positive, negative = (gamma * log_q).exp() * log_p, (gamma * log_p).exp() * log_q
    if alpha is not None:
        positive, negative = alpha * positive, (1 - alpha) * negative
    return _mean(-(y * positive + (1 - y) * negative), known, weight)


def bce_loss(
    logits: Tensor,
    target: Tensor,
    *,
    weight: Tensor | None = None,
    pos_weight: Tensor | None = None,
) -> Tensor:
    """Binary cross-entropy per AU.

    Args:
        logits: (B, A).
        target: (B, A) in [0, 1], NaN unknown.
        weight: (A,), see :func:`au_class_weights`.
        pos_weight: (A,), of the positives alone.

    Returns:
        Mean over all known entries.
    """
    z, y, known = _known(logits, target)
    pos_weight = None if pos_weight is None else pos_weight.to(z)
    loss = F.binary_cross_entropy_with_logits(z, y, pos_weight=pos_weight, reduction="none")
    return _mean(loss, known, weight)


def cross_entropy_loss(
    logits: Tensor,
    target: Tensor,
    *,
    weight: Tensor | None = None,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Cross-entropy of expression classes: ``torch.nn.functional.cross_entropy`` without the NaN.

    Args:
        logits: (B, K).
        target: (B,) class indices, -1 unknown; or (B, K) shares of the classes, rows that add up to
            1, NaN unknown.
        weight: (K,), per class.
        label_smoothing: share of the target spread evenly over the classes, in [0, 1].

    Returns:
        Mean over the known samples, weighted by their class as torch does for class indices, and
        by their mean weight where a sample has shares of several.
    """
    if target.ndim == 2:
        return _share_loss(logits, target, weight, label_smoothing)
    known = target != -1
    z = _full(logits).where(known.unsqueeze(1), 0)
    weight = z.new_ones(z.shape[1]) if weight is None else weight.to(z)
    total = F.cross_entropy(
        z, target, weight=weight, ignore_index=-1, label_smoothing=label_smoothing, reduction="sum"
    )
    mass = (weight[target.clamp(min=0)] * known).sum()
    return total / mass.where(mass > 0, 1)


def _share_loss(
    logits: Tensor, share: Tensor, weight: Tensor | None, label_smoothing: float
) -> Tensor:
    known = ~share.isnan().any(1, keepdim=True)
    z, p = _full(logits).where(known, 0), _full(share).where(known, 0)
    weight = z.new_ones(z.shape[1]) if weight is None else weight.to(z)
    total = F.cross_entropy(z, p, weight=weight, label_smoothing=label_smoothing, reduction="none")
    mass = (p @ weight).sum()
    return (total * known.squeeze(1)).sum() / mass.where(mass > 0, 1)


def ccc_loss(pred: Tensor, target: Tensor) -> Tensor:
    """1 - concordance correlation (ddof 0) over the batch, for valence and arousal.

    A column with fewer than two known entries has no correlation and is left out.

    Args:
        pred: (B, D).
        target: (B, D), NaN unknown.

    Returns:
        Mean over the columns, in [0, 2].
    """
    x, y, known = _known(pred, target)
    n = known.sum(0).clamp(min=1)
    mean_x, mean_y = x.sum(0) / n, y.sum(0) / n
    dx, dy = (x - mean_x) * known, (y - mean_y) * known
    covariance = (dx * dy).sum(0) / n
    spread = (dx.square() + dy.square()).sum(0) / n + (mean_x - mean_y).square()
    # The floor acts only where prediction and truth are the same constant.
    return _mean(1 - 2 * covariance / spread.clamp(min=1e-12), known.sum(0) > 1, None)


GRADES = STRONGEST + 1
"""Intensities of a shown expression that are told apart: 0 to 3."""


def intensity_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy of the nearest grade and smooth L1 of the expected one (EMERT).

    That the release adds the two is known; that they share one layer is ours.

    Args:
        logits: (B, 4) of the grades 0 to 3.
        target: (B, 1) in [0, 3], NaN unknown.

    Returns:
        Sum of their means over the known samples.
    """
    exact, known = target[:, 0].nan_to_num(0), ~target[:, 0].isnan()
    distance = F.smooth_l1_loss(expected_grade(logits)[:, 0], exact, reduction="none")
    nearest = exact.round().long().where(known, -1)
    return cross_entropy_loss(logits, nearest) + _mean(distance.where(known, 0), known, None)


def expected_grade(logits: Tensor) -> Tensor:
    """Return the mean grade (B, 1) under logits (B, 4).

    >>> expected_grade(torch.zeros(1, 4))
    tensor([[1.5000]])
    """
    z = _full(logits)
    return z.softmax(1) @ torch.arange(GRADES, device=z.device, dtype=z.dtype)[:, None]


def au_class_weights(rate: Sequence[float] | Tensor) -> Tensor:
    """Weights of the AU losses: w_i = N (1 / r_i) / sum_j (1 / r_j), mean 1 (ME-GraphAU).

    An AU without a positive (rate 0, or NaN where no label is known) counts as the rarest AU that
    has one; if there is none, all weights are 1.

    Args:
        rate: (A,) share of positives in the training part, in [0, 1].

    Returns:
        (A,) float32.

    Raises:
        ValueError: a rate outside [0, 1].

    >>> au_class_weights([0.5, 0.25, 0.25, 0.0])
    tensor([0.5714, 1.1429, 1.1429, 1.1429])
    """
    r = _rates(rate)
    seen = r[r > 0]
    inverse = 1 / r.clamp(min=float(seen.min())) if len(seen) else torch.ones_like(r)
    return (len(r) * inverse / inverse.sum()).float()


def mdwa_gamma(
    rate: Sequence[float] | Tensor,
    *,
    mode: GammaMode = "decreasing",
    low: float = 1.0,
    high: float = 2.0,
) -> Tensor:
    """Focusing exponent of each AU for :func:`mdwa_loss`, linear in its rate.

    Ours: that the paper's exponents depend on the rates is known, how is not.

    Args:
        rate: (A,) share of positives in the training part, in [0, 1]; NaN counts as 0.
        mode: "decreasing": the rarest AU gets ``high`` (its many easy negatives weigh less), the
            most frequent gets ``low``; "increasing": the other way round; "const": all ``low``.
        low: smallest exponent, at least 1.
        high: largest exponent.

    Returns:
        (A,) float32; ``low`` everywhere if all rates are equal.

    Raises:
        ValueError: a rate outside [0, 1], an unknown mode, or not 1 <= low <= high.

    >>> mdwa_gamma([0.6, 0.4, 0.2])
    tensor([1.0000, 1.5000, 2.0000])
    """
    if not 1 <= low <= high:
        raise ValueError(f"need 1 <= low <= high, got low={low} and high={high}")
    r = _rates(rate)
    span = r.max() - r.min()
    if mode == "const" or span == 0:
        share = torch.zeros_like(r)
    elif mode == "decreasing":
        share = (r.max() - r) / span
    elif mode == "increasing":
        share = (r - r.min()) / span
    else:
        raise ValueError(f"mode must be 'decreasing', 'increasing' or 'const', got {mode!r}")
    return (low + (high - low) * share).float()


def _rates(rate: Sequence[float] | Tensor) -> Tensor:
    r = torch.as_tensor(rate, dtype=torch.float64).nan_to_num(0.0)
    if r.ndim != 1 or not len(r) or bool(((r < 0) | (r > 1)).any()):
        raise ValueError(f"rates must be a list of numbers in [0, 1], got {r.tolist()}")
    return r


def _exponent(gamma: float | Sequence[float] | Tensor, z: Tensor) -> float | Tensor:
    if not isinstance(gamma, int | float):
        gamma = torch.as_tensor(gamma)
    if not torch.compiler.is_compiling():
        smallest = gamma.min().item() if isinstance(gamma, Tensor) else gamma
        if not smallest >= 1:
            raise ValueError(f"gamma must be at least 1, got {smallest}")
    return gamma.to(z) if isinstance(gamma, Tensor) else gamma


def _full(x: Tensor) -> Tensor:
    """At least float32; float64 stays."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _known(value: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Value and target in full precision, 0 at unknown entries, and the mask of the known ones."""
    if value.shape != target.shape:
        raise ValueError(
            f"prediction {tuple(value.shape)} and target {tuple(target.shape)} differ in shape"
        )
    known = ~target.isnan()
    value = _full(value)
    # Masked before the loss, not after: a NaN beyond the mask would still enter the gradient.
    return value.where(known, 0), target.to(value.dtype).where(known, 0), known


def _mean(loss: Tensor, known: Tensor, weight: Tensor | None) -> Tensor:
    if weight is not None:
        loss = loss * weight.to(loss)
    return loss.where(known, 0).sum() / known.sum().clamp(min=1)
