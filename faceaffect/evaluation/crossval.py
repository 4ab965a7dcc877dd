"""All folds of a protocol, one after another, and their summary."""

import json
import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from faceaffect.data.base import FaceDataModule, create_data
from faceaffect.data.batch import FaceBatch
from faceaffect.errors import DataError, RecipeError
from faceaffect.evaluation.assignments import assignments, with_protocol
from faceaffect.evaluation.published import NOISE_FLOOR, READ_SPREAD, not_comparable, published
from faceaffect.evaluation.tables import escape, md
from faceaffect.files import write_atomically
from faceaffect.progress import console
from faceaffect.recipe import Recipe
from faceaffect.runs import processes
from faceaffect.runs.folder import new_folder
from faceaffect.runs.limits import partial_test, refuse_partial_test
from faceaffect.runs.result import plain, read_result
from faceaffect.runs.train import matching_runs, train
from faceaffect.schema import LabelSchema
from faceaffect.scores.predictions import Outcome, Predictions, read_table


def crossval(
    recipe: Recipe,
    folds: Sequence[int] | None = None,
    *,
    repeats: int = 1,
    spreadsheet_safe: bool = False,
) -> Path:
    """Train and test every fold, or those asked for, and return the folder of the summary.

    A fold that a finished run of the same settings has done is taken from there, an interrupted
    one goes on.

    Args:
        recipe: a checked recipe whose protocol has folds.
        folds: numbers from 1; absent, all.
        repeats: so many assignments of people to folds, by the seeds of the protocol from its own
            on; what a metric varies between them is luck of the split.
        spreadsheet_safe: as in :func:`~faceaffect.runs.train.train`.

    Raises:
        RecipeError: the protocol has no folds or but one assignment, or a fold is out of range.
    """
    refuse_partial_test(recipe["trainer"])
    data = create_data(run_seed=recipe["seed"], **recipe["data"])
    singles = [
        with_protocol(assigned, data.protocol.name, fold=fold)
        for assigned in assignments(recipe, data.protocol, repeats)
        for fold in _folds(data, folds)
    ]
    processes.meet(recipe["trainer"])
    runs = []
    for number, single in enumerate(singles, 1):
        done = processes.of_first(partial(matching_runs, single, finished=True))
        where = f"fold {single['data']['protocol']['fold']} ({number} of {len(singles)} trainings)"
        console.print(f"{where}: " + (f"done in {done[0]}" if done else "training"))
        runs += done[:1] or [train(single, resume=True, spreadsheet_safe=spreadsheet_safe)]
    return processes.of_first(lambda: _write(recipe, summarise(runs)))


def _write(recipe: Recipe, summary: dict[str, Any]) -> Path:
    folder = new_folder(Path(recipe["output"]) / f"{recipe.name}-crossval")
    write_atomically(folder / "summary.json", json.dumps(plain(summary), indent=2))
    write_atomically(folder / "summary.md", markdown(summary))
    write_atomically(folder / "summary.tex", latex(summary))
    console.print(markdown(summary))
    console.print(f"written to {folder}")
    return folder


def _folds(data: FaceDataModule, asked: Sequence[int] | None) -> list[int]:
    number = data.protocol.fold_count(data.dataset)
    if number < 2:
        raise RecipeError(f"data.protocol: '{data.protocol.name}' has no folds to cross")
    wrong = [fold for fold in asked or () if not 1 <= fold <= number]
    if wrong:
        raise RecipeError(f"--folds: {wrong} out of range; the protocol has folds 1 to {number}")
    return list(asked or range(1, number + 1))


def summarise(runs: Sequence[Path]) -> dict[str, Any]:
    """Return mean and spread over the runs' results, and metrics of their pooled samples.

    ``mean`` averages each metric over the folds where it is defined, ``std`` is the sample
    standard deviation over them (NaN for one fold), ``pooled`` is computed once over all samples.
    Of several assignments of people to folds, which the protocol's seed tells apart, ``mean``
    and ``pooled`` are means, and ``spread`` is the sample standard deviation of the means over the
    folds of each (``per_assignment``).

    Raises:
        DataError: a run did not test all of its fold.
    """
    results = [read_result(run) for run in runs]
    for run, result in zip(runs, results, strict=True):
        if partial := partial_test(result):
            raise DataError(f"{run} is {partial}; remove it to test that fold whole")
    values = pd.DataFrame([r["metrics"] for r in results], dtype=float)
    trivial = pd.DataFrame([r["baselines"] for r in results], dtype=float)
    seeds = [r["protocol"].get("seed") or 0 for r in results]
    of_assignment = values.groupby(seeds).mean()
    scored = LabelSchema.from_dict(results[0]["scored"])
    together = [
        pooled([run for run, own in zip(runs, seeds, strict=True) if own == seed], scored)
        for seed in of_assignment.index
    ]
    return {
        "recipe": results[0]["recipe"],
        "data": results[0]["data"]["name"],
        "protocol": results[0]["protocol"]["name"],
        "threshold": results[0]["notes"].get("threshold"),
        "folds": list(dict.fromkeys(r["protocol"].get("fold") for r in results)),
        "tested": [r["protocol"].get("tested") for r in results],
        "assignments": of_assignment.index.tolist(),
        "runs": [str(run) for run in runs],
        "n": [r["n"] for r in results],
        "schema": results[0]["schema"],
        "mean": of_assignment.mean().to_dict(),
        "std": values.std().to_dict(),
        "spread": of_assignment.std().to_dict(),
        "pooled": pd.DataFrame(together, dtype=float).mean().to_dict(),
        "baselines": trivial.mean().to_dict(),
        "per_fold": values.to_dict("list"),
        "per_assignment": of_assignment.to_dict("list"),
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


def _rows(summary: dict[str, Any]) -> list[list[str]]:
    """Return name, mean, deviation, spread if there is one, pooled and trivial of each metric."""
    keys = ["mean", "std", *(["spread"] if _repeated(summary) else []), "pooled", "baselines"]
    return [
        [name, *(_cell(summary[key].get(name, math.nan)) for key in keys)]
        for name in sorted(summary["mean"], key=lambda name: ("/" in name, name.split("/")[0]))
    ]


def _repeated(summary: dict[str, Any]) -> bool:
    return len(summary["assignments"]) > 1


def _au_rows(summary: dict[str, Any]) -> list[tuple[str, list[str]]]:
    """Return mean F1 and mean AUC of each AU and of all, in percent, as papers print them."""
    rows = []
    for title, metric in (("F1", "au_f1"), ("AUC", "au_auroc")):
        names = [*(f"{metric}/AU{au}" for au in summary["schema"]["aus"]), metric]
        rows.append((title, [_percent(summary["mean"].get(name, math.nan)) for name in names]))
    return rows if summary["schema"]["aus"] else []


def markdown(summary: dict[str, Any]) -> str:
    """Return the summary as Markdown: all metrics, and per-AU F1 in the form that papers print.

    Beside it stand the published figures of the dataset, marked as quoted, or a line says why not.
    """
    folds, each = ", ".join(map(str, summary["folds"])), len(summary["assignments"])
    spread = "| spread of assignments " if _repeated(summary) else ""
    header = f"| metric | mean of folds | std {spread}| pooled | trivial |"
    lines = [
        f"{md(summary['recipe'])}, folds {folds}, {sum(summary['n']) // each} test samples, "
        f"checkpoint chosen on: {', '.join(summary['selection'])}",
        "",
        *_about_assignments(summary),
        header,
        "| --- " * (header.count("|") - 1) + "|",
        *(f"| {md(name)} | {' | '.join(cells)} |" for name, *cells in _rows(summary)),
        *_datasets(summary),
    ]
    for title, cells in _au_rows(summary):
        aus = [str(au) for au in summary["schema"]["aus"]]
        lines += [
            "",
            f"| AU {title} (%) | {' | '.join(aus)} | avg |",
            "| --- " * (len(aus) + 2) + "|",
            f"| {'AUC of ' * (title == 'AUC')}{md(summary['recipe'])} | {' | '.join(cells)} |",
        ]
        quoted, why_none = _quoted(summary) if title == "F1" else ({}, "")
        for method, values in quoted.items():
            lines.append(f"| {method} (quoted) | {' | '.join(f'{v:.1f}' for v in values)} |")
        lines += ["", why_none] if why_none else []
    return "\n".join(lines) + "\n"


def _datasets(summary: dict[str, Any]) -> list[str]:
    """Return a table of the datasets that were left out, none unless that is the protocol."""
    if None in summary["tested"]:
        return []
    shown = [name for name in _OF_DATASETS if name in summary["per_fold"]]
    lines = ["", f"| left out | samples | {' | '.join(shown)} |", "| --- " * (len(shown) + 2) + "|"]
    for i, name in enumerate(summary["tested"]):
        cells = [_cell(summary["per_fold"][metric][i]) for metric in shown]
        lines.append(f"| {md(name)} | {summary['n'][i]} | {' | '.join(cells)} |")
    return lines


_OF_DATASETS = ("au_f1", "au_auroc", "expression_war", "expression_uar", "va_ccc")


def _about_assignments(summary: dict[str, Any]) -> list[str]:
    """Say how much of a figure is the luck of who was in which fold, as far as that is known."""
    if _repeated(summary):
        number = len(summary["assignments"])
        return [
            f"{number} assignments of people to folds; their spread is the standard deviation of "
            f"the means over folds. {READ_SPREAD}",
            "",
        ]
    if summary["schema"]["aus"] and len(summary["folds"]) == 3:
        return [f"One assignment of people to folds. {NOISE_FLOOR}", ""]
    return []


def latex(summary: dict[str, Any]) -> str:
    """Return the summary as a LaTeX tabular: per-AU F1 if there are AUs, else all metrics.

    Published figures of the dataset come first, marked as quoted, or a comment says why not.
    """
    name = escape(summary["recipe"])
    if not summary["schema"]["aus"]:
        rows = [" & ".join((escape(n), m, s)) + r" \\" for n, m, s, *_ in _rows(summary)]
        return (
            "\\begin{tabular}{lrr}\nmetric & mean & std \\\\\n"
            + "\n".join(rows)
            + "\n\\end{tabular}\n"
        )
    header = " & ".join(map(str, summary["schema"]["aus"]))
    (_, f1), (_, auc) = _au_rows(summary)
    quoted, why_none = _quoted(summary)
    theirs = "".join(
        f"{escape(method)} (quoted) & {' & '.join(f'{v:.1f}' for v in values)} \\\\\n"
        for method, values in quoted.items()
    )
    note = f"% {' '.join(why_none.split())}\n" if why_none else ""
    return (
        f"{note}\\begin{{tabular}}{{l{'r' * len(f1)}}}\nmethod & {header} & avg \\\\\n{theirs}"
        f"{name} & {' & '.join(f1)} \\\\\n"
        f"AUC of {name} & {' & '.join(auc)} \\\\\n\\end{{tabular}}\n"
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


def _cell(value: float) -> str:
    return "" if value != value else f"{value:.4f}"


def _percent(value: float) -> str:
    return "" if value != value else f"{100 * value:.1f}"
