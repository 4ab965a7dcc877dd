"""What stands at the end of a model: a linear head for each task, their answers, their losses."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from faceaffect.data.batch import FaceBatch
from faceaffect.networks.losses import (
    GRADES,
    GammaMode,
    au_class_weights,
    bce_loss,
    ccc_loss,
    cross_entropy_loss,
    expected_grade,
    focal_loss,
    intensity_loss,
    mdwa_gamma,
    mdwa_loss,
    weighted_asymmetric_loss,
)
from faceaffect.schema import CLASS_TASKS, LabelSchema

AULoss = Literal["bce", "wa", "mdwa", "focal"]


class Heads(nn.Module):
    """One linear layer for each task of a schema, on the same features.

    Args:
        schema: the tasks and how many outputs each has.
        width: channels of the features.
        dropout: rate on the features, in [0, 1).
    """

    def __init__(self, schema: LabelSchema, width: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.ModuleDict(
            {
                task: nn.Linear(width, GRADES if task == "intensity" else len(schema.names(task)))
                for task in schema.tasks
            }
        )

    def forward(self, features: Tensor) -> dict[str, Tensor]:
        """Return the logits of each task, (B, outputs), from features (B, width)."""
        features = self.dropout(features)
        return {task: layer(features) for task, layer in self.layers.items()}


def answers(logits: dict[str, Tensor]) -> dict[str, Tensor]:
    """Turn logits into what ``AffectModule.predict`` returns, in float32 at least.

    Args:
        logits: ``au`` (B, A), ``expression`` (B, K), ``va`` (B, 2), ``felt`` (B, F),
            ``intensity`` (B, 4) of the grades 0 to 3, any of them.

    Returns:
        Probabilities for ``au``, ``expression`` and ``felt``; ``va`` through tanh; the expected
        grade (B, 1) for ``intensity``.
    """
    finish: dict[str, Callable[[Tensor], Tensor]] = {
        "au": torch.sigmoid,
        "va": torch.tanh,
        "intensity": expected_grade,
        **dict.fromkeys(CLASS_TASKS, _softmax),
    }
    return {
        task: finish[task](z.to(torch.promote_types(z.dtype, torch.float32)))
        for task, z in logits.items()
    }


def _softmax(logits: Tensor) -> Tensor:
    return torch.softmax(logits, 1)


class AUCriterion(nn.Module):
    """The loss of labels that are there or not, each by its rate in the training part.

    Args:
        count: A, number of labels.
        kind: ``bce``, ``wa`` (weighted asymmetric), ``mdwa`` or ``focal``.
        weighted: weigh each label by its rarity, once :meth:`prepare` knows it.
        margin: m of ``mdwa``, in [0, 1).
        gamma_mode: exponents of ``mdwa`` by rate, see
            :func:`~faceaffect.networks.losses.mdwa_gamma`.
        gamma_low: smallest exponent, at least 1.
        gamma_high: largest exponent, at least ``gamma_low``.

    Attributes:
        weight: (A,), 1 before :meth:`prepare`.
        gamma: (A,), ``gamma_low`` before :meth:`prepare`.
    """

    weight: Tensor
    gamma: Tensor

    def __init__(
        self,
        count: int,
        kind: AULoss = "bce",
        *,
        weighted: bool = False,
        margin: float = 0.05,
        gamma_mode: GammaMode = "decreasing",
        gamma_low: float = 1.0,
        gamma_high: float = 2.0,
    ) -> None:
        super().__init__()
        self.kind, self.weighted, self.margin = kind, weighted, margin
        self.exponents = partial(mdwa_gamma, mode=gamma_mode, low=gamma_low, high=gamma_high)
        # Not stored: they follow from the statistics, which every checkpoint carries.
        self.register_buffer("weight", torch.ones(count), persistent=False)
        self.register_buffer("gamma", torch.full((count,), gamma_low), persistent=False)

    def prepare(self, rates: Sequence[float]) -> None:
        """Take weights and exponents from the (A,) shares of positives in the training part."""
        self.gamma.copy_(self.exponents(rates))
        if self.weighted:
            self.weight.copy_(au_class_weights(rates))

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the loss of logits (B, A); unknown labels, NaN, add zero, with a graph."""
        match self.kind:
            case "bce":
                return bce_loss(logits, target, weight=self.weight)
            case "wa":
                return weighted_asymmetric_loss(logits, target, weight=self.weight)
            case "mdwa":
                return mdwa_loss(
                    logits, target, weight=self.weight, margin=self.margin, gamma=self.gamma
                )
            case "focal":
                return focal_loss(logits, target, weight=self.weight)


class TaskLosses(nn.Module):
    """The sum of one loss for each task: AUs by choice, cross-entropy, 1 - CCC, of grades.

    Args:
        schema: the label names, in column order.
        au_loss: a kind of :class:`AUCriterion`, or one with settings of its own.
        class_weights: weigh AUs, expression classes and felt emotions by their rarity in the
            training part; a criterion knows for itself whether it weighs AUs.
        label_smoothing: of the expressions and felt emotions, in [0, 1].
        intensity_weight: of the loss of the intensity in the sum.
    """

    expression_weight: Tensor
    felt_weight: Tensor

    def __init__(
        self,
        schema: LabelSchema,
        *,
        au_loss: AULoss | AUCriterion = "bce",
        class_weights: bool = False,
        label_smoothing: float = 0.0,
        intensity_weight: float = 1.0,
    ) -> None:
        super().__init__()
        self.schema, self.class_weights = schema, class_weights
        self.label_smoothing, self.intensity_weight = label_smoothing, intensity_weight
        if not isinstance(au_loss, AUCriterion):
            au_loss = AUCriterion(len(schema.aus), au_loss, weighted=class_weights)
        self.au = au_loss
        for task in CLASS_TASKS:
            weight = torch.ones(len(schema.names(task)))
            self.register_buffer(f"{task}_weight", weight, persistent=False)

    def prepare(self, statistics: dict[str, Any]) -> None:
        """Take the weights and exponents from the training part's statistics.

        Args:
            statistics: as ``AffectModule.prepare`` gets them.
        """
        if self.schema.aus:
            self.au.prepare([statistics["au_rate"][name] for name in self.schema.au_names])
        for task in CLASS_TASKS if self.class_weights else ():
            names = self.schema.names(task)
            if names:
                counts = [statistics[f"{task}_count"][name] for name in names]
                weight: Tensor = getattr(self, f"{task}_weight")
                weight.copy_(_balanced(torch.tensor(counts, dtype=torch.float32)))

    def forward(self, logits: dict[str, Tensor], batch: FaceBatch) -> Tensor:
        """Return the sum over the tasks in ``logits``; unknown labels add zero, with a graph.

        Args:
            logits: ``au`` (B, A), ``expression`` (B, K), ``va`` (B, 2), ``felt`` (B, F),
                ``intensity`` (B, 4), any of them.
            batch: the labels.
        """
        losses = []
        if "au" in logits:
            losses.append(self.au(logits["au"], batch["au"]))
        if "expression" in logits:
            losses.append(
                cross_entropy_loss(
                    logits["expression"],
                    expression_target(batch, len(self.schema.expressions)),
                    weight=self.expression_weight,
                    label_smoothing=self.label_smoothing,
                )
            )
        if "va" in logits:
            losses.append(ccc_loss(torch.tanh(logits["va"].float()), batch["va"]))
        if "felt" in logits:
            losses.append(
                cross_entropy_loss(
                    logits["felt"],
                    batch["felt"],
                    weight=self.felt_weight,
                    label_smoothing=self.label_smoothing,
                )
            )
        if "intensity" in logits:
            graded = intensity_loss(logits["intensity"], batch["intensity"])
            losses.append(self.intensity_weight * graded)
        return torch.stack(losses).sum()


def expression_target(batch: FaceBatch, classes: int) -> Tensor:
    """Return what expressions are trained on.

    Returns:
        (B,) class indices, -1 unknown; (B, K) shares, NaN unknown, where faces have votes. A face
        without votes then has all of its class.
    """
    index, share = batch["expression"], batch.get("expression_share")
    if share is None:
        return index
    sure = torch.nn.functional.one_hot(index.clamp(min=0), classes).to(share)
    sure = sure.masked_fill((index < 0)[:, None], torch.nan)
    return torch.where(share.isnan().any(1, keepdim=True), sure, share)


def _balanced(count: Tensor) -> Tensor:
    """Return weights (K,) by which every class weighs the same; a class never seen gets 1."""
    seen = count > 0
    weight = count.sum() / (seen.sum().clamp(min=1) * count.clamp(min=1))
    return weight.where(seen, 1)
