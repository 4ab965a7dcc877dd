"""Mixtures of knowledge experts (MoKE): convolutional adapters beside the layers of a frozen ViT.

The parts are AUFormer's (Yuan et al., ECCV 2024, arXiv 2403.04697) as its pipeline figure draws
them; widths, initialisation and the window of the CA operator are our defaults where the figure is
silent. All N experts of a group run together: their maps lie side by side in N x h channels, and
the stream that passes from expert to expert is never stored at the ViT's width.
"""

from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

DILATIONS = (1, 3, 5)

Index = tuple[slice, slice, slice]


class Stream(NamedTuple):
    """What the experts of a group hand on, each to the next expert of its own AU.

    Attributes:
        features: (B, T, N x h + 1), what the experts feed to their up-projections. The last column
            is 1; all of it is 0 for a token without an expert term.
        up: (N, C, h + 1), the up-projections, biases in the last column.
    """

    features: Tensor
    up: Tensor

    def pooled(self, patches: int) -> Tensor:
        """Return each expert's output at full width, averaged over the last tokens, (B, N, C)."""
        mean = self.features[:, -patches:, :-1].mean(1)
        mean = mean.unflatten(1, (self.up.shape[0], -1))  # type: ignore[no-untyped-call]
        return torch.einsum("bnh,nch->bnc", mean, self.up[..., :-1]) + self.up[..., -1]


class MoKEGroup(nn.Module):
    """N experts side by side, averaged: ``K = 1/N sum_i up_i(GELU(K_MRF + M'' + K_CA))``.

    ``M'' = Conv3x3(GELU(down_i(n + K_previous,i)))``. The up-projections start at zero, so that a
    new group changes nothing.

    Args:
        width: C, channels of the ViT's tokens.
        experts: N, one per action unit; 1 for an expert that all of them share.
        expert_width: h, channels inside an expert.
        mrf: whether experts have the multi-receptive-field operator.
        ca: whether experts have the context-aware operator.
        ca_scope: what a position attends to: a ``local`` window around it or the ``global`` grid.
        ca_window: edge of the local window in patches, odd.
        cls_mode: ``none`` gives class and register tokens no expert term; ``convpass`` sends each
            of them through the experts as a map of one position.
        dropout: rate on the features before the up-projection.

    Raises:
        ValueError: ``ca_window`` is even.
    """

    def __init__(
        self,
        width: int,
        experts: int,
        *,
        expert_width: int = 8,
        mrf: bool = True,
        ca: bool = True,
        ca_scope: Literal["local", "global"] = "local",
        ca_window: int = 3,
        cls_mode: Literal["none", "convpass"] = "none",
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        channels = experts * expert_width
        self.experts, self.cls_mode = experts, cls_mode
        self.down = nn.Linear(width, channels)
        self.mix = nn.Conv2d(channels, channels, 3, padding=1, groups=experts)
        self.mrf = MultiReceptiveField(experts, expert_width) if mrf else None
        self.ca = ContextAware(experts, expert_width, ca_scope, ca_window) if ca else None
        self.up = nn.Linear(channels, width, bias=False)
        self.up_bias = nn.Parameter(torch.zeros(experts * width))
        self.dropout = nn.Dropout(dropout)
        for weight in self.down.weight.chunk(experts):
            nn.init.xavier_uniform_(weight)
        nn.init.dirac_(self.mix.weight, groups=experts)
        for zero in (self.down.bias, self.mix.bias, self.up.weight):
            if zero is not None:
                nn.init.zeros_(zero)

    def forward(
        self, tokens: Tensor, grid: tuple[int, int], stream: Stream | None = None
    ) -> tuple[Tensor, Stream]:
        """Return the term to add to the ViT's residual, (B, T, C), and the stream.

        Args:
            tokens: (B, T, C) after the layer norm; the patches come last.
            grid: (H, W) of the patches.
            stream: of the group before; None at the first, or if experts know only their own input.
        """
        inner = self.down(tokens)
        if stream is not None:
            inner = inner + F.linear(stream.features, self._carry(stream.up))
        prefix = tokens.shape[1] - grid[0] * grid[1]
        features = F.pad(self._experts(inner[:, prefix:], grid), (0, 1), value=1.0)
        if prefix and self.cls_mode == "convpass":
            alone = self._experts(inner[:, :prefix].flatten(0, 1)[:, None], (1, 1))
            alone = F.pad(alone, (0, 1), value=1.0).view(-1, prefix, features.shape[2])
            features = torch.cat([alone, features], 1)
        else:
            features = F.pad(features, (0, 0, prefix, 0))
        bias = self.up_bias.view(self.experts, -1)
        mean = torch.cat([self.up.weight, bias.sum(0)[:, None]], 1) / self.experts
        up = self.up.weight.view(bias.shape[1], self.experts, -1).transpose(0, 1)
        return F.linear(features, mean), Stream(features, torch.cat([up, bias[..., None]], 2))

    def _experts(self, inner: Tensor, grid: tuple[int, int]) -> Tensor:
        """Return what the experts feed to their up-projections, (B, P, N x h) like ``inner``."""
        maps = inner.unflatten(1, grid)  # type: ignore[no-untyped-call]
        maps = maps.permute(0, 3, 1, 2)  # channels last in memory
        m: Tensor = self.mix(F.gelu(maps))
        total = m
        if self.mrf is not None:
            total = total + self.mrf(m)
        if self.ca is not None:
            total = total + self.ca(m)
        out: Tensor = self.dropout(F.gelu(total).permute(0, 2, 3, 1).flatten(1, 2))
        return out

    def _carry(self, up: Tensor) -> Tensor:
        """Return the map from the last group's features to ``down_i(K_previous,i)``.

        Nothing stands between an up-projection and the next down-projection of the same AU, so the
        two are one matrix of h x h, the constants in the last column: (N x h, N x h + 1).
        """
        step = self.down.weight.view(self.experts, -1, up.shape[1]) @ up
        return torch.cat([block_diagonal(step[..., :-1]), step[..., -1].reshape(-1, 1)], 1)


class MultiReceptiveField(nn.Module):
    """Three dense 3x3 convolutions with dilations 1, 3 and 5, concatenated and fused by a 1x1.

    The fusing convolution follows at once, so the weights are multiplied instead and the
    concatenated map is never made.

    Args:
        experts: N, groups of channels that do not mix.
        width: h, channels of each.
    """

    def __init__(self, experts: int, width: int) -> None:
        super().__init__()
        self.experts, channels = experts, experts * width
        scales = len(DILATIONS)
        self.dilated = nn.Parameter(torch.empty(scales, channels, width, 3, 3))
        self.dilated_bias = nn.Parameter(torch.zeros(scales * channels))
        self.fuse = nn.Parameter(torch.empty(channels, scales * width))
        self.fuse_bias = nn.Parameter(torch.zeros(channels))
        for weight in (*self.dilated, self.fuse):
            nn.init.kaiming_uniform_(weight, nonlinearity="linear")

    def forward(self, m: Tensor) -> Tensor:
        """Return K_MRF of the same shape as ``m``, (B, N x h, H, W)."""
        scales, channels, h = self.dilated.shape[:3]
        fuse = self.fuse.view(self.experts, h, scales, h).permute(2, 0, 1, 3)
        weights = (fuse @ self.dilated.view(scales, self.experts, h, -1)).view(self.dilated.shape)
        biases = (fuse @ self.dilated_bias.view(scales, self.experts, h, 1)).view(scales, channels)
        bias = biases.sum(0) + self.fuse_bias
        # Under AVX2 the backward of a dilated convolution takes twice as long channels last; where
        # a CPU computes bfloat16, what this saves for dilation 5 is lost for 3.
        wide = m.contiguous() if m.device.type == "cpu" else m
        first, *rest = (
            F.conv2d(m if r == 1 else wide, weight, bias if r == 1 else None, 1, r, r, self.experts)
            for r, weight in zip(DILATIONS, weights, strict=True)
        )
        return first + sum(rest[1:], rest[0])  # like layouts first


class ContextAware(nn.Module):
    """Attention in which every channel is its own head of size one (Hadamard product and softmax).

    ``K_CA[p, c] = sum_j softmax_j(Q[p, c] K[j, c]) V[j, c]``, j over a window or all positions.

    Args:
        experts: N, groups of channels that do not mix.
        width: h, channels of each.
        scope: ``local`` or ``global``.
        window: edge of the local window, odd; what lies outside of the grid takes no part.
    """

    def __init__(
        self, experts: int, width: int, scope: Literal["local", "global"], window: int
    ) -> None:
        super().__init__()
        if window % 2 == 0:
            raise ValueError(f"ca_window: {window} is even; a window has a position in its centre")
        self.scope, self.radius = scope, window // 2
        self.weight = nn.Parameter(torch.empty(3 * experts, width, width))  # Q, K and V, 1x1 each
        self.bias = nn.Parameter(torch.zeros(3 * experts * width))
        for weight in self.weight:
            nn.init.xavier_uniform_(weight)

    def forward(self, m: Tensor) -> Tensor:
        """Return K_CA of the same shape as ``m``, (B, N x h, H, W)."""
        weight = torch.cat([block_diagonal(blocks) for blocks in self.weight.chunk(3)])
        q, k, v = F.linear(m.permute(0, 2, 3, 1), weight, self.bias).chunk(3, -1)
        if self.scope == "local":
            return local_attention(q, k, v, self.radius).permute(0, 3, 1, 2)
        q, k, v = (t.flatten(1, 2).transpose(1, 2)[..., None] for t in (q, k, v))
        return F.scaled_dot_product_attention(q, k, v, scale=1.0).view(m.shape)


def block_diagonal(blocks: Tensor) -> Tensor:
    """Return (N x O, N x I) with the N matrices of (N, O, I) on its diagonal.

    A product with it costs N times the sums of N small products and is still faster, as a matrix
    product of a hundred columns is and one of eight is not what processors are made for.
    """
    n = blocks.shape[0]
    places = torch.eye(n, dtype=blocks.dtype, device=blocks.device)[:, None, :, None]
    return (blocks[:, :, None] * places).flatten(2).flatten(0, 1)


def local_attention(query: Tensor, key: Tensor, value: Tensor, radius: int) -> Tensor:
    """Attention of each channel on its own over a square window around each position.

    The weights of a window are never all in memory, also not for the backward pass, which computes
    them again. Half precision is widened inside. Under ``torch.compile`` it is written as one
    softmax, which the compiler fuses to the same end.

    Args:
        query: (B, H, W, C).
        key: (B, H, W, C).
        value: (B, H, W, C).
        radius: the window's edge is ``2 radius + 1``; what lies outside of the grid takes no part.

    Returns:
        (B, H, W, C).
    """
    if torch.compiler.is_compiling():
        return _windowed_softmax(query, key, value, radius)
    return _LocalAttention.apply(query, key, value, radius)  # type: ignore[no-any-return]


def _windowed_softmax(query: Tensor, key: Tensor, value: Tensor, radius: int) -> Tensor:
    edge = 2 * radius + 1

    def windows(x: Tensor, outside: float = 0.0) -> Tensor:
        x = F.pad(x, (0, 0, radius, radius, radius, radius), value=outside)
        return x.unfold(1, edge, 1).unfold(2, edge, 1)  # (B, H, W, C, edge, edge)

    inside = windows(torch.zeros_like(key[:1, ..., :1], dtype=torch.float32), float("-inf"))
    scores = query[..., None, None] * windows(key) + inside
    weights = scores.flatten(-2).softmax(-1).to(value.dtype)
    return (weights * windows(value).flatten(-2)).sum(-1)


class _LocalAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, radius: int) -> Tensor:
        q, k, v = _widened(query, key, value)
        # Multiplying by q keeps or reverses the order of the keys: this is the largest score.
        top = torch.maximum(q * _window_maximum(k, radius), -q * _window_maximum(-k, radius))
        bottom = top.neg_()
        weights, total = torch.zeros_like(q), torch.zeros_like(q)
        for here, there in _windows(q.shape[1], q.shape[2], radius):
            e = torch.addcmul(bottom[here], q[here], k[there]).exp_()
            weights[here] += e
            total[here].addcmul_(e, v[there])
        out = total.div_(weights).to(query.dtype)
        ctx.radius = radius
        ctx.save_for_backward(query, key, value, out, bottom.sub_(weights.log_()))
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        *inputs, negative_log_sum = ctx.saved_tensors
        q, k, v, out, g = _widened(*inputs, grad)
        q_grad, k_grad, v_grad = (torch.zeros_like(q) for _ in range(3))
        for here, there in _windows(q.shape[1], q.shape[2], ctx.radius):
            w = torch.addcmul(negative_log_sum[here], q[here], k[there]).exp_().mul_(g[here])
            v_grad[there] += w
            w *= v[there] - out[here]
            q_grad[here].addcmul_(w, k[there])
            k_grad[there].addcmul_(w, q[here])
        return *(t.to(grad.dtype) for t in (q_grad, k_grad, v_grad)), None


def _widened(*maps: Tensor) -> list[Tensor]:
    half = (torch.float16, torch.bfloat16)
    return [(t.float() if t.dtype in half else t).contiguous() for t in maps]


def _window_maximum(x: Tensor, radius: int) -> Tensor:
    return F.max_pool2d(x.permute(0, 3, 1, 2), 2 * radius + 1, 1, radius).permute(0, 2, 3, 1)


def _windows(height: int, width: int, radius: int) -> Iterator[tuple[Index, Index]]:
    """Yield, for each offset of a window, the positions that have such a neighbour, and those."""
    for dy in range(max(-radius, 1 - height), min(radius, height - 1) + 1):
        for dx in range(max(-radius, 1 - width), min(radius, width - 1) + 1):
            yield _shifted(height, width, -dy, -dx), _shifted(height, width, dy, dx)


def _shifted(height: int, width: int, dy: int, dx: int) -> Index:
    """Return the part of the grid that is left after ``dy`` rows and ``dx`` columns are passed."""
    rows = slice(max(dy, 0), height + min(dy, 0))
    return slice(None), rows, slice(max(dx, 0), width + min(dx, 0))
