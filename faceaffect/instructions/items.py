"""Instruction data: questions and answers about labelled faces, as items and as JSON lines.

The forms of the category questions follow the published samples of FERID (classes in braces, one
lower-case class word as answer); phrasings, AU and VA questions are ours.
"""

import json
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.random import Generator

from faceaffect.data.dataset import FaceDataset
from faceaffect.data.video import is_clip
from faceaffect.errors import DataError
from faceaffect.files import read_json, write_atomically
from faceaffect.instructions import phrases
from faceaffect.schema import LabelSchema

Choice = TypeVar("Choice")
Turn = tuple[str, str]
Kind = Literal["expression", "au", "va", "conversation", "description"]
KINDS: tuple[Kind, ...] = ("expression", "au", "va", "conversation", "description")

VA_BINS = tuple(round(-1 + 0.25 * step, 2) for step in range(9))
"""The values of valence and arousal that answers name."""


@dataclass(frozen=True)
class Labels:
    """What is known of one face.

    Attributes:
        expression: class name, None unknown.
        aus: FACS number to active or not; unknown ones are absent.
        va: valence and arousal in [-1, 1], None unknown.
    """

    expression: str | None = None
    aus: dict[int, bool] = field(default_factory=dict)
    va: tuple[float, float] | None = None

    @property
    def active(self) -> list[int]:
        """The active AUs."""
        return [au for au, on in self.aus.items() if on]


@dataclass(frozen=True)
class Item:
    """Questions and answers about one sample.

    Attributes:
        id: of the sample, as in its dataset.
        kind: what the questions are about.
        turns: questions with their answers.
        media: path of the image or clip, relative to the dataset's root; empty if generated.
        modality: ``image`` or ``video``.
        source: name of the dataset.
        part: ``train``, ``val``, ``test`` or empty; the split that the item was written for.
        label: the expression that the turns were written for, empty if unknown.

    Raises:
        ValueError: a text holds lone surrogates, which no file and no tokenizer takes.
    """

    id: str
    kind: Kind
    turns: list[Turn]
    media: str = ""
    modality: Literal["image", "video"] = "image"
    source: str = ""
    part: str = ""
    label: str = ""

    def __post_init__(self) -> None:
        words = [self.id, self.media, *(text for turn in self.turns for text in turn)]
        try:
            "".join(words).encode()
        except UnicodeEncodeError:
            raise ValueError("a text holds half a character (a lone surrogate)") from None

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> "Item":
        """Read what ``dataclasses.asdict`` wrote.

        Raises:
            ValueError: a field is missing, unknown or of a wrong kind.
        """
        extra = set(plain) - set(cls.__dataclass_fields__)
        if extra or "id" not in plain or "turns" not in plain:
            raise ValueError(f"unknown fields {sorted(extra)}" if extra else "id or turns missing")
        turns = [(str(q), str(a)) for q, a in plain["turns"]]
        if not turns:
            raise ValueError("no turns")
        wrong = [key for key, value in plain.items() if key != "turns" and type(value) is not str]
        if wrong:
            raise ValueError(f"no text under {', '.join(wrong)}")
        if plain.get("kind", KINDS[0]) not in KINDS:
            raise ValueError(f"kind {plain['kind']}")
        return cls(**{"kind": "conversation", **plain, "turns": turns})


def pick(choices: Sequence[Choice], rng: Generator | None) -> Choice:
    """Return a random choice, or the first without a generator."""
    return choices[0 if rng is None else int(rng.integers(len(choices)))]


def expression_question(
    classes: Sequence[str], rng: Generator | None = None, media: str = "image"
) -> str:
    """Ask for one class; with a generator the phrasing and the order of the classes are random."""
    order = list(classes) if rng is None else [classes[i] for i in rng.permutation(len(classes))]
    names = ", ".join(expression_answer(name) for name in order)
    return pick(phrases.EXPRESSION_QUESTIONS, rng).format(media=media, classes=names)


def expression_answer(name: str) -> str:
    """Return the word that answers for a class."""
    return name.lower()


def au_question(aus: Sequence[int], rng: Generator | None = None, media: str = "image") -> str:
    """Ask which AUs are active."""
    names = ", ".join(f"AU{au}" for au in aus)
    return pick(phrases.AU_QUESTIONS, rng).format(media=media, aus=names)


def au_answer(active: Sequence[int]) -> str:
    """List the active AUs.

    >>> au_answer([6, 12]), au_answer([])
    ('AU6, AU12', 'no action units')
    """
    return ", ".join(f"AU{au}" for au in active) or "no action units"


def va_question(rng: Generator | None = None, media: str = "image") -> str:
    """Ask for valence and arousal."""
    return pick(phrases.VA_QUESTIONS, rng).format(media=media)


def va_answer(va: Sequence[float]) -> str:
    """State valence and arousal, each as the nearest of :data:`VA_BINS`.

    >>> va_answer((0.52, -0.9))
    'valence: 0.5, arousal: -1.0'
    """
    near = [min(VA_BINS, key=lambda step: abs(step - value)) for value in va]
    return f"valence: {near[0]}, arousal: {near[1]}"


def conversation(labels: Labels, rng: Generator, media: str = "image") -> list[Turn]:
    """Write one or two turns that name the expression with facial evidence.

    No question names the expression. Without a known expression there is nothing to write.
    """
    if labels.expression is None:
        return []
    conclusion = pick(phrases.CONCLUSIONS, rng).format(
        expression=expression_answer(labels.expression)
    )
    answer = f"{evidence(labels, rng)} {conclusion}".strip()
    turns = [(pick(phrases.CONVERSATION_QUESTIONS, rng).format(media=media), answer)]
    if rng.random() < 0.3:
        question, reply = pick(phrases.FOLLOW_UPS, rng)
        turns.append((question, reply.format(media=media)))
    return turns


def description(labels: Labels, rng: Generator, media: str = "image") -> list[Turn]:
    """Write one turn that describes the face by its active AUs; none without known AUs."""
    if not labels.aus:
        return []
    return [(pick(phrases.DESCRIPTION_QUESTIONS, rng).format(media=media), evidence(labels, rng))]


def evidence(labels: Labels, rng: Generator | None) -> str:
    """Return the visible signs of the active AUs as a sentence; empty without known AUs."""
    signs = [pick(phrases.AU_SIGNS[au], rng) for au in labels.active if au in phrases.AU_SIGNS]
    if not signs:
        return pick(phrases.NEUTRAL_EVIDENCE, rng) if labels.aus else ""
    text = " and ".join([", ".join(signs[:-1]), signs[-1]] if len(signs) > 1 else signs)
    return f"{text[0].upper()}{text[1:]}."


def template_turns(
    labels: Labels,
    schema: LabelSchema,
    kind: Kind,
    rng: Generator | None = None,
    media: str = "image",
) -> list[Turn]:
    """Write the turns of one kind; empty where the labels needed are unknown.

    Args:
        labels: what is known of the face.
        schema: the classes and AUs that questions list.
        kind: what to ask; conversations and descriptions need a generator.
        rng: draws phrasings and orders; None takes the canonical ones.
        media: ``image`` or ``video``.
    """
    if kind == "expression" and labels.expression is not None:
        question = expression_question(schema.expressions, rng, media)
        return [(question, expression_answer(labels.expression))]
    if kind == "au" and labels.aus:
        return [(au_question(list(labels.aus), rng, media), au_answer(labels.active))]
    if kind == "va" and labels.va is not None:
        return [(va_question(rng, media), va_answer(labels.va))]
    if kind in ("conversation", "description") and rng is None:
        raise ValueError(f"{kind}: needs a random generator")
    if kind == "conversation" and rng is not None:
        return conversation(labels, rng, media)
    if kind == "description" and rng is not None:
        return description(labels, rng, media)
    return []


def labels_at(dataset: FaceDataset, index: int) -> Labels:
    """Return what a dataset knows of a sample."""
    schema, samples = dataset.schema, dataset.samples
    expression, aus, va = None, {}, None
    if samples.expression is not None and samples.expression[index] >= 0:
        expression = schema.expressions[samples.expression[index]]
    if samples.au is not None:
        row = zip(schema.aus, samples.au[index].tolist(), strict=True)
        aus = {au: bool(value) for au, value in row if not np.isnan(value)}
    if samples.va is not None and not np.isnan(samples.va[index]).any():
        va = (float(samples.va[index, 0]), float(samples.va[index, 1]))
    return Labels(expression, aus, va)


def modality_at(dataset: FaceDataset, index: int) -> Literal["image", "video"]:
    """Return what a sample is, by its file: a clip or a folder of frames is a video."""
    path = dataset.path(index)
    return "video" if path is not None and is_clip(path) else "image"


def write_items(
    dataset: FaceDataset,
    indices: Iterable[int],
    *,
    kinds: Sequence[Kind] = KINDS,
    part: str = "train",
    source: str = "",
    seed: int = 0,
) -> Iterator[Item]:
    """Write template items about some samples of a dataset.

    Args:
        dataset: any labelled dataset.
        indices: its samples of one part.
        kinds: what to ask; an item of each kind for which the labels are known.
        part: the part of the samples. Test samples get no conversations and no descriptions.
        source: name of the dataset.
        seed: phrasings are drawn from (seed, index).
    """
    for index in indices:
        rng = np.random.default_rng((seed, index))
        labels, modality = labels_at(dataset, index), modality_at(dataset, index)
        for kind in kinds:
            if part == "test" and kind in ("conversation", "description"):
                continue
            turns = template_turns(labels, dataset.schema, kind, rng, modality)
            if turns:
                media = "" if dataset.path(index) is None else str(dataset.samples.id[index])
                name = str(dataset.samples.id[index])
                label = labels.expression or ""
                yield Item(name, kind, turns, media, modality, source, part, label)


def write_jsonl(path: Path | str, items: Iterable[Item]) -> int:
    """Write items, one a line; return how many."""
    lines = [json.dumps(asdict(item), ensure_ascii=False) + "\n" for item in items]
    write_atomically(Path(path), "".join(lines))
    return len(lines)


def read_jsonl(path: Path | str) -> list[Item]:
    """Read items written by :func:`write_jsonl` or by the annotator.

    Raises:
        DataError: the file is missing, or a line is no item; the line is named.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"no instruction file at {path}")
    items = []
    for number, line in enumerate(path.read_bytes().split(b"\n"), 1):
        if line.strip():
            try:
                items.append(Item.from_dict(read_json(line)))
            except (ValueError, TypeError, KeyError) as error:
                raise DataError(f"{path}:{number}: no instruction item: {error}") from None
    return items


def turns_by_id(
    items: Iterable[Item],
    allowed: Collection[str],
    known: Collection[str] = (),
    sources: Sequence[str] = (),
) -> tuple[dict[str, list[list[Turn]]], int]:
    """Group dialogues by sample, and filter those of samples outside the training part.

    Args:
        items: instruction items of any samples.
        allowed: ids of the training part.
        known: ids of all parts, to tell apart what sources share.
        sources: names that a mixture puts before the ids of its datasets; an item that was written
            for one of these alone carries the dataset's own id, and its name as ``source``.

    Returns:
        id to its dialogues, and how many items were left out.

    Raises:
        DataError: no item is about an allowed sample, or one could be about several.
    """
    grouped: dict[str, list[list[Turn]]] = {}
    items, keep, left_out = list(items), set(allowed), 0
    everything = keep | set(known)
    for item in items:
        names = [name for name in _names(item, sources) if name in everything]
        if not names and item.media in everything:
            names = [item.media]  # named in its file's own way, by the picture in the dataset's
        if len(names) > 1:
            raise DataError(
                f"the instruction item {item.id} can be about {' or '.join(names)}; name its "
                f"source in the file, one of: {', '.join(sources)}"
            )
        if names and names[0] in keep and item.part != "test":
            grouped.setdefault(names[0], []).append(item.turns)
        else:
            left_out += 1
    if not grouped:
        raise DataError(
            f"none of the {len(items)} instruction items is about a sample of the training part; "
            "do their ids match the dataset's (path relative to its root)?"
        )
    return grouped, left_out


def _names(item: Item, sources: Sequence[str]) -> list[str]:
    """Return the ids that an item's sample may have in a mixture, or in a dataset of its own.

    >>> _names(Item("1.jpg", "au", [], source="csv"), ["csv.1", "csv.2", "rafdb"])
    ['1.jpg', 'csv.1/1.jpg', 'csv.2/1.jpg']
    """
    own = [item.source] if item.source in sources else sources
    fits = [s for s in own if item.source in ("", s, s.rpartition(".")[0])]
    return [item.id, *(f"{source}/{item.id}" for source in fits)]
