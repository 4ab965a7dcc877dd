import re
import subprocess
import sys
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor

from batches import FULL, face_batch
from faceaffect import LabelSchema, create_model, load_model
from faceaffect.data.batch import FaceBatch
from faceaffect.errors import CheckpointError, RecipeError
from faceaffect.models.auformer import AUFormer, ExpertViT
from faceaffect.models.moke import MoKEGroup, _windowed_softmax, local_attention
from faceaffect.networks.backbones import create_backbone
from faceaffect.networks.losses import (
    bce_loss,
    mdwa_loss,
    weighted_asymmetric_loss,
    weighted_dice_loss,
)
from faceaffect.optim import Optim
from faceaffect.recipe import load_recipe
from plain_moke import PlainGroup, PlainViT

pytestmark = pytest.mark.filterwarnings("ignore:.*frozen with random weights")

BP4D = LabelSchema(aus=(1, 2, 4, 6, 7, 10, 12, 14, 15, 17, 23, 24))
GRID = (5, 7)
SWITCHES: dict[str, dict[str, Any]] = {
    "whole": {},
    "no mrf": {"mrf": False},
    "no ca": {"ca": False},
    "convpass": {"mrf": False, "ca": False, "cls_mode": "convpass"},
    "global": {"ca_scope": "global"},
    "wide window": {"ca_window": 5},
    "class token": {"cls_mode": "convpass"},
    "narrow": {"expert_width": 1},
    "wide": {"expert_width": 16},
}


@pytest.fixture
def double() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def groups(count: int, experts: int = 3, width: int = 32, **switches: Any) -> list[MoKEGroup]:
    """Return groups with all weights away from their start."""
    torch.manual_seed(0)
    made = [MoKEGroup(width, experts, dropout=0.0, **switches) for _ in range(count)]
    for parameter in (p for group in made for p in group.parameters()):
        torch.nn.init.normal_(parameter, std=0.1)
    return made


def run(chain: list[Any], tokens: Tensor, stream: bool) -> tuple[Tensor, Tensor]:
    """Return tokens after a chain of groups, and each expert's last output over the patches."""
    before = None
    for group in chain:
        term, left = group(tokens, GRID, before if stream else None)
        tokens = tokens + term
        before = left
    if isinstance(left, list):
        return tokens, torch.stack([out[:, 2:].mean(1) for out in left], 1)
    return tokens, left.pooled(GRID[0] * GRID[1])


def gradients(group: MoKEGroup) -> PlainGroup:
    """Return plain experts that hold a group's gradients in place of its weights."""
    copy = deepcopy(group)
    for parameter, trained in zip(copy.parameters(), group.parameters(), strict=True):
        parameter.data = trained.grad
    return PlainGroup(copy)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("stream", [True, False], ids=["stream", "no stream"])
@pytest.mark.parametrize("switches", SWITCHES.values(), ids=SWITCHES)
def test_equals_the_plain_experts(switches: dict[str, Any], stream: bool) -> None:
    fast = groups(3, **switches)
    plain = [PlainGroup(group) for group in fast]
    tokens = torch.randn(2, 2 + GRID[0] * GRID[1], 32, requires_grad=True)
    copy = tokens.detach().clone().requires_grad_()
    for chain, x in ((fast, tokens), (plain, copy)):
        out, pooled = run(chain, x, stream)
        (out.sin().sum() + pooled.cos().sum()).backward()
    for ours, theirs in zip(run(fast, tokens, stream), run(plain, copy, stream), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(tokens.grad, copy.grad, rtol=1e-10, atol=1e-10)
    for group, reference in zip(fast, plain, strict=True):
        pairs = zip(gradients(group).parameters(), reference.parameters(), strict=True)
        for ours, theirs in pairs:
            torch.testing.assert_close(ours.data, theirs.grad, rtol=1e-10, atol=1e-10)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("stream", [True, False], ids=["stream", "no stream"])
def test_the_whole_network_equals_the_plain_one(stream: bool) -> None:
    backbone = create_backbone("test_vit", image_size=80, frozen=True, args={"depth": 3})
    chain = iter(groups(6, width=backbone.width))
    vit = ExpertViT(backbone, lambda width: next(chain), au_stream=stream)
    plain = PlainViT(vit)
    image = torch.randn(2, 3, 80, 80, requires_grad=True)
    copy = image.detach().clone().requires_grad_()
    tokens, streams = vit(image)
    reference, given = plain(copy)
    patches = backbone.grid[0] * backbone.grid[1]
    pooled = [left.pooled(patches) for left in streams]
    expected = [torch.stack([k[:, -patches:].mean(1) for k in left], 1) for left in given]
    for out, means in ((tokens, pooled), (reference, expected)):
        (out.sin().sum() + sum(mean.cos().sum() for mean in means)).backward()
    for ours, theirs in zip((tokens, *pooled), (reference, *expected), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(image.grad, copy.grad, rtol=1e-10, atol=1e-10)
    for block, references in zip(vit.groups, plain.groups, strict=True):
        for position, group in block.items():
            pairs = zip(
                gradients(group).parameters(), references[position].parameters(), strict=True
            )
            for ours, theirs in pairs:
                torch.testing.assert_close(ours.data, theirs.grad, rtol=1e-10, atol=1e-10)
    with torch.no_grad():
        vit.au_stream = not stream
        other, _ = vit(image)
    assert (other - tokens).abs().max() > 0.01 * tokens.abs().max()


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("grid", [(4, 3), (1, 1), (2, 6)])
@pytest.mark.parametrize("radius", [1, 2])
def test_local_attention_has_the_right_gradient_in_both_forms(
    grid: tuple[int, int], radius: int
) -> None:
    torch.manual_seed(0)
    maps = [torch.randn(2, *grid, 3, requires_grad=True) for _ in range(3)]
    assert torch.autograd.gradcheck(lambda *x: local_attention(*x, radius), maps)
    torch.testing.assert_close(
        local_attention(*maps, radius), _windowed_softmax(*maps, radius), rtol=1e-10, atol=1e-10
    )


def test_local_attention_is_finite_for_scores_that_overflow() -> None:
    q, k, v = (torch.randn(1, 4, 4, 2) * 1e3 for _ in range(3))
    for leaf in (q, k, v):
        leaf.requires_grad_()
    out = local_attention(q, k, v, 1)
    out.sum().backward()
    assert all(torch.isfinite(t).all() for t in (out, q.grad, k.grad, v.grad))


def test_an_even_window_is_refused() -> None:
    with pytest.raises(ValueError, match="ca_window: 4 is even"):
        MoKEGroup(32, 3, ca_window=4)


def test_a_class_token_gets_a_term_only_in_convpass_mode() -> None:
    tokens = torch.randn(2, 2 + 35, 32)
    for mode in ("none", "convpass"):
        term, _ = groups(1, cls_mode=mode)[0](tokens, GRID)
        assert bool(term[:, :2].any()) == (mode == "convpass")
        assert term[:, 2:].any()


SMALL = {"embed_dim": 48, "depth": 2, "num_heads": 3}
VITS: dict[str, tuple[str, dict[str, Any]]] = {
    "class token": ("test_vit", {}),
    "pooled": ("test_vit2", {}),
    "attention pooling": ("test_vit3", {}),
    "registers, layer scale": ("vit_tiny_patch16_224", {"reg_tokens": 4, "init_values": 0.5}),
    "no class token": ("vit_tiny_patch16_224", {"class_token": False, "global_pool": "avg"}),
    "rotary": ("eva02_tiny_patch14_224", SMALL),
    "mixed rotary": ("vit_small_patch16_rope_mixed_224", SMALL),
}


@pytest.mark.parametrize(("name", "args"), VITS.values(), ids=VITS)
def test_a_new_model_gives_the_frozen_features_bit_for_bit(name: str, args: dict[str, Any]) -> None:
    torch.manual_seed(0)
    args = {**SMALL, **args} if "tiny" in name else args
    backbone = create_backbone(name, image_size=112, frozen=True, args=args)
    image = torch.randn(2, 3, 112, 112)
    for first in (0, 1):
        model = ExpertViT(backbone, lambda width: MoKEGroup(width, 4), first_block=first).train()
        with torch.no_grad():
            tokens, streams = model(image)
            assert torch.equal(tokens, backbone.net.forward_features(image))
        assert len(streams) == len(model.groups) == len(backbone.net.blocks) - first


@pytest.mark.parametrize(("name", "first"), [("lite0_vit", 0), ("vit_tiny_patch16_224", 1)])
def test_tokens_of_what_is_frozen_ahead_stand_for_the_image(name: str, first: int) -> None:
    torch.manual_seed(0)
    backbone = {"name": name, "image_size": 112, "args": {"depth": 2}}
    model = AUFormer(FULL, backbone=backbone, expert_width=2, dropout=0.0, first_block=first)
    batch = face_batch(FULL, size=112)
    seen = model.frozen_features(batch)
    assert seen is not None
    assert seen["tokens"].shape == (len(batch["id"]), 50, 192)
    blank = {**batch, "image": torch.zeros_like(batch["image"]), "features": seen}
    assert torch.equal(model.loss(batch), model.loss(blank))  # type: ignore[arg-type]
    for name, answer in model.predict(batch).items():
        assert torch.equal(answer, model.predict(blank)[name])  # type: ignore[arg-type]


def test_patches_cut_by_a_linear_layer_and_tokens_with_places_are_not_kept() -> None:
    model = AUFormer(FULL, backbone={"name": "test_vit", "image_size": 32}, expert_width=2)
    assert model.frozen_features(face_batch(FULL, size=32)) is None
    rotary = {"name": "eva02_tiny_patch14_224", "image_size": 56, "args": SMALL}
    model = AUFormer(FULL, backbone=rotary, expert_width=2, first_block=1)
    assert model.frozen_features(face_batch(FULL, size=56)) is None


def expected(h: int, width: int = 768) -> int:
    """Return the parameters of one expert, the sum of its layers' weights and biases."""
    down, up, square = width * h + h, h * width + width, h * h + h
    conv, fuse = 9 * h * h + h, 3 * h * h + h
    return down + conv + 3 * conv + fuse + 3 * square + up


@pytest.mark.parametrize(
    ("h", "one", "twelve"),
    [(2, 4026, 1.16), (4, 7620, 2.19), (8, 15816, 4.56), (16, 36240, 10.44), (32, 93216, 26.85)],
)
def test_parameter_counts(h: int, one: int, twelve: float) -> None:
    count = sum(p.numel() for p in MoKEGroup(768, 12, expert_width=h).parameters())
    assert expected(h) == one
    assert count == 12 * one
    assert round(24 * count / 1e6, 2) == twelve


def build(schema: LabelSchema = BP4D, **args: Any) -> AUFormer:
    torch.manual_seed(0)
    model = create_model("auformer", schema, **{"backbone": "test_vit", **args})
    assert isinstance(model, AUFormer)
    model.prepare(
        {
            "au_rate": {name: 0.1 + 0.05 * i for i, name in enumerate(schema.au_names)},
            "expression_count": {name: 10 * (i + 1) for i, name in enumerate(schema.expressions)},
        }
    )
    return model


def move(model: AUFormer) -> AUFormer:
    """Take the experts away from the start, where their outputs are zero."""
    for name, parameter in model.vit.groups.named_parameters():
        if ".up" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return model


def test_a_vit_base_has_the_count_of_the_formula() -> None:
    with torch.device("meta"):
        group = MoKEGroup(768, 12)
    model = build(backbone="vit_base_patch16_224.augreg_in21k")
    trained = sum(p.numel() for p in model.vit.parameters() if p.requires_grad)
    assert trained == 24 * sum(p.numel() for p in group.parameters()) == 24 * 12 * expected(8)
    assert 18e6 < 4 * trained < 18.5e6  # bytes of a checkpoint, heads aside


def test_the_mini_recipe_trains_a_third_at_most_of_what_the_backbone_has() -> None:
    options = load_recipe("mini_auformer")["model"]
    data = load_recipe("mini_auformer")["data"]
    schema = LabelSchema(tuple(data["aus"]), tuple(data["expressions"]), data["valence_arousal"])
    model = create_model(schema=schema, **options)
    experts = sum(p.numel() for p in model.vit.groups.parameters())
    trained = sum(p.numel() for p in model.vit.parameters() if p.requires_grad)
    assert trained == experts
    assert 0 < experts < 1 / 3 * sum(p.numel() for p in model.vit.backbone.parameters())


def test_gradients_reach_every_expert_and_nothing_frozen() -> None:
    model = move(build(FULL, aux_layers="all")).train()
    model.loss(face_batch(FULL)).backward()
    for name, parameter in model.named_parameters():
        if name.startswith("vit.backbone."):
            assert parameter.grad is None, name
            continue
        assert parameter.grad is not None, name
    for group in (g for block in model.vit.groups for g in block.values()):
        for expert in gradients(group).experts:
            size = {name: float(g.detach().abs().max()) for name, g in expert.named_parameters()}
            # CA's key bias moves all scores of a softmax together: what it gets is rounding.
            assert size.pop("qkv.3") < 1e-6 * max(size.values())
            assert min(size.values()) > 1e-4 * max(size.values()), size


def test_training_leaves_the_vit_as_it_was_and_lowers_the_loss() -> None:
    model = build().train()
    before = {k: v.clone() for k, v in model.vit.backbone.state_dict().items()}
    batch = face_batch(BP4D)
    optimiser = torch.optim.AdamW(model.parameter_groups(), 3e-3)
    losses = []
    for _ in range(8):
        loss = model.loss(batch)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    for key, value in model.vit.backbone.state_dict().items():
        assert value.numpy().tobytes() == before[key].numpy().tobytes(), key
    assert not any(
        module.training
        for module in model.vit.backbone.modules()
        if module is not model.vit.backbone
    )


def test_the_loss_is_the_sum_of_its_terms() -> None:
    model = build(dropout=0.0, aux_loss=0.5, dice_loss=2.0, margin=0.1, gamma_mode="increasing")
    move(model).train()
    batch = face_batch(BP4D)
    batch["au"][0, 3] = torch.nan
    logits, streams = model.look(batch["image"])
    options = {"weight": model.criterion.weight, "margin": 0.1, "gamma": model.criterion.gamma}
    aux = model.aux_heads[0](streams[-1].pooled(100))
    total = mdwa_loss(logits["au"], batch["au"], **options)
    total = total + 2 * weighted_dice_loss(logits["au"], batch["au"], weight=model.criterion.weight)
    total = total + 0.5 * mdwa_loss(aux, batch["au"], **options)
    torch.testing.assert_close(model.loss(batch), total)


def test_heads_have_a_learning_rate_of_their_own() -> None:
    model = build(head_lr=0.25)
    model.optim = Optim(lr=0.01)
    rates = {id(p): group["lr"] for group in model.parameter_groups() for p in group["params"]}
    for name, parameter in model.named_parameters():
        expected = 0.01 * (0.25 if name.startswith("heads.") else 1)
        assert rates.get(id(parameter)) == (expected if parameter.requires_grad else None), name


@pytest.mark.parametrize("weights", [True, False])
@pytest.mark.parametrize(
    ("name", "function"), [("wa", weighted_asymmetric_loss), ("bce", bce_loss)]
)
def test_other_losses_of_the_aus(name: str, function: Any, weights: bool) -> None:
    model = move(build(dropout=0.0, au_loss=name, class_weights=weights)).train()
    batch = face_batch(BP4D)
    logits, streams = model.look(batch["image"])
    weight = build().criterion.weight if weights else None
    aux = model.aux_heads[0](streams[-1].pooled(100))
    total = function(logits["au"], batch["au"], weight=weight)
    total = total + weighted_dice_loss(logits["au"], batch["au"], weight=weight)
    total = total + function(aux, batch["au"], weight=weight)
    torch.testing.assert_close(model.loss(batch), total)
    assert not torch.isclose(model.loss(batch), build().train().loss(batch))


def test_weights_and_gammas_come_from_the_training_part() -> None:
    model = build(FULL)
    assert model.criterion.weight.argmax() == 0  # AU1, the rarest in the statistics
    torch.testing.assert_close(model.criterion.weight.sum(), torch.tensor(3.0))
    assert model.criterion.gamma.tolist() == pytest.approx([2.0, 1.5, 1.0])
    assert build(FULL, gamma_mode="const", gamma_low=1.5).criterion.gamma.tolist() == [1.5] * 3
    assert build(FULL, class_weights=False).criterion.weight.tolist() == [1.0] * 3


def test_without_aus_there_is_one_expert_per_expression() -> None:
    schema = LabelSchema(expressions=("neutral", "happiness"), valence_arousal=True)
    model = build(schema)
    assert model.vit.groups[0]["mlp"].experts == 2
    batch = face_batch(schema)
    batch["expression"][0] = -1
    assert torch.isfinite(model.loss(batch))
    with pytest.raises(RecipeError, match="AUs or expression classes"):
        build(LabelSchema(valence_arousal=True))


def test_switches() -> None:
    count = {
        name: sum(p.numel() for p in build(**args).vit.groups.parameters())
        for name, args in {
            "all": {},
            "attention": {"positions": ["attention"]},
            "mlp": {"positions": ["mlp"]},
            "shared": {"shared_experts": True},
            "no mrf": {"mrf": False},
            "no ca": {"ca": False},
            "upper": {"first_block": 2},
        }.items()
    }
    assert count["upper"] * 6 == count["all"] * 4
    assert count["all"] == 2 * count["attention"] == 2 * count["mlp"] == 12 * count["shared"]
    assert count["no mrf"] < count["no ca"] < count["all"]
    assert list(build(positions="mlp").vit.groups[0]) == ["mlp"]
    batch = face_batch(BP4D)
    with torch.no_grad():
        narrow, wide = (move(build(ca_window=edge)).eval().predict(batch)["au"] for edge in (3, 5))
    assert not torch.equal(narrow, wide)
    assert len(build(aux_loss=0.0).aux_heads) == 0
    assert len(build(aux_layers="all").aux_heads) == 6
    for args in (
        {"shared_experts": True},
        {"positions": ["mlp"]},
        {"readout": "mean"},
        {"readout": "grid:2"},
        {"au_stream": False},
        {"cls_mode": "convpass"},
        {"ca_scope": "global"},
    ):
        model = build(**args)
        model.loss(face_batch(BP4D)).backward()


def test_wrong_options_are_named() -> None:
    with pytest.raises(RecipeError, match="beside a frozen ViT"):
        build(backbone={"name": "test_vit", "frozen": False})
    with pytest.raises(RecipeError, match=r"model\.readout: 'patch' is not pooled"):
        build(readout="patch")
    with pytest.raises(RecipeError, match="not ResNet"):
        build(backbone="test_resnet")
    for positions in (["atention"], [], "mhsa", ["attention", "both"]):
        with pytest.raises(RecipeError, match=r"model\.positions: .*choose from attention, mlp"):
            build(positions=positions)
    for first in (-1, 6):
        with pytest.raises(RecipeError, match=r"model\.first_block: .* blocks 0 to 5 of test_vit"):
            build(first_block=first)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"expert_width": 0}, "expert_width: 0 is not positive"),
        ({"ca_window": 4}, "ca_window: 4 is not odd and positive"),
        ({"ca_window": -1}, "ca_window: -1 is not odd and positive"),
        ({"dropout": 1.0}, r"dropout: 1.0 is not in \[0, 1\)"),
        ({"dropout": -0.1}, r"dropout: -0.1 is not in \[0, 1\)"),
        ({"aux_loss": -1.0}, "aux_loss: -1.0 is negative"),
        ({"dice_loss": -0.5}, "dice_loss: -0.5 is negative"),
        ({"head_lr": -0.5}, "head_lr: -0.5 is negative"),
        ({"margin": 1.0}, r"margin: 1.0 is not in \[0, 1\)"),
        ({"margin": -0.05}, r"margin: -0.05 is not in \[0, 1\)"),
        ({"margin": float("nan")}, "margin: nan is no finite number"),
        ({"gamma_low": 0.5}, "gamma_low: 0.5 is below 1"),
        ({"gamma_low": 3.0}, "gamma_high: 2.0 is below gamma_low, 3.0"),
        ({"au_loss": "focal"}, "au_loss: .*focal"),
    ],
)
def test_values_out_of_range_are_named(args: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=rf"^model\.{message}"):
        build(**args)


def test_grad_checkpointing_gives_the_same_gradients() -> None:
    batch = face_batch(BP4D)
    results = []
    for checkpointing in (False, True):
        model = build(
            dropout=0.0, backbone={"name": "test_vit", "grad_checkpointing": checkpointing}
        )
        move(model).train().loss(batch).backward()
        results.append([p.grad for p in model.vit.groups.parameters()])
    torch.testing.assert_close(*results)


def test_bfloat16_agrees_with_float32() -> None:
    model = move(build()).eval()
    batch = face_batch(BP4D)
    with torch.no_grad():
        full = model.look(batch["image"])[0]["au"]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            half = model.look(batch["image"])[0]["au"].float()
    torch.testing.assert_close(half, full, rtol=0, atol=0.05 * float(full.abs().max()))


def step(
    model: AUFormer, batch: FaceBatch, *, half: bool = False, compiled: bool = False
) -> tuple[float, dict[str, Tensor]]:
    """Return the loss and the gradients of what is trained."""
    model.zero_grad()
    loss = torch.compile(model.loss, fullgraph=True) if compiled else model.loss
    with torch.autocast(batch["image"].device.type, dtype=torch.bfloat16, enabled=half):
        value = loss(batch)
    value.backward()
    trained = {n: p.grad.clone() for n, p in model.named_parameters() if p.requires_grad}
    return value.item(), trained


def assert_near(ours: tuple[float, dict[str, Tensor]], exact: tuple[float, dict[str, Tensor]],
                part: float) -> None:  # fmt: skip
    """Compare losses, and each parameter's gradient by the length of the difference."""
    assert ours[0] == pytest.approx(exact[0], rel=part)
    assert ours[1].keys() == exact[1].keys()
    for name, gradient in exact[1].items():
        assert (ours[1][name] - gradient).norm() <= part * gradient.norm(), name


def test_a_step_in_bfloat16_has_the_gradients_of_float32() -> None:
    model = move(build(dropout=0.0, aux_layers="all")).train()
    batch = face_batch(BP4D)
    assert_near(step(model, batch, half=True), step(model, batch), 0.05)


@pytest.mark.parametrize(
    "device",
    [pytest.param("cpu", marks=pytest.mark.slow), pytest.param("cuda", marks=pytest.mark.gpu)],
)
def test_a_compiled_step_has_the_gradients_of_an_eager_one(device: str) -> None:
    tiny = {"name": "test_vit", "image_size": 48, "args": {"depth": 1}}
    model = move(build(dropout=0.0, backbone=tiny if device == "cpu" else "test_vit")).train()
    batch = face_batch(BP4D)
    model = model.to(device)
    batch["image"], batch["au"] = batch["image"].to(device), batch["au"].to(device)
    exact = step(model, batch)
    assert_near(step(model, batch, compiled=True), exact, 1e-4 if device == "cpu" else 0.01)
    if device == "cuda":  # on a CPU another graph takes a minute to compile
        assert_near(step(model, batch, half=True), exact, 0.05)
        assert_near(step(model, batch, compiled=True, half=True), exact, 0.05)


@pytest.mark.slow
def test_the_benchmark_compiles_all_it_compares_and_takes_memory_of_one_model() -> None:
    script = Path(__file__).parents[2] / "benchmarks" / "auformer.py"
    small = "--backbone test_vit --size 48 --aus 2 --batch 2 --rounds 1 --compile eager"
    done = subprocess.run(
        [sys.executable, script, *small.split()], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    graphs = re.search(r"graphs compiled +(\d+)", done.stdout)
    assert graphs is not None
    assert int(graphs[1]) == 4
    assert re.search(
        r"memory of a step / full fine-tuning +\d\.\d+ +[\d.]+ / [\d.]+ GiB", done.stdout
    )


def test_a_checkpoint_holds_experts_and_heads_and_knows_its_backbone(tmp_path: Path) -> None:
    import lightning as L

    weights, other = tmp_path / "vit.pt", timm.create_model("test_vit")
    torch.save(timm.create_model("test_vit").state_dict(), weights)
    model = move(build(backbone={"name": "test_vit", "weights": str(weights)}))
    trainer = L.Trainer(logger=False, accelerator="cpu", enable_model_summary=False)
    trainer.strategy.connect(model)
    file = tmp_path / "model.ckpt"
    trainer.save_checkpoint(file, weights_only=True)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    stored = torch.load(file, weights_only=True)["state_dict"]
    assert sum(value.numel() for value in stored.values()) == trained
    assert not any(key.startswith("vit.backbone.") for key in stored)
    batch = face_batch(BP4D)
    with torch.no_grad():
        assert torch.equal(load_model(file).predict(batch)["au"], model.eval().predict(batch)["au"])
    torch.save(other.state_dict(), weights)
    with pytest.raises(CheckpointError, match=r"frozen|fingerprint"):
        load_model(file)
