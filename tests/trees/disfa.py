"""DISFA: label files and frames of one person of each published part."""

from pathlib import Path

from faceaffect.data.disfa import AUS
from faces import face, write_image

PEOPLE = ("SN001", "SN006", "SN003")  # one of each published part
FRAMES = 6
SIZE = 96


def intensity(person: int, au: int, frame: int) -> int:
    return (person + au + frame) % 6


def write_labels(root: Path, people: tuple[str, ...] = PEOPLE, frames: int = FRAMES) -> Path:
    for p, name in enumerate(people):
        folder = root / "ActionUnit_Labels" / name
        folder.mkdir(parents=True)
        for au in AUS:
            lines = [f"{frame},{intensity(p, au, frame)}" for frame in range(1, frames + 1)]
            (folder / f"{name}_au{au}.txt").write_text("\n".join(lines) + "\n")
    return root


def write_frames(root: Path, folder: str = "img", first: int = 0, digits: int = 1) -> Path:
    for p, name in enumerate(PEOPLE):
        for number in range(first, first + FRAMES):
            image = face(p, number, (SIZE, SIZE))
            write_image(root / folder / name / f"{number:0{digits}d}.png", image)
    return root
