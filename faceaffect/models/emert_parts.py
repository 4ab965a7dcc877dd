"""The networks of EMERT: encoders, the cross-transformer, and the reversal of a gradient."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from faceaffect.data.batch import FaceBatch
from faceaffect.errors import DataError
from faceaffect.networks.backbones import create_backbone, grid_side, pool_grid

Pooling = Literal["tokens", "modalities"]


class FaceEncoder(nn.Module):
    """Each frame through a backbone, then one linear layer.

    Args:
        backbone: options of :func:`faceaffect.networks.backbones.create_backbone`.
        readout: see :class:`Emert`.
        width: channels of the output.
    """

    def __init__(self, backbone: dict[str, Any], readout: str, width: int) -> None:
        super().__init__()
        self.backbone = create_backbone(**backbone)
        self.frozen = bool(backbone.get("frozen", False))
        self.side = grid_side(readout, "model.readout", other="pooled")
        seen = self.backbone.pooled_width
        if self.side is not None:
            seen = self.backbone.width * self.side**2
        # Frozen features may differ little from face to face beside a large mean.
        self.norm = nn.BatchNorm1d(seen, affine=False) if self.frozen else nn.Identity()
        self.project = nn.Linear(seen, width)

    def look(self, image: Tensor) -> Tensor:
        """Return what the backbone says of uint8 faces (M, 3, H, W), (M, channels)."""
        x = self.backbone.normalise(image)
        if self.side is None:
            return self.backbone.pooled(x)
        tokens = self.backbone.tokens(x)[:, self.backbone.num_prefix_tokens :]
        return pool_grid(tokens, self.backbone.grid, self.side).flatten(1)

    def forward(self, batch: FaceBatch) -> tuple[Tensor, Tensor]:
        """Return (B, T, width) of clips, 0 where there is no frame, and which frames are there."""
        if "features" in batch:
            seen = batch["features"]["face"]
            mask = torch.ones(seen.shape[:2], dtype=torch.bool, device=seen.device)
        else:
            mask = batch["frame_mask"]
        flat = seen[mask] if "features" in batch else self.look(batch["video"][mask])
        flat = self.project(self.norm(flat))
        out = flat.new_zeros(*mask.shape, flat.shape[1])
        return out.index_put(mask.nonzero(as_tuple=True), flat), mask


class TrackEncoder(nn.Module):
    """What is measured beside the face, standardised, through an LSTM.

    Args:
        name: the key of the batch.
        values: measured in a step.
        width: channels of the output.
        layers: of the LSTM.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, name: str, values: int, width: int, layers: int) -> None:
        super().__init__()
        self.name, self.values = name, values
        self.lstm = nn.LSTM(values, width, layers, batch_first=True)
        # Not stored: they follow from the statistics, which every checkpoint carries.
        self.register_buffer("mean", torch.zeros(values), persistent=False)
        self.register_buffer("std", torch.ones(values), persistent=False)

    def standardise(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """Take mean and standard deviation of each value in the training part."""
        self._check(len(mean))
        self.mean.copy_(torch.tensor(mean))
        self.std.copy_(torch.tensor(std))

    def _check(self, values: int) -> None:
        if values != self.values:
            way_out = f": model.eye_values={values}" if self.name == "eyes" else ""
            raise DataError(
                f"the {self.name} have {values} values a step and the model takes {self.values}"
                f"{way_out}"
            )

    def forward(self, batch: FaceBatch) -> tuple[Tensor, Tensor]:
        """Return (B, S, width) and in which steps (B, S) anything is known.

        What is not known of a step counts as the mean. A batch without such a measurement has one
        step of which nothing is known.
        """
        found = batch.get(self.name)
        if not isinstance(found, Tensor):
            found = self.mean.new_full((len(batch["id"]), 1, self.values), torch.nan)
        self._check(found.shape[2])
        known = ~found.isnan()
        track = ((found.float() - self.mean) / self.std).where(known, 0)
        # A recurrent network in half precision is not computed everywhere, and forgets.
        with torch.autocast(track.device.type, enabled=False):
            out: Tensor = self.lstm(track)[0]
        return out, known.any(2)


class CrossTransformer(nn.Module):
    """Invariant tokens ask, specific tokens answer.

    Args:
        steps: learned positions by modality.
        width: channels of the tokens.
        depth: layers.
        heads: of the attention.
        head_width: channels of each.
        dropout: rate within a layer.
        token_dropout: rate on the tokens.
        pooling: ``tokens``: the mean of all that come out; ``modalities``: of those of each
            modality, and then of these means.
    """

    def __init__(
        self,
        steps: dict[str, int],
        width: int,
        *,
        depth: int,
        heads: int,
        head_width: int,
        dropout: float,
        token_dropout: float,
        pooling: Pooling,
    ) -> None:
        super().__init__()
        self.pooling = pooling
        self.asking = _positions(steps, width)
        self.asked = _positions(steps, width)
        self.dropout = nn.Dropout(token_dropout)
        self.layers = nn.ModuleList(
            CrossLayer(width, heads, head_width, dropout) for _ in range(depth)
        )

    def forward(
        self, asking: dict[str, Tensor], asked: dict[str, Tensor], masks: dict[str, Tensor]
    ) -> Tensor:
        """Return the mean (B, width) over what is known, as ``pooling`` says.

        Args:
            asking: (B, T, width) by modality.
            asked: likewise.
            masks: (B, T) which steps are known, by modality.
        """
        query, source = (
            torch.cat([parts[n] + placed(table[n], mask) for n, mask in masks.items()], 1)
            for parts, table in ((asking, self.asking), (asked, self.asked))
        )
        mask = torch.cat(list(masks.values()), 1)
        query, source = self.dropout(query), self.dropout(source)
        for layer in self.layers:
            query = layer(query, source, mask)
        if self.pooling == "tokens":
            return masked_mean(query, mask)
        parts = query.split([one.shape[1] for one in masks.values()], 1)
        pairs = zip(parts, masks.values(), strict=True)
        means = torch.stack([masked_mean(part, one) for part, one in pairs], 1)
        return masked_mean(means, torch.stack([one.any(1) for one in masks.values()], 1))


class CrossLayer(nn.Module):
    """Attention of queries to sources and a small network, each behind a layer norm.

    Args:
        width: channels.
        heads: of the attention.
        head_width: channels of each.
        dropout: rate on what either adds.
    """

    def __init__(self, width: int, heads: int, head_width: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.maps = nn.ModuleList(
            nn.Linear(width, heads * head_width, bias=False) for _ in range(3)
        )
        self.out = nn.Sequential(nn.Linear(heads * head_width, width), nn.Dropout(dropout))
        self.feed = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, width),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(width, width),
            nn.Dropout(dropout),
        )

    def forward(self, query: Tensor, source: Tensor, mask: Tensor) -> Tensor:
        """Return (B, Q, width) for queries (B, Q, width) about sources (B, S, width), mask (B, S).

        A sample without any known source asks all of them, so that nothing is divided by zero.
        """
        mask = mask | ~mask.any(1, keepdim=True)
        q, k, v = (
            layer(norm(x)).unflatten(2, (self.heads, -1)).transpose(1, 2)
            for layer, norm, x in zip(self.maps, self.norms, (query, source, source), strict=True)
        )
        seen = F.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, None])
        query = query + self.out(seen.transpose(1, 2).flatten(2))
        return query + self.feed(query)  # type: ignore[no-any-return]


class _Reverse(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return -gradient


def reverse_gradient(x: Tensor) -> Tensor:
    """Return the same values, whose gradient comes back with the other sign (Ganin et al., 2016).

    >>> x = torch.ones(2, requires_grad=True)
    >>> torch.autograd.grad(reverse_gradient(x).sum(), x)[0]
    tensor([-1., -1.])
    """
    reversed_: Tensor = _Reverse.apply(x)
    return reversed_


def masked_mean(tokens: Tensor, mask: Tensor) -> Tensor:
    """Return the mean (B, C) of tokens (B, T, C) over the steps of a mask (B, T), 0 where none is.

    >>> masked_mean(torch.tensor([[[1.0], [3.0], [9.0]]]), torch.tensor([[True, True, False]]))
    tensor([[2.]])
    """
    known = mask.unsqueeze(2)
    return (tokens * known).sum(1) / known.sum(1).clamp(min=1)


def placed(table: Tensor, mask: Tensor) -> Tensor:
    """Return the position (B, T, C) of each step, from learned ones (P, C).

    The steps of a sample are spread over the table: of P steps each has its own, of more or fewer
    they lie between. What a step gets depends on its own sample alone, not on what fills it up.

    Args:
        table: of P positions.
        mask: (B, T) which steps are known; the last one known ends the sample.
    """
    step = torch.arange(mask.shape[1], device=mask.device)
    length = (mask * (step + 1)).amax(1, keepdim=True).clamp(min=1)
    at = (step * len(table) / length).clamp(max=len(table) - 1)
    low = at.floor().long()
    share = (at - low).unsqueeze(2).to(table)
    return table[low] * (1 - share) + table[(low + 1).clamp(max=len(table) - 1)] * share


def _positions(steps: dict[str, int], width: int) -> nn.ParameterDict:
    return nn.ParameterDict(
        {n: nn.Parameter(torch.randn(count, width)) for n, count in steps.items()}
    )
