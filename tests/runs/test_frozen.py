"""What frozen networks see is computed once where nothing before them is random."""

import json
from pathlib import Path

import pandas as pd
import pytest

from faceaffect.cli import main
from faceaffect.models.timm_classifier import TimmClassifier
from faceaffect.runs import frozen
from faces import write_csv

RECIPE = """
model: {name: timm_classifier, backbone: 'asset:mini_vit', mode: linear, readout: 'grid:2'}
data:
  name: csv
  table: %s
  protocol: {name: subject_kfold, folds: 3, fold: 1, val_fraction: 0.34}
  image_size: 112
  batch_size: 4
  num_workers: 0
optim: {lr: 1e-2}
trainer: {max_epochs: 3, accelerator: cpu, precision: 32-true}
output: %s
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    table = write_csv(tmp_path / "faces", people=7, each=3)
    text = RECIPE % (table, tmp_path / "runs")
    (tmp_path / "tiny.yaml").write_text(text)
    return tmp_path


def train(place: Path, *overrides: str) -> tuple[dict, pd.DataFrame]:
    before = set((place / "runs" / "tiny").glob("*"))
    assert main(["train", str(place / "tiny.yaml"), *overrides]) == 0
    (run,) = set((place / "runs" / "tiny").glob("*")) - before
    return json.loads((run / "metrics.json").read_text()), pd.read_csv(run / "predictions.csv")


def count_faces(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Count the faces that go through the frozen backbone while it trains."""
    seen: list[int] = []
    features = TimmClassifier.features

    def counted(self: TimmClassifier, image: object) -> object:
        if self.trainer.state.fn == "fit" and not self.trainer.sanity_checking:
            seen.append(len(image))  # type: ignore[arg-type]
        return features(self, image)  # type: ignore[arg-type]

    monkeypatch.setattr(TimmClassifier, "features", counted)
    return seen


def test_faces_go_through_once_and_the_result_is_that_of_three_times(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen = count_faces(monkeypatch)
    once, table = train(place)
    faces = once["protocol"]["sizes"]["train"] + once["protocol"]["sizes"]["val"]
    assert sum(seen) == faces
    assert f"have seen {faces} faces once" in capsys.readouterr().out
    seen.clear()
    monkeypatch.setattr(frozen, "LIMIT", 0)  # nothing fits into memory
    other = train(place)[1]
    assert sum(seen) >= 3 * faces
    numbers = table.select_dtypes("number").columns
    pd.testing.assert_frame_equal(table[numbers], other[numbers], atol=1e-4, rtol=1e-3)


def test_augmented_faces_are_looked_at_anew(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = count_faces(monkeypatch)
    result, _ = train(place, "data.augment=[light]")
    sizes = result["protocol"]["sizes"]
    assert sum(seen) > 2 * (sizes["train"] + sizes["val"])


def test_an_unreadable_face_is_left_out_and_counted(place: Path) -> None:
    result, _ = train(place)
    name = sorted(
        set(pd.read_csv(place / "faces" / "faces.csv")["image"])
        - set(pd.read_csv(next((place / "runs" / "tiny").glob("*/predictions.csv")))["id"])
    )[0]
    (place / "faces" / name).write_bytes(b"no picture")
    again, _ = train(place)
    assert list(again["skipped"]) == [name]
    assert again["metrics"] != result["metrics"]
