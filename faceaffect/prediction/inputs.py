"""What to look at: pictures, folders, patterns, videos, a camera, tables of paths."""

import glob
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from faceaffect.data.cells import read_cells
from faceaffect.data.video import IMAGE_SUFFIXES
from faceaffect.errors import DataError

PICTURES = (*IMAGE_SUFFIXES, ".jfif", ".jpe", ".j2k", ".pbm", ".pgm", ".ppm")
"""Endings of the files in a folder that are looked at as pictures or animations."""

VIDEOS = (
    ".3gp", ".asf", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg",
    ".mts", ".mxf", ".ogv", ".ts", ".vob", ".webm", ".wmv",
)  # fmt: skip
"""Endings of the files in a folder that are looked at as videos."""

_TABLES = (".csv", ".tsv")
_PATHS = ("input", "image", "path", "file", "video", "filename", "file_name")
CAMERA = "camera:"


@dataclass(frozen=True)
class Input:
    """One thing to look at.

    Attributes:
        name: as it stands in the rows.
        path: the file; of a camera its number.
        camera: whether it is a camera; what a file is shows when it is opened.
    """

    name: str
    path: str
    camera: bool = False


def find_inputs(
    words: Iterable[str | os.PathLike[str]], leave_out: Path | None = None
) -> list[Input]:
    """Return what the words on a command line name, each once, in order.

    Args:
        words: files, folders (searched in depth for pictures and videos), patterns with ``*``,
            ``camera:0``, and tables (``.csv``, ``.tsv``) with a column of paths.
        leave_out: a folder that is passed over where it lies in another.

    Raises:
        DataError: nothing is there, or a folder or table holds nothing to look at.
    """
    found: dict[str, Input] = {}
    for word in words:
        for one in _find(os.fspath(word), leave_out):
            found.setdefault(one.path, one)
    return list(found.values())


def _find(word: str, leave_out: Path | None) -> Sequence[Input]:
    if word.startswith(CAMERA):
        number = word.removeprefix(CAMERA)
        if not number.isdigit():
            raise DataError(f"{word}: a camera has a number, as in {CAMERA}0")
        return [Input(word, number, camera=True)]
    path = Path(word).expanduser()
    try:
        if path.is_dir():
            return _in_folder(path, leave_out)
        if path.suffix.lower() in _TABLES and path.is_file():
            return _in_table(path)
        if path.exists():
            return [Input(word, str(path))]
    except (OSError, ValueError) as error:
        raise DataError(f"{word!r}: no name of a file: {error}") from None
    return _by_pattern(word, path)


def _by_pattern(word: str, path: Path) -> list[Input]:
    if not glob.has_magic(word):
        raise DataError(f"{word}: no such picture, folder, video or table")
    names = sorted(glob.glob(str(path), recursive=True))  # noqa: PTH207
    files = [Path(name) for name in names if Path(name).is_file()]
    if not files:
        raise DataError(f"{word}: no file fits this pattern")
    return [Input(str(file), str(file)) for file in files]


def _in_folder(folder: Path, leave_out: Path | None) -> list[Input]:
    """Return the pictures and videos of a folder; what has another ending is no input."""
    found, other = [], None if leave_out is None else leave_out.resolve()
    for place, folders, files in os.walk(folder):
        own = (name for name in folders if not name.startswith("."))
        folders[:] = sorted(name for name in own if Path(place, name).resolve() != other)
        for name in sorted(files):
            path = Path(place, name)
            if not name.startswith(".") and path.suffix.lower() in (*PICTURES, *VIDEOS):
                found.append(Input(str(path), str(path)))
    if not found:
        raise DataError(
            f"{folder}: no picture or video in this folder; endings that are looked at: "
            f"{', '.join((*PICTURES, *VIDEOS))}"
        )
    return found


def _in_table(table: Path) -> list[Input]:
    """Return what a column of a table names, relative to the table's folder."""
    cells = read_cells(table)
    names = {str(column).strip().lower(): column for column in cells}
    column = next((names[name] for name in _PATHS if name in names), None)
    if column is None:
        raise DataError(
            f"{table}: no column of paths; it may be called {', '.join(_PATHS)}. The columns are: "
            f"{', '.join(map(str, cells))}"
        )
    paths = [(cell, table.parent / cell) for cell in cells[column].str.strip() if cell]
    if not paths:
        raise DataError(f"{table}: its column '{column}' is empty")
    return [Input(cell, str(path)) for cell, path in paths]
