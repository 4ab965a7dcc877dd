"""Dynamic visual-token exit: pictures leave the language model once the text holds what they say.

DyVTE (arXiv 2411.19628): behind each layer a gate looks at the text alone and says whether what was
seen is still needed. Where it is not, the visual tokens go, all at once: later layers compute
neither their states nor their keys and values. Positions of what stays are kept. Which tokens are
visual the ids of the prompt say, for each row of a batch by itself; rows may leave at different
layers, and the batch becomes shorter when the last of them has left.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from faceaffect.errors import RecipeError
from faceaffect.models.vlm.exit_tally import Tally


@dataclass(frozen=True)
class VisualExit:
    """When visual tokens leave the language model.

    Args:
        width: of the hidden layer of each gate.
        threshold: of a gate's probability, above which they leave; 0.5 is the authors' rule.
        min_layers: so many layers see the pictures at least.
        layers: so many layers see the pictures whatever the gates say; null lets the gates decide.

    Raises:
        RecipeError: a number is out of range.
    """

    width: int = 2048
    threshold: float = 0.5
    min_layers: int = 1
    layers: int | None = None

    def __post_init__(self) -> None:
        if self.width < 1:
            raise RecipeError(f"model.visual_exit.width: {self.width} is not positive")
        if not 0 <= self.threshold <= 1:
            raise RecipeError(
                f"model.visual_exit.threshold: {self.threshold} is not between 0 and 1"
            )
        if self.min_layers < 1:
            raise RecipeError(f"model.visual_exit.min_layers: {self.min_layers} is less than 1")


@dataclass
class _Pass:
    """One pass over prompts, and the steps of generation behind it.

    Attributes:
        seen: (B, L) bool, the visual tokens of the prompts.
        known: (B, L) bool, what is not padding.
        layers: (B,) so many layers see the pictures of a row.
        order: (B, N) the columns that are left once all rows have left; None before.
        dropped: the first layer without the others.
        total: columns before.
        prompt: whether the prompts are still on their way.
    """

    seen: Tensor
    known: Tensor
    layers: Tensor
    order: Tensor | None = None
    dropped: int = 0
    total: int = 0
    prompt: bool = True

    def hidden(self, number: int) -> Tensor:
        """Return (B, L) bool: visual tokens that a layer does not see."""
        return self.seen & (self.layers <= number)[:, None]

    def all_left(self, number: int) -> bool:
        """Return whether no row has pictures left at a layer."""
        return bool(((self.layers <= number) | ~self.seen.any(1)).all())

    def kept(self) -> Tensor:
        """Return (B, total) bool: columns that stay, answers behind the prompts included."""
        return F.pad(~self.seen, (0, self.total - self.seen.shape[1]), value=True)

    def drop(self, number: int, total: int) -> Tensor:
        """Choose the columns that are left, as many for each row, the last of them kept."""
        self.dropped, self.total = number, total
        kept = self.kept()
        most = int(kept.sum(1).max())
        self.order = kept.sort(dim=1, stable=True).indices[:, total - most :]
        return self.order


class VisualTokenExit(nn.Module):
    """Gates behind the layers of a language model, and what lets visual tokens leave.

    Args:
        net: the whole model.
        decoder: its language part.
        media: ids of the tokens that stand for what is seen.
        options: when they leave.

    Attributes:
        depth: layers of the language model.
        floor: the fewest layers that see pictures: one, more where a family adds what it saw to
            early layers again (Qwen3-VL), or where the recipe says so.
        gates: the k-th decides behind layer k; the last layer has none.
        tally: counts prompts while it is set.

    Raises:
        RecipeError: the language part is not of a form that is known, or has too few layers.
    """

    def __init__(self, net: Any, decoder: nn.Module, media: list[int], options: VisualExit) -> None:
        super().__init__()
        blocks = next((part for name, part in decoder.named_modules()
                       if name.rpartition(".")[2] == "layers"), None)  # fmt: skip
        if not isinstance(blocks, nn.ModuleList):
            raise RecipeError(f"model.visual_exit: {type(decoder).__name__} has no list of layers")
        text = net.config.get_text_config()
        again = getattr(net.config.vision_config, "deepstack_visual_indexes", None) or ()
        self.depth = len(blocks)
        self.floor = max(options.min_layers, len(again), 1)
        self.options, self.media = options, media
        self.forced = options.layers
        self._check(type(net).__name__)
        heads = text.num_attention_heads
        self._size = (
            sum(p.numel() for p in blocks.parameters() if p.ndim == 2) / self.depth,
            heads * (getattr(text, "head_dim", None) or text.hidden_size // heads),
        )
        self._adds = "eager" in str(text._attn_implementation)
        self.gates = nn.ModuleList(
            _gate(2 * text.hidden_size, options.width) for _ in range(self.depth - 1)
        )
        self.tally: Tally | None = None
        self._off = False
        self._rows: Tensor | None = None
        self._features: list[Tensor] | None = None
        self._expected: tuple[Tensor, Tensor] | None = None
        self._pass: _Pass | None = None
        self._hook(decoder, blocks)

    def _check(self, name: str) -> None:
        if self.floor >= self.depth:
            raise RecipeError(
                f"model.visual_exit: {name} has {self.depth} layers, {self.floor} of which see "
                "pictures at least, so that nothing is saved"
            )
        if self.forced is not None and not self.floor <= self.forced <= self.depth:
            raise RecipeError(
                f"model.visual_exit.layers: {self.forced} is not between {self.floor} and "
                f"{self.depth}, the layers of {name}"
            )

    def _hook(self, decoder: nn.Module, blocks: nn.ModuleList) -> None:
        decoder.register_forward_pre_hook(self._begin, with_kwargs=True)
        for number, block in enumerate(blocks[1:], 1):
            block.register_forward_pre_hook(partial(self._enter, number), with_kwargs=True)
        blocks[-1].register_forward_hook(self._leave)

    # What a pass does

    def expect(self, ids: Tensor, known: Tensor) -> None:
        """Say which prompts come next.

        Args:
            ids: (B, L) token ids, padded on the left.
            known: (B, L) bool, what is not padding.
        """
        media = torch.tensor(self.media, device=ids.device)
        self._expected = torch.isin(ids, media), known

    @property
    def off(self) -> bool:
        """Whether all layers see the pictures."""
        return self._off

    @contextmanager
    def switched_off(self) -> Iterator[None]:
        """Let all layers see the pictures: the model without this."""
        before, self._off = self._off, True
        try:
            yield
        finally:
            self._off = before

    @contextmanager
    def counted(self, tally: Tally | None) -> Iterator[None]:
        """Count the prompts of what runs within; None counts nothing."""
        before, self.tally = self.tally, tally
        try:
            yield
        finally:
            self.tally = before

    @contextmanager
    def leaving(self, layers: Tensor) -> Iterator[list[Tensor]]:
        """Have pictures leave where they are told to, and collect what the gates would look at.

        Args:
            layers: (B,) so many layers see the pictures of each row.

        Yields:
            A list that gets (B, 2D) float32 of each layer from ``floor`` on, while all are there.
        """
        self._rows, self._features = layers, []
        try:
            yield self._features
        finally:
            self._rows = self._features = None

    def new_tally(self) -> Tally:
        """Return a count that is empty."""
        return Tally(self.depth, *self._size)

    def _begin(self, decoder: nn.Module, args: Any, given: dict[str, Any]) -> None:
        expected, self._expected = self._expected, None
        if expected is not None:
            self._pass = None if self._off else self._started(*expected)
        elif not _length(given, 0):
            self._pass = None

    def _started(self, seen: Tensor, known: Tensor) -> _Pass:
        layers = self._rows
        if layers is None:
            most = self.depth if self.forced is None else self.forced
            layers = torch.full((len(seen),), most, device=seen.device)
        return _Pass(seen, known, layers)

    def _enter(self, number: int, block: nn.Module, args: Any, given: dict[str, Any]) -> Any:
        """Let a layer see what is left."""
        now = self._pass
        if now is None:
            return None
        states = args[0] if args else given["hidden_states"]
        if not now.prompt:
            more = self._step(number, states, given, now)
            return None if more is None else (args, given | more)
        if now.order is None:
            self._decide(number, states, now)
            if not bool(now.hidden(number).any()):
                return None
            if not now.all_left(number):
                columns = F.pad(now.hidden(number), (0, states.shape[1] - now.seen.shape[1]))
                mask = self._hiding(given.get("attention_mask"), columns)
                return args, given | {"attention_mask": mask}
            states = _taken(states, now.drop(number, states.shape[1]), -2)
        own = given | self._shortened(given, now)
        if args:
            return (states, *args[1:]), own
        return args, own | {"hidden_states": states}

    def _decide(self, number: int, states: Tensor, now: _Pass) -> None:
        """Ask the gate in front of a layer about the rows whose pictures are still there."""
        if number < self.floor:
            return
        told = self._rows is not None
        if told or self.forced is None:
            found = features(states[:, : now.seen.shape[1]].detach(), now.seen, now.known)
            if self._features is not None:
                self._features.append(found)
        if told or self.forced is not None:
            return
        with torch.autocast(found.device.type, enabled=False):
            leaves = self.gates[number - 1](found).softmax(-1)[:, 1] > self.options.threshold
        now.layers = torch.where(leaves & (now.layers == self.depth), number, now.layers)

    def _shortened(self, given: dict[str, Any], now: _Pass) -> dict[str, Any]:
        """Return what goes beside the states into a layer, for the columns that are left."""
        order = now.order
        assert order is not None
        more: dict[str, Any] = {}
        if isinstance(given.get("position_ids"), Tensor):
            more["position_ids"] = _taken(given["position_ids"], order, -1)
        if given.get("position_embeddings") is not None:
            more["position_embeddings"] = tuple(
                _taken(value, order, -2) for value in given["position_embeddings"]
            )
        mask = given.get("attention_mask")
        if mask is not None:
            mask = mask.expand(len(order), -1, -1, -1)
            mask = mask.gather(3, order[:, None, None].expand(*mask.shape[:3], -1))
            rows = order[:, None, :, None].expand(*mask.shape[:2], -1, mask.shape[3])
            mask = mask.gather(2, rows)
        gone = ~now.kept().gather(1, order)  # of rows with more visual tokens than others
        return more | {"attention_mask": self._hiding(mask, gone) if bool(gone.any()) else mask}

    def _step(
        self, number: int, states: Tensor, given: dict[str, Any], now: _Pass
    ) -> dict[str, Any] | None:
        """Return the mask of one new token behind what a layer keeps."""
        gone = now.hidden(number)
        if not bool(gone.any()):
            return None
        assert states.shape[1] == 1, "one token at a time"
        sees = now.known & ~gone
        if now.order is not None and number >= now.dropped:
            sees = sees.gather(1, now.order)
        new = _length(given, number) + 1 - sees.shape[1]
        sees = F.pad(sees, (0, new), value=True)[:, None, None]
        if bool(sees.all()):
            return {"attention_mask": None}
        return {"attention_mask": self._mask(sees, states.dtype)}

    def _hiding(self, mask: Tensor | None, columns: Tensor) -> Tensor:
        """Return a mask (B, 1, Q, Q) in which columns (B, Q) are seen by themselves alone."""
        itself = torch.eye(columns.shape[1], dtype=torch.bool, device=columns.device)
        hide = columns[:, None, None] & ~itself
        if mask is None:  # plainly causal
            mask = itself.new_ones(itself.shape).tril()[None, None]
        if mask.dtype == torch.bool:
            return mask & ~hide
        return mask.masked_fill(hide, torch.finfo(mask.dtype).min)

    def _mask(self, sees: Tensor, dtype: torch.dtype) -> Tensor:
        if not self._adds:
            return sees
        blank = torch.zeros(sees.shape, dtype=dtype, device=sees.device)
        return blank.masked_fill(~sees, torch.finfo(dtype).min)

    def _leave(self, block: nn.Module, args: Any, output: Any) -> Any:
        """Put what is left back into its columns, behind the last layer."""
        now = self._pass
        if now is None or not now.prompt:
            return None
        now.prompt = False
        if self.tally is not None:
            self.tally.add(now.seen, now.known, now.layers)
        if now.order is None:
            return None
        states = output[0] if isinstance(output, tuple) else output
        place = now.order[..., None].expand(-1, -1, states.shape[-1])
        whole = states.new_zeros(len(states), now.total, states.shape[-1])
        whole = whole.scatter(1, place, states)
        return (whole, *output[1:]) if isinstance(output, tuple) else whole


def features(states: Tensor, seen: Tensor, known: Tensor) -> Tensor:
    """Return what a gate looks at: the mean of the text behind the pictures, and its last token.

    Args:
        states: (B, L, D) of the prompts, padded on the left.
        seen: (B, L) bool, visual tokens.
        known: (B, L) bool, what is not padding.

    Returns:
        (B, 2D) float32; where a single token stands behind the pictures, it is the mean too.
    """
    last = states[:, -1].float()
    behind = known & (seen.flip(1).cumsum(1).flip(1) == 0)
    behind[:, -1] = False
    count = behind.sum(1, keepdim=True)
    total = (states.float() * behind[..., None]).sum(1)
    return torch.cat([torch.where(count > 0, total / count.clamp_min(1), last), last], 1)


def _gate(inputs: int, width: int) -> nn.Sequential:
    gate = nn.Sequential(nn.Linear(inputs, width, bias=False), nn.GELU(),
                         nn.Linear(width, 2, bias=False))  # fmt: skip
    for layer in gate:
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
    return gate


def _taken(value: Tensor, order: Tensor, dim: int) -> Tensor:
    """Return the columns ``order`` (B, N) along ``dim``, -2 or -1; rows stand just before."""
    lead, tail = value.shape[: dim - 1], value.shape[value.ndim + dim + 1 :]
    value = value.expand(*lead, len(order), *value.shape[dim:])
    index = order[..., None] if tail else order
    return value.gather(dim, index.expand(*lead, *order.shape, *tail))


def _length(given: dict[str, Any], number: int) -> int:
    """Return the tokens that a layer's cache holds."""
    cache = given.get("cache")
    if cache is None:
        cache = given.get("past_key_values")  # its older name
    return 0 if cache is None else int(cache.get_seq_length(number))
