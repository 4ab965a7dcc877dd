"""Labels of synthetic faces without the faces, for a language model that learns templates."""

import numpy as np

from faceaffect.data.dataset import Loaded
from faceaffect.data.synthetic import SyntheticFaces, facs


class TemplateLabels(SyntheticFaces):
    """The labels of synthetic faces; every face is one black pixel.

    Args:
        n: number of samples.
        seed: world of the labels.
        rates: share of positives per AU: "bp4d", "disfa", "uniform" or {AU: share}.
    """

    def __init__(
        self, n: int = 20000, seed: int = 0, rates: str | dict[int, float] = "uniform"
    ) -> None:
        super().__init__(
            n, n, seed, aus=facs.AUS, expressions=facs.EXPRESSIONS, rates=rates, image_size=32
        )

    def load(self, index: int) -> Loaded:
        """Return one black pixel."""
        return Loaded(np.zeros((1, 1, 3), np.uint8))
