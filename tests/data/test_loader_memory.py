"""Processes that read share the label table: none of them grows over an epoch."""

from multiprocessing import active_children
from pathlib import Path

import numpy as np
import pytest

from faceaffect.data.dataset import FaceDataset, Loaded, Samples
from faceaffect.data.loader import BatchReader, FaceLoader
from faceaffect.data.sampler import EpochBatches
from faceaffect.schema import LabelSchema

ROWS = 200_000
EARLY, LATE = 60, 300
"""Batches after which memory is looked at; the first ones fill what Python and torch keep."""


class Blank(FaceDataset):
    """Black faces; ``listed`` keeps a Python object for each of them, as one must not."""

    def __init__(self, listed: bool) -> None:
        names = np.arange(ROWS).astype("U7")
        samples = Samples(id=names, subject=names, expression=np.zeros(ROWS, np.int64))
        super().__init__(LabelSchema(expressions=("anger", "fear")), samples)
        self.listed = [f"a name of its own {name}" for name in range(ROWS)] if listed else None

    def load(self, index: int) -> Loaded:
        assert self.listed is None or self.listed[index]
        return Loaded(np.zeros((8, 8, 3), np.uint8))


def megabytes_of_their_own() -> float:
    """Return the memory that the processes that read share with nobody."""
    found = 0
    for child in active_children():
        lines = Path(f"/proc/{child.pid}/smaps_rollup").read_text().splitlines()
        found += sum(int(line.split()[1]) for line in lines if line.startswith("Private_Dirty"))
    return found / 1024


def growth(listed: bool) -> float:
    batches = EpochBatches(np.arange(ROWS), 32, train=True)
    loader = FaceLoader(BatchReader(Blank(listed), 8), batches, workers=2)
    sizes = {}
    for number, _ in enumerate(loader):
        if number in (EARLY, LATE):
            sizes[number] = megabytes_of_their_own()
        if number == LATE:
            break
    loader.close()
    return sizes[LATE] - sizes[EARLY]


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="Linux alone tells")
def test_processes_that_read_do_not_grow() -> None:
    grown = growth(listed=False)
    assert grown < 6
    assert growth(listed=True) > grown + 6  # so it would be seen
