"""FERV39k (Wang et al., 2022): clips of faces from 22 scenes with one of seven expressions."""

from pathlib import Path

import pandas as pd

from faceaffect.data.align import CropNode, FinderNode, Method, open_aligner
from faceaffect.data.labels import LabelTable, line_of
from faceaffect.data.listed import ListedFaces, check_frames, first_folder, read_lines
from faceaffect.errors import DataError, RecipeError, unknown

LABELS = LabelTable(
    {"Angry": "anger", "Disgust": "disgust", "Fear": "fear", "Happy": "happiness",
     "Neutral": "neutral", "Sad": "sadness", "Surprise": "surprise"}
)  # fmt: skip
"""What the lists and folders write for each class; no order is published, ours is theirs."""

_CLIPS = ("2_ClipsforFaceCrop", "2_ClipsforFaceCrop/2_ClipsforFaceCrop")
_SETUPS = ("4_setups/All_scenes", "4_setups/4_setups/All_scenes", "All_scenes")
_HELP = (
    "Expected under data.root, as https://github.com/wangyanckxx/FERV39k distributes it on "
    "request: 4_setups/All_scenes/train_All.csv and test_All.csv, with lines such as "
    "'Action/Sad/0010 Sad', and 2_ClipsforFaceCrop/Action/Sad/0010/1.jpg"
)


class Ferv39k(ListedFaces):
    """FERV39k's clips of cropped faces as they are distributed, in the split of all scenes.

    Validation clips are carved out of the training part. People are not known. The scene is an
    attribute, by which results can be compared. Clips that are not on disk are left out and
    counted.

    Args:
        root: the folder that holds ``2_ClipsforFaceCrop`` and ``4_setups``.
        classes: the expressions to use, in index order; absent, all seven, in the alphabetical
            order of the folders.
        scenes: the scenes to use; absent, all.
        frames: evenly spaced frames that are read of a clip.
        image_size: side to which frames are scaled, in pixels; absent, they keep their size. Not
            used where faces are cropped.
        align: ``auto`` finds the face in each picture and crops to it, once, on disk; ``none``
            takes pictures that are cropped already.
        crop: how faces are cut out, see :class:`~faceaffect.data.faces.crop.Crop`.
        finder: finds faces, see ``faceaffect ls finders``; absent, ``mtcnn``.
        crop_cache: folder of the crops; absent, ``faceaffect_crops`` in the root.

    Raises:
        DataError: something is missing or makes no sense; the file is named.
        RecipeError: an argument is out of range, or a class or scene is unknown.
    """

    def __init__(
        self,
        root: str,
        *,
        classes: list[str] | None = None,
        scenes: list[str] | None = None,
        frames: int = 16,
        image_size: int | None = None,
        align: Method = "none",
        crop: CropNode = None,
        finder: FinderNode = None,
        crop_cache: str | None = None,
    ) -> None:
        check_frames(frames)
        names, folder = LABELS.choose(classes), Path(root)
        lists, clips = first_folder(folder, _SETUPS), first_folder(folder, _CLIPS[::-1])
        if lists is None or clips is None:
            absent = _SETUPS[0] if lists is None else _CLIPS[0]
            raise DataError(f"data.root: the folder {folder / absent} is missing. {_HELP}")
        table = pd.concat([_read(folder / lists, part) for part in ("train", "test")])
        left_out: dict[str, int] = {}
        if scenes is not None:
            table, left_out = _of_scenes(table, scenes)
        table["file"] = f"{clips}/" + table["clip"]
        super().__init__(
            table,
            LABELS,
            names,
            root=folder,
            help=_HELP,
            left_out=left_out,
            frames=frames,
            image_size=image_size,
            notes={"frames": frames},
            aligner=open_aligner(align, crop, finder, crop_cache, folder, own=False),
            attributes=("scene",),
        )


def _read(folder: Path, part: str) -> pd.DataFrame:
    """Return ``clip``, ``scene``, ``expression`` and ``part`` of one published list."""
    file = folder / f"{part}_All.csv"
    if not file.is_file():
        raise DataError(f"{file} is missing. {_HELP}")
    lines = read_lines(file, r"([^/\s]+)/([^/\s]+)/(\S+?)/?[\s,]+(\w+)", "Action/Sad/0010 Sad")
    written = [code.capitalize() for *_, code in lines.values()]
    names = LABELS.read(written, line_of(file, [*lines]))
    for number, (scene, group, clip, code) in lines.items():
        if group.lower() != code.lower():
            raise DataError(
                f"{file}:{number}: the clip {scene}/{group}/{clip} lies under {group} and is "
                f"called {code}"
            )
    clips = [f"{scene}/{group}/{clip}" for scene, group, clip, _ in lines.values()]
    scenes = [scene for scene, *_ in lines.values()]
    return pd.DataFrame({"clip": clips, "scene": scenes, "expression": names, "part": part})


def _of_scenes(table: pd.DataFrame, scenes: list[str]) -> tuple[pd.DataFrame, dict[str, int]]:
    known = sorted(set(table["scene"]))
    for name in scenes:
        if name not in known:
            raise RecipeError(unknown("data.scenes", str(name), known))
    asked = table["scene"].isin(scenes)
    return table[asked].copy(), {"of other scenes": int((~asked).sum())}
