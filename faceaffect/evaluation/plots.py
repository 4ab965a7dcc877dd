"""Plots of a report as inline SVG: text stays text, and nothing is fetched from anywhere.

Drawn for the width of a phone; on a wide screen several stand side by side. Colours are those of
Okabe and Ito, told apart by colour-blind readers, and every model has its own marker for print.
"""

import io
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import matplotlib
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

from faceaffect.evaluation.headlines import HEADLINES, Headline
from faceaffect.evaluation.report_tables import form_of, headlines_in, parts_in
from faceaffect.evaluation.tables import MINUS, capital, lookup
from faceaffect.schema import CLASS_TASKS

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
MARKERS = "osD^vPX"
GREY = "#6b7280"
WIDTH = 4.0  # inches: 288 px of the drawing, so that its text is readable at 360 px of screen
_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "faceaffect",
    "text.parse_math": False,  # a name may hold any sign
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e5e7eb",
    "figure.constrained_layout.use": True,
}
COSTS = {
    "flops_per_image": "FLOPs per face",
    "milliseconds_per_image_at_batch_1": "ms per face, batch 1",
}


@dataclass(frozen=True)
class Plot:
    """A plot.

    Args:
        key: unique in the report.
        section: where it stands.
        svg: inline SVG with an accessible name.
    """

    key: str
    section: str
    svg: Markup


def plots(report: Mapping[str, Any]) -> list[Plot]:
    """Draw all plots that the report has numbers for."""
    drawn = []
    with matplotlib.rc_context(_STYLE):
        for metric in headlines_in(report):
            drawn.append(_models(report, metric))
            if any(p["metric"] == metric and _known(p["interval"]) for p in report["pairs"]):
                drawn.append(_pairs(report, metric))
        for headline in HEADLINES.values():
            drawn += _parts(report, headline)
        for metric in headlines_in(report):
            drawn += [_cost(report, metric, key) for key in COSTS if _costs(report, key, metric)]
        drawn += [_curve(report, metric) for metric in headlines_in(report) if _followed(report)]
        drawn += [
            _reliability(report, task) for task in ("au", *CLASS_TASKS) if _bins(report, task)
        ]
    return drawn


def _known(interval: Any) -> bool:
    return interval is not None and interval[0] is not None


def _scale(metric: str) -> float:
    return 100.0 if form_of(metric) == "points" else 1.0


def _unit(metric: str) -> str:
    return (
        f"{HEADLINES[metric].title}, points"
        if form_of(metric) == "points"
        else HEADLINES[metric].title
    )


def _short(metric: str) -> str:
    return (
        f"{HEADLINES[metric].short}, points"
        if form_of(metric) == "points"
        else HEADLINES[metric].short
    )


def _look(i: int) -> dict[str, Any]:
    return {"color": COLOURS[i % len(COLOURS)], "marker": MARKERS[i % len(MARKERS)]}


def _rows(ax: Axes, labels: list[str]) -> None:
    ax.set_yticks(range(len(labels)), labels)
    ax.set_ylim(len(labels) - 0.5, -0.5)
    ax.grid(axis="y", visible=False)


def _error(value: float, interval: Any, scale: float) -> list[list[float]] | None:
    """Lengths of an error bar below and above a value."""
    if not _known(interval):
        return None
    low, high = interval
    return [[max(value - low, 0) * scale], [max(high - value, 0) * scale]]


def _models(report: Mapping[str, Any], metric: str) -> Plot:
    scale, names, notes = _scale(metric), list(report["models"]), []
    figure, ax = _figure(0.9 + 0.3 * len(names))
    for i, model in enumerate(report["models"].values()):
        value = model["metrics"].get(metric)
        if value is None:
            continue
        bar = _error(value, lookup(model, ("intervals", metric)), scale)
        ax.errorbar(value * scale, i, xerr=bar, capsize=3, linestyle="", **_look(i))
        each = [one for one in model.get("per_seed", {}).get(metric, []) if one is not None]
        if len(each) > 1:
            x = [one * scale for one in each]
            ax.plot(x, [i + 0.28] * len(x), ".", color=GREY, markersize=3)
            notes = ["dots: single seeds"]
    baseline = lookup(report["models"][names[0]], ("baselines", metric))
    if baseline is not None:
        ax.axvline(baseline * scale, color=GREY, linestyle="--", linewidth=1)
        notes = ["dashed: trivial baseline", *notes]
    ax.set_title("; ".join(notes), color=GREY, fontsize=8, loc="left")
    _rows(ax, names)
    ax.set_xlabel(_unit(metric))
    alt = (
        f"{HEADLINES[metric].title} of each model with its 95 % interval and the trivial baseline."
    )
    return _plot(figure, f"models-{metric}", "result", alt)


def _pairs(report: Mapping[str, Any], metric: str) -> Plot:
    pairs = [pair for pair in report["pairs"] if pair["metric"] == metric]
    scale = _scale(metric)
    figure, ax = _figure(0.9 + 0.36 * len(pairs))
    for i, pair in enumerate(pairs):
        if pair["difference"] is None:
            continue
        sure = pair.get("p_holm") is not None and pair["p_holm"] < 0.05
        bar = _error(pair["difference"], pair["interval"], scale)
        ax.errorbar(
            pair["difference"] * scale,
            i,
            xerr=bar,
            fmt="o",
            capsize=3,
            color=COLOURS[0] if sure else GREY,
            markerfacecolor=COLOURS[0] if sure else "white",
        )
    ax.axvline(0, color="black", linewidth=0.8)
    ax.set_title("filled: p (Holm) below 0.05", color=GREY, fontsize=8, loc="left")
    _rows(ax, [f"{pair['a']}\n{MINUS} {pair['b']}" for pair in pairs])
    ax.set_xlabel(f"difference in {_short(metric)}")
    alt = f"Difference of each pair of models in {HEADLINES[metric].title} with its 95 % interval."
    return _plot(figure, f"pairs-{metric}", "pairs", alt)


def _parts(report: Mapping[str, Any], headline: Headline) -> list[Plot]:
    models, names = report["models"], parts_in(report, headline)
    if headline.parts is None or headline.form != "points" or not names:
        return []
    figure, ax = _figure(1.3 + 0.2 * len(names) + 0.1 * len(models))
    for i, (name, model) in enumerate(models.items()):
        x, y = _points(model["metrics"], names)
        ax.plot(x, y, label=_legend_name(name), linestyle="", markersize=5, alpha=0.85, **_look(i))
    x, y = _points(next(iter(models.values())).get("baselines") or {}, names)
    ax.plot(x, y, "|", color=GREY, markersize=9, label="trivial")
    _rows(ax, [n.partition("/")[2] for n in names])
    ax.grid(axis="y", visible=True)
    ax.set_xlabel(f"{headline.parts.title}, points")
    _legend(figure)
    alt = f"{capital(headline.parts.title)}, by model, with the trivial baseline."
    return [_plot(figure, f"parts-{headline.parts.prefix}", headline.task, alt)]


def _points(metrics: Mapping[str, Any], names: list[str]) -> tuple[list[float], list[int]]:
    """Defined metrics in points, and their rows."""
    known = [(100 * metrics[n], row) for row, n in enumerate(names) if metrics.get(n) is not None]
    return [x for x, _ in known], [row for _, row in known]


def _costs(report: Mapping[str, Any], key: str, metric: str) -> list[tuple[str, float, float]]:
    found = []
    for name, model in report["models"].items():
        cost, value = lookup(model, ("cost", key)), model["metrics"].get(metric)
        if cost and value is not None:
            found.append((name, cost, value))
    return found


def _cost(report: Mapping[str, Any], metric: str, key: str) -> Plot:
    scale, names = _scale(metric), list(report["models"])
    figure, ax = _figure(2.7)
    for name, cost, value in _costs(report, key, metric):
        bar = _error(value, lookup(report, ("models", name, "intervals", metric)), scale)
        look = _look(names.index(name)) | {"label": _legend_name(name), "linestyle": ""}
        ax.errorbar(cost, value * scale, yerr=bar, capsize=3, **look)
    baseline = lookup(report["models"][names[0]], ("baselines", metric))
    if baseline is not None:
        ax.axhline(baseline * scale, color=GREY, linestyle="--", linewidth=1, label="trivial")
    ax.set_xscale("log")
    costs = [cost for _, cost, _ in _costs(report, key, metric)]
    ax.set_xlim(min(costs) / 2, max(costs) * 2)
    wide = max(costs) / min(costs) > 300
    ax.xaxis.set_major_locator(LogLocator(subs=(1,) if wide else (1, 2, 5)))
    ax.xaxis.set_major_formatter(EngFormatter(sep=""))
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.set_xlabel(f"{COSTS[key]} (logarithmic)")
    ax.set_ylabel(_short(metric))
    _legend(figure)
    alt = f"{HEADLINES[metric].title} of each model against its {COSTS[key]}."
    return _plot(figure, f"cost-{key}-{metric}", "cost", alt)


def _followed(report: Mapping[str, Any]) -> bool:
    return len((report.get("fractions") or {}).get("fractions", ())) > 1


def _curve(report: Mapping[str, Any], metric: str) -> Plot:
    """What each model reaches from how many people, with every seed."""
    found, scale = report["fractions"], _scale(metric)
    people = found["people"]
    figure, ax = _figure(2.9)
    for i, (name, of) in enumerate(found["models"].items()):
        look, mean = _look(i), of[metric]["mean"]
        known = [place for place, value in enumerate(mean) if value is not None]
        x, y = [people[place] for place in known], [mean[place] * scale for place in known]
        ax.plot(x, y, label=_legend_name(name), linewidth=1.2, markersize=5, **look)
        seeds = [[v * scale for v in of[metric]["per_seed"][place]] for place in known]
        if max(map(len, seeds), default=0) > 1:
            low, high = [min(own) for own in seeds], [max(own) for own in seeds]
            ax.fill_between(x, low, high, color=look["color"], alpha=0.15, linewidth=0)
    trivial = [(n, v) for n, v in zip(people, found["baselines"][metric], strict=True)
               if v is not None]  # fmt: skip
    if trivial:
        x, y = [n for n, _ in trivial], [value * scale for _, value in trivial]
        ax.plot(x, y, color=GREY, linestyle="--", linewidth=1, label="trivial")
    ax.set_xscale("log")
    ax.set_xticks(people, [f"{n}" for n in people])
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.set_xlabel("people learned from (logarithmic)")
    ax.set_ylabel(_short(metric))
    if len(report["seeds"]) > 1:
        ax.set_title("band: lowest to highest seed", color=GREY, fontsize=8, loc="left")
    _legend(figure)
    alt = f"{HEADLINES[metric].title} of each model against how many people it learned from."
    return _plot(figure, f"fractions-{metric}", "fractions", alt)


def _bins(report: Mapping[str, Any], task: str) -> bool:
    return any(lookup(m, ("calibration", task, "bins")) for m in report["models"].values())


def _reliability(report: Mapping[str, Any], task: str) -> Plot:
    figure, ax = _figure(3.7)
    ax.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1, label="perfect")
    for i, (name, model) in enumerate(report["models"].items()):
        bins = lookup(model, ("calibration", task, "bins")) or []
        most = max((row["n"] for row in bins), default=1)
        x, y = [row["confidence"] for row in bins], [row["accuracy"] for row in bins]
        look = _look(i)
        ax.plot(x, y, color=look["color"], linewidth=1.2)
        sizes = [6 + 44 * row["n"] / most for row in bins]
        ax.scatter(x, y, s=sizes, label=_legend_name(name), **look)
    ax.set(xlim=(0, 1.02), ylim=(0, 1.02), aspect="equal")
    what = {
        "au": ("presence of an AU", "share present"),
        "expression": ("the class", "share right"),
        "felt": ("the class", "share right"),
    }
    ax.set_xlabel(f"probability of {what[task][0]}")
    ax.set_ylabel(what[task][1])
    _legend(figure)
    title = {"au": "action units", "expression": "expressions", "felt": "felt emotions"}[task]
    alt = (
        f"Reliability curves of {title}: on the diagonal, probabilities come true as often as said."
    )
    return _plot(figure, f"reliability-{task}", "calibration", alt)


def _figure(height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(WIDTH, height))
    return figure, figure.add_subplot()


def _legend_name(name: str) -> str:
    """A name as matplotlib shows it: with an underscore in front it would be left out."""
    return f"\N{ZERO WIDTH SPACE}{name}" if name.startswith("_") else name


def _legend(figure: Figure) -> None:
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=8, markerscale=0.8)


def _plot(figure: Figure, key: str, section: str, alt: str) -> Plot:
    """Write a figure as SVG whose ids are unique in the page."""
    file = io.StringIO()
    empty = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(file, format="svg", transparent=True, metadata=empty)
    svg = file.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\b(id="|href="#|url\(#)', rf"\1{key}-", svg)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg)
    name = f'<svg role="img" aria-label="{escape(alt)}"'
    return Plot(key, section, Markup(svg.replace("<svg", name, 1)))
