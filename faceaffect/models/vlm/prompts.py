"""Prompts as data: what is asked for each task, in which form, in whose words."""

import string
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, cast, get_args

import torch
from numpy.random import Generator
from torch import Tensor

from faceaffect.components import Options
from faceaffect.errors import RecipeError
from faceaffect.instructions import phrases
from faceaffect.instructions.items import (
    Labels,
    Turn,
    au_answer,
    evidence,
    expression_answer,
    pick,
    va_answer,
)
from faceaffect.models.emo_llama.packing import Text
from faceaffect.models.emo_llama.prompts import Prompter
from faceaffect.models.vlm.chat import Chat, Exchange, Prompt
from faceaffect.models.vlm.shots import Shot
from faceaffect.schema import LabelSchema
from faceaffect.scores.vocabulary import AU_NAMES

Form = Literal["options", "signs", "yes_no", "describe", "retell", "think"]
OPEN = ("describe", "retell")
"""Forms that have the model describe the face first."""

YES_NO = "Is AU{au} ({name}) active on the face in the {media}? Answer yes or no."
THINK = " Think step by step about the visible signs first."
CONCLUDE = "\nAnswer:"
DESCRIBE = phrases.CONVERSATION_QUESTIONS[2]
"""What the open forms ask first; the same for all tasks, so that it is said once."""

_HOLES = {
    "expression": {"media", "options"},
    "au": {"media", "options", "au", "name"},
    "va": {"media"},
}


@dataclass(frozen=True)
class TaskPrompt:
    """How one task is asked.

    Args:
        form: ``options``: all options in one question; ``signs``: the same for AUs, each in the
            words of what it looks like; ``yes_no``: a question for each AU;
            ``describe``: an open question, the answer read by grammar; ``retell``: the model
            describes the face, then the options are asked about its words alone; ``think``: the
            model reasons about the question, and the options follow its reasons.
        question: in own words, with ``{media}`` (image or video), ``{options}`` (the classes or
            AUs), for ``yes_no`` ``{au}`` (its number) and ``{name}``; absent, the package's own.

    Raises:
        RecipeError: an unknown form.
    """

    form: Form = "options"
    question: str | None = None

    def __post_init__(self) -> None:
        if self.form not in get_args(Form):
            raise RecipeError(
                f"model.prompts: '{self.form}' is no form; choose one of: "
                f"{', '.join(get_args(Form))}"
            )


@dataclass(frozen=True)
class Prompts:
    """What a model is asked.

    Args:
        system: what it is told before all else.
        expression: how classes are asked for.
        au: how AUs are asked for.
        va: how valence and arousal are asked for.
    """

    system: str = ""
    expression: Annotated[dict[str, Any] | None, Options(TaskPrompt)] = None
    au: Annotated[dict[str, Any] | None, Options(TaskPrompt)] = None
    va: Annotated[dict[str, Any] | None, Options(TaskPrompt)] = None

    def tasks(self, schema: LabelSchema) -> dict[str, TaskPrompt]:
        """Return the prompt of each task of a schema, checked against it.

        Raises:
            RecipeError: a prompt asks for what the schema lacks, or has a hole that nothing fills.
        """
        found = {}
        for task in _HOLES:
            given = getattr(self, task)
            if task not in schema.tasks:
                if given is not None:
                    raise RecipeError(
                        f"model.prompts.{task}: the data has no such labels; it has: "
                        f"{', '.join(schema.tasks)}"
                    )
                continue
            found[task] = TaskPrompt(**(given or {}))
            _check(task, found[task])
        return found


def _check(task: str, prompt: TaskPrompt) -> None:
    if prompt.form in ("signs", "yes_no") and task != "au":
        raise RecipeError(f"model.prompts.{task}.form: {prompt.form} is about AUs")
    allowed = _HOLES[task] - (set() if prompt.form == "yes_no" else {"au", "name"})
    try:
        holes = [
            hole
            for _, hole, _, _ in string.Formatter().parse(prompt.question or "")
            if hole is not None
        ]
    except ValueError as error:
        raise RecipeError(f"model.prompts.{task}.question: {error}") from None
    for hole in holes:
        if hole not in allowed:
            raise RecipeError(
                f"model.prompts.{task}.question: nothing fills {{{hole}}}; it may hold "
                f"{', '.join(f'{{{name}}}' for name in sorted(allowed))}"
            )
    if prompt.form == "yes_no" and prompt.question and not {"au", "name"} & set(holes):
        raise RecipeError(
            f"model.prompts.{task}.question: asks the same of every AU; name it by "
            "{au} or {name}"
        )


class Asker(Prompter):
    """Writes the prompts of one batch.

    Args:
        schema: the labels asked for.
        chat: the model's format.
        clips: the frames (T, 3, H, W) of each sample.
        forms: how each task is asked.
        shots: examples that stand before a task's question.
    """

    def __init__(
        self,
        schema: LabelSchema,
        chat: Chat,
        clips: Sequence[Tensor],
        forms: dict[str, TaskPrompt],
        shots: Sequence[Shot] = (),
    ) -> None:
        media = ["video" if len(clip) > 1 else "image" for clip in clips]
        super().__init__(schema, chat, [0] * len(media), [""] * len(media), media)
        self.chat, self.clips, self.forms, self.shots = chat, clips, forms, shots
        self.said: dict[tuple[str, ...], list[str]] = {}

    def ask(self, sample: int, question: str, earlier: Sequence[Turn] = ()) -> Prompt:
        """Return a prompt without answers; its pictures stand before the first question."""
        turns = [*earlier, (question, "")]
        exchanges = [
            Exchange((self.clips[sample],) if number == 0 else (), asked, answer)
            for number, (asked, answer) in enumerate(turns)
        ]
        return Prompt([], sample=sample, exchanges=exchanges)

    def tell(self, sample: int, turns: Sequence[Turn]) -> Prompt:
        """Return a dialogue to learn; its first answer alone where a family takes one question."""
        told: Any = super().tell(sample, turns if self.chat.converses else turns[:1])
        return cast(Prompt, told)

    def unanswered(self, sample: int, task: str) -> Prompt:
        """Return a task's question behind the examples, without answers."""
        own = self.forms[task]
        write = self.describing if own.form in OPEN else self.question
        prompt = self.ask(sample, write(sample, task))
        for shot in self.shots:
            answer = answer_of(task, shot.labels, self.forms[task].form)
            if answer is not None:
                asked = Exchange((shot.clip,), self.question(sample, task), answer)
                prompt.exchanges.insert(-1, asked)
        return prompt

    def score(self, sample: int, task: str) -> list[Prompt]:  # type: ignore[override]
        """Return the questions of a task with every option, in the order of the schema."""
        if self.forms[task].form == "yes_no":
            return [self._is_active(sample, au) for au in self.schema.aus]
        prompt = self.unanswered(sample, task)
        prompt.branches = self.branches(task, self.chat)
        return [prompt]

    def about(self, sample: int, task: str, words: str) -> Prompt:
        """Return a task's question about words that stand for the picture, with every option."""
        asked = Exchange((), f"{words}\n{self.question(sample, task)}")
        return Prompt([], self.branches(task, self.chat), sample=sample, exchanges=[asked])

    def branches(self, task: str, chat: Chat) -> list[list[Text]]:
        """Return the options of a task as they follow a prompt of a format."""
        own, self.dialogue = self.dialogue, chat
        try:
            return [option.texts() for choice in self.choices(task) for option in choice]
        finally:
            self.dialogue = own

    def _is_active(self, sample: int, au: int) -> Prompt:
        prompt = self.ask(sample, self.yes_no(au, sample))
        for shot in self.shots:
            if au in shot.labels.aus:
                said = "yes" if shot.labels.aus[au] else "no"
                asked = Exchange((shot.clip,), self.yes_no(au, sample), said)
                prompt.exchanges.insert(-1, asked)
        pair = self.chat.options(["yes", "no"], ended=False)
        prompt.branches = [option.texts() for option in pair]
        return prompt

    def question(self, sample: int, task: str, rng: Generator | None = None) -> str:
        """Return a task's question in the recipe's words, else in the package's."""
        own = self.forms[task]
        if own.form == "signs" and own.question is None:
            asked = pick(phrases.SIGN_QUESTIONS, rng).format(media=self.media[sample])
        elif own.question is None or own.form in ("yes_no", *OPEN):
            asked = super().question(sample, task, rng)
        else:
            asked = self._filled(own.question, sample, task)
        return asked + (THINK if own.form == "think" else "")

    def describing(self, sample: int, task: str) -> str:
        """Return the open question of the forms in :data:`OPEN`."""
        return self._filled(self.forms[task].question or DESCRIBE, sample, task)

    def _filled(self, question: str, sample: int, task: str) -> str:
        names = [expression_answer(name) for name in self.schema.expressions]
        if task == "au":
            signs = self.forms["au"].form == "signs"
            names = [sign_of(au) if signs else f"AU{au}" for au in self.schema.aus]
        return question.format(media=self.media[sample], options=", ".join(names))

    def yes_no(self, au: int, sample: int) -> str:
        """Return the question whether an AU is active."""
        form = self.forms["au"].question or YES_NO
        options = ", ".join(f"AU{number}" for number in self.schema.aus)
        name = AU_NAMES.get(au, (f"AU{au}",))[0]
        return form.format(au=au, name=name, media=self.media[sample], options=options)

    def choices(self, task: str) -> list[list[Any]]:
        """Return the options of each choice; of the form ``signs`` in words."""
        if task != "au" or self.forms["au"].form != "signs":
            return super().choices(task)
        pairs = [[f"{sign_of(au)}: {said}" for said in ("yes", "no")] for au in self.schema.aus]
        return [self.dialogue.options(pair, ended=False) for pair in pairs]

    def whole(self, task: str, labels: Labels, rng: Generator) -> str:
        """Return the one text that says all AUs, in words of ``signs``, or both values."""
        if task == "au" and self.forms["au"].form == "signs":
            return evidence(labels, rng)
        return super().whole(task, labels, rng)

    def learn(
        self, sample: int, task: str, labels: Labels, rng: Generator, weights: dict[int, float]
    ) -> Any:
        """Return a task's question with the right options; of ``yes_no`` a question for each AU."""
        if self.forms[task].form != "yes_no":
            return super().learn(sample, task, labels, rng, weights)
        prompts = []
        for au, on in labels.aus.items():
            prompt = self.ask(sample, self.yes_no(au, sample))
            pair = self.chat.options(["yes", "no"], ended=False)
            prompt.branches = [pair[0 if on else 1].texts()]
            prompts.append(prompt)
        return prompts or None


def sign_of(au: int) -> str:
    """Return what an active AU looks like, in words; else its name, else its number."""
    return (*phrases.AU_SIGNS.get(au, ()), *AU_NAMES.get(au, ()), f"AU{au}")[0]


def answer_of(task: str, labels: Labels, form: str = "options") -> str | None:
    """Return the words that answer a task for known labels; None where they are not known."""
    if task == "expression" and labels.expression is not None:
        return expression_answer(labels.expression)
    if task == "au" and labels.aus:
        return evidence(labels, None) if form == "signs" else au_answer(labels.active)
    if task == "va" and labels.va is not None:
        return va_answer(labels.va)
    return None


def centred(scores: Tensor, blank: Tensor) -> Tensor:
    """Return scores less those of a picture that shows nothing (Zhao et al. 2021).

    What a model prefers to say whatever it sees is taken out of its answers.

    Args:
        scores: (B, options) log-likelihoods.
        blank: (1, options) of a grey picture.
    """
    return torch.where(torch.isfinite(scores), scores - blank, scores)
