"""Sparse graphs over nodes: estimated for every face, learned once, or given."""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from faceaffect.errors import RecipeError

Select = Literal["topk", "threshold"]
GraphKind = Literal["self_adjusting", "static", "fixed", "none"]


def sparse_graph(scores: Tensor, neighbours: int, select: Select = "topk") -> Tensor:
    """Turn edge scores into a sparse graph; gradients reach the scores of the edges kept.

    Args:
        scores: (..., N, N); row i scores what node i may receive from.
        neighbours: K, edges kept in each row besides the node's own; all if there are fewer.
        select: ``topk`` keeps the K best, ``threshold`` those not below their row's mean.

    Returns:
        (..., N, N), rows sum to 1; zero outside the kept edges and the diagonal.
    """
    own = torch.eye(scores.shape[-1], dtype=torch.bool, device=scores.device)
    if select == "topk":
        others = scores.masked_fill(own, -torch.inf)
        best = others.topk(min(neighbours, scores.shape[-1] - 1), dim=-1).indices
        kept = torch.zeros_like(scores, dtype=torch.bool).scatter(-1, best, True)
    else:
        kept = scores >= scores.mean(-1, keepdim=True)
    return scores.masked_fill(~(kept | own), -torch.inf).softmax(-1)


class SelfAdjustingGraph(nn.Module):
    """A sparse directed graph over nodes, estimated from their features and an earlier graph.

    Scores are cosines of a query of the receiving and a key of the sending node, over a learned
    temperature; a learned gate mixes them with the scores of the stage before. Permuting the nodes
    permutes the graph, and no parameter depends on their number.

    Args:
        width: channels of a node.
        key_width: channels of queries and keys.
        neighbours: see :func:`sparse_graph`.
        select: see :func:`sparse_graph`.
        memory: mix in the scores of the stage before; else what forward gets of them is ignored.
        temperature: at the start; never below 0.01.
    """

    def __init__(
        self,
        width: int,
        *,
        key_width: int = 64,
        neighbours: int = 4,
        select: Select = "topk",
        memory: bool = True,
        temperature: float = 0.1,
    ) -> None:
        super().__init__()
        self.neighbours, self.select = neighbours, select
        self.norm = nn.LayerNorm(width)
        self.query = nn.Linear(width, key_width, bias=False)
        self.key = nn.Linear(width, key_width, bias=False)
        self.log_scale = nn.Parameter(torch.tensor(-math.log(temperature)))
        # Absent where it would have no use: DDP waits for the gradient of every parameter.
        self.gate = nn.Parameter(torch.zeros(())) if memory else None

    def forward(self, nodes: Tensor, memory: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return the graph (B, N, N), see :func:`sparse_graph`, and its scores (B, N, N).

        Args:
            nodes: (B, N, width).
            memory: (B, N, N), the scores of the stage before; None at the first stage.
        """
        nodes = self.norm(nodes)
        query = F.normalize(self.query(nodes), dim=-1)
        key = F.normalize(self.key(nodes), dim=-1)
        scores = (query @ key.mT) * self.log_scale.exp().clamp(max=100.0)
        if memory is not None and self.gate is not None:
            scores = torch.lerp(memory, scores, self.gate.sigmoid().to(scores.dtype))
        return sparse_graph(scores, self.neighbours, self.select), scores


class StaticGraph(nn.Module):
    """A learned sparse graph that is the same for every face; the ablation's middle way.

    Args:
        nodes: N.
        neighbours: see :func:`sparse_graph`.
        select: see :func:`sparse_graph`.
    """

    def __init__(self, nodes: int, *, neighbours: int = 4, select: Select = "topk") -> None:
        super().__init__()
        self.neighbours, self.select = neighbours, select
        self.scores = nn.Parameter(0.1 * torch.randn(nodes, nodes))

    def forward(self, nodes: Tensor, memory: Tensor | None = None) -> tuple[Tensor, None]:
        """Return the graph (B, N, N) for B faces' nodes (B, N, width); there is no memory."""
        # Scaled as cosines over the starting temperature of SelfAdjustingGraph.
        graph = sparse_graph(10 * self.scores, self.neighbours, self.select)
        return graph.expand(nodes.shape[0], -1, -1), None


class FixedGraph(nn.Module):
    """A given graph.

    Args:
        adjacency: (N, N), not negative; rows are scaled to sum to 1.

    Raises:
        RecipeError: it is not square, an entry is negative, or a row is empty.
    """

    adjacency: Tensor

    def __init__(self, adjacency: Tensor) -> None:
        super().__init__()
        total = adjacency.sum(-1, keepdim=True)
        if adjacency.ndim != 2 or adjacency.shape[0] != adjacency.shape[1]:
            raise RecipeError(f"model.adjacency: not square: {tuple(adjacency.shape)}")
        if not (adjacency >= 0).all() or not (total > 0).all():
            raise RecipeError("model.adjacency: entries must be >= 0 and no row may be all zero")
        self.register_buffer("adjacency", adjacency / total)

    def forward(self, nodes: Tensor, memory: Tensor | None = None) -> tuple[Tensor, None]:
        """Return the graph (B, N, N) for B faces' nodes (B, N, width); there is no memory."""
        return self.adjacency.expand(nodes.shape[0], -1, -1), None


class GraphUpdate(nn.Module):
    """Adds to every node what it receives: H = ReLU(LN(A V W + V R)) + V.

    No gradient flows through a message into the node that sends it, so a node keeps to the
    evidence of its own AU, and an edge pays only where two AUs have to do with each other.

    Args:
        width: channels of a node.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.message = nn.Linear(width, width, bias=False)
        self.own = nn.Linear(width, width)
        # Over channels, not over nodes: nothing here belongs to one AU.
        self.norm = nn.LayerNorm(width)

    def forward(self, nodes: Tensor, graph: Tensor) -> Tensor:
        """Return (B, N, width) from nodes (B, N, width) and their graph (B, N, N)."""
        received = graph.to(nodes.dtype) @ self.message(nodes.detach())
        return F.relu(self.norm(received + self.own(nodes))) + nodes


def make_graph(
    kind: GraphKind,
    nodes: int,
    width: int,
    *,
    key_width: int = 64,
    neighbours: int | None = None,
    select: Select = "topk",
    memory: bool = True,
    adjacency: list[list[float]] | None = None,
) -> nn.Module:
    """Build the graph of one stage; the arguments are those of ``SACL``.

    Raises:
        RecipeError: an adjacency without ``fixed`` or the other way round, or of another size.
    """
    if (adjacency is not None) != (kind == "fixed"):
        raise RecipeError("model.adjacency: graph 'fixed' needs it, and it needs graph 'fixed'")
    # K = 4 for 12 AUs is ME-GraphAU's; a third of the nodes carries it over to other counts.
    k = max(1, round(nodes / 3)) if neighbours is None else neighbours
    if kind == "self_adjusting":
        return SelfAdjustingGraph(
            width, key_width=key_width, neighbours=k, select=select, memory=memory
        )
    if kind == "static":
        return StaticGraph(nodes, neighbours=k, select=select)
    if adjacency is None:
        return FixedGraph(torch.eye(nodes))
    if [len(row) for row in adjacency] != [nodes] * nodes:
        raise RecipeError(f"model.adjacency: {nodes} rows of {nodes} numbers are needed")
    return FixedGraph(torch.tensor(adjacency, dtype=torch.float32))
