"""Every set as distributed, checked, trained on and tested from the command line."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf

from faceaffect import registry
from faceaffect.cli import main
from faceaffect.runs import cost
from trees import bp4d, sets

RECIPE = """
model: {name: timm_classifier, backbone: test_vit}
data: {name: %s, image_size: 32, batch_size: 8, num_workers: 0}
trainer: {max_epochs: 1, limit_train_batches: 1, limit_val_batches: 1, accelerator: cpu}
output: %s
"""
_HF = ["data.image=picture", "data.label=emotion", "data.subject=who"]


def bp4d_plus(root: Path) -> Path:
    bp4d.write_labels(root)
    return bp4d.write_images(root)


LAYOUTS: dict[str, tuple[str, Callable[[Path], Path], list[str]]] = {
    "affectnet, lists": ("affectnet", sets.affectnet_csv, []),
    "affectnet, folders": ("affectnet", sets.affectnet_npy, ["data.classes=[neutral,sadness]"]),
    "ferplus, majority": ("ferplus", sets.ferplus, []),
    "ferplus, files": ("ferplus", lambda r: sets.ferplus(r, files=True), ["data.votes=soft"]),
    "fer2013": ("fer2013", sets.ferplus, []),
    "mafw": ("mafw", sets.mafw, ["data.frames=2"]),
    "mafw, compound": ("mafw", lambda r: sets.mafw(r, clips=True),
                       ["data.frames=2", "data.labels=compound", "data.fold=2"]),
    "ferv39k": ("ferv39k", sets.ferv39k, ["data.frames=2"]),
    "affwild2": ("affwild2", sets.affwild2, []),
    "casme2": ("casme2", sets.casme2, []),
    "casme2, workbook": ("casme2", lambda r: sets.casme2(r, excel=True),
                         ["data.sample=three", "data.scheme=three"]),
    "disfa_plus": ("disfa_plus", sets.disfa_plus, ["data.align=none", "data.protocol.folds=3"]),
    "bp4d_plus": ("bp4d_plus", bp4d_plus, ["data.align=none", "data.protocol.folds=3"]),
    "multiview": ("multiview", sets.kdef, ["data.protocol.folds=3"]),
    "folder": ("folder", sets.folder, []),
    "folder, parts": ("folder", lambda r: sets.folder(r, ("train", "test")), []),
    "hf": ("hf", sets.hub, _HF),
}  # fmt: skip


def first(layout: str) -> bool:
    """Tell whether a layout is the first of its set; the others are tried when there is time."""
    name = LAYOUTS[layout][0]
    return layout == next(other for other, (own, *_) in LAYOUTS.items() if own == name)


@pytest.mark.parametrize(
    "layout", [pytest.param(x, marks=() if first(x) else pytest.mark.slow) for x in LAYOUTS]
)
def test_a_layout_is_checked_trained_on_and_tested(
    layout: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cost, "seconds_per_batch", lambda *_: 1.0)  # of this machine, not of it
    if layout == "hf":
        pytest.importorskip("datasets", reason="the extra 'hf' is not installed")
    name, write, overrides = LAYOUTS[layout]
    place = write(tmp_path / "data")
    (tmp_path / "tiny.yaml").write_text(RECIPE % (name, tmp_path / "runs"))
    if "data.protocol.folds=3" in overrides:
        overrides = [*overrides, "data.protocol.name=subject_kfold"]
    given = [f"data.{'path' if name == 'hf' else 'root'}={place}", *overrides]
    assert main(["check", str(tmp_path / "tiny.yaml"), *given]) == 0
    said = capsys.readouterr().out
    assert "answers: " in said
    assert "index" in said or "action unit" in said
    assert main(["train", str(tmp_path / "tiny.yaml"), *given]) == 0
    (run,) = (tmp_path / "runs" / "tiny").iterdir()
    assert json.loads((run / "metrics.json").read_text())["n"] > 0
    assert main(["test", str(run)]) == 0


@pytest.mark.parametrize("layout", [layout for layout in LAYOUTS if layout != "hf"])
def test_hidden_files_beside_the_real_ones_change_nothing(layout: str, tmp_path: Path) -> None:
    """Disks written by macOS hold ``._name`` beside each file, and notebooks leave folders."""
    name, write, overrides = LAYOUTS[layout]
    place = write(tmp_path / "data")
    keys = OmegaConf.from_dotlist(overrides).get("data", {})
    given = {
        k: v for k, v in OmegaConf.to_container(OmegaConf.create(keys)).items() if k != "protocol"
    }
    build = partial(registry.get("data", name), str(place), **given)
    before = build().samples
    for folder in [f for f in place.rglob("*") if f.is_dir()]:
        (folder / ".ipynb_checkpoints").mkdir()
    for file in [f for f in place.rglob("*") if f.is_file()]:
        file.with_name(f"._{file.name}").write_bytes(b"\x00\x05\x16\x07" + bytes(40))
    (place / ".DS_Store").write_bytes(b"\x00\x00\x00\x01Bud1")
    after = build().samples
    assert after.id.tolist() == before.id.tolist()
    for labels in ("au", "expression", "va"):
        if getattr(before, labels) is not None:
            np.testing.assert_array_equal(getattr(after, labels), getattr(before, labels))
