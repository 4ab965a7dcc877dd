"""CASME II (Yan et al., 2014): 26 people's micro-expressions at 200 frames a second, with AUs."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from faceaffect.data.align import CropNode, FinderNode, Method, open_aligner
from faceaffect.data.dataset import FaceDataset, Loaded, Samples
from faceaffect.data.frames import find_folder, named_folders, numbered_files
from faceaffect.data.image import read_image
from faceaffect.data.labels import LabelTable, choose_tasks, line_of
from faceaffect.data.listed import (
    added,
    check_frames,
    index_of,
    named,
    of_classes,
    once,
    read_columns,
)
from faceaffect.data.moments import evenly
from faceaffect.errors import DataError, RecipeError, needs_extra, shown
from faceaffect.files import entries
from faceaffect.schema import LabelSchema

AUS = (1, 2, 4, 7, 12, 14, 15, 17)
"""The AUs that are coded most often."""

_FIVE = {"happiness": "happiness", "disgust": "disgust", "repression": "repression",
         "surprise": "surprise", "others": "others"}  # fmt: skip
_RARE = {"sadness": "sadness", "fear": "fear"}
SCHEMES = {
    "five": LabelTable(_FIVE, _RARE),
    "three": LabelTable(
        {"happiness": "positive", "disgust": "negative", "repression": "negative",
         "surprise": "surprise"},
        {"others": "others", **_RARE},
    ),
    "seven": LabelTable(_FIVE | _RARE),
}  # fmt: skip
"""The usual classes: five, or the three of the micro-expression challenges (MEGC 2019)."""

Scheme = Literal["five", "three", "seven"]
Sample = Literal["apex", "three", "clip"]

_COLUMNS = ("Subject", "Filename", "OnsetFrame", "ApexFrame", "OffsetFrame", "Action Units",
            "Estimated Emotion")  # fmt: skip
_IMAGES = {
    "cropped": ("Cropped", "CASME2_Cropped", "CASME2-Cropped"),
    "raw": ("CASME2_RAW_selected", "CASME2-RAW", "CASME2_RAW"),
}
_HELP = (
    "Expected under data.root, as http://casme.psych.ac.cn/casme/e2 distributes it on request: "
    "CASME2-coding-20140508.xlsx (or that table saved as .csv), and "
    "Cropped/sub01/EP02_01f/reg_img46.jpg or CASME2_RAW_selected/sub01/EP02_01f/img46.jpg"
)


class Casme2(FaceDataset):
    """CASME II as it is distributed: the apex frame, or a clip, of each micro-expression.

    The usual protocol leaves one person out. Micro-expressions of classes that are not asked for,
    without an apex where it is needed, and without pictures are left out and counted.

    Args:
        root: the folder that holds the coding table and the pictures.
        tasks: of ``au`` and ``expression`` those to use; absent, both.
        scheme: ``five`` (happiness, disgust, repression, surprise, others), ``three`` of the MEGC
            challenges (positive; negative, which is disgust and repression; surprise) or
            ``seven``, with sadness and fear, which have a handful.
        classes: the expressions of the scheme to use, in index order; absent, all.
        aus: the AUs in column order; absent, those that are coded most often.
        sample: ``apex``, one picture; ``three``, a clip of onset, apex and offset; ``clip``, a
            clip from onset to offset.
        frames: evenly spaced frames of a ``clip``.
        images: ``cropped`` faces or ``raw`` pictures; ``auto`` takes the cropped if they are there.
        align: ``auto`` finds the face in each picture and crops to it, once, on disk; ``none``
            takes the pictures as they are. Absent, ``none`` for cropped and ``auto`` for raw ones.
        crop: how faces are cut out, see :class:`~faceaffect.data.faces.crop.Crop`.
        finder: finds faces, see ``faceaffect ls finders``; absent, ``mtcnn``.
        crop_cache: folder of the crops; absent, ``faceaffect_crops`` in the root.

    Raises:
        DataError: something is missing or makes no sense; the file is named.
        RecipeError: an argument is out of range.
    """

    usual_protocol: str | None = "leave_one_subject_out"

    def __init__(
        self,
        root: str,
        *,
        tasks: list[str] | None = None,
        scheme: Scheme = "five",
        classes: list[str] | None = None,
        aus: list[int] | None = None,
        sample: Sample = "apex",
        frames: int = 16,
        images: Literal["auto", "cropped", "raw"] = "auto",
        align: Method | None = None,
        crop: CropNode = None,
        finder: FinderNode = None,
        crop_cache: str | None = None,
    ) -> None:
        check_frames(frames)
        chosen, labels = choose_tasks(tasks, ("au", "expression")), SCHEMES[scheme]
        names, units = labels.choose(classes), _units(aus)
        folder = Path(root)
        file, coding, repeated = _coding(folder)
        kind, place = _images(folder, images)
        coding["code"] = coding["Estimated Emotion"].str.lower()
        coding["expression"] = labels.read(coding["code"], line_of(file, coding.index))
        coding["row"] = np.arange(len(coding))
        active = np.array([_active(cell, units) for cell in coding["Action Units"]], np.float32)
        others = np.full(len(coding), "au" in chosen)
        table, counts = of_classes(coding, labels, names, others)
        self.sample, self.count = sample, frames
        files = _files(table, place, sample, file)
        gone = np.array([not some for some in files])
        without = gone & (table["ApexFrame"].map(_number).isna().to_numpy() & (sample != "clip"))
        table = table[~gone]
        if table.empty:
            raise DataError(f"{place}: holds none of the coded micro-expressions. {_HELP}")
        self.files = [some for some in files if some]
        expression = index_of(table["expression"], names)
        samples = Samples(
            id=np.array([file.relative_to(folder).as_posix() for file, *_ in self.files]),
            subject=table["person"].to_numpy(str),
            au=active[table["row"].to_numpy(int)] if "au" in chosen else None,
            expression=expression if "expression" in chosen else None,
        )
        super().__init__(
            LabelSchema(
                aus=units if "au" in chosen else (),
                expressions=names if "expression" in chosen else (),
            ),
            samples,
            root=folder,
            left_out=added(
                repeated,
                counts,
                {
                    "without an apex": int(without.sum()),
                    "not on disk": int((gone & ~without).sum()),
                },
            ),
            notes={"coding": file.name, "scheme": scheme, "sample": sample, "images": kind},
            aligner=open_aligner(
                align or ("none" if kind == "cropped" else "auto"),
                crop,
                finder,
                crop_cache,
                folder,
                own=False,
            ),
            labels=labels if "expression" in chosen else None,
        )

    def load(self, index: int) -> Loaded:
        """Decode the apex, or the frames of a clip; see :meth:`FaceDataset.load`."""
        files = self.files[index]
        if self.sample == "apex":
            return super().load(index)
        chosen = evenly(range(len(files)), self.count if self.sample == "clip" else None)
        return self.cropped(index, lambda: np.stack([read_image(files[i]) for i in chosen]))


def _units(aus: list[int] | None) -> tuple[int, ...]:
    chosen = AUS if aus is None else tuple(aus)
    if not chosen or min(chosen) < 1:
        raise RecipeError("data.aus: name at least one action unit by its FACS number")
    return chosen


def _coding(root: Path) -> tuple[Path, pd.DataFrame, dict[str, int]]:
    """Return the coding table, its file, and what of it is left out."""
    if not root.is_dir():
        raise DataError(f"data.root: the folder {root} is missing. {_HELP}")
    found = sorted(
        file
        for file in entries(root)
        if re.fullmatch(r"CASME2?-coding.*\.(xlsx|csv)", file.name, re.I)
    )
    stems = {file.stem for file in found}
    if not found:
        raise DataError(f"{root}: no coding table CASME2-coding-20140508.xlsx. {_HELP}")
    if len(stems) > 1:
        raise DataError(
            f"{root}: coding tables of several years, {', '.join(sorted(stems))}: leave one there"
        )
    file = found[0]  # a .csv before the .xlsx that it was saved from
    saved = file.suffix.lower() == ".csv"
    table = read_columns(file, _COLUMNS, _HELP) if saved else _excel(file)
    unnamed = table["Filename"] == ""
    table = table[~unnamed].copy()
    table["person"] = table["Subject"].map(_person)
    wrong = table["person"].isna()
    if wrong.any():
        line, cell = table.index[wrong][0], table["Subject"][wrong].iloc[0]
        raise DataError(f"{file}:{line}: Subject is {shown(cell)}, no number of a person")
    table["file"] = table["person"] + "/" + table["Filename"] + "/" + table["OnsetFrame"]
    table, counts = once(table, root, _COLUMNS[3:])
    return file, table, {"without a file name": int(unnamed.sum())} | counts


def _excel(file: Path) -> pd.DataFrame:
    try:
        table = pd.read_excel(file, dtype=str)
    except ImportError:
        raise DataError(needs_extra(f"{file}: an Excel workbook", "openpyxl", "excel")) from None
    except Exception as error:  # a damaged workbook raises whatever its parts do
        raise DataError(f"{file}: not readable as a workbook: {error}. {_HELP}") from None
    wanted = {name.lower(): name for name in _COLUMNS}
    return named(table.fillna(""), file, _COLUMNS, wanted, _HELP)


def _person(cell: str) -> str | None:
    match = re.fullmatch(r"(?:sub)?0*(\d+)(?:\.0)?", cell.lower())
    return f"sub{int(match[1]):02d}" if match else None


def _number(cell: str) -> int | None:
    match = re.fullmatch(r"(\d+)(?:\.0)?", cell)
    return int(match[1]) if match else None


def _active(cell: str, aus: tuple[int, ...]) -> list[float]:
    """Return 1 for each AU that a cell such as ``4+L10+R12`` names; a doubtful one is unknown.

    >>> _active("4+R12?", (1, 4, 12))
    [0.0, 1.0, nan]
    """
    found = {int(number): bool(doubt) for number, doubt in re.findall(r"(\d+)\s*(\??)", cell)}
    return [0.0 if au not in found else np.nan if found[au] else 1.0 for au in aus]


def _images(root: Path, images: str) -> tuple[str, Path]:
    for kind in ("cropped", "raw") if images == "auto" else (images,):
        folder = find_folder(root, _IMAGES[kind])
        if folder is not None:
            inner = find_folder(folder, [folder.name])
            return kind, inner or folder
    kinds = list(_IMAGES) if images == "auto" else [images]
    tried = ", ".join(str(root / name) for kind in kinds for name in _IMAGES[kind])
    raise DataError(f"no pictures: none of the folders {tried} is there. {_HELP}")


def _files(table: pd.DataFrame, place: Path, sample: Sample, file: Path) -> list[list[Path]]:
    """Return the pictures of each micro-expression, an empty list where they are not there."""
    people = named_folders(place, r"SUB0*\d+")
    folders = {str(_person(name)): folder for name, folder in people.items()}
    found = []
    for _, row in table.iterrows():
        folder = (
            find_folder(folders[row["person"]], [row["Filename"]])
            if row["person"] in folders
            else None
        )
        pictures: Mapping[int, Path] = numbered_files(folder) if folder else {}
        found.append(_chosen(row, pictures, sample, file))
    return found


def _chosen(row: Any, pictures: Mapping[int, Path], sample: Sample, file: Path) -> list[Path]:
    onset, apex, offset = (_number(row[n]) for n in ("OnsetFrame", "ApexFrame", "OffsetFrame"))
    if onset is None or offset is None or onset > offset:
        raise DataError(
            f"{file}: {row['person']}/{row['Filename']}: no frames from {shown(row['OnsetFrame'])} "
            f"to {shown(row['OffsetFrame'])}"
        )
    if sample == "clip":
        return [pictures[n] for n in range(onset, offset + 1) if n in pictures]
    wanted = [apex] if sample == "apex" else [onset, apex, offset]
    return (
        [pictures[n] for n in wanted if n is not None and n in pictures]
        if all(n in pictures for n in wanted)
        else []
    )
