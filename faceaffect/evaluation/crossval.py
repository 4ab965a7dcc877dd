"""All folds of a protocol, one after another, and their summary."""

import json
import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from faceaffect import registry
from faceaffect.data.base import create_data
from faceaffect.data.batch import FaceBatch
from faceaffect.errors import RecipeError
from faceaffect.evaluation.published import not_comparable, published
from faceaffect.files import write_atomically
from faceaffect.progress import console
from faceaffect.recipe import Recipe
from faceaffect.runs import processes
from faceaffect.runs.folder import new_folder
from faceaffect.runs.result import plain, read_result
from faceaffect.runs.train import matching_runs, train
from faceaffect.schema import LabelSchema
from faceaffect.scores.predictions import Outcome, Predictions, read_table


def crossval(recipe: Recipe, folds: Sequence[int] | None = None) -> Path:
    """Train and test every fold, or those asked for, and return the folder of the summary.

    A fold that a finished run of the same settings has done is taken from there, an interrupted
    one goes on.

    Args:
        recipe: a checked recipe whose protocol has folds.
        folds: numbers from 1; absent, all.

    Raises:
        RecipeError: the protocol has no folds, or a fold is out of range.
    """
    protocol, wanted = _folds(recipe, folds)
    processes.meet(recipe["trainer"])
    runs = []
    for fold in wanted:
        single = with_fold(recipe, protocol, fold)
        done = processes.of_first(partial(matching_runs, single, finished=True))
        console.print(f"fold {fold} of {wanted}: " + (f"done in {done[0]}" if done else "training"))
        runs.append(done[0] if done else train(single, resume=True))
    return processes.of_first(lambda: _write(recipe, summarise(runs)))


def _write(recipe: Recipe, summary: dict[str, Any]) -> Path:
    folder = new_folder(Path(recipe["output"]) / f"{recipe.name}-crossval")
    write_atomically(folder / "summary.json", json.dumps(plain(summary), indent=2))
    write_atomically(folder / "summary.md", markdown(summary))
    write_atomically(folder / "summary.tex", latex(summary))
    console.print(markdown(summary), markup=False)
    console.print(f"written to {folder}")
    return folder


def with_fold(recipe: Recipe, protocol: str, fold: int) -> Recipe:
    """Return the recipe with another fold of the protocol that it names or takes by default."""
    node = registry.as_node(recipe["data"].get("protocol") or protocol) | {"fold": fold}
    return recipe.changed(lambda s: s | {"data": s["data"] | {"protocol": node}})


def _folds(recipe: Recipe, asked: Sequence[int] | None) -> tuple[str, list[int]]:
    data = create_data(run_seed=recipe["seed"], **recipe["data"])
    name = data.split.info["name"]
    number = data.protocol.fold_count(data.dataset)
    if number < 2:
        raise RecipeError(f"data.protocol: '{name}' has no folds to cross")
    wrong = [fold for fold in asked or () if not 1 <= fold <= number]
    if wrong:
        raise RecipeError(f"--folds: {wrong} out of range; the protocol has folds 1 to {number}")
    return name, list(asked or range(1, number + 1))


def summarise(runs: Sequence[Path]) -> dict[str, Any]:
    """Return mean and spread over the runs' results, and metrics of their pooled samples.

    ``mean`` averages each metric over the folds where it is defined, ``std`` is the sample
    standard deviation (NaN for one fold), ``pooled`` is computed once over all samples.
    """
    results = [read_result(run) for run in runs]
    values = pd.DataFrame([r["metrics"] for r in results], dtype=float)
    trivial = pd.DataFrame([r["baselines"] for r in results], dtype=float)
    return {
        "recipe": results[0]["recipe"],
        "data": results[0]["data"]["name"],
        "protocol": results[0]["protocol"]["name"],
        "threshold": results[0]["notes"].get("threshold"),
        "folds": [r["protocol"].get("fold") for r in results],
        "runs": [str(run) for run in runs],
        "n": [r["n"] for r in results],
        "schema": results[0]["schema"],
        "mean": values.mean().to_dict(),
        "std": values.std().to_dict(),
        "pooled": pooled(runs, LabelSchema.from_dict(results[0]["scored"])),
        "baselines": trivial.mean().to_dict(),
        "per_fold": values.to_dict("list"),
        "selection": sorted({_selection(r) for r in results}),
    }


def pooled(runs: Sequence[Path], schema: LabelSchema) -> dict[str, float]:
    """Return the metrics over the samples of all runs together.

    Args:
        runs: folders with a ``predictions.csv``; a sample tested twice counts once.
        schema: names of the predictions' columns.
    """
    table = Predictions(schema)
    for run in runs:
        outcome = Outcome.read(read_table(run / "predictions.csv"), schema)
        subject = [outcome.people[number] for number in outcome.subject.tolist()]
        batch = FaceBatch(id=outcome.ids, subject=subject, **outcome.truth)  # type: ignore[typeddict-item]
        table.add(batch, outcome.answers | ({"text": outcome.texts} if outcome.texts else {}))
    return table.metrics()


def _selection(result: dict[str, Any]) -> str:
    """Return what the tested checkpoint was chosen on."""
    if result.get("checkpoint", {}).get("choose") == "last":
        return "nothing, the last epoch"
    return str(result["protocol"].get("selection"))


def _rows(summary: dict[str, Any]) -> list[tuple[str, float, float, float, float]]:
    return [
        (
            name,
            summary["mean"][name],
            summary["std"][name],
            summary["pooled"].get(name, math.nan),
            summary["baselines"].get(name, math.nan),
        )
        for name in sorted(summary["mean"], key=lambda name: ("/" in name, name.split("/")[0]))
    ]


def _aus(summary: dict[str, Any]) -> list[str]:
    return [f"AU{au}" for au in summary["schema"]["aus"]]


def markdown(summary: dict[str, Any]) -> str:
    """Return the summary as Markdown: all metrics, and per-AU F1 in the form that papers print.

    Beside it stand the published figures of the dataset, marked as quoted, or a line says why not.
    """
    folds = ", ".join(map(str, summary["folds"]))
    lines = [
        f"{summary['recipe']}, folds {folds}, {sum(summary['n'])} test samples, "
        f"checkpoint chosen on: {', '.join(summary['selection'])}",
        "",
        "| metric | mean of folds | std | pooled | trivial |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, *values in _rows(summary):
        lines.append(f"| {name} | " + " | ".join(_cell(v) for v in values) + " |")
    if _aus(summary):
        cells = [_percent(summary["mean"].get(f"au_f1/{au}", math.nan)) for au in _aus(summary)]
        cells.append(_percent(summary["mean"]["au_f1"]))
        header = [au.removeprefix("AU") for au in _aus(summary)]
        lines += [
            "",
            f"| AU F1 (%) | {' | '.join(header)} | avg |",
            "| --- " * (len(header) + 2) + "|",
            f"| {summary['recipe']} | {' | '.join(cells)} |",
        ]
        quoted, why_none = _quoted(summary)
        for method, values in quoted.items():
            lines.append(f"| {method} (quoted) | {' | '.join(f'{v:.1f}' for v in values)} |")
        lines += ["", why_none] if why_none else []
    return "\n".join(lines) + "\n"


def latex(summary: dict[str, Any]) -> str:
    """Return the summary as a LaTeX tabular: per-AU F1 if there are AUs, else all metrics.

    Published figures of the dataset come first, marked as quoted, or a comment says why not.
    """
    if not _aus(summary):
        rows = [
            " & ".join((_escape(n), _cell(m), _cell(s))) + r" \\" for n, m, s, *_ in _rows(summary)
        ]
        return (
            "\\begin{tabular}{lrr}\nmetric & mean & std \\\\\n"
            + "\n".join(rows)
            + "\n\\end{tabular}\n"
        )
    header = " & ".join(au.removeprefix("AU") for au in _aus(summary))
    cells = [_percent(summary["mean"].get(f"au_f1/{au}", math.nan)) for au in _aus(summary)]
    cells.append(_percent(summary["mean"]["au_f1"]))
    columns = "l" + "r" * len(cells)
    quoted, why_none = _quoted(summary)
    theirs = "".join(
        f"{_escape(method)} (quoted) & {' & '.join(f'{v:.1f}' for v in values)} \\\\\n"
        for method, values in quoted.items()
    )
    note = f"% {why_none}\n" if why_none else ""
    return (
        f"{note}\\begin{{tabular}}{{{columns}}}\nmethod & {header} & avg \\\\\n{theirs}"
        f"{_escape(summary['recipe'])} & {' & '.join(cells)} \\\\\n\\end{{tabular}}\n"
    )


def _quoted(summary: dict[str, Any]) -> tuple[dict[str, list[float]], str]:
    """Return the published rows that may stand beside a summary, or a sentence why there are none.

    Both are empty for a dataset without published rows.
    """
    data, aus = summary["data"], tuple(summary["schema"]["aus"])
    difference = not_comparable(
        data,
        aus,
        protocol=summary["protocol"],
        folds=summary["folds"],
        threshold=summary["threshold"],
    )
    if difference:
        return {}, f"Published figures are not shown: {difference}."
    return published(data, aus), ""


def _escape(name: str) -> str:
    return name.replace("_", r"\_")


def _cell(value: float) -> str:
    return "" if value != value else f"{value:.4f}"


def _percent(value: float) -> str:
    return "" if value != value else f"{100 * value:.1f}"
