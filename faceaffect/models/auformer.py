"""AUFormer: mixtures of knowledge experts beside the layers of a frozen ViT.

Yuan et al., ECCV 2024, arXiv 2403.04697. The block equations and the experts follow the authors'
pipeline figure; ``docs/models/auformer.md`` says what is read there, what is inferred and what is
our default.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from timm.layers import HybridEmbed
from timm.models.eva import Eva, EvaBlock
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from faceaffect.components import Options
from faceaffect.data.batch import FaceBatch
from faceaffect.errors import RecipeError
from faceaffect.models.moke import MoKEGroup, Stream
from faceaffect.module import AffectModule
from faceaffect.networks.backbones import Backbone, create_backbone, grid_side, pool_grid
from faceaffect.networks.heads import AUCriterion, Heads, TaskLosses, answers
from faceaffect.networks.losses import GammaMode, weighted_dice_loss
from faceaffect.optim import scaled_groups
from faceaffect.registry import as_node
from faceaffect.schema import LabelSchema

Position = Literal["attention", "mlp"]
POSITIONS: tuple[Position, ...] = ("attention", "mlp")


class ExpertViT(nn.Module):
    """A frozen ViT with a group of experts beside the attention and the MLP of its blocks.

    With ``n = LN(x)``: ``x + layer(n) + K``, where K is the mean over the group's experts and
    expert i takes ``n`` plus what expert i of the group before gave.

    Args:
        backbone: a timm ViT with its blocks one after another.
        make_group: builds one group from the ViT's width.
        positions: beside which layer of a block a group stands, or which layers.
        au_stream: whether each expert takes what the one before it gave.
        first_block: the blocks before this one have no experts.

    Raises:
        RecipeError: the backbone is no such ViT, there is no position or an unknown one, or no
            such block.
    """

    def __init__(
        self,
        backbone: Backbone,
        make_group: Callable[[int], MoKEGroup],
        positions: Position | Sequence[Position] = POSITIONS,
        au_stream: bool = True,
        first_block: int = 0,
    ) -> None:
        super().__init__()
        chosen: list[Any] = [positions] if isinstance(positions, str) else list(positions)
        if not chosen or any(position not in POSITIONS for position in chosen):
            raise RecipeError(
                f"model.positions: {positions!r}; choose from {', '.join(POSITIONS)}, or both"
            )
        net = backbone.net
        blocks = list(getattr(net, "blocks", []))
        if not isinstance(net, (VisionTransformer, Eva)) or not all(
            isinstance(block, (Block, EvaBlock)) for block in blocks
        ):
            raise RecipeError(
                "model.backbone: auformer needs a ViT whose blocks are attention, then MLP, each "
                f"after its norm (vit_*, deit_*, eva02_* of timm), not {type(net).__name__}"
            )
        if not 0 <= first_block < len(blocks):
            raise RecipeError(
                f"model.first_block: {first_block} is none of the blocks 0 to {len(blocks) - 1} of "
                f"{backbone.name}"
            )
        self.backbone, self.au_stream, self.first_block = backbone, au_stream, first_block
        self.grid = backbone.grid
        self.groups = nn.ModuleList(
            nn.ModuleDict({position: make_group(backbone.width) for position in chosen})
            for _ in blocks[first_block:]
        )

    def forward(self, image: Tensor) -> tuple[Tensor, list[Stream]]:
        """Return all tokens after the last norm, (B, T, C), and the streams.

        A stream leaves each block that has experts.

        Args:
            image: (B, 3, H, W), normalised.
        """
        return self.after(*self._before(image))

    def before(self, image: Tensor) -> Tensor | None:
        """Return the tokens before the first block with experts, (B, T, C).

        None where they cost more to keep than to make, of patches that one linear layer cuts, and
        where the blocks want to know the tokens' places as well.
        """
        net = self.backbone.net
        cheap = not self.first_block and not isinstance(net.patch_embed, HybridEmbed)
        return None if cheap or isinstance(net, Eva) else self._before(image)[0]

    def after(
        self, tokens: Tensor, ropes: list[Tensor | None] | None = None
    ) -> tuple[Tensor, list[Stream]]:
        """Return what :meth:`forward` does, of the tokens before the first block with experts."""
        net = self.backbone.net
        blocks = net.blocks[self.first_block :]
        x, ropes = tokens, ropes or [None] * len(blocks)
        stream: Stream | None = None
        streams: list[Stream] = []
        for block, groups, rope in zip(blocks, self.groups, ropes, strict=True):
            if net.grad_checkpointing and self.training:
                x, left = checkpoint(
                    self._block, block, groups, x, rope, stream, use_reentrant=False
                )
            else:
                x, left = self._block(block, groups, x, rope, stream)
            stream = left if self.au_stream else None
            streams.append(left)
        return net.norm(x), streams

    def _before(self, image: Tensor) -> tuple[Tensor, list[Tensor | None]]:
        x, ropes = self._embed(image)
        first = self.first_block
        for block, rope in zip(self.backbone.net.blocks[:first], ropes[:first], strict=True):
            x = block(x) if rope is None else block(x, rope=rope)
        return x, ropes[first:]

    def _block(
        self,
        block: Any,
        groups: Any,
        x: Tensor,
        rope: Tensor | None,
        stream: Stream | None,
    ) -> tuple[Tensor, Stream]:
        """Return the tokens after a block and the stream that leaves its last group."""
        for position in POSITIONS:
            n, out = _layer(block, position, x, rope)
            x = x + out
            if position in groups:
                term, left = groups[position](n, self.grid, stream)
                x = x + term
                stream = left if self.au_stream else None
        return x, left

    def _embed(self, image: Tensor) -> tuple[Tensor, list[Tensor | None]]:
        """Return the tokens before the first block and each block's rotary embedding, if any."""
        net = self.backbone.net
        x = net._pos_embed(net.patch_embed(image))
        ropes: list[Tensor | None] = [None] * len(net.blocks)
        if isinstance(net, Eva):
            x, rope = x
            ropes = list(rope) if getattr(net, "rope_mixed", False) else [rope] * len(net.blocks)
        return net.norm_pre(x), ropes


def _layer(block: Any, position: Position, x: Tensor, rope: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return the normed input of a frozen layer and what the layer adds to the residual."""
    plain = isinstance(block, Block)
    if position == "attention":
        n = block.norm1(x)
        out = block.attn(n) if plain else block.attn(n, rope=rope)
        scale = block.ls1 if plain else block.gamma_1
    else:
        n = block.norm2(x)
        out = block.mlp(n)
        scale = block.ls2 if plain else block.gamma_2
    if plain:
        return n, scale(out)
    return n, out if scale is None else scale * out


class AUFormer(AffectModule):
    """AUFormer: only experts and heads are trained, one expert of every group per action unit.

    Expression and VA, where the schema has them, get a linear head beside the AU head. Without AUs
    there is one expert per expression class (ours).

    Args:
        schema: AUs, or expression classes, are needed.
        backbone: a timm ViT, by name or with the options of ``create_backbone``; always frozen.
        expert_width: h, channels inside an expert, at least 1 (inferred: at most 16).
        mrf: the multi-receptive-field operator in every expert.
        ca: the context-aware operator in every expert.
        ca_scope: what CA attends to: a ``local`` window or the ``global`` grid.
        ca_window: edge of the local window in patches, odd.
        au_stream: each expert takes what the expert of the same AU before it gave.
        positions: beside which layers experts stand, ``attention``, ``mlp`` or a list of both.
        first_block: the blocks before this one, counted from 0, have no experts (ours): what they
            make of a face is computed once where images are not augmented, but for ViTs whose
            blocks want to know the places of the tokens (``eva02_*``).
        shared_experts: one expert per group that serves all AUs, instead of one per AU.
        cls_mode: ``none`` gives the class token no expert term, ``convpass`` sends it through the
            experts as a map of one position.
        dropout: rate inside the experts, before the up-projection, in [0, 1).
        readout: what the heads see: ``pooled``, the ViT's own pooling (the class token, where it
            uses one), ``mean`` of the patch tokens, or ``grid:G``, their means over G x G cells.
        aux_loss: weight of the auxiliary losses on the AU streams, 0 for none.
        aux_layers: whether the stream is supervised after the ``last`` block or after ``all``.
        dice_loss: weight of the weighted Dice (WDI) loss, 0 for none.
        au_loss: of the head and of the streams: ``mdwa``, ``wa`` (weighted asymmetric, ME-GraphAU)
            or ``bce``.
        class_weights: weigh AUs by their rarity in the training part, in all these losses.
        margin: m of the MDWA loss, in [0, 1).
        gamma_mode: exponents of the MDWA loss by AU rate, see ``mdwa_gamma``.
        gamma_low: smallest exponent, at least 1.
        gamma_high: largest exponent, at least ``gamma_low``.
        head_lr: learning rate of the heads relative to that of the experts, at least 0.

    Raises:
        RecipeError: no AUs and no expressions, an unfrozen or unfit backbone, a value out of range.
    """

    def __init__(
        self,
        schema: LabelSchema | dict[str, Any],
        *,
        backbone: Annotated[
            str | dict[str, Any], Options(create_backbone)
        ] = "vit_base_patch16_224.augreg_in21k",
        expert_width: int = 8,
        mrf: bool = True,
        ca: bool = True,
        ca_scope: Literal["local", "global"] = "local",
        ca_window: int = 3,
        au_stream: bool = True,
        positions: Position | Sequence[Position] = POSITIONS,
        first_block: int = 0,
        shared_experts: bool = False,
        cls_mode: Literal["none", "convpass"] = "none",
        dropout: float = 0.1,
        readout: str = "pooled",
        aux_loss: float = 1.0,
        aux_layers: Literal["last", "all"] = "last",
        dice_loss: float = 1.0,
        au_loss: Literal["mdwa", "wa", "bce"] = "mdwa",
        class_weights: bool = True,
        margin: float = 0.05,
        gamma_mode: GammaMode = "decreasing",
        gamma_low: float = 1.0,
        gamma_high: float = 2.0,
        head_lr: float = 1.0,
    ) -> None:
        super().__init__(schema)
        names = self.schema.au_names or self.schema.expressions
        if not names:
            raise RecipeError("auformer needs AUs or expression classes, one expert for each")
        for key, value, fits, rule in (
            ("expert_width", expert_width, expert_width >= 1, "is not positive"),
            ("ca_window", ca_window, ca_window > 0 and ca_window % 2, "is not odd and positive"),
            ("dropout", dropout, 0 <= dropout < 1, "is not in [0, 1)"),
            ("aux_loss", aux_loss, aux_loss >= 0, "is negative"),
            ("dice_loss", dice_loss, dice_loss >= 0, "is negative"),
            ("margin", margin, 0 <= margin < 1, "is not in [0, 1)"),
            ("gamma_low", gamma_low, gamma_low >= 1, "is below 1"),
            ("gamma_high", gamma_high, gamma_high >= gamma_low, f"is below gamma_low, {gamma_low}"),
            ("head_lr", head_lr, head_lr >= 0, "is negative"),
        ):
            if not fits:
                raise RecipeError(f"model.{key}: {value} {rule}")
        self.side = grid_side(readout, "model.readout", other="pooled")
        self.aux_loss, self.dice_loss, self.head_lr = aux_loss, dice_loss, head_lr
        self.vit = ExpertViT(
            _frozen_backbone(backbone),
            partial(
                MoKEGroup,
                experts=1 if shared_experts else len(names),
                expert_width=expert_width,
                mrf=mrf,
                ca=ca,
                ca_scope=ca_scope,
                ca_window=ca_window,
                cls_mode=cls_mode,
                dropout=dropout,
            ),
            positions,
            au_stream,
            first_block,
        )
        width, depth = self.vit.backbone.width, len(self.vit.groups)
        self.heads = Heads(self.schema, width * (self.side or 1) ** 2)
        supervised = 0 if not aux_loss else depth if aux_layers == "all" else 1
        self.aux_heads = nn.ModuleList(AUHeads(width, len(names)) for _ in range(supervised))
        self.criterion = AUCriterion(
            len(names),
            au_loss,
            weighted=class_weights,
            margin=margin,
            gamma_mode=gamma_mode,
            gamma_low=gamma_low,
            gamma_high=gamma_high,
        )
        self.losses = TaskLosses(self.schema, au_loss=self.criterion)

    def prepare(self, statistics: dict[str, Any]) -> None:
        """Set class weights and MDWA exponents from the rates in the training part."""
        super().prepare(statistics)
        self.losses.prepare(statistics)
        if not self.schema.aus:  # the experts are of expression classes
            counts = statistics["expression_count"]
            total = max(sum(counts.values()), 1)
            self.criterion.prepare([counts[name] / total for name in self.schema.expressions])

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return what is trained; the heads have a learning rate of their own."""
        factor = {id(p): self.head_lr for p in self.heads.parameters()}
        return scaled_groups(super().parameter_groups(), self.optim.lr, factor)

    def frozen_features(self, batch: FaceBatch) -> dict[str, Tensor] | None:
        """Return the tokens before the first block with experts, if they are worth keeping."""
        tokens = self.vit.before(self.vit.backbone.normalise(batch["image"]))
        return None if tokens is None else {"tokens": tokens}

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Return the logits of each task from uint8 faces (B, 3, H, W)."""
        return self.look(image)[0]

    def look(self, image: Tensor) -> tuple[dict[str, Tensor], list[Stream]]:
        """Return the logits of each task, and the stream that leaves each block."""
        return self._answer(*self.vit(self.vit.backbone.normalise(image)))

    def _look(self, batch: FaceBatch) -> tuple[dict[str, Tensor], list[Stream]]:
        if "features" in batch:
            return self._answer(*self.vit.after(batch["features"]["tokens"]))
        return self.look(batch["image"])

    def _answer(
        self, tokens: Tensor, streams: list[Stream]
    ) -> tuple[dict[str, Tensor], list[Stream]]:
        backbone = self.vit.backbone
        if self.side is None:
            features = backbone.net.forward_head(tokens, pre_logits=True)
        else:
            patches = tokens[:, backbone.num_prefix_tokens :]
            features = pool_grid(patches, self.vit.grid, self.side).flatten(1)
        return self.heads(features), streams

    def loss(self, batch: FaceBatch) -> Tensor:
        """Return AU loss + WDI + ``aux_loss`` x that of the streams, cross-entropy and 1 - CCC."""
        out, streams = self._look(batch)
        total: Tensor = self.losses(out, batch)
        if "au" in out and self.dice_loss:
            dice = weighted_dice_loss(out["au"], batch["au"], weight=self.criterion.weight)
            total = total + self.dice_loss * dice
        if len(self.aux_heads):
            classes = len(self.schema.expressions)
            target = batch["au"] if "au" in out else _one_of(batch["expression"], classes)
            height, width = self.vit.grid
            last = streams[-len(self.aux_heads) :]
            aux = [
                self.criterion(head(stream.pooled(height * width)), target)
                for head, stream in zip(self.aux_heads, last, strict=True)
            ]
            total = total + self.aux_loss * torch.stack(aux).mean()
        return total

    def predict(self, batch: FaceBatch) -> dict[str, Tensor]:
        """Return AU and expression probabilities, valence and arousal in [-1, 1]."""
        return answers(self._look(batch)[0])


class AUHeads(nn.Module):
    """One logit from each AU's own stream.

    No layer norm stands before it: over streams that start at zero it would multiply gradients by
    300 to 1000.

    Args:
        width: C of the ViT.
        outputs: number of AUs.
    """

    def __init__(self, width: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, width))
        self.bias = nn.Parameter(torch.zeros(outputs))
        nn.init.kaiming_uniform_(self.weight, a=5**0.5)  # as nn.Linear

    def forward(self, streams: Tensor) -> Tensor:
        """Return (B, N) logits from (B, N, C), or from (B, 1, C) where all AUs share an expert."""
        return (streams * self.weight).sum(2) + self.bias


def _frozen_backbone(node: str | dict[str, Any]) -> Backbone:
    options = as_node(node)
    if options.setdefault("frozen", True) is not True:
        raise RecipeError("model.backbone.frozen: auformer trains experts beside a frozen ViT")
    return create_backbone(**options)


def _one_of(index: Tensor, classes: int) -> Tensor:
    """Return one-hot float rows; unknown (-1) gives a row of NaN."""
    rows = F.one_hot(index.clamp(min=0), classes).float()
    return rows.masked_fill((index < 0)[:, None], float("nan"))
