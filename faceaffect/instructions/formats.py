"""Instruction items in the JSON of LLaVA and of LLaMA-Factory, written and read."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from faceaffect.errors import DataError
from faceaffect.files import read_json, write_atomically
from faceaffect.instructions.items import KINDS, Item, Turn, read_jsonl

Format = Literal["llava", "llama_factory"]
_TAGS = {"image": "<image>", "video": "<video>"}
_ASKS = ("human", "user")
_ANSWERS = ("gpt", "assistant")


def write_conversations(path: Path | str, items: Iterable[Item], style: Format) -> int:
    """Write items as one JSON list; return how many.

    Args:
        path: the file to write.
        items: with turns.
        style: ``llava``: ``conversations`` of ``from``/``value``, the medium under ``image`` or
            ``video``; ``llama_factory``: ``messages`` of ``role``/``content`` (its sharegpt format
            with OpenAI tags), media under ``images`` or ``videos``. Both tag the first question
            and keep ``id``, ``kind``, ``source``, ``part`` and ``label``, which the tools ignore.
    """
    records = [(_llava if style == "llava" else _llama_factory)(item) for item in items]
    write_atomically(Path(path), json.dumps(records, ensure_ascii=False, indent=1))
    return len(records)


def read_items(path: Path | str) -> list[Item]:
    """Read an instruction file: our JSON lines, or the JSON list of LLaVA or LLaMA-Factory.

    Of LLaMA-Factory both formats are understood, sharegpt (``messages`` or ``conversations``) and
    alpaca (``instruction``, ``input``, ``output``, ``history``). A record without ``id`` is named
    by its medium.

    Raises:
        DataError: the file is missing or no such file; the record is named.
    """
    path = Path(path)
    if path.suffix == ".jsonl" or not path.is_file():
        return read_jsonl(path)
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
        except (ValueError, TypeError, KeyError, AttributeError, IndexError) as error:
            raise DataError(f"{path}: record {index}: {error!r} is no dialogue") from None
    return items


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


def _extra(item: Item) -> dict[str, str]:
    return {"kind": item.kind, "source": item.source, "part": item.part, "label": item.label}


def _item(record: dict[str, Any]) -> Item:
    media, modality = _medium(record)
    turns = _alpaca(record) if "instruction" in record else _sharegpt(record)
    if not turns:
        raise ValueError("no turn")
    kind = record.get("kind", "conversation")
    if kind not in KINDS:
        raise ValueError(f"kind {kind}")
    name = str(record.get("id") or media)
    if not name:
        raise ValueError("neither id nor medium")
    extra = {key: str(record.get(key, "")) for key in ("source", "part", "label")}
    return Item(name, kind, turns, media, modality, **extra)


def _medium(record: dict[str, Any]) -> tuple[str, Literal["image", "video"]]:
    modalities: tuple[Literal["image", "video"], ...] = ("image", "video")
    for modality in modalities:
        value = record.get(modality) or record.get(f"{modality}s")
        if isinstance(value, list):
            if len(value) > 1:
                raise ValueError(f"{len(value)} media, one was expected")
            value = value[0] if value else None
        if value:
            return str(value), modality
    return "", "image"


def _sharegpt(record: dict[str, Any]) -> list[Turn]:
    messages = record["messages"] if "messages" in record else record["conversations"]
    pairs = [(m.get("role", m.get("from")), m.get("content", m.get("value"))) for m in messages]
    pairs = [(role, text) for role, text in pairs if role != "system"]
    asks, answers = pairs[0::2], pairs[1::2]
    right = all(role in _ASKS for role, _ in asks) and all(role in _ANSWERS for role, _ in answers)
    if len(asks) != len(answers) or not right:
        raise ValueError("questions and answers do not alternate")
    return [(_untagged(q), str(a)) for (_, q), (_, a) in zip(asks, answers, strict=True)]


def _alpaca(record: dict[str, Any]) -> list[Turn]:
    question = "\n".join(part for part in (record["instruction"], record.get("input")) if part)
    turns = [(q, a) for q, a in record.get("history") or []] + [(question, record["output"])]
    return [(_untagged(q), str(a)) for q, a in turns]


def _untagged(text: str) -> str:
    for tag in _TAGS.values():
        text = text.replace(tag, "")
    return text.strip()
