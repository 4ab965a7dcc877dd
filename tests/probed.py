"""A small file of probes about a few faces."""

from pathlib import Path
from typing import Any

import yaml

from faces import write_csv

FORMS: list[dict[str, Any]] = [
    {"about": "au", "form": "describe"},
    {"about": "au", "form": "yes_no"},
    {"about": "au", "form": "options"},
    {"about": "expression", "form": "yes_no"},
    {"about": "expression", "form": "options", "options": 2, "think": True},
    {"about": "valence", "form": "options"},
]


def write(folder: Path, probes: list[dict[str, Any]] | None = None, **more: Any) -> Path:
    """Write a file of probes about twelve faces."""
    table = folder / "csv" / "faces.csv"
    if not table.exists():
        write_csv(folder / "csv", people=4, each=3)
    data = {"name": "csv", "table": str(table), "protocol": "all"}
    text = yaml.safe_dump({"data": data, "probes": probes or FORMS, "each": 3} | more)
    (folder / "own.yaml").write_text(text)
    return folder / "own.yaml"
