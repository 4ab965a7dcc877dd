"""Face Info Mining: patch features look at facial priors, globally and locally.

The paper names the module and its two views; formulas, widths and the place of insertion are not
published, so all of them are ours.
"""

from dataclasses import dataclass
from typing import Literal, cast

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from faceaffect.errors import RecipeError
from faceaffect.models.emo_llama.priors import REGIONS, FacePrior


class CrossAttention(nn.Module):
    """Pre-norm multi-head attention from queries of one width to keys of another.

    Args:
        width: channels of the queries and of the output.
        key_width: channels of keys and values.
        inner: channels of all heads together.
        heads: number of heads.
    """

    def __init__(self, width: int, key_width: int, inner: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.key_norm = nn.LayerNorm(key_width)
        self.query = nn.Linear(width, inner, bias=False)
        self.key_value = nn.Linear(key_width, 2 * inner, bias=False)
        self.out = nn.Linear(inner, width)

    def forward(self, x: Tensor, keys: Tensor) -> Tensor:
        """Return (N, P, C) from queries x (N, P, C) and keys (N, S, D)."""
        n, length, _ = x.shape
        query = self.query(self.norm(x)).view(n, length, self.heads, -1).transpose(1, 2)
        both = self.key_value(self.key_norm(keys)).view(n, keys.shape[1], 2, self.heads, -1)
        key, value = both.permute(2, 0, 3, 1, 4)
        # So few keys: plain products are several times faster on a CPU than the fused kernel.
        scores = (query / query.shape[-1] ** 0.5) @ key.mT
        mixed = scores.softmax(-1).to(value.dtype) @ value
        return cast(Tensor, self.out(mixed.transpose(1, 2).flatten(2)))


class Standardized(nn.Module):
    """Values in deviations from the mean, both taken over all that training has shown so far.

    Not over the batch, as batch norm does: a batch may hold the frames of one clip.

    Args:
        width: number of values D.
    """

    count: Tensor
    mean: Tensor
    squares: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(()))
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("squares", torch.zeros(width))

    def forward(self, x: Tensor, known: Tensor) -> Tensor:
        """Return (N, D) from (N, D); while training, learn from the ``known`` (N,) rows."""
        if self.training:
            self._see(x, known)
        deviation = (self.squares / self.count.clamp_min(1)).sqrt()
        return (x - self.mean) / torch.where(deviation > 0, deviation, torch.ones_like(deviation))

    @torch.no_grad()
    def _see(self, x: Tensor, known: Tensor) -> None:
        """Count in the rows of all processes."""
        gap = (x - self.mean) * known[:, None]
        new = torch.cat([known.sum()[None], gap.sum(0), gap.square().sum(0)])
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(new)
        gaps, squares = new[1:].chunk(2)
        self.count += new[0]
        total = self.count.clamp_min(1)
        self.mean += gaps / total
        self.squares += squares - gaps.square() / total


class LandmarkRegions(nn.Module):
    """One token for each of the nine landmark regions.

    Landmarks are moved, scaled and turned to one place, size and eye line, and count in deviations
    from the mean face; as they stand in the crop, pose and place would outweigh what a face does.

    Args:
        width: channels of a token.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.standardized = Standardized(2 * 68)
        self.project = nn.ModuleList(
            nn.Linear(2 * len(points), width) for points in REGIONS.values()
        )
        # As large as what a face adds to them, so that the norm behind keeps how much that is.
        self.region = nn.Parameter(torch.randn(len(REGIONS), width))

    def forward(self, landmarks: Tensor, known: Tensor) -> Tensor:
        """Return (N, 9, width) from landmarks (N, 68, 2) in [-1, 1].

        Args:
            landmarks: of N faces.
            known: (N,) bool, the faces whose landmarks count in the mean face.
        """
        points = self.standardized(upright(landmarks.float()).flatten(1), known).view(-1, 68, 2)
        tokens = [
            project(points[:, list(region)].flatten(1))
            for project, region in zip(self.project, REGIONS.values(), strict=True)
        ]
        return torch.stack(tokens, 1) + self.region


def upright(landmarks: Tensor) -> Tensor:
    """Return landmarks (N, 68, 2) around their centre, of size 1 (root mean square), eyes level."""
    centred = landmarks - landmarks.mean(1, keepdim=True)
    size = centred.square().sum(2).mean(1).sqrt()
    eyes = [landmarks[:, list(REGIONS[f"{side} eye"])].mean(1) for side in ("right", "left")]
    along = F.normalize(eyes[1] - eyes[0], dim=1)
    across = torch.stack([-along[:, 1], along[:, 0]], 1)
    # Sums, not a matrix product, which autocast would take in half precision.
    turned = [(centred * axis[:, None]).sum(2) for axis in (along, across)]
    return torch.stack(turned, 2) / size.clamp_min(1e-6)[:, None, None]


@dataclass(frozen=True)
class MiningOptions:
    """Settings of Face Info Mining.

    Args:
        inject: ``pre_qformer`` enriches the patches before Q-Former or projector;
            ``extra_tokens`` gives the language model two tokens a frame instead, and nothing else
            here counts.
        key_width: channels of the keys.
        inner: channels of all attention heads together.
        heads: number of heads.
        grid: the prior's map is pooled to grid x grid keys.
        use_global: attend to the prior's tokens and map.
        use_local: attend to the nine landmark regions.

    Raises:
        RecipeError: settings that contradict each other.
    """

    inject: Literal["pre_qformer", "extra_tokens"] = "pre_qformer"
    key_width: int = 256
    inner: int = 512
    heads: int = 8
    grid: int = 7
    use_global: bool = True
    use_local: bool = True

    def __post_init__(self) -> None:
        if self.inner % self.heads:
            raise RecipeError(
                f"model.mining.inner: {self.inner} is no multiple of heads={self.heads}"
            )
        if not (self.use_global or self.use_local):
            raise RecipeError("model.mining: neither global nor local; say mining: null instead")


class FaceInfoMining(nn.Module):
    """Adds what patches find in the priors: X + tanh(g1) CA(X, global) + tanh(g2) CA(X, local).

    Global keys are the prior's tokens and its pooled map, with an embedding of each place; local
    keys are the nine landmark regions. The gates start at zero, so that training starts from the
    base model; a face without priors passes unchanged at any time.

    Args:
        width: channels of the patches.
        map_width: channels of the prior's map.
        token_width: channels of the prior's tokens.
        options: settings.
    """

    def __init__(
        self,
        width: int,
        map_width: int,
        token_width: int,
        options: MiningOptions = MiningOptions(),  # frozen
    ) -> None:
        super().__init__()
        self.grid = options.grid
        self.use_global, self.use_local = options.use_global, options.use_local
        key_width, inner, heads = options.key_width, options.inner, options.heads
        if self.use_global:
            self.from_map = _to(map_width, key_width)
            self.from_tokens = _to(token_width, key_width)
            self.place = nn.Parameter(torch.randn(self.grid**2, key_width) / 2)
            self.look_globally = CrossAttention(width, key_width, inner, heads)
            self.global_gate = nn.Parameter(torch.zeros(1))
        if self.use_local:
            self.regions = LandmarkRegions(key_width)
            self.look_locally = CrossAttention(width, key_width, inner, heads)
            self.local_gate = nn.Parameter(torch.zeros(1))

    def forward(self, patches: Tensor, prior: FacePrior) -> Tensor:
        """Return enriched patches (N, P, width) from patches (N, P, width) and their priors."""
        prior = prior.blanked()
        dtype = patches.dtype
        mined = patches
        if self.use_global:
            pooled = F.adaptive_avg_pool2d(prior.map.to(dtype), self.grid).flatten(2).mT
            pooled = self.from_map(pooled) + self.place
            keys = torch.cat([self.from_tokens(prior.tokens.to(dtype)), pooled], 1)
            mined = mined + self.global_gate.tanh() * self.look_globally(patches, keys)
        if self.use_local:
            keys = self.regions(prior.landmarks, prior.ok)
            mined = mined + self.local_gate.tanh() * self.look_locally(patches, keys)
        return torch.where(prior.ok[:, None, None], mined.to(dtype), patches)

    def gates(self) -> list[nn.Parameter]:
        """Return the gates of the views that are used."""
        return [p for name, p in self.named_parameters() if name.endswith("_gate")]


def _to(width: int, key_width: int) -> nn.Module:
    return nn.Identity() if width == key_width else nn.Linear(width, key_width)


class PriorTokens(nn.Module):
    """Priors as tokens of the language model instead, as EmoLA does: one of the map, one of points.

    Args:
        map_width: channels of the prior's map.
        width: of the language model's embeddings.
    """

    count = 2

    def __init__(self, map_width: int, width: int) -> None:
        super().__init__()
        self.from_map = mlp(map_width, width)
        self.from_points = mlp(136, width)

    def forward(self, prior: FacePrior) -> Tensor:
        """Return (N, 2, width); zeros where no face was found."""
        prior = prior.blanked()
        dtype = next(self.parameters()).dtype
        pooled = self.from_map(prior.map.mean((2, 3)).to(dtype))
        points = self.from_points(prior.landmarks.flatten(1).to(dtype))
        tokens = torch.stack([pooled, points], 1)
        return torch.where(prior.ok[:, None, None], tokens, torch.zeros_like(tokens))


def mlp(width: int, out: int) -> nn.Sequential:
    """Return two linear layers with a GELU between them."""
    return nn.Sequential(nn.Linear(width, out), nn.GELU(), nn.Linear(out, out))
