"""Facial priors: what a frozen face-analysis network knows of a face.

The networks stand in the table ``priors`` of the registry.

The interface follows FaceXFormer (a fused map, task tokens, 68 landmarks, age, gender and race
logits), which is the likely but unproven source of EMO-LLaMA's priors.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

REGIONS: dict[str, tuple[int, ...]] = {
    "jaw": tuple(range(17)),
    "right brow": tuple(range(17, 22)),
    "left brow": tuple(range(22, 27)),
    "nose bridge": tuple(range(27, 31)),
    "nostrils": tuple(range(31, 36)),
    "right eye": tuple(range(36, 42)),
    "left eye": tuple(range(42, 48)),
    "outer lips": tuple(range(48, 60)),
    "inner lips": tuple(range(60, 68)),
}
"""The nine regions of the 68 iBUG landmarks."""


@dataclass
class FacePrior:
    """What is known of N faces.

    Attributes:
        map: (N, C, h, w) embedding map.
        tokens: (N, S, D) task tokens.
        landmarks: (N, 68, 2) x and y in [-1, 1] of the crop, iBUG order; or (N, 106, 2) of a
            network that says so.
        groups: attribute to (N, K) logits.
        ok: (N,) bool, false where no face was found; the rest is then of no account.
    """

    map: Tensor
    tokens: Tensor
    landmarks: Tensor
    groups: dict[str, Tensor]
    ok: Tensor

    def blanked(self) -> "FacePrior":
        """Return the priors with zeros where no face was found, whatever stood there."""

        def blank(value: Tensor) -> Tensor:
            ok = self.ok.view(-1, *[1] * (value.ndim - 1))
            return torch.where(ok, value, torch.zeros_like(value))

        groups = {name: blank(value) for name, value in self.groups.items()}
        return FacePrior(
            blank(self.map), blank(self.tokens), blank(self.landmarks), groups, self.ok
        )

    def take(self, index: Tensor) -> "FacePrior":
        """Return the priors of some faces, in the order of ``index``."""
        groups = {name: value[index] for name, value in self.groups.items()}
        columns = {f.name: getattr(self, f.name)[index] for f in fields(self) if f.name != "groups"}
        return FacePrior(**columns, groups=groups)

    @classmethod
    def joined(cls, parts: Sequence["FacePrior"]) -> "FacePrior":
        """Return the priors of several batches of faces as one."""
        names = [f.name for f in fields(cls) if f.name != "groups"]
        columns = {name: torch.cat([getattr(part, name) for part in parts]) for name in names}
        groups = {n: torch.cat([part.groups[n] for part in parts]) for n in parts[0].groups}
        return cls(**columns, groups=groups)


@runtime_checkable
class FacePriorNet(Protocol):
    """A frozen face-analysis network; a ``torch.nn.Module`` with these members.

    Attributes:
        map_width: channels C of the embedding map; 0 where there is none.
        token_width: channels D of the tokens; 0 where there are none.
        group_names: attribute to its class names, in the order of the logits.
        fingerprint: names the weights and whatever else the outputs depend on, for caches.

    One that finds other landmarks than the 68 of iBUG says how many in an attribute ``points``.
    """

    map_width: int
    token_width: int
    group_names: dict[str, tuple[str, ...]]
    fingerprint: str

    def __call__(self, image: Tensor) -> FacePrior:
        """Return what is known of uint8 RGB faces (N, 3, H, W)."""
        ...


def profile(
    groups: dict[str, Tensor], ok: Tensor, names: dict[str, tuple[str, ...]], confidence: float
) -> str:
    """Describe a person in words, from all frames of a clip (wording and rule are ours).

    Each attribute is the one that most frames vote for; it is left out where those frames' mean
    probability is below ``confidence``, or where no face was found.

    Args:
        groups: attribute to (T, K) logits of the frames.
        ok: (T,) bool.
        names: attribute to its class names.
        confidence: in [0, 1].

    Returns:
        a sentence, or an empty string if nothing is certain enough.
    """
    certain = []
    for attribute, logits in groups.items():
        probability = logits[ok].float().softmax(1)
        if not len(probability):
            continue
        vote = probability.argmax(1).mode().values
        if probability[:, vote].mean() >= confidence:
            certain.append(names[attribute][int(vote)])
    return f"Estimated subject profile: {', '.join(certain)}." if certain else ""


def points_of(net: FacePriorNet) -> int:
    """Return how many landmarks a network finds."""
    return int(getattr(net, "points", 68))
