"""The shipped sources of facial priors."""

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import pretrained
from faceaffect.components import create
from faceaffect.errors import CheckpointError, RecipeError
from faceaffect.models.emo_llama.fan_prior import _peaks
from faceaffect.models.emo_llama.mining import FaceInfoMining
from faceaffect.models.emo_llama.priors import FacePriorNet
from faceaffect.models.face_analysis import load_face_analysis
from faceaffect.networks.weights import frozen_keys

NOT_INSTALLED = "the extra 'align' is not installed"


def faces(n: int = 2, size: int = 112) -> torch.Tensor:
    return torch.randint(0, 256, (n, 3, size, size), dtype=torch.uint8)


def test_the_face_network_of_the_package_as_a_prior() -> None:
    net = create("priors", "face_analysis")
    assert isinstance(net, FacePriorNet)
    assert isinstance(net, nn.Module)
    image = faces()
    image[1] = 7
    prior = net(image)
    plain = load_face_analysis()(image)
    assert prior.ok.tolist() == [True, False]
    assert prior.map.shape[:2] == (2, net.map_width)
    assert prior.tokens.shape[2] == net.token_width
    assert {name: len(names) for name, names in net.group_names.items()} == {
        name: logits.shape[1] for name, logits in prior.groups.items()
    }
    # Pixel centres at 0 and 111 lie half a pixel within the edges at -1 and 1.
    pixels = ((prior.landmarks + 1) * 112 - 1) / 2
    torch.testing.assert_close(pixels, plain.landmarks, atol=1e-3, rtol=0)
    assert not any(p.requires_grad for p in net.parameters())
    assert frozen_keys(net) == set(net.state_dict())
    assert not net.train().net.training


def test_fan_as_a_prior(tmp_path: Path) -> None:
    pytest.importorskip("face_alignment", reason=NOT_INSTALLED)
    pretrained.fan(tmp_path / "fan.pth")
    net = create(
        "priors", {"name": "fan", "weights": str(tmp_path / "fan.pth"), "confidence": -9.0}
    )
    prior = net(faces(1))
    assert prior.map.shape == (1, 256, 64, 64)
    assert prior.tokens.shape == (1, 68, 256)
    assert prior.landmarks.shape == (1, 68, 2)
    assert prior.ok.all()
    assert FaceInfoMining(16, 256, 256)(torch.randn(1, 4, 16), prior).shape == (1, 4, 16)
    assert frozen_keys(net) == set(net.state_dict())  # type: ignore[arg-type]
    surer = create(
        "priors", {"name": "fan", "weights": str(tmp_path / "fan.pth"), "confidence": 9.0}
    )
    assert not surer(faces(1)).ok.any()
    assert surer.fingerprint != net.fingerprint  # a cache must not mix them up
    assert surer.source == net.source  # type: ignore[attr-defined]


def test_weights_tell_how_many_hourglasses_there_are(tmp_path: Path) -> None:
    pytest.importorskip("face_alignment", reason=NOT_INSTALLED)
    for count in (1, 4):
        file = pretrained.fan(tmp_path / f"{count}.pth", count)
        net = create("priors", {"name": "fan", "weights": str(file)})
        assert (net.hourglasses, net.net.num_modules) == (count, count)
    torch.save({"l0.weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match=r"the weights are none of 2DFAN-4: .*Missing key"):
        create("priors", {"name": "fan", "weights": str(tmp_path / "other.pth")})
    torch.save([torch.zeros(1)], tmp_path / "list.pth")
    with pytest.raises(CheckpointError, match="holds no weights by name"):
        create("priors", {"name": "fan", "weights": str(tmp_path / "list.pth")})


def test_peaks_of_heat_maps() -> None:
    heat = torch.zeros(1, 68, 64, 64)
    heat[0, :, 63, 0] = 1
    torch.testing.assert_close(_peaks(heat)[0, 0], torch.tensor([-1 + 1 / 64, 1 - 1 / 64]))


def test_fan_without_its_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "face_alignment", None)
    with pytest.raises(RecipeError, match=r"pip install 'faceaffect\[align\]'"):
        create("priors", "fan")


def test_missing_and_damaged_weights_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("face_alignment", reason=NOT_INSTALLED)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(CheckpointError, match=r"prior\.download: true"):
        create("priors", "fan")
    (tmp_path / "fan.pth").write_bytes(b"x")
    with pytest.raises(CheckpointError, match="not readable"):
        create("priors", {"name": "fan", "weights": str(tmp_path / "fan.pth")})
    with pytest.raises(RecipeError, match="unknown name"):
        create("priors", {"name": "face_analysis", "weights": "asset:nothing"})
