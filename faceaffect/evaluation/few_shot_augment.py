"""More examples of classes of which there are few: the augmentation hook of few-shot episodes.

An augmentation is called with the examples of an episode and returns further pictures with soft
labels. ``mixup`` blends examples, ``renderer`` has the drawn world show the same AUs on other
people (which only drawn faces can have, and no augmentation can beat by much), and ``generated``
edits pictures by two trained generators.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from faceaffect.data.base import FaceDataModule
from faceaffect.data.few_shot import Episode
from faceaffect.data.image import resize
from faceaffect.errors import RecipeError
from faceaffect.evaluation.few_shot_methods import Floats, Pictures, Sight

NAMES = ("mixup", "renderer", "generated")
_ALPHA = 0.4  # of the Beta distribution that mixup draws from


@dataclass
class More:
    """Further examples.

    Attributes:
        features: (M, D).
        target: (M, N) how much of each class they are.
        images: (M, 3, H, W) uint8.
    """

    features: Floats
    target: Floats
    images: Tensor


class Augmentation(Protocol):
    """Makes further examples of the classes of an episode."""

    def __call__(self, sight: Sight, episode: Episode, number: int, rng: Any) -> More:
        """Return about ``number`` further examples for each one of the episode."""


def one_hot(way: int, shot: int) -> Floats:
    """Return (N K, N) labels of an episode's examples, class by class."""
    return np.repeat(np.eye(way), shot, 0)


def mixup(sight: Sight, episode: Episode, number: int, rng: np.random.Generator) -> More:
    """Blend each example with others of the episode (Zhang et al. 2018, arXiv 1710.09412)."""
    way, shot = episode.support.shape
    images, target = sight.pictures.of(episode.support).float(), one_hot(way, shot)
    first = np.repeat(np.arange(way * shot), number)
    second = rng.integers(0, way * shot, len(first))
    share = rng.beta(_ALPHA, _ALPHA, len(first))
    share = np.maximum(share, 1 - share)
    weight = torch.from_numpy(share).float()[:, None, None, None]
    mixed = weight * images[first] + (1 - weight) * images[second]
    blended = mixed.round().clamp(0, 255).to(torch.uint8)
    labels = share[:, None] * target[first] + (1 - share[:, None]) * target[second]
    return More(sight.see(blended), labels, blended)


@dataclass
class PerExample:
    """An augmentation that makes pictures of one example at a time, whatever the episode.

    They are made and seen once for each sample.

    Args:
        make: takes a sample's number and how many, and returns (number, 3, H, W) uint8.
    """

    make: Callable[[int, int], Tensor]
    _made: dict[int, Tensor] = field(default_factory=dict)
    _seen: dict[tuple[int, int], Floats] = field(default_factory=dict)

    def __call__(self, sight: Sight, episode: Episode, number: int, rng: Any) -> More:
        """Return ``number`` pictures for each example of the episode."""
        wanted = episode.support.ravel().tolist()
        for index in wanted:
            if index not in self._made:
                self._made[index] = self.make(index, number)
            if (id(sight), index) not in self._seen:
                self._seen[id(sight), index] = sight.see(self._made[index])
        way, shot = episode.support.shape
        return More(
            np.concatenate([self._seen[id(sight), index] for index in wanted]),
            np.repeat(one_hot(way, shot), number, 0),
            torch.cat([self._made[index] for index in wanted]),
        )


def renderer(data: FaceDataModule, seed: int) -> PerExample:
    """Return the augmentation that draws the same AUs on people of the training part.

    Raises:
        RecipeError: the faces are not drawn.
    """
    dataset: Any = data.dataset
    if not hasattr(dataset, "redraw"):
        raise RecipeError("--augment renderer: only drawn faces can be drawn anew (data.name)")
    people = sorted({dataset.subject_of(i) for i in data.split.train.tolist()})

    def make(index: int, number: int) -> Tensor:
        rng = np.random.default_rng([seed, 156, index])
        chosen = rng.choice(people, number)
        faces = [dataset.redraw(index, int(who), k).image for k, who in enumerate(chosen)]
        return _stacked([resize(face, data.image_size) for face in faces])

    return PerExample(make)


def generated(editors: Any, pictures: Pictures, base: Tensor, seed: int) -> PerExample:
    """Return the augmentation that edits pictures by two generators.

    Half of the pictures are base faces that are given the example's expression, the others the
    example given the person and pose of a base face.

    Args:
        editors: a :class:`~faceaffect.models.comp_gan.CompGan`.
        pictures: that the examples are among.
        base: (M, 3, H, W) uint8 pictures of base classes.
        seed: of choosing among those.
    """

    def make(index: int, number: int) -> Tensor:
        rng = np.random.default_rng([seed, 157, index])
        chosen = base[torch.from_numpy(rng.integers(0, len(base), number))]
        example = pictures.of(np.array([index])).expand(number, -1, -1, -1)
        made: Tensor = editors.edit(chosen, example)
        return made

    return PerExample(make)


def _stacked(faces: list[NDArray[np.uint8]]) -> Tensor:
    return torch.from_numpy(np.stack(faces)).permute(0, 3, 1, 2).contiguous()
