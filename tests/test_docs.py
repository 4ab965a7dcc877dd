"""The examples of the docs do what the docs say."""

import re
from pathlib import Path

import pytest

from faceaffect.cli import main
from faceaffect.recipe import SECTIONS, list_recipes
from faces import write_csv, write_facial_expressions

DOCS = Path(__file__).parents[1] / "docs"


def blocks(page: str, language: str) -> list[str]:
    """Return the code blocks of a page in a language."""
    return re.findall(rf"```{language}\n(.*?)```", (DOCS / page).read_text(), re.DOTALL)


def test_the_model_of_the_docs_trains_and_is_short(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (example,) = blocks("adding_a_model.md", "python")
    assert len(example.splitlines()) < 60
    (tmp_path / "my_model.py").write_text(example)
    monkeypatch.chdir(tmp_path)
    root = write_facial_expressions(tmp_path / "faces")
    (command,) = blocks("adding_a_model.md", "bash")
    argv = command.split()[1:]
    short = ["trainer.max_epochs=1", "trainer.accelerator=cpu", "data.num_workers=0"]
    assert main([*argv, f"data.root={root}", *short]) == 0
    assert list(tmp_path.glob("runs/facial_expressions_cnn/*/metrics.json"))


def test_the_table_of_the_docs_is_read(tmp_path: Path) -> None:
    """The table in the docs, with the images that it names."""
    write_csv(tmp_path / "faces")
    (table,) = [block for block in blocks("own_data.md", "text") if block.startswith("image,")]
    rows = [row.split(",") for row in table.strip().splitlines()]
    some = next((tmp_path / "faces").rglob("*.png"), None) or next(
        (tmp_path / "faces").rglob("*.jpg")
    )
    for row in rows[1:]:
        (tmp_path / row[0]).parent.mkdir(exist_ok=True)
        (tmp_path / row[0]).write_bytes(some.read_bytes())
    (tmp_path / "faces.csv").write_text(table)
    from faceaffect.data.csv import CsvFaces

    faces = CsvFaces(str(tmp_path / "faces.csv"))
    assert faces.schema.aus == (1, 12)
    assert faces.schema.expressions == ("happiness", "neutral", "surprise")
    assert faces.samples.subject.tolist() == ["ann", "ann", "bob"]


def test_pages_name_only_recipes_and_sections_that_there_are() -> None:
    text = "\n".join(page.read_text() for page in DOCS.rglob("*.md"))
    named = set(
        re.findall(r"faceaffect (?:train|check|crossval|compare) ([a-z]\w+)(?![\w./])", text)
    )
    assert named
    assert named - set(list_recipes()) <= {"mine"}
    for section in SECTIONS:
        assert f"`{section}`" in (DOCS / "recipes.md").read_text(), section
