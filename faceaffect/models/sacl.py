"""SACL-style network: multi-scale features and self-adjusting graphs of action units.

In the spirit of Liu et al., IEEE TAFFC 2024, arXiv 2308.07770. Published are the idea (sparse
graphs with one scalar per edge, re-estimated at every stage of the network from AU-motion and
emotion features; simple multi-scale features that help) and the cost; the layers below are our
design. ``docs/models/sacl.md`` tells the two apart.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from faceaffect.components import Options
from faceaffect.data.batch import FaceBatch
from faceaffect.errors import RecipeError
from faceaffect.models.au_graph import GraphKind, GraphUpdate, Select, make_graph
from faceaffect.module import AffectModule
from faceaffect.networks.backbones import create_backbone
from faceaffect.networks.heads import AULoss, Heads, TaskLosses, answers
from faceaffect.networks.losses import weighted_dice_loss
from faceaffect.registry import as_node
from faceaffect.schema import LabelSchema


class MultiScale(nn.Module):
    """MSFL: a map at one width, plus what three dilated depthwise convolutions see around it.

    Args:
        channels: of the input.
        width: of the output.
        dilations: of the branches; none gives the plain projection.
    """

    def __init__(self, channels: int, width: int, dilations: Sequence[int]) -> None:
        super().__init__()
        self.project = nn.Conv2d(channels, width, 1, bias=False)
        self.branches = nn.ModuleList(
            nn.Conv2d(width, width, 3, padding=r, dilation=r, groups=width, bias=False)
            for r in dilations
        )
        self.fuse = nn.Conv2d(len(dilations) * width, width, 1, bias=False) if dilations else None
        self.norm = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, width, H, W) from (B, channels, H, W)."""
        x = self.project(x)
        if self.fuse is not None:
            x = x + self.fuse(torch.cat([branch(x) for branch in self.branches], 1))
        return F.relu(self.norm(x))


class NodeFeatures(nn.Module):
    """One vector per node from a shared map: the mean over ReLU(BN(A_i x)), then a BN per node.

    The second norm brings out how a node differs from its own average: without it the means of
    ReLU maps are nearly the same for every face and every node.

    Args:
        nodes: N.
        width: channels of the map and of a node.
        rank: r of A_i = A + U_i W_i, A shared; None gives every node a full A_i.
    """

    def __init__(self, nodes: int, width: int, rank: int | None) -> None:
        super().__init__()
        self.nodes = nodes
        self.shared = nn.Conv2d(width, width, 1, bias=False) if rank else None
        self.down = nn.Conv2d(width, nodes * rank, 1, bias=False) if rank else nn.Identity()
        self.up = (
            nn.Conv2d(nodes * rank, nodes * width, 1, groups=nodes, bias=False)
            if rank
            else nn.Conv2d(width, nodes * width, 1, bias=False)
        )
        self.map_norm = nn.BatchNorm2d(nodes * width)
        self.norm = nn.BatchNorm1d(nodes * width)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, N, width) from (B, width, H, W)."""
        maps = self.up(self.down(x)).unflatten(1, (self.nodes, -1))
        if self.shared is not None:
            maps += self.shared(x).unsqueeze(1)  # in place, as the ReLU: these maps are large
        vectors = F.relu(self.map_norm(maps.flatten(1, 2)), inplace=True).mean((2, 3))
        return self.norm(vectors).unflatten(1, (self.nodes, -1))  # type: ignore[no-any-return]


class NodeHead(nn.Module):
    """One logit per node.

    Args:
        nodes: N.
        width: channels of a node.
        kind: ``linear``, or ``cosine``: the probability is the cosine of the rectified node and a
            rectified prototype (the head of ME-GraphAU).
    """

    def __init__(self, nodes: int, width: int, kind: Literal["linear", "cosine"]) -> None:
        super().__init__()
        self.kind = kind
        self.weight = nn.Parameter(torch.randn(nodes, width) / math.sqrt(width))
        self.bias = nn.Parameter(torch.zeros(nodes)) if kind == "linear" else None

    def forward(self, nodes: Tensor) -> Tensor:
        """Return (B, N) from (B, N, width)."""
        if self.bias is not None:
            return (nodes * self.weight).sum(-1) + self.bias
        cosine = F.cosine_similarity(F.relu(nodes).float(), F.relu(self.weight).float(), dim=-1)
        return torch.logit(cosine, eps=1e-4)


class SACLOutput(NamedTuple):
    """What the network gives for B faces, N nodes and S stages.

    Attributes:
        logits: (B, N).
        stage_logits: S tensors (B, N), each from one stage alone; none without stage heads.
        pooled: (B, 2 * width), for tasks that belong to no node.
        graphs: (B, S, N, N), rows sum to 1.
    """

    logits: Tensor
    stage_logits: list[Tensor]
    pooled: Tensor
    graphs: Tensor


class SACLNetwork(nn.Module):
    """What stands on a feature pyramid, for nodes of any kind; see :class:`SACL` for the options.

    Args:
        channels: of each map of the pyramid, from shallow to deep.
        graphs: one graph module per map.
        nodes: N.
        width: channels of maps and nodes.
        rank: see :class:`NodeFeatures`.
        msfl: multi-scale features.
        gating: the deepest map's mean gates the nodes that the graphs are made from.
        handover: updated nodes go to the next stage.
        stage_heads: logits of every stage by itself.
        evidence_dropout: see :class:`SACL`.
        head: see :class:`NodeHead`.
    """

    def __init__(
        self,
        channels: Sequence[int],
        graphs: Sequence[nn.Module],
        nodes: int,
        *,
        width: int,
        rank: int | None,
        msfl: bool,
        gating: bool,
        handover: bool,
        stage_heads: bool,
        evidence_dropout: float,
        head: Literal["linear", "cosine"],
    ) -> None:
        super().__init__()
        last = len(channels) - 1
        self.evidence_dropout = evidence_dropout
        self.graphs = nn.ModuleList(graphs)
        # The deepest map is small: dilation 5 would see mostly padding.
        dilations = [*[(1, 3, 5)] * last, (1, 2, 3)]
        self.scales = nn.ModuleList(
            MultiScale(c, width, d if msfl else ())
            for c, d in zip(channels, dilations, strict=True)
        )
        self.features = nn.ModuleList(NodeFeatures(nodes, width, rank) for _ in channels)
        self.emotion = nn.ModuleList(nn.Linear(width, width) for _ in channels) if gating else None
        self.updates = nn.ModuleList(GraphUpdate(width) for _ in channels)
        self.handovers = nn.ModuleList(
            nn.Linear(width, width, bias=False) for _ in range(last if handover else 0)
        )
        for layer in self.handovers:
            nn.init.zeros_(layer.weight)  # type: ignore[arg-type]
        self.stage_heads = nn.ModuleList(
            NodeHead(nodes, width, head) for _ in channels if stage_heads
        )
        self.mix = nn.Sequential(nn.Linear(len(channels) * width, width), nn.LayerNorm(width))
        self.head = NodeHead(nodes, width, head)

    def forward(self, pyramid: Sequence[Tensor]) -> SACLOutput:
        """Return logits and graphs from maps (B, C_s, H_s, W_s), shallow to deep."""
        maps = [scale(x) for scale, x in zip(self.scales, pyramid, strict=True)]
        emotion = maps[-1].mean((2, 3))
        seen = self._seen(emotion)
        memory: Tensor | None = None
        updated: list[Tensor] = []
        graphs: list[Tensor] = []
        for stage, x in enumerate(maps):
            nodes = self.features[stage](x)
            if stage and len(self.handovers):
                nodes = nodes + self.handovers[stage - 1](updated[-1])
            cues = nodes
            if self.emotion is not None:
                cues = nodes * self.emotion[stage](emotion).sigmoid().unsqueeze(1)
            graph, memory = self.graphs[stage](cues, memory)
            updated.append(self.updates[stage](nodes if seen is None else nodes * seen, graph))
            graphs.append(graph)
        mixed = self.mix(torch.cat(updated, -1))
        return SACLOutput(
            self.head(mixed),
            [head(h) for head, h in zip(self.stage_heads, updated, strict=False)],
            torch.cat([emotion, mixed.mean(1)], -1),
            torch.stack(graphs, 1),
        )

    def _seen(self, emotion: Tensor) -> Tensor | None:
        """Draw which nodes keep their own evidence, (B, N, 1) in {0, 1}; None: all do."""
        if not self.training or not self.evidence_dropout:
            return None
        draw = torch.rand(len(emotion), len(self.head.weight), 1, device=emotion.device)
        return (draw >= self.evidence_dropout).to(emotion.dtype)


class SACL(AffectModule):
    """SACL-style: AU graphs that re-adjust at every stage, on multi-scale features.

    Expression and VA, where the schema has them, get a linear head on the deepest map's mean and
    the nodes' mean. Without AUs there is one node per expression class (ours).

    Args:
        schema: AUs, or expression classes, are needed.
        backbone: any timm network, by name or with the options of ``create_backbone``.
        stages: maps of the backbone's pyramid that are used, counted from the deepest.
        width: d, channels of maps and nodes.
        key_width: channels in which the graph compares nodes.
        neighbours: K, edges a node keeps besides its own; None: a third of the nodes.
        graph: ``self_adjusting``, ``static`` (learned, the same for every face), ``fixed``
            (``adjacency``) or ``none`` (every node sees itself alone).
        adjacency: rows of the fixed graph, e.g. co-occurrence rates; scaled to sum to 1.
        select: how a row's edges are chosen, the K best or those not below the row's mean.
        memory: ``ema`` mixes a stage's scores with those of the stage before, ``none`` does not.
        msfl: multi-scale features.
        gating: the deepest map gates the node features that self-adjusting graphs are made from.
        handover: the updated nodes of a stage are added to those of the next.
        afg: node features by a ``full`` projection per node, or a shared one plus a ``lowrank``.
        rank: of the low-rank part.
        evidence_dropout: share of the nodes whose own features are hidden while training, so that
            they have to be told from their neighbours', in [0, 1).
        head: ``linear``, or ``cosine`` as ME-GraphAU.
        au_loss: see :class:`faceaffect.networks.heads.TaskLosses`.
        class_weights: weigh AUs and expression classes by their rarity in the training part.
        dice_loss: weight of the weighted Dice loss, 0 for none.
        aux_loss: weight of the losses of the stages, each by itself, summed over them; 0 for none.

    Raises:
        RecipeError: no AUs and no expressions, or a value out of range.
    """

    def __init__(
        self,
        schema: LabelSchema | dict[str, Any],
        *,
        backbone: Annotated[str | dict[str, Any], Options(create_backbone)] = "resnet18",
        stages: int = 3,
        width: int = 256,
        key_width: int = 64,
        neighbours: int | None = None,
        graph: GraphKind = "self_adjusting",
        adjacency: list[list[float]] | None = None,
        select: Select = "topk",
        memory: Literal["ema", "none"] = "ema",
        msfl: bool = True,
        gating: bool = True,
        handover: bool = True,
        afg: Literal["full", "lowrank"] = "lowrank",
        rank: int = 32,
        evidence_dropout: float = 0.2,
        head: Literal["linear", "cosine"] = "linear",
        au_loss: AULoss = "wa",
        class_weights: bool = True,
        dice_loss: float = 1.0,
        aux_loss: float = 0.5,
    ) -> None:
        super().__init__(schema)
        self.nodes = self.schema.au_names or self.schema.expressions
        if not self.nodes:
            raise RecipeError("sacl needs AUs or expression classes, one node for each")
        if neighbours is not None and neighbours < 1:
            raise RecipeError(f"model.neighbours: {neighbours} is not positive")
        if not 0 <= evidence_dropout < 1:
            raise RecipeError(f"model.evidence_dropout: {evidence_dropout} is not in [0, 1)")
        self.node_task = "au" if self.schema.aus else "expression"
        self.dice_loss, self.aux_loss = dice_loss, aux_loss
        self.backbone = create_backbone(**as_node(backbone))
        self.network = SACLNetwork(
            self.backbone.channels(stages),
            [
                make_graph(
                    graph,
                    len(self.nodes),
                    width,
                    key_width=key_width,
                    neighbours=neighbours,
                    select=select,
                    memory=memory == "ema" and stage > 0,
                    adjacency=adjacency,
                )
                for stage in range(stages)
            ],
            len(self.nodes),
            width=width,
            rank=rank if afg == "lowrank" else None,
            msfl=msfl,
            gating=gating and graph == "self_adjusting",
            handover=handover,
            stage_heads=aux_loss > 0,
            evidence_dropout=evidence_dropout,
            head=head,
        )
        self.heads = Heads(_without_nodes(self.schema), 2 * width)
        self.losses = TaskLosses(self.schema, au_loss=au_loss, class_weights=class_weights)

    def prepare(self, statistics: dict[str, Any]) -> None:
        """Take the loss weights from the training part's statistics."""
        super().prepare(statistics)
        self.losses.prepare(statistics)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Return the logits of each task from uint8 faces (B, 3, H, W)."""
        return self._logits(self.look(image))

    def look(self, image: Tensor) -> SACLOutput:
        """Return node logits and graphs of uint8 faces (B, 3, H, W)."""
        pyramid = self.backbone.pyramid(self.backbone.normalise(image), len(self.network.scales))
        return self.network(pyramid)  # type: ignore[no-any-return]

    def loss(self, batch: FaceBatch) -> Tensor:
        """Return the tasks' losses, the Dice loss of the AUs and those of single stages."""
        out = self.look(batch["image"])
        total: Tensor = self.losses(self._logits(out), batch)
        if self.dice_loss and self.schema.aus:
            dice = weighted_dice_loss(out.logits, batch["au"], weight=self.losses.au.weight)
            total = total + self.dice_loss * dice
        for logits in out.stage_logits:
            total = total + self.aux_loss * self.losses({self.node_task: logits}, batch)
        return total

    def predict(self, batch: FaceBatch) -> dict[str, Tensor]:
        """Return AU and expression probabilities, valence and arousal in [-1, 1]."""
        return answers(self(batch["image"]))

    def graphs(self, batch: FaceBatch) -> Tensor:
        """Return the graph of every stage, (B, S, N, N), nodes in the order of ``self.nodes``.

        Entry (i, j) is the weight with which node i receives from node j; rows sum to 1.
        """
        return self.look(batch["image"]).graphs.float()

    def _logits(self, out: SACLOutput) -> dict[str, Tensor]:
        logits = {self.node_task: out.logits, **self.heads(out.pooled)}
        return {task: logits[task] for task in self.schema.tasks}


def _without_nodes(schema: LabelSchema) -> LabelSchema:
    """Return the tasks that no node answers."""
    expressions = schema.expressions if schema.aus else ()
    return replace(schema, aus=(), expressions=expressions)
