"""A specialist of one's own: every label looks at patches of its own of a frozen ViT."""

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm

from faceaffect import AffectModule, LabelSchema
from faceaffect.data.batch import FaceBatch
from faceaffect.networks.backbones import create_backbone
from faceaffect.networks.heads import TaskLosses, answers
from faceaffect.registry import TABLES


class LabelAttention(AffectModule):
    """One attention map for each AU, each expression class, valence and arousal.

    Args:
        schema: what it answers.
        backbone: any ViT of timm, or one of the package's own.
        width: channels in which labels and patches are compared.
    """

    def __init__(
        self, schema: LabelSchema | dict, *, backbone: str = "asset:mini_vit", width: int = 64
    ) -> None:
        super().__init__(schema)
        sizes = {"au": len(self.schema.aus), "expression": len(self.schema.expressions), "va": 2}
        self.sizes = [sizes[task] for task in self.schema.tasks]
        self.backbone = create_backbone(backbone, frozen=True)
        channels, labels = self.backbone.width, sum(self.sizes)
        self.keys = nn.Linear(channels, width)
        self.queries = nn.Parameter(torch.randn(labels, width) * width**-0.5)
        self.weight = nn.Parameter(torch.zeros(labels, channels))
        self.bias = nn.Parameter(torch.zeros(labels))
        self.losses = TaskLosses(self.schema, au_loss="wa")

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Return the logits of each task."""
        patches = self.backbone.tokens(self.backbone.normalise(image))
        patches = layer_norm(patches[:, self.backbone.num_prefix_tokens :], [self.backbone.width])
        look = (self.queries @ self.keys(patches).mT).softmax(-1)  # (B, labels, patches)
        logits = ((look @ patches) * self.weight).sum(-1) + self.bias
        return dict(zip(self.schema.tasks, logits.split(self.sizes, 1), strict=True))

    def loss(self, batch: FaceBatch) -> Tensor:
        """Return the sum of the tasks' losses."""
        return self.losses(self(batch["image"]), batch)

    def predict(self, batch: FaceBatch) -> dict[str, Tensor]:
        """Return probabilities, and values in [-1, 1]."""
        return answers(self(batch["image"]))


TABLES["models"]["label_attention"] = "label_attention:LabelAttention"
