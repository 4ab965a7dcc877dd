"""Writing a dataset as shards; see :mod:`faceaffect.data.shards`."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from rich.progress import track
from torch.utils.data import DataLoader, Dataset

from faceaffect.data.batch import LABELS, SIGNALS
from faceaffect.data.dataset import FaceDataset
from faceaffect.data.formats import HEAD, picture_format
from faceaffect.data.image import decode_image, pixel_limit, read_bytes
from faceaffect.data.shards import (
    MANIFEST,
    PICTURES,
    checksum,
    describe,
    manifest_hash,
    pictures_hash,
    require_datasets,
)
from faceaffect.data.workers import cores, reading
from faceaffect.errors import DataError, RecipeError, needs_extra
from faceaffect.files import replacing, write_atomically

Row = dict[str, Any]

_BATCH = 64  # rows in one piece of a file; clips of many frames fit in memory


def write_shards(
    dataset: FaceDataset, folder: Path, *, megabytes: int = 256, workers: int | None = None,
    max_pixels: int,
) -> dict[str, Any]:  # fmt: skip
    """Write all samples of a dataset, and return the manifest, which is written last.

    Args:
        dataset: that is prepared, so that its crops are made.
        folder: new or empty, or one that an interrupted call has left, which is written anew.
        megabytes: a file is closed once it is so large.
        workers: processes that read; absent, one for each processor but one.
        max_pixels: of the largest picture that is decoded.

    Raises:
        RecipeError: the folder holds other files.
    """
    datasets = require_datasets()
    from datasets.arrow_writer import ArrowWriter

    folder.mkdir(parents=True, exist_ok=True)
    _clear(folder)
    number = max(0, cores() - 1) if workers is None else workers
    rows = _rows(dataset, number, max_pixels)
    features = datasets.Features(_features(datasets, dataset))
    files: list[dict[str, Any]] = []
    said: list[list[Any]] = [[], [], [], []]
    row = next(rows, None)
    while row is not None:
        file, count, size = f"{len(files):05d}.arrow", 0, 0
        with replacing(folder / file) as part:
            writer = ArrowWriter(path=str(part), features=features, writer_batch_size=_BATCH)
            while row is not None and size < megabytes * 10**6:
                writer.write(row)
                count, size = count + 1, size + sum(map(len, row["image"]))
                for column, name in zip(said, ("clip", "error", "content", "check"), strict=True):
                    column.append(row[name])
                row = next(rows, None)
            writer.finalize()
            writer.close()
        files.append({"name": file, "rows": count, "bytes": (folder / file).stat().st_size})
    about: dict[str, Any] = {**describe(dataset), "files": files, "pictures": pictures_hash(*said)}
    about["unreadable"] = sum(map(bool, said[1]))
    about = dict(json.loads(json.dumps(about)))
    about["sha256"] = manifest_hash(about)
    write_atomically(folder / MANIFEST, json.dumps(about, indent=1))
    return about


def write_tars(
    dataset: FaceDataset, folder: Path, *, megabytes: int = 256, workers: int | None = None,
    max_pixels: int,
) -> dict[str, Any]:  # fmt: skip
    """Write the readable samples as tar files that WebDataset reads: pictures, and labels as JSON.

    Arguments and result are those of :func:`write_shards`.
    """
    try:
        from webdataset import ShardWriter
    except ImportError:
        raise RecipeError(needs_extra("--webdataset", "webdataset", "shards")) from None
    folder.mkdir(parents=True, exist_ok=True)
    _clear(folder)
    about = describe(dataset)
    number = max(0, cores() - 1) if workers is None else workers
    unreadable = count = 0
    pattern, most = str(folder / "%05d.tar"), megabytes * 10**6
    with ShardWriter(pattern, maxsize=most, maxcount=10**9, verbose=0) as writer:
        for row in _rows(dataset, number, max_pixels):
            if row["error"]:
                unreadable += 1
                continue
            writer.write(_tar_sample(count, row))
            count += 1
    tars = sorted(folder.glob("*.tar"))
    files = [{"name": t.name, "rows": 0, "bytes": t.stat().st_size} for t in tars]
    files[0]["rows"] = count
    about |= {"files": files, "unreadable": unreadable}
    write_atomically(folder / "about.json", json.dumps(about, indent=1))
    return about


def _tar_sample(number: int, row: Row) -> Row:
    """Return a sample in the form of WebDataset: bytes by what ends their names."""
    sample: Row = {"__key__": f"{number:09d}"}
    for frame, data in enumerate(row["image"]):
        kind = {"JPEG": "jpg"}.get(picture_format(data[:HEAD]) or "", "png")
        sample[f"{frame:03d}.{kind}" if row["clip"] else kind] = data
    labels = {name: value for name, value in row.items() if name not in PICTURES}
    labels |= {"landmarks": row["landmarks"], "pose": row["pose"]}
    plain = {n: v.tolist() if hasattr(v, "tolist") else v for n, v in labels.items()}
    return sample | {"json": json.dumps(plain).encode()}


def _clear(folder: Path) -> None:
    if (folder / MANIFEST).exists():
        raise RecipeError(f"{folder}: holds shards already; name another folder, or remove it")
    others = [p.name for p in folder.iterdir() if not p.name.endswith((".arrow", ".part"))]
    if others:
        raise RecipeError(f"{folder}: is not empty (such as {others[0]}); name a new folder")
    for left in folder.iterdir():  # of a call that was interrupted
        left.unlink()


def _rows(dataset: FaceDataset, workers: int, max_pixels: int) -> Iterator[Row]:
    loader: DataLoader[Row] = DataLoader(
        _Reader(dataset, max_pixels),
        batch_size=16,
        num_workers=workers,
        collate_fn=list,
        worker_init_fn=reading,
    )
    for batch in track(loader, "writing shards", transient=True):
        yield from batch


class _Reader(Dataset[Row]):
    """Reads samples as rows."""

    def __init__(self, dataset: FaceDataset, max_pixels: int) -> None:
        self.dataset, self.max_pixels = dataset, max_pixels
        self.labels = _label_columns(dataset)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Row:
        with pixel_limit(self.max_pixels):
            labels = {name: column[index] for name, column in self.labels.items()}
            return labels | _pictures(self.dataset, index)


def _pictures(dataset: FaceDataset, index: int) -> Row:
    """Return what is read of a sample; of one that cannot be read the reason, as it is then too."""
    none = np.empty(0, np.float32)
    row: Row = {"image": [], "clip": False, "landmarks": none, "pose": none, "error": "",
                "content": "", "check": ""}  # fmt: skip
    try:
        face = dataset.load(index)
    except (DataError, OSError) as error:
        return row | {"error": str(error) or type(error).__name__}
    row["clip"] = face.image.ndim == 4
    frames = face.image if row["clip"] else face.image[None]
    own = None if row["clip"] else _same_bytes(dataset, index, face.image)
    row["image"] = [own] if own else [_png(frame) for frame in frames]
    for name, value in (("landmarks", face.landmarks), ("pose", face.pose)):
        if value is not None:
            row[name] = np.asarray(value, np.float32).ravel()
    row["content"] = checksum("", row["image"], none, none)
    name = str(dataset.samples.id[index])
    row["check"] = checksum(name, row["image"], row["landmarks"], row["pose"])
    return row


def _same_bytes(dataset: FaceDataset, index: int, image: NDArray[np.uint8]) -> bytes | None:
    """Return the file of a sample if it holds these very pixels, else None."""
    path = dataset.path(index)
    try:
        data = b"" if path is None else read_bytes(path)
        same = bool(data) and np.array_equal(decode_image(data, Path(path or "")), image)
    except (DataError, OSError):
        return None
    return data if same else None


def _png(frame: NDArray[np.uint8]) -> bytes:
    done, data = cv2.imencode(".png", cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
    assert done
    return data.tobytes()


def _label_columns(dataset: FaceDataset) -> dict[str, NDArray[Any]]:
    samples = dataset.samples
    names = ("id", "subject", "part", *LABELS, *SIGNALS, "instance")
    columns = {name: getattr(samples, name) for name in names}
    for name in SIGNALS:  # a row of numbers each; how many of them are a step, the manifest says
        if columns[name] is not None:
            columns[name] = columns[name].reshape(len(samples), -1)
    columns |= {f"attribute/{name}": column for name, column in samples.attributes.items()}
    columns |= {"weight": dataset.weights, "origin": dataset.origin}
    return {name: column for name, column in columns.items() if column is not None}


def _features(datasets: Any, dataset: FaceDataset) -> dict[str, Any]:
    value, many = datasets.Value, datasets.List
    kinds = {"U": "large_string", "i": "int64", "f": "float32"}
    found: dict[str, Any] = {}
    for name, column in _label_columns(dataset).items():
        kind = value("float64" if name == "weight" else kinds[column.dtype.kind])
        found[name] = kind if column.ndim == 1 else many(kind)
    return found | {
        "image": many(value("large_binary")),
        "clip": value("bool"),
        "landmarks": many(value("float32")),
        "pose": many(value("float32")),
        "error": value("string"),
        "content": value("string"),
        "check": value("string"),
    }
