"""Small generated faces on disk: ellipses whose colour tells the expression."""

from pathlib import Path

import cv2
import numpy as np
import pandas as pd

COLOURS = (
    (200, 200, 200),
    (230, 200, 40),
    (40, 90, 220),
    (220, 40, 40),
    (40, 180, 60),
    (150, 60, 200),
)
EXPRESSIONS = ("neutral", "happiness", "surprise", "sadness", "anger", "disgust")


def face(label: int = 0, seed: int = 0, size: tuple[int, int] = (48, 48)) -> np.ndarray:
    """Return (H, W, 3) uint8 RGB: an ellipse with eyes and mouth on a noisy ground."""
    height, width = size
    rng = np.random.default_rng((label, seed))
    image = rng.integers(0, 60, (height, width, 3), dtype=np.uint8)
    centre, axes = (width // 2, height // 2), (width // 3, int(height / 2.4))
    cv2.ellipse(image, centre, axes, int(rng.integers(-15, 15)), 0, 360, COLOURS[label % 6], -1)
    for x in (0.4, 0.6):
        cv2.circle(image, (int(x * width), int(0.4 * height)), max(width // 20, 1), (0, 0, 0), -1)
    cv2.ellipse(image, (centre[0], int(0.65 * height)), axes, 0, 60, 120, (90, 0, 0), 1)
    return image


def write_image(path: Path, image: np.ndarray) -> Path:
    """Write an image in the format that the suffix names; folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = image[..., ::-1] if image.ndim == 3 and image.shape[2] == 3 else image
    path.write_bytes(cv2.imencode(path.suffix, np.ascontiguousarray(data))[1].tobytes())
    return path


def write_clip(
    path: Path, label: int = 0, frames: int = 12, size: int = 48, first: int = 0
) -> Path:
    """Write a video file, or without a suffix a folder of numbered frames."""
    images = [face(label, seed, (size, size)) for seed in range(first, first + frames)]
    if not path.suffix:
        for number, image in enumerate(images):
            write_image(path / f"{number + 1:03d}.jpg", image)
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 10, (size, size))
    for image in images:
        writer.write(image[..., ::-1])
    writer.release()
    return path


def write_csv(folder: Path, people: int = 6, each: int = 4, *, clips: bool = False) -> Path:
    """Write images (and a clip for each person) with all labels and return the table.

    Expressions: neutral, happiness, anger; AU1, AU12; valence, arousal; ``attribute/group``.
    """
    names = ("neutral", "happiness", "anger")
    rows = []
    for person in range(people):
        for shot in range(each):
            label = (person + shot) % 3
            clip = clips and shot == 0
            name = f"p{person}/{shot}.{'mp4' if clip else 'jpg'}"
            if clip:
                write_clip(folder / name, label, first=100 * person)
            else:
                write_image(folder / name, face(label, 100 * person + shot))
            rows.append(
                {
                    "image": name,
                    "subject": f"person {person}",
                    "AU1": (person + shot) % 2,
                    "AU12": int(label == 1),
                    "expression": names[label],
                    "valence": (-0.1, 0.8, -0.6)[label],
                    "arousal": (0.0, 0.4, 0.7)[label],
                    "attribute/group": "ab"[person % 2],
                }
            )
    return write_table(folder / "faces.csv", rows)


def write_table(path: Path, rows: list[dict]) -> Path:
    """Write rows as CSV; an absent or None cell is empty."""
    pd.DataFrame(rows).to_csv(path, index=False)
    return path


def write_facial_expressions(root: Path, people: int = 12, each: int = 6) -> Path:
    """Write generated faces in the layout of muxspace/facial_expressions and return the root."""
    lines = ["user.id,image,emotion"]
    for person in range(people):
        for shot in range(each):
            label = (person + shot) % 6
            name = f"Person_{chr(65 + person)}-X_{shot:04d}.jpg"
            write_image(root / "images" / name, face(label, 100 * person + shot, (40, 32)))
            word = EXPRESSIONS[label]
            lines.append(f"{person},{name},{word.upper() if shot % 2 else word}")
    legend = root / "data" / "legend.csv"
    legend.parent.mkdir(parents=True)
    legend.write_text("\n".join(lines) + "\n")
    return root
