"""Prompts and answers as one batch of embeddings: a shared prefix, then answers side by side.

Each answer of a row sees the row's prefix and itself, never another answer, and takes its positions
from the end of the prefix. So twelve AUs are trained on, or scored, at the cost of one prompt.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

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
        """Tokens of the prompt and all answers."""
        texts = (text for branch in self.branches for text in branch)
        pieces = (p.length if isinstance(p, Visual) else len(p.ids) for p in self.prefix)
        return sum(pieces) + sum(len(text.ids) for text in texts)


@dataclass
class Packed:
    """Rows as tensors, (B, L) each.

    Attributes:
        ids: token ids; 0 where a visual token or padding stands.
        visual: index into all visual tokens of the batch, -1 elsewhere.
        branch: 0 for the prefix, n for the n-th answer, -1 for padding.
        position: place in the sequence that the token believes to stand in.
        before: column whose output predicts this token; -1 for the first token of all.
        weight: of the token in the loss; 0 for tokens that are not learned.
    """

    ids: Tensor
    visual: Tensor
    branch: Tensor
    position: Tensor
    before: Tensor
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
        prompts = [sum(1 for b in columns["branch"] if b == 0) for columns in laid]
        ahead = [max(prompts) - prompt for prompt in prompts]
    length = max(a + len(columns["ids"]) for a, columns in zip(ahead, laid, strict=True))
    blank = {"ids": 0, "visual": -1, "branch": -1, "position": 0, "before": 0, "weight": 0.0}
    tensors = {}
    for name, empty in blank.items():
        table = [
            [empty] * a + columns[name] + [empty] * (length - a - len(columns[name]))
            for a, columns in zip(ahead, laid, strict=True)
        ]
        tensors[name] = torch.tensor(table, device=device)
    tensors["before"] += torch.tensor(ahead, device=device)[:, None]
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


def _lay(row: Row, starts: dict[int, int]) -> dict[str, list[float]]:
    """Return the columns of one row, without padding."""
    columns: dict[str, list[float]] = {
        name: [] for name in ("ids", "visual", "branch", "position", "before", "weight")
    }

    def add(ids: Sequence[int], visual: Sequence[int], branch: int, at: int, weight: float) -> None:
        here = len(columns["ids"])
        n = len(ids)
        columns["ids"] += ids
        columns["visual"] += visual
        columns["branch"] += [branch] * n
        columns["position"] += range(at, at + n)
        columns["before"] += range(here - 1, here - 1 + n)
        columns["weight"] += [weight] * n

    for piece in row.prefix:
        at = len(columns["ids"])
        if isinstance(piece, Visual):
            start = starts[piece.slot]
            places = range(start, start + piece.length)
            add([0] * piece.length, list(places), 0, at, 0.0)
        else:
            add(piece.ids, [-1] * len(piece.ids), 0, at, float(piece.said))
    prompt = len(columns["ids"])
    for number, branch in enumerate(row.branches):
        weight = row.weights[number] if row.weights else 1.0
        at, first = prompt, len(columns["ids"])
        for text in branch:
            add(text.ids, [-1] * len(text.ids), number + 1, at, weight * text.said)
            at += len(text.ids)
        if first < len(columns["before"]):
            columns["before"][first] = prompt - 1
    total = sum(columns["weight"])
    columns["weight"] = [w / total for w in columns["weight"]] if total else columns["weight"]
    return columns
