"""The search before a comparison: the same number of trials for each recipe."""

import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from faceaffect.errors import FaceAffectError, RecipeError, unknown
from faceaffect.evaluation.entrants import Entrant
from faceaffect.progress import console
from faceaffect.runs.limits import trains
from faceaffect.runs.space import load_space
from faceaffect.runs.tune import tune


def tune_entrants(
    entrants: Sequence[Entrant], trials: int, spaces: Sequence[Path], overrides: Sequence[str]
) -> tuple[list[Entrant], dict[str, str]]:
    """Return the entrants with the recipes that a search found, and who has none and why.

    Runs, and models that are not trained, are taken as they are. All spaces are looked at before
    the first trial.

    Args:
        entrants: recipes and runs.
        trials: of each search; 0 for none.
        spaces: files named by the model that they are for; else those that ship are taken.
        overrides: of the command, for the head of the recipes that are found.

    Raises:
        RecipeError: a number, a space or a model without one is wrong.
        FaceAffectError: no entrant is left.
    """
    if trials < 0:
        raise RecipeError(f"--tune: {trials} is negative")
    files = _by_model(entrants, spaces)
    if not trials:
        return list(entrants), {}
    recipes = [
        e
        for e in entrants
        if e.run is None and trains(e.placed["model"]["name"], e.placed["trainer"])
    ]
    for entrant in recipes:
        load_space(entrant.recipes[0], files.get(entrant.recipes[0]["model"]["name"]))
    found: list[Entrant] = []
    failed: dict[str, str] = {}
    for entrant in entrants:
        if entrant not in recipes:
            found.append(entrant)
            continue
        console.print(f"tuning {entrant.name}", markup=False)
        words = ["faceaffect", "tune", entrant.source, *overrides, "--trials", str(trials)]
        file = files.get(entrant.recipes[0]["model"]["name"])
        try:
            best = tune(entrant.recipes[0], file, trials=trials, command=shlex.join(words)).recipe
        except FaceAffectError as error:
            failed[entrant.name] = f"tuning: {error}"
            console.print(f"{entrant.name} failed, the others go on: {error}", markup=False)
            continue
        seeds = [recipe["seed"] for recipe in entrant.recipes]
        each = tuple(best.changed(lambda s, seed=seed: s | {"seed": seed}) for seed in seeds)  # type: ignore[misc]
        found.append(replace(entrant, recipes=each, placed=best))
    if not found:
        lines = "\n  ".join(f"{name}, {reason}" for name, reason in failed.items())
        raise FaceAffectError(f"no model is left to compare:\n  {lines}")
    return found, failed


def _by_model(entrants: Sequence[Entrant], spaces: Sequence[Path]) -> dict[str, Path]:
    models = {entrant.placed["model"]["name"] for entrant in entrants}
    for file in spaces:
        if file.stem not in models:
            raise RecipeError(unknown("--space: a file is named by its model", file.stem, models))
    return {file.stem: file for file in spaces}
