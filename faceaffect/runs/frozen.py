"""What frozen networks see of a face, computed once where nothing before them is random."""

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from faceaffect.data.base import FaceDataModule
from faceaffect.data.loader import Features
from faceaffect.module import AffectModule
from faceaffect.progress import console

LIMIT = 2**30
"""Bytes of features that are kept in memory at most; of more than that, none are."""


class FrozenFeatures(Callback):
    """Has what the frozen networks make of the faces computed once, before the first step.

    Face by face in the order of the data, so that a run that was killed finds the same numbers
    again; from then on the data serves features in place of images. Does nothing where images are
    augmented, since no face is then seen twice, where samples are clips, unless the model takes
    them and all are of one length, and where a model has nothing frozen in front. Used for several
    trainings one after another, it keeps what it has for the next, if the first faces look the same
    to that one's networks.
    """

    def __init__(self) -> None:
        self._kept: Features | None = None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Send the faces of training and validation through the frozen networks."""
        data = getattr(trainer, "datamodule", None)
        if (
            not isinstance(pl_module, AffectModule)
            or not isinstance(data, FaceDataModule)
            or data.augment is not None
        ):
            return
        training = pl_module.training
        pl_module.eval()
        with torch.no_grad(), trainer.precision_plugin.forward_context():
            known = self._kept if _still_so(self._kept, pl_module, data) else None
            features = known or _look(pl_module, data)
        pl_module.train(training)
        self._kept = features
        if features is None:
            return
        data.keep(features)
        if trainer.is_global_zero and known is None:
            size = _bytes(features.table) / 2**20
            faces = len(features.row)
            console.print(f"the frozen networks have seen {faces:,} faces once ({size:.0f} MB)")


def _still_so(known: Features | None, model: AffectModule, data: FaceDataModule) -> bool:
    """Return whether features of another training are those of this one, by its first batch."""
    if known is None:
        return False
    loader = data.in_order("train")
    batch = data.transfer_batch_to_device(next(iter(loader)), model.device, 0)
    loader.close()
    seen = model.frozen_features(batch)
    if seen is None or seen.keys() != known.table.keys():
        return False
    rows = [known.row.get(name, 0) for name in batch["id"]]
    return all(
        seen[name].shape[1:] == column.shape[1:] and torch.equal(seen[name].cpu(), column[rows])
        for name, column in known.table.items()
    )


def _look(model: AffectModule, data: FaceDataModule) -> Features | None:
    """Return the features of the training and validation faces; None if they are not to be kept."""
    parts: list[dict[str, Tensor]] = []
    ids: list[str] = []
    count = len(data.split.train) + len(data.split.val)
    for side in ("train", "val"):
        loader = data.in_order(side)
        for batch in loader:
            batch = data.transfer_batch_to_device(batch, model.device, 0)
            fit = model.frozen_clips or "video" not in batch
            seen = model.frozen_features(batch) if fit else None
            if (
                seen is None
                or not _alike(seen, parts)
                or count * _bytes(seen) > LIMIT * len(batch["id"])
            ):
                loader.close()
                return None
            parts.append({name: value.cpu() for name, value in seen.items()})
            ids += batch["id"]
        loader.close()
    return Features({name: torch.cat([part[name] for part in parts]) for name in parts[0]}, ids)


def _alike(seen: dict[str, Tensor], parts: list[dict[str, Tensor]]) -> bool:
    """Return whether features have the shape of those before: clips may be of other lengths."""
    before = parts[0] if parts else seen
    return all(value.shape[1:] == before[name].shape[1:] for name, value in seen.items())


def _bytes(table: dict[str, Tensor]) -> int:
    return sum(column.numel() * column.element_size() for column in table.values())
