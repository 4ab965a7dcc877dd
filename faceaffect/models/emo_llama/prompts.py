"""From labels to rows: what is asked of a face, and which answers are learned or scored."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor

from faceaffect.data.batch import FaceBatch
from faceaffect.instructions.formats import read_items
from faceaffect.instructions.items import (
    VA_BINS,
    Kind,
    Labels,
    Turn,
    au_answer,
    au_question,
    expression_answer,
    expression_question,
    template_turns,
    turns_by_id,
    va_answer,
    va_question,
)
from faceaffect.models.emo_llama.dialogue import Dialogue
from faceaffect.models.emo_llama.packing import Row, Visual
from faceaffect.schema import VA_NAMES, LabelSchema

_WHOLE = 0.5
"""Weight of a token of the text that names all AUs or values; 1 for those of each by itself."""


@dataclass(frozen=True)
class Slot:
    """A block of visual tokens: whose face, and the question that guides the aggregator."""

    sample: int
    question: str


class Prompter:
    """Writes the rows of one batch and remembers which visual tokens they need.

    Args:
        schema: the labels asked for.
        dialogue: the format.
        lengths: visual tokens of each sample.
        profiles: a sentence on each person, or empty.
        media: ``image`` or ``video``, of each sample.
    """

    def __init__(
        self,
        schema: LabelSchema,
        dialogue: Dialogue,
        lengths: Sequence[int],
        profiles: Sequence[str],
        media: Sequence[str],
    ) -> None:
        self.schema, self.dialogue = schema, dialogue
        self.lengths, self.profiles, self.media = lengths, profiles, media
        self.slots: list[Slot] = []

    def ask(self, sample: int, question: str, earlier: Sequence[Turn] = ()) -> Row:
        """Return a prompt without answers."""
        visuals = []
        for asked in [*(q for q, _ in earlier), question]:
            visuals.append(Visual(len(self.slots), self.lengths[sample]))
            self.slots.append(Slot(sample, asked))
        return Row(self.dialogue.prompt(earlier, question, visuals, self.profiles[sample]))

    def tell(self, sample: int, turns: Sequence[Turn]) -> Row:
        """Return a dialogue whose answers are learned."""
        row = self.ask(sample, turns[-1][0], turns[:-1])
        row.branches = [self.dialogue.options([turns[-1][1]])[0].texts()]
        return row

    def score(self, sample: int, task: str) -> Row:
        """Return the canonical question of a task with every option, in the order of the schema."""
        row = self.ask(sample, self.question(sample, task))
        row.branches = [option.texts() for choice in self.choices(task) for option in choice]
        return row

    def question(self, sample: int, task: str, rng: Generator | None = None) -> str:
        """Return the canonical question of a task about a sample, or a random phrasing."""
        media = self.media[sample]
        if task == "expression":
            return expression_question(self.schema.expressions, rng, media)
        if task == "au":
            return au_question(self.schema.aus, rng, media)
        return va_question(rng, media)

    def choices(self, task: str) -> list[list[Any]]:
        """Return the options of each choice: of K classes, of yes and no for each AU, of values."""
        if task == "va":  # "valence: 0.5, arousal: -0.25": the first value does not end the answer
            valence, arousal = ([f"{name}: {value}" for value in VA_BINS] for name in VA_NAMES)
            first = self.dialogue.options([f"{text}," for text in valence], ended=False)
            return [first, self.dialogue.options(arousal)]
        if task == "au":  # yes or no says it all, so no end token is scored or learned
            pairs = [[f"AU{au}: yes", f"AU{au}: no"] for au in self.schema.aus]
            return [self.dialogue.options(pair, ended=False) for pair in pairs]
        return [self.dialogue.options([expression_answer(c) for c in self.schema.expressions])]

    def learn(
        self, sample: int, task: str, labels: Labels, rng: Generator, weights: dict[int, float]
    ) -> Row | None:
        """Return a task's question with the right options, or None if no label is known.

        AUs and values are learned one by one, as they are scored, and in a further branch as the
        one text that says them all, as it is generated.

        Args:
            sample: whose face.
            task: ``expression``, ``au`` or ``va``.
            labels: what is known of it.
            rng: draws phrasing and order.
            weights: of a positive AU in the loss, where it is not 1.
        """
        right: list[int] = []
        choices = self.choices(task)
        if task == "expression" and labels.expression is not None:
            right = [self.schema.expressions.index(labels.expression)]
        elif task == "au" and labels.aus:
            choices = [choices[self.schema.aus.index(au)] for au in labels.aus]
            right = [0 if on else 1 for on in labels.aus.values()]
        elif task == "va" and labels.va is not None:
            bins = np.array(VA_BINS)
            right = [int(np.abs(bins - value).argmin()) for value in labels.va]
        if not right:
            return None
        row = self.ask(sample, self.question(sample, task, rng))
        row.branches = [c[r].texts() for c, r in zip(choices, right, strict=True)]
        row.weights = [1.0] * len(right)
        if task == "au":
            row.weights = [weights.get(au, 1.0) if on else 1.0 for au, on in labels.aus.items()]
        if task != "expression":
            whole = self.whole(task, labels, rng)
            row.branches.append(self.dialogue.options([whole])[0].texts())
            row.weights.append(_WHOLE)
        return row

    def whole(self, task: str, labels: Labels, rng: Generator) -> str:
        """Return the one text that says all AUs, or both values."""
        return au_answer(labels.active) if task == "au" else va_answer(labels.va or ())

    def talk(self, sample: int, labels: Labels, rng: Generator) -> Row | None:
        """Return a question that is answered in free words: a conversation or a description."""
        kinds: list[Kind] = ["conversation", "description"]
        for kind in rng.permutation(np.array(kinds)):
            turns = template_turns(labels, self.schema, kind, rng, self.media[sample])
            if turns:
                return self.tell(sample, turns)
        return None


def training_dialogues(file: str, data: Any) -> tuple[dict[str, list[list[Turn]]], str]:
    """Return the dialogues of an instruction file about a training part, and what was left out.

    Args:
        file: of instruction items.
        data: a :class:`~faceaffect.data.base.FaceDataModule` that is set up.

    Returns:
        id of a sample to its dialogues; a line that counts those and the others.

    Raises:
        DataError: the file cannot be read, or no item is about a training sample.
    """
    ids, sources = data.dataset.samples.id, getattr(data.dataset, "names", ())
    items = read_items(file)
    found, left_out = turns_by_id(items, ids[data.split.train].tolist(), ids.tolist(), sources)
    return found, (
        f"{file}: {len(items) - left_out} dialogues about {len(found)} training samples; "
        f"{left_out} left out, which are about other samples"
    )


def rare_au_weights(
    aus: Sequence[int], statistics: Mapping[str, Any], power: float
) -> dict[int, float]:
    """Return ((1 - r) / r) to a power for each AU of rate r > 0; an unknown rate is 0.5."""
    rates = {au: statistics.get("au_rate", {}).get(f"AU{au}", 0.5) for au in aus}
    return {au: ((1 - rate) / rate) ** power for au, rate in rates.items() if rate > 0}


def labels_of(batch: FaceBatch, sample: int, schema: LabelSchema) -> Labels:
    """Return what a batch knows of a sample."""
    expression, aus, va = None, {}, None
    if "expression" in batch and int(batch["expression"][sample]) >= 0:
        expression = schema.expressions[int(batch["expression"][sample])]
    if "au" in batch:
        row = zip(schema.aus, batch["au"][sample].tolist(), strict=True)
        aus = {au: value > 0.5 for au, value in row if not np.isnan(value)}
    if "va" in batch and not batch["va"][sample].isnan().any():
        va = (float(batch["va"][sample, 0]), float(batch["va"][sample, 1]))
    return Labels(expression, aus, va)


def probabilities(scores: Tensor, task: str, schema: LabelSchema) -> Tensor:
    """Turn the scores of a task's options into predictions.

    Args:
        scores: (B, options) log-likelihoods of :meth:`Prompter.score`.
        task: ``expression``, ``au`` or ``va``.
        schema: the labels.

    Returns:
        (B, K) or (B, A) probabilities, or (B, 2) expected valence and arousal.
    """
    if task == "expression":
        return scores.softmax(1)
    if task == "au":
        return scores.view(len(scores), len(schema.aus), 2).softmax(2)[..., 0]
    chance = scores.view(len(scores), len(VA_NAMES), len(VA_BINS)).softmax(2)
    return chance @ torch.tensor(VA_BINS, device=scores.device)
