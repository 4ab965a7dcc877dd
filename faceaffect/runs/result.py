"""What a run leaves behind: metrics, trivial baselines, split, cost, unreadable files, versions."""

import json
import math
import re
import subprocess
import sys
from collections import Counter
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import lightning as L
import torch
import torch.distributed as dist

import faceaffect
from faceaffect import hardware
from faceaffect.data.base import FaceDataModule
from faceaffect.data.protocols import SIDES
from faceaffect.errors import DataError, SchemaError, shown
from faceaffect.files import read_json, write_atomically
from faceaffect.module import AffectModule, FaceModule
from faceaffect.networks.provenance import started_from
from faceaffect.optim import muon_dtype
from faceaffect.progress import console, result_table
from faceaffect.recipe import Recipe
from faceaffect.runs import cost
from faceaffect.runs.limits import limits_of
from faceaffect.runs.people import people_section, without_people
from faceaffect.runs.uses import faces_scored
from faceaffect.schema import LabelSchema
from faceaffect.scores.metrics import absent, trivial_baselines
from faceaffect.scores.predictions import Predictions

RESULT = "metrics.json"
"""The file that is written last: a run folder that has it is finished."""

_WHERE_NAMES_ARE = (
    "predictions.csv holds the ids and people of the data as they are, and 'skipped' and 'notes' "
    "name files: remove names before you pass these on"
)


def write_result(
    folder: Path,
    recipe: Recipe,
    data: FaceDataModule,
    model: FaceModule,
    trainer: L.Trainer,
    spent: dict[str, float],
    extra: dict[str, Any] | None = None,
    *,
    brief: bool = False,
    spreadsheet_safe: bool = False,
) -> None:
    """Write ``predictions.csv`` and, last of all, ``metrics.json``, and print the metrics.

    Args:
        folder: the run folder.
        recipe: what was run.
        data: the data it was tested on.
        model: after the test.
        trainer: that tested it; every process has to call this, the first writes.
        spent: what else belongs to the cost, for instance ``training_seconds``.
        extra: further sections of the result.
        brief: print no metrics of single AUs and classes.
        spreadsheet_safe: write no text that a spreadsheet would compute.
    """
    skipped = _skipped(data)
    if not trainer.is_global_zero:
        return
    result: dict[str, Any] = {
        "model": recipe.stored["model"],
        "recipe": recipe.name,
        "data": recipe.stored["data"],
        "schema": data.schema.to_dict(),
        "protocol": without_people(data.split.info),
        "people": people_section(data.split.info, names=recipe["subject_names"]),
        "names": _WHERE_NAMES_ARE,
        "precision": _precision(recipe, model),
        "started_from": started_from(model),
        "tuned": recipe["tuned"] or None,
        **(extra or {}),
    }
    if isinstance(model, AffectModule):
        predictions = model.predictions
        assert predictions is not None
        seen = _seen(data, predictions, skipped)
        predictions.write(
            folder / "predictions.csv",
            data.dataset.attribute_names,
            spreadsheet_safe=spreadsheet_safe,
        )
        statistics = model.statistics or data.statistics()
        scored = predictions.schema
        result |= {
            "scored": scored.to_dict(),
            "not_scored": data.schema.difference(model.schema, ("data", "model")),
            "n": predictions.known(),
            "partial": seen,
            "absent": absent(scored, predictions.batch()),
            "metrics": predictions.metrics(),
            "baselines": trivial_baselines(scored, statistics, predictions.batch()),
            "unanswered": predictions.unanswered(),
            "answering": model.answering(),
            "cost": _cost(model, data) | spent,
        }
        table = result_table(
            f"{recipe.name}: {_partial(seen)}"
            + faces_scored(result["n"], len(predictions), model.schema, data.schema),
            {k: v for k, v in result["metrics"].items() if not (brief and "/" in k)},
            result["baselines"],
        )
    else:
        values = {k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("test/")}
        result |= {
            "metrics": {k.removeprefix("test/"): v for k, v in values.items()},
            "cost": spent,
        }
        table = result_table(recipe.name, result["metrics"], {})
    result |= {
        "limits": limits_of(recipe["trainer"]),
        "skipped": skipped,
        "left_out": data.dataset.left_out,
        "notes": data.dataset.notes,
        "environment": environment(recipe["seed"]),
    }
    write_atomically(folder / RESULT, json.dumps(plain(result), indent=2, allow_nan=False))
    console.print(table)
    if result.get("unanswered"):
        console.print(f"{result['unanswered']} samples have no answer, which counts as wrong")
    if result.get("absent"):
        console.print(f"never in the truth of this test: {', '.join(result['absent'])}")
    if skipped:
        console.print(f"{len(skipped)} samples could not be read and were left out; see {RESULT}")
    console.print(f"written to {folder}")


def _precision(recipe: Recipe, model: FaceModule) -> dict[str, Any]:
    """Return in which precision was computed, why, and how many weights have which float type."""
    weights = Counter(str(p.dtype).removeprefix("torch.") for p in model.parameters())
    found = hardware.precision_for(recipe["trainer"]).to_dict() | {"weights": dict(weights)}
    if "muon" in recipe["optim"].get("name", ""):
        found["iterations of Muon"] = str(muon_dtype(model.device)).removeprefix("torch.")
    return found


def _cost(model: AffectModule, data: FaceDataModule) -> dict[str, Any]:
    """Return what a model costs; of one that computes nothing here that is unknown."""
    if model.has_cost:
        return cost.measure(model, data.image_size, data.batch_size)
    return {"device": None, "training_seconds": None}


_TEXT, _COUNT, _TABLE = (str, type(None)), (int, type(None)), (dict, type(None))


def _is_number(value: Any) -> bool:
    """Return whether a value is None or one that a float can hold."""
    return value is None or (
        isinstance(value, (int, float)) and not abs(value) > sys.float_info.max
    )


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _is_salt(value: Any) -> bool:
    hexadecimal = isinstance(value, str) and re.fullmatch("([0-9a-f]{2}){1,64}", value)
    return value is None or bool(hexadecimal)


def _is_lessons(value: Any) -> bool:
    keys = ("weights", "data", "labels")
    return isinstance(value, list) and all(
        isinstance(item, dict) and all(isinstance(item.get(key), str) for key in keys)
        for item in value
    )


_NEEDED: dict[str, Any] = {
    "recipe": str, "data.name": str, "schema": dict, "notes": dict, "skipped": dict, "cost": dict,
    "metrics": dict, "environment.seed": int, "environment.versions.faceaffect": str,
    "protocol.name": str, "protocol.fold": _COUNT, "protocol.folds": int,
    "protocol.selection": _TEXT,
    **{f"protocol.sizes.{side}": int for side in SIDES},
    **{f"protocol.sha256.{side}": str for side in SIDES},
}  # fmt: skip
_OF_ANSWERS: dict[str, Any] = {"n": int, "scored": dict, "baselines": dict}
_OPTIONAL: dict[str, Any] = {
    "checkpoint": dict, "training": _TABLE, "training.epochs": _is_number,
    "started_from": _is_lessons, "tuned": _TABLE, "tuned.chosen": _TABLE, "tuned.trials": _COUNT,
    **{f"tuned.{key}": _is_number for key in ("lowest", "median", "score")},
    "cost.training_seconds": _is_number, "cost.device": _TEXT, "protocol.seed": _COUNT,
    "protocol.tested": _TEXT, "notes.threshold": _is_number, "limits": dict,
    "partial": _TABLE, "partial.seen": int, "partial.of": int,
    "people": dict, "people.salt": _is_salt, **{f"people.{side}": _is_texts for side in SIDES},
}  # fmt: skip
"""What has to stand in a result, and of what kind each entry is that anything is made of."""


def read_result(folder: Path) -> dict[str, Any]:
    """Return what :func:`write_result` wrote of a finished run, which may be a stranger's.

    Raises:
        DataError: it is damaged, or lacks what a result has.
    """
    file = folder / RESULT
    try:
        result: dict[str, Any] = read_json(file.read_bytes())
    except ValueError as error:
        raise DataError(f"{file}: not readable: {error}") from None
    needed = _NEEDED | (_OF_ANSWERS if isinstance(result, dict) and "n" in result else {})
    kinds = needed | _OPTIONAL
    kinds |= {f"{table}/{key}": _is_number for table in ("metrics", "baselines")
              for key in _names(result, table)}  # fmt: skip
    for path, kind in kinds.items():
        value, name = _at(result, path), path.replace("/", ".")
        if value is _ABSENT and path in needed:
            raise DataError(f"{file}: not a result of a run: {name} is not there")
        fits = isinstance(value, kind) if isinstance(kind, (type, tuple)) else kind(value)
        if not fits and value is not _ABSENT:
            raise DataError(f"{file}: not a result of a run: {name} is {shown(value)}")
    try:
        for schema in ("schema", *(("scored",) if "n" in result else ())):
            LabelSchema.from_dict(result[schema])
    except (SchemaError, TypeError) as error:
        raise DataError(f"{file}: {schema}: {error}") from None
    return result


_ABSENT = object()


def _at(result: Any, path: str) -> Any:
    """Return what stands at a path; names of metrics, which hold anything, follow a slash."""
    table, slash, name = path.partition("/")
    for key in (*table.split("."), *((name,) if slash else ())):
        result = result.get(key, _ABSENT) if isinstance(result, dict) else _ABSENT
    return result


def _names(result: Any, table: str) -> list[str]:
    found = result.get(table) if isinstance(result, dict) else None
    return list(found) if isinstance(found, dict) else []


def _seen(
    data: FaceDataModule, predictions: Predictions, skipped: dict[str, str]
) -> dict[str, int] | None:
    """Return how many samples of the test part were looked at, None if all were.

    One that could not be read was looked at; one in a batch that the trainer passed over was not.
    """
    wanted = set(data.dataset.samples.id[data.split.test].tolist())
    left = len(wanted - set(predictions.id) - set(skipped))
    return {"seen": len(wanted) - left, "of": len(wanted)} if left else None


def _partial(seen: dict[str, int] | None) -> str:
    return f"PARTIAL TEST of {seen['seen']} samples of {seen['of']}: " if seen else ""


def _skipped(data: FaceDataModule) -> dict[str, str]:
    """Return the unreadable samples of all processes."""
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return data.skipped
    tables: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(tables, data.skipped)
    return {name: reason for table in tables for name, reason in table.items()}


def plain(value: Any) -> Any:
    """Return nested values ready for JSON: None, which it has, for NaN, which it has not."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def environment(seed: int) -> dict[str, Any]:
    """Return versions, seed and, if the package runs from a git checkout, its revision."""
    packages = (
        "torch",
        "lightning",
        "timm",
        "transformers",
        "peft",
        "torchmetrics",
        "albumentations",
    )
    versions = {"faceaffect": faceaffect.__version__}
    for package in packages:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return {
        "versions": versions,
        "seed": seed,
        "git": _git_revision(),
        "threads": torch.get_num_threads(),
    }


def _git_revision() -> str | None:
    root = Path(faceaffect.__file__).parents[1]
    if not (root / ".git").exists():  # else git would find the repository around an installation
        return None
    command = ["git", "-C", str(root), "rev-parse", "HEAD"]
    try:
        answer = subprocess.run(
            command, capture_output=True, encoding="utf-8", timeout=5, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() or None
