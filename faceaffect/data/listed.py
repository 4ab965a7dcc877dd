"""Sets whose files name each picture or clip with its expression, and how such files are read."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from faceaffect.data.align import Aligner
from faceaffect.data.dataset import FaceDataset, Loaded, Samples
from faceaffect.data.labels import LabelTable
from faceaffect.data.places import find_files
from faceaffect.data.video import read_media
from faceaffect.errors import DataError, RecipeError, shown
from faceaffect.schema import LabelSchema


class ListedFaces(FaceDataset):
    """Pictures or clips with one expression each, of people who are not known.

    Samples of classes that are not asked for, files that are not on disk, rows that repeat another
    and files with different labels are left out and counted.

    Args:
        table: ``file`` relative to the root, ``expression`` by name (empty where there is none)
            and ``part``, one row a sample; ``subject`` where people are known.
        labels: what the set writes for each class.
        names: the classes to use, in index order.
        root: the folder of the files.
        help: what is expected in it and where to get it.
        left_out: what was left out before: reason to count.
        frames: evenly spaced frames that are read of a clip; None for pictures.
        image_size: side to which the frames of a clip are scaled, None for their own.
        notes: what else the result shall say.
        aligner: cuts out the faces.
        attributes: columns of the table that groups of samples are compared by.

    Raises:
        DataError: a file is listed in two parts, or none is left.
    """

    def __init__(
        self,
        table: pd.DataFrame,
        labels: LabelTable,
        names: Sequence[str],
        *,
        root: Path,
        help: str,
        left_out: Mapping[str, int] | None = None,
        frames: int | None = None,
        image_size: int | None = None,
        notes: dict[str, Any] | None = None,
        aligner: Aligner | None = None,
        attributes: Sequence[str] = (),
    ) -> None:
        table, repeated = once(table, root)
        table, counts = there(table, root, help)
        table, others = of_classes(table, labels, names)
        if table.empty:
            lost = "; ".join(f"{n:,} {why}" for why, n in added(repeated, others, counts).items())
            raise DataError(
                f"{root}: no sample of {', '.join(names)} is left. Left out: {lost}. {help}"
            )
        ids = table["file"].to_numpy(str)
        known = "subject" in table
        groups = {name: tuple(sorted(set(table[name]))) for name in attributes}
        samples = Samples(
            id=ids,
            subject=table["subject"].to_numpy(str) if known else ids,
            expression=index_of(table["expression"], names),
            part=table["part"].to_numpy(str) if "part" in table else None,
            attributes={name: index_of(table[name], groups[name]) for name in groups},
        )
        self.frames, self.image_size = frames, image_size
        super().__init__(
            LabelSchema(expressions=tuple(names)),
            samples,
            root=root,
            subjects_known=known,
            left_out=added(left_out or {}, repeated, others, counts),
            attribute_names=groups,
            notes=notes,
            aligner=aligner,
            labels=labels,
        )

    def load(self, index: int) -> Loaded:
        """Decode a picture, or evenly spaced frames of a clip; see :meth:`FaceDataset.load`."""
        path = self.path(index)
        if self.frames is None or path is None:
            return super().load(index)
        size = self.image_size if self.aligner is None else None
        frames = self.frames
        return self.cropped(index, lambda: read_media(path, frames, size))


def once(
    table: pd.DataFrame, root: Path, labels: Sequence[str] = ("expression",)
) -> tuple[pd.DataFrame, dict[str, int]]:
    """Return the rows with each ``file`` once, and the counts of those that are left out.

    Rows that repeat another are, and so are files with different labels, as in every reader.

    Args:
        table: with ``file``, and ``part`` where there are any.
        root: the folder of the files, for the error.
        labels: the columns that say what a file shows.

    Raises:
        DataError: a file is listed in two parts.
    """
    double = table.duplicated(["file", *labels, *({"part"} & {*table})])
    single = table[~double]
    several = single["file"].duplicated(keep=False)
    if "part" in table and several.any():
        parts = single[several].groupby("file", sort=False)["part"].unique()
        for file, names in parts[parts.map(len) > 1].items():
            raise DataError(
                f"{root}: {shown(str(file))} is listed in two parts, {' and '.join(names)}: leave "
                "it in one"
            )
    files = int(single.loc[several, "file"].nunique())
    counts = {"duplicate rows": int(double.sum()), "conflicting labels": files}
    return single[~several], counts


def there(table: pd.DataFrame, root: Path, help: str) -> tuple[pd.DataFrame, dict[str, int]]:
    """Return the rows whose ``file`` is on disk, as the disk spells it, and how many are not.

    Raises:
        DataError: none is there.
    """
    places = find_files(root, table["file"].to_numpy(object).tolist())
    if not places.there.any() and len(table):
        first = root / str(table["file"].iloc[0])
        raise DataError(f"{root}: none of the {len(table):,} listed files is there, such as "
                        f"{first}. {help}")  # fmt: skip
    kept = table.assign(file=places.name)[places.there]
    return kept, {"not on disk": int((~places.there).sum())}


def of_classes(
    table: pd.DataFrame,
    labels: LabelTable,
    names: Sequence[str],
    others: NDArray[np.bool_] | None = None,
    nothing: str = "without an expression",
) -> tuple[pd.DataFrame, dict[str, int]]:
    """Return the rows that have a label, and the counts of those that have none.

    Args:
        table: with ``expression`` by name, empty where there is none, and ``code`` where it is
            written otherwise.
        labels: what the set writes.
        names: the classes that are asked for; another becomes empty.
        others: (N,) which rows have a label besides; such a row stays without an expression.
        nothing: how rows are counted whose code says nothing of why they have no expression.
    """
    asked = table["expression"].isin(names).to_numpy()
    stays = asked if others is None else asked | others
    gone = table[~stays]
    why = "class " + gone["expression"]
    if "code" in table:
        why = why.where(gone["expression"] != "", gone["code"].map(labels.unknown))
    why = why.fillna(nothing).where(why != "class ", nothing)
    counts = {str(reason): int(count) for reason, count in why.value_counts().items()}
    kept = table[stays]
    return kept.assign(expression=kept["expression"].where(asked[stays], "")), counts


def index_of(cells: pd.Series, names: Sequence[str]) -> NDArray[np.int64]:
    """Return (N,) the index of each name, -1 for any other."""
    return pd.Index(names).get_indexer(pd.Index(cells)).astype(np.int64)


def added(*counts: Mapping[str, int]) -> dict[str, int]:
    """Return counts by reason put together, without those of zero."""
    total: dict[str, int] = {}
    for some in counts:
        for reason, count in some.items():
            if count:
                total[reason] = total.get(reason, 0) + count
    return total


def read_lines(file: Path, pattern: str, example: str) -> dict[int, tuple[str, ...]]:
    """Return the groups of a pattern in each line of a text file, by the line's number from 1.

    Empty lines are passed over.

    Args:
        file: in UTF-8.
        pattern: of a whole line, with groups.
        example: a line that is right, for the error.

    Raises:
        DataError: the file cannot be read, is empty, or a line is of another form and is named.
    """
    found = {}
    for number, line in enumerate(text_of(file).splitlines(), 1):
        if not line.strip():
            continue
        match = re.fullmatch(pattern, line.strip())
        if match is None:
            raise DataError(f"{file}:{number}: {shown(line.strip())} is not like '{example}'")
        found[number] = match.groups("")
    if not found:
        raise DataError(f"{file}: is empty; lines such as '{example}' were expected")
    return found


def text_of(file: Path) -> str:
    """Return what a text file in UTF-8 holds.

    Raises:
        DataError: it cannot be read.
    """
    try:
        return file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file}: not readable as text: {error}") from None


def read_columns(
    file: Path, columns: Sequence[str], help: str, optional: Sequence[str] = ()
) -> pd.DataFrame:
    """Return some columns of a table with commas, as text without blanks around it.

    The index is the line of each row; rows that are empty in all these columns are passed over.

    Args:
        file: the table.
        columns: that are needed; names are compared without blanks around them and their case.
        help: what is expected and where to get it.
        optional: that are read where they are there.

    Raises:
        DataError: the file cannot be read, or a column is missing.
    """
    wanted = {name.lower(): name for name in (*columns, *optional)}
    try:
        table = pd.read_csv(
            file,
            dtype=str,
            keep_default_na=False,
            encoding="utf-8-sig",
            usecols=lambda name: name.strip().lower() in wanted,
            index_col=False,  # else a comma at the end of each line moves all columns by one
            skip_blank_lines=False,
        )
    except (ValueError, OSError) as error:
        raise DataError(f"{file}: not readable as a table: {error}. {help}") from None
    return named(table, file, columns, wanted, help)


def named(
    table: pd.DataFrame, file: Path, columns: Sequence[str], wanted: Mapping[str, str], help: str
) -> pd.DataFrame:
    """Return a table of text under our names of its columns; see :func:`read_columns`.

    Args:
        table: its first row stands on the second line.
        file: as there.
        columns: likewise.
        wanted: lower-case name of each column to ours.
        help: as there.
    """
    table = table.rename(columns=lambda name: wanted.get(str(name).strip().lower(), str(name)))
    absent = [name for name in columns if name not in table]
    twice = table.columns[table.columns.duplicated()]
    if len(twice):
        raise DataError(f"{file}: the column {twice[0]} is there twice")
    if absent:
        raise DataError(
            f"{file}: no column {', '.join(absent)}: another edition or another file? The columns "
            f"{', '.join(columns)} were expected. {help}"
        )
    found = pd.DataFrame(
        {name: table[name].str.strip() for name in wanted.values() if name in table}
    )
    found.index = pd.RangeIndex(2, len(found) + 2)
    return found[(found != "").any(axis=1)]


def numbers(
    cells: pd.Series, file: Path, column: str, low: float, high: float, unknown: float
) -> NDArray[np.float32]:
    """Return a column of :func:`read_columns` as numbers (N,), NaN for the code of an unknown one.

    Raises:
        DataError: a cell is no number of the range and not the code; its line is named.
    """
    values = pd.to_numeric(cells, errors="coerce").to_numpy(np.float64)
    absent = values == unknown
    wrong = ~absent & ~((values >= low) & (values <= high))
    if wrong.any():
        row = int(wrong.argmax())
        raise DataError(
            f"{file}:{cells.index[row]}: {column} is {shown(str(cells.iloc[row]))}; expected "
            f"{low:g} to {high:g}, or {unknown:g} for unknown"
        )
    return np.where(absent, np.nan, values).astype(np.float32)


def check_frames(frames: int) -> None:
    """Raise a RecipeError unless some frames are read of a clip."""
    if frames < 1:
        raise RecipeError(f"data.frames: {frames} is not positive")


def check_fold(fold: int, folds: int) -> None:
    """Raise a RecipeError unless a published fold is one of 1 to ``folds``."""
    if not 1 <= fold <= folds:
        raise RecipeError(f"data.fold: {fold} is out of range; the folds are 1 to {folds}")


def first_folder(root: Path, places: Sequence[str]) -> str | None:
    """Return the first of some relative paths that is a folder."""
    return next((place for place in places if (root / place).is_dir()), None)
