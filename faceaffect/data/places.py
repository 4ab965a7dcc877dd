"""Where files are that somebody named, with one listing a folder."""

import os
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


@dataclass
class Places:
    """Where N files or folders are.

    Attributes:
        there: (N,) which of them are on the disk.
        name: paths relative to the root, as the disk spells them, if they lie in the root; of those
            that are not there as they were given.
        file: (N,) a number for each file, the same whatever path leads to it; those that are not
            there are told by their names.
    """

    there: NDArray[np.bool_]
    name: list[str]
    file: NDArray[np.int64]


def find_files(root: Path, names: Iterable[str]) -> Places:
    """Return where each of some files or folders is.

    ``./f.jpg``, ``a/../f.jpg``, a link to it and other Unicode forms of its name lead to one file,
    and so does ``f.JPG`` where there is no such file.
    Each folder is listed once.

    Args:
        root: the folder that the names are relative to.
        names: N relative or absolute paths.
    """
    folders: dict[str, _Folder] = {}
    numbers: dict[str | tuple[int, int], int] = {}
    found, file, there = [], [], []
    for name in names:
        path = _native(name)
        cut = path.rfind("/") + 1
        start, end = path[:cut], path[cut:]
        folder = folders.get(start)
        if folder is None:
            folder = folders[start] = _Folder(root, start)
        place = folder.entries.get(end)
        if not place:
            end, place = folder.search(end)
        there.append(place is not None)
        found.append(name if place is None else folder.start + end)
        file.append(numbers.setdefault(name if place is None else place, len(numbers)))
    return Places(np.array(there, bool), found, np.array(file, np.int64))


def _native(name: str) -> str:
    """Return a path with slashes, and the user's home in place of ``~``."""
    if name.startswith("~"):
        name = os.path.expanduser(name)  # noqa: PTH111
    return name if os.sep == "/" else name.replace(os.sep, "/")


def joined(folder: str, names: Iterable[str]) -> list[str]:
    """Return ``os.path.join(folder, name)`` of each name, a million in less than a second."""
    start = os.path.join(folder, "")  # noqa: PTH118
    return [
        os.path.join(folder, name)  # noqa: PTH118
        if name[:1] in "/\\" or ":" in name[:2]
        else start + name
        for name in names
    ]


class _Folder:
    """What a folder holds.

    Attributes:
        start: what stands before a name in it, as a path relative to the root.
        entries: name to device and number of the file; None where more has to be asked.
    """

    def __init__(self, root: Path, start: str) -> None:
        folder = os.path.split(start)[0]
        self.whole, self.start = root / folder, f"{folder.rstrip('/')}/" if folder else ""
        if folder and (Path(folder).is_absolute() or {".", ".."} & set(folder.split("/"))):
            self.start = _inside(Path(os.path.realpath(root)), Path(os.path.realpath(self.whole)))
        self.entries: dict[str, tuple[int, int] | None] = {}
        if self.whole.is_dir():
            device = self.whole.stat().st_dev
            with os.scandir(self.whole) as entries:
                for entry in entries:
                    told = not entry.is_symlink() and entry.inode()
                    self.entries[entry.name] = (device, entry.inode()) if told else None

    @cached_property
    def forms(self) -> dict[str, str]:
        return {_form(name): name for name in self.entries}

    def search(self, name: str) -> tuple[str, tuple[int, int] | None]:
        """Return the name of a file as the disk spells it, and its device and number if it is."""
        name = name if name in self.entries else self.forms.get(_form(name), "")
        if not name or self.entries[name]:
            return name, self.entries.get(name)
        try:
            status = (self.whole / name).stat()
        except OSError:  # a link that leads nowhere
            return name, None
        return name, (status.st_dev, status.st_ino)


def _inside(root: Path, folder: Path) -> str:
    """Return what stands before names in a folder: relative to the root if it lies in it."""
    if folder == root:
        return ""
    path = folder.relative_to(root) if folder.is_relative_to(root) else folder
    return f"{path.as_posix().rstrip('/')}/"


def _form(name: str) -> str:
    """Return the name of a file as other systems may write it: one Unicode form, a small ending."""
    stem, ending = os.path.splitext(unicodedata.normalize("NFC", name))  # noqa: PTH122
    return stem + ending.lower()
