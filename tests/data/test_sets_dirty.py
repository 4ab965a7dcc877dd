"""Files of a set as they come back from other systems, editors and hands."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from faceaffect.data.affectnet import AffectNet
from faceaffect.data.affwild2 import AffWild2
from faceaffect.data.bp4d import Bp4d
from faceaffect.data.casme2 import Casme2
from faceaffect.data.dataset import FaceDataset
from faceaffect.data.dfew import Dfew
from faceaffect.data.disfa import Disfa
from faceaffect.data.disfa_plus import DisfaPlus
from faceaffect.data.facial_expressions import FacialExpressions
from faceaffect.data.fer import FerPlus
from faceaffect.data.ferv39k import Ferv39k
from faceaffect.data.mafw import Mafw
from faceaffect.data.rafdb import RafDb
from faceaffect.errors import DataError
from faces import write_facial_expressions
from trees import bp4d, dfew, disfa, rafdb, sets

Read = Callable[[str], FaceDataset]


def write_bp4d(root: Path) -> Path:
    return bp4d.write_images(bp4d.write_labels(root))


def write_disfa(root: Path) -> Path:
    disfa.write_labels(root)
    disfa.write_frames(root)
    return root


TREES: dict[str, tuple[Callable[[Path], Path], Read]] = {
    "affectnet": (partial(sets.affectnet_csv, train=11), AffectNet),
    "affwild2": (partial(sets.affwild2, frames=4), AffWild2),
    "bp4d": (write_bp4d, partial(Bp4d, align="none")),
    "casme2": (partial(sets.casme2, people=1), Casme2),
    "dfew": (dfew.write, Dfew),
    "disfa": (write_disfa, partial(Disfa, align="none")),
    "disfa_plus": (partial(sets.disfa_plus, frames=2), partial(DisfaPlus, align="none")),
    "facial_expressions": (write_facial_expressions, FacialExpressions),
    "ferplus": (partial(sets.ferplus, count=10), partial(FerPlus, votes="soft")),
    "ferv39k": (partial(sets.ferv39k, train=7), Ferv39k),
    "mafw": (sets.mafw, Mafw),
    "rafdb": (rafdb.write, RafDb),
}


def texts(root: Path) -> list[Path]:
    return [f for f in root.rglob("*") if f.suffix in (".csv", ".txt")]


@pytest.mark.parametrize("name", TREES)
def test_an_editor_of_another_system_changes_nothing(name: str, tmp_path: Path) -> None:
    """It leaves a mark at the start, other ends of lines, and empty lines at the end."""
    write, read = TREES[name]
    root = write(tmp_path)
    before = read(str(root)).samples
    for file in texts(root):
        text = file.read_text() + "\n  \n"
        file.write_text(text, encoding="utf-8-sig", newline="\r\n")
    after = read(str(root)).samples
    assert after.id.tolist() == before.id.tolist()
    for labels in ("au", "au_intensity", "expression", "expression_share", "va"):
        if getattr(before, labels) is not None:
            np.testing.assert_array_equal(getattr(after, labels), getattr(before, labels))


@pytest.mark.parametrize("name", ["affectnet", "bp4d", "casme2", "dfew", "ferplus"])
def test_a_comma_at_the_end_of_each_row_moves_no_column(name: str, tmp_path: Path) -> None:
    write, read = TREES[name]
    root = write(tmp_path)
    before = read(str(root)).samples
    for file in texts(root):
        header, *rows = file.read_text().splitlines()
        file.write_text("\n".join([header, *(f"{row}," for row in rows)]))
    after = read(str(root)).samples
    for labels in ("au", "expression", "expression_share", "va"):
        if getattr(before, labels) is not None:
            np.testing.assert_array_equal(getattr(after, labels), getattr(before, labels))


LISTS = {
    "affectnet": "training.csv",
    "casme2": "CASME2-coding-20140508.csv",
    "dfew": "EmoLabel_DataSplit/train(single-labeled)/set_1.csv",
    "facial_expressions": "data/legend.csv",
    "ferv39k": "4_setups/All_scenes/train_All.csv",
    "mafw": "Train & Test Set/single/no_caption/set_1/train.txt",
    "rafdb": "basic/EmoLabel/list_patition_label.txt",
}
OTHERS = {
    "affectnet": (",0,0.5", ",1,0.5"),
    "casme2": (",12,happiness", ",12,disgust"),
    "dfew": (",2", ",3"),
    "facial_expressions": ("neutral", "anger"),
    "ferv39k": ("", ""),  # the folder of a clip says its class too
    "mafw": ("disgust", "fear"),
    "rafdb": (" 1", " 2"),
}
"""What stands in the first row, and what would contradict it."""


@pytest.mark.parametrize("name", LISTS)
def test_rows_that_repeat_another_and_files_with_two_labels_are_counted(
    name: str, tmp_path: Path
) -> None:
    write, read = TREES[name]
    file = write(tmp_path) / LISTS[name]
    before, text = read(str(tmp_path)), file.read_text().rstrip("\n")
    first = text.splitlines()[1 if file.suffix == ".csv" and name != "ferv39k" else 0]
    file.write_text(f"{text}\n{first}\n")
    after = read(str(tmp_path))
    count = before.left_out.get("duplicate rows", 0)
    assert after.left_out == before.left_out | {"duplicate rows": count + 1}
    assert after.samples.id.tolist() == before.samples.id.tolist()
    if name == "ferv39k":
        return
    assert OTHERS[name][0] in first
    file.write_text(f"{text}\n{first.replace(*OTHERS[name], 1)}\n")
    after = read(str(tmp_path))
    count = before.left_out.get("conflicting labels", 0)
    assert after.left_out == before.left_out | {"conflicting labels": count + 1}
    assert len(after) == len(before) - 1


@pytest.mark.parametrize(("name", "train", "test"), [
    ("affectnet", LISTS["affectnet"], "validation.csv"),
    ("dfew", LISTS["dfew"], "EmoLabel_DataSplit/test(single-labeled)/set_1.csv"),
    ("ferv39k", LISTS["ferv39k"], "4_setups/All_scenes/test_All.csv"),
    ("mafw", LISTS["mafw"], "Train & Test Set/single/no_caption/set_1/test.txt"),
])  # fmt: skip
def test_a_file_is_in_one_part(name: str, train: str, test: str, tmp_path: Path) -> None:
    write, read = TREES[name]
    root = write(tmp_path)
    row = (root / test).read_text().splitlines()[1]
    (root / train).write_text(f"{(root / train).read_text().rstrip()}\n{row}\n")
    with pytest.raises(DataError, match="is listed in two parts, train and test: leave it in one"):
        read(str(root))


@pytest.mark.parametrize(("name", "old", "new", "says"), [
    ("affectnet", ",2,0.5", ",11,0.5", r"training\.csv:5: '11' is no code"),
    ("affectnet", ",2,0.5", ",2,1.5", r"training\.csv:5: valence is '1\.5'"),
    ("casme2", "repression", "bliss", r"20140508\.csv:5: 'bliss' is no code"),
    ("casme2", "1,EP03", "x,EP03", r"20140508\.csv:5: Subject is 'x'"),
    ("dfew", "3,4", "3,9", r"set_1\.csv:5: '3, 9' is no clip"),
    ("ferv39k", "Fear", "Calm", r"train_All\.csv:4: 'Calm' is no code"),
    ("mafw", "happiness", "bliss", r"train\.txt:4: 'bliss' is no code"),
    ("rafdb", "00003.jpg 3", "00003.jpg 8", r"label\.txt:4: '8' is no code"),
])  # fmt: skip
def test_a_line_is_called_by_its_number_behind_empty_ones(
    name: str, old: str, new: str, says: str, tmp_path: Path
) -> None:
    write, read = TREES[name]
    file = write(tmp_path) / LISTS[name]
    head, *rest = file.read_text().splitlines()
    text = "\n".join([head, ",," if name == "affectnet" else "", *rest])
    assert old in text
    file.write_text(text.replace(old, new))
    with pytest.raises(DataError, match=says):
        read(str(tmp_path))


def test_an_ending_in_other_letters_is_the_same_picture(tmp_path: Path) -> None:
    root = rafdb.write(tmp_path)
    before = len(RafDb(str(root)))
    picture = root / "basic/Image/aligned/train_00001_aligned.jpg"
    picture.rename(picture.with_suffix(".JPG"))
    after = RafDb(str(root))
    assert len(after) == before
    assert "Image/aligned/train_00001_aligned.JPG" in after.samples.id.tolist()
    affect = sets.affectnet_npy(tmp_path / "affect", train=8)
    one = affect / "train_set/images/1.jpg"
    one.rename(one.with_suffix(".JPG"))
    assert AffectNet(str(affect)).left_out == {}


def test_a_row_of_casme2_without_a_file_name_is_counted(tmp_path: Path) -> None:
    file = sets.casme2(tmp_path) / LISTS["casme2"]
    file.write_text(f"{file.read_text().rstrip()}\nnote below the table,,,,,,,,\n")
    assert Casme2(str(tmp_path)).left_out["without a file name"] == 1


@pytest.mark.parametrize("mixed", [False, True])
def test_faces_of_fer2013_in_another_order_than_the_votes(tmp_path: Path, mixed: bool) -> None:
    """Parts alone do not tell it; the codes of FER2013 do, which mostly say what the votes say."""
    rng = np.random.default_rng(0)
    said = rng.permutation(np.repeat([0, 1, 2, 3], 150))  # neutral, happiness, surprise, sadness
    codes = np.array([6, 3, 5, 4])[said]
    codes[rng.random(600) < 0.3] = 4  # the two do not agree on all
    votes = [",".join(str(8 * (column == one)) for column in range(10)) for one in said]
    rows = [f"Training,fer{n:07d}.png,{one}" for n, one in enumerate(votes)]
    (tmp_path / "fer2013new.csv").write_text(
        "\n".join([f"Usage,Image name,{','.join(sets.VOTES)}", *rows])
    )
    order = rng.permutation(600) if mixed else np.arange(600)
    faces = [f"{codes[n]},1 2,Training" for n in order]
    (tmp_path / "fer2013.csv").write_text("\n".join(["emotion,pixels,Usage", *faces]))
    says = (
        "lines 2 to 601 have other expressions" if mixed else r"fer2013\.csv:2: no 48 x 48 pixels"
    )
    with pytest.raises(DataError, match=says):
        FerPlus(str(tmp_path))
