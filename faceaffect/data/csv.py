"""Bring your own faces: one table with a file, and whatever labels there are, in each row."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from faceaffect.data.align import CropNode, FinderNode, Method, open_aligner
from faceaffect.data.cells import shown
from faceaffect.data.dataset import FaceDataset, Loaded, Samples
from faceaffect.data.places import find_files
from faceaffect.data.table import Table, read_table
from faceaffect.data.video import read_media
from faceaffect.errors import DataError, RecipeError
from faceaffect.schema import LabelSchema


class CsvFaces(FaceDataset):
    """Images and clips that a table lists.

    Columns: ``image`` (or ``path``, or ``video``), and of the following those that there are:
    ``subject``; ``AU1``, ``AU12``, ...; ``expression``; ``valence`` and ``arousal``; ``part`` (or
    ``split``: train, val, test); ``attribute/NAME`` for groups to compare. OpenFace's ``AU01_c``
    and ``AU01_r`` are AU1's presence and intensity. An empty cell is unknown, and so is one that
    says nan, NA, null, none or -. Rows that occur twice, files with two different labels and files
    that are not on disk are left out and counted; a file is one whatever path leads to it.

    Args:
        table: the table, separated by commas, semicolons or tabs.
        root: the folder that the table and the files are relative to; absent, files are relative
            to the table's own folder.
        classes: the expressions in index order, matched whatever their case; absent, those that
            occur in the table, in alphabetical order.
        synonyms: names of expressions that mean the same (happy, Happiness, joy) are one class,
            called as the field does (happiness); the notes of the result say what was renamed.
            Without, names stay as they are.
        unknown: what else stands for an unknown label, such as -1 or 999. A code that is a number
            of a column, such as -1 in valence, is that number there.
        au_threshold: the AU columns hold intensities 0 to 5, and from this one on an AU counts as
            positive; absent, they hold 0 and 1.
        frames: how many frames are read of a clip (a film, an animated picture or a folder of
            numbered pictures), evenly spaced in time.
        image_size: side to which frames are scaled while they are decoded, in pixels; absent, they
            keep their size. Give it for large clips; it saves time and memory. Not used where
            faces are cropped.
        align: ``auto`` finds the face in each picture and crops to it, once, on disk; ``none``
            takes pictures that are cropped already.
        crop: how faces are cut out, see :class:`~faceaffect.data.faces.crop.Crop`.
        finder: finds faces, see ``faceaffect ls finders``; absent, ``mtcnn``.
        crop_cache: folder of the crops; absent, ``faceaffect_crops`` in the folder of the files.

    Raises:
        DataError: the table is missing, empty or has a cell that makes no sense, which is named.
        RecipeError: an argument is out of range.
    """

    def __init__(
        self,
        table: str,
        *,
        root: str | None = None,
        classes: list[str] | None = None,
        synonyms: bool = True,
        unknown: list[Any] | None = None,
        au_threshold: float | None = None,
        frames: int = 8,
        image_size: int | None = None,
        align: Method = "none",
        crop: CropNode = None,
        finder: FinderNode = None,
        crop_cache: str | None = None,
    ) -> None:
        if frames < 1:
            raise RecipeError(f"data.frames: {frames} is not positive")
        if au_threshold is not None and not 0 < au_threshold <= 5:
            raise RecipeError(f"data.au_threshold: {au_threshold} is not in (0, 5]")
        if not table:
            raise RecipeError("data.table: is empty")
        for code in unknown or ():
            if not isinstance(code, (int, float, str)) or isinstance(code, bool):
                raise RecipeError(f"data.unknown: {code} is neither a number nor a quoted word")
        self.frames = frames
        self.image_size = image_size if align == "none" else None
        place = Path(table) if root is None else Path(root) / table
        rows = read_table(
            place,
            unknown=unknown or (),
            intensities=au_threshold is not None,
            synonyms=synonyms,
        )
        folder = rows.path.parent if root is None else Path(root)
        left_out = _keep_files_on_disk(rows, folder)
        schema, labels, attribute_names = _labels(rows, classes, au_threshold)
        known = "subject" in rows.cells
        ids = rows.text("file")
        samples = Samples(id=ids, subject=rows.text("subject") if known else ids, **labels)
        notes: dict[str, Any] = {"table": str(rows.path)}
        notes |= {"columns not used": rows.ignored} if rows.ignored else {}
        notes |= {"expressions renamed": rows.renamed} if rows.renamed else {}
        notes |= {"unknown": unknown} if unknown else {}
        notes |= {"au_threshold": au_threshold} if au_threshold is not None else {}
        super().__init__(
            schema,
            samples,
            root=folder,
            subjects_known=known,
            left_out={reason: n for reason, n in left_out.items() if n},
            attribute_names=attribute_names,
            notes=notes,
            aligner=open_aligner(align, crop, finder, crop_cache, folder, own=False),
        )

    def load(self, index: int) -> Loaded:
        """Decode an image, or evenly spaced frames of a clip; see :meth:`FaceDataset.load`."""
        path = self.path(index)
        assert path is not None
        return self.cropped(index, lambda: read_media(path, self.frames, self.image_size))


def _keep_files_on_disk(rows: Table, folder: Path) -> dict[str, int]:
    """Leave out rows that occur twice, are in conflict or name no file; return the counts."""
    places = find_files(folder, rows.cells["file"].to_numpy(object).tolist())
    if not places.there.any() and len(places.there):
        first = folder / rows.cells["file"].iloc[0]
        raise DataError(
            f"{rows.path}: none of its {len(places.there)} files is there, such as "
            f"{shown(str(first))}; data.root names the folder that they are relative to"
        )
    rows.cells = rows.cells.assign(file=places.name, there=places.there)
    left_out = rows.repeated(places.file)
    there = rows.cells.pop("there").to_numpy(bool)
    rows.cells = rows.cells[there]
    return left_out | {"not on disk": int((~there).sum())}


def _labels(
    rows: Table, classes: list[str] | None, au_threshold: float | None
) -> tuple[LabelSchema, dict[str, Any], dict[str, tuple[str, ...]]]:
    """Return the schema, the label columns of :class:`Samples` and the attributes' class names."""
    labels: dict[str, Any] = {}
    names: tuple[str, ...] = ()
    if rows.au_names:
        labels |= _action_units(rows, au_threshold)
    if "expression" in rows.cells:
        names, label = rows.classes("expression", classes, "data.classes")
        if names:
            labels["expression"] = label
    elif classes is not None:
        raise DataError(f"{rows.path}: data.classes is given, but there is no column 'expression'")
    felt: tuple[str, ...] = ()
    if "felt" in rows.cells:
        felt, label = rows.classes("felt", None)
        if felt:
            labels["felt"] = label
    affect = [name for name in ("valence", "arousal") if name in rows.cells]
    if len(affect) == 1:
        raise DataError(f"{rows.path}: '{affect[0]}' needs its partner, valence or arousal")
    if affect:
        expected = "-1 to 1 (other scales are to be rescaled)"
        columns = [rows.numbers(n, lambda v: np.abs(v) <= 1, expected) for n in affect]
        labels["va"] = np.stack(columns, 1)
    known = [(label >= 0).any() if label.dtype.kind == "i" else not np.isnan(label).all()
             for label in labels.values()]  # fmt: skip
    if not any(known):
        there = [n for n in (*rows.au_names, "expression", *affect, "felt") if n in rows.cells]
        what = f"no label is known in {', '.join(there)}. " if there else "no labels. "
        raise DataError(
            f"{rows.path}: {what}Columns with labels are AU1, AU2, ..., expression, "
            f"valence and arousal, felt; columns not used: {', '.join(rows.ignored) or 'none'}"
        )
    if "part" in rows.cells:
        labels["part"] = rows.text("part")
    groups = {name.removeprefix("attribute/"): rows.classes(name, None) for name in rows.attributes}
    labels["attributes"] = {name: index for name, (_, index) in groups.items()}
    aus = tuple(int(name.removeprefix("AU")) for name in rows.au_names)
    schema = LabelSchema(aus, names, bool(affect), felt)
    return schema, labels, {name: found for name, (found, _) in groups.items()}


def _action_units(rows: Table, threshold: float | None) -> dict[str, NDArray[np.float32]]:
    if threshold is None:
        expected = "0 or 1 (intensities 0 to 5 need data.au_threshold)"
        columns = [
            rows.numbers(name, lambda v: (v == 0) | (v == 1), expected) for name in rows.au_names
        ]
        return {"au": np.stack(columns, 1)}
    columns = [
        rows.numbers(name, lambda v: (v >= 0) & (v <= 5), "0 to 5") for name in rows.au_names
    ]
    intensity = np.stack(columns, 1)
    positive = np.where(np.isnan(intensity), np.nan, intensity >= threshold).astype(np.float32)
    return {"au": positive, "au_intensity": intensity}
