"""The one form in which faces and labels travel from the data to the models."""

from typing import TypedDict

from torch import Tensor


class FaceBatch(TypedDict, total=False):
    """A batch of B faces, or of B clips of T frames; keys of absent labels are absent.

    Attributes:
        image: (B, 3, H, W) uint8 RGB, square. Models resize and normalise it on the device.
        video: (B, T, 3, H, W) uint8 RGB, in place of ``image``; an image is a clip of one frame.
        frame_mask: (B, T) bool, true where ``video`` holds a frame.
        au: (B, A) float32 in {0, 1}, NaN unknown.
        au_intensity: (B, A) float32 in [0, 5], NaN unknown.
        expression: (B,) int64 class index, -1 unknown.
        va: (B, 2) float32 valence and arousal in [-1, 1], NaN unknown.
        landmarks: (B, 68, 2) or (B, T, 68, 2) float32 pixels of the image, NaN unknown. A label.
        pose: (B, 3) float32 pitch, yaw, roll in radians, NaN unknown. A label.
        attributes: name to (B,) int64 class index, -1 unknown. Labels.
        id: unique name of each sample: path relative to the root, or seed/index.
        subject: the person of each sample.
        turns: questions and answers of each sample, from an instruction file.
        skipped: (id, reason) of samples that could not be read and are not in this batch.
    """

    image: Tensor
    video: Tensor
    frame_mask: Tensor
    au: Tensor
    au_intensity: Tensor
    expression: Tensor
    va: Tensor
    landmarks: Tensor
    pose: Tensor
    attributes: dict[str, Tensor]
    id: list[str]
    subject: list[str]
    turns: list[list[tuple[str, str]]]
    skipped: list[tuple[str, str]]
