"""Nothing is paid for twice, and no more than is allowed."""

import json
import re
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dies_in_asking import ask
from faceaffect.cli import main
from faceaffect.errors import DataError, RecipeError
from faceaffect.instructions.answered import FILE, Answer, Answers, opened
from faceaffect.instructions.budget import Plan, Spent
from faceaffect.instructions.client import Client, work_off
from faceaffect.instructions.conversations import annotate, refusals_beside
from faceaffect.instructions.endpoint import (
    Endpoint,
    EndpointError,
    Price,
    Question,
    faces_may_leave,
)
from servers import GOOD, completion, send
from squares import Faces

SMALL = ["data.n=60", "data.subjects=20", "data.cache=null"]


class Asked:
    """An endpoint that counts how often it answers each question."""

    def __init__(self, pause: float = 0.0) -> None:
        self.times, self.pause, self._lock = Counter[str](), pause, threading.Lock()

    def __call__(self, handler: Any, body: dict[str, Any]) -> None:
        time.sleep(self.pause)
        *_, words = body["messages"][-1]["content"]
        with self._lock:
            self.times[words["text"]] += 1
        send(handler, 200, completion(f"Yes: {words['text']}", (100, 10)))


def run(endpoint: Endpoint, questions: list[Question]) -> tuple[list[str | None], Spent]:
    said: dict[int, str | None] = {}
    spent = Spent()

    async def one(client: Client, item: tuple[int, Question]) -> None:
        said[item[0]] = (await client.ask(item[1])).text

    work_off(endpoint, spent, list(enumerate(questions)), one)
    return [said[number] for number in range(len(questions))], spent


def picture(value: int = 0) -> tuple[np.ndarray]:
    return (np.full((8, 8, 3), value, np.uint8),)


def test_what_was_answered_before_kill_9_is_not_asked_again(serve: Any, tmp_path: Path) -> None:
    server = Asked(pause=0.05)
    url = serve(server)
    script = Path(__file__).parents[1] / "dies_in_asking.py"
    child = subprocess.Popen([sys.executable, str(script), url, str(tmp_path), "40"])
    deadline = time.monotonic() + 60
    while len(server.times) < 8 and time.monotonic() < deadline:
        time.sleep(0.01)
    child.kill()  # SIGKILL
    child.wait()
    time.sleep(0.1)  # what was in flight comes in
    before = sum(server.times.values())
    assert 8 <= before < 40
    with opened(tmp_path) as answers:  # what was in flight, two at most, was not kept
        known = [answers.get(row[0]) for row in answers._db.execute("SELECT question FROM answers")]
    assert before - 2 <= len(known) <= before
    spent = ask(url, tmp_path, 40)
    assert (spent.asked, spent.kept) == (40 - len(known), len(known))
    assert sum(server.times.values()) == before + 40 - len(known)
    assert sorted(server.times.values())[:-2] == [1] * 38
    assert ask(url, tmp_path, 40).asked == 0


def test_a_question_is_asked_once_whoever_asks(serve: Any, tmp_path: Path) -> None:
    server = Asked(pause=0.1)
    endpoint = Endpoint(serve(server), "toy", cache=tmp_path, parallel=4)
    texts, spent = run(endpoint, [Question("Alike?", picture())] * 4)
    assert texts == ["Yes: Alike?"] * 4
    assert (spent.asked, spent.kept, server.times.total()) == (1, 3, 1)
    assert not list((tmp_path / "asking").iterdir())


def test_picture_words_model_and_settings_make_the_question(serve: Any, tmp_path: Path) -> None:
    server = Asked()
    url = serve(server)
    plain: dict[str, Any] = {"cache": tmp_path}
    asked = Question("What?", picture())
    run(Endpoint(url, "toy", **plain), [asked])
    same = [Endpoint(f"{url}/", "toy", **plain),
            Endpoint(url, "toy", parallel=1, timeout=9, attempts=1, **plain)]  # fmt: skip
    for endpoint in same:
        assert run(endpoint, [Question("What?", picture())])[1].asked == 0
    changes: list[dict[str, Any]] = [
        {"model": "other"}, {"temperature": 0.5}, {"max_tokens": 9}, {"detail": "low"},
        {"extra": {"seed": 1}},
    ]  # fmt: skip
    for change in changes:
        assert (
            run(Endpoint(**({"url": url, "model": "toy"} | plain | change)), [asked])[1].asked == 1
        )
    changed = [Question("What?", picture(1)), Question("What now?", picture()),
               Question("What?", picture(), "You are kind."), Question("What?"),
               Question("What?", (*picture(), *picture())),
               Question("What?", (np.zeros((4, 16, 3), np.uint8),)),
               Question("What?", picture(), schema={"type": "object"})]  # fmt: skip
    assert run(Endpoint(url, "toy", **plain), changed)[1].asked == len(changed)


def test_no_more_is_spent_than_allowed_also_after_a_restart(serve: Any, tmp_path: Path) -> None:
    server = Asked()
    price = Price(input=1000, output=10_000, request=0.1)
    endpoint = Endpoint(
        serve(server), "toy", cache=tmp_path, parallel=3, max_tokens=10, price=price, max_cost=2.0
    )
    each = 100 * 1e-3 + 10 * 1e-2 + 0.1
    questions = [Question(f"{number}?") for number in range(20)]
    for _ in range(3):
        with pytest.raises(EndpointError, match=r"max_cost: 1\.8 of 2 is spent on 6 answers"):
            run(endpoint, questions)
    assert server.times.total() == 6 == int(2.0 / each)
    higher = Endpoint(endpoint.url, "toy", cache=tmp_path, max_tokens=10, price=endpoint.price,
                      max_cost=20 * each + 0.01)  # fmt: skip
    _, spent = run(higher, questions)
    assert (spent.asked, spent.kept, server.times.total()) == (14, 6, 20)
    assert spent.cost == pytest.approx(20 * each)
    with pytest.raises(EndpointError, match="needs a price"):
        Endpoint("http://h/v1", "toy", max_cost=1.0)


def test_answers_without_a_count_cost_by_estimate(serve: Any, tmp_path: Path) -> None:
    url = serve(lambda h, _: send(h, 200, completion("four" * 8)))
    endpoint = Endpoint(url, "toy", price=Price(output=1e6))
    _, spent = run(endpoint, [Question("?")])
    assert (spent.uncounted, spent.answer_tokens, spent.cost) == (1, 8, 8.0)


def test_the_plan_is_what_is_then_asked(serve: Any, tmp_path: Path) -> None:
    server = Asked()
    endpoint = Endpoint(serve(server), "toy", cache=tmp_path / "kept", price=Price(input=10))
    questions = [Question(f"{n % 5}?", picture()) for n in range(8)]
    plan = Plan()
    plan.add(endpoint, questions[:4])
    plan.add(endpoint, questions[4:])
    assert (plan.questions, plan.kept) == (5, 0)
    assert not endpoint.cache.exists()  # type: ignore[union-attr]
    assert server.times.total() == 0
    assert "at most 2500 out" in " ".join(plan.words(endpoint))
    run(endpoint, questions[:3])
    again = Plan()
    again.add(endpoint, questions)
    assert (again.questions, again.kept) == (5, 3)
    assert "about 200 tokens in and 20 out, by the mean of 3 answers" in again.words(endpoint)[1]
    assert "about 0.002 to pay" in again.words(endpoint)[2]
    assert run(endpoint, questions)[1].asked == 2


def test_a_file_of_somebody_else_is_no_cache(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(b"precious " * 400)
    with pytest.raises(DataError, match=r"answers\.sqlite: the kept answers cannot be used"):
        Answers(tmp_path)
    assert (tmp_path / FILE).read_bytes().startswith(b"precious")


def test_a_damaged_answer_is_an_error_and_no_payment(tmp_path: Path) -> None:
    with opened(tmp_path) as answers:
        answers.put("a", "toy", Answer("yes", 3, 1, "stop"))
        answers._db.execute("UPDATE answers SET answer = '[1'")
        with pytest.raises(DataError, match="cannot be used"):
            answers.get("a")


# Annotation


def test_words_that_were_of_no_use_are_not_paid_for_again(serve: Any, tmp_path: Path) -> None:
    count = Counter[str]()

    def reply(handler: Any, body: dict[str, Any]) -> None:
        count["all"] += 1
        send(handler, 200, completion("I had rather not.") if count["all"] % 3 else GOOD)

    endpoint = Endpoint(serve(reply), "toy", cache=tmp_path / "kept", parallel=1, attempts=2)
    out = tmp_path / "out.jsonl"
    first = annotate(Faces(), [0, 1], endpoint, out)
    assert (list(first.refused), first.written, count["all"]) == (["0/0"], 1, 3)
    refusals_beside(out).unlink()
    again = annotate(Faces(), [0, 1], endpoint, out)
    assert (list(again.refused), count["all"]) == (["0/0"], 3)
    out.unlink()
    assert annotate(Faces(), [1], endpoint, out).written == 1
    assert count["all"] == 3


def test_pictures_leave_the_machine_if_somebody_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    far = Endpoint("https://faces.invalid/v1", "toy", attempts=1, timeout=0.5)
    with pytest.raises(RecipeError, match=r"for faces\.invalid; say --send-faces"):
        annotate(Faces(), [0], far, tmp_path / "x.jsonl")
    assert not list(tmp_path.iterdir())
    command = ["annotate", "mini_probe", "--out", str(tmp_path / "x.jsonl"), *SMALL]
    command += ["--url", "https://faces.invalid/v1", "--model", "toy"]
    assert main(command) == 2
    assert "--send-faces" in capsys.readouterr().err
    with faces_may_leave():
        far.check_sending()
    with pytest.raises(RecipeError):
        far.check_sending()


@pytest.mark.parametrize(("url", "here"), [
    ("http://localhost:8000/v1", True), ("http://127.0.0.1/v1", True), ("http://[::1]:1/v1", True),
    ("http://localhost.evil.com/v1", False), ("http://10.0.0.1/v1", False),
    ("http://127.0.0.1.nip.io/v1", False), ("http://2130706433/v1", False),
])  # fmt: skip
def test_what_is_this_machine(url: str, here: bool) -> None:
    assert Endpoint(url, "toy").is_here is here


def test_a_dry_run_of_annotate_asks_nobody(
    serve: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = serve(lambda h, _: send(h, 200, GOOD))
    command = ["annotate", "mini_probe", "--out", str(tmp_path / "x.jsonl"), "--part", "val"]
    command += [*SMALL, "--url", url, "--model", "toy", "--cache", str(tmp_path / "kept")]
    assert main([*command, "--dry-run", "--price", "1", "2"]) == 0
    said = capsys.readouterr().out
    planned = int(re.search(r"(\d+) requests to toy", said)[1])  # type: ignore[index]
    assert "to pay" in said
    assert not list(tmp_path.iterdir())
    assert main(command) == 0
    assert f"{planned} answers asked for, 0 kept from before" in capsys.readouterr().out
    assert main(["annotate", "mini_probe", "--out", "x", "--dry-run"]) == 2


def test_neither_key_nor_picture_is_on_the_disk(
    serve: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    monkeypatch.setenv("OPENAI_ORG_ID", "org-secret")
    seen: list[dict[str, str]] = []

    def reply(handler: Any, body: dict[str, Any]) -> None:
        seen.append({name.lower(): value for name, value in handler.headers.items()})
        key = seen[-1]["authorization"]
        send(handler, 401, f"Incorrect API key provided: {key}") if wrong else send(
            handler, 200, GOOD
        )

    command = ["annotate", "mini_probe", "--out", str(tmp_path / "x.jsonl"), "--part", "val"]
    command += [*SMALL, "--url", serve(reply), "--model", "toy", "--cache", str(tmp_path / "kept")]
    for wrong in (True, False):
        assert main(command) == 2 * wrong
    said = "".join(capsys.readouterr())
    assert "Incorrect API key provided: Bearer (OPENAI_API_KEY)" in said
    assert seen[0]["authorization"] == "Bearer sk-secret"
    assert not [name for name in seen[0] if "openai" in name or "stainless-os" in name]
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert {file.name for file in files} >= {FILE, "x.jsonl"}
    for blob in [said.encode(), *(file.read_bytes() for file in files)]:
        assert b"secret" not in blob
        assert b"iVBOR" not in blob  # how a PNG file begins, in base 64


def test_an_error_that_is_dressed_as_an_answer_is_none(serve: Any, tmp_path: Path) -> None:
    said = json.dumps({"error": {"code": 429, "message": "later"}})
    endpoint = Endpoint(serve(lambda h, _: send(h, 200, said)), "toy", attempts=1)
    result = annotate(Faces(), [0], endpoint, tmp_path / "x.jsonl")
    assert "later" in result.unanswered["0/0"]
