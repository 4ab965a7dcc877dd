"""Compare: several models on the same samples, trained where they are not, in one report."""

import json
import shlex
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

import faceaffect
from faceaffect.data.base import FaceDataModule, create_data
from faceaffect.data.fingerprints import one_search
from faceaffect.data.truth import truth_table
from faceaffect.errors import DataError, FaceAffectError, RecipeError
from faceaffect.evaluation import agreement, report, statistics
from faceaffect.evaluation.assignments import assignments, over_assignments, reassigned
from faceaffect.evaluation.conditions import conditions, unequal_terms
from faceaffect.evaluation.costs import mean_of_each, measure_all
from faceaffect.evaluation.entrants import Entrant, find_entrants
from faceaffect.evaluation.fractions import at_fraction, check_people, curve, learns, ordered
from faceaffect.evaluation.gallery import disagreements, is_drawn
from faceaffect.evaluation.headlines import headlines
from faceaffect.evaluation.training import done, train_missing
from faceaffect.evaluation.tuning import tune_entrants
from faceaffect.progress import console
from faceaffect.runs import prepared, processes
from faceaffect.runs.folder import new_folder, read_made_of
from faceaffect.runs.limits import limits_of, partial_test
from faceaffect.runs.people import without_people
from faceaffect.runs.result import environment, plain, read_result
from faceaffect.scores.predictions import read_table


@one_search()
def compare(
    sources: Sequence[str],
    overrides: Sequence[str] = (),
    seeds: int = 1,
    output: Path | None = None,
    *,
    faces: bool = False,
    options: Sequence[str] = (),
    trials: int = 0,
    spaces: Sequence[Path] = (),
    repeats: int = 1,
    fractions: Sequence[float] = (),
    spreadsheet_safe: bool = False,
) -> Path:
    """Train what is not trained yet, test all on the same samples, and write one report.

    Everything that can be wrong with the comparison is looked for before the first training.
    Finished runs of the same recipe, data, weights and version are taken over, interrupted ones go
    on. A model that fails is left out, and the report says why.

    Args:
        sources: recipes, by name or path, and folders of finished runs.
        overrides: ``key=value``, for every recipe; of a run only its data may be placed anew.
        seeds: each recipe is trained with so many seeds, from its own on.
        output: folder of the report; absent, a new one in ``compare`` below the runs.
        faces: show pictures and names of real people in the report; drawn faces are always shown.
        options: further words of the command in the report: what was imported for own models, and
            what recipes may read of the environment.
        trials: search each recipe by so many trials, on the same validation people, before it is
            trained; 0 takes the recipes as they stand.
        spaces: files with the keys to search, each named by its model; absent, those that ship.
        repeats: train each model under so many assignments of people to folds, to see how much of
            a lead is luck of the split; intervals, tests and tables are of the first.
        fractions: train each model on these shares of the training part's people too; intervals,
            tests and tables are of the largest.
        spreadsheet_safe: as in :func:`~faceaffect.runs.train.train`.

    Returns:
        The folder of the report.

    Raises:
        FaceAffectError: the models do not answer the same questions about the same samples, none
            of them could be trained, or several processes were started.
    """
    processes.one_only("compare")
    if seeds < 1:
        raise RecipeError(f"--seeds: {seeds} is not positive")
    if not sources:
        raise RecipeError("compare: name at least one recipe or run folder")
    if fractions and repeats > 1:
        raise RecipeError("--fractions: not with --repeats; one of the two at a time")
    entrants = find_entrants(sources, overrides, seeds)
    shares = ordered(fractions, entrants)
    entrants = [at_fraction(entrant, shares[-1]) for entrant in entrants] if shares else entrants
    data, warnings = _agree(entrants)
    check_people(shares, data)
    assignments(entrants[0].placed, data.protocol, repeats)  # refused before anything is trained
    if output is not None:
        output.mkdir(parents=True, exist_ok=True)
    entrants, untuned = tune_entrants(entrants, trials, spaces, overrides)
    runs = {entrant.name: done(entrant) for entrant in entrants}
    _check_answers({n: [r for r in own if r] for n, own in runs.items()}, data)
    finished, failed = train_missing(entrants, runs, spreadsheet_safe)
    failed = untuned | failed
    tables = _check_answers(finished, data)
    others, lost = _other_assignments(entrants, finished, data, repeats, spreadsheet_safe)
    fewer, short = _fewer_people(entrants, finished, data, shares, spreadsheet_safe)
    described = _describe(entrants, finished, tables, data, pictures=faces or is_drawn(data))
    described |= {
        "assignments": others,
        "fractions": fewer,
        "command": _command(
            sources, overrides, seeds, trials, spaces, repeats, shares, faces, options
        ),
        "failed": failed,
    }
    described["warnings"] = (
        warnings + lost + short + described["warnings"] + report.doubtful(described)
    )
    described["words"] = report.words(described)
    folder = output or new_folder(Path(entrants[0].placed["output"]) / "compare")
    report.write_report(folder, plain(described))
    _say(described, folder)
    return folder


def _other_assignments(
    entrants: Sequence[Entrant],
    finished: Mapping[str, Sequence[Path]],
    data: FaceDataModule,
    repeats: int,
    spreadsheet_safe: bool,
) -> tuple[dict[str, Any] | None, list[str]]:
    """Train under the other assignments of people to folds too.

    Returns:
        The section of the report, None if there is one assignment; and who failed in another.
    """
    left = [entrant for entrant in entrants if entrant.name in finished]
    runs, lost = {name: [list(first)] for name, first in finished.items()}, []
    for number in range(1, repeats):
        console.print(f"assignment {number + 1} of {repeats} of people to folds")
        again = [reassigned(entrant, data.protocol, number) for entrant in left]
        ready = {entrant.name: done(entrant) for entrant in again}
        trained, failed = train_missing(again, ready, spreadsheet_safe)
        _check_answers(trained, create_data(**again[0].recipes[0]["data"]))
        lost += [f"{name} has no spread over assignments: {why}" for name, why in failed.items()]
        left = [entrant for entrant in left if entrant.name in trained]
        runs = {name: [*runs[name], list(own)] for name, own in trained.items()}
    if repeats == 1:
        return None, []
    return over_assignments(
        runs, [name for task in data.schema.tasks for name in headlines(task)]
    ), lost


def _fewer_people(
    entrants: Sequence[Entrant],
    finished: Mapping[str, Sequence[Path]],
    data: FaceDataModule,
    shares: Sequence[float],
    spreadsheet_safe: bool,
) -> tuple[dict[str, Any] | None, list[str]]:
    """Train on the smaller shares of people too.

    Returns:
        The section of the report, None without shares; and who failed at which.
    """
    if not shares:
        return None, []
    left = [entrant for entrant in entrants if entrant.name in finished]
    same = {e.name: finished[e.name] for e in left if not learns(e)}
    runs, lost = {shares[-1]: dict(finished)}, []
    for share in reversed(shares[:-1]):
        again = [at_fraction(entrant, share) for entrant in left if learns(entrant)]
        console.print(f"{share:g} of the training people")
        ready = {entrant.name: done(entrant) for entrant in again}
        try:
            trained, failed = train_missing(again, ready, spreadsheet_safe) if again else ({}, {})
        except FaceAffectError as error:  # of all; what the larger shares gave is not lost
            trained, failed = {}, dict.fromkeys(ready, str(error))
        _check_answers(trained, data)
        lost += [f"{n} has no value at {share:g} of the people: {w}" for n, w in failed.items()]
        runs[share] = same | trained
    metrics = [name for task in data.schema.tasks for name in headlines(task)]
    results = {
        share: {name: [read_result(run) for run in own] for name, own in of.items()}
        for share, of in sorted(runs.items())
    }
    return curve(results, metrics), lost


def _describe(
    entrants: Sequence[Entrant],
    runs: Mapping[str, Sequence[Path]],
    tables: dict[str, list[pd.DataFrame]],
    data: FaceDataModule,
    *,
    pictures: bool,
) -> dict[str, Any]:
    """Return statistics, cost and gallery of finished runs, with what they are about."""
    about = {e.name: _about(e, runs[e.name]) for e in entrants if e.name in runs}
    console.print("computing statistics")
    prepared.begin()  # for the costs
    first = next(iter(tables.values()))[0]
    baselines = next(iter(about.values()))["baselines"]
    analysis = statistics.analyse(
        tables, data.schema, baselines=baselines, attribute_names=data.dataset.attribute_names
    )
    costs, warnings = measure_all(entrants, runs)
    for name, model in analysis["models"].items():
        model |= about[name] | {"cost": costs[name]}
        _add_spoken(model, runs[name])
    recipe = entrants[0].placed
    return {
        "title": f"{', '.join(tables)} on {recipe['data']['name']}",
        "created": datetime.now(UTC).astimezone().isoformat(timespec="seconds"),
        "version": faceaffect.__version__,
        "schema": data.schema.to_dict(),
        "protocol": without_people(data.split.info),
        "data": recipe.stored["data"],
        "n": len(first),
        "subjects": int(first["subject"].nunique()),
        "seeds": sorted({recipe["seed"] for e in entrants for recipe in e.recipes}),
        "environment": environment(recipe["seed"]),
        "models": {name: analysis["models"][name] for name in tables},
        "pairs": analysis["pairs"],
        "warnings": unequal_terms(analysis["models"]) + analysis["warnings"] + warnings,
        "disagreements": disagreements(
            {name: own[0] for name, own in tables.items()}, data.schema, data, pictures=pictures
        ),
    }


def _agree(entrants: Sequence[Entrant]) -> tuple[FaceDataModule, list[str]]:
    """Return the data of all, and what may differ but should be known, after a look at the terms.

    Raises:
        DataError: models differ in data, labels or split; the message lists in what.
    """
    built: dict[str, FaceDataModule] = {}
    terms: dict[str, dict[str, Any]] = {}
    for entrant in entrants:
        if entrant.run is None:
            section = entrant.placed["data"]
            terms[entrant.name] = agreement.terms_of_data(
                entrant.placed.stored["data"], _build_once(built, section)
            )
        else:
            result, made = read_result(entrant.run), read_made_of(entrant.run)
            terms[entrant.name] = agreement.terms_of_result(result, made)
    if not built:  # runs only: what lies here now has to be what they were tested on
        section = entrants[0].placed["data"]
        here = agreement.terms_of_data(
            entrants[0].placed.stored["data"], _build_once(built, section)
        )
        terms["the data as it is here"] = here
    lines = agreement.differences(terms)
    if lines:
        raise DataError(
            "the models do not answer the same questions about the same samples:\n  "
            + "\n  ".join(lines)
            + "\nAn override (data.key=value) holds for every recipe"
        )
    return next(iter(built.values())), _known_differences(entrants)


def _build_once(built: dict[str, FaceDataModule], section: dict[str, Any]) -> FaceDataModule:
    key = json.dumps(section, sort_keys=True)
    if key not in built:
        built[key] = create_data(**section)
    return built[key]


def _known_differences(entrants: Sequence[Entrant]) -> list[str]:
    notes = []
    for key in agreement.HOW_IT_IS_READ:
        values = {
            e.name: {key: agreement.full_section(e.recipes[0].stored["data"])[key]}
            for e in entrants
        }
        if key not in ("num_workers", "batch_size", "on_error"):
            notes += [f"allowed to differ: data.{line}" for line in agreement.differences(values)]
    for entrant in entrants:
        notes += [
            f"{entrant.name}: trained with trainer.{key}={value}"
            for key, value in limits_of(entrant.recipes[0]["trainer"]).items()
        ]
        if entrant.run is None:
            continue
        version = read_result(entrant.run)["environment"]["versions"]["faceaffect"]
        if version != faceaffect.__version__:
            notes.append(f"{entrant.name}: a run of version {version}")
    return notes


def _check_answers(
    runs: Mapping[str, Sequence[Path]], data: FaceDataModule
) -> dict[str, list[pd.DataFrame]]:
    """Read the predictions of runs and see that they are complete and about strangers.

    Returns:
        For each model a table for each run, all of the same samples in the same order.

    Raises:
        DataError: a sample is missing, somebody was trained on, or the truth is another; the
            message lists it for each model.
    """
    truth, seen = truth_table(data), agreement.seen_people(data)
    tables: dict[str, list[pd.DataFrame]] = {name: [] for name in runs}
    wrong = []
    for name, run in ((name, run) for name, own in runs.items() for run in own):
        result, table = read_result(run), read_table(run / "predictions.csv")
        if partial := partial_test(result):
            wrong.append(f"{name} ({run}) is {partial}")
        found = agreement.table_problems(table, truth, data.schema, result["skipped"])
        found += agreement.leaks(table, result, seen)
        wrong += [f"{name} ({run}) {problem}" for problem in found]
        tables[name].append(table)
    wrong += _unequal(tables)
    if wrong:
        raise DataError("the comparison would not be fair:\n  " + "\n  ".join(wrong))
    return tables


def _unequal(tables: Mapping[str, Sequence[pd.DataFrame]]) -> list[str]:
    """Return who could not read a sample that others could."""
    every = {i for own in tables.values() for table in own for i in table["id"]}
    found = []
    for name, own in tables.items():
        missing = sorted({i for table in own for i in every - set(table["id"])})
        if missing:
            found.append(f"{name} could not read samples that others could: {missing[:3]}")
    return found


def _about(entrant: Entrant, runs: Sequence[Path]) -> dict[str, Any]:
    """Return what is known of a model from its runs."""
    results = [read_result(run) for run in runs]
    return {
        "recipe": entrant.recipes[0].name,
        "model": entrant.recipes[0]["model"],
        "runs": [str(run) for run in runs],
        "seeds": [result["environment"]["seed"] for result in results],
        "checkpoint": [result.get("checkpoint") for result in results],
        "terms": conditions(entrant.recipes[0], results),
        "skipped": max(len(result["skipped"]) for result in results),
        "baselines": mean_of_each(result["baselines"] for result in results),
    }


def _add_spoken(model: dict[str, Any], runs: Sequence[Path]) -> None:
    """Add the metrics of generated text, which are not in the table of predictions."""
    stored = [read_result(run)["metrics"] for run in runs]
    for name, value in mean_of_each(stored).items():
        if name.startswith("generated") and name not in model["metrics"]:
            model["metrics"][name] = value
            model["per_seed"][name] = [metrics.get(name) for metrics in stored]


def _command(
    sources: Sequence[str],
    overrides: Sequence[str],
    seeds: int,
    trials: int,
    spaces: Sequence[Path],
    repeats: int,
    shares: Sequence[float],
    faces: bool,
    options: Sequence[str],
) -> str:
    words = ["faceaffect", "compare", *sources, *overrides]
    words += ["--seeds", str(seeds)] if seeds > 1 else []
    words += ["--tune", str(trials)] if trials else []
    words += [word for space in spaces for word in ("--space", str(space))]
    words += ["--repeats", str(repeats)] if repeats > 1 else []
    words += ["--fractions", *(f"{share:g}" for share in shares)] if shares else []
    words += ["--faces"] if faces else []
    return shlex.join([*words, *options])


def _say(described: Mapping[str, Any], folder: Path) -> None:
    for line in described["words"]:
        console.print(line, markup=False)
    for name, reason in described["failed"].items():
        console.print(f"{name} failed: {reason}", markup=False)
    console.print(f"written to {folder}: report.html, report.json, report.md, report.tex")
