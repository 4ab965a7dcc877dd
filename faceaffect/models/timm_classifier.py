"""Any timm backbone with linear heads: the baseline that every comparison needs."""

from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn

from faceaffect.components import Options
from faceaffect.data.batch import FaceBatch
from faceaffect.errors import RecipeError
from faceaffect.module import AffectModule
from faceaffect.networks.backbones import create_backbone, grid_side, pool_grid
from faceaffect.networks.heads import AULoss, Heads, TaskLosses, answers
from faceaffect.networks.lora import LoRA
from faceaffect.registry import as_node
from faceaffect.schema import LabelSchema


class TimmClassifier(AffectModule):
    """A timm backbone and one linear head for each task, on the backbone's pooled features.

    Args:
        schema: what the model answers.
        backbone: a name or the options of :func:`faceaffect.networks.backbones.create_backbone`.
        mode: ``full`` trains everything; ``linear`` trains the heads on frozen features, which a
            batch norm without parameters standardises (as linear probes of MAE, He et al. 2022);
            ``lora`` trains the heads and low-rank adapters in the frozen backbone.
        readout: what the heads see: ``pooled``, as the network itself pools (a ViT's class token),
            ``mean`` of the last feature map, or ``grid:G``, its means over G x G cells side by
            side, which keep the place where something is seen; ``pooled+mean`` and
            ``pooled+grid:G`` put both side by side.
        lora: rank and place of the adapters, the options of :class:`faceaffect.networks.lora.LoRA`.
        au_loss: see :class:`faceaffect.networks.heads.TaskLosses`.
        class_weights: weigh AUs and expression classes by their rarity in the training part.
        label_smoothing: of the expressions, in [0, 1].
        dropout: rate on the pooled features, in [0, 1).

    Raises:
        RecipeError: settings that contradict each other.
    """

    def __init__(
        self,
        schema: LabelSchema | dict[str, Any],
        *,
        backbone: Annotated[str | dict[str, Any], Options(create_backbone)] = "resnet18",
        mode: Literal["full", "linear", "lora"] = "full",
        readout: str = "pooled",
        lora: Annotated[dict[str, Any] | None, Options(LoRA)] = None,
        au_loss: AULoss = "bce",
        class_weights: bool = False,
        label_smoothing: float = 0.0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(schema)
        node = as_node(backbone)
        if node.setdefault("frozen", mode != "full") != (mode != "full"):
            raise RecipeError(
                f"model.backbone.frozen: {str(node['frozen']).lower()} contradicts mode '{mode}', "
                "which decides it"
            )
        if lora is not None and mode != "lora":
            raise RecipeError(f"model.lora: needs mode 'lora', not '{mode}'")
        self.mode = mode
        self.backbone = create_backbone(**node)
        if mode == "lora":
            LoRA(**(lora or {})).put_into(self.backbone)
        cells = readout.removeprefix("pooled+")
        self.side = grid_side(cells, "model.readout", other="pooled")
        self.pooled = cells != readout or self.side is None
        width = self.backbone.pooled_width if self.pooled else 0
        if self.side is not None:
            self.grid = self.backbone.grid
            width += self.backbone.width * self.side**2
        # Frozen features may differ little from face to face beside a large mean.
        self.norm = nn.BatchNorm1d(width, affine=False) if mode == "linear" else nn.Identity()
        self.heads = Heads(self.schema, width, dropout=dropout)
        self.losses = TaskLosses(
            self.schema,
            au_loss=au_loss,
            class_weights=class_weights,
            label_smoothing=label_smoothing,
        )

    def prepare(self, statistics: dict[str, Any]) -> None:
        """Take the loss weights from the training part's statistics."""
        super().prepare(statistics)
        self.losses.prepare(statistics)

    def features(self, image: Tensor) -> Tensor:
        """Return what the heads see, (B, width), of uint8 faces (B, 3, H, W)."""
        x = self.backbone.normalise(image)
        if self.side is None:
            return self.backbone.pooled(x)
        tokens = self.backbone.tokens(x)
        patches = tokens[:, self.backbone.num_prefix_tokens :]
        seen = pool_grid(patches, self.grid, self.side).flatten(1)
        return torch.cat([self.backbone.pooled_of(tokens), seen], 1) if self.pooled else seen

    def frozen_features(self, batch: FaceBatch) -> dict[str, Tensor] | None:
        """Return the features of a linear probe."""
        return {"pooled": self.features(batch["image"])} if self.mode == "linear" else None

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Return the logits of each task from uint8 faces (B, 3, H, W)."""
        return self.heads(self.norm(self.features(image)))  # type: ignore[no-any-return]

    def _logits(self, batch: FaceBatch) -> dict[str, Tensor]:
        if "features" in batch:
            return self.heads(self.norm(batch["features"]["pooled"]))  # type: ignore[no-any-return]
        return self(batch["image"])  # type: ignore[no-any-return]

    def loss(self, batch: FaceBatch) -> Tensor:
        """Return the sum of the tasks' losses."""
        return self.losses(self._logits(batch), batch)  # type: ignore[no-any-return]

    def predict(self, batch: FaceBatch) -> dict[str, Tensor]:
        """Return probabilities for AUs and expressions, tanh for valence and arousal."""
        return answers(self._logits(batch))
