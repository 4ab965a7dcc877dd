"""A vision-language model: prompts with pictures in, losses, scores of options or new text out."""

from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from peft import PeftModel
from torch import Tensor, nn
from transformers import GenerationConfig, PreTrainedModel

from faceaffect.errors import CheckpointError, RecipeError, first_line
from faceaffect.models.emo_llama.adapters import Adapted, LanguageLoRA, put_adapters
from faceaffect.models.emo_llama.llm import enable_checkpointing, let_checkpoint, window_of
from faceaffect.models.emo_llama.packing import Packed, Row, by_length, pack
from faceaffect.models.emo_llama.scoring import distinct
from faceaffect.models.vlm.behind import Behind
from faceaffect.models.vlm.chat import Chat, Prompt
from faceaffect.models.vlm.exit import VisualExit, VisualTokenExit
from faceaffect.models.vlm.language import language_layers, thaw, unshared
from faceaffect.models.vlm.media import media_ids, metadata, pad, pictures, videos
from faceaffect.models.vlm.priors import FacialPriors, Mining, find_projector
from faceaffect.models.vlm.tower import Once
from faceaffect.networks.weights import Freezable
from faceaffect.progress import console

_TILES = ("do_image_splitting", "crop_to_patches")
"""Switches of processors that cut pictures into tiles."""


class VisionLanguageModel(Adapted, Freezable):
    """An image-text model of transformers, frozen but for adapters in its language part.

    Args:
        net: the model.
        processor: of pictures and text.
        title: what names it, for messages.
        lora: adapters to put in; None leaves the model frozen as it is.
        grad_checkpointing: spend time to save memory in training.
        frozen: train nothing but the adapters and the priors' part.
        priors: a frozen face-analysis network, and how what it knows is brought in.
        tiles: let the processor cut large pictures into tiles.
        projector: train the projector, too.
        visual_exit: when pictures leave the language model; None keeps them.

    Attributes:
        net: the model with its adapters, a ``PeftModel`` if it has any.
        whole: what tells the processor not to cut pictures.
        exit: gates by which pictures leave; None without. With gates nothing else is trained.
        engine: generates in place of the model itself; None without.
        shares: whether answers share one pass over their prompt; else each has a pass of its own.

    Raises:
        RecipeError: the adapters do not fit the model, or it has no projector that is known.
    """

    net: Any
    processor: Any
    tokenizer: Any
    special: set[int]

    def __init__(
        self,
        net: Any,
        processor: Any,
        title: str,
        *,
        lora: LanguageLoRA | None,
        grad_checkpointing: bool = False,
        frozen: bool = True,
        priors: tuple[Any, Mining] | None = None,
        tiles: bool = True,
        projector: bool = False,
        visual_exit: VisualExit | None = None,
    ) -> None:
        super().__init__()
        self.net, self.processor, self.title = net, processor, title
        self.tokenizer = processor.tokenizer
        cuts = [name for name in _TILES if hasattr(processor.image_processor, name)]
        self.whole: dict[str, Any] = {} if tiles else dict.fromkeys(cuts, False)
        self.model_type: str = net.config.model_type
        self.special = {*self.tokenizer.all_special_ids, *self.tokenizer.get_added_vocab().values()}
        self.grad_checkpointing = grad_checkpointing
        if grad_checkpointing:
            enable_checkpointing(net)
        decoder = net.get_decoder()
        self.decoder_name = next(name for name, part in net.named_modules() if part is decoder)
        self._once = Once(net)
        text = net.config.get_text_config()
        self.window = window_of(text)
        self.context: int | None = getattr(text, "max_position_embeddings", None)
        reason = unshared(net, text)
        self.shares = reason is None
        if reason is not None:
            console.print(
                f"{title}: {reason}, so its options cannot share a prompt: each is scored by a "
                "full forward pass, which takes several times as long",
                markup=False,
            )
        self.priors: FacialPriors | None = None
        self.exit: VisualTokenExit | None = None
        self.engine: Any = None
        if frozen:
            self.freeze()
        self._thawed = thaw(self, find_projector(net)) if projector else []
        if priors is not None:
            self.priors = FacialPriors(net, *priors)
        if lora is not None:
            self.net = put_adapters(net, lora, language_layers(self, lora), "model.lora")
            for weight in self._thawed:  # which adapters froze again
                weight.requires_grad_(True)
        if visual_exit is not None:
            if reason is not None:
                raise RecipeError(f"model.visual_exit: {reason}; pictures cannot leave there")
            self.requires_grad_(False)
            self.exit = VisualTokenExit(net, decoder, media_ids(net.config), visual_exit)
        self.train(self.training)

    def projector_weights(self) -> list[nn.Parameter]:
        """Return the weights of the projector, if it is trained."""
        return self._thawed

    @property
    def reader(self) -> Any:
        """The processor."""
        return self.processor

    def save_merged(self, folder: str | Path) -> None:
        """Write the model with its adapter merged in, as transformers reads it.

        Raises:
            CheckpointError: it has facial priors or gates, which no folder of transformers holds.
        """
        for part, name in ((self.priors, "facial priors (model.mining)"),
                           (self.exit, "gates of visual tokens (model.visual_exit)")):  # fmt: skip
            if part is not None:
                raise CheckpointError(
                    f"the model has {name}, which transformers does not know; export it without "
                    "merging"
                )
        super().save_merged(folder)

    @property
    def base(self) -> PreTrainedModel:
        """The model itself, adapters inside."""
        net = self.net.get_base_model() if isinstance(self.net, PeftModel) else self.net
        return cast(PreTrainedModel, net)

    @property
    def decoder(self) -> nn.Module:
        """The language part."""
        return self.base.get_submodule(self.decoder_name)

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return self.base.get_input_embeddings().weight.device  # type: ignore[return-value]

    def train(self, mode: bool = True) -> "VisionLanguageModel":
        """Set the mode; checkpointing layers of the language part follow it."""
        super().train(mode)
        if self.exit is not None:  # only its gates learn
            for part in filter(None, (self.net, self.priors)):
                part.eval()
            return self
        if self.grad_checkpointing:
            let_checkpoint(self.decoder, mode)
        return self

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text, without special tokens."""
        return cast(list[int], self.tokenizer(text, add_special_tokens=False)["input_ids"])

    # What comes out

    def losses(self, prompts: Sequence[Prompt], chat: Chat) -> Tensor:
        """Return the mean cross-entropy of the learned tokens of each prompt, (B,), weighted."""
        if not self.shares:
            return self._mean_of_branches(prompts, chat)
        losses: list[Tensor] = []
        order: list[int] = []
        for group in alike(prompts):
            logits, answers = self.logits([prompts[i] for i in group], chat)
            each = F.cross_entropy(logits, answers.said, reduction="none") * answers.weight
            losses.append(each.new_zeros(len(group)).index_add(0, answers.row, each))
            order += group
        return torch.cat(losses)[torch.tensor(order, device=self.device).argsort()]

    def _mean_of_branches(self, prompts: Sequence[Prompt], chat: Chat) -> Tensor:
        """Return the same losses from one pass for each answer."""
        single, owner, share = [], [], []
        for number, prompt in enumerate(prompts):
            weights = prompt.weights or [1.0] * len(prompt.branches)
            counts = [sum(len(t.ids) for t in b if t.said) for b in prompt.branches]
            total = sum(w * n for w, n in zip(weights, counts, strict=True))
            for branch, weight, count in zip(prompt.branches, weights, counts, strict=True):
                single.append(replace(prompt, branches=[branch], weights=[]))
                owner.append(number)
                share.append(weight * count / total)
        losses = self._each(single, chat, self._losses_alone)
        scale = losses.new_tensor(share)
        place = torch.tensor(owner, device=losses.device)
        return losses.new_zeros(len(prompts)).index_add(0, place, losses * scale)

    def _losses_alone(self, logits: Tensor, answers: Packed, count: int) -> Tensor:
        each = F.cross_entropy(logits, answers.said, reduction="none") * answers.weight
        return each.new_zeros(count).index_add(0, answers.row, each)

    def scores(self, prompts: Sequence[Prompt], chat: Chat) -> Tensor:
        """Return the log-likelihood of every answer, summed over its learned tokens.

        The prompt is run once; all its answers follow in the same pass, blind to each other. Models
        that cannot do so are run once for each answer.

        Returns:
            (B, most answers of a prompt) float32; minus infinity where a prompt has fewer.
        """
        most = max(len(prompt.branches) for prompt in prompts)
        found = torch.full((len(prompts), most), -torch.inf, device=self.device)
        if self.shares:
            for group in alike(prompts):
                chosen = [prompts[i] for i in group]
                for i, row in zip(group, self._score(chosen, chat), strict=True):
                    found[i, : len(prompts[i].branches)] = row[: len(prompts[i].branches)]
            return found
        places = [(i, n) for i, prompt in enumerate(prompts) for n in range(len(prompt.branches))]
        single = [replace(prompts[i], branches=[prompts[i].branches[n]]) for i, n in places]
        values = self._each(single, chat, _sums)
        rows, columns = torch.tensor(places, device=self.device).T
        found[rows, columns] = values
        return found

    def _score(self, prompts: Sequence[Prompt], chat: Chat) -> Tensor:
        logits, answers = self.logits(prompts, chat)
        each = -F.cross_entropy(logits, answers.said, reduction="none")
        scores = each.new_zeros(len(prompts), max(len(p.branches) for p in prompts))
        return scores.index_put((answers.row, answers.answer - 1), each, accumulate=True)

    def _each(self, single: Sequence[Prompt], chat: Chat, value: Any) -> Tensor:
        """Return a value of each prompt of one answer, run plainly, as many at once as fit."""
        found: list[Tensor] = []
        order: list[int] = []
        for group in alike(single):
            logits, answers = self.logits([single[i] for i in group], chat)
            found.append(value(logits, answers, len(group)))
            order += group
        return torch.cat(found)[torch.tensor(order, device=self.device).argsort()]

    def generate(
        self, prompts: Sequence[Prompt], chat: Chat, max_new_tokens: int, streamer: Any = None
    ) -> list[str]:
        """Return greedily generated answers; those of a prompt's answers are passed over."""
        if self.engine is not None:
            said: list[str] = self.engine.generate(self, prompts, chat, max_new_tokens, streamer)
            return said
        found: dict[int, str] = {}
        ends = self.ends(chat)
        pad = self.tokenizer.pad_token_id
        config = GenerationConfig(  # type: ignore[no-untyped-call]
            do_sample=False, num_beams=1, repetition_penalty=1.0, max_new_tokens=max_new_tokens,
            eos_token_id=ends, pad_token_id=ends[0] if pad is None else pad,
        )  # fmt: skip
        for group in alike(prompts):
            inputs = self.inputs([prompts[i] for i in group], chat)
            length = inputs["input_ids"].shape[1]
            self._check_length(length + max_new_tokens)
            more = {} if streamer is None else {"streamer": streamer}
            ids = self.net.generate(**inputs, generation_config=config, **more)
            if ids.shape[1] >= length and torch.equal(ids[:, :length], inputs["input_ids"]):
                ids = ids[:, length:]
            for i, row in zip(group, ids.tolist(), strict=True):
                found[i] = self.decode(row, ends)
        return [found[i] for i in range(len(prompts))]

    def ends(self, chat: Chat) -> list[int]:
        """Return the tokens that end an answer."""
        return sorted({chat.end, self.tokenizer.eos_token_id})

    def decode(self, ids: Sequence[int], ends: Sequence[int]) -> str:
        """Return generated ids as text, up to the first token that ends it."""
        stop = next((n for n, i in enumerate(ids) if i in ends), len(ids))
        return str(self.tokenizer.decode(list(ids[:stop]), skip_special_tokens=True)).strip()

    # How it goes in

    def inputs(self, prompts: Sequence[Prompt], chat: Chat) -> dict[str, Tensor]:
        """Return what the processor makes of prompts with like pictures, padded on the left.

        Raises:
            RecipeError: the processor or the model's context does not take them.
        """
        texts = [chat.text(prompt) for prompt in prompts]
        shown = [pictures(prompt, chat) for prompt in prompts]
        films = [film for prompt in prompts for film in videos(prompt, chat)]
        given: dict[str, Any] = {"images": shown} | self.whole if any(shown) else {}
        if films:
            given |= {"videos": films, "do_sample_frames": False,
                      "video_metadata": [metadata(film) for film in films]}  # fmt: skip
        if self.begins(texts[0]):
            given["add_special_tokens"] = False
        try:
            made = self.processor(
                text=texts, padding=True, padding_side="left", return_tensors="pt", **given
            )
        except Exception as error:  # each processor has its own ways to refuse
            reason = first_line(error)
            raise RecipeError(
                f"model.checkpoint: {type(self.processor).__name__} does not take these prompts "
                f"and pictures: {reason}"
            ) from None
        made.pop("labels", None)
        inputs = {key: self._placed(value) for key, value in made.items()
                  if isinstance(value, Tensor)}  # fmt: skip
        pad(inputs, "", ahead=True)
        pad(inputs, "qformer_", ahead=False)
        self._once.expect(prompts)
        if self.priors is not None:
            inputs = self.priors.expect(prompts, inputs, chat.videos)
        if self.exit is not None:
            self.exit.expect(inputs["input_ids"], inputs["attention_mask"].bool())
        return inputs

    def begins(self, text: str) -> bool:
        """Return whether a text has the token that begins every text."""
        begin = self.tokenizer.bos_token
        return bool(begin) and text.startswith(begin)

    def _placed(self, value: Tensor) -> Tensor:
        dtype = self.base.dtype if value.is_floating_point() else value.dtype
        return value.to(self.device, dtype)

    def logits(self, prompts: Sequence[Prompt], chat: Chat) -> tuple[Tensor, Packed]:
        """Return logits (T, V) float32 of the T tokens to be said, and what is said where."""
        inputs = self.inputs(prompts, chat)
        ids, known = inputs["input_ids"], inputs["attention_mask"].bool()
        answers = pack([Row([], p.branches, p.weights) for p in prompts], ids.device, "right")
        longest = max(sum(len(t.ids) for t in branch) for p in prompts for branch in p.branches)
        self._check_length(ids.shape[1] + longest)
        alone = all(len(prompt.branches) == 1 for prompt in prompts)
        behind: Any = nullcontext()
        if alone:
            inputs = self._appended(inputs, answers)
        elif answers.ids.shape[1]:
            behind = Behind(self.decoder, self.base.get_input_embeddings(), answers, known)
        columns, place = distinct(answers.column + ids.shape[1])
        with behind:
            logits = self.net(**inputs, logits_to_keep=columns, use_cache=False).logits
        if logits.shape[1] != len(columns):  # a family that gives the logits of every column
            place = answers.column + ids.shape[1]
        return logits[answers.row, place].float(), answers

    def _appended(self, inputs: dict[str, Tensor], answers: Packed) -> dict[str, Tensor]:
        """Return inputs in which the one answer of each prompt simply goes on."""
        shape = inputs["input_ids"].shape
        more = answers.ids.shape[1]
        own = {}
        for key, value in inputs.items():
            if value.shape == shape:
                # Only PaliGemma tells prompt and answer apart by them.
                kind = int(key == "token_type_ids" and self.model_type.startswith("paligemma"))
                own[key] = F.pad(value, (0, more), value=kind)
        own["input_ids"] = torch.cat([inputs["input_ids"], answers.ids], 1)
        mask = answers.known.to(inputs["attention_mask"].dtype)
        own["attention_mask"] = torch.cat([inputs["attention_mask"], mask], 1)
        return inputs | own

    def _check_length(self, length: int) -> None:
        """Refuse prompts that the model does not see as a whole.

        Raises:
            RecipeError: its context, or the reach of its attention behind a shared prompt, is less.
        """
        reach = min(filter(None, (self.context, self.window if self.shares else None)), default=0)
        if reach and length > reach:
            raise RecipeError(
                f"model.checkpoint: {length} tokens of pictures, prompt and answer, but "
                f"{type(self.base).__name__} takes {reach}. Use fewer frames (data.frames), "
                "smaller pictures (data.image_size), fewer examples (model.shots) or fewer words"
            )


def _sums(logits: Tensor, answers: Packed, count: int) -> Tensor:
    """Return the log-likelihood of the one answer of each row."""
    each = -F.cross_entropy(logits, answers.said, reduction="none")
    return each.new_zeros(count).index_add(0, answers.row, each)


def alike(prompts: Sequence[Prompt]) -> Iterable[list[int]]:
    """Yield the places of prompts that go through the model as one: like pictures, like lengths."""
    kinds: dict[tuple[Any, ...], list[int]] = {}
    for place, prompt in enumerate(prompts):
        kinds.setdefault((prompt.shape, len(prompt.branches) == 1), []).append(place)
    for places in kinds.values():
        for group in by_length([prompts[i] for i in places]):
            yield [places[i] for i in group]
