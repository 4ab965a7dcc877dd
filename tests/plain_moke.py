"""AUFormer's network written down as the figure draws it: experts one at a time, at full width."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from faceaffect.models.auformer import ExpertViT
from faceaffect.models.moke import ContextAware, MoKEGroup, MultiReceptiveField


class PlainExpert(nn.Module):
    """Expert ``i`` with copies of its share of a group's weights, or of their gradients."""

    def __init__(self, group: MoKEGroup, i: int) -> None:
        super().__init__()

        def own(tensor: Tensor) -> nn.Parameter:
            return nn.Parameter(tensor.detach().chunk(group.experts)[i].clone())

        self.convpass = group.cls_mode == "convpass"
        self.down, self.down_bias = own(group.down.weight), own(group.down.bias)
        self.mix, self.mix_bias = own(group.mix.weight), own(group.mix.bias)
        self.up, self.up_bias = own(group.up.weight.T), own(group.up_bias)
        self.dilated = nn.ParameterList()
        self.qkv = nn.ParameterList()
        if isinstance(group.mrf, MultiReceptiveField):
            biases = group.mrf.dilated_bias.chunk(3)
            for weight, bias in zip(group.mrf.dilated, biases, strict=True):
                self.dilated.extend([own(weight), own(bias)])
            self.fuse, self.fuse_bias = own(group.mrf.fuse), own(group.mrf.fuse_bias)
        if isinstance(group.ca, ContextAware):
            self.radius = group.ca.radius if group.ca.scope == "local" else None
            for weight, bias in zip(group.ca.weight.chunk(3), group.ca.bias.chunk(3), strict=True):
                self.qkv.extend([own(weight.flatten(0, 1)), own(bias)])

    def forward(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """Return K, (B, T, C), zero for prefix tokens without an expert term."""
        prefix = tokens.shape[1] - grid[0] * grid[1]
        patches = self.on_map(tokens[:, prefix:].transpose(1, 2).unflatten(2, grid))
        patches = patches.flatten(2).transpose(1, 2)
        if self.convpass:
            alone = [self.on_map(tokens[:, i, :, None, None]).flatten(1) for i in range(prefix)]
            return torch.cat([*(token[:, None] for token in alone), patches], 1)
        return torch.cat([torch.zeros_like(tokens[:, :prefix]), patches], 1)

    def on_map(self, t: Tensor) -> Tensor:
        m = F.gelu(F.conv2d(t, self.down[..., None, None], self.down_bias))
        m = F.conv2d(m, self.mix, self.mix_bias, padding=1)
        total = m
        if len(self.dilated):
            scales = [
                F.conv2d(m, self.dilated[2 * j], self.dilated[2 * j + 1], padding=d, dilation=d)
                for j, d in enumerate((1, 3, 5))
            ]
            total = total + F.conv2d(
                torch.cat(scales, 1), self.fuse[..., None, None], self.fuse_bias
            )
        if len(self.qkv):
            total = total + self.context(m)
        return F.conv2d(F.gelu(total), self.up.T[..., None, None], self.up_bias)

    def context(self, m: Tensor) -> Tensor:
        q, k, v = (
            F.conv2d(m, self.qkv[2 * j][..., None, None], self.qkv[2 * j + 1]) for j in range(3)
        )
        q = q.flatten(2)[:, :, None]  # (B, h, 1, P) beside (B, h, J, P)
        if self.radius is None:
            k, v = (t.flatten(2)[..., None].expand(-1, -1, -1, q.shape[3]) for t in (k, v))
            score = q * k
        else:
            edge = 2 * self.radius + 1
            outside = F.unfold(torch.ones_like(m[:1, :1]), edge, padding=self.radius) == 0
            k, v = (
                F.unfold(t, edge, padding=self.radius).unflatten(1, (t.shape[1], -1))
                for t in (k, v)
            )
            score = (q * k).masked_fill(outside, float("-inf"))
        return (score.softmax(2) * v).sum(2).view_as(m)


class PlainGroup(nn.Module):
    """All experts of a group in a loop; the stream holds every expert's output at full width."""

    def __init__(self, group: MoKEGroup) -> None:
        super().__init__()
        self.experts = nn.ModuleList(PlainExpert(group, i) for i in range(group.experts))

    def forward(
        self, tokens: Tensor, grid: tuple[int, int], stream: list[Tensor] | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        given = [0.0] * len(self.experts) if stream is None else stream
        out = [
            expert(tokens + before, grid)
            for expert, before in zip(self.experts, given, strict=True)
        ]
        return torch.stack(out).mean(0), out


class PlainViT(nn.Module):
    """A frozen timm ViT with two groups in every block, line by line after the block equations."""

    def __init__(self, vit: ExpertViT) -> None:
        super().__init__()
        self.net, self.grid, self.au_stream = vit.backbone.net, vit.backbone.grid, vit.au_stream
        self.groups = nn.ModuleList(
            nn.ModuleDict({position: PlainGroup(group) for position, group in block.items()})
            for block in vit.groups
        )

    def forward(self, image: Tensor) -> tuple[Tensor, list[list[Tensor]]]:
        """Return the tokens after the last norm, and what each expert of a block's last gave."""
        net = self.net
        x = net.norm_pre(net._pos_embed(net.patch_embed(image)))
        streams, given = [], None
        for block, groups in zip(net.blocks, self.groups, strict=True):
            n = block.norm1(x)
            k, beside_attention = groups["attention"](n, self.grid, given)
            x = x + block.ls1(block.attn(n)) + k
            n = block.norm2(x)
            k, beside_mlp = groups["mlp"](
                n, self.grid, beside_attention if self.au_stream else None
            )
            x = x + block.ls2(block.mlp(n)) + k
            given = beside_mlp if self.au_stream else None
            streams.append(beside_mlp)
        return net.norm(x), streams
