"""What stands at the end of a model: a linear head for each task, their answers, their losses."""

from typing import Any, Literal

import torch
from torch import Tensor, nn

from faceaffect.data.batch import FaceBatch
from faceaffect.losses import (
    au_class_weights,
    bce_loss,
    ccc_loss,
    cross_entropy_loss,
    focal_loss,
    mdwa_gamma,
    mdwa_loss,
    weighted_asymmetric_loss,
)
from faceaffect.schema import LabelSchema

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
        sizes = {"au": len(schema.aus), "expression": len(schema.expressions), "va": 2}
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.ModuleDict({task: nn.Linear(width, sizes[task]) for task in schema.tasks})

    def forward(self, features: Tensor) -> dict[str, Tensor]:
        """Return the logits of each task, (B, outputs), from features (B, width)."""
        features = self.dropout(features)
        return {task: layer(features) for task, layer in self.layers.items()}


def answers(logits: dict[str, Tensor]) -> dict[str, Tensor]:
    """Turn logits into what ``AffectModule.predict`` returns, in float32 at least.

    Args:
        logits: ``au`` (B, A), ``expression`` (B, K), ``va`` (B, 2), any of them.

    Returns:
        Probabilities for ``au`` and ``expression``; ``va`` through tanh.
    """
    finish = {"au": torch.sigmoid, "expression": lambda z: torch.softmax(z, 1), "va": torch.tanh}
    return {
        task: finish[task](z.to(torch.promote_types(z.dtype, torch.float32)))
        for task, z in logits.items()
    }


class TaskLosses(nn.Module):
    """The sum of one loss for each task: AUs by choice, cross-entropy, 1 - CCC.

    Args:
        schema: the label names, in column order.
        au_loss: ``bce``, ``wa`` (weighted asymmetric), ``mdwa`` (margin 0.05; the exponents from
            the AUs' rates once :meth:`prepare` knows them) or ``focal``.
        class_weights: weigh AUs and expression classes by their rarity in the training part.
        label_smoothing: of the expressions, in [0, 1].
    """

    au_weight: Tensor
    au_gamma: Tensor
    expression_weight: Tensor

    def __init__(
        self,
        schema: LabelSchema,
        *,
        au_loss: AULoss = "bce",
        class_weights: bool = False,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        self.schema, self.au_loss, self.class_weights = schema, au_loss, class_weights
        self.label_smoothing = label_smoothing
        for name, count in (
            ("au_weight", len(schema.aus)),
            ("au_gamma", len(schema.aus)),
            ("expression_weight", len(schema.expressions)),
        ):
            # Not stored: they follow from the statistics, which every checkpoint carries.
            self.register_buffer(name, torch.ones(count), persistent=False)

    def prepare(self, statistics: dict[str, Any]) -> None:
        """Take the weights and exponents from the training part's statistics.

        Args:
            statistics: as ``AffectModule.prepare`` gets them.
        """
        if self.schema.aus:
            rates = [statistics["au_rate"][name] for name in self.schema.au_names]
            self.au_gamma.copy_(mdwa_gamma(rates))
            if self.class_weights:
                self.au_weight.copy_(au_class_weights(rates))
        if self.schema.expressions and self.class_weights:
            counts = [statistics["expression_count"][name] for name in self.schema.expressions]
            self.expression_weight.copy_(_balanced(torch.tensor(counts, dtype=torch.float32)))

    def forward(self, logits: dict[str, Tensor], batch: FaceBatch) -> Tensor:
        """Return the sum over the tasks in ``logits``; unknown labels add zero, with a graph.

        Args:
            logits: ``au`` (B, A), ``expression`` (B, K), ``va`` (B, 2), any of them.
            batch: the labels.
        """
        losses = []
        if "au" in logits:
            losses.append(self._au(logits["au"], batch["au"]))
        if "expression" in logits:
            losses.append(
                cross_entropy_loss(
                    logits["expression"],
                    batch["expression"],
                    weight=self.expression_weight,
                    label_smoothing=self.label_smoothing,
                )
            )
        if "va" in logits:
            losses.append(ccc_loss(torch.tanh(logits["va"].float()), batch["va"]))
        return torch.stack(losses).sum()

    def _au(self, logits: Tensor, target: Tensor) -> Tensor:
        match self.au_loss:
            case "bce":
                return bce_loss(logits, target, weight=self.au_weight)
            case "wa":
                return weighted_asymmetric_loss(logits, target, weight=self.au_weight)
            case "mdwa":
                return mdwa_loss(logits, target, weight=self.au_weight, gamma=self.au_gamma)
            case "focal":
                return focal_loss(logits, target, weight=self.au_weight)


def _balanced(count: Tensor) -> Tensor:
    """Return weights (K,) by which every class weighs the same; a class never seen gets 1."""
    seen = count > 0
    weight = count.sum() / (seen.sum().clamp(min=1) * count.clamp(min=1))
    return weight.where(seen, 1)
