import os
from pathlib import Path

import numpy as np
import pytest

from faceaffect.data.base import create_data
from faceaffect.data.facial_expressions import COMMON, FacialExpressions
from faceaffect.errors import DataError, RecipeError
from faces import face, write_facial_expressions, write_image

REAL = os.environ.get("FACEAFFECT_FACES")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_facial_expressions(tmp_path / "facial_expressions")


def add(root: Path, *lines: str) -> None:
    with (root / "data" / "legend.csv").open("a") as file:
        file.writelines(f"9,{line}\n" for line in lines)


def test_mixed_case_labels_and_names_in_files_are_read(root: Path) -> None:
    data = FacialExpressions(str(root))
    assert data.schema.expressions == COMMON
    assert len(data) == 72
    assert sorted({*data.samples.subject.tolist()})[:2] == ["Person_A-X", "Person_B-X"]
    assert np.bincount(data.samples.expression).tolist() == [12] * 6
    row = data.samples.id.tolist().index("images/Person_B-X_0002.jpg")
    assert data.samples.expression[row] == 3
    assert data.load(row).image.shape == (40, 32, 3)
    assert data.left_out == {}


def test_dirt_is_left_out_and_counted(root: Path) -> None:
    write_image(root / "images" / "New_Face_0001.jpg", face())
    write_image(root / "images" / "New_Face_0002.jpg", face())
    add(root, "New_Face_0001.jpg,fear", "New_Face_0002.jpg,Contempt ", "Gone_0001.jpg,anger",
        "Person_A-X_0000.jpg,NEUTRAL", "Person_A-X_0001.jpg,sadness")  # fmt: skip
    data = FacialExpressions(str(root))
    assert len(data) == 71
    assert data.left_out == {"duplicate rows": 1, "conflicting labels": 1, "class fear": 1,
                             "class contempt": 1, "not on disk": 1}  # fmt: skip
    assert "images/Person_A-X_0001.jpg" not in data.samples.id


def test_classes_choose_and_order(root: Path) -> None:
    data = FacialExpressions(str(root), classes=["anger", "neutral"])
    assert data.schema.expressions == ("anger", "neutral")
    assert np.bincount(data.samples.expression).tolist() == [12, 12]
    assert data.left_out["class sadness"] == 12
    with pytest.raises(RecipeError, match="unknown name 'angr'; did you mean 'anger'"):
        FacialExpressions(str(root), classes=["angr"])
    data = FacialExpressions(str(root), classes=["Angry", "neutral"])
    assert data.schema.expressions == ("anger", "neutral")
    with pytest.raises(RecipeError, match="named twice"):
        FacialExpressions(str(root), classes=["angry", "anger"])
    with pytest.raises(RecipeError, match="named twice"):
        FacialExpressions(str(root), classes=["anger", "anger"])


def test_what_is_missing_is_said_with_where_to_get_it(root: Path, tmp_path: Path) -> None:
    where = "github.com/muxspace/facial_expressions"
    with pytest.raises(DataError, match=r"the folder .*nowhere is missing") as error:
        create_data("facial_expressions", root=str(tmp_path / "nowhere"))
    assert where in str(error.value)
    legend = root / "data" / "legend.csv"
    legend.write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match="no column image, emotion: another edition"):
        FacialExpressions(str(root))
    legend.write_text("")
    with pytest.raises(DataError, match="not readable as a table"):
        FacialExpressions(str(root))
    legend.unlink()
    with pytest.raises(DataError, match=r"label table .*legend.csv is missing"):
        FacialExpressions(str(root))
    with pytest.raises(RecipeError, match="needs root"):
        create_data("facial_expressions")


def test_no_image_on_disk_is_an_error(root: Path) -> None:
    for image in (root / "images").iterdir():
        image.unlink()
    with pytest.raises(DataError, match="none of the 72 listed files is there"):
        FacialExpressions(str(root))


def test_damaged_images_are_skipped_and_named(root: Path) -> None:
    (root / "images" / "Person_A-X_0000.jpg").write_bytes(b"")
    cut = root / "images" / "Person_C-X_0003.jpg"
    cut.write_bytes(cut.read_bytes()[:300])
    data = create_data("facial_expressions", root=str(root), protocol="all", num_workers=0)
    names = [name for batch in data.test_dataloader() for name in batch["id"]]
    assert len(names) == 70
    assert sorted(data.skipped) == ["images/Person_A-X_0000.jpg", "images/Person_C-X_0003.jpg"]
    assert "the file is empty" in data.skipped["images/Person_A-X_0000.jpg"]
    assert "truncated" in data.skipped["images/Person_C-X_0003.jpg"]


@pytest.mark.skipif(REAL is None, reason="FACEAFFECT_FACES names no sample of the dataset")
def test_the_published_faces() -> None:
    data = create_data("facial_expressions", root=REAL, batch_size=64, num_workers=0)
    faces = data.dataset
    assert len(faces) == 2354
    assert faces.left_out == {"conflicting labels": 1, "class fear": 14, "class contempt": 5}
    everything = FacialExpressions(REAL, classes=[*COMMON, "fear", "contempt"])
    assert len(everything) == 2373
    info = data.split.info
    assert info["joined"] == [["Carlos_Beltran", "Raul_Ibanez"]]
    assert info["identical_images"] == 2
    people = set(faces.samples.subject.tolist())
    assert {"Aaron_Sorkin", "HrithikRoshan", "Abid_Hamid_Mahmud_Al-Tikriti"} <= people
    batches = list(data.val_dataloader())
    assert sum(len(batch["id"]) for batch in batches) == info["sizes"]["val"]
    assert data.skipped == {}


def test_people_of_another_part_are_left_out_and_counted(tmp_path: Path) -> None:
    whole, part = tmp_path / "whole", tmp_path / "part"
    write_facial_expressions(whole, people=6, each=6)
    write_facial_expressions(part, people=2, each=6)
    all_people = set(FacialExpressions(str(whole)).samples.subject)
    known = set(FacialExpressions(str(part)).samples.subject)
    rest = FacialExpressions(str(whole), without=str(part))
    assert set(rest.samples.subject) == all_people - known
    assert rest.left_out["people of the other part"] > 0
    with pytest.raises(DataError, match="folder"):
        FacialExpressions(str(whole), without=str(tmp_path / "nowhere"))
