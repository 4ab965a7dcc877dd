"""What the answers to a set of questions are worth: by task and group, with intervals."""

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from faceaffect.data.questions import LETTERS, Question, QuestionSet
from faceaffect.evaluation.questioning import Answer
from faceaffect.scores.rege import rege
from faceaffect.scores.replies import wilson

RESAMPLES = 1000
"""Drawings of people, or of media where no people are known, behind an interval."""

Table = list[dict[str, Any]]


def scores(asked: QuestionSet, answers: Sequence[Answer]) -> dict[str, Any]:
    """Return all that a report says of one model's answers.

    Returns:
        ``tasks`` and ``groups``: a row each, see :func:`task_rows` and :func:`group_rows`;
        ``rege`` of open questions with labels, by task; ``position``: how often each letter was
        chosen and how often it was the key, of questions with options.
    """
    by_id = {question.id: question for question in asked.questions}
    tasks = task_rows(by_id, answers)
    return {
        "tasks": tasks,
        "groups": group_rows(tasks),
        "rege": _open(by_id, answers),
        "position": _position(by_id, answers),
    }


def task_rows(by_id: dict[str, Question], answers: Sequence[Answer]) -> Table:
    """Return a row for each task of questions with a key.

    ``accuracy`` is the mean over questions, of one that was asked several times of its repeats;
    ``low`` and ``high`` the 95 % interval over ``units`` people or media drawn with replacement,
    or Wilson's where every question stands alone; ``chance`` the rate by guessing; ``blind`` the
    accuracy without pictures; ``pairs`` the share of pairs of which every question is right;
    ``unreadable`` the share of replies that say nothing.
    """
    rows = []
    for task in dict.fromkeys(question.task for question in by_id.values()):
        mine = [a for a in answers if by_id[a.id].task == task and a.right is not None]
        seeing = [a for a in mine if not a.blind]
        if not seeing:
            continue
        right = _mean_by_question(seeing)
        questions = [by_id[name] for name in right]
        chances = [question.chance for question in questions if question.chance is not None]
        low, high, units = interval(right, by_id)
        blind = _mean_by_question([a for a in mine if a.blind])
        rows.append({
            "task": task, "group": questions[0].group, "n": len(right), "units": units,
            "accuracy": _mean(right.values()), "low": low, "high": high,
            "chance": _mean(chances) if len(chances) == len(questions) else None,
            "blind": _mean(blind.values()) if blind else None,
            "pairs": _pairs(seeing, by_id),
            "unreadable": _mean([a.said is None for a in seeing]),
        })  # fmt: skip
    return rows


def group_rows(tasks: Table) -> Table:
    """Return a row for each group, and one for all: plain means over their tasks."""
    groups: dict[str, Table] = defaultdict(list)
    for row in tasks:
        groups[row["group"]].append(row)
    if len(groups) > 1:
        groups["all tasks"] = tasks
    found = []
    for group, rows in groups.items():
        means: dict[str, Any] = {"group": group, "n": sum(row["n"] for row in rows)}
        for key in ("accuracy", "chance", "blind"):
            known = [row[key] for row in rows]
            means[key] = None if None in known else _mean(known)
        found.append(means)
    return found


def interval(right: dict[str, float], by_id: dict[str, Question]) -> tuple[float, float, int]:
    """Return the 95 % interval of a mean over questions, and how many units were drawn.

    Units that are all alike tell a draw nothing of their spread; then it is Wilson's over units.

    Args:
        right: of each question the share of its repeats that were right.
        by_id: the questions.
    """
    units: dict[str, list[float]] = defaultdict(list)
    for name, value in right.items():
        units[by_id[name].unit].append(value)
    plain = all(value in (0.0, 1.0) for value in right.values())
    if plain and len(units) == len(right):
        return *wilson(int(sum(right.values())), len(right)), len(units)
    sums = np.array([sum(values) for values in units.values()])
    counts = np.array([len(values) for values in units.values()])
    if np.ptp(sums / counts) == 0:
        alike = len(units) * float(sums[0] / counts[0])
        return (
            wilson(math.floor(alike), len(units))[0],
            wilson(math.ceil(alike), len(units))[1],
            len(units),
        )
    low, high = np.quantile(resampled(sums, counts), (0.025, 0.975)).tolist()
    return low, high, len(units)


def resampled(sums: NDArray[Any], counts: NDArray[Any]) -> NDArray[np.float64]:
    """Return means (RESAMPLES,) over units drawn with replacement, each with all its questions."""
    rng = np.random.default_rng(0)
    drawn = rng.integers(len(sums), size=(RESAMPLES, len(sums)))
    means: NDArray[np.float64] = sums[drawn].sum(1) / counts[drawn].sum(1)
    return means


def _mean_by_question(answers: Sequence[Answer]) -> dict[str, float]:
    found: dict[str, list[bool]] = defaultdict(list)
    for answer in answers:
        found[answer.id].append(bool(answer.right))
    return {name: _mean(values) for name, values in found.items()}


def _mean(values: Any) -> float:
    return float(np.mean(list(values)))


def _pairs(answers: Sequence[Answer], by_id: dict[str, Question]) -> float | None:
    """Return the share of pairs of which every question that was asked is right, in every repeat.

    A pair of which a question could not be asked does not count.
    """
    sizes = Counter(question.pair for question in by_id.values() if question.pair)
    pairs: dict[str, list[Answer]] = defaultdict(list)
    for answer in answers:
        if by_id[answer.id].pair:
            pairs[by_id[answer.id].pair].append(answer)
    whole = [found for name, found in pairs.items() if len({a.id for a in found}) == sizes[name]]
    return _mean([all(a.right for a in found) for found in whole]) if whole else None


def _open(by_id: dict[str, Question], answers: Sequence[Answer]) -> dict[str, Any]:
    """Return REGE by task, of open questions that have labels."""
    tasks: dict[str, list[Answer]] = defaultdict(list)
    for answer in answers:
        question = by_id[answer.id]
        if question.form == "open" and question.labels and not answer.blind:
            tasks[question.task].append(answer)
    return {
        task: rege(
            [a.text for a in found],
            [by_id[a.id].key for a in found],
            [by_id[a.id].labels for a in found],
        )
        for task, found in tasks.items()
    }


def _position(by_id: dict[str, Question], answers: Sequence[Answer]) -> Table:
    """Return how often each letter was chosen, by number of options, and would be by fairness."""
    chosen: dict[int, Counter[str]] = defaultdict(Counter)
    for answer in answers:
        count = len(by_id[answer.id].options)
        if count and not answer.blind and answer.shown:
            chosen[count][answer.shown] += 1
    return [
        {"options": count, "letter": letter, "share": found[letter] / found.total(),
         "fair": 1 / count}
        for count, found in sorted(chosen.items())
        for letter in LETTERS[:count]
    ]  # fmt: skip


def difference(
    one: Sequence[Answer], other: Sequence[Answer], asked: QuestionSet
) -> dict[str, Any]:
    """Return by how much one model is more often right than another on the same questions.

    Returns:
        ``difference``, and its 95 % interval ``low`` to ``high`` over people or media; ``n``
        questions that both were asked.
    """
    by_id = {question.id: question for question in asked.questions}
    means = [
        _mean_by_question([a for a in answers if not a.blind and a.right is not None])
        for answers in (one, other)
    ]
    shared = [name for name in means[0] if name in means[1]]
    if not shared:
        return {"n": 0, "difference": None, "low": None, "high": None}
    units: dict[str, list[float]] = defaultdict(list)
    for name in shared:
        units[by_id[name].unit].append(means[0][name] - means[1][name])
    sums = np.array([sum(values) for values in units.values()])
    counts = np.array([len(values) for values in units.values()])
    low, high = np.quantile(resampled(sums, counts), (0.025, 0.975)).tolist()
    return {"n": len(shared), "difference": float(sums.sum() / counts.sum()), "low": low,
            "high": high}  # fmt: skip
