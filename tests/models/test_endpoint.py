"""A model behind an address, as a contestant."""

import base64
import json
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from faceaffect.cli import main
from faceaffect.data.batch import FaceBatch
from faceaffect.errors import RecipeError
from faceaffect.evaluation.costs import measure_all
from faceaffect.evaluation.entrants import find_entrants
from faceaffect.instructions.endpoint import EndpointError
from faceaffect.models.endpoint import EndpointModel
from faceaffect.models.endpoint_answers import answer_schema, read_json_answers
from faceaffect.recipe.interpolation import allowed_env
from faceaffect.schema import LabelSchema
from servers import completion, send

SCHEMA = LabelSchema((1, 4, 12), ("neutral", "Happiness", "anger"), True)
RIGHT = {"expression": "happiness", "aus": ["AU1", "AU12"], "valence": 0.5, "arousal": -0.25}
DATA = {"name": "synthetic", "n": 60, "subjects": 20, "aus": [1, 12], "image_size": 32,
        "expressions": ["neutral", "happiness", "anger"], "batch_size": 8}  # fmt: skip


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.001)


class Stub:
    """Answers as it is told, and keeps what it was asked."""

    def __init__(self, pause: float = 0.0) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.pictures = Counter[str]()
        self.pause, self._lock = pause, threading.Lock()

    def __call__(self, handler: Any, body: dict[str, Any]) -> None:
        time.sleep(self.pause)
        with self._lock:
            self.bodies.append(body)
            self.pictures[body["messages"][-1]["content"][0]["image_url"]["url"]] += 1
            number = len(self.bodies)
        self.reply(handler, number)

    def reply(self, handler: Any, number: int) -> None:
        send(handler, 200, completion(json.dumps(RIGHT), (50, 5)))


def model(url: str, tmp_path: Path, **changes: Any) -> EndpointModel:
    args: dict[str, Any] = {"model": "toy", "cache": str(tmp_path / "kept"), "timeout": 5.0}
    schema = changes.pop("schema", SCHEMA)
    return EndpointModel(schema, url=url, **(args | changes))


def batch(count: int = 3, clips: int = 0) -> FaceBatch:
    shape = (count, clips, 3, 8, 8) if clips else (count, 3, 8, 8)
    pixels = torch.randint(
        256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    names = [f"{number}.jpg" for number in range(count)]
    if not clips:
        return FaceBatch(image=pixels, id=names, subject=names)
    known = torch.ones(count, clips, dtype=torch.bool)
    known[0, 1:] = False
    return FaceBatch(video=pixels, frame_mask=known, id=names, subject=names)


def recipe(tmp_path: Path, url: str, name: str = "toy", **changes: Any) -> list[str]:
    """Write a recipe, and return it with where results go."""
    args = {"name": "endpoint", "url": url, "model": "toy", "cache": str(tmp_path / "kept")}
    sections = {"seed": 0, "model": args | changes, "data": DATA, "trainer": {"accelerator": "cpu"}}
    file = tmp_path / f"{name}.yaml"
    file.write_text(json.dumps(sections))
    return [str(file), f"output={tmp_path}/runs"]


def result(tmp_path: Path, name: str = "toy") -> dict[str, Any]:
    *_, folder = sorted((tmp_path / "runs" / name).iterdir())
    found: dict[str, Any] = json.loads((folder / "metrics.json").read_text())
    return found


# What is asked, and how it is read


def test_one_request_holds_the_answer_to_all_tasks(serve: Any, tmp_path: Path) -> None:
    stub = Stub()
    system = {"system": "You are an expert."}
    own = model(serve(stub), tmp_path, prompts=system, extra={"top_k": 1}, detail="low", parallel=1)
    shown = batch()
    answers = own.predict(shown)
    np.testing.assert_array_equal(answers["expression"], [[0, 1, 0]] * 3)
    np.testing.assert_array_equal(answers["au"], [[1, 0, 1]] * 3)
    np.testing.assert_array_equal(answers["va"], [[0.5, -0.25]] * 3)
    assert answers["text"][0].split("\n")[-1] == "va: valence: 0.5, arousal: -0.25"
    assert len(stub.bodies) == 3
    body = stub.bodies[0]
    sent = {name: body[name] for name in ("model", "temperature", "max_tokens", "top_k")}
    assert sent == {"model": "toy", "temperature": 0, "max_tokens": 300, "top_k": 1}
    assert body["messages"][0] == {"role": "system", "content": "You are an expert."}
    image, words = body["messages"][1]["content"]
    assert image["image_url"]["detail"] == "low"
    assert "AU1, AU4, AU12" in words["text"]
    form = body["response_format"]["json_schema"]
    assert form["strict"] is True
    assert form["schema"] == answer_schema(SCHEMA)
    png = base64.b64decode(image["image_url"]["url"].partition(",")[2])
    pixels = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    np.testing.assert_array_equal(pixels, shown["image"][0].permute(1, 2, 0))  # to the last bit


def test_words_are_read_by_the_tested_grammar(serve: Any, tmp_path: Path) -> None:
    def reply(handler: Any, body: dict[str, Any]) -> None:
        assert "response_format" not in body
        asked = body["messages"][0]["content"][-1]["text"]
        if "action units" in asked:
            said = "AU1 and lip corner puller; AU4 is absent"
        else:
            said = "It is not anger but happiness." if "express" in asked else "I cannot tell."
        send(handler, 200, completion(said))

    answers = model(serve(reply), tmp_path, answers="text").predict(batch(2))
    np.testing.assert_array_equal(answers["expression"], [[0, 1, 0]] * 2)
    np.testing.assert_array_equal(answers["au"], [[1, 0, 1]] * 2)
    assert answers["va"].isnan().all()


def test_clips_are_several_pictures(serve: Any, tmp_path: Path) -> None:
    stub = Stub()
    model(serve(stub), tmp_path, parallel=1).predict(batch(2, clips=3))
    kinds = [[part["type"] for part in body["messages"][0]["content"]] for body in stub.bodies]
    assert kinds == [["image_url", "text"], ["image_url"] * 3 + ["text"]]
    assert "video" in stub.bodies[1]["messages"][0]["content"][-1]["text"]


def test_reasons_come_first_if_asked_for(serve: Any, tmp_path: Path) -> None:
    stub = Stub()
    model(serve(stub), tmp_path, prompts={"au": {"form": "think"}}).predict(batch(1))
    form = stub.bodies[0]["response_format"]["json_schema"]["schema"]
    assert next(iter(form["properties"])) == form["required"][0] == "reasons"


def test_the_same_open_question_is_asked_once(serve: Any, tmp_path: Path) -> None:
    stub = Stub()
    forms = {task: {"form": "describe"} for task in SCHEMA.tasks}
    model(serve(stub), tmp_path, answers="text", prompts=forms).predict(batch(2))
    assert len(stub.bodies) == 2


@pytest.mark.parametrize(("text", "right"), [
    (json.dumps(RIGHT), "eav"), (f"Sure:\n```json\n{json.dumps(RIGHT)}\n```", "eav"),
    ("", ""), ("happiness", ""), ("{", ""), ("[1]", ""), ("{" * 100_000, ""),
    (json.dumps(RIGHT | {"expression": "joy"}), "av"),
    (json.dumps(RIGHT | {"expression": ["happiness"]}), "av"),
    (json.dumps(RIGHT | {"aus": "AU1, AU12"}), "ev"),
    (json.dumps(RIGHT | {"aus": ["AU1", None]}), "ev"),
    (json.dumps(RIGHT | {"aus": [1, "au 012", "AU99"]}), "eav"),
    (json.dumps(RIGHT | {"valence": 3}), "ea"), (json.dumps(RIGHT | {"arousal": "0"}), "ea"),
    (json.dumps(RIGHT | {"valence": True}), "ea"),
    (json.dumps(RIGHT | {"valence": 0.5}).replace("0.5", "9" * 400), "ea"),
    (json.dumps(RIGHT).replace("0.5", "NaN"), "ea"),
])  # fmt: skip
def test_json_that_is_not_as_asked_for_is_unreadable(text: str, right: str) -> None:
    answers, (words,) = read_json_answers([text], SCHEMA)
    for task, letter in (("expression", "e"), ("au", "a"), ("va", "v")):
        assert bool(answers[task].isnan().any()) is (letter not in right)
    assert words.count("no JSON as asked for") == (3 - len(right) if text else 0)
    if "a" in right:
        assert answers["au"].tolist() == [[1, 0, 1]]


@pytest.mark.parametrize(("args", "says"), [
    ({"prompts": {"expression": {"form": "describe"}}}, "answers: structured knows options, think"),
    ({"answers": "text", "prompts": {"au": {"form": "yes_no"}}}, "answers: text knows"),
    ({"max_cost": 1.0}, "needs a price"), ({"url": "localhost"}, "http://HOST:PORT/v1"),
    ({"extra": {"messages": []}}, r"extra\.messages"), ({"price": {"input": -1}}, "not less"),
    ({"attempts": 0}, "at least once"),
])  # fmt: skip
def test_settings_that_cannot_be_are_refused(
    args: dict[str, Any], says: str, tmp_path: Path
) -> None:
    with pytest.raises((RecipeError, EndpointError), match=says):
        model(args.pop("url", "http://localhost/v1"), tmp_path, **args)


def test_a_recipe_chooses_no_key_and_sends_no_face(
    serve: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys: list[str] = []

    def reply(handler: Any, body: dict[str, Any]) -> None:
        keys.append(handler.headers["Authorization"])
        send(handler, 200, completion(json.dumps(RIGHT)))

    monkeypatch.setenv("OPENAI_API_KEY", "sk-openai")
    monkeypatch.setenv("MY_KEY", "sk-mine\n")
    url = serve(reply)
    model(url, tmp_path).predict(batch(1))
    assert keys == ["Bearer none"]  # OPENAI_API_KEY is for OpenAI
    for name in ("OPENAI_API_KEY", "MY_KEY"):
        own = model(url, tmp_path, key_variable=name, model="other")
        with pytest.raises(RecipeError, match=f"say --allow-env {name}"):
            own.predict(batch(1))
    monkeypatch.setattr("faceaffect.models.endpoint.allowed_env", {"MY_KEY"})
    own.predict(batch(1))
    assert keys[1:] == ["Bearer sk-mine"]
    assert "sk-" not in repr(dict(own.hparams))
    with pytest.raises(RecipeError, match="--send-faces"):
        model("https://api.openai.com/v1", tmp_path).predict(batch(1))
    assert not allowed_env


# As a contestant


def test_it_is_tested_and_nothing_is_asked_twice(
    serve: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FACEAFFECT_ANSWERS", str(tmp_path / "kept"))
    stub = Stub()
    words = recipe(tmp_path, serve(stub), price={"input": 1000})
    assert main(["test", *words]) == 0
    first = result(tmp_path)
    asked = len(stub.bodies)
    assert asked == first["n"] == first["answering"]["spent"]["answers"]
    assert first["answering"]["spent"]["cost"] == pytest.approx(asked * 0.05)
    assert first["cost"] == {"device": None, "training_seconds": None}
    assert "schema" in first["answering"]["probabilities"]["au"]
    assert main(["test", *words]) == 0
    assert len(stub.bodies) == asked
    again = result(tmp_path)
    assert again["metrics"] == first["metrics"]
    assert again["answering"] == first["answering"]
    (run, _) = sorted((tmp_path / "runs" / "toy").iterdir())
    assert main(["test", str(run)]) == 0  # from its checkpoint
    assert len(stub.bodies) == asked


def test_a_dry_run_says_what_would_be_asked(
    serve: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stub = Stub()
    words = recipe(tmp_path, serve(stub))
    assert main(["test", *words, "--dry-run"]) == 0
    assert "12 requests to toy" in capsys.readouterr().out
    assert not stub.bodies
    assert sorted(path.name for path in tmp_path.iterdir()) == ["toy.yaml"]
    assert main(["compare", *words, "mini_probe", "--dry-run"]) == 0
    assert "about" in capsys.readouterr().out
    assert main(["compare", "mini_probe", "--dry-run"]) == 2
    assert "here is none" in capsys.readouterr().err


def test_a_report_says_that_its_cost_is_unknown(serve: Any, tmp_path: Path) -> None:
    words = recipe(tmp_path, serve(Stub()))
    assert main(["test", *words]) == 0
    (entrant,) = find_entrants([words[0]], [words[1]], 1)
    (run,) = (tmp_path / "runs" / "toy").iterdir()
    costs, warnings = measure_all([entrant], {"toy": [run]})
    assert set(costs["toy"].values()) == {None}
    assert len(warnings) == 1
    assert warnings[0].startswith("toy: runs behind an endpoint, so FLOPs, memory and speed cannot")


def test_refusals_are_counted_and_wrong(
    serve: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Refuses(Stub):
        def reply(self, handler: Any, number: int) -> None:
            if number % 4 == 1:
                send(handler, 400, "content policy \x1b[2J")
            elif number % 4 == 2:  # as a filter answers
                send(handler, 200, completion(None))
            else:
                super().reply(handler, number)

    assert main(["test", *recipe(tmp_path, serve(Refuses()), parallel=1)]) == 0
    found = result(tmp_path)
    assert found["answering"]["refused"]["n"] == found["unanswered"] == 6
    assert found["metrics"]["generated/unreadable/expression"] == 0.5
    said = capsys.readouterr().out
    assert "6 samples were refused, the first" in said
    assert "\x1b" not in said


@pytest.mark.parametrize(("kind", "says"), [
    ("401", "401 Unauthorized: who are you. No key was sent"), ("404", "404 Not Found"),
    ("302", "sends its visitors on (302) to http://elsewhere"),
    ("429", "429 Too Many Requests"), ("500", "500 Internal Server Error"),
    ("garbage", "200 without a chat completion: <html>"), ("nothing", "RemoteProtocolError"),
    ("drips", "no whole answer within 0.3 s"), ("refuses", "were all refused, the last"),
    ("cap", "max_cost: 0 of 0.1 is spent"),
])  # fmt: skip
def test_an_endpoint_that_cannot_be_used_is_one_error(
    serve: Any, tmp_path: Path, kind: str, says: str
) -> None:
    def reply(handler: Any, body: dict[str, Any]) -> None:
        if kind.isdigit():
            send(handler, int(kind), "who are you", Location="http://elsewhere")
        elif kind == "garbage":
            send(handler, 200, "<html>")
        elif kind == "refuses":
            send(handler, 422, "no")
        elif kind == "drips":
            handler.send_response(200)
            handler.end_headers()
            with suppress(OSError):  # it is hung up on
                for _ in range(12):
                    handler.wfile.write(b" ")
                    handler.wfile.flush()
                    time.sleep(0.05)

    args: dict[str, Any] = {"attempts": 1, "timeout": 0.3 if kind == "drips" else 5}
    if kind == "cap":
        args |= {"price": {"request": 1}, "max_cost": 0.1}
    with pytest.raises(EndpointError) as caught:
        model(serve(reply), tmp_path, parallel=2, **args).predict(batch(24))
    assert says in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_a_busy_endpoint_ends_the_test_and_nothing_is_lost(
    serve: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Busy(Stub):
        def reply(self, handler: Any, number: int) -> None:
            if busy and number in (3, 7):
                send(handler, 503, "later")
            else:
                super().reply(handler, number)

    stub, busy = Busy(), True
    words = recipe(tmp_path, serve(stub), parallel=1, attempts=1)
    assert main(["test", *words]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    assert "2 samples got no answer, the first s" in said
    assert "503 Service Unavailable: later" in said
    busy = False
    assert main(["test", *words]) == 0
    assert "2 answers asked for, 10 kept" in capsys.readouterr().out
    assert result(tmp_path)["unanswered"] == 0


def test_a_retry_after_is_waited_for(serve: Any, tmp_path: Path) -> None:
    times: list[float] = []

    def reply(handler: Any, body: dict[str, Any]) -> None:
        times.append(time.monotonic())
        if len(times) == 1:
            send(handler, 429, "later", Retry_After="0.4")
        else:
            send(handler, 200, completion(json.dumps(RIGHT)))

    assert not model(serve(reply), tmp_path).predict(batch(1))["au"].isnan().any()
    assert times[1] - times[0] >= 0.4


def test_it_answers_any_question(serve: Any, tmp_path: Path) -> None:
    said = serve(lambda h, _: send(h, 200, completion("A smile.")))
    assert model(said, tmp_path).describe(batch(2), "What {is} it?") == ["A smile."] * 2
    with pytest.raises(EndpointError, match="no"):
        model(serve(lambda h, _: send(h, 400, "no")), tmp_path).describe(batch(1))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
def test_a_comparison_goes_on_after_kill_9_without_paying_again(serve: Any, tmp_path: Path) -> None:
    stub = Stub(pause=0.3)
    words = recipe(tmp_path, serve(stub), parallel=1)
    command = [sys.executable, "-m", "faceaffect.cli", "test", *words]
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while len(stub.bodies) < 5 and time.monotonic() < deadline:
        time.sleep(0.02)
    child.send_signal(signal.SIGKILL)
    child.wait()
    time.sleep(0.4)
    assert main(["test", *words]) == 0
    assert len(stub.pictures) == 12
    assert stub.pictures.total() <= 13  # what was in flight
    assert result(tmp_path)["unanswered"] == 0
