"""The tables of a comparison's report, in their order."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from faceaffect.evaluation.assignments import assignments_table
from faceaffect.evaluation.conditions import terms_table
from faceaffect.evaluation.fractions import fractions_table
from faceaffect.evaluation.headlines import HEADLINES, Headline, headline_of, headlines
from faceaffect.evaluation.tables import (
    MINUS,
    NONE,
    At,
    Cell,
    Part,
    Table,
    Value,
    capital,
    lookup,
)
from faceaffect.schema import LabelSchema

SURE = 0.05
"""A difference may be called one if its p after Holm's correction is below this."""


def form_of(metric: str, *, signed: bool = False) -> str:
    """Return how a metric is written: as its headline, else in points of 100."""
    headline = headline_of(metric)
    kind = headline.form if headline else _OF_OTHERS.get(metric, "points")
    return f"signed {kind}" if signed else kind


_OF_OTHERS = {"intensity_mae": "fraction"}


def headlines_in(report: Mapping[str, Any]) -> list[str]:
    """Return the names of the headline metrics of the report's tasks."""
    schema = LabelSchema.from_dict(report["schema"])
    return [name for task in schema.tasks for name in headlines(task)]


AUC = "au_auroc"
"""Stands beside F1, without intervals and tests."""


def _shown(report: Mapping[str, Any]) -> list[str]:
    """Return the headline metrics, and beside F1 the AUC."""
    known = all(AUC in model["metrics"] for model in report["models"].values())
    beside = {"au_f1": [AUC]} if known else {}
    return [name for first in headlines_in(report) for name in (first, *beside.get(first, ()))]


def tables(report: Mapping[str, Any]) -> dict[str, Table]:
    """Return all tables that the report has numbers for, by key."""
    found = [
        _overview(report),
        _pairs(report),
        *(table for headline in HEADLINES.values() for table in _of_task(report, headline)),
        _intensity(report),
        _calibration(report),
        _generated(report),
        _seeds(report),
        terms_table(report),
        assignments_table(report),
        fractions_table(report),
        _cost(report),
        *_groups(report),
    ]
    return {table.key: table for table in found if table is not None and table.rows}


def _best(report: Mapping[str, Any], places: Sequence[At], *, lowest: bool = False) -> set[At]:
    """Places of the best of several values; of one value none."""
    values = {at: lookup(report, at) for at in places}
    known = {at: v for at, v in values.items() if v is not None}
    if len(known) < 2:
        return set()
    top = (min if lowest else max)(known.values())
    return {at for at, v in known.items() if v == top}


def _interval(at: At, form: str) -> tuple[Part, ...]:
    return ("[", Value((*at, 0), form), ", ", Value((*at, 1), form), "]")


def _metric(
    report: Mapping[str, Any], name: str, metric: str, best: set[At], between: str = " "
) -> Cell:
    """A model's metric with its interval and its spread over seeds, as far as there are any."""
    at, form = ("models", name, "metrics", metric), form_of(metric)
    small: tuple[Part, ...] = ()
    if (lookup(report, ("models", name, "intervals", metric)) or [None])[0] is not None:
        small = _interval(("models", name, "intervals", metric), form)
    if lookup(report, ("models", name, "spread", metric)) is not None:
        small += (between if small else "", "± ", Value(("models", name, "spread", metric), form))
    return Cell((Value(at, form),), small, at in best)


def _trivial(report: Mapping[str, Any], metric: str) -> Cell:
    return Cell(
        (Value(("models", next(iter(report["models"])), "baselines", metric), form_of(metric)),)
    )


def _overview(report: Mapping[str, Any]) -> Table:
    metrics, models = _shown(report), report["models"]
    shorts = {name: headline.short for name, headline in HEADLINES.items()} | {AUC: "AU AUC"}
    table = Table(
        "overview",
        "All models",
        "Points of 100; CCC from -1 to 1; AUC: area under the ROC curve, which needs no threshold. "
        "Below each number: 95 % interval over people; standard deviation over several seeds; "
        "distance from the trivial baseline. Bold: highest; which differences are more than "
        "chance, the table of pairs says.",
        ["model", *(shorts[m] for m in metrics), "ms per face"],
    )
    best = {m: _best(report, [("models", n, "metrics", m) for n in models]) for m in metrics}
    for name in models:
        cells = []
        for metric in metrics:
            cell = _metric(report, name, metric, best[metric], between="\n")
            margin = Value(("models", name, "margin", metric), form_of(metric, signed=True))
            if lookup(report, margin.at) is not None:
                cell = replace(
                    cell, small=(*cell.small, "\n" if cell.small else "", margin, " to trivial")
                )
            cells.append(cell)
        time = Value(("models", name, "cost", "milliseconds_per_image_at_batch_1"), "tenth")
        table.add([name, *cells, Cell((time,))])
    table.add(["trivial baseline", *(_trivial(report, m) for m in metrics), NONE], quiet=True)
    return table


def _pairs(report: Mapping[str, Any]) -> Table:
    table = Table(
        "pairs",
        "Differences",
        "First model less second, on the same samples: difference with 95 % interval, p of a "
        "paired test, and p after Holm's correction over the pairs of a metric. Bold: p below 0.05 "
        "after correction, several seeds of each, and every seed of one above every seed of the "
        "other; a test over people knows nothing of what another training would give.",
        ["pair", "metric", "difference", "p", "p (Holm)", "test"],
    )
    for i, pair in enumerate(report["pairs"]):
        form = form_of(pair["metric"], signed=True)
        small = _interval(("pairs", i, "interval"), form)
        known = (pair.get("interval") or [None])[0] is not None
        sure = is_sure(report, pair)
        table.add(
            [
                f"{pair['a']} {MINUS} {pair['b']}",
                HEADLINES[pair["metric"]].short,
                Cell((Value(("pairs", i, "difference"), form),), small if known else (), sure),
                Cell((Value(("pairs", i, "p"), "p"),)),
                Cell((Value(("pairs", i, "p_holm"), "p"),), (), sure),
                Cell((Value(("pairs", i, "test")),)),
            ]
        )
    return table


def is_sure(report: Mapping[str, Any], pair: Mapping[str, Any]) -> bool:
    """Return whether a difference is more than the chance of people and of trainings."""
    beyond = beyond_seeds(report, pair["a"], pair["b"], pair["metric"])
    return is_significant(pair) and beyond is True


def is_significant(pair: Mapping[str, Any]) -> bool:
    """Return whether other people would hardly turn a difference round."""
    return pair.get("p_holm") is not None and pair["p_holm"] < SURE


def beyond_seeds(report: Mapping[str, Any], a: str, b: str, metric: str) -> bool | None:
    """Return whether every seed of one model is above every seed of the other.

    None where one of them was trained with one seed only, so that nobody knows.
    """
    seeds = [lookup(report, ("models", name, "per_seed", metric)) or [] for name in (a, b)]
    own, other = ([value for value in of if value is not None] for of in seeds)
    if min(len(own), len(other)) < 2:
        return None
    return bool(min(own) > max(other) or min(other) > max(own))


def parts_in(report: Mapping[str, Any], headline: Headline) -> list[str]:
    """Return the names of the parts of a mean that the report has: AUs, classes or dimensions."""
    return _under(report, headline.parts.prefix) if headline.parts else []


def _under(report: Mapping[str, Any], prefix: str) -> list[str]:
    first = next(iter(report["models"].values()))
    return [name for name in first["metrics"] if name.startswith(f"{prefix}/")]


def _of_task(report: Mapping[str, Any], headline: Headline) -> list[Table]:
    """Tables of the parts of a mean, of F1 with those of the AUC behind it."""
    if headline.parts is None or not parts_in(report, headline):
        return []
    prefix, note = headline.parts.prefix, headline.parts.note
    note = f"{note} Below: 95 % interval over people, ± over seeds."
    found = [_parts(report, prefix, headline.name, headline.parts.title, note)]
    if headline.name == "au_f1" and AUC in _shown(report):
        note = (
            "Area under the ROC curve in points: how well a model ranks faces, at no threshold; it "
            "moves less with the rate of an AU than F1. Trivial: always present."
        )
        found.append(_parts(report, AUC, AUC, "AUC of each AU", note))
    return found


def _parts(report: Mapping[str, Any], prefix: str, mean: str, title: str, note: str) -> Table:
    """One row for each part of a mean, and one for the mean."""
    models = report["models"]
    columns = ["", *models, "trivial"]
    table = Table(prefix, capital(title), f"{note} Bold: highest of the row.", columns)
    for name in [*_under(report, prefix), mean]:
        best = _best(report, [("models", model, "metrics", name) for model in models])
        label = name.partition("/")[2] or "mean"
        cells = [_metric(report, model, name, best) for model in models]
        table.add([label, *cells, _trivial(report, name)])
    return table


def _intensity(report: Mapping[str, Any]) -> Table | None:
    """How well it is told how strongly an expression is shown, and how far off answers are."""
    if "intensity" not in LabelSchema.from_dict(report["schema"]).tasks:
        return None
    models = report["models"]
    table = Table(
        "intensity",
        "How strongly the expression is shown",
        "From 0 to 3. CCC: agreement, from -1 to 1, higher is better. Mean distance of answer and "
        "truth, in grades: lower is better. Trivial: always the training part's mean.",
        ["", *models, "trivial"],
    )
    for metric, label in (("intensity_ccc", "CCC"), ("intensity_mae", "mean distance")):
        places = [("models", model, "metrics", metric) for model in models]
        best = _best(report, places, lowest=metric == "intensity_mae")
        cells = [_metric(report, model, metric, best) for model in models]
        table.add([label, *cells, _trivial(report, metric)])
    return table


def _calibration(report: Mapping[str, Any]) -> Table | None:
    schema = LabelSchema.from_dict(report["schema"])
    columns = {
        "au": [("metrics", "au_ece", "AU, mean of AUs"), ("calibration", "au", "AU, all together")],
        "expression": [("metrics", "expression_ece", "expression")],
        "felt": [("metrics", "felt_ece", "felt emotion")],
    }
    wanted = [column for task, of in columns.items() if task in schema.tasks for column in of]
    if not wanted:
        return None
    table = Table(
        "calibration",
        "Calibration error",
        "Expected calibration error in points, 15 bins: how far probabilities lie from how often "
        "they come true. Lower is better. The curves hold all AUs together.",
        ["model", *(label for *_, label in wanted)],
    )

    def place(name: str, section: str, key: str) -> At:
        tail: At = (key, "ece") if section == "calibration" else (key,)
        return ("models", name, section, *tail)

    best = {
        key: _best(report, [place(n, section, key) for n in report["models"]], lowest=True)
        for section, key, _ in wanted
    }
    for name in report["models"]:
        places = [(key, place(name, section, key)) for section, key, _ in wanted]
        table.add(
            [name, *(Cell((Value(at, "points"),), (), at in best[key]) for key, at in places)]
        )
    trivial = [
        _trivial(report, key) if section == "metrics" else NONE for section, key, _ in wanted
    ]
    table.add(["trivial baseline", *trivial], quiet=True)
    return table


def _generated(report: Mapping[str, Any]) -> Table | None:
    """What models that write say in words, where that is scored beside their probabilities."""
    metrics = [*headlines_in(report), "unreadable"]
    writers = [n for n, m in report["models"].items() if "generated/unreadable" in m["metrics"]]
    if not writers:
        return None
    table = Table(
        "generated",
        "Answers in words",
        "The same metrics of the written answers, read by a grammar; elsewhere the probabilities "
        "of the answers count. Unreadable answers (share in points) count as wrong.",
        ["model", *(HEADLINES[m].short if m in HEADLINES else m for m in metrics)],
    )
    for name in writers:
        cells = [
            Cell((Value(("models", name, "metrics", f"generated/{m}"), form_of(m)),))
            for m in metrics
        ]
        table.add([name, *cells])
    trivial = [_trivial(report, metric) for metric in metrics[:-1]]
    table.add(["trivial baseline", *trivial, NONE], quiet=True)
    return table


def _seeds(report: Mapping[str, Any]) -> Table | None:
    seeds, metrics = report["seeds"], headlines_in(report)
    if len(seeds) < 2:
        return None
    table = Table(
        "seeds",
        "Each seed",
        "Every training on its own.",
        ["model", "metric", *(f"seed {seed}" for seed in seeds), "trivial"],
    )
    for name, model in report["models"].items():
        place = {seed: i for i, seed in enumerate(model["seeds"])}
        for metric in metrics:
            cells: list[Cell | str] = [
                Cell((Value(("models", name, "per_seed", metric, place[seed]), form_of(metric)),))
                if seed in place
                else NONE
                for seed in seeds
            ]
            table.add([name, HEADLINES[metric].short, *cells, _trivial(report, metric)])
    return table


def checkpoints(report: Mapping[str, Any], name: str) -> tuple[Part, ...]:
    """Return which epoch of each training of a model was tested, empty if that is unknown."""
    chosen = report["models"][name].get("checkpoint") or [None]
    if None in chosen:
        return ()
    on = "the test part" if report["protocol"].get("selection") == "test" else "validation"
    parts: list[Part] = ["last epoch" if chosen[0]["choose"] == "last" else f"best epoch on {on}"]
    for i in range(len(chosen)):
        parts += [", ", Value(("models", name, "checkpoint", i, "epoch"), "count")]
    return tuple(parts)


COST = {
    "parameters": ("parameters", "si"),
    "trainable_parameters": ("trained", "si"),
    "flops_per_image": ("FLOPs per face", "si"),
    "milliseconds_per_image_at_batch_1": ("ms per face, batch 1", "tenth"),
    "images_per_second": ("faces per second", "tenth"),
    "best_batch_size": ("at batch", "count"),
    "peak_memory_bytes": ("peak memory", "bytes"),
    "training_seconds": ("training", "duration"),
    "checkpoint_bytes": ("checkpoint", "bytes"),
    "device": ("device", "text"),
}


def _cost(report: Mapping[str, Any]) -> Table | None:
    costs = [model.get("cost") or {} for model in report["models"].values()]
    keys = [key for key in COST if any(cost.get(key) is not None for cost in costs)]
    if not keys:
        return None
    table = Table(
        "cost",
        "Cost of each model",
        "FLOPs are twice the multiply-adds. Peak memory: of a fresh process that loads the model "
        "and answers about one face, Python and its packages included (on a GPU, of its "
        "allocator). A trivial baseline costs nothing.",
        ["", *report["models"]],
    )
    for key in keys:
        label, form = COST[key]
        cells = [Cell((Value(("models", n, "cost", key), form),)) for n in report["models"]]
        table.add([label, *cells])
    return table


def _groups(report: Mapping[str, Any]) -> list[Table]:
    first = next(iter(report["models"].values()))
    found = []
    for attribute, section in (first.get("groups") or {}).items():
        table = Table(
            f"groups-{attribute}",
            f"By {attribute.replace('_', ' ')}",
            "Gap: largest less smallest; some gap always arises by chance, p says how often one as "
            "large does when people are assigned to the groups at random (uncorrected).",
            ["group", "people", *report["models"], "trivial"],
        )
        for metric in headlines_in(report):
            for value in section["groups"]:
                table.add(_group_row(report, attribute, value, metric))
            gaps = []
            for name in report["models"]:
                at: At = ("models", name, "groups", attribute)
                p = Value((*at, "gap_p", metric), "p")
                small: tuple[Part, ...] = ("p ", p) if lookup(report, p.at) is not None else ()
                gaps.append(Cell((Value((*at, "gap", metric), form_of(metric)),), small))
            table.add([f"{HEADLINES[metric].short} gap", "", *gaps, NONE], quiet=True)
        found.append(table)
    return found


def _group_row(
    report: Mapping[str, Any], attribute: str, value: str, metric: str
) -> list[Cell | str]:
    first, form = next(iter(report["models"])), form_of(metric)
    places: list[At] = [
        ("models", name, "groups", attribute, "groups", value) for name in report["models"]
    ]
    best = _best(report, [(*at, "metrics", metric) for at in places])
    cells: list[Cell | str] = []
    for at in places:
        interval = lookup(report, (*at, "intervals", metric))
        known = interval is not None and interval[0] is not None
        small = _interval((*at, "intervals", metric), form) if known else ()
        own: At = (*at, "metrics", metric)
        cells.append(Cell((Value(own, form),), small, own in best))
    start: At = ("models", first, "groups", attribute, "groups", value)
    people = Cell((Value((*start, "subjects"), "count"),))
    trivial = Cell((Value((*start, "baselines", metric), form),))
    return [f"{HEADLINES[metric].short}, {value}", people, *cells, trivial]
