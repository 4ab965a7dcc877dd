"""Facial priors in any vision-language model, put in where its projector is.

Three ways: Face Info Mining enriches the patches that the projector takes, Face-LLaVA's attention
what it gives, and tokens of their own stand behind the pictures in the prompt. An untrained one
leaves the model as it is, bit for bit: gates are zero, and tokens are left out.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isqrt
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from faceaffect.errors import RecipeError
from faceaffect.models.emo_llama.mining import FaceInfoMining, MiningOptions, PriorTokens
from faceaffect.models.emo_llama.priors import FacePrior, FacePriorNet, points_of
from faceaffect.models.vlm.chat import Exchange, Prompt
from faceaffect.models.vlm.media import media_ids
from faceaffect.models.vlm.mining import (
    EmolaOptions,
    FaceLlavaOptions,
    LandmarkToken,
    RegionAttention,
)

Mining = MiningOptions | EmolaOptions | FaceLlavaOptions

_PROJECTORS = ("multi_modal_projector", "connector", "merger", "language_projection")
_TEXT_LIKE = ("input_ids", "attention_mask", "mm_token_type_ids", "token_type_ids")
_IN_PROMPT_ORDER = {"internvl"}
"""Families whose pictures and videos go through the projector together; else pictures first."""


@dataclass(frozen=True)
class _Piece:
    """Frames that a model takes as one: a picture, or a video."""

    clip: Tensor
    first: int
    count: int


class FacialPriors(nn.Module):
    """What a face-analysis network knows, inside a vision-language model.

    Args:
        net: the model, which gets hooks around its projector or at its embeddings.
        prior: the frozen face-analysis network.
        mining: how what it knows is brought in.

    Attributes:
        trained: whether a training step has been; tokens of an untrained part are left out.

    Raises:
        RecipeError: the network does not give what the part needs, or the model has no projector
            that is known here.
    """

    trained: Tensor

    def __init__(self, net: Any, prior: Any, mining: Mining) -> None:
        super().__init__()
        self.prior: Any = prior
        self.kind: str = net.config.model_type
        text = net.config.get_text_config()
        before = width_before(net.config)
        self.part = _part(mining, before, text.hidden_size, prior)
        self.grid = mining.grid if isinstance(mining, MiningOptions) else 1
        self.register_buffer("trained", torch.zeros((), dtype=torch.bool))
        self._known = WeakTensorKeyDictionary()
        self._calls: list[list[_Piece]] = []
        self._slices: list[int] | None = None
        self._pending: tuple[Tensor, Tensor] | None = None
        self._media = media_ids(net.config)
        self._hook(net)

    def _hook(self, net: Any) -> None:
        parts = {name.rpartition(".")[2]: part for name, part in net.named_modules()}
        if isinstance(self.part, (LandmarkToken, PriorTokens)):
            net.get_input_embeddings().register_forward_hook(self._fill)
            return
        projector = find_projector(
            net, "model.mining", ". Take emola, whose token stands in the prompt"
        )
        tower = parts.get("visual")  # Qwen's, with the projector inside it
        if tower is not None:
            tower.register_forward_pre_hook(self._count, with_kwargs=True)
        if isinstance(self.part, FaceInfoMining):
            if self.kind == "instructblip":  # its Q-Former stands between patches and projector
                parts["vision_model"].register_forward_hook(self._seen)
            else:
                projector.register_forward_pre_hook(self._before)
        elif tower is not None:  # it puts what the projector gives into order
            tower.register_forward_hook(self._pooled)
        else:
            projector.register_forward_hook(self._after)

    def gates(self) -> list[nn.Parameter]:
        """Return the gates, which may learn faster than the rest."""
        part = self.part
        return part.gates() if isinstance(part, (FaceInfoMining, RegionAttention)) else []

    # What is coming

    def expect(
        self, prompts: Sequence[Prompt], inputs: dict[str, Tensor], videos: bool
    ) -> dict[str, Tensor]:
        """Say which pictures the next pass shows; return its inputs, with room for tokens.

        Args:
            prompts: of the pass, in order, with like pictures.
            inputs: what the processor made of them.
            videos: clips are shown as videos.
        """
        if self.training and torch.is_grad_enabled():
            self.trained.fill_(True)
        if isinstance(self.part, (LandmarkToken, PriorTokens)):
            return self._make_room(prompts, inputs) if bool(self.trained) else inputs
        shown = [piece for prompt in prompts for clip in prompt.media
                 for piece in _pieces(clip, videos)]  # fmt: skip
        calls = [shown]
        if self.kind not in _IN_PROMPT_ORDER:
            film = [len(piece.clip) > 1 and videos for piece in shown]
            calls = [[p for p, is_film in zip(shown, film, strict=True) if is_film == kind]
                     for kind in (False, True)]  # fmt: skip
        self._calls = [call for call in calls if call]
        return inputs

    def _make_room(self, prompts: Sequence[Prompt], inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Put places for tokens behind the pictures of every question; compute the tokens."""
        ids = inputs["input_ids"]
        seen = [[e for e in prompt.exchanges if e.media] for prompt in prompts]
        if not seen[0]:
            return inputs
        frames = [(clip, n) for asked in seen for e in asked for clip in e.media
                  for n in range(len(clip))]  # fmt: skip
        prior = self._stacked(frames)
        tokens = self._run(prior)  # (F, K, D)
        each = _frames_each(seen)
        media = torch.isin(ids, torch.tensor(self._media, device=ids.device))
        ends = _ends(media, len(seen[0]))
        many = each * tokens.shape[1]
        order, slot = _spread(ends, ids.shape[1], many)
        slot = slot + torch.where(slot > 0, many * len(seen[0]), 0) * torch.arange(
            len(ids), device=ids.device
        )[:, None]  # fmt: skip
        ok = F.pad(prior.ok.repeat_interleave(tokens.shape[1]), (1, 0), value=True)
        own = {}
        for key in _TEXT_LIKE:
            if key in inputs and inputs[key].shape == ids.shape:
                filler = {"input_ids": int(ids[0, -1]), "attention_mask": 1}.get(key, 0)
                value = inputs[key].gather(1, order)
                own[key] = torch.where(slot > 0, torch.full_like(value, filler), value)
        # A face that was not found has no token: its places become padding, which stands ahead.
        own["attention_mask"] = own["attention_mask"] * ok[slot].to(own["attention_mask"].dtype)
        ahead = own["attention_mask"].sort(dim=1, stable=True).indices
        self._pending = slot.gather(1, ahead), tokens.flatten(0, 1)
        return inputs | {key: value.gather(1, ahead) for key, value in own.items()}

    def _count(self, tower: nn.Module, args: Any, given: dict[str, Any]) -> None:
        grid = given.get("grid_thw", args[1] if len(args) > 1 else None)
        assert grid is not None
        self._slices = grid[:, 0].tolist()
        if len({tuple(row) for row in grid[:, 1:].tolist()}) > 1:
            raise RecipeError("model.mining: pictures of several sizes in one batch")

    # What is brought in

    def _before(self, projector: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        patches = args[0]
        units = len(patches) if self._slices is None else sum(self._slices)
        flat = patches.view(units, -1, patches.shape[-1])
        return (self._run(self._priors(units), flat).view_as(patches), *args[1:])

    def _seen(self, tower: nn.Module, args: Any, output: Any) -> Any:
        first, patches = output.last_hidden_state.split([1, output[0].shape[1] - 1], 1)
        mined = self._run(self._priors(len(patches)), patches)
        output.last_hidden_state = torch.cat([first, mined], 1)
        return output

    def _pooled(self, tower: nn.Module, args: Any, output: Any) -> Any:
        output.pooler_output = self._after(tower, args, output.pooler_output)
        return output

    def _after(self, projector: nn.Module, args: Any, tokens: Tensor) -> Tensor:
        units = len(tokens) if self._slices is None else sum(self._slices)
        flat = tokens.view(units, -1, tokens.shape[-1])
        whole = self._slices is not None or units == sum(p.count for p in self._calls[0])
        placed = whole and self.kind != "instructblip"  # queries of a Q-Former have no place
        places = _places(flat.shape[1], flat.device) if placed else None
        return self._run(self._priors(units), flat, places).view_as(tokens)

    def _run(self, prior: FacePrior, tokens: Tensor | None = None, *more: Any) -> Tensor:
        """Call the part in the type that it computes in; return the type that came in."""
        if tokens is None:
            return self.part(prior)  # type: ignore[no-any-return]
        mixed = torch.is_autocast_enabled(tokens.device.type)
        own = tokens if mixed else tokens.to(next(self.part.parameters()).dtype)
        if isinstance(self.part, RegionAttention):
            more = more or (None,)
        return self.part(own, prior, *more).to(tokens.dtype)  # type: ignore[no-any-return]

    def _fill(self, embedding: nn.Module, args: Any, found: Tensor) -> Tensor | None:
        """Put the tokens in their places, the first time that a whole prompt is embedded."""
        if self._pending is None:
            return None
        slot, tokens = self._pending
        length = slot.shape[1]
        if found.shape[0] != len(slot) or found.shape[1] < length:
            return None
        self._pending = None
        own = tokens.to(found.dtype)[(slot - 1).clamp_min(0)]
        prompt = torch.where((slot > 0)[..., None], own, found[:, :length])
        return torch.cat([prompt, found[:, length:]], 1)

    # What is known

    def _priors(self, units: int) -> FacePrior:
        """Return the priors of what goes through the projector next, one for each of its units.

        A unit is a picture, a tile of one, a frame, or what a family makes of several frames; the
        last has the first frame's.
        """
        pieces, slices = self._calls.pop(0), self._slices
        self._slices = None
        if slices is None:
            tiles, rest = divmod(units, sum(piece.count for piece in pieces))
            assert not rest, f"{units} units of {len(pieces)} pictures"
            slices = [piece.count * tiles for piece in pieces]
        return self._stacked(
            [(piece.clip, piece.first + _frame(k, count, piece.count))
             for piece, count in zip(pieces, slices, strict=True) for k in range(count)]
        )  # fmt: skip

    def _stacked(self, frames: Sequence[tuple[Tensor, int]]) -> FacePrior:
        clips = list({id(clip): clip for clip, _ in frames}.values())
        self._look(clips)
        start, at = {}, 0
        for clip in clips:
            start[id(clip)] = at
            at += len(clip)
        index = torch.tensor([start[id(clip)] + n for clip, n in frames], device=clips[0].device)
        return FacePrior.joined([self._known[clip] for clip in clips]).take(index)

    @torch.no_grad()
    def _look(self, clips: Sequence[Tensor]) -> None:
        """Have the network look at what it has not seen; every clip once, whatever is asked."""
        sizes: dict[tuple[int, ...], list[Tensor]] = {}
        for clip in clips:
            if not self._has(clip):
                sizes.setdefault(tuple(clip.shape[1:]), []).append(clip)
        for alike in sizes.values():
            found = self.prior(torch.cat(alike))
            if max(found.map.shape[-2:]) > self.grid and found.map.shape[1]:
                found.map = F.adaptive_avg_pool2d(found.map, self.grid)
            rows = torch.arange(len(found.ok), device=found.ok.device)
            owns = torch.split(rows, [len(clip) for clip in alike])
            for clip, own in zip(alike, owns, strict=True):
                self._known[clip] = found.take(own)

    def _has(self, clip: Tensor) -> bool:
        """Return whether a clip's priors are kept; those of validation are no use in training."""
        if clip not in self._known:
            return False
        kept: FacePrior = self._known[clip]
        return torch.is_inference_mode_enabled() or not kept.landmarks.is_inference()


def find_projector(net: Any, where: str = "model.projector", advice: str = "") -> nn.Module:
    """Return what brings a model's patches to its language part.

    Args:
        net: the model.
        where: the recipe's key, for the error.
        advice: the end of the error.

    Raises:
        RecipeError: it has none that is known.
    """
    modules: dict[str, nn.Module] = dict(net.named_modules())
    parts = {name.rpartition(".")[2]: part for name, part in modules.items()}
    for name in _PROJECTORS:
        if name in parts:
            return parts[name]
    raise RecipeError(
        f"{where}: {type(net).__name__} has no projector that is known; {_PROJECTORS} are looked "
        f"for{advice}"
    )


def width_before(config: Any) -> int:
    """Return the channels of what the projector takes; of InstructBLIP, its Q-Former."""
    vision = config.vision_config
    width = int(getattr(vision, "embed_dim", None) or vision.hidden_size)
    if config.model_type == "internvl":  # several patches are one already
        return width * int(round(1 / config.downsample_ratio) ** 2)
    layers = getattr(config, "vision_feature_layer", -1)
    return width if isinstance(layers, int) else width * len(layers)


def _part(mining: Mining, before: int, after: int, prior: FacePriorNet) -> Any:
    """Build the part; see that the network gives what it needs."""
    points = points_of(prior)
    if isinstance(mining, EmolaOptions):
        return LandmarkToken(points, after)
    if isinstance(mining, FaceLlavaOptions):
        _need_regions(points, "face_llava")
        return RegionAttention(after, mining)
    tokens = mining.inject == "extra_tokens"
    if tokens or mining.use_local:
        _need_regions(points, "face_info_mining")
    if not prior.map_width and (tokens or mining.use_global):
        raise RecipeError("model.mining: the prior gives landmarks alone; take emola")
    if tokens:
        return PriorTokens(prior.map_width, after)
    return FaceInfoMining(before, prior.map_width, prior.token_width, mining)


def _need_regions(points: int, name: str) -> None:
    if points != 68:
        raise RecipeError(
            f"model.mining: {name} knows the regions of 68 landmarks, and the prior finds {points}"
            "; take emola, or another prior"
        )


def _pieces(clip: Tensor, videos: bool) -> list[_Piece]:
    if videos and len(clip) > 1:
        return [_Piece(clip, 0, len(clip))]
    return [_Piece(clip, n, 1) for n in range(len(clip))]


def _frame(number: int, slices: int, frames: int) -> int:
    """Return the frame that the ``number``-th of so many slices of a clip shows first.

    >>> [_frame(k, 2, 3) for k in range(2)], [_frame(k, 6, 3) for k in range(6)]
    ([0, 2], [0, 0, 1, 1, 2, 2])
    """
    if slices >= frames:
        return number * frames // slices
    return min(number * -(-frames // slices), frames - 1)


def _places(count: int, device: torch.device) -> Tensor | None:
    """Return x and y in [0, 1] of so many tokens of a square picture, row by row.

    One more than a square is a class token, which has no place.
    """
    for extra in (0, 1):
        side = isqrt(count - extra)
        if side**2 == count - extra:
            middle = (torch.arange(side, device=device) + 0.5) / side
            y, x = torch.meshgrid(middle, middle, indexing="ij")
            places = torch.stack([x.flatten(), y.flatten()], 1)
            return F.pad(places, (0, 0, extra, 0), value=torch.nan)
    return None


def _frames_each(seen: Sequence[Sequence[Exchange]]) -> int:
    """Return how many frames every question shows.

    Raises:
        RecipeError: they show different numbers of frames.
    """
    counts = {sum(len(clip) for clip in e.media) for asked in seen for e in asked}
    if len(counts) > 1:
        raise RecipeError(
            f"model.mining: tokens of landmarks behind clips of {sorted(counts)} frames in one "
            "prompt; examples (model.shots) need clips of one length here: data.frames=1"
        )
    return counts.pop()


def _ends(media: Tensor, parts: int) -> Tensor:
    """Return (B, parts) where the pictures of each of so many questions of a prompt end."""
    each = int(media[0].sum()) // parts
    places = media.nonzero()[:, 1].view(len(media), -1)
    return places[:, each - 1 :: each]


def _spread(ends: Tensor, length: int, many: int) -> tuple[Tensor, Tensor]:
    """Return which column stands where once ``many`` more follow each end, and which is new.

    Args:
        ends: (B, E) columns.
        length: number of columns L.
        many: new columns behind each end.

    Returns:
        (B, L + E many) old columns, and the number of each new one, from 1; 0 for old ones.
    """
    batch, count = ends.shape
    old = torch.arange(length, device=ends.device).expand(batch, -1)
    new = ends.repeat_interleave(many, 1)
    number = torch.arange(1, count * many + 1, device=ends.device).expand(batch, -1)
    order, where = torch.cat([old, new], 1).sort(dim=1, stable=True)
    return order, torch.cat([torch.zeros_like(old), number], 1).gather(1, where)
