"""EMERT: reversal, masks, padding, the two label sets, and what each modality is there for."""

from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from batches import face_batch, statistics
from faceaffect import LabelSchema, create_model
from faceaffect.data.base import FaceDataModule, create_data
from faceaffect.data.batch import FaceBatch
from faceaffect.errors import DataError, RecipeError
from faceaffect.models.emert import Emert
from faceaffect.models.emert_parts import CrossLayer, masked_mean, placed, reverse_gradient

BOTH = LabelSchema(expressions=("calm", "angry"), felt=("calm", "angry", "sad"), intensity=True)
TINY: dict[str, Any] = {
    "backbone": "test_resnet", "width": 8, "projected": 4, "lstm_layers": 1, "depth": 1,
    "heads": 2, "head_width": 4,
}  # fmt: skip


def emert(schema: LabelSchema = BOTH, **args: Any) -> Emert:
    torch.manual_seed(0)
    model = create_model("emert", schema, **{**TINY, **args})
    assert isinstance(model, Emert)
    return model


def clips(n: int = 4, frames: int = 3) -> FaceBatch:
    batch = face_batch(BOTH, n, 32, clips=frames)
    g = torch.Generator().manual_seed(1)
    batch["frame_mask"] = torch.ones(n, frames, dtype=torch.bool)
    batch["felt"] = torch.arange(n) % 3
    batch["eyes"] = torch.randn(n, 6, 4, generator=g)
    batch["fixations"] = torch.rand(n, 5, 2, generator=g)
    return batch


def test_the_reversed_gradient_makes_invariant_features_worse_and_the_discriminator_better() -> (
    None
):
    x = torch.randn(5, 3, requires_grad=True)
    weight = torch.randn(3, 2, requires_grad=True)
    target = torch.tensor([0, 1, 1, 0, 1])
    plain = torch.autograd.grad(F.cross_entropy(x @ weight, target), (x, weight))
    turned = torch.autograd.grad(F.cross_entropy(reverse_gradient(x) @ weight, target), (x, weight))
    torch.testing.assert_close(turned[0], -plain[0])
    torch.testing.assert_close(turned[1], plain[1])


def test_within_the_model_only_invariant_projections_get_it_reversed() -> None:
    model = emert(dropout=0.0).eval()
    features, masks = model.encode(clips())
    parts = {name: value.detach() for name, value in features.items()}
    masks = dict(masks)

    def gradients(adversarial: float, specific: float) -> tuple[Tensor, Tensor, Tensor]:
        model.adversarial_weight, model.specific_weight = adversarial, specific
        invariant = {n: model.invariant(v) for n, v in parts.items()}
        own = {n: model.specific[n](v) for n, v in parts.items()}
        model.zero_grad()
        loss = model.telling_apart(invariant, own, masks)
        loss.backward()
        grads = [model.invariant[0].weight.grad, model.specific["eyes"][0].weight.grad]
        shared, only = (torch.zeros(1) if g is None else g.clone() for g in grads)
        return loss.detach(), shared, only

    def loss_after(step: float) -> float:
        """Of the discriminator on invariant features, moved along their gradient."""
        _, shared, _ = gradients(1.0, 0.0)
        with torch.no_grad():
            model.invariant[0].weight -= step * shared
        value = float(gradients(1.0, 0.0)[0])
        with torch.no_grad():
            model.invariant[0].weight += step * shared
        return value

    assert not gradients(1.0, 0.0)[2].any()  # specific features are not part of the reversed loss
    assert not gradients(0.0, 1.0)[1].any()
    here = float(gradients(1.0, 0.0)[0])
    assert loss_after(0.05) > here  # a step downhill, as an optimiser takes it, hides the modality
    assert gradients(0.0, 1.0)[2].any()


def test_naming_the_modality_is_the_mean_cross_entropy_over_all_that_are_there() -> None:
    model = emert(adversarial_weight=0.0, specific_weight=0.7).eval()
    g = torch.Generator().manual_seed(0)
    parts = {name: torch.randn(2, 3, 4, generator=g) for name in model.modalities}
    masks = {name: torch.ones(2, 3, dtype=torch.bool) for name in parts}
    masks["eyes"][1] = False
    masks["face"][0, 2] = False
    total, count = 0.0, 0
    for index, (name, value) in enumerate(parts.items()):
        for row in range(2):
            known = value[row][masks[name][row]]
            if len(known):
                logits = model.discriminator(known.mean(0, keepdim=True))
                total += float(F.cross_entropy(logits, torch.tensor([index])).detach())
                count += 1
    found = model.telling_apart(parts, parts, masks)
    assert float(found.detach()) == pytest.approx(0.7 * total / count, rel=1e-5)


def test_a_sample_with_one_modality_says_nothing_about_telling_them_apart() -> None:
    model = emert().eval()
    batch = clips()
    del batch["eyes"], batch["fixations"]
    assert float(model(batch)[1].detach()) == 0
    assert emert(modalities=["face"]).discriminator is None


def test_the_loss_is_the_sum_of_its_parts_by_hand() -> None:
    model = emert(adversarial_weight=0.0, specific_weight=0.0, intensity_weight=2.0).eval()
    batch = clips()
    batch["felt"][1] = -1
    batch["expression"][2] = -1
    batch["intensity"][0] = torch.nan
    pooled = model(batch)[0]
    logits = model.heads(pooled)
    felt, shown = batch["felt"] >= 0, batch["expression"] >= 0
    known = ~batch["intensity"][:, 0].isnan()
    grade, exact = logits["intensity"][known], batch["intensity"][known, 0]
    expected = (
        F.cross_entropy(logits["felt"][felt], batch["felt"][felt])
        + F.cross_entropy(logits["expression"][shown], batch["expression"][shown])
        + 2 * F.cross_entropy(grade, exact.round().long())
        + 2 * F.smooth_l1_loss(grade.softmax(1) @ torch.arange(4.0), exact)
    )
    torch.testing.assert_close(model.loss(batch), expected)


def test_what_fills_up_a_clip_changes_nothing() -> None:
    model = emert().eval()
    short = clips(2, 3)
    long = clips(2, 3)
    noise = torch.randint(0, 256, (2, 4, 3, 32, 32), dtype=torch.uint8)
    long["video"] = torch.cat([short["video"], noise], 1)
    long["frame_mask"] = torch.cat([short["frame_mask"], torch.zeros(2, 4, dtype=torch.bool)], 1)
    for name in ("eyes", "fixations"):
        value = short[name]
        fill = torch.full((2, 7, value.shape[2]), torch.nan)
        long[name] = torch.cat([value, fill], 1)
    with torch.no_grad():
        one, other = model.predict(short), model.predict(long)
    for task in BOTH.tasks:
        torch.testing.assert_close(one[task], other[task])


def test_answers_do_not_depend_on_the_others_of_a_batch() -> None:
    model = emert().eval()
    batch = clips(3, 4)
    batch["frame_mask"][1, 2:] = False
    batch["eyes"][1, 3:] = torch.nan
    batch["fixations"][2] = torch.nan
    alone = FaceBatch(id=["a"], subject=["b"], video=batch["video"][1:2, :2],
                      frame_mask=torch.ones(1, 2, dtype=torch.bool), eyes=batch["eyes"][1:2, :3],
                      fixations=batch["fixations"][1:2])  # fmt: skip
    with torch.no_grad():
        together, single = model.predict(batch), model.predict(alone)
    torch.testing.assert_close(together["felt"][1:2], single["felt"])


def test_blinks_count_as_the_mean_of_what_is_measured() -> None:
    model = emert().eval()
    model.prepare(
        statistics(LabelSchema(expressions=BOTH.expressions))
        | {"eyes": {"mean": [1.0, 2.0, 3.0, 4.0], "std": [2.0, 1.0, 1.0, 0.5]}}
    )
    batch = clips()
    batch["eyes"][:, 2, :2] = torch.nan
    filled = dict(batch)
    filled["eyes"] = batch["eyes"].clone()
    filled["eyes"][:, 2, :2] = torch.tensor([1.0, 2.0])
    with torch.no_grad():
        torch.testing.assert_close(model.predict(batch)["felt"], model.predict(filled)["felt"])
    encoder = model.encoders["eyes"]
    with torch.no_grad():
        expected = encoder.lstm((filled["eyes"] - encoder.mean) / encoder.std)[0]
        torch.testing.assert_close(encoder(batch)[0], expected)


def test_attention_is_that_of_torch_over_the_known_sources() -> None:
    torch.manual_seed(0)
    layer = CrossLayer(8, 2, 4, 0.0).eval()
    reference = nn.MultiheadAttention(8, 2, bias=False, batch_first=True).eval()
    with torch.no_grad():
        reference.in_proj_weight.copy_(torch.cat([to.weight for to in layer.maps]))
        reference.out_proj.weight.copy_(layer.out[0].weight)
        layer.out[0].bias.zero_()
    query, source = torch.randn(2, 3, 8), torch.randn(2, 5, 8)
    mask = torch.tensor([[True, True, False, True, False], [True] * 5])
    with torch.no_grad():
        q, k, v = (norm(x) for norm, x in zip(layer.norms, (query, source, source), strict=True))
        seen = query + reference(q, k, v, key_padding_mask=~mask)[0]
        torch.testing.assert_close(layer(query, source, mask), seen + layer.feed(seen))
        nothing = layer(query, source, torch.zeros(2, 5, dtype=torch.bool))
    assert torch.isfinite(nothing).all()


def test_positions_of_a_full_length_are_the_learned_ones_and_others_lie_between() -> None:
    table = torch.arange(8.0)[:, None]
    whole = placed(table, torch.ones(1, 8, dtype=torch.bool))
    torch.testing.assert_close(whole[0, :, 0], torch.arange(8.0))
    half = placed(table, torch.ones(1, 4, dtype=torch.bool))
    torch.testing.assert_close(half[0, :, 0], torch.tensor([0.0, 2.0, 4.0, 6.0]))
    twice = placed(table, torch.ones(1, 16, dtype=torch.bool))
    torch.testing.assert_close(twice[0, :, 0], (torch.arange(16.0) / 2).clamp(max=7))
    padded = placed(table, torch.tensor([[True] * 4 + [False] * 3]))
    torch.testing.assert_close(padded[:, :4], half)
    assert not masked_mean(torch.ones(1, 2, 3), torch.zeros(1, 2, dtype=torch.bool)).any()


def test_eyes_change_what_is_answered_and_without_them_they_cannot() -> None:
    batch, other = clips(), clips()
    other["eyes"] = other["eyes"].flip(0)
    with torch.no_grad():
        model = emert().eval()
        assert not torch.equal(model.predict(batch)["felt"], model.predict(other)["felt"])
        blind = emert(modalities=["face"]).eval()
        assert torch.equal(blind.predict(batch)["felt"], blind.predict(other)["felt"])


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"modalities": ["face", "voice"]}, "'voice' is none; they are face, eyes, fixations"),
        ({"modalities": ["eyes", "eyes"]}, "each once"),
        ({"modalities": []}, "at least one"),
        ({"depth": 0}, "model.depth: 0 is not positive"),
    ],
)
def test_wrong_arguments_are_named(args: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        emert(**args)


def test_another_tracker_is_named_with_the_way_out() -> None:
    batch = clips()
    batch["eyes"] = torch.zeros(4, 6, 39)
    with pytest.raises(DataError, match=r"39 values a step .* 4: model\.eye_values=39"):
        emert().loss(batch)


def world(**args: Any) -> FaceDataModule:
    of = {
        "n": 40,
        "subjects": 10,
        "image_size": 32,
        "clips": 2,
        "aus": [],
        "valence_arousal": False,
    }
    return create_data("synthetic", batch_size=8, num_workers=0, **{**of, **args})


def trainer(**args: Any) -> L.Trainer:
    return L.Trainer(
        max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, accelerator="cpu", **args,
    )  # fmt: skip


def test_data_without_eyes_is_refused_for_training_and_told_of_in_a_test(
    capsys: pytest.CaptureFixture[str],
) -> None:
    data = world()
    model = emert(data.schema)
    with pytest.raises(
        DataError, match=r"no eyes and no fixations: take model.modalities=\[face\]"
    ):
        trainer().fit(model, data)
    trainer().test(model, data, verbose=False)
    assert "answers are made without" in capsys.readouterr().out.replace("\n", " ")
    trainer(limit_train_batches=1, limit_val_batches=1).fit(
        emert(data.schema, modalities=["face"]), data
    )


def test_frozen_frames_are_looked_at_once_and_answers_stay() -> None:
    data = world(deceive=0.5)
    frozen = {"name": "test_resnet", "frozen": True}
    model = emert(data.schema, backbone=frozen)
    batch = next(iter(data.val_dataloader()))
    model.eval()
    seen = model.frozen_features(batch)
    assert seen["face"].shape[:2] == (len(batch["id"]), 2)
    kept = {k: v for k, v in batch.items() if k not in ("video", "frame_mask", "image")}
    with torch.no_grad():
        torch.testing.assert_close(
            model.predict(FaceBatch(**kept, features=seen))["felt"], model.predict(batch)["felt"]
        )
    batch["frame_mask"][0, 1] = False
    assert model.frozen_features(batch) is None
    assert emert(data.schema).frozen_features(batch) is None


def test_felt_and_shown_are_both_learned_from_one_batch() -> None:
    model = emert(dropout=0.0, token_dropout=0.0)
    batch = clips(6, 2)
    optimiser = torch.optim.Adam(model.parameters(), 2e-2)
    model.train()
    for _ in range(25):
        optimiser.zero_grad()
        model.loss(batch).backward()
        optimiser.step()
    with torch.no_grad():
        said = model.predict(batch)
    assert np.mean((said["felt"].argmax(1) == batch["felt"]).numpy()) > 0.8
    assert np.mean((said["expression"].argmax(1) == batch["expression"]).numpy()) > 0.8
