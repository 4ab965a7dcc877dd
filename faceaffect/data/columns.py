"""What the columns of a user's label table are called here."""

import re
import unicodedata
from difflib import get_close_matches
from pathlib import Path

from faceaffect.data.cells import shown
from faceaffect.errors import DataError

_NAMES = {
    "image": "file", "path": "file", "video": "file", "subject": "subject", "part": "part",
    "split": "part", "expression": "expression", "valence": "valence", "arousal": "arousal",
    "felt": "felt",
}  # fmt: skip
_MEANT = {
    "person": "subject", "people": "subject", "participant": "subject", "identity": "subject",
    "partition": "part", "emotion": "expression", "emotions": "expression",
    "facial expression": "expression", "file": "image", "filename": "image", "filepath": "image",
    "img": "image", "clip": "video",
}  # fmt: skip
"""Other words for our columns, which nobody should have to guess; they are refused, not mapped."""

# AU1, AU01, au 1, AU_1; with OpenFace's ending AU01_c for presence, AU01_r for intensity.
_AU = re.compile(r"au[ _-]?0*([1-9]\d{0,2})(?:_([cr]))?")
_LIKE_AU = re.compile(
    r"(?:.*[^a-z])?(?:a ?u|action[ _.-]*unit)s?[^a-z0-9]*(?:[lrbtc]|left|right)?[^a-z0-9]*\d.*"
)


def our_columns(
    path: Path, columns: list[str], intensities: bool
) -> tuple[dict[str, str], list[str]]:
    """Return our name of each column of the file that we use, and the other columns.

    Args:
        path: the file, for errors.
        columns: the names of its columns.
        intensities: see :func:`faceaffect.data.table.read_table`.

    Raises:
        DataError: a column is missing, doubled, misspelt or holds what was not asked for.
    """
    used: dict[str, str] = {}
    ignored: list[str] = []
    endings: dict[str, str | None] = {}
    for column in columns:
        lower = " ".join(unicodedata.normalize("NFKC", column).lower().split())
        au = _AU.fullmatch(lower)
        name = _NAMES.get(lower, lower if lower.startswith("attribute/") else None)
        name = f"AU{au[1]}" if au else name
        if lower == "attribute/":
            raise DataError(f"{path}: the column 'attribute/' names no attribute")
        if name is None and _LIKE_AU.fullmatch(lower):
            raise DataError(
                f"{path}: the column '{shown(column)}' looks like an action unit: name it AU12, or "
                "as OpenFace does AU12_c for presence and AU12_r for intensity"
            )
        if name is None:
            ignored.append(column)
            continue
        first = next((c for c, n in used.items() if n == name), None)
        if first is not None:
            if au is None or {endings[first], au[2]} != {"c", "r"}:
                raise DataError(f"{path}: the columns '{first}' and '{column}' mean the same")
            dropped = column if endings[first] == ("r" if intensities else "c") else first
            ignored.append(dropped)
            if dropped == column:
                continue
            del used[first]
        used[column] = name
        endings[column] = au[2] if au else None
    _refuse_misspelt(path, ignored, used)
    _refuse_wrong_kind(path, [c for c in used if endings[c]], endings, intensities)
    for column in [c for c in used if endings[c] == "c" and intensities]:
        ignored.append(column)  # presence beside intensities, such as OpenFace's AU28_c
        del used[column]
    if "file" not in used.values():
        named = ", ".join(shown(column) for column in columns[:20])
        raise DataError(f"{path}: no column 'image', 'path' or 'video'; the columns are: {named}")
    return used, ignored


def _refuse_misspelt(path: Path, ignored: list[str], used: dict[str, str]) -> None:
    absent = [known for known, name in _NAMES.items() if name not in used.values()]
    for column in ignored:
        lower = re.sub(r"[ _.-]+", " ", column.lower())[:40]
        meant = _MEANT.get(re.sub(" (id|name|path|label)$", "", lower))
        near = get_close_matches(lower, absent, n=1, cutoff=0.8)
        if lower.startswith("attributes/"):
            near = [f"attribute/{column[len('attributes/') :]}"]
        if meant in absent or near:
            name = near[0] if near else meant
            raise DataError(
                f"{path}: unknown column '{shown(column)}'; if it is '{name}', name it so, else "
                "otherwise"
            )


def _refuse_wrong_kind(
    path: Path, aus: list[str], endings: dict[str, str | None], intensities: bool
) -> None:
    """Refuse OpenFace's columns of the kind that was not asked for, where the other is missing."""
    for column in aus:
        if endings[column] == "r" and not intensities:
            raise DataError(
                f"{path}: the column '{column}' holds intensities; data.au_threshold=2 makes "
                "labels of them"
            )
    if intensities and aus and all(endings[column] == "c" for column in aus):
        raise DataError(
            f"{path}: the column '{aus[0]}' holds 0 and 1, and data.au_threshold is for "
            "intensities: leave out the one or the other"
        )
