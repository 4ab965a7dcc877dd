"""Facial priors of real faces: the network of the face-alignment package."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.hub import get_dir, load_state_dict_from_url

from faceaffect.errors import CheckpointError, RecipeError, needs_extra
from faceaffect.models.emo_llama.priors import FacePrior
from faceaffect.networks.weights import Freezable, fingerprint

_NAME = "2DFAN-4"  # of four hourglasses
_SIZE = 256  # pixels that the network was made for


class FanPrior(Freezable):
    """FAN (Bulat and Tzimiropoulos 2017) on face crops: features and landmarks, no attributes.

    Features of the last hourglass are the map, their means where each landmark lies the tokens. A
    face is there if the heat maps are sure enough. How many hourglasses there are say the weights.

    Args:
        download: allow the download of the weights (95 MB).
        weights: a file with them; absent, torch's own cache is looked into.
        confidence: least mean peak of the 68 heat maps, in [0, 1].

    Raises:
        CheckpointError: the weights are missing or damaged.
        RecipeError: the package is not installed.
    """

    def __init__(
        self, download: bool = False, weights: str | None = None, confidence: float = 0.2
    ) -> None:
        super().__init__()
        network, url = _package()
        state = _weights(weights, url, download)
        self.hourglasses = sum(bool(re.fullmatch(r"l\d+\.weight", key)) for key in state)
        self.net: Any = network(self.hourglasses)
        try:
            self.net.load_state_dict(state)
        except RuntimeError as error:
            raise CheckpointError(
                f"prior fan: the weights are none of {_NAME}: {' '.join(str(error).split())[:300]}"
            ) from None
        self.confidence = confidence
        self.map_width = self.token_width = 256
        self.group_names: dict[str, tuple[str, ...]] = {}
        weights_name = fingerprint(self.net.state_dict())
        self.source = {"kind": "file", "name": _NAME, "fingerprint": weights_name}
        self.fingerprint = f"{weights_name}-{confidence}"
        self.freeze()

    def forward(self, image: Tensor) -> FacePrior:
        """Return what is known of uint8 faces (N, 3, H, W)."""
        pixels = image.float() / 255
        if pixels.shape[-2:] != (_SIZE, _SIZE):
            pixels = F.interpolate(pixels, (_SIZE, _SIZE), mode="bilinear", antialias=True)
        features: list[Tensor] = []
        last = self.net.get_submodule(f"l{self.hourglasses - 1}")
        hook = last.register_forward_pre_hook(lambda _, given: features.append(given[0]))
        try:
            with torch.no_grad():
                heat = self.net(pixels)[-1].float()
        finally:
            hook.remove()
        (fused,) = features
        weight = heat.clamp_min(0).flatten(2)
        weight = weight / weight.sum(2, keepdim=True).clamp_min(1e-6)
        tokens = weight.to(fused.dtype) @ fused.flatten(2).mT
        return FacePrior(
            map=fused,
            tokens=tokens,
            landmarks=_peaks(heat),
            groups={},
            ok=heat.flatten(2).amax(2).mean(1) >= self.confidence,
        )


def _peaks(heat: Tensor) -> Tensor:
    """Return the peaks (N, 68, 2) of heat maps (N, 68, h, w) as x and y in [-1, 1]."""
    height, width = heat.shape[-2:]
    place = heat.flatten(2).argmax(2)
    x, y = place % width, place // width
    return torch.stack([(2 * x + 1) / width - 1, (2 * y + 1) / height - 1], 2)


def _package() -> tuple[Callable[[int], nn.Module], str]:
    """Return the class of the network and the place of its weights."""
    try:
        from face_alignment import api
        from face_alignment.models import FAN
    except ImportError as error:  # also of its OpenCV, where libGL is missing
        needed = needs_extra("model.prior: 'fan'", "face-alignment", "align")
        raise RecipeError(f"{needed} ({error})") from None
    return FAN, api.models_urls[_NAME]


def _weights(file: str | None, url: str, download: bool) -> dict[str, Tensor]:
    path = Path(file) if file else Path(get_dir()) / "checkpoints" / Path(url).name
    if not path.is_file() and file is None and download:
        return load_state_dict_from_url(url, map_location="cpu", weights_only=True)
    if not path.is_file():
        raise CheckpointError(
            f"prior fan: no weights at {path}. Put {url} there, name a file (prior.weights), or "
            "allow the download (prior.download: true)"
        )
    try:
        state: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise CheckpointError(f"{path}: not readable as weights: {error}") from None
    if not isinstance(state, dict) or not all(isinstance(key, str) for key in state):
        raise CheckpointError(f"{path}: holds no weights by name")
    return state
