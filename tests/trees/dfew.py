"""DFEW: clips in each of their forms, and the five folds."""

from pathlib import Path

import av
import cv2
import numpy as np

CLIPS = 15


def write(root: Path, kind: str = "clip_224x224_16f", split: str = "{}(single-labeled)") -> Path:
    """Write a tree in DFEW's layout: clip n has label 1 + n % 7, and fold 1 + n % 5 tests it."""
    for fold in range(1, 6):
        for part in ("train", "test"):
            lines = ["video_name,label"]
            for n in range(1, CLIPS + 1):
                if (part == "test") == (n % 5 == fold - 1):
                    lines.append(f"{n},{1 + n % 7}")
            path = root / "EmoLabel_DataSplit" / split.format(part) / f"set_{fold}.csv"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("\n".join(lines) + "\n")
    for n in range(1, CLIPS + 1):
        write_clip(root / "Clip" / kind, n)
    return root


def write_clip(folder: Path, n: int, frames: int = 6) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    pictures = [np.full((32, 32, 3), 10 * n + t, np.uint8) for t in range(frames)]
    if folder.name.endswith("16f"):
        (folder / f"{n:05d}").mkdir()
        for t, picture in enumerate(pictures, 1):
            cv2.imwrite(str(folder / f"{n:05d}" / f"{t}.jpg"), picture)
        return
    with av.open(str(folder / f"{n}.mp4"), "w") as file:
        stream = file.add_stream("mpeg4", rate=25)
        stream.width = stream.height = 32
        for picture in pictures:
            file.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        file.mux(stream.encode())
