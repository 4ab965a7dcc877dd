"""Reading a user's label table: every cell checked, every error with its line and column."""

import logging
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import NoReturn

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from faceaffect.errors import DataError, suggest

_NAMES = {
    "image": "file", "path": "file", "video": "file", "subject": "subject", "part": "part",
    "split": "part", "expression": "expression", "valence": "valence", "arousal": "arousal",
}  # fmt: skip
_AU = re.compile(r"au0*([1-9]\d*)", re.IGNORECASE)
_PARTS = {
    "train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val",
    "dev": "val", "test": "test", "testing": "test", "": "",
}  # fmt: skip


@dataclass
class Table:
    """A table of text cells under the names that we know.

    Attributes:
        path: the file.
        cells: ``file``, ``subject``, ``part``, ``expression``, ``valence``, ``arousal``, ``AU12``,
            ``attribute/NAME``: those that are there; the index holds line numbers.
        ignored: columns that mean nothing here.
        left_out: reason to count of rows.
    """

    path: Path
    cells: pd.DataFrame
    ignored: list[str]
    left_out: dict[str, int]

    @property
    def au_names(self) -> list[str]:
        """The columns of action units, by ascending number."""
        names = [name for name in map(str, self.cells) if name.startswith("AU")]
        return sorted(names, key=lambda name: int(name.removeprefix("AU")))

    @property
    def attributes(self) -> list[str]:
        """The columns ``attribute/NAME``."""
        return [name for name in map(str, self.cells) if name.startswith("attribute/")]

    def text(self, column: str) -> NDArray[np.str_]:
        """Return the cells of a column, (N,)."""
        return self.cells[column].to_numpy(str)

    def numbers(
        self, column: str, valid: Callable[[NDArray[np.float64]], NDArray[np.bool_]], expected: str
    ) -> NDArray[np.float32]:
        """Return a column of numbers (N,); an empty cell, or one that says nan, is NaN.

        Args:
            column: its name.
            valid: true for each number that may stand there.
            expected: what may stand there, in words.

        Raises:
            DataError: a cell holds something else; its line is named.
        """
        cells = self.cells[column].where(self.cells[column].str.lower() != "nan", "")
        values = pd.to_numeric(cells, errors="coerce").to_numpy(np.float64)
        wrong = (cells != "").to_numpy() & ~valid(values)
        if wrong.any():
            self.fail(int(wrong.argmax()), column, f"expected {expected}, or an empty cell")
        return values.astype(np.float32)

    def classes(
        self, column: str, names: Sequence[str] | None, key: str | None = None
    ) -> tuple[tuple[str, ...], NDArray[np.int64]]:
        """Return the class names of a column and its cells as indices (N,), -1 for an empty cell.

        Args:
            column: its name.
            names: the classes in index order, matched whatever the case of a cell; None takes
                those that occur, in alphabetical order.
            key: the argument that could name them, for the error.

        Raises:
            DataError: a label is no class (its line is named), or two differ in case only.
        """
        cells = self.text(column)
        found = sorted({*cells.tolist()} - {""})
        index = {name.lower(): i for i, name in enumerate(found if names is None else names)}
        if names is None and len(index) < len(found):
            twice = [n for n in found if sum(n.lower() == other.lower() for other in found) > 1]
            way_out = f"; name the classes with {key}" if key else ""
            raise DataError(
                f"{self.path}: column '{column}': {', '.join(twice)} differ in case only{way_out}"
            )
        label = np.array([-1 if not c else index.get(c.lower(), -2) for c in cells], np.int64)
        if (label == -2).any():
            row, known = int((label == -2).argmax()), names or found
            near = suggest(str(cells[row]), known) or "."
            self.fail(row, column, f"is no class{near} Classes: {', '.join(known)}")
        return tuple(found if names is None else names), label

    def fail(self, row: int, column: str, what: str) -> NoReturn:
        """Raise an error that names the line and column of a cell."""
        value = self.cells[column].iloc[row]
        raise DataError(f"{self.path}, line {self.cells.index[row]}, {column}: '{value}' {what}")


def read_table(path: Path) -> Table:
    """Read a table separated by commas, semicolons or tabs, its columns under our names.

    Raises:
        DataError: missing, empty or no table; a column is missing, doubled or misspelt; a file or
            a person is not named; a part is none that we know.
    """
    cells = _read(path)
    names, ignored = _columns(path, list(cells.columns))
    cells = cells[list(names)].rename(columns=names)
    table = Table(path, cells, ignored, {})
    for column in ("file", "subject"):
        if column in cells and (cells[column] == "").any():
            table.fail(int((cells[column] == "").argmax()), column, "is empty")
    if "part" in cells:
        known = cells["part"].str.lower().map(_PARTS)
        if known.isna().any():
            table.fail(int(known.isna().argmax()), "part", "is none of train, val, test")
        cells["part"] = known
    cells["file"] = cells["file"].str.replace("\\", "/")
    double, kept = cells.duplicated(), cells.drop_duplicates()
    conflicting = kept["file"].duplicated(keep=False)
    table.left_out = {
        "duplicate rows": int(double.sum()),
        "conflicting labels": int(kept.loc[conflicting, "file"].nunique()),
    }
    table.cells = kept[~conflicting]
    if ignored:
        logging.getLogger(__name__).warning("%s: columns not used: %s", path, ", ".join(ignored))
    return table


def _read(path: Path) -> pd.DataFrame:
    try:
        with path.open(encoding="utf-8-sig") as file:
            header = file.readline()
        separator = max(",;\t", key=header.count)
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)  # a row with too many cells
            cells = pd.read_csv(
                path,
                sep=separator,
                dtype=str,
                keep_default_na=False,
                skip_blank_lines=False,
                encoding="utf-8-sig",
                index_col=False,
            )
    except FileNotFoundError:
        raise DataError(f"data.table: {path} is missing") from None
    except (ValueError, OSError, pd.errors.ParserWarning) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{path}: not readable as a table: {reason}") from None
    cells = pd.DataFrame({name: cells[name].fillna("").str.strip() for name in cells})
    cells.index = cells.index + 2  # as an editor counts lines
    cells = cells.loc[(cells != "").any(axis=1)]
    if cells.empty:
        raise DataError(f"{path}: the table has no rows")
    return cells


def _columns(path: Path, columns: list[str]) -> tuple[dict[str, str], list[str]]:
    """Return our name of each column of the file that we use, and the other columns."""
    used: dict[str, str] = {}
    ignored: list[str] = []
    for column in columns:
        plain = column.strip().lower()
        au = _AU.fullmatch(plain)
        name = _NAMES.get(plain, plain if plain.startswith("attribute/") else None)
        name = f"AU{au[1]}" if au else name
        if name is None:
            ignored.append(column)
            continue
        if name in used.values():
            first = next(c for c, n in used.items() if n == name)
            raise DataError(f"{path}: the columns '{first}' and '{column}' mean the same")
        used[column] = name
    absent = [known for known, name in _NAMES.items() if name not in used.values()]
    for column in ignored:
        near = get_close_matches(column.strip().lower(), absent, n=1, cutoff=0.8)
        if near:
            raise DataError(f"{path}: unknown column '{column}'; if it is '{near[0]}', name it so")
    if "file" not in used.values():
        raise DataError(
            f"{path}: no column 'image', 'path' or 'video'; the columns are: {', '.join(columns)}"
        )
    return used, ignored


def read_cells(path: Path) -> pd.DataFrame:
    """Return the stripped text cells of any table, whatever its columns, rows counted from 0.

    Raises:
        DataError: it is not readable as a table, or has no rows.
    """
    return _read(path).reset_index(drop=True)
