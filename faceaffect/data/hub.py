"""Datasets in the form of Hugging Face ``datasets``: local folders and files, or of the hub."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from rich.progress import track

from faceaffect.data.align import CropNode, FinderNode, Method, open_aligner
from faceaffect.data.dataset import FaceDataset, Loaded, Samples
from faceaffect.data.image import decode_image, read_image
from faceaffect.data.labels import LabelTable
from faceaffect.data.names import expression_name, is_unknown, plain
from faceaffect.data.table import parts_of
from faceaffect.errors import DataError, RecipeError, first_line, needs_extra, shown, unknown
from faceaffect.schema import LabelSchema

_MANY = 10_000


class HubFaces(FaceDataset):
    """Pictures of a dataset of Hugging Face ``datasets``, with any columns of labels.

    Needs ``pip install 'faceaffect[hf]'``. Splits called train, validation (valid, val, dev) and
    test are the published parts; where there is no test but a validation part, that is the test
    part. Nothing of the hub is run, and nothing is fetched unless ``download`` says so.

    Args:
        path: a folder that ``save_to_disk`` wrote, a folder of pictures or tables that
            ``load_dataset`` reads, or ``owner/name`` on the hub.
        config: which configuration of it, where it has several.
        revision: which commit, tag or branch on the hub.
        download: whether it may be fetched; else it has to be in the cache.
        image: the column of pictures.
        label: the column of expressions: class labels, names, or numbers with ``names``; None for
            a dataset without.
        names: what the numbers 0, 1, ... of the column stand for, where it does not say so itself.
        classes: the expressions to use, in index order; absent, all, in the order of their numbers
            or else of the alphabet.
        valence: the column of valence, -1 to 1.
        arousal: the column of arousal, -1 to 1.
        subject: the column that tells who is seen; absent, people are not known.
        unknown: what stands for an unknown label, besides empty cells, words such as ``unknown``
            and -1 among class labels.
        align: ``auto`` finds the face in each picture and crops to it, once, on disk; ``none``
            takes pictures that are cropped already.
        crop: how faces are cut out, see :class:`~faceaffect.data.faces.crop.Crop`.
        finder: finds faces, see ``faceaffect ls finders``; absent, ``mtcnn``.
        crop_cache: folder of the crops, which ``align: auto`` needs.

    Raises:
        DataError: it is not there, cannot be read, or holds other labels than said.
        RecipeError: a column or a class is unknown, or arguments contradict each other.
    """

    def __init__(
        self,
        path: str,
        *,
        config: str | None = None,
        revision: str | None = None,
        download: bool = False,
        image: str = "image",
        label: str | None = "label",
        names: list[str] | None = None,
        classes: list[str] | None = None,
        valence: str | None = None,
        arousal: str | None = None,
        subject: str | None = None,
        unknown: list[Any] | None = None,
        align: Method = "none",
        crop: CropNode = None,
        finder: FinderNode = None,
        crop_cache: str | None = None,
    ) -> None:
        if (valence is None) != (arousal is None):
            raise RecipeError("data.valence and data.arousal need each other")
        if label is None and valence is None:
            raise RecipeError("data.label: without expressions, valence and arousal are needed")
        if align != "none" and crop_cache is None:
            raise RecipeError("data.crop_cache: a folder is needed for the crops of data.align")
        splits = _open(path, config, revision, download)
        self.image, self.codes = image, unknown or []
        self.splits = _with_pictures(splits, image, (label, valence, arousal, subject), path)
        counts = {name: len(split) for name, split in self.splits.items()}
        self.place = [(name, row) for name, count in counts.items() for row in range(count)]
        table, found = None, None
        if label is not None:
            table, found = self._classes(label, names)
        chosen = table.choose(classes) if table else ()
        affect = self._affect(valence, arousal) if valence and arousal else None
        index = None
        if found is not None:
            index = np.array([chosen.index(n) if n in chosen else -1 for n in found], np.int64)
        known = np.zeros(len(self.place), bool)
        known |= index >= 0 if index is not None else False
        known |= ~np.isnan(affect).any(1) if affect is not None else False
        ids = np.array([f"{name or 'all'}/{row:06d}" for name, row in self.place])
        people = self._people(subject) if subject else ids
        parts = _parts(list(counts))
        samples = Samples(
            id=ids,
            subject=people,
            expression=index,
            va=affect,
            part=None if parts is None else np.array([parts[name] for name, _ in self.place]),
        ).take(known)
        self.place = [place for place, keep in zip(self.place, known.tolist(), strict=True) if keep]
        if not self.place:
            raise DataError(f"data.path: no picture in {path} has a label")
        cache = Path(crop_cache) if crop_cache else Path()
        super().__init__(
            LabelSchema(expressions=chosen, valence_arousal=affect is not None),
            samples,
            subjects_known=subject is not None,
            left_out=_lost(found, known),
            notes={"path": path, "splits": counts} | ({"revision": revision} if revision else {}),
            aligner=open_aligner(align, crop, finder, crop_cache, cache, own=False),
            labels=table,
        )

    def load(self, index: int) -> Loaded:
        """Decode one picture; see :meth:`FaceDataset.load`."""
        name, row = self.place[index]
        where = Path(f"{name}/{row}")
        cell = self.splits[name][row][self.image]
        return self.cropped(index, lambda: _decode(cell, where))

    def twins(self) -> Iterable[list[int]]:
        """Return groups of pictures whose bytes are equal."""
        groups: dict[bytes, list[int]] = {}
        few = len(self.place) < _MANY
        for index, (name, row) in enumerate(track(self.place, "comparing pictures", disable=few)):
            data = _bytes(self.splits[name][row][self.image])
            if data:
                groups.setdefault(hashlib.blake2b(data).digest(), []).append(index)
        return [same for same in groups.values() if len(same) > 1]

    def _column(self, name: str) -> list[Any]:
        return [value for split in self.splits.values() for value in split[name]]

    def _where(self, row: int) -> str:
        """Return how an error calls a row."""
        name, number = self.place[row]
        return f"row {number:,} of {name or 'the data'}"

    def _people(self, subject: str) -> NDArray[np.str_]:
        """Return who each row shows."""
        values = self._column(subject)
        people = ["" if value is None else plain(str(value)) for value in values]
        for row, person in enumerate(people):
            if is_unknown(person, ()):
                raise DataError(
                    f"{self._where(row)}: {subject} names nobody; without data.subject each "
                    "picture is a person of its own"
                )
        return np.array(people, str)

    def _classes(self, label: str, names: list[str] | None) -> tuple[LabelTable, list[str]]:
        """Return the label table, and the class of each sample, empty where it is unknown."""
        own = _names(self.splits, label)
        if own and names:
            raise RecipeError(f"data.names: the column '{label}' has names: {', '.join(own)}")
        values = self._column(label)
        if own or names:
            listed = list(own or names or ())
            codes = {str(i): expression_name(str(name)) for i, name in enumerate(listed)}
            table = LabelTable(codes, {"-1": "unknown"} | {str(c): "unknown" for c in self.codes})
            cells = ["-1" if value is None else str(value) for value in values]
            return table, table.read(cells, self._where)
        if any(isinstance(value, (int, float)) for value in values):
            raise RecipeError(
                f"data.names: the column '{label}' holds numbers; say what 0, 1, ... stand for"
            )
        cells = ["" if value is None else plain(str(value)) for value in values]
        words = sorted({cell for cell in cells if not is_unknown(cell, self.codes)})
        table = LabelTable({w: expression_name(w) for w in sorted(words, key=expression_name)})
        return table, [table.codes.get(cell, "") for cell in cells]

    def _affect(self, valence: str, arousal: str) -> NDArray[np.float32]:
        columns = []
        for name in (valence, arousal):
            values = self._column(name)
            absent = np.array([v is None or is_unknown(str(v), self.codes) for v in values], bool)
            numbers = pd.to_numeric(pd.Series(values, dtype=object), errors="coerce").to_numpy(
                float
            )
            absent &= ~(
                np.abs(numbers) <= 1
            )  # a code that is a number of the column is that number
            wrong = ~absent & ~(np.abs(numbers) <= 1)
            if wrong.any():
                row = int(wrong.argmax())
                raise DataError(
                    f"{self._where(row)}: {name} is {shown(values[row])}, not -1 to 1; "
                    f"data.unknown=[{values[row]}] if it stands for an unknown one"
                )
            columns.append(np.where(absent, np.nan, numbers))
        return np.stack(columns, 1).astype(np.float32)


def _open(path: str, config: str | None, revision: str | None, download: bool) -> dict[str, Any]:
    """Return the splits of a dataset by their names."""
    try:
        import datasets
    except ImportError:
        raise RecipeError(needs_extra("data.name: 'hf'", "datasets", "hf")) from None
    folder = Path(path)
    try:
        if (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file():
            found = datasets.load_from_disk(path)
        else:
            if not folder.exists() and (path.startswith((".", "/", "~")) or path.count("/") != 1):
                raise DataError(f"data.path: {path} is no folder, and no owner/name on the hub")
            with nullcontext() if download else _offline():
                found = datasets.load_dataset(path, config, revision=revision)
    except DataError:
        raise
    except Exception as error:  # whatever its many readers raise
        fetch = "" if folder.exists() or download else "; data.download=true fetches it"
        raise DataError(f"data.path: {path}: {first_line(error)}{fetch}") from None
    return dict(found) if isinstance(found, Mapping) else {"": found}


@contextmanager
def _offline() -> Iterator[None]:
    """Let nobody ask the hub; both libraries look this up each time before they ask."""
    from datasets import config
    from huggingface_hub import constants

    before = config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE
    config.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE = before


def _names(splits: dict[str, Any], label: str) -> list[str] | None:
    """Return the names that class labels have, None where the column is none of class labels."""
    found = {name: getattr(split.features[label], "names", None) for name, split in splits.items()}
    (first, names), *others = found.items()
    for name, other in others:
        if other != names:
            raise DataError(
                f"data.label: '{label}' of {first} has the classes {', '.join(names or ['none'])}, "
                f"but that of {name} {', '.join(other or ['none'])}: save both with one list"
            )
    return names


def _with_pictures(
    splits: dict[str, Any], image: str, columns: tuple[str | None, ...], path: str
) -> dict[str, Any]:
    """Return the splits with pictures as bytes, and no other columns than are needed."""
    import datasets

    wanted = [name for name in dict.fromkeys((image, *columns)) if name]
    for name in wanted:
        for split in splits.values():
            if name not in split.column_names:
                raise RecipeError(unknown(f"data: columns of {path}", name, split.column_names))
    feature = datasets.Image(decode=False)
    try:
        return {
            name: split.select_columns(wanted).cast_column(image, feature)
            for name, split in splits.items()
        }
    except Exception as error:
        raise DataError(
            f"data.image: '{image}' is no column of pictures: {first_line(error)}"
        ) from None


def _parts(names: list[str]) -> dict[str, str] | None:
    """Return the part that each split is, None where no split is called so."""
    parts = parts_of(names)
    return parts if {"train", "test"} <= {*parts.values()} else None


def _lost(found: list[str] | None, known: NDArray[np.bool_]) -> dict[str, int]:
    """Count what has no label that is used."""
    lost: dict[str, int] = {}
    for row in np.flatnonzero(~known).tolist():
        reason = f"class {found[row]}" if found and found[row] else "without a label"
        lost[reason] = lost.get(reason, 0) + 1
    return lost


def _bytes(cell: Any) -> bytes:
    if cell and cell.get("bytes"):
        return bytes(cell["bytes"])
    try:
        return Path(cell["path"]).read_bytes() if cell and cell.get("path") else b""
    except OSError:
        return b""  # reading it reports that later


def _decode(cell: Any, where: Path) -> NDArray[np.uint8]:
    if cell and cell.get("bytes"):
        return decode_image(bytes(cell["bytes"]), where)
    if cell and cell.get("path"):
        return read_image(Path(cell["path"]))
    raise DataError(f"{where}: the cell holds no picture")
