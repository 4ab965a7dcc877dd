"""Sets that show each expression from several sides: KDEF's layout, or a table of views."""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from faceaffect.data.align import CropNode, FinderNode, Method, open_aligner
from faceaffect.data.dataset import FaceDataset, Samples
from faceaffect.data.labels import LabelTable, line_of
from faceaffect.data.listed import added, index_of, numbers, of_classes, once, read_columns, there
from faceaffect.data.names import expression_name, is_unknown, plain
from faceaffect.data.table import parts_of
from faceaffect.data.video import IMAGE_SUFFIXES
from faceaffect.errors import DataError, RecipeError, shown
from faceaffect.schema import LabelSchema

KDEF = LabelTable({
    "AF": "fear", "AN": "anger", "DI": "disgust", "HA": "happiness", "NE": "neutral",
    "SA": "sadness", "SU": "surprise",
})  # fmt: skip
"""The codes of KDEF's expressions."""

KDEF_YAWS = {"FL": -90.0, "HL": -45.0, "S": 0.0, "HR": 45.0, "FR": 90.0}
"""KDEF's angles in degrees; the left profile (FL) shows the left cheek, the nose points left."""

MOST_YAWS = 25
"""So many different yaws are told apart as groups."""

_NO_YAW = 999
"""Stands for an unknown yaw while a table is read."""

_KDEF_NAME = re.compile(r"([AB])([FM]\d{2})(AF|AN|DI|HA|NE|SA|SU)(FL|FR|HL|HR|S)")
_COLUMNS = ("image", "person", "instance", "yaw")
_KDEF_HELP = (
    "Expected under data.root, as KDEF is distributed: AF01/AF01ANFL.JPG (session A or B, F or M "
    "and the person's number, expression AF AN DI HA NE SA SU, angle FL HL S HR FR), in folders or "
    "not; for other names data.table lists the pictures"
)
_TABLE_HELP = (
    "data.table is a table with commas and the columns image, person, instance, yaw (degrees) and, "
    "where they are known, expression and part"
)


class MultiviewFaces(FaceDataset):
    """Pictures of people from several sides, those of one instance together.

    An instance is one expression of one person at one time; in KDEF that is person, session and
    expression. Its pictures are views of each other, see ``data.views``. The yaw is the attribute
    ``yaw``. Files with other names, and rows and files that do not agree, are left out and counted.

    Args:
        root: the folder of the pictures.
        table: a table in that folder with ``image``, ``person``, ``instance``, ``yaw`` in degrees,
            positive to the right of the image, and optionally ``expression`` and ``part``; an empty
            instance is a picture by itself, an empty expression or yaw is unknown. Absent, the
            files are named as KDEF's.
        classes: the expressions to use, in index order; absent, all: in KDEF's order, of a table in
            the alphabet's.
        yaws: the views to use, in degrees; absent, all.
        align: ``auto`` finds the face in each picture and crops to it, once, on disk; ``none``
            takes pictures that are cropped already.
        crop: how faces are cut out, see :class:`~faceaffect.data.faces.crop.Crop`.
        finder: finds faces, see ``faceaffect ls finders``; absent, ``mtcnn``.
        crop_cache: folder of the crops; absent, ``faceaffect_crops`` in the root.

    Raises:
        DataError: something is missing or makes no sense; the file is named.
        RecipeError: a class or a yaw is not there.
    """

    def __init__(
        self,
        root: str,
        *,
        table: str | None = None,
        classes: list[str] | None = None,
        yaws: list[float] | None = None,
        align: Method = "none",
        crop: CropNode = None,
        finder: FinderNode = None,
        crop_cache: str | None = None,
    ) -> None:
        folder, help = Path(root), _KDEF_HELP if table is None else _TABLE_HELP
        found, labels, lost = _kdef(folder) if table is None else _listed(folder / table)
        names = labels.choose(classes)
        found, twice = once(found, folder, ("person", "instance", "expression", "yaw"))
        found, absent = there(found, folder, help)
        found, turned = _of_yaws(found, yaws)
        found, others = _of_expressions(found, labels, names)
        left_out = added(lost, twice, absent, turned, others)
        if found.empty:
            why = "; ".join(f"{n:,} {reason}" for reason, n in left_out.items())
            raise DataError(f"{folder}: no picture is left. Left out: {why}. {help}")
        yaw, yaw_names = _yaw_classes(found["yaw"].to_numpy(np.float64), folder)
        super().__init__(
            LabelSchema(expressions=names),
            Samples(
                id=found["file"].to_numpy(str),
                subject=found["person"].to_numpy(str),
                expression=index_of(found["expression"], names) if names else None,
                part=found["part"].to_numpy(str) if "part" in found else None,
                attributes={"yaw": yaw},
                instance=_instances(found),
            ),
            root=folder,
            left_out=left_out,
            attribute_names={"yaw": yaw_names},
            notes={"table": table} if table else {},
            aligner=open_aligner(align, crop, finder, crop_cache, folder, own=False),
            labels=labels,
        )


def _kdef(root: Path) -> tuple[pd.DataFrame, LabelTable, Counter[str]]:
    """Return a row for each picture that is named as KDEF's, and what else there is."""
    if not root.is_dir():
        raise DataError(f"data.root: the folder {root} is missing. {_KDEF_HELP}")
    rows, left_out = [], Counter[str]()
    for file in sorted(root.rglob("*")):
        path = file.relative_to(root)
        hidden = any(p.startswith((".", "__")) or p == "faceaffect_crops" for p in path.parts)
        if hidden or file.is_dir():
            continue
        if file.suffix.lower() not in IMAGE_SUFFIXES:
            left_out["no picture"] += 1
            continue
        match = _KDEF_NAME.fullmatch(file.stem.upper())
        if match is None:
            left_out["not named as KDEF's pictures"] += 1
            continue
        session, person, code, angle = match.groups()
        rows.append((path.as_posix(), person, session, KDEF.codes[code], KDEF_YAWS[angle]))
    if not rows:
        raise DataError(f"data.root: {root} holds no picture named as KDEF's. {_KDEF_HELP}")
    columns = ["file", "person", "instance", "expression", "yaw"]
    return pd.DataFrame(rows, columns=columns), KDEF, left_out


def _listed(file: Path) -> tuple[pd.DataFrame, LabelTable, Counter[str]]:
    """Return the rows of a table under our names, an unknown yaw as NaN."""
    if not file.is_file():
        raise DataError(f"data.table: {file} is missing. {_TABLE_HELP}")
    cells = read_columns(file, _COLUMNS, _TABLE_HELP, ("expression", "part"))
    where = line_of(file, cells.index)
    for column in ("image", "person"):
        empty = cells[column].map(plain).map(is_unknown).to_numpy(bool)
        if empty.any():
            raise DataError(f"{where(int(empty.argmax()))}: '{column}' is empty. {_TABLE_HELP}")
    said = cells["yaw"].mask(cells["yaw"].map(is_unknown), str(_NO_YAW))
    written = cells["expression"] if "expression" in cells else pd.Series("", cells.index)
    meant = {cell: "" if is_unknown(cell) else expression_name(cell) for cell in set(written)}
    codes = sorted(((c, n) for c, n in meant.items() if n), key=lambda pair: (pair[1], pair[0]))
    found = pd.DataFrame(
        {
            "file": cells["image"].str.replace("\\", "/"),
            "person": cells["person"].map(plain),
            "instance": ["" if is_unknown(cell) else plain(cell) for cell in cells["instance"]],
            "expression": written.map(meant),
            "yaw": numbers(said, file, "yaw", -180, 180, _NO_YAW).astype(np.float64),
        }
    )
    if "part" in cells:
        found["part"] = _parts(cells["part"], where)
    return found, LabelTable(dict(codes)), Counter()


def _parts(cells: pd.Series, where: Callable[[int], str]) -> list[str]:
    """Return the part that each cell names."""
    meant = parts_of(set(cells))
    wrong = (cells.map(meant) == "") & (cells != "")
    if wrong.any():
        row = int(wrong.to_numpy().argmax())
        raise DataError(
            f"{where(row)}: {shown(cells.iloc[row])} is no part; expected train, val or test"
        )
    return [meant[cell] for cell in cells]


def _of_yaws(
    table: pd.DataFrame, yaws: Sequence[float] | None
) -> tuple[pd.DataFrame, dict[str, int]]:
    """Return the rows of the yaws that are asked for, and how many have which other."""
    if yaws is None:
        return table, {}
    known = sorted(set(table["yaw"].dropna()))
    for yaw in yaws:
        if yaw not in known:
            raise RecipeError(
                f"data.yaws: no picture is seen from {yaw:g} degrees; there are: "
                + ", ".join(f"{k:g}" for k in known[:MOST_YAWS])
            )
    stays = table["yaw"].isin(yaws)
    counts = table.loc[~stays, "yaw"].value_counts(dropna=False)
    return table[stays], {f"yaw {yaw:g}": int(n) for yaw, n in counts.items()}


def _of_expressions(
    table: pd.DataFrame, labels: LabelTable, names: Sequence[str]
) -> tuple[pd.DataFrame, dict[str, int]]:
    """Return the rows of the classes that are asked for; those without an expression stay."""
    nothing = (table["expression"] == "").to_numpy()
    return of_classes(table, labels, names, others=nothing)


def _instances(table: pd.DataFrame) -> NDArray[np.int64]:
    """Return which rows show one expression of one person at one time; -1 for a row by itself."""
    code = table.groupby(["person", "instance", "expression"], sort=True).ngroup()
    return np.asarray(code.where(table["instance"] != "", -1), np.int64)


def _yaw_classes(yaw: NDArray[np.float64], root: Path) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Return the yaws as classes from left to right, -1 for an unknown one, and their names."""
    known = np.unique(yaw[~np.isnan(yaw)])
    if len(known) > MOST_YAWS:
        raise DataError(
            f"{root}: {len(known)} different yaws; round them to at most {MOST_YAWS}, since each "
            "is a group of its own"
        )
    index: Any = np.where(np.isnan(yaw), -1, np.searchsorted(known, yaw))
    return index.astype(np.int64), tuple(f"{value:g}" for value in known)
