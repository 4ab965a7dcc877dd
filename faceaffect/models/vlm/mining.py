"""Two more ways to bring landmarks into a language model: EmoLA's token, Face-LLaVA's attention.

Both are written anew from what the authors' code does; EMO-LLaMA's own way, Face Info Mining, is
that of :mod:`faceaffect.models.emo_llama.mining`.
"""

from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from faceaffect.errors import RecipeError
from faceaffect.models.emo_llama.mining import mlp
from faceaffect.models.emo_llama.priors import REGIONS, FacePrior


@dataclass(frozen=True)
class EmolaOptions:
    """EmoLA's prior: the landmarks of a face as one token behind its picture; nothing to set."""


class LandmarkToken(nn.Module):
    """Landmarks as one token of the language model (EmoLA): a linear layer, GELU, another one.

    Args:
        points: number of landmarks; EmoLA has 106, the networks here mostly 68.
        width: of the language model's embeddings.
    """

    count = 1

    def __init__(self, points: int, width: int) -> None:
        super().__init__()
        self.project = mlp(2 * points, width)

    def forward(self, prior: FacePrior) -> Tensor:
        """Return (N, 1, width) from the landmarks (N, points, 2) of N faces."""
        points = prior.blanked().landmarks.flatten(1)
        dtype = next(self.parameters()).dtype
        return cast(Tensor, self.project(points.to(dtype))[:, None])


@dataclass(frozen=True)
class FaceLlavaOptions:
    """Settings of Face-LLaVA's region-guided cross-attention.

    Args:
        proximity: tokens look more at the landmark regions that lie near to them.
        heads: number of heads.
        inner: channels of all heads together; null for the width of the language model, as in
            Face-LLaVA.

    Raises:
        RecipeError: settings that contradict each other.
    """

    proximity: bool = True
    heads: int = 8
    inner: int | None = None

    def __post_init__(self) -> None:
        if self.heads < 1 or (self.inner or self.heads) % self.heads:
            raise RecipeError(f"model.mining.inner: is no multiple of heads={self.heads}")


class RegionAttention(nn.Module):
    """Projected visual tokens look at nine landmark regions (Face-LLaVA).

    ``X + tanh(g) Linear(LN(X + CA(X, regions)))``. A region's token is a linear map of its points
    plus one of all points; its logits are raised by the softmax of the negative distances between
    the token's place and the regions' centres. Face-LLaVA has 0.1 in place of ``tanh(g)``; the gate
    starts at zero here, so that training starts from the base model.

    Args:
        width: channels of the tokens.
        options: settings.

    Raises:
        RecipeError: the width is no multiple of the heads.
    """

    def __init__(self, width: int, options: FaceLlavaOptions) -> None:
        super().__init__()
        inner = options.inner or width
        if inner % options.heads:
            raise RecipeError(
                f"model.mining.heads: {options.heads}, but the language model is {inner} wide; "
                "name heads that divide it, or inner"
            )
        self.heads, self.proximity = options.heads, options.proximity
        self.regions = nn.ModuleList(
            nn.Linear(2 * len(points), width) for points in REGIONS.values()
        )
        self.whole = nn.Linear(136, width)
        self.query = nn.Linear(width, inner)
        self.key_value = nn.Linear(width, 2 * inner)
        self.out = nn.Linear(inner, width)
        self.norm = nn.LayerNorm(width)
        self.last = nn.Linear(width, width)
        self.gate = nn.Parameter(torch.zeros(1))

    def forward(self, tokens: Tensor, prior: FacePrior, places: Tensor | None) -> Tensor:
        """Return tokens (N, P, width) from tokens (N, P, width) and the priors of N faces.

        Args:
            tokens: projected visual tokens.
            prior: of their faces.
            places: (P, 2) x and y in [0, 1] of each token, NaN for one without a place; None
                where no token has one.
        """
        points = (prior.blanked().landmarks.float() + 1) / 2
        near = None
        if self.proximity and places is not None:
            near = proximity(points, places)[:, None].to(tokens.dtype)
        n, length, _ = tokens.shape
        keys = self._keys(points.to(self.whole.weight.dtype))
        query = self.query(tokens).view(n, length, self.heads, -1).transpose(1, 2)
        both = self.key_value(keys).view(n, len(REGIONS), 2, self.heads, -1)
        key, value = both.permute(2, 0, 3, 1, 4)
        near = None if near is None else near.to(query.dtype)
        found = F.scaled_dot_product_attention(query, key, value, attn_mask=near)
        seen = self.norm(tokens + self.out(found.transpose(1, 2).flatten(2)))
        mined = tokens + self.gate.tanh() * self.last(seen)
        return torch.where(prior.ok[:, None, None], mined.to(tokens.dtype), tokens)

    def _keys(self, points: Tensor) -> Tensor:
        """Return the nine tokens (N, 9, width) of points (N, 68, 2)."""
        parts = [
            project(points[:, list(region)].flatten(1))
            for project, region in zip(self.regions, REGIONS.values(), strict=True)
        ]
        whole: Tensor = self.whole(points.flatten(1))
        return torch.stack(parts, 1) + whole[:, None]

    def gates(self) -> list[nn.Parameter]:
        """Return the gate."""
        return [self.gate]


def proximity(points: Tensor, places: Tensor) -> Tensor:
    """Return (N, P, 9): how near each place is to each region, summing to 1 over the regions.

    Args:
        points: (N, 68, 2) landmarks in [0, 1].
        places: (P, 2) in [0, 1]; NaN counts as equally far from all.
    """
    centres = torch.stack([points[:, list(region)].mean(1) for region in REGIONS.values()], 1)
    distance = torch.cdist(places.to(centres).expand(len(centres), -1, -1), centres)
    return (-distance.nan_to_num(0.0)).softmax(-1)
