import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.io import savemat

from faceaffect.data.base import FaceDataModule, create_data
from faceaffect.data.disfa import AUS, BENCHMARK_AUS, PARTS, Disfa
from faceaffect.data.faces.crop import _TEMPLATE
from faceaffect.data.faces.mtcnn import Mtcnn
from faceaffect.data.protocols import ThreeFold
from faceaffect.errors import DataError, RecipeError
from faceaffect.recipe import resolve
from faceaffect.runs.train import train
from faces import face, write_clip, write_image
from finders import Told
from trees.disfa import FRAMES, PEOPLE, SIZE, intensity, write_frames, write_labels


def points() -> np.ndarray:
    """66 landmarks of a face in the middle of a picture; only the stable ones matter."""
    found = np.random.default_rng(0).uniform(30, 60, (66, 2))
    for index, (x, y) in _TEMPLATE.items():
        found[index] = np.array([x, y]) * 40 + [SIZE / 2, SIZE / 3]
    return found


def write_landmarks(root: Path, people: tuple[str, ...] = PEOPLE) -> None:
    for name in people:
        folder = root / "Landmark_Points" / name / "tmp_frame_lm"
        folder.mkdir(parents=True)
        for number in range(FRAMES):
            savemat(folder / f"{name}_{number:04d}_lm.mat", {"pts": points()})


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    write_labels(tmp_path)
    write_landmarks(tmp_path)
    for p, name in enumerate(PEOPLE):
        clip = tmp_path / "Videos_LeftCamera" / f"LeftVideo{name}_comp.avi"
        write_clip(clip, p, FRAMES, SIZE)
    return tmp_path


@pytest.fixture
def frames(tmp_path: Path) -> Path:
    return write_frames(write_labels(tmp_path))


def only(root: Path, **args: Any) -> Disfa:
    return Disfa(str(root), **{"align": "none", **args})


def test_labels_are_read_with_one_threshold(frames: Path) -> None:
    data = only(frames)
    assert data.schema.aus == BENCHMARK_AUS
    assert len(data) == 3 * FRAMES
    assert data.samples.id[0] == "SN001/00001"
    assert data.path(0).name == "0.png"  # labels count from 1, these frames from 0
    expected = [intensity(0, au, 1) for au in BENCHMARK_AUS]
    assert data.samples.au_intensity is not None
    assert data.samples.au is not None
    assert data.samples.au_intensity[0].tolist() == expected
    assert data.samples.au[0].tolist() == [float(value >= 2) for value in expected]
    stricter = only(frames, threshold=3, aus=[12])
    assert stricter.samples.au is not None
    assert stricter.samples.au[0].tolist() == [float(intensity(0, 12, 1) >= 3)]
    assert data.notes["threshold"] == 2
    assert data.notes["frames"] == len(data)
    assert data.notes["crop"]["method"] == "none"


@pytest.mark.parametrize(("folder", "first", "digits"), [("Images", 1, 5), ("my frames", 0, 4)])
def test_extracted_frames_in_any_numbering(
    tmp_path: Path, folder: str, first: int, digits: int
) -> None:
    write_frames(write_labels(tmp_path), folder, first, digits)
    data = only(tmp_path, frames=None if folder == "Images" else folder)
    assert len(data) == 3 * FRAMES
    assert data.path(0).name == f"{first:0{digits}d}.png"
    assert not data.left_out


def test_every_nth_frame(frames: Path) -> None:
    data = only(frames, every=3)
    assert [str(name) for name in data.samples.id[:2]] == ["SN001/00003", "SN001/00006"]
    assert data.notes["every"] == 3


def test_videos_are_cropped_by_the_datasets_landmarks_once(videos: Path) -> None:
    data = Disfa(str(videos), crop={"size": 64})
    data.prepare()
    crops = sorted((videos / "faceaffect_crops").rglob("*.jpg"))
    assert len(crops) == 3 * FRAMES
    loaded = data.load(2)
    assert loaded.image.shape == (64, 64, 3)
    assert loaded.landmarks is not None
    assert loaded.landmarks.shape == (68, 2)
    assert loaded.landmarks[60].tolist() == loaded.landmarks[48].tolist()
    for clip in (videos / "Videos_LeftCamera").iterdir():
        clip.unlink()
        clip.write_bytes(b"no video")
    for file in (videos / "Landmark_Points").rglob("*.mat"):
        file.write_bytes(b"no landmarks")
    data.prepare()  # nothing is left to do
    np.testing.assert_array_equal(data.load(2).image, loaded.image)
    assert data.notes["crops"]["landmarks"] == 3 * FRAMES


@pytest.mark.parametrize("folder", ["Video_LeftCamera", "video_leftcamera"])
def test_folder_names_of_other_copies(videos: Path, folder: str) -> None:
    (videos / "Videos_LeftCamera").rename(videos / folder)
    assert len(Disfa(str(videos))) == 3 * FRAMES


def test_single_frames_of_a_video_are_those_of_one_pass(videos: Path) -> None:
    alone = Disfa(str(videos), crop_cache=str(videos / "a")).load(FRAMES + 3)
    prepared = Disfa(str(videos), crop_cache=str(videos / "b"))
    prepared.prepare()
    np.testing.assert_array_equal(prepared.load(FRAMES + 3).image, alone.image)


def test_the_right_camera_has_no_landmarks(videos: Path) -> None:
    (videos / "Videos_LeftCamera").rename(videos / "Video_RightCamera")
    data = Disfa(str(videos), camera="right")
    assert data.landmarks(0) is None


def test_a_face_that_cannot_be_found_is_skipped_and_counted(videos: Path) -> None:
    for file in sorted((videos / "Landmark_Points" / "SN006").rglob("*.mat"))[:2]:
        file.unlink()
    data = FaceDataModule(Disfa(str(videos)), protocol={"name": "three_fold", "fold": 2})
    assert isinstance(data.dataset, Disfa)
    data.dataset.frames.aligner.finder = Told(lambda image: None)
    data.prepare_data()
    ids = [name for batch in data.test_dataloader() for name in batch["id"]]
    assert len(ids) == FRAMES - 2
    assert set(data.skipped) == {"SN006/00001", "SN006/00002"}
    assert "no face was found" in data.skipped["SN006/00001"]


def hide_from_disfa(root: Path) -> None:
    """Leave two frames without landmarks and one with a file that is none."""
    files = sorted((root / "Landmark_Points" / "SN006").rglob("*.mat"))
    for file in files[:2]:
        file.unlink()
    files[2].write_bytes(b"no landmarks")


def test_the_notes_count_the_crops_by_how_they_were_made(videos: Path) -> None:
    hide_from_disfa(videos)
    found = [None, np.vstack([points(), points()[:2]])]
    for align, expected in (
        ("auto", {"landmarks": 15, "finder": 1, "failed": 1, "missing": 1}),
        ("landmarks", {"landmarks": 15, "finder": 0, "failed": 0, "missing": 3}),
    ):
        data = Disfa(str(videos), align=align)
        assert "crops" not in data.notes  # not known yet, nor part of what a run is made of
        data.frames.aligner.finder = Told(lambda image: found.pop())
        data.prepare()
        assert data.notes["crops"] == expected
        assert data.notes["crop"]["method"] == align
    again = Disfa(str(videos))
    again.frames.aligner.finder = Told(lambda image: found.pop())
    again.prepare()
    assert again.notes["crops"]["finder"] == 1


def test_the_result_of_a_run_and_the_notes_of_a_mixture_count_the_crops(
    videos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hide_from_disfa(videos)
    monkeypatch.setattr(Mtcnn, "find", lambda self, images: [[] for _ in images])
    expected = {"landmarks": 15, "finder": 0, "failed": 2, "missing": 1}
    protocol = {"name": "three_fold", "fold": 1, "selection": "test"}
    source = {"name": "disfa", "root": str(videos)}
    sections = {
        "model": {"name": "timm_classifier", "backbone": "test_vit"},
        "data": {**source, "protocol": protocol, "image_size": 48, "num_workers": 0},
        "trainer": {"max_epochs": 1, "accelerator": "cpu"},
        "output": str(videos / "runs"),
    }
    run = train(resolve("tiny", sections, []))
    assert json.loads((run / "metrics.json").read_text())["notes"]["crops"] == expected
    mixed = create_data("mixture", sources=[source], protocol="official")
    mixed.prepare_data()
    assert mixed.dataset.notes["disfa"]["crops"] == expected


def test_an_unreadable_frame_is_skipped_and_counted(frames: Path) -> None:
    (frames / "img" / "SN003" / "4.png").write_bytes(b"damaged")
    data = FaceDataModule(only(frames), protocol={"name": "three_fold", "fold": 1})
    assert sum(len(batch["id"]) for batch in data.test_dataloader()) == FRAMES - 1
    assert list(data.skipped) == ["SN003/00005"]


def test_landmarks_of_the_camera_do_not_crop_cropped_frames(videos: Path) -> None:
    for p, name in enumerate(PEOPLE):
        for number in range(FRAMES):
            write_image(videos / "small" / name / f"{number}.png", face(p, number, (24, 24)))
    with pytest.raises(DataError, match=r"data\.align: none"):
        Disfa(str(videos), frames="small").load(0)


def test_frames_and_labels_without_a_partner_are_counted(frames: Path) -> None:
    folder = frames / "ActionUnit_Labels"
    for au in AUS:  # the last two frames of SN001 have no label at all
        file = folder / "SN001" / f"SN001_au{au}.txt"
        file.write_text("\n".join(file.read_text().splitlines()[:-2]))
    file = folder / "SN006" / "SN006_au4.txt"  # one AU of one frame has none
    file.write_text("\n".join(file.read_text().splitlines()[1:]))
    (frames / "img" / "SN003" / "0.png").unlink()
    data = only(frames)
    assert data.left_out == {"frames without a label": 2, "labels without a frame": 1}
    assert data.samples.au is not None
    last = data.samples.id.tolist().index("SN003/00006")
    assert data.path(last).name == "5.png"  # not moved, though the person's frame 0 is missing
    row = data.samples.au[data.samples.id == "SN006/00001"][0]
    assert np.isnan(row[BENCHMARK_AUS.index(4)])
    assert not np.isnan(row).all()


@pytest.mark.parametrize("code", ["9", "999", "-1"])
def test_unknown_codes_are_masked(frames: Path, code: str) -> None:
    file = frames / "ActionUnit_Labels" / "SN001" / "SN001_au1.txt"
    file.write_text(file.read_text().replace(f"1,{intensity(0, 1, 1)}\n", f"1,{code}\n", 1))
    data = only(frames)
    assert data.samples.au is not None
    assert data.samples.au_intensity is not None
    assert np.isnan(data.samples.au[0, 0])
    assert np.isnan(data.samples.au_intensity[0, 0])


def test_a_missing_label_file_is_named(frames: Path) -> None:
    (frames / "ActionUnit_Labels" / "SN006" / "SN006_au4.txt").unlink()
    with pytest.raises(DataError, match=r"SN006_au4\.txt is missing.*leave AU4 out"):
        only(frames)
    assert len(only(frames, aus=[1, 2])) == 3 * FRAMES


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("1,0\n2,7\n", "the label 7 is none of 0 to 5"),
        ("1,0\n1,2\n", "labelled twice"),
        ("0,0\n1,2\n", "a label for frame 0; labels count frames from 1"),
        ("one,two\n", "not readable"),
        ("", "not readable"),
        ("1\n2\n", "not readable"),
    ],
)
def test_damaged_labels_are_named(frames: Path, content: str, message: str) -> None:
    (frames / "ActionUnit_Labels" / "SN001" / "SN001_au1.txt").write_text(content)
    with pytest.raises(DataError, match=rf"SN001_au1\.txt.*{message}"):
        only(frames)


def test_wrong_arguments_are_named(frames: Path) -> None:
    with pytest.raises(RecipeError, match="no label for 7, 24; choose from 1, 2, 4, 5"):
        only(frames, aus=[1, 7, 24])
    with pytest.raises(RecipeError, match="no AU at all"):
        only(frames, aus=[])
    with pytest.raises(RecipeError, match="threshold"):
        only(frames, threshold=0)
    with pytest.raises(RecipeError, match="every"):
        only(frames, every=0)


def test_what_is_missing_is_said_with_the_layout(tmp_path: Path, videos: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere.*no labels here.*mohammadmahoor"):
        only(tmp_path / "nowhere")
    with pytest.raises(DataError, match="neither videos nor frames"):
        only(videos, frames="nowhere")
    with pytest.raises(RecipeError, match="not for videos"):
        only(videos)


def test_the_published_folds_are_three_and_share_nobody() -> None:
    names = [name for part in PARTS.values() for name in part]
    assert len(names) == len(set(names)) == 27
    assert [len(part) for part in PARTS.values()] == [9, 9, 9]


def test_fold_k_tests_part_4_minus_k(frames: Path) -> None:
    data = only(frames)
    for fold, person in ((1, "SN003"), (2, "SN006"), (3, "SN001")):
        split = ThreeFold(fold=fold, selection="test").split(data)
        assert set(data.samples.subject[split.test].tolist()) == {person}
        assert len(split.train) == 2 * FRAMES


def test_runs_in_worker_processes_and_by_name(frames: Path) -> None:
    data = create_data(
        "disfa", root=str(frames), align="none", num_workers=1, batch_size=4, image_size=32
    )
    assert pickle.loads(pickle.dumps(data.dataset)).load(0).image.shape == (256, 256, 3)
    batch = next(iter(data.test_dataloader()))
    assert batch["image"].shape == (4, 3, 32, 32)
    assert batch["au_intensity"].shape == (4, 8)
