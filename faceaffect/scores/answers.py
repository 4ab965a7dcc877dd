"""Free text to labels, by a small grammar: what a language model affirmed, not what it mentioned.

A text is cut into sentences; the words of the label vocabulary are found in them as whole words;
each mention is affirmed or denied. Rules, all ours:

* A denial reaches the mentions behind it up to the next comma, conjunction or contrast ("not sad
  but happy"), and runs on through a list ("no anger, fear or disgust", "neither sad nor angry").
  It may also stand behind its mention ("anger is not visible", "AU4: no").
* "not only", "no doubt" and the like deny nothing; "rather than" and "instead of" deny.
* An expression is read from the strongest kind of statement in the text: a conclusion ("Answer:
  fear", "the expression is fear") before a plain mention, a plain mention before a hint ("a touch
  of fear"). Of several sentences the last conclusion decides, else the first; two classes in it
  are no answer.
* Action units are the union of all affirmed ones. "None" and "no action units" affirm that none is
  active.

What cannot be read is :data:`UNREADABLE` or None. It counts as wrong, never as some class.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from faceaffect.schema import SPOKEN_TASKS, VA_NAMES, LabelSchema
from faceaffect.scores.mentions import find_mentions, sentences
from faceaffect.scores.metrics import TaskMetrics
from faceaffect.scores.vocabulary import Vocabulary, au_vocabulary, expression_vocabulary

UNREADABLE = -1
"""The class index of an answer that names no class, or more than one."""

_HINTED, _PLAIN, _CONCLUDED = range(3)
_CONCLUSION = re.compile(
    r"\b(answer|expression|emotion|conclusion|label|category|class)\b( \w+)?( is| was|:|=)"
    r"|\b(therefore|thus|hence|overall|in conclusion|in summary|mainly|mostly|primarily"
    r"|predominantly|dominant|most likely|best described)\b"
)
_HINT = re.compile(
    r"\b((a|some|slight) )?(hint|touch|trace|bit|tinge|note)s? of\b|\bslight(ly)?\b|\bsubtle\b"
    r"|\b(could|might|may|possibly|perhaps|maybe|sometimes|almost)\b"
)
_NONE = re.compile(
    r"\bnone\b|\bno (\w+ ){0,2}(action units?|aus?|facial actions?|movements?|muscle activity)\b"
    r"|\b(muscles|features) are (all )?(at rest|relaxed)\b|\bno part of the face is\b"
    r"|\bnothing\b|\b(not any|without any) (action units?|aus?)\b"
)
_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)"


def parse_expression(text: str, classes: Sequence[str]) -> int:
    """Return the index of the class that a text affirms, or :data:`UNREADABLE`.

    A class outside the list (contempt, where only seven classes are asked for) is no answer either.

    Args:
        text: what a model said.
        classes: class names, in index order.

    >>> parse_expression("Not sad but happy.", ["sadness", "happiness"])
    1
    """
    vocabulary = expression_vocabulary(tuple(classes))
    by_rank: dict[int, list[set[str]]] = {}
    for sentence in sentences(text):
        for rank, names in _affirmed(sentence, vocabulary).items():
            by_rank.setdefault(rank, []).append(names)
    if not by_rank:
        return UNREADABLE
    best = max(by_rank)
    names = by_rank[best][-1 if best == _CONCLUDED else 0]
    answer = next(iter(names))
    return list(classes).index(answer) if len(names) == 1 and answer in classes else UNREADABLE


def _affirmed(sentence: str, vocabulary: Vocabulary) -> dict[int, set[str]]:
    """Return the names that a sentence affirms, by rank."""
    found: dict[int, set[str]] = {}
    rank, end = _PLAIN, 0
    for mention in find_mentions(sentence, vocabulary):
        cue = sentence[end : mention.start]
        if _HINT.search(cue):
            rank = _HINTED
        elif _CONCLUSION.search(cue):
            rank = _CONCLUDED
        elif not mention.joined:
            rank = _PLAIN
        end = mention.end
        if not mention.denied:
            found.setdefault(rank, set()).add(mention.name)
    return found


def parse_aus(text: str, aus: Sequence[int]) -> list[bool] | None:
    """Return for each AU whether a text affirms it, or None if the text says nothing of AUs.

    AUs are understood as numbers (``AU6``, ``AU 06``, ``AU6+12``, ``action units 6 and 12``, a bare
    list of numbers) and as FACS names (``cheek raiser``). One that is asked for and not mentioned
    is inactive; one that is mentioned and not asked for is passed over.

    Args:
        text: what a model said.
        aus: FACS numbers, in column order.

    >>> parse_aus("AU6 and lip corner puller; AU4 is absent", [4, 6, 12])
    [False, True, True]
    """
    text = _spell_numbers(text)
    parts = sentences(text)
    mentions = [m for part in parts for m in find_mentions(part, au_vocabulary())]
    active = {int(m.name) for m in mentions if not m.denied}
    if not mentions and not any(_NONE.search(part) for part in parts):
        return None
    return [au in active for au in aus]


_LIST = re.compile(
    r"\b(?:aus?|action units?)[ #]*(\d+(?:(?:\s*(?:[,;+&/]|\band\b|\bor\b)\s*)+\d+)+)", re.I
)
_BARE = re.compile(r"[\s\[({]*\d+(?:[\s,;+&]+(?:and\s+)?\d+)*[\s\])}.]*")


def _spell_numbers(text: str) -> str:
    """Write every number of a list of AUs with its AU: "AU6+12" as "AU6, AU12"."""
    if _BARE.fullmatch(text):
        return ", ".join(f"AU{n}" for n in re.findall(r"\d+", text))

    def spell(match: re.Match[str]) -> str:
        listed = re.sub(r"\d+", r"AU\g<0>", match[1])
        return re.sub(r"\s*\+\s*", ", ", listed)

    return _LIST.sub(spell, text)


def parse_va(text: str) -> tuple[float, float] | None:
    """Return valence and arousal, or None if one is missing or outside [-1, 1].

    >>> parse_va("valence: 0.5, arousal: -0.25")
    (0.5, -0.25)
    """
    text = text.replace("\N{MINUS SIGN}", "-").lower()
    found = []
    for name in VA_NAMES:
        match = re.search(rf"\b{name}\b[^\d.+-]*({_NUMBER})", text)
        found.append(match[1] if match else None)
    if found == [None, None]:
        pair = re.fullmatch(rf"[\s\[(]*({_NUMBER})\s*[,;\s]\s*({_NUMBER})[\s\])]*", text)
        found = [pair[1], pair[2]] if pair else found
    if found[0] is None or found[1] is None:
        return None
    valence, arousal = float(found[0]), float(found[1])
    return (valence, arousal) if max(abs(valence), abs(arousal)) <= 1 else None


def expression_index(texts: Sequence[str], classes: Sequence[str]) -> Tensor:
    """Return the class index of every text, (N,) int64, :data:`UNREADABLE` where there is none."""
    return torch.tensor([parse_expression(text, classes) for text in texts], dtype=torch.int64)


def au_table(texts: Sequence[str], aus: Sequence[int]) -> Tensor:
    """Return the AUs of every text, (N, A) float32 in {0, 1}, a row of NaN where unreadable."""
    blank = [np.nan] * len(aus)
    rows = [parse_aus(text, aus) or blank for text in texts]
    return torch.tensor(rows, dtype=torch.float32).view(-1, len(aus))


def va_table(texts: Sequence[str]) -> Tensor:
    """Return valence and arousal of every text, (N, 2) float32, NaN where unreadable."""
    rows = [parse_va(text) or (np.nan, np.nan) for text in texts]
    return torch.tensor(rows, dtype=torch.float32).view(-1, 2)


def read_answers(texts: Mapping[str, Sequence[str]], schema: LabelSchema) -> dict[str, Tensor]:
    """Turn the texts that answer each task's question into predictions.

    Args:
        texts: task to N texts.
        schema: the labels asked for.

    Returns:
        ``expression`` (N, K) and ``au`` (N, A) of zeros and ones, ``va`` (N, 2); the row of an
        unreadable answer is NaN, which the metrics count as an error.
    """
    read: dict[str, Tensor] = {}
    if "expression" in texts:
        index = expression_index(texts["expression"], schema.expressions)
        rows = torch.nn.functional.one_hot(index.clamp_min(0), len(schema.expressions)).float()
        read["expression"] = rows.masked_fill(index.eq(UNREADABLE)[:, None], torch.nan)
    if "au" in texts:
        read["au"] = au_table(texts["au"], schema.aus)
    if "va" in texts:
        read["va"] = va_table(texts["va"])
    return read


def join_answers(answers: Mapping[str, str]) -> str:
    r"""Write one sample's answers to several tasks as one text, a line a task.

    >>> join_answers({"expression": "fear", "au": "AU1, AU4"})
    'expression: fear\nau: AU1, AU4'
    """
    return "\n".join(f"{task}: {' '.join(text.split())}" for task, text in answers.items())


def split_answers(text: str) -> dict[str, str]:
    """Read what :func:`join_answers` wrote; empty for any other text."""
    lines = (line.partition(": ") for line in text.split("\n"))
    return {task: answer for task, mark, answer in lines if mark and task in SPOKEN_TASKS}


def generated_metrics(
    texts: Sequence[str], batch: Mapping[str, Any], schema: LabelSchema
) -> dict[str, float]:
    """Return the metrics of generated answers, and the rate of unreadable ones.

    Args:
        texts: N texts of :func:`join_answers`.
        batch: the truth of the N samples, in the order of the schema.
        schema: the labels asked for.

    Returns:
        the names of :class:`~faceaffect.scores.metrics.TaskMetrics` and ``unreadable`` (of all
        answers) and ``unreadable/<task>``, all under ``generated/``. Empty if the texts are no such
        answers.
    """
    answers = [split_answers(text) for text in texts]
    tasks = [task for task in schema.tasks if any(task in answer for answer in answers)]
    if not tasks:
        return {}
    read = read_answers({task: [a.get(task, "") for a in answers] for task in tasks}, schema)
    asked = LabelSchema(
        schema.aus if "au" in tasks else (),
        schema.expressions if "expression" in tasks else (),
        "va" in tasks,
    )
    metrics = TaskMetrics(asked, sync=False)
    metrics.update(read, batch)
    rates = {
        f"unreadable/{task}": read[task].isnan().any(1).float().mean().item() for task in tasks
    }
    values = metrics.compute() | {"unreadable": sum(rates.values()) / len(rates)} | rates
    return {f"generated/{name}": value for name, value in values.items()}
