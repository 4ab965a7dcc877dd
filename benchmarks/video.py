"""Milliseconds a frame: streaming a video, single frames of it in any order, extracted JPEG files.

Why a dataset that trains on single frames extracts them first. Run: python benchmarks/video.py
"""

import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import av
import cv2
import numpy as np

from faceaffect.data.extract import extract_frames, frame_file
from faceaffect.data.image import read_image
from faceaffect.data.video import open_video, read_frames

FRAMES, HEIGHT, WIDTH, KEY_EVERY, SIZE = 1000, 768, 1024, 250, 224


def write(path: Path, codec: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (HEIGHT // 8, WIDTH // 4, 3), dtype=np.uint8)
    scene = cv2.resize(noise, (2 * WIDTH, HEIGHT))
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=20, options={"g": str(KEY_EVERY)})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.bit_rate = 4_000_000
        for i in range(FRAMES):
            view = np.ascontiguousarray(scene[:, i % WIDTH : i % WIDTH + WIDTH])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(view)))
        container.mux(stream.encode())


def cost(action: Callable[[], int]) -> float:
    start = time.perf_counter()
    frames = action()
    return (time.perf_counter() - start) / frames * 1e3


def measure(path: Path, folder: Path) -> dict[str, float]:
    some = random.Random(0).sample(range(FRAMES), 15)

    def bare() -> int:
        with av.open(str(path)) as container:
            return sum(1 for _ in container.decode(video=0))

    def single() -> int:
        with open_video(path) as video:
            return sum(len(list(video.frames([i], SIZE))) for i in some)

    def stream() -> int:
        with open_video(path) as video:
            return sum(1 for _ in video.frames(range(FRAMES), SIZE))

    return {
        "decode alone": cost(bare),
        "stream": cost(stream),
        "16 of the clip": cost(lambda: len(read_frames(path, count=16, size=SIZE))),
        "single, any order": cost(single),
        "extract, once": cost(lambda: extract_frames(path, folder, size=SIZE).frames),
        "extracted, any order": cost(
            lambda: sum(1 for i in some * 20 if read_image(frame_file(folder, i)).any())
        ),
    }


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        for name, codec in (("mpeg4.avi", "mpeg4"), ("h264.mp4", "libx264")):
            write(Path(scratch) / name, codec)
            print(f"{name}, {FRAMES} frames, {WIDTH} x {HEIGHT}, a key every {KEY_EVERY}")
            for what, ms in measure(Path(scratch) / name, Path(scratch) / name[:4]).items():
                print(f"  {what:22s} {ms:7.2f} ms a frame")
