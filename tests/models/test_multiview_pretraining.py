"""Pre-training from several views, and what is built on it."""

import json
import sys
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch

from batches import face_batch
from faceaffect import LabelSchema, create_model, load_model
from faceaffect.cli import main
from faceaffect.data.base import create_data
from faceaffect.errors import CheckpointError, RecipeError
from faceaffect.networks.backbones import create_backbone, load_asset_metadata
from faceaffect.networks.provenance import started_from
from faceaffect.runs.starting import take_weights

pytest.importorskip("pytorch_metric_learning", reason="the extra 'multiview' is not installed")

from faceaffect.models.multiview_pretraining import (
    MultiviewPretraining,
    ViewRetrieval,
    barlow_twins,
    contrastive_loss,
    view_pairs,
)

EXPRESSIONS = LabelSchema(expressions=("neutral", "happiness", "anger"))
NET = {"name": "vit_tiny_patch16_224", "image_size": 32,
       "args": {"patch_size": 16, "depth": 1, "embed_dim": 32, "num_heads": 2}}  # fmt: skip


def module(schema: LabelSchema = EXPRESSIONS, **args: Any) -> MultiviewPretraining:
    torch.manual_seed(0)
    return MultiviewPretraining(schema, **{"backbone": NET, "width": 16} | args)


def batch_of(instance: list[int]) -> dict[str, Any]:
    batch = face_batch(EXPRESSIONS, len(instance), size=32)
    batch["instance"] = torch.tensor(instance)
    return batch


# Losses


def contrast_by_hand(z: np.ndarray, group: list[int], temperature: float) -> float:
    """Cross-entropy of finding each positive among all other faces, by loops in float64."""
    z = z / np.linalg.norm(z, axis=1, keepdims=True)
    losses = []
    for i in range(len(z)):
        others = [j for j in range(len(z)) if j != i]
        positive = [j for j in others if group[j] == group[i]]
        if positive:
            total = np.log(sum(np.exp(z[i] @ z[j] / temperature) for j in others))
            losses.append(np.mean([total - z[i] @ z[j] / temperature for j in positive]))
    return float(np.mean(losses))


@pytest.mark.parametrize("group", [[0, 0, 0, 1, 1, 1], [0, 0, 1, 1, 1, 2, 3], [4, 2, 4, 9, 2]])
@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_the_contrastive_loss_is_that_of_loops(group: list[int], temperature: float) -> None:
    z = np.random.default_rng(1).normal(size=(len(group), 8))
    found = contrastive_loss(temperature)(torch.tensor(z).float(), torch.tensor(group))
    assert found.item() == pytest.approx(contrast_by_hand(z, group, temperature), rel=1e-4)


def test_with_two_views_it_is_the_nt_xent_of_simclr() -> None:
    z = torch.randn(8, 5, generator=torch.Generator().manual_seed(2))
    unit = torch.nn.functional.normalize(z, dim=1)
    logits = (unit @ unit.T / 0.1).fill_diagonal_(-torch.inf)
    wanted = torch.nn.functional.cross_entropy(logits, torch.tensor([4, 5, 6, 7, 0, 1, 2, 3]))
    found = contrastive_loss(0.1)(z, torch.arange(4).repeat(2))
    torch.testing.assert_close(found, wanted)


def test_barlow_twins_is_that_of_its_definition() -> None:
    rng = np.random.default_rng(3)
    one, other = rng.normal(size=(2, 12, 4))
    wanted = 0.0
    for i in range(4):
        for j in range(4):
            c = np.corrcoef(one[:, i], other[:, j])[0, 1]
            wanted += (1 - c) ** 2 if i == j else 0.02 * c**2
    found = barlow_twins(torch.tensor(one), torch.tensor(other), 0.02)
    assert found.item() == pytest.approx(wanted, rel=1e-4)
    assert barlow_twins(torch.ones(1, 4), torch.ones(1, 4), 0.02) == 0


def test_pairs_are_of_one_instance_and_each_view_has_its_next() -> None:
    instance = torch.tensor([3, 1, 3, 3, -4, 1, -5])
    one, other = view_pairs(instance)
    assert sorted(zip(one.tolist(), other.tolist(), strict=True)) == [(0, 2), (1, 5), (2, 3)]


def test_the_loss_is_the_weighted_sum_and_faces_alone_are_negatives_only() -> None:
    net = module(supervised_weight=0.5, barlow_weight=0.25).train()
    batch = batch_of([0, 0, 0, 5, 5, -1, -1])
    batch["expression"] = torch.tensor([0, 0, 0, 1, -1, -1, 0])
    losses, z = net.losses(batch), net(batch["image"]).detach().double().numpy()
    instance = [0, 0, 0, 5, 5, 100, 101]
    assert losses["views"].item() == pytest.approx(contrast_by_hand(z, instance, 0.1), rel=1e-3)
    known = [0, 1, 2, 3, 6]
    wanted = contrast_by_hand(z[known], [0, 0, 0, 1, 0], 0.1)
    assert losses["supervised"].item() == pytest.approx(wanted, rel=1e-3)
    total = losses["views"] + 0.5 * losses["supervised"] + 0.25 * losses["barlow"]
    torch.testing.assert_close(losses["loss"], total)
    losses["loss"].backward()
    assert not [name for name, p in net.named_parameters() if p.grad is None]


@pytest.mark.parametrize("instance", [[0, 1, 2, 3], [0, 0, 0, 0], [-1, -1]])
def test_a_batch_without_pairs_costs_nothing_but_keeps_the_graph(instance: list[int]) -> None:
    net = module(supervised_weight=1.0, barlow_weight=1.0).train()
    batch = batch_of(instance)
    batch["expression"][:] = -1
    losses = net.losses(batch)
    assert losses["views"] == losses["supervised"] == 0
    losses["loss"].backward()
    assert all(p.grad is not None for p in net.parameters())


def test_labels_play_no_part_unless_they_are_asked_for() -> None:
    net = module().eval()
    batch = batch_of([0, 0, 1, 1])
    before = net.loss(batch)
    batch["expression"] = batch["expression"].flip(0)
    assert torch.equal(net.loss(batch), before)
    assert "no label of affect" in net.exported()[1]["labels"]
    assert "their expressions" in module(supervised_weight=1.0).exported()[1]["labels"]


# Retrieval


def test_retrieval_is_that_of_loops_whatever_the_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("faceaffect.models.multiview_pretraining._ROWS", 7)
    rng = np.random.default_rng(4)
    instance = np.array([*rng.integers(0, 12, 40), 50, -1, -1])
    z = rng.normal(size=(43, 6)) + 0.4 * np.eye(60, 6)[instance % 6]
    hits = []
    for i in range(43):
        if instance[i] >= 0 and (instance == instance[i]).sum() > 1:
            cosine = [z[i] @ z[j] / np.linalg.norm(z[i]) / np.linalg.norm(z[j]) for j in range(43)]
            cosine[i] = -2.0
            hits.append(instance[int(np.argmax(cosine))] == instance[i])
    found = ViewRetrieval()
    for part in np.array_split(np.arange(43), 5):
        found.update(torch.tensor(z[part]), torch.tensor(instance[part]))
    assert 0 < np.mean(hits) < 1
    assert found.compute().item() == pytest.approx(np.mean(hits))


# Training


def drawn(**args: Any) -> Any:
    return create_data(**{"name": "synthetic", "n": 60, "subjects": 5, "seed": 4, "image_size": 32,
                          "yaws": [-30, 0, 30], "aus": [], "valence_arousal": False, "views": 3,
                          "batch_size": 12, "num_workers": 0} | args)  # fmt: skip


def trainer(place: Path, epochs: int = 1) -> L.Trainer:
    return L.Trainer(
        max_epochs=epochs, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, accelerator="cpu", default_root_dir=place,
        use_distributed_sampler=False,
    )  # fmt: skip


def test_the_views_of_a_batch_come_together() -> None:
    net = module().train()
    batch = next(iter(drawn().train_dataloader()))
    optimiser = torch.optim.AdamW(net.parameters(), 3e-3)
    before = net.loss(batch).item()
    for _ in range(40):
        optimiser.zero_grad()
        net.loss(batch).backward()
        optimiser.step()
    assert net.loss(batch).item() < 0.8 * before


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a pre-training, as a run leaves it."""
    place = tmp_path_factory.mktemp("run")
    net, fit = module(), trainer(place)
    net.recipe = {"name": "mine", "sections": {"data": {"name": "synthetic"}}}
    data = drawn()
    fit.fit(net, datamodule=data)
    assert 0 <= fit.callback_metrics["val/score"] <= 1
    fit.test(net, datamodule=data, verbose=False)
    assert {"test/retrieval", "test/score"} <= set(fit.callback_metrics)
    (place / "checkpoints").mkdir()
    fit.save_checkpoint(place / "checkpoints" / "best.ckpt", weights_only=True)
    return place


def test_the_export_is_a_backbone_that_tells_what_it_saw(run: Path) -> None:
    about = load_asset_metadata(run / "export.safetensors")
    assert about["trained_on"].startswith("36 samples of 3 people, synthetic")
    again = create_backbone(**NET, weights=str(run / "export.safetensors"))
    before = load_model(run / "checkpoints" / "best.ckpt").backbone.net.state_dict()
    for key, value in again.net.state_dict().items():
        torch.testing.assert_close(value, before[key], atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("mode", ["full", "linear"])
@pytest.mark.filterwarnings("ignore:the backbone .* is frozen with random weights")
def test_a_model_starts_from_the_backbone_and_keeps_it(
    run: Path, tmp_path: Path, mode: str
) -> None:
    file = run / "checkpoints" / "best.ckpt"
    model = create_model("timm_classifier", EXPRESSIONS, backbone=NET, mode=mode)
    take_weights(model, file)
    pretrained = load_model(file).backbone.state_dict()
    for key, value in model.backbone.state_dict().items():
        assert torch.equal(value, pretrained[key]), key
    (told,) = started_from(model)
    assert told["labels"].startswith("which pictures are views of one expression")
    assert told["data"].startswith("36 samples of 3 people")
    assert told["frozen"] is (mode == "linear")
    # Nothing lasting names these weights, so the checkpoint of what is built on them holds them.
    loader = torch.utils.data.DataLoader([face_batch(EXPRESSIONS, 6, size=32)], batch_size=None)
    fit = trainer(tmp_path)
    fit.fit(model, loader)
    fit.save_checkpoint(tmp_path / "fine.ckpt", weights_only=True)
    batch = face_batch(EXPRESSIONS, 4, size=32)
    with torch.no_grad():
        wanted = model.eval().predict(batch)["expression"]
        found = load_model(tmp_path / "fine.ckpt").predict(batch)["expression"]
    torch.testing.assert_close(found, wanted, rtol=0, atol=0)


def test_another_backbone_is_no_place_for_it(run: Path) -> None:
    wide = NET | {"args": NET["args"] | {"embed_dim": 48}}
    with pytest.raises(CheckpointError, match=r"does not fit: backbone.* has the shape"):
        take_weights(
            create_model("timm_classifier", EXPRESSIONS, backbone=wide),
            run / "checkpoints" / "best.ckpt",
        )


def test_a_package_that_is_not_there_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "pytorch_metric_learning.losses", None)
    small = ["data.n=60", "data.subjects=12", f"data.cache={tmp_path}", f"output={tmp_path}"]
    assert main(["train", "mini_multiview_pretraining", *small]) == 2
    said = capsys.readouterr().err.strip()
    assert said.count("\n") == 0
    assert "needs the package pytorch-metric-learning: pip install 'faceaffect[multiview]'" in said


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"temperature": 0.0}, "model.temperature: 0.0 is not positive"),
        ({"barlow_weight": -1.0}, "model.barlow_weight: -1.0 is negative"),
        ({"supervised_weight": 1.0, "schema": LabelSchema()}, "the data names no expressions"),
    ],
)
def test_what_does_not_fit_is_named(given: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        module(**given)


def test_data_without_views_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"learns from views side by side: give data.views"):
        trainer(tmp_path).fit(module(), datamodule=drawn(views=None))
    with pytest.raises(RecipeError, match="does not tell which faces are views"):
        module().loss(face_batch(EXPRESSIONS, 4, size=32))


@pytest.mark.slow
def test_a_chain_of_the_shipped_recipes_by_yaw(tmp_path: Path) -> None:
    """Pre-trained, fine-tuned on part of the people and compared by yaw with what is not."""
    short = ["data.n=300", "data.subjects=20", "data.batch_size=12", "trainer.max_epochs=1",
             "trainer.accelerator=cpu", f"data.cache={tmp_path}/cache",
             f"output={tmp_path}/runs", "data.num_workers=0"]  # fmt: skip
    assert main(["train", "mini_multiview_pretraining", *short]) == 0
    both = ["mini_multiview_finetuned", "mini_multiview_scratch"]
    assert main(["compare", *both, *short, "data.fraction=0.2"]) == 0
    (file,) = tmp_path.glob("runs/compare/*/report.json")
    report = json.loads(file.read_text())
    for name in both:
        groups = report["models"][name]["groups"]["yaw"]["groups"]
        assert list(groups) == ["-60", "-30", "0", "30", "60"]
        assert all(0 <= group["metrics"]["expression_war"] <= 1 for group in groups.values())
    before = report["models"][both[0]]["terms"]["before"]
    assert "views of one expression of one person" in before
