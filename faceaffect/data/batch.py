"""The one form in which faces and labels travel from the data to the models."""

from typing import Any, TypedDict

import torch
from torch import Tensor

from faceaffect.schema import LabelSchema


class FaceBatch(TypedDict, total=False):
    """A batch of B faces, or of B clips of T frames; keys of absent labels are absent.

    Attributes:
        image: (B, 3, H, W) uint8 RGB, square. Models resize and normalise it on the device.
        video: (B, T, 3, H, W) uint8 RGB, in place of ``image``; an image is a clip of one frame.
        frame_mask: (B, T) bool, true where ``video`` holds a frame.
        au: (B, A) float32 in {0, 1}, NaN unknown.
        au_intensity: (B, A) float32 in [0, 5], NaN unknown.
        expression: (B,) int64 class index, -1 unknown.
        expression_share: (B, K) float32 share of each class in the votes for a face, rows that add
            up to 1, NaN unknown. What is trained on where it is there; ``expression`` is scored.
        va: (B, 2) float32 valence and arousal in [-1, 1], NaN unknown.
        felt: (B,) int64 class index of what the person feels, -1 unknown; the face may show
            another.
        intensity: (B, 1) float32 how strongly the expression is shown, in [0, 3], NaN unknown.
        eyes: (B, S, D) float32 what an eye tracker measured in S steps, NaN unknown; a clip that is
            shorter ends in NaN.
        fixations: (B, F, 2) float32 where the eyes rested on the screen, in order, its left upper
            corner (0, 0) and its right lower one (1, 1), NaN where there is no more.
        landmarks: (B, 68, 2) or (B, T, 68, 2) float32 pixels of the image, NaN unknown. A label.
        pose: (B, 3) float32 pitch, yaw, roll in radians, NaN unknown. A label.
        attributes: name to (B,) int64 class index, -1 unknown. Labels.
        instance: (B,) int64, equal for views of one expression of one person, -1 for a face alone.
        id: unique name of each sample: path relative to the root, or seed/index.
        subject: the person of each sample.
        features: what frozen networks see of each face, name to (B, ...), see
            ``AffectModule.frozen_features``; only where nothing before them is random.
        skipped: (id, reason) of samples that could not be read and are not in this batch.
    """

    image: Tensor
    video: Tensor
    frame_mask: Tensor
    au: Tensor
    au_intensity: Tensor
    expression: Tensor
    expression_share: Tensor
    va: Tensor
    felt: Tensor
    intensity: Tensor
    eyes: Tensor
    fixations: Tensor
    landmarks: Tensor
    pose: Tensor
    attributes: dict[str, Tensor]
    instance: Tensor
    id: list[str]
    subject: list[str]
    features: dict[str, Tensor]
    skipped: list[tuple[str, str]]


LABELS = ("au", "au_intensity", "expression", "expression_share", "va", "felt", "intensity")
"""The labels of a sample as a whole, each a column or several of a label table."""

SIGNALS = ("eyes", "fixations")
"""What is measured of a person beside the face, of a sample as a whole."""


def move_labels(batch: FaceBatch, source: LabelSchema, target: LabelSchema) -> FaceBatch:
    """Return the batch with its label columns in the order of another schema, matched by name.

    Labels that the target does not name are left out: an AU column disappears, a sample of an
    expression class that the target lacks becomes unknown (-1).

    Args:
        batch: labels in the order of ``source``.
        source: the schema of the data.
        target: the schema wanted; its AUs must be among the source's.
    """
    if source == target:
        return batch
    moved = batch.copy()
    if "au" in batch and target.aus:
        columns = [source.aus.index(au) for au in target.aus]
        moved["au"] = batch["au"][:, columns]
        if "au_intensity" in batch:
            moved["au_intensity"] = batch["au_intensity"][:, columns]
    if "expression" in batch and target.expressions:
        moved["expression"] = _move_class(
            batch["expression"], source.expressions, target.expressions
        )
    if "felt" in batch and target.felt:
        moved["felt"] = _move_class(batch["felt"], source.felt, target.felt)
    if "expression_share" in batch and target.expressions:
        moved["expression_share"] = _move_share(
            batch["expression_share"], source.expressions, target.expressions
        )
    for task, keys in (
        ("au", ("au", "au_intensity")),
        ("expression", ("expression", "expression_share")),
        ("va", ("va",)),
        ("felt", ("felt",)),
        ("intensity", ("intensity",)),
    ):
        if task not in target.tasks:
            for key in keys:
                moved.pop(key, None)  # type: ignore[misc]
    return moved


def _move_class(label: Tensor, source: tuple[str, ...], target: tuple[str, ...]) -> Tensor:
    """Return (B,) indices among other classes, -1 for a class that is missing there."""
    index = [target.index(name) if name in target else -1 for name in source]
    return torch.tensor([*index, -1], device=label.device)[label]


def _move_share(share: Tensor, source: tuple[str, ...], target: tuple[str, ...]) -> Tensor:
    """Return (B, K) shares by other classes; votes for a class that is missing do not count."""
    moved = share.new_zeros(len(share), len(target))
    for column, name in enumerate(source):
        if name in target:
            moved[:, target.index(name)] = share[:, column]
    total = moved.sum(1, keepdim=True)
    return torch.where(total > 0, moved / total, torch.nan)


def move_predictions(
    prediction: dict[str, Tensor], source: LabelSchema, target: LabelSchema
) -> dict[str, Tensor]:
    """Return predictions for what a model is scored in, AUs matched by name.

    Args:
        prediction: ``au`` (B, A), ``expression`` (B, K), ``va`` (B, 2), ``felt`` (B, F),
            ``intensity`` (B, 1) in the order of ``source``.
        source: the schema of the model.
        target: of :meth:`LabelSchema.scored_on`: some of the model's AUs and tasks, and all of its
            expressions and felt emotions or none.
    """
    if source == target:
        return prediction
    moved = {}
    if target.aus:
        moved["au"] = prediction["au"][:, [source.aus.index(au) for au in target.aus]]
    if target.expressions:
        moved["expression"] = prediction["expression"]
    if target.valence_arousal:
        moved["va"] = prediction["va"]
    if target.felt:
        moved["felt"] = prediction["felt"]
    if target.intensity:
        moved["intensity"] = prediction["intensity"]
    return moved


def frames(batch: FaceBatch) -> tuple[FaceBatch, Tensor]:
    """Return every frame of a batch of clips as an image of its own, and its clip's index.

    Args:
        batch: a batch with ``video`` (B, T, 3, H, W) and ``frame_mask`` (B, T).

    Returns:
        The M known frames as a batch of images, labels repeated, and the clip index (M,) int64.
    """
    clip, frame = batch["frame_mask"].nonzero(as_tuple=True)
    flat = FaceBatch(image=batch["video"][clip, frame])
    if "landmarks" in batch:
        flat["landmarks"] = batch["landmarks"][clip, frame]
    for key in (*LABELS, "pose"):
        if key in batch:
            flat[key] = batch[key][clip]  # type: ignore[literal-required]
    if "attributes" in batch:
        flat["attributes"] = {name: value[clip] for name, value in batch["attributes"].items()}
    owner = clip.tolist()
    for key in ("id", "subject"):
        if key in batch:
            flat[key] = [batch[key][i] for i in owner]  # type: ignore[literal-required]
    return flat, clip


def mean_over_frames(prediction: dict[str, Any], clip: Tensor, clips: int) -> dict[str, Any]:
    """Average predictions (M, ...) of frames into (clips, ...); words of the first frame stand."""
    count = torch.bincount(clip, minlength=clips).unsqueeze(1)
    means: dict[str, Any] = {}
    for task, value in prediction.items():
        if task == "text":
            first = [int((clip == c).nonzero()[0, 0]) for c in range(clips)]
            means[task] = [value[i] for i in first]
        else:
            value = value.float()
            total = value.new_zeros(clips, value.shape[1]).index_add_(0, clip, value)
            means[task] = total / count
    return means


def as_clips(batch: FaceBatch) -> FaceBatch:
    """Return a batch of images as clips of one frame; a batch of clips as it is."""
    if "video" in batch:
        return batch
    clips = batch.copy()
    if "image" in batch:
        seen = clips.pop("image")
        clips["video"] = seen[:, None]
    else:
        seen = next(iter(batch["features"].values()))
    clips["frame_mask"] = torch.ones(len(seen), 1, dtype=torch.bool, device=seen.device)
    if "landmarks" in batch:
        clips["landmarks"] = batch["landmarks"][:, None]
    return clips
