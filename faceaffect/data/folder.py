"""Folders of classes: pictures or clips whose folder names their expression."""

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from faceaffect.data.align import CropNode, FinderNode, Method, open_aligner
from faceaffect.data.labels import LabelTable
from faceaffect.data.listed import ListedFaces, check_frames
from faceaffect.data.names import expression_name
from faceaffect.data.table import PARTS, parts_of
from faceaffect.data.video import IMAGE_SUFFIXES, VIDEO_SUFFIXES
from faceaffect.errors import DataError, RecipeError, shown

_MOVING = ".gif"
_HELP = (
    "Expected under data.root: a folder for each expression, such as happiness/001.jpg, or such "
    "folders in train, val and test, as train/happiness/001.jpg"
)


class FolderFaces(ListedFaces):
    r"""Pictures or clips in a folder for each expression, in parts or not.

    ``ROOT/happiness/...`` or ``ROOT/train/happiness/...``; parts are called train, val (valid,
    validation, dev) and test; where there is no test, the validation part is tested. Folders
    within a class are searched too. Names that mean the same (happy, Happiness, joy) are one
    class, called as the field does. Other files and hidden ones are left out; the others are
    counted.

    Args:
        root: the folder with the folders.
        classes: the expressions to use, in index order; absent, all, in alphabetical order.
        subject: a regular expression that finds the person in the path of a file from its class
            folder on, as its first group: ``([^/]+)/`` for ``happiness/ann/001.jpg``, ``(\d+)_``
            for ``happiness/17_3.jpg``. Absent, people are not known.
        clips: whether a folder within a class is a clip, its pictures in the order of the numbers
            in their names.
        frames: evenly spaced frames that are read of a clip.
        image_size: side to which frames of a clip are scaled while they are decoded, in pixels;
            absent, they keep their size. Not used where faces are cropped.
        align: ``auto`` finds the face in each picture and crops to it, once, on disk; ``none``
            takes pictures that are cropped already.
        crop: how faces are cut out, see :class:`~faceaffect.data.faces.crop.Crop`.
        finder: finds faces, see ``faceaffect ls finders``; absent, ``mtcnn``.
        crop_cache: folder of the crops; absent, ``faceaffect_crops`` in the root.

    Raises:
        DataError: there is no such folder, or a file does not name its person.
        RecipeError: a class is unknown, or an argument makes no sense.
    """

    def __init__(
        self,
        root: str,
        *,
        classes: list[str] | None = None,
        subject: str | None = None,
        clips: bool = False,
        frames: int = 8,
        image_size: int | None = None,
        align: Method = "none",
        crop: CropNode = None,
        finder: FinderNode = None,
        crop_cache: str | None = None,
    ) -> None:
        check_frames(frames)
        who = _pattern(subject)
        folder = Path(root)
        parts = _parts(folder)
        meant = parts_of(parts)
        rows, codes, left_out = [], dict[str, str](), Counter[str]()
        for part, place in parts.items():
            for group in _folders(place):
                name = expression_name(group.name)
                codes[group.name] = name
                for file in _files(group, clips, left_out):
                    path = file.relative_to(group).as_posix()
                    person = _person(who, path, file)
                    rows.append((file.relative_to(folder).as_posix(), name, meant[part], person))
        if not rows:
            raise DataError(f"data.root: the folders in {folder} hold no picture or film. {_HELP}")
        table = pd.DataFrame(rows, columns=["file", "expression", "part", "subject"])
        dropped = ["subject"] * (who is None) + ["part"] * ("" in parts)
        by_name = dict(sorted(codes.items(), key=lambda pair: (pair[1], pair[0])))
        labels = LabelTable(by_name)
        super().__init__(
            table.drop(columns=dropped),
            labels,
            labels.choose(classes),
            root=folder,
            help=_HELP,
            left_out=left_out,
            frames=frames if clips or _moving(table["file"]) else None,
            image_size=image_size,
            notes={"people": subject} if subject else {},
            aligner=open_aligner(align, crop, finder, crop_cache, folder, own=False),
        )


def _pattern(subject: str | None) -> re.Pattern[str] | None:
    if subject is None:
        return None
    try:
        pattern = re.compile(subject)
    except re.error as error:
        raise RecipeError(f"data.subject: {shown(subject)}: {error}") from None
    if not pattern.groups:
        raise RecipeError(
            f"data.subject: {shown(subject)} has no group; put the person's name in parentheses"
        )
    return pattern


def _person(who: re.Pattern[str] | None, path: str, file: Path) -> str:
    if who is None:
        return ""
    match = who.search(path)
    if match is None or not match[1]:
        raise DataError(f"{file}: data.subject, {who.pattern}, finds no person in '{path}'")
    return match[1]


def _parts(root: Path) -> dict[str, Path]:
    """Return the folders that hold class folders, by the part that they are."""
    if not root.is_dir():
        raise DataError(f"data.root: the folder {root} is missing. {_HELP}")
    inside = _folders(root)
    parts = {folder.name.lower(): folder for folder in inside if folder.name.lower() in PARTS}
    if not parts:
        return {"": root}
    if len(parts) < len(inside):
        other = next(f.name for f in inside if f.name.lower() not in PARTS)
        raise DataError(
            f"data.root: {root} holds the part '{next(iter(parts))}' beside the folder '{other}'. "
            f"{_HELP}"
        )
    meant = [PARTS[name] for name in parts]
    if len(set(meant)) < len(meant):
        raise DataError(f"data.root: {root} holds one part under two names: {', '.join(parts)}")
    return parts


def _folders(place: Path) -> list[Path]:
    return [f for f in sorted(place.iterdir()) if f.is_dir() and _seen(f)]


def _seen(file: Path) -> bool:
    return not file.name.startswith((".", "__")) and file.name != "faceaffect_crops"


def _files(group: Path, clips: bool, left_out: Counter[str]) -> Iterator[Path]:
    """Yield the samples of a class."""
    for file in sorted(group.iterdir()):
        if not _seen(file):
            continue
        if file.is_dir() and not clips:
            yield from _files(file, clips, left_out)
        elif file.is_dir() or file.suffix.lower() in (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES):
            yield file
        else:
            left_out["no picture or film"] += 1


def _moving(files: pd.Series) -> bool:
    """Return whether any file may be a film; only then each is looked at when it is read."""
    suffixes = set(files.str.lower().str.extract(r"(\.\w+)$", expand=False))
    return bool(suffixes & {*VIDEO_SUFFIXES, _MOVING})
