"""A set of questions put to models that answer in words."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol, cast, get_args

import numpy as np
import torch
from rich.progress import track
from torch import Tensor

from faceaffect.data.image import IMAGE_SIZE, resize
from faceaffect.data.questions import LETTERS, WISHES, Question, QuestionSet, lettered
from faceaffect.errors import DataError, RecipeError
from faceaffect.progress import console
from faceaffect.registry import names_with
from faceaffect.scores.replies import read_letter, read_number, read_yes_no

Answers = Literal["auto", "score", "generate"]

THINK = "Think step by step about what the face shows. Do not answer yet."
"""What stands behind a question that is thought about before it is answered."""


class Answering(Protocol):
    """What a model has that can be asked.

    A model may have more. ``weigh(media, question, options)`` returns how likely each option is as
    the answer, on any scale that grows with it; without it answers are generated.
    ``say_all(asked)`` answers several at once, each a name, media and a question; ``at_once`` says
    how many questions are handed over together. ``begin_asking()`` and ``end_asking()`` stand
    around a set; what the latter returns goes into the result.
    """

    def say_about(self, media: Sequence[Tensor], question: str) -> str:
        """Answer a question about pictures and clips, each (T, 3, H, W) uint8, or about none."""


@dataclass(frozen=True)
class Asking:
    """How a set is asked.

    Args:
        frames: of a clip.
        image_size: side in pixels of what a model is shown; by default what it was trained on.
        repeats: so many orders of the options, drawn with the seed.
        blind: ask a second time without pictures.
        answers: ``score`` takes the likelihood of each letter, of yes and of no; ``generate`` reads
            what a model says, unreadable replies being wrong; ``auto`` scores if every model that
            is asked can be scored. Numbers and open questions are always generated.
        seed: of the orders.

    Raises:
        RecipeError: a number is out of range.
    """

    frames: int = 8
    image_size: int | None = None
    repeats: int = 1
    blind: bool = True
    answers: Answers = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("frames", "repeats"):
            if not 1 <= getattr(self, name) <= 1000:
                raise RecipeError(f"data.{name}: {getattr(self, name)} is not between 1 and 1000")
        if self.image_size is not None and not 1 <= self.image_size <= 4096:
            raise RecipeError(f"data.image_size: {self.image_size} is not between 1 and 4096")
        if self.answers not in get_args(Answers):
            named = ", ".join(get_args(Answers))
            raise RecipeError(f"data.answers: '{self.answers}' is none of {named}")

    def settled(self, models: Mapping[str, Any]) -> "Asking":
        """Return the same with ``answers`` decided, alike for all models.

        Raises:
            RecipeError: likelihoods are wanted, and a model has none.
        """
        without = [name for name, model in models.items() if not hasattr(model, "weigh")]
        if self.answers == "score" and without:
            raise RecipeError(
                f"data.answers: score, but {without[0]} gives no likelihoods; say generate"
            )
        if self.answers != "auto":
            return self
        return replace(self, answers="generate" if without else "score")


@dataclass(frozen=True)
class Answer:
    """One answer to one question.

    Attributes:
        id: of the question.
        repeat: which order of the options.
        blind: asked without pictures.
        said: the answer as it was read: a letter in the set's own order, yes or no, a number, or
            the whole text of an open question; None where it could not be read.
        text: what the model said, empty where it was scored.
        shown: the letter that was chosen in the order shown.
        right: None for an open question.
        thoughts: what it said before, where it was asked to think first.
    """

    id: str
    repeat: int
    blind: bool
    said: str | None
    text: str
    shown: str
    right: bool | None
    thoughts: str = ""


@dataclass
class Posed:
    """A question as it is put.

    Attributes:
        asked: the question.
        media: pictures and clips, each (T, 3, H, W) uint8; none where it is put blindly.
        blind: without pictures that there are.
        repeat: which order of the options.
        order: of the options, empty if there are none.
        thoughts: what the model thought of it.
    """

    asked: Question
    media: Sequence[Tensor]
    blind: bool = False
    repeat: int = 0
    order: Sequence[int] = ()
    thoughts: str = ""

    @property
    def name(self) -> str:
        """What names it in messages."""
        return f"{self.asked.id}, {'blind, ' if self.blind else ''}order {self.repeat + 1}"

    @property
    def letters(self) -> str:
        """The letters of the options."""
        return LETTERS[: len(self.order)]

    @property
    def shown(self) -> list[str]:
        """The options in the order in which they are shown."""
        return [self.asked.options[i] for i in self.order]

    @property
    def choices(self) -> list[str]:
        """What can be weighed; empty where the answer is generated always."""
        return {"options": list(self.letters), "yes_no": ["yes", "no"]}.get(self.asked.form, [])

    @property
    def question(self) -> str:
        """The question with its options."""
        return lettered(self.asked.question, self.shown)

    @property
    def prompt(self) -> str:
        """The question with its options, what was thought of it, and the wish for an answer."""
        thought = f"\nThoughts: {self.thoughts}" if self.thoughts else ""
        joint = "\n" if self.order or thought else " "
        wish = WISHES[self.asked.form]
        return f"{self.question}{thought}{joint}{wish}" if wish else self.question + thought

    def answered(self, text: str) -> Answer:
        """Return what was said as it is read."""
        if self.order:
            place = read_letter(text, self.shown)
            return self.chosen(None if place is None else self.letters[place], text)
        said: str | None = text
        if self.asked.form == "yes_no":
            said = read_yes_no(text)
        elif self.asked.form == "numeric":
            number = read_number(text)
            said = None if number is None else f"{number:g}"
        return self.chosen(said, text)

    def chosen(self, said: str | None, text: str = "") -> Answer:
        """Return what was chosen: of options a letter in the order shown."""
        letter = said or "" if self.order else ""
        if letter:
            said = LETTERS[self.order[self.letters.index(letter)]]
        right = is_right(self.asked, said)
        return Answer(
            self.asked.id, self.repeat, self.blind, said, text, letter, right, self.thoughts
        )


def answering(model: Any) -> Answering:
    """Return a model that can be asked.

    Raises:
        RecipeError: it does not answer in words.
    """
    if not hasattr(model, "say_about"):
        others = ", ".join(names_with("models", "say_about"))
        raise RecipeError(
            f"{type(model).__name__} gives no answers in words; models that do: {others}"
        )
    return cast(Answering, model)


def put(model: Any, asked: QuestionSet, how: Asking) -> tuple[list[Answer], dict[str, str]]:
    """Put all questions to a model.

    Args:
        model: that :func:`answering` takes.
        asked: the questions.
        how: to ask.

    Returns:
        The answers, and the questions that were left out since a medium is missing or unreadable:
        id to reason.

    Raises:
        RecipeError: the model does not answer in words, or gives no likelihoods that are wanted.
        DataError: no question could be asked.
    """
    speaker, how = answering(model), how.settled({type(model).__name__: model})
    answers: list[Answer] = []
    skipped: dict[str, str] = {}
    total, at_once = len(asked.questions), getattr(model, "at_once", 1)
    starts = range(0, total, at_once)
    for start in track(starts, "asking", len(starts), console=console, transient=True):
        some = asked.questions[start : start + at_once]
        answers += _answers(speaker, list(pose(some, asked, how, model, skipped)), how)
    if not answers:
        raise DataError(
            f"{asked.name}: none of {total} questions could be asked: "
            f"{next(iter(skipped.values()))}"
        )
    return answers, skipped


def pose(
    questions: Sequence[Question], asked: QuestionSet, how: Asking, model: Any,
    skipped: dict[str, str],
) -> Iterator[Posed]:  # fmt: skip
    """Yield questions as they are put: seeing and blind, in every order of the options.

    Args:
        questions: of the set.
        asked: the set.
        how: to ask.
        model: whose size of pictures is taken where nothing else is said.
        skipped: gets the questions whose media cannot be read, with the reason.
    """
    size = how.image_size or getattr(model, "image_size", None) or IMAGE_SIZE
    for question in questions:
        try:
            media = [_pixels(asked, name, how.frames, size) for name in question.media]
        except (DataError, OSError) as error:
            skipped[question.id] = str(error)
            continue
        count = len(question.options)
        turns = orders(count, how.repeats, (how.seed, question.id)) if count else [[]]
        for blind in (False, True) if how.blind and media else (False,):
            for repeat, order in enumerate(turns):
                yield Posed(question, [] if blind else media, blind, repeat, order)


def _pixels(asked: QuestionSet, name: str, frames: int, size: int) -> Tensor:
    pictures = np.stack([resize(frame, size) for frame in asked.load(name, frames)])
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).contiguous()


def _answers(model: Any, posed: Sequence[Posed], how: Asking) -> list[Answer]:
    """Return the answers in order; thoughts are asked for first, and what can be is weighed."""
    thinking = [one for one in posed if one.asked.think]
    thoughts = _said(model, thinking, [f"{one.question}\n{THINK}" for one in thinking])
    for one, text in zip(thinking, thoughts, strict=True):
        one.thoughts = text.strip()
    weighed = {
        n: one.chosen(one.choices[int(np.argmax(model.weigh(one.media, one.prompt, one.choices)))])
        for n, one in enumerate(posed)
        if how.answers == "score" and one.choices
    }
    others = {n: one for n, one in enumerate(posed) if n not in weighed}
    texts = _said(model, list(others.values()), [one.prompt for one in others.values()])
    read = {n: one.answered(text) for (n, one), text in zip(others.items(), texts, strict=True)}
    both = weighed | read
    return [both[n] for n in range(len(posed))]


def _said(model: Any, posed: Sequence[Posed], prompts: Sequence[str]) -> list[str]:
    asked = [(one.name, one.media, words) for one, words in zip(posed, prompts, strict=True)]
    if hasattr(model, "say_all"):
        return list(model.say_all(asked)) if asked else []
    return [model.say_about(media, words) for _, media, words in asked]


def is_right(asked: Question, said: str | None) -> bool | None:
    """Return whether an answer as it was read is the key; None for an open question."""
    if asked.form == "open":
        return None
    if asked.form == "numeric":
        return said is not None and float(said) == float(asked.key)
    return said == asked.key


def orders(count: int, repeats: int, seed: tuple[int, str]) -> list[list[int]]:
    """Return an order of the options for each repeat, the same on every machine.

    The right answer is moved through the letters as evenly as the repeats allow: each order is a
    rotation of one random order.

    Args:
        count: of options.
        repeats: orders wanted.
        seed: a number, and the question's id.
    """
    rng = np.random.default_rng((seed[0], *seed[1].encode()))
    first = rng.permutation(count)
    turn = int(rng.integers(count))
    return [np.roll(first, turn + repeat).tolist() for repeat in range(repeats)]
