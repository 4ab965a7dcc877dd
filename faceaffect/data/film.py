"""Opening video files, and what is known of all their frames without decoding them."""

from collections.abc import Iterator
from contextlib import suppress
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from statistics import median_low
from typing import Any, NamedTuple

import av
from av.container import InputContainer
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from faceaffect.data.image import max_pixels, open_regular
from faceaffect.errors import DataError

_NO_FILM = Disposition.attached_pic | Disposition.timed_thumbnails | Disposition.still_image

# Files, never addresses, and no playlists, which name other files. Sound is there to be told apart.
# Not mjpeg, which finds previews in documents and in files of any kind.
_FORMATS = (
    "aac,ac3,aiff,amv,apng,asf,av1,avi,dv,flac,flv,h261,h263,h264,hevc,ivf,m4v,matroska,"
    "mov,mp3,mpeg,mpegts,mpegvideo,mxf,nut,obu,ogg,rm,vc1,vvc,wav,wtv,yuv4mpegpipe"
)


class VideoInfo(NamedTuple):
    """What is known of a clip without decoding it all.

    Attributes:
        frames: number of frames that the file holds; a damaged file may decode to fewer.
        fps: mean frame rate, None for a folder.
        width: of the upright picture, in pixels.
        height: of the upright picture, in pixels.
    """

    frames: int
    fps: float | None
    width: int
    height: int


class Index(NamedTuple):
    """Times and keyframes of a film.

    Attributes:
        info: of the film.
        stream: its number among the streams of the file.
        positions: presentation time to frame index; empty: only counting is exact.
        keys: frame indices at which decoding can begin.
        key_times: presentation time of each of these.
        times: presentation time of each frame, None if unknown.
        end: of the last frame.
    """

    info: VideoInfo
    stream: int
    positions: dict[int, int]
    keys: tuple[int, ...] = (0,)
    key_times: tuple[int, ...] = (0,)
    times: tuple[int, ...] | None = None
    end: int = 0


class _Packet(NamedTuple):
    time: int | None
    duration: int
    is_key: bool


def open_film(path: Path) -> InputContainer:
    """Open a video file; nothing that it names is opened, and no frame beyond the limit decoded.

    Raises:
        DataError: no regular file.
        av.FFmpegError: of no format that is read.
    """
    open_regular(path).close()
    options = {"format_whitelist": _FORMATS, "protocol_whitelist": "file"}
    container = av.open(f"file:{path}", metadata_errors="replace", options=options)
    for stream in container.streams.video:
        if stream.codec_context is not None:
            stream.codec_context.options = {"max_pixels": str(max_pixels())}
    return container


def decode_packet(packet: "av.Packet[Any]") -> Iterator[VideoFrame]:
    """Yield the frames that a packet completes; a damaged packet completes none."""
    with suppress(av.FFmpegError):  # one damaged packet does not end the video
        yield from packet.decode()


def read_index(path: Path) -> Index:
    """Return the index of a video file, from memory if it was asked for lately.

    Raises:
        DataError: no regular file, no film, or none of its frames decodes.
    """
    with open_regular(path):
        stat = path.stat()
    return _scan(path, stat.st_size, stat.st_mtime_ns, max_pixels())


@lru_cache(maxsize=64)
def _scan(path: Path, size: int, modified: int, pixels: int) -> Index:
    """Scan the packets of a file; what follows the path is there for the cache alone."""
    packets: dict[int, list[_Packet]] = {}
    first: dict[int, VideoFrame] = {}
    try:
        with open_film(path) as container:
            streams = {s.index: s for s in films(path, container)}
            packets = {index: [] for index in streams}
            for packet in container.demux(list(streams.values())):
                index = packet.stream.index  # the last, empty packets know it only so
                if packet.size and not packet.is_discard:
                    found = _Packet(packet.pts, packet.duration or 0, packet.is_keyframe)
                    packets[index].append(found)
                if index not in first:
                    frame = next(decode_packet(packet), None)
                    first |= {index: frame} if frame is not None else {}
            if not first:
                raise DataError(
                    f"{path}: none of its frames can be decoded; copy it again or leave it out"
                )
            film = max(first, key=lambda index: len(packets[index]))  # a still has one packet
            coder, rate = streams[film].codec_context, streams[film].average_rate
            reorders = bool(coder.has_b_frames)
    except (av.FFmpegError, OSError, IndexError) as error:  # IndexError: a damaged stream table
        reason = getattr(error, "strerror", None) or "damaged"
        raise DataError(
            f"{path}: not readable as a picture or a video ({reason}); copy it again or leave it "
            "out"
        ) from None
    width, height = first[film].width, first[film].height
    if first[film].rotation % 180:
        width, height = height, width
    info = VideoInfo(len(packets[film]), None if rate is None else float(rate), width, height)
    return _order(packets[film], first[film].pts, reorders, Index(info, film, {}))


def films(path: Path, container: InputContainer) -> list[VideoStream]:
    """Return the streams that may be a film: no covers, no previews, and a codec that we have.

    Raises:
        DataError: there is none.
    """
    streams = list(container.streams.video)
    if not streams:
        raise DataError(f"{path}: no video stream in this file")
    films = [stream for stream in streams if not stream.disposition & _NO_FILM]
    if not films:
        raise DataError(f"{path}: holds a cover picture, but no film")
    known = [stream for stream in films if stream.codec_context is not None]
    if not known:
        raise DataError(f"{path}: damaged, or of a codec that cannot be decoded here")
    return known


def _order(packets: list[_Packet], first: int | None, reorders: bool, index: Index) -> Index:
    """Number the frames by presentation time, if the container knows it for every frame."""
    times = [packet.time for packet in packets if packet.time is not None]
    known = len(set(times)) == len(packets) and first in times
    # AVI stores no presentation time: with B-frames libav repeats the order of storage.
    if not known or first is None or (reorders and times == sorted(times)):
        return index
    # Packets before the first frame (a cut recording) decode to nothing: no frames.
    shown = sorted(time for time in times if time >= first)
    positions = {time: number for number, time in enumerate(shown)}
    keys = {p.time for p in packets if p.is_key and p.time in positions} | {first}
    starts = sorted(time for time in keys if time is not None)
    last = next(packet.duration for packet in packets if packet.time == shown[-1])
    step = median_low([b - a for a, b in pairwise(shown)]) if len(shown) > 1 else 1
    return index._replace(
        info=index.info._replace(frames=len(shown)),
        positions=positions,
        keys=tuple(positions[time] for time in starts),
        key_times=tuple(starts),
        times=tuple(shown),
        end=shown[-1] + max(last, step),  # many containers know no duration of a frame
    )
