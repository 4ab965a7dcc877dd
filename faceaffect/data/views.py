"""Views of one instance side by side: the order in which training draws faces in groups.

An instance is one expression of one person at one time; samples that share it are views of it.
"""

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from faceaffect.data.dataset import Samples
from faceaffect.errors import RecipeError


class ViewOrder:
    """Draws blocks of views: each block shows one instance, and no sample is in two blocks.

    An instance of 5 samples gives two blocks of 2 views and leaves one sample, another in each
    epoch. An instance with fewer samples than views is never drawn.

    Args:
        samples: those to draw from, N.
        views: samples of one instance in a block.
        instances: so many instances of one person at most follow each other, block by block; where
            a person has more, the others come elsewhere in the epoch.

    Attributes:
        views: samples in a block.
        blocks: of an epoch.
        never: samples that no epoch draws.

    Raises:
        RecipeError: a number is too small, the samples tell of no instances, or none has so many
            views.
    """

    def __init__(self, samples: Samples, views: int, instances: int = 1) -> None:
        if views < 2:
            raise RecipeError(f"data.views: {views}: at least 2, or leave it out")
        if instances < 1:
            raise RecipeError(f"data.instances: {instances} is not positive")
        if samples.instance is None:
            raise RecipeError(
                "data.views: this data does not tell which samples are views of one instance; "
                "'multiview' does, and 'synthetic' with yaws"
            )
        self.views, self.instances = views, instances
        self._instance = samples.instance
        self._person = np.unique(samples.subject, return_inverse=True)[1]
        known = self._instance[self._instance >= 0]
        count = np.unique(known, return_counts=True)[1]
        self.blocks = int((count // views).sum())
        self.never = len(samples) - int(count[count >= views].sum())
        if not self.blocks:
            most = int(count.max(initial=0))
            raise RecipeError(
                f"data.views: {views}, and no instance of the training part has more than {most}"
            )

    def draw(self, generator: Generator) -> NDArray[np.int64]:
        """Return the blocks of an epoch, (blocks, views) positions among the samples."""
        order = generator.permutation(len(self._instance))
        order = order[self._instance[order] >= 0]
        order = order[np.argsort(self._instance[order], kind="stable")]
        place, count = _places(self._instance[order])
        blocks = order[place < count // self.views * self.views].reshape(-1, self.views)
        blocks = generator.permutation(blocks)
        blocks = blocks[np.argsort(self._person[blocks[:, 0]], kind="stable")]
        person = self._person[blocks[:, 0]]
        run = np.cumsum(_places(person)[0] % self.instances == 0) - 1
        when = generator.permutation(run[-1] + 1)
        return np.asarray(blocks[np.argsort(when[run], kind="stable")], np.int64)


def _places(names: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the place of each entry among its equals, and how many those are; equals adjoin.

    >>> _places(np.array([4, 4, 4, 7]))
    (array([0, 1, 2, 0]), array([3, 3, 3, 1]))
    """
    _, first, count = np.unique(names, return_index=True, return_counts=True)
    sizes = count[np.argsort(first)]
    starts = np.cumsum(sizes) - sizes
    return np.arange(len(names)) - np.repeat(starts, sizes), np.repeat(sizes, sizes)
