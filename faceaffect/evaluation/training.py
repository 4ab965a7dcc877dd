"""The trainings of a comparison: what is done is taken over, what is missing is trained."""

import gc
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from faceaffect.errors import REFUSING, FaceAffectError
from faceaffect.evaluation.entrants import Entrant
from faceaffect.progress import console
from faceaffect.runs.launch import check_part
from faceaffect.runs.train import matching_runs, train


def done(entrant: Entrant) -> list[Path | None]:
    """Return, for each seed, the finished run to take over, None where there is none."""
    if entrant.run is not None:
        return [entrant.run]
    return [next(iter(matching_runs(r, finished=True)), None) for r in entrant.recipes]


def train_part(entrants: Sequence[Entrant], part: int, spreadsheet_safe: bool) -> None:
    """Do one training of a comparison, if it is not done yet.

    Args:
        entrants: the models.
        part: which training, from 1, in the order of the models and their seeds.
        spreadsheet_safe: as in :func:`~faceaffect.runs.train.train`.

    Raises:
        FaceAffectError: there is no such part, or it failed.
    """
    recipes = [recipe for entrant in entrants if entrant.run is None for recipe in entrant.recipes]
    check_part(part, len(recipes))
    recipe = recipes[part - 1]
    if not matching_runs(recipe, finished=True):
        train(recipe, resume=True, spreadsheet_safe=spreadsheet_safe)


def train_missing(
    entrants: Sequence[Entrant],
    runs: Mapping[str, Sequence[Path | None]],
    spreadsheet_safe: bool,
) -> tuple[dict[str, list[Path]], dict[str, str]]:
    """Train what is missing, and return the runs of each model and why models failed.

    Raises:
        FaceAffectError: all models failed.
        OSError: the disk takes nothing.
    """
    safe = {"spreadsheet_safe": spreadsheet_safe}
    finished: dict[str, list[Path]] = {}
    failed: dict[str, str] = {}
    left = _Estimate(sum(run is None for own in runs.values() for run in own))
    for number, entrant in enumerate(entrants, 1):
        own: list[Path] = []
        for recipe, run in zip(entrant.recipes, runs[entrant.name], strict=True):
            where = f"model {number} of {len(entrants)}, {entrant.name}, seed {recipe['seed']}"
            if run is not None:
                console.print(f"{where}: done in {run}", markup=False)
                own.append(run)
                continue
            console.print(f"{where}: training{left}", markup=False)
            try:
                own.append(train(recipe, resume=True, brief=True, **safe))
            except Exception as error:
                if isinstance(error, OSError) and error.errno in REFUSING:
                    raise  # no model is to blame for the disk
                reason = str(error) if isinstance(error, FaceAffectError) else repr(error)
                failed[entrant.name] = f"seed {recipe['seed']}: {reason}"
                console.print(f"{entrant.name} failed, the others go on: {reason}", markup=False)
                if not isinstance(error, FaceAffectError):
                    console.print_exception(max_frames=8)
                break
            finally:
                left.count()
                _clean_up()
        else:
            finished[entrant.name] = own
    if not finished:
        lines = "\n  ".join(f"{name}, {reason}" for name, reason in failed.items())
        raise FaceAffectError(f"no model is left to compare:\n  {lines}")
    return finished, failed


def _clean_up() -> None:
    """Free what a training leaves in cycles: trainer, model and the processes that read data."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


class _Estimate:
    """Time left for the whole, from the trainings so far."""

    def __init__(self, trainings: int) -> None:
        self._wanted, self._count, self._start = trainings, 0, time.monotonic()

    def count(self) -> None:
        self._count += 1

    def __str__(self) -> str:
        if not self._count:
            return f" ({self._wanted} trainings in all)"
        spent = time.monotonic() - self._start
        seconds = spent / self._count * (self._wanted - self._count)
        return f" ({self._count} of {self._wanted} trainings done, about {seconds:.0f} s left)"
