"""How a model that never learned some classes tells them apart from a few examples of each."""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from faceaffect import registry
from faceaffect.data.asked import as_batch, with_graph
from faceaffect.data.base import FaceDataModule
from faceaffect.data.batch import FaceBatch
from faceaffect.errors import DataError, RecipeError
from faceaffect.module import AffectModule

Floats = NDArray[np.float64]
_AT_ONCE = 64  # pictures that a model sees together
_BASE = 512  # samples of the training part whose mean stands for all


class Pictures:
    """Pictures of a dataset, each read once.

    Args:
        data: the datamodule.
        indices: of the samples that will be wanted; read at once.

    Attributes:
        readable: those that could be read.
    """

    def __init__(self, data: FaceDataModule, indices: NDArray[np.int64]) -> None:
        self._image: dict[int, Tensor] = {}
        number = {str(data.dataset.samples.id[i]): int(i) for i in indices}
        for batch in data.of(indices.tolist()):
            if "video" in batch:
                raise DataError("few-shot episodes are of still pictures, and these are clips")
            for name, image in zip(batch["id"], batch["image"], strict=True):
                self._image[number[name]] = image
        self.readable = np.array([i for i in indices.tolist() if i in self._image], np.int64)

    def of(self, indices: NDArray[np.int64]) -> Tensor:
        """Return (M, 3, H, W) uint8 pictures of readable samples."""
        return torch.stack([self._image[i] for i in indices.ravel().tolist()])


class Sight:
    """What a model makes of pictures before its last layers, centred and scaled to length 1.

    The centre is that of base classes (the CL2N transform of SimpleShot, Wang et al. 2019, arXiv
    1911.04623).

    Args:
        model: one with ``heads``, in evaluation mode.
        pictures: of the samples that are asked about.
        base: (M, 3, H, W) uint8 pictures of base classes.

    Raises:
        RecipeError: the model has no features in front of its answers.
    """

    def __init__(self, model: AffectModule, pictures: Pictures, base: Tensor) -> None:
        check_has_features(model)
        self.model, self.pictures = model, pictures
        self.centre = self._raw(base).mean(0)
        self._seen: dict[int, Floats] = {}

    def see(self, images: Tensor) -> Floats:
        """Return (M, D) features of uint8 pictures (M, 3, H, W)."""
        return self._normalised(self._raw(images))

    def of(self, indices: NDArray[np.int64]) -> Floats:
        """Return (M, D) features of samples, each computed once."""
        flat = indices.ravel()
        new = np.array(sorted({*flat.tolist()} - {*self._seen}), np.int64)
        if len(new):
            seen = self.see(self.pictures.of(new))
            self._seen |= dict(zip(new.tolist(), seen, strict=True))
        return np.stack([self._seen[i] for i in flat.tolist()])

    def _raw(self, images: Tensor) -> Floats:
        with torch.no_grad():
            parts = [features(self.model, part).cpu() for part in torch.split(images, _AT_ONCE)]
        return torch.cat(parts).double().numpy()

    def _normalised(self, raw: Floats) -> Floats:
        moved = raw - self.centre
        length = np.linalg.norm(moved, axis=1, keepdims=True)
        return np.asarray(moved / np.maximum(length, 1e-12))


WITH_FEATURES = ("timm_classifier", "auformer", "sacl", "gimefive", "emert")
"""The package's models that have features to tell classes apart by."""

BY_PROMPT = ("vlm",)
"""Those that are asked by their prompt instead."""


def check_can_be_asked(name: str) -> None:
    """See, before anything is trained, that a model of the package can take part.

    Args:
        name: in the table of models; whether a model that somebody added has features is only known
            once it is built.

    Raises:
        RecipeError: it has no features, nor takes examples in its prompt.
    """
    known = registry.get("models", name, "model.name")
    own = name in WITH_FEATURES + BY_PROMPT or not known.__module__.startswith("faceaffect.")
    if not own:
        raise RecipeError(_no_features(f"model '{name}'"))


def check_has_features(model: Any) -> None:
    """Raise a RecipeError unless a model has ``heads``, whose input are its features."""
    if not isinstance(getattr(model, "heads", None), nn.Module):
        raise RecipeError(_no_features(type(model).__name__))


def _no_features(what: str) -> str:
    return (
        f"{what} has no last layers ('heads') to take features in front of; "
        f"{', '.join(WITH_FEATURES)} have, and {', '.join(BY_PROMPT)} is asked by its prompt"
    )


def tuned_parts(model: nn.Module) -> list[nn.Parameter]:
    """Return what is tuned of a model beside a new last layer: what its recipe trains."""
    return [p for name, p in model.named_parameters()
            if p.requires_grad and not name.startswith("heads.")]  # fmt: skip


def features(model: AffectModule, images: Tensor) -> Tensor:
    """Return (M, D) what the last layers of a model get of uint8 pictures, with a graph if any."""
    with _caught(model) as caught:
        batch: FaceBatch = as_batch(images.to(model.device), images.shape[-1])
        with with_graph():
            model.predict(batch)
    if not caught:
        raise RecipeError(f"{type(model).__name__}.predict does not call its 'heads'")
    return caught[-1].flatten(1).float()


@contextmanager
def _caught(model: Any) -> Iterator[list[Tensor]]:
    """Note what the last layers of a model are given within."""
    caught: list[Tensor] = []

    def note(module: nn.Module, given: tuple[Any, ...]) -> None:
        caught.append(given[0])

    handle = model.heads.register_forward_pre_hook(note)
    try:
        yield caught
    finally:
        handle.remove()


def base_pictures(data: FaceDataModule) -> Tensor:
    """Return (M, 3, H, W) pictures of evenly spaced samples of the training part."""
    part = data.split.train
    chosen = part[np.unique(np.linspace(0, len(part) - 1, min(_BASE, len(part))).astype(int))]
    read = Pictures(data, chosen)
    if not len(read.readable):
        raise DataError("no picture of the training part can be read")
    return read.of(read.readable)


def nearest_prototype(support: Floats, target: Floats, query: Floats) -> NDArray[np.int64]:
    """Return for each query the class whose mean example is nearest (Snell et al. 2017).

    Args:
        support: (S, D) features of examples.
        target: (S, N) how much of each class an example is, rows that add up to 1.
        query: (Q, D).
    """
    mean = target.T @ support / target.sum(0)[:, None]
    distance = ((query[:, None] - mean[None]) ** 2).sum(2)
    return np.asarray(distance.argmin(1))


def linear(support: Floats, target: Floats, query: Floats) -> NDArray[np.int64]:
    """Return for each query the class that a logistic regression on the examples finds.

    Args:
        support: (S, D) features of examples.
        target: (S, N) how much of each class an example is, rows that add up to 1.
        query: (Q, D).
    """
    row, label = np.nonzero(target)
    fitted = LogisticRegression(max_iter=1000).fit(
        support[row], label, sample_weight=target[row, label]
    )
    return np.asarray(fitted.predict(query))


def fine_tuned(
    sight: Sight,
    support: Tensor,
    target: Floats,
    query: Tensor,
    *,
    steps: int = 20,
    lr: float = 3e-4,
    seed: int = 0,
) -> NDArray[np.int64]:
    """Return for each query the class that a copy of the model, tuned on the examples, finds.

    What its recipe trains is tuned, with a new last layer that begins at the prototypes: all of a
    model that is trained whole, the adapters of one with adapters, of a linear probe the new layer
    alone. Features are centred and scaled as they were before, but not each to length 1: a centre
    that the model moves away from would leave them all in one direction.

    Args:
        sight: of the model.
        support: (S, 3, H, W) uint8 examples.
        target: (S, N) how much of each class an example is, rows that add up to 1.
        query: (Q, 3, H, W) uint8.
        steps: of AdamW, each on all examples.
        lr: learning rate of the model; that of the new layer is ten times as high.
        seed: of what is random in the model.
    """
    torch.manual_seed(seed)
    model = copy.deepcopy(sight.model).eval()
    for part in model.modules():
        if isinstance(part, nn.RNNBase):
            part.train()  # cuDNN has gradients in this mode alone
    own = tuned_parts(model)
    centre = torch.from_numpy(sight.centre).float().to(model.device)
    goal = torch.from_numpy(target).float().to(model.device)

    with torch.no_grad():
        scale = (features(model, support) - centre).norm(dim=1).mean().clamp(min=1e-12)

    def look(images: Tensor) -> Tensor:
        moved: Tensor = (features(model, images) - centre) / scale
        return moved

    with torch.no_grad():
        mean = goal.T @ look(support) / goal.sum(0)[:, None]
    layer = nn.Linear(mean.shape[1], mean.shape[0]).to(model.device)
    with torch.no_grad():  # of distances to the means, less what all classes share
        layer.weight.copy_(_SHARPNESS * mean)
        layer.bias.copy_(-0.5 * _SHARPNESS * (mean**2).sum(1))
    groups = [{"params": own, "lr": lr}] if own else []
    optimiser = torch.optim.AdamW(
        [*groups, {"params": [*layer.parameters()], "lr": 10 * lr}], weight_decay=0.01
    )
    fixed = None if own else look(support).detach()
    for _ in range(steps):
        loss = F.cross_entropy(layer(look(support) if fixed is None else fixed), goal)
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        optimiser.step()
    with torch.no_grad():
        answers = [layer(look(part)).argmax(1).cpu() for part in torch.split(query, _AT_ONCE)]
    return torch.cat(answers).numpy()


_SHARPNESS = 10.0  # of a softmax over features of about length 1


def by_prompt(
    model: Any, support: Tensor, label: Sequence[int], query: Tensor, names: Sequence[str]
) -> NDArray[np.int64]:
    """Return for each query the class that a language model names, the examples in its prompt.

    Args:
        model: one with ``name_by_examples``.
        support: (S, 3, H, W) uint8 examples.
        label: (S,) places of their classes in ``names``.
        query: (Q, 3, H, W) uint8.
        names: of the N classes.
    """
    from faceaffect.instructions.items import Labels
    from faceaffect.models.vlm.shots import Shot

    shots = [Shot(f"example {i}", image[None], Labels(names[c], {}, None))
             for i, (image, c) in enumerate(zip(support, label, strict=True))]  # fmt: skip
    # Examples take turns: all of a class in a row would have it named for what came last.
    turns = sorted(range(len(shots)), key=lambda i: (label[:i].count(label[i]), label[i]))
    answers = [
        model.name_by_examples([one[None] for one in part], names, [shots[i] for i in turns])
        for part in torch.split(query, 8)
    ]
    return np.asarray(torch.cat(answers).argmax(1).cpu().numpy())
