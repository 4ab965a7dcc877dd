"""Tune: search a recipe's settings by trials that are scored on the validation part alone."""

import gc
import hashlib
import json
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import optuna
import torch
from omegaconf import OmegaConf
from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.pruners import MedianPruner
from optuna.samplers import TPESampler

from faceaffect.data.base import FaceDataModule
from faceaffect.data.fingerprints import one_search
from faceaffect.errors import CheckpointError, DataError, FaceAffectError, RecipeError
from faceaffect.files import write_atomically
from faceaffect.progress import console
from faceaffect.recipe import Recipe
from faceaffect.runs.calls import quiet
from faceaffect.runs.folder import made_of
from faceaffect.runs.frozen import FrozenFeatures
from faceaffect.runs.history import summary, write_best, write_history, write_plot
from faceaffect.runs.result import plain
from faceaffect.runs.space import Space, load_space, with_values
from faceaffect.runs.study import (
    AS_IT_STANDS,
    DROPPED,
    FAILURE,
    Worker,
    complete,
    finished,
    open_storage,
    position,
    queue_as_it_stands,
    revive,
    running,
    sqlite,
    superfluous,
)
from faceaffect.runs.train import build
from faceaffect.runs.trainer import one_device
from faceaffect.runs.trial import fit

STARTUP = 5
"""Trials, the recipe as it stands among them, before the sampler takes what it has seen."""

_OURS = (DataError, CheckpointError, OSError, StorageInternalError)
"""Errors that no setting of a trial is to blame for: they end the search, and it can go on."""


@dataclass(frozen=True)
class Tuning:
    """A search that has come to its end.

    Attributes:
        folder: where best recipe, history, plot and, by default, the trials lie.
        recipe: the best one found, which may be the recipe as it stood.
        file: the best recipe.
    """

    folder: Path
    recipe: Recipe
    file: Path


class _Failed(Exception):
    """A trial failed by itself, which is noted on it."""


class _Dropped(Exception):
    """A trial was begun once too often."""


@one_search()
def tune(
    recipe: Recipe,
    space_file: str | Path | None = None,
    *,
    trials: int = 16,
    storage: str | None = None,
    command: str = "",
) -> Tuning:
    """Search settings for a recipe, and write the best recipe, the history and a plot.

    The same search again goes on where it was interrupted, and several processes or machines that
    share a storage share the trials. Nothing is read of the test part.

    Args:
        recipe: a checked recipe; it is the first trial.
        space_file: the keys to search; absent, the space that ships for the model.
        trials: how many trials have to have ended, pruned and failed ones among them.
        storage: URL of a database of Optuna; absent, an SQLite file in the folder.
        command: how the search was started, for the head of the best recipe.

    Raises:
        FaceAffectError: recipe, space or storage are wrong, or no trial came to its end.
    """
    if trials < 1:
        raise RecipeError(f"--trials: {trials} is not positive")
    space = load_space(recipe, space_file)
    one_device(recipe, "tune")
    data, model = build(recipe)
    _check_split(data)
    name = f"{recipe.name}-{_digest(recipe, space, made_of(data, model, recipe))}"
    del model
    folder = _open_folder(Path(recipe["output"]) / "tune" / name, recipe, space)
    study = _open_study(name, storage or sqlite(folder / "study.db"), recipe)
    search = _Search(recipe, space, data, study, folder, trials, command)
    with _quiet_optuna(), warnings.catch_warnings():
        quiet()
        try:
            search.run()
            return search.result()
        except (StorageInternalError, AssertionError) as error:
            # Optuna asserts the state of a trial whose storage failed, and so hides that failure.
            failure = _storage_failure(error)
            if failure is None:
                raise
            raise FaceAffectError(
                f"the storage of the trials failed: {_line(failure)}. The same command goes on "
                "after the trials that it has"
            ) from None


def _storage_failure(error: BaseException | None) -> BaseException | None:
    """Return what the database said, None if the error does not come from it."""
    while error is not None and not isinstance(error, StorageInternalError):
        error = error.__cause__ or error.__context__
    if error is None:
        return None
    said = error.__cause__ or error.__context__
    return getattr(said, "orig", None) or said or error


def _check_split(data: FaceDataModule) -> None:
    if data.split.info.get("selection") == "test":
        raise RecipeError(
            "data.protocol.selection: 'test' makes the test part choose, which tune never looks "
            "at; take 'val'"
        )
    if not len(data.split.val):
        raise DataError(
            f"protocol '{data.split.info['name']}' leaves no sample to validate on, and trials "
            "are compared by nothing else"
        )


def _digest(recipe: Recipe, space: Space, made: dict[str, Any]) -> str:
    """Name all that the trials of a study have to share; where things lie does not matter."""
    sections = {k: v for k, v in recipe.sections.items() if k not in ("output", "logger")}
    data = {k: v for k, v in recipe["data"].items() if k not in ("root", "table", "cache")}
    shared = [sections | {"data": data}, space.plain(), made]
    return hashlib.sha256(json.dumps(plain(shared), sort_keys=True).encode()).hexdigest()[:8]


def _open_folder(folder: Path, recipe: Recipe, space: Space) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "recipe.yaml", recipe.yaml())
    write_atomically(folder / "space.yaml", OmegaConf.to_yaml(OmegaConf.create(space.plain())))
    return folder


def _open_study(name: str, url: str, recipe: Recipe) -> optuna.Study:
    with _quiet_optuna():
        storage = open_storage(url)
        return optuna.create_study(
            storage=storage,
            study_name=name,
            direction="maximize",
            pruner=_pruner(recipe["trainer"].get("max_epochs") or 1),
            load_if_exists=True,
        )


def _pruner(epochs: int) -> MedianPruner:
    """Prune below the median of earlier trials, from a third of the epochs on.

    Trainings here are short, and their learning rate falls to zero: brackets of successive halving
    have nothing to halve, and a first epoch alone says little about five.
    """
    return MedianPruner(
        n_startup_trials=3, n_warmup_steps=max(1, round(epochs / 3)), n_min_trials=2
    )


@contextmanager
def _quiet_optuna() -> Iterator[None]:
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        try:
            yield
        finally:
            optuna.logging.set_verbosity(before)


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


class _Search:
    """Trials of one recipe in this process, until as many have ended as were asked for."""

    def __init__(
        self,
        recipe: Recipe,
        space: Space,
        data: FaceDataModule,
        study: optuna.Study,
        folder: Path,
        trials: int,
        command: str,
    ) -> None:
        self.recipe, self.space, self.data, self.study = recipe, space, data, study
        self.folder, self.trials, self.command = folder, trials, command
        self.own = space.own(recipe)
        self.features = FrozenFeatures()  # of one trial are those of the next
        self._shown_trace = False

    def run(self) -> None:
        """Train until enough trials have ended.

        Raises:
            KeyboardInterrupt: a person stopped it.
        """
        self._say_start()
        worker, waited = Worker(self.folder), False
        try:
            while True:
                revive(self.study, worker)
                queue_as_it_stands(self.study, self.own)
                done, alive = len(finished(self.study)), len(running(self.study))
                if done >= self.trials:
                    return
                if done + alive < self.trials:
                    self.study.optimize(
                        lambda trial: self._objective(trial, worker),
                        n_trials=1,
                        catch=(_Failed, _Dropped),
                    )
                    self._write()
                    waited = False
                    continue
                if not waited:
                    console.print(f"waiting for {alive} trials of other processes")
                waited = True
                time.sleep(2)
        finally:
            worker.leave(self.study)
            worker.close()

    def result(self) -> Tuning:
        """Write everything and return the best recipe.

        Raises:
            FaceAffectError: no trial came to its end.
        """
        self._write()
        write_plot(self.folder / "history.png", self.study, self.space)
        if not complete(self.study):
            reasons = sorted({t.user_attrs[FAILURE] for t in finished(self.study)
                              if FAILURE in t.user_attrs})  # fmt: skip
            shown = "; ".join(reasons[:3]) or "all were pruned"
            raise FaceAffectError(
                f"{self.recipe.name}: none of {len(finished(self.study))} trials came to its end: "
                f"{shown}. {self.folder / 'history.csv'} lists them; more --trials, or another "
                "space, go on"
            )
        best = self._best()
        console.print(
            f"{self.recipe.name}: best val/score {best['tuned']['score']:.4f} of "
            f"{best['tuned']['trials']} trials ({best['tuned']['pruned']} pruned, "
            f"{best['tuned']['failed']} failed)",
            markup=False,
        )
        file = self._file()
        console.print(f"written to {self.folder}: {file.name}, history.csv, history.png")
        console.print(f"faceaffect train {file}", markup=False)
        return Tuning(self.folder, best, file)

    # One trial.

    def _objective(self, trial: optuna.Trial, worker: Worker) -> float:
        worker.mark(trial)
        before = position(self.study, trial.number)
        if before >= self.trials or superfluous(self.study, trial):
            trial.set_user_attr(DROPPED, True)
            raise _Dropped
        # Seeded by the trial, so that a search goes on after a kill as if nothing had happened.
        self.study.sampler = TPESampler(
            seed=(self.recipe["seed"] * 1_000_003 + before) % 2**32,
            n_startup_trials=STARTUP,
            multivariate=True,
            constant_liar=True,
        )
        candidate = self._candidate(trial)
        start = time.monotonic()
        try:
            same_data = candidate["data"] == self.recipe["data"]
            data, model = build(candidate, self.data if same_data else None)
            score = fit(trial, candidate, data, model, self.folder, self.features)
        except (optuna.TrialPruned, KeyboardInterrupt, *_OURS):
            raise
        except Exception as error:
            self._note_failure(trial, error)
            raise _Failed from None
        finally:
            self._clean_up()
            trial.set_user_attr("seconds", round(time.monotonic() - start, 1))
        return score

    def _candidate(self, trial: optuna.Trial) -> Recipe:
        """Draw the trial's settings and return the recipe that has them."""
        unchanged = AS_IT_STANDS in trial.user_attrs
        values = {
            key: search.suggest(trial, key)
            for key, search in self.space.keys.items()
            if not unchanged or key in self.own
        }
        shown = ", ".join(f"{key} {value}" for key, value in values.items())
        shown = "the recipe as it stands" if unchanged else shown
        done = len(finished(self.study))
        console.print(
            f"{self.recipe.name}: trial {done + 1} of {self.trials}: {shown}", markup=False
        )
        return self.recipe if unchanged else with_values(self.recipe, values)

    def _note_failure(self, trial: optuna.Trial, error: Exception) -> None:
        known = isinstance(error, (FaceAffectError, torch.OutOfMemoryError))
        reason = _line(error) if known else f"{type(error).__name__}: {_line(error)}"
        trial.set_user_attr(FAILURE, reason)
        console.print(f"the trial failed, the search goes on: {reason}", markup=False)
        if not known and not self._shown_trace:
            console.print_exception(max_frames=8)
            self._shown_trace = True

    @staticmethod
    def _clean_up() -> None:
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    # What is written.

    def _say_start(self) -> None:
        done = len(finished(self.study))
        started = f", {done} have ended" if done else ""
        console.print(
            f"{self.recipe.name}: {self.trials} trials{started}; searched in {self.space.where}: "
            f"{', '.join(self.space.keys)}; in {self.folder}",
            markup=False,
        )
        for key, value in self.space.outside(self.recipe).items():
            console.print(f"{key}: the recipe's {value} lies outside the space", markup=False)

    def _file(self) -> Path:
        return self.folder / f"{self.recipe.name}_tuned.yaml"

    def _write(self) -> None:
        write_history(self.folder / "history.csv", self.study, self.space)
        if complete(self.study):
            write_best(self._file(), self._best(), self.command, self.trials)

    def _best(self) -> Recipe:
        """Return the best recipe so far, with a note of the search."""
        trial = self.study.best_trial
        values = {} if AS_IT_STANDS in trial.user_attrs else {
            key: self.space.keys[key].value(drawn) for key, drawn in trial.params.items()
        }  # fmt: skip
        best = with_values(self.recipe, values)
        found = summary(self.study, self.space, best)
        return replace(best.changed(lambda s: s | {"tuned": found}), name=self._file().stem)
