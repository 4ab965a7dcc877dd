"""What files hold, in sixteen bytes each: read once, then kept by path, size and time."""

import hashlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from stat import S_ISREG
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from rich.progress import track

from faceaffect.files import replacing

NOTHING = np.zeros(1, "V16")[0]
"""The hash of what cannot be read."""

FEW = 10_000
"""Below so many files nothing is kept on disk and no bar is shown: reading them takes a second."""

_TAIL = 4096
_TOGETHER = 256  # files that a thread takes at a time
_THREADS = 16  # a slow disk answers several at once
_YOUNG = 2_000_000_000  # ns; a file changed so lately may change again within one tick of its disk
_BINARY = os.O_RDONLY | getattr(os, "O_BINARY", 0)
_ENTRY = np.dtype([("path", "u8"), ("status", "i8", 3), ("tail", "V16"), ("whole", "V16")])

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

    Hashes are kept in the folder :func:`cache_folder`, by path, size and times of the file, in one
    file for all files of a folder, so that the next command reads only what is new or has changed.

    Args:
        paths: the files, absolute, each once.

    Attributes:
        size: (N,) bytes; 0 for one that is missing or no regular file.
    """

    def __init__(self, paths: Sequence[str]) -> None:
        self.paths = paths
        self._kept = _kept_file(paths) if len(paths) >= FEW else None
        found = np.zeros(len(paths), _ENTRY)
        found["status"] = _each(_statuses, paths, "looking at files")
        self.size: NDArray[np.int64] = found["status"][:, 0].copy()
        self._found = found
        self._settled = time.time_ns() - found["status"][:, 1:].max(1, initial=0) > _YOUNG
        if self._kept is not None:
            found["path"] = _numbers_of(paths)
            _recall(found, _load(self._kept))

    def tails(self, rows: NDArray[np.int64]) -> NDArray[np.void]:
        """Return the hash of the last 4 KB of files (R,); zeros for an unreadable one."""
        return self._read(rows, "tail", lambda path: _tail(path), "comparing files")

    def wholes(self, rows: NDArray[np.int64]) -> NDArray[np.void]:
        """Return the hash of the whole of files (R,); zeros for an unreadable one."""
        small = rows[self.size[rows] <= _TAIL]
        self._found["whole"][small] = self.tails(small)
        return self._read(rows, "whole", _whole, "comparing files whose ends agree")

    def _read(
        self, rows: NDArray[np.int64], name: str, read: Callable[[str], bytes], what: str
    ) -> NDArray[np.void]:
        known = self._found[name]
        missing = rows[known[rows] == NOTHING]
        if len(missing):
            paths = [self.paths[row] for row in missing.tolist()]
            known[missing] = _each(lambda part: _hashes(read, part), paths, what)
            self._keep()
        hashes: NDArray[np.void] = known[rows]
        return hashes

    def _keep(self) -> None:
        """Write what is known; where it cannot be, the next command reads the files again."""
        if self._kept is None:
            return
        ours = self._found[self._settled & (self._found["tail"] != NOTHING)]
        kept = _load(self._kept)
        others = kept[~np.isin(kept["path"], self._found["path"])]
        table = np.concatenate([ours, others])
        with suppress(OSError):
            self._kept.parent.mkdir(parents=True, exist_ok=True)
            with replacing(self._kept, alone=False) as part, part.open("wb") as file:
                np.save(file, table[np.argsort(table["path"])])


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
    for start in range(0, len(paths), FEW):
        text = "\0".join([*paths[start : start + FEW], ""])
        digest.update(text.encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def _kept_file(paths: Sequence[str]) -> Path:
    """Return where the fingerprints of files of one folder are kept."""
    try:
        folder = os.path.commonpath([min(paths), max(paths)])
    except ValueError:  # on two drives
        folder = ""
    return cache_folder() / f"{_name([folder])}.npy"


def _numbers_of(paths: Sequence[str]) -> NDArray[np.uint64]:
    """Return a number for each path (N,); should two share one, size and times tell them apart."""
    names = [path.encode("utf-8", "surrogatepass") for path in paths]
    return pd.util.hash_array(np.array(names, object), categorize=False)


def _load(file: Path) -> NDArray[Any]:
    """Return what is kept, in the order of ``path``; nothing if it is not there, or damaged."""
    try:
        table = np.load(file)
    except (OSError, ValueError, EOFError):
        return np.zeros(0, _ENTRY)
    fits: bool = table.dtype == _ENTRY and table.ndim == 1
    return table if fits else np.zeros(0, _ENTRY)


def _recall(found: NDArray[Any], kept: NDArray[Any]) -> None:
    """Take over the hashes of files that are as they were."""
    if not len(kept):
        return
    place = np.searchsorted(kept["path"], found["path"]).clip(max=len(kept) - 1)
    same = kept["path"][place] == found["path"]
    same &= (kept["status"][place] == found["status"]).all(1)
    for name in ("tail", "whole"):
        found[name][same] = kept[name][place[same]]


def _each(
    read: Callable[[Sequence[str]], NDArray[Any]], paths: Sequence[str], what: str
) -> NDArray[Any]:
    """Return what is read of each path, in order, by several threads."""
    parts = [paths[i : i + _TOGETHER] for i in range(0, len(paths), _TOGETHER)]
    with ThreadPoolExecutor(_THREADS) as pool:
        done = pool.map(read, parts)
        shown = track(done, what, len(parts), transient=True, disable=len(paths) < FEW)
        return np.concatenate([read([]), *shown])


def _statuses(paths: Sequence[str]) -> NDArray[np.int64]:
    return np.array([_status(path) for path in paths], np.int64).reshape(-1, 3)


def _hashes(read: Callable[[str], bytes], paths: Sequence[str]) -> NDArray[np.void]:
    return np.frombuffer(b"".join(map(read, paths)), "V16")


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
        file = os.open(path, _BINARY)  # half the time of a file object
    except OSError:
        return bytes(16)
    try:
        end = os.lseek(file, 0, os.SEEK_END)
        os.lseek(file, max(0, end - _TAIL), os.SEEK_SET)
        return hashlib.blake2b(os.read(file, _TAIL), digest_size=16).digest()
    except OSError:
        return bytes(16)
    finally:
        os.close(file)


def _whole(path: str) -> bytes:
    try:
        with open(path, "rb") as file:  # noqa: PTH123
            return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).digest()
    except OSError:
        return bytes(16)
