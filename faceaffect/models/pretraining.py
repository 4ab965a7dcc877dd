"""What modules that train the package's own weights share: seeds, optimiser, export."""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn

import faceaffect
from faceaffect import registry
from faceaffect.data.batch import FaceBatch
from faceaffect.module import FORMAT, seed_step
from faceaffect.networks.weights import save_asset
from faceaffect.optim import Optim, decay_groups
from faceaffect.schema import LabelSchema

EXPORT = "export.safetensors"
"""The file in the run folder that holds the trained network as an asset."""


class PretrainingModule(L.LightningModule, ABC):
    """Base of modules that train a network for others to build on, and answer no affect task.

    Such a module trains, tests and resumes through the same recipes and commands as an
    :class:`~faceaffect.module.AffectModule`. It logs ``val/score`` (higher is better), by which the
    best checkpoint is chosen, and ``test/...``, which become the result. After a recipe's test it
    writes the network to ``export.safetensors`` in the run folder: half precision, with what is
    needed to build it again, and a fingerprint.

    Args:
        schema: of the data, for the checkpoint; no label that it names is used.

    Attributes:
        optim: optimiser and schedule.
        seed: random numbers of a training step come from (seed, epoch, step).
        recipe: the recipe that trains the module, stored in its checkpoints.
        task_weights: unused, there are no tasks.
    """

    def __init__(self, schema: LabelSchema | dict[str, Any]) -> None:
        super().__init__()
        if not isinstance(schema, LabelSchema):
            schema = LabelSchema.from_dict(schema)
        self.save_hyperparameters(ignore=["schema"])
        self.save_hyperparameters({"schema": schema.to_dict()})
        self.schema = schema
        self.optim = Optim()
        self.seed: int | None = None
        self.recipe: dict[str, Any] | None = None
        self.task_weights: dict[str, float] = {}

    # What a module writes

    @abstractmethod
    def loss(self, batch: FaceBatch) -> Tensor:
        """Return the training loss of a batch, a scalar with a graph."""

    @abstractmethod
    def exported(self) -> tuple[nn.Module, dict[str, Any]]:
        """Return the network worth keeping, and plain values from which it can be built again."""

    # Steps

    def on_train_batch_start(self, batch: FaceBatch, batch_idx: int) -> None:
        """Seed this step."""
        if self.seed is not None:
            seed_step(self.seed, self.current_epoch, batch_idx, self.global_rank)

    def training_step(self, batch: FaceBatch, batch_idx: int) -> Tensor:
        """Return and log the loss of a batch."""
        loss = self.loss(batch)
        self.log("train/loss", loss, prog_bar=True, on_epoch=True, batch_size=len(batch["id"]))
        return loss

    def on_test_end(self) -> None:
        """Write the network as an asset, if a recipe trains it."""
        if self.recipe is None or not self.trainer.is_global_zero:
            return
        network, description = self.exported()
        about = {
            **description,
            "schema": self.schema.to_dict(),
            "trained_by": self.recipe["name"],
            "version": faceaffect.__version__,
        }
        save_asset(Path(self.trainer.default_root_dir) / EXPORT, network, about)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Build optimiser and schedule from ``self.optim``; biases and norms do not decay."""
        return self.optim.configure(self.trainer, decay_groups(self.parameters()))

    # Checkpoints

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what loading by the module's registered name needs."""
        checkpoint["faceaffect"] = {
            "format": FORMAT,
            "model": registry.name_of("models", type(self)),
            "schema": self.schema.to_dict(),
            "statistics": None,
            "frozen": {},
            "recipe": self.recipe,
        }
