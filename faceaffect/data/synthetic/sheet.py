"""Contact sheets: what the synthetic faces look like, for the docs and for anyone's eyes."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from faceaffect.data.synthetic import facs
from faceaffect.data.synthetic.canvas import Image
from faceaffect.data.synthetic.clips import draw_clip
from faceaffect.data.synthetic.dataset import SyntheticFaces
from faceaffect.data.synthetic.geometry import Array
from faceaffect.data.synthetic.identity import make_identity
from faceaffect.data.synthetic.render import render
from faceaffect.data.synthetic.scene import Scene, plain_scene
from faceaffect.files import replacing

_SHEET_AUS = {
    "brows_eyes": (1, 2, 4, 5, 6, 7),
    "middle": (9, 10, 12, 14, 15, 17),
    "mouth_jaw": (20, 23, 24, 25, 26, 43),
}
_TYPICAL = {
    "neutral": {},
    "happiness": {6: 4, 12: 4, 25: 3},
    "sadness": {1: 4, 4: 3, 15: 4, 17: 3},
    "surprise": {1: 4, 2: 5, 5: 4, 25: 4, 26: 4},
    "fear": {1: 4, 2: 3, 4: 4, 5: 4, 20: 4, 25: 3},
    "disgust": {9: 4, 10: 4, 4: 2, 17: 2, 7: 2},
    "anger": {4: 5, 5: 2, 7: 4, 23: 4, 24: 3},
    "contempt": {14: 5, 12: 2},
}


def au_sheet(
    aus: Sequence[int] = facs.AUS,
    grades: Sequence[int] = (0, 2, 5),
    people: int = 8,
    size: int = 112,
    seed: int = 3,
) -> Image:
    """(H, W, 3): a block of rows per AU, a row per intensity, a column per person."""
    rows = []
    for au in aus:
        for grade in grades:
            # Parted lips need a jaw that does not hold them back, as in life.
            with_lips = {25: grade} if au == 26 else {}
            scene = plain_scene({au: grade, **with_lips})
            rows.append(_row(scene, f"AU{au} at {grade}", people, size, seed))
    return np.concatenate(rows)


def expression_sheet(people: int = 8, size: int = 112, seed: int = 3) -> Image:
    """One row per expression in its typical form, a column per person. Returns (H, W, 3)."""
    return np.concatenate(
        [_row(_typical(name), name, people, size, seed) for name in facs.EXPRESSIONS]
    )


def clip_sheet(clips: int = 5, frames: int = 10, size: int = 112, seed: int = 3) -> Image:
    """One clip per row, its frames from left to right. Returns (H, W, 3)."""
    rows = []
    for row, name in zip(range(clips), facs.EXPRESSIONS[1:], strict=False):
        person = make_identity(seed, row + 8)
        rng = np.random.default_rng([seed, row])
        moments = draw_clip(rng, _typical(name, yaw=0.2 * (-1) ** row), frames)
        faces = [render(person, moment, size).image for moment in moments]
        rows.append(np.concatenate([_label(name, size), *faces], axis=1))
    return np.concatenate(rows)


def view_sheet(
    yaws: Sequence[float] = (-60, -30, 0, 30, 60), instances: int = 10, size: int = 112
) -> Image:
    """Two expressions of as many people a row, each seen from several sides. Returns (H, W, 3)."""
    data = SyntheticFaces(
        instances * len(yaws), instances, seed=5, rates="uniform", image_size=size, yaws=[*yaws]
    )
    return dataset_sheet([data.load(i).image for i in range(len(data))], columns=2 * len(yaws))


def dataset_sheet(
    images: Sequence[Image], landmarks: Sequence[Array] = (), columns: int = 8
) -> Image:
    """Pictures (S, S, 3) side by side, with their landmarks on them if given. Returns (H, W, 3)."""
    cells = [image.copy() for image in images]
    for cell, points in zip(cells, landmarks, strict=False):
        for x, y in points:
            cv2.circle(cell, (round(x * 16), round(y * 16)), 12, (60, 255, 90), -1, cv2.LINE_AA, 4)
    cells += [np.full_like(cells[0], 255)] * (-len(cells) % columns)
    rows = [np.concatenate(cells[i : i + columns], axis=1) for i in range(0, len(cells), columns)]
    return np.concatenate(rows)


def write_sheets(folder: str | Path, size: int = 112) -> list[Path]:
    """Write the sheets of the docs as WebP files into `folder` and return their paths.

    Action units on three sheets, expressions, clips, views, and 48 samples of the dataset as it is
    by default; every face is `size` pixels wide.

    Raises:
        OSError: a file cannot be written.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    data = SyntheticFaces(48, 48, image_size=size)
    sheets = {f"aus_{part}": au_sheet(aus, size=size) for part, aus in _SHEET_AUS.items()} | {
        "expressions": expression_sheet(size=size),
        "clips": clip_sheet(size=size),
        "views": view_sheet(size=size),
        "samples": dataset_sheet([data.load(i).image for i in range(len(data))], columns=12),
    }
    return [write_image(folder / f"synthetic_{name}.webp", image) for name, image in sheets.items()]


def write_image(path: Path, image: Image, quality: int = 72) -> Path:
    """Write an RGB image (H, W, 3) in the format of the file's suffix.

    Raises:
        OSError: the file cannot be written.
    """
    done, code = cv2.imencode(path.suffix, image[..., ::-1], [cv2.IMWRITE_WEBP_QUALITY, quality])
    if not done:
        raise OSError(f"{path}: cannot be written as an image")
    with replacing(path) as part:
        part.write_bytes(code.tobytes())
    return path


def _typical(name: str, yaw: float = 0.0) -> Scene:
    """The expression in its typical form; contempt is one-sided, as in the dataset."""
    return plain_scene(_TYPICAL[name], (0.0, yaw, 0.0), one_sided=name == "contempt")


def _row(scene: Scene, text: str, people: int, size: int, seed: int) -> Image:
    faces = [render(make_identity(seed, number), scene, size).image for number in range(people)]
    return np.concatenate([_label(text, size), *faces], axis=1)


def _label(text: str, size: int) -> Image:
    image = np.full((size, round(size * 0.8), 3), 255, np.uint8)
    cv2.putText(
        image,
        text,
        (6, size // 2),
        cv2.FONT_HERSHEY_SIMPLEX,
        size / 300,
        (40, 40, 40),
        1,
        cv2.LINE_AA,
    )
    return image
