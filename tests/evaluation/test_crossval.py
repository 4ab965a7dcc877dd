"""Cross-validation of AUFormer on a tiny tree in DISFA's layout, through the command line."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from faceaffect.cli import main
from faceaffect.data.disfa import BENCHMARK_AUS
from faceaffect.evaluation.crossval import summarise
from faceaffect.evaluation.published import published
from faceaffect.evaluation.summary import markdown
from faceaffect.module import AffectModule
from trees import disfa

pytestmark = pytest.mark.filterwarnings("ignore:.*frozen with random weights")

RECIPE = """
seed: 1
model:
  name: auformer
  backbone: {name: test_vit, image_size: 32, args: {depth: 1}}
  expert_width: 1
data:
  name: disfa
  root: %s
  align: none
  protocol: {name: three_fold, val_fraction: 0.5}
  image_size: 32
  batch_size: 4
  num_workers: 0
trainer: {max_epochs: 2, accelerator: cpu}
output: %s
"""


class Crash(Exception):
    pass


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a recipe, its data, and the runs of a finished cross-validation."""
    folder = tmp_path_factory.mktemp("crossval")
    disfa.write_frames(disfa.write_labels(folder / "disfa"))
    (folder / "tiny.yaml").write_text(RECIPE % (folder / "disfa", folder / "runs"))
    assert main(["crossval", str(folder / "tiny.yaml")]) == 0
    return folder


def newest(folder: Path) -> Path:
    return max((folder / "runs" / "tiny-crossval").iterdir(), key=lambda f: f.stat().st_mtime)


def row(text: str, name: str, split: str) -> list[str]:
    (line,) = [line for line in text.splitlines() if re.match(rf"\W*{re.escape(name)} \W", line)]
    cells = [cell.strip(" \\") for cell in line.strip("|").split(split)]
    assert cells.pop(0) == name
    return cells


def test_our_row_stands_beside_the_published_ones(place: Path) -> None:
    folder = newest(place)
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["folds"] == [1, 2, 3]
    assert summary["n"] == [disfa.FRAMES] * 3
    runs = [json.loads((Path(run) / "metrics.json").read_text()) for run in summary["runs"]]
    names = [*(f"au_f1/AU{au}" for au in BENCHMARK_AUS), "au_f1"]
    expected = [f"{100 * sum(run['metrics'][name] for run in runs) / 3:.1f}" for name in names]
    assert len(set(expected)) > 1
    quoted = published("disfa", BENCHMARK_AUS)
    for file, split in (("summary.md", "|"), ("summary.tex", "&")):
        text = (folder / file).read_text()
        assert row(text, "tiny", split) == expected
        assert text.count("(quoted)") == len(quoted)
        for method, values in quoted.items():
            assert row(text, f"{method} (quoted)", split) == [f"{v:.1f}" for v in values]
        assert "not shown" not in text


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"notes": {"threshold": 3.0}}, "positive from intensity 2 on, this from 3.0"),
        ({"protocol": {"name": "all"}}, "follow the protocol three_fold, this is all"),
    ],
)
def test_other_settings_have_no_published_rows(
    place: Path, tmp_path: Path, change: dict[str, Any], reason: str
) -> None:
    runs = []
    for run in json.loads((newest(place) / "summary.json").read_text())["runs"]:
        runs.append(tmp_path / Path(run).name)
        shutil.copytree(run, runs[-1], ignore=shutil.ignore_patterns("checkpoints"))
        result = json.loads((runs[-1] / "metrics.json").read_text())
        for section, other in change.items():
            result[section] |= other
        (runs[-1] / "metrics.json").write_text(json.dumps(result))
    text = markdown(summarise(runs))
    assert "(quoted)" not in text
    assert reason in text


def test_an_interrupted_fold_goes_on_and_finished_ones_are_kept(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["crossval", str(place / "tiny.yaml"), f"output={tmp_path}"]
    start, begun = AffectModule.on_train_batch_start, []

    def dies_once(self: Any, batch: Any, batch_idx: int) -> None:
        at = (self.recipe["sections"]["data"]["protocol"]["fold"], self.current_epoch)
        if batch_idx == 0:
            begun.append(at)
        if begun.count(at) == 1 and at == (2, 1):
            raise Crash
        start(self, batch, batch_idx)

    monkeypatch.setattr(AffectModule, "on_train_batch_start", dies_once)
    with pytest.raises(Crash):
        main(argv)
    first, second = sorted((tmp_path / "tiny").iterdir())
    finished = (first / "metrics.json").read_text()
    assert not (second / "metrics.json").exists()
    assert not (tmp_path / "tiny-crossval").exists()
    capsys.readouterr()
    assert main(argv) == 0
    assert begun == [(1, 0), (1, 1), (2, 0), (2, 1), (2, 1), (3, 0), (3, 1)]
    printed = capsys.readouterr().out.replace("\n", "")
    assert f"done in {first}" in printed
    assert f"going on with {second}" in printed
    assert (first / "metrics.json").read_text() == finished
    (folder,) = (tmp_path / "tiny-crossval").iterdir()
    resumed = json.loads((folder / "summary.json").read_text())
    assert resumed["runs"][:2] == [str(first), str(second)]
    # As if nothing had happened.
    whole = json.loads((newest(place) / "summary.json").read_text())
    assert resumed["per_fold"] == whole["per_fold"]
