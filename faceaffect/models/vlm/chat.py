"""Prompts as a model's own chat template writes them, and answers as token ids behind them."""

from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal

from torch import Tensor

from faceaffect.errors import CheckpointError, RecipeError
from faceaffect.models.emo_llama.dialogue import Dialogue
from faceaffect.models.emo_llama.packing import Row

TemplateName = Literal["chat", "plain"]

_OWN = {"paligemma": "{images}{question}", "instructblip": "Question: {question} Short answer:"}
"""Families whose processors know one form of prompt, and no chat."""


@dataclass(frozen=True)
class Exchange:
    """Pictures, what is asked about them, and what was answered.

    Attributes:
        media: each picture or clip as its frames (T, 3, H, W) uint8.
        question: in words.
        answer: empty where the model has to answer.
    """

    media: tuple[Tensor, ...]
    question: str
    answer: str = ""


@dataclass
class Prompt(Row):
    """A prompt in words with pictures, and the answers behind it.

    Attributes:
        sample: whose face, its number in the batch.
        exchanges: earlier ones and, last, the one to be answered.
        begun: how the answer begins, which is given.
    """

    sample: int = 0
    exchanges: list[Exchange] = field(default_factory=list)
    begun: str = ""

    @property
    def media(self) -> list[Tensor]:
        """All pictures and clips, in the order of the prompt."""
        return [clip for exchange in self.exchanges for clip in exchange.media]

    @property
    def shape(self) -> tuple[int, ...]:
        """Frames of each picture or clip; prompts of one shape can go through the model as one."""
        return tuple(len(clip) for clip in self.media)

    @property
    def length(self) -> int:
        """Rough number of tokens, to put like with like."""
        words = sum(len(e.question) + len(e.answer) for e in self.exchanges)
        answers = (sum(len(text.ids) for text in branch) for branch in self.branches)
        return words // 4 + sum(answers)


class Chat(Dialogue):
    """Writes prompts for one model; options and decoding are those of every language model here.

    Args:
        llm: the model, with ``processor``, ``tokenizer`` and ``model_type``.
        template: ``chat``, the processor's own template, or ``plain``: USER and ASSISTANT.
        system: what the model is told first; empty for nothing.
        videos: whether clips are shown as videos, not as several pictures.

    Raises:
        CheckpointError: the processor has no chat template, or one that leaves pictures out.
        RecipeError: a system line for a family that knows none.
    """

    llm: Any

    def __init__(self, llm: Any, template: TemplateName, system: str, videos: bool) -> None:
        self.llm, self.template, self.system, self.videos = llm, template, system, videos
        self.end = llm.tokenizer.eos_token_id
        self.encode = lru_cache(maxsize=4096)(self._encode)
        self._form = _OWN.get(llm.model_type, "")
        if self._form and system:
            raise RecipeError(f"model.prompts.system: {llm.model_type} takes a question alone")
        self._read_template()

    def text(self, prompt: Prompt) -> str:
        """Return a prompt as text, ending where the model has to answer.

        Raises:
            RecipeError: the family takes one question about pictures, not a conversation.
        """
        if self._form:
            if len(prompt.exchanges) > 1:
                raise RecipeError(
                    f"model: {self.llm.model_type} takes one question at a time; few-shot examples "
                    "and conversations need a model that chats"
                )
            (asked,) = prompt.exchanges
            images = self._image * sum(len(clip) for clip in asked.media)
            return self._form.format(images=images, question=asked.question) + prompt.begun
        return self._render(prompt.exchanges) + (self._space + prompt.begun if prompt.begun else "")

    @property
    def converses(self) -> bool:
        """Whether the family takes several questions, one after another."""
        return not self._form

    def behind(self, begun: str) -> "Chat":
        """Return the format of answers that follow a beginning which ends as ``begun`` does."""
        other = copy(self)
        other._tail, other._space = begun, " " if begun.endswith(":") else ""
        return other

    def _render(self, exchanges: Sequence[Exchange], ask: bool = True) -> str:
        if self.template == "plain":
            return self._plain(exchanges)
        text = self.llm.processor.apply_chat_template(
            self.messages(exchanges), tokenize=False, add_generation_prompt=ask
        )
        return str(text).rstrip(" ") if ask else str(text)

    def messages(
        self, exchanges: Sequence[Exchange], picture: Callable[[Tensor], Any] | None = None
    ) -> list[dict[str, Any]]:
        """Return a conversation as chat templates take it.

        Args:
            exchanges: earlier ones and, last, the one to be answered.
            picture: what is put in for a frame (3, H, W), by the key ``image``; absent, nothing,
                and clips are videos where the model's are.
        """
        messages: list[dict[str, Any]] = []
        if self.system:
            messages.append({"role": "system", "content": [{"type": "text", "text": self.system}]})
        for exchange in exchanges:
            content: list[dict[str, Any]] = [
                part for clip in exchange.media for part in self._parts(clip, picture)
            ]
            content.append({"type": "text", "text": exchange.question})
            messages.append({"role": "user", "content": content})
            if exchange.answer:
                said = [{"type": "text", "text": exchange.answer}]
                messages.append({"role": "assistant", "content": said})
        return messages

    def _parts(self, clip: Tensor, picture: Callable[[Tensor], Any] | None) -> list[dict[str, Any]]:
        if picture is None:
            return [{"type": kind} for kind in self._kinds(clip)]
        return [{"type": "image", "image": picture(frame)} for frame in clip]

    def _kinds(self, clip: Tensor) -> list[str]:
        return ["video"] if self.videos and len(clip) > 1 else ["image"] * len(clip)

    def _plain(self, exchanges: Sequence[Exchange]) -> str:
        parts = [f"{self.system} "] if self.system else []
        for asked in exchanges:
            kinds = [kind for clip in asked.media for kind in self._kinds(clip)]
            tokens = {"image": self._image, "video": getattr(self.llm.processor, "video_token", "")}
            media = "".join(f"{tokens[kind]}\n" for kind in kinds)
            parts.append(f"USER: {media}{asked.question} ASSISTANT:")
            if asked.answer:
                parts.append(f" {asked.answer}{self.llm.tokenizer.eos_token}")
        return "".join(parts)

    @property
    def _image(self) -> str:
        token = self.llm.processor.image_token
        return str(getattr(token, "content", token))

    def _read_template(self) -> None:
        """Find out what stands before, and after, an answer."""
        if self._form:
            self._tail = self._form.rpartition("}")[2] or "\n"
            self._space = " " if self._tail.endswith(":") else ""
            return
        if self.template == "plain":
            self._tail, self._space = "ASSISTANT:", " "
            return
        if not getattr(self.llm.processor, "chat_template", None):
            raise CheckpointError(
                f"{self.llm.title}: its processor has no chat template, which a model that was not "
                "tuned to follow instructions lacks; take its instruction-tuned kind, or say "
                "model.template: plain"
            )
        asked = [Exchange((), "@@")]
        self._tail = self._render(asked).rpartition("@@")[2]
        self._space, after = self._around_answer(asked)
        ids = self.encode(after)
        if ids and ids[0] in self.llm.special:
            self.end = ids[0]

    def _around_answer(self, asked: list[Exchange]) -> tuple[str, str]:
        """Return what the template puts between the prompt and an answer, and behind it."""
        before = self._render(asked)
        said = self._render([Exchange((), "@@", "@#@")], ask=False)
        if not said.startswith(before) or "@#@" not in said:
            return "" if before.endswith("\n") else " ", ""
        space, _, after = said[len(before) :].partition("@#@")
        return space, after
