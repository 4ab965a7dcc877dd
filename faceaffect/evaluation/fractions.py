"""What models learn from fewer people: the comparison, trained anew on shares of the training part.

All models see the same people at each share, and a smaller share lies within a larger one. They are
tested on the same samples throughout. The report's intervals and tests are of the largest share.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from faceaffect.data.base import FaceDataModule
from faceaffect.data.subset import people_left
from faceaffect.errors import DataError, RecipeError
from faceaffect.evaluation.entrants import Entrant
from faceaffect.evaluation.headlines import HEADLINES
from faceaffect.evaluation.tables import Cell, Part, Table, Value, show
from faceaffect.recipe import Recipe
from faceaffect.runs.limits import trains


def ordered(fractions: Sequence[float], entrants: Sequence[Entrant]) -> list[float]:
    """Return the shares from the smallest on, once it is seen that every entrant can take them.

    Raises:
        RecipeError: a share is out of range or named twice, or an entrant's data has a share
            already.
    """
    for fraction in fractions:
        if not 0 < fraction <= 1:
            raise RecipeError(f"--fractions: {fraction:g} is not in (0, 1]")
    if len(set(fractions)) < len(fractions):
        raise RecipeError("--fractions: the same share is named twice")
    for entrant in entrants if fractions else ():
        for key in ("people", "fraction"):
            if entrant.placed["data"].get(key) is not None:
                raise RecipeError(
                    f"--fractions: {entrant.name} has data.{key}="
                    f"{entrant.placed['data'][key]} already; leave one of the two out"
                )
    return sorted(fractions)


def at_fraction(entrant: Entrant, fraction: float) -> Entrant:
    """Return an entrant that learns from a share of the training part's people.

    The whole part is no share, so that finished runs on it are taken over. A finished run stands
    for its recipe at the other shares.
    """
    if fraction == 1:
        return entrant

    def fewer(recipe: Recipe) -> Recipe:
        return recipe.changed(lambda s: s | {"data": s["data"] | {"fraction": fraction}})

    recipes = entrant.recipes if entrant.run is None else (entrant.placed,)
    own = tuple(map(fewer, recipes))
    return replace(entrant, recipes=own, placed=fewer(entrant.placed), run=None)


def learns(entrant: Entrant) -> bool:
    """Return whether fewer people make a difference to an entrant: whether it is trained."""
    return trains(entrant.placed["model"]["name"], entrant.placed["trainer"])


def every_training(entrants: Sequence[Entrant], fractions: Sequence[float]) -> list[Entrant]:
    """Return all that a comparison trains, at each share; without shares the entrants as they are.

    What is not trained is entered once.
    """
    if not fractions:
        return list(entrants)
    shares = ordered(fractions, entrants)
    top = [at_fraction(entrant, shares[-1]) for entrant in entrants]
    less = [at_fraction(e, share) for share in shares[:-1] for e in entrants if learns(e)]
    return [*top, *less]


def check_people(fractions: Sequence[float], data: FaceDataModule) -> None:
    """See that every share leaves somebody, and another number of people.

    Args:
        fractions: shares, ascending.
        data: under any share.

    Raises:
        RecipeError: a share leaves nobody, or two leave the same people.
    """
    info = data.split.info
    people = info["subset"]["of"] if "subset" in info else info["subjects"]["train"]
    left = [people_left(people, fraction=fraction) for fraction in fractions]
    for i in range(1, len(left)):
        if left[i] == left[i - 1]:
            raise RecipeError(
                f"--fractions: {fractions[i - 1]:g} and {fractions[i]:g} leave the same "
                f"{left[i]} of {people} people; leave one of them out"
            )


def curve(
    results: Mapping[float, Mapping[str, Sequence[Mapping[str, Any]]]], metrics: Sequence[str]
) -> dict[str, Any]:
    """Return how each model's metrics change with the number of people that it learned from.

    Args:
        results: by share, ascending, of each model what its runs wrote, one for each seed.
        metrics: names of the metrics to follow.

    Returns:
        ``fractions``, ``people`` and ``samples`` of the training part at each; ``baselines``:
        metric to one value each; ``models``: name to metric to ``mean``, ``spread`` (sample
        standard deviation over seeds) and ``per_seed``, each with one entry a share. None is
        undefined, or a model that failed there.

    Raises:
        DataError: at a share, models did not learn from the same samples.
    """
    for fraction, of in results.items():
        _refuse_other_people(fraction, of)
    names = list(results[max(results)])
    first = [_trained_first(of) for of in results.values()]
    return {
        "fractions": list(results),
        "people": [result["protocol"]["subjects"]["train"] for result in first],
        "samples": [result["protocol"]["sizes"]["train"] for result in first],
        "baselines": {m: [result["baselines"].get(m) for result in first] for m in metrics},
        "models": {
            name: {metric: _follow(results, name, metric) for metric in metrics} for name in names
        },
    }


def _trained_first(results: Mapping[str, Sequence[Mapping[str, Any]]]) -> Mapping[str, Any]:
    """Return a result at a share whose split is that share's: of the smallest training part."""
    every = [result for own in results.values() for result in own]
    return min(every, key=lambda result: int(result["protocol"]["sizes"]["train"]))


def _refuse_other_people(
    fraction: float, results: Mapping[str, Sequence[Mapping[str, Any]]]
) -> None:
    learned = {
        result["protocol"]["sha256"]["train"]
        for own in results.values()
        for result in own
        if result.get("training")  # what is not trained has no part in this
    }
    if len(learned) > 1:
        raise DataError(f"at {fraction:g} of the people the models learned from different samples")


def _follow(
    results: Mapping[float, Mapping[str, Sequence[Mapping[str, Any]]]], name: str, metric: str
) -> dict[str, list[Any]]:
    each = [[r["metrics"].get(metric) for r in of.get(name, ())] for of in results.values()]
    known = [[value for value in of if value is not None] for of in each]
    return {
        "mean": [float(np.mean(of)) if of and len(of) == len(all_) else None
                 for of, all_ in zip(known, each, strict=True)],
        "spread": [float(np.std(of, ddof=1)) if len(of) > 1 else None for of in known],
        "per_seed": each,
    }  # fmt: skip


def percent(fraction: float) -> str:
    """Return a share of people as a word.

    >>> percent(0.01), percent(1.0)
    ('1 %', '100 %')
    """
    return f"{100 * fraction:g} %"


def sentences(report: Mapping[str, Any]) -> list[str]:
    """Return who is ahead from few people and from many, for each metric; of means, not tested."""
    found = report.get("fractions")
    if not found or len(found["models"]) < 2:
        return []
    return [line for metric in found["baselines"] if (line := _order(found, metric))]


def _order(found: Mapping[str, Any], metric: str) -> str:
    ahead = []
    for i, fraction in enumerate(found["fractions"]):
        values = {n: of[metric]["mean"][i] for n, of in found["models"].items()}
        known = {name: value for name, value in values.items() if value is not None}
        if len(known) == len(values):
            best = max(known, key=known.__getitem__)
            ahead.append((best, fraction, show(known[best], HEADLINES[metric].form)))
    if len(ahead) < 2:
        return ""
    title = HEADLINES[metric].title
    if len({name for name, *_ in ahead}) == 1:
        return f"{ahead[0][0]} is ahead in {title} at every share of the training people."
    told = ", ".join(f"{name} from {percent(share)} ({value})" for name, share, value in ahead)
    return f"Who is ahead in {title} depends on how many people are learned from: {told}."


def fractions_table(report: Mapping[str, Any]) -> Table | None:
    """Return a table with a row for each model and metric, a column for each share of people."""
    found = report.get("fractions")
    if not found:
        return None
    shares = range(len(found["fractions"]))
    table = Table(
        "fractions",
        "Learning from fewer people",
        "Every model trained anew on a share of the training people: the same people for all, the "
        "smaller share within the larger; tested on the same samples. ±: standard deviation over "
        "seeds.",
        ["model", "metric", *map(percent, found["fractions"])],
    )
    for key in ("people", "samples"):
        cells = [Cell((Value(("fractions", key, i), "count"),)) for i in shares]
        table.add([key, "", *cells], quiet=True)
    for metric in found["baselines"]:
        form, short = HEADLINES[metric].form, HEADLINES[metric].short
        for name in found["models"]:
            table.add([name, short, *(_cell(found, name, metric, i) for i in shares)])
        at = ("fractions", "baselines", metric)
        trivial = [Cell((Value((*at, i), form),)) for i in shares]
        table.add(["trivial baseline", short, *trivial], quiet=True)
    return table


def _cell(found: Mapping[str, Any], name: str, metric: str, i: int) -> Cell:
    at, form = ("fractions", "models", name, metric), HEADLINES[metric].form
    small: tuple[Part, ...] = ()
    if found["models"][name][metric]["spread"][i] is not None:
        small = ("± ", Value((*at, "spread", i), form))
    means = [of[metric]["mean"][i] for of in found["models"].values()]
    known = [mean for mean in means if mean is not None]
    own = found["models"][name][metric]["mean"][i]
    best = own is not None and len(known) > 1 and own == max(known)
    return Cell((Value((*at, "mean", i), form),), small, best)
