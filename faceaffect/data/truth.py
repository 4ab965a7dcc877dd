"""The labels of one side of a split, as a table and as a hash."""

import hashlib
from typing import Any

import numpy as np
import pandas as pd

from faceaffect.data.base import FaceDataModule
from faceaffect.data.protocols import SIDES
from faceaffect.schema import CLASS_TASKS, NUMBER_TASKS
from faceaffect.scores.predictions import truth_columns

LABELS = "labels of the {} part"
"""What the hash of a side is called in the file that says what a run is made of."""


def truth_table(data: FaceDataModule, side: str = "test") -> pd.DataFrame:
    """Return subject and labels of a side of the split, as in a ``predictions.csv``, by id."""
    part = data.dataset.samples.take(getattr(data.split, side))
    name = truth_columns(data.schema)
    columns: dict[str, Any] = {"subject": part.subject}
    for task in CLASS_TASKS:
        label = getattr(part, task)
        if label is not None:
            columns[name[task][0]] = np.array([*data.schema.names(task), None], object)[label]
    if part.au is not None:
        for a in np.argsort(data.schema.aus).tolist():
            columns[name["au"][a]] = part.au[:, a].astype(float)
    for task in NUMBER_TASKS:
        value = getattr(part, task)
        if value is not None:
            columns |= dict(zip(name[task], value.T.astype(float), strict=True))
    return pd.DataFrame(columns, index=part.id.tolist()).sort_index()


def labels_of(data: FaceDataModule) -> dict[str, str]:
    """Return a hash of people and labels of each side of the split."""
    return {LABELS.format(side): _hash_table(truth_table(data, side)) for side in SIDES}


def _hash_table(table: pd.DataFrame) -> str:
    rows = pd.util.hash_pandas_object(table).to_numpy()
    return hashlib.sha256(rows.tobytes()).hexdigest()[:12]
