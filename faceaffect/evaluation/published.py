"""Figures of the literature, quoted: F1 per AU in percent, mean of the three published folds.

As compiled in the README of github.com/byu-rvl/Ensemble_AU_release. Protocols, crops and frame
counts of these works differ; none was measured here.
"""

from typing import Final

_TABLES: Final = {
    "bp4d": """
        AU 1 2 4 6 7 10 12 14 15 17 23 24
        JAA-Net 47.2 44.0 54.9 77.5 74.6 84.0 86.9 61.9 43.6 60.3 42.7 41.9
        FG-Net 52.6 48.8 57.1 79.8 77.5 85.6 89.3 68.0 45.6 64.8 46.2 55.7
        KDSRL 53.3 47.4 56.2 79.4 80.7 85.1 89.0 67.4 55.9 61.9 48.5 49.0
        ME-GraphAU 52.7 44.3 60.9 79.9 80.1 85.3 89.2 69.4 55.4 64.4 49.8 55.1
        SACL 57.8 48.8 59.4 79.1 78.8 84.0 88.2 65.2 56.1 63.8 50.8 55.2
        AUFormer 55.2 52.2 63.2 79.3 79.7 84.2 88.6 67.0 53.3 65.5 50.6 55.7
    """,
    "disfa": """
        AU 1 2 4 6 9 12 25 26
        JAA-Net 43.7 46.2 56.0 41.4 44.7 69.6 88.3 58.4
        FG-Net 63.6 66.9 72.5 50.7 48.8 76.5 94.1 50.1
        KDSRL 60.4 59.2 67.5 52.7 51.5 76.1 91.3 57.7
        ME-GraphAU 54.6 47.1 72.9 54.0 55.7 76.7 91.1 53.0
        SACL 62.0 65.7 74.5 53.2 43.1 76.9 95.6 53.1
        AUFormer 58.6 61.0 70.4 52.4 58.1 73.0 90.8 66.9
    """,
}


def published(data: str, aus: tuple[int, ...]) -> dict[str, list[float]]:
    """Return the quoted rows for a dataset: F1 in percent of each AU, then their mean.

    Args:
        data: the datamodule's registered name; others have no rows.
        aus: columns; there are rows only for exactly the published set, in any order.
    """
    header, *rows = [line.split() for line in _TABLES.get(data, "AU").strip().splitlines()]
    known = [int(au) for au in header[1:]]
    if sorted(known) != sorted(aus):
        return {}
    quoted = {}
    for method, *cells in rows:
        values = dict(zip(known, map(float, cells), strict=True))
        quoted[method] = [*(values[au] for au in aus), sum(values.values()) / len(values)]
    return quoted
