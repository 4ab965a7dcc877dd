"""Questions put to models: what is asked, what is right, and what the report says."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

import emo_tiny
import vlm_tiny
from faceaffect.cli import main
from faceaffect.data.questions import LETTERS, Question, QuestionSet, lettered, write_questions
from faceaffect.errors import DataError, RecipeError
from faceaffect.evaluation.question_scores import difference, interval, scores
from faceaffect.evaluation.questioning import THINK, Asking, answering, orders, put
from faceaffect.evaluation.questions import agreed, html, open_model, read_settings, report_on
from faceaffect.scores.replies import wilson
from servers import completion, send

GREY = np.full((8, 8, 3), 100, np.uint8)


class Says:
    """Answers always the same, and remembers what it was asked."""

    image_size = 8

    def __init__(self, text: str = "A", likes: str = "A") -> None:
        self.text, self.likes = text, likes
        self.asked: list[tuple[int, str]] = []

    def say_about(self, media: Sequence[Tensor], question: str) -> str:
        self.asked.append((len(media), question))
        return self.text

    def weigh(self, media: Sequence[Tensor], question: str, options: Sequence[str]) -> list[float]:
        self.asked.append((len(media), question))
        return [float(option == self.likes) for option in options]


def choice(number: int, key: str = "A", **more: str) -> Question:
    options = ("joy", "fear", "rage", "calm")
    return Question(str(number), "Which?", "options", key, ("grey",), options, **more)  # type: ignore[arg-type]


def of(*questions: Question) -> QuestionSet:
    return QuestionSet("own", list(questions), drawn={"grey": GREY})


def test_options_are_shuffled_alike_everywhere_and_each_letter_has_its_turn() -> None:
    assert orders(4, 4, (0, "a")) == orders(4, 4, (0, "a"))
    assert {tuple(sorted(order)) for order in orders(4, 8, (1, "b"))} == {(0, 1, 2, 3)}
    assert {order.index(0) for order in orders(4, 4, (0, "a"))} == {0, 1, 2, 3}
    assert len({tuple(orders(4, 1, (0, str(n)))[0]) for n in range(30)}) > 10


def test_whoever_likes_a_letter_is_right_by_chance_and_is_found_out() -> None:
    asked = of(*[choice(n, LETTERS[n % 3]) for n in range(6)])
    answers, skipped = put(Says(), asked, Asking(repeats=4))
    found = scores(asked, answers)
    (row,) = found["tasks"]
    assert not skipped
    assert row["accuracy"] == row["blind"] == row["chance"] == 0.25
    assert [(p["letter"], p["share"]) for p in found["position"]] == [
        ("A", 1.0), ("B", 0.0), ("C", 0.0), ("D", 0.0)]  # fmt: skip
    assert Counter(answer.blind for answer in answers) == {False: 24, True: 24}


def test_letters_are_read_back_into_the_order_of_the_set() -> None:
    asked, model = of(choice(1, "C")), Says("The answer is rage.")
    answers, _ = put(model, asked, Asking(repeats=3, answers="generate", blind=False))
    assert [(a.said, a.right) for a in answers] == [("C", True)] * 3
    assert len({a.shown for a in answers}) == 3
    shown = [asked.questions[0].options[i] for i in orders(4, 3, (0, "1"))[0]]
    asked_for = "Answer with the letter of the best option only."
    assert model.asked[0] == (1, f"{lettered('Which?', shown)}\n{asked_for}")


def test_a_thought_stands_before_the_answer_is_asked_for() -> None:
    asked, model = of(replace(choice(1, "A"), think=True)), Says("Brows up.", likes="A")
    answers, _ = put(model, asked, Asking(blind=False))
    (_, first), (_, second) = model.asked
    assert first.endswith(THINK)
    assert "\nThoughts: Brows up.\nAnswer with the letter" in second
    assert answers[0].thoughts == "Brows up."
    assert answers[0].text == ""  # it was weighed
    with pytest.raises(ValueError, match="think is no true or false"):
        Question.from_dict({"id": "1", "question": "?", "form": "open", "key": "k", "think": "yes"})


class Talks:
    """Answers in words and gives no likelihoods."""

    def say_about(self, media: Sequence[Tensor], question: str) -> str:
        return "(A)"


def test_all_are_asked_alike_where_one_cannot_be_scored(capsys: pytest.CaptureFixture[str]) -> None:
    both = {"one": Says(), "two": Talks()}
    assert agreed(both, Asking()).answers == "generate"
    assert "two gives no likelihoods" in " ".join(capsys.readouterr().out.split())
    assert agreed({"one": Says()}, Asking()).answers == "score"
    with pytest.raises(RecipeError, match=r"data\.answers: score, but two"):
        agreed(both, Asking(answers="score"))
    answers, _ = put(Talks(), of(choice(1)), Asking(blind=False))
    assert answers[0].shown == "A"


def behind(tmp_path: Path, url: str, **changes: str | float) -> list[str]:
    """Write a recipe of a model behind an address, whose data is not there, and a set for it."""
    model = {"name": "endpoint", "url": url, "model": "toy", "cache": str(tmp_path / "kept")}
    data = {"name": "folder", "root": str(tmp_path / "nowhere"), "image_size": 16}
    text = json.dumps({"model": model | changes, "data": data})
    (tmp_path / "toy.yaml").write_text(text)
    cv2.imwrite(str(tmp_path / "a.png"), GREY)
    yes = Question("1", "Is it grey?", "yes_no", "yes", ("a.png",), person="p")
    write_questions(tmp_path / "set.jsonl", [yes])
    return [str(tmp_path / "toy.yaml"), "data.name=questions",
            f"data.file={tmp_path / 'set.jsonl'}", f"output={tmp_path}/runs"]  # fmt: skip


def test_a_model_behind_an_address_is_asked(
    tmp_path: Path, serve: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("openai", reason="the extra 'endpoint' is not installed")
    bodies: list[Any] = []

    def reply(handler: Any, body: dict[str, Any]) -> None:
        bodies.append(body)
        seeing = len(body["messages"][0]["content"]) == 2
        send(handler, 200, completion("Yes." if seeing else "No idea.", (40, 2)))

    words = behind(tmp_path, serve(reply))
    assert main(["test", *words, "--dry-run"]) == 0
    assert "2 requests to toy" in " ".join(capsys.readouterr().out.split())
    assert not bodies
    for _ in range(2):  # the second time all answers are kept
        assert main(["test", *words]) == 0
        assert len(bodies) == 2
    *_, folder = sorted((tmp_path / "runs" / "questions").iterdir())
    found = json.loads((folder / "questions.json").read_text())
    told = next(iter(found["models"].values()))
    assert (told["tasks"][0]["accuracy"], told["tasks"][0]["blind"]) == (1.0, 0.0)
    assert told["spent"]["prompt_tokens"] == 80
    assert found["settings"]["answers"] == "generate"
    assert main(["test", *words, "data.answers=score"]) == 2
    assert "gives no likelihoods" in capsys.readouterr().err


def test_an_address_that_refuses_or_is_down(
    tmp_path: Path, serve: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openai", reason="the extra 'endpoint' is not installed")
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.001)
    refusing = serve(lambda handler, _: send(handler, 400, "no faces"))
    assert main(["test", *behind(tmp_path, refusing)]) == 2
    assert "all 2 questions were refused, the first, 1" in capsys.readouterr().err
    down = serve(lambda handler, _: send(handler, 500, "oh"))
    assert main(["test", *behind(tmp_path, down, attempts=1)]) == 2
    assert "2 questions got no answer" in capsys.readouterr().err
    assert main(["test", *behind(tmp_path, "http://models.invalid/v1")]) == 2
    assert "--send-faces" in capsys.readouterr().err


def test_every_form_is_asked_and_read() -> None:
    forms = of(
        Question("1", "Is it?", "yes_no", "yes", ("grey",), task="yes"),
        Question("2", "How many?", "numeric", "2", ("grey",), task="number"),
        Question("3", "Say.", "open", "She is angry.", ("grey",), task="text", labels=("anger",)),
        Question("4", "Without a picture?", "yes_no", "no", task="none"),
    )
    answers, _ = put(Says("2 people", likes="yes"), forms, Asking())
    found = scores(forms, answers)
    assert {row["task"]: row["accuracy"] for row in found["tasks"]} == {
        "yes": 1.0, "number": 1.0, "none": 0.0}  # fmt: skip
    assert found["rege"]["text"]["legacy"]["recognition"] == 0
    assert [a.blind for a in answers if a.id == "4"] == [False]  # nothing to be blind to
    unread, _ = put(Says("Perhaps"), forms, Asking(answers="generate", blind=False))
    assert {r["task"]: r["unreadable"] for r in scores(forms, unread)["tasks"]}["yes"] == 1.0


def test_a_pair_is_right_only_together() -> None:
    pair = [
        Question(f"{n}{key}", "Is it?", "yes_no", key, ("grey",), pair=f"p{n}", person=f"p{n}")
        for n in range(3) for key in ("yes", "no")
    ]  # fmt: skip
    answers, _ = put(Says(likes="yes"), of(*pair), Asking(blind=False))
    (row,) = scores(of(*pair), answers)["tasks"]
    assert (row["accuracy"], row["pairs"], row["units"]) == (0.5, 0.0, 3)
    assert (row["low"], row["high"]) == (wilson(1, 3)[0], wilson(2, 3)[1])  # all are half right


def test_groups_are_means_over_tasks_not_over_questions() -> None:
    asked = of(
        Question("1", "Q", "yes_no", "yes", ("grey",), task="a", group="g"),
        *[Question(str(n), "Q", "yes_no", "no", ("grey",), task="b", group="g") for n in (2, 3, 4)],
    )
    answers, _ = put(Says(likes="yes"), asked, Asking(blind=False))
    assert scores(asked, answers)["groups"][0]["accuracy"] == 0.5


def test_missing_media_are_counted_and_a_set_of_nothing_else_is_an_error() -> None:
    lost = Question("9", "Q", "yes_no", "yes", ("lost.png",))
    answers, skipped = put(Says(), of(choice(1), lost), Asking())
    assert {a.id for a in answers} == {"1"}
    assert "lost.png" in skipped["9"]
    with pytest.raises(DataError, match=r"none of 1 questions could be asked.*lost\.png"):
        put(Says(), of(lost), Asking())


def test_differences_are_paired() -> None:
    asked = of(*[Question(str(n), "Q", "yes_no", "yes", ("grey",), person=str(n))
                 for n in range(20)])  # fmt: skip
    yes, _ = put(Says(likes="yes"), asked, Asking(blind=False))
    no, _ = put(Says(likes="no"), asked, Asking(blind=False))
    assert difference(yes, no, asked) == {"n": 20, "difference": 1.0, "low": 1.0, "high": 1.0}


def test_the_page_says_what_the_numbers_say_and_escapes(tmp_path: Path) -> None:
    asked = of(choice(1, task="<b>bold</b>", note="from elsewhere"), choice(2, "B"))
    folder = report_on({"one": Says(), "two": Says(likes="B")}, asked, Asking(), tmp_path / "r", {})
    result = json.loads((folder / "questions.json").read_text())
    page = (folder / "report.html").read_text()
    assert page == html(result)
    assert "<b>bold" not in page
    assert "&lt;b&gt;bold" in page
    assert "1 questions: from elsewhere." in page
    assert "one less two" in page
    lines = (folder / "answers.jsonl").read_text().splitlines()
    assert len(lines) == 8
    assert json.loads(lines[0])["model"] == "one"


def test_wrong_settings_and_wrong_models_are_told() -> None:
    with pytest.raises(RecipeError, match=r"data\.file"):
        read_settings({})
    with pytest.raises(RecipeError, match=r"data\.fram.*did you mean 'frames'"):
        read_settings({"file": "synthetic", "fram": 3})
    with pytest.raises(RecipeError, match=r"data\.repeats"):
        Asking(repeats=0)
    with pytest.raises(RecipeError, match="no answers in words"):
        answering(object())
    with pytest.raises(RecipeError, match="faceaffect train mini_emo_llama"):
        open_model("mini_emo_llama")
    assert read_settings({"file": "synthetic"})[1] == Asking()


def test_language_models_answer_about_no_picture_one_and_several(tmp_path: Path) -> None:
    words = emo_tiny.save_tokenizer(tmp_path)
    for model in (emo_tiny.make(words), vlm_tiny.make(vlm_tiny.llava(tmp_path / "llava"))):
        model.eval()
        picture = torch_picture()
        for media in ([], [picture], [picture, picture], [picture.repeat(3, 1, 1, 1)]):
            weights = model.weigh(media, "Which?\nA. joy\nB. fear", ["A", "B"])
            assert len(weights) == 2
            assert all(np.isfinite(weights))
            assert isinstance(model.say_about(media, "Which {one}?"), str)
        dark = model.weigh([picture * 0], "Which?", ["A", "B"])
        assert dark != model.weigh([picture], "Which?", ["A", "B"])


def torch_picture() -> Tensor:
    rng = torch.Generator().manual_seed(0)
    return torch.randint(256, (1, 3, 28, 28), dtype=torch.uint8, generator=rng)


def test_questions_from_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["test", "mini_emo_llama", "data.name=questions", "data.file=synthetic"]) == 2
    assert "has to be trained" in capsys.readouterr().err
    words = ["data.name=questions", f"data.file={tmp_path / 'none'}"]
    assert main(["compare", "mini_vlm_zero_shot", "--seeds", "2", *words]) == 2
    assert "--seeds" in capsys.readouterr().err
    assert main(["compare", "mini_vlm_zero_shot", *words]) == 2
    assert "no questions at" in capsys.readouterr().err


def test_people_who_are_all_alike_give_no_interval_of_no_width() -> None:
    asked = {
        f"{person}{i}": Question(f"{person}{i}", "Is it?", "yes_no", "yes", ("a",), person=person)
        for person in "abcdefgh"
        for i in range(2)
    }
    half = {name: float(name.endswith("0")) for name in asked}
    low, high, units = interval(half, asked)
    assert (low, high) == pytest.approx(wilson(4, 8))
    assert units == 8
    odd = {name: value for name, value in half.items() if name[0] != "h"}
    assert interval(odd, asked)[0] == pytest.approx(wilson(3, 7)[0])
    assert interval(odd, asked)[1] == pytest.approx(wilson(4, 7)[1])
    unlike = half | {"a1": 1.0}
    assert 0 < np.ptp(interval(unlike, asked)[:2]) < np.ptp(wilson(9, 16))
