"""The annotator, against servers that are busy, broken or silent, and its command."""

import json
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from faceaffect.cli import main
from faceaffect.data.dataset import Loaded
from faceaffect.errors import DataError
from faceaffect.instructions.conversations import annotate, read_turns, refusals_beside
from faceaffect.instructions.endpoint import Endpoint, EndpointError
from faceaffect.instructions.formats import read_items
from faceaffect.instructions.items import KINDS, read_jsonl
from faces import write_csv
from servers import GOOD, completion, send
from squares import SCHEMA, Faces


def quick(url: str, **changes: Any) -> Endpoint:
    return Endpoint(url, "toy", **{"timeout": 5.0, **changes})


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the client ask again without a pause, where the server names none."""
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.001)


def test_annotates_every_readable_sample_once(serve: Any, tmp_path: Path) -> None:
    seen: list[dict[str, Any]] = []

    def reply(handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
        seen.append(body)
        send(handler, 200, GOOD)

    out = tmp_path / "new" / "out.jsonl"
    result = annotate(Faces(), range(12), quick(serve(reply)), out, source="squares")
    # One sample has no expression, one is damaged.
    assert (result.written, result.present, list(result.unreadable)) == (10, 0, ["0/3"])
    assert not result.refused
    assert not result.unanswered
    items = {item.id: item for item in read_jsonl(out)}
    assert items["0/4"].modality == "video"
    assert items["0/0"].turns == [("How is the person?", "It shows.")]
    assert items["0/0"].label in SCHEMA.expressions
    content = seen[0]["messages"][0]["content"]
    assert content[0]["image_url"]["url"].startswith("data:image/png;base64,")
    again = annotate(Faces(), range(12), quick(serve(reply)), out)
    assert (again.written, again.present, len(seen)) == (0, 10, 10)


def test_busy_failing_and_babbling_servers_are_asked_again(serve: Any, tmp_path: Path) -> None:
    count = Counter[str]()
    lock = threading.Lock()

    def reply(handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
        with lock:
            count["all"] += 1
            turn = count["all"]
        if turn % 6 == 1:
            send(handler, 429, "slow down", Retry_After="0.01")
        elif turn % 6 == 2:
            send(handler, 500, "oops")
        elif turn % 6 == 3:
            send(handler, 200, "<html>garbage")
        elif turn % 6 == 4:
            send(handler, 200, completion("I had rather not."))
        elif turn % 6 == 5:
            handler.connection.close()
        else:
            send(handler, 200, GOOD)

    result = annotate(
        Faces(), [0, 1], quick(serve(reply), parallel=1, attempts=6), tmp_path / "out.jsonl"
    )
    assert (result.written, result.refused, result.unanswered) == (2, {}, {})
    assert count["all"] == 12


def test_attempts_are_bounded_and_the_rest_goes_on(serve: Any, tmp_path: Path) -> None:
    count = Counter[str]()

    def reply(handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
        count["all"] += 1
        if count["all"] <= 3:
            send(handler, 503, "")
        else:
            send(handler, 200, GOOD)

    endpoint = quick(serve(reply), parallel=1, attempts=3)
    result = annotate(Faces(), [0, 1], endpoint, tmp_path / "out.jsonl")
    assert list(result.unanswered) == ["0/0"]
    assert "3 attempts: 503" in result.unanswered["0/0"]
    assert [item.id for item in read_jsonl(tmp_path / "out.jsonl")] == ["0/1"]
    assert annotate(Faces(), [0, 1], endpoint, tmp_path / "out.jsonl").written == 1


def test_a_refused_item_is_not_asked_again(serve: Any, tmp_path: Path) -> None:
    count = Counter[str]()

    def reply(handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
        count["all"] += 1
        send(handler, 400, "content filter")

    out = tmp_path / "out.jsonl"
    result = annotate(Faces(), [0], quick(serve(reply)), out)
    assert "content filter" in result.refused["0/0"]
    assert count["all"] == 1
    again = annotate(Faces(), [0], quick(serve(reply)), out)
    assert (again.passed_over, again.refused, count["all"]) == (1, {}, 1)
    refusals_beside(out).unlink()
    assert list(annotate(Faces(), [0], quick(serve(reply)), out).refused) == ["0/0"]
    with refusals_beside(out).open("a") as file:
        file.write('{"id": "0/1')  # torn by a crash
    assert annotate(Faces(), [0], quick(serve(reply)), out).passed_over == 1
    refusals_beside(out).write_text("[]\n")
    with pytest.raises(DataError, match=r"out\.refused\.jsonl:1: not a line of ours"):
        annotate(Faces(), [0], quick(serve(reply)), out)


class Damaged(Faces):
    """Many squares, hardly one readable."""

    def __init__(self) -> None:
        super().__init__(60)

    def load(self, index: int) -> Loaded:
        if index != 59:
            raise DataError("damaged")
        return super().load(index)


def test_unreadable_pictures_do_not_stop_the_run(serve: Any, tmp_path: Path) -> None:
    endpoint = quick(serve(lambda h, _: send(h, 200, GOOD)), parallel=2)
    result = annotate(Damaged(), range(60), endpoint, tmp_path / "out.jsonl")
    assert (result.written, len(result.unreadable)) == (1, 58)  # one has no expression


@pytest.mark.parametrize("kind", ["refuses", "is silent", "babbles"])
def test_an_endpoint_that_refuses_much_does_not_stop_the_run(
    serve: Any, tmp_path: Path, kind: str
) -> None:
    count = Counter[str]()

    def reply(handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
        count["all"] += 1
        if kind == "refuses":
            send(handler, 400, "content filter")
        elif kind == "is silent":  # as a safety filter answers
            send(handler, 200, json.dumps({"choices": [{"message": {"content": None}}]}))
        else:
            send(handler, 200, completion("I had rather not."))

    endpoint = quick(serve(reply), parallel=1, attempts=2)
    result = annotate(Faces(30), range(30), endpoint, tmp_path / "out.jsonl")
    assert len(result.refused) == 28
    asked = count["all"]
    assert asked == 28 * (1 if kind == "refuses" else 2)
    again = annotate(Faces(30), range(30), endpoint, tmp_path / "out.jsonl")
    assert (again.passed_over, count["all"]) == (28, asked)


@pytest.mark.parametrize("kind", ["busy", "broken", "hangs up", "is no endpoint"])
def test_an_endpoint_that_stays_down_stops_the_run(serve: Any, tmp_path: Path, kind: str) -> None:
    def reply(handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
        if kind == "busy":
            send(handler, 429, "later")
        elif kind == "broken":
            send(handler, 529, "overloaded")
        elif kind == "hangs up":
            handler.connection.close()
        else:
            send(handler, 200, "<html>Please log in</html>")

    endpoint = quick(serve(reply), parallel=1, attempts=1)
    with pytest.raises(EndpointError, match="8 items got no answer one after another"):
        annotate(Faces(30), range(30), endpoint, tmp_path / "out.jsonl")
    assert not refusals_beside(tmp_path / "out.jsonl").exists()


@pytest.mark.parametrize("url", ["localhost:8000/v1", "ftp://host/v1", "http://", ""])
def test_an_address_without_a_scheme_is_refused(url: str) -> None:
    with pytest.raises(EndpointError, match="http://HOST"):
        Endpoint(url, "toy")


def test_a_wrong_key_stops_at_once(serve: Any, tmp_path: Path) -> None:
    count = Counter[str]()

    def reply(handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
        count["all"] += 1
        send(handler, 401, "who are you")

    with pytest.raises(EndpointError, match=r"401 .*who are you"):
        annotate(Faces(40), range(40), quick(serve(reply), parallel=2), tmp_path / "out.jsonl")
    assert count["all"] <= 4


def test_a_dead_endpoint_stops_the_run(serve: Any, tmp_path: Path) -> None:
    endpoint = quick("http://127.0.0.1:9/v1", attempts=2)
    with pytest.raises(EndpointError, match="one after another"):
        annotate(Faces(40), range(40), endpoint, tmp_path / "out.jsonl")


def test_a_hanging_or_dripping_server_times_out(serve: Any, tmp_path: Path) -> None:
    stop = threading.Event()

    def hang(handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
        stop.wait(5)

    def drip(handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
        handler.send_response(200)
        handler.end_headers()
        try:
            while not stop.wait(0.05):
                handler.wfile.write(b" ")
        except OSError:
            pass

    start = time.monotonic()
    for reply in (hang, drip):
        endpoint = quick(serve(reply), timeout=0.3, attempts=2)
        result = annotate(Faces(), [0], endpoint, tmp_path / "out.jsonl")
        assert "2 attempts" in result.unanswered["0/0"]
    assert time.monotonic() - start < 4
    stop.set()


def test_a_crash_loses_nothing(serve: Any, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    count = Counter[str]()

    def reply(handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
        count["all"] += 1
        send(handler, 200, GOOD)

    def crash(_: int) -> None:
        if sum(1 for _ in out.open()) == 4:
            raise KeyboardInterrupt

    endpoint = quick(serve(reply), parallel=2)
    with pytest.raises(KeyboardInterrupt):
        annotate(Faces(), range(12), endpoint, out, progress=crash)
    with out.open("a") as file:
        file.write('{"id": "0/11", "tur')  # torn by the crash
    result = annotate(Faces(), range(12), endpoint, out)
    assert result.present == 4
    assert result.written == 6
    assert len(read_jsonl(out)) == len({item.id for item in read_jsonl(out)}) == 10
    assert count["all"] <= 12  # only what was in flight is asked again


def test_test_samples_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="test samples"):
        annotate(Faces(), [0], quick("http://127.0.0.1:9/v1"), tmp_path / "x", part="test")


@pytest.mark.parametrize("text", [
    "", "happy", "{}", '{"turns": []}', '{"turns": [{"q": "", "a": "x"}]}',
    '{"turns": [{"q": "x"}]}',
    '{"turns": [{"q": "Why so happy?", "a": "x"}]}', '{"turns": 3}', "}{",
])  # fmt: skip
def test_garbage_and_leaking_questions_are_refused(text: str) -> None:
    with pytest.raises((ValueError, KeyError, TypeError)):
        read_turns(text, "happiness")


def test_annotate_writes_templates_of_a_recipes_training_part(tmp_path: Path) -> None:
    small = ["data.n=60", "data.subjects=20", "data.cache=null"]
    names = {"jsonl": "x.jsonl", "llava": "x.json", "llama_factory": "y.json", "trl": "y.jsonl",
             "swift": "z.jsonl"}  # fmt: skip
    for style, name in names.items():
        out = tmp_path / name
        command = ["annotate", "mini_probe", "--out", str(out), "--style", style, *small]
        assert main(command) == 0
    items = read_items(tmp_path / "x.jsonl")
    assert read_items(tmp_path / "x.json") == items
    assert read_items(tmp_path / "y.json") == items
    assert read_items(tmp_path / "y.jsonl") == read_items(tmp_path / "z.jsonl") == items
    assert (
        main(["annotate", "mini_probe", "--out", str(tmp_path / "w.json"), "--style", "trl"]) == 2
    )
    assert {item.kind for item in items} == set(KINDS)
    assert {item.part for item in items} == {"train"}


def test_annotate_asks_an_endpoint(serve: Any, tmp_path: Path) -> None:
    out = tmp_path / "x.json"
    command = ["annotate", "mini_probe", "--out", str(out), "--style", "llava", "--part", "val"]
    command += ["--model", "toy", "data.n=60", "data.subjects=20", "data.cache=null"]
    assert main([*command, "--url", serve(lambda h, _: send(h, 200, GOOD))]) == 0
    items = read_items(out)
    assert items
    assert items == read_items(tmp_path / "x.jsonl")
    assert main([*command, "--url", "http://127.0.0.1:9"]) == 0  # nothing is left to ask


def test_annotate_tells_what_failed(
    serve: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["annotate", "mini_probe", "--out", str(tmp_path / "x.jsonl"), "--part", "val"]
    command += ["--model", "toy", "data.n=60", "data.subjects=20", "data.cache=null"]
    url = serve(lambda h, _: send(h, 400, "not this face"))
    assert main([*command, "--url", url]) == 0
    out = capsys.readouterr().out
    assert "0 written, 0 were there, 0 refused at an earlier run" in out
    assert "refused; " in out
    assert "x.refused.jsonl" in out
    assert "400 Bad Request: not this face" in out
    assert main([*command, "--url", "http://127.0.0.1:9"]) == 0  # nothing is asked again
    assert "0 refused at an earlier run" not in capsys.readouterr().out


def test_the_lines_of_an_endpoint_are_not_overwritten(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = tmp_path / "x.jsonl"
    lines.write_text("precious\n")
    for style in ("llava", "llama_factory"):
        assert main(["annotate", "mini_probe", "--out", str(lines), "--style", style]) == 2
        assert "name it x.json" in capsys.readouterr().err
    assert lines.read_text() == "precious\n"


def test_clips_are_annotated_as_clips(tmp_path: Path) -> None:
    table = write_csv(tmp_path, 12, 2, clips=True)
    recipe = tmp_path / "clips.yaml"
    recipe.write_text(
        f"model: {{name: timm_classifier}}\ndata: {{name: csv, table: {table}, frames: 2}}\n"
    )
    out = tmp_path / "x.json"
    assert main(["annotate", str(recipe), "--out", str(out), "--style", "llava"]) == 0
    items = read_items(out)
    assert {item.modality for item in items} == {"image", "video"}
    for item in items:
        assert (item.modality == "video") == item.id.endswith(".mp4")
        assert ("image" if item.modality == "video" else "video") not in item.turns[0][0]


def test_annotate_needs_a_model_with_its_url(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["annotate", "mini_probe", "--out", str(tmp_path / "x"), "--url", "http://x"]) == 2
    assert "--url and --model go together" in capsys.readouterr().err
