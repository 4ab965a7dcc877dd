"""The public dataset muxspace/facial_expressions: faces from the web with one of 8 expressions."""

import re
from pathlib import Path

import numpy as np
import pandas as pd

from faceaffect.data.align import CropNode, FinderNode, Method, open_aligner
from faceaffect.data.labels import LabelTable
from faceaffect.data.listed import ListedFaces, read_columns
from faceaffect.errors import DataError

CLASSES = (
    "neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear", "contempt",
)  # fmt: skip
LABELS = LabelTable({name: name for name in CLASSES})
COMMON = CLASSES[:6]
"""The classes with more than a hundred images; fear and contempt have a handful."""

_HELP = (
    "Expected: ROOT/images/*.jpg and ROOT/data/legend.csv (user.id,image,emotion), as in the "
    "public repository https://github.com/muxspace/facial_expressions"
)


class FacialExpressions(ListedFaces):
    """Expressions of muxspace/facial_expressions (Apache-2.0), read as it is distributed.

    The person is the name in the file name: ``Abid_Hamid_Mahmud_Al-Tikriti_0003.jpg`` shows
    Abid_Hamid_Mahmud_Al-Tikriti. Labels are matched whatever their case. An image with two
    different labels is left out, and so are images of other classes than those asked for and
    images that are not on disk; each is counted.

    Args:
        root: the folder of the repository, with ``images`` and ``data``.
        classes: the expressions to use, in index order; absent, the six common ones.
        align: ``auto`` finds the face in each picture and crops to it, once, on disk; ``none``
            takes pictures that are cropped already.
        crop: how faces are cut out, see :class:`~faceaffect.data.faces.crop.Crop`.
        finder: finds faces, see ``faceaffect ls finders``; absent, ``mtcnn``.
        crop_cache: folder of the crops; absent, ``faceaffect_crops`` in the root.
        without: the root of another copy or part of this set, whose people are left out.

    Raises:
        DataError: the folder or the label table is missing or of another form.
        RecipeError: a class is unknown or named twice.
    """

    def __init__(
        self,
        root: str,
        *,
        classes: list[str] | None = None,
        align: Method = "none",
        crop: CropNode = None,
        finder: FinderNode = None,
        crop_cache: str | None = None,
        without: str | None = None,
    ) -> None:
        names = COMMON if classes is None else LABELS.choose(classes)
        table = _read(Path(root))
        known = np.zeros(len(table), bool)
        if without is not None:
            known = table["subject"].isin(_read(Path(without))["subject"]).to_numpy()
        super().__init__(
            table[~known],
            LABELS,
            names,
            root=Path(root),
            help=_HELP,
            aligner=open_aligner(align, crop, finder, crop_cache, Path(root), own=False),
            left_out={"people of the other part": int(known.sum())} if known.any() else None,
        )


def _read(root: Path) -> pd.DataFrame:
    """Return ``file``, ``expression`` and ``subject`` of every row, in the order of the files."""
    legend = root / "data" / "legend.csv"
    for path, what in ((root, "folder"), (root / "images", "folder"), (legend, "label table")):
        if not path.exists():
            raise DataError(f"data.root: the {what} {path} is missing. {_HELP}")
    table = read_columns(legend, ("image", "emotion"), _HELP)
    found = pd.DataFrame(
        {
            "file": "images/" + table["image"],
            "expression": table["emotion"].str.lower(),
            "subject": table["image"].map(_person),
        }
    )
    return found.sort_values("file")


def _person(image: str) -> str:
    """Return the name before the number at the end of a file name.

    >>> _person("Arantxa_Sanchez-Vicario_0002.jpg"), _person("facial-expressions_2868582k.jpg")
    ('Arantxa_Sanchez-Vicario', 'facial-expressions_2868582k')
    """
    return re.sub(r"_\d+$", "", Path(image).stem)
