"""Who is who from one frame of a video to the next: numbers that stay with a person.

Of the maintained trackers, ``norfair`` asks for NumPy below 2 and an old ``rich``; ``supervision``
and ``trackers`` want frames at an even rate and know boxes alone. A face moves less than its own
width from one look to the next, so one assignment by place and size does, for any spacing of the
looks, with a state that can be written down when a run is interrupted.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from faceaffect.data.faces.finder import Face, Frame

_FAR = 1.0  # widths by which a face may have moved since it was last seen, ...
_FAR_PER_SECOND = 1.0  # ... and more for each second since
_FARTHEST = 2.5
_GROWN = 0.8  # natural logarithm of the ratio of sizes that still is the same face
_CUT = 0.05  # mean change of a picture's brightness, of 0 to 1, that may be a cut, ...
_LIKE = 0.7  # ... unless what is bright and what is dark agree so much
_THUMB = (32, 18)


@dataclass
class _Track:
    number: int
    time: float
    box: tuple[float, float, float, float]
    speed: tuple[float, float]  # of the centre, pixels a second


class Tracker:
    """Numbers the faces of one video's frames, from 1 on in the order of their coming.

    A number is never given again. A person who is out of sight for longer than the patience, or
    beyond a cut, comes back under a new number: faces are told by place, not by likeness.

    Args:
        patience: seconds for which a face may be out of sight.
    """

    def __init__(self, patience: float = 1.0) -> None:
        self.patience = patience
        self._tracks: list[_Track] = []
        self._last = 0
        self._thumb: NDArray[np.float32] | None = None

    def number(self, faces: Sequence[Face], time: float, image: Frame | None = None) -> list[int]:
        """Return the number of each face of the next frame.

        Args:
            faces: found in it.
            time: of the frame in seconds, not before that of the last.
            image: the frame, to see cuts; None sees none.
        """
        if image is not None and self._is_cut(image):
            self._tracks = []
        gap = max(self.patience, 1e-9)
        self._tracks = [track for track in self._tracks if time - track.time <= gap]
        numbers = [0] * len(faces)
        for row, column in self._pairs(faces, time):
            numbers[row] = self._tracks[column].number
            self._tracks[column] = _moved(self._tracks[column], faces[row], time)
        for row, face in enumerate(faces):
            if not numbers[row]:
                self._last = numbers[row] = self._last + 1
                self._tracks.append(_Track(self._last, time, face.box, (0.0, 0.0)))
        return numbers

    def state(self) -> dict[str, Any]:
        """Return plain values from which :meth:`restore` goes on."""
        thumb = None if self._thumb is None else self._thumb.round(4).tolist()
        return {"last": self._last, "tracks": [asdict(t) for t in self._tracks], "thumb": thumb}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what :meth:`state` returned."""
        self._last = int(state["last"])
        self._tracks = [
            _Track(t["number"], t["time"], tuple(t["box"]), tuple(t["speed"]))
            for t in state["tracks"]
        ]
        thumb = state["thumb"]
        self._thumb = None if thumb is None else np.asarray(thumb, np.float32)

    def _pairs(self, faces: Sequence[Face], time: float) -> list[tuple[int, int]]:
        """Return which face is which track, nearest in place and size over all."""
        if not faces or not self._tracks:
            return []
        cost = np.array(
            [[_distance(face, track, time) for track in self._tracks] for face in faces]
        )
        wall = 1e6
        rows, columns = linear_sum_assignment(np.minimum(cost, wall))
        pairs = zip(rows.tolist(), columns.tolist(), strict=True)
        return [(row, column) for row, column in pairs if cost[row, column] < wall]

    def _is_cut(self, image: Frame) -> bool:
        small = cv2.resize(image, _THUMB, interpolation=cv2.INTER_AREA).mean(2) / np.float32(255)
        before, self._thumb = self._thumb, small.astype(np.float32)
        if before is None or float(np.abs(before - self._thumb).mean()) < _CUT:
            return False
        spread = float(before.std() * self._thumb.std())
        shared = float(((before - before.mean()) * (self._thumb - self._thumb.mean())).mean())
        return shared < _LIKE * spread or spread < 1e-6


def _centre(box: Sequence[float]) -> tuple[float, float]:
    return box[0] + box[2] / 2, box[1] + box[3] / 2


def _distance(face: Face, track: _Track, time: float) -> float:
    """Return how far a face is from where a track would be, infinite if it cannot be it."""
    passed = time - track.time
    x, y = _centre(face.box)
    was_x, was_y = _centre(track.box)
    goal_x, goal_y = was_x + track.speed[0] * passed, was_y + track.speed[1] * passed
    size = max(face.box[2] + track.box[2], 1e-6) / 2
    moved = min(np.hypot(x - goal_x, y - goal_y), np.hypot(x - was_x, y - was_y)) / size
    grown = abs(np.log(max(face.box[2], 1e-6) / max(track.box[2], 1e-6)))
    if moved > min(_FAR + _FAR_PER_SECOND * passed, _FARTHEST) or grown > _GROWN:
        return float("inf")
    return float(moved + grown)


def _moved(track: _Track, face: Face, time: float) -> _Track:
    passed = max(time - track.time, 1e-6)
    (x, y), (was_x, was_y) = _centre(face.box), _centre(track.box)
    speed = tuple(
        0.5 * old + 0.5 * new / passed
        for old, new in zip(track.speed, (x - was_x, y - was_y), strict=True)
    )
    return _Track(track.number, time, face.box, (speed[0], speed[1]))


class Smoother:
    """Takes the trembling out of answers along a track, by an exponential mean over time.

    Args:
        seconds: how far back it remembers (its time constant); 0 changes nothing.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._kept: dict[int, tuple[float, NDArray[np.float64]]] = {}

    def smooth(self, track: int, time: float, values: NDArray[Any]) -> NDArray[np.float64]:
        """Return the mean of a track's values (N,) so far, the newest weighing most."""
        new = np.asarray(values, np.float64)
        if self.seconds > 0 and track in self._kept:
            last, old = self._kept[track]
            share = 1 - np.exp(-max(time - last, 0) / self.seconds)
            new = old + share * (new - old)
        self._kept[track] = (time, new)
        return new

    def forget(self, before: float) -> None:
        """Drop tracks that were last seen before a time, so that memory stays bounded."""
        self._kept = {n: kept for n, kept in self._kept.items() if kept[0] >= before}

    def state(self) -> dict[str, Any]:
        """Return plain values from which :meth:`restore` goes on."""
        return {str(n): [time, values.tolist()] for n, (time, values) in self._kept.items()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what :meth:`state` returned."""
        self._kept = {int(n): (t, np.asarray(v, np.float64)) for n, (t, v) in state.items()}
