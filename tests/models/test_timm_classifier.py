from pathlib import Path
from typing import Any

import lightning as L
import pytest
import timm
import torch
from safetensors.torch import save_file

from batches import FULL, face_batch, statistics
from faceaffect import LabelSchema, create_model, load_model
from faceaffect.errors import CheckpointError, RecipeError
from faceaffect.models.timm_classifier import TimmClassifier
from faceaffect.networks.backbones import create_backbone
from faceaffect.networks.heads import TaskLosses, answers
from faceaffect.networks.lora import LoRA
from faceaffect.networks.losses import ccc_loss

VIT = {"name": "test_vit", "image_size": 48}
# With its residual branches open: timm starts them at zero, which random frozen weights stay at.
CNN = {"name": "test_resnet", "image_size": 64, "args": {"zero_init_last": False}}

pytestmark = pytest.mark.filterwarnings("ignore:.*frozen with random weights")


@pytest.fixture(scope="module")
def vit_file(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.manual_seed(1)
    path = tmp_path_factory.mktemp("weights") / "vit.safetensors"
    save_file(timm.create_model("test_vit").state_dict(), path)
    return str(path)


def build(**args: Any) -> TimmClassifier:
    torch.manual_seed(0)
    model = TimmClassifier(FULL, **args)
    model.prepare(statistics())
    return model


def train(model: TimmClassifier, steps: int, lr: float) -> list[float]:
    model.train()
    batch = face_batch(n=4, size=48)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=lr, weight_decay=0.0)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = model.loss(batch)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def fit(model: TimmClassifier) -> L.Trainer:
    loader = torch.utils.data.DataLoader([face_batch(n=4, size=48)], batch_size=None)
    trainer = L.Trainer(
        max_epochs=2,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        accelerator="cpu",
    )
    trainer.fit(model, loader)
    return trainer


@pytest.mark.parametrize(
    ("args", "lr"),
    [
        ({"backbone": VIT, "mode": "full"}, 1e-3),
        ({"backbone": CNN, "mode": "full"}, 3e-3),
        ({"backbone": VIT, "mode": "linear"}, 3e-2),
        ({"backbone": VIT, "mode": "lora"}, 1e-2),
        ({"backbone": CNN, "mode": "lora"}, 2e-3),
        ({"backbone": VIT, "au_loss": "mdwa", "class_weights": True}, 1e-3),
    ],
)
def test_every_mode_learns_one_batch_by_heart(args: dict[str, Any], lr: float) -> None:
    model = build(**args)
    losses = train(model, 60, lr)
    assert losses[-1] < 0.1 * losses[0]
    batch = face_batch(n=4, size=48)
    with torch.no_grad():
        answer = model.eval().predict(batch)
    if args.get("mode", "full") == "full" and args["backbone"] is CNN:
        return  # running statistics lag behind 60 steps of large updates
    assert torch.equal((answer["au"] > 0.5).float(), batch["au"])
    assert torch.equal(answer["expression"].argmax(1), batch["expression"])
    assert ccc_loss(answer["va"], batch["va"]) < 0.2


@pytest.mark.parametrize("backbone", [VIT, CNN])
@pytest.mark.parametrize("mode", ["linear", "lora"])
def test_only_heads_and_adapters_train(backbone: dict[str, Any], mode: str) -> None:
    model = build(backbone=backbone, mode=mode)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert {name for name in trained if name.startswith("heads.")}
    adapters = {name for name in trained if not name.startswith("heads.")}
    assert all(".lora_" in name for name in adapters)
    assert bool(adapters) == (mode == "lora")
    # Buffers count too: the statistics of a frozen batch norm must not move.
    moving = (*trained, *(f"norm.{k}" for k in model.norm.state_dict()))
    frozen = {k: v.clone() for k, v in model.state_dict().items() if k not in moving}
    before = {k: v.clone() for k, v in model.state_dict().items() if k in trained}
    train(model, 3, 1e-2)
    after = model.state_dict()
    assert all(torch.equal(after[k], v) for k, v in frozen.items())
    assert not any(torch.equal(after[k], v) for k, v in before.items())


def test_adapters_start_as_the_frozen_network_and_drop_out_only_in_training() -> None:
    torch.manual_seed(0)
    plain = create_backbone(**VIT).eval()
    adapted = create_backbone(**VIT)
    adapted.load_state_dict(plain.state_dict())
    layers = LoRA(r=4, dropout=0.5).put_into(adapted)
    assert len(layers) == 6 * 4
    assert {name.rpartition(".")[2] for name in layers} == {"qkv", "proj", "fc1", "fc2"}
    x = plain.normalise(face_batch(n=2, size=48)["image"])
    adapted.train()
    assert torch.equal(adapted.pooled(x), plain.pooled(x))
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    assert not torch.equal(adapted.pooled(x), adapted.pooled(x))
    adapted.eval()
    assert torch.equal(adapted.pooled(x), adapted.pooled(x))


def test_lora_takes_only_layers_that_are_called() -> None:
    # BEiT multiplies by the weights of its fused qkv itself, past any adapter.
    args = {"depth": 1, "embed_dim": 48, "num_heads": 2}
    beit = create_backbone("beit_base_patch16_224", image_size=32, args=args)
    layers = LoRA().put_into(beit)
    assert {name.rpartition(".")[2] for name in layers} == {"proj", "fc1", "fc2"}
    vit = create_backbone(**VIT)
    assert len(LoRA(targets=["qkv"]).put_into(vit)) == 6
    with pytest.raises(RecipeError, match=r"lora\.targets: 'qvk'.*did you mean 'qkv'"):
        LoRA(targets=["qvk"]).put_into(create_backbone(**VIT))


@pytest.mark.parametrize("mode", ["linear", "lora"])
def test_checkpoint_is_lean_and_answers_the_same_after_loading(
    mode: str, vit_file: str, tmp_path: Path
) -> None:
    model = build(backbone={**VIT, "weights": vit_file}, mode=mode)
    path = tmp_path / "lean.ckpt"
    fit(model).save_checkpoint(path, weights_only=True)
    stored = torch.load(path, weights_only=True)["state_dict"]
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert set(stored) == trained | {f"norm.{name}" for name in model.norm.state_dict()}
    loaded = load_model(path)
    batch = face_batch(n=4, size=48)
    with torch.no_grad():
        want, got = model.eval().predict(batch), loaded.predict(batch)
    assert all(torch.equal(want[task], got[task]) for task in FULL.tasks)


def test_checkpoint_is_refused_on_another_backbone(vit_file: str, tmp_path: Path) -> None:
    weights = tmp_path / "copy.safetensors"
    weights.write_bytes(Path(vit_file).read_bytes())
    model = build(backbone={**VIT, "weights": str(weights)}, mode="linear")
    path = tmp_path / "lean.ckpt"
    fit(model).save_checkpoint(path, weights_only=True)
    torch.manual_seed(2)
    save_file(timm.create_model("test_vit").state_dict(), weights)
    with pytest.raises(CheckpointError, match=r"copy\.safetensors.*fingerprint"):
        load_model(path)
    weights.unlink()
    with pytest.raises(CheckpointError, match="no weights at"):
        load_model(path)


def test_a_fully_trained_model_loads_without_the_file_it_started_from(
    vit_file: str, tmp_path: Path
) -> None:
    weights = tmp_path / "start.safetensors"
    weights.write_bytes(Path(vit_file).read_bytes())
    model = build(backbone={**VIT, "weights": str(weights)})
    path = tmp_path / "full.ckpt"
    fit(model).save_checkpoint(path, weights_only=True)
    weights.unlink()
    loaded = load_model(path)
    assert all(torch.equal(v, loaded.state_dict()[k]) for k, v in model.state_dict().items())


def test_class_weights_follow_the_statistics() -> None:
    plain, weighted = TaskLosses(FULL), TaskLosses(FULL, class_weights=True, au_loss="mdwa")
    for losses in (plain, weighted):
        losses.prepare(statistics())  # AU rates 0.1, 0.2, 0.3; 10, 20 and 30 faces a class
        assert not losses.state_dict()
    assert plain.au.weight.tolist() == [1, 1, 1]
    inverse = torch.tensor([10.0, 5.0, 10 / 3])
    assert torch.allclose(weighted.au.weight, 3 * inverse / inverse.sum())
    assert torch.allclose(weighted.expression_weight, torch.tensor([2.0, 1.0, 2 / 3]))
    assert weighted.au.gamma.tolist() == [2, 1.5, 1]
    absent = statistics()
    absent["expression_count"]["anger"] = 0
    weighted.prepare(absent)
    assert torch.allclose(weighted.expression_weight, torch.tensor([1.5, 0.75, 1.0]))


@pytest.mark.parametrize("au_loss", ["bce", "wa", "mdwa", "focal"])
def test_losses_mask_unknown_labels(au_loss: str) -> None:
    losses = TaskLosses(FULL, au_loss=au_loss, label_smoothing=0.1)
    shapes = {"au": 3, "expression": 3, "va": 2}
    torch.manual_seed(0)
    logits = {task: torch.randn(6, n, requires_grad=True) for task, n in shapes.items()}
    nothing = losses(logits, face_batch(known=False))
    nothing.backward()
    assert nothing.item() == 0
    assert all(z.grad is not None and not z.grad.any() for z in logits.values())
    batch = face_batch()
    batch["au"][0] = torch.nan
    batch["expression"][0] = -1
    batch["va"][0] = torch.nan
    losses(logits, batch).backward()
    assert all(not z.grad[0].any() and z.grad[1:].abs().sum() > 0 for z in logits.values())


def test_answers_are_probabilities_in_full_precision() -> None:
    logits = {"au": torch.tensor([[0.0]]), "expression": torch.randn(2, 7), "va": torch.ones(1, 2)}
    got = answers({task: z.bfloat16() for task, z in logits.items()})
    assert {z.dtype for z in got.values()} == {torch.float32}
    assert got["au"].item() == 0.5
    assert torch.allclose(got["expression"].sum(1), torch.ones(2))
    assert torch.allclose(got["va"], torch.tensor(1.0).tanh())


def test_a_schema_of_one_task_has_one_head() -> None:
    model = TimmClassifier(LabelSchema(expressions=("a", "b", "c")), backbone=VIT)
    assert list(model.heads.layers) == ["expression"]
    assert set(model.predict(face_batch(size=48))) == {"expression"}


def test_contradictions_and_misspelt_options_are_named() -> None:
    with pytest.raises(RecipeError, match=r"frozen: true contradicts mode 'full'"):
        TimmClassifier(FULL, backbone={**VIT, "frozen": True})
    with pytest.raises(RecipeError, match="needs mode 'lora'"):
        TimmClassifier(FULL, backbone=VIT, lora={"r": 4})
    with pytest.raises(RecipeError, match=r"model\.backbone\.image_sise.*'image_size'"):
        create_model("timm_classifier", FULL, backbone={"name": "test_vit", "image_sise": 48})
    with pytest.raises(RecipeError, match=r"model\.lora\.rank"):
        create_model("timm_classifier", FULL, backbone=VIT, mode="lora", lora={"rank": 4})
    with pytest.raises(RecipeError, match=r"model\.mode"):
        create_model("timm_classifier", FULL, backbone=VIT, mode="half")


def test_builds_with_defaults() -> None:
    model = create_model("timm_classifier", FULL)
    assert model.backbone.name == "resnet18"
    assert model.backbone.image_size == 224


@pytest.mark.parametrize("backbone", [VIT, CNN], ids=["vit", "cnn"])
def test_a_grid_readout_keeps_the_place(backbone: dict[str, Any]) -> None:
    model = build(backbone=backbone, mode="full", readout="grid:2").eval()
    image = face_batch(n=2, size=48)["image"]
    with torch.no_grad():
        last = model.backbone.pyramid(model.backbone.normalise(image), 1)[0]
        cells = torch.nn.functional.adaptive_avg_pool2d(last, 2)  # (B, C, 2, 2)
        vectors = cells.permute(0, 2, 3, 1).flatten(1)
        expected = model.heads(vectors)
        for task, logits in model(image).items():
            torch.testing.assert_close(logits, expected[task])
    mean = build(backbone=backbone, mode="full", readout="mean")
    assert mean.heads.layers["au"].in_features == model.backbone.width
    with pytest.raises(
        RecipeError, match=r"model\.readout: 'gird:4' is not pooled, mean or grid:G"
    ):
        build(readout="gird:4")
