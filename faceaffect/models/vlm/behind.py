"""Answers side by side behind one prompt, inside a vision-language model's own forward pass.

Each family makes embeddings, positions and masks of its prompt in its own way (positions in three
dimensions, pictures that see themselves both ways, features added to early layers). All of them end
in one call of a text decoder with ``inputs_embeds``. There the answers are laid behind the
prompt: each sees the prompt and itself, never another answer, and takes its positions from the
prompt's end.
"""

from collections.abc import Callable
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from faceaffect.models.emo_llama.packing import Packed, blocked


class Behind:
    """While entered, a decoder gets the answers behind every prompt that it is called with.

    Args:
        decoder: called with ``inputs_embeds``.
        embed: token ids to embeddings.
        answers: (B, M) answers, of rows without a prefix.
        known: (B, L) bool, the prompts without padding, which stands on their left.
    """

    def __init__(
        self,
        decoder: nn.Module,
        embed: Callable[[Tensor], Tensor],
        answers: Packed,
        known: Tensor,
    ) -> None:
        self.decoder, self.embed, self.answers, self.known = decoder, embed, answers, known

    def __enter__(self) -> "Behind":
        self._hook = self.decoder.register_forward_pre_hook(self._extend, with_kwargs=True)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._hook.remove()

    def _extend(
        self, decoder: nn.Module, args: tuple[Any, ...], given: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        embeddings = given["inputs_embeds"]
        prompt, more = self.known.shape, self.answers.ids.shape[1]
        own = {
            key: nn.functional.pad(value, (0, more))
            for key, value in given.items()
            if isinstance(value, Tensor) and value.shape == prompt and key != "attention_mask"
        }
        tokens = self.embed(self.answers.ids).to(embeddings.dtype)
        own |= {
            "inputs_embeds": torch.cat([embeddings, tokens], 1),
            "position_ids": self._positions(given.get("position_ids")),
            "attention_mask": self._masks(given.get("attention_mask"), embeddings.dtype),
        }
        return args, given | own

    def _positions(self, given: Tensor | None) -> Tensor:
        """Return (B, L + M) positions, or (K, B, L + M) where tokens have several."""
        batch, length = self.known.shape
        if given is None:
            given = (self.known.cumsum(-1) - 1).clamp_min(0)
        given = given.expand(*given.shape[:-2], batch, length)
        behind = given[..., -1:] + 1 + self.answers.position
        return torch.cat([given, behind], -1)

    def _masks(self, given: Any, dtype: torch.dtype) -> Any:
        if isinstance(given, dict):  # one for each kind of layer
            return {kind: self._mask(mask, dtype) for kind, mask in given.items()}
        return self._mask(given, dtype)

    def _mask(self, given: Tensor | None, dtype: torch.dtype) -> Tensor:
        """Return (B, 1, L + M, L + M) scores to be added."""
        batch, length = self.known.shape
        branch = self.answers.branch
        order = torch.arange(length + branch.shape[1], device=branch.device)
        ahead = self._seen(given, order[:length])
        same = (branch[:, :, None] == branch[:, None, :]) & (branch >= 0)[:, None, :]
        here = order[: branch.shape[1]]
        same &= here[:, None] >= here
        nothing = same.new_zeros(batch, length, branch.shape[1])
        prompt = self.known[:, None].expand(-1, branch.shape[1], -1)
        seen = torch.cat([torch.cat([ahead, nothing], 2), torch.cat([prompt, same], 2)], 1)
        # Padding sees itself, for a row of nothing would be undefined.
        return blocked(seen | (order[:, None] == order), dtype)

    def _seen(self, given: Tensor | None, order: Tensor) -> Tensor:
        """Return (B, L, L) bool: what of the prompt sees what of it, as the family wants it."""
        batch, length = self.known.shape
        if given is None or given.ndim == 2:
            return (order[:, None] >= order) & self.known[:, None]
        square = given.expand(batch, *given.shape[1:])[:, 0, :length, :length]
        return square if square.dtype == torch.bool else square >= 0
