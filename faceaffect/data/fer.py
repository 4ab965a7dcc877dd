"""FER2013 (Goodfellow et al., 2013) and FERPlus (Barsoum et al., 2016), its votes of ten people."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from faceaffect.data.align import CropNode, FinderNode, Method, open_aligner
from faceaffect.data.dataset import FaceDataset, Loaded, Samples
from faceaffect.data.labels import LabelTable, line_of
from faceaffect.data.listed import added, index_of, of_classes, read_columns, there
from faceaffect.errors import DataError, shown
from faceaffect.schema import LabelSchema

LABELS = LabelTable(
    {"0": "anger", "1": "disgust", "2": "fear", "3": "happiness", "4": "sadness", "5": "surprise",
     "6": "neutral"}
)  # fmt: skip
"""The codes of FER2013."""

_VOTED = ("neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear", "contempt")
VOTES = LabelTable({name: name for name in _VOTED}, {"unknown": "unknown", "NF": "no face"})
"""The columns of FERPlus."""

Votes = Literal["majority", "soft", "crossentropy"]

_PARTS = {"Training": "train", "PublicTest": "val", "PrivateTest": "test"}
_FOLDERS = {"train": "FER2013Train", "val": "FER2013Valid", "test": "FER2013Test"}
_PIXELS = "fer2013.csv"
_NEW = ("fer2013new.csv", "FERPlus/fer2013new.csv", "FERPlus-master/fer2013new.csv")
_SIDE = 48
_STRETCH, _KAPPA = 500, 0.2
_HELP = (
    "Expected under data.root: fer2013.csv (emotion,pixels,Usage) of the Kaggle competition "
    "'Challenges in Representation Learning: Facial Expression Recognition'"
)
_PLUS_HELP = (
    "Expected under data.root: fer2013new.csv of https://github.com/microsoft/FERPlus, and the "
    "pictures: fer2013.csv of the Kaggle competition, or the folders FER2013Train, FER2013Valid "
    "and FER2013Test that FERPlus makes of it"
)


class _Fer(FaceDataset):
    """Faces of 48 x 48 grey pixels, in a table or in files."""

    pixels: NDArray[np.uint8] | None = None

    def path(self, index: int) -> Path | None:
        """Return the file of a face; None where its pixels stand in the table."""
        return None if self.pixels is not None else super().path(index)

    def load(self, index: int) -> Loaded:
        """Return one face; see :meth:`FaceDataset.load`."""
        if self.pixels is None:
            return super().load(index)
        face = np.repeat(self.pixels[index][..., None], 3, 2)
        return self.cropped(index, lambda: face)

    def twins(self) -> Iterable[list[int]]:
        """Return groups of faces that are equal in every pixel."""
        if self.pixels is None:
            return []
        groups: dict[bytes, list[int]] = {}
        for index, face in enumerate(self.pixels):
            groups.setdefault(face.tobytes(), []).append(index)
        return [same for same in groups.values() if len(same) > 1]


class Fer2013(_Fer):
    """FER2013 with the labels of its table, ``fer2013.csv``.

    ``Training`` is trained on, ``PublicTest`` validates, ``PrivateTest`` is tested. The table holds
    many faces twice, some of them in two parts: ``protocol: {name: official, on_leak: drop}``
    leaves those out of training.

    Args:
        root: the folder of the table.
        classes: the expressions to use, in index order; absent, all seven in the order of their
            codes.
        align: ``auto`` finds the face in each picture and crops to it, once, on disk; ``none``
            takes them as they are.
        crop: how faces are cut out, see :class:`~faceaffect.data.faces.crop.Crop`.
        finder: finds faces, see ``faceaffect ls finders``; absent, ``mtcnn``.
        crop_cache: folder of the crops; absent, ``faceaffect_crops`` in the root.

    Raises:
        DataError: the table is missing or makes no sense; the line is named.
        RecipeError: a class is unknown or named twice.
    """

    def __init__(
        self,
        root: str,
        *,
        classes: list[str] | None = None,
        align: Method = "none",
        crop: CropNode = None,
        finder: FinderNode = None,
        crop_cache: str | None = None,
    ) -> None:
        names, folder = LABELS.choose(classes), Path(root)
        file = folder / _PIXELS
        if not file.is_file():
            raise DataError(f"{file} is missing. {_HELP}")
        table = read_columns(file, ("emotion", "pixels", "Usage"), _HELP)
        table["part"] = _parts(table["Usage"], file)
        table["code"], table["number"] = table["emotion"], np.arange(len(table))
        table["expression"] = LABELS.read(table["emotion"], line_of(file, table.index))
        table, counts = of_classes(table, LABELS, names)
        if table.empty:
            raise DataError(f"{file}: no face of {', '.join(names)}")
        self.pixels = _pixels(table["pixels"], line_of(file, table.index))
        ids = _ids(table)
        samples = Samples(
            id=ids,
            subject=ids,
            expression=index_of(table["expression"], names),
            part=table["part"].to_numpy(str),
        )
        super().__init__(
            LabelSchema(expressions=names),
            samples,
            root=folder,
            subjects_known=False,
            left_out=added(counts),
            aligner=open_aligner(align, crop, finder, crop_cache, folder, own=False),
            labels=LABELS,
        )


class FerPlus(_Fer):
    """FERPlus: the faces of FER2013 with the votes of ten people for eight expressions.

    ``Training`` is trained on, ``PublicTest`` validates, ``PrivateTest`` is tested, always by the
    class that has more than half of the votes. Faces that most people call unknown or no face are
    left out and counted, and so are those of classes that are not asked for.

    Args:
        root: the folder of ``fer2013new.csv`` and the pictures.
        votes: what is trained on: ``majority``, the class with more than half of the votes, faces
            without one left out; ``soft``, the votes as they are, as shares of the classes;
            ``crossentropy``, the shares of the one to three leading classes, after FERPlus' own
            code: without single votes, classes of equal votes together, and only where they have
            more than half of all and are not more than three. The loss is the cross-entropy to the
            shares.
        classes: the expressions to use, in index order; absent, all eight in the order of the
            columns.
        align: ``auto`` finds the face in each picture and crops to it, once, on disk; ``none``
            takes them as they are.
        crop: how faces are cut out, see :class:`~faceaffect.data.faces.crop.Crop`.
        finder: finds faces, see ``faceaffect ls finders``; absent, ``mtcnn``.
        crop_cache: folder of the crops; absent, ``faceaffect_crops`` in the root.

    Raises:
        DataError: something is missing or makes no sense; the file is named.
        RecipeError: a class is unknown or named twice.
    """

    def __init__(
        self,
        root: str,
        *,
        votes: Votes = "majority",
        classes: list[str] | None = None,
        align: Method = "none",
        crop: CropNode = None,
        finder: FinderNode = None,
        crop_cache: str | None = None,
    ) -> None:
        names, folder = VOTES.choose(classes), Path(root)
        table, counts = _located(_votes(folder), folder)
        count = table[[*VOTES.codes, *VOTES.unknown]].to_numpy(np.float64)
        table["expression"], table["code"] = majority(count), leader(count)
        share = shares(count, votes)
        columns = [_VOTED.index(name) for name in names]
        mass = share[:, columns].sum(1)
        # Where most votes are for another class, or for no face, the rest of them is no label.
        soft = (mass > 0) & (count[:, columns].max(1) >= count.max(1)) & (votes != "majority")
        table["row"] = np.arange(len(table))
        table, others = of_classes(table, VOTES, names, soft, "without a majority")
        if table.empty:
            raise DataError(f"{folder}: no face of {', '.join(names)} is left. {_PLUS_HELP}")
        kept = table["row"].to_numpy(int)
        if "pixels" in table:
            self.pixels = _pixels(table["pixels"], line_of(folder / _PIXELS, table["line"]))
        ids = _ids(table) if "pixels" in table else table["file"].to_numpy(str)
        part = None
        if votes != "majority":
            with np.errstate(invalid="ignore"):
                part = (share[kept][:, columns] / mass[kept, None]).astype(np.float32)
            part[~soft[kept]] = np.nan
        samples = Samples(
            id=ids,
            subject=ids,
            expression=index_of(table["expression"], names),
            expression_share=part,
            part=table["part"].to_numpy(str),
        )
        super().__init__(
            LabelSchema(expressions=names),
            samples,
            root=folder,
            subjects_known=False,
            left_out=added(counts, others),
            notes={"votes": votes},
            aligner=open_aligner(align, crop, finder, crop_cache, folder, own=False),
            labels=VOTES,
        )


def majority(count: NDArray[np.float64]) -> NDArray[np.object_]:
    """Return the class with more than half of the votes of each face; else an empty name.

    Args:
        count: (N, 10) votes, in the order of the columns; single votes are passed over.
    """
    sure = np.where(count > 1, count, 0)
    first = sure.argmax(1)
    clear = (sure.max(1) > 0.5 * sure.sum(1)) & (first < len(_VOTED))
    return np.where(clear, np.array([*_VOTED, "", ""], object)[first], "")


def leader(count: NDArray[np.float64]) -> NDArray[np.object_]:
    """Return the column with the most votes of each face, the first of several."""
    named = np.array([*VOTES.codes, *VOTES.unknown], object)
    return np.asarray(named[count.argmax(1)])


def shares(count: NDArray[np.float64], votes: Votes) -> NDArray[np.float64]:
    """Return (N, 8) the votes for each class that are trained on, rows of zeros for none."""
    if votes != "crossentropy":
        return count[:, : len(_VOTED)]
    sure = np.where(count > 1, count, 0)
    total = sure.sum(1)
    ahead = sure[:, None, :] > sure[:, : len(_VOTED), None]
    # Classes are taken, those of equal votes together, until they have three quarters of the votes
    # or are three, up to where one is no class.
    taken = (ahead * sure[:, None, :]).sum(2) < 0.75 * total[:, None]
    taken &= (ahead.sum(2) < 3) & ~ahead[:, :, len(_VOTED) :].any(2)
    kept = np.where(taken, sure[:, : len(_VOTED)], 0)
    kept[(kept.sum(1) <= 0.5 * total) | ((kept > 0).sum(1) > 3)] = 0
    return kept


def _votes(root: Path) -> pd.DataFrame:
    file = next((root / name for name in _NEW if (root / name).is_file()), None)
    if file is None:
        raise DataError(f"{root / _NEW[0]} is missing. {_PLUS_HELP}")
    columns = [*VOTES.codes, *VOTES.unknown]
    table = read_columns(file, ("Usage", "Image name", *columns), _PLUS_HELP)
    table["part"], table["number"] = _parts(table["Usage"], file), np.arange(len(table))
    for name in columns:
        number = pd.to_numeric(table[name], errors="coerce")
        wrong = ~((number >= 0) & (number <= 100))
        if wrong.any():
            row = int(wrong.to_numpy().argmax())
            cell = shown(str(table[name].iloc[row]))
            raise DataError(f"{file}:{table.index[row]}: {name} is {cell}, no number of votes")
        table[name] = number
    return table


def _located(table: pd.DataFrame, root: Path) -> tuple[pd.DataFrame, dict[str, int]]:
    """Add ``pixels`` of the table of FER2013, or ``file`` in FERPlus' own folders."""
    file = root / _PIXELS
    if file.is_file():
        pixels = read_columns(file, ("pixels", "Usage"), _PLUS_HELP, ["emotion"])
        if pixels["Usage"].tolist() != table["Usage"].tolist():
            raise DataError(
                f"{file}: its rows are not those of fer2013new.csv ({len(pixels):,} and "
                f"{len(table):,}), so that faces would get the votes of others; take both as they "
                "were published"
            )
        _check_pairs(table, pixels, file)
        cells = pixels["pixels"].to_numpy()
        return table.assign(pixels=cells, line=pixels.index), {}
    if not any((root / name).is_dir() for name in _FOLDERS.values()):
        raise DataError(f"{root}: neither {_PIXELS} nor {_FOLDERS['train']}. {_PLUS_HELP}")
    unnamed = table["Image name"] == ""
    table = table[~unnamed]
    table = table.assign(file=table["part"].map(_FOLDERS) + "/" + table["Image name"])
    table, counts = there(table, root, _PLUS_HELP)
    return table, counts | {"without a picture": int(unnamed.sum())}


def _check_pairs(table: pd.DataFrame, pixels: pd.DataFrame, file: Path) -> None:
    """Refuse faces whose own codes have nothing to do with their votes: rows are in another order.

    What the two agree on more often than by chance (Cohen's kappa) is looked at in stretches of
    some hundred rows; fewer say too little.
    """
    if "emotion" not in pixels:
        return
    own = pixels["emotion"].map(LABELS.codes).to_numpy()
    voted = leader(table[[*VOTES.codes, *VOTES.unknown]].to_numpy(np.float64))
    for some in np.array_split(np.arange(len(own)), max(len(own) // _STRETCH, 1)):
        chance = sum((own[some] == name).mean() * (voted[some] == name).mean() for name in _VOTED)
        more = (own[some] == voted[some]).mean() - chance
        if len(some) >= _STRETCH and more < _KAPPA * (1 - chance):
            first, last = pixels.index[some[0]], pixels.index[some[-1]]
            raise DataError(
                f"{file}: lines {first} to {last} have other expressions than the votes beside "
                "them in fer2013new.csv, so that faces would get the votes of others; take both "
                "as they were published"
            )


def _parts(usage: pd.Series, file: Path) -> pd.Series:
    part = usage.map(_PARTS)
    if part.isna().any():
        row = int(part.isna().to_numpy().argmax())
        raise DataError(
            f"{file}:{usage.index[row]}: Usage is {shown(usage.iloc[row])}; expected "
            + ", ".join(_PARTS)
        )
    return part


def _pixels(cells: pd.Series, where: Callable[[int], str]) -> NDArray[np.uint8]:
    """Return (N, 48, 48) of N cells with 2,304 numbers; ``where`` calls them by their lines."""
    faces = np.empty((len(cells), _SIDE, _SIDE), np.uint8)
    for number, cell in enumerate(cells):
        try:
            values = np.array(cell.split(), np.int64)
        except (ValueError, OverflowError):
            values = np.empty(0, np.int64)
        if len(values) != _SIDE**2 or values.min() < 0 or values.max() > 255:
            raise DataError(f"{where(number)}: no {_SIDE} x {_SIDE} pixels from 0 to 255")
        faces[number] = values.reshape(_SIDE, _SIDE)
    return faces


def _ids(table: pd.DataFrame) -> NDArray[np.str_]:
    return (table["part"] + table["number"].map("/{:05d}".format)).to_numpy(str)
