"""Writing a video frame by frame, and the sound of another video to it."""

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from av.container import InputContainer, OutputContainer

from faceaffect.data.faces.finder import Frame
from faceaffect.errors import DataError

_CLOCK = Fraction(1, 90_000)  # seconds a tick; every usual frame rate is a whole number of them
_IN_MP4 = ("aac", "mp3", "ac3", "eac3", "alac")


class Film:
    """A video that grows frame by frame; it lies at its place once it is finished.

    Args:
        path: where, without an ending: ``.mp4``, or ``.mkv`` where MP4 cannot hold the sound.
        sound: a video whose sound is copied, without encoding it anew; None for silence.
    """

    def __init__(self, path: Path, sound: Path | None = None) -> None:
        self.path, self.sound = path, sound
        self._silent = path.with_name(f".{path.name}.silent.mp4")
        self._container: OutputContainer | None = None
        self._stream: Any = None
        self._size = (0, 0)
        self._last = -1

    def add(self, image: Frame, seconds: float) -> None:
        """Add a frame that is shown from a time on; one of another size is scaled.

        Raises:
            DataError: the folder cannot be written to.
        """
        if self._container is None:
            self._open(image)
        width, height = self._size
        if image.shape[1::-1] != (width, height):
            even = image[: image.shape[0] // 2 * 2, : image.shape[1] // 2 * 2]
            same = even.shape[1::-1] == (width, height)
            image = even if same else np.asarray(cv2.resize(image, (width, height)), np.uint8)
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
        self._last = max(round(seconds / _CLOCK), self._last + 1)
        frame.pts, frame.time_base = self._last, _CLOCK
        assert self._container is not None
        self._container.mux(self._stream.encode(frame))

    def finish(self) -> Path | None:
        """Write the end and the sound, and return the file; None where no frame was added."""
        if self._container is None:
            return None
        self._container.mux(self._stream.encode(None))
        self._container.close()
        self._container = None
        return _join(self._silent, self.sound, self.path)

    def drop(self) -> None:
        """Forget what was added."""
        if self._container is not None:
            self._container.close()
            self._container = None
        self._silent.unlink(missing_ok=True)

    def _open(self, image: Frame) -> None:
        height, width = image.shape[:2]
        self._size = (max(width // 2 * 2, 2), max(height // 2 * 2, 2))  # 4:2:0 asks for even sides
        try:
            self._container = av.open(str(self._silent), "w", format="mp4")
        except OSError as error:
            raise DataError(f"{self._silent}: {error.strerror or error}") from None
        coder = "libx264" if "libx264" in av.codecs_available else "mpeg4"
        options = {"preset": "veryfast", "crf": "20"} if coder == "libx264" else {"q:v": "3"}
        self._stream = self._container.add_stream(coder, rate=25, options=options)
        self._stream.width, self._stream.height = self._size
        self._stream.pix_fmt = "yuv420p"
        self._stream.time_base = self._stream.codec_context.time_base = _CLOCK


def _join(silent: Path, sound: Path | None, goal: Path) -> Path:
    """Put the sound of one video to the pictures of another, and return the file."""
    source = _sound(sound)
    if source is None:
        whole = goal.with_name(f"{goal.name}.mp4")
        silent.replace(whole)
        return whole
    audio = source.streams.audio[0]
    form = "mp4" if audio.codec_context.name in _IN_MP4 else "mkv"
    whole, part = goal.with_name(f"{goal.name}.{form}"), goal.with_name(f".{goal.name}.part")
    first = _first_picture(source)
    muxer = "mp4" if form == "mp4" else "matroska"
    with (
        source,
        av.open(str(silent)) as pictures,
        av.open(str(part), "w", format=muxer) as out,
    ):
        video = out.add_stream_from_template(pictures.streams.video[0])
        heard = out.add_stream_from_template(audio)
        both = _in_order(_packets(pictures, "video", 0.0), _packets(source, "audio", first))
        for packet in both:
            packet.stream = video if packet.stream.type == "video" else heard
            out.mux(packet)
    silent.unlink()
    part.replace(whole)
    return whole


def _sound(path: Path | None) -> InputContainer | None:
    """Return a video that has sound, opened; None where it has none."""
    if path is None:
        return None
    try:
        container = av.open(str(path), metadata_errors="replace")
    except (av.FFmpegError, OSError):
        return None
    if container.streams.audio and container.streams.video:
        return container
    container.close()
    return None


def _first_picture(container: InputContainer) -> float:
    """Return the time of the first picture, which is where our clock begins, in seconds."""
    stream = container.streams.video[0]
    return float((stream.start_time or 0) * (stream.time_base or 0))


def _packets(container: InputContainer, kind: str, first: float) -> Iterator[Any]:
    """Yield the packets of a container's first stream of a kind, moved to begin at 0."""
    stream = (container.streams.video if kind == "video" else container.streams.audio)[0]
    shift = round(first / float(stream.time_base or 1))
    for packet in container.demux(stream):
        if packet.dts is None or packet.pts is None:
            continue
        packet.pts, packet.dts = packet.pts - shift, packet.dts - shift
        if packet.pts >= 0:
            yield packet


def _in_order(one: Iterator[Any], other: Iterator[Any]) -> Iterator[Any]:
    """Yield packets of two streams by their time, so that a player finds them side by side."""
    a, b = next(one, None), next(other, None)
    while a is not None or b is not None:
        if b is None or (a is not None and a.dts * a.time_base <= b.dts * b.time_base):
            yield a
            a = next(one, None)
        else:
            yield b
            b = next(other, None)
