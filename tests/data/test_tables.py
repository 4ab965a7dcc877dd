"""Tables as spreadsheets, other programs and tired people write them."""

import os
import time
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from faceaffect.data import cells
from faceaffect.data.base import FaceDataset, Samples, create_data
from faceaffect.data.csv import CsvFaces
from faceaffect.data.names import EXPRESSION_SYNONYMS, expression_name
from faceaffect.data.places import find_files
from faceaffect.errors import DataError, RecipeError
from faceaffect.schema import LabelSchema
from faceaffect.scores.vocabulary import EXPRESSION_WORDS
from faces import face, write_image, write_table

FILES = 12


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for i in range(FILES):
        write_image(folder / f"{i}.jpg", face(i))
    return folder


@pytest.fixture
def folder(pictures: Path, tmp_path: Path) -> Path:
    for i in range(FILES):
        os.link(pictures / f"{i}.jpg", tmp_path / f"{i}.jpg")
    return tmp_path


def table(folder: Path, *columns: str, **cells: list[Any]) -> Path:
    """Write a table of as many rows as there are cells."""
    length = len(next(iter(cells.values())))
    rows = [{"image": f"{i}.jpg"} | {name: cells[name][i] for name in cells} for i in range(length)]
    return write_table(folder / "faces.csv", rows)


def text(folder: Path, content: str | bytes, **args: Any) -> CsvFaces:
    raw = content.encode() if isinstance(content, str) else content
    (folder / "t.csv").write_bytes(raw)
    return CsvFaces(str(folder / "t.csv"), **args)


# Names that mean the same


def test_synonyms_are_one_class_and_the_notes_say_so(folder: Path) -> None:
    words = ["happy", "Happiness", "HAPPY", "joy", "Sad", "sadness", "Neutral", "surprised", "Pain"]
    data = CsvFaces(str(table(folder, expression=words)))
    assert data.schema.expressions == ("happiness", "neutral", "pain", "sadness", "surprise")
    assert data.samples.expression.tolist() == [0, 0, 0, 0, 3, 3, 1, 4, 2]
    renamed = data.notes["expressions renamed"]
    assert renamed["joy"] == renamed["HAPPY"] == "happiness"
    assert "sadness" not in renamed
    data = CsvFaces(str(table(folder, expression=words[3:])), synonyms=False)
    assert "joy" in data.schema.expressions
    assert "expressions renamed" not in data.notes


def test_answers_in_words_and_labels_agree_on_what_a_word_means() -> None:
    words = {word: name for name, several in EXPRESSION_WORDS.items() for word in several}
    for name, others in EXPRESSION_SYNONYMS.items():
        assert expression_name(name) == name
        for other in others:
            assert expression_name(other.title()) == name
            assert words.get(other, name) == name


def test_named_classes_mean_the_same_too(folder: Path) -> None:
    path = table(folder, expression=["happy", "Angry", "JOY"])
    data = CsvFaces(str(path), classes=["anger", "Joy", "fearful"])
    assert data.schema.expressions == ("anger", "happiness", "fear")
    assert data.samples.expression.tolist() == [1, 0, 1]
    with pytest.raises(RecipeError, match=r"data.classes: 'happy' and 'joy' are one class"):
        CsvFaces(str(path), classes=["anger", "happy", "joy"])


def test_rows_that_differ_in_a_synonym_are_one(folder: Path) -> None:
    data = text(folder, "image,expression\n0.jpg,happy\n0.jpg,Joy\n1.jpg,sad\n1.jpg,anger\n")
    assert data.left_out == {"duplicate rows": 1, "conflicting labels": 1}


# People


@pytest.mark.parametrize(
    ("one", "other"),
    [("22", "22.0"), ("22", "22,00"), ("22", "22."), ("22", "+22"), ("s22", "s22 "),
     ("s22", "\u200bs22"), ("s 22", "s\u00a022"),
     ("Zoë", unicodedata.normalize("NFD", "Zoë")), ("s22", "\uff5322"), ("a b", "a  b")],
)  # fmt: skip
def test_a_person_spelt_in_two_ways_is_one(folder: Path, one: str, other: str) -> None:
    people = [one, other, "ann", "bob", "eve", "dan"]
    path = table(folder, subject=people, AU1=[0, 1] * 3)
    assert len(set(CsvFaces(str(path)).samples.subject.tolist())) == 5
    for fold in range(1, 6):
        split = create_data("csv", table=str(path), protocol={"name": "subject_kfold",
                            "fold": fold, "val_fraction": 0.3}).split  # fmt: skip
        assert sum({0, 1} <= set(part.tolist()) for part in (split.train, split.val, split.test))


def test_an_official_split_that_leaks_in_another_spelling_is_refused(folder: Path) -> None:
    parts = ["train", "train", "train", "test", "test", "test"]
    plain = table(folder, subject=["1", "2", "3", "1", "4", "5"], AU1=[0, 1] * 3, part=parts)
    with pytest.raises(DataError) as expected:
        create_data("csv", table=str(plain))
    other = table(folder, subject=["1", "2", "3", "1.0", "4", "5"], AU1=[0, 1] * 3, part=parts)
    with pytest.raises(DataError, match="'1' is in train and in test") as found:
        create_data("csv", table=str(other))
    assert str(found.value) == str(expected.value)


@pytest.mark.parametrize(("one", "other"), [("s22", "S22"), ("7", "007"), ("s1", "s01")])
def test_people_who_nearly_have_one_name_are_refused(folder: Path, one: str, other: str) -> None:
    path = table(folder, subject=[one, other, "ann", "bob"], AU1=[0, 1] * 2)
    with pytest.raises(DataError, match="differ in case or leading zeros only"):
        CsvFaces(str(path))


@pytest.mark.parametrize(
    ("name", "message"),
    [("-1", "a code for somebody unknown"), ("-9.0", "a code"), ("999", "a code"),
     ("2.02E+11", "a spreadsheet shortened"), ("1e5", "shortened"), ("2,02E+11", "shortened")],
)  # fmt: skip
def test_a_number_that_is_nobody_is_refused(folder: Path, name: str, message: str) -> None:
    path = table(folder, subject=["1", "2", "3", f'"{name}"', "40"], AU1=[0, 1, 0, 1, 0])
    path.write_text(path.read_text().replace('"""', '"'))
    with pytest.raises(DataError, match=f"line 5, subject: .*{message}"):
        CsvFaces(str(path))


@pytest.mark.parametrize("people", [["1", "99", "100"], ["101", "205", "999"], ["1", "60"], ["e5"]])
def test_numbers_of_people_may_have_gaps(folder: Path, people: list[str]) -> None:
    path = table(folder, subject=people, AU1=[0] * len(people))
    assert CsvFaces(str(path)).samples.subject.tolist() == people


def test_readers_of_ones_own_compare_people_in_the_same_way() -> None:
    subject = np.array(["7.0", "7", " 8"])
    samples = Samples(np.array(["a", "b", "c"]), subject, expression=np.zeros(3, np.int64))
    data = FaceDataset(LabelSchema(expressions=("x", "y")), samples)
    assert data.samples.subject.tolist() == ["7", "7", "8"]
    assert subject.tolist() == ["7.0", "7", " 8"]


# What stands for an unknown label

MARKS = ["nan", "NaN", "NA", "N/A", "null", "NULL", "None", "none", "-", "", "#N/A", "<NA>", " na ",
         "n.a.", "n / a", "(null)", "[none]", "\\N", "undefined", "Unlabelled", "#VALUE!",
         "#DIV/0!", "??", "...", "--", "\u2014", "\u2212", "."]  # fmt: skip


@pytest.mark.parametrize("mark", MARKS)
def test_a_mark_is_unknown_in_every_column_of_labels(folder: Path, mark: str) -> None:
    row = "0.jpg,ann,{0},{0},{0},{0},{0},{0}\n1.jpg,bob,1,glad,0.5,0.5,train,old\n"
    head = "image,subject,AU1,expression,valence,arousal,part,attribute/age\n"
    data = text(folder, head + row.format(mark))
    assert data.schema.expressions == ("glad",)
    assert data.samples.expression.tolist() == [-1, 0]
    assert np.isnan(data.samples.au[0]).all()
    assert np.isnan(data.samples.va[0]).all()
    assert data.samples.part.tolist() == ["", "train"]
    assert data.samples.attributes["age"].tolist() == [-1, 0]
    with pytest.raises(DataError, match=r"line 3, subject: .* names none"):
        text(folder, f"image,subject,AU1\n0.jpg,ann,1\n1.jpg,{mark},0\n")


def test_codes_are_unknown_where_the_recipe_says_so(folder: Path) -> None:
    content = (
        "image,AU1,AU2,expression,valence,arousal\n"
        "0.jpg,-1,1,-1,-5,-5\n1.jpg,9,0,glad,-1,0.5\n2.jpg,1,999.0,sad,-2,-2.0\n"
    )
    data = text(folder, content, unknown=[-1, 9, 999, -5, -2])
    assert data.schema.expressions == ("glad", "sadness")
    nan = np.nan
    assert np.array_equal(data.samples.au, [[nan, 1], [nan, 0], [1, nan]], equal_nan=True)
    expected = np.array([[nan, nan], [-1, 0.5], [nan, nan]], np.float32)  # -1 is a valence
    assert np.array_equal(data.samples.va, expected, equal_nan=True)
    assert data.notes["unknown"] == [-1, 9, 999, -5, -2]
    with pytest.raises(DataError, match=r"line 2, AU1: '-1' expected 0 or 1.*data.unknown=\[-1\]"):
        text(folder, content)


@pytest.mark.parametrize("code", ["-1", "999", "9", "-2.0", "255", "77", "1000", "\u22121", "-1."])
def test_a_class_that_looks_like_a_code_is_asked_about(folder: Path, code: str) -> None:
    path = table(folder, expression=["0", "1", "2", code])
    with pytest.raises(DataError, match=r"line 5, expression: .*data.unknown=\["):
        CsvFaces(str(path))
    number = float(code.replace("\u2212", "-"))
    assert CsvFaces(str(path), unknown=[number]).schema.expressions == ("0", "1", "2")
    named = [f"{number:g}", "0", "1", "2"]
    assert CsvFaces(str(path), classes=named).schema.expressions == tuple(named)


def test_a_code_for_unknown_is_a_number_or_a_word(folder: Path) -> None:
    path = table(folder, expression=["0", "1", "x"])
    for wrong in ([["x"]], [{"x": 1}], [True], [None]):
        with pytest.raises(RecipeError, match=r"data.unknown: .* is neither a number nor a quoted"):
            CsvFaces(str(path), unknown=wrong)
    for wrong in ("x", {"x": 1}, -1):
        with pytest.raises(RecipeError, match=r"data\.unknown: .* is no list"):
            create_data("csv", table=str(path), unknown=wrong)


def test_numbers_may_be_written_in_other_digits(folder: Path) -> None:
    lines = "0.jpg,\uff11,\u22120.5,+1\n1.jpg,0,0.5,-0\n2.jpg,\u22121,0,0\n"
    data = text(folder, "image,AU1,valence,arousal\n" + lines, unknown=[-1])
    assert np.array_equal(data.samples.au[:, 0], [1, 0, np.nan], equal_nan=True)
    assert data.samples.va[0].tolist() == [-0.5, 1]


def test_nine_is_a_class_among_ten(folder: Path) -> None:
    path = table(folder, expression=[str(i) for i in range(10)])
    assert len(CsvFaces(str(path)).schema.expressions) == 10


# The same thing twice


def test_numbers_are_one_class_however_they_are_written(folder: Path) -> None:
    path = table(folder, expression=["3", "3.0", "3.00", "0", "0.0"],
                 **{"attribute/site": ["1", "1.0", "2", "2", "2.0"]})  # fmt: skip
    data = CsvFaces(str(path))
    assert data.schema.expressions == ("0", "3")
    assert data.samples.expression.tolist() == [1, 1, 1, 0, 0]
    assert data.attribute_names["site"] == ("1", "2")


def test_a_file_is_one_whatever_path_leads_to_it(folder: Path) -> None:
    (folder / "sub").mkdir()
    nfd = unicodedata.normalize("NFD", "é.jpg")
    write_image(folder / nfd, face(7))
    (folder / "link.jpg").symlink_to(folder / "3.jpg")
    os.link(folder / "4.jpg", folder / "hard.jpg")
    same = [("0.jpg", "./0.jpg"), ("1.jpg", "sub/../1.jpg"), ("2.jpg", str(folder / "2.jpg")),
            ("3.jpg", "link.jpg"), ("4.jpg", "hard.jpg"), (nfd, "é.jpg"), ("5.jpg", ".//5.jpg"),
            ("6.jpg", ".\\6.jpg")]  # fmt: skip
    lines = [f"{one},1,0.5,0\n{other},1.0,.5,-0\n" for one, other in same]
    data = text(folder, "image,AU1,valence,arousal\n" + "".join(lines))
    assert len(data) == len(same)
    assert data.left_out == {"duplicate rows": len(same)}
    assert all(data.load(i).image.shape == (48, 48, 3) for i in range(len(data)))
    lines = [f"{one},0\n{other},1\n" for one, other in same]
    data = text(folder, "image,AU1\n7.jpg,1\n" + "".join(lines))
    assert data.samples.id.tolist() == ["7.jpg"]
    assert data.left_out == {"conflicting labels": len(same)}


def test_ids_do_not_depend_on_the_way_to_a_file(folder: Path) -> None:
    (folder / "sub").mkdir()
    (folder / "other").symlink_to(folder / "sub")
    write_image(folder / "sub" / "a.jpg", face())
    names = ["sub/a.jpg", "./sub/a.jpg", str(folder / "sub" / "a.jpg"), "sub/../sub/a.jpg"]
    places = find_files(folder, names)
    assert {*places.name} == {"sub/a.jpg"}
    places = find_files(folder, ["sub/a.jpg", "other/a.jpg", "other/b.jpg"])
    assert places.there.tolist() == [True, True, False]
    assert places.name[1:] == ["other/a.jpg", "other/b.jpg"]
    assert places.file.tolist() == [0, 0, 1]


# Cells that swallow lines, columns, encodings


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('image,AU1\n0.jpg,1\n"1.jpg,0\n2.jpg,1\n3.jpg",0\n', "line 3: a line break inside"),
        ('image,AU1\n0.jpg,1\n1.jpg,"0\n2.jpg,1\n', "line 3: unexpected end of data; is a quot"),
        ('image,AU1\n0.jpg,1\n1.jpg,0,1\n', "line 3: too many cells: 3, and the header has 2"),
        ('image,AU1,AU2\n0.jpg,1,1\n\n1.jpg,0\n', "line 4: too few cells: 2, and the header has 3"),
        ('image,AU1\n0.jpg,1\nimage,AU1\n1.jpg,0\n', "line 3: the header for the second time"),
        ('image,AU1,AU1\n0.jpg,1,0\n', "line 1: the column 'AU1' is there twice"),
        ('image,AU1,note,note\n0.jpg,1,,\n', "line 1: the column 'note' is there twice"),
        ('image,AU1\n0.jpg,1\n1\33.jpg,0\n', r"line 3: a control character in .* '1\\x1b.jpg'"),
        ('image,AU1\n0.jpg,1\n1.jpg,"0"x\n', "line 3: .*expected after"),
    ],
)  # fmt: skip
def test_a_row_that_does_not_fit_is_named_by_its_line(
    folder: Path, content: str, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        text(folder, content)


def test_limits_answer_at_once(folder: Path) -> None:
    started = time.monotonic()
    rest = "".join(f"{i % FILES}.jpg,{i % 2}\n" for i in range(200_000))
    with pytest.raises(DataError, match=r"line 2: a cell of more than 1,000,000 characters"):
        text(folder, f'image,AU1\n"0.jpg,1\n{rest}')
    with pytest.raises(DataError, match=r"line 1: 10,002 columns, more than the 10,000"):
        text(folder, "image,AU1," + ",".join(f"c{i}" for i in range(10_000)) + "\n")
    with pytest.raises(DataError, match=r"the column 'AU9{58}\.\.\.' looks like an action unit"):
        text(folder, f"image,AU{'9' * 5000}\n0.jpg,1\n")
    with pytest.raises(DataError, match=r"line 2, AU1: '9{60}\.\.\.' expected 0 or 1"):
        text(folder, f"image,AU1\n0.jpg,{'9' * 5000}\n")
    assert time.monotonic() - started < 20


CONTENT = "image;subject;AU1\n0.jpg;Ünal;1\n1.jpg;Zoë;0\n"


@pytest.mark.parametrize(
    "raw",
    [
        CONTENT.encode("utf-8-sig"),
        b"\xef\xbb\xbf" + CONTENT.encode("utf-8-sig"),
        CONTENT.encode("utf-16"),
        b"\xfe\xff" + CONTENT.encode("utf-16-be"),
        CONTENT.encode("utf-32"),
        CONTENT.replace(";", "\t").encode("utf-16"),
        ("sep=;\n" + CONTENT).encode(),
        ("sep=|\r\n" + CONTENT.replace(";", "|").replace("\n", "\r\n")).encode("utf-8-sig"),
        CONTENT.replace("\n", "\r").encode(),
        '"image","subject","AU1"\n"0.jpg","Ünal","1"\n"1.jpg", "Zoë","0"\n'.encode(),
        CONTENT.replace(";", ", ").encode(),
        ("\n" + CONTENT.replace("\n", "\n\n;;\n")).encode(),
    ],
)
def test_what_spreadsheets_write_is_read(folder: Path, raw: bytes) -> None:
    data = text(folder, raw)
    assert data.samples.id.tolist() == ["0.jpg", "1.jpg"]
    assert data.samples.subject.tolist() == ["Ünal", "Zoë"]
    assert data.samples.au[:, 0].tolist() == [1, 0]


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (CONTENT.encode("cp1252"), "line 2: not UTF-8 at '.*Ünal;1': save it as 'CSV UTF-8'"),
        ("image,AU1\n0.jpg,1\n表.jpg,1\n".encode("shift-jis"), "line 3: not UTF-8.*'CSV UTF-8'"),
        (CONTENT.encode("utf-16-le"), "UTF-16 unmarked; save it as 'CSV UTF-8'"),
        (CONTENT.encode("utf-16")[:-1], "damaged UTF-16: save it as 'CSV UTF-8'"),
        (b"PK\3\4" + bytes(90), "an Excel workbook or another archive; save it as 'CSV UTF-8'"),
        (b"\xd0\xcf\x11\xe0" + bytes(90), "an old Excel workbook; save it"),
        (b"\x89PNG\r\n\x1a\n" + bytes(90), "a PNG picture"),
    ],
)
def test_what_is_no_text_is_told_how_to_save_it(folder: Path, raw: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        text(folder, raw)


@pytest.mark.parametrize("column", ["AU01_c", "AU_1", " AU1", "AU-01", "au 1", '"AU1"', "AU001"])
def test_other_names_of_an_action_unit_are_understood(folder: Path, column: str) -> None:
    data = text(folder, f"image,{column}\n0.jpg,1\n1.jpg,0\n")
    assert data.schema.aus == (1,)
    assert data.samples.au[:, 0].tolist() == [1, 0]


@pytest.mark.parametrize(
    "column",
    ["AU12_intensity", "AU12L", "AU6+12", "AU0", "AU 1 left", "AU1.0", "AU_R12", "AU.12", "A U12",
     "Action Unit 12", "ActionUnit12", "FACS_AU12", "label/AU12", "AUL12", "aus_12"],
)  # fmt: skip
def test_a_column_like_an_action_unit_is_never_dropped(folder: Path, column: str) -> None:
    with pytest.raises(DataError, match="looks like an action unit: name it AU12"):
        text(folder, f"image,AU1,{column}\n0.jpg,1,1\n")


@pytest.mark.parametrize(
    ("column", "ours"),
    [("person", "subject"), ("Participant_ID", "subject"), ("subjects", "subject"),
     ("emotion", "expression"), ("Emotion_Label", "expression"), ("partition", "part"),
     ("attributes/age", "attribute/age"), ("valance", "valence")],
)  # fmt: skip
def test_another_word_for_a_column_is_never_dropped(folder: Path, column: str, ours: str) -> None:
    with pytest.raises(DataError, match=f"unknown column '{column}'; if it is '{ours}', name it"):
        text(folder, f"image,AU1,{column}\n0.jpg,1,a\n")


def test_another_word_beside_our_own_is_another_thing(folder: Path) -> None:
    content = "image,AU1,subject,person,gap 3,gauge_2\n0.jpg,1,a,b,c,d\n"
    assert text(folder, content).notes["columns not used"] == ["person", "gap 3", "gauge_2"]


def test_openface_has_two_columns_of_each_unit(folder: Path) -> None:
    content = "image,AU01_r,AU12_r,AU01_c,AU12_c,AU28_c\n0.jpg,2.5,0.3,1,0,1\n1.jpg,0,4,0,1,0\n"
    data = text(folder, content)
    assert data.schema.aus == (1, 12, 28)
    assert data.samples.au.tolist() == [[1, 0, 1], [0, 1, 0]]
    assert data.notes["columns not used"] == ["AU01_r", "AU12_r"]
    data = text(folder, content, au_threshold=3)
    assert data.schema.aus == (1, 12)
    assert data.samples.au.tolist() == [[0, 0], [0, 1]]
    assert data.samples.au_intensity[0].tolist() == pytest.approx([2.5, 0.3])
    assert sorted(data.notes["columns not used"]) == ["AU01_c", "AU12_c", "AU28_c"]
    with pytest.raises(DataError, match=r"'AU01_r' holds intensities; data.au_threshold=2"):
        text(folder, "image,AU01_r\n0.jpg,2.5\n")
    with pytest.raises(DataError, match=r"'AU01_c' holds 0 and 1, and data.au_threshold"):
        text(folder, "image,AU01_c\n0.jpg,1\n", au_threshold=2)
    with pytest.raises(DataError, match="'AU01_c' and 'AU1' mean the same"):
        text(folder, "image,AU01_c,AU1\n0.jpg,1,1\n")


# Files that are no tables


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="a system without FIFOs")
def test_only_regular_files_are_tables(folder: Path) -> None:
    os.mkfifo(folder / "fifo.csv")
    for path in (folder / "fifo.csv", Path("/dev/zero")):
        with pytest.raises(DataError, match="no regular file"):
            CsvFaces(str(path))


def test_a_folder_is_told_what_a_table_is(folder: Path) -> None:
    for name in ("angry", "happy"):
        write_image(folder / "train" / name / "1.jpg", face())
    with pytest.raises(DataError, match=r"is a folder \(of angry, happy.*'angry/1?001.jpg,angry'"):
        CsvFaces(str(folder / "train"))
    table(folder, AU1=[1])
    with pytest.raises(DataError, match=r"name the table in it, such as .*faces.csv"):
        CsvFaces(str(folder))


def test_a_missing_table_says_where_it_was_looked_for(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    with pytest.raises(DataError, match=r"x\.csv is missing; a relative path counts") as caught:
        CsvFaces("labels/x.csv")
    assert str(folder) in str(caught.value)


# Reading at once


PLAIN = [
    b"image,AU1\na.jpg,1\nb.jpg,0\n",
    b"\xef\xbb\xbfimage;AU1\r\na.jpg;1\r\nb.jpg;0",
    b"image\tAU1\t\n a.jpg \t1\t\n b b.jpg\t\t\n\n\n",
    "image,name\n\u3000\u00e9.jpg\u00a0,\u2028\u4e00\n".encode(),
    b"image,AU1\na.jpg,1\n,\n , \nb.jpg,0\nNA,nan\n",
    b"image\na.jpg\n\nb.jpg\n",
    b",image\n0,a.jpg\n1,b.jpg\n,\n",
]


@pytest.mark.parametrize("content", PLAIN)
@pytest.mark.parametrize("together", [12, 1_000_000])
def test_a_table_read_at_once_is_as_one_read_row_by_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, together: int
) -> None:
    monkeypatch.setattr(cells, "_AT_ONCE", together)
    path = tmp_path / "table.csv"
    path.write_bytes(content)
    at_once = cells._at_once(path)
    assert at_once is not None
    pd.testing.assert_frame_equal(at_once, cells._one_by_one(path), check_index_type=False)


@pytest.mark.parametrize(
    "special",
    [b'"b.jpg",1\n', b"b.jpg,1\r", b"b.jpg\n", b"b.jpg,1,2\n", b"\x0cb.jpg,1\n", b"\xffb.jpg,1\n",
     b"\xef\xbf\xbd,1\n", b"image,AU1\n", b"\n", b"b.jpg," + b"1" * 1_000_001 + b"\n"],
)  # fmt: skip
def test_what_is_special_about_a_table_is_looked_at_row_by_row(
    tmp_path: Path, special: bytes
) -> None:
    path = tmp_path / "table.csv"
    path.write_bytes(b"image,AU1\na.jpg,1\n" + special + b"c.jpg,0\n")
    assert cells._at_once(path) is None


@pytest.mark.parametrize(
    "content", [b"", b"\n", b"image,AU1\n", b"sep=;\nimage;AU1\na.jpg;1\n", b"%PDF,AU1\na.jpg,1\n"]
)
def test_no_table_and_its_like_are_left_to_the_careful_reader(
    tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "table.csv"
    path.write_bytes(content)
    assert cells._at_once(path) is None
