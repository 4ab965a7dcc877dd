"""One trial of a search: a training that is scored on validation and leaves nothing on disk."""

import math
import shutil
from pathlib import Path

import lightning as L
import optuna
from lightning.pytorch.callbacks import Callback

from faceaffect import registry
from faceaffect.data.base import FaceDataModule
from faceaffect.errors import FaceAffectError
from faceaffect.progress import console
from faceaffect.recipe import Recipe
from faceaffect.runs.calls import calling
from faceaffect.runs.frozen import FrozenFeatures
from faceaffect.runs.trainer import checkpoint_section, create_trainer

_ONLY_LOG = ("learning_rate_monitor", "model_summary", "throughput")
"""Callbacks that a trial, which logs nothing, does without."""


def fit(
    trial: optuna.Trial,
    recipe: Recipe,
    data: FaceDataModule,
    model: L.LightningModule,
    folder: Path,
    features: FrozenFeatures,
) -> float:
    """Train a model and return the score that would choose its checkpoint.

    Args:
        trial: that is told of each epoch and may end the training early.
        recipe: with the settings of the trial.
        data: of the recipe.
        model: of the recipe, untrained.
        folder: where the search lies.
        features: what frozen networks saw in an earlier trial, kept where they still see the same.

    Raises:
        TrialPruned: earlier trials were better at some epoch.
        KeyboardInterrupt: a person stopped it.
        FaceAffectError: no epoch was validated, or its score is not a number.
    """
    watch = Watch(trial, checkpoint_section(recipe).choose)
    callbacks = [features, watch]
    trainer = create_trainer(_without_files(recipe), folder, callbacks, logger=False)
    try:
        with calling(trainer):
            trainer.fit(model, datamodule=data)
    finally:
        data.trainer = None  # it holds the model
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)  # of a process told to stop
    return watch.score()


class Watch(Callback):
    """Reports the score of each epoch to the study and ends a trial that is not worth going on.

    Args:
        trial: whose training it is.
        choose: ``best`` or ``last`` epoch, as in the recipe's ``checkpoint`` section.
    """

    def __init__(self, trial: optuna.Trial, choose: str) -> None:
        self._trial, self._choose = trial, choose
        self._scores: list[float] = []

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Take the score."""
        if not trainer.sanity_checking and "val/score" in trainer.callback_metrics:
            self._scores.append(float(trainer.callback_metrics["val/score"]))

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Report it.

        Raises:
            TrialPruned: earlier trials were better at this point, and more epochs would follow.
        """
        if not self._scores:
            return
        epoch = trainer.current_epoch + 1
        self._trial.report(self._scores[-1], epoch)
        last = trainer.max_epochs is not None and 0 <= trainer.max_epochs <= epoch
        if not last and self._trial.should_prune():
            console.print(f"pruned after epoch {epoch}: below the median of earlier trials")
            raise optuna.TrialPruned

    def score(self) -> float:
        """Return the score of the epoch that would be tested.

        Raises:
            FaceAffectError: there is none, or it is not a number.
        """
        if not self._scores:
            raise FaceAffectError("training ended before an epoch was validated")
        known = [score for score in self._scores if not math.isnan(score)]
        if not known:
            raise FaceAffectError("val/score is undefined on this validation part")
        return max(known) if self._choose == "best" else self._scores[-1]


def _without_files(recipe: Recipe) -> Recipe:
    """Return a recipe whose trainer leaves nothing on disk."""
    callbacks = [c for c in recipe["callbacks"] if registry.as_node(c)["name"] not in _ONLY_LOG]
    trainer = recipe["trainer"] | {"enable_checkpointing": False}
    return recipe.changed(lambda s: s | {"callbacks": callbacks, "trainer": trainer})
