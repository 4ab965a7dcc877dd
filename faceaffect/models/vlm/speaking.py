"""What a vision-language model says: scores of options, and answers in free words."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from transformers import TextStreamer

from faceaffect.data.batch import FaceBatch
from faceaffect.errors import harmless
from faceaffect.models.emo_llama.prompts import probabilities
from faceaffect.models.vlm.chat import Chat, Exchange, Prompt
from faceaffect.models.vlm.net import VisionLanguageModel
from faceaffect.models.vlm.prompts import CONCLUDE, Asker, TaskPrompt, centred
from faceaffect.models.vlm.shots import Shot
from faceaffect.schema import LabelSchema

DESCRIBE = "Describe the emotion in the {media} and the facial evidence for it."
"""What :meth:`Speaking.describe` asks if nothing else is asked."""


class _Printed(TextStreamer):
    """Prints an answer as it comes; nothing in it moves the terminal."""

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        super().on_finalized_text(harmless(text), stream_end)


class Speaking:
    """The answers of a model that has what stands here.

    Attributes:
        llm: the model.
        chat: its format.
        schema: what is answered.
        forms: how each task is asked.
        calibration: ``blank`` takes from every score that of a grey picture.
        max_new_tokens: of a generated answer.
        training: whether the model is in training mode.
    """

    llm: VisionLanguageModel
    chat: Chat
    schema: LabelSchema
    forms: dict[str, TaskPrompt]
    calibration: str
    max_new_tokens: int
    training: bool
    _blank: dict[str, Tensor]

    def asker(self, batch: FaceBatch) -> Asker:
        """Return the writer of a batch's prompts."""
        raise NotImplementedError

    def scores(self, asker: Asker, task: str) -> Tensor:
        """Return the predictions of a task by the likelihood of each option."""
        scores = self._likelihoods(asker, task)
        if self.calibration == "blank":
            scores = centred(scores, self._of_blank(asker, task))
        return probabilities(scores, task, self.schema)

    def _likelihoods(self, asker: Asker, task: str) -> Tensor:
        """Return (B, options) log-likelihoods, in the order of the schema."""
        count, form = len(asker.clips), self.forms[task].form
        if form == "retell":
            words = self.say(asker, task)
            prompts = [asker.about(sample, task, words[sample]) for sample in range(count)]
        else:
            prompts = [p for sample in range(count) for p in asker.score(sample, task)]
        if form == "think":
            self._reason(asker, prompts, task)
        return self.llm.scores(prompts, self.chat).reshape(count, -1)

    def _reason(self, asker: Asker, prompts: Sequence[Prompt], task: str) -> None:
        """Let the model think, and have the options follow what it thought."""
        thoughts = self.llm.generate(prompts, self.chat, self.max_new_tokens)
        concluding = self.chat.behind(CONCLUDE)
        branches = asker.branches(task, concluding)
        for prompt, thought in zip(prompts, thoughts, strict=True):
            prompt.begun = thought + CONCLUDE
            prompt.branches = branches

    def _of_blank(self, asker: Asker, task: str) -> Tensor:
        """Return (1, options) scores of a grey picture of the same shape."""
        clip = asker.clips[0]
        early = self.llm.exit is not None and not self.llm.exit.off
        key = f"{task} {tuple(clip.shape[-2:])} {self.training} {early}"
        if key not in self._blank or self.llm.training or torch.is_grad_enabled():
            grey = torch.full_like(clip[:1], 127)
            other = Asker(self.schema, self.chat, [grey], self.forms, asker.shots)
            self._blank[key] = self._likelihoods(other, task)
        return self._blank[key]

    def say(
        self, asker: Asker, task: str = "", *, question: str = "", streamer: Any = None
    ) -> list[str]:
        """Return greedy answers to a task's question, or to any other."""
        prompts = []
        for sample, media in enumerate(asker.media):
            if task:
                prompts.append(asker.unanswered(sample, task))
            else:
                prompts.append(asker.ask(sample, question.format(media=media)))
        key = tuple(prompt.exchanges[-1].question for prompt in prompts)
        if key not in asker.said:
            asker.said[key] = self.llm.generate(prompts, self.chat, self.max_new_tokens, streamer)
        return asker.said[key]

    @torch.no_grad()
    def describe(
        self, batch: FaceBatch, question: str | None = None, *, stream: bool = False
    ) -> list[str]:
        """Answer a question about each face in free words.

        Args:
            batch: images or clips; no labels are needed.
            question: by default :data:`DESCRIBE`.
            stream: print the answer as it comes; for one face.
        """
        streamer = None
        if stream:
            streamer = _Printed(self.llm.tokenizer, skip_prompt=True, skip_special_tokens=True)
        asked = DESCRIBE if question is None else question.replace("{", "{{").replace("}", "}}")
        return self.say(self.asker(batch), question=asked, streamer=streamer)

    # Questions of a set

    @torch.no_grad()
    def say_about(self, media: Sequence[Tensor], question: str) -> str:
        """Answer a question about several pictures and clips, or about none, in free words.

        Args:
            media: each (T, 3, H, W) uint8; of a picture T is 1.
            question: in words.
        """
        prompt = self._about(media, question)
        (text,) = self.llm.generate([prompt], self.chat, self.max_new_tokens)
        return text

    @torch.no_grad()
    def weigh(self, media: Sequence[Tensor], question: str, options: Sequence[str]) -> list[float]:
        """Return the log-likelihood of each option as the answer; see :meth:`say_about`."""
        prompt = self._about(media, question)
        prompt.branches = [option.texts() for option in self.chat.options(options)]
        scores: list[float] = self.llm.scores([prompt], self.chat)[0].tolist()
        return scores

    @torch.no_grad()
    def name_by_examples(
        self, clips: Sequence[Tensor], names: Sequence[str], shots: Sequence[Shot]
    ) -> Tensor:
        """Return (B, N) probabilities of classes that examples before each question show.

        The classes are asked for in the words of the recipe if it gives all options in one
        question, else in the package's own; the model's own schema does not matter.

        Args:
            clips: B faces (T, 3, H, W) uint8.
            names: the N classes.
            shots: examples of them.
        """
        own = self.forms.get("expression", TaskPrompt())
        forms = {"expression": own if own.form == "options" else TaskPrompt()}
        device = self.llm.device
        there = [replace(shot, clip=shot.clip.to(device)) for shot in shots]
        schema = LabelSchema(expressions=tuple(names))

        def likelihoods(media: list[Tensor]) -> Tensor:
            asker = Asker(schema, self.chat, media, forms, there)
            prompts = [p for i in range(len(media)) for p in asker.score(i, "expression")]
            return self.llm.scores(prompts, self.chat).reshape(len(media), -1)

        media = [clip.to(device) for clip in clips]
        scores = likelihoods(media)
        if self.calibration == "blank":
            scores = centred(scores, likelihoods([torch.full_like(media[0][:1], 127)]))
        return probabilities(scores, "expression", schema)

    def _about(self, media: Sequence[Tensor], question: str) -> Prompt:
        clips = tuple(clip.to(self.llm.device) for clip in media)
        return Prompt([], exchanges=[Exchange(clips, question)])
