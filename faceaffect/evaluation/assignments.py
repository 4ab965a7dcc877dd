"""How much of a lead is the luck of who was in which fold.

A split of people into folds is one of many. Trained and tested under several, the same two models
lead each other by other amounts; the standard deviation of that lead is its spread over
assignments. It is given beside intervals and tests, which speak of the people of one split alone.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from faceaffect import registry
from faceaffect.data.protocols import Protocol
from faceaffect.errors import DataError, RecipeError
from faceaffect.evaluation.entrants import Entrant
from faceaffect.evaluation.headlines import HEADLINES
from faceaffect.evaluation.published import FLOOR, NOISE_FLOOR
from faceaffect.evaluation.tables import MINUS, NONE, At, Cell, Table, Value, show
from faceaffect.recipe import Recipe
from faceaffect.runs.result import read_result


def assignments(recipe: Recipe, protocol: Protocol, repeats: int) -> list[Recipe]:
    """Return the recipe under so many assignments of people to folds, its own first.

    Args:
        recipe: a recipe.
        protocol: the one that it names or takes by default.
        repeats: number of assignments.

    Raises:
        RecipeError: the number is not positive, or people cannot be assigned in another way.
    """
    if repeats < 1:
        raise RecipeError(f"--repeats: {repeats} is not positive")
    if repeats > 1 and not protocol.assigns:
        raise RecipeError(
            f"--repeats: the protocol '{protocol.name}' knows but one assignment of people; "
            "data.protocol=subject_kfold draws others"
        )
    seed = getattr(protocol, "seed", 0)
    others = [with_protocol(recipe, protocol.name, seed=seed + i) for i in range(1, repeats)]
    return [recipe, *others]


def reassigned(entrant: Entrant, protocol: Protocol, number: int) -> Entrant:
    """Return a model of a comparison under another assignment, to be trained where it is not.

    Args:
        entrant: a recipe or a finished run.
        protocol: of its data.
        number: of the assignment, 0 is its own.
    """
    recipes = entrant.recipes if entrant.run is None else (entrant.placed,)
    again = tuple(assignments(recipe, protocol, number + 1)[number] for recipe in recipes)
    return replace(entrant, recipes=again, run=None)


def with_protocol(recipe: Recipe, protocol: str, **changes: int) -> Recipe:
    """Return the recipe with other arguments of the protocol that it names or takes by default."""
    node = registry.as_node(recipe["data"].get("protocol") or protocol) | changes
    return recipe.changed(lambda s: s | {"data": s["data"] | {"protocol": node}})


def over_assignments(
    runs: Mapping[str, Sequence[Sequence[Path]]], metrics: Iterable[str]
) -> dict[str, Any]:
    """Return the metrics of each model under each assignment, and the spread of every lead.

    Args:
        runs: of each model, for each assignment, its runs, one for each seed.
        metrics: names of the metrics to follow.

    Returns:
        ``seeds`` of the protocol; ``models``: name to metric to one value (mean over seeds) for
        each assignment; ``leads``: for each pair ``a``, ``b``, ``metric``, ``mean`` and ``spread``
        (sample standard deviation) of the first less the second. None is undefined.

    Raises:
        DataError: models were not tested on the same samples under an assignment.
    """
    results = {
        name: [[read_result(run) for run in own] for own in each] for name, each in runs.items()
    }
    _refuse_other_splits(results)
    first = next(iter(results.values()))
    models = {
        name: {metric: [_mean(own, metric) for own in each] for metric in metrics}
        for name, each in results.items()
    }
    return {
        "seeds": [own[0]["protocol"]["seed"] for own in first],
        "models": models,
        "leads": [
            {"a": a, "b": b, "metric": metric, **_lead(models[a][metric], models[b][metric])}
            for metric in metrics
            for a, b in combinations(models, 2)
        ],
    }


def _refuse_other_splits(results: Mapping[str, Sequence[Sequence[dict[str, Any]]]]) -> None:
    for number, of_assignment in enumerate(zip(*results.values(), strict=True), 1):
        tested = {r["protocol"]["sha256"]["test"] for own in of_assignment for r in own}
        if len(tested) > 1:
            raise DataError(f"assignment {number}: the models were not tested on the same samples")


def _mean(results: Sequence[dict[str, Any]], metric: str) -> float | None:
    values = [result["metrics"].get(metric) for result in results]
    return None if None in values else float(np.mean(values))


def _lead(a: Sequence[float | None], b: Sequence[float | None]) -> dict[str, float | None]:
    leads = [x - y for x, y in zip(a, b, strict=True) if x is not None and y is not None]
    return {
        "mean": float(np.mean(leads)) if leads else None,
        "spread": float(np.std(leads, ddof=1)) if len(leads) > 1 else None,
    }


def doubtful_leads(report: Mapping[str, Any], metric: str) -> list[str]:
    """Return a sentence for each lead in a metric that another assignment may turn round.

    Args:
        report: with ``pairs``, ``protocol``, and ``assignments`` if several were run.
        metric: a headline metric.
    """
    measured = report.get("assignments") or {"leads": [], "seeds": []}
    spreads = {(r["a"], r["b"]): r["spread"] for r in measured["leads"] if r["metric"] == metric}
    form, title = HEADLINES[metric].form, HEADLINES[metric].title
    three = metric == "au_f1" and report["protocol"].get("folds") == 3
    found = []
    for pair in report["pairs"]:
        if pair["metric"] != metric or not pair["difference"]:
            continue
        size, spread = abs(pair["difference"]), spreads.get((pair["a"], pair["b"]))
        first, second = (pair["a"], pair["b"])[:: 1 if pair["difference"] > 0 else -1]
        lead = f"{first} is ahead of {second} by {_amount(size, form)} {title}"
        if spread is not None and size <= spread:
            number = len(measured["seeds"])
            found.append(
                f"{lead}, within the spread of that lead over {number} assignments of people to "
                f"folds ({show(spread, form)}): another assignment may turn it round."
            )
        if spread is None and three and size <= FLOOR:
            found.append(f"{lead}. {NOISE_FLOOR}")
    return found


def _amount(value: float, form: str) -> str:
    return f"{show(value, form)}{' points' if form == 'points' else ''} of"


def assignments_table(report: Mapping[str, Any]) -> Table | None:
    """Return a table with one row for each model and each lead, a column for each assignment."""
    found = report.get("assignments")
    if not found:
        return None
    table = Table(
        "assignments",
        "Each assignment of people to folds",
        "The same models, trained and tested anew with other people in the folds. Spread: standard "
        "deviation; of a lead, that of the difference.",
        ["", "metric", *(f"assignment {seed}" for seed in found["seeds"]), "mean", "spread"],
    )
    number = len(found["seeds"])
    for metric in next(iter(found["models"].values())):
        form, signed = HEADLINES[metric].form, f"signed {HEADLINES[metric].form}"
        for name in found["models"]:
            at: At = ("assignments", "models", name, metric)
            cells = [Cell((Value((*at, i), form),)) for i in range(number)]
            table.add([name, HEADLINES[metric].short, *cells, NONE, NONE])
        for i, lead in enumerate(found["leads"]):
            if lead["metric"] == metric:
                at = ("assignments", "leads", i)
                ends = [
                    Cell((Value((*at, "mean"), signed),)),
                    Cell((Value((*at, "spread"), form),)),
                ]
                name = f"{lead['a']} {MINUS} {lead['b']}"
                table.add([name, HEADLINES[metric].short, *[NONE] * number, *ends])
    return table
