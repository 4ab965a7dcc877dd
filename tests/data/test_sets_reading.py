"""What the readers of sets make of labels, parts and people, and of trees that are not right."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from faceaffect.data.affectnet import AffectNet
from faceaffect.data.affwild2 import AffWild2
from faceaffect.data.base import FaceDataModule, FaceDataset, create_data
from faceaffect.data.bp4d import Bp4dPlus
from faceaffect.data.casme2 import Casme2
from faceaffect.data.disfa_plus import DisfaPlus
from faceaffect.data.fer import Fer2013, FerPlus, majority, shares
from faceaffect.data.ferv39k import Ferv39k
from faceaffect.data.folder import FolderFaces
from faceaffect.data.hub import HubFaces
from faceaffect.data.mafw import CLASSES, COMPOUND, Mafw
from faceaffect.errors import DataError, FaceAffectError, RecipeError
from trees import bp4d, sets


def named(data: FaceDataset) -> dict[str, str]:
    """Return the class of each sample by its id, an empty name where it is unknown."""
    names = np.array([*data.schema.expressions, ""])
    assert data.samples.expression is not None
    return dict(zip(data.samples.id.tolist(), names[data.samples.expression], strict=True))


def by_part(data: FaceDataset) -> dict[str, int]:
    assert data.samples.part is not None
    return dict(zip(*np.unique(data.samples.part, return_counts=True), strict=True))


def test_affectnet_codes_unknown_labels_and_parts(tmp_path: Path) -> None:
    data = AffectNet(str(sets.affectnet_csv(tmp_path)))
    names = named(data)
    for n in range(8):
        assert names[f"Manually_Annotated_Images/{n % 3}/training{n}.jpg"] == sets.AFFECTNET[n]
    assert names["Manually_Annotated_Images/2/training8.jpg"] == ""  # none, but with affect
    assert data.samples.va is not None
    assert data.samples.va[0].tolist() == [0.5, -0.25]
    assert by_part(data) == {"test": 9, "train": 18}
    assert data.left_out == {"uncertain": 3, "no face": 3}
    ids = data.samples.id[FaceDataModule(data).split.val]
    assert len(ids)
    assert all("training" in name for name in ids)
    only = AffectNet(str(tmp_path), tasks=["expression"], classes=["anger", "happy"])
    assert only.schema.expressions == ("anger", "happiness")
    assert not only.schema.valence_arousal
    assert only.left_out["class contempt"] == 3
    assert only.left_out["none"] == 3


def test_affectnets_faces_are_cut_out_by_its_own_landmarks(tmp_path: Path) -> None:
    data = AffectNet(str(sets.affectnet_csv(tmp_path)), crop={"size": 64})
    assert data.load(0).image.shape == (64, 64, 3)
    assert data.load(0).landmarks is not None
    data.prepare()
    assert data.notes["crops"]["landmarks"] == len(data)
    assert AffectNet(str(tmp_path), align="none").load(0).image.shape == (32, 32, 3)


def test_affectnet_of_2021(tmp_path: Path) -> None:
    data = AffectNet(str(sets.affectnet_npy(tmp_path)))
    assert named(data)["train_set/images/7.jpg"] == "contempt"
    assert data.samples.va is not None
    assert np.isnan(data.samples.va[3]).tolist() == [True, False]
    (tmp_path / "train_set/images/5.jpg").unlink()
    (tmp_path / "train_set/annotations/6_exp.npy").unlink()
    assert AffectNet(str(tmp_path)).left_out == {"not on disk": 1, "without a label": 1}
    sets.affectnet_csv(tmp_path)
    with pytest.raises(DataError, match="both distributions"):
        AffectNet(str(tmp_path))
    assert AffectNet(str(tmp_path), layout="csv").notes["layout"] == "csv"


def test_a_majority_has_more_than_half_of_the_votes_that_are_not_single() -> None:
    count = np.array(
        [[7, 3, 0, 0, 0, 0, 0, 0, 0, 0], [5, 5, 0, 0, 0, 0, 0, 0, 0, 0],
         [4, 1, 1, 1, 1, 1, 1, 0, 0, 0], [3, 0, 0, 0, 0, 0, 0, 0, 7, 0],
         [0, 0, 0, 0, 0, 0, 0, 0, 0, 10]], float,
    )  # fmt: skip
    assert majority(count).tolist() == ["neutral", "", "neutral", "", ""]


def test_the_shares_of_ferplus_own_code() -> None:
    count = np.array(
        [[7, 3, 0, 0, 0, 0, 0, 0, 0, 0],  # 7 of 10 are too few alone, with 3 they are all
         [8, 2, 0, 0, 0, 0, 0, 0, 0, 0],  # 8 of 10 are enough
         [6, 1, 1, 1, 1, 0, 0, 0, 0, 0],  # single votes do not count
         [2, 0, 0, 0, 0, 0, 0, 0, 8, 0],  # mostly unknown
         [6, 0, 0, 0, 0, 0, 0, 0, 4, 0],  # unknown ends the list
         [6, 2, 2, 0, 0, 0, 0, 0, 0, 0],  # classes of equal votes are taken together
         [5, 3, 0, 2, 0, 0, 0, 0, 2, 0],  # 8 of 12 are too few, unknown ends the list behind 2
         [3, 3, 2, 2, 0, 0, 0, 0, 0, 0]], float,  # and four are too many
    )  # fmt: skip
    found = shares(count, "crossentropy")
    assert found[:, :4].tolist() == [
        [7, 3, 0, 0], [8, 0, 0, 0], [6, 0, 0, 0], [0, 0, 0, 0], [6, 0, 0, 0],
        [6, 2, 2, 0], [5, 3, 0, 2], [0, 0, 0, 0],
    ]  # fmt: skip
    assert shares(count, "soft").tolist() == count[:, :8].tolist()


@pytest.mark.parametrize("files", [False, True])
def test_votes_as_one_class_or_as_shares(tmp_path: Path, files: bool) -> None:
    root = str(sets.ferplus(tmp_path, files=files))
    hard, soft = FerPlus(root), FerPlus(root, votes="soft")
    assert hard.samples.expression_share is None
    assert hard.left_out == {"unknown": 4, "without a majority": 4}
    assert by_part(hard) == {"test": 8, "train": 16, "val": 8}
    share = soft.samples.expression_share
    assert share is not None
    np.testing.assert_allclose(share.sum(1), 1, atol=1e-6)
    assert share[0].tolist() == pytest.approx([0.7, 0.3, 0, 0, 0, 0, 0, 0])
    tie = list(named(soft).values()).index("")
    assert share[tie].tolist() == pytest.approx([0.4, 0.4, 0.2, 0, 0, 0, 0, 0])
    face = soft.load(0).image
    assert face.shape == (48, 48, 3)
    np.testing.assert_array_equal(face[..., 0], face[..., 2])


def test_equal_pixels_in_two_parts_are_a_leak(tmp_path: Path) -> None:
    sets.ferplus(tmp_path)
    table = tmp_path / "fer2013.csv"
    lines = table.read_text().splitlines()
    lines[31] = f"{lines[31][0]},{lines[1].split(',')[1]},PrivateTest"
    table.write_text("\n".join(lines))
    with pytest.raises(DataError, match="byte-identical"):
        FaceDataModule(Fer2013(str(tmp_path)))
    module = FaceDataModule(
        Fer2013(str(tmp_path)), protocol={"name": "official", "on_leak": "drop"}
    )
    assert module.split.info["dropped_leaks"] == 1


def test_fer2013s_own_codes(tmp_path: Path) -> None:
    data = Fer2013(str(sets.ferplus(tmp_path)))
    expected = ("anger", "disgust", "fear", "happiness", "sadness", "surprise", "neutral")
    assert list(named(data).values())[:7] == list(expected)


def test_mafws_folds_and_compound_classes(tmp_path: Path) -> None:
    root = str(sets.mafw(tmp_path))
    tested: list[str] = []
    for fold in range(1, 6):
        data = Mafw(root, fold=fold)
        tested += data.samples.id[data.samples.part == "test"].tolist()
    assert len(tested) == len(set(tested)) == 22
    assert named(data)["data/frames/00008"] == "anxiety"
    both = Mafw(root, labels="compound")
    assert both.schema.expressions == CLASSES + COMPOUND
    assert len(COMPOUND) == 32
    assert named(both)["data/frames/00004"] == "anger_disgust"
    some = Mafw(root, labels="compound", classes=["anger_disgust", "fear"])
    assert set(named(some).values()) == {"anger_disgust", "fear"}
    with pytest.raises(RecipeError, match="1 to 5"):
        Mafw(root, fold=6)


def test_ferv39ks_scenes_are_an_attribute(tmp_path: Path) -> None:
    root = str(sets.ferv39k(tmp_path))
    data = Ferv39k(root, frames=2)
    assert data.attribute_names == {"scene": ("Action", "War")}
    assert data.load(0).image.shape == (2, 32, 32, 3)
    some = Ferv39k(root, scenes=["War"])
    assert len(some) + some.left_out["of other scenes"] == len(data)
    with pytest.raises(RecipeError, match="Choose one of: Action, War"):
        Ferv39k(root, scenes=["Peace"])


def test_affwild2s_frames_meet_their_lines(tmp_path: Path) -> None:
    data = AffWild2(str(sets.affwild2(tmp_path)))
    ids, samples = data.samples.id.tolist(), data.samples
    assert "cropped_aligned/video1/00003.jpg" not in ids  # nobody was found
    assert data.left_out == {"labels without a frame": 5}
    row = ids.index("cropped_aligned/video1/00004.jpg")
    assert samples.expression is not None
    assert samples.au is not None
    assert samples.va is not None
    assert data.schema.expressions[samples.expression[row]] == "happiness"
    assert np.isnan(samples.va[row]).all()
    assert samples.au[row].tolist() == [(4 + i) % 2 for i in range(12)]
    fifth = ids.index("cropped_aligned/video1/00005.jpg")
    assert np.isnan(samples.au[fifth]).all()
    assert samples.va[fifth].tolist() == pytest.approx([0.5, -0.25])
    assert samples.expression[ids.index("cropped_aligned/video1/00002.jpg")] == -1
    assert {"video1", "video1_left"} <= set(samples.subject.tolist())
    assert by_part(data) == {"test": 14, "train": 21}
    some = AffWild2(str(tmp_path), every=4)
    assert some.samples.id[0].endswith("00004.jpg")
    assert some.left_out == data.left_out  # frames that are passed over have labels


def test_an_empty_line_does_not_move_the_frames_behind_it(tmp_path: Path) -> None:
    base = sets.affwild2(tmp_path) / "6th ABAW Annotations" / "EXPR_Recognition_Challenge"
    file, whole = base / "Train_Set/video1.txt", AffWild2(str(tmp_path)).samples.expression
    lines = file.read_text().splitlines()
    file.write_text("\n".join([*lines, "", ""]) + "\n")
    np.testing.assert_array_equal(AffWild2(str(tmp_path)).samples.expression, whole)
    file.write_text("\n".join([*lines[:3], "", *lines[3:]]) + "\n")
    with pytest.raises(DataError, match=r"video1\.txt:4: an empty value is not 0 to 7"):
        AffWild2(str(tmp_path))


def test_a_single_expression_of_mafw_stands_alone(tmp_path: Path) -> None:
    file = sets.mafw(tmp_path) / "Train & Test Set/single/no_caption/set_1/train.txt"
    lines = file.read_text().splitlines()
    file.write_text("\n".join([f"{lines[0]} disgust", *lines[1:]]) + "\n")
    with pytest.raises(DataError, match=r"train\.txt:1: .* is not like '00025\.mp4 anger'"):
        Mafw(str(tmp_path))


def test_a_film_on_two_sides_is_tested_by_its_labels_of_that_side(tmp_path: Path) -> None:
    base = sets.affwild2(tmp_path) / "6th ABAW Annotations" / "AU_Detection_Challenge"
    (base / "Validation_Set/video1.txt").write_bytes((base / "Train_Set/video1.txt").read_bytes())
    (base / "Train_Set/video1.txt").unlink()
    data = AffWild2(str(tmp_path))
    chosen = data.samples.subject == "video1"
    assert set(data.samples.part[chosen].tolist()) == {"test"}
    assert data.samples.va is not None
    assert np.isnan(data.samples.va[chosen]).all()
    lost = [reason for reason in data.left_out if "training labels" in reason]
    assert len(lost) == 2


def test_casme2s_schemes_samples_and_people(tmp_path: Path) -> None:
    root = str(sets.casme2(tmp_path))
    data = Casme2(root)
    assert FaceDataModule(data).split.info["name"] == "leave_one_subject_out"
    assert data.left_out == {"without an apex": 4}
    names = named(data)
    assert names["Cropped/sub01/EP01_01f/reg_img12.jpg"] == "happiness"
    assert names["Cropped/sub01/EP06_01f/reg_img12.jpg"] == ""  # sadness, with action units
    assert data.samples.au is not None
    assert data.samples.au[1].tolist() == [0, 0, 1, 0, 0, 0, 0, 0]  # 4+L10
    three = Casme2(root, scheme="three", tasks=["expression"], sample="three")
    assert three.load(0).image.shape == (3, 32, 32, 3)
    assert set(named(three).values()) == {"positive", "negative", "surprise"}
    assert three.left_out == {"others": 4, "sadness": 4}
    clip = Casme2(root, sample="clip", frames=2, tasks=["expression"])
    assert clip.load(0).image.shape == (2, 32, 32, 3)
    assert "others" in named(clip).values()  # without an apex
    doubtful = Casme2(root, sample="clip", aus=[7])
    assert doubtful.samples.au is not None
    assert np.isnan(doubtful.samples.au).sum() == 4  # 4+7?


def test_a_workbook_says_what_its_table_says(tmp_path: Path) -> None:
    pytest.importorskip("openpyxl", reason="the extra 'excel' is not installed")
    one = Casme2(str(sets.casme2(tmp_path / "csv")))
    other = Casme2(str(sets.casme2(tmp_path / "xlsx", excel=True)))
    assert named(one) == named(other)
    np.testing.assert_array_equal(one.samples.au, other.samples.au)


def test_disfa_plus_and_bp4d_plus(tmp_path: Path) -> None:
    data = DisfaPlus(str(sets.disfa_plus(tmp_path / "d")), align="none")
    assert data.samples.au_intensity is not None
    assert data.samples.id[0] == "SN001/A1_AU1_TrailNo_1/00000"
    assert data.samples.au_intensity[0].tolist() == [(0 + au) % 6 for au in data.schema.aus]
    bp4d.write_labels(tmp_path / "b")
    bp4d.write_images(tmp_path / "b")
    for kind in ("AUCoding/AU_OCC/F001_T1.csv", "2D+3D/F001/T1"):
        moved = tmp_path / "b" / kind.replace("F001", "F041").replace("T1", "T7")
        moved.parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "b" / kind).rename(moved)
    plus = Bp4dPlus(str(tmp_path / "b"), align="none")
    assert plus.folds is None
    assert not [i for i in plus.samples.id.tolist() if i.startswith("F041")]
    assert plus.left_out == {"recording whose labels do not fit, F041/T7": 1}


def test_folders_name_classes_and_files_people(tmp_path: Path) -> None:
    root = sets.folder(tmp_path, ("train", "valid", "test"))
    data = FolderFaces(str(root), subject=r"(p\w+\d)_")
    assert data.schema.expressions == ("happiness", "neutral", "sadness")
    assert by_part(data) == {"test": 18, "train": 18, "val": 18}
    assert data.labels is not None
    assert data.labels.codes["Happy"] == "happiness"
    assert data.samples.subject[0] == "ptest0"
    (root / "train/Happy/notes.txt").write_text("x")
    (root / "train/Happy/.DS_Store").write_text("x")
    assert FolderFaces(str(root)).left_out == {"no picture or film": 1}
    shutil.move(root / "test", tmp_path.with_name("away"))
    assert by_part(FolderFaces(str(root))) == {"test": 18, "train": 18}  # valid is tested
    shutil.move(tmp_path.with_name("away"), root / "test")
    chosen = FolderFaces(str(root), classes=["sad", "happiness"])
    assert chosen.schema.expressions == ("sadness", "happiness")
    assert chosen.left_out["class neutral"] == 18


def test_folders_of_clips(tmp_path: Path) -> None:
    root = sets.mafw(tmp_path / "m")
    for n in range(4):
        (tmp_path / "f" / ("fear", "anger")[n % 2]).mkdir(parents=True, exist_ok=True)
        shutil.move(root / f"data/frames/{n:05d}", tmp_path / "f" / ("fear", "anger")[n % 2])
    data = FolderFaces(str(tmp_path / "f"), clips=True, frames=2)
    assert data.load(0).image.shape == (2, 32, 32, 3)
    assert data.samples.id.tolist()[0] == "anger/00001"


def test_a_dataset_of_the_hubs_form(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets", reason="the extra 'hf' is not installed")
    place = str(sets.hub(tmp_path))
    how: dict[str, Any] = {"path": place, "image": "picture", "label": "emotion", "num_workers": 0}
    data = create_data("hf", subject="who", **how)
    assert data.schema.expressions == ("happiness", "neutral", "sadness")
    assert data.split.info["name"] == "official"  # the validation part is tested
    assert by_part(data.dataset) == {"test": 5, "train": 11}
    assert data.dataset.left_out == {"without a label": 2}
    assert data.dataset.load(0).image.shape == (32, 32, 3)
    with pytest.raises(RecipeError, match="did you mean 'picture'"):
        create_data("hf", path=place, image="pictur", label="emotion")
    asked: list[object] = []
    monkeypatch.setattr("socket.getaddrinfo", lambda *where, **_: asked.append(where) or [])
    with pytest.raises(DataError, match="download=true"):
        create_data("hf", path="nobody/nothing-of-the-kind")
    assert not asked  # nobody on the network
    with pytest.raises(DataError, match="no folder"):
        create_data("hf", path="./absent")
    saved = datasets.load_from_disk(place)["train"]
    numbers = saved.cast_column("emotion", datasets.Value("int64"))
    numbers = numbers.filter(lambda row: row["emotion"] >= 0)
    numbers.save_to_disk(str(tmp_path / "numbers"))
    how["path"] = str(tmp_path / "numbers")
    with pytest.raises(RecipeError, match="say what 0, 1"):
        create_data("hf", **how)
    own = create_data("hf", names=["joy", "neutral", "sad"], classes=["sad", "joy"], **how)
    assert own.schema.expressions == ("sadness", "happiness")
    twice = datasets.concatenate_datasets([numbers, numbers.select([0])])
    twice.save_to_disk(str(tmp_path / "twice"))
    how["path"] = str(tmp_path / "twice")
    assert create_data("hf", names=["a", "b", "c"], **how).split.info["identical_images"] == 2


def test_columns_of_the_hubs_form_that_make_no_sense(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="the extra 'hf' is not installed")
    saved = datasets.load_from_disk(str(sets.hub(tmp_path)))

    def build(part: Any, **how: Any) -> FaceDataset:
        place = tmp_path / f"place{len(list(tmp_path.iterdir()))}"
        part.save_to_disk(str(place))
        return HubFaces(str(place), image="picture", **{"label": "emotion", **how})

    one = saved["train"]
    other = one.cast_column("emotion", datasets.ClassLabel(names=["sad", "neutral", "happy"]))
    with pytest.raises(DataError, match=r"of train has the classes happy, .* of test sad, neutral"):
        build(datasets.DatasetDict({"train": one, "test": other}))
    nobody = one.map(lambda row: {"who": None if row["who"] == "t3" else row["who"]})
    with pytest.raises(DataError, match="row 3 of the data: who names nobody"):
        build(nobody, subject="who")
    values = ["0.5", "-1", "", "999", *["0"] * 8]
    affect = one.add_column("v", values).add_column("a", values[::-1])
    with pytest.raises(DataError, match=r"row 3 of the data: v is '999'.*unknown=\[999\]"):
        build(affect, label=None, valence="v", arousal="a")
    data = build(affect, label=None, valence="v", arousal="a", unknown=[999, -1])
    assert data.left_out == {"without a label": 4}
    assert data.samples.va is not None
    assert data.samples.va[:2].tolist() == [[0.5, 0], [-1, 0]]
    cached = build(one, align="auto", crop_cache=str(tmp_path / "crops"))
    assert cached.aligner is not None
    assert all(not Path(name).is_absolute() for name in cached.samples.id)


Read = Callable[[str], FaceDataset]
READ: dict[str, tuple[Callable[[Path], Path], Read]] = {
    "affectnet": (sets.affectnet_csv, AffectNet),
    "npy": (sets.affectnet_npy, AffectNet),
    "ferplus": (sets.ferplus, FerPlus),
    "files": (lambda root: sets.ferplus(root, files=True), FerPlus),
    "mafw": (sets.mafw, Mafw),
    "ferv39k": (sets.ferv39k, Ferv39k),
    "affwild2": (sets.affwild2, AffWild2),
    "casme2": (sets.casme2, Casme2),
    "disfa_plus": (sets.disfa_plus, DisfaPlus),
    "folder": (sets.folder, FolderFaces),
}
_ABAW = "6th ABAW Annotations"
_TRIAL = "Labels/SN001/A1_AU1_TrailNo_1"


@pytest.mark.parametrize(("name", "gone", "says"), [
    ("affectnet", ".", "neither validation.csv nor val_set.*request"),
    ("affectnet", "training.csv", "training.csv is missing.*request"),
    ("affectnet", "Manually_Annotated_Images", "no folder of pictures.*request"),
    ("npy", "train_set/annotations", "annotations is missing.*request"),
    ("ferplus", "fer2013new.csv", "fer2013new.csv is missing.*FERPlus"),
    ("ferplus", "fer2013.csv", "neither fer2013.csv nor FER2013Train.*Kaggle"),
    ("mafw", "Train & Test Set", "Set is missing.*request"),
    ("mafw", "Train & Test Set/single/no_caption/set_1/test.txt", "test.txt is missing"),
    ("mafw", "data", "no folder data/clips.*request"),
    ("ferv39k", "4_setups/All_scenes/test_All.csv", "test_All.csv is missing.*request"),
    ("ferv39k", "2_ClipsforFaceCrop", "2_ClipsforFaceCrop is missing.*request"),
    ("affwild2", _ABAW, "no folder of annotations.*request"),
    ("affwild2", f"{_ABAW}/VA_Estimation_Challenge/Train_Set", "Train_Set is missing"),
    ("affwild2", "cropped_aligned", "cropped_aligned is missing.*request"),
    ("casme2", "CASME2-coding-20140508.csv", "no coding table.*request"),
    ("casme2", "Cropped", "no pictures.*request"),
    ("disfa_plus", "Labels", "no trials of people.*request"),
    ("disfa_plus", f"{_TRIAL}/AU12.txt", "AU12.txt is missing.*data.aus"),
    ("folder", ".", "is missing.*a folder for each expression"),
])  # fmt: skip
def test_what_is_missing_is_named(tmp_path: Path, name: str, gone: str, says: str) -> None:
    write, read = READ[name]
    root = write(tmp_path / "data")
    (root / gone).rename(tmp_path / "elsewhere")
    with pytest.raises(FaceAffectError, match=f"(?s){says}"):
        read(str(root))


@pytest.mark.parametrize(("name", "file", "old", "new", "says"), [
    ("affectnet", "validation.csv", ",7,0.5", ",11,0.5", r"validation\.csv:9: '11' is no code"),
    ("affectnet", "training.csv", ",3,0.5", ",3,1.5", r"training\.csv:5: valence is '1\.5'"),
    ("affectnet", "training.csv", "expression", "emotion", "no column expression.*edition"),
    ("ferplus", "fer2013new.csv", "PublicTest", "Public", r"new\.csv:22: Usage is 'Public'"),
    ("ferplus", "fer2013new.csv", ",7,3,0,0,", ",x,3,0,0,", "no number of votes"),
    ("ferplus", "fer2013.csv", "PublicTest", "Training", "its rows are not those"),
    ("ferplus", "fer2013.csv", "0,", "0,300 ", "no 48 x 48 pixels"),
    ("mafw", "Train & Test Set/single/no_caption/set_1/train.txt", "disgust", "bliss",
     r"train\.txt:1: 'bliss' is no code"),
    ("mafw", "Train & Test Set/single/no_caption/set_1/train.txt", "00001.mp4 ", "00001;",
     r"train\.txt:1: .* is not like"),
    ("ferv39k", "4_setups/All_scenes/train_All.csv", "Angry/0000 Angry", "Angry/0000 Sad",
     "lies under Angry and is called Sad"),
    ("ferv39k", "4_setups/All_scenes/train_All.csv", "Angry/0000 Angry", "Calm/0000 Calm",
     "'Calm' is no code"),
    ("affwild2", f"{_ABAW}/EXPR_Recognition_Challenge/Train_Set/video1.txt", ",Other", "",
     "another year"),
    ("affwild2", f"{_ABAW}/EXPR_Recognition_Challenge/Train_Set/video1.txt", "\n7\n", "\n9\n",
     r"video1\.txt:8: 9 is not 0 to 7"),
    ("affwild2", f"{_ABAW}/VA_Estimation_Challenge/Train_Set/video1.txt", "-5,-5", "-6,-5",
     r"video1\.txt:5: -6 is not"),
    ("casme2", "CASME2-coding-20140508.csv", "happiness", "bliss", "'bliss' is no code"),
    ("casme2", "CASME2-coding-20140508.csv", "OnsetFrame", "Onset", "no column OnsetFrame"),
    ("casme2", "CASME2-coding-20140508.csv", ",10,12", ",x,12", "no frames from 'x'"),
    ("disfa_plus", f"{_TRIAL}/AU1.txt", "002.jpg     3", "002.jpg     7", "label 7 is none of"),
    ("disfa_plus", f"{_TRIAL}/AU1.txt", "002.jpg     3", "002.jpg", "is not like '000.jpg 0'"),
])  # fmt: skip
def test_what_makes_no_sense_is_named(
    tmp_path: Path, name: str, file: str, old: str, new: str, says: str
) -> None:
    write, read = READ[name]
    place = write(tmp_path) / file
    text = place.read_text()
    assert old in text
    place.write_text(text.replace(old, new, 1))
    with pytest.raises(FaceAffectError, match=f"(?s){says}"):
        read(str(tmp_path))


@pytest.mark.parametrize(("name", "picture"), [
    ("affectnet", "Manually_Annotated_Images/1/training1.jpg"),
    ("files", "FER2013Train/fer0000001.png"),
    ("mafw", "data/frames/00001"),
    ("ferv39k", "2_ClipsforFaceCrop/War/Disgust/0001"),
    ("casme2", "Cropped/sub01/EP02_01f"),
])  # fmt: skip
def test_what_is_listed_and_absent_is_counted(tmp_path: Path, name: str, picture: str) -> None:
    write, read = READ[name]
    root = write(tmp_path)
    before = read(str(root))
    place = root / picture
    shutil.rmtree(place) if place.is_dir() else place.unlink()
    after = read(str(root))
    assert after.left_out == {**before.left_out, "not on disk": 1}
    assert len(after) == len(before) - 1


def test_annotations_of_several_years_are_not_mixed(tmp_path: Path) -> None:
    sets.affwild2(tmp_path)
    (tmp_path / _ABAW).rename(tmp_path / "5th ABAW Annotations")
    sets.affwild2(tmp_path)
    with pytest.raises(DataError, match=re.escape("data.abaw chooses one")):
        AffWild2(str(tmp_path))
    assert AffWild2(str(tmp_path), abaw=5).notes["annotations"] == "5th ABAW Annotations"
    with pytest.raises(DataError, match="7 is not in"):
        AffWild2(str(tmp_path), abaw=7)
    root = sets.casme2(tmp_path / "c")
    (root / "CASME2-coding-20190701.csv").write_text("x")
    with pytest.raises(DataError, match="several years"):
        Casme2(str(root))


def test_arguments_out_of_range(tmp_path: Path) -> None:
    root = str(sets.affectnet_npy(tmp_path))
    with pytest.raises(RecipeError, match="did you mean 'contempt'"):
        AffectNet(root, classes=["contemp"])
    with pytest.raises(RecipeError, match="unknown name 'au'"):
        AffectNet(root, tasks=["au"])
    with pytest.raises(RecipeError, match="none is left"):
        AffectNet(root, tasks=[])
    folder = str(sets.folder(tmp_path / "f"))
    with pytest.raises(RecipeError, match="has no group"):
        FolderFaces(folder, subject="x")
    with pytest.raises(DataError, match="finds no person"):
        FolderFaces(folder, subject="(x)")
    (tmp_path / "f" / "train").mkdir()
    with pytest.raises(DataError, match="beside the folder 'Happy'"):
        FolderFaces(folder)
