import multiprocessing
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import face_alignment
import numpy as np
import pytest
import torch
from skimage.transform import SimilarityTransform

from faceaffect.data import align, detector
from faceaffect.data.align import STABLE_POINTS, Aligner, crop, similarity_matrix
from faceaffect.data.detector import FaceAlignmentDetector
from faceaffect.errors import DataError, FaceAffectError, RecipeError

SIZE = 96


def face(
    centre: tuple[float, float] = (150, 120), unit: float = 60, angle: float = 0.0
) -> np.ndarray:
    """68 points of a plain face: eyes on a line through the centre, ``unit`` apart."""
    rng = np.random.default_rng(0)
    points = rng.uniform([-0.7, -0.5], [0.7, 1.2], (68, 2))
    points[STABLE_POINTS] = list(align._TEMPLATE.values())
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return (points * unit @ turn.T + centre).astype(np.float32)


def portrait(points: np.ndarray, shape: tuple[int, int] = (240, 320)) -> np.ndarray:
    """An image with a soft spot at each of the stable points."""
    width = np.ptp(points[[36, 45]], 0).max() / 25
    x = np.arange(shape[1])[:, None] - points[STABLE_POINTS, 0]
    y = np.arange(shape[0])[:, None] - points[STABLE_POINTS, 1]
    spots = np.exp(-((y / width) ** 2) / 2)[:, None] * np.exp(-((x / width) ** 2) / 2)
    image = spots.max(-1) * 255
    return np.repeat(image.astype(np.uint8)[..., None], 3, axis=2)


def find(image: np.ndarray) -> np.ndarray | None:
    """A detector: the face of `face()` in any picture that is not dark."""
    return face() if image.max() > 50 else None


def forbidden(image: np.ndarray) -> np.ndarray | None:
    raise AssertionError("must not be called")


def test_similarity_equals_umeyama_of_scikit_image() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        points = rng.uniform(0, 500, (68, 2))
        template = np.array(list(align._TEMPLATE.values())) * 0.5 * SIZE
        template += [SIZE / 2 - 0.5, align.EYE_LINE * SIZE - 0.5]
        expected = SimilarityTransform.from_estimate(points[STABLE_POINTS], template).params[:2]
        matrix = similarity_matrix(points, SIZE, eye_span=0.5)
        if np.linalg.det(expected[:, :2]) > 0:
            np.testing.assert_allclose(matrix, expected, atol=1e-9)


@pytest.mark.parametrize(
    ("centre", "unit", "angle"),
    [((150, 120), 60, 0.0), ((130, 110), 35, 0.5), ((170, 130), 90, -1.2), ((150, 120), 44, 3.0)],
)
def test_crop_brings_any_face_to_one_place(
    centre: tuple[float, float], unit: float, angle: float
) -> None:
    points = face(centre, unit, angle)
    image, moved = crop(portrait(points), points, SIZE)
    assert image.shape == (SIZE, SIZE, 3)
    assert image.dtype == np.uint8
    assert moved.dtype == np.float32
    eyes = moved[[36, 45]]
    np.testing.assert_allclose(eyes[1] - eyes[0], [align.EYE_SPAN * SIZE, 0], atol=1e-3)
    np.testing.assert_allclose(
        eyes.mean(0), [SIZE / 2 - 0.5, align.EYE_LINE * SIZE - 0.5], atol=1e-3
    )
    np.testing.assert_allclose(moved, crop(portrait(face()), face(), SIZE)[1], atol=1e-3)
    reference = crop(portrait(face()), face(), SIZE)[0].astype(int)
    assert np.abs(image - reference).mean() < 1.5
    for x, y in moved[STABLE_POINTS]:  # the light is where the landmarks are
        assert image[round(float(y)), round(float(x))].min() > 180


def test_expression_does_not_move_the_crop() -> None:
    calm, laughing = face(), face()
    lips_brows_jaw = [*range(27), *range(48, 68)]
    laughing[lips_brows_jaw] += np.random.default_rng(1).normal(0, 10, (47, 2))
    np.testing.assert_array_equal(similarity_matrix(calm, SIZE), similarity_matrix(laughing, SIZE))


def test_shrinking_averages_and_keeps_places() -> None:
    points = face((1000, 900), 900)
    stripes = np.zeros((2200, 2001, 3), np.uint8)
    stripes[:, ::2] = 200
    image, moved = crop(stripes, points, SIZE)
    inside = image[20:70, 20:70].astype(int)
    assert np.abs(inside - 100).max() <= 8  # single samples would be 0 or 200
    dot = np.zeros((2200, 2001, 3), np.uint8)
    x, y = points[45].astype(int)
    cv2.circle(dot, (int(x), int(y)), 40, (255, 255, 255), -1)
    image, moved = crop(dot, points, SIZE)
    rows, columns = np.nonzero(image[..., 0] > 127)
    np.testing.assert_allclose([columns.mean(), rows.mean()], moved[45], atol=0.3)


@pytest.mark.parametrize("value", [np.nan, np.inf, 5.0])
def test_unusable_landmarks_are_an_error(value: float) -> None:
    with pytest.raises(DataError, match="landmarks"):
        similarity_matrix(np.full((68, 2), value), SIZE)
    with pytest.raises(DataError, match=r"\(68, 2\)"):
        similarity_matrix(np.zeros((5, 2)), SIZE)


def test_cache_is_used_and_equals_the_first_result(tmp_path: Path) -> None:
    loads = []

    def load() -> np.ndarray:
        loads.append(1)
        return portrait(face())

    aligner = Aligner("landmarks", size=SIZE, cache=tmp_path, detector=forbidden)
    first = aligner("SN001/frame 1.jpg", load, face())
    again = Aligner("landmarks", size=SIZE, cache=tmp_path)("SN001/frame 1.jpg", load, face())
    assert len(loads) == 1
    np.testing.assert_array_equal(first.image, again.image)
    np.testing.assert_array_equal(first.landmarks, again.landmarks)
    image, points = crop(portrait(face()), face(), SIZE)
    assert np.abs(first.image - image.astype(int)).mean() < 1.5
    np.testing.assert_allclose(first.landmarks, points, atol=1e-3)
    (file,) = tmp_path.rglob("*.jpg")
    assert "SN001_frame_1" in file.name
    assert cv2.imread(str(file)).shape == (SIZE, SIZE, 3)
    aligner("SN001/frame_1.jpg", load, face())  # another id of the same readable form
    Aligner("landmarks", size=64, cache=tmp_path)("SN001/frame 1.jpg", load, face())
    Aligner("landmarks", size=SIZE, eye_span=0.3, cache=tmp_path)("SN001/frame 1.jpg", load, face())
    assert len(loads) == 4


def test_landmarks_are_read_only_for_a_new_crop(tmp_path: Path) -> None:
    reads = []

    def points() -> np.ndarray:
        reads.append(1)
        return face()

    first = Aligner("auto", size=SIZE, cache=tmp_path)("a", portrait(face()), points)
    again = Aligner("auto", size=SIZE, cache=tmp_path)("a", forbidden, points)
    assert len(reads) == 1
    np.testing.assert_array_equal(first.image, again.image)
    found = Aligner("face_alignment", size=SIZE, detector=find)("a", portrait(face()), points)
    np.testing.assert_allclose(found.landmarks, first.landmarks, atol=2e-3)
    assert len(reads) == 1


def test_damaged_crop_is_made_again(tmp_path: Path) -> None:
    aligner = Aligner("landmarks", size=SIZE, cache=tmp_path)
    first = aligner("a", portrait(face()), face())
    (file,) = tmp_path.rglob("*.jpg")
    for damage in (b"", b"not a picture", file.read_bytes()[:40]):
        file.write_bytes(damage)
        np.testing.assert_array_equal(aligner("a", portrait(face()), face()).image, first.image)


@pytest.mark.parametrize("on_disk", [True, False])
def test_failures_are_recorded_counted_and_not_retried(tmp_path: Path, on_disk: bool) -> None:
    calls = []

    def counted(image: np.ndarray) -> np.ndarray | None:
        calls.append(1)
        return find(image)

    cache = tmp_path if on_disk else None
    aligner = Aligner("face_alignment", size=SIZE, cache=cache, detector=counted)
    dark = np.zeros((200, 200, 3), np.uint8)
    aligner("light", portrait(face()))
    for _ in range(3):
        with pytest.raises(DataError, match="dark: no face was found"):
            aligner("dark", dark)
    assert len(calls) == 2
    images = {"dark": True, "never seen": False, "light": False}
    expected = {"dark": "failed", "never seen": "missing", "light": "face_alignment"}
    assert aligner.made(images) == expected
    if on_disk:
        other = Aligner("face_alignment", size=SIZE, cache=tmp_path, detector=forbidden)
        assert other.made(images) == expected
        with pytest.raises(DataError, match="delete") as caught:
            other("dark", dark)
        Path(str(caught.value).split("delete ")[1]).unlink()
        with pytest.raises(DataError, match="dark"):
            aligner("dark", dark)
        assert len(calls) == 3


def test_methods(tmp_path: Path) -> None:
    image, moved = portrait(face((100, 100), 50)), face((100, 100), 50)
    auto = Aligner("auto", size=SIZE, cache=tmp_path, detector=find)
    given, found = auto("a", image, moved), auto("b", portrait(face()))
    np.testing.assert_allclose(given.landmarks, found.landmarks, atol=2e-3)
    assert auto.made({"a": True, "b": False}) == {"a": "landmarks", "b": "face_alignment"}
    assert auto.made({"a": False, "b": True}) == {"a": "missing", "b": "missing"}
    always = Aligner("face_alignment", size=SIZE, detector=find)("a", portrait(face()), moved)
    np.testing.assert_allclose(always.landmarks, found.landmarks, atol=1e-2)
    with pytest.raises(DataError, match=r"c: the dataset has no landmarks.*'auto'"):
        Aligner("landmarks", size=SIZE, cache=tmp_path, detector=forbidden)("c", image)
    with pytest.raises(DataError, match="not finite"):
        auto("d", image, np.full((68, 2), np.nan))
    assert auto.made({"d": True}) == {"d": "failed"}
    whole = Aligner("none", size=120, cache=tmp_path / "no", detector=forbidden)
    result = whole("a", image, moved)
    assert result.image.shape == (120, 120, 3)
    np.testing.assert_allclose(result.landmarks, (moved + 0.5) * [120 / 320, 0.5] - 0.5, rtol=1e-5)
    assert whole("a", image).landmarks is None
    assert not (tmp_path / "no").exists()
    with pytest.raises(RecipeError, match="did you mean 'landmarks'"):
        Aligner("landmark")  # type: ignore[arg-type]


def test_an_unreadable_image_is_no_failure_of_the_crop(tmp_path: Path) -> None:
    def load() -> np.ndarray:
        raise DataError("x.jpg: empty")

    aligner = Aligner("auto", size=SIZE, cache=tmp_path, detector=find)
    with pytest.raises(DataError, match="empty"):
        aligner("x", load)
    assert aligner("x", portrait(face())).image.shape == (SIZE, SIZE, 3)


def make(arguments: tuple[Path, int]) -> list[np.ndarray]:
    folder, worker = arguments
    aligner = Aligner("auto", size=SIZE, cache=folder, detector=find)
    image = portrait(face())
    return [aligner(str(i), image).image for i in np.roll(np.arange(12), worker)]


def test_many_processes_and_threads_share_one_cache(tmp_path: Path) -> None:
    tasks = [(tmp_path, worker) for worker in range(4)]
    with multiprocessing.get_context("fork").Pool(2) as pool:
        results = pool.map(make, tasks)
    with ThreadPoolExecutor(4) as threads:
        results += threads.map(make, tasks)
    for images in results:
        for image in images:
            np.testing.assert_array_equal(image, results[0][0])
    assert len(list(tmp_path.rglob("*.jpg"))) == 12
    assert not list(tmp_path.rglob(".*"))


class FakeNetwork:
    """In place of face_alignment.FaceAlignment: a small and a large face, or none."""

    def __init__(self, *_: object, **options: object) -> None:
        assert options["device"] in ("cpu", "cuda")

    def get_landmarks_from_image(self, image: np.ndarray) -> list[np.ndarray] | None:
        return [face(unit=20), face(unit=60), face(unit=30)] if image.max() > 50 else None


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    monkeypatch.setattr(face_alignment, "FaceAlignment", FakeNetwork)
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    return folder


def test_detector_without_weights_says_where_to_put_them(
    hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    aligner = Aligner("face_alignment", size=SIZE, cache=tmp_path / "crops")
    with pytest.raises(FaceAffectError, match="s3fd") as caught:
        aligner("a", portrait(face()))
    assert not isinstance(caught.value, DataError)  # no sample's fault: not to be skipped
    assert str(hub) in str(caught.value)
    assert "2DFAN4" in str(caught.value)
    assert "method: landmarks" in str(caught.value)
    assert aligner.made({"a": False}) == {"a": "missing"}

    def unreachable(*_: object, **__: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(face_alignment, "FaceAlignment", unreachable)
    with pytest.raises(FaceAffectError, match="no route to host"):
        Aligner("auto", size=SIZE, download=True)("a", portrait(face()))


def test_detector_takes_the_largest_face(hub: Path) -> None:
    for url in detector._weights():
        (hub / Path(url).name).touch()
    finder = FaceAlignmentDetector()
    np.testing.assert_array_equal(finder(portrait(face())), face(unit=60))
    assert finder(np.zeros((50, 50, 3), np.uint8)) is None
    copied = pickle.loads(pickle.dumps(Aligner("auto", detector=finder)))
    assert copied("a", portrait(face())).image.shape == (256, 256, 3)
