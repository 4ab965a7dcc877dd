import copy
import json
import math
import socket
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file
from timm.layers import resample_abs_pos_embed, use_fused_attn
from torch import nn

from faceaffect.errors import CheckpointError, RecipeError
from faceaffect.networks import assets, origins
from faceaffect.networks.backbones import (
    Backbone,
    create_backbone,
    fingerprint,
    frozen_keys,
    frozen_sources,
    list_backbones,
    load_asset_metadata,
    restoring,
    save_asset,
)

VIT = {"name": "test_vit", "image_size": 48}
CNN = {"name": "test_resnet", "image_size": 64}

pytestmark = pytest.mark.filterwarnings("ignore:.*frozen with random weights")


def faces(n: int = 2, size: int = 48, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, 3, size, size), dtype=torch.uint8, generator=generator)


@pytest.fixture
def vit_file(tmp_path: Path) -> Path:
    """A file of a whole test_vit at its own 160 px, classifier included, as timm writes it."""
    torch.manual_seed(1)
    path = tmp_path / "vit.safetensors"
    save_file(timm.create_model("test_vit").state_dict(), path)
    return path


@pytest.mark.parametrize(
    ("name", "size", "grid", "prefix", "width", "maps"),
    [
        ("test_vit", 48, (3, 3), 1, 64, [(64, 3, 3)] * 3),
        ("test_resnet", 64, (2, 2), 0, 96, [(48, 8, 8), (192, 4, 4), (96, 2, 2)]),
        ("test_convnext", 64, (2, 2), 0, 64, [(32, 8, 8), (48, 4, 4), (64, 2, 2)]),
        ("test_mambaout", 64, (2, 2), 0, 64, [(32, 8, 8), (48, 4, 4), (64, 2, 2)]),  # channels last
    ],
)
def test_any_network_gives_pooled_tokens_and_a_pyramid(
    name: str,
    size: int,
    grid: tuple[int, int],
    prefix: int,
    width: int,
    maps: list[tuple[int, int, int]],
) -> None:
    backbone = create_backbone(name, image_size=size).eval()
    x = backbone.normalise(faces())
    assert x.shape == (2, 3, size, size)
    assert (backbone.grid, backbone.num_prefix_tokens, backbone.width) == (grid, prefix, width)
    assert backbone.pooled(x).shape == (2, backbone.pooled_width)
    assert torch.equal(backbone(x), backbone.pooled(x))
    assert backbone.tokens(x).shape == (2, prefix + grid[0] * grid[1], width)
    pyramid = backbone.pyramid(x)
    assert [tuple(m.shape[1:]) for m in pyramid] == maps
    assert backbone.channels() == [m[0] for m in maps]
    # The deepest map holds the tokens, row by row.
    assert torch.allclose(backbone.tokens(x)[:, prefix:], pyramid[-1].flatten(2).mT, atol=1e-5)


def test_pyramid_of_a_vit_takes_evenly_spaced_blocks() -> None:
    backbone = create_backbone(**VIT).eval()
    seen = []
    for index, block in enumerate(backbone.net.blocks):
        block.register_forward_hook(lambda *_, index=index: seen.append((index, _[2])))
    x = backbone.normalise(faces())
    maps = backbone.pyramid(x, 3)
    blocks = dict(seen)
    assert len(blocks) == 6
    for level, index in enumerate((1, 3, 5)):
        tokens = backbone.net.norm(blocks[index])[:, 1:]
        assert torch.equal(maps[level].flatten(2).mT, tokens)
    with pytest.raises(RecipeError, match="6 feature levels"):
        backbone.pyramid(x, 7)


def test_normalise_agrees_with_pillow() -> None:
    coarse = faces(1, 8).float() / 255 * 160 + 48  # smooth: Pillow clips between its two passes
    image = F.interpolate(coarse, (80, 80), mode="bicubic").byte()
    for interpolation, resample in (("bicubic", Image.BICUBIC), ("bilinear", Image.BILINEAR)):
        backbone = create_backbone(**VIT)
        backbone.interpolation = interpolation
        pil = Image.fromarray(image[0].permute(1, 2, 0).numpy()).resize((48, 48), resample)
        expected = torch.from_numpy(np.array(pil)).permute(2, 0, 1) / 255
        mean, std = (torch.tensor(v).view(3, 1, 1) for v in (backbone.mean, backbone.std))
        difference = backbone.normalise(image)[0] - (expected - mean) / std
        assert difference.abs().max() < 1.5 / 255 / min(backbone.std)  # Pillow rounds to bytes


def test_normalise_keeps_pixels_of_the_right_size_and_the_float_type_of_the_network() -> None:
    backbone = create_backbone(**VIT)
    image = faces()
    back = backbone.normalise(image) * 0.5 + 0.5
    assert torch.allclose(back * 255, image.float(), atol=1e-3)
    assert backbone.bfloat16().normalise(image).dtype == torch.bfloat16
    with pytest.raises(TypeError, match="uint8"):
        backbone.normalise(image.float())


@pytest.mark.parametrize("options", [VIT, CNN])
def test_frozen_backbone_stays_in_eval_mode_and_byte_identical(options: dict[str, Any]) -> None:
    backbone = create_backbone(**options, frozen=True)
    model = nn.Sequential(backbone, nn.Linear(backbone.pooled_width, 2)).train()
    assert not any(module.training for module in backbone.modules())
    before = {k: v.clone() for k, v in backbone.state_dict().items()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.1)
    x = backbone.normalise(faces())
    for _ in range(3):
        optimizer.zero_grad()
        model(x).square().sum().backward()
        optimizer.step()
    assert all(torch.equal(v, before[k]) for k, v in backbone.state_dict().items())
    assert not backbone.pooled(x).requires_grad
    assert backbone.pooled(x.requires_grad_()).requires_grad  # saliency maps need it


@pytest.mark.parametrize(
    ("options", "first"),
    [
        (VIT, ("cls_token", "pos_embed", "patch_embed", "reg_token", "blocks.0.", "blocks.1.")),
        (CNN, ("conv1", "bn1", "layer1.", "layer2.")),
    ],
)
def test_first_stages_alone_can_be_frozen(options: dict[str, Any], first: tuple[str, ...]) -> None:
    args = options | {"args": {"depth": 4} if options is VIT else None}
    backbone = create_backbone(**args, frozen_stages=2).eval().train()
    assert not backbone.frozen
    before = {k: v.clone() for k, v in backbone.net.state_dict().items()}
    optimizer = torch.optim.AdamW(backbone.parameters(), lr=0.1, weight_decay=0.1)
    x = backbone.normalise(faces())
    for _ in range(2):
        backbone.pooled(x).square().sum().backward()
        optimizer.step()
    after = backbone.net.state_dict()
    same = {k for k in after if torch.equal(after[k], before[k])}
    assert {k for k in after if k.startswith(first)} == same
    assert len(after) > len(same) > 2


def test_stages_that_cannot_be_frozen_are_named() -> None:
    with pytest.raises(RecipeError, match=r"frozen_stages: 5 is not from 1 to 3.*frozen: true"):
        create_backbone(**CNN, frozen_stages=5)
    with pytest.raises(RecipeError, match="all of the backbone is frozen here"):
        create_backbone(**CNN, frozen_stages=1, frozen=True)


def test_what_is_added_to_a_frozen_backbone_trains(vit_file: Path) -> None:
    backbone = create_backbone(**VIT, weights=str(vit_file), frozen=True)
    block = backbone.net.blocks[0]
    block.mlp = nn.Sequential(block.mlp, nn.Dropout(0.5), nn.Linear(64, 64))
    model = nn.ModuleDict({"backbone": backbone}).train()
    assert [m.training for m in block.mlp] == [False, True, True]
    assert backbone.pooled(backbone.normalise(faces())).requires_grad
    stored = set(model.state_dict()) - frozen_keys(model)
    assert stored == {"backbone.net.blocks.0.mlp.2.weight", "backbone.net.blocks.0.mlp.2.bias"}
    assert "backbone.net.blocks.0.mlp.0.fc1.weight" in frozen_keys(model)
    assert set(model.state_dict()) - frozen_keys(copy.deepcopy(model)) == stored


def test_frozen_weights_count_as_named_only_if_something_names_them(vit_file: Path) -> None:
    random = nn.ModuleDict({"backbone": create_backbone(**VIT, frozen=True)})
    assert not frozen_sources(random)
    assert not frozen_keys(random)
    trained = nn.ModuleDict({"backbone": create_backbone(**VIT, weights=str(vit_file))})
    assert not frozen_sources(trained)
    trained["backbone"].freeze()
    source = frozen_sources(trained)["backbone."]
    assert (source["kind"], source["name"]) == ("file", str(vit_file))
    assert source["fingerprint"] == fingerprint(trained["backbone"].net.state_dict())


def test_fingerprint_tells_weights_apart() -> None:
    state = create_backbone(**CNN).state_dict()
    name = fingerprint(state)
    assert name == fingerprint(dict(reversed(state.items())))
    key = next(k for k, v in state.items() if v.ndim == 4)
    changed = state[key].clone()
    changed[-1, -1, -1, -1] += 1e-3
    assert fingerprint({**state, key: changed}) != name
    assert fingerprint({**state, key: state[key].flatten(1)}) != name
    assert fingerprint({**state, "more": torch.zeros(0)}) != name
    assert fingerprint({("x" + k): v for k, v in state.items()}) != name
    half = {k: v.half() if v.is_floating_point() else v for k, v in state.items()}
    assert fingerprint(half) == fingerprint({k: v.float() for k, v in half.items()})


def test_fingerprint_reads_samples_not_gigabytes() -> None:
    state = {"huge": torch.zeros(1).expand(10**9)}
    start = time.perf_counter()
    fingerprint(state)
    assert time.perf_counter() - start < 0.5


def test_asset_round_trip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assets, "ASSETS", tmp_path)
    args = {"depth": 2, "patch_size": 8}
    torch.manual_seed(0)
    made = create_backbone("test_vit", image_size=32, args=args).eval()
    path = tmp_path / "tiny.safetensors"
    save_asset(path, made.net, {**made.describe(), "about": "for tests"})
    assert load_asset_metadata(path)["about"] == "for tests"
    assert "asset:tiny" in list_backbones()

    got = create_backbone("asset:tiny", frozen=True)
    assert (got.image_size, got.grid, got.mean, got.std) == (32, (4, 4), made.mean, made.std)
    assert got.frozen_source == {
        "kind": "asset",
        "name": "tiny",
        "fingerprint": load_asset_metadata(path)["fingerprint"],
    }
    assert {p.dtype for p in got.parameters()} == {torch.float32}
    x = made.normalise(faces())
    assert torch.allclose(got.tokens(x), made.tokens(x), atol=0.02)
    larger = create_backbone("asset:tiny", image_size=48)
    assert larger.grid == (6, 6)
    assert torch.equal(larger.net.blocks[1].attn.qkv.weight, got.net.blocks[1].attn.qkv.weight)


def test_damaged_or_foreign_assets_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, vit_file: Path
) -> None:
    monkeypatch.setattr(assets, "ASSETS", tmp_path)
    with pytest.raises(RecipeError, match="unknown name 'vitt'; did you mean 'vit'"):
        create_backbone("asset:vitt")
    with pytest.raises(CheckpointError, match="no asset"):
        create_backbone("asset:vit")
    net = create_backbone(**VIT).net
    save_asset(vit_file, net, create_backbone(**VIT).describe())
    raw = bytearray(vit_file.read_bytes())
    raw[-200:] = bytes(200)
    vit_file.write_bytes(bytes(raw))
    with pytest.raises(CheckpointError, match="fingerprint"):
        create_backbone("asset:vit")
    vit_file.write_bytes(bytes(raw[:100]))
    with pytest.raises(CheckpointError, match="not readable"):
        create_backbone("asset:vit")
    with torch.no_grad():
        next(net.parameters()).fill_(1e6)
    with pytest.raises(CheckpointError, match="half precision"):
        save_asset(vit_file, net, {})


def test_weights_from_a_file_fit_another_image_size(vit_file: Path) -> None:
    reference = timm.create_model("test_vit", num_classes=0, img_size=160)
    stored = {k: v for k, v in origins.read_weights(vit_file).items() if not k.startswith("head")}
    reference.load_state_dict(stored)
    at_160 = create_backbone("test_vit", weights=str(vit_file)).eval()
    x = at_160.normalise(faces())
    torch.testing.assert_close(at_160.pooled(x), reference.eval()(x))
    at_48 = create_backbone(**VIT, weights=str(vit_file))
    expected = resample_abs_pos_embed(reference.pos_embed, [3, 3], num_prefix_tokens=1)
    assert torch.equal(at_48.net.pos_embed, expected)


def test_attention_and_memory_follow_the_device() -> None:
    vit, cnn = create_backbone(**VIT), create_backbone("test_resnet")
    attention = [m for m in vit.modules() if hasattr(m, "fused_attn")]
    assert len(attention) > 0
    assert not any(m.fused_attn for m in attention)
    assert all(m.fused_attn == use_fused_attn() for m in vit.to("meta").modules() if m in attention)
    assert cnn.net.conv1[0].weight.is_contiguous(memory_format=torch.channels_last)


def test_weights_that_do_not_fit_are_named(tmp_path: Path, vit_file: Path) -> None:
    state = origins.read_weights(vit_file)
    wrong = tmp_path / "wrong.pt"
    torch.save({**state, "blocks.0.mlp.fc1.bias": torch.zeros(7)}, wrong)
    with pytest.raises(CheckpointError, match=r"wrong.pt.*blocks\.0\.mlp\.fc1\.bias"):
        create_backbone("test_vit", weights=str(wrong))
    torch.save({k: v for k, v in state.items() if "norm2" not in k}, wrong)
    with pytest.raises(CheckpointError, match=r"lacks 12 weights.*blocks\.0\.norm2\.weight"):
        create_backbone("test_vit", weights=str(wrong))
    with pytest.raises(CheckpointError, match="lacks"):
        create_backbone("test_resnet", weights=str(vit_file))
    with pytest.raises(CheckpointError, match="no weights at"):
        create_backbone("test_vit", weights=str(tmp_path / "none.pt"))


class Payload:
    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("ran",))


def test_weight_files_never_run_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "evil.pt"
    torch.save({"state_dict": Payload()}, path)
    with pytest.raises(CheckpointError, match="not readable"):
        create_backbone("test_vit", weights=str(path))
    assert "ran" not in capsys.readouterr().out


def test_weights_of_our_own_checkpoint(tmp_path: Path) -> None:
    made = create_backbone(**CNN)
    path = tmp_path / "best.ckpt"
    state = nn.ModuleDict({"backbone": made, "heads": nn.Linear(2, 2)}).state_dict()
    torch.save({"state_dict": state}, path)
    got = create_backbone(**CNN, weights=str(path))
    assert fingerprint(got.state_dict()) == fingerprint(made.state_dict())


def test_local_folder_in_timms_format(tmp_path: Path) -> None:
    net = timm.create_model("test_vit", depth=3, num_classes=0)
    save_file(net.state_dict(), tmp_path / "model.safetensors")
    about = {
        "architecture": "test_vit",
        "model_args": {"depth": 3},
        "pretrained_cfg": {"mean": [0.1] * 3, "std": [0.2] * 3, "input_size": [3, 160, 160]},
    }
    (tmp_path / "config.json").write_text(json.dumps(about))
    got = create_backbone(f"local-dir:{tmp_path}")
    assert got.mean == (0.1, 0.1, 0.1)
    assert fingerprint(got.net.state_dict()) == fingerprint(net.state_dict())
    (tmp_path / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"config\.json is missing"):
        create_backbone(f"local-dir:{tmp_path}")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "resnet81"}, "'resnet81'; did you mean"),
        ({"name": "resnet18.a1_in2k"}, "'a1_in2k'.*did you mean 'a1_in1k'"),
        ({"name": "http://x/y"}, "a prefix is one of"),
        ({"name": "hf-hub:a/b"}, "must be true"),
        ({"name": "asset:mini", "pretrained": True}, "must be false"),
        ({"name": "test_vit", "pretrained": True, "weights": "x"}, "one source of weights"),
        ({"name": "test_vit", "revision": "main"}, "needs pretrained: true"),
        ({"name": "test_vit", "args": {"dept": 3}}, "dept=3"),
        ({"name": "test_vit", "args": {"checkpoint_path": "x"}}, "args.checkpoint_path"),
        ({"name": "test_vit", "image_size": 50}, "50 is no multiple of 16"),
        ({"name": "dla46_c", "grad_checkpointing": True}, "dla46_c has none"),
    ],
)
def test_bad_options_are_one_clear_error(options: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        create_backbone(**options)


@pytest.fixture
def no_hub(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    calls = []

    def unreachable(url: str, **kwargs: Any) -> None:
        calls.append((url, kwargs))
        raise ConnectionError("[Errno -2] Name or service not known")

    monkeypatch.setattr(origins, "get_hf_file_metadata", unreachable)
    monkeypatch.setattr(origins, "try_to_load_from_cache", lambda *a, **k: None)
    return calls


def test_an_unreachable_hub_is_asked_once_and_named(no_hub: list[Any]) -> None:
    start = time.perf_counter()
    with pytest.raises(
        CheckpointError, match=r"timm/test_vit\.r160_in1k.*not known.*weights: FILE"
    ):
        create_backbone("test_vit", pretrained=True)
    assert time.perf_counter() - start < 1
    assert len(no_hub) == 1
    assert no_hub[0][1]["timeout"] <= 10
    with pytest.raises(CheckpointError, match="some/vit"):
        create_backbone("hf-hub:some/vit", pretrained=True)


def test_a_server_that_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(origins, "HUB_TIMEOUT", 0.2)
    monkeypatch.setattr(origins, "try_to_load_from_cache", lambda *a, **k: None)
    with socket.socket() as server:  # accepts and says nothing
        server.bind(("127.0.0.1", 0))
        server.listen()
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
        monkeypatch.setattr(origins, "hf_hub_url", lambda *a, **k: f"{address}/x")
        start = time.perf_counter()
        with pytest.raises(CheckpointError, match="could not fetch"):
            create_backbone("test_vit", pretrained=True)
        assert time.perf_counter() - start < 3


def test_cached_hub_weights_need_no_network(
    no_hub: list[Any], monkeypatch: pytest.MonkeyPatch, vit_file: Path
) -> None:
    monkeypatch.setattr(origins, "try_to_load_from_cache", lambda *a, **k: str(vit_file))
    got = create_backbone("test_vit", pretrained=True, frozen=True)
    assert not no_hub
    assert got.frozen_source["kind"] == "hub"
    assert got.frozen_source["name"] == "timm/test_vit.r160_in1k"
    stored = origins.read_weights(vit_file)
    assert torch.equal(got.net.norm.weight, stored["norm.weight"])
    assert torch.equal(got.net.blocks[2].attn.qkv.weight, stored["blocks.2.attn.qkv.weight"])


def test_hub_weights_that_leave_parts_random_are_refused(
    no_hub: list[Any], monkeypatch: pytest.MonkeyPatch, vit_file: Path
) -> None:
    monkeypatch.setattr(origins, "try_to_load_from_cache", lambda *a, **k: str(vit_file))
    assert create_backbone("test_vit", pretrained=True, drop_path=0.1).source is not None
    with pytest.raises(CheckpointError, match=r"lacks 12 weights of this test_vit: blocks\.6"):
        create_backbone("test_vit", pretrained=True, args={"depth": 7})


def test_restoring_reads_only_frozen_weights(no_hub: list[Any], vit_file: Path) -> None:
    with restoring():
        assert create_backbone("test_vit", pretrained=True).source is None
        with pytest.raises(CheckpointError):
            create_backbone("test_vit", pretrained=True, frozen=True)
        frozen = create_backbone("test_vit", weights=str(vit_file), frozen=True)
    assert frozen.frozen_source is not None


def test_random_weights_are_not_frozen_silently(vit_file: Path) -> None:
    with pytest.warns(UserWarning, match="test_vit is frozen with random weights"):
        create_backbone(**VIT, frozen=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        create_backbone(**VIT, weights=str(vit_file), frozen=True)
        with restoring():
            create_backbone(**VIT, frozen=True)


def test_drop_path_and_checkpointing_reach_the_network() -> None:
    backbone = create_backbone(**VIT, drop_path=0.3, grad_checkpointing=True)
    assert math.isclose(backbone.net.blocks[-1].drop_path1.drop_prob, 0.3, abs_tol=1e-6)
    assert backbone.net.grad_checkpointing
    assert isinstance(backbone, Backbone)
