"""What every registered model owes its user."""

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch

from batches import FULL, face_batch, statistics
from faceaffect import AffectModule, LabelSchema, create_model, load_model
from faceaffect.errors import CheckpointError, SchemaError
from faceaffect.registry import TABLES, get

SMALL: dict[str, dict[str, Any]] = {
    "auformer": {"backbone": "test_vit", "expert_width": 4},
    "sacl": {"backbone": "test_resnet", "width": 32, "key_width": 8, "rank": 4},
    "emert": {"backbone": "test_resnet", "width": 16, "projected": 16, "lstm_layers": 1},
    "gimefive": {"block_dropout": 0.0, "hidden_dropout": 0.0},  # with it, it learns for longer
    "timm_classifier": {"backbone": "test_vit"},
    "vlm": {"lora": {"r": 16, "alpha": 32.0, "dropout": 0.0}, "dtype": "float32"},
}
"""Arguments that make a model small and quick to learn; without an entry, it has its defaults."""

MODELS = {name: get("models", name) for name in TABLES["models"]}
AFFECT = [n for n, m in MODELS.items() if issubclass(m, AffectModule) and m.needs_training]
SCHEMAS = [
    FULL,
    LabelSchema(aus=(1, 2, 12)),
    LabelSchema(expressions=("happiness", "anger")),
]


def build(name: str, schema: LabelSchema = FULL, **args: Any) -> AffectModule:
    torch.manual_seed(0)
    model = create_model(name, schema, **SMALL.get(name, {}), **args)
    model.prepare(statistics(schema))
    return model


def fit(model: AffectModule, steps: int = 1, **trainer: Any) -> L.Trainer:
    loader = torch.utils.data.DataLoader([face_batch(model.schema)], batch_size=None)
    trainer = L.Trainer(
        max_epochs=steps,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        accelerator="cpu",
        **trainer,
    )
    trainer.fit(model, loader)
    return trainer


@pytest.fixture(params=AFFECT)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.mark.parametrize("schema", SCHEMAS, ids=["all", "au", "expression"])
def test_answers_every_task_in_range(name: str, schema: LabelSchema) -> None:
    model = build(name, schema).eval()
    with torch.no_grad():
        answers = model.predict(
            face_batch(schema, 4) if not model.clips else face_batch(schema, 4, clips=2)
        )
    assert set(answers) - {"text"} == set(schema.tasks)
    if schema.aus:
        assert answers["au"].shape == (4, len(schema.aus))
        assert ((answers["au"] >= 0) & (answers["au"] <= 1)).all()
    if schema.expressions:
        assert answers["expression"].shape == (4, len(schema.expressions))
        assert (answers["expression"] >= 0).all()
        torch.testing.assert_close(answers["expression"].sum(1), torch.ones(4))
    if schema.valence_arousal:
        assert answers["va"].shape == (4, 2)
        assert (answers["va"].abs() <= 1).all()


FELT = LabelSchema(expressions=("happiness", "anger"), felt=("calm", "happiness", "anger"))


def test_answers_what_is_felt_or_says_that_it_cannot(name: str) -> None:
    if "felt" not in MODELS[name].can_answer:
        with pytest.raises(SchemaError, match="cannot answer 'felt', which the data labels"):
            build(name, FELT)
        return
    model = build(name, FELT).train()
    unknown = face_batch(FELT, 4, known=False, clips=2 * model.clips)
    assert model.loss(unknown).item() == 0
    unknown["felt"][1] = 2
    assert model.loss(unknown).item() > 0
    with torch.no_grad():
        felt = model.eval().predict(unknown)["felt"]
    assert felt.shape == (4, 3)
    torch.testing.assert_close(felt.sum(1), torch.ones(4))


def test_loss_reaches_what_is_trained_and_nothing_else(name: str) -> None:
    model = build(name).train()
    batch = face_batch(clips=2) if model.clips else face_batch()
    loss = model.loss(batch)
    assert loss.shape == ()
    assert torch.isfinite(loss)
    loss.backward()
    for key, parameter in model.named_parameters():
        if not parameter.requires_grad:
            assert parameter.grad is None, key
    assert any(p.grad is not None and p.grad.any() for p in model.parameters())


def test_unknown_labels_cost_nothing_but_keep_the_graph(name: str) -> None:
    model = build(name).train()
    batch = face_batch(clips=2, known=False) if model.clips else face_batch(known=False)
    loss = model.loss(batch)
    assert loss.item() == 0
    loss.backward()


def test_learns_one_batch_and_leaves_frozen_weights_alone(name: str) -> None:
    model = build(name)
    frozen = {k: p.clone() for k, p in model.named_parameters() if not p.requires_grad}
    batch = face_batch()
    model.optim.lr = 3e-3
    before = _loss(model, batch)
    model.train()
    fit(model, 60, callbacks=[Fallen(batch, 0.85 * before)])
    assert _loss(model, batch) < 0.9 * before
    for key, parameter in model.named_parameters():
        if key in frozen:
            assert torch.equal(parameter, frozen[key]), key


class Fallen(L.Callback):
    """Ends a training whose loss has fallen below a limit."""

    def __init__(self, batch: dict, limit: float) -> None:
        self.batch, self.limit = batch, limit

    def on_train_epoch_end(self, trainer: L.Trainer, model: Any) -> None:
        if trainer.current_epoch % 4 == 3:
            trainer.should_stop = _loss(model, self.batch) < self.limit
            model.train()


def _loss(model: AffectModule, batch: dict) -> float:
    model.eval()
    with torch.no_grad():
        if model.clips:
            from faceaffect.data.batch import as_clips

            batch = as_clips(batch)
        return float(model.loss(batch))


def test_a_checkpoint_holds_plain_data_and_gives_the_same_answers(
    name: str, tmp_path: Path
) -> None:
    model = build(name)
    file = tmp_path / "model.ckpt"
    fit(model).save_checkpoint(file, weights_only=True)
    own = torch.load(file, weights_only=True)["faceaffect"]
    assert own["model"] == name
    assert own["schema"] == FULL.to_dict()
    loaded = load_model(file)
    assert loaded.statistics == model.statistics
    model.eval()
    batch = face_batch()
    with torch.no_grad():
        for task, value in model.answer(batch)[1].items():
            if task != "text":
                torch.testing.assert_close(loaded.answer(batch)[1][task], value, rtol=0, atol=0)


def test_a_clip_is_answered_as_the_mean_of_its_known_frames_or_as_a_whole(name: str) -> None:
    model = build(name).eval()
    batch = face_batch(clips=3)
    with torch.no_grad():
        answers = model.answer(batch)[1]
    for task in FULL.tasks:
        assert len(answers[task]) == len(batch["id"])
        assert torch.isfinite(answers[task]).all()


def test_bfloat16_agrees_with_float32(name: str) -> None:
    model = build(name).train()
    batch = face_batch(n=2, clips=2) if model.clips else face_batch(n=2)  # emulated, it is slow
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = model.loss(batch)
    assert loss.dtype == torch.float32
    loss.backward()
    model.eval()
    with torch.no_grad():
        full = model.answer(batch)[1]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            half = model.answer(batch)[1]
    for task in FULL.tasks:
        assert half[task].dtype == torch.float32
        torch.testing.assert_close(half[task], full[task], rtol=0, atol=0.1)


def test_schema_order_belongs_to_the_model(name: str, tmp_path: Path) -> None:
    model = build(name)
    file = tmp_path / "model.ckpt"
    fit(model).save_checkpoint(file, weights_only=True)
    checkpoint = torch.load(file, weights_only=True)
    swapped = LabelSchema((12, 4, 1), FULL.expressions, True)
    with pytest.raises(SchemaError, match="order of names differs"):
        build(name, swapped).on_load_checkpoint(checkpoint)
    with pytest.raises(SchemaError, match="in the model but not in the checkpoint: AU2"):
        build(name, LabelSchema((1, 2, 4, 12), FULL.expressions, True)).on_load_checkpoint(
            checkpoint
        )


def test_damaged_and_foreign_checkpoints_are_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        load_model(tmp_path)
    broken = tmp_path / "broken.ckpt"
    torch.save({"pickled": Path("a")}, tmp_path / "path.ckpt")
    whole = (tmp_path / "path.ckpt").read_bytes()
    for content in (b"PK\x03\x04 not a zip", b"a text", b"", b"\x89PNG\r\n", whole, whole[:200]):
        broken.write_bytes(content)
        with pytest.raises(CheckpointError, match=r"broken\.ckpt: not read") as caught:
            load_model(broken)
        assert "\n" not in str(caught.value)
        assert "weights_only" not in str(caught.value)
    foreign = tmp_path / "foreign.ckpt"
    for plain in ({"state_dict": {}}, {"faceaffect": None}, {"faceaffect": {"a": 1}}, [1]):
        torch.save(plain, foreign)
        with pytest.raises(CheckpointError, match=r"(not a|no) checkpoint of faceaffect"):
            load_model(foreign)
