"""The table of answers on disk: written as it grows, gone on with after an interruption."""

import csv
import hashlib
import io
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from faceaffect.errors import DataError, RecipeError
from faceaffect.files import write_atomically

FORMS = (".csv", ".parquet", ".jsonl")
"""Endings that say in which form a table is written."""

_DIGITS = {"time": 4, "x": 1, "y": 1, "w": 1, "h": 1, "score": 4}
_WHOLE = ("frame", "face", "track")


class Table:
    """A table that grows beside its place and is moved there when it is whole.

    While it grows it lies in ``NAME.part``, and ``NAME.part.json`` says how far it is good: what
    lies behind, of a run that was killed, is cut off.

    Args:
        path: where it shall lie; its ending says the form.
        columns: in order.
        made_of: plain values that say which run it belongs to.

    Attributes:
        state: what :meth:`commit` was given last by the run that is gone on with; None for a new
            table.

    Raises:
        RecipeError: another ending, a file that is there already, or an unfinished table of another
            run.
        DataError: its folder cannot be written to.
    """

    def __init__(self, path: Path, columns: Sequence[str], made_of: Mapping[str, Any]) -> None:
        self.path, self.columns = path, list(columns)
        self.form = path.suffix.lower()
        if self.form not in FORMS:
            raise RecipeError(f"{path}: a table ends in {', '.join(FORMS)}")
        if self.form == ".parquet":
            _parquet()
        if path.exists():
            raise RecipeError(f"{path} is there already; name another table with --out")
        self._part = path.with_name(f"{path.name}.part")
        self._note = path.with_name(f"{path.name}.part.json")
        self._key = hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()
        note = self._read_note()
        self.state: dict[str, Any] | None = note["state"] if note else None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._part.open("r+b" if note else "wb")
        except OSError as error:
            raise DataError(f"{self._part}: {error.strerror or error}") from None
        if note:
            self._file.truncate(note["bytes"])
            self._file.seek(note["bytes"])
        elif self.form != ".jsonl":
            self._file.write(_line(self.columns))

    def add(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Write rows, names to values; what a row lacks is an empty cell."""
        for row in rows:
            self._file.write(self._json(row) if self.form == ".jsonl" else self._cells(row))

    def commit(self, state: Mapping[str, Any]) -> None:
        """Note that the rows so far are good, and from where to go on."""
        self._file.flush()
        note = {"run": self._key, "bytes": self._file.tell(), "state": state}
        write_atomically(self._note, json.dumps(note))

    def finish(self) -> None:
        """Move the table to its place."""
        self._file.close()
        if self.form == ".parquet":
            _to_parquet(self._part, self.path, self.columns)
            self._part.unlink()
        else:
            os.replace(self._part, self.path)  # noqa: PTH105
        self._note.unlink(missing_ok=True)

    def close(self) -> None:
        """Leave the table as it is, to be gone on with."""
        self._file.close()

    def _read_note(self) -> dict[str, Any] | None:
        if not (self._part.exists() and self._note.exists()):
            return None
        try:
            note: dict[str, Any] = json.loads(self._note.read_text(encoding="utf-8"))
            good = self._part.stat().st_size >= note["bytes"]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        if note["run"] != self._key:
            raise RecipeError(
                f"{self._part} belongs to an unfinished run on other inputs or with other "
                "settings: finish that, delete it, or name another table with --out"
            )
        return note if good else None

    def _cells(self, row: Mapping[str, Any]) -> bytes:
        return _line([_cell(name, row.get(name)) for name in self.columns])

    def _json(self, row: Mapping[str, Any]) -> bytes:
        known = {n: _number(n, row[n]) for n in self.columns if row.get(n) is not None}
        return json.dumps(known, ensure_ascii=False).encode() + b"\n"


def _number(name: str, value: Any) -> Any:
    return round(value, _DIGITS.get(name, 5)) if isinstance(value, float) else value


def _cell(name: str, value: Any) -> str:
    return "" if value is None else str(_number(name, value))


def _line(cells: Sequence[str]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue().encode("utf-8", "surrogateescape")


def _parquet() -> Any:
    try:
        import pyarrow.parquet

        return pyarrow
    except ImportError as error:
        raise RecipeError(
            f"--out *.parquet needs pyarrow ({error}): pip install 'faceaffect[parquet]', or write "
            "a .csv"
        ) from None


def _to_parquet(table: Path, goal: Path, columns: Sequence[str]) -> None:
    """Write a CSV table as Parquet, a piece at a time."""
    pa = _parquet()
    from pyarrow import csv as arrow

    words = dict.fromkeys(("input", "text"), pa.string())
    kinds = {name: pa.int64() if name in _WHOLE else pa.float64() for name in columns} | words
    schema = pa.schema([(name, kinds[name]) for name in columns])
    options = arrow.ConvertOptions(column_types=schema, strings_can_be_null=True)
    parse = arrow.ParseOptions(newlines_in_values=True)
    part = goal.with_name(f"{goal.name}.writing")
    with (
        arrow.open_csv(table, convert_options=options, parse_options=parse) as reader,
        pa.parquet.ParquetWriter(part, schema) as writer,
    ):
        for batch in reader:
            writer.write_batch(batch)
    os.replace(part, goal)  # noqa: PTH105
