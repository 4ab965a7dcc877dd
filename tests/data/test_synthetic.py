import dataclasses
import hashlib
import os
import pickle
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from faceaffect.data.base import create_data
from faceaffect.data.synthetic import SyntheticFaces, facs, sheet
from faceaffect.data.synthetic.clips import draw_clip
from faceaffect.data.synthetic.geometry import TEMPLATE, Array
from faceaffect.data.synthetic.identity import Identity, attribute_table, make_identity
from faceaffect.data.synthetic.marks import MARK_POINTS
from faceaffect.data.synthetic.render import landmarks, render, view
from faceaffect.data.synthetic.sampling import LabelSampler
from faceaffect.data.synthetic.scene import MAX_TILT, MAX_YAW, draw_scene, plain_scene
from faceaffect.errors import DataError
from faceaffect.recipe import load_recipe

SIZE = 112
# Mirror image of the 68 iBUG points, written out by hand from the figure of the annotation scheme.
FLIP = np.array(
    [*range(16, -1, -1), *range(26, 16, -1), 27, 28, 29, 30, 35, 34, 33, 32, 31, 45, 44, 43, 42,
    47, 46, 39, 38, 37,
     36, 41, 40, 54, 53, 52, 51, 50, 49, 48, 59, 58, 57, 56, 55, 64, 63, 62, 61, 60, 67, 66, 65]
)  # fmt: skip


def calm(people: range = range(6), seed: int = 3) -> list[Identity]:
    return [make_identity(seed, number) for number in people]


def shift(person: Identity, grades: dict[int, float]) -> Array:
    """Landmark displacement in pixels from the calm face to the given AU intensities."""
    return landmarks(person, plain_scene(grades), SIZE) - landmarks(person, plain_scene({}), SIZE)


@pytest.mark.slow
def test_a_sample_is_the_same_in_another_process() -> None:
    code = (
        "import hashlib; from faceaffect.data.synthetic import SyntheticFaces as S;"
        "d = S(40, 7, seed=5);"
        "print(hashlib.sha256(b''.join(d.load(i).image.tobytes() for i in (3, 39))).hexdigest())"
    )
    env = {**os.environ, "PYTHONHASHSEED": "12"}
    there = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env
    )
    here = SyntheticFaces(40, 7, seed=5)
    digest = hashlib.sha256(b"".join(here.load(i).image.tobytes() for i in (3, 39))).hexdigest()
    assert there.stdout.strip() == digest


def test_a_sample_does_not_depend_on_how_many_there_are() -> None:
    few, many = SyntheticFaces(20, 10, seed=2), SyntheticFaces(300, 10, seed=2)
    assert np.array_equal(few.samples.au, many.samples.au[:20])
    assert np.array_equal(few.samples.va, many.samples.va[:20])
    assert np.array_equal(few.samples.id, many.samples.id[:20])
    assert np.array_equal(few.load(11).image, many.load(11).image)


def test_a_sample_survives_pickling_and_any_order_of_loading() -> None:
    data = SyntheticFaces(30, 10)
    copy = pickle.loads(pickle.dumps(data))
    first = data.load(4).image
    data.load(9)
    assert np.array_equal(copy.load(4).image, first)
    assert np.array_equal(data.load(4).image, first)


def test_subjects_carry_their_seed_and_look_alike_only_to_themselves() -> None:
    one, two = SyntheticFaces(200, 50, seed=1), SyntheticFaces(200, 50, seed=2)
    assert not set(one.samples.subject) & set(two.samples.subject)
    assert one.samples.subject[17] == "s1-0017" == one.samples.subject[67]
    assert len(set(one.samples.subject)) == 50
    rest = np.stack([make_identity(1, s).rest for s in range(30)])
    gap = np.abs(rest[:, None] - rest[None]).mean((2, 3)) + np.eye(30)
    assert gap.min() > 0.003
    assert make_identity(1, 4).ramp.tolist() != make_identity(2, 4).ramp.tolist()


def test_identity_depends_on_seed_and_number_alone() -> None:
    make_identity.cache_clear()
    first = make_identity(8, 3)
    make_identity.cache_clear()
    make_identity(8, 2)
    assert np.array_equal(make_identity(8, 3).rest, first.rest)
    assert {k: int(v[3]) for k, v in attribute_table(8, 90).items()} == first.attributes


def test_labels_of_ten_thousand_samples_need_no_rendering() -> None:
    start = time.perf_counter()
    data = SyntheticFaces(10_000, 2000)
    assert time.perf_counter() - start < 2.0
    assert len(data) == 10_000


def test_label_ranges() -> None:
    data = SyntheticFaces(4000, 100, aus=facs.AUS, expressions=facs.EXPRESSIONS)
    table = data.samples
    assert set(np.unique(table.au)) == {0.0, 1.0}
    assert set(np.unique(table.au_intensity)) == set(map(float, range(6)))
    assert np.array_equal(table.au == 1, table.au_intensity >= 2)
    assert set(np.unique(table.expression)) == set(range(8))
    assert np.abs(table.va).max() <= 1
    assert table.au.dtype == table.va.dtype == np.float32
    for name, classes in data.attribute_names.items():
        assert set(np.unique(table.attributes[name])) == set(range(len(classes)))


@pytest.mark.parametrize("preset", ["bp4d", "disfa", "uniform"])
def test_positive_rates_are_those_of_the_preset(preset: str) -> None:
    data = SyntheticFaces(40_000, 1000, aus=facs.AUS, rates=preset)
    wanted = np.array([facs.RATE_PRESETS[preset][au] for au in facs.AUS])
    # four standard errors, and what exclusive pairs take away
    slack = 4 * np.sqrt(wanted * (1 - wanted) / 40_000) + 0.05 * wanted
    assert (np.abs(data.samples.au.mean(0) - wanted) < slack).all()


def test_rates_by_mapping_reach_zero_and_one() -> None:
    data = SyntheticFaces(500, 10, aus=[1, 4, 12], rates={1: 0.0, 12: 1.0, 4: 0.5})
    assert data.samples.au[:, 0].max() == 0
    assert data.samples.au[:, 2].min() == 1
    assert 0.35 < data.samples.au[:, 1].mean() < 0.65


def test_cooccurrence() -> None:
    usual = LabelSampler("uniform")(20_000, 0).grade
    changed = LabelSampler("uniform", cooccurrence={(1, 17): 1.0, (2, 15): -0.8})(20_000, 0).grade
    one, two, fifteen, seventeen = (facs.COLUMN[au] for au in (1, 2, 15, 17))
    assert np.array_equal(changed[:, one], changed[:, seventeen])
    assert not np.array_equal(usual[:, one], usual[:, seventeen])

    def correlation(grade: Array) -> float:
        return np.corrcoef(grade[:, two], grade[:, fifteen])[0, 1]

    assert correlation(changed) < correlation(usual) - 0.1


def test_expressions_show_their_prototypes_and_place_on_the_circumplex() -> None:
    labels = LabelSampler("uniform", facs.EXPRESSIONS)(20_000, 0)
    positive = labels.grade >= 2
    for name, prototype in facs.PROTOTYPES.items():
        shown = labels.expression == facs.EXPRESSIONS.index(name)
        for au in [au for au, weight in prototype.items() if weight >= 4]:
            column = positive[:, facs.COLUMN[au]]
            assert column[shown].mean() > column[~shown].mean() + 0.2, (name, au)
    mean = {n: labels.va[labels.expression == k].mean(0) for k, n in enumerate(facs.EXPRESSIONS)}
    assert mean["happiness"][0] > 0.4
    assert max(mean[n][0] for n in ("sadness", "anger", "disgust", "fear")) < -0.2
    assert mean["surprise"][1] > 0.4 > mean["sadness"][1]
    assert np.abs(mean["neutral"]).max() < 0.2


def test_label_noise_flips_that_share_and_leaves_the_truth_in_the_intensities() -> None:
    clean, noisy = SyntheticFaces(8000, 100), SyntheticFaces(8000, 100, label_noise=0.1)
    flipped = (clean.samples.au != noisy.samples.au).mean()
    assert abs(flipped - 0.1) < 0.01
    assert abs((clean.samples.expression != noisy.samples.expression).mean() - 0.1) < 0.02
    assert np.array_equal(clean.samples.au_intensity, noisy.samples.au_intensity)
    assert np.array_equal(clean.load(5).image, noisy.load(5).image)


# What FACS says each action moves: landmarks, axis (0 right, 1 down), sign.
MOVES = [
    (1, [21, 22], 1, -1), (2, [17, 26], 1, -1), (4, [20, 21, 22, 23], 1, 1), (4, [21], 0, 1), (4,
    [22], 0, -1),
    (5, [37, 38, 43, 44], 1, -1), (6, [40, 41, 46, 47], 1, -1), (7, [40, 41, 46, 47], 1, -1),
    (7, [37, 38, 43, 44], 1, 1), (9, [31, 35], 1, -1), (10, [50, 51, 52], 1, -1), (12, [48, 54], 1,
    -1),
    (12, [54], 0, 1), (12, [48], 0, -1), (14, [54], 0, 1), (15, [48, 54], 1, 1), (17, [56, 57, 58,
    8], 1, -1),
    (20, [54], 0, 1), (20, [48], 0, -1), (23, [51], 1, 1), (23, [57], 1, -1), (24, [54], 0, -1),
    (24, [57], 1, -1),
    (25, [65, 66, 67], 1, 1), (26, [7, 8, 9], 1, 1), (43, [37, 38, 43, 44], 1, 1),
]  # fmt: skip


@pytest.mark.parametrize(("au", "points", "axis", "sign"), MOVES)
def test_each_action_moves_its_landmarks(au: int, points: list[int], axis: int, sign: int) -> None:
    for person in calm():
        two, five = (shift(person, {au: grade})[points, axis] * sign for grade in (2, 5))
        assert (two > 0).all()
        assert (five >= two).all()


def test_lips_and_lids_never_cross_and_close_when_they_should() -> None:
    for index in range(60):
        rng = np.random.default_rng(index)
        scene = draw_scene(rng, rng.integers(0, 6, len(facs.AUS)).astype(np.float32))
        frontal = plain_scene(dict(zip(facs.AUS, scene.amount.mean(0) * 5, strict=True)))
        points = landmarks(make_identity(0, index), frontal, SIZE)
        assert (points[[67, 66, 65], 1] - points[[61, 62, 63], 1] > -0.05).all()
        assert (points[[41, 40, 47, 46], 1] - points[[37, 38, 43, 44], 1] > -0.05).all()
    for person in calm():
        shut, parted = (landmarks(person, plain_scene(g), SIZE) for g in ({43: 5}, {25: 5}))
        assert np.abs(shut[[41, 40], 1] - shut[[37, 38], 1]).max() < 0.3
        assert parted[66, 1] - parted[62, 1] > 2


@pytest.mark.parametrize("au", facs.AUS)
def test_each_action_is_seen(au: int) -> None:
    """Strong actions change pixels near the face by more than a trace does, on everybody."""
    for person in calm(range(4)):
        faces = [
            render(person, plain_scene({au: grade}), SIZE).image.astype(int) for grade in (0, 2, 5)
        ]
        two, five = (np.sort(np.abs(f - faces[0]).max(-1).ravel())[-40:].mean() for f in faces[1:])
        assert two > 8
        assert five > 20


def test_marks_change_pixels_where_landmarks_do_not_move() -> None:
    """Crow's feet (AU6), furrow (AU4), dimple (AU14) lie on skin that hardly moves."""
    for au, box in (
        (6, (0.62, -0.16, 0.9, 0.2)),
        (14, (0.38, 0.72, 0.55, 0.92)),
        (4, (-0.08, -0.38, 0.08, -0.14)),
    ):
        seen = view(plain_scene({}), SIZE)
        middle = np.array(seen.centre) - (0, 0.3 * seen.unit)
        x0, y0, x1, y1 = (np.array(box) * seen.unit + np.tile(middle, 2)).astype(int)
        changes = []
        for person in calm(range(10, 18)):
            faces = [
                render(person, plain_scene({au: grade}), SIZE).image[y0:y1, x0:x1]
                for grade in (0, 5)
            ]
            assert np.abs(shift(person, {au: 5})[:17]).max() < 0.2
            changes.append(
                np.sort(np.abs(faces[1].astype(int) - faces[0]).max(-1).ravel())[-8:].mean()
            )
        assert np.median(changes) > 20, au


def test_pose_turns_the_nose_the_documented_way() -> None:
    person = make_identity(0, 1)

    def nose(*pose: float) -> Array:
        points = landmarks(person, plain_scene({}, pose), SIZE)
        return points[30] - points[[36, 45]].mean(0)

    still = nose(0, 0, 0)
    assert nose(0, 0.4, 0)[0] > still[0] + 3
    assert nose(0, -0.4, 0)[0] < still[0] - 3
    assert nose(0.2, 0, 0)[1] < still[1] - 1
    eyes = landmarks(person, plain_scene({}, (0, 0, 0.2)), SIZE)[[36, 45]]
    angle = np.arctan2(*(eyes[1] - eyes[0])[::-1])
    assert angle == pytest.approx(0.2, abs=0.06)


def test_pose_stays_within_its_limits() -> None:
    poses = np.stack(
        [draw_scene(np.random.default_rng(i), np.zeros(18, np.float32)).pose for i in range(400)]
    )
    assert np.abs(poses[:, 1]).max() <= MAX_YAW + 1e-6
    assert np.abs(poses[:, [0, 2]]).max() <= MAX_TILT + 1e-6
    assert np.abs(poses[:, 1]).max() > np.deg2rad(25)


def test_mirror_image() -> None:
    """A symmetric person with sides, yaw and roll swapped has mirrored landmarks."""
    person = dataclasses.replace(
        make_identity(0, 2), rest=np.concatenate([TEMPLATE, MARK_POINTS]), asymmetry=0.0
    )
    scene = draw_scene(np.random.default_rng(1), np.full(18, 3, np.float32))
    scene = dataclasses.replace(scene, shift=np.zeros(2, np.float32))
    other = dataclasses.replace(scene, amount=scene.amount[::-1], pose=scene.pose * (1, -1, -1))
    here, there = landmarks(person, scene, SIZE), landmarks(person, other, SIZE)
    assert np.allclose((SIZE - 1 - here[:, 0])[FLIP], there[:, 0], atol=1e-3)
    assert np.allclose(here[FLIP, 1], there[:, 1], atol=1e-3)


@pytest.mark.parametrize("size", [64, 112, 224])
def test_loaded_sample(size: int) -> None:
    data = SyntheticFaces(6, 6, image_size=size)
    for index in range(6):
        sample = data.load(index)
        assert sample.image.shape == (size, size, 3)
        assert sample.image.dtype == np.uint8
        assert sample.landmarks.shape == (68, 2)
        assert (sample.landmarks > -0.1 * size).all()
        assert (sample.landmarks < 1.1 * size).all()
        assert sample.pose.shape == (3,)
        assert sample.image.std() > 8


def test_landmarks_lie_on_what_they_name() -> None:
    """Closing the eyes changes the picture around the eye landmarks, at any scale."""
    for person in calm():
        small, large = (render(person, plain_scene({}), size) for size in (112, 224))
        assert np.allclose((large.landmarks + 0.5) / 2, small.landmarks + 0.5, atol=0.02)
        change = np.abs(
            render(person, plain_scene({43: 5}), 224).image.astype(int) - large.image
        ).sum(-1)
        inside = np.zeros_like(change, bool)
        for eye in (large.landmarks[36:42], large.landmarks[42:48]):
            (x0, y0), (x1, y1) = eye.min(0).astype(int) - 6, eye.max(0).astype(int) + 7
            inside[y0 - 6 : y1, x0:x1] = True
        assert change[inside].sum() > 0.85 * change.sum()


def test_clip_rises_to_its_apex_and_falls() -> None:
    data = SyntheticFaces(6, 6, clips=12)
    sample = data.load(2)
    assert sample.image.shape == (12, 112, 112, 3)
    assert sample.landmarks.shape == (12, 68, 2)
    for index in range(6):
        scene = data.scene(index)
        moments = draw_clip(np.random.default_rng(index), scene, 13)
        amounts = np.stack([m.amount for m in moments])[..., [a != 43 for a in facs.AUS]]
        apex = amounts.sum((1, 2)).argmax()
        assert (np.diff(amounts[: apex + 1], axis=0) >= -1e-6).all()
        assert (np.diff(amounts[apex:], axis=0) <= 1e-6).all()
        assert amounts[0].max() < 0.05
        assert amounts[-1].max() < 0.25 * max(amounts[apex].max(), 0.1)
        shown = np.asarray(scene.amount)[:, [a != 43 for a in facs.AUS]]
        assert np.allclose(amounts[apex], shown)


def test_a_clip_begins_calm_and_shows_its_apex_once_there_are_two_frames() -> None:
    scene = draw_scene(np.random.default_rng(0), np.full(18, 3, np.float32))
    only = draw_clip(np.random.default_rng(1), scene, 1)
    two = draw_clip(np.random.default_rng(1), scene, 2)
    assert np.array_equal(only[0].amount, scene.amount)
    assert np.array_equal(two[1].amount, scene.amount)
    assert two[0].amount.max() < 0.05


def test_cache_is_used_and_never_half_written(tmp_path: Path) -> None:
    plain, cached = SyntheticFaces(8, 4), SyntheticFaces(8, 4, cache=str(tmp_path))
    first, again = cached.load(3), cached.load(3)
    assert np.array_equal(first.image, again.image)
    assert np.array_equal(first.image, plain.load(3).image)
    assert np.array_equal(first.landmarks, again.landmarks)
    assert [p.suffix for p in tmp_path.rglob("*") if p.is_file()] == [".safetensors"]
    other = SyntheticFaces(8, 4, seed=1, cache=str(tmp_path))
    assert not np.array_equal(other.load(3).image, first.image)


@pytest.mark.parametrize("left", ["half", "nothing", "other", "pixels"])
def test_a_damaged_cache_file_is_written_anew(tmp_path: Path, left: str) -> None:
    data = SyntheticFaces(8, 4, cache=str(tmp_path))
    first = data.load(3)
    (file,) = tmp_path.rglob("*.safetensors")
    whole = file.read_bytes()
    damaged = {
        "half": whole[: len(whole) // 2],
        "nothing": b"",
        "other": b"text",
        "pixels": whole[:-4000] + bytes(4000),
    }
    file.write_bytes(damaged[left])
    again = data.load(3)
    assert np.array_equal(again.image, first.image)
    assert np.array_equal(again.landmarks, first.landmarks)
    assert file.stat().st_size == len(whole)
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == [file]


@pytest.mark.parametrize(
    "override",
    ["cooccurrence=[[1, 17, 0.8]]", "cooccurrence=null", "rates={12: 0.5}", "hide={4: 0.4}"],
)
def test_what_the_docs_show_is_a_valid_recipe(override: str) -> None:
    recipe = load_recipe("mini_probe", ["data.n=200", "data.subjects=20", f"data.{override}"])
    assert len(create_data(**recipe["data"]).dataset) == 200


def test_hidden_evidence_is_covered() -> None:
    hidden = SyntheticFaces(30, 10, hide={4: 1.0}, occlusion=0.0)
    assert all(len(hidden.scene(i).occluders) == 1 for i in range(30))
    person, scene = hidden.person(0), hidden.scene(0)
    other = dataclasses.replace(
        scene, amount=scene.amount * np.where(np.array(facs.AUS) == 4, 0, 1).astype(np.float32)
    )
    strong = dataclasses.replace(
        other, amount=other.amount + np.where(np.array(facs.AUS) == 4, 1, 0).astype(np.float32)
    )
    a, b = (render(person, s, SIZE).image.astype(int) for s in (other, strong))
    assert np.abs(a - b).mean() < 0.6


@pytest.mark.parametrize(
    ("bad", "named"),
    [
        ({"rates": "bp5d"}, "bp4d"), ({"rates": {3: 0.5}}, "AU3"), ({"aus": [1, 3]}, "AU3"),
        ({"n": 0}, "n=0"),
        ({"expressions": ["bliss"]}, "bliss"), ({"label_noise": 1.5}, "label_noise"),
        ({"hide": {1: 2.0}}, "hide.1"),
        ({"image_size": 8}, "image_size"), ({"cooccurrence": [[1, 99, 0.5]]}, "AU99"),
        ({"cooccurrence": [[1, 17]]}, "AU, AU, correlation"),
    ],
)  # fmt: skip
def test_bad_arguments_are_named(bad: dict[str, Any], named: str) -> None:
    with pytest.raises(DataError, match=named):
        SyntheticFaces(**{"n": 10, "subjects": 5, **bad})


def test_sheets(tmp_path: Path) -> None:
    assert sheet.au_sheet((1, 12), (0, 5), people=2, size=64).shape[0] == 4 * 64
    assert sheet.expression_sheet(people=1, size=64).shape[0] == len(facs.EXPRESSIONS) * 64
    assert sheet.clip_sheet(clips=1, frames=3, size=64).shape[0] == 64


def test_the_sheets_are_the_pictures_of_the_docs(tmp_path: Path) -> None:
    written = sheet.write_sheets(tmp_path, size=32)
    assert all(path.stat().st_size > 1000 for path in written)
    docs = Path(__file__).parents[2] / "docs"
    shown = re.findall(r"\{image\} images/(\S+)", (docs / "synthetic.md").read_text())
    names = [path.name for path in written]
    assert (
        sorted(shown)
        == sorted(names)
        == sorted(p.name for p in (docs / "images").glob("synthetic_*"))
    )
    drawn = [au for aus in sheet._SHEET_AUS.values() for au in aus]
    assert drawn == list(facs.AUS)


def test_contempt_is_one_sided_on_sheets_as_in_the_dataset() -> None:
    sides = [facs.COLUMN[12], facs.COLUMN[14]]
    strong, weak = sheet._typical("contempt").amount[:, sides]
    assert np.allclose(weak, strong * 0.25)
    assert strong.min() > 0
    happy = sheet._typical("happiness").amount
    assert np.array_equal(happy[0], happy[1])
    face = sheet.expression_sheet(people=1, size=64)[-64:, -64:]
    person = make_identity(3, 0)
    assert np.array_equal(face, render(person, sheet._typical("contempt"), 64).image)
    clip = sheet.clip_sheet(clips=7, frames=1, size=64)[-64:, -64:]
    person, scene = make_identity(3, 14), sheet._typical("contempt", yaw=0.2)
    assert np.array_equal(clip, render(person, scene, 64).image)
