"""Labelled squares instead of faces: one without an expression, one damaged, one a clip."""

import numpy as np

from faceaffect.data.dataset import FaceDataset, Loaded, Samples
from faceaffect.errors import DataError
from faceaffect.schema import LabelSchema

SCHEMA = LabelSchema((1, 4, 6, 12), ("anger", "happiness", "neutral", "surprise"), True)


class Faces(FaceDataset):
    """Twelve labelled squares."""

    def __init__(self, n: int = 12) -> None:
        rng = np.random.default_rng(0)
        au = rng.integers(0, 2, (n, 4)).astype(np.float32)
        au[1, 0] = np.nan
        names = np.array([f"0/{i}" for i in range(n)])
        expression = rng.integers(0, 4, n)
        expression[2] = -1
        va = rng.uniform(-1, 1, (n, 2)).astype(np.float32)
        samples = Samples(names, names, au=au, expression=expression, va=va)
        super().__init__(SCHEMA, samples)

    def load(self, index: int) -> Loaded:
        if index == 3:
            raise DataError("damaged")
        shape = (5, 8, 8, 3) if index == 4 else (8, 8, 3)
        return Loaded(np.full(shape, index, np.uint8))
