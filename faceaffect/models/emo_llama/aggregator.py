"""The clue aggregator: LLaMA-VID's token generation, a frame as one context token and its content.

Identity of EMO-LLaMA's "Q-Former-based clue aggregator" with it is inferred; the computation
follows LLaMA-VID's code.
"""

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import (
    InstructBlipQFormerConfig,
    InstructBlipQFormerModel,
    PreTrainedTokenizerBase,
)

from faceaffect.errors import RecipeError
from faceaffect.models.emo_llama.checkpoint import (
    Checkpoint,
    fill_part,
    find_checkpoint,
    read_config,
    read_tokenizer,
    shape_in,
)
from faceaffect.networks.backbones import grid_side, pool_grid


@dataclass(frozen=True)
class AggregatorOptions:
    """Settings of the clue aggregator.

    Args:
        content: how patches become content tokens: ``mean`` one, ``grid:G`` G x G by average
            pooling, ``none`` one a patch.
        queries: learned queries of the Q-Former. Absent, as many as the checkpoint has (published
            ones 32), without a checkpoint 8.
        qformer: a checkpoint to start from, such as ``Salesforce/instructblip-vicuna-7b`` or a
            local copy: its Q-Former, queries, tokenizer and the norm before them. Without one the
            Q-Former is random and reads the language model's tokens.
        pretrained: the hub may be asked for it.
        width: of the Q-Former, without a checkpoint; also the next four. Small by default, for
            the package's own weights; the published one has 768, 12, 12 and 3072.
        layers: of the Q-Former; every second one looks at the face.
        heads: of its attention.
        hidden: width of its MLPs.
        dropout: rate in the Q-Former, in [0, 1); 0.1 as published.
        max_text: tokens of a question that guide it; of a longer one the last.
    """

    content: str = "mean"
    queries: int | None = None
    qformer: str | None = None
    pretrained: bool = False
    width: int = 128
    layers: int = 2
    heads: int = 4
    hidden: int = 256
    dropout: float = 0.1
    max_text: int = 256


class ClueAggregator(nn.Module):
    """Turns the tokens of a frame and a question into tokens of the language model.

    Args:
        vision_width: channels C of the vision tokens.
        num_prefix_tokens: class and register tokens in front of the patches.
        llm_width: width D of the language model.
        options: settings.
        vocabulary: ids that questions have; of the checkpoint's tokenizer if there is one.
    """

    def __init__(
        self,
        vision_width: int,
        num_prefix_tokens: int,
        llm_width: int,
        options: AggregatorOptions,
        vocabulary: int,
    ) -> None:
        super().__init__()
        self.grid = grid_side(options.content, "model.aggregator.content", other="none")
        self.num_prefix_tokens = num_prefix_tokens
        config, checkpoint = _config(options, vision_width, vocabulary)
        self.qformer = InstructBlipQFormerModel(config)
        # So short: plain products are faster on a CPU than the fused kernel.
        self.qformer.set_attn_implementation("eager")
        number = _number_of_queries(options, checkpoint)
        self.queries = nn.Parameter(torch.empty(1, number, config.hidden_size))
        nn.init.normal_(self.queries, std=0.02)
        if checkpoint is not None:
            fill_part(self.qformer, checkpoint)
            self.source = {"kind": checkpoint.kind, "name": checkpoint.name}
            fill_part(_holding(query_tokens=self.queries), checkpoint)
        self.norm = nn.LayerNorm(vision_width)
        if checkpoint is not None:
            _fill_norm(self.norm, checkpoint)
        self.to_vision = nn.Linear(config.hidden_size, vision_width)
        self.key = nn.Linear(vision_width, vision_width)
        self.value = nn.Linear(vision_width, llm_width)
        self.projector = nn.Sequential(
            nn.Linear(vision_width, llm_width), nn.GELU(), nn.Linear(llm_width, llm_width)
        )

    def content(self, tokens: Tensor) -> Tensor:
        """Return the content tokens (N, K, D) of frames (N, prefix + P, C)."""
        patches = tokens[:, self.num_prefix_tokens :]
        if self.grid is not None:
            side = round(patches.shape[1] ** 0.5)
            patches = pool_grid(patches, (side, side), self.grid)
        return cast(Tensor, self.projector(patches))

    def context(self, tokens: Tensor, text: Tensor, text_mask: Tensor) -> Tensor:
        """Return the context token (N, 1, D) of frames, each guided by a question.

        Args:
            tokens: (N, prefix + P, C).
            text: (N, L) ids, padded on the right.
            text_mask: (N, L) bool.
        """
        queries = self.queries.expand(len(tokens), -1, -1)
        ahead = torch.ones(queries.shape[:2], dtype=text_mask.dtype, device=text_mask.device)
        answer = self.qformer(
            input_ids=text,
            attention_mask=torch.cat([ahead, text_mask], 1),
            query_embeds=queries,
            encoder_hidden_states=self.norm(tokens),
        )
        clues = self.to_vision(answer.last_hidden_state[:, : queries.shape[1]])
        patches = tokens[:, self.num_prefix_tokens :]
        # clues @ key(patches).mT, the weight multiplied with the few queries, not the many patches.
        scores = (clues @ self.key.weight) @ patches.mT + (clues @ self.key.bias)[..., None]
        # The mean over queries before the sum over patches: the same, at a 32nd of the cost.
        weight = (scores / patches.shape[-1] ** 0.5).softmax(-1).mean(1, keepdim=True)
        return cast(Tensor, self.value(weight @ patches))

    def tokens_per_frame(self, patches: int) -> int:
        """Return how many tokens a frame of so many patches becomes."""
        return 1 + (patches if self.grid is None else self.grid**2)


def text_tokenizer(options: AggregatorOptions) -> PreTrainedTokenizerBase | None:
    """Return the tokenizer of the Q-Former's checkpoint; None without a checkpoint."""
    checkpoint = _checkpoint(options)
    return None if checkpoint is None else read_tokenizer(checkpoint, "qformer_tokenizer")


def _checkpoint(options: AggregatorOptions) -> Checkpoint | None:
    if options.qformer is None:
        return None
    where = "model.aggregator.qformer"
    return find_checkpoint(
        options.qformer, pretrained=options.pretrained, revision=None, where=where
    )


def _config(
    options: AggregatorOptions, vision_width: int, vocabulary: int
) -> tuple[InstructBlipQFormerConfig, Checkpoint | None]:
    checkpoint = _checkpoint(options)
    if checkpoint is None:
        if options.width % options.heads:
            raise RecipeError("model.aggregator.width: is no multiple of heads")
        if not 0 <= options.dropout < 1:
            raise RecipeError(f"model.aggregator.dropout: {options.dropout} is not in [0, 1)")
        config = InstructBlipQFormerConfig(
            vocab_size=vocabulary,
            hidden_size=options.width,
            num_hidden_layers=options.layers,
            num_attention_heads=options.heads,
            intermediate_size=options.hidden,
            encoder_hidden_size=vision_width,
            max_position_embeddings=max(512, options.max_text),
            hidden_dropout_prob=options.dropout,
            attention_probs_dropout_prob=options.dropout,
        )
        return config, None
    whole: Any = read_config(checkpoint)
    config = getattr(whole, "qformer_config", whole)
    if config.encoder_hidden_size != vision_width:
        raise RecipeError(
            f"model.aggregator.qformer: made for vision tokens of {config.encoder_hidden_size} "
            f"channels, the tower gives {vision_width}"
        )
    return config, checkpoint


def _number_of_queries(options: AggregatorOptions, checkpoint: Checkpoint | None) -> int:
    if checkpoint is None:
        return 8 if options.queries is None else options.queries
    number = shape_in(checkpoint, "query_tokens")[-2]
    if options.queries not in (None, number):
        raise RecipeError(
            f"model.aggregator.queries: {options.queries}, but {checkpoint.location} has {number}; "
            "leave the key out"
        )
    return number


def _holding(**parts: nn.Module | nn.Parameter) -> nn.Module:
    """Return a module whose parts have the names that they have in a checkpoint."""
    holder = nn.Module()
    for name, part in parts.items():
        setattr(holder, name, part)
    return holder


def _fill_norm(norm: nn.LayerNorm, checkpoint: Checkpoint) -> None:
    """Take the norm that a Q-Former was trained behind: the vision model's last one.

    LAVIS calls it ``ln_vision``, LLaMA-VID ``vlm_att_ln``. A Q-Former on its own comes without one.
    """
    vision = getattr(read_config(checkpoint), "vision_config", None)
    if vision is None:
        return
    fill_part(_holding(post_layernorm=norm), checkpoint)
    norm.eps = vision.layer_norm_eps
