"""AffectNet (Mollahosseini et al., 2017): faces from the web with expression, valence, arousal."""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from rich.progress import track

from faceaffect.data.align import CropNode, FinderNode, Method, open_aligner
from faceaffect.data.dataset import FaceDataset, Samples
from faceaffect.data.labels import LabelTable, choose_tasks, line_of
from faceaffect.data.listed import (
    added,
    first_folder,
    index_of,
    numbers,
    of_classes,
    once,
    read_columns,
    there,
)
from faceaffect.data.video import IMAGE_SUFFIXES
from faceaffect.errors import DataError, RecipeError
from faceaffect.files import entries
from faceaffect.schema import LabelSchema

LABELS = LabelTable(
    {"0": "neutral", "1": "happiness", "2": "sadness", "3": "surprise", "4": "fear",
     "5": "disgust", "6": "anger", "7": "contempt"},
    {"8": "none", "9": "uncertain", "10": "no face"},
)  # fmt: skip
"""The codes 0 to 10; those from 8 on are no class."""

Layout = Literal["auto", "csv", "npy"]

_LISTS = ("", "Manually_Annotated_file_lists/")
_IMAGES = ("Manually_Annotated_Images", "Manually_Annotated/Manually_Annotated_Images",
           "Manually_Annotated")  # fmt: skip
_COLUMNS = ("subDirectory_filePath", "expression", "valence", "arousal")
_EXP = "_exp.npy"
_UNKNOWN_VA = -2
_HELP = (
    "Expected under data.root, as http://mohammadmahoor.com/affectnet/ distributes it on request: "
    "training.csv, validation.csv and Manually_Annotated_Images; or, as in 2021, "
    "train_set/images/0.jpg, train_set/annotations/0_exp.npy (0_val.npy, 0_aro.npy) and val_set"
)


class AffectNet(FaceDataset):
    """AffectNet's manually annotated pictures, in either form in which they were distributed.

    The published validation part is the test part, since that of the test is not published;
    validation pictures are carved out of the training part. People are not known. A picture of a
    class that is not asked for keeps its valence and arousal; one without any label is left out
    and counted, and so is one that is not on disk.

    Args:
        root: the folder that holds the lists or the folders of the parts.
        classes: the expressions to use, in index order; absent, all eight in the order of their
            codes.
        tasks: of ``expression`` and ``va`` those to use; absent, both.
        layout: ``csv``, the lists with whole pictures, or ``npy``, the faces of 2021 with a file
            for each label; ``auto`` takes the one that is there.
        align: ``auto`` cuts faces out by AffectNet's own landmarks, once, on disk; ``none`` takes
            the pictures as they are. Absent, ``auto`` for ``csv`` and ``none`` for ``npy``.
        crop: how faces are cut out, see :class:`~faceaffect.data.faces.crop.Crop`.
        finder: finds faces without landmarks, see ``faceaffect ls finders``; absent, ``mtcnn``.
        crop_cache: folder of the crops; absent, ``faceaffect_crops`` in the root.

    Raises:
        DataError: something is missing or makes no sense; the file is named.
        RecipeError: a class or a task is unknown.
    """

    def __init__(
        self,
        root: str,
        *,
        classes: list[str] | None = None,
        tasks: list[str] | None = None,
        layout: Layout = "auto",
        align: Method | None = None,
        crop: CropNode = None,
        finder: FinderNode = None,
        crop_cache: str | None = None,
    ) -> None:
        chosen, names = choose_tasks(tasks, ("expression", "va")), LABELS.choose(classes)
        if classes is not None and "expression" not in chosen:
            raise RecipeError("data.classes: without the task 'expression' there are no classes")
        folder = Path(root)
        kind = _layout(folder, layout)
        method = align or ("auto" if kind == "csv" else "none")
        read = _read_csv if kind == "csv" else _read_npy
        table, left_out = read(folder, chosen, method in ("auto", "landmarks"))
        known = table["valence"].notna().to_numpy() & table["arousal"].notna().to_numpy()
        others = known if "va" in chosen else np.zeros(len(table), bool)
        if "expression" not in chosen:
            table["expression"] = ""
        table, counts = of_classes(table, LABELS, names, others)
        if table.empty:
            raise DataError(f"{folder}: no picture with a label is left. {_HELP}")
        ids = table["file"].to_numpy(str)
        affect = table[["valence", "arousal"]].to_numpy(np.float32)
        samples = Samples(
            id=ids,
            subject=ids,
            expression=index_of(table["expression"], names) if "expression" in chosen else None,
            va=affect if "va" in chosen else None,
            part=table["part"].to_numpy(str),
        )
        super().__init__(
            LabelSchema(
                expressions=names if "expression" in chosen else (),
                valence_arousal="va" in chosen,
            ),
            samples,
            root=folder,
            subjects_known=False,
            left_out=added(left_out, counts),
            notes={"layout": kind},
            aligner=open_aligner(method, crop, finder, crop_cache, folder, own=kind == "csv"),
            labels=LABELS if "expression" in chosen else None,
            own_points=_points(table["landmarks"]) if "landmarks" in table else None,
        )


def _layout(root: Path, layout: Layout) -> Literal["csv", "npy"]:
    csv = any((root / place / "validation.csv").is_file() for place in _LISTS)
    npy = (root / "val_set").is_dir()
    if layout == "auto" and csv and npy:
        raise DataError(
            f"data.root: {root} holds both distributions; choose by data.layout=csv or npy"
        )
    if layout == "npy" or (layout == "auto" and npy):
        return "npy"
    if csv:
        return "csv"
    raise DataError(f"data.root: {root} holds neither validation.csv nor val_set. {_HELP}")


def _read_csv(
    root: Path, tasks: tuple[str, ...], points: bool
) -> tuple[pd.DataFrame, dict[str, int]]:
    images = first_folder(root, _IMAGES)
    if images is None:
        raise DataError(f"{root}: no folder of pictures, {' or '.join(_IMAGES)}. {_HELP}")
    parts = []
    for name, part in (("training.csv", "train"), ("validation.csv", "test")):
        files = [root / place / name for place in _LISTS]
        file = next((file for file in files if file.is_file()), None)
        if file is None:
            raise DataError(f"{files[0]} is missing. {_HELP}")
        table = read_columns(file, _COLUMNS, _HELP, ["facial_landmarks"] if points else [])
        found = pd.DataFrame(
            {
                "file": f"{images}/" + table["subDirectory_filePath"].str.replace("\\", "/"),
                "code": table["expression"],
                "expression": LABELS.read(table["expression"], line_of(file, table.index)),
                "valence": numbers(table["valence"], file, "valence", -1, 1, _UNKNOWN_VA),
                "arousal": numbers(table["arousal"], file, "arousal", -1, 1, _UNKNOWN_VA),
                "part": part,
            }
        )
        if "facial_landmarks" in table:
            found["landmarks"] = table["facial_landmarks"]
        parts.append(found)
    table, repeated = once(
        pd.concat(parts, ignore_index=True), root, ["code", "valence", "arousal"]
    )
    kept, counts = there(table, root, _HELP)
    return kept, repeated | counts


def _read_npy(
    root: Path, tasks: tuple[str, ...], points: bool
) -> tuple[pd.DataFrame, dict[str, int]]:
    parts, left_out = [], dict[str, int]()
    for name, part in (("train_set", "train"), ("val_set", "test")):
        images, labels = root / name / "images", root / name / "annotations"
        for folder in (images, labels):
            if not folder.is_dir():
                raise DataError(f"the folder {folder} is missing. {_HELP}")
        files = {
            file.stem: file.name
            for file in entries(images)
            if file.suffix.lower() in IMAGE_SUFFIXES
        }
        listed = {f.name.removesuffix(_EXP) for f in entries(labels) if f.name.endswith(_EXP)}
        used = sorted(files.keys() & listed, key=lambda stem: (len(stem), stem))
        left_out = added(
            left_out,
            {"not on disk": len(listed - files.keys()), "without a label": len(files) - len(used)},
        )
        at = [labels / f"{stem}{_EXP}" for stem in used]
        code = _values(at, f"{name}: expressions")
        columns: dict[str, Any] = {
            "file": [f"{name}/images/{files[stem]}" for stem in used],
            "code": code,
            "expression": LABELS.read(code, at.__getitem__),
            "part": part,
        }
        for key, word in (("val", "valence"), ("aro", "arousal")):
            columns[word] = np.nan
            if "va" in tasks:
                paths = [labels / f"{stem}_{key}.npy" for stem in used]
                columns[word] = _affect(paths, _values(paths, f"{name}: {word}"))
        parts.append(pd.DataFrame(columns))
    if not any(len(part) for part in parts):
        raise DataError(f"{root}: no picture has a label. {_HELP}")
    return pd.concat(parts, ignore_index=True), left_out


def _values(files: list[Path], what: str) -> list[str]:
    """Return the one value in each of very many small files, several at a time."""
    with ThreadPoolExecutor(8) as pool:
        found: Iterable[str] = pool.map(_value, files)
        return list(track(found, what, total=len(files), disable=len(files) < 10_000))


def _value(file: Path) -> str:
    try:
        value = str(np.load(file, allow_pickle=False).item())
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{file}: not readable as one label: {error}") from None
    return str(int(float(value))) if file.stem.endswith("_exp") and _is_whole(value) else value


def _is_whole(value: str) -> bool:
    try:
        return float(value).is_integer()
    except ValueError:
        return False


def _affect(files: list[Path], values: list[str]) -> NDArray[np.float32]:
    table = pd.to_numeric(pd.Series(values, dtype=str), errors="coerce").to_numpy(np.float64)
    wrong = ~((np.abs(table) <= 1) | (table == _UNKNOWN_VA))
    if wrong.any():
        first = int(wrong.argmax())
        raise DataError(f"{files[first]}: {values[first]} is not -1 to 1, nor -2 for unknown")
    return np.where(table == _UNKNOWN_VA, np.nan, table).astype(np.float32)


def _points(cells: pd.Series) -> NDArray[np.float32]:
    """Return (N, 68, 2) landmarks of cells such as ``12.5;40.1;...``, NaN where there are none."""
    points = np.full((len(cells), 68, 2), np.nan, np.float32)
    for row, cell in enumerate(cells):
        found = cell.split(";") if isinstance(cell, str) else []
        if len(found) == 136:
            try:
                points[row] = np.array(found, np.float32).reshape(68, 2)
            except ValueError:
                continue  # the finder looks for this face
    return points
