"""The processes of one run: who is the first, and how it tells the others what it decided.

Processes come about in two ways. Lightning's launcher starts the others when training begins, from
the first, and they inherit its environment. Or torchrun, srun and their like start all at once;
these meet in their process group before the first decides anything.
"""

import logging
import os
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import lightning as L
import torch.distributed as dist
from lightning.fabric.plugins.environments import (
    ClusterEnvironment,
    LSFEnvironment,
    MPIEnvironment,
    SLURMEnvironment,
    TorchElasticEnvironment,
)
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities import rank_zero_only

from faceaffect.errors import FaceAffectError, RecipeError

FOLDER = "FACEAFFECT_RUN"
"""Environment variable in which the first process tells those that it starts the run folder."""

_LAUNCHERS: tuple[type[ClusterEnvironment], ...] = (
    SLURMEnvironment,
    LSFEnvironment,
    TorchElasticEnvironment,
    MPIEnvironment,
)
_RESTARTS = ("TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT")
_DEVICES = ("accelerator", "devices", "num_nodes", "strategy")

Decision = TypeVar("Decision")


def is_first() -> bool:
    """Tell whether this is the process that writes; alone, it is."""
    return bool(rank_zero_only.rank == 0)  # type: ignore[attr-defined]


def launched() -> int:
    """Return how many processes torchrun, srun or their like have started; 1 without them.

    Raises:
        RecipeError: what SLURM says of its tasks is no way to start a training.
    """
    for kind in _LAUNCHERS:
        if kind.detect():
            try:
                return kind().world_size()
            except (RuntimeError, ValueError) as error:
                raise RecipeError(f"{kind.__name__}: {error}") from None
    return 1


def one_only(what: str) -> None:
    """Refuse to be started several times over.

    Raises:
        RecipeError: a launcher has started several processes.
    """
    number = launched()
    if number > 1:
        raise RecipeError(
            f"{what} works in one process, and {number} were started: leave out torchrun, or say "
            "srun --ntasks=1"
        )


def was_restarted() -> bool:
    """Tell whether torchrun or SLURM has started this again after a failure."""
    return any(os.environ.get(name, "0") not in ("", "0") for name in _RESTARTS)


def meet(section: Mapping[str, Any]) -> None:
    """Meet the other processes, if they have been started already.

    Args:
        section: the ``trainer`` section of the recipe.

    Raises:
        RecipeError: the section does not fit the processes.
    """
    started = launched()
    if FOLDER in os.environ or not ("LOCAL_RANK" in os.environ or started > 1):
        return
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    devices: dict[str, Any] = {key: section[key] for key in _DEVICES if key in section}
    try:
        trainer = L.Trainer(**devices, logger=False, barebones=True)
    except (MisconfigurationException, ValueError, RuntimeError) as error:
        raise RecipeError(f"trainer: {error}") from None
    wanted = trainer.num_devices * trainer.num_nodes
    if started not in (1, wanted):
        raise RecipeError(
            f"{started} processes were started, for trainer.devices={trainer.num_devices} on "
            f"trainer.num_nodes={trainer.num_nodes}: let their product be {started}"
        )
    environment = getattr(trainer.strategy, "cluster_environment", None)
    if environment is not None and environment.creates_processes_externally:
        trainer.strategy.setup_environment()


def of_first(decide: Callable[[], Decision]) -> Decision:
    """Return, in every process, what the first one decides; an error of it is an error of all.

    Processes that have not met decide for themselves.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return decide()
    told: list[Any] = [None, None]
    if dist.get_rank() == 0:
        try:
            told[0] = decide()
        except (FaceAffectError, OSError) as error:
            told[1] = error
    dist.broadcast_object_list(told)
    if told[1] is not None:
        raise told[1]
    decision: Decision = told[0]
    return decision
