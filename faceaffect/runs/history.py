"""What a search leaves to read: the best recipe, a table of all trials, a plot."""

import math
import statistics
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
from omegaconf import OmegaConf
from optuna.trial import FrozenTrial, TrialState

from faceaffect.files import replacing, write_atomically
from faceaffect.recipe import Recipe
from faceaffect.runs.space import Space
from faceaffect.runs.study import AS_IT_STANDS, FAILURE, complete, finished

_NAMES = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
}


def summary(study: optuna.Study, space: Space, best: Recipe) -> dict[str, Any]:
    """Return what the best recipe, and every result of it, says of the search.

    Returns:
        The fields of :class:`faceaffect.runs.tuned.Tuned`.
    """
    ended = finished(study)
    scores = [trial.value for trial in complete(study) if trial.value is not None]
    stood = [t.value for t in complete(study) if AS_IT_STANDS in t.user_attrs]
    return {
        "trials": len(ended),
        "pruned": sum(trial.state == TrialState.PRUNED for trial in ended),
        "failed": sum(trial.state == TrialState.FAIL for trial in ended),
        "score": round(max(scores), 4),
        "median": round(statistics.median(scores), 4),
        "lowest": round(min(scores), 4),
        "before": round(stood[0], 4) if stood and stood[0] is not None else None,
        "chosen": space.values(best),
    }


def write_best(file: Path, recipe: Recipe, command: str, trials: int) -> None:
    """Write a recipe with the command that found it and its score at the head."""
    tuned = recipe["tuned"]
    so_far = "" if tuned["trials"] >= trials else f" so far, of {trials}"
    before = "" if tuned["before"] is None else f"; the recipe as it stood: {tuned['before']:.4f}"
    head = [
        f"# {recipe.name}: the best of {tuned['trials']} trials{so_far}.   "
        f"faceaffect train {file.name}",
        f"# Found by: {command}" if command else "",
        f"# val/score {tuned['score']:.4f}{before}. The test part was not looked at.",
    ]
    sections = {k: v for k, v in recipe.stored.items() if k not in ("output", "logger")}
    body = OmegaConf.to_yaml(OmegaConf.create(sections))
    write_atomically(file, "\n".join(line for line in head if line) + "\n" + body)


def write_history(file: Path, study: optuna.Study, space: Space) -> None:
    """Write one row for each trial that has ended, in their order."""
    rows = [_row(study, trial, space) for trial in finished(study)]
    write_atomically(file, pd.DataFrame(rows).to_csv(index=False))


def _row(study: optuna.Study, trial: FrozenTrial, space: Space) -> dict[str, Any]:
    reported = [trial.intermediate_values[step] for step in sorted(trial.intermediate_values)]
    values = {key: space.keys[key].value(drawn) for key, drawn in trial.params.items()}
    return {
        "trial": trial.number,
        "state": _NAMES[trial.state],
        "val/score": trial.value if trial.state == TrialState.COMPLETE else math.nan,
        "epochs": " ".join(f"{score:.4f}" for score in reported),
        "seconds": trial.user_attrs.get("seconds", math.nan),
        **{key: values.get(key, "") for key in space.keys},
        "as it stands": "yes" if AS_IT_STANDS in trial.user_attrs else "",
        "failure": trial.user_attrs.get(FAILURE, ""),
    }


_COLOURS = {"complete": "#0072b2", "pruned": "#999999", "failed": "#d55e00"}


def write_plot(file: Path, study: optuna.Study, space: Space) -> None:
    """Draw the scores of the trials in their order, and over each key that was searched."""
    from matplotlib.figure import Figure

    keys = list(space.keys)
    columns = min(3, 1 + len(keys))
    lines = math.ceil((1 + len(keys)) / columns)
    figure = Figure(figsize=(4.2 * columns, 3.2 * lines), layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False).ravel()
    points = [(t, _NAMES[t.state], _reached(t)) for t in finished(study)]
    _draw_order(axes[0], points)
    for axis, key in zip(axes[1:], keys, strict=False):
        _draw_key(axis, key, points, space)
    for axis in axes[1 + len(keys) :]:
        axis.set_axis_off()
    with replacing(file) as part:
        figure.savefig(part, format="png", dpi=120)


def _reached(trial: FrozenTrial) -> float:
    """Return a trial's score, of a pruned one the last that it reported."""
    if trial.state == TrialState.COMPLETE and trial.value is not None:
        return trial.value
    reported = trial.intermediate_values
    return reported[max(reported)] if reported and trial.state == TrialState.PRUNED else math.nan


Points = list[tuple[FrozenTrial, str, float]]


def _draw_order(axis: Any, points: Points) -> None:
    best = -math.inf
    line = []
    for number, (_, state, score) in enumerate(points, 1):
        best = max(best, score) if state == "complete" else best
        line.append(best if math.isfinite(best) else math.nan)
        if math.isnan(score):
            axis.axvline(number, color=_COLOURS[state], linestyle=":", linewidth=1)
    axis.step(range(1, len(line) + 1), line, where="post", color="#000000", linewidth=1)
    for state, colour in _COLOURS.items():
        shown = [(n, score) for n, (_, s, score) in enumerate(points, 1) if s == state]
        if shown:
            axis.scatter(*zip(*shown, strict=True), s=24, color=colour, label=state)
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.set(xlabel="trial", ylabel="val/score", title="best so far")
    axis.legend(fontsize=8)


def _draw_key(axis: Any, key: str, points: Points, space: Space) -> None:
    search = space.keys[key]
    for state, colour in _COLOURS.items():
        shown = [
            (search.value(trial.params[key]), score)
            for trial, s, score in points
            if s == state and key in trial.params and not math.isnan(score)
        ]
        values = [str(v) if search.choices is not None else v for v, _ in shown]
        axis.scatter(values, [score for _, score in shown], s=24, color=colour)
    if search.log:
        axis.set_xscale("log")
    if search.choices is None:
        axis.set_xlim(search.low, search.high)
        axis.margins(x=0)
    axis.set(xlabel=key, ylabel="val/score")
