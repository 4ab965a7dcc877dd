"""What an endpoint or a file sends that would hurt: the key stays, the terminal obeys nobody."""

import json
import os
import signal
import sys
import time
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from faceaffect.cli import main
from faceaffect.errors import DataError
from faceaffect.files import Lines
from faceaffect.instructions.client import MAX_ANSWER
from faceaffect.instructions.conversations import annotate, refusals_beside
from faceaffect.instructions.endpoint import Endpoint, EndpointError
from faceaffect.instructions.formats import read_items
from faceaffect.instructions.items import read_jsonl
from servers import GOOD, completion, send
from squares import Faces

Handler = BaseHTTPRequestHandler
SMALL = ["data.n=60", "data.subjects=20", "data.cache=null"]


def quick(url: str, **changes: Any) -> Endpoint:
    return Endpoint(url, "toy", **{"timeout": 5.0, "attempts": 1, **changes})


@pytest.mark.parametrize("code", [300, 301, 302, 303, 307, 308])
def test_the_key_does_not_follow_a_redirect(
    serve: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    keys: dict[str, list[str | None]] = {"right": [], "wrong": []}

    def wrong(handler: Handler, body: dict[str, Any]) -> None:
        keys["wrong"].append(handler.headers["Authorization"])
        send(handler, 200, GOOD)

    place = serve(wrong)

    def right(handler: Handler, body: dict[str, Any]) -> None:
        keys["right"].append(handler.headers["Authorization"])
        send(handler, code, "", Location=f"{place}/chat/completions")

    with pytest.raises(EndpointError, match=rf"sends its visitors on \({code}\) to {place}"):
        annotate(Faces(), range(12), quick(serve(right), parallel=1), tmp_path / "out.jsonl")
    assert keys == {"right": ["Bearer sk-secret"], "wrong": []}
    assert not refusals_beside(tmp_path / "out.jsonl").exists()


@pytest.mark.parametrize(("code", "fatal"), [
    (400, False), (413, False), (422, False), (401, True), (402, True), (403, True), (404, True),
    (410, True), (426, True),
])  # fmt: skip
def test_a_status_is_about_one_item_or_about_all(
    serve: Any, tmp_path: Path, code: int, fatal: bool
) -> None:
    endpoint = quick(serve(lambda h, _: send(h, code, "because")))
    if fatal:
        with pytest.raises(EndpointError, match=f"{code} .*because"):
            annotate(Faces(), range(12), endpoint, tmp_path / "out.jsonl")
    else:
        assert len(annotate(Faces(), range(12), endpoint, tmp_path / "out.jsonl").refused) == 10


def _drips(handler: Handler, body: dict[str, Any]) -> None:
    try:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
        for _ in range(100):
            handler.wfile.write(b"a")
            handler.wfile.flush()
            time.sleep(0.05)
    except OSError:
        pass


def _floods(handler: Handler, body: dict[str, Any]) -> None:
    handler.send_response(200)
    handler.end_headers()
    try:
        for _ in range(64):
            handler.wfile.write(b" " * 2**20)
    except OSError:
        pass


@pytest.mark.parametrize(("reply", "says"), [(_drips, "no whole answer"), (_floods, "more than")])
def test_an_answer_has_a_deadline_and_a_size(
    serve: Any, tmp_path: Path, reply: Any, says: str
) -> None:
    start = time.monotonic()
    result = annotate(Faces(), [0], quick(serve(reply), timeout=1.0), tmp_path / "out.jsonl")
    assert says in result.unanswered["0/0"]
    assert time.monotonic() - start < 4
    assert MAX_ANSWER < 64 * 2**20


def turns(answer: str) -> str:
    """Return a completion whose assistant says something, its escapes as they are written."""
    text = json.dumps({"turns": [{"q": "What do you see?", "a": "@"}]})
    return completion(text).replace("@", answer)


@pytest.mark.parametrize(("body", "says"), [
    ("[" * 200_000, "nests too deep"),
    (completion('{"turns": ' + "[" * 100_000 + "]" * 100_000 + "}"), "nests too deep"),
    (turns("brows \\ud83d up"), "none of a text"),
    (turns("brows \\u001b[31m up"), "none of a text"),
    (turns(r"brows \\u001b[31m up"), "none of a text"),
    (turns(r"brows \\u0000 up"), "none of a text"),
    (turns("brows \\u009b up"), "none of a text"),
    ('{"choices": [{"message": {"content": "\\ud83d{"}}]}', "not the JSON"),
    (completion('{"turns": [{"q": 1, "a": {"x": 2}}]}'), "not the JSON"),
    ('{"choices": null}', "no answer"),
    ("[]", "no answer"),
    ("null", "no answer"),
    (completion("1e999"), "no JSON"),
    (completion('{"turns": %s}' % ("9" * 5000)), "not the JSON"),
])  # fmt: skip
def test_content_that_cannot_be_used_is_counted(
    serve: Any, tmp_path: Path, body: str, says: str
) -> None:
    out = tmp_path / "out.jsonl"
    result = annotate(Faces(), [0, 1], quick(serve(lambda h, _: send(h, 200, body))), out)
    assert [says in reason for reason in result.refused.values()] == [True, True]
    assert not out.exists()
    assert annotate(Faces(), [0, 1], quick("http://127.0.0.1:9/v1"), out).passed_over == 2


def test_lines_and_letters_of_all_kinds_are_kept(serve: Any, tmp_path: Path) -> None:
    said = "Brows up.\n\tلبخند، 微笑 \U0001f469\u200d\U0001f9b0"
    text = json.dumps({"turns": [{"q": "What?", "a": said}]})
    body = completion(f"Sure {text} {{and more}}")
    annotate(Faces(), [0], quick(serve(lambda h, _: send(h, 200, body))), tmp_path / "o.jsonl")
    assert read_jsonl(tmp_path / "o.jsonl")[0].turns == [("What?", said)]


@pytest.mark.parametrize("code", [400, 404])
def test_a_terminal_obeys_no_server(
    serve: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], code: int
) -> None:
    bad = "bad [/red] \x1b]0;owned\x07\x1b[2J \u202e [bold]"
    url = serve(lambda h, _: send(h, code, bad))
    command = ["annotate", "mini_probe", "--out", str(tmp_path / "x.jsonl"), "--part", "val"]
    assert main([*command, "--url", url, "--model", "toy", *SMALL]) == (0 if code == 400 else 2)
    said = "".join(capsys.readouterr())
    assert "[/red]" in said
    assert not set(said) & set("\x1b\x07\u202e")
    result = annotate(Faces(), [0], quick(serve(lambda h, _: send(h, 500, bad))), tmp_path / "y")
    assert not set(result.unanswered["0/0"]) & set("\x1b\x07\u202e")


def test_a_key_in_an_address_is_not_shown() -> None:
    for url in ("http://me:sk-secret@host/v1", "http://host/v1?key=sk-secret"):
        with pytest.raises(EndpointError, match="OPENAI_API_KEY") as caught:
            Endpoint(url, "toy")
        assert "sk-secret" not in str(caught.value)


# The file


def test_the_last_line_is_kept_or_cut(serve: Any, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    endpoint = quick(serve(lambda h, _: send(h, 200, GOOD)), parallel=1)
    annotate(Faces(), [0, 1], endpoint, out)
    whole = out.read_bytes()
    for left in (whole[:-1], whole, whole + b'{"id', whole + b"\n"):
        out.write_bytes(left)
        result = annotate(Faces(), [0, 1, 5], endpoint, out)
        assert (result.present, result.written) == (2, 1)
        assert [item.id for item in read_jsonl(out)] == ["0/0", "0/1", "0/5"]
    out.write_bytes(b'{"id": "0/0", "ki')
    assert annotate(Faces(), [0], endpoint, out).written == 1


@pytest.mark.parametrize("theirs", [
    b"precious", b"precious\n", b"a,b\n1,2\n", b'{"name": 1}\n', b"[1]",
    b'{"id": 5, "turns": []}\n',
    b"\xff\xfe\x00", b"[" * 100_000, b'{"id": "x", "turns": [["a", "\\ud83d"]]}\n',
])  # fmt: skip
def test_a_file_of_somebody_else_is_left_as_it_is(
    tmp_path: Path, theirs: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.jsonl"
    out.write_bytes(theirs)
    with pytest.raises(DataError, match=r"out\.jsonl"):
        annotate(Faces(), [0], quick("http://127.0.0.1:9/v1"), out)
    command = ["annotate", "mini_probe", *SMALL, "--out"]
    assert main([*command, str(out)]) == 2
    assert out.read_bytes() == theirs
    (tmp_path / "list.json").write_bytes(theirs)
    assert main([*command, str(tmp_path / "list.json"), "--style", "llava"]) == 2
    asked = ["--style", "llava", "--url", "http://127.0.0.1:9", "--model", "toy"]
    assert main([*command, str(tmp_path / "list.json"), *asked]) == 2
    assert (tmp_path / "list.json").read_bytes() == theirs
    assert "Traceback" not in capsys.readouterr().err


def test_what_was_paid_for_is_not_replaced_by_templates(
    serve: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "x.jsonl"
    command = ["annotate", "mini_probe", "--out", str(out), "--part", "val", *SMALL]
    url = serve(lambda h, _: send(h, 200, GOOD))
    assert main([*command, "--url", url, "--model", "toy"]) == 0
    paid = out.read_bytes()
    assert main(command) == 2
    assert "holds items that would be lost" in capsys.readouterr().err
    assert out.read_bytes() == paid
    templates = [*command[:3], str(tmp_path / "t.json"), *command[4:], "--style", "llava"]
    assert main(templates) == main(templates) == 0
    assert read_items(tmp_path / "t.json")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs FIFOs")
def test_only_regular_files_are_written(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jsonl")
    (tmp_path / "folder.jsonl").mkdir()
    for name in ("pipe.jsonl", "folder.jsonl"):
        with pytest.raises(DataError, match="not a regular file"):
            annotate(Faces(), [0], quick("http://127.0.0.1:9/v1"), tmp_path / name)
        assert main(["annotate", "mini_probe", *SMALL, "--out", str(tmp_path / name)]) == 2


def test_a_file_has_one_writer(serve: Any, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    endpoint = quick(serve(lambda h, _: send(h, 200, GOOD)))
    with (
        Lines(out, dict, '{"id": "'),
        pytest.raises(DataError, match="another process writes this file"),
    ):
        annotate(Faces(), [0], endpoint, out)
    assert annotate(Faces(), [0], endpoint, out).written == 1


def test_a_full_disk_leaves_whole_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out.jsonl"
    with Lines(out, dict, '{"id": "') as lines:
        lines.append({"id": "a"})
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", _no_room)
            with pytest.raises(OSError, match="No space left"):
                lines.append({"id": "b"})
        lines.append({"id": "c"})
        out.write_bytes(b"")
        with pytest.raises(DataError, match="somebody else changed it"):
            lines.append({"id": "d"})


def _no_room(*_: Any) -> None:
    raise OSError(28, "No space left on device")


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
def test_what_is_in_flight_at_ctrl_c_is_kept(
    serve: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[Handler] = []

    def reply(handler: Handler, body: dict[str, Any]) -> None:
        asked.append(handler)
        if len(asked) == 2:
            os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.3)
        send(handler, 200, GOOD)

    endpoint = quick(serve(reply), parallel=2)
    with pytest.raises(KeyboardInterrupt):
        annotate(Faces(), range(12), endpoint, tmp_path / "out.jsonl")
    assert "waiting for what is in flight" in capsys.readouterr().out
    assert len(read_jsonl(tmp_path / "out.jsonl")) == len(asked) == 2
