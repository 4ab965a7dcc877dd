"""The examples of the docs do what the docs say."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from faceaffect.cli import main
from faceaffect.recipe import SECTIONS, list_recipes, recipe_folder
from faces import write_csv

DOCS = Path(__file__).parents[1] / "docs"


def blocks(page: str, language: str) -> list[str]:
    """Return the code blocks of a page in a language."""
    return re.findall(rf"```{language}\n(.*?)```", (DOCS / page).read_text(), re.DOTALL)


@pytest.mark.slow
def test_the_model_of_the_docs_is_short_and_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A specialist in a user's own file, imported, trained and compared."""
    for name in ("label_attention.py", "label_attention.yaml"):
        text = (DOCS / "examples" / name).read_text()
        assert len(text.splitlines()) < 60
        assert f"{{literalinclude}} examples/{name}" in (DOCS / "adding_a_model.md").read_text()
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("faceaffect.runs.cost.BATCHES", (1,))
    (command,) = blocks("adding_a_model.md", "bash")
    argv = command.split()[1:]
    short = ["trainer.max_epochs=1", "trainer.accelerator=cpu", "data.num_workers=0", "data.n=60",
             "data.subjects=20"]  # fmt: skip
    assert main([*argv, *short]) == 0
    (file,) = tmp_path.glob("runs/compare/*/report.json")
    report = json.loads(file.read_text())
    assert list(report["models"]) == ["mini_probe", "label_attention"]
    assert report["failed"] == {}
    cost = report["models"]["label_attention"]["cost"]
    assert 0 < cost["trainable_parameters"] < cost["parameters"]
    assert cost["peak_memory_bytes"] > 0
    assert all(face["image"].startswith("data:image/") for face in report["disagreements"])
    assert "--import label_attention.py" in report["command"]


def test_the_recipe_of_the_docs_has_the_data_of_the_mini_recipes(
    data_block: Callable[[Path], str],
) -> None:
    own = DOCS / "examples" / "label_attention.yaml"
    assert data_block(own) == data_block(recipe_folder() / "mini_probe.yaml")


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


def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its cells, one after another; what the last says is looked at."""
    plt = pytest.importorskip("matplotlib.pyplot")
    plt.switch_backend("agg")
    monkeypatch.chdir(tmp_path)
    notebook = json.loads((DOCS / "examples" / "predict.ipynb").read_text(encoding="utf-8"))
    cells = ["".join(c["source"]) for c in notebook["cells"] if c["cell_type"] == "code"]
    names: dict[str, Any] = {}
    for cell in cells:
        exec(cell, names)
    table = names["table"]
    assert len(table) == 2
    assert set(table["face"]) == {1, 2}
    assert table["AU12"].between(0, 1).all()
    assert np.isfinite(table["valence"].astype(float)).all()
    plt.close("all")


def test_every_line_of_the_security_page_is_held_by_a_test() -> None:
    root = Path(__file__).parents[1]
    may = (root / "SECURITY.md").read_text().partition("May not:")[0]
    assert len(may.split("\n* ")) >= 7
    for line in may.split("\n* ")[1:]:
        named = re.findall(r"`(tests/[\w/]+\.py)`", line)
        assert named, line
        assert all((root / name).is_file() for name in named), line


@pytest.mark.skipif(sys.platform == "win32", reason="needs a shell")
@pytest.mark.parametrize(("code", "queued"), [(0, False), (143, True), (2, False)])
def test_the_job_of_the_docs_is_queued_again_where_there_is_more_to_do(
    tmp_path: Path, code: int, queued: bool
) -> None:
    (script,) = [block for block in blocks("recipes.md", "bash") if "scontrol" in block]
    for name, line in (("srun", f"exit {code}"), ("scontrol", f'echo "$@" > {tmp_path}/queued')):
        (tmp_path / name).write_text(f"#!/bin/bash\n{line}\n")
        (tmp_path / name).chmod(0o755)
    (tmp_path / "job").write_text(script)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", str(tmp_path / "job")], check=False, timeout=20,
        env={**os.environ, "PATH": path, "SLURM_JOB_ID": "4711"},
    )  # fmt: skip
    assert done.returncode == code
    assert (tmp_path / "queued").exists() == queued
    if queued:
        assert (tmp_path / "queued").read_text() == "requeue 4711\n"
