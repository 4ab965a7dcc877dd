from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from batches import FULL, face_batch
from faceaffect import LabelSchema, create_model
from faceaffect.cli import main
from faceaffect.data.batch import FaceBatch
from faceaffect.errors import FaceAffectError
from faceaffect.evaluation.graphs import collect_graphs, cooccurrence, draw_graphs, graph_report
from faceaffect.models.sacl import SACL
from faces import write_csv


class TwoBatches:
    """Stands for a datamodule whose labels come in another order than the model's."""

    schema = LabelSchema(FULL.aus[::-1], FULL.expressions, True)

    def __init__(self, clips: int = 0) -> None:
        self.batches = [face_batch(self.schema, n, 32, clips=clips) for n in (3, 2)]
        self.batches[1]["id"] = ["late/0", "late/1"]

    def test_dataloader(self) -> list[FaceBatch]:
        empty = face_batch(self.schema, 1, 32)
        empty["id"] = []
        return [self.batches[0], empty, self.batches[1]]


@pytest.fixture
def model() -> SACL:
    torch.manual_seed(0)
    return create_model("sacl", FULL, backbone="test_resnet", width=8, rank=2, key_width=4)


def test_report_holds_pictures_and_every_matrix(model: SACL, tmp_path: Path) -> None:
    files = graph_report(model, TwoBatches(), tmp_path / "graphs")
    assert {f.name for f in files} == {
        "mean.png", "mean.svg", "sample.png", "sample.svg", "cooccurrence.csv",
        "mean_stage1.csv", "mean_stage2.csv", "mean_stage3.csv",
        "sample_stage1.csv", "sample_stage2.csv", "sample_stage3.csv",
    }  # fmt: skip
    assert np.asarray(Image.open(tmp_path / "graphs" / "mean.png"))[..., :3].std() > 5
    for name in ("mean.svg", "sample.svg"):
        drawn = (tmp_path / "graphs" / name).read_text()
        assert "<svg" in drawn[:1000]
        assert "<!-- co-occurrence of the labels -->" in drawn
    table = pd.read_csv(tmp_path / "graphs" / "mean_stage3.csv", index_col=0)
    assert list(table.index) == list(table.columns) == ["AU1", "AU4", "AU12"]
    np.testing.assert_allclose(table.sum(axis=1), 1, atol=1e-5)


def test_mean_runs_over_all_faces_and_labels_are_matched_by_name(model: SACL) -> None:
    data = TwoBatches()
    found = collect_graphs(model, data, sample="late/1")
    model.eval()
    with torch.no_grad():
        graphs = torch.cat([model.graphs(batch) for batch in data.batches])
    assert found.faces == 5
    np.testing.assert_allclose(found.mean, graphs.double().mean(0), atol=1e-6)
    np.testing.assert_allclose(found.sample, graphs[4], atol=1e-6)
    au = torch.cat([batch["au"] for batch in data.batches]).flip(1)
    np.testing.assert_allclose(found.cooccurrence, cooccurrence(au.numpy()))


def test_clips_are_taken_frame_by_frame(model: SACL) -> None:
    data = TwoBatches(clips=3)
    frames = sum(int(batch["frame_mask"].sum()) for batch in data.batches)
    assert collect_graphs(model, data).faces == frames


def test_cooccurrence_is_phi_over_known_labels() -> None:
    rng = np.random.default_rng(0)
    au = (rng.random((200, 4)) < 0.4).astype(float)
    au[:, 1] = au[:, 0]
    au[:, 3] = 0
    au[:20, 2] = np.nan
    found = cooccurrence(au)
    assert found[0, 1] == pytest.approx(1)
    assert found[0, 2] == pytest.approx(np.corrcoef(au[20:, 0], au[20:, 2])[0, 1])
    assert not found[3].any()


def test_edges_of_any_size_are_drawn(tmp_path: Path) -> None:
    for n in (1, 12):
        matrix = np.eye(n)
        files = draw_graphs({"a": matrix, "b": np.full((n, n), 1 / n)}, [f"n{i}" for i in range(n)],
                            tmp_path / f"v1.{n}", "t")  # fmt: skip
        assert [f.name for f in files] == [f"v1.{n}.png", f"v1.{n}.svg"]
        assert f"<!-- widest edge {1 / n if n > 1 else 0:.2f} -->" in files[1].read_text()


def test_errors(model: SACL) -> None:
    with pytest.raises(FaceAffectError, match="no face 'nobody' among the 5"):
        collect_graphs(model, TwoBatches(), sample="nobody")
    with pytest.raises(FaceAffectError, match="makes no graphs"):
        collect_graphs(create_model("gimefive", FULL), TwoBatches())


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = write_csv(tmp_path / "faces", people=4, each=3)
    (tmp_path / "tiny.yaml").write_text(f"""
model: {{name: sacl, backbone: test_resnet, width: 8, rank: 2, key_width: 4}}
data:
  name: csv
  table: {table}
  protocol: {{name: subject_kfold, folds: 2, fold: 1, val_fraction: 0.5}}
  image_size: 32
  batch_size: 4
  num_workers: 0
trainer: {{max_epochs: 1, accelerator: cpu}}
output: {tmp_path}
""")
    assert main(["train", str(tmp_path / "tiny.yaml")]) == 0
    (run,) = (tmp_path / "tiny").iterdir()
    capsys.readouterr()
    assert main(["graph", str(run), "data.protocol=all", "--sample", "p1/2.jpg"]) == 0
    files = {Path(line) for line in capsys.readouterr().out.split()}
    assert files == set((run / "graphs").iterdir())
    assert "<!-- p1/2.jpg -->" in (run / "graphs" / "sample.svg").read_text()
    assert "<!-- mean of 12 faces -->" in (run / "graphs" / "mean.svg").read_text()
    for argv, message in (
        ([str(run), "--sample", "p9/9.jpg"], "no face 'p9/9.jpg' among the"),
        ([str(tmp_path / "nowhere")], "no run folder or checkpoint at"),
        ([str(tmp_path / "faces")], "no checkpoint at"),
        ([str(run), "model.width=9"], "model.width=9"),
    ):
        assert main(["graph", *argv]) == 2
        error = capsys.readouterr().err.strip()
        assert message in error
        assert error.count("\n") == 0
