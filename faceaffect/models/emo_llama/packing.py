"""Prompts and answers as one batch of embeddings: a shared prefix, then answers side by side.

Each answer of a row sees the row's prefix and itself, never another answer, and takes its positions
from the end of the prefix. So twelve AUs are trained on, or scored, at the cost of one prompt.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor


@dataclass(frozen=True)
class Text:
    """Token ids, and whether the model learns to say them."""

    ids: tuple[int, ...]
    said: bool = False


@dataclass(frozen=True)
class Visual:
    """The place of a block of visual tokens, by its number in the batch, and its length."""

    slot: int
    length: int


Piece = Text | Visual


@dataclass
class Row:
    """One prompt and the answers to it.

    Attributes:
        prefix: the prompt; of a dialogue also its earlier answers.
        branches: answers, independent of each other; each a sequence of texts.
        weights: of each branch in the loss; empty for equal ones.
    """

    prefix: list[Piece]
    branches: list[list[Text]] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)

    @property
    def length(self) -> int:
        """Columns that the row takes: the prompt and all answers but their last tokens."""
        pieces = (p.length if isinstance(p, Visual) else len(p.ids) for p in self.prefix)
        answers = (sum(len(text.ids) for text in branch) for branch in self.branches)
        return sum(pieces) + sum(max(n - 1, 0) for n in answers)


@dataclass
class Packed:
    """Rows as tensors: what goes into the model, (B, L) each, and the T tokens that it has to say.

    The last token of an answer is only said: nothing follows that would have to see it.

    Attributes:
        ids: token ids; 0 where a visual token or padding stands.
        visual: index into all visual tokens of the batch, -1 elsewhere.
        branch: 0 for the prefix, n for the n-th answer, -1 for padding.
        position: place in the sequence that the token believes to stand in.
        row: (T,) row of a token to be said.
        column: (T,) column whose output predicts it; -1 for the first token of all.
        said: (T,) its id.
        answer: (T,) the answer that it belongs to, 0 for the prefix.
        weight: (T,) its weight in the loss.
    """

    ids: Tensor
    visual: Tensor
    branch: Tensor
    position: Tensor
    row: Tensor
    column: Tensor
    said: Tensor
    answer: Tensor
    weight: Tensor

    @property
    def known(self) -> Tensor:
        """(B, L) bool: not padding."""
        return self.branch >= 0

    def embed(self, text: Tensor, visual: Tensor) -> Tensor:
        """Return embeddings (B, L, D).

        Args:
            text: (B, L, D) embeddings of ``ids``.
            visual: (V, D) all visual tokens of the batch, slot after slot.
        """
        if not len(visual):
            return text
        there = (self.visual >= 0)[..., None]
        return torch.where(there, visual[self.visual.clamp_min(0)].to(text.dtype), text)

    def attention(self, dtype: torch.dtype) -> Tensor:
        """Return what attends to what.

        Returns:
            (B, L) bool where plain causal attention will do, else (B, 1, L, L) to be added to the
            scores.
        """
        if int(self.branch.max()) <= 1:
            return self.known
        length = self.branch.shape[1]
        order = torch.arange(length, device=self.branch.device)
        causal = order[:, None] >= order
        query, key = self.branch[:, :, None], self.branch[:, None, :]
        seen = causal & (key >= 0) & ((key == 0) | (key == query))
        return blocked(seen | torch.eye(length, dtype=torch.bool, device=seen.device), dtype)


def blocked(seen: Tensor, dtype: torch.dtype) -> Tensor:
    """Return (B, 1, L, L') added scores from (B, L, L') bool: 0 where seen, else very negative."""
    scores = torch.zeros(seen.shape, dtype=dtype, device=seen.device)
    return scores.masked_fill(~seen, torch.finfo(dtype).min)[:, None]


def pack(
    rows: Sequence[Row],
    device: torch.device,
    padding: Literal["left", "right"] = "left",
    starts: dict[int, int] | None = None,
) -> Packed:
    """Lay rows out as tensors.

    Each row's weights are scaled so that its learned tokens sum to 1: rows count alike, whatever
    their length.

    Args:
        rows: at least one.
        device: of the tensors.
        padding: where shorter prompts are filled up; the result of a model does not depend on it.
            ``left`` lets all answers begin in one column.
        starts: where the slots begin, if these are not all rows of the batch.
    """
    starts = slot_starts(rows) if starts is None else starts
    laid = [_lay(row, starts) for row in rows]
    ahead = [0] * len(rows)
    if padding == "left":
        prompts = [inputs["branch"].count(0) for inputs, _ in laid]
        ahead = [max(prompts) - prompt for prompt in prompts]
    length = max(a + len(inputs["ids"]) for a, (inputs, _) in zip(ahead, laid, strict=True))
    tensors = {}
    for name, empty in {"ids": 0, "visual": -1, "branch": -1, "position": 0}.items():
        table = [
            [empty] * a + inputs[name] + [empty] * (length - a - len(inputs[name]))
            for a, (inputs, _) in zip(ahead, laid, strict=True)
        ]
        tensors[name] = torch.tensor(table, device=device)
    for name in ("column", "said", "answer", "weight"):
        values = [value for _, learned in laid for value in learned[name]]
        dtype = torch.float32 if name == "weight" else torch.int64
        tensors[name] = torch.tensor(values, dtype=dtype, device=device)
    counts = torch.tensor([len(learned["said"]) for _, learned in laid], device=device)
    tensors["row"] = torch.repeat_interleave(torch.arange(len(rows), device=device), counts)
    tensors["column"] += torch.tensor(ahead, device=device)[tensors["row"]]
    return Packed(**tensors)


def by_length(rows: Sequence[Row]) -> list[list[int]]:
    """Return the indices of rows of similar length, group by group, the short ones first.

    A group is split, where the least padding is left, as long as that saves a tenth of its tokens.
    """
    length = [row.length for row in rows]
    return _split(sorted(range(len(rows)), key=length.__getitem__), length)


def _split(order: list[int], length: list[int]) -> list[list[int]]:
    longest, n = length[order[-1]], len(order)
    padded = [k * length[order[k - 1]] + (n - k) * longest for k in range(1, n + 1)]
    best = min(range(n), key=padded.__getitem__) + 1
    if padded[best - 1] > 0.9 * n * longest:
        return [order]
    return [*_split(order[:best], length), *_split(order[best:], length)]


def slot_starts(rows: Sequence[Row]) -> dict[int, int]:
    """Return where each slot's tokens begin among all visual tokens of the batch."""
    lengths = {p.slot: p.length for row in rows for p in row.prefix if isinstance(p, Visual)}
    starts, total = {}, 0
    for slot in sorted(lengths):
        starts[slot] = total
        total += lengths[slot]
    return starts


def _lay(row: Row, starts: dict[int, int]) -> tuple[dict[str, list[int]], dict[str, list[Any]]]:
    """Return the columns of one row, without padding, and the tokens that are learned."""
    inputs: dict[str, list[int]] = {name: [] for name in ("ids", "visual", "branch", "position")}
    learned: dict[str, list[Any]] = {name: [] for name in ("column", "said", "answer", "weight")}

    def put(ids: Sequence[int], visual: Sequence[int], branch: int, at: int) -> None:
        inputs["ids"] += ids
        inputs["visual"] += visual
        inputs["branch"] += [branch] * len(ids)
        inputs["position"] += range(at, at + len(ids))

    def learn(ids: Sequence[int], columns: Sequence[int], branch: int, weight: float) -> None:
        learned["said"] += ids
        learned["column"] += columns
        learned["answer"] += [branch] * len(ids)
        learned["weight"] += [weight] * len(ids)

    for piece in row.prefix:
        at = len(inputs["ids"])
        if isinstance(piece, Visual):
            start = starts[piece.slot]
            put([0] * piece.length, range(start, start + piece.length), 0, at)
        else:
            put(piece.ids, [-1] * len(piece.ids), 0, at)
            if piece.said:
                learn(piece.ids, range(at - 1, at - 1 + len(piece.ids)), 0, 1.0)
    prompt = len(inputs["ids"])
    for number, texts in enumerate(row.branches):
        ids = [i for text in texts for i in text.ids]
        first = len(inputs["ids"])
        before = [prompt - 1, *range(first, first + len(ids) - 1)]
        put(ids[:-1], [-1] * len(ids[:-1]), number + 1, prompt)
        weight, at = row.weights[number] if row.weights else 1.0, 0
        for text in texts:
            there = before[at : at + len(text.ids)]
            if text.said:
                learn(text.ids, there, number + 1, weight)
            at += len(text.ids)
    total = sum(learned["weight"])
    learned["weight"] = [w / total for w in learned["weight"]] if total else learned["weight"]
    return inputs, learned
