"""Predictions that were made elsewhere, as a contestant: a table instead of a network."""

from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from faceaffect.data.batch import FaceBatch
from faceaffect.data.cells import read_cells
from faceaffect.errors import DataError, RecipeError, unknown
from faceaffect.models.table_evaluators import is_results, read_results
from faceaffect.models.table_forms import FORMS, Found, find_columns
from faceaffect.module import AffectModule
from faceaffect.schema import LabelSchema

Form = Literal["auto", "faceaffect", "openface", "pyfeat", "libreface", "emotiefflib", "deepface"]


class Table(AffectModule):
    """Answers with what a table says of each sample; nothing is trained.

    Samples are matched by path: the whole id, else the end of the path that only one row has, the
    ending of the file left aside where the table gives none. Of several faces of one picture the
    largest counts (else the surest), of several frames of a clip the mean. A sample without a row,
    or with a row in which no face was found, has no answer, and that counts as wrong.

    Args:
        schema: of the data; what the table has no column for is left out.
        file: the table (CSV, TSV or Parquet), or a folder of tables, one for each picture or video,
            as OpenFace writes them; or what lmms-eval, VLMEvalKit or FERBench made of a task of
            ``faceaffect export``, a file or a folder of them.
        columns: whose form the table has, or which column holds what: names of AUs, expressions,
            ``valence``, ``arousal`` and ``id`` to columns. ``auto`` looks for all known forms.
        au_threshold: AUs are intensities 0 to 5 that count as positive from here on; absent,
            probabilities or 0 and 1.

    Attributes:
        rows: number of samples that the table answers.

    Raises:
        DataError: the table cannot be read, or answers nothing that the data asks.
        RecipeError: an argument is out of range.
    """

    needs_training = False
    has_cost = False

    def __init__(
        self,
        schema: LabelSchema | dict[str, Any],
        *,
        file: str,
        columns: Form | dict[str, str] = "auto",
        au_threshold: float | None = None,
    ) -> None:
        if au_threshold is not None and not 0 < au_threshold <= 5:
            raise RecipeError(f"model.au_threshold: {au_threshold} is not in (0, 5]")
        if isinstance(columns, str) and columns not in FORMS:
            raise RecipeError(unknown("model.columns", columns, FORMS))
        asked = schema if isinstance(schema, LabelSchema) else LabelSchema.from_dict(schema)
        place = Path(file)
        results = place.exists() and is_results(place)
        cells = read_results(place, asked) if results else read_answers(place)
        found = find_columns(cells, asked, columns, file)
        super().__init__(found.schema)
        self._answers = _answers(cells, found, au_threshold, file)
        self.rows = len(self._answers)
        self._places = _by_name(self._answers)
        self._file, self._found = file, False

    def loss(self, batch: FaceBatch) -> Tensor:
        """Refuse: a table learns nothing."""
        raise RecipeError("model 'table' is not trained; test or compare it")

    def predict(self, batch: FaceBatch) -> dict[str, Tensor]:
        """Return what the table says of the samples, NaN where nothing."""
        width = len(self.schema.aus) + len(self.schema.expressions)
        width += 2 * self.schema.valence_arousal
        rows = [self._row(name) for name in batch["id"]]
        self._found |= any(row is not None for row in rows)
        empty = np.full(width, np.nan)
        values = np.stack([empty if row is None else self._answers[row] for row in rows])
        answers = torch.from_numpy(values).float().to(self.device)
        aus, classes = len(self.schema.aus), len(self.schema.expressions)
        parts = {
            "au": answers[:, :aus],
            "expression": answers[:, aus : aus + classes],
            "va": answers[:, aus + classes :],
        }
        return {task: parts[task] for task in self.schema.tasks}

    def on_test_epoch_start(self) -> None:
        """Start anew."""
        super().on_test_epoch_start()
        self._found = False

    def on_test_epoch_end(self) -> None:
        """See that the table is about these samples at all.

        Raises:
            DataError: it has a row for none of them.
        """
        if not self._found:
            raise DataError(
                f"{self._file}: has a row for none of the test samples; is it about other data?"
            )
        super().on_test_epoch_end()

    def _row(self, sample: str) -> str | None:
        """Return the table's name of a sample, None if it has none."""
        parts = _parts(sample)
        for own in (parts, (*parts[:-1], PurePosixPath(parts[-1]).stem)):
            rows = [name for name, path in self._places.get(own[-1], []) if _ends_alike(path, own)]
            if len(rows) > 1:
                exact = [name for name in rows if _parts(name) == own]
                rows = exact or rows
            if len(rows) > 1:
                raise DataError(
                    f"the table has {len(rows)} rows that may be the sample {sample}: "
                    f"{', '.join(rows[:3])}; write the paths in it as they are in the data"
                )
            if rows:
                return rows[0]
        return None


def read_answers(path: Path) -> pd.DataFrame:
    """Read a table, or all tables of a folder, as text; of a folder ``id`` is the file's own name.

    Raises:
        DataError: nothing there, or not readable.
    """
    if path.is_dir():
        files = sorted(file for file in path.rglob("*.csv") if file.is_file())
        if not files:
            raise DataError(f"{path}: no table (*.csv) in this folder")
        tables = []
        for file in files:
            name = file.relative_to(path).with_suffix("").as_posix()
            tables.append(_read(file).assign(**{_FILE: name}))
        return pd.concat(tables, ignore_index=True)
    if not path.is_file():
        raise DataError(f"model.file: no table at {path}")
    return _read(path)


_FILE = "file of this row"


def _read(file: Path) -> pd.DataFrame:
    if file.suffix.lower() != ".parquet":
        cells = read_cells(file).reset_index(drop=True)
    else:
        try:
            cells = pd.read_parquet(file)
        except (ValueError, OSError, ImportError) as error:
            raise DataError(f"{file}: not readable as a table: {error}") from None
        cells = cells.astype(object).where(cells.notna(), "").astype(str)
    cells.columns = [str(name).strip() for name in cells.columns]
    twice = cells.columns[cells.columns.duplicated()]
    if len(twice):
        raise DataError(f"{file}: the column '{twice[0]}' is there twice")
    return cells


def _answers(
    cells: pd.DataFrame, found: Found, threshold: float | None, file: str
) -> dict[str, np.ndarray]:
    """Return, by the table's names of samples, one row of answers each."""
    column = found.id or _FILE
    if column not in cells:
        raise DataError(
            f"{file}: no column says which picture a row is about; name it with "
            f"model.columns.id. The columns are: {', '.join(cells.columns)}"
        )
    values, names = found.values(cells, threshold, file), cells[column]
    table = pd.DataFrame(values).assign(id=names.to_numpy(), frame=found.frames(cells))
    table["weight"] = found.weights(cells)
    table = table[(table["id"] != "") & found.there(cells).to_numpy()]
    # Of several faces in a frame the largest or surest; of several frames the mean.
    table = table.sort_values("weight", ascending=False, kind="stable")
    table = table.drop_duplicates(["id", "frame"])
    means = table.drop(columns=["frame", "weight"]).groupby("id", sort=False).mean()
    kept = means[means.notna().any(axis=1)]
    if kept.empty:
        raise DataError(f"{file}: no row of this table holds an answer")
    return {str(name): row for name, row in zip(kept.index, kept.to_numpy(), strict=True)}


def _parts(name: str) -> tuple[str, ...]:
    return tuple(part for part in name.replace("\\", "/").split("/") if part not in ("", "."))


def _by_name(names: Iterable[str]) -> Mapping[str, list[tuple[str, tuple[str, ...]]]]:
    """Return the rows by the last part of their paths."""
    places: dict[str, list[tuple[str, tuple[str, ...]]]] = {}
    for name in names:
        parts = _parts(name)
        places.setdefault(parts[-1], []).append((name, parts))
    return places


def _ends_alike(one: tuple[str, ...], other: tuple[str, ...]) -> bool:
    """Return whether the shorter of two paths is the end of the longer."""
    shared = min(len(one), len(other))
    return one[-shared:] == other[-shared:]
