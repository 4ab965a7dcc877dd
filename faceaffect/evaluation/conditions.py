"""On what terms each model of a comparison ran: what it knew before, and how it was trained."""

from collections.abc import Mapping, Sequence
from typing import Any

from faceaffect.evaluation.tables import NONE, Cell, Part, Table, Value, lookup
from faceaffect.recipe import Recipe
from faceaffect.runs.limits import trains
from faceaffect.runs.space import value_of


def conditions(recipe: Recipe, results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the terms of one model.

    Args:
        recipe: of its first run.
        results: what its runs wrote, one for each seed.

    Returns:
        ``before``: in words, the weights it started from, on which data and labels those were
        trained; ``optimiser``; ``epochs`` of each run; ``trials`` of the search that found its
        settings, None if nothing is noted; ``scores``: lowest, median and best ``val/score`` of
        that search; ``chosen``: its keys and what was found for them; ``changed``: those keys that
        have another value here; ``precision`` and ``precision_why``: in which its numbers were
        computed, and what decided that. None is unknown.
    """
    tuned = results[0].get("tuned") or {}
    chosen = tuned.get("chosen") or {}
    now = {key: value_of(recipe, key) for key in chosen}
    trained = trains(recipe["model"]["name"], recipe["trainer"])
    untrained = results[0].get("answering") is not None  # yet it knew something before
    precisions = [result.get("precision") or {} for result in results]
    return {
        "before": _before(results[0].get("started_from")) if trained or untrained else None,
        "optimiser": recipe["optim"].get("name", "adamw") if trained else None,
        "epochs": [(r.get("training") or {}).get("epochs") for r in results] if trained else None,
        "trials": tuned.get("trials"),
        "scores": {key: tuned.get(key) for key in ("lowest", "median", "score")},
        "chosen": ", ".join(f"{key} {value}" for key, value in chosen.items()) or None,
        "changed": [key for key, value in chosen.items() if now[key] != value],
        "precision": _joined(precisions, "name"),
        "precision_why": _joined(precisions, "why"),
    }


def _joined(precisions: Sequence[Mapping[str, Any]], key: str) -> str | None:
    """Return what the runs say, each thing once."""
    return "; ".join(dict.fromkeys(p[key] for p in precisions if p.get(key))) or None


def _before(parts: Sequence[Mapping[str, Any]] | None) -> str | None:
    if parts is None:
        return None
    told = {f"{of['weights']}: {of['data']}; {of['labels']}": None for of in parts}
    return "\n".join(told) or "nothing, from scratch"


def unequal_terms(models: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return a sentence for each term in which models were not treated alike.

    Args:
        models: for each name what ``report.json`` says of it, :func:`conditions` in ``terms``.
    """
    terms = {name: of["terms"] for name, of in models.items() if of["terms"]["optimiser"]}
    found = []
    if len(by := _grouped(terms, "trials")) > 1:
        shown = "; ".join(f"{'none noted' if n is None else f'{n} trials'}: {', '.join(who)}"
                          for n, who in by.items())  # fmt: skip
        found.append(
            f"the models were not tuned alike ({shown}); 'compare --tune N' gives each the same"
        )
    if len(by := _grouped(terms, "optimiser")) > 1:
        shown = "; ".join(f"{name}: {', '.join(who)}" for name, who in by.items())
        found.append(f"the models learn by different optimisers ({shown})")
    if len(by := _grouped(terms, "precision")) > 1:
        shown = "; ".join(f"{name or 'not noted'}: {', '.join(who)}" for name, who in by.items())
        found.append(f"the models were computed in different precisions ({shown})")
    for name, own in terms.items():
        if own["changed"]:
            found.append(f"{name}: changed after its search: {', '.join(own['changed'])}")
    return found


def _grouped(terms: Mapping[str, Mapping[str, Any]], key: str) -> dict[Any, list[str]]:
    groups: dict[Any, list[str]] = {}
    for name, own in terms.items():
        groups.setdefault(own.get(key), []).append(name)
    return groups


def terms_table(report: Mapping[str, Any]) -> Table | None:
    """Return a table with one row for each model that the report knows the terms of."""
    known = [name for name, model in report["models"].items() if model.get("terms")]
    if not known:
        return None
    table = Table(
        "terms",
        "On what terms",
        "Trained before: the weights a model started from, what those had seen and been told. "
        "Trials: of the search that found its settings, on validation people; val/score: lowest, "
        "median and best of the trials that came to their end.",
        ["model", "trained before", "optimiser", "epochs", "training", "trials", "val/score",
         "found by the search", "seeds", "precision"],
    )  # fmt: skip
    for name in known:
        at = ("models", name, "terms")
        table.add(
            [
                name,
                _lines(report, (*at, "before")),
                Cell((Value((*at, "optimiser")),)),
                Cell((Value((*at, "epochs")),)),
                Cell((Value(("models", name, "cost", "training_seconds"), "duration"),)),
                Cell((Value((*at, "trials"), "count"),)),
                _scores(report, name),
                Cell((Value((*at, "chosen")),)),
                Cell((Value(("models", name, "seeds")),)),
                _precision(report, name),
            ]
        )
    return table


def _lines(report: Mapping[str, Any], at: tuple[str | int, ...]) -> Cell:
    return Cell(("",), (Value(at),)) if lookup(report, at) is not None else Cell((NONE,))


def _precision(report: Mapping[str, Any], name: str) -> Cell:
    at = ("models", name, "terms")
    if lookup(report, (*at, "precision")) is None:
        return Cell((NONE,))
    return Cell((Value((*at, "precision")),), (Value((*at, "precision_why")),))


def _scores(report: Mapping[str, Any], name: str) -> Cell:
    at = ("models", name, "terms", "scores")
    if lookup(report, (*at, "score")) is None:
        return Cell((NONE,))
    parts: list[Part] = []
    for key in ("lowest", "median", "score"):
        parts += [Value((*at, key), "fraction"), " / "]
    return Cell(tuple(parts[:-1]))
