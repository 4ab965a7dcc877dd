"""Ask a vision-language model for instruction data, through any OpenAI-compatible endpoint.

Gemini, vLLM and Ollama speak this protocol. Answers are appended to a JSON-lines file the moment
they arrive, so that a crash loses nothing and a restart repeats only the requests in flight.
"""

import base64
import json
import os
import random
import re
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass, replace
from http.client import HTTPException
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from faceaffect.data.dataset import FaceDataset
from faceaffect.errors import DataError
from faceaffect.instructions.items import Item, Labels, Turn, labels_at, read_jsonl
from faceaffect.scores.mentions import find_mentions, sentences
from faceaffect.scores.vocabulary import expression_vocabulary

PROMPT = (
    "The person in the picture shows this facial expression: {expression}.{aus}\n"
    "Write a short conversation between a user who asks about the person's face and an assistant "
    "who sees the picture. One or two turns. The user's questions must not name the expression. "
    "The assistant names it and points to facial evidence (brows, eyes, nose, mouth), and says so "
    "where a cause is not visible.\n"
    'Answer with JSON only: {{"turns": [{{"q": "...", "a": "..."}}]}}'
)
_RETRIED = (408, 409, 425, 429, *range(500, 600))
_FATAL = (401, 403, 404, 405)


class EndpointError(DataError):
    """The endpoint cannot be used at all: wrong address, model or key, or it stays down."""


class _Failed(Exception):
    """An item got no conversation."""


class _Refused(_Failed):
    """The endpoint will not talk about it, or says nothing that can be used."""


class _Unreadable(_Failed):
    """The picture cannot be read here, so that nobody was asked."""


class _Unanswered(_Failed):
    """The endpoint is busy, broken or out of reach; another run may have more luck."""


@dataclass(frozen=True)
class Endpoint:
    """An OpenAI-compatible chat endpoint and how patiently it is asked.

    Args:
        url: up to and with the version, such as ``http://localhost:8000/v1``.
        model: the model's name there.
        key_variable: environment variable with the key; empty or unset sends none.
        timeout: seconds for one whole request.
        attempts: requests for one item before it is given up, at least 1.
        backoff: seconds before the second attempt; doubled for every further one, up to a minute,
            with jitter. A ``Retry-After`` of the server is obeyed, up to two minutes.
        parallel: requests in flight.
        max_tokens: of an answer.

    Raises:
        EndpointError: the address is none, or a number is not positive.
    """

    url: str
    model: str
    key_variable: str = "OPENAI_API_KEY"
    timeout: float = 120.0
    attempts: int = 6
    backoff: float = 1.0
    parallel: int = 4
    max_tokens: int = 500

    def __post_init__(self) -> None:
        if not re.match(r"https?://[^/]", self.url):
            raise EndpointError(
                f"{self.url}: no address of an endpoint; write it as http://HOST:PORT/v1"
            )
        if min(self.attempts, self.parallel) < 1:
            raise EndpointError("an endpoint is asked at least once, and by at least one request")

    def ask(self, prompt: str, image: bytes | None) -> str:
        """Return the text of an answer.

        Args:
            prompt: the question.
            image: a JPEG file, or None.

        Raises:
            EndpointError: asking again is of no use.
            urllib.error.HTTPError: of another status.
            OSError: no connection, it was cut or timed out, or something else than an endpoint
                answers, such as a proxy with a page of its own.
            ValueError: the answer has no text.
        """
        content: list[dict[str, Any]] = [{"type": "text", "text": prompt}]
        if image is not None:
            data = base64.b64encode(image).decode()
            url = {"url": f"data:image/jpeg;base64,{data}"}
            content.append({"type": "image_url", "image_url": url})
        body = {
            "model": self.model,
            "messages": [{"role": "user", "content": content}],
            "max_tokens": self.max_tokens,
        }
        headers = {"Content-Type": "application/json"}
        key = os.environ.get(self.key_variable) if self.key_variable else None
        if key:
            headers["Authorization"] = f"Bearer {key}"
        address = f"{self.url.rstrip('/')}/chat/completions"
        request = urllib.request.Request(address, json.dumps(body).encode(), headers)
        try:
            answer = self._read(request)
        except urllib.error.HTTPError as error:
            if error.code in _FATAL:
                raise EndpointError(
                    f"{address}: {error.code} {error.reason}: {_said(error)}"
                ) from None
            raise
        except HTTPException as error:
            raise ConnectionError(f"broken off: {error!r}") from None
        try:
            completion = json.loads(answer)
        except ValueError:
            raise ConnectionError(f"no chat completion: {answer[:80]!r}") from None
        try:
            text = completion["choices"][0]["message"]["content"]
        except (KeyError, IndexError, TypeError) as error:
            raise ValueError(f"no answer in the completion: {error!r}") from None
        if not isinstance(text, str):
            raise ValueError("an answer without text")
        return text

    def _read(self, request: urllib.request.Request) -> bytes:
        """Read a response; the timeout holds for all of it, not for each piece."""
        end = time.monotonic() + self.timeout
        with urllib.request.urlopen(request, timeout=self.timeout) as response:
            data = b""
            while piece := response.read1(1 << 16):
                data += piece
                if time.monotonic() > end:
                    raise TimeoutError(f"no whole answer within {self.timeout} s")
        return data


@dataclass(frozen=True)
class Result:
    """What an annotation run did.

    Attributes:
        written: items added to the file.
        present: items that the file had already.
        passed_over: items that were refused at an earlier run, and not asked for again.
        refused: item id to what was wrong with the answer; passed over from now on.
        unanswered: item id to the last error of the endpoint; asked for again at the next run.
        unreadable: item id to why its picture cannot be read; nobody was asked.
    """

    written: int
    present: int
    passed_over: int
    refused: dict[str, str]
    unanswered: dict[str, str]
    unreadable: dict[str, str]


def annotate(
    dataset: FaceDataset,
    indices: Iterable[int],
    endpoint: Endpoint,
    path: Path | str,
    *,
    part: str = "train",
    source: str = "",
    prompt: str = PROMPT,
    progress: Callable[[int], None] | None = None,
) -> Result:
    """Ask for a conversation about each sample and append it to a JSON-lines file.

    Samples that the file has are not asked for again; nor are those that the endpoint refused, or
    answered with nothing that can be used, which a second file remembers (see
    :func:`refusals_beside`). Samples without a known expression are passed over.

    Args:
        dataset: labelled faces; of a clip the centre frame is shown.
        indices: samples of one part, never of the test part.
        endpoint: whom to ask.
        path: the file; a line torn by a crash is cut off.
        part: the part of the samples.
        source: name of the dataset.
        prompt: with the fields ``{expression}`` and ``{aus}``.
        progress: called with 1 after every sample.

    Raises:
        DataError: the part is the test part.
        EndpointError: the address, the model or the key is wrong, or so many items in a row got no
            answer that the endpoint must be down. What was written stays.
    """
    if part == "test":
        raise DataError("conversations about test samples would leak their labels into training")
    path = Path(path)
    done = {item.id for item in _repair(path)}
    refusals = refusals_beside(path)
    before = _read_refusals(refusals)
    stop = threading.Event()
    ask = _asker(dataset, endpoint, prompt, part, source, stop)
    todo, present, passed_over = [], 0, 0
    for index in indices:
        name = str(dataset.samples.id[index])
        present += name in done
        passed_over += name in before
        if name not in done | before and labels_at(dataset, index).expression is not None:
            todo.append(index)
    found: dict[type, dict[str, str]] = {_Refused: {}, _Unanswered: {}, _Unreadable: {}}
    written = in_a_row = 0
    for index, answer in _in_parallel(ask, todo, endpoint.parallel, stop):
        name = str(dataset.samples.id[index])
        if isinstance(answer, Item):
            _append(path, asdict(answer))
            written, in_a_row = written + 1, 0
        else:
            found[type(answer)][name] = str(answer)
        if isinstance(answer, _Refused):
            _append(refusals, {"id": name, "reason": str(answer)})
            in_a_row = 0  # an endpoint that refuses is there
        if isinstance(answer, _Unanswered):
            in_a_row += 1
            if in_a_row >= max(8, 2 * endpoint.parallel):
                raise EndpointError(
                    f"{endpoint.url}: {in_a_row} items got no answer one after another, "
                    f"the last with: {answer}. {written} were written to {path}; "
                    "start again to go on"
                )
        if progress is not None:
            progress(1)
    return Result(
        written, present, passed_over, found[_Refused], found[_Unanswered], found[_Unreadable]
    )


def refusals_beside(path: Path) -> Path:
    """Return the file that remembers, beside the conversations, what is not asked for again.

    >>> refusals_beside(Path("talk.jsonl")).name
    'talk.refused.jsonl'
    """
    return path.with_suffix(".refused.jsonl")


def _append(path: Path, record: dict[str, Any]) -> None:
    """Add a line to a file, on the disk when this returns."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(record, ensure_ascii=False) + "\n")
        file.flush()
        os.fsync(file.fileno())


def _read_refusals(path: Path) -> set[str]:
    """Return the ids of refused items; a line torn by a crash is asked for again."""
    if not path.exists():
        return set()
    _cut_torn_line(path)
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
        return {json.loads(line)["id"] for line in lines if line}
    except (ValueError, KeyError, TypeError):
        raise DataError(f"{path}: not readable; delete it to ask again for all it held") from None


def read_turns(text: str, expression: str) -> list[Turn]:
    """Read the JSON of an answer and check it.

    Args:
        text: what the model said; fences and words around the JSON are passed over.
        expression: the class that no question may name.

    Raises:
        ValueError: no such JSON, an empty turn, or a question that names the expression.
    """
    start, end = text.find("{"), text.rfind("}")
    if start < 0 or end < start:
        raise ValueError(f"no JSON in the answer: {text[:80]!r}")
    turns = [
        (str(t["q"]).strip(), str(t["a"]).strip())
        for t in json.loads(text[start : end + 1])["turns"]
    ]
    if not 1 <= len(turns) <= 4 or not all(q and a for q, a in turns):
        raise ValueError("one to four turns with question and answer were expected")
    vocabulary = expression_vocabulary((expression,))
    for question, _ in turns:
        named = {m.name for s in sentences(question) for m in find_mentions(s, vocabulary)}
        if expression in named:
            raise ValueError(f"a question names the expression: {question!r}")
    return turns


def _asker(
    dataset: FaceDataset,
    endpoint: Endpoint,
    prompt: str,
    part: str,
    source: str,
    stop: threading.Event,
) -> Callable[[int], Item]:
    """Return the function that asks for one sample and retries within the endpoint's bounds."""

    def ask(index: int) -> Item:
        labels = labels_at(dataset, index)
        name = str(dataset.samples.id[index])
        try:
            image = dataset.load(index).image
        except (DataError, OSError) as error:
            raise _Unreadable(str(error)) from None
        clip = image.ndim == 4
        jpeg = _jpeg(image[len(image) // 2] if clip else image)
        question = _filled(prompt, labels)
        turns = _persist(endpoint, question, jpeg, labels.expression or "", stop)
        media = "" if dataset.path(index) is None else name
        item = Item(name, "conversation", turns, media, "video" if clip else "image")
        return replace(item, source=source, part=part, label=labels.expression or "")

    return ask


def _filled(prompt: str, labels: Labels) -> str:
    names = ", ".join(f"AU{au}" for au in labels.active)
    return prompt.format(
        expression=labels.expression, aus=f" Active action units: {names}." if names else ""
    )


def _persist(
    endpoint: Endpoint, prompt: str, image: bytes, expression: str, stop: threading.Event
) -> list[Turn]:
    for attempt in range(endpoint.attempts):
        pause = min(endpoint.backoff * 2**attempt, 60.0) * random.uniform(0.75, 1.25)
        kind: type[_Failed] = _Unanswered
        try:
            return read_turns(endpoint.ask(prompt, image), expression)
        except urllib.error.HTTPError as error:
            if error.code not in _RETRIED:
                raise _Refused(f"{error.code} {error.reason}: {_said(error)}") from None
            last, pause = f"{error.code} {error.reason}", max(pause, _retry_after(error))
        except OSError as error:
            last = f"{type(error).__name__}: {error}"
        except (ValueError, KeyError, TypeError) as error:
            last, kind = f"{type(error).__name__}: {error}", _Refused
        if attempt + 1 < endpoint.attempts and stop.wait(pause):
            raise _Unanswered("the run was stopped")
    raise kind(f"given up after {endpoint.attempts} attempts: {last}")


def _in_parallel(
    ask: Callable[[int], Item], indices: Iterable[int], parallel: int, stop: threading.Event
) -> Iterator[tuple[int, Item | _Failed]]:
    """Yield each index with its item or its failure, in the order of arrival."""
    waiting = iter(indices)
    flying: dict[Future[Item], int] = {}
    with ThreadPoolExecutor(parallel) as pool:
        try:
            while True:
                for index in waiting:
                    flying[pool.submit(ask, index)] = index
                    if len(flying) >= parallel:
                        break
                if not flying:
                    return
                for future in wait(flying, return_when=FIRST_COMPLETED).done:
                    index = flying.pop(future)
                    error = future.exception()
                    if isinstance(error, _Failed):
                        yield index, error
                    else:
                        yield index, future.result()
        finally:
            stop.set()  # whoever waits for another attempt gives up
            pool.shutdown(wait=False, cancel_futures=True)


def _repair(path: Path) -> list[Item]:
    """Cut off a torn last line and return the items of the file."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    _cut_torn_line(path)
    return read_jsonl(path)


def _cut_torn_line(path: Path) -> None:
    data = path.read_bytes()
    whole = data.rfind(b"\n") + 1
    if whole < len(data):
        with path.open("r+b") as file:
            file.truncate(whole)


def _jpeg(image: NDArray[np.uint8]) -> bytes:
    return bytes(cv2.imencode(".jpg", np.ascontiguousarray(image[..., ::-1]))[1])


def _said(error: urllib.error.HTTPError) -> str:
    try:
        return re.sub(r"\s+", " ", error.read(300).decode(errors="replace"))
    except (OSError, HTTPException):
        return "no reason given"


def _retry_after(error: urllib.error.HTTPError) -> float:
    value = error.headers.get("Retry-After", "") if error.headers else ""
    return min(float(value), 120.0) if re.fullmatch(r"\d+(\.\d+)?", value) else 0.0
