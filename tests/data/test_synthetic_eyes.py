"""Drawn people who feel something else than they show, and whose eyes follow what they feel."""

import numpy as np
import pytest
import torch

from faceaffect.data.base import create_data
from faceaffect.data.synthetic import SyntheticFaces, facs
from faceaffect.data.synthetic.eyes import EYES, FIXATIONS, LOOKS, STEPS, shown_intensity
from faceaffect.errors import DataError

CLASSES = list(facs.EXPRESSIONS[:7])


def drawn(n: int = 400, deceive: float | None = 0.5, **args: object) -> SyntheticFaces:
    return SyntheticFaces(n=n, subjects=40, seed=3, image_size=32, deceive=deceive, **args)


def test_without_the_option_all_is_as_it_was_and_with_it_nothing_shown_changes() -> None:
    plain, felt = drawn(12, None), drawn(12)
    assert plain.schema.felt == ()
    assert plain.samples.felt is None
    assert plain.samples.eyes is None
    assert "face" not in plain.samples.attributes
    for name in ("id", "subject", "au", "au_intensity", "expression", "va"):
        np.testing.assert_array_equal(getattr(plain.samples, name), getattr(felt.samples, name))
    for index in (0, 7):
        np.testing.assert_array_equal(plain.render(index).image, felt.render(index).image)


def test_a_sample_does_not_depend_on_how_many_there_are() -> None:
    few, many = drawn(20).samples, drawn(60).samples
    np.testing.assert_array_equal(few.felt, many.felt[:20])
    np.testing.assert_array_equal(few.eyes, many.eyes[:20])
    np.testing.assert_array_equal(few.fixations, many.fixations[:20])


def test_views_of_one_moment_are_of_one_feeling() -> None:
    samples = drawn(12, yaws=[-30.0, 0.0, 30.0]).samples
    for name in ("felt", "eyes", "fixations"):
        views = getattr(samples, name).reshape(4, 3, -1)
        np.testing.assert_array_equal(views[:, 1:], views[:, :1].repeat(2, 1))


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_the_share_of_faces_that_deceive(share: float) -> None:
    samples = drawn(2000, share, expressions=["neutral", "anger", "sadness"]).samples
    differs = samples.felt != samples.expression
    assert differs.mean() == pytest.approx(share, abs=0.03)
    np.testing.assert_array_equal(samples.attributes["face"], differs.astype(int))
    if share == 1.0:  # behind each shown emotion both of the others, about equally often
        for shown in range(3):
            counts = np.bincount(samples.felt[samples.expression == shown], minlength=3)
            assert counts[shown] == 0
            others = np.delete(counts, shown)
            assert others.min() > 0.4 * others.sum()


def test_eyes_and_fixations_are_what_they_say() -> None:
    samples = drawn().samples
    assert samples.eyes.shape == (400, STEPS, len(EYES))
    assert samples.fixations.shape == (400, FIXATIONS, 2)
    lid = samples.eyes[..., EYES.index("lid")]
    assert ((lid >= 0) & (lid <= 1)).all()
    np.testing.assert_array_equal(
        np.isnan(samples.eyes[..., 0]), lid == 0
    )  # shut eyes look nowhere
    rests = samples.fixations[~np.isnan(samples.fixations)]
    assert ((rests >= 0) & (rests <= 1)).all()
    ends = np.isnan(samples.fixations[..., 0])
    assert (np.diff(ends.astype(int), axis=1) >= 0).all()  # nothing follows the end
    assert not ends[:, 0].any()


def test_eyes_follow_what_is_felt_and_not_what_is_shown() -> None:
    samples = drawn(3000).samples
    pupil = samples.eyes[..., EYES.index("pupil")]
    wider = np.nanmean(pupil[:, 12:22], 1) - np.nanmean(pupil[:, :8], 1)
    deceives = samples.attributes["face"] == 1
    low, high = CLASSES.index("disgust"), CLASSES.index("fear")
    assert LOOKS["fear"].pupil > LOOKS["disgust"].pupil + 0.5

    def gap(label: np.ndarray) -> float:
        return float(
            wider[deceives & (label == high)].mean() - wider[deceives & (label == low)].mean()
        )

    assert gap(samples.felt) > 0.25
    assert abs(gap(samples.expression)) < 0.2


def test_intensity_of_what_is_shown() -> None:
    grade = np.zeros((3, len(facs.AUS)), np.float32)
    happy = facs.EXPRESSIONS.index("happiness")
    for au in (6, 12):  # its core actions
        grade[1, facs.COLUMN[au]] = 5
        grade[2, facs.COLUMN[au]] = 2
    np.testing.assert_allclose(shown_intensity(np.full(3, happy), grade), [0, 3, 1.2], atol=1e-6)
    assert not shown_intensity(np.zeros(3, int), grade + 5).any()  # a neutral face


def test_batches_and_statistics_carry_what_is_felt_and_measured() -> None:
    args = {"n": 60, "subjects": 12, "image_size": 32, "clips": 3, "deceive": 0.5}
    data = create_data("synthetic", batch_size=8, num_workers=0, **args)
    batch = next(iter(data.train_dataloader()))
    assert batch["eyes"].shape == (8, STEPS, len(EYES))
    assert batch["fixations"].shape == (8, FIXATIONS, 2)
    assert batch["felt"].shape == batch["expression"].shape == (8,)
    assert batch["intensity"].shape == (8, 1)
    part = data.dataset.samples.take(data.split.train)
    found = data.statistics()
    assert found["intensity_mean"] == pytest.approx([float(part.intensity.mean())], abs=1e-6)
    assert found["felt_count"] == {n: int((part.felt == i).sum()) for i, n in enumerate(CLASSES)}
    rows = part.eyes.reshape(-1, len(EYES)).astype(float)
    np.testing.assert_allclose(found["eyes"]["mean"], np.nanmean(rows, 0))
    np.testing.assert_allclose(found["eyes"]["std"], np.nanstd(rows, 0))
    assert torch.isfinite(torch.tensor(found["fixations"]["std"])).all()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"deceive": 1.5}, "deceive=1.5: a probability"),
        ({"deceive": 0.5, "expressions": ["anger"]}, "needs two expressions"),
    ],
)
def test_bad_shares_are_refused(args: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        SyntheticFaces(n=4, subjects=2, **args)
