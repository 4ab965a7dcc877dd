"""The report of a comparison: ``report.html``, ``report.json``, ``report.md``, ``report.tex``.

All four are written from one plain dict, which is ``report.json``. In the HTML every number has the
JSON pointer of its place in the dict (``data-at``) and its unrounded value. The page is one file
without scripts: it fetches nothing, and reads the same on a phone, on paper and in a mail.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup

from faceaffect.evaluation import fractions
from faceaffect.evaluation.assignments import doubtful_leads
from faceaffect.evaluation.conditions import unequal_terms
from faceaffect.evaluation.headlines import HEADLINES
from faceaffect.evaluation.pages import page_template
from faceaffect.evaluation.plots import plots
from faceaffect.evaluation.report_tables import (
    AUC,
    beyond_seeds,
    checkpoints,
    form_of,
    headlines_in,
    is_significant,
    is_sure,
    tables,
)
from faceaffect.evaluation.tables import (
    At,
    Table,
    Value,
    latex,
    lookup,
    markdown,
    md,
    plain_text,
    show,
)
from faceaffect.files import write_together
from faceaffect.runs.result import plain
from faceaffect.schema import TASKS


def write_report(folder: Path, report: Mapping[str, Any]) -> list[Path]:
    """Write the report, each file either whole or not at all.

    Args:
        folder: that exists.
        report: what ``report.json`` will say; ``words`` and each model's ``margin`` above its
            trivial baselines are added if they are missing.

    Returns:
        The paths of the four files.

    Raises:
        ValueError: there is no model in the report.
    """
    full = complete(report)
    texts = {
        "report.html": html(full),
        "report.md": _markdown(full),
        "report.tex": _latex(full),
        "report.json": json.dumps(full, indent=2, ensure_ascii=False, allow_nan=False),
    }
    write_together(folder, texts)
    return [folder / name for name in texts]


def complete(report: Mapping[str, Any]) -> dict[str, Any]:
    """Return a report ready for JSON with its margins and words.

    Raises:
        ValueError: there is no model in the report.
    """
    full: dict[str, Any] = plain(dict(report))
    if not full.get("models"):
        raise ValueError("a report needs at least one model that was tested")
    for key, empty in (("pairs", []), ("failed", {}), ("warnings", []), ("disagreements", [])):
        full[key] = full.get(key) or empty
    metrics = headlines_in(full)
    for model in full["models"].values():
        model.setdefault("margin", {name: _margin(model, name) for name in metrics})
    full["words"] = full.get("words") or words(full)
    return full


def _margin(model: Mapping[str, Any], metric: str) -> float | None:
    value, trivial = (lookup(model, (section, metric)) for section in ("metrics", "baselines"))
    return None if value is None or trivial is None else value - trivial


# The result in words.


def words(report: Mapping[str, Any]) -> list[str]:
    """Return the result in sentences: who leads by how much, how surely, above what, at what cost.

    Args:
        report: the report, of which ``words`` need not be there.
    """
    full = plain(dict(report))
    found = [_lead(full, metric) for metric in headlines_in(full)]
    found += [*fractions.sentences(full), _unequal(full), _above_trivial(full), _price(full)]
    found += [f"{name} failed and is left out: {why}" for name, why in full["failed"].items()]
    return [sentence for sentence in found if sentence]


def _lead(report: Mapping[str, Any], metric: str) -> str:
    """Who leads in a metric, by how much, and whether that is more than chance."""
    values = {n: m["metrics"].get(metric) for n, m in report["models"].items()}
    ranked = sorted((n for n, v in values.items() if v is not None), key=lambda n: -values[n])
    if not ranked:
        return ""
    first, form = ranked[0], form_of(metric)
    reached = f"{first} reaches {_amount(values[first], metric)} {HEADLINES[metric].title}"
    if len(ranked) < 2:
        return f"{reached}{_within(report['models'][first], metric)}."
    second = ranked[1]
    pair, sign = _pair(report, first, second, metric)
    ahead = _amount(values[first] - values[second], metric)
    evidence = []
    if pair and pair["interval"][0] is not None:
        low, high = sorted(sign * end for end in pair["interval"])
        evidence.append(f"95 % interval {show(low, form)} to {show(high, form)}")
    if pair and pair["p_holm"] is not None:
        p = show(pair["p_holm"], "p")
        p = p if p.startswith("<") else f"= {p}"
        evidence.append(f"p {p} after Holm's correction")
    behind = "".join(f", {', '.join(evidence)}" if evidence else "")
    if pair and is_sure(report, pair):
        return (
            f"{first} leads by {ahead} {HEADLINES[metric].title} over {second}{behind}, and every "
            "seed of it is above every seed of the other."
        )
    why = ""
    if pair and is_significant(pair):
        beyond = beyond_seeds(report, first, second, metric)
        why = "; one seed does not make it sure" if beyond is None else "; within the seeds' spread"
    return (
        f"In {HEADLINES[metric].title} no model leads for sure: {first} is ahead of {second} by "
        f"{ahead.removesuffix(' of')}{behind}{why}."
    )


def _unequal(report: Mapping[str, Any]) -> str:
    """On what terms the models did not run alike; the warnings say more."""
    if any(not model.get("terms") for model in report["models"].values()):
        return ""
    if not unequal_terms(report["models"]):
        return ""
    return "The models did not run on equal terms; the warnings say in what."


def _amount(value: float, metric: str) -> str:
    """A metric or difference with its unit, before the metric's title."""
    text = show(value, form_of(metric))
    return f"{text} points of" if form_of(metric) == "points" else f"{text} of"


def _within(model: Mapping[str, Any], metric: str) -> str:
    interval = lookup(model, ("intervals", metric))
    if not interval or interval[0] is None:
        return ""
    low, high = (show(end, form_of(metric)) for end in interval)
    return f", 95 % interval {low} to {high}"


def _pair(
    report: Mapping[str, Any], first: str, second: str, metric: str
) -> tuple[dict[str, Any] | None, int]:
    """The pair of two models, and -1 if it stands the other way round."""
    for pair in report["pairs"]:
        if pair["metric"] == metric and {pair["a"], pair["b"]} == {first, second}:
            return pair, 1 if pair["a"] == first else -1
    return None, 1


def _above_trivial(report: Mapping[str, Any]) -> str:
    """Which models do not beat answers that look at no face."""
    margins = {
        (name, metric): _margin(model, metric)
        for name, model in report["models"].items()
        for metric in headlines_in(report)
    }
    known = {key: value for key, value in margins.items() if value is not None}
    poor = [f"{name} in {HEADLINES[metric].title}" for (name, metric), v in known.items() if v <= 0]
    if poor:
        return f"No better than the trivial baseline, which looks at no face: {', '.join(poor)}."
    points = [v for (_, metric), v in known.items() if form_of(metric) == "points"]
    if not points:
        return "Every model is above its trivial baselines." if known else ""
    return (
        f"Every model is above its trivial baselines, by {show(min(points), 'points')} points or "
        "more in F1, accuracy and recall."
    )


def _price(report: Mapping[str, Any]) -> str:
    """How much more the costliest model computes per face than the cheapest."""
    costs = {n: lookup(m, ("cost", "flops_per_image")) for n, m in report["models"].items()}
    known = {name: cost for name, cost in costs.items() if cost}
    if len(known) < 2:
        return ""
    most, least = max(known, key=known.__getitem__), min(known, key=known.__getitem__)
    ratio = known[most] / known[least]
    if ratio < 1.05:
        return "All models cost about the same compute per face."
    sentence = f"{most} costs {_times(ratio)} the compute per face of {least}"
    key = "milliseconds_per_image_at_batch_1"
    slow, fast = (lookup(report["models"][name], ("cost", key)) for name in (most, least))
    return sentence + (f" and {_times(slow / fast)} its time." if slow and fast else ".")


def _times(ratio: float) -> str:
    return f"{ratio:,.0f}x" if ratio >= 9.95 else f"{ratio:.1f}x"


def doubtful(report: Mapping[str, Any]) -> list[str]:
    """Return a sentence for each lead that another assignment of people to folds may turn round."""
    full = plain(dict(report))
    return [line for metric in headlines_in(full) for line in doubtful_leads(full, metric)]


# The files.


def html(report: Mapping[str, Any]) -> str:
    """Return the page of a completed report."""

    def at(*keys: str | int | At, form: str = "text") -> Markup:
        """The value at a place, whose beginning or end may come as a tuple."""
        place = [part for key in keys for part in (key if isinstance(key, tuple) else (key,))]
        return _html_value(report, Value(tuple(place), form))

    def parts(of: tuple[str | Value, ...]) -> Markup:
        shown = [_html_value(report, p) if isinstance(p, Value) else _breakable(p) for p in of]
        return Markup("").join(shown)

    drawn: dict[str, list[Markup]] = {}
    for plot in plots(report):
        drawn.setdefault(plot.section, []).append(plot.svg)
    found = tables(report)
    template = page_template("report.html.j2")
    return template.render(
        report=report,
        tables=found,
        groups=[key for key in found if key.startswith("groups-")],
        parts_of=_parts_of(found),
        plots=drawn,
        at=at,
        parts=parts,
        breakable=_breakable,
        shade=_shade,
        checkpoints={n: of for n in report["models"] if (of := checkpoints(report, n))},
        settings=_flat(report.get("data") or {}),
        protocol=_flat(report.get("protocol") or {}),
        versions=_flat(report.get("environment") or {}),
    )


def _parts_of(found: Mapping[str, Table]) -> dict[str, list[str]]:
    """Return, by task, the keys of the tables of parts."""
    keys: dict[str, list[str]] = {task: [] for task in TASKS}
    for headline in HEADLINES.values():
        if headline.parts and headline.parts.prefix in found:
            keys[headline.task].append(headline.parts.prefix)
    keys["au"] += [AUC] if AUC in found else []
    return keys


def _breakable(text: str) -> Markup:
    """A text that may break after an underscore, so that names of models fit a phone."""
    return Markup("_<wbr>").join(text.split("_"))


def _html_value(report: Mapping[str, Any], value: Value) -> Markup:
    """A value with its place and, of a number, what it is unrounded."""
    found = lookup(report, value.at)
    text = show(found, value.form)
    if found is None:
        return Markup('<span class="none">{}</span>').format(text)
    if isinstance(found, str):
        return Markup('<span data-at="{}">{}</span>').format(value.pointer, text)
    return Markup('<data data-at="{}" data-form="{}" value="{}">{}</data>').format(
        value.pointer, value.form, json.dumps(found), text
    )


def _flat(values: Mapping[str, Any], before: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Places of the scalars in nested dicts, and of lists, which are shown whole."""
    places: list[tuple[str, ...]] = []
    for key, value in values.items():
        if isinstance(value, Mapping):
            places += _flat(value, (*before, key))
        elif value not in (None, [], ""):
            places.append((*before, key))
    return places


def _shade(count: float, total: float) -> str:
    """Background of a cell of a confusion matrix, by its share of the row."""
    share = count / total if total else 0.0
    return f"background:rgba(0,114,178,{0.75 * share:.2f})"


def _markdown(report: Mapping[str, Any]) -> str:
    lines = [f"# {md(report['title'])}", ""]
    lines += [f"* {md(sentence)}" for sentence in report["words"]] + [""]
    if report["warnings"]:
        lines += ["## Mind", "", *(f"* {md(warning)}" for warning in report["warnings"]), ""]
    lines += [markdown(report, table) for table in tables(report).values()]
    lines += ["## Protocol", "", *_protocol_lines(report), ""]
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", report["command"])), default=0))
    lines += ["## Reproduce", "", f"{fence}bash", report["command"], fence, ""]
    version, created = report["version"], report["created"]
    return "\n".join([*lines, f"faceaffect {version}, {created}. Page: report.html.", ""])


def _protocol_lines(report: Mapping[str, Any]) -> list[str]:
    lines = [f"* test: {report['n']} samples of {report['subjects']} people"]
    lines.append(f"* seeds: {', '.join(str(seed) for seed in report['seeds'])}")
    for place in _flat(report.get("protocol") or {}):
        lines.append(f"* {md(' '.join(place))}: {md(str(lookup(report['protocol'], place)))}")
    for name in report["models"]:
        chosen = plain_text(report, checkpoints(report, name))
        lines += [f"* checkpoint of {md(name)}: {chosen}"] if chosen else []
    return lines


def _latex(report: Mapping[str, Any]) -> str:
    head = "% Tables of a faceaffect comparison. Needs \\usepackage{booktabs}.\n"
    return head + "\n".join(latex(report, table) for table in tables(report).values())
