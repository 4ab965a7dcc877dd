"""EMER (Liu et al., arXiv 2411.05879): clips of faces, eye tracks and felt emotions.

The set is given out on signed request, and no description of its files is published. What is read
here is what the authors' repository shows: its README, and a loader in an older state of it.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from rich.progress import track

from faceaffect.data.dataset import FaceDataset, Loaded, Samples
from faceaffect.data.listed import added, check_fold, check_frames, index_of, numbers
from faceaffect.data.names import expression_name, is_unknown, plain
from faceaffect.data.places import find_files
from faceaffect.data.video import read_media
from faceaffect.errors import DataError, RecipeError, needs_extra
from faceaffect.errors import shown as quoted
from faceaffect.files import entries, replacing
from faceaffect.progress import console
from faceaffect.schema import STRONGEST, LabelSchema

CLASSES = ("happiness", "sadness", "fear", "surprise", "disgust", "anger", "neutral")
"""In the order of the README; which code stands for which, it does not say."""

FOLDS = 5
STEPS = 32
"""Into so many pieces of equal length a recording is divided, as the authors do."""

_GAZE = ("Gaze point X", "Gaze point Y")
_HELP = (
    "Expected under data.root: new_label.xlsx with the columns ID and Emotion, face/set1/ID/ to "
    "face/set5/ID/ with the pictures of each clip, and eye/ID.xlsx; ask for the set as "
    "https://github.com/kejun1/EMER says"
)


class Emer(FaceDataset):
    """EMER's clips with eye tracks, one of the five published parts tested.

    Read in the authors' code: the folders ``face/set1`` to ``face/set5`` and ``eye``, the workbook
    ``new_label.xlsx`` with ``ID``, ``Emotion``, ``Valence``, ``Arousal`` and ``Intensity``, 32
    pieces of an eye track, and that the input called fixations is the gaze point of each. Inferred:
    that ``Emotion`` is what is felt. Ours: the mean of each piece in place of a moment drawn from
    it. Unknown, and so asked for: the order of the codes, who is who, and the column of what is
    shown.

    Args:
        root: the folder that holds ``new_label.xlsx``, ``face`` and ``eye``; each table may also
            lie there as ``.csv``.
        fold: which part is tested, 1 to 5.
        felt: the column of what is felt.
        shown: the column of what the face shows; absent, that is not labelled.
        codes: the seven classes in the order of their codes from 0; needed where cells are numbers.
        person: the column that says who is seen; absent, each clip counts as a person of its own.
        screen: width and height of the screen in pixels, by which gaze points are divided.
        frames: evenly spaced frames that are read of a clip.
        image_size: side to which frames are scaled, in pixels; absent, they keep their size.
        eye_cache: folder of the shortened tracks; absent, ``faceaffect_eyes`` in the root.

    Raises:
        DataError: something is missing or makes no sense; the file is named.
        RecipeError: an argument is out of range.
    """

    def __init__(
        self,
        root: str,
        *,
        fold: int = 1,
        felt: str = "Emotion",
        shown: str | None = None,
        codes: list[str] | None = None,
        person: str | None = None,
        screen: list[int] | tuple[int, int] = (1920, 1080),
        frames: int = 8,
        image_size: int | None = None,
        eye_cache: str | None = None,
    ) -> None:
        check_fold(fold, FOLDS)
        check_frames(frames)
        order = _order(codes)
        if len(screen) != 2 or min(screen) < 1:
            raise RecipeError(f"data.screen: {list(screen)} is no width and height in pixels")
        folder = Path(root)
        file, table = _labels(folder, [felt, *filter(None, (shown, person))])
        clips, counts = _clips(folder, table)
        table = table.loc[clips["ID"]]
        eyes, fixations = _tracks(
            folder, clips["ID"].tolist(), screen, Path(eye_cache or folder / "faceaffect_eyes")
        )
        affect = [_numbers(table, file, name, -1, 1) for name in ("Valence", "Arousal")]
        va = None if any(column is None for column in affect) else np.stack(affect, 1)  # type: ignore[arg-type]
        strength = _numbers(table, file, "Intensity", 0, STRONGEST)
        ids = clips["file"].to_numpy(str)
        samples = Samples(
            id=ids,
            subject=table[person].to_numpy(str) if person else ids,
            felt=_classes(table, file, felt, order),
            expression=_classes(table, file, shown, order) if shown else None,
            va=va,
            intensity=None if strength is None else strength[:, None],
            eyes=eyes,
            fixations=fixations,
            part=np.where(clips["set"] == fold, "test", "train"),
        )
        self.frames, self.image_size = frames, image_size
        super().__init__(
            LabelSchema(
                (), CLASSES if shown else (), va is not None, CLASSES, strength is not None
            ),
            samples,
            root=folder,
            subjects_known=person is not None,
            left_out=counts,
            notes={"fold": fold, "frames": frames, "felt": felt, "shown": shown},
        )

    def load(self, index: int) -> Loaded:
        """Decode evenly spaced frames of a clip; see :meth:`FaceDataset.load`."""
        path = self.path(index)
        assert path is not None
        return Loaded(read_media(path, self.frames, self.image_size))


def _order(codes: Sequence[str] | None) -> tuple[str, ...] | None:
    if codes is None:
        return None
    names = tuple(expression_name(str(name)) for name in codes)
    if sorted(names) != sorted(CLASSES):
        raise RecipeError(f"data.codes: each of {', '.join(CLASSES)} once, in the order of codes")
    return names


def _labels(root: Path, needed: Sequence[str]) -> tuple[Path, pd.DataFrame]:
    """Return the file of labels and its rows as text, by ID."""
    file = _table_at(root, "new_label")
    if file is None:
        raise DataError(f"{root / 'new_label.xlsx'} is missing. {_HELP}")
    table = _read(file).rename(columns=lambda name: str(name).strip())
    absent = [name for name in ("ID", *needed) if name not in table]
    if absent:
        raise DataError(
            f"{file}: no column {', '.join(absent)}; it has {', '.join(map(str, table.columns))}"
        )
    table = table[table["ID"] != ""]
    twice = table["ID"][table["ID"].duplicated()]
    if len(twice):
        raise DataError(f"{file}: the ID {quoted(twice.iloc[0])} is there twice")
    table.index = pd.Index(table["ID"])
    return file, table


def _table_at(folder: Path, stem: str) -> Path | None:
    """Return a table as .csv, before the workbook that it was saved from."""
    found = find_files(folder, [f"{stem}.csv", f"{stem}.xlsx"])
    return next((folder / n for n, ok in zip(found.name, found.there, strict=True) if ok), None)


def _read(file: Path) -> pd.DataFrame:
    try:
        if file.suffix.lower() == ".csv":
            table = pd.read_csv(file, dtype=str, keep_default_na=False, encoding="utf-8-sig")
        else:
            table = pd.read_excel(file, dtype=str)
    except ImportError:
        raise DataError(needs_extra(f"{file}: an Excel workbook", "openpyxl", "excel")) from None
    except Exception as error:  # a damaged workbook raises whatever its parts do
        raise DataError(f"{file}: not readable as a table: {error}. {_HELP}") from None
    return table.fillna("").map(str.strip)


def _clips(root: Path, table: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, int]]:
    """Return ``file``, ``ID`` and ``set`` of each clip with a label, and what is left out."""
    rows = []
    for number in range(1, FOLDS + 1):
        place = root / "face" / f"set{number}"
        if not place.is_dir():
            raise DataError(f"data.root: the folder {place} is missing. {_HELP}")
        rows += [(f"face/set{number}/{entry.name}", entry.name, number)
                 for entry in entries(place) if entry.is_dir()]  # fmt: skip
    clips = pd.DataFrame(rows, columns=["file", "ID", "set"])
    double = clips["ID"].duplicated()
    if double.any():
        raise DataError(f"{root}: {quoted(clips['ID'][double].iloc[0])} lies in two parts")
    known = clips["ID"].isin(table.index)
    if not known.any():
        raise DataError(f"{root}: no clip has a label. {_HELP}")
    lost = int((~table.index.isin(clips["ID"])).sum())
    return clips[known], added({"without a label": int((~known).sum()), "not on disk": lost})


def _classes(
    table: pd.DataFrame, file: Path, column: str, order: tuple[str, ...] | None
) -> NDArray[np.int64]:
    names = []
    for name, cell in table[column].items():
        text = plain(cell)
        if is_unknown(text):
            names.append("")
        elif text.isdecimal():
            if order is None:
                raise DataError(
                    f"{file}: {column} holds codes such as {text}, and what they stand for is not "
                    "published: say data.codes=[...], the seven classes in the order of the codes"
                )
            if int(text) >= len(order):
                raise DataError(f"{file}: {quoted(str(name))}: {column} is {text}, expected 0 to 6")
            names.append(order[int(text)])
        else:
            names.append(expression_name(text))
            if names[-1] not in CLASSES:
                raise DataError(
                    f"{file}: {quoted(str(name))}: {column} is {quoted(cell)}; expected one of "
                    f"{', '.join(CLASSES)}"
                )
    return index_of(pd.Series(names), CLASSES)


def _numbers(
    table: pd.DataFrame, file: Path, column: str, low: float, high: float
) -> NDArray[np.float32] | None:
    """Return a column of numbers, NaN where a cell is empty; None without the column."""
    if column not in table:
        return None
    cells = table[column].where(~table[column].map(is_unknown), "-99")
    return numbers(cells, file, column, low, high, -99)


def _tracks(
    root: Path, ids: Sequence[str], screen: Sequence[int], cache: Path
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return eye tracks (N, 32, D) and gaze points (N, 32, 2); NaN where there is no recording."""
    folder = root / "eye"
    kinds = [find_files(folder, [f"{name}{kind}" for name in ids]) for kind in (".xlsx", ".csv")]
    files = {n: folder / at for of in kinds for n, at, there in
             zip(ids, of.name, of.there, strict=True) if there}  # fmt: skip
    steps = track(files.items(), "reading eye tracks", console=console, transient=True)
    found = {name: _short(file, cache) for name, file in steps}
    if not found:
        raise DataError(f"{root / 'eye'}: no eye track of any clip is there. {_HELP}")
    columns = list(dict.fromkeys(column for one in found.values() for column in one))
    empty = pd.DataFrame(np.nan, index=range(STEPS), columns=columns)
    tables = [found.get(name, empty).reindex(columns=columns) for name in ids]
    eyes = np.stack([table.to_numpy(np.float32) for table in tables])
    gaze = np.stack([table.reindex(columns=_GAZE).to_numpy(np.float32) for table in tables])
    return eyes, (gaze / np.array(screen)).astype(np.float32)


def _short(file: Path, cache: Path) -> pd.DataFrame:
    """Return the means of 32 pieces of a recording, from the cache if it is of this very file."""
    stat = file.stat()
    about = f"{file.resolve()}|{stat.st_size}|{stat.st_mtime_ns}|{STEPS}"
    kept = cache / f"{hashlib.sha256(about.encode()).hexdigest()[:24]}.csv"
    if kept.is_file():
        return pd.read_csv(kept)
    table = _read(file).rename(columns=lambda name: str(name).split("[")[0].strip())
    absent = [name for name in _GAZE if name not in table]
    if absent or table.columns.duplicated().any():
        what = f"no column {absent[0]}" if absent else "a column is there twice"
        raise DataError(f"{file}: {what}; it has {', '.join(map(str, table.columns))}")
    values = table.apply(pd.to_numeric, errors="coerce")
    piece = np.arange(len(values)) * STEPS // max(len(values), 1)
    short: pd.DataFrame = values.groupby(piece).mean().reindex(range(STEPS))
    cache.mkdir(parents=True, exist_ok=True)
    with replacing(kept) as part:
        short.to_csv(part, index=False)
    return short
