"""One way to frames: of a video file, frame-exact, or of a folder of numbered images.

A frame's index is its place in display order from 0, the same that decoding from the beginning
counts; seeking never changes it. No more than the frames asked for are held in memory.

Random access to single frames of a long video stays slow: every access decodes from the keyframe
before it, 125 frames on average where keyframes lie 250 apart. A dataset that trains on single
frames calls :func:`.extract.extract_frames` once and then reads images.
"""

import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import av
import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream
from numpy.typing import NDArray

from faceaffect.data import film
from faceaffect.data.animation import Animation
from faceaffect.data.film import VideoInfo, open_film, read_index
from faceaffect.data.formats import HEAD, is_animated, picture_format
from faceaffect.data.image import open_regular, read_image, resize
from faceaffect.data.moments import evenly
from faceaffect.errors import DataError
from faceaffect.files import entries

Frame = NDArray[np.uint8]
IMAGE_SUFFIXES = (
    ".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".avif", ".heic", ".heif", ".gif",
    ".jp2",
)  # fmt: skip
VIDEO_SUFFIXES = (".avi", ".mkv", ".mov", ".mp4", ".wmv")
"""Endings, in lower case, by which readers of official datasets know pictures and videos."""


class VideoReader:
    """A video file, opened while it is used as a context manager.

    Frames that are asked for in ascending order are decoded in one pass; a gap is jumped over where
    a keyframe allows it. Open it in the process that reads.
    """

    def __init__(self, path: Path | str) -> None:
        """Read the times and keyframes of all frames, without decoding them.

        Raises:
            DataError: no video, or no frame of it can be decoded.
        """
        self.path = Path(path)
        self._index = read_index(self.path)
        self.info = self._index.info
        self._reformatter = VideoReformatter()  # one for all frames: half the cost of a new one
        self._container: InputContainer | None = None
        self._decoded: Iterator[tuple[int, VideoFrame]] = iter(())
        self._current: tuple[int, VideoFrame] | None = None
        self._end: int | None = None  # known once decoding has reached it

    def __enter__(self) -> Self:
        """Return the reader; the file is opened at the first frame."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the file."""
        self.close()

    def close(self) -> None:
        """Close the file; the next frame asked for opens it again."""
        if self._container is not None:
            self._container.close()
        self._container, self._current, self._decoded = None, None, iter(())

    def frames(self, wanted: Iterable[int], size: int | None = None) -> Iterator[tuple[int, Frame]]:
        """Yield (index, (H, W, 3) uint8 RGB) of the wanted frames that decode.

        Args:
            wanted: frame indices, best in ascending order.
            size: side of the square to which frames are scaled, as :func:`.image.resize` does.
        """
        for index in wanted:
            frame = self._fetch(index)
            if frame is not None:
                yield index, self._to_rgb(frame, size)

    def evenly(self, frames: Sequence[int], count: int | None) -> list[int]:
        """Return so many of some frames, evenly in time; see :func:`.moments.evenly`."""
        return evenly(frames, count, self._index.times, self._index.end)

    def _fetch(self, index: int) -> VideoFrame | None:
        if self._end is not None and index >= self._end:
            return None
        place = -1 if self._current is None else self._current[0]
        key = bisect_right(self._index.keys, index) - 1
        if self._container is None or index < place or self._index.keys[key] > place + 1:
            self._start(key)
            if key > 0 and not 0 <= self._advance(0) <= index:
                self._start(0)  # some containers seek past the goal
        if self._advance(index) != index or self._current is None:
            return None
        frame = self._current[1]
        return None if frame.is_corrupt else frame  # what the decoder had to invent is no frame

    def _to_rgb(self, frame: VideoFrame, size: int | None) -> Frame:
        # libswscale scales and converts in one pass, several times faster than OpenCV.
        width, height = (frame.width, frame.height) if size is None else (size, size)
        how = "AREA" if min(frame.width, frame.height) >= min(width, height) else "BILINEAR"
        picture = self._reformatter.reformat(frame, width, height, "rgb24", interpolation=how)
        image = np.rot90(picture.to_ndarray(), frame.rotation // 90)
        return np.ascontiguousarray(image, dtype=np.uint8)

    def _start(self, key: int) -> None:
        if self._container is None or key == 0:
            self.close()
            self._container = open_film(self.path)
        stream = self._container.streams[self._index.stream]
        assert isinstance(stream, VideoStream)
        if key > 0:
            try:
                self._container.seek(self._index.key_times[key], stream=stream)
            except av.FFmpegError:  # a damaged index points nowhere
                self._start(0)
                return
        self._current, self._decoded = None, self._number(_decode(self._container, stream))

    def _number(self, frames: Iterator[VideoFrame]) -> Iterator[tuple[int, VideoFrame]]:
        positions = self._index.positions
        for count, frame in enumerate(frames):
            if not positions:
                yield count, frame
            elif frame.pts in positions:
                yield positions[frame.pts], frame

    def _advance(self, index: int) -> int:
        """Decode up to a frame and return the place reached, which is beyond a damaged frame."""
        while self._current is None or self._current[0] < index:
            reached, self._current = self._current, next(self._decoded, None)
            if self._current is None:
                if reached is not None:
                    self._end = reached[0] + 1
                self.close()
                return -1
        return self._current[0]


class FrameFolder:
    """A folder of images in the order of the number that ends their name, as if it were a video.

    The index of a frame is its place in that order, not the number.
    """

    def __init__(self, path: Path | str) -> None:
        """List the images.

        Raises:
            DataError: the folder has no numbered image, or none that can be read.
        """
        self.path = Path(path)
        numbered = [
            (int(match[0]), file)
            for file in entries(self.path)
            if file.suffix.lower() in IMAGE_SUFFIXES and (match := re.search(r"\d+$", file.stem))
        ]
        self.files = [file for _, file in sorted(numbered)]
        first = next(self.frames(range(len(self.files))), None)
        if first is None:
            why = self._why_not(0) if self.files else ", ".join(IMAGE_SUFFIXES)
            raise DataError(f"{path}: no readable image with a number in its name ({why})")
        height, width = first[1].shape[:2]
        self.info = VideoInfo(len(self.files), None, width, height)

    def __enter__(self) -> Self:
        """Return the folder."""
        return self

    def __exit__(self, *_: object) -> None:
        """Do nothing: no file is held open."""

    def frames(self, wanted: Iterable[int], size: int | None = None) -> Iterator[tuple[int, Frame]]:
        """Yield (index, (H, W, 3) uint8 RGB) of the wanted images that can be read."""
        for index in wanted:
            try:
                image = read_image(self.files[index])
            except DataError:
                continue  # as a frame that does not decode; the caller sees the gap
            yield index, image if size is None else resize(image, size)

    def evenly(self, frames: Sequence[int], count: int | None) -> list[int]:
        """Return so many of some frames, evenly in number; see :func:`.moments.evenly`."""
        return evenly(frames, count)

    def _why_not(self, index: int) -> str:
        try:
            read_image(self.files[index])
        except DataError as error:
            return str(error)
        return ""


def is_clip(path: Path) -> bool:
    """Return whether a file is read as a clip; its content decides, not its name.

    A folder, a film and an animated GIF, PNG, WebP or AVIF are clips. What cannot be opened is
    none, and neither are the picture on a sound file's cover and the clip behind a motion photo.
    """
    if path.is_dir():
        return True
    try:
        with open_regular(path) as file:
            name = picture_format(file.read(HEAD))
            file.seek(0)
            return name is None or is_animated(file, name)
    except DataError:
        return False


def read_media(path: Path, frames: int, size: int | None = None) -> Frame:
    """Read a picture, or frames of a clip that are evenly spaced in time.

    Args:
        path: a file, or a folder of numbered pictures.
        frames: how many frames of a clip, see :func:`read_frames`.
        size: side of the square to which the frames of a clip are scaled.

    Returns:
        (H, W, 3) uint8 RGB of a picture, (T, H, W, 3) of a clip.

    Raises:
        DataError: not readable.
    """
    return read_frames(path, count=frames, size=size) if is_clip(path) else read_image(path)


def open_video(path: Path | str) -> VideoReader | FrameFolder | Animation:
    """Open a video file, an animated picture or a folder of numbered images.

    Raises:
        DataError: nothing there, nothing readable in it; the file is named.
    """
    path = Path(path)
    if not path.exists():
        raise DataError(f"{path}: no such video file or folder of frames")
    if path.is_dir():
        return FrameFolder(path)
    with open_regular(path) as file:
        name = picture_format(file.read(HEAD))
    # FFmpeg takes the frames of a GIF that says nothing of their time for one, and reads no others.
    return Animation(path, name) if name in ("GIF", "WebP", "AVIF") else VideoReader(path)


def read_frames(
    path: Path | str,
    *,
    count: int | None = None,
    indices: Sequence[int] | None = None,
    size: int | None = None,
) -> Frame:
    """Read some frames of a video or of a folder of frames.

    Args:
        path: video file or folder.
        count: how many frames: those shown in the middles of as many equal stretches of time (of
            the frames' number where no times are known), so that a frame that stands long may come
            more than once. A clip with fewer frames gives all that it has. Frames that do not
            decode, or that the decoder had to invent, are no part of the clip.
        indices: these frames instead, in this order, repeats allowed. Neither: all frames.
        size: side of the square to which frames are scaled.

    Returns:
        (T, H, W, 3) uint8 RGB.

    Raises:
        DataError: not readable, an index beyond the end or a frame that does not decode.
    """
    with open_video(path) as video:
        if indices is not None:
            return _exactly(video, indices, size)
        total = video.info.frames
        chosen = video.evenly(range(total), count)
        frames = dict(video.frames(sorted(set(chosen)), size))
        if len(frames) < len(set(chosen)):
            decodable = [index for index, _ in video.frames(range(total), 1)]
            chosen = video.evenly(decodable, count)
            frames = dict(video.frames(sorted(set(chosen)), size))
        return _stack(video, [frames[index] for index in chosen if index in frames])


def _exactly(
    video: VideoReader | FrameFolder | Animation, indices: Sequence[int], size: int | None
) -> Frame:
    total = video.info.frames
    if outside := [index for index in indices if not 0 <= index < total]:
        raise DataError(f"{video.path}: no frame {outside[0]}, it has the frames 0 to {total - 1}")
    frames = dict(video.frames(sorted(set(indices)), size))
    if lost := sorted(set(indices) - set(frames)):
        raise DataError(
            f"{video.path}: frame {lost[0]} of {total} cannot be decoded ({len(lost)} of those "
            "asked for): copy the file again or leave these frames out"
        )
    return _stack(video, [frames[index] for index in indices])


def _stack(video: VideoReader | FrameFolder | Animation, frames: list[Frame]) -> Frame:
    if not frames:
        raise DataError(f"{video.path}: no frame can be decoded; copy the file again")
    if len({frame.shape for frame in frames}) > 1:
        raise DataError(f"{video.path}: frames of different sizes need one common size")
    return np.stack(frames)


def _decode(container: InputContainer, stream: VideoStream) -> Iterator[VideoFrame]:
    with suppress(av.FFmpegError):  # a damaged container ends the video
        for packet in container.demux(stream):
            yield from film.decode_packet(packet)
