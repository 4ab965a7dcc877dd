"""Tables that are defined once and written as Markdown, LaTeX or (by template) HTML.

A cell holds texts and values. A :class:`Value` is a place in the report, never a number of its own,
so that no table can say anything else than ``report.json``.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from faceaffect.errors import harmless

MINUS = "\N{MINUS SIGN}"
NONE = "\N{EN DASH}"
"""What stands for an unknown number."""

At = tuple[str | int, ...]
"""A place in the report: keys and list indices."""


@dataclass(frozen=True)
class Value:
    """A number or name of the report.

    Args:
        at: its place.
        form: how :func:`show` writes it.
    """

    at: At
    form: str = "text"

    @property
    def pointer(self) -> str:
        """The place as a JSON pointer (RFC 6901).

        >>> Value(("models", "a", "metrics", "au_f1/AU1")).pointer
        '/models/a/metrics/au_f1~1AU1'
        """
        return "".join("/" + str(k).replace("~", "~0").replace("/", "~1") for k in self.at)


Part = str | Value


@dataclass(frozen=True)
class Cell:
    """A cell of a table.

    Args:
        main: what it says.
        small: what is said more quietly below it, such as an interval; may have several lines.
        best: whether it is the best of its row or column.
    """

    main: tuple[Part, ...]
    small: tuple[Part, ...] = ()
    best: bool = False


@dataclass
class Table:
    """A table; the first cell of each row is its header.

    Args:
        key: short name, unique in the report.
        title: of the table.
        note: how to read it.
        columns: headers.
        rows: cells, as many as columns.
        quiet: indices of rows that are no model: trivial baselines, gaps.
    """

    key: str
    title: str
    note: str
    columns: list[str]
    rows: list[list[Cell]] = field(default_factory=list)
    quiet: list[int] = field(default_factory=list)

    def add(self, cells: Iterable[Cell | str], *, quiet: bool = False) -> None:
        """Add a row."""
        if quiet:
            self.quiet.append(len(self.rows))
        self.rows.append([Cell((c,)) if isinstance(c, str) else c for c in cells])


def lookup(report: Mapping[str, Any], at: At) -> Any:
    """Return what stands at a place of the report, None if nothing does."""
    value: Any = report
    for key in at:
        try:
            value = value[key]
        except (KeyError, IndexError, TypeError):
            return None
    return value


def show(value: Any, form: str) -> str:
    """Write a value for people.

    Args:
        value: number or text; None is unknown.
        form: ``points`` (hundredths), ``signed points``, ``fraction``, ``signed fraction``, ``p``,
            ``count``, ``si``, ``bytes``, ``duration`` (of seconds), ``tenth``, or ``text``.

    >>> [show(0.7134, "points"), show(0.031, "signed points"), show(0.0002, "p")]
    ['71.3', '+3.1', '< 0.001']
    >>> [show(418866048, "si"), show(1469669376, "bytes"), show(754, "duration")]
    ['419 M', '1.47 GB', '12.6 min']
    """
    if value is None:
        return NONE
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(str(item) for item in value)
    if form == "p":
        return "< 0.001" if value < 0.001 else f"{value:.3f}"
    numbers: dict[str, Callable[[Any], str]] = {
        "points": lambda v: f"{100 * v:.1f}",
        "signed points": lambda v: f"{100 * v:+.1f}",
        "fraction": lambda v: f"{v:.3f}",
        "signed fraction": lambda v: f"{v:+.3f}",
        "count": lambda v: f"{v:,}",
        "si": _si,
        "bytes": lambda v: f"{_si(v)}B",
        "duration": _duration,
        "tenth": lambda v: f"{v:.1f}" if v < 100 else f"{v:,.0f}",
    }
    text = numbers[form](value) if form in numbers else str(value)
    return _unsigned_zero(text).replace("-", MINUS) if form in numbers else text


def _unsigned_zero(text: str) -> str:
    return text.lstrip("+-") if not text.strip("+-0.") else text


def _si(value: float) -> str:
    for factor, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= 0.9995 * factor:
            return f"{value / factor:.3g} {unit}"
    return f"{value:.3g} "


def _duration(seconds: float) -> str:
    for unit, name in ((3600, "h"), (60, "min")):
        if seconds >= 2 * unit:
            return f"{seconds / unit:.1f} {name}"
    return f"{seconds:.1f} s"


def capital(text: str) -> str:
    """Return a text with a capital at its beginning.

    >>> capital("mean AU F1")
    'Mean AU F1'
    """
    return text[:1].upper() + text[1:]


def plain_text(report: Mapping[str, Any], parts: Sequence[Part]) -> str:
    """Write parts of a cell as one text."""
    return "".join(
        part if isinstance(part, str) else show(lookup(report, part.at), part.form)
        for part in parts
    )


def markdown(report: Mapping[str, Any], table: Table) -> str:
    """Write a table as Markdown."""

    def line(cells: Iterable[str]) -> str:
        return "| " + " | ".join(cells) + " |"

    rows = [line(map(md, table.columns)), line(["---"] * len(table.columns))]
    for row in table.rows:
        rows.append(line(_marked(report, cell) for cell in row))
    return "\n".join([f"## {md(table.title)}", "", md(table.note), "", *rows, ""])


def _marked(report: Mapping[str, Any], cell: Cell) -> str:
    main, small = (md(plain_text(report, parts)) for parts in (cell.main, cell.small))
    main = f"**{main}**" if cell.best else main
    return f"{main} {small}".strip()


_MARKDOWN = re.compile(r"[\\`*|$~#]|<(?=[A-Za-z/!?])|(?<=\])\(|(?<![^\W_])_|_(?![^\W_])")


def md(text: str) -> str:
    r"""Make a text safe for Markdown, on one line: what it says is shown, never obeyed.

    >>> md("mini_sacl <b> [x](y) | *z*")
    'mini_sacl \\<b> [x]\\(y) \\| \\*z\\*'
    """
    return _MARKDOWN.sub(r"\\\g<0>", " ".join(harmless(text).split()))


def latex(report: Mapping[str, Any], table: Table) -> str:
    """Write a table as a LaTeX ``table`` with booktabs rules."""
    lines = []
    for i, row in enumerate(table.rows):
        if i in table.quiet and i and i - 1 not in table.quiet:
            lines.append(r"\midrule")
        cells = []
        for cell in row:
            main, small = (escape(plain_text(report, p)) for p in (cell.main, cell.small))
            main = rf"\textbf{{{main}}}" if cell.best else main
            small = " ".join(small.split())
            cells.append(f"{main} {{\\scriptsize {small}}}" if small else main)
        lines.append(" & ".join(cells) + r" \\")
    return "\n".join(
        [
            r"\begin{table}",
            rf"\caption{{{escape(table.title)}. {escape(table.note)}}}",
            rf"\label{{tab:{re.sub('[^A-Za-z0-9]', '-', table.key)}}}",
            r"\centering\small",
            rf"\begin{{tabular}}{{l{'r' * (len(table.columns) - 1)}}}",
            r"\toprule",
            " & ".join(escape(column) for column in table.columns) + r" \\",
            r"\midrule",
            *lines,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )


_LATEX = {
    "\\": r"\textbackslash{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"$<$",
    ">": r"$>$",
    MINUS: r"$-$",
    "±": r"$\pm$",
    NONE: "--",
    "[": "{[}",
    "]": "{]}",
}


def escape(text: str) -> str:
    r"""Make a text safe for LaTeX.

    >>> escape("mini_sacl: 5 %")
    'mini\\_sacl: 5 \\%'
    """
    line = " ".join(harmless(text).split())
    return "".join(_LATEX.get(character, character) for character in line)
