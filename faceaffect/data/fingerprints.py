"""What files hold, in sixteen bytes each: read once, then kept by path, size and time."""

import hashlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from stat import S_ISREG
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from rich.progress import track

from faceaffect.files import replacing

Found = TypeVar("Found")

NOTHING = np.zeros(1, "V16")[0]
"""The hash of what cannot be read."""

FEW = 10_000
"""Below so many files nothing is kept on disk and no bar is shown: reading them takes a second."""

_TAIL = 4096
_TOGETHER = 256  # files that a thread takes at a time
_THREADS = 16  # a slow disk answers several at once
_YOUNG = 2_000_000_000  # ns; a file changed so lately may change again within one tick of its disk
_ENTRY = np.dtype([("key", "V16"), ("tail", "V16"), ("whole", "V16")])


_searched: dict[str, "Fingerprints"] | None = None


@contextmanager
def one_search() -> Iterator[None]:
    """Look at each file once within this block: a command that builds its data several times."""
    global _searched
    before = _searched
    _searched = {} if before is None else before
    try:
        yield
    finally:
        _searched = before


class Fingerprints:
    """Sizes of N files, and hashes of their contents, which are read when they are asked for.

    Hashes are kept in the folder :func:`cache_folder`, by path, size and times of the file, so that
    the next command reads only what is new or has changed.

    Args:
        paths: the files, absolute, each once.

    Attributes:
        size: (N,) bytes; 0 for one that is missing or no regular file.
    """

    def __init__(self, paths: Sequence[str]) -> None:
        self.paths = paths
        stats = np.array(list(_each(_status, paths, "looking at files")), "i8,i8,i8")
        self.size: NDArray[np.int64] = stats["f0"]
        changed = np.maximum(stats["f1"], stats["f2"])
        self._settled = time.time_ns() - changed > _YOUNG
        keys = map(_key, paths, stats.tolist())
        self._key: NDArray[np.void] = np.frombuffer(b"".join(keys), "V16")
        self._file = cache_folder() / f"{_name(paths)}.npy" if len(paths) >= FEW else None
        kept = _kept(self._file, self._key)
        self._tail, self._whole = kept["tail"].copy(), kept["whole"].copy()

    def tails(self, rows: NDArray[np.int64]) -> NDArray[np.void]:
        """Return the hash of the last 4 KB of files (R,); zeros for an unreadable one."""
        return self._read(rows, self._tail, _tail, "comparing files")

    def wholes(self, rows: NDArray[np.int64]) -> NDArray[np.void]:
        """Return the hash of the whole of files (R,); zeros for an unreadable one."""
        small = rows[self.size[rows] <= _TAIL]
        self._whole[small] = self.tails(small)
        return self._read(rows, self._whole, _whole, "comparing files whose ends agree")

    def _read(
        self, rows: NDArray[np.int64], known: NDArray[np.void], read: Callable[[str], bytes],
        what: str,
    ) -> NDArray[np.void]:  # fmt: skip
        missing = rows[known[rows] == NOTHING]
        if len(missing):
            found = _each(read, [self.paths[row] for row in missing.tolist()], what)
            known[missing] = np.frombuffer(b"".join(found), "V16")
            self._keep()
        return known[rows]

    def _keep(self) -> None:
        """Write what is known; where it cannot be, the next command reads the files again."""
        if self._file is None:
            return
        rows = self._settled & (self._tail != NOTHING)
        table = np.empty(int(rows.sum()), _ENTRY)
        for name, values in (("key", self._key), ("tail", self._tail), ("whole", self._whole)):
            table[name] = values[rows]
        with suppress(OSError):
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with replacing(self._file, alone=False) as part, part.open("wb") as file:
                np.save(file, table)


def fingerprints(paths: Sequence[str]) -> Fingerprints:
    """Return the fingerprints of files; within :func:`one_search` they are made once."""
    if _searched is None:
        return Fingerprints(paths)
    name = _name(paths)
    if name not in _searched:
        _searched[name] = Fingerprints(paths)
    return _searched[name]


def cache_folder() -> Path:
    """Return where fingerprints are kept: in ``FACEAFFECT_CACHE``, else in the user's cache."""
    named = os.environ.get("FACEAFFECT_CACHE")
    if named:
        return Path(named) / "fingerprints"
    user = os.environ.get("XDG_CACHE_HOME") or os.environ.get("LOCALAPPDATA")
    return (Path(user) if user else Path("~/.cache").expanduser()) / "faceaffect" / "fingerprints"


def _name(paths: Sequence[str]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for path in paths:
        digest.update(path.encode("utf-8", "surrogatepass") + b"\0")
    return digest.hexdigest()


def _kept(file: Path | None, key: NDArray[np.void]) -> NDArray[np.void]:
    """Return what is kept of some keys, zeros where nothing is."""
    found = np.zeros(len(key), _ENTRY)
    try:
        table = np.load(file) if file is not None else found[:0]
    except (OSError, ValueError, EOFError):  # not there, or damaged: the files are read again
        return found
    if table.dtype == _ENTRY:
        place = {name: row for row, name in enumerate(table["key"].tolist())}
        rows = np.array([place.get(name, -1) for name in key.tolist()], np.int64)
        found[rows >= 0] = table[rows[rows >= 0]]
    return found


def _each(read: Callable[[str], Found], paths: Sequence[str], what: str) -> Iterator[Found]:
    """Yield what is read of each path, in order, by several threads."""
    parts = [paths[i : i + _TOGETHER] for i in range(0, len(paths), _TOGETHER)]
    with ThreadPoolExecutor(_THREADS) as pool:
        done = pool.map(lambda part: [read(path) for path in part], parts)
        for part in track(done, what, len(parts), transient=True, disable=len(paths) < FEW):
            yield from part


def _key(path: str, status: tuple[int, int, int]) -> bytes:
    text = f"{path}\0{status}".encode("utf-8", "surrogatepass")
    return hashlib.blake2b(text, digest_size=16).digest()


def _status(path: str) -> tuple[int, int, int]:
    try:
        stat = os.stat(path)  # noqa: PTH116  # a Path for each of a million costs as much as this
    except (OSError, ValueError):
        return 0, 0, 0
    regular = S_ISREG(stat.st_mode)
    return (stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns) if regular else (0, 0, 0)


def _tail(path: str) -> bytes:
    """Return a hash of the end of a file; zeros if unreadable, which reading reports later."""
    try:
        with open(path, "rb", buffering=0) as file:  # noqa: PTH123
            end = file.seek(0, os.SEEK_END)
            file.seek(max(0, end - _TAIL))
            return hashlib.blake2b(file.read(_TAIL) or b"", digest_size=16).digest()
    except OSError:
        return bytes(16)


def _whole(path: str) -> bytes:
    try:
        with open(path, "rb") as file:  # noqa: PTH123
            return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).digest()
    except OSError:
        return bytes(16)
