"""RAF-DB: labels and pictures of both parts."""

from pathlib import Path

import cv2
import numpy as np


def write(
    root: Path, train: int = 21, test: int = 7, *, name: str = "list_patition_label.txt"
) -> Path:
    """Write a tree in RAF-DB's layout; the n-th image of a part has the code 1 + n % 7."""
    lines = []
    for part, count in (("train", train), ("test", test)):
        for n in range(count):
            stem = f"{part}_{n + 1:05d}"
            lines.append(f"{stem}.jpg {1 + n % 7}")
            for folder, file in (("aligned", f"{stem}_aligned.jpg"), ("original", f"{stem}.jpg")):
                path = root / "basic" / "Image" / folder / file
                path.parent.mkdir(parents=True, exist_ok=True)
                shade = len(lines) * 7 % 256
                cv2.imwrite(
                    str(path), np.full((10, 10, 3), shade, np.uint8) + np.arange(3, dtype=np.uint8)
                )
    labels = root / "basic" / "EmoLabel" / name
    labels.parent.mkdir(parents=True)
    labels.write_text("\n".join(lines) + "\n")
    return root
