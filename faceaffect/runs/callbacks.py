"""Callbacks of recipes with defaults that suit affect models, and the clock of a run."""

from typing import Literal

import lightning as L
from lightning.pytorch.callbacks import EarlyStopping, ThroughputMonitor, Timer

from faceaffect.errors import RecipeError


class _EarlyStopping(EarlyStopping):
    """Lightning's, with an error that is a recipe's."""

    def _run_early_stopping_check(self, trainer: L.Trainer) -> None:
        try:
            super()._run_early_stopping_check(trainer)
        except RuntimeError as error:  # no such metric
            raise RecipeError(f"callbacks, early_stopping.monitor: {error}") from None


def early_stopping(
    monitor: str = "val/score",
    mode: Literal["min", "max"] | None = None,
    patience: int = 3,
    min_delta: float = 0.0,
    stopping_threshold: float | None = None,
    divergence_threshold: float | None = None,
    check_finite: bool = True,
    strict: bool = True,
) -> EarlyStopping:
    """Stop when a metric gets no better.

    Args:
        monitor: the metric.
        mode: whether better is less or more; absent, less for losses and more for all others.
        patience: validations without improvement before training stops.
        min_delta: least change that counts as one.
        stopping_threshold: stop as soon as the metric is better than this.
        divergence_threshold: stop as soon as it is worse than this.
        check_finite: stop when it is not finite.
        strict: a metric that is not there is an error.

    Raises:
        RecipeError: there is no such metric, which shows after the first epoch.
    """
    return _EarlyStopping(
        monitor,
        min_delta=min_delta,
        patience=patience,
        mode=mode or ("min" if "loss" in monitor else "max"),
        strict=strict,
        check_finite=check_finite,
        stopping_threshold=stopping_threshold,
        divergence_threshold=divergence_threshold,
    )


def throughput(window_size: int = 10) -> ThroughputMonitor:
    """Log samples and batches a second, for training, validation and testing apart.

    Args:
        window_size: batches that a value is taken over; a part with fewer has none.
    """
    # A batch of which nothing could be read counts as one sample: the monitor takes no fewer.
    return ThroughputMonitor(lambda batch: max(len(batch["id"]), 1), window_size=window_size)


class TrainingClock(Timer):
    """The time a run has trained, over resumes; not in the way of a recipe's own ``timer``."""

    @property
    def state_key(self) -> str:
        """Return the name under which a checkpoint keeps the time."""
        return "TrainingClock"
