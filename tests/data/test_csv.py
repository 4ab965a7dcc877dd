from pathlib import Path
from typing import Any

import numpy as np
import pytest

from faceaffect.data.base import create_data
from faceaffect.data.csv import CsvFaces
from faceaffect.errors import DataError
from faces import face, write_clip, write_csv, write_image, write_table


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for i in range(4):
        write_image(tmp_path / f"{i}.jpg", face(i))
    return tmp_path


def read(folder: Path, *rows: dict[str, Any], **args: Any) -> CsvFaces:
    """Read a table with one row for each image of the folder."""
    named = [{"image": f"{i}.jpg"} | row for i, row in enumerate(rows)]
    return CsvFaces(str(write_table(folder / "faces.csv", named)), **args)


def text(folder: Path, content: str, **args: Any) -> CsvFaces:
    (folder / "faces.csv").write_text(content, encoding="utf-8")
    return CsvFaces(str(folder / "faces.csv"), **args)


def test_all_columns_are_read_and_empty_cells_are_unknown(folder: Path) -> None:
    data = read(
        folder,
        {"subject": "ann", "AU12": 1, "AU1": None, "expression": "sad", "valence": 0.5,
         "arousal": -1, "part": "Train", "attribute/age": "old"},
        {"subject": "bob", "AU12": "0.0", "AU1": 1, "expression": None, "valence": None,
         "arousal": None, "part": "test", "attribute/age": None},
        {"subject": "eve", "AU12": "nan", "AU1": 0, "expression": "glad", "valence": "-1e-1",
         "arousal": 0, "part": "valid", "attribute/age": "new"},
    )  # fmt: skip
    samples = data.samples
    assert data.schema.aus == (1, 12)
    assert data.schema.expressions == ("glad", "sadness")
    assert np.array_equal(samples.au, [[np.nan, 1], [1, 0], [0, np.nan]], equal_nan=True)
    assert samples.expression.tolist() == [1, -1, 0]
    expected = np.array([[0.5, -1], [np.nan] * 2, [-0.1, 0]], np.float32)
    assert np.array_equal(samples.va, expected, equal_nan=True)
    assert samples.part.tolist() == ["train", "test", "val"]
    assert samples.attributes["age"].tolist() == [1, -1, 0]
    assert data.attribute_names == {"age": ("new", "old")}
    assert samples.subject.tolist() == ["ann", "bob", "eve"]
    assert data.load(1).image.shape == (48, 48, 3)


def test_classes_may_be_named_and_their_case_does_not_matter(folder: Path) -> None:
    rows = [{"expression": word} for word in ("Happy", "SAD", "happy")]
    data = read(folder, *rows, classes=["sad", "happy", "angry"], synonyms=False)
    assert data.schema.expressions == ("sad", "happy", "angry")
    assert data.samples.expression.tolist() == [1, 0, 1]
    with pytest.raises(DataError, match=r"'expression': Happy, happy differ in case or leading"):
        read(folder, *rows, synonyms=False)


def test_intensities_become_labels_at_a_threshold(folder: Path) -> None:
    rows = [{"AU4": value} for value in (0, 1.5, 2, None)]
    data = read(folder, *rows, au_threshold=2)
    assert np.array_equal(data.samples.au[:, 0], [0, 0, 1, np.nan], equal_nan=True)
    assert np.array_equal(data.samples.au_intensity[:, 0], [0, 1.5, 2, np.nan], equal_nan=True)
    assert data.notes["au_threshold"] == 2
    with pytest.raises(DataError, match=r"line 4, AU4: '5.5' expected 0 to 5"):
        read(folder, *rows[:2], {"AU4": 5.5}, au_threshold=2)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"AU1": 2}, "line 3, AU1: '2' expected 0 or 1 .*data.au_threshold"),
        ({"AU1": "yes"}, "line 3, AU1: 'yes' expected 0 or 1"),
        ({"valence": 1.2}, "line 3, valence: '1.2' expected -1 to 1"),
        ({"arousal": "inf"}, "line 3, arousal: 'inf' expected -1 to 1"),
        (
            {"expression": "sadd"},
            r"line 3, expression: 'sadd' is no class; did you mean 'sadness'\?",
        ),
        ({"subject": " "}, "line 3, subject: '' names none"),
        ({"image": None}, "line 3, file: '' names none"),
        ({"part": "exam"}, "line 3, part: 'exam' is none of train, val, test"),
    ],
)
def test_a_wrong_cell_is_named_by_line_and_column(
    folder: Path, bad: dict[str, Any], message: str
) -> None:
    good = {"AU1": 1, "valence": 0, "arousal": 0, "expression": "sad", "subject": "ann",
            "part": "train"}  # fmt: skip
    with pytest.raises(DataError, match=message):
        read(folder, good, good | bad, good, classes=["sad", "glad"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "the file is empty"),
        ("image,AU1\n", "the table has no rows"),
        ("face,AU1\n0.jpg,1\n", "no column 'image', 'path' or 'video'; the columns are: face, AU1"),
        ("# faces\nimage,AU1\n0.jpg,1\n", r"cells: 2, and the header has 1 \('# faces'\)"),
        ("image,AU1,expression\n0.jpg,,nan\n", "no label is known in AU1, expression"),
        ("image,valence,arousal\n0.jpg,,\n", "no label is known in valence, arousal"),
        ("image,AU1,attribute/\n0.jpg,1,a\n", "'attribute/' names no attribute"),
        ("image,expression\n0.jpg,\ufffdrger\n", "line 2: a letter that was lost when the file"),
        ("image,subject\n0.jpg,ann\n", "no labels"),
        ("image,mood\n0.jpg,glad\n", "no labels.*columns not used: mood"),
        ("image,expresion\n0.jpg,glad\n", "unknown column 'expresion'; if it is 'expression'"),
        ("image,AU1,au01\n0.jpg,1,1\n", "'AU1' and 'au01' mean the same"),
        ("image,valence\n0.jpg,1\n", "'valence' needs its partner"),
        ("image,AU1\n9.jpg,1\n8.jpg,0\n", "none of its 2 files is there, such as"),
        ("image,AU1\n0.jpg,1,2,3\n", "line 2: too many cells: 4, and the header has 2"),
    ],
)
def test_a_table_that_makes_no_sense_is_refused(folder: Path, content: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        text(folder, content)


def test_missing_table_and_classes_without_a_column(folder: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere.csv is missing"):
        CsvFaces(str(folder / "nowhere.csv"))
    with pytest.raises(DataError, match="there is no column 'expression'"):
        read(folder, {"AU1": 1}, classes=["a"])


def test_dirt_is_left_out_and_counted(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = ["0.jpg,glad,x", "0.jpg,glad,x", "1.jpg,glad,x", "1.jpg,sad,x", "gone.jpg,sad,x",
            "", "2.jpg,sad,x"]  # fmt: skip
    data = text(folder, "\n".join(["image,expression,note", *rows]))
    assert data.samples.id.tolist() == ["0.jpg", "2.jpg"]
    assert data.left_out == {"duplicate rows": 1, "conflicting labels": 1, "not on disk": 1}
    assert data.notes["columns not used"] == ["note"]
    assert "columns not used: note" in caplog.text


def test_other_separators_encodings_and_spellings(folder: Path) -> None:
    data = text(folder, "\ufeffPath;Subject;au 1;AU02\n 0.jpg ;Ünal;;1\n1.jpg;Ünal;;0\n")
    assert data.schema.aus == (1, 2)
    assert data.samples.subject.tolist() == ["Ünal"] * 2
    write_image(folder / "sub" / "a.jpg", face())
    data = text(folder, "image\tAU1\nsub\\a.jpg\t1\n")
    assert data.samples.id.tolist() == ["sub/a.jpg"]
    (folder / "faces.csv").write_bytes("image,subject,AU1\n0.jpg,\xdcnal,1".encode("latin-1"))
    with pytest.raises(DataError, match=r"line 2: not UTF-8 at '0.jpg,Ünal,1': save it as 'CSV"):
        CsvFaces(str(folder / "faces.csv"))


def test_root_moves_table_and_files(folder: Path) -> None:
    (folder / "labels").mkdir()
    write_table(folder / "labels" / "faces.csv", [{"image": "0.jpg", "AU1": 1}])
    assert CsvFaces("labels/faces.csv", root=str(folder)).load(0).image.shape == (48, 48, 3)
    with pytest.raises(DataError, match="none of its 1 files"):
        CsvFaces(str(folder / "labels" / "faces.csv"))
    table = write_table(folder / "labels" / "x.csv", [{"image": str(folder / "1.jpg"), "AU1": 1}])
    assert CsvFaces(str(table)).load(0).image.shape == (48, 48, 3)


def test_without_subjects_each_image_is_its_own_person(folder: Path) -> None:
    data = read(folder, *[{"AU1": i % 2} for i in range(4)])
    assert not data.subjects_known
    assert data.samples.subject.tolist() == data.samples.id.tolist()


def test_clips_and_folders_of_frames_become_video(tmp_path: Path) -> None:
    write_clip(tmp_path / "a.mp4", 1, 12)
    write_clip(tmp_path / "b", 2, 3)
    write_image(tmp_path / "c.jpg", face(0))
    table = write_table(
        tmp_path / "faces.csv", [{"video": n, "AU1": 1} for n in ("a.mp4", "b", "c.jpg")]
    )
    data = create_data("csv", table=str(table), frames=5, image_size=32, protocol="all")
    batch = next(iter(data.test_dataloader()))
    assert batch["video"].shape == (3, 5, 3, 32, 32)
    assert batch["frame_mask"].sum(1).tolist() == [5, 3, 1]
    assert data.dataset.load(0).image.shape == (5, 32, 32, 3)


def test_an_unreadable_clip_is_left_out_and_named(tmp_path: Path) -> None:
    write_clip(tmp_path / "a.mp4", 1, 4)
    (tmp_path / "b.mp4").write_bytes(b"no video" * 50)
    (tmp_path / "c.mp4").write_bytes(b"")
    (tmp_path / "d").mkdir()
    names = ("a.mp4", "b.mp4", "c.mp4", "d")
    table = write_table(tmp_path / "faces.csv", [{"video": n, "AU1": 1} for n in names])
    data = create_data("csv", table=str(table), protocol="all", num_workers=0)
    batch = next(iter(data.test_dataloader()))
    assert batch["id"] == ["a.mp4"]
    assert sorted(data.skipped) == ["b.mp4", "c.mp4", "d"]
    assert all(str(tmp_path / name) in reason for name, reason in data.skipped.items())


def test_the_published_split_is_the_default_protocol(tmp_path: Path) -> None:
    table = write_csv(tmp_path, 6, 2)
    assert create_data("csv", table=str(table)).split.info["name"] == "subject_kfold"
    rows = [
        {"image": f"p{p}/{s}.jpg", "subject": p, "AU1": s, "split": ("train", "test")[p > 3]}
        for p in range(6)
        for s in range(2)
    ]
    table = write_table(tmp_path / "parts.csv", rows)
    info = create_data("csv", table=str(table)).split.info
    assert (info["name"], info["sizes"]["test"]) == ("official", 4)
