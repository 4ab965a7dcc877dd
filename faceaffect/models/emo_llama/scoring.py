"""What the language model makes of packed rows: a loss, scores of options, or new text."""

from collections.abc import Sequence
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import GenerationConfig

from faceaffect.models.emo_llama.llm import LanguageModel
from faceaffect.models.emo_llama.packing import (
    Packed,
    Row,
    blocked,
    by_length,
    pack,
    slot_starts,
)


def answer_loss(
    llm: LanguageModel,
    rows: Sequence[Row],
    visual: Tensor,
    padding: Literal["left", "right"] = "left",
) -> Tensor:
    """Return the cross-entropy of the learned tokens of each row, (B,), weighted to a mean.

    Rows of different length go through the model apart, so that little is spent on padding; all at
    once where processes have to call the model equally often.

    Args:
        llm: the language model.
        rows: prompts with answers.
        visual: (V, D) visual tokens, slot after slot.
        padding: see :func:`~faceaffect.models.emo_llama.packing.pack`.
    """
    starts = slot_starts(rows)
    groups = [list(range(len(rows)))] if llm.sharded else by_length(rows)
    losses = [
        _answer_loss(llm, pack([rows[i] for i in group], visual.device, padding, starts), visual)
        for group in groups
    ]
    place = torch.tensor([i for group in groups for i in group], device=visual.device)
    return torch.cat(losses)[place.argsort()]


def _answer_loss(llm: LanguageModel, packed: Packed, visual: Tensor) -> Tensor:
    needed, place = distinct(packed.column)
    embeddings = packed.embed(llm.embed(packed.ids), visual)
    mask = packed.attention(embeddings.dtype)
    answer = llm(embeddings, mask, packed.position, logits_to_keep=needed)
    logits = answer.logits[packed.row, place].float()
    each = F.cross_entropy(logits, packed.said, reduction="none")
    total = each.new_zeros(len(packed.ids))
    return total.index_add(0, packed.row, each * packed.weight)


def score_options(
    llm: LanguageModel,
    rows: Sequence[Row],
    visual: Tensor,
    padding: Literal["left", "right"] = "left",
) -> Tensor:
    """Return the log-likelihood of every answer, summed over its learned tokens.

    The prompt is run once and its keys and values are kept; all answers of a row follow in one
    pass, blind to each other.

    Args:
        llm: the language model.
        rows: prompts, each with at least one answer.
        visual: (V, D) visual tokens, slot after slot.
        padding: of the prompts.

    Returns:
        (B, most answers of a row) float32; minus infinity where a row has fewer.
    """
    prompt = pack([Row(row.prefix) for row in rows], visual.device, padding)
    last, place = distinct(_last(prompt.known))
    embeddings = prompt.embed(llm.embed(prompt.ids), visual)
    first = llm(embeddings, prompt.known, prompt.position, logits_to_keep=last, keep=True)
    options = pack([Row([], row.branches) for row in rows], visual.device, "right")
    row = options.row
    logits = first.logits[row, place[row]].float()
    if options.ids.shape[1]:  # else every answer is one token, which the prompt's end predicts
        lengths = prompt.known.sum(1, keepdim=True)
        tokens = llm.embed(options.ids)
        mask = _after(prompt.known, options.branch, tokens.dtype)
        positions = (lengths + options.position) * options.known
        second = llm(tokens, mask, positions, cache=llm.cache_of(first))
        later = second.logits[row, options.column.clamp_min(0)].float()
        logits = torch.where((options.column < 0)[:, None], logits, later)
    each = -F.cross_entropy(logits, options.said, reduction="none")
    count = max(len(r.branches) for r in rows)
    scores = each.new_zeros(len(rows), count)
    scores.index_put_((row, options.answer - 1), each, accumulate=True)
    there = torch.tensor([[n < len(r.branches) for n in range(count)] for r in rows])
    return scores.masked_fill(~there.to(scores.device), -torch.inf)


def generate(
    llm: LanguageModel,
    rows: Sequence[Row],
    visual: Tensor,
    *,
    max_new_tokens: int,
    end: int,
    streamer: Any = None,
) -> list[list[int]]:
    """Return greedily generated ids for each prompt, end token and padding included.

    Args:
        llm: the language model.
        rows: prompts; their answers are passed over.
        visual: (V, D) visual tokens, slot after slot.
        max_new_tokens: at most so many.
        end: the token that ends an answer.
        streamer: of transformers, gets the ids as they come; for one prompt.
    """
    prompt = pack([Row(row.prefix) for row in rows], visual.device, "left")
    config = GenerationConfig(  # type: ignore[no-untyped-call]
        do_sample=False,
        num_beams=1,
        repetition_penalty=1.0,
        max_new_tokens=max_new_tokens,
        eos_token_id=end,
        pad_token_id=end,
    )
    llm.check_length(prompt.ids.shape[1] + max_new_tokens)
    ids = llm.net.generate(
        inputs_embeds=prompt.embed(llm.embed(prompt.ids), visual),
        attention_mask=prompt.known.long(),
        generation_config=config,
        streamer=streamer,
    )
    return cast(list[list[int]], ids.tolist())


def distinct(columns: Tensor) -> tuple[Tensor, Tensor]:
    """Return the sorted distinct columns and the place of each column among them."""
    return columns.unique(return_inverse=True)  # type: ignore[no-untyped-call, no-any-return]


def _last(known: Tensor) -> Tensor:
    """Return the last known column of each row."""
    return known.shape[1] - 1 - known.flip(1).int().argmax(1)


def _after(prompt: Tensor, branch: Tensor, dtype: torch.dtype) -> Tensor:
    """Return what answers see of the prompt (B, L) and of answers (B, M): (B, 1, M, L + M)."""
    order = torch.arange(branch.shape[1], device=branch.device)
    same = (branch[:, :, None] == branch[:, None, :]) & (order[:, None] >= order)
    ahead = prompt[:, None, :].expand(-1, branch.shape[1], -1)
    return blocked(torch.cat([ahead, same], 2), dtype)
