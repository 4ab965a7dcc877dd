"""Answers as JSON: the schema that a server holds them to, and reading them."""

import json
import re
from collections.abc import Sequence
from json import JSONDecoder
from typing import Any

import numpy as np
import torch
from torch import Tensor

from faceaffect.instructions.items import au_answer, expression_answer
from faceaffect.schema import VA_NAMES, LabelSchema
from faceaffect.scores.answers import join_answers
from faceaffect.scores.vocabulary import AU_NAMES

UNREADABLE = "no JSON as asked for"
"""What stands for a task's words where they are no such JSON."""


def answer_schema(schema: LabelSchema, reasons: bool = False) -> dict[str, Any]:
    """Return the JSON schema of one answer to all tasks.

    Args:
        schema: what is asked.
        reasons: whether the answer begins with reasons in free words.
    """
    fields: dict[str, Any] = {"reasons": {"type": "string"}} if reasons else {}
    if schema.expressions:
        classes = [expression_answer(name) for name in schema.expressions]
        fields["expression"] = {"type": "string", "enum": classes}
    if schema.aus:
        named = [f"AU{au} {AU_NAMES[au][0]}" for au in schema.aus if au in AU_NAMES]
        fields["aus"] = {
            "type": "array",
            "description": f"the active action units, of {', '.join(named)}",
            "items": {"type": "string", "enum": list(schema.au_names)},
        }
    if schema.valence_arousal:
        fields |= {name: {"type": "number", "description": "from -1 to 1"} for name in VA_NAMES}
    return {
        "type": "object",
        "properties": fields,
        "required": list(fields),
        "additionalProperties": False,
    }


def example(schema: LabelSchema, reasons: bool = False) -> str:
    """Return how an answer looks, for servers that hold nobody to a schema.

    >>> example(LabelSchema((1,), ("calm", "angry")))
    '{"expression": "calm, angry", "aus": ["AU1"]}'
    """
    shown: dict[str, Any] = {"reasons": "..."} if reasons else {}
    if schema.expressions:
        shown["expression"] = ", ".join(expression_answer(name) for name in schema.expressions)
    if schema.aus:
        shown["aus"] = list(schema.au_names)
    if schema.valence_arousal:
        shown |= dict.fromkeys(VA_NAMES, 0.0)
    return json.dumps(shown, ensure_ascii=False)


def read_json_answers(
    texts: Sequence[str], schema: LabelSchema
) -> tuple[dict[str, Tensor], list[str]]:
    """Read answers to all tasks; words and fences around the JSON are passed over.

    Args:
        texts: N answers; empty where there is none.
        schema: what was asked.

    Returns:
        As :func:`~faceaffect.scores.answers.read_answers`; and the answers in words, a line a task,
        of a task that cannot be read :data:`UNREADABLE`, and empty where there is none.
    """
    found = [_object(text) for text in texts]
    classes = [expression_answer(name) for name in schema.expressions]
    rows: dict[str, list[list[float]]] = {task: [] for task in schema.tasks}
    lines: list[dict[str, str]] = [{} for _ in texts]
    for plain, line in zip(found, lines, strict=True):
        for task in schema.tasks:
            row, line[task] = _READERS[task](plain, schema, classes)
            rows[task].append(row)
    words = [join_answers(line) if text else "" for line, text in zip(lines, texts, strict=True)]
    width = {"au": len(schema.aus), "expression": len(classes), "va": len(VA_NAMES)}
    return {
        task: torch.tensor(rows[task], dtype=torch.float32).view(-1, width[task])
        for task in schema.tasks
    }, words


def _object(text: str) -> dict[str, Any]:
    start = text.find("{")
    if start < 0:
        return {}
    try:
        found, _ = JSONDecoder(strict=False).raw_decode(text, start)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _expression(
    plain: dict[str, Any], schema: LabelSchema, classes: list[str]
) -> tuple[list[float], str]:
    said = plain.get("expression")
    word = said.strip().lower() if isinstance(said, str) else ""
    if word not in classes:
        return [np.nan] * len(classes), UNREADABLE
    return [float(word == name) for name in classes], word


def _aus(plain: dict[str, Any], schema: LabelSchema, classes: list[str]) -> tuple[list[float], str]:
    said = plain.get("aus")
    listed = said if isinstance(said, list) else [None]
    names = [re.fullmatch(r"(?:AU)? ?0*(\d{1,3})", str(name), re.IGNORECASE) for name in listed]
    active = [int(name[1]) for name in names if name]
    if len(active) < len(names):
        return [np.nan] * len(schema.aus), UNREADABLE
    return [float(au in active) for au in schema.aus], au_answer(active)


def _va(plain: dict[str, Any], schema: LabelSchema, classes: list[str]) -> tuple[list[float], str]:
    values = [plain.get(name) for name in VA_NAMES]
    numbers = [v for v in values if isinstance(v, (int, float)) and not isinstance(v, bool)]
    pair = [float(v) for v in numbers if -1 <= v <= 1]
    if len(pair) < len(values):
        return [np.nan] * len(VA_NAMES), UNREADABLE
    return pair, f"valence: {pair[0]:g}, arousal: {pair[1]:g}"


_READERS = {"expression": _expression, "au": _aus, "va": _va}
