"""Small pictures of six marks, two of which always come together and hide from each other's sight.

Mark i is a blob at a place of its own. One of the pair is covered in 40 % of the pictures, every
other mark in 20 %, so that covers give nothing away; nothing but the labels ties the pair.
"""

import torch
from torch import Tensor, nn

from faceaffect.models.au_graph import make_graph
from faceaffect.models.sacl import SACLNetwork
from faceaffect.networks.losses import weighted_asymmetric_loss

MARKS, PAIR, SIZE = 6, (2, 5), 16
CHANNELS = (8, 16, 24)


def pictures(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return (n, 3, 16, 16) in [-1, 1] and labels (n, 6)."""
    g = torch.Generator().manual_seed(seed)
    label = (torch.rand(n, MARKS, generator=g) < 0.5).float()
    label[:, PAIR[1]] = label[:, PAIR[0]]
    step = SIZE / 3
    row, column = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
    y = (
        row[None] - torch.tensor([step * (k // 3 + 0.5) for k in range(MARKS)])[:, None, None]
    ).abs()
    x = (
        column[None] - torch.tensor([step * (k % 3 + 0.5) for k in range(MARKS)])[:, None, None]
    ).abs()
    blob = torch.exp(-(y**2 + x**2) / (2 * (step / 5) ** 2))
    cover = ((y < step / 2 - 0.5) & (x < step / 2 - 0.5)).float()
    image = 0.4 + 0.05 * torch.randn(n, SIZE, SIZE, generator=g)
    image += 0.1 * torch.randn(n, 1, 1, generator=g)
    strength = label * (0.3 + 0.4 * torch.rand(n, MARKS, generator=g))
    image += torch.einsum("bm,mhw->bhw", strength, blob)
    hidden = torch.rand(n, MARKS, generator=g) < 0.2
    draw = torch.rand(n, generator=g)
    hidden[:, PAIR[0]], hidden[:, PAIR[1]] = draw < 0.2, (draw >= 0.2) & (draw < 0.4)
    covered = torch.einsum("bm,mhw->bhw", hidden.float(), cover).clamp(max=1)
    image = image * (1 - covered) + 0.15 * covered
    return (2 * image.clamp(0, 1) - 1)[:, None].expand(-1, 3, -1, -1).contiguous(), label


class Marks(nn.Module):
    """Three strided convolutions and the graph network on the last two of their maps."""

    def __init__(self, graph: str = "self_adjusting", evidence_dropout: float = 0.3) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Conv2d(a, b, 3, 2, 1, bias=False), nn.BatchNorm2d(b), nn.ReLU())
            for a, b in zip((3, *CHANNELS), CHANNELS, strict=False)
        )
        graphs = [make_graph(graph, MARKS, 16, key_width=16, memory=stage > 0) for stage in (0, 1)]
        self.network = SACLNetwork(
            CHANNELS[-2:], graphs, MARKS, width=16, rank=8, msfl=True, gating=True, handover=True,
            stage_heads=True, evidence_dropout=evidence_dropout, head="linear",
        )  # fmt: skip

    def forward(self, image: Tensor) -> tuple:
        maps = []
        for layer in self.layers:
            image = layer(image)
            maps.append(image)
        return self.network(maps[-2:])


def train(model: Marks, seed: int, *, n: int = 2000, epochs: int = 6, lr: float = 5e-3) -> None:
    """Train with the AU losses alone; nothing tells the graph which edge is right."""
    image, label = pictures(n, 100 + seed)
    weights = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr, weight_decay=5e-4)
    steps = epochs * (n // 32)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps, pct_start=0.1)
    model.train()
    for _ in range(epochs):
        for part in torch.randperm(n)[: n // 32 * 32].view(-1, 32):
            out = model(image[part])
            loss = weighted_asymmetric_loss(out.logits, label[part])
            for logits in out.stage_logits:
                loss = loss + 0.5 * weighted_asymmetric_loss(logits, label[part])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()


@torch.no_grad()
def rank_of_pair(model: Marks, seed: int) -> int:
    """Return the place of the pair's edge among all 15, by the last stage's mean graph."""
    image, _ = pictures(600, 9000 + seed)
    graph = model.eval()(image).graphs.mean(0)[-1]
    both = graph + graph.T
    edges = both[tuple(torch.triu_indices(MARKS, MARKS, 1))]
    return 1 + int((edges > both[PAIR]).sum())
