from pathlib import Path

import numpy as np
import pytest

from faceaffect.data.base import FaceDataModule
from faceaffect.data.dfew import CLASSES, Dfew
from faceaffect.errors import DataError, RecipeError
from trees.dfew import CLIPS, write, write_clip


@pytest.mark.parametrize("kind", ["clip_224x224_16f", "clip_224x224", "original"])
def test_reads_every_form_of_the_clips(tmp_path: Path, kind: str) -> None:
    data = Dfew(str(write(tmp_path, kind)), frames=4, image_size=16)
    assert data.schema.expressions == CLASSES
    assert len(data) == CLIPS
    assert data.notes["clips"] == kind
    face = data.load(0)
    assert face.image.shape == (4, 16, 16, 3)
    steps = np.diff(face.image.reshape(4, -1).mean(1))
    assert (steps > 0).all()  # in the order of time


def test_the_five_published_folds(tmp_path: Path) -> None:
    root = write(tmp_path)
    tested: list[str] = []
    for fold in range(1, 6):
        module = FaceDataModule(Dfew(str(root), fold=fold), num_workers=0)
        assert module.split.info["name"] == "official"
        assert module.dataset.notes["fold"] == fold
        tested += module.dataset.samples.id[module.split.test].tolist()
    assert len(tested) == len(set(tested)) == CLIPS


def test_codes_mean_what_the_readme_says(tmp_path: Path) -> None:
    data = Dfew(str(write(tmp_path)))
    assert data.samples.expression is not None
    for name, label in zip(data.samples.id.tolist(), data.samples.expression, strict=True):
        assert label == int(Path(name).name) % 7
    assert [CLASSES[k] for k in (0, 1, 2)] == ["happiness", "sadness", "neutral"]


def test_batches_are_clips(tmp_path: Path) -> None:
    module = FaceDataModule(
        Dfew(str(write(tmp_path)), frames=4), batch_size=3, num_workers=0, image_size=24
    )
    batch = next(iter(module.train_dataloader()))
    assert batch["video"].shape == (3, 4, 3, 24, 24)
    assert batch["frame_mask"].all()


def test_variants_of_the_layout(tmp_path: Path) -> None:
    root = write(tmp_path, split="{}(single_labeled)")
    lists = root / "EmoLabel_DataSplit/test(single_labeled)/set_1.csv"
    lists.write_text("video_name, label\n00005.mp4,2\n")
    data = Dfew(str(root))
    assert data.samples.part is not None
    assert data.samples.id[data.samples.part == "test"].tolist() == ["Clip/clip_224x224_16f/00005"]
    (root / "Clip/clip_224x224_16f").rename(root / "clip_224x224_16f")
    assert Dfew(str(root)).samples.id[0].startswith("clip_224x224_16f/")


def test_face_crops_are_preferred_to_whole_pictures(tmp_path: Path) -> None:
    root = write(tmp_path, "original")
    assert Dfew(str(root)).notes["crop"] == "none, whole pictures"
    write_clip(root / "Clip/clip_224x224", 1)
    assert Dfew(str(root)).notes["clips"] == "clip_224x224"
    assert Dfew(str(root)).left_out == {"not on disk": CLIPS - 1}
    assert Dfew(str(root), clips="original").left_out == {}


@pytest.mark.parametrize(("remove", "says"), [
    ("EmoLabel_DataSplit", "EmoLabel_DataSplit is missing"),
    ("EmoLabel_DataSplit/test(single-labeled)/set_1.csv", "no list of clips"),
    ("Clip", "no clips"),
])  # fmt: skip
def test_what_is_missing_is_named_with_where_to_get_it(
    tmp_path: Path, remove: str, says: str
) -> None:
    root = write(tmp_path)
    (root / remove).rename(tmp_path / "elsewhere")
    with pytest.raises(DataError, match=says) as error:
        Dfew(str(root))
    assert "dfew-dataset.github.io" in str(error.value)


@pytest.mark.parametrize(("text", "says"), [
    ("video_name,label\n3,8\n", r"set_1\.csv:2"),
    ("video_name,label\n3,1\nx,2\n", r"set_1\.csv:3"),
    ("name,label\n3,1\n", "no column video_name: another edition"),
    ("", "not readable as a table"),
    ("video_name,label\n5,1\n", "listed in two parts, train and test"),
])  # fmt: skip
def test_lists_that_make_no_sense_are_named(tmp_path: Path, text: str, says: str) -> None:
    root = write(tmp_path)
    (root / "EmoLabel_DataSplit/train(single-labeled)/set_1.csv").write_text(text)
    with pytest.raises(DataError, match=says):
        Dfew(str(root))


def test_arguments_out_of_range(tmp_path: Path) -> None:
    root = str(write(tmp_path))
    with pytest.raises(RecipeError, match="1 to 5"):
        Dfew(root, fold=6)
    with pytest.raises(RecipeError, match="frames"):
        Dfew(root, frames=0)


def test_a_clip_without_a_readable_frame_is_skipped_and_counted(tmp_path: Path) -> None:
    root = write(tmp_path, "clip_224x224")
    (root / "Clip/clip_224x224/5.mp4").write_bytes(b"no video")
    module = FaceDataModule(Dfew(str(root), frames=2), num_workers=0)
    seen = [name for batch in module.test_dataloader() for name in batch["id"]]
    assert "Clip/clip_224x224/5.mp4" in module.skipped
    assert len(seen) == 2
