"""Pre-training from several views: what one expression of one person looks like from any side.

After CL-MEx (arXiv 2108.06723) and its extension ViewFX (arXiv 2311.06852), of which nothing but
abstracts could be read: positives are other views of the same expression of the same person, and
ViewFX adds a supervised contrastive loss and Barlow Twins. What is in them is ours.
"""

from collections.abc import Callable
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from faceaffect.components import Options
from faceaffect.data.base import FaceDataModule
from faceaffect.data.batch import FaceBatch
from faceaffect.errors import RecipeError, needs_extra
from faceaffect.models.pretraining import PretrainingModule
from faceaffect.networks.backbones import create_backbone
from faceaffect.registry import as_node
from faceaffect.schema import LabelSchema

_ROWS = 1024
"""Of a table of similarities that is held in memory at once."""


class MultiviewPretraining(PretrainingModule):
    """Trains a backbone until the views of an instance lie closer together than anything else.

    Needs ``pip install 'faceaffect[multiview]'`` and data that brings several views of an instance
    into a batch (``data.views``).

    The loss is a multi-positive NT-Xent: for each view the mean over all other views of its
    instance of the cross-entropy by which it is found among all other faces of the batch, at cosine
    similarity over ``temperature``. This is the supervised contrastive loss of Khosla et al. 2020
    (arXiv 2004.11362) with instances for classes, and with two views the NT-Xent of SimCLR. Every
    loss sees what the projector makes of a face. ``val/score`` is the retrieval: the share of
    views whose nearest neighbour among all others of the part is a view of their instance.

    Args:
        schema: of the data; labels are used only where ``supervised_weight`` says so.
        backbone: by name or by the options of
            :func:`faceaffect.networks.backbones.create_backbone`.
        width: channels of the projector's output.
        hidden: channels between its two layers; absent, those of the backbone.
        temperature: of the softmax over similarities, positive.
        supervised_weight: of the same loss with expressions for classes; faces of unknown
            expression are left out of it.
        barlow_weight: of :func:`barlow_twins` on pairs of views.
        redundancy_weight: of what lies off the diagonal in it.

    Raises:
        RecipeError: a package is missing, a number is out of range, or the data does not fit.
    """

    def __init__(
        self,
        schema: LabelSchema | dict[str, Any],
        *,
        backbone: Annotated[str | dict[str, Any], Options(create_backbone)] = "resnet18",
        width: int = 128,
        hidden: int | None = None,
        temperature: float = 0.1,
        supervised_weight: float = 0.0,
        barlow_weight: float = 0.0,
        redundancy_weight: float = 5e-3,
    ) -> None:
        super().__init__(schema)
        if temperature <= 0:
            raise RecipeError(f"model.temperature: {temperature} is not positive")
        weights = {
            "supervised_weight": supervised_weight,
            "barlow_weight": barlow_weight,
            "redundancy_weight": redundancy_weight,
        }
        for name, value in weights.items():
            if value < 0:
                raise RecipeError(f"model.{name}: {value} is negative")
        if supervised_weight and not self.schema.expressions:
            raise RecipeError("model.supervised_weight: the data names no expressions")
        self.contrast = contrastive_loss(temperature)
        self.supervised_weight, self.barlow_weight = supervised_weight, barlow_weight
        self.redundancy_weight = redundancy_weight
        self.backbone = create_backbone(**as_node(backbone))
        pooled = self.backbone.pooled_width
        self.projector = nn.Sequential(
            nn.Linear(pooled, hidden or pooled), nn.ReLU(), nn.Linear(hidden or pooled, width)
        )
        self.retrieval = ViewRetrieval()

    def setup(self, stage: str) -> None:
        """See that training will show several views of an instance together.

        Raises:
            RecipeError: it will not.
        """
        data = getattr(self.trainer, "datamodule", None)
        if stage == "fit" and isinstance(data, FaceDataModule) and data.view_order is None:
            raise RecipeError(
                "model 'multiview_pretraining' learns from views side by side: give data.views, "
                "and data that tells of them, such as 'multiview' or 'synthetic' with yaws"
            )

    def forward(self, image: Tensor) -> Tensor:
        """Return (B, width), what the projector makes of uint8 faces (B, 3, H, W), in float32."""
        return self.projector(self.backbone(self.backbone.normalise(image))).float()  # type: ignore[no-any-return]

    def losses(self, batch: FaceBatch) -> dict[str, Tensor]:
        """Return the losses of a batch.

        Returns:
            ``views``; ``supervised`` and ``barlow`` where they have a weight; ``loss``, their
            weighted sum. A loss for which a batch holds no pair is 0, with a graph.
        """
        projected, instance = self(batch["image"]), _instances(batch)
        with torch.autocast(projected.device.type, enabled=False):  # similarities need all digits
            found = {"views": self.contrast(projected, instance)}
            loss = found["views"]
            if self.supervised_weight:
                known = batch["expression"] >= 0
                found["supervised"] = self.contrast(projected[known], batch["expression"][known])
                loss = loss + self.supervised_weight * found["supervised"]
            if self.barlow_weight:
                one, other = view_pairs(instance)
                found["barlow"] = barlow_twins(
                    projected[one], projected[other], self.redundancy_weight
                )
                loss = loss + self.barlow_weight * found["barlow"]
        return found | {"loss": loss + 0 * projected.sum()}

    def loss(self, batch: FaceBatch) -> Tensor:
        """Return the weighted sum of the losses."""
        return self.losses(batch)["loss"]

    def validation_step(self, batch: FaceBatch, batch_idx: int) -> None:
        """Add a batch to the faces among which views are looked for."""
        self.retrieval.update(self(batch["image"]), _instances(batch))

    def on_validation_epoch_end(self) -> None:
        """Log the retrieval, which is the score."""
        self._retrieved("val")

    def test_step(self, batch: FaceBatch, batch_idx: int) -> None:
        """Add a batch to the faces among which views are looked for."""
        self.retrieval.update(self(batch["image"]), _instances(batch))

    def on_test_epoch_end(self) -> None:
        """Log the retrieval, which is the score."""
        self._retrieved("test")

    def _retrieved(self, part: str) -> None:
        found = self.retrieval.compute()
        self.retrieval.reset()
        self.log_dict({f"{part}/retrieval": found, f"{part}/score": found}, sync_dist=True)

    def exported(self) -> tuple[nn.Module, dict[str, Any]]:
        """Return the backbone without projector, and how to build it."""
        told = ", and their expressions" if self.supervised_weight else "; no label of affect"
        about = {
            "purpose": "a backbone that knows an expression from several sides",
            "labels": f"which pictures are views of one expression of one person{told}",
        }
        return self.backbone.net, self.backbone.describe() | about


def _instances(batch: FaceBatch) -> Tensor:
    """Return the instance (B,) of each face; a face by itself has a negative one of its own."""
    if "instance" not in batch:
        raise RecipeError(
            "model 'multiview_pretraining': this data does not tell which faces are views of one "
            "instance; 'multiview' does, and 'synthetic' with yaws"
        )
    instance = batch["instance"]
    alone = -1 - torch.arange(len(instance), device=instance.device)
    return torch.where(instance < 0, alone, instance)


def contrastive_loss(temperature: float) -> Callable[[Tensor, Tensor], Tensor]:
    """Return the loss of faces (B, C) in groups (B,): the mean of those that have a positive.

    Raises:
        RecipeError: pytorch-metric-learning is not installed.
    """
    try:
        from pytorch_metric_learning.losses import SupConLoss
    except ImportError:
        what = "model 'multiview_pretraining'"
        raise RecipeError(needs_extra(what, "pytorch-metric-learning", "multiview")) from None
    loss: Callable[[Tensor, Tensor], Tensor] = SupConLoss(temperature)
    return loss


def view_pairs(instance: Tensor) -> tuple[Tensor, Tensor]:
    """Return the positions (P,) and (P,) of views and of the next view of the same instance.

    >>> view_pairs(torch.tensor([7, 3, 7, 7, -1]))
    (tensor([0, 2]), tensor([2, 3]))
    """
    order = instance.argsort(stable=True)
    same = instance[order[1:]] == instance[order[:-1]]
    return order[:-1][same], order[1:][same]


def barlow_twins(one: Tensor, other: Tensor, redundancy_weight: float) -> Tensor:
    """Return the loss of Barlow Twins (Zbontar et al. 2021, arXiv 2103.03230).

    How far the correlation of channels over the batch is from the identity: squares on the
    diagonal, and weighted squares off it.

    Args:
        one: (P, C) of one view each.
        other: (P, C) of another view.
        redundancy_weight: of what is off the diagonal.

    Returns:
        A scalar; 0 with a graph for fewer than two pairs.
    """
    if len(one) < 2:
        return 0 * (one.sum() + other.sum())
    correlation = _standard(one).T @ _standard(other) / len(one)
    squares = (correlation - torch.eye(one.shape[1], device=one.device)).square()
    on = squares.diagonal().sum()
    return on + redundancy_weight * (squares.sum() - on)


def _standard(values: Tensor) -> Tensor:
    """Return each column with mean 0 and deviation 1 over the batch."""
    return F.batch_norm(values, None, None, training=True)


class ViewRetrieval(Metric):
    """The share of views whose nearest other face, by cosine, is a view of their instance.

    Faces whose instance has no other view are looked among and do not count.
    """

    full_state_update = False
    projected: list[Tensor]
    instance: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.add_state("projected", [], dist_reduce_fx="cat")
        self.add_state("instance", [], dist_reduce_fx="cat")

    def update(self, projected: Tensor, instance: Tensor) -> None:
        """Add faces (B, C) and their instances (B,), negative for one by itself."""
        self.projected.append(F.normalize(projected.detach().float(), dim=1))
        self.instance.append(instance)

    def compute(self) -> Tensor:
        """Return the share, NaN where no instance has two views."""
        faces, instance = dim_zero_cat(self.projected), dim_zero_cat(self.instance)
        _, inverse, count = torch.unique(instance, return_inverse=True, return_counts=True)
        counted = (count[inverse] > 1) & (instance >= 0)
        hits = torch.zeros(len(faces), dtype=torch.bool, device=faces.device)
        for first in range(0, len(faces), _ROWS):
            rows = torch.arange(first, min(first + _ROWS, len(faces)), device=faces.device)
            similar = faces[rows] @ faces.T
            similar[torch.arange(len(rows), device=faces.device), rows] = -torch.inf
            hits[rows] = instance[similar.argmax(1)] == instance[rows]
        return hits[counted].float().mean()
