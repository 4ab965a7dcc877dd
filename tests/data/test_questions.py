"""Questions as data: the format, its errors, drawn faces, and the layouts of public sets."""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from faceaffect.data.drawn_questions import drawn_questions
from faceaffect.data.question_layouts import open_set
from faceaffect.data.questions import LETTERS, Question, read_questions, write_questions
from faceaffect.errors import DataError, RecipeError

GOOD: dict[str, Any] = {"id": "1", "question": "Which?", "form": "options", "key": "B",
                        "options": ["sad", "glad"], "media": ["a.png"]}  # fmt: skip


def written(path: Path, *records: Any) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    own = [
        Question.from_dict({**GOOD, "task": "t", "group": "g", "person": "p", "pair": "x"}),
        Question("2", "Is it?", "yes_no", "no"),
        Question("3", "How many?", "numeric", "4", ("clip.mp4", "a.png")),
        Question("4", "Say", "open", "She smiles.", labels=("happiness",), note="old"),
    ]
    write_questions(tmp_path / "q.jsonl", own)
    assert read_questions(tmp_path / "q.jsonl").questions == own


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"key": ""}, "no key"),
        ({"key": "C"}, "the key 'C' is no letter from A to B"),
        ({"key": "glad"}, "is no letter"),
        ({"key": ["A", "B"]}, "2 keys; a question has one"),
        ({"options": ["sad", " Sad"]}, "the option 'sad' repeats"),
        ({"options": ["sad"]}, "1 options"),
        ({"options": "sad"}, "options is no list"),
        ({"form": "essay"}, "form 'essay'"),
        ({"form": "yes_no", "key": "maybe"}, "neither yes nor no"),
        ({"form": "numeric", "key": "nan"}, "is no number"),
        ({"answer": "B"}, "unknown fields: answer"),
        ({"question": None}, "question is no text"),
    ],
)
def test_a_wrong_question_is_named_by_file_and_line(
    tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    path = written(tmp_path / "q.jsonl", GOOD, {**GOOD, "id": "2", **change})
    with pytest.raises(DataError, match=r"q\.jsonl:2: .*") as caught:
        read_questions(path)
    assert said in str(caught.value)


def test_missing_fields_empty_files_and_equal_ids_are_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"q\.jsonl:1: .*no key"):
        read_questions(written(tmp_path / "q.jsonl", {k: GOOD[k] for k in GOOD if k != "key"}))
    with pytest.raises(DataError, match="two questions have the id 1"):
        read_questions(written(tmp_path / "q.jsonl", GOOD, GOOD))
    with pytest.raises(DataError, match="no question"):
        read_questions(written(tmp_path / "q.jsonl"))
    with pytest.raises(DataError, match="no questions at"):
        open_set(str(tmp_path / "none.jsonl"))
    with pytest.raises(RecipeError, match="choose one of: lines, faba_bench"):
        open_set(str(tmp_path / "q.jsonl"), "odd")


def test_pictures_and_clips_are_read_from_the_root(tmp_path: Path) -> None:
    (tmp_path / "media").mkdir()
    cv2.imwrite(str(tmp_path / "media" / "a.png"), np.full((4, 6, 3), 9, np.uint8))
    found = open_set(str(written(tmp_path / "q.jsonl", GOOD)), root=str(tmp_path / "media"))
    assert found.load("a.png", 8).shape == (1, 4, 6, 3)
    with pytest.raises(DataError, match=r"no picture or clip at .*b\.png"):
        found.load("b.png", 8)


def test_drawn_questions_show_what_their_keys_say() -> None:
    found = drawn_questions(3, seed=4)
    by_task = {asked.task: asked for asked in found.questions}
    assert set(by_task) == {
        "which AU",
        "is it active",
        "stronger of two",
        "when",
        "how many people",
    }
    assert found.questions == drawn_questions(3, seed=4).questions
    assert found.questions != drawn_questions(3, seed=5).questions
    for asked in found.questions:
        assert all(found.load(name, 9).dtype == np.uint8 for name in asked.media)
        if asked.task == "when":  # the mouth's place changes most where it opens
            clip = found.load(asked.media[0], 9).astype(int)
            change = np.abs(clip - np.median(clip, 0)).mean((1, 2, 3))
            assert LETTERS[int(change.argmax()) // 3] == asked.key
        if asked.task == "stronger of two":
            assert len(asked.media) == 2
            assert asked.chance == 0.5


def test_faba_bench(tmp_path: Path) -> None:
    record = {"source": "affectnet", "image": "1.jpg", "id": "7", "landmark": "1.npy",
              "conversations": [{"from": "human", "value": "<image>\nHow does she feel?"},
                                {"from": "gpt", "value": "Glad."}]}  # fmt: skip
    path = tmp_path / "faba.json"
    path.write_text(json.dumps([
        {**record, "label": "happy", "gpt4": "She smiles."},
        {**record, "id": "8", "label": ["AU6", "AU12"]},
    ]))  # fmt: skip
    emotion, au = open_set(str(path), "faba_bench").questions
    assert (emotion.question, emotion.key, emotion.labels, emotion.task) == (
        "How does she feel?", "She smiles.", ("happiness",), "emotion")  # fmt: skip
    assert (au.key, au.labels, au.task, au.media) == ("Glad.", ("AU6", "AU12"), "au", ("1.jpg",))
    path.write_text(json.dumps([record]))
    with pytest.raises(DataError, match=r"faba\.json, record 1: no question: no field 'label'"):
        open_set(str(path), "faba_bench")


def test_humanvbench(tmp_path: Path) -> None:
    record = {"Video": "v/1.mp4", "Question": "What does he feel?", "Answer": "B",
              "choices": "Option A is: {joy}\nOption B is: {fear}", "Question_id": "3"}  # fmt: skip
    written(tmp_path / "Emotion_Recognition.jsonl", record)
    written(tmp_path / "Speaker.jsonl", {**record, "Answer": "Option A"})
    feels, speaks = open_set(str(tmp_path), "humanvbench").questions
    assert (feels.options, feels.key, feels.media) == (("joy", "fear"), "B", ("v/1.mp4",))
    assert (feels.task, feels.group) == ("Emotion_Recognition", "emotion perception")
    assert (speaks.task, speaks.group, speaks.key) == ("Speaker", "other", "A")
    for wrong, said in (("joy", "is no letter"), (["A", "B"], "2 keys"), ("C", "from A to B")):
        written(tmp_path / "Speaker.jsonl", record, {**record, "Answer": wrong})
        with pytest.raises(DataError, match=rf"Speaker\.jsonl:2: .*{said}"):
            open_set(str(tmp_path), "humanvbench")


def test_emotion_hallucer(tmp_path: Path) -> None:
    path = tmp_path / "pairs.json"
    pair = {"id": 1, "video": "1.mp4", "type": "category", "basic": {"question": "Is he sad?",
            "answer": "yes"}, "hallucination": {"question": "Is he glad?"}}  # fmt: skip
    path.write_text(json.dumps([pair]))
    one, other = open_set(str(path), "emotion_hallucer").questions
    assert one.pair == other.pair
    assert (one.key, other.key) == ("yes", "no")
    path.write_text(json.dumps([{**pair, "basic": {}}]))
    with pytest.raises(DataError, match=r"pairs\.json, pair 1: .*'question'"):
        open_set(str(path), "emotion_hallucer")


def test_ferbench(tmp_path: Path) -> None:
    folder = tmp_path / "eval_rafdb" / "data"
    folder.mkdir(parents=True)
    record = {"image_path": "test/1.jpg", "true_label": "fear", "prompt": "You are ...",
              "candidate_labels": ["surprise", "fear"]}  # fmt: skip
    (folder / "rafdb_qa.json").write_text(json.dumps([record]))
    (asked,) = open_set(str(tmp_path), "ferbench", str(tmp_path)).questions
    assert (asked.task, asked.key, asked.options) == ("rafdb", "B", ("surprise", "fear"))
    (folder / "rafdb_qa.json").write_text(json.dumps([{**record, "true_label": "joy"}]))
    with pytest.raises(DataError, match=r"record 1: .*'joy' is no candidate"):
        open_set(str(tmp_path), "ferbench")


def test_facexbench_marks_what_comes_from_a_training_part(tmp_path: Path) -> None:
    one = {"question": "Which?", "options": {"A": "joy", "B": "fear"}, "image_paths": ["1.jpg"],
           "correct_answer_option": "B", "prediction": None}  # fmt: skip
    whole = {"category": "Face Analysis", "sub-category": "Expression", "num_images": 1}
    for name in ("rafdb_single_mcq_train", "affectnet_single_mcq"):
        text = json.dumps({**whole, "questions": {"1": one}})
        (tmp_path / f"{name}.json").write_text(text)
    plain, seen = open_set(str(tmp_path), "facexbench").questions
    assert (plain.task, plain.group, plain.key, plain.note) == (
        "Expression", "Face Analysis", "B", "")  # fmt: skip
    assert seen.note == "from the training part of RAF-DB"
    text = json.dumps({**whole, "questions": {"9": {**one, "options": ["joy", "joy"]}}})
    (tmp_path / "rafdb_single_mcq_train.json").write_text(text)
    with pytest.raises(DataError, match=r"question 9: .*'joy' repeats"):
        open_set(str(tmp_path), "facexbench")
