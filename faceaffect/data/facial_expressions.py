"""The public dataset muxspace/facial_expressions: faces from the web with one of 8 expressions."""

import re
from pathlib import Path

import numpy as np
import pandas as pd

from faceaffect.data.align import CropNode, FinderNode, Method, open_aligner
from faceaffect.data.dataset import FaceDataset, Samples, on_disk
from faceaffect.data.labels import LabelTable
from faceaffect.errors import DataError
from faceaffect.schema import LabelSchema

CLASSES = (
    "neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear", "contempt",
)  # fmt: skip
LABELS = LabelTable({name: name for name in CLASSES})
COMMON = CLASSES[:6]
"""The classes with more than a hundred images; fear and contempt have a handful."""

_COLUMNS = ("user.id", "image", "emotion")
_HELP = (
    "Expected: ROOT/images/*.jpg and ROOT/data/legend.csv (user.id,image,emotion), as in the "
    "public repository https://github.com/muxspace/facial_expressions"
)


class FacialExpressions(FaceDataset):
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
    ) -> None:
        names = COMMON if classes is None else LABELS.choose(classes)
        table = _read(Path(root))
        left_out = {"duplicate rows": int(table.duplicated(["image", "emotion"]).sum())}
        table = table.drop_duplicates(["image", "emotion"])
        conflicting = table["image"].duplicated(keep=False)
        left_out["conflicting labels"] = int(table.loc[conflicting, "image"].nunique())
        table = table[~conflicting]
        other = table.loc[~table["emotion"].isin(names), "emotion"]
        left_out |= {f"class {name}": int(n) for name, n in other.value_counts().items()}
        table = table[table["emotion"].isin(names)]
        there = on_disk(Path(root) / "images", table["image"])
        left_out["not on disk"] = int((~there).sum())
        table = table[there].sort_values("image")
        if table.empty:
            raise DataError(
                f"{root}: none of the labelled images of {', '.join(names)} is in "
                f"{Path(root) / 'images'}. {_HELP}"
            )
        index = {name: i for i, name in enumerate(names)}
        samples = Samples(
            id=np.array([f"images/{image}" for image in table["image"]]),
            subject=np.array([_person(image) for image in table["image"]]),
            expression=np.array([index[name] for name in table["emotion"]], np.int64),
        )
        super().__init__(
            LabelSchema(expressions=names),
            samples,
            root=Path(root),
            left_out={reason: count for reason, count in left_out.items() if count},
            aligner=open_aligner(align, crop, finder, crop_cache, Path(root), own=False),
            labels=LABELS,
        )


def _read(root: Path) -> pd.DataFrame:
    """Return the label table with stripped images and lower-case emotions."""
    legend = root / "data" / "legend.csv"
    for path, what in ((root, "folder"), (root / "images", "folder"), (legend, "label table")):
        if not path.exists():
            raise DataError(f"data.root: the {what} {path} is missing. {_HELP}")
    try:
        table = pd.read_csv(legend, dtype=str, keep_default_na=False)
    except (ValueError, OSError) as error:
        raise DataError(f"{legend}: not readable as a table: {error}. {_HELP}") from None
    absent = [name for name in _COLUMNS[1:] if name not in table.columns]
    if absent:
        raise DataError(
            f"{legend}: no column {', '.join(absent)}; the columns are "
            f"{', '.join(table.columns)}. {_HELP}"
        )
    return pd.DataFrame(
        {"image": table["image"].str.strip(), "emotion": table["emotion"].str.strip().str.lower()}
    )


def _person(image: str) -> str:
    """Return the name before the number at the end of a file name.

    >>> _person("Arantxa_Sanchez-Vicario_0002.jpg"), _person("facial-expressions_2868582k.jpg")
    ('Arantxa_Sanchez-Vicario', 'facial-expressions_2868582k')
    """
    return re.sub(r"_\d+$", "", Path(image).stem)
