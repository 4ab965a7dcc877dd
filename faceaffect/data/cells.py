"""From a user's file to cells of text: encodings, separators, and rows that do not fit."""

import csv
import re
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO, TextIOWrapper
from itertools import chain
from pathlib import Path
from typing import BinaryIO, NoReturn

import numpy as np
import pandas as pd

from faceaffect.data.formats import HEAD, picture_format
from faceaffect.data.image import open_regular
from faceaffect.errors import DataError

MAX_CELL = 1_000_000
"""Characters in a cell; a quotation mark without its partner swallows the rest of a file."""

MAX_COLUMNS = 10_000
_MAX_LINE = 16_000_000
_BLOCK = 50_000  # rows that are lists of texts before they are packed
_AT_ONCE = _MAX_LINE // 2  # bytes of a table without anything special
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\ufffd]")
_SEPARATOR = re.compile(r'"?sep=(.)"?', re.IGNORECASE)
_SPECIAL = bytes((*range(9), *range(11, 32), 127, ord('"')))
_UTF8 = b"\xef\xbb\xbf"
_SAVE = "save it as 'CSV UTF-8'"

_MARKS = {
    b"\xff\xfe\0\0": "utf-32",
    b"\0\0\xfe\xff": "utf-32",
    b"\xff\xfe": "utf-16",
    b"\xfe\xff": "utf-16",
}
_NO_TABLES = {
    b"PK\3\4": "an Excel workbook or another archive",
    b"\xd0\xcf\x11\xe0": "an old Excel workbook",
    b"PAR1": "a Parquet file",
    b"\x1f\x8b": "compressed",
    b"%PDF": "a PDF",
    b"SQLite format 3": "a database",
}


def read_cells(path: Path) -> pd.DataFrame:
    """Read a table whose cells are separated by commas, semicolons or tabs.

    UTF-8 is read, and UTF-16 with its mark; a first line ``sep=;`` names the separator. Cells lose
    the blanks around them; empty lines are passed over.

    Returns:
        A column of text for each of the file's, under its own name; the index holds line numbers,
        as an editor counts them.

    Raises:
        DataError: missing, empty, no table, too long or too wide, a line break inside of a cell, a
            row with too few or too many cells, or a column or the header twice; the line is named.
    """
    table = _at_once(path)
    if table is None:
        table = _one_by_one(path)
    empty = [not name and bool((table.iloc[:, i] == "").all()) for i, name in enumerate(table)]
    return table.iloc[:, [i for i, nothing in enumerate(empty) if not nothing]]


def _at_once(path: Path) -> pd.DataFrame | None:
    """Return the cells of a table that has nothing special in it, None of any other.

    Most have not, and pandas reads them in a third of the time: nothing is quoted, no letter lost,
    all rows have the cells of the header. Whatever is not so is left to :func:`_one_by_one`.
    """
    try:
        file = open_regular(path)
    except DataError:
        return None
    with file:
        if _no_table(file.read(HEAD)):
            return None
        file.seek(0)
        first = file.readline(MAX_CELL).replace(b"\r\n", b"\n")
        if not _nothing_special(first):
            return None
        text = first.decode().lstrip("\ufeff").removesuffix("\n")
        if not text.strip(" ,;\t") or _SEPARATOR.fullmatch(text.strip(" ")):
            return None
        separator = max(",;\t", key=text.count)
        header = _header(path, 1, [name.strip() for name in text.split(separator)])
        blocks, line = [], 2
        while block := file.read(_AT_ONCE):
            block = (block + file.readline(_AT_ONCE)).replace(b"\r\n", b"\n")
            if not block.endswith(b"\n") and not file.read(1):
                block += b"\n"
            if block.strip(b"\n"):
                cells = _block(block, separator, header, line)
                if cells is None:
                    return None
                blocks.append(cells)
            line += block.count(b"\n")
    table = pd.concat(blocks) if blocks else pd.DataFrame()
    return table if len(table) else None


def _nothing_special(data: bytes) -> bool:
    """Return whether whole lines hold no quotation mark, control character or damaged letter."""
    special = len(data.translate(None, _SPECIAL)) < len(data) or b"\xef\xbf\xbd" in data
    if special or not data.endswith(b"\n"):
        return False
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _block(data: bytes, separator: str, header: list[str], line: int) -> pd.DataFrame | None:
    """Return the cells of some lines, None if there is anything special about them.

    Args:
        data: the lines.
        separator: of cells.
        header: names of the columns.
        line: number of the first line.
    """
    if not _nothing_special(data) or data.startswith(_UTF8):  # which pandas would swallow
        return None
    data = data.rstrip(b"\n") + b"\n"  # empty lines often end a table
    letters, comma = np.frombuffer(data, np.uint8), ord(separator)
    ends = np.flatnonzero((letters == comma) | (letters == ord("\n")))
    expected = np.array([comma] * (len(header) - 1) + [ord("\n")], np.uint8)
    if len(ends) % len(header) or (letters[ends].reshape(-1, len(header)) != expected).any():
        return None
    starts = np.append(0, ends[:-1] + 1)
    if (ends - starts).max() > MAX_CELL:
        return None
    cells = pd.read_csv(
        BytesIO(data), sep=separator, header=None, names=range(len(header)), index_col=False,
        dtype=str, na_filter=False, quoting=csv.QUOTE_NONE, skip_blank_lines=False,
    )  # fmt: skip
    blank = np.arange(256) >= 128  # at the edge of a cell it may be a blank of another script
    blank[[ord(" "), ord("\t")]] = True
    blank[comma] = False
    edges = (blank[letters[starts]] | blank[letters[ends - 1]]).reshape(-1, len(header))
    for column in np.flatnonzero(edges.any(0)).tolist():
        cells[column] = cells[column].map(str.strip)
    again = np.flatnonzero(cells[0] == header[0])
    if (cells.iloc[again] == header).all(axis=1).any():
        return None
    cells.columns, cells.index = pd.Index(header), pd.RangeIndex(line, line + len(cells))
    nothing = np.flatnonzero(cells.iloc[:, 0] == "")
    nothing = nothing[(cells.iloc[nothing] == "").all(axis=1)]
    return cells.drop(cells.index[nothing]) if len(nothing) else cells


def _one_by_one(path: Path) -> pd.DataFrame:
    """Return the cells of a table, whatever is in it; see :func:`read_cells`."""
    numbers: list[int] = []
    rows: list[list[str]] = []
    blocks: list[pd.DataFrame] = []
    header: list[str] = []
    for number, row in _rows(path):
        cells = [cell.strip() for cell in row]
        if not any(cells):
            continue
        if not header:
            header = _header(path, number, cells)
            continue
        if len(cells) != len(header):
            how = "few" if len(cells) < len(header) else "many"
            alone = f" ('{shown(header[0])}')" if len(header) == 1 else ""
            has = f"{len(cells)}, and the header has {len(header)}{alone}"
            _fail(path, number, f"too {how} cells: {has}")
        if cells == header:
            _fail(path, number, "the header for the second time: two tables put together?")
        numbers.append(number)
        rows.append(cells)
        if len(rows) == _BLOCK:
            blocks.append(pd.DataFrame(rows, columns=header, index=numbers, dtype=str))
            numbers, rows = [], []
    if not rows and not blocks:
        what = "the table has no rows" if header else "the table is empty"
        raise DataError(f"{path}: {what}")
    if rows:
        blocks.append(pd.DataFrame(rows, columns=header, index=numbers, dtype=str))
    return pd.concat(blocks)


def shown(text: str) -> str:
    """Return a text as an error shows it: printable, and not longer than a line."""
    printable = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text[:61])
    return f"{printable[:60]}..." if len(text) > 60 else printable


def _header(path: Path, number: int, names: list[str]) -> list[str]:
    if len(names) > MAX_COLUMNS:
        _fail(path, number, f"{len(names):,} columns, more than the {MAX_COLUMNS:,} that are read")
    seen: set[str] = set()
    for name in names:
        if name and name in seen:
            _fail(path, number, f"the column '{shown(name)}' is there twice")
        seen.add(name)
    return names


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield the number of a row's line and its cells."""
    lines = _lines(path)
    first = next((pair for pair in lines if pair[1].strip(" ,;\t\r\n")), None)
    if first is None:
        return
    named = _SEPARATOR.fullmatch(first[1].strip("\r\n "))
    if named is None:
        separator, read = max(",;\t", key=first[1].count), [first[0] - 1]
        lines = chain([first], lines)
    else:
        separator, read = named[1], [first[0]]

    def count() -> Iterator[str]:
        for read[0], line in lines:
            yield line

    with _long_cells():
        reader = csv.reader(count(), delimiter=separator, strict=True, skipinitialspace=True)
        while True:
            start = read[0] + 1
            try:
                row = next(reader, None)
            except csv.Error as error:
                long = "field limit" in str(error)
                reason = f"a cell of more than {MAX_CELL:,} characters" if long else str(error)
                _fail(path, start, f"{reason}; is a quotation mark without its partner?")
            if row is None:
                return
            if read[0] > start:
                _fail(path, start, "a line break inside of a cell, or a quotation mark without its "
                      "partner")  # fmt: skip
            if _CONTROL.search("".join(row)):
                bad = next(cell for cell in row if _CONTROL.search(cell))
                lost = "a letter that was lost when the file was saved" if "\ufffd" in bad else ""
                _fail(path, start, f"{lost or 'a control character'} in the cell '{shown(bad)}'")
            yield start, row


@contextmanager
def _long_cells() -> Iterator[None]:
    before = csv.field_size_limit(MAX_CELL)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield number and text of each line, its end included."""
    if path.is_dir():
        raise DataError(_folder(path))
    try:
        file = open_regular(path)
    except DataError as error:
        if not path.exists():
            raise DataError(
                f"data.table: {path} is missing; a relative path counts from {Path.cwd()}, "
                "where the command was started, or from data.root"
            ) from None
        raise error from None
    with file:
        head = file.read(HEAD)
        file.seek(0)
        encoding = next((code for mark, code in _MARKS.items() if head.startswith(mark)), None)
        what = _no_table(head) if encoding is None else None
        if what:
            raise DataError(f"{path}: not readable as a table: it is {what}; {_SAVE}")
        yield from _utf8(path, file) if encoding is None else _marked(path, file, encoding)


def _no_table(head: bytes) -> str | None:
    """Return what a file is that begins so, None if it may be text."""
    what = next((what for mark, what in _NO_TABLES.items() if head.startswith(mark)), None)
    picture = picture_format(head)
    unmarked = "no text, or UTF-16 unmarked" if b"\0" in head else None
    return what or (f"a {picture} picture" if picture else unmarked)


def _utf8(path: Path, file: BinaryIO) -> Iterator[tuple[int, str]]:
    number = 0
    while line := file.readline(_MAX_LINE + 1):
        try:
            text = line.decode("utf-8").lstrip("\ufeff") if number == 0 else line.decode("utf-8")
        except UnicodeDecodeError as error:
            near = (
                line[max(0, error.start - 20) : error.start + 20]
                .decode("cp1252", "replace")
                .strip()
            )
            _fail(path, number + 1, f"not UTF-8 at '{shown(near)}': {_SAVE}")
        if len(line) > _MAX_LINE:
            _fail(path, number + 1, f"a line of more than {_MAX_LINE:,} bytes")
        text = text.replace("\r\n", "\n").replace("\r", "\n")  # a Mac's old line ends
        for part in text.splitlines(keepends=True) if text.count("\n") > 1 else [text]:
            number += 1
            yield number, part


def _marked(path: Path, file: BinaryIO, encoding: str) -> Iterator[tuple[int, str]]:
    number = 0
    with TextIOWrapper(file, encoding=encoding) as text:
        try:
            while line := text.readline(_MAX_LINE + 1):
                number += 1
                if len(line) > _MAX_LINE:
                    _fail(path, number, f"a line of more than {_MAX_LINE:,} characters")
                yield number, line
        except UnicodeError:
            _fail(path, number + 1, f"damaged {encoding.upper()}: {_SAVE}")


def _folder(path: Path) -> str:
    """Return what to do with a folder that was given as a table."""
    inside = sorted(entry.name for entry in path.iterdir() if entry.is_dir())
    tables = sorted(entry.name for entry in path.iterdir() if entry.suffix == ".csv")
    if tables:
        return f"data.table: {path} is a folder; name the table in it, such as {path / tables[0]}"
    classes = f" (of {', '.join(inside[:3])}, ...)" if inside else ""
    return (
        f"data.table: {path} is a folder{classes}, and a table is needed, with a line such as "
        f"'{inside[0] if inside else 'happiness'}/001.jpg,{inside[0] if inside else 'happiness'}' "
        "below 'image,expression' for each picture; for a folder of class folders take "
        f"data.name=folder data.root={path}"
    )


def _fail(path: Path, line: int, what: str) -> NoReturn:
    raise DataError(f"{path}, line {line}: {what}")
