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
            "trained_on": f"{self._samples()}, {self.recipe['sections']['data']['name']}",
            "version": faceaffect.__version__,
        }
        save_asset(Path(self.trainer.default_root_dir) / EXPORT, network, about)

    def _samples(self) -> str:
        """Return what it was trained on, in words."""
        data: FaceDataModule = self.trainer.datamodule  # type: ignore[attr-defined]
        people = data.split.info["subjects"]["train"]
        return f"{len(data.split.train):,} samples of {people:,} people"
