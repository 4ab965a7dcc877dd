"""A vision-language model behind an OpenAI-compatible endpoint, and what its answers are worth.

Gemini, vLLM and Ollama speak this protocol. Nothing that a server sends is trusted: an answer has a
deadline and a size, a redirect is not followed, and what is told of an answer can be printed.
"""

import asyncio
import base64
import json
import os
import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import httpx2

from faceaffect.errors import DataError, printable

Answer = TypeVar("Answer")

MAX_ANSWER = 2**22
"""Bytes of one answer; a longer one is broken off."""

_RETRIED = (408, 409, 425, 429, *range(500, 600))
_REFUSED = (400, 413, 415, 422, 451)
"""The statuses of a request that is answered as such: it is about this picture or this text."""


class EndpointError(DataError):
    """The endpoint cannot be used at all: wrong address, model or key, or it stays down."""


class Failed(Exception):
    """An item got no answer."""


class Refused(Failed):
    """The endpoint will not talk about it, or says nothing that can be used."""


class Unanswered(Failed):
    """The endpoint is busy, broken or out of reach; another run may have more luck."""


class Busy(Exception):
    """The same request may be answered later, after ``pause`` seconds at the earliest."""

    def __init__(self, text: str, pause: float = 0.0) -> None:
        super().__init__(text)
        self.pause = pause


@dataclass(frozen=True)
class Endpoint:
    """An OpenAI-compatible chat endpoint and how patiently it is asked.

    Args:
        url: up to and with the version, such as ``http://localhost:8000/v1``.
        model: the model's name there.
        key_variable: environment variable with the key; empty or unset sends none.
        timeout: seconds for one whole answer, its headers included.
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
        try:
            url = httpx2.URL(self.url)
        except (httpx2.InvalidURL, ValueError):
            url = httpx2.URL()
        if url.scheme not in ("http", "https") or not url.host:
            raise EndpointError(
                f"{printable(self.url)}: no address of an endpoint; write it as http://HOST:PORT/v1"
            )
        if url.userinfo or url.query:
            raise EndpointError(
                f"{url.scheme}://{url.host}: a key does not belong into the address; set the "
                f"environment variable {self.key_variable or 'that key_variable names'}"
            )
        if min(self.attempts, self.parallel) < 1 or self.timeout <= 0:
            raise EndpointError(
                "an endpoint is asked at least once, by at least one request, and has some time"
            )

    @property
    def address(self) -> str:
        """Where requests go."""
        return f"{self.url.rstrip('/')}/chat/completions"

    def client(self) -> httpx2.AsyncClient:
        """Return a client that carries the key, to this endpoint alone."""
        headers = {"Accept-Encoding": "identity"}
        key = os.environ.get(self.key_variable) if self.key_variable else None
        if key:
            headers["Authorization"] = f"Bearer {key}"
        try:
            return httpx2.AsyncClient(headers=headers, timeout=None, follow_redirects=False)
        except (UnicodeError, ValueError):
            raise EndpointError(f"{self.key_variable}: holds characters that no key has") from None

    async def ask(self, client: httpx2.AsyncClient, prompt: str, image: bytes | None) -> str:
        """Return the text of an answer.

        Args:
            client: from :meth:`client`.
            prompt: the question.
            image: a JPEG file, or None.

        Raises:
            EndpointError: asking for anything is of no use.
            Refused: the endpoint answers, and will not talk about this.
            ValueError: it answers without text.
            Busy: no connection, it was cut, timed out, or something else than an endpoint answers,
                such as a proxy with a page of its own.
        """
        content: list[dict[str, Any]] = [{"type": "text", "text": prompt}]
        if image is not None:
            url = f"data:image/jpeg;base64,{base64.b64encode(image).decode()}"
            content.append({"type": "image_url", "image_url": {"url": url}})
        body = {
            "model": self.model,
            "messages": [{"role": "user", "content": content}],
            "max_tokens": self.max_tokens,
        }
        try:
            async with asyncio.timeout(self.timeout):  # for all of it, not for each piece
                response, data = await _post(client, self.address, body)
        except TimeoutError:
            raise Busy(f"no whole answer within {self.timeout:g} s") from None
        except (httpx2.HTTPError, OSError) as error:
            raise Busy(f"{type(error).__name__}: {printable(str(error))}") from None
        _check(self.address, response, data)
        return _text(data)

    async def persist(
        self,
        client: httpx2.AsyncClient,
        prompt: str,
        image: bytes | None,
        read: Callable[[str], Answer],
        stop: asyncio.Event,
    ) -> Answer:
        """Ask until an answer can be read, as often as the endpoint's bounds allow.

        Args:
            client: from :meth:`client`.
            prompt: the question.
            image: a JPEG file, or None.
            read: makes of the text what is wanted; raises ValueError if it cannot.
            stop: when it is set, nothing is asked again.

        Raises:
            EndpointError: asking for anything is of no use.
            Refused: the endpoint will not talk about this, or never says what can be read.
            Unanswered: it is busy, broken or out of reach, or the run was stopped.
        """
        for attempt in range(self.attempts):
            pause = min(self.backoff * 2**attempt, 60.0) * random.uniform(0.75, 1.25)
            kind: type[Failed] = Unanswered
            try:
                return read(await self.ask(client, prompt, image))
            except Busy as error:
                last, pause = str(error), max(pause, error.pause)
            except ValueError as error:
                last, kind = str(error), Refused
            if attempt + 1 < self.attempts and await _is_set_within(stop, pause):
                raise Unanswered("the run was stopped")
        raise kind(f"given up after {self.attempts} attempts: {last}")


async def _post(
    client: httpx2.AsyncClient, address: str, body: dict[str, Any]
) -> tuple[httpx2.Response, bytes]:
    """Send a request and return the response with its body, as it came."""
    data = bytearray()
    async with client.stream("POST", address, json=body) as response:
        async for piece in response.aiter_raw():  # nothing is unpacked: no encoding was asked for
            data += piece
            if len(data) > MAX_ANSWER:
                raise Busy(f"an answer of more than {MAX_ANSWER >> 20} MB")
    return response, bytes(data)


def _check(address: str, response: httpx2.Response, data: bytes) -> None:
    """Raise what the status of a response means, if it is no success."""
    code = response.status_code
    if 200 <= code < 300:
        return
    said = printable(f"{code} {response.reason_phrase}: {data[:300].decode(errors='replace')}")
    if 300 <= code < 400:
        place = printable(response.headers.get("Location", "nowhere"), 200)
        raise EndpointError(
            f"{address} sends its visitors on ({code}) to {place}. Nothing was asked there; if you "
            "trust that address, give it as --url"
        )
    if code in _RETRIED:
        raise Busy(said, _retry_after(response))
    if code in _REFUSED:
        raise Refused(said)
    raise EndpointError(f"{address}: {said}")


def _text(data: bytes) -> str:
    """Return the text of a chat completion."""
    try:
        completion = json.loads(data)
    except RecursionError:
        raise ValueError("a completion that nests too deep") from None
    except ValueError:
        shown = printable(data[:80].decode(errors="replace"))
        raise Busy(f"no chat completion: {shown}") from None
    try:
        text = completion["choices"][0]["message"]["content"]
    except (KeyError, IndexError, TypeError) as error:
        raise ValueError(f"no answer in the completion: {printable(repr(error))}") from None
    if not isinstance(text, str):
        raise ValueError("an answer without text")
    return text


def _retry_after(response: httpx2.Response) -> float:
    value = response.headers.get("Retry-After", "")
    return min(float(value), 120.0) if re.fullmatch(r"\d{1,9}(\.\d{1,9})?", value) else 0.0


async def _is_set_within(stop: asyncio.Event, seconds: float) -> bool:
    try:
        await asyncio.wait_for(stop.wait(), seconds)
    except TimeoutError:
        return False
    return True
