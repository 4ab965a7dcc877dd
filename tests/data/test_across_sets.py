"""A model of one set, tested on another: classes match by name, what is left out is listed."""

import json
from pathlib import Path

import pandas as pd
import pytest

from faceaffect.cli import main
from trees import rafdb, sets

RECIPE = """
model: {name: timm_classifier, backbone: test_vit}
data: {name: %s, root: %s, image_size: 32, batch_size: 8, num_workers: 0}
trainer: {max_epochs: 1, limit_train_batches: 1, limit_val_batches: 1, accelerator: cpu}
output: %s
"""


def train_and_test(
    tmp_path: Path, trained: tuple[str, Path], tested: tuple[str, Path]
) -> tuple[dict, pd.DataFrame]:
    (tmp_path / "tiny.yaml").write_text(RECIPE % (*trained, tmp_path / "runs"))
    assert main(["train", str(tmp_path / "tiny.yaml")]) == 0
    (run,) = (tmp_path / "runs" / "tiny").iterdir()
    other = [f"data.name={tested[0]}", f"data.root={tested[1]}", "data.num_workers=0"]
    assert main(["test", str(run), *other]) == 0
    (folder,) = (run / "tests").iterdir()
    result = json.loads((folder / "metrics.json").read_text())
    return result, pd.read_csv(folder / "predictions.csv")


def test_affectnet_to_rafdb_and_what_is_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raf = rafdb.write(tmp_path / "raf")
    affect = sets.affectnet_npy(tmp_path / "affect")
    result, table = train_and_test(tmp_path, ("affectnet", affect), ("rafdb", raf))
    # The n-th test picture has the code 1 + n % 7: the names are RAF-DB's, in its own order.
    names = ("surprise", "fear", "disgust", "happiness", "sadness", "anger", "neutral")
    truth = table.set_index("id")["target/expression"]
    for n, name in enumerate(names):
        assert truth[f"Image/aligned/test_{n + 1:05d}_aligned.jpg"] == name
    probabilities = [c.removeprefix("prob/") for c in table if c.startswith("prob/")]
    assert probabilities == list(sets.AFFECTNET)
    assert result["n"] == 7
    assert result["not_scored"] == [
        "in the model but not in the data: contempt, valence and arousal"
    ]
    assert "classes: neutral, happiness, sadness, surprise, fear, disgust, anger only" in " ".join(
        capsys.readouterr().out.split()
    )


def test_contempt_of_affectnet_is_no_class_of_a_model_of_rafdb(tmp_path: Path) -> None:
    raf = rafdb.write(tmp_path / "raf")
    affect = sets.affectnet_npy(tmp_path / "affect")
    result, table = train_and_test(tmp_path, ("rafdb", raf), ("affectnet", affect))
    unknown = table[table["target/expression"].isna()]
    assert unknown["id"].tolist() == ["val_set/images/7.jpg"]
    assert result["n"] == 7
    assert result["not_scored"] == [
        "in the data but not in the model: contempt, valence and arousal"
    ]
