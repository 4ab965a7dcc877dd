from pathlib import Path
from typing import Any

import numpy as np
import pytest

from faceaffect.data.base import create_data
from faceaffect.data.bp4d import BENCHMARK_AUS, PARTS, Bp4d
from faceaffect.data.protocols import ThreeFold
from faceaffect.errors import DataError
from faces import face, write_clip, write_image
from finders import Told
from trees.bp4d import CODED, NUMBERS, PEOPLE, TASKS, write_images, write_labels


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_images(write_labels(tmp_path))


def only(root: Path, **args: Any) -> Bp4d:
    return Bp4d(str(root), **{"align": "none", **args})


def test_labels_and_images_meet_by_number(root: Path) -> None:
    data = only(root)
    assert data.schema.aus == BENCHMARK_AUS
    assert len(data) == len(PEOPLE) * len(TASKS) * len(NUMBERS)
    assert data.samples.id[0] == "F001/T1/02440"
    assert data.samples.subject[0] == "F001"
    assert data.path(0) == root / "2D+3D" / "F001" / "T1" / "2440.jpg"
    assert data.samples.au is not None
    assert data.samples.au[0].tolist() == [(au + 2440) % 2 for au in BENCHMARK_AUS]
    assert data.load(0).image.shape == (256, 256, 3)
    assert data.notes == {
        "frames": 24,
        "every": 1,
        "crop": {**data.notes["crop"], "method": "none", "size": 256},
    }


@pytest.mark.parametrize(
    ("labels", "images", "digits", "named"),
    [
        ("AU_OCC", "Sequences", 6, True),
        ("aucoding/au_occ", "images", 4, False),
        ("AUCoding", ".", 5, False),
    ],
)
def test_other_copies(tmp_path: Path, labels: str, images: str, digits: int, named: bool) -> None:
    write_images(write_labels(tmp_path, labels, named=named), images, digits)
    data = only(tmp_path)
    assert len(data) == 24
    assert not data.left_out


def test_unknown_codes_are_masked(root: Path) -> None:
    file = root / "AUCoding" / "AU_OCC" / "F001_T1.csv"
    header, first, *rest = file.read_text().splitlines()
    cells = first.split(",")
    cells[1 + CODED.index(6)] = "9"
    all_unknown = ",".join([rest[0].split(",")[0], *["9"] * len(CODED)])
    file.write_text("\n".join([header, ",".join(cells), all_unknown, *rest[1:]]))
    data = only(root)
    assert data.samples.au is not None
    assert np.isnan(data.samples.au[0]).tolist() == [au == 6 for au in BENCHMARK_AUS]
    assert data.left_out == {"frames without a label": 1}


def test_frames_and_labels_without_a_partner_are_counted(root: Path) -> None:
    (root / "2D+3D" / "F001" / "T1" / "2441.jpg").unlink()
    write_image(root / "2D+3D" / "F001" / "T1" / "2600.jpg", face())
    (root / "AUCoding" / "AU_OCC" / "M002_T8.csv").unlink()
    data = only(root)
    assert len(data) == 24 - 1 - len(NUMBERS)
    assert data.left_out == {
        "labels without a frame": 1,
        "frames without a label": 1,
        "recordings without labels": 1,
    }


def test_a_task_may_be_a_video(tmp_path: Path) -> None:
    write_images(write_labels(tmp_path))
    folder = tmp_path / "2D+3D" / "F001" / "T1"
    for file in folder.iterdir():
        file.unlink()
    write_clip(folder / "vid.avi", 0, 5, 40)
    labels = tmp_path / "AUCoding" / "AU_OCC" / "F001_T1.csv"
    for i, number in enumerate(NUMBERS):
        labels.write_text(labels.read_text().replace(str(number), str(i + 1)))
    data = only(tmp_path)
    assert data.path(0) == folder / "vid.avi"
    assert data.load(0).image.shape == (256, 256, 3)
    labels.write_text(labels.read_text().replace("\n1,", "\n0,"))
    with pytest.raises(DataError, match=r"vid\.avi: there is a label for frame 0.*from 1"):
        only(tmp_path)


def test_wrong_labels_are_named(root: Path) -> None:
    with pytest.raises(DataError, match=r"F001_T1\.csv: no column for AU43; the columns are 1, 2"):
        only(root, aus=[1, 43])
    file = root / "AUCoding" / "AU_OCC" / "F001_T1.csv"
    text = file.read_text()
    for damaged, message in (
        (text.replace("2440,", "2441,"), "labelled twice"),
        (
            text.replace("2440,0", "2440,3").replace("2440,1", "2440,3"),
            "the label 3 is none of 0 to 1",
        ),
        ("", "not readable"),
        (text.replace("2440", "first"), "not readable"),
    ):
        file.write_text(damaged)
        with pytest.raises(DataError, match=rf"F001_T1\.csv: .*{message}"):
            only(root)


def test_what_is_missing_is_said_with_the_layout(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no label files.*Binghamton"):
        only(tmp_path)
    write_labels(tmp_path)
    with pytest.raises(DataError, match=r"no images or videos.*2D\+3D"):
        only(tmp_path)


def test_the_published_folds() -> None:
    names = [name for part in PARTS.values() for name in part]
    assert len(names) == len(set(names)) == 41
    assert [len(part) for part in PARTS.values()] == [14, 14, 13]


def test_fold_k_tests_part_4_minus_k(root: Path) -> None:
    data = only(root)
    for fold, person in ((1, "F004"), (2, "M002"), (3, "F001")):
        split = ThreeFold(fold=fold, selection="test").split(data)
        assert set(data.samples.subject[split.test].tolist()) == {person}


def test_a_face_that_cannot_be_found_is_skipped_and_counted(root: Path) -> None:
    data = create_data(
        "bp4d",
        root=str(root),
        protocol={"name": "three_fold", "fold": 1, "selection": "test"},
        batch_size=8,
    )
    dark = face(2, NUMBERS[0], (40, 40)).mean()
    eyes = np.zeros((68, 2), np.float32)
    eyes[[36, 39, 42, 45]] = [[10, 15], [16, 15], [24, 15], [30, 15]]
    eyes[[27, 28, 29, 30, 33]] = [[20, 15], [20, 18], [20, 21], [20, 24], [20, 27]]
    data.dataset.frames.aligner.finder = Told(  # type: ignore[attr-defined]
        lambda image: None if abs(image.mean() - dark) < 0.5 else eyes
    )
    data.prepare_data()
    batches = list(data.test_dataloader())
    assert sum(len(batch["id"]) for batch in batches) == 8 - len(data.skipped)
    assert "F004/T1/02440" in data.skipped
    assert "no face was found" in data.skipped["F004/T1/02440"]
    crops = data.dataset.notes["crops"]
    assert (crops["landmarks"], crops["missing"]) == (0, 0)
    assert crops["failed"] >= len(data.skipped)
    assert crops["finder"] == 24 - crops["failed"]
