"""What is left of visual tokens that leave a language model early, and what that saves."""

from typing import Any

import torch
from torch import Tensor


class Tally:
    """Counts what is left of the visual tokens in each layer, and what is computed.

    Args:
        depth: layers of the language model.
        weights: of the matrices of a layer.
        width: of all heads of a layer together.

    Attributes:
        sums: visual tokens of each layer, visual tokens, operations, operations without an exit,
            prompts; float64, for adding up over processes.
    """

    def __init__(self, depth: int, weights: float, width: int) -> None:
        self.depth, self.weights, self.width = depth, weights, width
        self.sums = torch.zeros(depth + 4, dtype=torch.float64)

    def add(self, seen: Tensor, known: Tensor, layers: Tensor) -> None:
        """Add prompts; those without pictures do not count.

        Args:
            seen: (B, L) bool, visual tokens.
            known: (B, L) bool, what is not padding.
            layers: (B,) so many layers see the pictures of a prompt.
        """
        rows = seen.any(1)
        visual = seen[rows].sum(1).double().cpu()[:, None]
        whole = known[rows].sum(1).double().cpu()[:, None]
        left = visual * (layers[rows].cpu()[:, None] > torch.arange(self.depth))
        cost = self._cost(whole - visual + left).sum()
        full = self.depth * self._cost(whole).sum()
        self.sums[: self.depth] += left.sum(0)
        self.sums[self.depth :] += torch.stack([visual.sum(), cost, full, rows.sum().cpu()])

    def _cost(self, tokens: Tensor) -> Tensor:
        """Return operations of a layer: its matrices, and attention of all tokens to all."""
        return 2 * tokens * self.weights + 4 * tokens**2 * self.width

    def to_dict(self) -> dict[str, Any]:
        """Return shares.

        Returns:
            ``prompts`` with pictures, ``visual_tokens`` of each, the share ``left`` of them in each
            layer, and ``compute_saved``, the share of the language model's operations over prompts
            (not over what is said behind them, and not the vision tower's).
        """
        visual, cost, full, prompts = self.sums[self.depth :].tolist()
        if not prompts:
            return {"prompts": 0}
        return {
            "prompts": int(prompts),
            "visual_tokens": round(visual / prompts, 1),
            "left": [round(value / visual, 4) for value in self.sums[: self.depth].tolist()],
            "compute_saved": round(1 - cost / full, 4),
        }
