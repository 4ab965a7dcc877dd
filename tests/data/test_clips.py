"""Clips as phones, cameras, the web and attackers make them: content decides, and time."""

import io
import os
import struct
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.stream import Disposition
from PIL import Image

from faceaffect.data.base import create_data
from faceaffect.data.image import pixel_limit, read_image
from faceaffect.data.moments import evenly
from faceaffect.data.video import is_clip, open_video, read_frames, read_media
from faceaffect.errors import DataError
from faces import face, write_image, write_table

HEIGHT, WIDTH = 48, 64


def grey(number: int) -> np.ndarray:
    """A frame whose brightness is its number, times five."""
    return np.full((HEIGHT, WIDTH, 3), 5 * number, np.uint8)


def number_of(frame: np.ndarray) -> int:
    return round(float(frame.mean()) / 5)


def write_film(
    path: Path,
    times: list[int],
    codec: str = "libx264",
    kind: str | None = None,
    still: np.ndarray | None = None,
    picture: Callable[[int], np.ndarray] = grey,
    **options: Any,
) -> Path:
    """Write frames that begin at so many hundredths of a second; a still stands before the film."""
    with av.open(str(path), "w", format=kind) as container:
        first = container.add_stream("mjpeg", rate=1) if still is not None else None
        stream = container.add_stream(codec, rate=25, options=options)
        for made in (first, stream):
            if made is not None:
                made.width, made.height = WIDTH, HEIGHT
                made.pix_fmt = {"gif": "rgb8", "mjpeg": "yuvj420p"}.get(made.name, "yuv420p")
                made.codec_context.time_base = Fraction(1, 100)
        if first is not None:
            frame = av.VideoFrame.from_ndarray(still)
            frame.pts, frame.time_base = 0, Fraction(1, 100)
            container.mux(first.encode(frame))
            container.mux(first.encode())
        for number, time in enumerate(times):
            frame = av.VideoFrame.from_ndarray(picture(number))
            frame.pts, frame.time_base = time, Fraction(1, 100)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def write_animation(path: Path, kind: str, durations: list[int]) -> Path:
    """Write an animated picture whose frames stand so many milliseconds."""
    frames = [Image.fromarray(grey(number)) for number in range(len(durations))]
    options = {"lossless": True} if kind == "WEBP" else {}
    frames[0].save(path, kind, save_all=True, append_images=frames[1:], duration=durations,
                   loop=0, **options)  # fmt: skip
    return path


EVERY_40_MS = [4 * i for i in range(24)]


# Content decides, not the name


@pytest.mark.parametrize(
    ("name", "codec", "kind"),
    [("a.3gp", "mpeg4", "mp4"), ("a.ts", "libx264", "mpegts"), ("a.MTS", "libx264", "mpegts"),
     ("a.flv", "libx264", "flv"), ("a.ogv", "libvpx", "ogg"), ("a.WEBM", "libvpx", "webm"),
     ("a", "mpeg4", "avi"), ("a.jpg", "libx264", "mp4"), ("a.divx", "mpeg4", "avi")],
)  # fmt: skip
def test_a_film_is_read_whatever_its_name(tmp_path: Path, name: str, codec: str, kind: str) -> None:
    path = write_film(tmp_path / name, EVERY_40_MS, codec, kind)
    assert is_clip(path)
    frames = read_media(path, 6)
    assert frames.shape == (6, HEIGHT, WIDTH, 3)
    taken = [number_of(frame) for frame in frames]
    assert np.abs(np.subtract(taken, [2, 6, 10, 14, 18, 22])).max() <= (1 if kind == "ogg" else 0)


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "AVIF"])
@pytest.mark.parametrize("suffix", [".gif", ".png", ".mp4"])
def test_an_animated_picture_is_a_clip(tmp_path: Path, kind: str, suffix: str) -> None:
    path = write_animation(tmp_path / f"a{suffix}", kind, [40] * 12)
    assert is_clip(path)
    assert [number_of(frame) for frame in read_media(path, 4)] == [1, 4, 7, 10]
    assert read_media(path, 3, size=20).shape == (3, 20, 20, 3)
    with open_video(path) as video:
        assert video.info[:2] == (12, 25)
    backwards = read_frames(path, indices=[11, 0, 5, 5])
    assert [number_of(frame) for frame in backwards] == [11, 0, 5, 5]


def test_a_gif_that_says_nothing_of_time_has_all_its_frames(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (4, HEIGHT, WIDTH, 3), np.uint8)
    frames = [Image.fromarray(frame).quantize(64) for frame in noise]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    read = read_media(tmp_path / "a.gif", 8)
    assert np.array_equal(read, [np.asarray(frame.convert("RGB")) for frame in frames])
    at_once = write_animation(tmp_path / "b.gif", "GIF", [0, 10, 300, 100])
    assert [number_of(frame) for frame in read_media(at_once, 3)] == [1, 2, 3]
    with open_video(at_once) as video:
        assert video.info[:2] == (4, pytest.approx(4 / 0.6))


def test_a_gif_ends_before_its_first_damaged_frame(tmp_path: Path) -> None:
    path = write_animation(tmp_path / "a.gif", "GIF", [40] * 6)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    shown = [number_of(frame) for frame in read_media(path, 8)]
    assert 0 < len(shown) < 6
    assert shown == list(range(len(shown)))


def test_a_preview_in_a_document_is_no_film(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.fromarray(face(1)).save(buffer, "JPEG")
    for name, head in (("a.pdf", b"%PDF-1.4 "), ("a.doc", b"\xd0\xcf\x11\xe0"), ("a.x", bytes(99))):
        (tmp_path / name).write_bytes(head + buffer.getvalue() + b" trailer" * 40)
        with pytest.raises(DataError, match="not readable as a picture or a video"):
            read_media(tmp_path / name, 8)


def test_a_still_is_no_clip_whatever_its_name(tmp_path: Path) -> None:
    for kind in ("GIF", "PNG", "WEBP", "AVIF", "JPEG", "BMP", "TIFF"):
        buffer = io.BytesIO()
        Image.fromarray(face(1)).save(buffer, kind)
        (tmp_path / "a.mp4").write_bytes(buffer.getvalue())
        assert not is_clip(tmp_path / "a.mp4")
        assert read_media(tmp_path / "a.mp4", 8).shape == (48, 48, 3)


def test_a_motion_photo_is_its_picture(tmp_path: Path) -> None:
    film = write_film(tmp_path / "film.mp4", EVERY_40_MS).read_bytes()
    path = write_image(tmp_path / "photo.jpg", face(2))
    expected = read_image(path)
    path.write_bytes(path.read_bytes() + film)
    assert not is_clip(path)
    assert np.array_equal(read_media(path, 8), expected)


def test_a_table_may_name_clips_of_every_kind(tmp_path: Path) -> None:
    write_film(tmp_path / "a.mts", EVERY_40_MS, "libx264", "mpegts")
    write_animation(tmp_path / "b.gif", "GIF", [40] * 6)
    write_image(tmp_path / "c.gif.jpg", face())
    rows = [{"video": n, "AU1": 1} for n in ("a.mts", "b.gif", "c.gif.jpg")]
    table = write_table(tmp_path / "t.csv", rows)
    data = create_data("csv", table=str(table), protocol="all", num_workers=0, frames=5)
    (batch,) = data.test_dataloader()
    assert data.skipped == {}
    assert batch["frame_mask"].sum(1).tolist() == [5, 5, 1]


# What is no film in a film's file


@pytest.mark.parametrize("name", ["song.m4a", "song.mp3", "song.mkv"])
def test_the_cover_of_a_sound_file_is_no_film(tmp_path: Path, name: str) -> None:
    kind = {"song.m4a": "mp4", "song.mp3": "mp3", "song.mkv": "mp4"}[name]
    with av.open(str(tmp_path / name), "w", format=kind) as container:
        sound = container.add_stream("mp3" if kind == "mp3" else "aac", rate=44100)
        cover = container.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = WIDTH, HEIGHT, "yuvj420p"
        cover.disposition = Disposition.attached_pic
        container.mux(cover.encode(av.VideoFrame.from_ndarray(grey(20))))
        container.mux(cover.encode())
        for start in range(0, 44100, 1024):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
            frame.sample_rate, frame.pts = 44100, start
            container.mux(sound.encode(frame))
        container.mux(sound.encode())
    with pytest.raises(DataError, match="cover picture, but no film"):
        read_media(tmp_path / name, 4)


def test_a_still_in_the_first_track_is_passed_over(tmp_path: Path) -> None:
    path = write_film(
        tmp_path / "a.mp4", EVERY_40_MS, still=np.full((HEIGHT, WIDTH, 3), 255, np.uint8)
    )
    with av.open(str(path)) as container:
        assert [stream.frames for stream in container.streams.video] == [1, 24]
    assert [number_of(frame) for frame in read_frames(path, count=4)] == [3, 9, 15, 21]
    assert number_of(read_frames(path, indices=[23])[0]) == 23


def test_a_film_behind_its_sound_is_read_to_its_end(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        sound = container.add_stream("aac", rate=44100)
        film = container.add_stream("libx264", rate=25)
        film.width, film.height, film.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for number in range(3):
            container.mux(film.encode(av.VideoFrame.from_ndarray(grey(number))))
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        silence.sample_rate, silence.pts = 44100, 0
        container.mux(sound.encode(silence))
        container.mux(film.encode())
        container.mux(sound.encode())
    assert [number_of(frame) for frame in read_frames(tmp_path / "a.mp4")] == [0, 1, 2]


# Evenly in time


def test_frames_are_even_in_time_where_the_rate_varies(tmp_path: Path) -> None:
    """Twenty frames in the first second, then one a second for four seconds."""
    times = [*range(0, 100, 5), 100, 200, 300, 400]
    path = write_film(tmp_path / "a.mp4", times)
    taken = [number_of(frame) for frame in read_frames(path, count=8)]
    assert len(taken) == 8
    begun = [times[number] for number in taken]
    middles = [(i + 0.5) * 405 / 8 for i in range(8)]
    assert begun == [max(t for t in times if t <= middle) for middle in middles]
    assert sum(time < 100 for time in begun) == 2
    assert len(read_frames(path, count=100)) == 24  # a clip of fewer frames gives what it has


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "AVIF"])
def test_a_frame_that_stands_long_is_seen_long(tmp_path: Path, kind: str) -> None:
    path = write_animation(tmp_path / "a", kind, [100, 100, 800, 100, 100])
    taken = [number_of(frame) for frame in read_frames(path, count=4)]
    assert taken == [1, 2, 2, 3]


@pytest.mark.parametrize("n", [1, 7, 61, 300])
@pytest.mark.parametrize("count", [1, 2, 8, 13])
def test_a_constant_rate_is_even_in_number_too(n: int, count: int) -> None:
    by_number = evenly(range(n), count)
    assert by_number == [int((i + 0.5) * n / count) for i in range(count)] or count >= n
    for step in (1, 512, 3003):
        times = [7 + step * i for i in range(n)]
        assert evenly(range(n), count, times, times[-1] + step) == by_number
    clock = [round(i * 1000 / 30) for i in range(n)]  # milliseconds, rounded
    assert evenly(range(n), count, clock, round(n * 1000 / 30)) == by_number


# Damage and files that hurt


def test_frames_that_a_decoder_invents_are_left_out(tmp_path: Path) -> None:
    def noise(number: int) -> np.ndarray:
        return np.random.default_rng(number).integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8)

    path = write_film(tmp_path / "a.avi", EVERY_40_MS, "mpeg4", picture=noise, g="1")
    data = bytearray(path.read_bytes())
    with av.open(str(path)) as container:
        packets = [(p.pos, p.size) for p in container.demux(video=0) if p.size]
    place, size = packets[10]
    start = place + size * 4 // 10
    data[start : start + 300] = b"\xff" * 300
    path.write_bytes(data)
    with av.open(str(path)) as container:
        frames = [frame for packet in container.demux(video=0) for frame in packet.decode()]
    assert [i for i, frame in enumerate(frames) if frame.is_corrupt] == [10]
    assert len(read_frames(path)) == 23
    with pytest.raises(DataError, match="frame 10 of 24 cannot be decoded"):
        read_frames(path, indices=[10])


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="a system without FIFOs")
def test_only_regular_files_are_played(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.mp4")
    (tmp_path / "zero.mp4").symlink_to("/dev/zero")
    for name in ("fifo.mp4", "zero.mp4"):
        with pytest.raises(DataError, match="no regular file"):
            read_frames(tmp_path / name, count=2)
        with pytest.raises(DataError, match="no regular file"):
            read_media(tmp_path / name, 2)


def test_a_playlist_opens_nothing_that_it_names(tmp_path: Path) -> None:
    film = write_film(tmp_path / "secret.ts", EVERY_40_MS, "libx264", "mpegts")
    playlists = {
        "a.mp4": f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{film}\n#EXT-X-ENDLIST\n",
        "b.mp4": f"ffconcat version 1.0\nfile {film}\n",
        "c.mp4": "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nhttp://127.0.0.1:9/x.ts\n",
    }
    for name, text in playlists.items():
        (tmp_path / name).write_text(text)
        with pytest.raises(DataError, match="not readable"):
            read_media(tmp_path / name, 2)


def test_a_film_of_huge_frames_is_refused(tmp_path: Path) -> None:
    path = write_film(tmp_path / "a.mp4", EVERY_40_MS)
    animation = write_animation(tmp_path / "b.webp", "WEBP", [40] * 3)
    with pixel_limit(HEIGHT * WIDTH - 1):
        with pytest.raises(DataError, match=r"a\.mp4"):
            read_frames(path, count=2)
        with pytest.raises(DataError, match=r"b.webp: 64 x 48 pixels are more than is read"):
            read_frames(animation, count=2)
    assert len(read_frames(path, count=2)) == 2


def test_an_unreadable_file_is_named_with_its_reason(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"hello world" * 90)
    film = write_film(tmp_path / "b.mp4", EVERY_40_MS).read_bytes()
    (tmp_path / "b.mp4").write_bytes(film[: len(film) // 2])
    (tmp_path / "c.webp").write_bytes(b"RIFF" + struct.pack("<I", 90) + b"WEBPVP8X" + b"\2" * 90)
    for name in ("a.mp4", "b.mp4", "c.webp"):
        with pytest.raises(DataError, match=r"not readable|more than is read") as caught:
            read_media(tmp_path / name, 4)
        assert str(tmp_path / name) in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("codec", "kind"),
    [("libx264", "mp4"), ("libx264", "mpegts"), ("mpeg4", "avi"), ("libvpx", "webm"),
     ("libx264", "flv"), ("gif", "gif"), ("WEBP", None), ("AVIF", None), ("PNG", None)],
)  # fmt: skip
def test_whatever_stands_in_a_clip_it_is_frames_or_a_named_error(
    tmp_path: Path, codec: str, kind: str | None
) -> None:
    rng = np.random.default_rng(list(codec.encode()))
    path = tmp_path / "clip"
    if kind is None:
        write_animation(path, codec, [40] * 6)
    else:
        write_film(path, EVERY_40_MS, codec, kind)
    whole = path.read_bytes()
    for _ in range(250):
        data = bytearray(whole)
        for _ in range(int(rng.integers(1, 5))):
            place = int(rng.integers(len(data)))
            length = int(rng.integers(1, 40))
            if rng.random() < 0.5:
                data[place : place + length] = rng.bytes(length)
            else:
                del data[place : place + length]
        path.write_bytes(data)
        with pixel_limit(10_000_000):
            try:
                frames = read_media(path, 4)
            except DataError as error:
                problem = str(error)
            else:
                problem = ""
                assert frames.dtype == np.uint8
                assert frames.shape[-1] == 3
        assert not problem or str(path) in problem
        assert "\n" not in problem
