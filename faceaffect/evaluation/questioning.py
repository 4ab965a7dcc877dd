"""A set of questions put to models that answer in words."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, cast

import numpy as np
import torch
from rich.progress import track
from torch import Tensor

from faceaffect.data.image import resize
from faceaffect.data.questions import LETTERS, Question, QuestionSet
from faceaffect.errors import DataError, RecipeError
from faceaffect.progress import console
from faceaffect.registry import names_with
from faceaffect.scores.replies import read_letter, read_number, read_yes_no

Answers = Literal["score", "generate"]


class Answering(Protocol):
    """What a model has that can be asked; whatever fills these two takes every set."""

    def say_about(self, media: Sequence[Tensor], question: str) -> str:
        """Answer a question about pictures and clips, each (T, 3, H, W) uint8, or about none."""

    def weigh(self, media: Sequence[Tensor], question: str, options: Sequence[str]) -> list[float]:
        """Return how likely each option is as the answer, on any scale that grows with it."""


@dataclass(frozen=True)
class Asking:
    """How a set is asked.

    Args:
        frames: of a clip.
        image_size: side in pixels of what a model is shown; by default what it was trained on.
        repeats: so many orders of the options, drawn with the seed.
        blind: ask a second time without pictures.
        answers: ``score`` takes the likelihood of each letter, of yes and of no; ``generate`` reads
            what a model says, unreadable replies being wrong. Numbers and open questions are always
            generated.
        seed: of the orders.

    Raises:
        RecipeError: a number is out of range.
    """

    frames: int = 8
    image_size: int | None = None
    repeats: int = 1
    blind: bool = True
    answers: Answers = "score"
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("frames", "repeats"):
            if not 1 <= getattr(self, name) <= 1000:
                raise RecipeError(f"data.{name}: {getattr(self, name)} is not between 1 and 1000")
        if self.image_size is not None and not 1 <= self.image_size <= 4096:
            raise RecipeError(f"data.image_size: {self.image_size} is not between 1 and 4096")
        if self.answers not in ("score", "generate"):
            raise RecipeError(f"data.answers: '{self.answers}' is neither score nor generate")


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
    """

    id: str
    repeat: int
    blind: bool
    said: str | None
    text: str
    shown: str
    right: bool | None


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
        RecipeError: the model does not answer in words.
        DataError: no question could be asked.
    """
    speaker = answering(model)
    size = how.image_size or getattr(model, "image_size", None) or 112
    answers: list[Answer] = []
    skipped: dict[str, str] = {}
    total = len(asked.questions)
    for question in track(asked.questions, "asking", total, console=console, transient=True):
        try:
            media = [_pixels(asked, name, how.frames, size) for name in question.media]
        except (DataError, OSError) as error:
            skipped[question.id] = str(error)
            continue
        for blind in (False, True) if how.blind and media else (False,):
            answers += _answers(speaker, question, [] if blind else media, how, blind)
    if not answers:
        raise DataError(
            f"{asked.name}: none of {total} questions could be asked: "
            f"{next(iter(skipped.values()))}"
        )
    return answers, skipped


def _pixels(asked: QuestionSet, name: str, frames: int, size: int) -> Tensor:
    pictures = np.stack([resize(frame, size) for frame in asked.load(name, frames)])
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).contiguous()


def _answers(
    model: Answering, asked: Question, media: Sequence[Tensor], how: Asking,
    blind: bool,
) -> Iterator[Answer]:  # fmt: skip
    if asked.form != "options":
        text, said = _plain(model, asked, media, how)
        yield Answer(asked.id, 0, blind, said, text, "", is_right(asked, said))
        return
    for repeat, order in enumerate(orders(len(asked.options), how.repeats, (how.seed, asked.id))):
        shown = [asked.options[i] for i in order]
        letters = LETTERS[: len(order)]
        prompt = lettered(asked.question, shown)
        text = ""
        if how.answers == "score":
            place: int | None = int(np.argmax(model.weigh(media, prompt, list(letters))))
        else:
            text = model.say_about(media, prompt)
            place = read_letter(text, shown)
        said = None if place is None else LETTERS[order[place]]
        letter = "" if place is None else letters[place]
        yield Answer(asked.id, repeat, blind, said, text, letter, said == asked.key)


def _plain(
    model: Answering, asked: Question, media: Sequence[Tensor], how: Asking
) -> tuple[str, str | None]:
    """Return what was said to a question without options, and how it is read."""
    if asked.form == "yes_no":
        prompt = f"{asked.question} Answer yes or no."
        if how.answers == "score":
            yes, no = model.weigh(media, prompt, ["yes", "no"])
            return "", "yes" if yes > no else "no"
        text = model.say_about(media, prompt)
        return text, read_yes_no(text)
    if asked.form == "numeric":
        text = model.say_about(media, f"{asked.question} Answer with a number.")
        number = read_number(text)
        return text, None if number is None else f"{number:g}"
    text = model.say_about(media, asked.question)
    return text, text


def is_right(asked: Question, said: str | None) -> bool | None:
    """Return whether an answer as it was read is the key; None for an open question."""
    if asked.form == "open":
        return None
    if asked.form == "numeric":
        return said is not None and float(said) == float(asked.key)
    return said == asked.key


def lettered(question: str, options: Sequence[str]) -> str:
    """Return a question with its options, a line each, and the wish for a letter."""
    lines = [f"{LETTERS[n]}. {option}" for n, option in enumerate(options)]
    return "\n".join([question, *lines, "Answer with the letter of the best option only."])


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
