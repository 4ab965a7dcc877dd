"""What weights have learned, as results tell of the models that start from them."""

import json
from pathlib import Path

import torch
from torch import nn

from faceaffect.cli import main
from faceaffect.models.face_analysis import load_face_analysis
from faceaffect.models.loading import create_model
from faceaffect.networks.assets import ASSETS
from faceaffect.networks.backbones import create_backbone
from faceaffect.networks.provenance import HUB, OWN, SILENT, lessons, started_from
from faceaffect.recipe import load_recipe
from faceaffect.schema import LabelSchema

SCHEMA = LabelSchema(aus=(1, 12), expressions=("neutral", "happiness"))


def test_every_asset_says_what_it_has_learned() -> None:
    shipped = {path.stem for path in ASSETS.iterdir() if not path.name.startswith("_")}
    assert shipped <= OWN.keys()


def test_what_is_said_is_what_the_recipes_do() -> None:
    for name, faces in (("mini_vit", "18,050"), ("mini_face", "18,050")):
        data = load_recipe(f"pretrain_{name}")["data"]
        kept = data["n"] * (1 - 1 / data["protocol"]["folds"]) * (
            1 - data["protocol"]["val_fraction"]
        )  # fmt: skip
        assert f"{kept:,.0f}" == faces
        assert faces in OWN[name].data
        assert f"{data['subjects']:,} other people" in OWN[name].data
        assert not data["aus"]
        assert not data["expressions"]
    assert "landmarks" in OWN["mini_face"].labels
    assert "no labels" in OWN["mini_vit"].labels
    for name in ("mini_llama", "micro_llama"):
        words = load_recipe(f"pretrain_{name}")["data"]["n"]
        assert f"{words:,} faces" in OWN[name].data


def test_a_language_model_with_priors_stands_on_three_networks() -> None:
    found = {of["part"]: of for of in started_from(create_model("emo_llama", SCHEMA))}
    assert sorted(of["weights"] for of in found.values()) == ["mini_face", "mini_llama", "mini_vit"]
    assert all(of["data"] and of["labels"] for of in found.values())
    without = started_from(create_model("emo_llama", SCHEMA, prior=None, mining=None))
    assert "mini_face" not in {of["weights"] for of in without}


def test_from_scratch_is_from_nothing() -> None:
    assert started_from(create_model("gimefive", SCHEMA)) == []


def test_weights_that_train_on_are_named_too() -> None:
    model = create_model("timm_classifier", SCHEMA, backbone="asset:mini_vit", mode="full")
    (found,) = started_from(model)
    assert (found["part"], found["weights"], found["frozen"]) == ("backbone", "mini_vit", False)


def test_the_hub_is_named_and_a_silent_file_called_so(tmp_path: Path) -> None:
    assert lessons({"kind": "hub", "name": "timm/resnet18.a1_in1k@abc"}) == HUB
    file = tmp_path / "w.pt"
    torch.save(nn.Linear(2, 2).state_dict(), file)
    assert lessons({"kind": "file", "name": str(file)}) == SILENT
    assert lessons({"kind": "file", "name": "gone.pt"}) == SILENT


def test_an_exported_network_tells_whoever_builds_on_it(tmp_path: Path) -> None:
    argv = ["train", "pretrain_mini_face", "data.n=40", "data.subjects=20", "data.batch_size=4",
            f"data.cache={tmp_path}", "data.num_workers=0", "trainer.max_epochs=1",
            "trainer.limit_train_batches=1", "trainer.limit_val_batches=1",
            "trainer.limit_test_batches=1", "trainer.accelerator=cpu",
            f"output={tmp_path}/runs"]  # fmt: skip
    assert main(argv) == 0
    (run,) = (tmp_path / "runs" / "pretrain_mini_face").iterdir()
    net = load_face_analysis(str(run / "export.safetensors"))
    assert net.source is not None
    data, labels = lessons(net.source)
    people = json.loads((run / "metrics.json").read_text())["protocol"]["subjects"]["train"]
    assert data == f"{2 * people} samples of {people} people, synthetic"
    assert labels.startswith("68 landmarks, head pose, age group")


def test_a_backbone_of_ones_own_file_says_nothing(tmp_path: Path) -> None:
    torch.save(create_backbone("test_vit").net.state_dict(), tmp_path / "vit.pt")
    backbone = create_backbone("test_vit", weights=str(tmp_path / "vit.pt"))
    (found,) = started_from(nn.ModuleDict({"backbone": backbone}))
    assert (found["data"], found["labels"]) == SILENT
