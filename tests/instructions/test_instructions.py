import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from faceaffect.errors import DataError
from faceaffect.instructions.formats import LINES, read_items, write_conversations
from faceaffect.instructions.items import (
    KINDS,
    Item,
    Labels,
    au_question,
    conversation,
    expression_question,
    labels_at,
    read_jsonl,
    template_turns,
    turns_by_id,
    va_answer,
    write_items,
    write_jsonl,
)
from faceaffect.scores.answers import parse_aus, parse_expression, parse_va
from squares import SCHEMA, Faces


def test_answers_say_what_the_labels_say() -> None:
    faces = Faces()
    for index in range(len(faces)):
        labels = labels_at(faces, index)
        for seed in range(5):
            rng = np.random.default_rng(seed)
            turns = {kind: template_turns(labels, SCHEMA, kind, rng) for kind in KINDS}
            if labels.expression is None:
                assert not turns["expression"]
                assert not turns["conversation"]
            else:
                for kind in ("expression", "conversation"):
                    read = parse_expression(turns[kind][0][1], SCHEMA.expressions)
                    assert SCHEMA.expressions[read] == labels.expression
            asked = list(labels.aus)
            assert parse_aus(turns["au"][0][1], asked) == [labels.aus[au] for au in asked]
            assert parse_va(turns["va"][0][1]) == pytest.approx(labels.va, abs=0.125)


def test_class_lists_are_shuffled_and_phrasings_vary() -> None:
    rng = np.random.default_rng(0)
    questions = [expression_question(SCHEMA.expressions, rng) for _ in range(200)]
    assert len(set(questions)) > 100
    assert all(all(name in question for name in SCHEMA.expressions) for question in questions)
    canonical = expression_question(SCHEMA.expressions)
    assert canonical == expression_question(SCHEMA.expressions)
    assert "{anger, happiness, neutral, surprise}" in canonical
    assert "video" in expression_question(SCHEMA.expressions, media="video")
    assert "AU1, AU4, AU6, AU12" in au_question(SCHEMA.aus)


def test_no_conversation_question_names_the_expression() -> None:
    for name in SCHEMA.expressions:
        for seed in range(60):
            turns = conversation(Labels(name, {12: True}), np.random.default_rng(seed))
            assert all(name not in question.lower() for question, _ in turns)
            assert name in turns[0][1]


def test_unknown_labels_are_not_asked_for() -> None:
    faces = Faces()
    assert 1 not in labels_at(faces, 1).aus
    assert labels_at(faces, 2).expression is None
    assert template_turns(Labels(), SCHEMA, "au") == []
    assert template_turns(Labels(), SCHEMA, "va") == []


def test_valence_and_arousal_take_the_nearest_step() -> None:
    assert va_answer((0.13, -1)) == "valence: 0.25, arousal: -1.0"


def test_items_depend_on_seed_and_index_alone(tmp_path: Path) -> None:
    faces = Faces()
    items = list(write_items(faces, range(12), source="squares"))
    again = list(write_items(faces, [7], source="squares"))
    assert again == [item for item in items if item.id == "0/7"]
    assert Counter(item.kind for item in items)["expression"] == 11
    items.append(Item("odd", "au", [("a line\u2028break", "\x85, \n")]))
    assert write_jsonl(tmp_path / "items.jsonl", items) == len(items)
    assert read_jsonl(tmp_path / "items.jsonl") == items
    tested = list(write_items(faces, range(12), part="test"))
    assert {item.kind for item in tested} == {"expression", "au", "va"}


@pytest.mark.parametrize("style", ["llava", "llama_factory", "trl", "swift"])
@pytest.mark.parametrize("modality", ["image", "video"])
def test_formats_round_trip(style: Any, modality: Any, tmp_path: Path) -> None:
    turns = [("What is it?", "joy"), ("Sure?", "yes")]
    items = [Item("a/b", "conversation", turns, "a/b", modality, "raf", "train", "joy\u2028")]
    items.append(Item("c", "au", [("Q\x85?", "A")]))
    file = tmp_path / ("x.jsonl" if style in LINES else "x.json")
    assert write_conversations(file, items, style) == 2
    assert read_items(file) == items
    text = file.read_bytes().decode()
    record = json.loads(text.split("\n")[0]) if style in LINES else json.loads(text)[0]
    if style == "trl":
        asked = {
            "role": "user",
            "content": [{"type": modality}, {"type": "text", "text": turns[0][0]}],
        }
        assert record["messages"][0] == asked
        assert record["messages"][1]["content"] == [{"type": "text", "text": "joy"}]
        assert record[f"{modality}s"] == ["a/b"]
        return
    if style == "swift":
        assert record["messages"][0] == {"role": "user", "content": f"<{modality}>What is it?"}
    if style == "llava":
        assert record["conversations"][0] == {
            "from": "human",
            "value": f"<{modality}>\nWhat is it?",
        }
        assert record[modality] == "a/b"
    else:
        assert record["messages"][1] == {"role": "assistant", "content": "joy"}
        assert record[f"{modality}s"] == ["a/b"]


def test_files_of_others_are_read(tmp_path: Path) -> None:
    alpaca = {
        "instruction": "<image>Which?",
        "input": "Look.",
        "output": "fear",
        "images": ["i/1.png"],
        "history": [["Hello?", "Yes."]],
    }
    spoken = [("system", "Be kind."), ("human", "Q"), ("gpt", "A")]
    conversations = [{"from": role, "value": text} for role, text in spoken]
    sharegpt = {"conversations": conversations, "videos": ["v/2.mp4"]}
    file = tmp_path / "others.json"
    file.write_text(json.dumps([alpaca, sharegpt]))
    first, second = read_items(file)
    assert first.turns == [("Hello?", "Yes."), ("Which?\nLook.", "fear")]
    assert first.id == first.media == "i/1.png"
    assert second.turns == [("Q", "A")]
    assert second.modality == "video"


def message(role: str, content: Any) -> dict[str, Any]:
    return {"role": role, "content": content}


PARTS = [{"type": "image"}, {"type": "text", "text": "Which?"}]
SAID = message("assistant", [{"type": "text", "text": "fear"}])
FOREIGN: list[tuple[str, dict[str, Any]]] = [
    ("trl", {"messages": [message("user", PARTS), SAID], "images": ["i/1.png"]}),
    ("trl prompt", {"prompt": [message("user", PARTS)], "completion": [SAID], "image": "i/1.png"}),
    ("trl words", {"prompt": "Which?", "completion": "fear", "images": ["i/1.png"]}),
    ("openai", {"messages": [
        message("user", [{"type": "image_url", "image_url": {"url": "file://i/1.png"}}, PARTS[1]]),
        message("assistant", "fear")]}),
    ("qwen", {"messages": [
        message("system", "Be kind."),
        message("user", [{"type": "image", "image": "i/1.png"}, PARTS[1]]), SAID]}),
    ("swift", {"messages": [message("user", "<image>Which?"), message("assistant", "fear")],
               "images": [{"bytes": None, "path": "i/1.png"}], "solution": "fear"}),
    ("swift query", {"query": "<image>Which?", "response": "fear", "images": ["i/1.png"]}),
    ("llava", {"image": "i/1.png", "conversations": [
        {"from": "human", "value": "<image>\\nWhich?"}, {"from": "gpt", "value": "fear"}]}),
]  # fmt: skip


@pytest.mark.parametrize("ending", ["json", "jsonl"])
def test_messages_of_others_are_read_as_what_they_are(ending: str, tmp_path: Path) -> None:
    file = tmp_path / f"x.{ending}"
    records = [record for _, record in FOREIGN]
    text = "\n".join(map(json.dumps, records)) if ending == "jsonl" else json.dumps(records)
    file.write_text(text.replace("\\\\n", "\\n"))
    items = read_items(file)
    for (name, _), item in zip(FOREIGN, items, strict=True):
        assert item == Item("i/1.png", "conversation", [("Which?", "fear")], "i/1.png"), name


@pytest.mark.parametrize("record", [
    {"messages": [message("user", "Q"), message("assistant", None)], "id": "a"},
    {"messages": [message("user", "Q")], "images": ["i/1.png"], "solution": "fear"},
    {"messages": [message("user", "Q"), message("tool", "A")], "id": "a"},
    {"messages": [message("user", PARTS), SAID], "images": ["i/1.png", "i/2.png"]},
    {"messages": [message("user", PARTS), SAID], "images": ["data:image/png;base64,AAAA"]},
    {"messages": [message("user", PARTS), SAID]}, {"messages": "Q"}, {"prompt": "Q"},
    {"messages": [3]}, {"query": "Q"}, {"nothing": 1},
])  # fmt: skip
def test_lines_that_are_no_dialogue_are_named(record: dict[str, Any], tmp_path: Path) -> None:
    right = json.dumps(FOREIGN[0][1])
    (tmp_path / "x.jsonl").write_text(f"{right}\n{json.dumps(record)}\n")
    with pytest.raises(DataError, match=r"x\.jsonl:2: no instruction item"):
        read_items(tmp_path / "x.jsonl")


@pytest.mark.parametrize(("text", "says"), [
    ("{", "not readable as JSON"),
    ("{}", "a list of records"),
    ('[{"id": "a"}]', "record 0"),
    ('[{"id": "a", "conversations": []}]', "record 0"),
    ('[{"id": "a", "conversations": [{"from": "gpt", "value": "A"}]}]', "record 0"),
    ('[{"messages": [{"role": "user", "content": "Q"}, {"role": "gpt", "content": "A"}]}]', "reco"),
    ("[3]", "record 0"),
])  # fmt: skip
def test_damaged_files_are_named(text: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(DataError, match=says):
        read_items(tmp_path / "x.json")


def test_damaged_lines_are_named(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text('{"id": "a", "turns": [["q", "a"]]}\n{"id": "b"}\n')
    with pytest.raises(DataError, match=r"x\.jsonl:2"):
        read_items(tmp_path / "x.jsonl")
    with pytest.raises(DataError, match="no instruction file"):
        read_items(tmp_path / "y.json")


def test_dialogues_outside_the_training_part_are_filtered() -> None:
    items = [Item(name, "conversation", [("q", name)]) for name in ("a", "a", "b", "c")]
    items.append(Item("a", "conversation", [("q", "leak")], part="test"))
    grouped, left_out = turns_by_id(items, ["a", "b", "d"])
    assert grouped == {"a": [[("q", "a")], [("q", "a")]], "b": [[("q", "b")]]}
    assert left_out == 2
    with pytest.raises(DataError, match="none of the 5"):
        turns_by_id(items, ["d"])


def test_items_of_a_dataset_are_found_in_a_mixture() -> None:
    known = ["raf/1.jpg", "raf/2.jpg", "dfew/1.jpg", "csv.1/3.jpg", "csv.2/3.jpg", "csv.2/4.jpg"]
    sources = ["raf", "dfew", "csv.1", "csv.2"]

    def find(name: str, source: str = "", allowed: list[str] = known) -> list[str]:
        item = Item(name, "conversation", [("q", "a")], source=source)
        other = Item("raf/2.jpg", "conversation", [("q", "b")])
        grouped, _ = turns_by_id([item, other], [*allowed, "raf/2.jpg"], known, sources)
        return [name for name, turns in grouped.items() if [("q", "a")] in turns]

    assert find("raf/1.jpg") == find("1.jpg", "raf") == ["raf/1.jpg"]
    assert find("1.jpg", "dfew") == ["dfew/1.jpg"]
    assert find("4.jpg") == find("4.jpg", "csv") == ["csv.2/4.jpg"]
    assert find("1.jpg", "affectnet") == []  # some other dataset's
    assert find("1.jpg", "dfew", ["raf/1.jpg"]) == []  # a test sample, whatever else has its name
    for name, source in (("1.jpg", ""), ("3.jpg", "csv")):
        with pytest.raises(DataError, match=r"can be about .*name its source"):
            find(name, source, ["raf/1.jpg"])
