"""A dataset in a few large files: its pictures, labels, people and parts as Arrow shards.

Hugging Face ``datasets`` maps the files into memory, so that any sample is read at once and in any
order: the order of training stays a function of (seed, epoch), and a run goes on amid an epoch.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from faceaffect.data.batch import SIGNALS
from faceaffect.data.dataset import FaceDataset, Loaded, Samples
from faceaffect.data.faces.crop import Crop
from faceaffect.data.image import decode_image
from faceaffect.errors import DataError, FaceAffectError, RecipeError, first_line, needs_extra
from faceaffect.schema import CLASS_TASKS, LabelSchema

MANIFEST = "shards.json"
VERSION = 2
PICTURES = ("image", "clip", "landmarks", "pose", "error", "content", "check")
"""Columns that say what a sample looks like; all others are labels."""


class Shards(FaceDataset):
    """What ``faceaffect shard`` wrote: samples, labels, people and parts as the dataset had them.

    Needs ``pip install 'faceaffect[shards]'``. Labels are equal to the bit, pictures are the bytes
    of the files or, of what was cropped, pixels without loss. Each sample is checked against its
    hash when it is read, the labels and the length of each file when the folder is opened.

    Args:
        root: the folder, or its address on a store that ``fsspec`` reads, such as ``s3://`` or
            ``gs://``; those shards are fetched once, to ``cache``.
        cache: the folder for what is fetched; absent, one in the user's cache.

    Raises:
        DataError: the folder is missing or not complete, or a file of it is damaged.
    """

    def __init__(self, root: str, *, cache: str | None = None) -> None:
        if not root:
            raise RecipeError("data.root: is empty")
        self.folder = _fetched(root, cache) if "://" in root else Path(root).expanduser()
        about = _manifest(self.folder)
        table = _open(self.folder, about["files"])
        schema = LabelSchema.from_dict(about["schema"])
        samples = _samples(table, schema, about["attributes"], about.get("signals", {}))
        if labels_hash(samples) != about["labels"]:
            raise DataError(f"{self.folder}: the labels are damaged; write or fetch it anew")
        super().__init__(
            schema,
            samples,
            subjects_known=about["subjects_known"],
            left_out=about["left_out"],
            attribute_names={name: tuple(of) for name, of in about["attributes"].items()},
            folds=about["folds"] and {name: tuple(of) for name, of in about["folds"].items()},
            notes=about["notes"],
            weights=_column(table, "weight") if "weight" in table.column_names else None,
            crop=about["crop"] and Crop.from_dict(about["crop"]),
        )
        if "origin" in table.column_names:
            self.origin = _column(table, "origin").astype(str)
        self.usual_protocol = about["usual_protocol"]
        about_pictures = [_column(table, name) for name in ("clip", "error", "content", "check")]
        if pictures_hash(*about_pictures) != about["pictures"]:
            raise DataError(f"{self.folder}: a shard is damaged; write or fetch it anew")
        self.clip, error = about_pictures[:2]
        self.errors = {int(index): str(error[index]) for index in np.flatnonzero(error != "")}
        self.content, self.check = (column.astype("S32") for column in about_pictures[2:])
        self.mapped = Mapped(table.select_columns(["image", "landmarks", "pose"]))

    def load(self, index: int) -> Loaded:
        """Decode one sample; see :meth:`FaceDataset.load`."""
        name = str(self.samples.id[index])
        if index in self.errors:
            raise DataError(self.errors[index])
        images, landmarks, pose = self.mapped.row(index)
        if checksum(name, images, landmarks, pose).encode() != self.check[index]:
            raise DataError(f"{name}: damaged in its shard in {self.folder}")
        pixels = [decode_image(bytes(image), Path(name)) for image in images]
        clip = bool(self.clip[index])
        shape = (-1, 68, 2) if clip else (68, 2)
        return Loaded(
            np.stack(pixels) if clip else pixels[0],
            landmarks.reshape(shape).copy() if len(landmarks) else None,
            pose.copy() if len(pose) else None,
        )

    def twins(self) -> Iterable[list[int]]:
        """Return groups of samples whose pictures are equal in every byte."""
        _, first, kind, count = np.unique(
            self.content, return_index=True, return_inverse=True, return_counts=True
        )
        kind[self.content == b""] = -1
        groups: dict[int, list[int]] = {int(kind[i]): [] for i in first[count > 1] if kind[i] >= 0}
        for index in np.flatnonzero(np.isin(kind, list(groups))).tolist():
            groups[int(kind[index])].append(index)
        return groups.values()


class Mapped:
    """Pictures, landmarks and poses as they lie in the files, which are mapped into memory.

    A row is a slice of them; nothing is copied, and no object of Arrow is made for it.

    Args:
        table: of Hugging Face ``datasets``; what goes to another process is the name of its files.
    """

    def __init__(self, table: Any) -> None:
        self.table = table
        columns = [table.data.column(name).chunks for name in table.column_names]
        self.starts = np.cumsum([0, *(len(chunk) for chunk in columns[0])])
        self.chunks = [tuple(map(_lists, parts)) for parts in zip(*columns, strict=True)]

    def __reduce__(self) -> Any:
        return Mapped, (self.table,)

    def row(self, index: int) -> tuple[list[memoryview], NDArray[Any], NDArray[Any]]:
        """Return the bytes of each picture, landmarks and pose; empty for none."""
        chunk = int(np.searchsorted(self.starts, index, "right")) - 1
        at = index - int(self.starts[chunk])
        (places, ends, data), *geometry = self.chunks[chunk]
        images = [
            data[ends[i] : ends[i + 1]].data for i in range(int(places[at]), int(places[at + 1]))
        ]
        landmarks, pose = (values[p[at] : p[at + 1]] for p, _, values in geometry)
        return images, landmarks, pose


def _lists(chunk: Any) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Return where the list of each row begins, where each of its items does, and the items.

    Items of a width of their own (bytes) begin where the second array says; others need none.
    """
    places, values = chunk.offsets.to_numpy(), chunk.values
    if values.type.num_buffers != 3:
        return places, places, values.to_numpy()
    _, ends, data = values.buffers()
    if data is None:
        return places, np.zeros(len(values) + 1, np.int64), np.empty(0, np.uint8)
    ends = np.frombuffer(ends, np.int64)[values.offset : values.offset + len(values) + 1]
    return places, ends, np.frombuffer(data, np.uint8)


def checksum(name: str, images: Iterable[Any], landmarks: NDArray[Any], pose: NDArray[Any]) -> str:
    """Return a hash of all that is read of one sample."""
    digest = hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=16)
    for part in (*images, landmarks.tobytes(), pose.tobytes()):
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.hexdigest()


def labels_hash(samples: Samples) -> str:
    """Return a hash of all columns of the label table."""
    digest = hashlib.sha256()
    for name, column in sorted((vars(samples) | samples.attributes).items()):
        if isinstance(column, np.ndarray):
            text = column.dtype.kind == "U"
            digest.update(f"{name} {column.shape}".encode())
            digest.update(json.dumps(column.tolist()).encode() if text else column.tobytes())
    return digest.hexdigest()


def pictures_hash(
    clip: Iterable[bool], error: Iterable[str], content: Iterable[str], check: Iterable[str]
) -> str:
    """Return a hash of what is said of all samples beside their pictures."""
    digest = hashlib.sha256()
    for row in zip(clip, error, content, check, strict=True):
        digest.update("\0".join((str(int(row[0])), *row[1:])).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def describe(dataset: FaceDataset) -> dict[str, Any]:
    """Return what a dataset is besides its samples, as plain values."""
    measured = {name: getattr(dataset.samples, name) for name in SIGNALS}
    signals = {name: list(s.shape[1:]) for name, s in measured.items() if s is not None}
    return {
        "version": VERSION,
        "schema": dataset.schema.to_dict(),
        "subjects_known": dataset.subjects_known,
        "left_out": dataset.left_out,
        "attributes": {name: list(dataset.attribute_names.get(name, ()))
                       for name in dataset.samples.attributes},
        **({"signals": signals} if signals else {}),
        "folds": dataset.folds,
        "notes": dataset.notes,
        "crop": dataset.crop and asdict(dataset.crop),
        "usual_protocol": dataset.usual_protocol,
        "labels": labels_hash(dataset.samples),
    }  # fmt: skip


def require_datasets() -> Any:
    """Return the package ``datasets``.

    Raises:
        RecipeError: it is not installed.
    """
    try:
        import datasets
    except ImportError:
        raise RecipeError(needs_extra("shards", "datasets", "shards")) from None
    return datasets


def _manifest(folder: Path) -> dict[str, Any]:
    file = folder / MANIFEST
    if not file.is_file():
        what = "is missing" if not folder.exists() else f"holds no {MANIFEST}"
        raise DataError(f"data.root: {folder} {what}: 'faceaffect shard RECIPE {folder}' writes it")
    try:
        about: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        own, version = about.pop("sha256"), about["version"]
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise DataError(f"{file}: damaged: {first_line(error)}") from None
    if version != VERSION:
        raise DataError(f"{file}: of version {version}, and version {VERSION} is read")
    if own != manifest_hash(about):
        raise DataError(f"{file}: damaged or changed by hand; write or fetch it anew")
    return about


def manifest_hash(about: dict[str, Any]) -> str:
    """Return the SHA-256 of a manifest without its own hash."""
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()


def _open(folder: Path, files: list[dict[str, Any]]) -> Any:
    datasets = require_datasets()
    for file in files:
        path = folder / file["name"]
        size = path.stat().st_size if path.is_file() else None
        if size != file["bytes"]:
            state = "missing" if size is None else f"cut off or changed: {size:,} bytes"
            raise DataError(f"{path}: is {state}, and {file['bytes']:,} bytes were written")
    try:
        parts = [datasets.Dataset.from_file(str(folder / file["name"])) for file in files]
        table = datasets.concatenate_datasets(parts)
        table.data.validate(full=True)  # offsets that lead out of the file would end the process
    except Exception as error:  # whatever the reader raises of damage
        raise DataError(f"{folder}: a shard is damaged: {first_line(error)}") from None
    if len(table) != sum(file["rows"] for file in files):
        raise DataError(f"{folder}: {len(table):,} samples, fewer or more than were written")
    return table


def _samples(
    table: Any, schema: LabelSchema, attributes: Iterable[str], signals: dict[str, list[int]]
) -> Samples:
    widths = {"au": len(schema.aus), "au_intensity": len(schema.aus), "va": 2, "intensity": 1,
              "expression_share": len(schema.expressions)}  # fmt: skip
    columns: dict[str, Any] = {}
    for name in ("id", "subject", "part"):
        columns[name] = _column(table, name).astype(str) if name in table.column_names else None
    for name, width in widths.items():
        if name in table.column_names:
            columns[name] = _column(table, name).reshape(-1, width)
    for name in (*CLASS_TASKS, "instance"):
        if name in table.column_names:
            columns[name] = _column(table, name)
    for name, shape in signals.items():
        columns[name] = _column(table, name).reshape(-1, *shape)
    groups = {name: _column(table, f"attribute/{name}") for name in attributes}
    return Samples(**columns, attributes=groups)


def _column(table: Any, name: str) -> NDArray[Any]:
    """Return a column as an array of its own, lists one after another."""
    column = table.data.column(name).combine_chunks()
    values = column.flatten() if hasattr(column, "flatten") and column.type.num_fields else column
    return np.array(values.to_numpy(zero_copy_only=False))


def _fetched(root: str, cache: str | None) -> Path:
    """Return a folder with the shards of a store; those that are there are not fetched again."""
    import fsspec
    from filelock import FileLock

    from faceaffect.data.fingerprints import cache_folder
    from faceaffect.files import replacing

    name = hashlib.sha256(root.encode()).hexdigest()[:16]
    folder = (Path(cache) if cache else cache_folder().parent / "shards") / name
    folder.mkdir(parents=True, exist_ok=True)
    try:
        store, path = fsspec.core.url_to_fs(root)
        with FileLock(folder / ".lock"):
            with replacing(folder / MANIFEST) as part:
                store.get_file(f"{path.rstrip('/')}/{MANIFEST}", str(part))
            for file in _manifest(folder)["files"]:
                place = folder / file["name"]
                if place.is_file() and place.stat().st_size == file["bytes"]:
                    continue
                with replacing(place) as part:
                    store.get_file(f"{path.rstrip('/')}/{file['name']}", str(part))
    except FaceAffectError:
        raise
    except Exception as error:  # whatever a store and its library raise
        what = first_line(error) or type(error).__name__
        raise DataError(f"data.root: {root} cannot be read: {what}") from None
    return folder
