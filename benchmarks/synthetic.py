"""Faces a second of the synthetic renderer, on one core: `python benchmarks/synthetic.py`.

The machine may be busy, so besides the plain rate the best time of each face over some rounds is
reported, which is what an idle core does.
"""

import argparse
import time

import cv2
import numpy as np
from threadpoolctl import threadpool_limits

from faceaffect.data.synthetic import SyntheticFaces


def measure(size: int, faces: int, rounds: int, clips: int = 0) -> tuple[float, float]:
    data = SyntheticFaces(faces, faces, image_size=size, clips=clips)
    for index in range(faces):
        data.load(index)
    seconds = np.empty((rounds, faces))
    for turn in range(rounds):
        for index in range(faces):
            start = time.process_time()
            data.load(index)
            seconds[turn, index] = time.process_time() - start
    frames = max(clips, 1)
    return frames / seconds.mean(), frames / seconds.min(0).mean()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--faces", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    cv2.setNumThreads(1)
    threadpool_limits(1)
    start = time.perf_counter()
    SyntheticFaces(10_000, 2_000)
    print(f"labels of 10,000 samples: {time.perf_counter() - start:.2f} s")
    print("| size | frames | faces/s, mean | faces/s, best |\n| --- | --- | --- | --- |")
    for size, clips in ((64, 0), (112, 0), (224, 0), (112, 8)):
        mean, best = measure(size, options.faces, options.rounds, clips)
        print(f"| {size} | {clips or 1} | {mean:.0f} | {best:.0f} |")


if __name__ == "__main__":
    main()
