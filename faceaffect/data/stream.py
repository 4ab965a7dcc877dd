"""A film from its beginning to its end, once, in memory that does not grow with its length."""

from collections.abc import Callable, Iterator
from pathlib import Path

import av
import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from faceaffect.data.animation import Animation
from faceaffect.data.film import decode_packet, films, open_film
from faceaffect.data.formats import HEAD, picture_format
from faceaffect.data.image import open_regular
from faceaffect.errors import DataError

Frame = NDArray[np.uint8]
Wanted = Callable[[int, float], bool]

_RATE = 25.0  # frames a second where a file says nothing


def stream_frames(path: Path, wanted: Wanted) -> Iterator[tuple[int, float, Frame]]:
    """Decode a film, or an animated picture, once from its beginning.

    Args:
        path: its file.
        wanted: told the index and time of each frame, says whether it is yielded.

    Yields:
        index as in :class:`.VideoReader`; seconds since the first frame; (H, W, 3) uint8 RGB.
        Frames that do not decode, or that the decoder had to invent, are left out.

    Raises:
        DataError: not readable, or nothing in it decodes; raised where reading ends.
    """
    with open_regular(path) as file:
        name = picture_format(file.read(HEAD))
    if name in ("GIF", "WebP", "AVIF"):  # as open_video does
        animation = Animation(path, name)
        rate = animation.info.fps or _RATE
        chosen = (i for i in range(animation.info.frames) if wanted(i, i / rate))
        for index, frame in animation.frames(chosen):
            yield index, index / rate, frame
    else:
        yield from _decode(path, wanted)


def _decode(path: Path, wanted: Wanted) -> Iterator[tuple[int, float, Frame]]:
    reformatter, count = VideoReformatter(), 0
    try:
        with open_film(path) as container:
            stream = films(path, container)[0]
            stream.thread_type = "AUTO"
            rate, first = float(stream.average_rate or _RATE), None
            for packet in container.demux(stream):
                for frame in decode_packet(packet):
                    index, count = count, count + 1
                    first = frame.time if index == 0 else first
                    known = frame.time is not None and first is not None
                    time = (frame.time or 0) - (first or 0) if known else index / rate
                    if not frame.is_corrupt and wanted(index, time):
                        yield index, time, _upright(frame, reformatter)
    except (av.FFmpegError, OSError, IndexError) as error:  # IndexError: a damaged stream table
        reason = getattr(error, "strerror", None) or "damaged"
        where = f", beyond frame {count}" if count else ""
        raise DataError(f"{path}: not readable as a picture or a video ({reason}){where}") from None
    if count == 0:
        raise DataError(f"{path}: none of its frames can be decoded; copy it again or leave it out")


def seconds_of(path: Path) -> float | None:
    """Return how long a film says it is, None where it does not say or cannot be opened."""
    try:
        with open_film(path) as container:
            stream = films(path, container)[0]
            if stream.duration and stream.time_base:
                return float(stream.duration * stream.time_base)
            return container.duration / av.time_base if container.duration else None
    except (av.FFmpegError, OSError, IndexError, DataError):
        return None


def _upright(frame: VideoFrame, reformatter: VideoReformatter) -> Frame:
    picture = reformatter.reformat(frame, frame.width, frame.height, "rgb24").to_ndarray()
    return np.ascontiguousarray(np.rot90(picture, frame.rotation // 90), dtype=np.uint8)
