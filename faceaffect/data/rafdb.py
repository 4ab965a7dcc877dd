"""RAF-DB (Li and Deng, 2017 and 2019): faces from the web with one of seven basic expressions."""

from pathlib import Path
from typing import Literal

import pandas as pd

from faceaffect.data.align import CropNode, FinderNode, Method, open_aligner
from faceaffect.data.labels import LabelTable, line_of
from faceaffect.data.listed import ListedFaces, read_lines
from faceaffect.errors import DataError

CLASSES = ("surprise", "fear", "disgust", "happiness", "sadness", "anger", "neutral")
"""Names of the codes 1 to 7."""

LABELS = LabelTable({str(code): name for code, name in enumerate(CLASSES, 1)})

COMPOUND = LabelTable({
    "1": "happily surprised", "2": "happily disgusted", "3": "sadly fearful", "4": "sadly angry",
    "5": "sadly surprised", "6": "sadly disgusted", "7": "fearfully angry",
    "8": "fearfully surprised", "9": "angrily surprised", "10": "angrily disgusted",
    "11": "disgustedly surprised",
})  # fmt: skip
"""The codes of the compound part."""

Part = Literal["basic", "compound"]
_TABLES = {"basic": LABELS, "compound": COMPOUND}

_LABELS = ("list_patition_label.txt", "list_partition_label.txt")
_FOLDERS = {"aligned": ("Image/aligned", "aligned"), "original": ("Image/original", "original")}
_HELP = (
    "Expected under data.root, as http://whdeng.cn/RAF/model1.html distributes it on request: "
    "basic/EmoLabel/list_patition_label.txt (spelt so) and "
    "basic/Image/aligned/train_00001_aligned.jpg"
)


class RafDb(ListedFaces):
    """RAF-DB's basic expressions as they are distributed: 12,271 images to train, 3,068 to test.

    Its compound expressions (3,954 images of eleven classes such as happily surprised) lie beside
    them in the same layout; the meaning of their codes is taken from public code that reads them.
    The published split is taken; validation images are carved out of the training part. People are
    not known, so each image counts as a person of its own. Images that are not on disk and images
    of classes that are not asked for are left out and counted.

    Args:
        root: the folder that holds ``basic`` (or ``compound``), or that folder itself.
        part: ``basic`` or ``compound`` expressions.
        classes: the expressions to use, in index order; absent, all in the order of their codes.
        images: ``aligned`` 100 px crops, or the ``original`` pictures, which need ``align``.
        align: ``auto`` finds the face in each picture and crops to it, once, on disk; ``none``
            takes pictures that are cropped already.
        crop: how faces are cut out, see :class:`~faceaffect.data.faces.crop.Crop`.
        finder: finds faces, see ``faceaffect ls finders``; absent, ``mtcnn``.
        crop_cache: folder of the crops; absent, ``faceaffect_crops`` in the folder of the part.

    Raises:
        DataError: something is missing or makes no sense; the file is named.
        RecipeError: a class is unknown or named twice.
    """

    def __init__(
        self,
        root: str,
        *,
        part: Part = "basic",
        classes: list[str] | None = None,
        images: Literal["aligned", "original"] = "aligned",
        align: Method = "none",
        crop: CropNode = None,
        finder: FinderNode = None,
        crop_cache: str | None = None,
    ) -> None:
        labels = _TABLES[part]
        names, folder = labels.choose(classes), _folder(Path(root), part)
        table = _read(folder, labels)
        place = _image_folder(folder, images)
        super().__init__(
            table.assign(
                file=f"{place}/" + _file_names(table["file"], images),
                part=table["file"].str.partition("_")[0],
            ),
            labels,
            names,
            root=folder,
            help=_HELP.replace("basic/", f"{part}/"),
            notes={"images": images} | ({"part": part} if part != "basic" else {}),
            aligner=open_aligner(align, crop, finder, crop_cache, folder, own=False),
        )


def _folder(root: Path, part: Part) -> Path:
    other = {"basic": "compound", "compound": "basic"}[part]
    for folder in (root / part, root):
        if (folder / "EmoLabel").is_dir() and folder.name != other:
            return folder
    raise DataError(f"data.root: neither {root / part} nor {root} holds a folder EmoLabel. {_HELP}")


def _read(folder: Path, labels: LabelTable) -> pd.DataFrame:
    """Return ``file`` and ``expression`` of every labelled image."""
    found = [
        folder / "EmoLabel" / name for name in _LABELS if (folder / "EmoLabel" / name).is_file()
    ]
    if not found:
        raise DataError(f"{folder / 'EmoLabel'}: no label table {' or '.join(_LABELS)}. {_HELP}")
    lines = read_lines(found[0], r"((?:train|test)_\d+\.\w+)\s+(\d+)", "train_00001.jpg 5")
    names = labels.read([code for _, code in lines.values()], line_of(found[0], [*lines]))
    return pd.DataFrame({"file": [file for file, _ in lines.values()], "expression": names})


def _image_folder(folder: Path, images: str) -> str:
    for place in _FOLDERS[images]:
        if (folder / place).is_dir():
            return place
    tried = ", ".join(str(folder / place) for place in _FOLDERS[images])
    raise DataError(f"no images: none of the folders {tried} is there. {_HELP}")


def _file_names(files: pd.Series, images: str) -> pd.Series:
    if images == "original":
        return files
    return files.str.replace(r"\.(\w+)$", r"_aligned.\1", regex=True)
