"""The rooms of the package stand on floors, and no import climbs."""

import ast
from pathlib import Path

import faceaffect

PACKAGE = Path(faceaffect.__file__).parent
FLOORS = [
    "errors",
    "files",
    "schema",
    "registry",
    "components",
    "recipe",
    "hardware",
    "optim",
    "progress",
    "scores",
    "data",
    "networks",
    "instructions",
    "module",
    "models",
    "runs",
    "prediction",
    "export",
    "evaluation",
    "demo",
    "cli",
]
"""From the ground up; a room imports itself and those before it."""


def imported(file: Path) -> set[str]:
    """Return the rooms that a file imports from, wherever in the file."""
    paths: list[str] = []
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            source = f"{node.module}." if isinstance(node, ast.ImportFrom) else ""
            paths += [source + alias.name for alias in node.names]
    return {p.split(".")[1] for p in paths if p.startswith("faceaffect.")} & set(FLOORS)


def test_no_import_climbs() -> None:
    for file in PACKAGE.rglob("*.py"):
        room = file.relative_to(PACKAGE).with_suffix("").parts[0]
        if room != "__init__":  # the package's face, which loads its names when they are asked for
            above = imported(file) - set(FLOORS[: FLOORS.index(room) + 1])
            assert not above, f"{file} imports from above: {', '.join(above)}"


def test_few_modules_stand_at_the_top() -> None:
    assert len(list(PACKAGE.glob("*.py"))) <= 11
