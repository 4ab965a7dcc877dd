"""Who is who in a dataset: people joined by byte-identical images."""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from stat import S_ISREG

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from faceaffect.data.dataset import FaceDataset

_TAIL = 4096


@dataclass
class People:
    """The people of N samples; those who share a byte-identical image are one group.

    Attributes:
        group: (N,) number of the group, in the order of the groups' first names.
        count: number of groups.
        joined: the names of each group of several people.
        identical: indices of samples with equal files, one list for each content that occurs
            under several names.
    """

    group: NDArray[np.int64]
    count: int
    joined: list[list[str]]
    identical: list[list[int]]


def people(dataset: FaceDataset) -> People:
    """Find the people of a dataset and join those who share a byte-identical image."""
    names, subject = np.unique(dataset.samples.subject, return_inverse=True)
    equal = chain(_identical_files(dataset, subject), dataset.twins())
    identical = [same for same in equal if len({*subject[same].tolist()}) > 1]
    pairs = np.array(
        [(subject[same[0]], subject[other]) for same in identical for other in same[1:]], np.int64
    ).reshape(-1, 2)
    edges = coo_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), (len(names), len(names)))
    count, component = connected_components(edges, directed=False)
    size = np.bincount(component)
    joined = [names[component == c].tolist() for c in np.flatnonzero(size > 1)]
    return People(component[subject].astype(np.int64), int(count), joined, identical)


def _identical_files(dataset: FaceDataset, subject: NDArray[np.intp]) -> Iterable[list[int]]:
    """Yield groups of samples whose files are equal, reading as little as needed.

    Only files of one size in which several people occur are opened, and only those whose ends
    agree are read whole. Files that are missing or empty are equal to none.
    """
    paths: dict[int, Path] = {}
    by_size: dict[object, list[int]] = defaultdict(list)
    for index in range(len(dataset)):
        path = dataset.path(index)
        size = _size(path)
        if path is not None and size:
            paths[index] = path
            by_size[size].append(index)
    groups: Iterable[list[int]] = by_size.values()
    for key in (_tail, _digest):
        groups = _refine(groups, paths, subject, key)
    return groups


def _refine(
    groups: Iterable[list[int]],
    paths: dict[int, Path],
    subject: NDArray[np.intp],
    key: Callable[[Path], bytes],
) -> Iterable[list[int]]:
    for group in groups:
        if len(group) < 2 or len({*subject[group].tolist()}) < 2:
            continue
        read: dict[Path, bytes] = {}
        parts: dict[bytes, list[int]] = defaultdict(list)
        for index in group:
            path = paths[index]
            if path not in read:
                read[path] = key(path)
            if read[path]:
                parts[read[path]].append(index)
        yield from (part for part in parts.values() if len(part) > 1)


def _size(path: Path | None) -> int:
    try:
        stat = path.stat() if path is not None else None
    except OSError:
        return 0
    return stat.st_size if stat is not None and S_ISREG(stat.st_mode) else 0


def _tail(path: Path) -> bytes:
    """Return the end of a file, nothing if it cannot be read: reading it reports that later."""
    try:
        with path.open("rb") as file:
            file.seek(-min(_TAIL, path.stat().st_size), 2)
            return file.read()
    except OSError:
        return b""


def _digest(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "blake2b").digest()
    except OSError:
        return b""
