"""A vision-language model behind an OpenAI-compatible endpoint: where it is, and what it is asked.

OpenAI, Gemini, vLLM and Ollama speak this protocol. Pictures leave the machine only where the
person at the keyboard said so, see :func:`faces_may_leave`.
"""

import base64
import hashlib
import ipaddress
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal
from urllib.parse import SplitResult, urlsplit

import cv2
import numpy as np
from numpy.typing import NDArray

from faceaffect.errors import DataError, RecipeError, needs_extra, printable

OPENAI = "api.openai.com"
"""The host to which ``OPENAI_API_KEY`` belongs."""

_OURS = ("model", "messages", "stream", "n", "response_format", "max_tokens", "temperature")
_PATCH = 28  # pixels of a side of what Qwen's models make one token of


class EndpointError(DataError):
    """The endpoint cannot be used at all: wrong address, model or key, or it stays down."""


class Failed(Exception):
    """An item got no answer."""


class Refused(Failed):
    """The endpoint will not talk about it, or says nothing that can be used."""


class Unanswered(Failed):
    """The endpoint is busy, broken or out of reach; another run may have more luck."""


@dataclass(frozen=True)
class Price:
    """What answers cost, in any currency.

    Args:
        input: of a million tokens of questions and pictures.
        output: of a million tokens of answers.
        request: of one request.

    Raises:
        EndpointError: less than nothing.
    """

    input: float = 0.0
    output: float = 0.0
    request: float = 0.0

    def __post_init__(self) -> None:
        if min(self.input, self.output, self.request) < 0:
            raise EndpointError("price: a price is not less than nothing")

    def of(self, prompt_tokens: float, answer_tokens: float) -> float:
        """Return what one answer costs."""
        tokens = prompt_tokens * self.input + answer_tokens * self.output
        return tokens / 1e6 + self.request


@dataclass(frozen=True)
class Endpoint:
    """An OpenAI-compatible chat endpoint and how patiently it is asked.

    Args:
        url: up to and with the version, such as ``http://localhost:8000/v1``.
        model: the model's name there.
        key_variable: environment variable with the key; empty or unset sends none.
        timeout: seconds for one whole answer, its headers included.
        attempts: requests for one item before it is given up, at least 1.
        parallel: requests in flight.
        max_tokens: of an answer; None leaves it to the server.
        temperature: None leaves it to the server.
        detail: how closely pictures are looked at, where the server knows that.
        extra: further settings of the request, such as ``{"reasoning_effort": "low"}``.
        cache: folder where answers are kept, so that none is paid for twice; None keeps none.
        price: what answers cost.
        max_cost: what all answers of a run may cost together, whenever they were paid for.

    Raises:
        EndpointError: the address is none, or a number is out of range.
    """

    url: str
    model: str
    key_variable: str = "OPENAI_API_KEY"
    timeout: float = 120.0
    attempts: int = 6
    parallel: int = 4
    max_tokens: int | None = 500
    temperature: float | None = None
    detail: Literal["low", "high", "auto"] | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)
    cache: Path | None = None
    price: Price = Price()
    max_cost: float | None = None

    def __post_init__(self) -> None:
        parts = _parts(self.url)
        if parts.username or parts.password or parts.query or parts.fragment:
            raise EndpointError(
                f"{parts.scheme}://{parts.hostname}: a key does not belong into the address; set "
                f"the environment variable {self.key_variable or 'that key_variable names'}"
            )
        if min(self.attempts, self.parallel) < 1 or not self.timeout > 0:
            raise EndpointError(
                "an endpoint is asked at least once, by at least one request, and has some time"
            )
        ours = [name for name in _OURS if name in self.extra]
        if ours:
            raise EndpointError(f"extra.{ours[0]}: not a further setting of the request")
        if self.max_cost is not None and self.price == Price():
            raise EndpointError("max_cost: needs a price, such as price={input: 2.5, output: 10}")

    @property
    def host(self) -> str:
        """The name of the machine."""
        return _parts(self.url).hostname or ""

    @property
    def is_here(self) -> bool:
        """Whether it is this machine, by its name or address."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def key(self) -> str:
        """The key, empty if there is none.

        Raises:
            EndpointError: it holds what no key holds.
        """
        key = os.environ.get(self.key_variable, "").strip() if self.key_variable else ""
        if not key.isascii() or not key.isprintable() or " " in key:
            raise EndpointError(f"{self.key_variable}: holds characters that no key has")
        return key

    def without_key(self, text: str) -> str:
        """Return a text of the server's for a message, without the key if it repeats it."""
        key = self.key
        return printable(text.replace(key, f"({self.key_variable})") if key else text)

    def check_sending(self) -> None:
        """See that pictures may go there, and that the client is installed.

        Raises:
            RecipeError: they leave the machine, and nobody said that they may; no client.
        """
        if find_spec("openai") is None:
            raise RecipeError(needs_extra("an endpoint", "openai", "endpoint"))
        if not self.is_here and not _permissions:
            raise RecipeError(
                f"pictures of people would leave this machine for {self.host}; say --send-faces "
                "if they may (in Python: with faceaffect.faces_may_leave(): ...)"
            )


def answers_folder() -> Path:
    """Return where answers are kept if nothing else is said.

    That is what the variable ``FACEAFFECT_ANSWERS`` names, else ``runs/answers``.
    """
    return Path(os.environ.get("FACEAFFECT_ANSWERS") or "runs/answers")


_permissions: list[bool] = []  # of the process, since pages answer in other threads


@contextmanager
def faces_may_leave() -> Iterator[None]:
    """Let pictures of people go to endpoints on other machines within; no recipe can do so."""
    _permissions.append(True)
    try:
        yield
    finally:
        _permissions.pop()


@dataclass(frozen=True, eq=False)
class Question:
    """What is asked in one request.

    Attributes:
        prompt: in words.
        pictures: each (H, W, 3) uint8 RGB; they stand before the words.
        system: what the model is told first, empty for nothing.
        schema: of the JSON that the answer has to be; None for free words.
    """

    prompt: str
    pictures: tuple[NDArray[np.uint8], ...] = ()
    system: str = ""
    schema: Mapping[str, Any] | None = None

    def digest(self, endpoint: Endpoint, draw: int = 0) -> str:
        """Return what tells this question to this model, with all settings, from all others.

        Args:
            endpoint: which model is asked, in which way.
            draw: number of the answer, where a question is asked again for another one.
        """
        told = [endpoint.url.rstrip("/"), self.request(endpoint, shown=False), draw]
        digest = hashlib.sha256(json.dumps(told, sort_keys=True).encode())
        for picture in self.pictures:
            digest.update(repr(picture.shape).encode())
            digest.update(np.ascontiguousarray(picture).tobytes())
        return digest.hexdigest()

    def request(self, endpoint: Endpoint, *, shown: bool = True) -> dict[str, Any]:
        """Return the request's settings; not ``shown``, without the pictures."""
        pictures = [_part(picture, endpoint.detail, shown) for picture in self.pictures]
        messages: list[dict[str, Any]] = []
        if self.system:
            messages.append({"role": "system", "content": self.system})
        said = {"type": "text", "text": self.prompt}
        messages.append({"role": "user", "content": [*pictures, said]})
        settings: dict[str, Any] = {"model": endpoint.model, "messages": messages}
        settings |= {"max_tokens": endpoint.max_tokens, "temperature": endpoint.temperature}
        settings = {name: value for name, value in settings.items() if value is not None}
        if self.schema is not None:
            form = {"name": "answer", "strict": True, "schema": self.schema}
            settings["response_format"] = {"type": "json_schema", "json_schema": form}
        return settings | ({"extra_body": dict(endpoint.extra)} if endpoint.extra else {})

    @property
    def tokens(self) -> int:
        """About how many tokens it is: four letters each, and 28 x 28 pixels."""
        sides = [[-(-side // _PATCH) for side in picture.shape[:2]] for picture in self.pictures]
        words = len(self.prompt) + len(self.system)
        words += len(json.dumps(self.schema)) if self.schema else 0
        return 8 + words // 4 + sum(int(rows * columns) + 2 for rows, columns in sides)


def _part(picture: NDArray[np.uint8], detail: str | None, shown: bool) -> dict[str, Any]:
    """Return a picture as a part of a message: a PNG file, which loses nothing."""
    url: dict[str, Any] = {"detail": detail} if detail else {}
    if shown:
        png = cv2.imencode(".png", np.ascontiguousarray(picture[..., ::-1]))[1].tobytes()
        url["url"] = f"data:image/png;base64,{base64.b64encode(png).decode()}"
    return {"type": "image_url", "image_url": url}


def _parts(url: str) -> SplitResult:
    """Return the parts of an address.

    Raises:
        EndpointError: it is none.
    """
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises where it is no number
    except ValueError:
        parts = urlsplit("")
    if parts.scheme not in ("http", "https") or not parts.hostname or not url.isprintable():
        raise EndpointError(
            f"{printable(url)}: no address of an endpoint; write it as http://HOST:PORT/v1"
        )
    return parts
