"""Who is who in a dataset: people joined by byte-identical images."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from faceaffect.data.dataset import FaceDataset
from faceaffect.data.fingerprints import NOTHING, fingerprints
from faceaffect.data.names import sorted_unique


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
    names, subject = sorted_unique(dataset.samples.subject)
    equal = chain(_identical_files(dataset, subject), dataset.twins())
    identical = [same for same in equal if len({*subject[same].tolist()}) > 1]
    pairs = np.array(
        [(subject[same[0]], subject[other]) for same in identical for other in same[1:]], np.int64
    ).reshape(-1, 2)
    edges = coo_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), (len(names), len(names)))
    count, component = connected_components(edges, directed=False)
    several = np.flatnonzero((np.bincount(component) > 1)[component])
    joined = [names[of].tolist() for of in _groups(component[several], several)]
    return People(component[subject].astype(np.int64), int(count), joined, identical)


def _identical_files(dataset: FaceDataset, subject: NDArray[np.int64]) -> Iterable[list[int]]:
    """Return groups of samples whose files are equal, reading as little as needed.

    Only files of one size in which several people occur are opened, and only those whose ends
    agree are read whole. Files that are missing or empty are equal to none.
    """
    here = Path.cwd()
    of_path = [
        path if path is None or path.startswith(here.anchor) else os.path.join(here, path)  # noqa: PTH118
        for path in dataset.paths()
    ]
    file, once = pd.factorize(np.array(of_path, object))
    prints = fingerprints(once.tolist())
    rows = np.flatnonzero(file >= 0)
    rows = rows[prints.size[file[rows]] > 0]
    kind = _kinds(prints.size[file[rows]])
    for read in (prints.tails, prints.wholes):
        shared = _several_people(kind, subject[rows])
        rows, kind = rows[shared], kind[shared]
        opened, back = np.unique(file[rows], return_inverse=True)
        content = read(opened)
        readable = (content != NOTHING)[back]
        rows, kind, content = rows[readable], kind[readable], content[back][readable]
        kind = _kinds(kind, *content.view(np.int64).reshape(-1, 2).T)
    shared = _several_people(kind, subject[rows])
    return _groups(kind[shared], rows[shared])


def _kinds(*columns: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return a number from 0 for each of N rows, the same where all columns (N,) are the same."""
    kind = np.zeros(len(columns[0]), np.int64)
    for column in columns:
        code, once = pd.factorize(column)
        kind = pd.factorize(kind * len(once) + code)[0].astype(np.int64)
    return kind


def _several_people(kind: NDArray[np.int64], subject: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return which rows are of a kind, told by a number from 0, in which several people occur."""
    lowest = np.full(kind.max(initial=-1) + 1, np.iinfo(np.int64).max)
    highest = np.full(len(lowest), -1)
    np.minimum.at(lowest, kind, subject)
    np.maximum.at(highest, kind, subject)
    several: NDArray[np.bool_] = lowest != highest
    return several[kind]


def _groups(kind: NDArray[Any], rows: NDArray[np.int64]) -> list[list[int]]:
    """Return the rows of each kind, ascending, in the order of their first rows."""
    if not len(rows):
        return []
    order = np.argsort(kind, kind="stable")
    edges = np.flatnonzero(np.diff(kind[order])) + 1
    return sorted(part.tolist() for part in np.split(rows[order], edges))
