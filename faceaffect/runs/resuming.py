"""What lets a run that ended at any moment go on with the numbers of one that did not."""

import signal
import threading
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback

from faceaffect.errors import ENDING, RecipeError, Stopped

_STARTED = {"ready": 1, "started": 1, "processed": 0, "completed": 0}
"""Counters of a validation amid its first batch, for which Lightning runs all of it anew."""


class Resuming(Callback):
    """Makes up for a validation that was due when a run ended, and knows the run's processes.

    A checkpoint may be written after the last step before a validation, or amid it. By itself
    Lightning takes such a validation for done: its epoch would never be chosen, and a last epoch
    would end a run that has nothing to test.
    """

    def __init__(self) -> None:
        self._due = False
        self._processes = 1
        self._resumes = False
        self._max_steps = -1
        self._signal = 0

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Note how many processes train."""
        self._processes = trainer.world_size

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        """Note whether a validation follows this step."""
        loop = trainer.fit_loop
        assert loop._data_fetcher is not None
        self._due = loop.epoch_loop._should_check_val_fx(loop._data_fetcher)
        if not loop._should_accumulate() and self._is_to_stop(trainer):
            self._stop(trainer)

    def on_validation_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        """End amid a validation, which is made up for; several processes end it together."""
        if self._signal and trainer.world_size == 1 and not trainer.sanity_checking:
            self._stop(trainer)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """End before the test where a signal came late."""
        if self._is_to_stop(trainer):
            raise Stopped(self._signal or signal.SIGTERM)

    def _is_to_stop(self, trainer: L.Trainer) -> bool:
        """Return whether any process was told to end."""
        told = bool(self._signal)
        return told if trainer.world_size == 1 else trainer.strategy.reduce_boolean_decision(
            told, all=False
        )  # fmt: skip

    def _stop(self, trainer: L.Trainer) -> None:
        """Write ``last.ckpt`` and end."""
        trainer.save_checkpoint(Path(trainer.default_root_dir) / "checkpoints" / "last.ckpt")
        raise Stopped(self._signal or signal.SIGTERM)

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Hide a limit of steps while Lightning finds its place.

        It would begin a finished epoch anew, and would end before a validation that is due.
        """
        if self._resumes:
            loop = trainer.fit_loop.epoch_loop
            loop.max_steps, self._max_steps = -1, loop.max_steps

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Let training end where it should, and signals end it between steps."""
        if self._resumes and not self._due:
            self._limit_steps(trainer)
        if threading.current_thread() is threading.main_thread():
            for name in ENDING:
                number = getattr(signal, name, None)
                if number is not None and signal.getsignal(number) != signal.SIG_IGN:
                    signal.signal(number, self._note)  # the trainer puts back what was there

    def _note(self, number: int, frame: object) -> None:
        self._signal = number

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Let training end where it should, after a validation that was due."""
        if self._resumes:
            self._limit_steps(trainer)

    def _limit_steps(self, trainer: L.Trainer) -> None:
        trainer.fit_loop.epoch_loop.max_steps, self._resumes = self._max_steps, False

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Note that nothing is due any more."""
        self._due = False

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint says of this."""
        return {"validation_due": self._due, "processes": self._processes}

    def on_load_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Set Lightning's counters so that it runs the validation that was due.

        Raises:
            RecipeError: another number of processes wrote the checkpoint.
        """
        for other in checkpoint["callbacks"].values():
            if "best_k_models" in other:
                _move(other, Path(trainer.default_root_dir).resolve() / "checkpoints")
        state = checkpoint["callbacks"].get(self.state_key, {})
        self._check_processes(trainer, state.get("processes", trainer.world_size))
        self._resumes = True
        loops = checkpoint["loops"]["fit_loop"]
        steps = loops["epoch_loop.batch_progress"]
        written_at_step = steps["total"]["completed"] < steps["total"]["processed"]
        self._due = state.get("validation_due", written_at_step and steps["is_last_batch"])
        if not self._due:
            return
        for counter in (steps["total"], steps["current"]):
            counter["completed"] = counter["processed"]
        loops["epoch_loop.val_loop.batch_progress"] = {
            "total": dict(_STARTED), "current": dict(_STARTED), "is_last_batch": False
        }  # fmt: skip

    @staticmethod
    def _check_processes(trainer: L.Trainer, before: int) -> None:
        if before != trainer.world_size:
            raise RecipeError(
                f"{trainer.default_root_dir}: {before} processes trained this run, and now there "
                f"are {trainer.world_size}; each step would see other samples, and the numbers "
                f"would be others. Go on with {before} (trainer.devices), or remove the folder "
                "to begin anew"
            )


def _move(state: dict[str, Any], folder: Path) -> None:
    """Let the state of a ModelCheckpoint name its files in another folder.

    Lightning forgets the best score so far of a run whose folder was moved.
    """
    moved = {name: str(folder / Path(name).name) for name in state["best_k_models"]}
    state["best_k_models"] = {moved[name]: score for name, score in state["best_k_models"].items()}
    for key in ("best_model_path", "kth_best_model_path", "last_model_path"):
        state[key] = state[key] and str(folder / Path(state[key]).name)
    state["dirpath"] = str(folder)
