"""A user's label table under our names: every cell checked, every error with its line."""

import logging
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from faceaffect.data.cells import read_cells, shown
from faceaffect.data.columns import our_columns
from faceaffect.data.names import alike, expression_name, is_unknown, plain, sorted_unique
from faceaffect.errors import DataError, RecipeError, suggest
from faceaffect.schema import CLASS_TASKS

PARTS = {
    "train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val",
    "dev": "val", "test": "test", "testing": "test", "": "",
}  # fmt: skip
_NAMED = ("subject", "part", *CLASS_TASKS)
_OFTEN_UNKNOWN = (9, 77, 88, 99, 255, 777, 888, 999)
# A spreadsheet shows long numbers so, and saves what it shows: many people become one.
_SHORTENED = re.compile(r"-?\d([.,]\d+)?[Ee]\+?\d+")


def parts_of(names: Iterable[str]) -> dict[str, str]:
    """Return the part that each of some names stands for, an empty one where it stands for none.

    Where there is nothing to test, the validation part is tested, and validation people are carved
    out of training.

    >>> parts_of(["Train", "valid"]), parts_of(["train", "dev", "test"])
    ({'Train': 'train', 'valid': 'test'}, {'train': 'train', 'dev': 'val', 'test': 'test'})
    """
    parts = {name: PARTS.get(name.lower(), "") for name in names}
    if "test" in parts.values():
        return parts
    return {name: "test" if part == "val" else part for name, part in parts.items()}


@dataclass
class Table:
    """A table of text cells under the names that we know.

    Attributes:
        path: the file.
        cells: ``file``, ``subject``, ``part``, ``expression``, ``valence``, ``arousal``, ``AU12``
            (of 0 and 1, or of intensities), ``attribute/NAME``: those that are there; the index
            holds line numbers. A cell that stands for an unknown name is empty.
        ignored: columns that mean nothing here.
        unknown: codes that stand for an unknown label, besides the words that always do.
        synonyms: names that mean the same expression are one, see :func:`.names.expression_name`.
        renamed: what expressions were called in the table, to what they are called here.
    """

    path: Path
    cells: pd.DataFrame
    ignored: list[str]
    unknown: Sequence[Any] = ()
    synonyms: bool = True
    renamed: dict[str, str] = field(default_factory=dict)

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
        """Return a column of numbers (N,); a cell that stands for an unknown one is NaN.

        A code for unknown that is a number of the column, such as -1 in valence, is that number.

        Args:
            column: its name.
            valid: true for each number that may stand there.
            expected: what may stand there, in words.

        Raises:
            DataError: a cell holds something else; its line is named.
        """
        cells = self.cells[column]
        values = _numbers(cells)
        wrong = ~valid(values)
        for row in np.flatnonzero(wrong).tolist():
            cell = plain(cells.iloc[row])
            if not is_unknown(cell, self.unknown):
                hint = ""
                if re.fullmatch(r"-?[0-9]+", cell):
                    hint = f"; data.unknown=[{cell}] if it stands for an unknown label"
                self.fail(row, column, f"expected {expected}, or an empty cell{hint}")
        return np.where(wrong, np.nan, values).astype(np.float32)

    def classes(
        self, column: str, names: Sequence[str] | None, key: str | None = None
    ) -> tuple[tuple[str, ...], NDArray[np.int64]]:
        """Return the class names of a column and its cells as indices (N,), -1 for an empty cell.

        Args:
            column: its name.
            names: the classes in index order, matched whatever the case of a cell; None takes
                those that occur, in alphabetical order.
            key: the argument that could name them, if there is one, for the error.

        Raises:
            DataError: a label is no class (its line is named), or two differ in case only, or one
                looks like a code for an unknown label.
            RecipeError: two of the names are one class.
        """
        cells = self.text(column)
        if self.synonyms and column in CLASS_TASKS:
            once, cell = sorted_unique(cells)
            meant = {cell: expression_name(cell) for cell in once.tolist() if cell}
            self.renamed |= {cell: name for cell, name in meant.items() if cell != name}
            cells = np.array([meant.get(cell, "") for cell in once.tolist()], str)[cell]
            names = None if names is None else _one_name_each(names, str(key))
        if names is None:
            names = sorted({*cells.tolist()} - {""})
            self._refuse_alike(column, names, key)
            self._refuse_codes(column, names, key)
        index = {name.lower(): i for i, name in enumerate(names)}
        once, cell = sorted_unique(cells)
        label = np.array([-1 if not c else index.get(c.lower(), -2) for c in once], np.int64)[cell]
        if (label == -2).any():
            row = int((label == -2).argmax())
            near = suggest(str(cells[row]), names) or "."
            self.fail(row, column, f"is no class{near} Classes: {', '.join(names)}")
        return tuple(names), label

    def _refuse_alike(self, column: str, names: Sequence[str], key: str | None) -> None:
        twice = alike(names)
        if twice:
            raise DataError(
                f"{self.path}: column '{column}': {', '.join(twice[0])} differ in case or leading "
                f"zeros only; spell them alike{f', or name the classes with {key}' if key else ''}"
            )

    def _refuse_codes(self, column: str, names: Sequence[str], key: str | None) -> None:
        """Refuse a class that is rather a code for an unknown label: -1, or 999 beside 0 to 6."""
        numbers = {int(name): name for name in names if re.fullmatch(r"-?\d{1,9}", name)}
        for code in _codes(set(numbers)):
            row = [plain(cell) for cell in self.text(column)].index(numbers[code])
            self.fail(
                row,
                column,
                f"is it a class? data.unknown=[{code}] says that it stands for an unknown label, "
                f"{key or 'a letter before it'} that it is one",
            )

    def check_people(self) -> None:
        """Refuse a person who is none: a code for an unknown one, or a shortened number.

        Raises:
            DataError: there is one; the line is named.
        """
        names = self.cells["subject"].unique().tolist()
        for name in names:
            if _SHORTENED.fullmatch(name):
                self.fail(
                    self._first(name),
                    "subject",
                    "is a number that a spreadsheet shortened, so that many people may be one: "
                    "format the column as text and save again",
                )
        numbers = {int(name): name for name in {*names} if re.fullmatch(r"-?\d{1,9}", name)}
        for code in _codes(set(numbers), often=()):
            self.fail(
                self._first(numbers[code]),
                "subject",
                "looks like a code for somebody unknown: leave the row out, or put a letter before "
                "it",
            )

    def _first(self, person: str) -> int:
        return int((self.cells["subject"] == person).argmax())

    def fail(self, row: int, column: str, what: str) -> NoReturn:
        """Raise an error that names the line and column of a cell."""
        value = shown(self.cells[column].iloc[row])
        raise DataError(f"{self.path}, line {self.cells.index[row]}, {column}: '{value}' {what}")

    def repeated(self, file: NDArray[np.int64]) -> dict[str, int]:
        """Leave out rows that occur twice and files with different labels, and count them.

        Cells are compared by what they mean: 1 and 1.0 are the same.

        Args:
            file: (N,) number of the file that each row is about, whatever it calls it.
        """
        if not pd.Index(file).has_duplicates:
            return {"duplicate rows": 0, "conflicting labels": 0}
        meaning = pd.DataFrame(index=self.cells.index)
        for column in self.cells:
            meant = file if column == "file" else self._meant(str(column), self.cells[column])
            meaning[column] = meant
        double = meaning.duplicated().to_numpy()
        once = meaning[~double]
        conflicting = once["file"].duplicated(keep=False).to_numpy()
        files = int(once.loc[conflicting, "file"].nunique())
        self.cells = self.cells[~double][~conflicting]
        return {"duplicate rows": int(double.sum()), "conflicting labels": files}

    def _meant(self, column: str, cells: pd.Series) -> NDArray[np.int64]:
        """Return a number for each cell (N,), the same for cells that mean the same."""
        code, once = pd.factorize(cells)
        meant = list(once)
        if column in CLASS_TASKS and self.synonyms:
            meant = [expression_name(cell) for cell in meant]
        elif column in ("valence", "arousal") or column in self.au_names:
            names = [plain(cell) for cell in meant]
            numbers = pd.to_numeric(pd.Series(names, dtype=object), errors="coerce").tolist()
            meant = [
                ("" if is_unknown(name, self.unknown) else cell) if number != number else number
                for cell, name, number in zip(meant, names, numbers, strict=True)
            ]
        return np.asarray(pd.factorize(pd.Series(meant, dtype=object))[0][code], np.int64)


def read_table(
    path: Path, *, unknown: Sequence[Any] = (), intensities: bool = False, synonyms: bool = True
) -> Table:
    """Read a table separated by commas, semicolons or tabs, its columns under our names.

    Args:
        path: the file.
        unknown: codes that stand for an unknown label.
        intensities: the columns of action units hold intensities: of OpenFace's two columns the
            one that ends in ``_r`` is taken, else that in ``_c``.
        synonyms: whether expressions that mean the same are the same, so that rows that differ in
            them are not in conflict.

    Raises:
        DataError: missing, empty or no table; a column is missing, doubled or misspelt; a file or
            a person is not named; a part is none that we know.
    """
    cells = read_cells(path)
    names, ignored = our_columns(path, list(cells.columns), intensities)
    cells = cells[list(names)].rename(columns=names)
    table = Table(path, cells, ignored, unknown, synonyms)
    for column in ("file", "subject"):
        if column in cells:
            nobody = _nameless(cells[column], unknown if column == "subject" else ())
            if nobody is not None:
                table.fail(nobody, column, "names none; write it, or leave the row out")
    for column in map(str, list(cells)):
        if column in _NAMED or column.startswith("attribute/"):
            cells[column] = _unified(cells[column], unknown)
    if "part" in cells:
        known = cells["part"].str.lower().map(PARTS)
        if known.isna().any():
            table.fail(int(known.isna().argmax()), "part", "is none of train, val, test")
        cells["part"] = known
    cells["file"] = cells["file"].str.replace("\\", "/")
    table.cells = cells
    if "subject" in cells:
        table.check_people()
    if ignored:
        logging.getLogger(__name__).warning(
            "%s: columns not used: %s", path, ", ".join(shown(c) or "one unnamed" for c in ignored)
        )
    return table


def _nameless(cells: pd.Series, codes: Sequence[Any]) -> int | None:
    """Return the first row whose cell names nothing, None if each names something.

    Without codes a cell of ASCII with a digit and no number sign names something, as every word for
    unknown shows; nearly all files are named so, and need no closer look.
    """
    once = cells.unique()
    if not codes:
        text = pd.Series(once, dtype=cells.dtype).str
        named = text.contains("[0-9]") & ~text.contains(r"[^ -\"$-~]")
        once = once[~named.to_numpy(bool)]
    nothing = [cell for cell in once if is_unknown(plain(cell), codes)]
    return int(cells.isin(nothing).argmax()) if nothing else None


def _numbers(cells: pd.Series) -> NDArray[np.float64]:
    """Return cells as numbers (N,), whichever digits and minus they are written in; else NaN."""
    code, once = pd.factorize(cells)
    names = pd.Series([plain(cell) for cell in once], dtype=object)
    values: NDArray[np.float64] = pd.to_numeric(names, errors="coerce").to_numpy(np.float64)
    return values[code]


def _codes(numbers: set[int], often: Sequence[int] = _OFTEN_UNKNOWN) -> list[int]:
    """Return those of some whole numbers that rather are codes for what is unknown.

    Negative ones, usual codes whose neighbour is not there, and one that is far from all others.
    """
    found = {n for n in numbers if n < 0 or (n in often and n - 1 not in numbers)}
    *rest, second, most = sorted(numbers) if len(numbers) > 2 else [0, 0]
    if rest and most >= 50 and most >= 10 * (second + 1):
        found.add(most)
    return sorted(found)


def _unified(cells: pd.Series, unknown: Sequence[Any]) -> pd.Series:
    """Return names in one spelling each, empty where they stand for an unknown one."""
    once = {cell: plain(cell) for cell in cells.unique()}
    return cells.map({c: "" if is_unknown(n, unknown) else n for c, n in once.items()})


def _one_name_each(names: Sequence[str], key: str) -> list[str]:
    found = [expression_name(str(name)) for name in names]
    for i, name in enumerate(found):
        if name in found[:i]:
            first = names[found.index(name)]
            raise RecipeError(
                f"{key}: '{first}' and '{names[i]}' are one class; data.synonyms=false keeps them "
                "apart"
            )
    return found
