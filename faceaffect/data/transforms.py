"""Augmentation of faces and clips: one draw a clip, geometry applied to landmarks and pose too.

Albumentations does the pixels and is confined to this file. Each transform reports the geometry
that it drew as one matrix, so landmarks and pose follow without it. Conventions: a landmark
(x, y) at integers lies on a pixel's centre, y points down; pose is pitch, yaw, roll in radians of
the rotation ``Rz(roll) Ry(yaw) Rx(pitch)``, a positive roll turns the face clockwise on the screen.

Our action units are coded for both sides of the face together, so a mirrored face keeps its AU,
expression and valence-arousal labels.
"""

import os
import random
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from faceaffect.components import create

Frames = NDArray[np.uint8]
Matrix = NDArray[np.float64]


class Draw(NamedTuple):
    """The random sources of one sample, shared by all transforms in their order."""

    generator: np.random.Generator
    python: random.Random


Part = Callable[[Frames, Draw], tuple[Frames, Matrix | None]]

# iBUG order: jaw 0-16, brows 17-26, nose bridge 27-30, nostrils 31-35, eyes 36-47, lips 48-67.
# fmt: off
FLIP_68 = np.array([
    16, 15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0,
    26, 25, 24, 23, 22, 21, 20, 19, 18, 17,
    27, 28, 29, 30, 35, 34, 33, 32, 31,
    45, 44, 43, 42, 47, 46, 39, 38, 37, 36, 41, 40,
    54, 53, 52, 51, 50, 49, 48, 59, 58, 57, 56, 55,
    64, 63, 62, 61, 60, 67, 66, 65,
])
# fmt: on


@cache
def _albumentations() -> Any:
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # else its import asks PyPI
    import albumentations

    return albumentations


class Transform:
    """One named augmentation: an albumentations operation and the matrix of what it drew."""

    def __init__(self, operation: Any) -> None:
        """Wrap a built albumentations transform."""
        self.operation = operation

    def __call__(self, frames: Frames, draw: Draw) -> tuple[Frames, Matrix | None]:
        """Return the changed (H, W, 3) image or (T, H, W, 3) clip, and its (3, 3) geometry.

        The matrix maps old pixel coordinates to new ones; None where no pixel has moved.
        """
        operation = self.operation
        operation.set_random_state(*draw)
        clip = frames if frames.ndim == 4 else frames[None]
        first = operation(image=clip[0])["image"]
        drawn = operation.get_applied_params()
        if not drawn:
            return frames, None
        # Frame by frame with the first one's draw: a few times faster than the clip target.
        rest = (operation.apply_with_params(drawn, image=frame)["image"] for frame in clip[1:])
        out = first if frames.ndim == 3 else np.stack([first, *rest])
        height, width = frames.shape[-3:-1]
        return out, self.matrix(drawn, height, width)

    def matrix(self, drawn: dict[str, Any], height: int, width: int) -> Matrix | None:
        """Return the (3, 3) geometry of the parameters drawn, None for a change of colour."""
        return None


class Chain:
    """Several transforms, one after another, as one."""

    def __init__(self, *parts: Part) -> None:
        """Keep the parts in the order of their application."""
        self.parts = parts

    def __call__(self, frames: Frames, draw: Draw) -> tuple[Frames, Matrix | None]:
        """Apply every part; the matrix is the product of theirs."""
        total: Matrix | None = None
        for part in self.parts:
            frames, matrix = part(frames, draw)
            if matrix is not None:
                total = matrix if total is None else matrix @ total
        return frames, total


class HorizontalFlip(Transform):
    """Mirror the face left to right."""

    def __init__(self, p: float = 0.5) -> None:
        """Mirror with probability ``p``."""
        super().__init__(_albumentations().HorizontalFlip(p=p))

    def matrix(self, drawn: dict[str, Any], height: int, width: int) -> Matrix:
        """Return the mirror about the middle column."""
        return np.array([[-1.0, 0, width - 1], [0, 1, 0], [0, 0, 1]])


class RandomResizedCrop(Transform):
    """Cut out a random part and enlarge it to the input's size."""

    def __init__(self, min_area: float = 0.7, max_stretch: float = 1.1, p: float = 1.0) -> None:
        """Cut with probability ``p``.

        Args:
            min_area: smallest part of the image's area that is kept, in (0, 1].
            max_stretch: largest change of the ratio of width to height, >= 1.
            p: probability.
        """
        operation = _albumentations().RandomResizedCrop(
            size=(1, 1), scale=(min_area, 1.0), ratio=(1 / max_stretch, max_stretch), p=p
        )
        super().__init__(operation)

    def __call__(self, frames: Frames, draw: Draw) -> tuple[Frames, Matrix | None]:
        """As :meth:`Transform.__call__`."""
        self.operation.size = frames.shape[-3:-1]
        return super().__call__(frames, draw)

    def matrix(self, drawn: dict[str, Any], height: int, width: int) -> Matrix:
        """Return shift and scale; half a pixel enters as resizing keeps edges, not centres."""
        left, top, right, bottom = drawn["crop_coords"]
        x, y = width / (right - left), height / (bottom - top)
        return np.array(
            [[x, 0, (0.5 - left) * x - 0.5], [0, y, (0.5 - top) * y - 0.5], [0, 0, 1.0]]
        )


class Affine(Transform):
    """Shift, scale and rotate; what comes in from outside is mirrored at the border."""

    def __init__(
        self, shift: float = 0.05, scale: float = 0.1, rotate: float = 10.0, p: float = 1.0
    ) -> None:
        """Draw each amount uniformly from minus to plus its limit.

        Args:
            shift: largest shift to each side, as a part of the width and of the height.
            scale: largest change of size, 0.1 is 0.9 to 1.1.
            rotate: largest angle in degrees.
            p: probability.
        """
        operation = _albumentations().Affine(
            translate_percent=(-shift, shift),
            scale=(1 - scale, 1 + scale),
            rotate=(-rotate, rotate),
            keep_ratio=True,
            border_mode=cv2.BORDER_REFLECT_101,
            p=p,
        )
        super().__init__(operation)

    def matrix(self, drawn: dict[str, Any], height: int, width: int) -> Matrix:
        """Return the matrix that warped the pixels."""
        return np.asarray(drawn["matrix"], dtype=np.float64)


class ColorJitter(Transform):
    """Change brightness, contrast, saturation and hue, in random order."""

    def __init__(
        self,
        brightness: float = 0.2,
        contrast: float = 0.2,
        saturation: float = 0.2,
        hue: float = 0.0,
        p: float = 0.8,
    ) -> None:
        """Draw each factor uniformly from 1 - limit to 1 + limit.

        Args:
            brightness: limit, in [0, 1].
            contrast: limit, in [0, 1].
            saturation: limit, in [0, 1].
            hue: largest shift of the hue as a part of the circle, in [0, 0.5]; skin takes little.
            p: probability.
        """
        operation = _albumentations().ColorJitter(
            brightness=(1 - brightness, 1 + brightness),
            contrast=(1 - contrast, 1 + contrast),
            saturation=(1 - saturation, 1 + saturation),
            hue=(-hue, hue),
            p=p,
        )
        super().__init__(operation)


class Grayscale(Transform):
    """Take the colour away; the image keeps three channels."""

    def __init__(self, p: float = 0.1) -> None:
        """Change with probability ``p``."""
        super().__init__(_albumentations().ToGray(p=p))


class RandomErasing(Transform):
    """Cover a random rectangle with one random colour."""

    def __init__(self, min_area: float = 0.02, max_area: float = 0.2, p: float = 0.5) -> None:
        """Cover ``min_area`` to ``max_area`` of the image, with probability ``p``."""
        operation = _albumentations().Erasing(
            scale=(min_area, max_area), fill="random_uniform", p=p
        )
        super().__init__(operation)


class Blur(Transform):
    """Blur by a Gaussian."""

    def __init__(self, max_sigma: float = 1.5, p: float = 0.2) -> None:
        """Blur by up to ``max_sigma`` pixels, with probability ``p``."""
        operation = _albumentations().GaussianBlur(
            blur_limit=0, sigma_limit=(min(0.2, max_sigma), max_sigma), p=p
        )
        super().__init__(operation)


class Jpeg(Transform):
    """Compress as JPEG does."""

    def __init__(self, min_quality: int = 40, max_quality: int = 90, p: float = 0.2) -> None:
        """Draw the quality, 1 to 100, between the limits, with probability ``p``."""
        operation = _albumentations().ImageCompression(
            quality_range=(min_quality, max_quality), p=p
        )
        super().__init__(operation)

    def __call__(self, frames: Frames, draw: Draw) -> tuple[Frames, Matrix | None]:
        """As :meth:`Transform.__call__`; albumentations takes red for blue, as OpenCV does."""
        out, matrix = super().__call__(np.ascontiguousarray(frames[..., ::-1]), draw)
        return np.ascontiguousarray(out[..., ::-1]), matrix


class Noise(Transform):
    """Add Gaussian noise to every pixel and channel."""

    def __init__(self, max_std: float = 0.04, p: float = 0.2) -> None:
        """Add noise of up to ``max_std`` (1 is the full range), with probability ``p``."""
        operation = _albumentations().GaussNoise(std_range=(max_std / 4, max_std), p=p)
        super().__init__(operation)


class Light(Chain):
    """The preset for aligned faces: mirror, small affine change, mild colour."""

    def __init__(self, strength: float = 1.0) -> None:
        """Scale all limits, not the mirror, by ``strength``."""
        super().__init__(
            HorizontalFlip(p=0.5),
            Affine(shift=0.04 * strength, scale=0.08 * strength, rotate=8 * strength, p=0.8),
            ColorJitter(
                brightness=0.2 * strength,
                contrast=0.2 * strength,
                saturation=0.1 * strength,
                hue=0.0,
                p=0.8,
            ),
        )


def move_landmarks(landmarks: NDArray[Any], matrix: Matrix) -> NDArray[Any]:
    """Return (..., 68, 2) landmarks moved by a (3, 3) geometry; a mirror renames left and right.

    Points outside the image stay as coordinates; NaN stays NaN.
    """
    moved = landmarks @ matrix[:2, :2].T + matrix[:2, 2]
    if np.linalg.det(matrix[:2, :2]) < 0:
        moved = moved[..., FLIP_68, :]
    return moved.astype(landmarks.dtype)


def move_pose(pose: NDArray[Any], matrix: Matrix) -> NDArray[Any]:
    """Return (..., 3) pitch, yaw, roll after a (3, 3) geometry of the image.

    A mirror negates yaw and roll; the rotation nearest to the matrix adds to roll. Shear and
    change of the ratio of width to height have no pose and are ignored.
    """
    linear = matrix[:2, :2]
    pitch, yaw, roll = np.moveaxis(np.asarray(pose, dtype=np.float64), -1, 0)
    if np.linalg.det(linear) < 0:
        linear = linear @ np.diag([-1.0, 1.0])
        yaw, roll = -yaw, -roll
    roll = roll + np.arctan2(linear[1, 0] - linear[0, 1], linear[0, 0] + linear[1, 1])
    roll = (roll + np.pi) % (2 * np.pi) - np.pi
    return np.stack([pitch, yaw, roll], axis=-1).astype(pose.dtype)


class Augment:
    """A list of transforms, applied to a sample with a seed of its own.

    Not for use by several threads at once; workers of a data loader are processes.
    """

    def __init__(self, *parts: Part) -> None:
        """Keep the transforms in the order of their application."""
        self.chain = Chain(*parts)

    def __call__(
        self,
        image: Frames,
        landmarks: NDArray[Any] | None = None,
        pose: NDArray[Any] | None = None,
        *,
        seed: tuple[int, ...],
    ) -> tuple[Frames, NDArray[Any] | None, NDArray[Any] | None]:
        """Return image, landmarks and pose, changed alike. The input is not written to.

        Args:
            image: (H, W, 3) or (T, H, W, 3) uint8; all frames of a clip get the same draw.
            landmarks: (68, 2) or (T, 68, 2) pixels of ``image``, iBUG order.
            pose: (3,) or (T, 3) pitch, yaw, roll in radians.
            seed: (seed, epoch, index), each >= 0; the result depends on nothing else.
        """
        generator = np.random.default_rng(seed)
        draw = Draw(generator, random.Random(int(generator.integers(2**63))))
        image, matrix = self.chain(image, draw)
        if matrix is not None:
            landmarks = None if landmarks is None else move_landmarks(landmarks, matrix)
            pose = None if pose is None else move_pose(pose, matrix)
        return image, landmarks, pose


def build(specs: Sequence[str | dict[str, Any]]) -> Augment:
    """Build the augmentation that a recipe lists, e.g. ``["light", {"name": "blur", "p": 0.1}]``.

    Raises:
        RecipeError: an unknown transform or argument.
    """
    return Augment(*(create("transforms", spec) for spec in specs))
