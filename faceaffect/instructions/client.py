"""Asking an endpoint, through the client of OpenAI, which retries and waits.

Nothing that a server sends is trusted: an answer has a deadline and a size, a redirect is not
followed, and what is told of an answer can be printed and holds no key.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx2
import openai

from faceaffect.errors import printable
from faceaffect.instructions.answered import Answer, Answers
from faceaffect.instructions.budget import Spent
from faceaffect.instructions.endpoint import (
    OPENAI,
    Endpoint,
    EndpointError,
    Question,
    Refused,
    Unanswered,
)

Read = TypeVar("Read")
Item = TypeVar("Item")

MAX_ANSWER = 2**22
"""Bytes of one answer; a longer one is broken off."""

_RETRIED = (408, 409, 425, 429, *range(500, 600))
_REFUSED = (400, 413, 415, 422, 451)
"""The statuses of a request that is answered as such: it is about this picture or this text."""

_SENT = ("host", "accept", "accept-encoding", "connection", "user-agent", "authorization",
         "content-type", "content-length", "x-stainless-raw-response")  # fmt: skip
"""Headers that other hosts than OpenAI's get; the client would add what its environment says."""
_READ = ("retry-after", "retry-after-ms", "x-should-retry", "location", "content-type")


class Client:
    """Asks an endpoint; use it in an ``async with``, from one event loop.

    Args:
        endpoint: whom, how patiently, and where answers are kept.
        spent: what is counted and held below the cap.

    Attributes:
        stop: when it is set, nothing is asked any more, and what waits to be asked again ends.
        flying: the tasks whose request is under way.

    Raises:
        DataError: the kept answers cannot be used.
    """

    def __init__(self, endpoint: Endpoint, spent: Spent) -> None:
        self.endpoint, self.spent = endpoint, spent
        self.stop = asyncio.Event()
        self.flying: set[asyncio.Task[Any] | None] = set()
        self._answers = None if endpoint.cache is None else Answers(endpoint.cache)
        self._client = openai.AsyncOpenAI(
            api_key=endpoint.key or "none",
            base_url=endpoint.url,
            timeout=None,  # the deadline is for the whole answer
            max_retries=endpoint.attempts - 1,
            http_client=_Careful(self),
        )

    async def ask(self, question: Question, draw: int = 0) -> Answer:
        """Return the kept answer to a question, else ask for it and keep it.

        Args:
            question: what is asked.
            draw: number of the answer, where a question is asked again for another one.

        Raises:
            EndpointError: asking for anything is of no use, or would cost more than is allowed.
            Refused: the endpoint answers, and will not talk about this.
            Unanswered: it is busy, broken or out of reach, also after some attempts.
        """
        if self._answers is None:
            return await self._pay(question)
        digest = question.digest(self.endpoint, draw)
        found = self._answers.get(digest)
        if found is None:
            async with self._answers.alone(digest):
                found = self._answers.get(digest)  # somebody else may have asked meanwhile
                if found is None:
                    answer = await self._pay(question)
                    self._answers.put(digest, self.endpoint.model, answer)
                    return answer
        self.spent.count(self.endpoint, question, found, kept=True)
        return found

    async def persist(self, question: Question, read: Callable[[str], Read]) -> Read:
        """Ask until an answer can be read, as often as the endpoint's bounds allow.

        Args:
            question: what is asked; its answers have to differ for this to be of use.
            read: makes of the text what is wanted; raises ValueError if it cannot.

        Raises:
            EndpointError: asking for anything is of no use.
            Refused: the endpoint will not talk about this, or never says what can be read.
            Unanswered: it is busy, broken or out of reach.
        """
        for draw in range(self.endpoint.attempts):
            answer = await self.ask(question, draw)
            try:
                if answer.text is None:
                    raise ValueError("an answer without text")
                return read(answer.text)
            except ValueError as error:
                last = str(error)
        raise Refused(f"given up after {self.endpoint.attempts} attempts: {last}")

    async def _pay(self, question: Question) -> Answer:
        held = await self.spent.hold(self.endpoint, question)
        try:
            data = await self._request(question)
        finally:
            self.spent.release(held)
        answer = self._answer(data)
        self.spent.count(self.endpoint, question, answer, kept=False)
        return answer

    async def _request(self, question: Question) -> bytes:
        """Return the bytes of a chat completion."""
        create: Any = self._client.chat.completions.with_raw_response.create
        try:
            response = await create(**question.request(self.endpoint))
        except openai.APIStatusError as error:
            raise self._meaning(error.response) from None
        except openai.APIConnectionError as error:
            cause = error.__cause__ or error
            what = str(cause) or str(error)
            raise self._given_up(f"{type(cause).__name__}: {what}") from None
        return bytes(response.content)

    def _answer(self, data: bytes) -> Answer:
        """Return what a chat completion says.

        Raises:
            Refused: it is none, so that what it says cannot be used.
            Unanswered: it is an error in the clothes of an answer.
        """
        try:
            completion = json.loads(data)
            if isinstance(completion, dict) and completion.get("error"):
                raise self._given_up(f"an error: {completion['error']!r}"[:300])
            choice = completion["choices"][0]
            text = choice["message"]["content"]
        except RecursionError:
            raise Refused("a completion that nests too deep") from None
        except (KeyError, IndexError, TypeError) as error:
            raise Refused(f"no answer in the completion: {printable(repr(error))}") from None
        usage = completion.get("usage")
        usage = usage if isinstance(usage, dict) else {}
        counts = [usage.get(f"{kind}_tokens") for kind in ("prompt", "completion")]
        asked, said = (c if type(c) is int and 0 <= c < 2**40 else None for c in counts)
        finish = printable(str(choice.get("finish_reason") or ""), 40)
        return Answer(text if isinstance(text, str) else None, asked, said, finish)

    def _meaning(self, response: Any) -> Exception:
        """Return the error that a status means."""
        code, url = response.status_code, self.endpoint.url
        body = response.content[:300].decode(errors="replace")
        said = self.endpoint.without_key(f"{code} {response.reason_phrase}: {body}")
        if 300 <= code < 400:
            place = self.endpoint.without_key(response.headers.get("Location", "nowhere"))[:200]
            return EndpointError(
                f"{url} sends its visitors on ({code}) to {place}. Nothing was asked there; if you "
                "trust that address, give it as the url"
            )
        if code in _RETRIED:
            return self._given_up(said)
        if code in _REFUSED:
            return Refused(said)
        return EndpointError(f"{url}: {said}{self._about_key() if code in (401, 403) else ''}")

    def _about_key(self) -> str:
        name = self.endpoint.key_variable
        if not name:
            return ". No key was sent"
        is_set = "that of" if self.endpoint.key else "none, for want of"
        return f". The key was {is_set} the environment variable {name}"

    def _given_up(self, why: str) -> Unanswered:
        why = self.endpoint.without_key(why)
        return Unanswered(f"given up after {self.endpoint.attempts} attempts: {why}")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._client.close()
        if self._answers is not None:
            self._answers.close()


class _Careful(httpx2.AsyncClient):
    """Sends what the client of OpenAI wants sent, and hands it back what can be trusted."""

    def __init__(self, client: Client) -> None:
        self._own, endpoint = client, client.endpoint
        self._deadline = endpoint.timeout
        self._all_headers = endpoint.host == OPENAI
        # A proxy that the environment names is another machine.
        super().__init__(timeout=None, follow_redirects=False, trust_env=not endpoint.is_here)

    async def send(self, request: httpx2.Request, **options: Any) -> httpx2.Response:
        own, task = self._own, asyncio.current_task()
        if own.stop.is_set():
            raise asyncio.CancelledError
        for name in list(request.headers):
            if not self._all_headers and name not in _SENT:
                del request.headers[name]
        request.headers["Accept-Encoding"] = "identity"  # so nothing has to be unpacked
        own.flying.add(task)
        try:
            async with asyncio.timeout(self._deadline):  # for all of it, not for each piece
                response, data = await self._received(request, options)
        except TimeoutError:
            said = f"no whole answer within {self._deadline:g} s"
            raise httpx2.ReadTimeout(said, request=request) from None
        finally:
            own.flying.discard(task)
        if own.stop.is_set() and not response.is_success:
            raise asyncio.CancelledError  # else it would be asked again
        return _checked(request, response, data)

    async def _received(
        self, request: httpx2.Request, options: dict[str, Any]
    ) -> tuple[httpx2.Response, bytes]:
        response = await super().send(request, **(options | {"stream": True}))
        data = bytearray()
        try:
            async for piece in response.aiter_raw():
                data += piece
                if len(data) > MAX_ANSWER:
                    said = f"an answer of more than {MAX_ANSWER >> 20} MB"
                    raise httpx2.ReadError(said, request=request)
        finally:
            await response.aclose()
        return response, bytes(data)


def _checked(request: httpx2.Request, got: httpx2.Response, data: bytes) -> httpx2.Response:
    """Return a response with what is read of it; a page instead of JSON counts as a bad gateway."""
    code = got.status_code
    if got.is_success and not _is_json(data):
        shown = data[:80].decode(errors="replace")
        data, code = f"{code} without a chat completion: {shown}".encode(), 502
    headers = {name: got.headers[name] for name in _READ if name in got.headers}
    return httpx2.Response(code, headers=headers, content=data, request=request)


def _is_json(data: bytes) -> bool:
    try:
        json.loads(data)
    except RecursionError:
        return True  # it is answered, and it will not be better next time
    except ValueError:
        return False
    return True


def work_off(
    endpoint: Endpoint,
    spent: Spent,
    items: Iterable[Item],
    one: Callable[[Client, Item], Awaitable[None]],
) -> None:
    """Do something for each item, several at a time.

    When it ends early (Ctrl-C, an error), what is in flight, and so is paid for, is waited for and
    kept; a second Ctrl-C gives it up.

    Args:
        endpoint: whom to ask; ``parallel`` says how many are asked at once.
        spent: what is counted.
        items: taken one by one.
        one: what to do; an exception ends all.

    Raises:
        Exception: what ``one`` raised first.
    """
    _run_to_its_end(_work_off(endpoint, spent, items, one))


async def _work_off(
    endpoint: Endpoint,
    spent: Spent,
    items: Iterable[Item],
    one: Callable[[Client, Item], Awaitable[None]],
) -> None:
    waiting = iter(items)

    async def in_turn(client: Client) -> None:
        for item in waiting:
            await one(client, item)
            if client.stop.is_set():
                return

    async with Client(endpoint, spent) as client:
        tasks = [asyncio.create_task(in_turn(client)) for _ in range(endpoint.parallel)]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        except asyncio.CancelledError:  # by Ctrl-C
            from faceaffect.progress import (
                console,  # loads a trainer, which nothing else here needs
            )

            console.print("waiting for what is in flight; Ctrl-C again gives it up")
            raise
        finally:
            client.stop.set()
            for task in set(tasks) - client.flying:
                task.cancel()
            await asyncio.wait(tasks)
    for error in [task.exception() for task in tasks if not task.cancelled()]:
        if error is not None:
            raise error


def _run_to_its_end(work: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine; in a notebook, which has a loop of its own, in a thread."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        asyncio.run(work)
        return
    with ThreadPoolExecutor(1) as pool:
        pool.submit(asyncio.run, work).result()
