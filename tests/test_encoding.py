"""Text is UTF-8 on every machine, and a terminal is never in its way."""

import ast
import io
import locale
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

import faceaffect
from faceaffect.cli import main
from faceaffect.errors import harmless
from faceaffect.progress import console, result_table
from faces import write_csv

NAMES = {"neutral": "überrascht", "happiness": "驚き", "anger": "[red]ärger:smile:"}


def texts(file: Path) -> Iterator[ast.Call]:
    """Yield the calls of a source file that open, read or write text."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else ast.unparse(node.func)
        given = {key.arg for key in node.keywords}
        inside = (inner for part in (*node.args, *node.keywords) for inner in ast.walk(part))
        words = [inner.value for inner in inside if isinstance(inner, ast.Constant)]
        binary = any(isinstance(word, str) and "b" in word and len(word) < 4 for word in words)
        opens = name in ("open", "fdopen", "TextIOWrapper", "NamedTemporaryFile")
        if name in ("read_text", "write_text") or (opens and not binary):
            yield node
        if name in ("run", "Popen", "check_output") and given & {"text", "universal_newlines"}:
            yield node


def test_every_text_names_its_encoding() -> None:
    root, number = Path(faceaffect.__file__).parent, 0
    for file in root.rglob("*.py"):
        for call in texts(file):
            if ast.unparse(call.func) in ("av.open", "Image.open", "os.open"):
                continue  # pictures, clips and bytes
            number += 1
            named = any(key.arg == "encoding" for key in call.keywords)
            assert named, f"{file}:{call.lineno}: {ast.unparse(call)}"
    assert number > 15


@pytest.fixture
def narrow() -> Iterator[None]:
    """A locale that knows ASCII alone, as others know one code page."""
    before = locale.setlocale(locale.LC_CTYPE)
    locale.setlocale(locale.LC_CTYPE, "C")
    try:
        with open(os.devnull) as file:  # noqa: PTH123
            if "utf" in file.encoding.lower():
                pytest.skip("Python's UTF-8 mode is on")
        yield
    finally:
        locale.setlocale(locale.LC_CTYPE, before)


def test_a_run_is_utf_8_whatever_the_locale(tmp_path: Path, narrow: None) -> None:
    frame = pd.read_csv(write_csv(tmp_path / "faces", people=7, each=3))
    frame["expression"] = frame["expression"].map(NAMES)
    frame.to_csv(tmp_path / "faces" / "gesichter_顔.csv", index=False)
    recipe = f"""
# Ärger und 驚き
model: {{name: timm_classifier, backbone: test_vit}}
data: {{name: csv, table: {tmp_path}/faces/gesichter_顔.csv, image_size: 48, num_workers: 0}}
trainer: {{max_epochs: 1, accelerator: cpu}}
output: {tmp_path}/läufe
"""
    (tmp_path / "größe.yaml").write_text(recipe, encoding="utf-8")
    assert main(["train", str(tmp_path / "größe.yaml")]) == 0
    (run,) = (tmp_path / "läufe" / "größe").iterdir()
    assert main(["check", str(run / "recipe.yaml")]) == 0
    assert main(["test", str(run)]) == 0
    assert "gesichter_顔" in (run / "recipe.yaml").read_text(encoding="utf-8")
    (log,) = run.glob("log/*/metrics.csv")
    assert "val/expression_recall/驚き" in log.read_text(encoding="utf-8")
    table = pd.read_csv(run / "predictions.csv")
    assert {*table["target/expression"]} == {*NAMES.values()}
    assert not (run / "log" / "version_1").exists()


def test_a_terminal_that_lacks_letters_shows_their_codes(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.TextIOWrapper(io.BytesIO(), encoding="cp1252")
    monkeypatch.setattr(sys, "stdout", screen)
    assert main(["ls", "data"]) == 0
    console.print("überrascht, 驚き")
    screen.flush()
    assert "überrascht, \\u9a5a\\u304d" in screen.buffer.getvalue().decode("cp1252")  # type: ignore[attr-defined]


def test_names_are_no_markup_and_move_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    hostile = "[red]a[/red] [link=http://x]b[/link] :smile: \x1b[2J\x9b5n\r\u202ec"
    console.print(hostile)
    console.print(result_table(hostile, {"[red]\x1b[2J": 0.5}, {}), width=120)
    shown = capsys.readouterr().out
    assert shown.count("[red]a[/red] [link=http://x]b[/link] :smile: \\x1b[2J\\x9b5n\\r") == 2
    assert "│ [red]\\x1b[2J │" in shown
    assert not {"\x1b", "\x9b", "\r", "\u202e"} & set(shown)
    assert harmless("a\tb\nc") == "a\tb\nc"


def test_an_error_shows_what_it_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", f"{tmp_path}/[bold]\x1b[31m.yaml"]) == 2
    assert "[bold]\\x1b[31m.yaml" in capsys.readouterr().err
