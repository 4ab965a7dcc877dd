"""Each transform beside its twin of torchvision v2, given what was drawn: the way to move to it."""

import random
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from faceaffect.data import transforms
from faceaffect.data.transforms import Draw, Transform
from faceaffect.registry import TABLES

SIZE = 64


def smooth(seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
    return cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 3), None, 0, 255, cv2.NORM_MINMAX)


def flip(x: torch.Tensor, drawn: dict[str, Any]) -> torch.Tensor:
    return F.horizontal_flip(x)


def cropped(x: torch.Tensor, drawn: dict[str, Any]) -> torch.Tensor:
    left, top, right, bottom = drawn["crop_coords"]
    size = [SIZE, SIZE]
    return F.resized_crop(x, top, left, bottom - top, right - left, size, antialias=False)


def jittered(x: torch.Tensor, drawn: dict[str, Any]) -> torch.Tensor:
    steps = (F.adjust_brightness, F.adjust_contrast, F.adjust_saturation, F.adjust_hue)
    values = [drawn[key] for key in ("brightness", "contrast", "saturation", "hue")]
    for step in drawn["order"]:
        x = steps[step](x, values[step])
    return x


def grey(x: torch.Tensor, drawn: dict[str, Any]) -> torch.Tensor:
    return F.rgb_to_grayscale(x, 3)


def blurred(x: torch.Tensor, drawn: dict[str, Any]) -> torch.Tensor:
    kernel = np.asarray(drawn["kernel"])
    sigma = (np.outer(kernel, kernel) if kernel.ndim == 1 else kernel).shape[0]
    spread = np.sqrt((kernel.ravel() * (np.arange(kernel.size) - kernel.size // 2) ** 2).sum())
    return F.gaussian_blur(x, [sigma, sigma], [float(spread)] * 2)


def compressed(x: torch.Tensor, drawn: dict[str, Any]) -> torch.Tensor:
    return F.jpeg(x, int(drawn["quality"]))


def warped(x: torch.Tensor, drawn: dict[str, Any]) -> torch.Tensor:
    """Warp by the matrix, which ``affine`` of torchvision takes in parts about the centre."""
    matrix = np.asarray(drawn["matrix"], float)
    scale = float(np.sqrt(np.linalg.det(matrix[:2, :2])))
    angle = float(np.degrees(np.arctan2(matrix[1, 0], matrix[0, 0])))
    middle = np.array([(SIZE - 1) / 2] * 2)
    shift = matrix[:2, :2] @ middle + matrix[:2, 2] - middle
    return F.affine(x, angle, shift.tolist(), scale, [0.0, 0.0], v2.InterpolationMode.BILINEAR)


# The twin; the largest mean and the largest single difference, in levels of 255; the margin where
# the two fill in differently.
TWINS = {
    "horizontal_flip": (flip, 0, 0, 0),
    "grayscale": (grey, 0.6, 1, 0),
    "color_jitter": (jittered, 1, 4, 0),
    "random_resized_crop": (cropped, 0.7, 3, 0),
    "affine": (warped, 0.7, 5, 20),
    "blur": (blurred, 0.7, 3, 0),
    "jpeg": (compressed, 0.5, 4, 0),
}
WITHOUT_A_TWIN = {
    "light": "a preset of three others",
    "noise": "other random numbers; its spread is compared below",
    "random_erasing": "other random numbers; its place is compared below",
}


def applied(name: str, seed: int) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """Return a picture, what a transform makes of it, and what was drawn."""
    module, _, kind = TABLES["transforms"][name].partition(":")
    assert module == transforms.__name__
    part: Transform = getattr(transforms, kind)(p=1.0)
    image = smooth(seed)
    out, _ = part(image, Draw(np.random.default_rng(seed), random.Random(seed)))
    return image, out, part.operation.get_applied_params()


@pytest.mark.filterwarnings("ignore:.*TorchVision are deprecated:DeprecationWarning")
@pytest.mark.parametrize("name", TWINS)
def test_a_transform_equals_its_twin(name: str) -> None:
    twin, mean, most, margin = TWINS[name]
    for seed in range(8):
        image, out, drawn = applied(name, seed)
        other = twin(torch.from_numpy(image).permute(2, 0, 1), drawn).permute(1, 2, 0).numpy()
        inner = slice(margin, SIZE - margin)
        apart = np.abs(out[inner, inner].astype(int) - other[inner, inner])
        assert apart.mean() <= mean, seed
        assert apart.max() <= most, seed


def test_noise_has_the_spread_of_its_twin() -> None:
    grey_field = np.full((SIZE, SIZE, 3), 128, np.uint8)
    part = transforms.Noise(max_std=0.04, p=1.0)
    spreads = []
    for seed in range(20):
        out, _ = part(grey_field, Draw(np.random.default_rng(seed), random.Random(seed)))
        spreads.append(float(out.astype(float).std()) / 255)
    least, most = (
        float(v2.GaussianNoise(sigma=s)(torch.full((3, SIZE, SIZE), 0.5)).std())
        for s in (0.01, 0.04)
    )
    assert 0.9 * least < min(spreads) < max(spreads) < 1.1 * most


def test_erasing_covers_one_rectangle_of_the_size_that_its_twin_draws() -> None:
    for seed in range(8):
        image, out, _ = applied("random_erasing", seed)
        rows, columns = np.nonzero((out != image).any(-1))
        box = out[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
        assert len(np.unique(box.reshape(-1, 3), axis=0)) == 1
        assert 0.01 < box.shape[0] * box.shape[1] / SIZE**2 < 0.22
    twin = v2.RandomErasing(p=1.0, scale=(0.02, 0.2), ratio=(0.3, 3.3), value=[1.0, 0.5, 0.0])
    for seed in range(8):
        torch.manual_seed(seed)
        share = (twin(torch.full((3, SIZE, SIZE), 2.0)) != 2).float().mean()
        assert 0.01 < share < 0.22


def test_every_transform_is_compared_or_says_why_not() -> None:
    assert {*TWINS} | {*WITHOUT_A_TWIN} == {*TABLES["transforms"]}
