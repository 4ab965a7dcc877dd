"""BP4D: label files and pictures of one person of each published part."""

from pathlib import Path

from faces import face, write_image

PEOPLE = ("F001", "M002", "F004")  # one of each published part
TASKS = ("T1", "T8")
NUMBERS = (2440, 2441, 2442, 2443)
CODED = (1, 2, 4, 5, 6, 7, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 20, 22, 23, 24, 27, 28)


def write_labels(root: Path, folder: str = "AUCoding/AU_OCC", *, named: bool = False) -> Path:
    (root / folder).mkdir(parents=True)
    header = ",".join(["0", *(f"AU{au:02d}" if named else str(au) for au in CODED)])
    for p, person in enumerate(PEOPLE):
        for task in TASKS:
            lines = [
                ",".join(str(v) for v in (number, *((p + au + number) % 2 for au in CODED)))
                for number in NUMBERS
            ]
            (root / folder / f"{person}_{task}.csv").write_text("\n".join([header, *lines]))
    return root


def write_images(root: Path, folder: str = "2D+3D", digits: int = 4) -> Path:
    for p, person in enumerate(PEOPLE):
        for task in TASKS:
            for number in NUMBERS:
                image = face(p, number, (40, 40))
                write_image(root / folder / person / task / f"{number:0{digits}d}.jpg", image)
    return root
