"""Names, classes and texts are data in every file that is written, whatever they look like."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from compared import report_of
from faceaffect.evaluation.report import write_report
from faceaffect.evaluation.summary import latex, markdown
from faceaffect.evaluation.tables import escape, md
from faceaffect.schema import LabelSchema
from faceaffect.scores.predictions import Predictions, read_table

HOSTILE = "_$x_1$ #% \\input{x} <script>a()</script> [b](c) ![d](e) `f` | *g*\x1b[2J"
PLAIN = "mini_auformer"


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report in which one model and one class have hostile names."""
    folder = tmp_path_factory.mktemp("report")
    text = json.dumps(report_of()).replace(PLAIN, json.dumps(HOSTILE)[1:-1])
    report: dict[str, Any] = json.loads(text)
    report["command"] = "faceaffect compare '```' rm"
    write_report(folder, report)
    return folder


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


def test_html_shows_the_name_and_obeys_nothing(written: Path) -> None:
    page = Tags()
    page.feed((written / "report.html").read_text(encoding="utf-8"))
    assert not {"script", "b\u200b"} & set(page.found)
    assert page.text.count("<script>a()</script>") > 5
    svg = re.findall(r"<svg.*?</svg>", (written / "report.html").read_text(encoding="utf-8"), re.S)
    assert any("$x_1$" in picture for picture in svg)  # no formula was made of it


def test_markdown_is_shown_as_it_was_written(written: Path) -> None:
    text = (written / "report.md").read_text(encoding="utf-8")
    bare = re.sub(r"\\[^\w\s]", "", text)  # what Markdown still obeys
    assert "<script" not in bare
    assert "](" not in bare
    assert "```" not in bare.partition("````bash")[0]
    for table in re.findall(r"(?m)(?:^\|.*\n)+", bare):
        assert len({line.count("|") for line in table.splitlines()}) == 1
    assert "\n````bash\nfaceaffect compare '```' rm\n````\n" in text


def test_markdown_of_plain_names_stays_plain() -> None:
    assert md("mini_sacl leads by 3.1 points, p < 0.001 [1.2, 3.4]") == (
        "mini_sacl leads by 3.1 points, p < 0.001 [1.2, 3.4]"
    )
    assert md("_a_ # b\nc") == r"\_a\_ \# b c"


def test_latex_has_no_command_of_a_name(written: Path) -> None:
    text = (written / "report.tex").read_text(encoding="utf-8")
    assert "\\input" not in text
    assert r"\_\$x\_1\$ \#\% \textbackslash{}input\{x\}" in text
    assert "\x1b" not in text
    assert escape("a\n\nb") == "a b"
    for label in re.findall(r"\\label\{(.*?)\}", text):
        assert re.fullmatch(r"tab:[A-Za-z0-9-]+", label)


def test_a_summary_of_folds_obeys_no_name() -> None:
    values = {f"expression_recall/{HOSTILE}": 0.5, "expression_war": 0.5}
    summary = {
        "recipe": HOSTILE, "data": "csv", "protocol": "subject_kfold", "threshold": None,
        "folds": [1, 2], "n": [4, 4], "schema": LabelSchema((), ("a", HOSTILE)).to_dict(),
        "mean": values, "std": values, "pooled": values, "baselines": values,
        "assignments": [0], "tested": [None, None], "per_fold": {},
        "selection": ["val"],
    }  # fmt: skip
    assert "\\input" not in latex(summary)
    table = markdown(summary)
    assert "<script" not in table.replace("\\<", "")
    (row,) = (line for line in table.splitlines() if "expression_recall" in line)
    assert len(re.findall(r"(?<!\\)\|", row)) == 6


CELLS = ["=1+1", "+1", "-1", "@x", "\tx", "'=1", "''=1", "'a", "a=1", "p", '=HYPERLINK("x","y")']


def predictions() -> Predictions:
    schema = LabelSchema((1,), ("=a", "+b"))
    table, n = Predictions(schema), len(CELLS)
    batch = {
        "id": [f"{cell}{i}" for i, cell in enumerate(CELLS)],
        "subject": CELLS,
        "au": torch.zeros(n, 1),
        "expression": torch.arange(n) % 2,
        "attributes": {"group": torch.zeros(n, dtype=torch.long)},
    }
    answers = {"au": torch.zeros(n, 1), "expression": torch.full((n, 2), 0.5), "text": CELLS}
    table.add(batch, answers)  # type: ignore[arg-type]
    return table


@pytest.mark.parametrize("safe", [True, False])
def test_a_table_can_be_safe_for_spreadsheets_and_reads_as_it_was(
    tmp_path: Path, safe: bool
) -> None:
    names = {"group": ("@group",)}
    file = tmp_path / "predictions.csv"
    predictions().write(file, names, spreadsheet_safe=safe)
    raw = pd.read_csv(file, dtype=str, keep_default_na=False)
    starts = {cell[:1] for column in ("id", "subject", "text", "target/expression",
              "attribute/group") for cell in raw[column]}  # fmt: skip
    assert bool(starts & set("=+-@\t")) is not safe
    back = read_table(file)
    expected = predictions().table(names)
    for column in ("id", "subject", "text", "target/expression", "attribute/group"):
        assert back[column].tolist() == expected[column].tolist()
