import multiprocessing
import pickle
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pytest
import torch
from skimage.transform import SimilarityTransform

from faceaffect.data.align import Aligner
from faceaffect.data.faces import crop as crops
from faceaffect.data.faces import fan
from faceaffect.data.faces.crop import Crop, box_matrix, cut, seen_in, similarity_matrix
from faceaffect.data.faces.fan import FaceAlignment
from faceaffect.data.faces.finder import Face, largest
from faceaffect.data.faces.mtcnn import Mtcnn
from faceaffect.errors import CheckpointError, DataError, FaceAffectError, RecipeError
from finders import Told

STABLE_POINTS = list(crops._TEMPLATE)
SIZE = 96
SMALL = Crop(size=SIZE)


def face(
    centre: tuple[float, float] = (150, 120), unit: float = 60, angle: float = 0.0
) -> np.ndarray:
    """68 points of a plain face: eyes on a line through the centre, ``unit`` apart."""
    rng = np.random.default_rng(0)
    points = rng.uniform([-0.7, -0.5], [0.7, 1.2], (68, 2))
    points[STABLE_POINTS] = list(crops._TEMPLATE.values())
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


def crop(image: np.ndarray, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    picture, moved = cut(image, Face((0, 0, 1, 1), 1.0, points), SMALL)
    assert moved is not None
    return picture, moved


def find(image: np.ndarray) -> np.ndarray | None:
    """The face of `face()` in any picture that is not dark."""
    return face() if image.max() > 50 else None


def forbidden(image: np.ndarray) -> np.ndarray | None:
    raise AssertionError("must not be called")


def test_similarity_equals_umeyama_of_scikit_image() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        points = rng.uniform(0, 500, (68, 2))
        template = np.array(list(crops._TEMPLATE.values())) * 0.5 * SIZE
        template += [SIZE / 2 - 0.5, SMALL.eye_line * SIZE - 0.5]
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
    image, moved = crop(portrait(points), points)
    assert image.shape == (SIZE, SIZE, 3)
    assert image.dtype == np.uint8
    assert moved.dtype == np.float32
    eyes = moved[[36, 45]]
    np.testing.assert_allclose(eyes[1] - eyes[0], [SMALL.eye_span * SIZE, 0], atol=1e-3)
    np.testing.assert_allclose(
        eyes.mean(0), [SIZE / 2 - 0.5, SMALL.eye_line * SIZE - 0.5], atol=1e-3
    )
    np.testing.assert_allclose(moved, crop(portrait(face()), face())[1], atol=1e-3)
    reference = crop(portrait(face()), face())[0].astype(int)
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
    image, moved = crop(stripes, points)
    inside = image[20:70, 20:70].astype(int)
    assert np.abs(inside - 100).max() <= 8  # single samples would be 0 or 200
    dot = np.zeros((2200, 2001, 3), np.uint8)
    x, y = points[45].astype(int)
    cv2.circle(dot, (int(x), int(y)), 40, (255, 255, 255), -1)
    image, moved = crop(dot, points)
    rows, columns = np.nonzero(image[..., 0] > 127)
    np.testing.assert_allclose([columns.mean(), rows.mean()], moved[45], atol=0.3)


@pytest.mark.parametrize("value", [np.nan, np.inf, 5.0])
def test_unusable_landmarks_are_an_error(value: float) -> None:
    with pytest.raises(DataError, match="landmarks"):
        similarity_matrix(np.full((68, 2), value), SIZE)
    with pytest.raises(DataError, match=r"\(68, 2\)"):
        similarity_matrix(np.zeros((6, 2)), SIZE)


def test_cache_is_used_and_equals_the_first_result(tmp_path: Path) -> None:
    loads = []

    def load() -> np.ndarray:
        loads.append(1)
        return portrait(face())

    aligner = Aligner("landmarks", crop=SMALL, cache=tmp_path, finder=Told(forbidden))
    first = aligner("SN001/frame 1.jpg", load, face())
    again = Aligner("landmarks", crop=SMALL, cache=tmp_path)("SN001/frame 1.jpg", load, face())
    assert len(loads) == 1
    np.testing.assert_array_equal(first.image, again.image)
    np.testing.assert_array_equal(first.landmarks, again.landmarks)
    image, points = crop(portrait(face()), face())
    assert np.abs(first.image - image.astype(int)).mean() < 1.5
    np.testing.assert_allclose(first.landmarks, points, atol=1e-3)
    (file,) = tmp_path.rglob("*.jpg")
    assert "SN001_frame_1" in file.name
    assert cv2.imread(str(file)).shape == (SIZE, SIZE, 3)
    aligner("SN001/frame_1.jpg", load, face())  # another id of the same readable form
    Aligner("landmarks", crop=Crop(size=64), cache=tmp_path)("SN001/frame 1.jpg", load, face())
    Aligner("landmarks", crop=Crop(size=SIZE, eye_span=0.3), cache=tmp_path)(
        "SN001/frame 1.jpg", load, face()
    )
    assert len(loads) == 4


def test_landmarks_are_read_only_for_a_new_crop(tmp_path: Path) -> None:
    reads = []

    def points() -> np.ndarray:
        reads.append(1)
        return face()

    first = Aligner("auto", crop=SMALL, cache=tmp_path)("a", portrait(face()), points)
    again = Aligner("auto", crop=SMALL, cache=tmp_path)("a", forbidden, points)
    assert len(reads) == 1
    np.testing.assert_array_equal(first.image, again.image)
    found = Aligner("finder", crop=SMALL, finder=Told(find))("a", portrait(face()), points)
    np.testing.assert_allclose(found.landmarks, first.landmarks, atol=2e-3)
    assert len(reads) == 1


def test_damaged_crop_is_made_again(tmp_path: Path) -> None:
    aligner = Aligner("landmarks", crop=SMALL, cache=tmp_path)
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
    aligner = Aligner("finder", crop=SMALL, cache=cache, finder=Told(counted))
    dark = np.zeros((200, 200, 3), np.uint8)
    aligner("light", portrait(face()))
    for _ in range(3):
        with pytest.raises(DataError, match="dark: no face was found"):
            aligner("dark", dark)
    assert len(calls) == 2
    images = {"dark": True, "never seen": False, "light": False}
    expected = {"dark": "failed", "never seen": "missing", "light": "finder"}
    assert aligner.made(images) == expected
    if on_disk:
        other = Aligner("finder", crop=SMALL, cache=tmp_path, finder=Told(forbidden))
        assert other.made(images) == expected
        with pytest.raises(DataError, match="delete") as caught:
            other("dark", dark)
        Path(str(caught.value).split("delete ")[1]).unlink()
        with pytest.raises(DataError, match="dark"):
            aligner("dark", dark)
        assert len(calls) == 3


def test_methods(tmp_path: Path) -> None:
    image, moved = portrait(face((100, 100), 50)), face((100, 100), 50)
    auto = Aligner("auto", crop=SMALL, cache=tmp_path, finder=Told(find))
    given, found = auto("a", image, moved), auto("b", portrait(face()))
    np.testing.assert_allclose(given.landmarks, found.landmarks, atol=2e-3)
    assert auto.made({"a": True, "b": False}) == {"a": "landmarks", "b": "finder"}
    assert auto.made({"a": False, "b": True}) == {"a": "missing", "b": "missing"}
    always = Aligner("finder", crop=SMALL, finder=Told(find))("a", portrait(face()), moved)
    np.testing.assert_allclose(always.landmarks, found.landmarks, atol=1e-2)
    with pytest.raises(DataError, match=r"c: the dataset has no landmarks.*'auto'"):
        Aligner("landmarks", crop=SMALL, cache=tmp_path, finder=Told(forbidden))("c", image)
    with pytest.raises(DataError, match="not finite"):
        auto("d", image, np.full((68, 2), np.nan))
    assert auto.made({"d": True}) == {"d": "failed"}
    whole = Aligner("none", crop=Crop(size=120), cache=tmp_path / "no", finder=Told(forbidden))
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

    aligner = Aligner("auto", crop=SMALL, cache=tmp_path, finder=Told(find))
    with pytest.raises(DataError, match="empty"):
        aligner("x", load)
    assert aligner("x", portrait(face())).image.shape == (SIZE, SIZE, 3)


def make(arguments: tuple[Path, int]) -> list[np.ndarray]:
    folder, worker = arguments
    aligner = Aligner("auto", crop=SMALL, cache=folder, finder=Told(find))
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

    def get_landmarks_from_image(self, image: np.ndarray, return_bboxes: bool) -> tuple:
        assert return_bboxes
        if image.max() <= 50:
            return None, None, None
        found = [face(unit=20), face(unit=60), face(unit=30)]
        boxes = [np.array([*points.min(0), *points.max(0), 0.9]) for points in found]
        return found, None, [*boxes[:2], boxes[2] * [1, 1, 1, 1, 0.4]]


@pytest.fixture
def package() -> ModuleType:
    """Return face_alignment, an extra."""
    return pytest.importorskip("face_alignment", reason="the extra 'align' is not installed")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: ModuleType) -> Path:
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    monkeypatch.setattr(package, "FaceAlignment", FakeNetwork)
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    return folder


def test_face_alignment_without_weights_says_where_to_put_them(
    hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: ModuleType
) -> None:
    aligner = Aligner("finder", cache=tmp_path / "crops", finder=FaceAlignment())
    with pytest.raises(FaceAffectError, match="s3fd") as caught:
        aligner("a", portrait(face()))
    assert not isinstance(caught.value, DataError)  # no sample's fault: not to be skipped
    assert str(hub) in str(caught.value)
    assert "2DFAN4" in str(caught.value)
    assert "align: landmarks" in str(caught.value)
    assert aligner.made({"a": False}) == {"a": "missing"}

    def unreachable(*_: object, **__: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(package, "FaceAlignment", unreachable)
    with pytest.raises(FaceAffectError, match="no route to host"):
        FaceAlignment(download=True).find([portrait(face())])


def test_face_alignment_that_is_not_installed_names_the_extra(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "face_alignment", None)
    with pytest.raises(FaceAffectError, match=r"pip install 'faceaffect\[align\]'"):
        FaceAlignment().find([portrait(face())])


def test_face_alignment_gives_boxes_scores_and_points(hub: Path) -> None:
    for url in fan._weights():
        (hub / Path(url).name).touch()
    finder = FaceAlignment()
    found, none = finder.find([portrait(face()), np.zeros((50, 50, 3), np.uint8)])
    assert none == []
    assert [len(face.points) for face in found] == [68, 68]  # the unsure one is left out
    np.testing.assert_array_equal(largest(found).points, face(unit=60))
    np.testing.assert_allclose(found[0].box[2:], np.ptp(face(unit=60), 0))
    copied = pickle.loads(pickle.dumps(Aligner("finder", finder=finder)))
    assert copied("a", portrait(face())).image.shape == (256, 256, 3)


def five(points: np.ndarray) -> np.ndarray:
    """The five points of a face of `face()`: pupils, nose and corners of the mouth."""
    eyes = [points[[36, 39]].mean(0), points[[42, 45]].mean(0)]
    return np.stack([*eyes, points[30], points[48], points[54]]).astype(np.float32)


@pytest.mark.parametrize("angle", [0.0, 0.6, -2.0])
def test_five_points_cut_the_same_crop_as_68(angle: float) -> None:
    points = face(angle=angle)
    expected, _ = crop(portrait(points), points)
    found, moved = crop(portrait(points), five(points))
    assert moved.shape == (5, 2)
    assert np.abs(found - expected.astype(int)).mean() < 1.5


def test_a_tight_crop_is_the_square_around_the_box() -> None:
    image = np.random.default_rng(0).integers(0, 255, (60, 80, 3), dtype=np.uint8)
    tight = Face((20, 10, 32, 32), 1.0, np.zeros((5, 2), np.float32))
    picture, moved = cut(image, tight, Crop("tight", 32, margin=0.0))
    np.testing.assert_array_equal(picture, image[10:42, 20:52])
    np.testing.assert_allclose(moved, np.tile([-20.0, -10.0], (5, 1)))
    wide, _ = cut(image, tight, Crop("tight", 64, margin=0.5))
    np.testing.assert_array_equal(wide[6:], image[:58, 4:68])  # the rest is outside
    assert not wide[:6].any()
    without, _ = cut(image, Face((20, 10, 32, 32), 1.0), Crop("landmarks", 32, margin=0.0))
    np.testing.assert_array_equal(without, picture)  # no points: by the box
    for box in ((0.0, 0, 0, 0), (np.nan, 0, 5, 5)):
        with pytest.raises(DataError, match="no picture"):
            box_matrix(box, 32, 0.0)


def test_a_crop_shows_again_how_it_was_cut() -> None:
    for settings in (Crop(size=SIZE), Crop(size=SIZE, eye_span=0.55, eye_line=0.4)):
        points = face((150, 120), 37, 0.4)
        _, moved = cut(portrait(points), Face((0, 0, 1, 1), 1.0, points), settings)
        span, line = seen_in(moved, (SIZE, SIZE, 3))
        assert (span, line) == pytest.approx((settings.eye_span, settings.eye_line), abs=1e-4)
    assert seen_in(np.zeros((5, 2)), (9, 9)) is None


def test_settings_of_a_crop_are_plain_and_checked() -> None:
    settings = Crop("tight", 100, margin=0.3)
    assert Crop.from_dict(settings.to_dict()) == settings
    for wrong in ({"kind": "tigth"}, {"size": 4}, {"eye_span": 0}, {"margin": 9}):
        with pytest.raises(RecipeError, match=f"crop.{next(iter(wrong))}"):
            Crop(**wrong)
    with pytest.raises(RecipeError, match="align: none"):
        Aligner("auto", crop=Crop("none"))


@pytest.mark.parametrize("plain", [5, "crop", {"kind": "landmark"}, {"size": "big"}, {"side": 3}])
def test_a_crop_that_makes_no_sense_is_an_error_of_the_checkpoint(plain: object) -> None:
    with pytest.raises(CheckpointError, match="crop"):
        Crop.from_dict(plain)  # type: ignore[arg-type]


def test_another_setting_of_the_finder_finds_anew(tmp_path: Path) -> None:
    strict, easy = (
        Aligner("finder", cache=tmp_path, finder=Mtcnn(min_score=s)) for s in (0.9, 0.6)
    )
    assert strict._folder("finder") != easy._folder("finder")
    assert strict._folder("landmarks") == easy._folder("landmarks")
    assert Aligner("finder", cache=tmp_path)._folder("finder") == strict._folder("finder")
    assert strict.settings() != easy.settings()
