"""Self-supervised pre-training of a ViT: what do the hidden parts of a face look like?

Masked autoencoding (He et al. 2022, arXiv 2111.06377: only visible patches pass through the
encoder, a small decoder fills in the rest) with the target of MaskFeat (Wei et al. 2022, arXiv
2112.09133: histograms of oriented gradients). Ours: mean colours join the target, and a second loss
has the pooled output describe the whole face by itself, so that it says what the tokens say.
"""

import math
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from timm.layers import build_sincos2d_pos_embed
from torch import Tensor, nn

from faceaffect.components import Options
from faceaffect.data.batch import FaceBatch
from faceaffect.errors import RecipeError
from faceaffect.models.pretraining import PretrainingModule
from faceaffect.networks.backbones import create_backbone
from faceaffect.registry import as_node
from faceaffect.schema import LabelSchema

BINS = 8
"""Orientations that gradients are sorted into, over half a turn."""


class VitPretraining(PretrainingModule):
    """Trains a ViT to describe hidden patches of faces, without any label.

    Args:
        schema: of the data; no label is used.
        backbone: a ViT of timm, by name or by the options of
            :func:`faceaffect.networks.backbones.create_backbone`.
        mask_ratio: share of the patches that are hidden in training, in (0, 1).
        cells: each patch is described in cells x cells parts.
        decoder_width: channels of the decoder.
        decoder_depth: blocks of the decoder.
        whole_weight: of the loss by which the pooled output describes the whole face.

    Raises:
        RecipeError: the backbone is no plain ViT, or a number does not fit.
    """

    def __init__(
        self,
        schema: LabelSchema | dict[str, Any],
        *,
        backbone: Annotated[str | dict[str, Any], Options(create_backbone)],
        mask_ratio: float = 0.5,
        cells: int = 2,
        decoder_width: int = 96,
        decoder_depth: int = 1,
        whole_weight: float = 1.0,
    ) -> None:
        super().__init__(schema)
        if not 0 < mask_ratio < 1:
            raise RecipeError(f"model.mask_ratio: {mask_ratio} is not between 0 and 1")
        self.backbone = create_backbone(**as_node(backbone))
        net = self.backbone.net
        if not hasattr(net, "_pos_embed") or not hasattr(net, "blocks"):
            raise RecipeError(f"model.backbone: {self.backbone.name} is no plain ViT of timm")
        self.patch = self.backbone.image_size // self.backbone.grid[0]
        if self.patch % cells:
            raise RecipeError(f"model.cells: {cells} does not divide the patch of {self.patch} px")
        self.cells, self.mask_ratio, self.whole_weight = cells, mask_ratio, whole_weight
        count, width = math.prod(self.backbone.grid), self.backbone.width
        channels = (BINS + 3) * cells**2
        with torch.no_grad():  # known places from the first step on, as in MAE
            net.pos_embed[0, -count:] = build_sincos2d_pos_embed(list(self.backbone.grid), width)
        self.narrow = nn.Linear(width, decoder_width)
        self.hidden = nn.Parameter(torch.zeros(1, 1, decoder_width))
        self.place = nn.Parameter(torch.randn(1, count, decoder_width) * 0.02)
        self.decoder = nn.TransformerEncoder(
            nn.TransformerEncoderLayer(
                decoder_width,
                max(1, decoder_width // 32),
                2 * decoder_width,
                dropout=0.0,
                activation="gelu",
                batch_first=True,
                norm_first=True,
            ),
            decoder_depth,
            enable_nested_tensor=False,
        )
        self.answer = nn.Sequential(nn.LayerNorm(decoder_width), nn.Linear(decoder_width, channels))
        self.whole = nn.Linear(self.backbone.pooled_width, count * channels)

    def forward(self, image: Tensor, order: Tensor) -> tuple[Tensor, Tensor]:
        """Describe faces from some of their patches.

        Args:
            image: (B, 3, H, W) uint8.
            order: (B, P) a permutation of the patches of each face; the last ones are hidden.

        Returns:
            The description (B, P, D) of every patch, by the decoder and by the pooled output.
        """
        net, prefix = self.backbone.net, self.backbone.num_prefix_tokens
        tokens = net._pos_embed(net.patch_embed(self.backbone.normalise(image)))
        seen = order[:, : self.shown(order.shape[1])].unsqueeze(2)
        kept = tokens[:, prefix:].gather(1, seen.expand(-1, -1, tokens.shape[2]))
        tokens = net.norm(net.blocks(net.norm_pre(torch.cat([tokens[:, :prefix], kept], 1))))
        pooled = net.forward_head(tokens, pre_logits=True)
        narrow = self.narrow(tokens[:, prefix:])
        filled = self.hidden.to(narrow.dtype).expand(*order.shape, -1)
        filled = filled.scatter(1, seen.expand(-1, -1, narrow.shape[2]), narrow)
        patches = self.answer(self.decoder(filled + self.place))
        return patches, self.whole(pooled).view_as(patches)

    def shown(self, count: int) -> int:
        """Return how many of ``count`` patches the encoder sees."""
        return max(1, round(count * (1 - self.mask_ratio)))

    def losses(
        self, batch: FaceBatch, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """Return both losses as shares of the variance: 1 is as good as the mean face.

        Args:
            batch: faces.
            generator: hides patches, on the CPU; by default torch's own.

        Returns:
            ``hidden``: of the decoder on the hidden patches; ``whole``: of the pooled output on
            all patches; ``loss``: the decoder's on all patches and the weighted second one.
        """
        image = batch["image"]
        size = self.backbone.image_size
        target = describe_patches(image, size, self.patch, self.cells)
        scores = torch.rand(target.shape[:2], generator=generator)
        order = scores.argsort(1).to(image.device)
        patches, whole = self(image, order)
        spread = (target - target.mean(0)).square().mean().clamp_min(1e-6)
        error = (patches.float() - target).square().mean(2)
        hidden = error.gather(1, order[:, self.shown(order.shape[1]) :]).mean() / spread
        alone = (whole.float() - target).square().mean() / spread
        return {
            "hidden": hidden,
            "whole": alone,
            "loss": error.mean() / spread + self.whole_weight * alone,
        }

    def loss(self, batch: FaceBatch) -> Tensor:
        """Return the weighted sum of both losses."""
        return self.losses(batch)["loss"]

    def validation_step(self, batch: FaceBatch, batch_idx: int) -> None:
        """Log the explained shares of variance under masks that are the same each time."""
        self._explained("val", batch, batch_idx)

    def test_step(self, batch: FaceBatch, batch_idx: int) -> None:
        """Log the explained shares of variance under masks that are the same each time."""
        self._explained("test", batch, batch_idx)

    def _explained(self, part: str, batch: FaceBatch, batch_idx: int) -> None:
        losses = self.losses(batch, torch.Generator().manual_seed(batch_idx))
        values = {f"{part}/explained_{k}": 1 - losses[k] for k in ("hidden", "whole")}
        values[f"{part}/score"] = torch.stack(list(values.values())).mean()
        self.log_dict(values, on_epoch=True, sync_dist=True, batch_size=len(batch["id"]))

    def exported(self) -> tuple[nn.Module, dict[str, Any]]:
        """Return the ViT without decoder, and how to build it."""
        purpose = "for learning, tests and continuous integration; of no value on real faces"
        about = {"purpose": purpose, "labels": "no labels, self-supervised"}
        return self.backbone.net, self.backbone.describe() | about


def describe_patches(image: Tensor, size: int, patch: int, cells: int) -> Tensor:
    """Describe each patch of a face by its edges and its colours.

    Args:
        image: (B, 3, H, W) uint8.
        size: side to which the image is resized, pixels.
        patch: side of a patch, pixels.
        cells: each patch is described in cells x cells parts.

    Returns:
        (B, P, 11 * cells^2) float32, patches row by row: histograms over 8 orientations of each
        cell, all of a patch together brought to about unit length, and each cell's mean colour,
        in units of a quarter of the full range.
    """
    pixels = image.float() / 255
    if pixels.shape[-2:] != (size, size):
        pixels = F.interpolate(pixels, (size, size), mode="bilinear", antialias=True)
    cell = patch // cells
    edges = _by_patch(F.avg_pool2d(_orientations(pixels.mean(1)), cell), cells)
    # The constant keeps sensor noise in flat patches from counting as edges.
    edges = edges / (edges.square().sum(2, keepdim=True) + 0.05**2).sqrt()
    colours = _by_patch(F.avg_pool2d(pixels, cell), cells)
    return torch.cat([edges, 4 * colours / math.sqrt(3 * cells**2)], 2)


def _orientations(grey: Tensor) -> Tensor:
    """Return how steep (B, H, W) is along 8 orientations, (B, 8, H, W)."""
    padded = F.pad(grey.unsqueeze(1), (1, 1, 1, 1), mode="replicate")
    dx = padded[:, :, 1:-1, 2:] - padded[:, :, 1:-1, :-2]
    dy = padded[:, :, 2:, 1:-1] - padded[:, :, :-2, 1:-1]
    # Twice the angle, since an edge has no sign. A bin reaches as far as the middle of the next.
    magnitude = (dx * dx + dy * dy).sqrt()
    double = torch.cat([dx * dx - dy * dy, 2 * dx * dy], 1) / magnitude.clamp_min(1e-6)
    angle = torch.arange(BINS, device=grey.device) * (2 * math.pi / BINS)
    centre = torch.stack([angle.cos(), angle.sin()], 1).view(BINS, 2, 1, 1)
    reach = math.cos(2 * math.pi / BINS)
    return F.relu(F.conv2d(double, centre) - reach * magnitude) / (1 - reach)


def _by_patch(cells: Tensor, side: int) -> Tensor:
    """Return (B, P, C * side^2) from a map of cells (B, C, rows * side, columns * side)."""
    b, c, h, w = cells.shape
    split = cells.view(b, c, h // side, side, w // side, side)
    return split.permute(0, 2, 4, 1, 3, 5).reshape(b, (h // side) * (w // side), -1)
