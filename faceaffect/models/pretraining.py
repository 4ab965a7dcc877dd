"""What modules that train the package's own weights share: the step and the export."""

from abc import abstractmethod
from pathlib import Path
from typing import Any

from torch import Tensor, nn

import faceaffect
from faceaffect.data.base import FaceDataModule
from faceaffect.data.batch import FaceBatch
from faceaffect.module import FaceModule, log_loss
from faceaffect.networks.weights import save_asset

EXPORT = "export.safetensors"
"""The file in the run folder that holds the trained network as an asset."""


class PretrainingModule(FaceModule):
    """Base of modules that train a network for others to build on, and answer no affect task.

    Such a module trains, tests and resumes through the same recipes and commands as an
    :class:`~faceaffect.module.AffectModule`. It logs ``val/score`` (higher is better), by which the
    best checkpoint is chosen, and ``test/...``, which become the result. After a recipe's test it
    writes the network to ``export.safetensors`` in the run folder: half precision, with what is
    needed to build it again, and a fingerprint.

    Args:
        schema: of the data, for the checkpoint; no label that it names is used.
    """

    @abstractmethod
    def exported(self) -> tuple[nn.Module, dict[str, Any]]:
        """Return the network worth keeping, and plain values from which it can be built again.

        Among them ``labels``, what it learned in words: results of what is built on it say so.
        """

    def training_step(self, batch: FaceBatch, batch_idx: int) -> Tensor:
        """Return and log the loss of a batch."""
        loss = self.loss(batch)
        log_loss(self, loss, len(batch["id"]))
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
            "trained_on": self._trained_on(),
            "version": faceaffect.__version__,
        }
        save_asset(Path(self.trainer.default_root_dir) / EXPORT, network, about)

    def _trained_on(self) -> str:
        """Return in words what it was trained on."""
        data = getattr(self.trainer, "datamodule", None)
        if not isinstance(data, FaceDataModule) or self.recipe is None:
            return "data of the user's own"
        people = data.split.info["subjects"]["train"]
        name = self.recipe["sections"]["data"]["name"]
        return f"{len(data.split.train):,} samples of {people:,} people, {name}"
