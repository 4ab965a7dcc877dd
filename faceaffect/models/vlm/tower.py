"""The vision tower sees each picture once, however many prompts of a batch show it."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers.utils.generic import ModelOutput

from faceaffect.models.vlm.chat import Prompt

_NAMES = ("vision_tower", "vision_model")


class Once:
    """Has the tower of a model compute each of a batch's pictures once.

    Prompts about one face share its picture, but each goes through the processor by itself. Towers
    that take one picture a row are given the distinct rows; others (Qwen's) are left as they are.

    Args:
        net: the whole model.
    """

    def __init__(self, net: nn.Module) -> None:
        self._expected: list[tuple[Any, ...]] = []
        self._back: Tensor | None = None
        towers = [m for n, m in net.named_modules() if n.rpartition(".")[2] in _NAMES]
        if towers:
            towers[0].register_forward_pre_hook(self._reduce, with_kwargs=True)
            towers[0].register_forward_hook(self._restore)

    def expect(self, prompts: Sequence[Prompt]) -> None:
        """Say which pictures the next pass shows, in their order."""
        self._expected = [
            (clip.data_ptr(), frame)
            for prompt in prompts
            for clip in prompt.media
            for frame in range(len(clip))
        ]

    def _reduce(self, tower: nn.Module, args: Any, given: dict[str, Any]) -> Any:
        expected, self._expected, self._back = self._expected, [], None
        pixels = args[0] if args else given.get("pixel_values")
        count = len(set(expected))
        if not isinstance(pixels, Tensor) or pixels.ndim != 4 or count in (0, len(expected)):
            return None
        tiles, rest = divmod(len(pixels), len(expected))  # a picture may be cut into tiles
        if rest:
            return None
        numbers = {name: n for n, name in enumerate(dict.fromkeys(expected))}
        first = {name: n for n, name in reversed(list(enumerate(expected)))}
        tile = torch.arange(tiles)
        rows = torch.cat([first[name] * tiles + tile for name in numbers]).to(pixels.device)
        back = torch.cat([numbers[name] * tiles + tile for name in expected])
        self._back = back.to(pixels.device)
        own = {k: _rows(v, rows, len(pixels)) for k, v in given.items()}
        return tuple(_rows(v, rows, len(pixels)) for v in args), own

    def _restore(self, tower: nn.Module, args: Any, seen: Any) -> Any:
        back, self._back = self._back, None
        return seen if back is None else _expanded(seen, back)


def _rows(value: Any, rows: Tensor, count: int) -> Any:
    return value[rows] if isinstance(value, Tensor) and len(value) == count else value


def _expanded(value: Any, back: Tensor) -> Any:
    if isinstance(value, Tensor):
        return value[back]
    if isinstance(value, ModelOutput):
        return type(value)(**{key: _expanded(part, back) for key, part in value.items()})
    if isinstance(value, (tuple, list)):
        return type(value)(_expanded(part, back) for part in value)
    return value
