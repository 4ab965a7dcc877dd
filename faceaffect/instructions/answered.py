"""Answers of endpoints on disk, so that none is paid for twice, whatever becomes of the process."""

import contextlib
import json
import sqlite3
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from filelock import AsyncFileLock

from faceaffect.errors import DataError

FILE = "answers.sqlite"


@dataclass(frozen=True)
class Answer:
    """What an endpoint said.

    Attributes:
        text: None where it said nothing, as safety filters do.
        prompt_tokens: that the server counted, None if it did not.
        answer_tokens: likewise.
        finish: why it ended, such as ``stop`` or ``length``.
    """

    text: str | None
    prompt_tokens: int | None = None
    answer_tokens: int | None = None
    finish: str = ""


class Answers:
    """The answers in a folder. Each is on the disk when :meth:`put` returns.

    It is a database of SQLite, which several processes may use at once and which outlives those
    that are killed. It holds words and hashes, neither pictures nor keys.

    Args:
        folder: made if it is not there.

    Raises:
        DataError: the file is not such a database, or cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._file = folder, folder / FILE
        (folder / "asking").mkdir(parents=True, exist_ok=True)
        with self._told():
            self._db = sqlite3.connect(self._file, timeout=60, isolation_level=None)
            self._db.execute("PRAGMA synchronous = FULL")
            self._db.execute(
                "CREATE TABLE IF NOT EXISTS answers "
                "(question TEXT PRIMARY KEY, model TEXT, answer TEXT, at REAL)"
            )
            self._db.execute("BEGIN IMMEDIATE")  # fails where nothing can be written
            self._db.execute("COMMIT")

    def get(self, question: str) -> Answer | None:
        """Return the answer to a question, by its digest; None if it was not answered yet."""
        with self._told():
            wanted = "SELECT answer FROM answers WHERE question = ?"
            row = self._db.execute(wanted, (question,)).fetchone()
            return None if row is None else Answer(**json.loads(row[0]))

    def put(self, question: str, model: str, answer: Answer) -> None:
        """Keep an answer."""
        row = (question, model, json.dumps(asdict(answer)), time.time())
        with self._told():
            self._db.execute("INSERT OR REPLACE INTO answers VALUES (?, ?, ?, ?)", row)

    def mean_tokens(self, model: str) -> tuple[int, float, float] | None:
        """Return how many answers of a model were counted, and the mean tokens in and out."""
        with self._told():
            wanted = "SELECT answer FROM answers WHERE model = ? ORDER BY at DESC LIMIT 1000"
            rows = self._db.execute(wanted, (model,)).fetchall()
            answers = [Answer(**json.loads(row[0])) for row in rows]
        counts = [
            (a.prompt_tokens, a.answer_tokens)
            for a in answers
            if a.prompt_tokens is not None and a.answer_tokens is not None
        ]
        if not counts:
            return None
        asked, said = (sum(column) / len(counts) for column in zip(*counts, strict=True))
        return len(counts), asked, said

    @asynccontextmanager
    async def alone(self, question: str) -> AsyncIterator[None]:
        """Let nobody else ask a question meanwhile, in this process or another."""
        file = self._folder / "asking" / question
        async with AsyncFileLock(file):
            try:
                yield
            finally:
                with contextlib.suppress(OSError):  # where open files cannot be removed, it stays
                    file.unlink()

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, ValueError, TypeError) as error:
            raise DataError(
                f"{self._file}: the kept answers cannot be used ({error}); move the file away, or "
                "name another folder (cache)"
            ) from None


def opened(folder: Path) -> "closing[Answers]":
    """Open the answers of a folder for a ``with``."""
    return closing(Answers(folder))
