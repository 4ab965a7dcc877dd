"""Files that are there whole or not at all, and files that grow by whole lines."""

import json
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from filelock import FileLock, Timeout

from faceaffect.errors import DataError

Record = TypeVar("Record")


def entries(folder: Path) -> list[Path]:
    """Return what lies in a folder, in order, but hidden files.

    Systems leave these beside the real ones, such as ``._1.jpg`` of macOS on a foreign disk.
    """
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


@contextmanager
def replacing(path: Path, *, alone: bool = True) -> Iterator[Path]:
    """Yield a file beside a path, to write to; it takes the path's place if nothing goes wrong.

    So what is at the path is there whole or not at all.

    Args:
        path: the file that is wanted.
        alone: nobody else writes it, so that what a killed process left is written over; else each
            writer has a file of its own, and the last one wins.
    """
    own = "" if alone else f".{os.getpid()}-{threading.get_ident()}"
    part = path.with_name(f"{path.name}{own}.part")
    try:
        yield part
        os.replace(part, path)  # noqa: PTH105
    finally:
        part.unlink(missing_ok=True)


def write_atomically(path: Path, text: str) -> None:
    """Write a text file so that it is either there whole or not at all."""
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8")


def write_together(folder: Path, texts: Mapping[str, str]) -> None:
    """Write text files that belong together: all are there, or none if one cannot be written.

    Args:
        folder: that exists; where nothing could be written, and nothing else is in it, it goes.
        texts: by name of the file, in the order of their moves into place: programs that wait for
            the last one find the others there.
    """
    try:
        with ExitStack() as moves:
            for name, text in reversed(list(texts.items())):  # left in reverse
                moves.enter_context(replacing(folder / name)).write_text(text, encoding="utf-8")
    except OSError:
        with suppress(OSError):
            folder.rmdir()
        raise


def read_json(text: str | bytes) -> Any:
    """Return a JSON value.

    Raises:
        ValueError: it is none, or it nests deeper than Python can follow.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it nests too deep") from None


class Lines(Generic[Record]):
    """A file of JSON lines that one process at a time adds to, and that a crash leaves readable.

    Opening it reads what is there. A last line without its end is kept if it is whole, and else cut
    off; nothing is changed before every line is known to be ours. Use it in a ``with``.

    Args:
        path: the file; made with its first line, if it is not there.
        parse: makes a record of a line's JSON value; raises ValueError, KeyError or TypeError for a
            value that is not ours.
        start: how each of our lines begins.

    Attributes:
        records: what the file held when it was opened.

    Raises:
        DataError: another process writes it, it is no regular file, or a line is not ours.
    """

    def __init__(self, path: Path, parse: Callable[[Any], Record], start: str) -> None:
        if path.exists() and not path.is_file():
            raise DataError(f"{path}: not a regular file")
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(path.with_name(f".{path.name}.lock"), thread_local=False)
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise DataError(
                f"{path}: another process writes this file; wait for its end, or name another file"
            ) from None
        try:
            data = path.read_bytes() if path.exists() else b""
            self.records, self._end = _read(path, data, parse, start.encode())
            if self._end < len(data):
                os.truncate(path, self._end)
            if self._end and data[self._end - 1] != ord("\n"):
                self._write(b"\n")
        except BaseException:
            self._lock.release()
            raise

    def append(self, record: dict[str, Any]) -> None:
        """Add a line, which is on the disk when this returns, or not at all.

        Raises:
            OSError: the disk is full, or the file cannot be written or was removed.
            DataError: somebody else changed it.
        """
        self._write(json.dumps(record, ensure_ascii=False).encode() + b"\n")

    def _write(self, data: bytes) -> None:
        rest = memoryview(data)
        with self._path.open("r+b" if self._end else "ab", buffering=0) as file:
            if file.seek(0, os.SEEK_END) != self._end:
                raise DataError(f"{self._path}: somebody else changed it while it was written")
            try:
                while rest:
                    rest = rest[file.write(rest) or 0 :]
                os.fsync(file.fileno())
            except OSError:
                file.truncate(self._end)  # else another line would begin amid this one
                raise
        self._end += len(data)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._lock.release()


def _read(
    path: Path, data: bytes, parse: Callable[[Any], Record], start: bytes
) -> tuple[list[Record], int]:
    """Return the records of a file, and its length without a torn last line."""
    lines = data.split(b"\n")
    records: list[Record] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            records.append(parse(read_json(line)))
        except (ValueError, KeyError, TypeError) as error:
            torn = number == len(lines) and (records or start.startswith(line[: len(start)]))
            if not torn:
                raise DataError(
                    f"{path}:{number}: not a line of ours ({error}); the file is left as it is: "
                    "name another, or move it away"
                ) from None
            return records, len(data) - len(line)
    return records, len(data)
