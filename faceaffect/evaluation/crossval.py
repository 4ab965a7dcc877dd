"""All folds of a protocol, one after another, and their summary."""

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from faceaffect.data.base import FaceDataModule, create_data
from faceaffect.data.batch import FaceBatch
from faceaffect.data.fingerprints import one_search
from faceaffect.errors import DataError, RecipeError
from faceaffect.evaluation.assignments import assignments, with_protocol
from faceaffect.evaluation.summary import latex, markdown
from faceaffect.files import write_together
from faceaffect.progress import console
from faceaffect.recipe import Recipe
from faceaffect.runs import processes
from faceaffect.runs.folder import new_folder
from faceaffect.runs.launch import check_part
from faceaffect.runs.limits import partial_test, refuse_partial_test
from faceaffect.runs.result import plain, read_result
from faceaffect.runs.train import matching_runs, train
from faceaffect.schema import LabelSchema
from faceaffect.scores.predictions import Outcome, Predictions, read_table


@one_search()
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
    singles = trainings(recipe, folds, repeats)
    processes.meet(recipe["trainer"])
    runs = []
    for number, single in enumerate(singles, 1):
        done = processes.of_first(partial(matching_runs, single, finished=True))
        where = f"fold {single['data']['protocol']['fold']} ({number} of {len(singles)} trainings)"
        console.print(f"{where}: " + (f"done in {done[0]}" if done else "training"))
        runs += done[:1] or [train(single, resume=True, spreadsheet_safe=spreadsheet_safe)]
    return processes.of_first(lambda: _write(recipe, summarise(runs)))


@one_search()
def train_part(
    recipe: Recipe, folds: Sequence[int] | None, repeats: int, part: int, spreadsheet_safe: bool
) -> None:
    """Do one training of a cross-validation, counted from 1, if it is not done yet.

    Raises:
        RecipeError: there is no such part.
    """
    singles = trainings(recipe, folds, repeats)
    check_part(part, len(singles))
    if not matching_runs(singles[part - 1], finished=True):
        train(singles[part - 1], resume=True, spreadsheet_safe=spreadsheet_safe)


def trainings(recipe: Recipe, folds: Sequence[int] | None, repeats: int) -> list[Recipe]:
    """Return the recipe of each training of a cross-validation; see :func:`crossval`."""
    refuse_partial_test(recipe["trainer"])
    data = create_data(run_seed=recipe["seed"], **recipe["data"])
    return [
        with_protocol(assigned, data.protocol.name, fold=fold)
        for assigned in assignments(recipe, data.protocol, repeats)
        for fold in _folds(data, folds)
    ]


def _write(recipe: Recipe, summary: dict[str, Any]) -> Path:
    text = markdown(summary)
    folder = new_folder(Path(recipe["output"]) / f"{recipe.name}-crossval")
    write_together(
        folder,
        {
            "summary.md": text,
            "summary.tex": latex(summary),
            "summary.json": json.dumps(summary, indent=2, allow_nan=False),
        },
    )
    console.print(text, markup=False)
    console.print(f"written to {folder}", markup=False)
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
    standard deviation over them (None for one fold), ``pooled`` is computed once over all samples.
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
    summary = {
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
    plainly: dict[str, Any] = plain(summary)
    return plainly


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
