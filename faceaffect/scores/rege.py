"""REGE: how well a text names a label, plus how much it reads like a reference (Li et al. 2024).

Two readings of a text stand side by side. ``legacy`` follows the rule of EmoLA's ``eval_FABA.py``,
so that published numbers compare: sentences with a negative word are dropped, the first word of a
table of synonyms in the first sentence decides, else most words in the rest. Its faults are kept:
negative words are looked for within words ("nose" holds "no"), a text without a full stop has no
first sentence, and a text that names nothing is happiness. The table of synonyms is ours, for the
official one is no fact but a text of its authors; so single readings can differ from theirs.
``ours`` is :mod:`faceaffect.scores.answers`, with whole words, and names nothing where nothing is
named.
"""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from faceaffect.scores.answers import UNREADABLE, parse_aus, parse_expression

EXPRESSIONS = ("happiness", "sadness", "surprise", "anger", "neutral", "disgust", "fear")
"""The classes in the order by which the legacy rule breaks ties."""

SCORED_AUS = (1, 2, 4, 5, 6, 10, 12, 17, 24, 25, 26, 43)
"""The action units over which FABA-Bench averages F1."""

_NEGATIVE = ("no", "not", "nor", "without", "never", "lack", "absence")
_SYNONYMS = {
    "happiness": ("happiness", "happy", "joy", "joyful", "smile", "smiling", "delight",
                  "amusement", "cheerful"),
    "sadness": ("sadness", "sad", "sorrow", "grief", "unhappy", "melancholy", "crying"),
    "surprise": ("surprise", "surprised", "astonished", "astonishment", "amazement", "shock"),
    "anger": ("anger", "angry", "rage", "furious", "irritation", "frustration"),
    "neutral": ("neutral", "calm", "relaxed", "expressionless"),
    "disgust": ("disgust", "disgusted", "aversion", "revulsion"),
    "fear": ("fear", "fearful", "afraid", "scared", "terror", "anxiety"),
}  # fmt: skip


def legacy_expression(text: str) -> str:
    """Return the expression that the legacy rule reads, faults included.

    >>> legacy_expression("Her nose wrinkles in disgust. She is well."), legacy_expression("Hm.")
    ('happiness', 'happiness')
    """
    sentences = _sentences(text)
    if sentences:
        words = re.findall(r"[a-z]+", sentences[0])
        first = next((name for word in words for name in EXPRESSIONS if word in _SYNONYMS[name]),
                     None)  # fmt: skip
        if first:
            return first
    rest = " ".join(sentences[1:])
    hits = [sum(rest.count(word) for word in _SYNONYMS[name]) for name in EXPRESSIONS]
    return EXPRESSIONS[int(np.argmax(hits))]


def _sentences(text: str) -> list[str]:
    """Return the ended sentences that hold no negative letters."""
    ended = re.findall(r"[^.!?]+[.!?]", text.lower())
    return [sentence for sentence in ended if not any(word in sentence for word in _NEGATIVE)]


def our_expression(text: str) -> str | None:
    """Return the expression that a text affirms; None where it names none, or several."""
    place = parse_expression(text, EXPRESSIONS)
    return None if place == UNREADABLE else EXPRESSIONS[place]


def legacy_aus(text: str) -> set[int]:
    """Return every AU that is written as a number, denied or not."""
    return {int(number) for number in re.findall(r"AU\s?(\d+)", text)}


def our_aus(text: str) -> set[int]:
    """Return the AUs that a text affirms, of those that are scored."""
    active = parse_aus(text, SCORED_AUS)
    return set() if active is None else {a for a, on in zip(SCORED_AUS, active, strict=True) if on}


def mean_f1(said: Sequence[set[int]], true: Sequence[set[int]]) -> float:
    """Return the mean F1 of :data:`SCORED_AUS`; one that neither side names counts as 0.

    Args:
        said: AUs read from each text.
        true: AUs of each label.
    """
    scores = []
    for au in SCORED_AUS:
        both = sum(au in a and au in b for a, b in zip(said, true, strict=True))
        total = sum(au in a for a in said) + sum(au in b for b in true)
        scores.append(2 * both / total if total else 0.0)
    return float(np.mean(scores))


def rouge_l(text: str, reference: str) -> float:
    """Return ROUGE-L F1 of a text against a reference, 0 to 1, without stemming."""
    from torchmetrics.functional.text.rouge import rouge_score

    found = rouge_score(text, reference, rouge_keys="rougeL")
    return float(found["rougeL_fmeasure"])


def rege(texts: Sequence[str], references: Sequence[str], labels: Sequence[Sequence[str]],
         ) -> dict[str, Any]:  # fmt: skip
    """Return REGE in both readings, each part in percent, so that the sum is at most 200.

    Args:
        texts: what a model said.
        references: the reference texts.
        labels: of each question one expression, or AUs such as ``AU12``; all of one kind.

    Returns:
        ``rouge_l``; and for ``legacy`` and ``ours`` ``recognition`` and ``rege``.
    """
    about_aus = all(re.fullmatch(r"AU\d+", name) for label in labels for name in label)
    generation = 100 * float(
        np.mean([rouge_l(t, r) for t, r in zip(texts, references, strict=True)])
    )
    found: dict[str, Any] = {"n": len(texts), "rouge_l": generation}
    for kind in ("legacy", "ours"):
        if about_aus:
            read = legacy_aus if kind == "legacy" else our_aus
            true = [{int(name[2:]) for name in label} for label in labels]
            value = mean_f1([read(text) for text in texts], true)
        else:
            name = legacy_expression if kind == "legacy" else our_expression
            value = float(
                np.mean([name(t) == label[0] for t, label in zip(texts, labels, strict=True)])
            )
        found[kind] = {"recognition": 100 * value, "rege": 100 * value + generation}
    return found
