"""What modules that train the package's own weights share: the step and the export."""

from abc import abstractmethod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.random import Generator
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


class LanguagePretraining(PretrainingModule):
    """Base of pre-trainings of models that write; the result is a folder of ``save_pretrained``.

    Attributes:
        folder: its name in the run folder; written after a recipe's test.
    """

    folder: str

    @abstractmethod
    def losses(self, batch: FaceBatch, rng: Generator) -> Tensor:
        """Return (N,) cross-entropies of dialogues that are drawn about a batch."""

    @abstractmethod
    def export(self, folder: str | Path) -> None:
        """Write the model in half precision and what reads its input, by ``save_pretrained``."""

    def loss(self, batch: FaceBatch) -> Tensor:
        """Return the mean cross-entropy of the answers."""
        return self.losses(batch, np.random.default_rng(int(torch.randint(2**31, (1,))))).mean()

    def validation_step(self, batch: FaceBatch, batch_idx: int) -> None:
        """Log the loss, and as score its negative."""
        self._measure("val", batch, batch_idx)

    def test_step(self, batch: FaceBatch, batch_idx: int) -> None:
        """Log the loss."""
        self._measure("test", batch, batch_idx)

    def _measure(self, part: str, batch: FaceBatch, index: int) -> None:
        loss = self.losses(batch, np.random.default_rng(index)).mean()
        values = {f"{part}/loss": loss, f"{part}/score": -loss}
        self.log_dict(values, on_epoch=True, sync_dist=True, batch_size=len(batch["id"]))

    def on_test_end(self) -> None:
        """Write the folder, if a recipe trains it."""
        if self.recipe is not None and self.trainer.is_global_zero:
            self.export(Path(self.trainer.default_root_dir) / self.folder)
