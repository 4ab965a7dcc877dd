from pathlib import Path
from typing import Any

import pytest

from faceaffect.data.base import FaceDataModule
from faceaffect.data.rafdb import CLASSES, RafDb
from faceaffect.errors import DataError, RecipeError
from trees.rafdb import write


def test_reads_the_official_layout(tmp_path: Path) -> None:
    data = RafDb(str(write(tmp_path)))
    assert data.schema.expressions == CLASSES
    assert len(data) == 28
    assert data.samples.id[0] == "Image/aligned/train_00001_aligned.jpg"
    assert data.samples.expression is not None
    assert data.samples.expression.tolist() == [n % 7 for n in range(21)] + list(range(7))
    assert data.samples.part is not None
    assert (data.samples.part == "test").sum() == 7
    assert data.load(0).image.shape == (10, 10, 3)
    assert not data.subjects_known
    assert data.left_out == {}


def test_the_published_split_is_kept_and_validation_carved_from_training(tmp_path: Path) -> None:
    module = FaceDataModule(RafDb(str(write(tmp_path))), batch_size=4)
    assert module.split.info["name"] == "official"
    assert module.split.info["subjects_known"] is False
    ids = module.dataset.samples.id
    assert all("test_" in name for name in ids[module.split.test])
    assert all("train_" in name for name in ids[[*module.split.train, *module.split.val]])
    assert len(module.split.val)


def test_codes_mean_what_the_readme_says(tmp_path: Path) -> None:
    data = RafDb(str(write(tmp_path)), classes=["neutral", "happiness", "surprise"])
    assert data.samples.expression is not None
    named = {data.schema.expressions[k] for k in data.samples.expression}
    assert named == {"neutral", "happiness", "surprise"}
    by_id = dict(zip(data.samples.id.tolist(), data.samples.expression.tolist(), strict=True))
    assert by_id["Image/aligned/train_00001_aligned.jpg"] == 2  # code 1, surprise
    assert by_id["Image/aligned/train_00004_aligned.jpg"] == 1  # code 4, happiness
    assert by_id["Image/aligned/train_00007_aligned.jpg"] == 0  # code 7, neutral
    assert data.left_out["class anger"] == 4


def test_variants_of_the_layout(tmp_path: Path) -> None:
    root = write(tmp_path, name="list_partition_label.txt")
    assert len(RafDb(str(root / "basic"))) == 28
    assert RafDb(str(root), images="original").samples.id[0] == "Image/original/train_00001.jpg"
    (root / "basic/Image/aligned").rename(root / "basic/aligned")
    assert RafDb(str(root)).samples.id[0] == "aligned/train_00001_aligned.jpg"


def test_missing_images_are_counted(tmp_path: Path) -> None:
    root = write(tmp_path)
    (root / "basic/Image/aligned/train_00003_aligned.jpg").unlink()
    data = RafDb(str(root))
    assert data.left_out == {"not on disk": 1}
    assert len(data) == 27


def test_an_image_in_both_parts_is_a_leak(tmp_path: Path) -> None:
    root = write(tmp_path)
    aligned = root / "basic/Image/aligned"
    (aligned / "test_00001_aligned.jpg").write_bytes(
        (aligned / "train_00001_aligned.jpg").read_bytes()
    )
    with pytest.raises(DataError, match="byte-identical"):
        FaceDataModule(RafDb(str(root)))
    module = FaceDataModule(RafDb(str(root)), protocol={"name": "official", "on_leak": "drop"})
    assert module.split.info["dropped_leaks"] == 1


@pytest.mark.parametrize(("remove", "says"), [
    ("basic", "neither .* holds a folder EmoLabel"),
    ("basic/EmoLabel/list_patition_label.txt", "no label table"),
    ("basic/Image/aligned", "none of the folders"),
])  # fmt: skip
def test_what_is_missing_is_named_with_where_to_get_it(
    tmp_path: Path, remove: str, says: str
) -> None:
    root = write(tmp_path)
    (root / remove).rename(tmp_path / "elsewhere")
    with pytest.raises(DataError, match=says) as error:
        RafDb(str(root))
    assert "whdeng.cn" in str(error.value)


@pytest.mark.parametrize("line", ["train_00001.jpg 8", "train_00001.jpg", "valid_1.jpg 3", "x"])
def test_lines_that_make_no_sense_are_named(tmp_path: Path, line: str) -> None:
    root = write(tmp_path)
    labels = root / "basic/EmoLabel/list_patition_label.txt"
    labels.write_text(f"train_00002.jpg 1\n{line}\n")
    with pytest.raises(DataError, match=r"label\.txt:2"):
        RafDb(str(root))


def test_wrong_arguments(tmp_path: Path) -> None:
    root = write(tmp_path)
    with pytest.raises(RecipeError, match="did you mean 'anger'"):
        RafDb(str(root), classes=["angr"])
    with pytest.raises(RecipeError, match="twice"):
        RafDb(str(root), classes=["anger", "anger"])
    labels = root / "basic/EmoLabel/list_patition_label.txt"
    labels.write_text("train_00001.jpg 1\ntrain_00001.jpg 2\n")
    with pytest.raises(DataError, match=r"is left\. Left out: 1 conflicting labels"):
        RafDb(str(root))


def test_an_unreadable_image_is_skipped_and_counted(tmp_path: Path) -> None:
    root = write(tmp_path)
    (root / "basic/Image/aligned/test_00002_aligned.jpg").write_bytes(b"")
    module = FaceDataModule(RafDb(str(root)), num_workers=0)
    seen: list[Any] = [name for batch in module.test_dataloader() for name in batch["id"]]
    assert len(seen) == 6
    assert list(module.skipped) == ["Image/aligned/test_00002_aligned.jpg"]


def test_compound_expressions_lie_beside_the_basic_ones(tmp_path: Path) -> None:
    write(tmp_path)
    with pytest.raises(DataError, match=r"neither .*compound.* nor .* holds a folder EmoLabel"):
        RafDb(str(tmp_path / "basic"), part="compound")  # basic codes would mean something else
    (write(tmp_path / "two") / "basic").rename(tmp_path / "compound")
    data = RafDb(str(tmp_path), part="compound")
    assert len(data.schema.expressions) == 11
    assert data.schema.expressions[0] == "happily surprised"
    assert data.samples.expression is not None
    assert data.samples.expression.tolist() == [n % 7 for n in range(21)] + list(range(7))
    assert data.notes["part"] == "compound"
    with pytest.raises(RecipeError, match=r"data\.classes"):
        RafDb(str(tmp_path), part="compound", classes=["fear"])
