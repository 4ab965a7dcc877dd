"""The whole of a prediction: inputs to a table, with a bar, overlays and what was unreadable."""

import csv
import hashlib
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from faceaffect.data.faces.finder import FaceFinder
from faceaffect.networks.weights import fingerprint
from faceaffect.prediction.bar import Bar
from faceaffect.prediction.inputs import Input
from faceaffect.prediction.overlay import Overlay
from faceaffect.prediction.predictor import Predictor, State
from faceaffect.prediction.reading import Ended, read_inputs
from faceaffect.prediction.seen import Seen
from faceaffect.prediction.table import Table
from faceaffect.progress import console

_EVERY = 1.0  # seconds between notes of how far a run is
_SHOWN = 5


@dataclass
class Count:
    """What a run has come to.

    Attributes:
        inputs: that ended, readable or not.
        looks: pictures and frames looked at.
        faces: found in them.
        empty: pictures and frames without a face.
        unreadable: (input, reason).
    """

    inputs: int = 0
    looks: int = 0
    faces: int = 0
    empty: int = 0
    unreadable: list[tuple[str, str]] = field(default_factory=list)

    def add(self, seen: Seen) -> None:
        """Count a picture or frame."""
        if seen.faces is not None:
            self.looks += 1
            self.faces += len(seen.faces)
            self.empty += not seen.faces

    def end(self, ended: Ended) -> None:
        """Count an input."""
        self.inputs += 1
        if ended.reason is not None:
            self.unreadable.append((ended.name, ended.reason))

    def words(self) -> str:
        """Return it in one line."""
        text = f"{self.faces} faces in {self.looks} pictures or frames of {self.inputs} inputs"
        return text + (f"; {self.empty} without a face" if self.empty else "")


class _Run:
    """A table in the making: what is counted, what is committed, and how far it is."""

    def __init__(self, predictor: Predictor, inputs: Sequence[Input], table: Table) -> None:
        self.inputs, self.table = inputs, table
        self.count, self.state = Count(), State(predictor.smooth)
        self.start = self.frame = 0
        self._pending: dict[str, Any] | None = None
        self._written = time.monotonic()
        if table.state is not None:
            self._restore(table.state)

    def _restore(self, kept: dict[str, Any]) -> None:
        self.start, self.frame = int(kept["input"]), int(kept["frame"])
        self.count = Count(**kept["count"])
        if kept["video"] is not None:
            self.state.restore(kept["video"])

    def done(self, source: int, frame: int, *, within: bool) -> None:
        """Note that all before a frame of an input is in the table."""
        video = self.state.to_dict() if within else None
        kept = {"input": source, "frame": frame, "count": asdict(self.count), "video": video}
        self._pending = kept
        if time.monotonic() - self._written > _EVERY:
            self.commit()

    def commit(self) -> None:
        """Write down how far the table is good."""
        if self._pending is not None:
            self.table.commit(self._pending)
            self._pending, self._written = None, time.monotonic()

    def take(self, item: Seen | Ended) -> float:
        """Put what was seen into the table, and return how many inputs are done."""
        if isinstance(item, Seen):
            self.count.add(item)
            self.table.add(item.rows())
            return item.shot.source + item.shot.share
        self.count.end(item)
        self.done(item.source + 1, 0, within=False)
        return item.source + 1

    def end_camera(self, overlay: Overlay | None) -> None:
        """End the last input, a camera that the person at the keyboard has stopped."""
        ended = Ended(len(self.inputs) - 1, self.inputs[-1].name)
        self.take(ended)
        if overlay is not None:
            overlay.take(ended)


def _is_last_camera(inputs: Sequence[Input], share: float) -> bool:
    return int(share) == len(inputs) - 1 and inputs[-1].camera


def predict_to_table(
    predictor: Predictor,
    inputs: Sequence[Input],
    out: Path,
    *,
    fps: float | None = None,
    overlay: Overlay | None = None,
) -> Count:
    """Write a row for each face in the inputs, going on where an earlier run was interrupted.

    Args:
        predictor: the model and all it needs.
        inputs: what to look at.
        out: the table: ``.csv``, ``.parquet`` or ``.jsonl``. What could not be read is listed
            beside it, in ``NAME.unreadable.csv``.
        fps: looks a second at a video; None looks at every frame.
        overlay: draws what was seen; then a video that was interrupted starts over.

    Raises:
        RecipeError: the table is there already, or belongs to another run.
    """
    table = Table(out, predictor.columns, _made_of(predictor, inputs, fps, overlay))
    try:
        run = _Run(predictor, inputs, table)
        if table.state is not None:
            over = " (a video with an overlay starts over)" if overlay is not None else ""
            console.print(f"going on at input {run.start + 1} of {len(inputs)}{over}", markup=False)
        shots = read_inputs(
            inputs, fps=fps, all_frames=overlay is not None, start=run.start, start_frame=run.frame
        )
        with Bar(len(inputs), run.start) as bar:
            share: float = run.start
            try:
                for item in predictor.look(shots, run.state):
                    if overlay is not None:
                        overlay.take(item)
                    share = run.take(item)
                    if isinstance(item, Seen) and item.shot.frame is not None and not overlay:
                        run.done(item.shot.source, item.shot.frame + 1, within=True)
                    bar.show(share, run.count.faces)
            except KeyboardInterrupt:
                if not _is_last_camera(inputs, share):
                    raise
                run.end_camera(overlay)
            finally:
                run.commit()
                if overlay is not None:
                    overlay.close()
        table.finish()
    finally:
        table.close()
    _list_unreadable(out, run.count)
    return run.count


def _made_of(
    predictor: Predictor, inputs: Sequence[Input], fps: float | None, overlay: Overlay | None
) -> dict[str, Any]:
    """Return what the rows of a table depend on, and the overlay, which is to be whole."""
    names = "\n".join(f"{one.name}\0{one.path}" for one in inputs)
    return {
        "inputs": hashlib.sha256(names.encode("utf-8", "surrogateescape")).hexdigest(),
        "model": fingerprint(predictor.model.state_dict()),
        "columns": predictor.columns,
        "crop": None if predictor.crop is None else predictor.crop.to_dict(),
        "finder": _settings(predictor.finder),
        "largest": predictor.largest,
        "smooth": predictor.smooth,
        "fps": fps,
        "overlay": overlay and [str(overlay.folder), overlay.blur],
    }


def _list_unreadable(out: Path, count: Count) -> None:
    if not count.unreadable:
        return
    place = out.with_name(f"{out.stem}.unreadable.csv")
    with place.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["input", "reason"])
        writer.writerows(count.unreadable)
    console.print(f"{len(count.unreadable)} inputs could not be read; listed in {place}:")
    for name, reason in count.unreadable[:_SHOWN]:
        console.print(f"  {reason}" if name in reason else f"  {name}: {reason}", markup=False)


def _settings(finder: FaceFinder) -> dict[str, str]:
    plain = {k: str(v) for k, v in vars(finder).items() if isinstance(v, (str, int, float))}
    return plain | {"name": type(finder).__name__}
