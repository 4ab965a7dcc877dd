"""Conversations about labelled faces, asked of a model behind an endpoint and kept as they come.

Answers are appended to a JSON-lines file the moment they arrive, so that a crash loses nothing and
a restart repeats only the requests in flight.
"""

import asyncio
import unicodedata
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from json import JSONDecoder
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from faceaffect.data.dataset import FaceDataset
from faceaffect.errors import DataError, printable
from faceaffect.files import Lines
from faceaffect.instructions.budget import Plan, Spent
from faceaffect.instructions.endpoint import (
    Endpoint,
    EndpointError,
    Question,
    Refused,
    Unanswered,
)
from faceaffect.instructions.items import Item, Labels, Turn, labels_at, read_jsonl
from faceaffect.scores.mentions import find_mentions, sentences
from faceaffect.scores.vocabulary import expression_vocabulary

if TYPE_CHECKING:
    from faceaffect.instructions.client import Client

PROMPT = (
    "The person in the picture shows this facial expression: {expression}.{aus}\n"
    "Write a short conversation between a user who asks about the person's face and an assistant "
    "who sees the picture. One or two turns. The user's questions must not name the expression. "
    "The assistant names it and points to facial evidence (brows, eyes, nose, mouth), and says so "
    "where a cause is not visible.\n"
    'Answer with JSON only: {{"turns": [{{"q": "...", "a": "..."}}]}}'
)


@dataclass
class Result:
    """What an annotation run did.

    Attributes:
        written: items added to the file.
        present: items that the file had already.
        passed_over: items that were refused at an earlier run, and not asked for again.
        refused: item id to what was wrong with the answer; passed over from now on.
        unanswered: item id to the last error of the endpoint; asked for again at the next run.
        unreadable: item id to why its picture cannot be read; nobody was asked.
        spent: requests, tokens and money.
    """

    written: int = 0
    present: int = 0
    passed_over: int = 0
    refused: dict[str, str] = field(default_factory=dict)
    unanswered: dict[str, str] = field(default_factory=dict)
    unreadable: dict[str, str] = field(default_factory=dict)
    spent: Spent = field(default_factory=Spent)


def annotate(
    dataset: FaceDataset,
    indices: Iterable[int],
    endpoint: Endpoint,
    path: Path | str,
    *,
    part: str = "train",
    source: str = "",
    prompt: str = PROMPT,
    progress: Callable[[int], None] | None = None,
) -> Result:
    """Ask for a conversation about each sample and append it to a JSON-lines file.

    Samples that the file has are not asked for again; nor are those that the endpoint refused, or
    answered with nothing that can be used, which a second file remembers (see
    :func:`refusals_beside`). Samples without a known expression are passed over. When the run is
    broken off (Ctrl-C, an endpoint that fails), what is in flight is waited for and kept; a second
    Ctrl-C gives it up.

    Args:
        dataset: labelled faces; of a clip the centre frame is shown.
        indices: samples of one part, never of the test part.
        endpoint: whom to ask, and where answers are kept besides, so that an answer that could not
            be used is not paid for again either.
        path: the file, for this process alone; a line torn by a crash is cut off.
        part: the part of the samples.
        source: name of the dataset.
        prompt: with the fields ``{expression}`` and ``{aus}``.
        progress: called with 1 after every sample.

    Raises:
        DataError: the part is the test part, or the file is not ours or another process writes it.
        EndpointError: the address, the model or the key is wrong, more would be spent than is
            allowed, or so many items in a row got no answer that the endpoint must be down. What
            was written stays.
        RecipeError: pictures would leave the machine, and nobody said that they may.
    """
    if part == "test":
        raise DataError("conversations about test samples would leak their labels into training")
    endpoint.check_sending()
    from faceaffect.instructions.client import work_off  # an extra

    path = Path(path)
    with ExitStack() as files:
        lines = files.enter_context(Lines(path, Item.from_dict, '{"id": "'))
        refusals = files.enter_context(Lines(refusals_beside(path), _refused_id, '{"id": "'))
        run = _Run(dataset, endpoint, lines, refusals, part, source, prompt, progress)
        done, before = {item.id for item in lines.records}, set(refusals.records)
        todo = []
        for index in indices:
            name = str(dataset.samples.id[index])
            run.result.present += name in done
            run.result.passed_over += name in before
            if name not in done | before and labels_at(dataset, index).expression is not None:
                todo.append(index)
        work_off(endpoint, run.result.spent, todo, run.one)
    return run.result


def plan(dataset: FaceDataset, indices: Iterable[int], endpoint: Endpoint, path: Path) -> Plan:
    """Return what :func:`annotate` would ask, without asking or writing anything."""
    done = {item.id for item in read_jsonl(path)} if path.exists() else set()
    found = Plan()
    for index in indices:
        labels = labels_at(dataset, index)
        if labels.expression is None or str(dataset.samples.id[index]) in done:
            continue
        try:
            picture, _ = _picture(dataset, index)
        except _Unreadable:
            continue
        found.add(endpoint, [Question(_filled(PROMPT, labels), (picture,))])
    return found


def refusals_beside(path: Path) -> Path:
    """Return the file that remembers, beside the conversations, what is not asked for again.

    >>> refusals_beside(Path("talk.jsonl")).name
    'talk.refused.jsonl'
    """
    return path.with_suffix(".refused.jsonl")


def _refused_id(record: dict[str, Any]) -> str:
    return str(record["id"])


def read_turns(text: str, expression: str) -> list[Turn]:
    """Read the JSON of an answer and check it.

    Args:
        text: what the model said; fences and words around the JSON are passed over.
        expression: the class that no question may name.

    Raises:
        ValueError: no such JSON, an empty turn, characters that are none of a text, or a question
            that names the expression.
    """
    start = text.find("{")
    if start < 0:
        raise ValueError(f"no JSON in the answer: {printable(text, 80)}")
    try:
        found, _ = JSONDecoder(strict=False).raw_decode(text, start)
        turns = [(t["q"].strip(), t["a"].strip()) for t in found["turns"]]
    except RecursionError:
        raise ValueError("an answer that nests too deep") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ValueError(
            f"not the JSON that was asked for: {printable(text[start:], 80)}"
        ) from None
    if not 1 <= len(turns) <= 4 or not all(q and a for q, a in turns):
        raise ValueError("one to four turns with question and answer were expected")
    vocabulary = expression_vocabulary((expression,))
    for question, answer in turns:
        _check_characters(question + answer)
        named = {m.name for s in sentences(question) for m in find_mentions(s, vocabulary)}
        if expression in named:
            raise ValueError(f"a question names the expression: {printable(question)}")
    return turns


def _check_characters(text: str) -> None:
    """Refuse control characters, which a terminal obeys, and halves of characters."""
    wrong = {c for c in text if unicodedata.category(c) in ("Cc", "Cs")} - set("\n\r\t")
    if wrong:
        raise ValueError(f"characters that are none of a text: {min(wrong)!a}")


@dataclass
class _Run:
    """One run: whom it asks about what, where answers go, and what has become of the items."""

    dataset: FaceDataset
    endpoint: Endpoint
    lines: Lines[Item]
    refusals: Lines[str]
    part: str
    source: str
    prompt: str
    progress: Callable[[int], None] | None
    result: Result = field(default_factory=Result)
    in_a_row: int = 0

    async def one(self, client: "Client", index: int) -> None:
        """Ask for one item and note what became of it."""
        name = str(self.dataset.samples.id[index])
        try:
            item = await self._ask(client, index, name)
        except Refused as error:
            self.refusals.append({"id": name, "reason": str(error)})
            self.result.refused[name] = str(error)
            self.in_a_row = 0  # an endpoint that refuses is there
        except Unanswered as error:
            self.result.unanswered[name] = str(error)
            self._give_up(client, str(error))
        except _Unreadable as error:
            self.result.unreadable[name] = str(error)
        else:
            self.lines.append(asdict(item))
            self.result.written += 1
            self.in_a_row = 0
        if self.progress is not None:
            self.progress(1)

    async def _ask(self, client: "Client", index: int, name: str) -> Item:
        labels = labels_at(self.dataset, index)
        expression = labels.expression or ""
        picture, modality = await asyncio.to_thread(_picture, self.dataset, index)
        question = Question(_filled(self.prompt, labels), (picture,))
        turns = await client.persist(question, lambda text: read_turns(text, expression))
        media = "" if self.dataset.path(index) is None else name
        item = Item(name, "conversation", turns, media, modality)
        return replace(item, source=self.source, part=self.part, label=expression)

    def _give_up(self, client: "Client", reason: str) -> None:
        """Stop where so many items got no answer that the endpoint must be down."""
        self.in_a_row += 1
        if self.in_a_row >= max(8, 2 * self.endpoint.parallel) and not client.stop.is_set():
            raise EndpointError(
                f"{self.endpoint.url}: {self.in_a_row} items got no answer one after another, the "
                f"last with: {reason}. {self.result.written} were written; start again to go on"
            )


class _Unreadable(Exception):
    """The picture cannot be read here, so that nobody was asked."""


def _picture(
    dataset: FaceDataset, index: int
) -> tuple[NDArray[np.uint8], Literal["image", "video"]]:
    """Return a sample, or the centre frame of a clip, and which of them it was."""
    try:
        image: NDArray[np.uint8] = dataset.load(index).image
    except (DataError, OSError) as error:
        raise _Unreadable(str(error)) from None
    return (image[len(image) // 2], "video") if image.ndim == 4 else (image, "image")


def _filled(prompt: str, labels: Labels) -> str:
    names = ", ".join(f"AU{au}" for au in labels.active)
    return prompt.format(
        expression=labels.expression, aus=f" Active action units: {names}." if names else ""
    )
