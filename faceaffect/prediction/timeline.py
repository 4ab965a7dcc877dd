"""What was seen of each person along a video, as a picture."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from numpy.typing import NDArray

from faceaffect.prediction.seen import Answered
from faceaffect.schema import STRONGEST, VA_NAMES, LabelSchema

_POINTS = 2000  # kept of a track; beyond, every second one goes
_TRACKS = 64  # kept at once; beyond, the shortest that is out of sight goes
_DRAWN = 12  # of a video, the longest
_COLOURS = [colormaps["tab20"](n) for n in (*range(0, 20, 2), *range(1, 20, 2))]


@dataclass
class _Line:
    stride: int = 1
    count: int = 0
    times: list[float] = field(default_factory=list)
    values: list[list[float]] = field(default_factory=list)

    def add(self, time: float, values: list[float]) -> None:
        if self.count % self.stride == 0:
            self.times.append(time)
            self.values.append(values)
        self.count += 1
        if len(self.times) > _POINTS:
            self.times, self.values, self.stride = (
                self.times[::2],
                self.values[::2],
                2 * self.stride,
            )


class Timeline:
    """Collects the answers about each person of one video, in bounded memory.

    Args:
        schema: what the model answers.
    """

    def __init__(self, schema: LabelSchema) -> None:
        self.schema = schema
        self._lines: dict[int, _Line] = {}

    def add(self, time: float, faces: list[Answered]) -> None:
        """Add what was seen at a time in seconds."""
        for found in faces:
            if found.track is not None:
                line = self._lines.setdefault(found.track, _Line())
                line.add(time, list(found.answers.values()))
        if len(self._lines) > _TRACKS:
            now = {found.track for found in faces}
            gone = [track for track in self._lines if track not in now]
            shortest = min(gone, key=lambda track: self._lines[track].count, default=None)
            if shortest is not None:
                del self._lines[shortest]

    def write(self, path: Path) -> list[Path]:
        """Draw a picture a person, the twelve longest seen, and return the files.

        Args:
            path: without an ending; the person's number is put behind.
        """
        longest = sorted(self._lines, key=lambda track: -self._lines[track].count)[:_DRAWN]
        written = []
        for track in sorted(track for track in longest if len(self._lines[track].times) > 1):
            file = path.with_name(f"{path.name}.person{track}.png")
            self._draw(track, self._lines[track], file)
            written.append(file)
        return written

    def _draw(self, track: int, line: _Line, file: Path) -> None:
        schema, values = self.schema, np.asarray(line.values)
        aus, classes = len(schema.aus), len(schema.expressions)
        heights = [0.28 * aus + 0.6] * bool(aus) + [2.0] * bool(classes)
        heights += [1.6] * schema.valence_arousal + [2.0] * bool(schema.felt)
        heights += [1.2] * schema.intensity
        figure, axes = plt.subplots(
            len(heights), 1, figsize=(11, sum(heights) + 0.8), sharex=True, squeeze=False,
            height_ratios=heights, layout="constrained",
        )  # fmt: skip
        rest = iter(axes[:, 0])
        times = np.asarray(line.times)
        if aus:
            _draw_aus(next(rest), times, values[:, :aus], schema.au_names)
        if classes:
            shares = values[:, aus : aus + classes]
            _draw_shares(next(rest), times, shares, schema.expressions, "expression")
        if schema.valence_arousal:
            axis = next(rest)
            for name, column in zip(VA_NAMES, values[:, aus + classes :].T, strict=False):
                axis.plot(times, column, label=name)
            axis.axhline(0, color="0.8", lw=0.8, zorder=0)
            axis.set(ylim=(-1, 1), ylabel="valence, arousal")
            axis.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=8, frameon=False)
        if schema.felt:
            first = aus + classes + 2 * schema.valence_arousal
            shares = values[:, first : first + len(schema.felt)]
            _draw_shares(next(rest), times, shares, schema.felt, "felt emotion")
        if schema.intensity:
            axis = next(rest)
            axis.plot(times, values[:, -1])
            axis.set(ylim=(0, STRONGEST), ylabel="intensity")
        axes[-1, 0].set_xlabel("seconds")
        figure.suptitle(f"{file.name.rsplit('.person', 1)[0]}: person {track}")
        figure.savefig(file, dpi=110)
        plt.close(figure)


def _draw_shares(
    axis: Axes, times: NDArray[Any], shares: NDArray[Any], names: tuple[str, ...], label: str
) -> None:
    axis.stackplot(times, shares.T, labels=names, colors=_COLOURS)
    axis.set(ylim=(0, 1), ylabel=label)
    axis.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=8, frameon=False)


def _draw_aus(
    axis: Axes, times: NDArray[Any], values: NDArray[Any], names: tuple[str, ...]
) -> None:
    edges = np.append(times, times[-1] + np.median(np.diff(times)))
    rows = np.arange(len(names) + 1)
    axis.pcolormesh(edges, rows, values.T, vmin=0, vmax=1, cmap="magma_r", shading="flat")
    axis.set_yticks(rows[:-1] + 0.5, names, fontsize=8)
    axis.invert_yaxis()
