"""The study of a search: where trials are stored, which count, and what dead processes left."""

import sys
import time
import uuid
import warnings
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import IO, Any

import optuna
import sqlalchemy
from optuna.exceptions import (
    ExperimentalWarning,
    StorageInternalError,
    UpdateFinishedTrialError,
)
from optuna.storages import RDBStorage, fail_stale_trials
from optuna.trial import FrozenTrial, TrialState

from faceaffect.errors import RecipeError
from faceaffect.runs.folder import hold

_HEARTBEAT = 60
"""Seconds between two signs of life of a trial; after four without one it counts as dead."""

_PATIENCE = 10
"""Seconds that a database server has to answer."""

_LONGEST_WAIT = 60
"""Seconds to wait for another process that writes to the same SQLite file."""

AS_IT_STANDS = "as it stands"
"""Attribute of the trial that trains the recipe unchanged."""

FAILURE = "failure"
"""Attribute with the reason of a trial that failed by itself; it counts."""

DROPPED = "dropped"
"""Attribute of a trial that was begun once too often, by processes at the same moment."""

_RETRY_OF = "retry of"
_WORKER = "worker"


def open_storage(url: str) -> RDBStorage:
    """Open a database of trials, new or old, by its URL.

    Raises:
        RecipeError: the URL is none, its driver is missing, or the database cannot be reached.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            return _opened(url, _waits(sqlalchemy.make_url(url)))
    except Exception as error:
        reason = " ".join(str(error).partition("(Background on this error")[0].split())
        raise RecipeError(
            f"--storage: {without_password(url)} cannot be used: {reason[:300]}"
        ) from None


def _opened(url: str, waits: dict[str, int], attempts: int = 5) -> RDBStorage:
    """Open it; where another process has just made the same tables, open what that made."""
    try:
        return RDBStorage(
            url.replace("{", "{{").replace("}", "}}"),  # what is in braces would be filled in
            engine_kwargs={"connect_args": waits, "pool_pre_ping": True},
            heartbeat_interval=_HEARTBEAT,
            grace_period=4 * _HEARTBEAT,
        )
    except sqlalchemy.exc.DBAPIError as error:
        made = isinstance(error, sqlalchemy.exc.IntegrityError) or "already exists" in str(error)
        if not made or attempts == 1:
            raise
    time.sleep(0.5)
    return _opened(url, waits, attempts - 1)


def _waits(url: sqlalchemy.URL) -> dict[str, int]:
    driver = url.get_driver_name()
    if driver == "pysqlite":
        return {"timeout": _LONGEST_WAIT}
    known = ("psycopg2", "psycopg", "pymysql", "mysqldb")
    return {"connect_timeout": _PATIENCE} if driver in known else {}


def without_password(url: str) -> str:
    """Return a storage's URL as it may be shown."""
    try:
        return sqlalchemy.make_url(url).render_as_string(hide_password=True)
    except sqlalchemy.exc.ArgumentError:
        return "what it names"


def sqlite(file: Path) -> str:
    """Return the URL of an SQLite file."""
    return str(sqlalchemy.URL.create("sqlite", database=str(file.resolve())))


# Which trials count.


def finished(study: optuna.Study) -> list[FrozenTrial]:
    """Return the trials that ended by themselves: complete, pruned or failed."""
    ended = (TrialState.COMPLETE, TrialState.PRUNED)
    trials = study.get_trials(deepcopy=False)
    return [t for t in trials if t.state in ended or FAILURE in t.user_attrs]


def complete(study: optuna.Study) -> list[FrozenTrial]:
    """Return the trials that have a score."""
    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))


def running(study: optuna.Study) -> list[FrozenTrial]:
    """Return the trials that somebody trains at this moment."""
    return study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))


def abandoned(trial: FrozenTrial) -> bool:
    """Return whether a trial ended with its process, or was not wanted, and does not count."""
    return trial.state == TrialState.FAIL and FAILURE not in trial.user_attrs


def position(study: optuna.Study, number: int) -> int:
    """Return how many trials that count, or may yet, came before one."""
    before = [t for t in study.get_trials(deepcopy=False) if t.number < number]
    return sum(not abandoned(trial) for trial in before)


def superfluous(study: optuna.Study, trial: optuna.Trial) -> bool:
    """Return whether a trial before this one is the same retry, or the recipe as it stands."""
    own = trial.user_attrs
    for other in study.get_trials(deepcopy=False):
        if other.number >= trial.number or abandoned(other):
            continue
        if any(key in own and other.user_attrs.get(key) == own[key]
               for key in (AS_IT_STANDS, _RETRY_OF)):  # fmt: skip
            return True
    return False


# What dead processes left.


class Worker:
    """A sign that this process works on a study, which ends with the process however that ends.

    Args:
        folder: where processes of this machine find each other's signs.

    Attributes:
        name: of this process.
    """

    def __init__(self, folder: Path) -> None:
        self.name = uuid.uuid4().hex[:12]
        self._folder = folder
        self._lock: IO[str] | None = hold(folder, f"{self.name}.lock")

    def close(self) -> None:
        """Take the sign away."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None
        (self._folder / f"{self.name}.lock").unlink(missing_ok=True)

    def leave(self, study: optuna.Study) -> None:
        """End the trials of this process, where it was told to stop amid one, so that they go on.

        A storage that fails now is told nothing; it finds the process dead later.
        """
        with suppress(StorageInternalError):
            for trial in running(study):
                if trial.user_attrs.get(_WORKER) == self.name:
                    _fail(study, trial)

    def mark(self, trial: optuna.Trial) -> None:
        """Note on a trial that this process trains it."""
        trial.set_user_attr(_WORKER, self.name)

    def is_dead(self, trial: FrozenTrial) -> bool:
        """Return whether a process of this machine trained a trial and is no more."""
        name = trial.user_attrs.get(_WORKER)
        if name is None:  # killed in the moment before it was marked
            return _age(trial) > 4 * _HEARTBEAT
        file = self._folder / f"{name}.lock"
        if name == self.name or sys.platform == "win32" or not file.exists():
            return False
        lock = hold(self._folder, file.name)
        if lock is None:
            return False
        lock.close()
        return True

    def sweep(self, study: optuna.Study) -> None:
        """Remove the signs of dead processes that no running trial names."""
        named = {trial.user_attrs.get(_WORKER) for trial in running(study)}
        for file in self._folder.glob("*.lock"):
            if file.stem == self.name or file.stem in named or sys.platform == "win32":
                continue
            lock = hold(self._folder, file.name)
            if lock is not None:
                lock.close()
                file.unlink(missing_ok=True)


def revive(study: optuna.Study, worker: Worker) -> None:
    """End the trials of dead processes, and queue what was abandoned.

    A process of this machine is known to be dead at once, one of another machine after some
    minutes without a sign of life.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        fail_stale_trials(study)
    for trial in running(study):
        if worker.is_dead(trial):
            _fail(study, trial)
    trials = study.get_trials(deepcopy=False)
    again = {trial.user_attrs.get(_RETRY_OF) for trial in trials}
    lost = [t for t in trials if abandoned(t) and t.params and t.number not in again]
    lost = [t for t in lost if not {DROPPED, AS_IT_STANDS} & t.user_attrs.keys()]
    for trial in lost:
        study.enqueue_trial(trial.params, user_attrs={_RETRY_OF: trial.number})
    worker.sweep(study)


def _age(trial: FrozenTrial) -> float:
    start = trial.datetime_start
    return 0.0 if start is None else (datetime.now() - start).total_seconds()


def _fail(study: optuna.Study, trial: FrozenTrial) -> None:
    try:
        study.tell(trial.number, state=TrialState.FAIL)
    except (UpdateFinishedTrialError, ValueError):
        return  # another process was faster


def queue_as_it_stands(study: optuna.Study, own: dict[str, Any]) -> None:
    """See that one trial, the first, trains the recipe unchanged.

    Args:
        study: new or old.
        own: the recipe's own values of the keys that are searched, as far as the space holds them.
    """
    trials = study.get_trials(deepcopy=False)
    if not any(AS_IT_STANDS in t.user_attrs and not abandoned(t) for t in trials):
        study.enqueue_trial(own, user_attrs={AS_IT_STANDS: True})
