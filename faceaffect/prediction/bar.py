"""How far a prediction is: a bar on a terminal, a line now and then elsewhere."""

import time
from types import TracebackType
from typing import Self

from rich.progress import (
    BarColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from faceaffect.progress import console

_LINE_EVERY = 30.0  # seconds


class Bar:
    """Shows how many inputs are done, faces a second and the time left.

    Args:
        inputs: how many there are.
        start: how many are done already.
    """

    def __init__(self, inputs: int, start: int = 0) -> None:
        self.inputs, self.start = inputs, start
        self._begin = self._said = time.monotonic()
        self._first_faces: int | None = None
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("predicting", total=inputs, completed=start)

    def __enter__(self) -> Self:
        """Start the bar."""
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Take the bar away."""
        self._bar.stop()

    def show(self, done: float, faces: int) -> None:
        """Show that so many inputs are done, a part of one included, and so many faces found."""
        now = time.monotonic()
        if self._first_faces is None:
            self._first_faces = faces
        spent = max(now - self._begin, 1e-9)
        rate = (faces - self._first_faces) / spent
        what = f"{faces} faces, {rate:.1f} a second"
        self._bar.update(self._task, completed=done, description=what)
        if not console.is_terminal and now - self._said > _LINE_EVERY:
            self._said = now
            share = (done - self.start) / max(self.inputs - self.start, 1e-9)
            left = f", about {spent / share - spent:.0f} s left" if 0 < share < 1 else ""
            console.print(f"{done:.1f} of {self.inputs} inputs, {what}{left}")
