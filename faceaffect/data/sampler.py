"""Which samples come when: drawn from (seed, epoch), in every process and after a resume."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from faceaffect.data.dataset import Samples
from faceaffect.data.views import ViewOrder


class EpochBatches:
    """Batches of (epoch, index) pairs for one process of several.

    Training draws a new order from (seed, epoch) and drops the uneven tail, so that all processes
    do equally many steps. Evaluation keeps the order and shares the samples out without padding
    or repeats, so that processes may differ by one.

    Args:
        indices: the samples to draw from.
        batch_size: samples in a batch of one process.
        train: draw a new order each epoch and drop the last incomplete batch, if there is a
            complete one.
        weights: sampling weights of the indices, for training; None draws each sample once.
        views: draws views of one instance side by side, for training and in place of weights;
            a batch holds whole blocks of it.
        seed: of the order.
        rank: this process.
        world: number of processes.
    """

    def __init__(
        self,
        indices: NDArray[np.int64],
        batch_size: int,
        *,
        train: bool = False,
        weights: NDArray[np.float64] | None = None,
        views: ViewOrder | None = None,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.indices = indices
        self.batch_size = batch_size
        self.train = train
        self.weights = weights
        self.views = views
        self.seed = seed
        self.rank = rank
        self.world = world
        self.epoch = 0
        self.start = 0
        """Batches that the next iteration leaves out because they were seen before a resume."""

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next iteration."""
        self.epoch = epoch

    def __len__(self) -> int:
        """Return the batches of a whole epoch, whatever ``start`` is."""
        n = len(range(self.rank, len(self.indices), self.world))
        if self.train:
            n = self._units // self.world * self._together
        if self.train and n >= self.batch_size:
            return n // self.batch_size
        return -(-n // self.batch_size)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        units = self.order(self.epoch).reshape(-1, self._together)
        own = units[self.rank :: self.world].ravel().tolist()
        for batch in range(self.start, len(self)):
            first = batch * self.batch_size
            yield [(self.epoch, index) for index in own[first : first + self.batch_size]]

    @property
    def _together(self) -> int:
        """Samples that come to one process together."""
        return self.views.views if self.views is not None and self.train else 1

    @property
    def _units(self) -> int:
        return len(self.indices) if self.views is None else self.views.blocks

    def order(self, epoch: int) -> NDArray[np.int64]:
        """Return the indices that all processes together draw in an epoch."""
        if not self.train:
            return self.indices
        generator = np.random.default_rng((self.seed, epoch))
        if self.views is not None:
            blocks = self.views.draw(generator)[: self._units // self.world * self.world]
            return self.indices[blocks.ravel()]
        order = generator.permutation(len(self.indices))
        if self.weights is not None:
            order = order[np.argsort(self.weights[order], kind="stable")]
            drawn = systematic(self.weights[order], generator.random())
            order = generator.permutation(order[drawn])
        order = self.indices[order]
        return order[: len(order) // self.world * self.world]


def systematic(weights: NDArray[np.float64], offset: float) -> NDArray[np.int64]:
    """Draw N of N positions by weight, each as often as expected up to rounding.

    Systematic resampling: one offset and N equal steps through the cumulated weights. A position
    of expected count c is drawn floor(c) or ceil(c) times, and neighbours together as often as
    their weights say, up to one. So an epoch keeps the shares, where independent draws scatter.

    Args:
        weights: (N,) positive; equal weights side by side, so that they share exactly.
        offset: in [0, 1).

    Returns:
        (N,) positions, ascending.
    """
    n = len(weights)
    edges = np.cumsum(weights / weights.sum()) * n
    return np.minimum(np.searchsorted(edges, offset + np.arange(n), side="right"), n - 1)


def expression_weights(samples: Samples) -> NDArray[np.float64]:
    """Return weights under which every class that occurs is drawn equally often.

    Samples of unknown expression keep their share.

    Returns:
        (N,) with mean 1.
    """
    label = samples.expression
    if label is None:
        return np.ones(len(samples))
    known = label >= 0
    count = np.bincount(label[known])
    weights = np.ones(len(label))
    weights[known] = known.sum() / (np.count_nonzero(count) * count[label[known]])
    return weights


def au_weights(samples: Samples) -> NDArray[np.float64]:
    """Return weights that raise faces with a rare action unit.

    The repeat factor of LVIS (Gupta et al. 2019) with the threshold 1/2: an AU of rate r < 1/2
    weighs sqrt(0.5 / r), and a face weighs as much as its rarest active AU, at least 1.

    Returns:
        (N,) >= 1.
    """
    if samples.au is None:
        return np.ones(len(samples))
    active = samples.au == 1
    known = ~np.isnan(samples.au)
    rate = active.sum(0) / np.maximum(known.sum(0), 1)
    factor = np.sqrt(0.5 / np.maximum(rate, 1e-12))
    weights: NDArray[np.float64] = np.where(active, factor, 1.0).max(1, initial=1.0)
    return weights
