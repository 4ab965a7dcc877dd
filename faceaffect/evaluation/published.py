"""Figures of the literature, quoted: F1 per AU in percent, mean of the three published folds.

As compiled in the README of github.com/byu-rvl/Ensemble_AU_release. Protocols, crops and frame
counts of these works differ; none was measured here.
"""

from collections.abc import Sequence
from typing import Final

FLOOR = 0.065
"""What mean AU F1 moves by, up or down, between assignments of people to three folds of BP4D+."""

NOISE_FLOOR = (
    "On BP4D+, repeated 3-fold splits move mean AU F1 by 0.065 up and down (quoted from Hinduja et "
    "al., Beyond the Fold, arXiv 2604.02162): a lead within that may turn round with the next "
    "assignment. --repeats measures it on your data."
)
READ_SPREAD = "A lead within the spread may turn round with the next assignment."

# The last column is quoted too: in four rows it is not the mean of its cells (on BP4D DRML, on
# DISFA SRERL, UGN-B and FAUDT).
_TABLES: Final = {
    "bp4d": """
        AU 1 2 4 6 7 10 12 14 15 17 23 24 mean
        DRML 36.4 41.8 43.0 55.0 67.0 66.3 65.8 54.1 33.2 48.0 31.7 30.0 48.3
        JAA-Net 47.2 44.0 54.9 77.5 74.6 84.0 86.9 61.9 43.6 60.3 42.7 41.9 60.0
        LP-Net 43.4 38.0 54.2 77.1 76.7 83.8 87.2 63.3 45.3 60.5 48.1 54.2 61.0
        ARL 45.8 39.8 55.1 75.7 77.2 82.3 86.6 58.8 47.6 62.1 47.4 55.4 61.1
        SRERL 46.9 45.3 55.6 77.1 78.4 83.5 87.6 63.9 52.2 63.9 47.1 53.3 62.9
        UGN-B 54.2 46.4 56.8 76.2 76.7 82.4 86.1 64.7 51.2 63.1 48.5 53.6 63.3
        HMP-PS 53.1 46.1 56.0 76.5 76.9 82.1 86.4 64.8 51.5 63.0 49.9 54.5 63.4
        SEV-Net 58.2 50.4 58.3 81.9 73.9 87.8 87.5 61.6 52.6 62.2 44.6 47.6 63.9
        PIAP 54.2 47.1 54.0 79.0 78.2 86.3 89.5 66.1 49.7 63.2 49.9 52.0 64.1
        FAUDT 51.7 49.3 61.0 77.8 79.5 82.9 86.3 67.6 51.9 63.0 43.7 56.3 64.2
        FG-Net 52.6 48.8 57.1 79.8 77.5 85.6 89.3 68.0 45.6 64.8 46.2 55.7 64.3
        KDSRL 53.3 47.4 56.2 79.4 80.7 85.1 89.0 67.4 55.9 61.9 48.5 49.0 64.5
        KS 55.3 48.6 57.1 77.5 81.8 83.3 86.4 62.8 52.3 61.3 51.6 58.3 64.7
        ME-GraphAU 52.7 44.3 60.9 79.9 80.1 85.3 89.2 69.4 55.4 64.4 49.8 55.1 65.5
        SACL 57.8 48.8 59.4 79.1 78.8 84.0 88.2 65.2 56.1 63.8 50.8 55.2 65.6
        AUFormer 55.2 52.2 63.2 79.3 79.7 84.2 88.6 67.0 53.3 65.5 50.6 55.7 66.2
    """,
    "disfa": """
        AU 1 2 4 6 9 12 25 26 mean
        DRML 17.3 17.7 37.4 29.0 10.7 37.7 38.5 20.1 26.1
        SRERL 45.7 47.8 59.6 47.1 45.6 76.5 84.3 43.6 55.9
        JAA-Net 43.7 46.2 56.0 41.4 44.7 69.6 88.3 58.4 56.0
        LP-Net 29.9 24.7 72.7 46.8 49.6 72.9 93.8 65.0 56.9
        ARL 43.9 42.1 63.6 41.8 40.0 76.2 95.2 66.8 58.7
        SEV-Net 55.3 53.1 61.5 53.6 38.2 71.6 95.7 41.5 58.8
        UGN-B 43.3 48.1 63.4 49.5 48.2 72.9 90.8 59.0 60.0
        HMP-PS 38.0 45.9 65.2 50.9 50.8 76.0 93.3 67.6 61.0
        FAUDT 46.1 48.6 72.8 56.7 50.0 72.1 90.8 55.4 61.5
        KS 53.8 59.9 69.2 54.2 50.8 75.8 92.2 46.8 62.8
        ME-GraphAU 54.6 47.1 72.9 54.0 55.7 76.7 91.1 53.0 63.1
        PIAP 50.2 51.8 71.9 50.6 54.5 79.7 94.1 57.2 63.8
        KDSRL 60.4 59.2 67.5 52.7 51.5 76.1 91.3 57.7 64.5
        FG-Net 63.6 66.9 72.5 50.7 48.8 76.5 94.1 50.1 65.4
        SACL 62.0 65.7 74.5 53.2 43.1 76.9 95.6 53.1 65.5
        AUFormer 58.6 61.0 70.4 52.4 58.1 73.0 90.8 66.9 66.4
    """,
}


def published(data: str, aus: tuple[int, ...]) -> dict[str, list[float]]:
    """Return the quoted rows for a dataset: F1 in percent of each AU, then the quoted mean.

    Args:
        data: the datamodule's registered name; others have no rows.
        aus: columns; there are rows only for exactly the published set, in any order.
    """
    known, rows = _read(data)
    if sorted(known) != sorted(aus):
        return {}
    order = [*map(known.index, aus), -1]
    return {method: [values[i] for i in order] for method, values in rows.items()}


def not_comparable(
    data: str,
    aus: tuple[int, ...],
    *,
    protocol: str,
    folds: Sequence[int | None],
    threshold: float | None = None,
) -> str | None:
    """Return why a result must not stand beside the quoted rows of its dataset.

    Args:
        data: the datamodule's registered name.
        aus: what was scored.
        protocol: the registered name of the protocol.
        folds: those that were run.
        threshold: the intensity from which on an AU counts as positive; None where the data has no
            intensities.

    Returns:
        The first difference in words, None if there is none or the dataset has no rows.
    """
    if data not in _TABLES:
        return None
    known, _ = _read(data)
    if protocol != "three_fold":
        return f"they follow the protocol three_fold, this is {protocol}"
    if set(folds) != {1, 2, 3}:
        return f"they are means of folds 1, 2, 3, this is of {', '.join(map(str, folds))}"
    if data == "disfa" and threshold != 2:
        return f"they count an AU as positive from intensity 2 on, this from {threshold}"
    if sorted(known) != sorted(aus):
        return f"they are of the AUs {', '.join(map(str, known))}, all of them and no others"
    return None


def _read(data: str) -> tuple[list[int], dict[str, list[float]]]:
    """Return a dataset's columns, and its rows with the mean at the end."""
    header, *rows = [line.split() for line in _TABLES.get(data, "AU mean").strip().splitlines()]
    return [int(au) for au in header[1:-1]], {row[0]: [*map(float, row[1:])] for row in rows}
