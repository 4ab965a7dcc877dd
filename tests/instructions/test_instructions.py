import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from faceaffect.cli import main
from faceaffect.data.dataset import FaceDataset, Loaded, Samples
from faceaffect.errors import DataError
from faceaffect.instructions.endpoint import (
    Endpoint,
    EndpointError,
    annotate,
    read_turns,
    refusals_beside,
)
from faceaffect.instructions.formats import dataset_info, read_items, write_conversations
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
from faceaffect.schema import LabelSchema
from faceaffect.scores.answers import parse_aus, parse_expression, parse_va
from faces import write_csv

SCHEMA = LabelSchema((1, 4, 6, 12), ("anger", "happiness", "neutral", "surprise"), True)


class Faces(FaceDataset):
    """Twelve labelled squares."""

    def __init__(self, n: int = 12) -> None:
        rng = np.random.default_rng(0)
        au = rng.integers(0, 2, (n, 4)).astype(np.float32)
        au[1, 0] = np.nan
        names = np.array([f"0/{i}" for i in range(n)])
        expression = rng.integers(0, 4, n)
        expression[2] = -1
        va = rng.uniform(-1, 1, (n, 2)).astype(np.float32)
        samples = Samples(names, names, au=au, expression=expression, va=va)
        super().__init__(SCHEMA, samples)

    def load(self, index: int) -> Loaded:
        if index == 3:
            raise DataError("damaged")
        shape = (5, 8, 8, 3) if index == 4 else (8, 8, 3)
        return Loaded(np.full(shape, index, np.uint8))


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


@pytest.mark.parametrize("style", ["llava", "llama_factory"])
@pytest.mark.parametrize("modality", ["image", "video"])
def test_both_formats_round_trip(style: Any, modality: Any, tmp_path: Path) -> None:
    turns = [("What is it?", "joy"), ("Sure?", "yes")]
    items = [Item("a/b", "conversation", turns, "a/b", modality, "raf", "train", "joy\u2028")]
    assert write_conversations(tmp_path / "x.json", items, style) == 1
    assert read_items(tmp_path / "x.json") == items
    record = json.loads((tmp_path / "x.json").read_text())[0]
    if style == "llava":
        assert record["conversations"][0] == {
            "from": "human",
            "value": f"<{modality}>\nWhat is it?",
        }
        assert record[modality] == "a/b"
    else:
        assert record["messages"][1] == {"role": "assistant", "content": "joy"}
        assert record[f"{modality}s"] == ["a/b"]
        info = dataset_info("faces", "x.json", videos=modality == "video")["faces"]
        assert info["columns"] == {"messages": "messages", f"{modality}s": f"{modality}s"}


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


# The annotator, against a server that misbehaves

Reply = Callable[[BaseHTTPRequestHandler, dict[str, Any]], None]


@pytest.fixture
def serve() -> Iterator[Callable[[Reply], str]]:
    servers = []

    def start(reply: Reply) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                reply(self, body)

            def log_message(self, *_: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(
            target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
        ).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}/v1"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def send(handler: BaseHTTPRequestHandler, code: int, body: str, **headers: str) -> None:
    handler.send_response(code)
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.send_header("Content-Length", str(len(body.encode())))
    handler.end_headers()
    handler.wfile.write(body.encode())


def completion(text: str) -> str:
    return json.dumps({"choices": [{"message": {"content": text}}]})


GOOD = completion('```json\n{"turns": [{"q": "How is the person?", "a": "It shows."}]}\n```')


def quick(url: str, **changes: Any) -> Endpoint:
    return Endpoint(url, "toy", **{"backoff": 0.001, "timeout": 5.0, **changes})


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
    assert content[1]["image_url"]["url"].startswith("data:image/jpeg;base64,")
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
    with pytest.raises(DataError, match=r"out\.refused\.jsonl: not readable"):
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
    for style, name in (("jsonl", "x.jsonl"), ("llava", "x.json"), ("llama_factory", "y.json")):
        out = tmp_path / name
        command = ["annotate", "mini_probe", "--out", str(out), "--style", style, *small]
        assert main(command) == 0
    items = read_items(tmp_path / "x.jsonl")
    assert read_items(tmp_path / "x.json") == items
    assert read_items(tmp_path / "y.json") == items
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
