"""What weights were trained on before a recipe takes them: which data, which labels.

Two models on one backbone are not on equal terms if one of them stands on a network more that has
learned landmarks. So every result names the weights that its model started from.
"""

from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from faceaffect.errors import CheckpointError
from faceaffect.networks.weights import Freezable, load_asset_metadata


class Lessons(NamedTuple):
    """What weights have learned.

    Attributes:
        data: what they saw.
        labels: what they were told about it.
    """

    data: str
    labels: str


_WORLD = "18,050 synthetic faces of 2,000 other people"
_WORDS = Lessons(
    "template questions and answers about 5,000 faces that are described in words, no picture",
    "the words",
)

OWN = {
    "mini_vit": Lessons(_WORLD, "no labels, self-supervised"),
    "mini_face": Lessons(
        _WORLD, "68 landmarks, head pose, age group, gender presentation, skin tone"
    ),
    "mini_llama": _WORDS,
    "micro_llama": _WORDS,
    "mini_vlm": Lessons(
        "7,220 synthetic faces of 1,805 other people, and faces described in words",
        "expressions, and whether the visible sign of each AU is there, in words made of labels",
    ),
    "real_vit": Lessons(
        "ImageNet (its first layers), then 4,657 photographs of 3,486 people, facial_expressions",
        "ImageNet's classes, then no labels: the answers of face-api's expression network",
    ),
    "real_face": Lessons(
        f"{_WORLD}, then 4,657 photographs of 3,486 people, facial_expressions",
        "as mini_face of drawings; of photographs 68 landmarks, by MediaPipe's face mesh",
    ),
    "real_expression": Lessons(
        "as real_vit, then photographs of facial_expressions", "six expressions"
    ),
    "2DFAN-4": Lessons("photographs of 300W-LP", "68 landmarks"),
}
"""The package's own weights, and those that face-alignment brings, by name."""

HUB = Lessons("as its name says", "as its name says")
"""What is known of weights from the hub."""

SILENT = Lessons("not noted", "not noted")
"""What is known of weights from a file that does not tell."""


def started_from(model: nn.Module) -> list[dict[str, Any]]:
    """Return the weights that the parts of a model started from; empty for one from scratch.

    Returns:
        For each ``part`` (its name in the model), ``weights`` (what names them), ``data`` and
        ``labels`` that they were trained on, and whether they stayed ``frozen``.
    """
    found = []
    for prefix, module in model.named_modules():
        source = getattr(module, "source", None)
        if not isinstance(source, dict):
            continue
        data, labels = lessons(source)
        weights = source["name"].removeprefix("asset:")
        frozen = isinstance(module, Freezable) and module.frozen
        found.append(
            {"part": prefix, "weights": weights, "data": data, "labels": labels, "frozen": frozen}
        )
    return found


def lessons(source: dict[str, Any]) -> Lessons:
    """Return what the weights of a source have learned, see :class:`Freezable`."""
    name = source["name"].removeprefix("asset:")
    if source["kind"] != "hub" and name in OWN:
        return OWN[name]
    if source["kind"] == "hub":
        return HUB
    if Path(name).is_file():
        try:
            about = load_asset_metadata(name)
        except CheckpointError:  # weights that somebody else wrote
            return SILENT
        if "trained_on" in about and "labels" in about:
            return Lessons(about["trained_on"], about["labels"])
    return SILENT
