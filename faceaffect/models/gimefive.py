"""GiMeFive: a small CNN for facial expressions from greyscale faces of 64 px.

Wang and Kawka, arXiv 2402.15662. Layers, input and class count are the authors' (10,478,086
parameters for six expressions); AU and VA outputs are ours.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from faceaffect.data.batch import FaceBatch
from faceaffect.module import AffectModule
from faceaffect.networks.heads import AULoss, Heads, TaskLosses, answers
from faceaffect.schema import LabelSchema

IMAGE_SIZE = 64
WIDTHS = (64, 128, 256, 512, 1024)
_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as PIL and OpenCV
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet


class GiMeFive(AffectModule):
    """Five blocks of convolution, batch norm, ReLU, max-pooling and dropout, then three layers.

    Args:
        schema: what it answers; one output layer per task.
        block_dropout: rate after the first four blocks, in [0, 1).
        hidden_dropout: rate between the first two fully connected layers, in [0, 1).
        au_loss: see :class:`faceaffect.networks.heads.TaskLosses`.
        class_weights: weigh AUs and expression classes by their rarity in the training part.
        label_smoothing: of the expressions, in [0, 1].
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        schema: LabelSchema | dict[str, Any],
        *,
        block_dropout: float = 0.2,
        hidden_dropout: float = 0.5,
        au_loss: AULoss = "bce",
        class_weights: bool = False,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__(schema)
        self.blocks = nn.Sequential(
            *(
                _block(before, after, 0.0 if after == WIDTHS[-1] else block_dropout)
                for before, after in zip((3, *WIDTHS), WIDTHS, strict=False)
            )
        )
        self.hidden = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(WIDTHS[-1], 2048),
            nn.ReLU(),
            nn.Dropout(hidden_dropout),
            nn.Linear(2048, 1024),
            nn.ReLU(),
        )
        self.heads = Heads(self.schema, 1024)
        self.losses = TaskLosses(
            self.schema,
            au_loss=au_loss,
            class_weights=class_weights,
            label_smoothing=label_smoothing,
        )
        self.register_buffer("mean", torch.tensor(_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(_STD).view(3, 1, 1), persistent=False)

    def prepare(self, statistics: dict[str, Any]) -> None:
        """Take the loss weights from the training part's statistics."""
        super().prepare(statistics)
        self.losses.prepare(statistics)

    @property
    def cam_layer(self) -> nn.Module:
        """The last feature map, 4 x 4, that Grad-CAM looks at: before the last pooling."""
        return self.blocks[-1].get_submodule("2")

    def normalise(self, image: Tensor) -> Tensor:
        """Return (B, 3, 64, 64), the grey value in every channel, from uint8 RGB (B, 3, H, W)."""
        luma = self.mean.new_tensor(_LUMA).view(3, 1, 1)
        grey = (image.float() * luma).sum(1, keepdim=True) / 255
        if grey.shape[-2:] != (IMAGE_SIZE, IMAGE_SIZE):
            size = (IMAGE_SIZE, IMAGE_SIZE)
            grey = F.interpolate(grey, size, mode="bilinear", antialias=True)
        return (grey - self.mean) / self.std

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Return the logits of each task from uint8 faces (B, 3, H, W)."""
        return self.heads(self.hidden(self.blocks(self.normalise(image))))  # type: ignore[no-any-return]

    def loss(self, batch: FaceBatch) -> Tensor:
        """Return the sum of the tasks' losses; cross-entropy for expressions, as the authors'."""
        return self.losses(self(batch["image"]), batch)  # type: ignore[no-any-return]

    def predict(self, batch: FaceBatch) -> dict[str, Tensor]:
        """Return probabilities for AUs and expressions, tanh for valence and arousal."""
        return answers(self(batch["image"]))


def _block(before: int, after: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(before, after, 3, padding=1),
        nn.BatchNorm2d(after),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Dropout(dropout),
    )
