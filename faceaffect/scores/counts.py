"""What the metrics are made of: confusions and moments, pooled over batches and processes.

The functions count one batch, the classes add batches up, and their states are gathered by
torchmetrics. Only known labels are counted. An unreadable prediction counts as wrong.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torchmetrics import Metric
from torchmetrics.functional.classification import (
    binary_auroc,
    binary_calibration_error,
    multiclass_confusion_matrix,
)
from torchmetrics.utilities.data import dim_zero_cat

ECE_BINS = 15
NO_FLOAT64 = ("mps",)
"""Device types without float64, where moments are float32."""


def ratio(part: Tensor, whole: Tensor) -> Tensor:
    """Quotient of counts in float64 on the CPU, NaN for 0 / 0."""
    return part.cpu().double() / whole.cpu().double()


def au_confusion(prob: Tensor, target: Tensor, threshold: float) -> Tensor:
    """Count true and false positives, false and true negatives of each AU.

    Args:
        prob: (B, A) probabilities, NaN unreadable.
        target: (B, A) in {0, 1}, NaN unknown.
        threshold: positive is above it.

    Returns:
        (4, A) int64.
    """
    _same_shape(prob, target)
    true, false, unreadable = target == 1, target == 0, prob.isnan()
    yes, no = prob > threshold, prob <= threshold
    cells = (true & yes, false & (yes | unreadable), true & (no | unreadable), false & no)
    return torch.stack(cells).sum(1)


def f1(confusion: Tensor) -> Tensor:
    """F1 of (4, A) counts: 0 for false alarms alone, NaN where nothing is present or predicted."""
    tp, fp, fn, _ = confusion.cpu()
    return ratio(2 * tp, 2 * tp + fp + fn)


def present(confusion: Tensor) -> Tensor:
    """Which AUs of (4, A) counts have a positive in the truth, (A,) bool."""
    return (confusion[0] + confusion[2] > 0).cpu()


def class_f1(confusion: Tensor) -> Tensor:
    """(K,) F1 of (K, K + 1) counts of classes, each against all others; undefined as :func:`f1`."""
    right, predicted = confusion.diagonal(), confusion.sum(0)[:-1]
    return ratio(2 * right, predicted + confusion.sum(1))


def class_confusion(pred: Tensor, target: Tensor, num_classes: int) -> Tensor:
    """Count classes, truth in rows, prediction in columns, unreadable in the last column.

    Args:
        pred: (B,) class indices, anything else unreadable.
        target: (B,) class indices, -1 unknown.
        num_classes: K.

    Returns:
        (K, K + 1) int64.

    Raises:
        ValueError: an index of the truth is out of range.
    """
    _same_shape(pred, target)
    outside = target[(target < -1) | (target >= num_classes)]
    if len(outside):
        raise ValueError(f"class index {int(outside[0])} in the truth, of {num_classes} classes")
    pred = pred.where((pred >= 0) & (pred < num_classes), num_classes)
    counts: Tensor = multiclass_confusion_matrix(
        pred, target, num_classes + 1, ignore_index=-1, validate_args=False
    )
    return counts[:num_classes]


def recall(confusion: Tensor) -> Tensor:
    """(K,) recall of (K, K + 1) counts, NaN for a class that does not occur in the truth."""
    return ratio(confusion.diagonal(), confusion.sum(1))


def moments(pred: Tensor, target: Tensor) -> Tensor:
    """Moments of the known rows of each column, in the precision of ``pred``.

    Args:
        pred: (B,) or (B, D).
        target: the same shape, NaN unknown.

    Returns:
        (6, D): count, both means, both sums of squared deviations, the sum of their products.
    """
    _same_shape(pred, target)
    columns = pred.shape[1:].numel()
    x, y = pred.reshape(-1, columns), target.to(pred).reshape(-1, columns)
    known = ~y.isnan()
    n = known.sum(0).to(x)
    x, y, rows = x.where(known, 0), y.where(known, 0), n.clamp(min=1)
    mean_x, mean_y = x.sum(0) / rows, y.sum(0) / rows
    dx, dy = (x - mean_x) * known, (y - mean_y) * known
    squares = (dx.square().sum(0), dy.square().sum(0), (dx * dy).sum(0))
    return torch.stack([n, mean_x, mean_y, *squares])


def merge_moments(parts: Tensor) -> Tensor:
    """Moments of the union of (P, 6, D) parts, stable for large means (Chan et al., 1979)."""
    n, mean_x, mean_y = parts[:, 0], parts[:, 1], parts[:, 2]
    total = n.sum(0)
    rows = total.clamp(min=1)
    pooled_x, pooled_y = (n * mean_x).sum(0) / rows, (n * mean_y).sum(0) / rows
    dx, dy = mean_x - pooled_x, mean_y - pooled_y
    between = torch.stack([n * dx.square(), n * dy.square(), n * dx * dy]).sum(1)
    return torch.cat([torch.stack([total, pooled_x, pooled_y]), parts[:, 3:].sum(0) + between])


def ccc_of(values: Tensor) -> Tensor:
    """(D,) concordance of (6, D) moments: 0 for a constant, NaN without a known row."""
    n, mean_x, mean_y, xx, yy, xy = _centred(values)
    whole = xx + yy + n * (mean_x - mean_y).square()
    return (2 * xy / whole.where(whole > 0, 1)).where((n > 0) & ~whole.isnan(), torch.nan)


def icc31_of(values: Tensor) -> Tensor:
    """(D,) ICC(3,1) of (6, D) moments: (MSR - MSE) / (MSR + MSE), which is this for two raters."""
    _, _, _, xx, yy, xy = _centred(values)
    return 2 * xy / (xx + yy)


def rmse_of(values: Tensor) -> Tensor:
    """(D,) root mean squared error of (6, D) moments, NaN without a known row."""
    n, mean_x, mean_y, xx, yy, xy = values.cpu().double().unbind()
    return ((xx + yy - 2 * xy).clamp(min=0) / n + (mean_x - mean_y).square()).sqrt()


def _centred(values: Tensor) -> tuple[Tensor, ...]:
    n, mean_x, mean_y, xx, yy, xy = values.cpu().double().unbind()
    # What rounding leaves of the deviations of a constant is no variance.
    flat_x = xx <= n * (1e-12 * mean_x).square()
    flat_y = yy <= n * (1e-12 * mean_y).square()
    xx, yy, xy = xx.where(~flat_x, 0), yy.where(~flat_y, 0), xy.where(~(flat_x | flat_y), 0)
    return n, mean_x, mean_y, xx, yy, xy


def _same_shape(pred: Tensor, target: Tensor) -> None:
    if pred.shape != target.shape:
        raise ValueError(
            f"prediction {tuple(pred.shape)} and truth {tuple(target.shape)} differ in shape"
        )


class AUConfusion(Metric):
    """Accumulating :func:`au_confusion`."""

    full_state_update = False
    counts: Tensor

    def __init__(self, num_aus: int, threshold: float = 0.5, *, sync: bool = True) -> None:
        super().__init__(sync_on_compute=sync)
        self.threshold = threshold
        self.add_state("counts", torch.zeros(4, num_aus, dtype=torch.long), dist_reduce_fx="sum")

    def update(self, prob: Tensor, target: Tensor) -> None:
        """Add a batch of probabilities and truths, (B, A) each, NaN unknown."""
        self.counts = self.counts + au_confusion(prob, target, self.threshold)

    def compute(self) -> Tensor:
        """Return the counts (4, A)."""
        return self.counts


class ClassConfusion(Metric):
    """Accumulating :func:`class_confusion`."""

    full_state_update = False
    counts: Tensor

    def __init__(self, num_classes: int, *, sync: bool = True) -> None:
        super().__init__(sync_on_compute=sync)
        zero = torch.zeros(num_classes, num_classes + 1, dtype=torch.long)
        self.add_state("counts", zero, dist_reduce_fx="sum")

    def update(self, pred: Tensor, target: Tensor) -> None:
        """Add a batch of class indices, (B,) each; -1 is unreadable, in the truth unknown."""
        self.counts = self.counts + class_confusion(pred, target, len(self.counts))

    def compute(self) -> Tensor:
        """Return the counts (K, K + 1)."""
        return self.counts


class Moments(Metric):
    """Accumulating :func:`moments`, in float64 where the device has it."""

    full_state_update = False
    moments: Tensor

    def __init__(self, num_columns: int = 1, *, sync: bool = True) -> None:
        super().__init__(sync_on_compute=sync)
        zero = torch.zeros(6, num_columns, dtype=torch.float64)
        self.add_state("moments", zero, dist_reduce_fx=merge_moments)

    def update(self, pred: Tensor, target: Tensor) -> None:
        """Add a batch of predictions and truths, (B, D) or (B,) each, NaN unknown."""
        batch = moments(pred.to(self.moments), target)
        self.moments = merge_moments(torch.stack([self.moments, batch]))

    def compute(self) -> Tensor:
        """Return the moments (6, D)."""
        return self.moments

    def _apply(
        self, fn: Callable[[Tensor], Tensor], exclude_state: Sequence[str] = ""
    ) -> nn.Module:
        if fn(torch.empty(0)).device.type in NO_FLOAT64:
            self.set_dtype(torch.float32)
        return super()._apply(fn, exclude_state)


class Curves(Metric):
    """AUROC and calibration error (ECE) of columns of probabilities, exact.

    8 bytes a label are kept: 14 MB for 12 AUs on all of BP4D. Fixed thresholds would need constant
    memory, but a confident model puts most of its probabilities between two of them.
    """

    full_state_update = False
    prob: list[Tensor]
    target: list[Tensor]

    def __init__(self, num_columns: int, *, sync: bool = True) -> None:
        super().__init__(sync_on_compute=sync)
        self.num_columns = num_columns
        # Flat, so that a process that saw no batch can be gathered too.
        self.add_state("prob", [], dist_reduce_fx="cat")
        self.add_state("target", [], dist_reduce_fx="cat")

    def update(self, prob: Tensor, target: Tensor) -> None:
        """Add a batch of probabilities and truths, (B, D) each, NaN unreadable and unknown."""
        # Clamped: a probability that rounding took over 1 is read as a logit by torchmetrics.
        self.prob.append(prob.float().clamp(0, 1).flatten())
        self.target.append(target.float().flatten())

    def compute(self) -> Tensor:
        """Return (2, D): AUROC, NaN unless both classes occur, and ECE, NaN if nothing is known."""
        values = torch.full((2, self.num_columns), torch.nan, dtype=torch.float64)
        if not len(self.prob):
            return values
        prob = dim_zero_cat(self.prob).cpu().double().view(-1, self.num_columns)
        target = dim_zero_cat(self.target).cpu().view(-1, self.num_columns)
        for column in range(self.num_columns):
            p, y = prob[:, column], target[:, column]
            known = ~(p.isnan() | y.isnan())
            p, y = p[known], y[known].long()
            if len(y):
                values[1, column] = binary_calibration_error(p, y, ECE_BINS, validate_args=False)
            if 0 < y.sum() < len(y):
                values[0, column] = binary_auroc(p, y, validate_args=False)
        return values
