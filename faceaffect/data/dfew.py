"""DFEW (Jiang et al., 2020): clips from films with one of seven expressions."""

import re
from pathlib import Path
from typing import Literal

import pandas as pd

from faceaffect.data.align import CropNode, FinderNode, Method, open_aligner
from faceaffect.data.labels import LabelTable
from faceaffect.data.listed import ListedFaces, check_fold, check_frames, read_columns
from faceaffect.data.video import VIDEO_SUFFIXES
from faceaffect.errors import DataError, shown
from faceaffect.files import entries

CLASSES = ("happiness", "sadness", "neutral", "anger", "surprise", "disgust", "fear")
"""Names of the codes 1 to 7; DFEW writes them happy, sad, neutral, angry, ..."""

LABELS = LabelTable({str(code): name for code, name in enumerate(CLASSES, 1)})

FOLDS = 5
ClipKind = Literal["auto", "clip_224x224_16f", "clip_224x224", "original"]

_KINDS: tuple[ClipKind, ...] = ("clip_224x224_16f", "clip_224x224", "original")
_SPLITS = ("{part}(single-labeled)", "{part}(single_labeled)", "{part}")
_HELP = (
    "Expected under data.root, as https://dfew-dataset.github.io/ distributes it on request: "
    "EmoLabel_DataSplit/train(single-labeled)/set_1.csv, EmoLabel_DataSplit/test(single-labeled)/"
    "set_1.csv and, in Clip, one of " + ", ".join(_KINDS)
)


class Dfew(ListedFaces):
    """DFEW's single-labelled clips as they are distributed, one of the five published splits.

    People are not known, so each clip counts as a person of its own; papers report the mean over
    the five folds. Clips that are not on disk are left out and counted.

    Args:
        root: the folder that holds ``EmoLabel_DataSplit`` and ``Clip``.
        fold: which published split, 1 to 5.
        clips: ``clip_224x224_16f`` (face crops, 16 frames a folder), ``clip_224x224`` (face crops)
            or ``original`` (whole pictures); ``auto`` takes the first of these that is there.
        frames: evenly spaced frames that are read of a clip.
        image_size: side to which frames are scaled while they are decoded, in pixels; absent, they
            keep their size. Not used where faces are cropped.
        align: ``auto`` finds the face in each picture and crops to it, once, on disk; ``none``
            takes pictures that are cropped already.
        crop: how faces are cut out, see :class:`~faceaffect.data.faces.crop.Crop`.
        finder: finds faces, see ``faceaffect ls finders``; absent, ``mtcnn``.
        crop_cache: folder of the crops; absent, ``faceaffect_crops`` in the root.

    Raises:
        DataError: something is missing or makes no sense; the file is named.
        RecipeError: an argument is out of range.
    """

    def __init__(
        self,
        root: str,
        *,
        fold: int = 1,
        clips: ClipKind = "auto",
        frames: int = 16,
        image_size: int | None = None,
        align: Method = "none",
        crop: CropNode = None,
        finder: FinderNode = None,
        crop_cache: str | None = None,
    ) -> None:
        check_fold(fold, FOLDS)
        check_frames(frames)
        folder = Path(root)
        table = pd.concat([_read(folder, part, fold) for part in ("train", "test")])
        kind, files = _files(folder, clips)
        table["file"] = [files.get(clip, f"Clip/{kind}/{clip}") for clip in table["clip"]]
        super().__init__(
            table,
            LABELS,
            CLASSES,
            root=folder,
            help=_HELP,
            frames=frames,
            image_size=image_size,
            notes={"fold": fold, "clips": kind, "frames": frames, "crop": _crop(kind)},
            aligner=open_aligner(align, crop, finder, crop_cache, folder, own=False),
        )


def _crop(kind: str) -> str:
    return "none, whole pictures" if kind == "original" else "as distributed, 224 px"


def _read(root: Path, part: str, fold: int) -> pd.DataFrame:
    """Return ``clip``, ``label`` and ``part`` of one published list."""
    base = root / "EmoLabel_DataSplit"
    if not base.is_dir():
        raise DataError(f"data.root: the folder {base} is missing. {_HELP}")
    tried = [base / form.format(part=part) / f"set_{fold}.csv" for form in _SPLITS]
    found = [path for path in tried if path.is_file()]
    if not found:
        raise DataError(f"no list of clips: none of {', '.join(map(str, tried))} is there. {_HELP}")
    table = read_columns(found[0], ("video_name", "label"), _HELP)
    clip = pd.to_numeric(table["video_name"].str.extract(r"^\s*0*(\d+)", expand=False))
    label = pd.to_numeric(table["label"], errors="coerce")
    wrong = clip.isna() | ~label.isin(range(1, len(CLASSES) + 1))
    if wrong.any():
        row = int(wrong.to_numpy().argmax())
        cells = ", ".join(table[["video_name", "label"]].iloc[row])
        raise DataError(
            f"{found[0]}:{table.index[row]}: {shown(cells)} is no clip number with a label from 1 "
            "to 7"
        )
    names = [CLASSES[code - 1] for code in label.astype(int)]
    return pd.DataFrame({"clip": clip.astype(int), "expression": names, "part": part})


def _files(root: Path, clips: ClipKind) -> tuple[str, dict[int, str]]:
    """Return which clips are used, and clip number to path relative to the root."""
    kinds = _KINDS if clips == "auto" else (clips,)
    for kind in kinds:
        for place in (root / "Clip" / kind, root / kind):
            if place.is_dir():
                found = {}
                for entry in entries(place):
                    number = re.fullmatch(r"\d+", entry.stem)
                    if number and (entry.suffix.lower() in VIDEO_SUFFIXES or entry.is_dir()):
                        found[int(number[0])] = entry.relative_to(root).as_posix()
                return kind, found
    tried = ", ".join(str(root / "Clip" / kind) for kind in kinds)
    raise DataError(f"no clips: none of the folders {tried} is there. {_HELP}")
