"""EMERT: what a person feels and what the face shows, from face, eye track and fixations together.

Liu et al., arXiv 2411.05879 and 2512.16485 (IEEE TMM). Encoders, the two projections, the gradient
reversal, the cross-transformer and the weights of the losses follow the released ``model_D``; the
several heads on one feature, the masks and the standardising of what is measured are ours.
"""

from collections.abc import Sequence
from typing import Annotated, Any, Literal, get_args

import torch
from torch import Tensor, nn

from faceaffect.components import Options
from faceaffect.data.batch import SIGNALS, FaceBatch, as_clips
from faceaffect.errors import DataError, RecipeError
from faceaffect.models.emert_parts import (
    CrossTransformer,
    FaceEncoder,
    Pooling,
    TrackEncoder,
    masked_mean,
    reverse_gradient,
)
from faceaffect.module import AffectModule
from faceaffect.networks.backbones import create_backbone
from faceaffect.networks.heads import Heads, TaskLosses, answers
from faceaffect.networks.losses import cross_entropy_loss
from faceaffect.progress import console
from faceaffect.registry import as_node
from faceaffect.schema import LabelSchema

Modality = Literal["face", "eyes", "fixations"]

STEPS = {"face": 8, "eyes": 32, "fixations": 32}
"""Learned positions of each modality, as many as the release reads steps."""


class Emert(AffectModule):
    """Face clip, eye track and fixations, taken apart and put together again.

    Each modality is projected twice, by a projection of its own ("specific") and by one that all
    share ("invariant"). A discriminator learns to name the modality from the time means of either;
    its gradient reaches the invariant features reversed, so that they stop telling it. In the
    cross-transformer the invariant features ask and the specific ones answer. A modality that a
    sample lacks is masked out. Trained without eyes (``modalities: [face]``) it is the twin that
    shows what the eyes add.

    Args:
        schema: what it answers; one output layer per task, ``felt`` and ``intensity`` beside
            ``expression``.
        backbone: sees each frame: a name or the options of
            :func:`faceaffect.networks.backbones.create_backbone`.
        readout: what is taken of it: ``pooled``, ``mean`` of its last feature map, or ``grid:G``,
            the means over G x G cells side by side.
        modalities: which are used.
        eye_values: D, what the eye tracker measures in a step.
        width: channels of the encoders.
        projected: channels of the projections.
        lstm_layers: of the two recurrent encoders.
        depth: layers of the cross-transformer.
        heads: of its attention.
        head_width: channels of each.
        dropout: rate on the encoders' features and within the cross-transformer, in [0, 1).
        token_dropout: rate on its input, in [0, 1).
        pooling: what is averaged of its output: all ``tokens``, or those of each modality and then
            the ``modalities``, so that few frames are not outvoted by many moments of the eyes.
        adversarial_weight: of naming the modality from invariant features, in the loss.
        specific_weight: of naming it from specific ones.
        intensity_weight: of how strongly the expression is shown, in the loss.
        class_weights: weigh classes by their rarity in the training part.

    Raises:
        RecipeError: a modality that is unknown, missing or named twice, or a value out of range.
    """

    clips = True
    frozen_clips = True

    def __init__(
        self,
        schema: LabelSchema | dict[str, Any],
        *,
        backbone: Annotated[str | dict[str, Any], Options(create_backbone)] = "resnet18",
        readout: str = "pooled",
        modalities: Sequence[Modality] = ("face", "eyes", "fixations"),
        eye_values: int = 4,
        width: int = 128,
        projected: int = 32,
        lstm_layers: int = 3,
        depth: int = 2,
        heads: int = 8,
        head_width: int = 64,
        dropout: float = 0.5,
        token_dropout: float = 0.1,
        pooling: Pooling = "tokens",
        adversarial_weight: float = 0.1,
        specific_weight: float = 0.1,
        intensity_weight: float = 1.0,
        class_weights: bool = False,
    ) -> None:
        super().__init__(schema)
        self.modalities = _checked(modalities)
        self.signals = tuple(name for name in SIGNALS if name in self.modalities)
        _positive(eye_values=eye_values, width=width, projected=projected, depth=depth, heads=heads,
                  lstm_layers=lstm_layers, head_width=head_width)  # fmt: skip
        self.adversarial_weight, self.specific_weight = adversarial_weight, specific_weight
        encoders: dict[str, nn.Module] = {}
        if "face" in self.modalities:
            encoders["face"] = FaceEncoder(as_node(backbone), readout, width)
        for name, values in (("eyes", eye_values), ("fixations", 2)):
            if name in self.modalities:
                encoders[name] = TrackEncoder(name, values, width, lstm_layers)
        self.encoders = nn.ModuleDict(encoders)
        self.dropout = nn.Dropout(dropout)
        self.specific = nn.ModuleDict(
            {name: _projection(width, projected) for name in self.modalities}
        )
        self.invariant = _projection(width, projected)
        several = len(self.modalities) > 1
        self.discriminator = nn.Linear(projected, len(self.modalities)) if several else None
        self.fusion = CrossTransformer(
            {name: STEPS[name] for name in self.modalities},
            projected,
            depth=depth,
            heads=heads,
            head_width=head_width,
            dropout=dropout,
            token_dropout=token_dropout,
            pooling=pooling,
        )
        self.heads = Heads(self.schema, projected)
        self.losses = TaskLosses(
            self.schema, class_weights=class_weights, intensity_weight=intensity_weight
        )

    def prepare(self, statistics: dict[str, Any]) -> None:
        """Take loss weights, and mean and spread of what is measured, from the training part."""
        super().prepare(statistics)
        self.losses.prepare(statistics)
        for name in SIGNALS:
            encoder = self._encoder(name)
            if isinstance(encoder, TrackEncoder) and name in statistics:
                encoder.standardise(**statistics[name])

    def _encoder(self, name: str) -> nn.Module | None:
        return dict(self.encoders.items()).get(name)

    def setup(self, stage: str) -> None:
        """See that the data has what the model is to look at; see the base class.

        Raises:
            DataError: what is to be learned from is not measured in this data.
        """
        super().setup(stage)
        dataset = getattr(getattr(self.trainer, "datamodule", None), "dataset", None)
        missing = [
            name for name in self.signals if dataset and getattr(dataset.samples, name) is None
        ]
        if missing and stage == "fit":
            raise DataError(
                f"model.modalities: the data has no {' and no '.join(missing)}: take "
                f"model.modalities=[{', '.join(m for m in self.modalities if m not in missing)}]"
                " (drawn faces have them with data.deceive=0.5)"
            )
        if missing and self.trainer.is_global_zero:
            console.print(f"warning: the data has no {' and no '.join(missing)}; answers are made "
                          "without", markup=False)  # fmt: skip

    def frozen_features(self, batch: FaceBatch) -> dict[str, Tensor] | None:
        """Return what a frozen backbone sees of each frame, if every clip fills the batch."""
        face = self._encoder("face")
        batch = as_clips(batch)
        if not isinstance(face, FaceEncoder) or not face.frozen or not batch["frame_mask"].all():
            return None
        video = batch["video"]
        seen = face.look(video.flatten(0, 1))
        return {"face": seen.view(*video.shape[:2], -1)}

    def encode(self, batch: FaceBatch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return what each modality says, (B, T, width) by name, and which steps it has (B, T)."""
        batch = as_clips(batch)
        features, masks = {}, {}
        for name, encoder in self.encoders.items():
            features[name], masks[name] = encoder(batch)
        return features, masks

    def forward(self, batch: FaceBatch) -> tuple[Tensor, Tensor]:
        """Return the pooled feature (B, projected) of clips, and the adversarial loss."""
        features, masks = self.encode(batch)
        features = {name: self.dropout(value) for name, value in features.items()}
        specific = {name: self.specific[name](value) for name, value in features.items()}
        invariant = {name: self.invariant(value) for name, value in features.items()}
        pooled = self.fusion(invariant, specific, masks)
        return pooled, self.telling_apart(invariant, specific, masks)

    def telling_apart(
        self, invariant: dict[str, Tensor], specific: dict[str, Tensor], masks: dict[str, Tensor]
    ) -> Tensor:
        """Return the weighted loss of naming each modality; 0 for samples that have but one.

        Args:
            invariant: (B, T, projected) by modality.
            specific: likewise.
            masks: (B, T) by modality.
        """
        if self.discriminator is None:
            return next(iter(invariant.values())).new_zeros(())
        there = torch.stack([mask.any(1) for mask in masks.values()], 1)
        there = there & (there.sum(1, keepdim=True) > 1)
        target = torch.arange(len(masks), device=there.device).expand(there.shape)
        target = target.where(there, -1).flatten()
        total = there.new_zeros((), dtype=torch.float32)
        for weight, parts, reversed_ in (
            (self.adversarial_weight, invariant, True),
            (self.specific_weight, specific, False),
        ):
            means = torch.stack([masked_mean(parts[name], masks[name]) for name in masks], 1)
            means = reverse_gradient(means) if reversed_ else means
            logits = self.discriminator(means.flatten(0, 1))
            total = total + weight * cross_entropy_loss(logits, target)
        return total

    def loss(self, batch: FaceBatch) -> Tensor:
        """Return the tasks' losses, and those of naming the modality."""
        pooled, apart = self(batch)
        loss: Tensor = self.losses(self.heads(pooled), batch) + apart
        return loss

    def predict(self, batch: FaceBatch) -> dict[str, Tensor]:
        """Return the answers of every task, see :func:`~faceaffect.networks.heads.answers`."""
        return answers(self.heads(self(batch)[0]))


def _projection(width: int, projected: int) -> nn.Sequential:
    hidden = max(width // 2, 1)
    return nn.Sequential(nn.Linear(width, hidden), nn.LeakyReLU(0.1), nn.Linear(hidden, projected))


def _checked(modalities: Sequence[str]) -> tuple[str, ...]:
    known = get_args(Modality)
    wrong = [name for name in modalities if name not in known]
    if wrong or not modalities or len(set(modalities)) < len(modalities):
        said = f"'{wrong[0]}' is none" if wrong else "each once, and at least one"
        raise RecipeError(f"model.modalities: {said}; they are {', '.join(known)}")
    return tuple(name for name in known if name in modalities)


def _positive(**sizes: int) -> None:
    for name, size in sizes.items():
        if size < 1:
            raise RecipeError(f"model.{name}: {size} is not positive")
