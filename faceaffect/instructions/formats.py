"""Instruction items as LLaVA, LLaMA-Factory, TRL and ms-swift have them, written and read."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal

from faceaffect.errors import DataError
from faceaffect.files import read_json, write_atomically
from faceaffect.instructions.items import KINDS, Item, Turn

Format = Literal["llava", "llama_factory", "trl", "swift"]
LINES: tuple[Format, ...] = ("trl", "swift")
"""The formats of one record a line; the others are one list."""

_TAGS = {"image": "<image>", "video": "<video>"}
_ASKS = ("human", "user")
_ANSWERS = ("gpt", "assistant")


def write_conversations(path: Path | str, items: Iterable[Item], style: Format) -> int:
    """Write items for another tool; return how many.

    All keep ``id``, ``kind``, ``source``, ``part`` and ``label``, which the tools ignore or hand on
    to reward functions.

    Args:
        path: the file to write.
        items: with turns.
        style: ``llava``: a list of ``conversations`` of ``from``/``value``, the medium under
            ``image`` or ``video``; ``llama_factory``: a list of ``messages`` of
            ``role``/``content`` (its sharegpt format with OpenAI tags), media under ``images`` or
            ``videos``; ``swift``: the same, a record a line, as ms-swift takes it; ``trl``: a
            record a line whose ``content`` is a list of parts. All but ``trl`` put a tag for the
            medium into the first question.
    """
    write = _WRITERS[style]
    records = [write(item) for item in items]
    if style in LINES:
        text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    else:
        text = json.dumps(records, ensure_ascii=False, indent=1)
    write_atomically(Path(path), text)
    return len(records)


def read_items(path: Path | str) -> list[Item]:
    """Read an instruction file, ours or of another tool, as lines or as one JSON list.

    Understood are our lines, LLaVA's ``conversations``, ``messages`` of LLaMA-Factory, TRL and
    ms-swift (contents as text or as lists of parts; TRL's ``prompt`` and ``completion``), and
    ``instruction``, ``input``, ``output`` or ``query``, ``response`` with ``history``. A record
    without ``id`` is named by its medium.

    Raises:
        DataError: the file is missing or no such file; the line or record is named.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"no instruction file at {path}")
    if path.suffix == ".jsonl":
        return _read_lines(path)
    try:
        records = read_json(path.read_bytes())
    except ValueError as error:
        raise DataError(f"{path}: not readable as JSON: {error}") from None
    if not isinstance(records, list):
        raise DataError(f"{path}: a list of records was expected, found {type(records).__name__}")
    items = []
    for index, record in enumerate(records):
        try:
            items.append(_item(record))
        except _WRONG as error:
            raise DataError(f"{path}: record {index}: {error!r} is no dialogue") from None
    return items


_WRONG = (ValueError, TypeError, KeyError, AttributeError, IndexError)


def _read_lines(path: Path) -> list[Item]:
    items = []
    for number, line in enumerate(path.read_bytes().split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            record = read_json(line)
            ours = not isinstance(record, dict) or "turns" in record
            if ours or not _ASKED.intersection(record):
                items.append(Item.from_dict(record))
            else:
                items.append(_item(record))
        except _WRONG as error:
            raise DataError(f"{path}:{number}: no instruction item: {error}") from None
    return items


_ASKED = {"messages", "conversations", "instruction", "query", "prompt"}


def _llava(item: Item) -> dict[str, Any]:
    turns = []
    for index, (question, answer) in enumerate(item.turns):
        tag = f"{_TAGS[item.modality]}\n" if index == 0 and item.media else ""
        turns.append({"from": "human", "value": tag + question})
        turns.append({"from": "gpt", "value": answer})
    media: dict[str, str] = {item.modality: item.media} if item.media else {}
    return {"id": item.id, **media, "conversations": turns, **_extra(item)}


def _llama_factory(item: Item) -> dict[str, Any]:
    turns = []
    for index, (question, answer) in enumerate(item.turns):
        tag = _TAGS[item.modality] if index == 0 and item.media else ""
        turns.append({"role": "user", "content": tag + question})
        turns.append({"role": "assistant", "content": answer})
    media = {f"{item.modality}s": [item.media]} if item.media else {}
    return {"id": item.id, "messages": turns, **media, **_extra(item)}


def _trl(item: Item) -> dict[str, Any]:
    turns: list[dict[str, Any]] = []
    for index, (question, answer) in enumerate(item.turns):
        shown = [{"type": item.modality}] if index == 0 and item.media else []
        asked = [*shown, {"type": "text", "text": question}]
        turns.append({"role": "user", "content": asked})
        turns.append({"role": "assistant", "content": [{"type": "text", "text": answer}]})
    media = {f"{item.modality}s": [item.media]} if item.media else {}
    return {"id": item.id, "messages": turns, **media, **_extra(item)}


_WRITERS: dict[Format, Callable[[Item], dict[str, Any]]] = {
    "llava": _llava,
    "llama_factory": _llama_factory,
    "swift": _llama_factory,
    "trl": _trl,
}


def _extra(item: Item) -> dict[str, str]:
    return {"kind": item.kind, "source": item.source, "part": item.part, "label": item.label}


def _item(record: dict[str, Any]) -> Item:
    turns, media, modality = _dialogue(record)
    if not turns:
        raise ValueError("no turn")
    kind = record.get("kind", "conversation")
    if kind not in KINDS:
        raise ValueError(f"kind {kind}")
    name = str(record.get("id") or media)
    if not name:
        raise ValueError("neither id nor medium")
    extra = {key: str(record.get(key) or "") for key in ("source", "part", "label")}
    return Item(name, kind, turns, media, modality, **extra)


def _dialogue(record: dict[str, Any]) -> tuple[list[Turn], str, Literal["image", "video"]]:
    """Return the turns of a record, its medium and what that is."""
    found = {modality: _listed(record, modality) for modality in _MODALITIES}
    if "instruction" in record or "query" in record:
        turns = _alpaca(record)
    else:
        messages = _messages(record)
        for message in messages:
            for modality in _MODALITIES:
                found[modality] += _shown(message.get("content"), modality)
        turns = _turns(messages)
    media = [(place, modality) for modality in _MODALITIES for place in found[modality]]
    if len(media) > 1:
        raise ValueError(f"{len(media)} media, one was expected")
    return (turns, *media[0]) if media else (turns, "", "image")


_MODALITIES: tuple[Literal["image", "video"], ...] = ("image", "video")


def _listed(record: dict[str, Any], modality: str) -> list[str]:
    """Return the media that a record lists: paths, or tables of a path and bytes."""
    value = record.get(modality) or record.get(f"{modality}s") or []
    return [_place(one) for one in (value if isinstance(value, list) else [value])]


def _shown(content: Any, modality: str) -> list[str]:
    """Return the media that stand in the parts of a message, not those that it only marks."""
    places = []
    for part in content if isinstance(content, list) else []:
        if isinstance(part, dict) and part.get("type") in (modality, f"{modality}_url"):
            place = part.get(modality) or part.get(f"{modality}_url") or part.get("url")
            places += [_place(place)] if place else []
    return places


def _place(medium: Any) -> str:
    """Return the path of a medium.

    Raises:
        ValueError: it is no path but the picture itself, or nothing.
    """
    if isinstance(medium, dict):
        medium = medium.get("path") or medium.get("url")
    if not isinstance(medium, str) or not medium or medium.startswith("data:"):
        raise ValueError("a medium that is no path")
    return medium.removeprefix("file://")


def _messages(record: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the messages of a record, all with ``role`` and ``content``."""
    if "prompt" in record:
        prompt, completion = record["prompt"], record["completion"]
        if isinstance(prompt, str):
            prompt = [{"role": "user", "content": prompt}]
        if isinstance(completion, str):
            completion = [{"role": "assistant", "content": completion}]
        return [*prompt, *completion]
    given = record["messages"] if "messages" in record else record["conversations"]
    return [
        {"role": m.get("role", m.get("from")), "content": m.get("content", m.get("value"))}
        for m in given
    ]


def _turns(messages: list[dict[str, Any]]) -> list[Turn]:
    pairs = [(m["role"], _text(m["content"])) for m in messages if m["role"] != "system"]
    asks, answers = pairs[0::2], pairs[1::2]
    right = all(role in _ASKS for role, _ in asks) and all(role in _ANSWERS for role, _ in answers)
    if len(asks) != len(answers) or not right:
        raise ValueError("questions and answers do not alternate")
    return [(_untagged(q), a) for (_, q), (_, a) in zip(asks, answers, strict=True)]


def _text(content: Any) -> str:
    """Return the words of a message, which are a text or the texts among its parts."""
    if isinstance(content, list):
        parts = [p if isinstance(p, str) else p.get("text") or "" for p in content]
        return "\n".join(part for part in parts if part)
    if not isinstance(content, str):
        raise ValueError(f"a message without words: {type(content).__name__}")
    return content


def _alpaca(record: dict[str, Any]) -> list[Turn]:
    if "query" in record:
        question, answer = record["query"], record["response"]
    else:
        parts = (record["instruction"], record.get("input"))
        question, answer = "\n".join(part for part in parts if part), record["output"]
    turns = [(q, a) for q, a in record.get("history") or []] + [(question, answer)]
    return [(_untagged(q), str(a)) for q, a in turns]


def _untagged(text: str) -> str:
    for tag in _TAGS.values():
        text = text.replace(tag, "")
    return text.strip()
