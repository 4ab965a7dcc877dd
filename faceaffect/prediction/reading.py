"""Reading inputs one after another, ahead of whoever looks at them, in bounded memory."""

import queue
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from faceaffect.data.faces.finder import Frame
from faceaffect.data.image import read_image
from faceaffect.data.stream import seconds_of, stream_frames
from faceaffect.data.video import is_clip
from faceaffect.errors import DataError
from faceaffect.prediction.inputs import Input

_PICTURES_AHEAD = 4  # whole pictures, which may be large
_FRAMES_AHEAD = 4
_READERS = 2


@dataclass(frozen=True)
class Shot:
    """One picture, or one frame of a video or camera.

    Attributes:
        source: where it comes from, the place in the list of inputs.
        name: of the input.
        path: of its file; empty for what has none.
        image: (H, W, 3) uint8 RGB.
        frame: index in the video from 0; None for a picture.
        time: seconds since the beginning of the video; None for a picture.
        wanted: whether faces are looked for in it; else it is there to be shown.
        share: how much of the input lies before its end, 0 to 1.
    """

    source: int
    name: str
    path: str
    image: Frame
    frame: int | None = None
    time: float | None = None
    wanted: bool = True
    share: float = 1.0


@dataclass(frozen=True)
class Ended:
    """An input has been read to its end, or as far as it can be.

    Attributes:
        source: the place in the list of inputs.
        name: of the input.
        reason: why it, or the rest of it, cannot be read; None if all is well.
    """

    source: int
    name: str
    reason: str | None = None


def read_inputs(
    inputs: Sequence[Input],
    *,
    fps: float | None = None,
    all_frames: bool = False,
    start: int = 0,
    start_frame: int = 0,
) -> Iterator[Shot | Ended]:
    """Yield what is in the inputs, in order, and after each that it has ended.

    An input that cannot be read ends with a reason; the others go on.

    Args:
        inputs: what to read.
        fps: looks a second at a video, by the time stamps of its frames; None takes every frame.
        all_frames: yield also the frames between, not to be looked at.
        start: the first input to read.
        start_frame: the first frame of that input, if it is a video.
    """
    looks = partial(_Looks, fps, all_frames=all_frames)
    places = range(start, len(inputs))
    for place, image in zip(places, _images(inputs, places), strict=True):
        first = start_frame if place == start else 0
        yield from _read(inputs[place], place, image, looks(first))


def _images(inputs: Sequence[Input], places: range) -> Iterator["Future[Frame | None] | None"]:
    """Yield, for each input, its picture that is being read ahead; None for a camera."""
    rest = iter(places)
    waiting: list[Future[Frame | None] | None] = []
    pool = ThreadPoolExecutor(_READERS)

    def more() -> None:
        for place in rest:
            one = inputs[place]
            waiting.append(None if one.camera else pool.submit(_picture, Path(one.path)))
            if len(waiting) >= _PICTURES_AHEAD:
                return

    try:
        more()
        while waiting:
            yield waiting.pop(0)
            more()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _picture(path: Path) -> Frame | None:
    """Read a picture; None is a clip."""
    return None if is_clip(path) else read_image(path)


def _read(
    one: Input, place: int, image: "Future[Frame | None] | None", looks: "_Looks"
) -> Iterator[Shot | Ended]:
    try:
        picture = None if image is None else image.result()
        if picture is not None:
            yield Shot(place, one.name, one.path, picture)
        else:
            yield from _ahead((_camera if one.camera else _film)(one, place, looks))
    except (DataError, OSError, MemoryError, ValueError) as error:
        yield Ended(place, one.name, str(error) or type(error).__name__)
    else:
        yield Ended(place, one.name)


class _Looks:
    """Which frames are looked at: the first at or after each tick of a clock."""

    def __init__(self, fps: float | None, first: int, *, all_frames: bool) -> None:
        self.fps, self.first, self.all_frames = fps, first, all_frames
        self.wanted = False  # the frame asked about last
        self._next = 0.0

    def __call__(self, index: int, seconds: float) -> bool:
        """Return whether a frame is needed at all."""
        due = self.fps is None or seconds >= self._next - 1e-6
        if due and self.fps is not None:
            self._next = (int(seconds * self.fps + 1e-6) + 1) / self.fps
        self.wanted = due and index >= self.first
        return self.wanted or (self.all_frames and index >= self.first)


def _film(one: Input, place: int, looks: _Looks) -> Iterator[Shot]:
    path = Path(one.path)
    length = seconds_of(path)
    for index, seconds, image in stream_frames(path, looks):
        share = min(seconds / length, 1.0) if length else 0.0
        yield Shot(place, one.name, one.path, image, index, seconds, looks.wanted, share)


def _camera(one: Input, place: int, looks: _Looks) -> Iterator[Shot]:
    camera = cv2.VideoCapture(int(one.path))
    start, index = time.monotonic(), 0
    try:
        if not camera.isOpened():
            raise DataError(f"{one.name}: no camera there, or another program has it")
        while True:
            there, picture = camera.read()
            if not there:
                raise DataError(f"{one.name}: gave no picture any more after {index} frames")
            seconds = time.monotonic() - start
            if looks(index, seconds):
                image = np.ascontiguousarray(picture[..., ::-1], np.uint8)
                yield Shot(
                    place,
                    one.name,
                    "",
                    image,
                    index,
                    seconds,
                    looks.wanted,
                    0.0,
                )
            index += 1
    finally:
        camera.release()


def _ahead(shots: Iterator[Shot]) -> Iterator[Shot]:
    """Read in a thread of its own while what was read before is looked at."""
    waiting: queue.Queue[Shot | BaseException | None] = queue.Queue(_FRAMES_AHEAD)
    stop = threading.Event()

    def put(item: Shot | BaseException | None) -> None:
        while not stop.is_set():
            try:
                waiting.put(item, timeout=0.2)
            except queue.Full:
                continue
            return

    def read() -> None:
        try:
            for shot in shots:
                put(shot)
                if stop.is_set():
                    break
        except BaseException as error:
            put(error)
        else:
            put(None)
        finally:
            shots.close()  # type: ignore[attr-defined]

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    try:
        while (item := waiting.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stop.set()
        thread.join()
