"""What a person sees while a model trains: bars on a terminal, plain lines elsewhere."""

import math
import sys
import time
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback, RichProgressBar
from lightning.pytorch.utilities import rank_zero_only
from rich.console import Console
from rich.table import Table
from rich.text import Text

from faceaffect.errors import harmless
from faceaffect.optim import steps_per_epoch


class _Console(Console):
    """Prints names, paths and texts as they are: no markup in them means anything."""

    def __init__(self) -> None:
        alone = rank_zero_only.rank == 0  # type: ignore[attr-defined]
        super().__init__(soft_wrap=True, markup=False, emoji=False, quiet=not alone)

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(harmless(text), **options)


console = _Console()
"""Where the commands print: of several processes the first alone."""


def look_again() -> None:
    """See anew what standard output is, in a process that was given another since."""
    _Console.__init__(console)


class EpochLines(Callback):
    """One line an epoch, for logs that are no terminal."""

    def __init__(self) -> None:
        self._start = time.monotonic()
        self._first: int | None = None

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Remember where this process began, for the estimate of the time left."""
        if self._first is None:
            self._first, self._start = trainer.current_epoch, time.monotonic()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Print the losses and metrics of the progress bar and the time left."""
        if not trainer.is_global_zero:
            return
        done = trainer.current_epoch + 1
        values = "  ".join(
            f"{name} {float(trainer.callback_metrics[name]):.4f}"
            for name in ("train/loss_epoch", "val/score")
            if name in trainer.callback_metrics
        )
        spent = time.monotonic() - self._start
        epochs = math.ceil(trainer.estimated_stepping_batches / steps_per_epoch(trainer))
        left = spent / (done - (self._first or 0)) * max(epochs - done, 0)
        console.print(f"epoch {done}/{epochs}  {values}  {spent:.0f} s, about {left:.0f} s left")


def progress() -> Callback:
    """Return Lightning's rich bar on a terminal, else plain lines."""
    return RichProgressBar(leave=False) if sys.stdout.isatty() else EpochLines()


def result_table(title: str, metrics: dict[str, float], baselines: dict[str, float]) -> Table:
    """Return a table of metrics, those of single AUs and classes last, beside trivial baselines."""
    table = Table("metric", "value", "trivial", title=title, title_justify="left")
    for name in sorted(metrics, key=lambda name: ("/" in name, name.split("/")[0])):
        trivial = baselines.get(name)
        table.add_row(name, _number(metrics[name]), "" if trivial is None else _number(trivial))
    return table


def _number(value: float) -> str:
    return "undefined" if value != value else f"{value:.4f}"
