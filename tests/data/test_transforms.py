import pickle
import random

import cv2
import numpy as np
import pytest

from faceaffect.data import transforms
from faceaffect.data.transforms import FLIP_68, Augment, build, move_landmarks, move_pose
from faceaffect.errors import RecipeError
from faceaffect.registry import TABLES

NAMES = sorted(TABLES["transforms"])
GEOMETRIC = ("horizontal_flip", "random_resized_crop", "affine")


def smooth_image(seed: int = 0, size: int = 96) -> np.ndarray:
    noise = np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)
    return cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 3), None, 0, 255, cv2.NORM_MINMAX)


def dots(points: np.ndarray, size: int = 96) -> np.ndarray:
    """A bright Gaussian spot at each point, drawn with subpixel accuracy."""
    y, x = np.mgrid[:size, :size]
    spots = [np.exp(-((x - px) ** 2 + (y - py) ** 2) / (2 * 2.0**2)) for px, py in points]
    return np.repeat((np.max(spots, axis=0) * 255).astype(np.uint8)[..., None], 3, axis=2)


def centroid(image: np.ndarray, near: np.ndarray) -> np.ndarray:
    """Centre of mass of the light around a point."""
    y, x = np.mgrid[: image.shape[0], : image.shape[1]]
    weight = image[..., 0] * (np.hypot(x - near[0], y - near[1]) < 8)
    return np.array([(weight * x).sum(), (weight * y).sum()]) / weight.sum()


@pytest.mark.parametrize("name", NAMES)
def test_image_and_clip_share_the_draw_and_keep_their_size(name: str) -> None:
    image = smooth_image()
    original = image.copy()
    node = name if name == "light" else {"name": name, "p": 1.0}
    augment = build([node])
    out, _, _ = augment(image, seed=(0, 0, 1))
    clip, _, _ = augment(np.stack([image] * 3), seed=(0, 0, 1))
    assert out.shape == image.shape
    assert out.dtype == np.uint8
    assert not np.array_equal(out, image)
    np.testing.assert_array_equal(image, original)
    for frame in clip:
        np.testing.assert_array_equal(frame, out)


@pytest.mark.parametrize("name", NAMES)
def test_seed_alone_decides(name: str) -> None:
    image = smooth_image()
    augment, other = build([name, "light"]), build([name, "light"])
    expected = [augment(image, seed=(3, 1, i))[0] for i in range(4)]
    for i in (2, 0, 3, 1):
        np.testing.assert_array_equal(other(image, seed=(3, 1, i))[0], expected[i])
    copied = pickle.loads(pickle.dumps(other))
    np.testing.assert_array_equal(copied(image, seed=(3, 1, 2))[0], expected[2])


def test_seeds_differ_and_transforms_draw_independently() -> None:
    image = smooth_image()
    augment = build(["light"])
    outs = {augment(image, seed=(0, e, i))[0].tobytes() for e in range(3) for i in range(10)}
    assert len(outs) > 25  # now and then nothing is drawn
    flips = build([{"name": "horizontal_flip", "p": 0.5}, {"name": "horizontal_flip", "p": 0.5}])
    changed = [not np.array_equal(flips(image, seed=(0, 0, i))[0], image) for i in range(100)]
    assert 30 < sum(changed) < 70  # the same draw in both would mirror back every time


@pytest.mark.parametrize("name", GEOMETRIC)
def test_landmarks_follow_the_pixels(name: str) -> None:
    # Five points in places that a mirror keeps in order: point i of the output is where
    # light of point i went, so renaming is undone first.
    points = np.full((68, 2), -500.0, np.float32)
    points[[27, 28, 29, 30, 33]] = [[48, 30], [40, 45], [55, 50], [35, 62], [60, 66]]
    image = dots(points[[27, 28, 29, 30, 33]])
    augment = build([{"name": name, "p": 1.0}])
    seen = 0
    for i in range(5):
        out, moved, _ = augment(image, points, seed=(0, 0, i))
        assert moved.dtype == np.float32
        for index in (27, 28, 29, 30, 33):
            if (moved[index] > 8).all() and (moved[index] < 87).all():
                near = centroid(out, moved[index])
                np.testing.assert_allclose(near, moved[index], atol=0.12)
                seen += 1
    assert seen > 15


def test_flip_table_is_a_mirror_of_the_ibug_scheme() -> None:
    np.testing.assert_array_equal(FLIP_68[FLIP_68], np.arange(68))
    pairs = {0: 16, 7: 9, 8: 8, 17: 26, 21: 22, 27: 27, 31: 35, 33: 33, 36: 45, 37: 44, 39: 42}
    pairs |= {40: 47, 41: 46, 48: 54, 50: 52, 51: 51, 55: 59, 57: 57, 60: 64, 61: 63, 65: 67}
    for left, right in pairs.items():
        assert FLIP_68[left] == right


def test_flip_renames_sides_and_negates_yaw_and_roll() -> None:
    rng = np.random.default_rng(0)
    points = rng.uniform(-20, 120, (4, 68, 2)).astype(np.float32)
    points[0, 5] = np.nan
    pose = np.array([0.1, 0.2, -0.3], np.float32)
    augment = build([{"name": "horizontal_flip", "p": 1.0}])
    clip = np.stack([smooth_image(i) for i in range(4)])
    out, moved, turned = augment(clip, points, pose, seed=(0, 0, 0))
    np.testing.assert_array_equal(out, clip[:, :, ::-1])
    np.testing.assert_allclose(moved[1, 45], [95 - points[1, 36, 0], points[1, 36, 1]], atol=1e-4)
    assert np.isnan(moved[0, FLIP_68[5]]).all()
    assert np.isnan(moved).sum() == 2
    np.testing.assert_allclose(turned, [0.1, -0.2, 0.3], atol=1e-6)


def rotation(pose: np.ndarray) -> np.ndarray:
    (sx, sy, sz), (cx, cy, cz) = np.sin(pose), np.cos(pose)
    x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    return z @ y @ x


@pytest.mark.parametrize("mirrored", [False, True])
def test_pose_equals_rotation_matrices(mirrored: bool) -> None:
    pose, angle = np.array([0.3, -0.4, 0.2]), 0.5
    mirror = np.diag([-1.0 if mirrored else 1.0, 1, 1])
    turn = rotation(np.array([0, 0, angle]))
    expected = turn @ mirror @ rotation(pose) @ mirror
    geometry = np.eye(3)
    geometry[:2, :2] = 1.3 * (turn @ mirror)[:2, :2]
    np.testing.assert_allclose(rotation(move_pose(pose, geometry)), expected, atol=1e-12)


def test_chained_geometry_is_the_product() -> None:
    points = np.random.default_rng(1).uniform(0, 96, (68, 2))
    nodes = [{"name": name, "p": 1.0} for name in GEOMETRIC]
    draw = transforms.Draw(np.random.default_rng(5), random.Random(5))
    expected = points
    image = smooth_image()
    for part in build(nodes).chain.parts:
        image, matrix = part(image, draw)
        expected = move_landmarks(expected, matrix)
    draw = transforms.Draw(np.random.default_rng(5), random.Random(5))
    together, matrix = build(nodes).chain(smooth_image(), draw)
    np.testing.assert_allclose(move_landmarks(points, matrix), expected, atol=1e-9)
    np.testing.assert_array_equal(together, image)


def test_nothing_drawn_changes_nothing() -> None:
    image = smooth_image()
    points, pose = np.zeros((68, 2), np.float32), np.zeros(3, np.float32)
    for augment in (build([]), build([{"name": "affine", "p": 0.0}]), Augment()):
        out, same_points, same_pose = augment(image, points, pose, seed=(0, 0, 0))
        np.testing.assert_array_equal(out, image)
        assert same_points is points
        assert same_pose is pose
    assert build(["light"])(image, seed=(0, 0, 0))[1:] == (None, None)


def test_limits_hold() -> None:
    image = smooth_image()
    grey = build([{"name": "grayscale", "p": 1.0}])(image, seed=(0, 0, 0))[0]
    np.testing.assert_array_equal(grey[..., 0], grey[..., 2])
    crop = build([{"name": "random_resized_crop", "min_area": 0.25, "max_stretch": 1.5}])
    square = np.array([[0.0, 0.0]] * 67 + [[1.0, 1.0]])
    for i in range(50):
        moved = crop(image, square, seed=(0, 0, i))[1]
        zoom = moved[67] - moved[0]
        assert zoom.min() >= 1
        assert zoom.prod() <= 4.1
        assert zoom.max() / zoom.min() <= 1.55
    erased = build([{"name": "random_erasing", "min_area": 0.1, "max_area": 0.2, "p": 1.0}])
    for i in range(20):
        covered = (erased(image, seed=(0, 0, i))[0] != image).any(-1).mean()
        assert 0.07 < covered < 0.22


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ("flip_horizontal", "horizontal_flip"),
        ({"name": "horizontal_flip", "pp": 0.5}, "'p'"),
        ({"name": "blur", "max_sigma": "much"}, "max_sigma"),
    ],
)
def test_wrong_recipe_nodes_are_named(node: str | dict, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        build([node])
