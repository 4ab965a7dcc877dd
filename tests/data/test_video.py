import tracemalloc
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest

from faceaffect.data import film
from faceaffect.data.extract import extract_frames, frame_file
from faceaffect.data.video import Frame, VideoInfo, open_video, read_frames
from faceaffect.errors import DataError

FRAMES, HEIGHT, WIDTH = 61, 48, 80
# What containers and codecs do to frame times: B-frames, open groups, no index, no times at all.
KINDS: dict[str, tuple[str, dict[str, str], int | None]] = {
    "h264.mp4": ("libx264", {"movflags": "faststart"}, 2),
    "open_group.mkv": ("libx264", {"x264-params": "open-gop=1:keyint=12"}, 3),
    "h264.ts": ("libx264", {}, 2),
    "b_frames.avi": ("libx264", {}, 2),
    "mpeg4.avi": ("mpeg4", {}, 0),
    "mpeg4_b.avi": ("mpeg4", {}, 2),
    "mjpeg.avi": ("mjpeg", {}, None),
    "program.mpg": ("mpeg2video", {}, 2),
    "vp9.webm": ("libvpx-vp9", {"deadline": "realtime", "cpu-used": "8"}, None),
}


def picture(number: int) -> np.ndarray:
    """The number in binary, as a 2 by 4 board of light and dark squares."""
    bits = np.array([number >> bit & 1 for bit in range(8)]).reshape(2, 4)
    board = np.kron(bits, np.ones((HEIGHT // 2, WIDTH // 4)))
    return np.repeat((40 + 170 * board)[..., None], 3, axis=2).astype(np.uint8)


def number_of(image: np.ndarray) -> int:
    small = cv2.resize(image, (4, 2), interpolation=cv2.INTER_AREA)
    return int(((small.mean(-1) > 125).ravel() << np.arange(8)).sum())


def write_video(path: Path, codec: str, options: dict[str, str], b_frames: int | None) -> None:
    muxer = {k: v for k, v in options.items() if k == "movflags"}
    with av.open(str(path), "w", options=muxer) as container:
        coder: dict[str, Any] = {"g": "12", **options}
        coder.pop("movflags", None)
        stream = container.add_stream(codec, rate=25, options=coder)
        stream.width, stream.height = WIDTH, HEIGHT
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        if b_frames is not None:
            stream.max_b_frames = b_frames
        for number in range(FRAMES):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture(number))))
        container.mux(stream.encode())


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    for name, kind in KINDS.items():
        write_video(folder / name, *kind)
    frames = folder / "frames"
    frames.mkdir()
    for number in range(FRAMES):
        cv2.imwrite(str(frames / f"img{number + 1}.png"), picture(number))
    (frames / "notes.txt").touch()
    (frames / "cover.png").touch()
    return folder


def info_of(path: Path) -> VideoInfo:
    with open_video(path) as video:
        return video.info


def streamed(path: Path, indices: range | None = None) -> Iterator[tuple[int, Frame]]:
    """Yield frames one by one; those that do not decode are left out."""
    with open_video(path) as video:
        yield from video.frames(range(video.info.frames) if indices is None else indices)


@pytest.mark.parametrize("name", [*KINDS, "frames"])
def test_any_access_equals_decoding_from_the_start(clips: Path, name: str) -> None:
    path = clips / name
    info = info_of(path)
    assert (info.frames, info.width, info.height) == (FRAMES, WIDTH, HEIGHT)
    assert info.fps == (None if path.is_dir() else 25)
    whole = read_frames(path)
    assert whole.dtype == np.uint8
    assert whole.shape == (FRAMES, HEIGHT, WIDTH, 3)
    assert [number_of(frame) for frame in whole] == list(range(FRAMES))
    order = np.random.default_rng(0).permutation(FRAMES)[:15].tolist()
    order = [60, *order, 0, 0]
    np.testing.assert_array_equal(read_frames(path, indices=order), whole[order])
    with open_video(path) as source:  # one frame a call, forwards and backwards
        for index in order:
            (found, frame), *_ = source.frames([index])
            assert found == index
            np.testing.assert_array_equal(frame, whole[index])
    strided = list(streamed(path, range(3, 40, 9)))
    assert [index for index, _ in strided] == [3, 12, 21, 30, 39]
    for index, frame in strided:
        np.testing.assert_array_equal(frame, whole[index])


def test_agrees_with_an_independent_decoder(clips: Path) -> None:
    capture = cv2.VideoCapture(str(clips / "mpeg4.avi"))
    frames = read_frames(clips / "mpeg4.avi")
    for index in range(FRAMES):
        _, expected = capture.read()
        assert np.abs(frames[index] - expected[..., ::-1].astype(int)).max() <= 4, index


def test_sampling_takes_the_middles_of_equal_stretches(clips: Path) -> None:
    taken = [number_of(frame) for frame in read_frames(clips / "h264.mp4", count=8)]
    assert taken == [3, 11, 19, 26, 34, 41, 49, 57]
    assert len(read_frames(clips / "h264.mp4", count=100)) == FRAMES
    assert number_of(read_frames(clips / "h264.mp4", count=1)[0]) == 30


def test_seeking_decodes_little(clips: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded = []
    plain = film.decode_packet

    def counted(packet: av.Packet) -> Any:
        decoded.append(packet.pts)
        return plain(packet)

    monkeypatch.setattr(film, "decode_packet", counted)
    with open_video(clips / "mpeg4.avi") as source:
        decoded.clear()
        list(source.frames([3, 5, 50, 51]))
    assert len(decoded) < 20  # 0 to 5, a jump to the key frame 48, 48 to 51, decoder delay


def test_size_scales_to_a_square(clips: Path) -> None:
    for size in (24, 128):
        frames = read_frames(clips / "h264.mp4", indices=[7, 33], size=size)
        assert frames.shape == (2, size, size, 3)
        assert [number_of(frame) for frame in frames] == [7, 33]
        folder = read_frames(clips / "frames", indices=[7, 33], size=size)
        assert np.abs(frames - folder.astype(int)).mean() < 6


@pytest.mark.skipif(
    not hasattr(av.video.stream.VideoStream, "set_display_rotation"),
    reason="this av cannot write it",
)
@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_rotated_video_comes_upright(tmp_path: Path, degrees: int) -> None:
    path = tmp_path / "phone.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.set_display_rotation(degrees)
        stored = picture(0)
        stored[:20, :20] = 220  # marks the top left of what the camera stored
        container.mux(stream.encode(av.VideoFrame.from_ndarray(stored)))
        container.mux(stream.encode())
    frame = read_frames(path)[0]
    shape = (HEIGHT, WIDTH) if degrees == 180 else (WIDTH, HEIGHT)
    assert frame.shape[:2] == shape
    assert (info_of(path).height, info_of(path).width) == shape
    with av.open(str(path)) as container:
        turns = next(container.decode(video=0)).rotation // 90
    assert turns % 2 == (degrees // 90) % 2
    np.testing.assert_allclose(frame, np.rot90(stored, turns), atol=25)
    square = read_frames(path, size=40)[0]
    expected = cv2.resize(frame, (40, 40), interpolation=cv2.INTER_AREA)
    assert np.abs(square - expected.astype(int)).mean() < 3


def test_folder_is_sorted_by_number_not_by_name(clips: Path) -> None:
    first = [number_of(frame) for frame in read_frames(clips / "frames", indices=[0, 1, 9, 10])]
    assert first == [0, 1, 9, 10]


def test_hidden_files_in_a_folder_are_no_frames(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        cv2.imwrite(str(tmp_path / f"{number}.png"), picture(number))
        (tmp_path / f"._{number}.png").write_bytes(bytes(44))
    with open_video(tmp_path) as video:
        assert video.info.frames == 3
    assert [number_of(image) for image in read_frames(tmp_path, count=3)] == [1, 2, 3]


def test_memory_does_not_grow_with_the_clip(clips: Path) -> None:
    frame = HEIGHT * WIDTH * 3
    tracemalloc.start()
    for _ in streamed(clips / "mpeg4.avi"):
        pass
    one_by_one = tracemalloc.get_traced_memory()[1]
    tracemalloc.reset_peak()
    read_frames(clips / "mpeg4.avi", count=2)
    sampled = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert one_by_one < 6 * frame
    assert sampled < 10 * frame


def cut(source: Path, target: Path, part: float) -> Path:
    data = source.read_bytes()
    target.write_bytes(data[: int(len(data) * part)])
    return target


@pytest.mark.parametrize("name", ["h264.mp4", "mpeg4.avi", "b_frames.avi", "program.mpg"])
def test_fewer_frames_than_the_container_says(clips: Path, tmp_path: Path, name: str) -> None:
    path = cut(clips / name, tmp_path / name, 0.6)
    alive = [index for index, _ in streamed(path)]
    assert 2 < len(alive) < FRAMES
    frames = read_frames(path, count=3)
    assert len(frames) == 3
    taken = [number_of(frame) for frame in frames]
    assert all(a < b for a, b in pairwise(taken[:-1]))
    with pytest.raises(DataError, match=name):
        read_frames(path, indices=[0, FRAMES - 1])


def test_damaged_middle_keeps_the_numbers_of_the_rest(clips: Path, tmp_path: Path) -> None:
    data = bytearray((clips / "mjpeg.avi").read_bytes())
    starts = [i for i in range(len(data) - 3) if data[i : i + 3] == b"\xff\xd8\xff"]
    data[starts[20] : starts[21] - 8] = bytes(starts[21] - 8 - starts[20])
    path = tmp_path / "damaged.avi"
    path.write_bytes(data)
    found = dict(streamed(path))
    assert 20 not in found
    for index in (0, 19, 21, 60):
        assert number_of(found[index]) == index
    assert len(read_frames(path)) == FRAMES - 1
    with pytest.raises(DataError, match="frame 20 of 61 cannot be decoded"):
        read_frames(path, indices=[19, 20])


def test_what_cannot_be_read_is_named(clips: Path, tmp_path: Path) -> None:
    empty, text, folder = tmp_path / "empty.mp4", tmp_path / "text.avi", tmp_path / "folder"
    empty.touch()
    text.write_text("no video " * 100)
    folder.mkdir()
    no_index = tmp_path / "no_index.mp4"
    write_video(no_index, "libx264", {}, 2)
    cut(no_index, no_index, 0.5)
    sound = tmp_path / "sound.wav"
    with av.open(str(sound), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), layout="mono")
        silence.sample_rate = 8000
        container.mux(stream.encode(silence))
    cases = {empty: "empty", text: "not readable", folder: "no readable image"}
    cases |= {no_index: "not readable", sound: "no video stream", tmp_path / "gone": "no such"}
    for path, message in cases.items():
        with pytest.raises(DataError, match=message) as caught:
            read_frames(path, count=4)
        assert str(path) in str(caught.value)
    with pytest.raises(DataError, match="frames 0 to 60"):
        read_frames(clips / "h264.mp4", indices=[61])


def test_folder_with_unreadable_images(clips: Path, tmp_path: Path) -> None:
    for number in (3, 1, 2, 10):
        cv2.imwrite(str(tmp_path / f"{number:03d}.png"), picture(number))
    (tmp_path / "002.png").write_bytes(b"")
    assert [number_of(frame) for frame in read_frames(tmp_path, count=4)] == [1, 3, 10]
    with pytest.raises(DataError, match="frame 1 of 4"):
        read_frames(tmp_path, indices=[0, 1])
    (tmp_path / "011.png").write_bytes((clips / "frames" / "img1.png").read_bytes())
    cv2.imwrite(str(tmp_path / "012.png"), picture(1)[:20])
    with pytest.raises(DataError, match="different sizes"):
        read_frames(tmp_path)


def test_extraction_resumes_and_records_failures(clips: Path, tmp_path: Path) -> None:
    calls: list[int] = []

    def crop(index: int, frame: np.ndarray) -> np.ndarray:
        calls.append(index)
        if index == 30 and len(calls) > 20:
            raise KeyboardInterrupt
        if index == 7:
            raise DataError("no face in frame 7")
        return frame[:, :40]

    folder = tmp_path / "made" / "here"
    with pytest.raises(KeyboardInterrupt):
        extract_frames(clips / "mpeg4.avi", folder, transform=crop, progress=False)
    assert not list(folder.glob(".*"))
    assert calls == list(range(31))
    calls.clear()
    result = extract_frames(clips / "mpeg4.avi", folder, transform=crop, progress=False)
    assert calls == list(range(30, FRAMES))
    assert result.frames == FRAMES - 1
    assert result.failed == {7: "no face in frame 7"}
    calls.clear()
    assert extract_frames(clips / "mpeg4.avi", folder, transform=crop, progress=False) == result
    assert calls == []
    image = cv2.imread(str(frame_file(folder, 42)))
    assert image.shape == (HEIGHT, 40, 3)
    expected = read_frames(clips / "mpeg4.avi", indices=[42])[0, :, :40]
    assert np.abs(image[..., ::-1] - expected.astype(int)).mean() < 3
    assert frame_file(folder, 42).name == "00042.jpg"


def test_extraction_of_chosen_frames_and_undecodable_ones(clips: Path, tmp_path: Path) -> None:
    path = cut(clips / "mpeg4.avi", tmp_path / "short.avi", 0.6)
    total = info_of(path).frames
    wanted = [0, 5, total - 1, total + 3]
    result = extract_frames(path, tmp_path / "out", indices=wanted, size=32, progress=False)
    assert set(result.failed) <= {total - 1, total + 3}
    assert "cannot be decoded" in result.failed[total + 3]
    assert read_frames(tmp_path / "out", indices=[0]).shape == (1, 32, 32, 3)
