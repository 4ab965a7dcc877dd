import itertools
import json
import math
import multiprocessing
import os
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from jinja2 import UndefinedError

from compared import BASELINES, SCHEMA, report_of
from faceaffect.evaluation import report as report_files
from faceaffect.evaluation.report import complete, words, write_report
from faceaffect.evaluation.report_tables import is_sure, tables
from faceaffect.evaluation.tables import Cell, Table, Value, latex, lookup, markdown, show
from faceaffect.schema import LabelSchema

VOID = {"meta", "link", "img", "wbr", "br"}


class Page(HTMLParser):
    """Marked values, links and the texts outside marked values and drawings."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.stack: list[tuple[str, dict[str, str | None]]] = []
        self.values: list[dict[str, Any]] = []
        self.loose: list[str] = []
        self.ids: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)
        assert self.stack == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        self.tags.append((tag, named))
        if named.get("id"):
            self.ids.append(str(named["id"]))
        if "data-at" in named:
            self.values.append(named | {"text": ""})
        if tag not in VOID:
            self.stack.append((tag, named))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.stack.pop()[0] == tag

    def handle_data(self, data: str) -> None:
        if any("data-at" in attrs for _, attrs in self.stack):
            self.values[-1]["text"] += data
        elif not any(tag in ("svg", "style") for tag, _ in self.stack):
            self.loose.append(data)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report")
    write_report(path, report_of())
    return path


@pytest.fixture(scope="module")
def report(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "report.json").read_text())


@pytest.fixture(scope="module")
def page(folder: Path) -> Page:
    return Page((folder / "report.html").read_text())


def resolve(report: Any, pointer: str) -> Any:
    """RFC 6901."""
    for key in pointer.split("/")[1:]:
        key = key.replace("~1", "/").replace("~0", "~")
        report = report[int(key)] if isinstance(report, list) else report[key]
    return report


def rounded(text: str, form: str) -> tuple[float, float]:
    """The number that a text shows, and half a unit of its last digit."""
    number = re.search(r"[+-]?[\d,]+(\.\d+)?", text.replace("\N{MINUS SIGN}", "-"))
    assert number, text
    digits = number[1] or "."
    unit = {"k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}.get(text.rstrip("B")[-1:], 1.0)
    unit *= {"min": 60, "h": 3600}.get(text.split()[-1], 1)
    unit *= 0.01 if "points" in form else 1
    value = float(number[0].replace(",", ""))
    last = 10 ** -(len(digits) - 1)
    if form in ("si", "bytes"):  # three digits
        last = 10 ** (math.floor(math.log10(abs(value) or 1)) - 2)
    return value * unit, 0.5001 * last * unit


def test_every_marked_value_is_that_of_the_json(page: Page, report: dict[str, Any]) -> None:
    assert len(page.values) > 300
    for value in page.values:
        found = resolve(report, value["data-at"])
        if isinstance(found, str):
            assert value["text"] == found
            continue
        assert json.loads(value["value"]) == found
        form = value["data-form"]
        if isinstance(found, (bool, list)) or form == "text":
            assert value["text"] == show(found, form)
        elif form == "p" and found < 0.001:
            assert value["text"] == "< 0.001"
        else:
            shown, half = rounded(value["text"], form)
            assert shown == pytest.approx(found, abs=half), value


def test_no_number_stands_outside_the_marked_values(page: Page, report: dict[str, Any]) -> None:
    text = " ".join(page.loose)
    for name in ("sha256", "batch 1", "AU F1", *SCHEMA.au_names):  # names
        text = text.replace(name, "")
    allowed = {
        "2",  # number of models
        "F1",
        *("95", "100", "15", "0.05", "-1", "1"),  # level, scale, bins, significance
        *(str(seed) for seed in report["seeds"]),
    }
    numbers = set(re.findall(r"[+-]?\w*\d[\w.]*", text))
    assert {number.rstrip(".") for number in numbers} <= allowed


def test_the_page_holds_all_headline_numbers(page: Page, report: dict[str, Any]) -> None:
    places = {value["data-at"] for value in page.values}
    metrics = ("au_f1", "expression_war", "expression_uar", "va_ccc")
    for name in report["models"]:
        for metric in metrics:
            for section in ("metrics", "margin", "spread"):
                assert f"/models/{name}/{section}/{metric}" in places
            assert f"/models/{name}/intervals/{metric}/0" in places
        assert f"/models/{name}/metrics/au_f1~1AU12" in places
        assert f"/models/{name}/metrics/expression_recall~1anger" in places
        assert f"/models/{name}/calibration/au/ece" in places
        assert f"/models/{name}/confusion/counts/2/1" in places
        assert f"/models/{name}/groups/skin_tone/gap/au_f1" in places
        assert f"/models/{name}/cost/flops_per_image" in places
    for i in range(len(report["pairs"])):
        assert {f"/pairs/{i}/difference", f"/pairs/{i}/p_holm"} <= places
    assert {f"/words/{i}" for i in range(len(report["words"]))} <= places
    assert {"/command", "/protocol/sha256/test", "/environment/versions/torch"} <= places


def test_every_table_of_metrics_has_trivial_baselines(report: dict[str, Any]) -> None:
    for key, table in tables(report).items():
        if key in ("pairs", "cost"):
            continue
        places = [part.at for row in table.rows for cell in row for part in cell.main
                  if isinstance(part, Value)]  # fmt: skip
        assert any("baselines" in at for at in places), key


def test_the_page_is_alone_and_accessible(page: Page) -> None:
    assert len(set(page.ids)) == len(page.ids)
    for tag, attrs in page.tags:
        assert tag not in ("script", "iframe", "object", "base", "form")
        assert not any(name.startswith("on") for name in attrs)
        if tag == "svg":
            assert attrs["role"] == "img"
            assert attrs["aria-label"]
        if tag == "img":
            assert attrs["alt"]
            assert str(attrs["src"]).startswith("data:image/")
        if tag == "link":
            assert attrs["href"] == "data:,"
        if tag == "a":
            assert str(attrs["href"]).removeprefix("#") in page.ids
        for name in ("xlink:href", "clip-path"):
            if attrs.get(name):
                assert re.sub(r"^(url\()?#|\)$", "", str(attrs[name])) in page.ids
    assert [tag for tag, _ in page.tags].count("img") == 1  # one is missing, one is a web address


def test_texts_of_models_are_shown_not_executed(folder: Path, page: Page) -> None:
    said = [v["text"] for v in page.values if "/text/" in v["data-at"]]
    assert said == ["I see <b>anger</b> & AU12 | 100 % sure."] * 3
    assert "&lt;b&gt;anger&lt;/b&gt;" in (folder / "report.html").read_text()


def test_a_number_of_a_seed_stands_under_that_seed() -> None:
    report = complete(report_of(seeds=1))
    report["seeds"] = [0, 5]
    report["models"]["mini_emo_llama"]["seeds"] = [5]
    shown = {
        row[0].main[0]: [cell.main for cell in row[2:4]] for row in tables(report)["seeds"].rows
    }
    assert [len(cell[0].at) if isinstance(cell[0], Value) else 0
            for cell in shown["mini_auformer"]] == [5, 0]  # fmt: skip
    assert isinstance(shown["mini_emo_llama"][0][0], str)
    assert shown["mini_emo_llama"][1][0].at[-1] == 0


@pytest.mark.usefixtures("undrawn")
def test_the_epoch_that_was_tested_is_said(folder: Path, page: Page, tmp_path: Path) -> None:
    places = {value["data-at"] for value in page.values}
    assert "/models/mini_auformer/checkpoint/1/epoch" in places
    lines = (folder / "report.md").read_text().splitlines()
    assert "* checkpoint of mini_auformer: best epoch on validation, 7, 8" in lines
    report = report_of(seeds=1)
    report["models"]["mini_auformer"]["checkpoint"] = [{"choose": "last", "epoch": 24}]
    report["models"]["mini_emo_llama"]["checkpoint"] = [None]
    write_report(tmp_path, report)
    text = (tmp_path / "report.md").read_text()
    assert "* checkpoint of mini_auformer: last epoch, 24" in text
    assert "checkpoint of mini_emo_llama" not in text


@pytest.mark.usefixtures("undrawn")
def test_a_face_that_is_not_shown_has_no_name(tmp_path: Path) -> None:
    report = report_of(seeds=1)
    for face in report["disagreements"]:
        face |= {"id": None, "subject": None, "image": None}
    write_report(tmp_path, report)
    text = (tmp_path / "report.html").read_text()
    assert text.count("picture not shown") == 3
    assert '<div class="id">' not in text


# Words.


def example() -> dict[str, Any]:
    """One metric, numbers chosen by hand."""

    def model(f1: float, flops: float) -> dict[str, Any]:
        return {
            "metrics": {"au_f1": f1},
            "baselines": {"au_f1": 0.48},
            "intervals": {"au_f1": [f1 - 0.02, f1 + 0.02]},
            "cost": {"flops_per_image": flops, "milliseconds_per_image_at_batch_1": flops / 1e7},
        }

    return {
        "schema": {"aus": [1, 12]},
        "models": {"emo_llama": model(0.633, 4e10), "auformer": model(0.664, 1e9)},
        "pairs": [
            {
                "a": "emo_llama",
                "b": "auformer",
                "metric": "au_f1",
                "difference": -0.031,
                "interval": [-0.049, -0.012],
                "p": 0.004,
                "p_holm": 0.004,
                "test": "sign-flip over 41 subjects",
            }
        ],
        "failed": {},
    }


def with_seeds(report: dict[str, Any], **values: list[float]) -> dict[str, Any]:
    for name, each in values.items():
        report["models"][name]["per_seed"] = {"au_f1": each}
    return report


def test_the_words_say_who_leads_by_how_much_and_at_what_cost() -> None:
    report = with_seeds(example(), auformer=[0.66, 0.668], emo_llama=[0.62, 0.646])
    assert words(report) == [
        "auformer leads by 3.1 points of mean AU F1 over emo_llama, 95 % interval 1.2 to 4.9, "
        "p = 0.004 after Holm's correction, and every seed of it is above every seed of the other.",
        "Every model is above its trivial baselines, by 15.3 points or more in F1, accuracy and "
        "recall.",
        "emo_llama costs 40x the compute per face of auformer and 40x its time.",
    ]


@pytest.mark.parametrize(
    ("auformer", "emo_llama", "why"),
    [
        ([0.664], [0.633], "; one seed does not make it sure."),
        ([0.66, 0.668], [0.633], "; one seed does not make it sure."),
        ([0.64, 0.688], [0.62, 0.646], "; within the seeds' spread."),
    ],
)
def test_no_lead_is_sure_that_trainings_may_turn_round(
    auformer: list[float], emo_llama: list[float], why: str
) -> None:
    report = with_seeds(example(), auformer=auformer, emo_llama=emo_llama)
    said = words(report)[0]
    assert said.startswith("In mean AU F1 no model leads for sure: auformer is ahead")
    assert said.endswith(why)
    assert not is_sure(report, report["pairs"][0])


def test_the_words_claim_no_lead_that_may_be_chance() -> None:
    report = example()
    report["pairs"][0] |= {"interval": [-0.07, 0.01], "p_holm": 0.2}
    report["failed"] = {"sacl": "out of memory"}
    report["models"]["emo_llama"]["baselines"]["au_f1"] = 0.7
    said = words(report)
    assert said[0] == (
        "In mean AU F1 no model leads for sure: auformer is ahead of emo_llama by 3.1 points, "
        "95 % interval \N{MINUS SIGN}1.0 to 7.0, p = 0.200 after Holm's correction."
    )
    assert "no better than the trivial baseline" in said[1].lower()
    assert "emo_llama in mean AU F1" in said[1]
    assert "auformer" not in said[1]
    assert said[-1] == "sacl failed and is left out: out of memory"


def test_the_words_about_one_model() -> None:
    report = example()
    del report["models"]["emo_llama"]
    report["pairs"] = []
    assert words(report)[0] == (
        "auformer reaches 66.4 points of mean AU F1, 95 % interval 64.4 to 68.4."
    )


def test_undefined_numbers_are_said_to_be_unknown() -> None:
    report = example()
    report["models"]["emo_llama"]["metrics"]["au_f1"] = math.nan
    report["models"]["emo_llama"]["cost"]["flops_per_image"] = None
    assert "auformer reaches" in words(report)[0]
    assert complete(report)["models"]["emo_llama"]["margin"] == {"au_f1": None}


# Files.


def test_the_json_holds_the_report_with_margins(folder: Path, report: dict[str, Any]) -> None:
    made = report_of()
    assert report["words"] == words(made)
    for name, model in report["models"].items():
        for metric, value in model["metrics"].items():
            assert value == pytest.approx(made["models"][name]["metrics"][metric])
        for metric, margin in model["margin"].items():
            assert margin == pytest.approx(model["metrics"][metric] - BASELINES[metric])
    assert sorted(path.name for path in folder.iterdir()) == [
        "report.html", "report.json", "report.md", "report.tex",
    ]  # fmt: skip


def test_the_same_report_gives_the_same_files(folder: Path, tmp_path: Path) -> None:
    for path in write_report(tmp_path, report_of()):
        assert path.read_bytes() == (folder / path.name).read_bytes()


def test_markdown_tables_have_equal_rows(folder: Path, report: dict[str, Any]) -> None:
    text = (folder / "report.md").read_text()
    for block in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        assert len({line.count(" | ") for line in block.strip().split("\n")}) == 1
    first = f"{100 * report['models']['mini_auformer']['metrics']['au_f1']:.1f}"
    assert f"**{first}**" in text
    assert report["command"] in text


def test_latex_is_balanced_and_escaped(folder: Path) -> None:
    text = (folder / "report.tex").read_text()
    assert text.count(r"\begin{table}") == text.count(r"\end{table}") > 5
    bare = re.sub(r"\\[{}]", "", text)
    assert bare.count("{") == bare.count("}")
    assert text.isascii()
    for body in re.findall(r"\\toprule\n(.*?)\\bottomrule", text, re.DOTALL):
        rows = [row for row in body.replace("\\midrule\n", "").split(" \\\\\n") if row.strip()]
        assert len({len(re.findall(r"(?<!\\)&", row)) for row in rows}) == 1
    assert not re.search(r"(?<!\\)[_%#]", "\n".join(text.split("\n")[1:]))


@pytest.mark.skipif(not shutil.which("pdflatex"), reason="no LaTeX here")
def test_latex_compiles(folder: Path, tmp_path: Path) -> None:
    paper = r"\documentclass{article}\usepackage{booktabs}\begin{document}\input{%s}\end{document}"
    (tmp_path / "paper.tex").write_text(paper % (folder / "report.tex"))
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)


@pytest.mark.parametrize(
    "schema",
    [LabelSchema((1, 12)), LabelSchema((), SCHEMA.expressions), LabelSchema((), (), True)],
    ids=["au", "expression", "va"],
)
def test_a_report_of_one_task(schema: LabelSchema, tmp_path: Path) -> None:
    write_report(tmp_path, report_of(schema, seeds=1))
    Page((tmp_path / "report.html").read_text())


def test_a_report_with_the_least(tmp_path: Path) -> None:
    least = {
        "title": "one", "command": "faceaffect compare one", "created": "2026", "version": "0",
        "schema": {"aus": [1]}, "protocol": {}, "data": {}, "n": 3, "subjects": 1, "seeds": [0],
        "environment": {}, "models": {"one": {"metrics": {"au_f1": None, "au_f1/AU1": None}}},
        "pairs": [],
    }  # fmt: skip
    write_report(tmp_path, least)
    Page((tmp_path / "report.html").read_text())
    with pytest.raises(ValueError, match="at least one model"):
        write_report(tmp_path, least | {"models": {}})


@pytest.mark.usefixtures("undrawn")
def test_a_choice_on_the_test_part_and_unknown_people_are_said(tmp_path: Path) -> None:
    report = report_of(seeds=1)
    report["protocol"] |= {"selection": "test", "subjects_known": False}
    write_report(tmp_path, report)
    text = (tmp_path / "report.html").read_text()
    assert "chosen on the test part" in text
    assert "The people are not known" in text


@pytest.mark.usefixtures("undrawn")
def test_a_failing_write_leaves_the_old_report(tmp_path: Path) -> None:
    for path in (tmp_path / "report.html", tmp_path / "report.json"):
        path.write_text("old")
    with pytest.raises((KeyError, UndefinedError), match="title"):
        write_report(tmp_path, {k: v for k, v in report_of(seeds=1).items() if k != "title"})
    assert (tmp_path / "report.html").read_text() == "old"
    assert (tmp_path / "report.json").read_text() == "old"


def _write_until(move: int, folder: Path, report: dict[str, Any]) -> None:
    """Write a report and die before a file of it is moved to its place."""
    replace, moves = os.replace, itertools.count()

    def counted(source: Path, target: Path) -> None:
        if next(moves) == move:
            os._exit(9)
        replace(source, target)

    os.replace = counted  # type: ignore[assignment]
    write_report(folder, report)


def test_a_report_killed_amid_its_files_is_written_anew_the_same(
    tmp_path: Path, folder: Path, report: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["report.html", "report.md", "report.tex", "report.json"]
    drawn = report_files.plots(report)
    monkeypatch.setattr(report_files, "plots", lambda _: drawn)  # which takes longer than the rest
    for move in range(4):
        child = multiprocessing.get_context("fork").Process(
            target=_write_until, args=(move, tmp_path, report)
        )
        child.start()
        child.join(60)
        assert child.exitcode == 9
        there = [name for name in names if (tmp_path / name).exists()]
        assert there == names[:move]
        for name in there:
            assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()
    write_report(tmp_path, report)
    assert {path.name for path in tmp_path.iterdir()} == set(names)
    for name in names:
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()


# Tables.


def test_shown_numbers() -> None:
    minus = "\N{MINUS SIGN}"
    assert show(None, "points") == "\N{EN DASH}"
    assert show(-0.0001, "signed points") == "0.0"
    assert show(-0.25, "fraction") == f"{minus}0.250"
    assert show(999_900, "si") == "1 M"
    assert show(30, "duration") == "30.0 s"
    assert show(9000, "duration") == "2.5 h"
    assert show(12345, "count") == "12,345"
    assert show([1, 2], "text") == "1, 2"
    assert show(True, "text") == "yes"


def test_a_table_in_three_forms() -> None:
    report = {"a|b": 0.5, "list": [{"x_y": 0.25}]}
    table = Table("k", "T", "N & M", ["m_1", "x"])
    best = Cell((Value(("a|b",), "points"),), ("[", Value(("list", 0, "x_y"), "points"), "]"), True)
    table.add(["a|b", best])
    assert lookup(report, ("list", 1, "x_y")) is None
    assert Value(("a/b", 0, "~")).pointer == "/a~1b/0/~0"
    assert markdown(report, table).split("\n")[-2] == r"| a\|b | **50.0** [25.0] |"
    assert r"a|b & \textbf{50.0} {\scriptsize {[}25.0{]}} \\" in latex(report, table)
    assert r"m\_1 & x \\" in latex(report, table)


# The browser.

BROWSER = next(
    (b for n in ("chromium", "chromium-browser", "google-chrome") if (b := shutil.which(n))), None
)


needs_browser = pytest.mark.skipif(BROWSER is None, reason="no Chromium here")


def browse(page: Path, profile: Path, width: int, *options: str) -> subprocess.CompletedProcess:
    command = [
        str(BROWSER), "--headless=new", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr",
        f"--user-data-dir={profile}", f"--window-size={width},900", *options, page.as_uri(),
    ]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)


@needs_browser
@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_opens_without_a_word_on_the_console(
    folder: Path, tmp_path: Path, width: int
) -> None:
    shot = tmp_path / "page.png"
    done = browse(folder / "report.html", tmp_path, width, f"--screenshot={shot}")
    assert "CONSOLE" not in done.stderr
    assert shot.stat().st_size > 10_000


@needs_browser
@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_is_no_wider_than_the_screen(folder: Path, tmp_path: Path, width: int) -> None:
    text = (folder / "report.html").read_text()
    ruler = "<script>console.log('wide', document.documentElement.scrollWidth)</script></body>"
    text = re.sub("<meta http-equiv[^>]*>", "", text).replace("</body>", ruler)
    (tmp_path / "ruler.html").write_text(text)
    # A frame, as a window of Chromium is never narrower than 500 pixels.
    frame = f'<iframe src="ruler.html" width="{width}" height="900" frameborder="0"></iframe>'
    (tmp_path / "frame.html").write_text(frame)
    done = browse(tmp_path / "frame.html", tmp_path, 1400, f"--screenshot={tmp_path / 'x.png'}")
    measured = re.search(r"CONSOLE.*wide (\d+)", done.stderr)  # so the console is heard, too
    assert measured
    assert int(measured[1]) <= width
