"""Probing a model: what its answers are worth, and the table of them."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from faceaffect.cli import main
from faceaffect.data.questions import Question
from faceaffect.evaluation import probing
from faceaffect.evaluation.probing import judge, label_rows, said_of, trained_on
from faceaffect.evaluation.questioning import THINK, Answer
from faceaffect.instructions.probe_questions import make_questions
from faceaffect.instructions.probes import read_probes
from faceaffect.scores.replies import wilson
from probed import FORMS, write
from servers import completion, send

FACE = {"AU1": True, "AU4": False, "AU12": True}
MOOD = {"joy": True, "fear": False, "rage": False}


def answer(said: str | None, text: str = "", right: bool | None = None) -> Answer:
    return Answer("1", 0, False, said, text, "", right)


def test_a_description_of_aus_decides_each_of_them() -> None:
    asked = Question("1", "Describe.", "open", "AU1, AU12", labels=("AU1", "AU12"))
    found = judge(answer("t", "The inner brows are raised; AU4."), asked, FACE, "", False)
    assert found.right == [True, False, False]  # AU1 named, AU4 named wrongly, AU12 not named
    assert [row["f1"] for row in label_rows(found.labels)] == [1.0, None, 0.0]  # AU4 never is
    silent = judge(answer("t", "A person."), asked, FACE, "", False)
    assert silent.right == [False] * 3  # nothing that could be read is right about nothing
    assert not silent.readable


def test_a_description_of_one_label_is_right_or_wrong() -> None:
    asked = Question("1", "Describe.", "open", "joy", labels=("joy",))
    assert judge(answer("t", "This is joy."), asked, MOOD, "", True).right == [True]
    assert judge(answer("t", "This is fear."), asked, MOOD, "", True).right == [False]
    assert not judge(answer("t", "A face."), asked, MOOD, "", True).readable
    names = ["unpleasant", "neutral", "pleasant"]
    assert said_of("She feels unpleasant.", names, True) == {"unpleasant"}
    assert said_of("Happily surprised, I think.", ["happily surprised", "sadly angry"], True) == {
        "happily surprised"}  # fmt: skip


def test_options_and_yes_or_no_count_for_the_labels_that_were_asked_about() -> None:
    asked = Question("1", "Which?", "options", "B", options=("fear", "joy"))
    wrong = judge(answer("A", right=False), asked, MOOD, "", True)
    assert wrong.labels == [("joy", True, False), ("fear", False, True)]
    unread = judge(answer(None, "?", right=False), asked, MOOD, "", True)
    assert not unread.readable
    yes = Question("1", "Is it?", "yes_no", "no")
    assert judge(answer("yes", right=False), yes, MOOD, "fear", True).labels == [
        ("fear", False, True)]  # fmt: skip


class Yes:
    """Says yes, A and joy, whatever it is asked."""

    image_size = 16

    def say_about(self, media: Sequence[Tensor], question: str) -> str:
        return "<b>AU12</b>, happiness"

    def weigh(self, media: Sequence[Tensor], question: str, options: Sequence[str]) -> list[float]:
        return [float(option in ("yes", "A")) for option in options]


def test_the_table_of_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probing, "open_model", lambda source, others: Yes())
    forms = [*FORMS, {"about": "expression", "form": "describe"}]
    words = [str(write(tmp_path, forms)), "asking.blind=true", "asking.repeats=2",
             f"output={tmp_path}"]  # fmt: skip
    assert main(["probe", "entrant", *words]) == 0
    (folder,) = (tmp_path / "probes").iterdir()
    found = json.loads((folder / "probes.json").read_text())
    rows: dict[str, Any] = {row["task"]: row for row in found["probes"][0]["tasks"]}
    yes = rows["au: yes or no"]
    assert (yes["right"], yes["pairs"], yes["chance"], yes["blind"]) == (0.5, 0.0, 0.5, 0.5)
    assert (yes["low"], yes["high"]) == pytest.approx(wilson(yes["n"] // 2, yes["n"]))
    assert yes["f1"] == pytest.approx(2 / 3)
    happy = rows["expression: describe"]
    assert (happy["n"], happy["decided"]) == (9, 9)
    assert happy["right"] == happy["chance"] == pytest.approx(1 / 3)
    assert rows["au: describe"]["decided"] == 2 * rows["au: describe"]["n"]
    page = (folder / "report.html").read_text()
    assert "<b>AU12" not in page
    assert "&lt;b&gt;AU12" in page
    assert "expression: options, thinking first" in page
    lines = (folder / "answers.jsonl").read_text().splitlines()
    assert len(lines) == 2 * sum(
        row["n"] * (2 if "options" in task else 1) for task, row in rows.items()
    )
    options = rows["expression: options, thinking first"]  # two options, turned: once A is right
    assert (options["decided"], options["right"]) == (options["n"], 0.5)
    low, high = wilson(math.floor(options["n"] / 2), options["n"])[0], wilson(
        math.ceil(options["n"] / 2), options["n"])[1]  # fmt: skip
    assert (options["low"], options["high"]) == pytest.approx((low, high))
    assert any(json.loads(line)["thoughts"] for line in lines)
    assert {json.loads(line)["probes"] for line in lines} == {"own"}


def test_a_model_behind_an_address_is_probed(tmp_path: Path, serve: Any) -> None:
    pytest.importorskip("openai", reason="the extra 'endpoint' is not installed")
    asked: list[str] = []

    def reply(handler: Any, body: dict[str, Any]) -> None:
        asked.append(body["messages"][0]["content"][-1]["text"])
        thinking = asked[-1].endswith(THINK)
        send(handler, 200, completion("The lips rise." if thinking else "(A)", (30, 2)))

    model = {"name": "endpoint", "url": serve(reply), "model": "toy", "cache": f"{tmp_path}/kept"}
    data = {"name": "folder", "root": str(tmp_path / "nowhere"), "image_size": 16}
    (tmp_path / "toy.yaml").write_text(json.dumps({"model": model, "data": data}))
    forms = [{"about": "expression", "form": "options", "options": 3, "think": True}]
    folder = tmp_path / "report"
    words = [str(tmp_path / "toy.yaml"), str(write(tmp_path, forms)), "--folder", str(folder)]
    assert main(["probe", *words]) == 0
    (part,) = json.loads((folder / "probes.json").read_text())["probes"]
    (row,) = part["tasks"]
    assert (row["n"], part["spent"]["answers"], part["refused"]["n"]) == (9, 18, 0)
    assert sum("Thoughts: The lips rise." in words for words in asked) == 9
    assert "18 answers" in (folder / "report.html").read_text()


def test_a_run_that_knows_the_people_is_found_out(tmp_path: Path) -> None:
    asked = make_questions(read_probes(str(write(tmp_path))))
    people = {"salt": None, "train": ["person 0"], "val": ["person 1"], "test": ["person 2"]}
    run = tmp_path / "run"
    run.mkdir()
    for data, count in (("csv", 2), ("rafdb", 0)):
        text = json.dumps({"data": {"name": data}, "people": people})
        (run / "metrics.json").write_text(text)
        assert trained_on(str(run), asked) == count
    assert trained_on("mini_vlm_zero_shot", asked) == 0


def test_wrong_words_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["probe", "mini_vlm_zero_shot"]) == 2
    assert "ls probes" in capsys.readouterr().err
    assert main(["probe", "mini_probe", "synthetic"]) == 2
    assert "has to be trained" in capsys.readouterr().err
    assert main(["probe", "mini_vlm_zero_shot", "synthetic", "asking.repeat=2"]) == 2
    assert "did you mean 'repeats'" in capsys.readouterr().err
    assert main(["ls", "probes"]) == 0
    assert "synthetic  Drawn faces" in capsys.readouterr().out
    assert main(["ls", "au_disfa"]) == 0
    assert "about: au" in capsys.readouterr().out
