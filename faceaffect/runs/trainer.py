"""The trainer of a recipe: its arguments, checkpoints, callbacks and loggers."""

import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import lightning as L
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Callback, ModelCheckpoint

from faceaffect import hardware, registry
from faceaffect.components import arguments, create, named_parameters
from faceaffect.errors import RecipeError
from faceaffect.progress import progress
from faceaffect.recipe import Recipe
from faceaffect.registry import GIVEN_TO_LOGGERS
from faceaffect.runs.folder import WholeCheckpoints
from faceaffect.runs.limits import check_trainer
from faceaffect.runs.processes import one_only
from faceaffect.runs.resuming import Resuming

_GIVEN_TO_TRAINER = {
    "callbacks": None,
    "logger": None,
    "plugins": None,
    "default_root_dir": None,
    "use_distributed_sampler": None,  # the datamodule's own samplers know the processes
    "enable_progress_bar": None,
    "enable_model_summary": None,
}


def trainer_arguments(recipe: Recipe) -> dict[str, Any]:
    """Return the arguments of the trainer, checked, with the precision that is taken here."""
    check_trainer(recipe["trainer"], recipe["model"]["name"])
    node = recipe["trainer"] | {"precision": hardware.precision_for(recipe["trainer"]).name}
    return arguments(L.Trainer, node, "trainer", given=_GIVEN_TO_TRAINER)


def create_trainer(
    recipe: Recipe, folder: Path, callbacks: list[Callback], logger: Literal[False] | None = None
) -> L.Trainer:
    """Return the trainer of a recipe.

    Args:
        recipe: a checked recipe.
        folder: of the run.
        callbacks: beside those of the recipe.
        logger: False for none, whatever the recipe names.

    Raises:
        RecipeError: Lightning refuses the settings, or a component its arguments.
    """
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)  # the headline says it all
    kwargs = trainer_arguments(recipe)
    if hardware.device_for(recipe["trainer"]).type == "cpu":
        hardware.keep_freed_memory()
    own = _components("callbacks", recipe, folder)
    loggers = _components("loggers", recipe, folder) if logger is None else []
    try:
        return L.Trainer(
            **kwargs,
            callbacks=[progress(), *callbacks, *own, Resuming()],
            logger=loggers or False,
            plugins=[WholeCheckpoints()],
            default_root_dir=folder,
            use_distributed_sampler=False,
            enable_progress_bar=sys.stdout.isatty(),
            enable_model_summary=False,
        )
    except (MisconfigurationException, ValueError, RuntimeError) as error:
        raise RecipeError(f"trainer: {error}") from None


def _components(table: str, recipe: Recipe, folder: Path) -> list[Any]:
    """Return the callbacks or loggers of a recipe.

    Raises:
        RecipeError: one does not take its arguments, or its package is not installed.
    """
    section = {"callbacks": "callbacks", "loggers": "logger"}[table]
    made = []
    for index, node in enumerate(recipe[section]):
        where = f"{section}[{index}]"
        target = registry.get(table, registry.as_node(node)["name"])
        given = given_to_logger(target, folder) if table == "loggers" else {}
        try:
            made.append(create(table, node, where, **given))
        except (MisconfigurationException, ImportError, TypeError, ValueError) as error:
            raise RecipeError(f"{where}: {error}") from None
    return made


def given_to_logger(target: Callable[..., Any], folder: Path) -> dict[str, str]:
    """Return what a run gives to a logger, as far as that takes it."""
    given = dict(zip(GIVEN_TO_LOGGERS, (str(folder), "log", str(folder)), strict=True))
    return {key: value for key, value in given.items() if key in named_parameters(target)}


@dataclass(frozen=True)
class Checkpoints:
    """The ``checkpoint`` section of a recipe.

    Args:
        choose: which epoch is tested and kept as ``best.ckpt``: ``best`` by ``val/score``, or the
            ``last``, where a schedule ends at zero and a small validation part would choose by
            chance.
        every_n_steps: write ``last.ckpt`` also within epochs, after so many steps of the
            optimiser, each of which takes ``trainer.accumulate_grad_batches`` batches; a resumed
            run goes on from there. Absent, it is written after each epoch.

    Raises:
        RecipeError: the number is not positive.
    """

    choose: Literal["best", "last"] = "best"
    every_n_steps: int | None = None

    def __post_init__(self) -> None:
        if self.every_n_steps is not None and self.every_n_steps < 1:
            raise RecipeError(f"checkpoint.every_n_steps: {self.every_n_steps} is not positive")


def checkpoint_section(recipe: Recipe) -> Checkpoints:
    """Return the ``checkpoint`` section of a recipe, checked."""
    return Checkpoints(**arguments(Checkpoints, recipe["checkpoint"], "checkpoint"))


def checkpoint_callbacks(recipe: Recipe, folder: Path) -> list[Callback]:
    """Return what writes ``best.ckpt`` and ``last.ckpt`` of a run."""
    section = checkpoint_section(recipe)
    common: dict[str, Any] = {
        "dirpath": folder / "checkpoints",
        "enable_version_counter": False,
        "auto_insert_metric_name": False,
        "save_top_k": 1,
    }
    monitor = "val/score" if section.choose == "best" else None
    best = ModelCheckpoint(
        filename="best", monitor=monitor, mode="max", save_weights_only=True, **common
    )
    epoch = ModelCheckpoint(
        filename="last", every_n_epochs=1, save_on_train_epoch_end=True, **common
    )
    if section.every_n_steps is None:
        return [best, epoch]
    within = _BetweenSteps(filename="last", every_n_train_steps=section.every_n_steps, **common)
    return [best, epoch, within]


class _BetweenSteps(ModelCheckpoint):
    """Writes after steps of the optimiser alone: gradients that accumulate are in no checkpoint.

    Lightning's own does not know, in a run that was resumed, that it has written this step already.
    """

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any, **kwargs: Any
    ) -> None:
        """Write, if it is time."""
        if not trainer.fit_loop._should_accumulate():
            super().on_train_batch_end(trainer, pl_module, *args, **kwargs)


def one_device(recipe: Recipe, command: str, otherwise: str = "") -> None:
    """Refuse a training on several devices, whose processes would each begin the command.

    Args:
        recipe: a checked recipe.
        command: its name, for the error.
        otherwise: what else a person can do.

    Raises:
        RecipeError: the recipe asks for several devices, or for some that are not there, or
            torchrun or SLURM has started several processes.
    """
    one_only(command)
    keys = ("accelerator", "devices", "num_nodes")
    chosen: dict[str, Any] = {k: v for k, v in recipe["trainer"].items() if k in keys}
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    try:
        trainer = L.Trainer(**chosen, logger=False, barebones=True)
    except (MisconfigurationException, ValueError, RuntimeError) as error:
        raise RecipeError(f"trainer: {error}") from None
    if trainer.num_devices * trainer.num_nodes > 1:
        raise RecipeError(
            f"{command} trains on one device, not on {trainer.num_devices * trainer.num_nodes}: "
            f"add trainer.devices=1{otherwise}"
        )
