"""Probing: what a model that answers in words says of labelled faces, asked in several ways."""

import json
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from faceaffect.components import arguments
from faceaffect.data.questions import LETTERS, Question
from faceaffect.errors import RecipeError, harmless
from faceaffect.evaluation.pages import page_template
from faceaffect.evaluation.questioning import Answer, Asking
from faceaffect.evaluation.questions import agreed, ask, open_model, percent, write_report
from faceaffect.instructions.probe_questions import Probing, Truth, make_questions
from faceaffect.instructions.probes import read_probes, shown
from faceaffect.progress import console
from faceaffect.recipe.interpolation import check_places
from faceaffect.runs.folder import new_folder
from faceaffect.runs.people import people_of
from faceaffect.runs.result import RESULT
from faceaffect.scores.answers import UNREADABLE, parse_aus, parse_expression
from faceaffect.scores.replies import read_letter, wilson

_EXAMPLES = 4
"""Answers of a task that the page shows."""


def probe(
    source: str, files: Sequence[str], overrides: Sequence[str] = (), folder: Path | None = None
) -> Path:
    """Probe a model and return the folder of the report.

    Args:
        source: a run folder or a checkpoint, or a recipe of a model that is not trained.
        files: of probes, by path or by the name of one that ships.
        overrides: ``data.KEY``, ``asking.KEY``, ``each`` and ``seed`` go to all files, ``output``
            says where reports go, and what is left goes to the recipe.
        folder: of the report; by default OUTPUT/probes/TIME.

    Raises:
        FaceAffectError: the model, a file, an override or the data is wrong.
    """
    own, others, output = _sort(overrides)
    read = [read_probes(name, own) for name in files]
    names = [file.name for file in read]
    if len(set(names)) < len(names):
        raise RecipeError(f"two files of probes are called {max(names, key=names.count)}")
    hows = [_asking(file.asking, file.name) for file in read]
    model = open_model(source, others)
    hows = [agreed({source: model}, how) for how in hows]
    answers: dict[str, list[Answer]] = {}
    parts: list[dict[str, Any]] = []
    for file, how in zip(read, hows, strict=True):
        probing = make_questions(file)
        answers[file.name], about = ask(model, probing.asked, how)
        part = {"name": file.name, "settings": asdict(how) | {"each": file.each, "seed": file.seed},
                "data": file.data, "left_out": probing.left_out, **about,
                "trained_on": trained_on(source, probing),
                "tasks": task_rows(probing, answers[file.name])}  # fmt: skip
        parts.append(part)
        _tell(part)
    result = {"model": source, "probes": parts}
    folder = folder or new_folder(Path(output) / "probes")
    return write_report(folder, answers, result, "probes", html(result), "probes")


def trained_on(source: str, probing: Probing) -> int:
    """Return how many of the people who are asked about a run was trained on, as far as it tells.

    Known are people of runs on the same dataset, where it knows them.
    """
    file = Path(source) / RESULT
    if not file.is_file():
        return 0
    result = json.loads(file.read_text(encoding="utf-8"))
    if (result.get("data") or {}).get("name") != probing.file.data["name"]:
        return 0
    sides, called = people_of(result)
    asked = {called(question.person) for question in probing.asked.questions if question.person}
    return len(asked & (sides["train"] | sides["val"]))


def _sort(overrides: Sequence[str]) -> tuple[list[str], list[str], str]:
    """Return the overrides of probes, those of the recipe, and the root of reports."""
    own = [o for o in overrides if o.startswith(("data.", "asking.", "each=", "seed="))]
    output = [o.partition("=")[2] for o in overrides if o.startswith("output=")]
    others = [o for o in overrides if o not in own and not o.startswith("output=")]
    return own, others, output[-1] if output else "runs"


def _asking(given: Mapping[str, Any], name: str) -> Asking:
    check_places("asking", dict(given))
    return Asking(**arguments(Asking, {"blind": False, **given}, f"{name}: asking"))


# What the answers are worth.


@dataclass
class Verdict:
    """What one answer decides.

    Attributes:
        right: of each thing that was decided whether it was right: one of a question with a key,
            one for each AU of a description.
        labels: (label, it is there, the model says so).
        readable: whether anything could be read.
    """

    right: list[bool]
    labels: list[tuple[str, bool, bool]]
    readable: bool


def judge(answer: Answer, asked: Question, truth: dict[str, bool], label: str,
          exclusive: bool) -> Verdict:  # fmt: skip
    """Hold an answer against the labels of its face.

    Args:
        answer: as it was read.
        asked: its question.
        truth: the known labels of the face.
        label: that a question of yes or no is about.
        exclusive: whether one label is right for a face.
    """
    if asked.form == "yes_no":
        here = asked.key == "yes"
        said_yes = answer.said == "yes"
        return Verdict([bool(answer.right)], [(label, here, said_yes)], answer.said is not None)
    if asked.form == "options":
        chosen = None if answer.said is None else asked.options[LETTERS.index(answer.said)]
        rows = [(name, on, shown(name) == chosen) for name, on in truth.items()
                if shown(name) in asked.options]  # fmt: skip
        return Verdict([bool(answer.right)], rows, chosen is not None)
    said = said_of(answer.text, list(truth), exclusive)
    rows = [(name, on, said is not None and name in said) for name, on in truth.items()]
    if exclusive:
        return Verdict([all(on == named for _, on, named in rows)], rows, said is not None)
    return Verdict([said is not None and on == named for _, on, named in rows], rows,
                   said is not None)  # fmt: skip


def said_of(text: str, names: Sequence[str], exclusive: bool) -> set[str] | None:
    """Return which labels a description affirms; None where it says nothing of them.

    >>> said_of("AU6 and AU12.", ["AU4", "AU12"], False), said_of("Well.", ["joy", "fear"], True)
    ({'AU12'}, None)
    """
    if not exclusive:
        active = parse_aus(text, [int(name[2:]) for name in names])
        return None if active is None else {n for n, on in zip(names, active, strict=True) if on}
    if "pleasant" in names:
        place = read_letter(text, names)
        return None if place is None else {names[place]}
    index = parse_expression(text, names)
    return None if index == UNREADABLE else {names[index]}


def task_rows(probing: Probing, answers: Sequence[Answer]) -> list[dict[str, Any]]:
    """Return a row for each task.

    ``n`` questions and ``decided`` things, of which ``right`` is the share that was right (the mean
    over repeats), with Wilson's interval ``low`` to ``high`` over them; ``chance`` the share of a
    model that knows nothing (of a description of AUs: that names none, or all); ``f1`` the mean of
    ``labels``, each with ``f1``, ``positive`` and ``n``; ``pairs``, ``blind``, ``unreadable``;
    ``examples``.
    """
    by_id = {question.id: question for question in probing.asked.questions}
    rows = []
    for task, truth in probing.truths.items():
        mine = [a for a in answers if by_id[a.id].task == task]
        seeing = [a for a in mine if not a.blind]
        if seeing:
            judged = {one: [_judged(probing, truth, by_id, a) for a in mine if a.blind == one]
                      for one in (False, True)}  # fmt: skip
            row = _row(task, truth, [by_id[a.id] for a in seeing], judged[False])
            right = _shares([by_id[a.id] for a in mine if a.blind], judged[True])
            row["blind"] = float(np.mean(right)) if right else None
            row["pairs"] = _pairs(seeing, by_id)
            row["examples"] = [_example(by_id[a.id], a) for a in _some(seeing)]
            rows.append(row)
    return rows


def _judged(
    probing: Probing, truth: Truth, by_id: Mapping[str, Question], answer: Answer
) -> Verdict:
    known = truth.of(probing.face[answer.id])
    label = probing.about[answer.id]
    return judge(answer, by_id[answer.id], known, label, truth.exclusive)


def _row(
    task: str, truth: Truth, questions: Sequence[Question], verdicts: Sequence[Verdict]
) -> dict[str, Any]:
    right = _shares(questions, verdicts)
    low, high = (wilson(edge(round(sum(right), 6)), len(right))[side]
                 for side, edge in enumerate((math.floor, math.ceil)))  # fmt: skip
    labels = label_rows([row for verdict in verdicts for row in verdict.labels])
    return {
        "task": task, "n": len({q.id for q in questions}), "decided": len(right),
        "people": len({q.unit for q in questions}),
        "right": float(np.mean(right)), "low": low, "high": high,
        "chance": _chance(questions, verdicts, truth),
        "f1": _mean_f1(labels),
        "labels": labels,
        "unreadable": float(np.mean([not verdict.readable for verdict in verdicts])),
    }  # fmt: skip


def _shares(questions: Sequence[Question], verdicts: Sequence[Verdict]) -> list[float]:
    """Return of each thing that was decided the share of its repeats that were right."""
    found: dict[tuple[str, int], list[bool]] = defaultdict(list)
    for question, verdict in zip(questions, verdicts, strict=True):
        for place, right in enumerate(verdict.right):
            found[question.id, place].append(right)
    return [float(np.mean(own)) for own in found.values()]


def _mean_f1(labels: Sequence[Mapping[str, Any]]) -> float | None:
    known = [row["f1"] for row in labels if row["f1"] is not None]
    return float(np.mean(known)) if known else None


def label_rows(decided: Sequence[tuple[str, bool, bool]]) -> list[dict[str, Any]]:
    """Return for each label how often it was decided and there, and F1; None if it never was there.

    >>> [row["f1"] for row in label_rows([("a", True, True), ("a", False, True)])]
    [0.6666666666666666]
    """
    by_label: dict[str, list[tuple[bool, bool]]] = defaultdict(list)
    for label, here, said in decided:
        by_label[label].append((here, said))
    rows = []
    for label, found in by_label.items():
        positive = sum(here for here, _ in found)
        both = sum(here and said for here, said in found)
        total = positive + sum(said for _, said in found)
        f1 = 2 * both / total if positive else None
        rows.append({"label": label, "n": len(found), "positive": positive, "f1": f1})
    return rows


def _chance(
    questions: Sequence[Question], verdicts: Sequence[Verdict], truth: Truth
) -> float | None:
    if questions[0].form != "open":
        return float(np.mean([question.chance for question in questions]))
    if truth.exclusive:
        return 1 / len(truth.names)
    here = float(np.mean([on for verdict in verdicts for _, on, _ in verdict.labels]))
    return max(here, 1 - here)


def _pairs(answers: Sequence[Answer], by_id: Mapping[str, Question]) -> float | None:
    """Return the share of pairs of which both questions were asked and are right."""
    pairs: dict[tuple[str, int], list[bool]] = defaultdict(list)
    for answer in answers:
        if by_id[answer.id].pair:
            pairs[by_id[answer.id].pair, answer.repeat].append(bool(answer.right))
    whole = [all(found) for found in pairs.values() if len(found) == 2]
    return float(np.mean(whole)) if whole else None


def _some(answers: Sequence[Answer]) -> list[Answer]:
    places = np.linspace(0, len(answers) - 1, min(_EXAMPLES, len(answers))).round().astype(int)
    return [answers[place] for place in places]


def _example(asked: Question, answer: Answer) -> dict[str, str]:
    key = f"{asked.key}. {asked.options[LETTERS.index(asked.key)]}" if asked.options else asked.key
    said = answer.text or answer.said or ""
    if asked.options and answer.said and not answer.text:
        said = f"{answer.said}. {asked.options[LETTERS.index(answer.said)]}"
    thoughts = answer.thoughts[:400]
    return {"question": asked.question, "key": key, "said": said[:400], "thoughts": thoughts}


# What is shown.


def _tell(part: Mapping[str, Any]) -> None:
    for row in part["tasks"]:
        f1 = "-" if row["f1"] is None else f"{row['f1']:.3f}"
        _say(
            f"{part['name']}: {row['task']}: {percent(row['right'])} right ({percent(row['low'])} "
            f"to {percent(row['high'])}, n {row['decided']}, by chance {percent(row['chance'])}), "
            f"F1 {f1}"
        )
    if part["trained_on"]:
        _say(
            f"warning: {part['name']}: the model was trained on {part['trained_on']} of the people "
            "who are asked about"
        )
    if part["left_out"]:
        _say(f"{part['name']}: not asked: {', '.join(part['left_out'])}")
    if part["skipped"]:
        (reason, *_) = part["skipped"].values()
        _say(f"{part['name']}: {len(part['skipped'])} questions left out, the first for: {reason}")
    if part.get("refused", {}).get("n"):
        _say(f"{part['name']}: {part['refused']['n']} questions refused, which are wrong")


def _say(line: str) -> None:
    console.print(harmless(line), markup=False, highlight=False, soft_wrap=True)


def html(result: Mapping[str, Any]) -> str:
    """Return the page of a result."""
    return page_template("probes.html.j2").render(result=result, percent=percent)
