"""DISFA+ (Mavadati et al., 2016): 9 people of DISFA posing and smiling, 12 AUs from 0 to 5."""

from pathlib import Path

import numpy as np
import pandas as pd

from faceaffect.data.align import CropNode, FinderNode, Method, open_aligner
from faceaffect.data.dataset import Samples
from faceaffect.data.disfa import BENCHMARK_AUS, check_aus
from faceaffect.data.frames import (
    FrameDataset,
    check_labels,
    find_folder,
    locate_all,
    named_folders,
    numbered_files,
)
from faceaffect.data.listed import text_of
from faceaffect.errors import DataError, shown
from faceaffect.files import entries
from faceaffect.schema import LabelSchema

_PERSON = r"SN\d{3}"
_IMAGES = ("Images", "Aligned")
_HELP = (
    "Expected under data.root, as http://mohammadmahoor.com/disfa-plus/ distributes it on request: "
    "Labels/SN001/A1_AU1_TrailNo_1/AU1.txt, with lines such as '000.jpg 0', and "
    "Images/SN001/A1_AU1_TrailNo_1/000.jpg (or Aligned)"
)


class DisfaPlus(FrameDataset):
    """DISFA+ as it is distributed: the pictures of each person's trials, cropped to faces.

    A picture belongs to the label of its number. Labels without a picture and pictures without a
    label are left out and counted. No parts of people are published.

    Args:
        root: the folder that holds ``Labels`` and ``Images``.
        aus: the AUs in column order; absent, the 8 of DISFA's usual benchmark.
        threshold: the intensity from which on an AU counts as positive, in (0, 5].
        frames: folder of the pictures in the root; absent, ``Images`` or ``Aligned``.
        every: use every n-th picture of a trial: those whose number it divides.
        align: how faces are found, see :class:`~faceaffect.data.align.Aligner`; ``none`` for
            pictures that are cropped already. DISFA+'s own landmarks are not read.
        crop: how they are cut out, see :class:`~faceaffect.data.faces.crop.Crop`.
        finder: finds faces, see ``faceaffect ls finders``; absent, ``mtcnn``.
        crop_cache: folder of the stored crops; absent, ``faceaffect_crops`` in the root.

    Raises:
        DataError: something is missing or makes no sense; the file is named.
        RecipeError: an argument is out of range.
    """

    def __init__(
        self,
        root: str,
        *,
        aus: list[int] | None = None,
        threshold: float = 2.0,
        frames: str | None = None,
        every: int = 1,
        align: Method = "auto",
        crop: CropNode = None,
        finder: FinderNode = None,
        crop_cache: str | None = None,
    ) -> None:
        chosen = BENCHMARK_AUS if aus is None else tuple(aus)
        check_aus(chosen, threshold, every)
        folder = Path(root)
        trials = _trials(find_folder(folder, ["Labels"]), folder / "Labels")
        place = find_folder(folder, _IMAGES) if frames is None else folder / frames
        pictures = _trials(place, place or folder / _IMAGES[0])
        labels = {name: _read_labels(where, chosen) for name, where in trials.items()}
        sources = {name: numbered_files(where) for name, where in pictures.items()}
        table, left_out = locate_all(labels, sources, every)
        if table.empty:
            raise DataError(f"{folder}: no picture has a label. {_HELP}")
        intensity = table[list(chosen)].to_numpy(np.float32)
        samples = Samples(
            id=table["id"].to_numpy(str),
            subject=table["recording"].str.partition("/")[0].to_numpy(str),
            au=np.where(np.isnan(intensity), np.nan, intensity >= threshold).astype(np.float32),
            au_intensity=intensity,
        )
        super().__init__(
            LabelSchema(aus=chosen),
            samples,
            table,
            open_aligner(align, crop, finder, crop_cache, folder, own=False),
            root=folder,
            left_out=left_out,
            notes={"threshold": threshold, "every": every},
        )


def _trials(folder: Path | None, expected: Path) -> dict[str, Path]:
    """Return the folder of each trial, by person and name, ``SN001/A1_AU1_TrailNo_1``."""
    people = named_folders(folder, _PERSON) if folder is not None and folder.is_dir() else {}
    found = {
        f"{person}/{trial.name}": trial
        for person, place in people.items()
        for trial in entries(place)
        if trial.is_dir()
    }
    if not found:
        raise DataError(f"{folder or expected}: no trials of people here. {_HELP}")
    return found


def _read_labels(folder: Path, aus: tuple[int, ...]) -> pd.DataFrame:
    """Return a trial's intensities, a column for each AU, the index counting as the pictures do."""
    inside = {file.name.lower(): file for file in folder.iterdir()}
    columns = {}
    for au in aus:
        file = inside.get(f"au{au}.txt")
        if file is None:
            raise DataError(
                f"{folder / f'AU{au}.txt'} is missing: copy the labels again, or leave AU{au} out "
                "with data.aus"
            )
        columns[au] = _read_column(file)
    return pd.DataFrame(columns)


def _read_column(file: Path) -> pd.Series:
    frames: list[int] = []
    values: list[float] = []
    for number, line in enumerate(text_of(file).splitlines(), 1):
        name, *rest = line.partition("#")[0].split() or [""]
        stem = name.partition(".")[0]
        if not name or (not stem.isdigit() and not frames):
            continue  # a comment, or a header before the first picture
        try:
            (value,) = map(float, rest)
            frames.append(int(stem))
        except ValueError:
            raise DataError(f"{file}:{number}: {shown(line)} is not like '000.jpg 0'") from None
        values.append(value)
    if not frames:
        raise DataError(f"{file}: holds no label such as '000.jpg 0'")
    if len({*frames}) < len(frames):
        raise DataError(f"{file}: a picture is labelled twice")
    return pd.Series(check_labels(np.array(values), 5, file), index=frames)
