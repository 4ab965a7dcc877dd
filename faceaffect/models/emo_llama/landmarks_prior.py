"""106 landmarks of a face by a network in ONNX, such as InsightFace's, which EmoLA's prior is."""

import hashlib
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from faceaffect.errors import CheckpointError, first_line
from faceaffect.models.emo_llama.priors import FacePrior
from faceaffect.models.onnx import open_session

_POINTS, _SIZE = 106, 192


class Landmarks106(nn.Module):
    """Landmarks alone: no map, no tokens, no attributes; for ``mining: emola``.

    The network takes (N, 3, 192, 192) and gives 106 times x and y in [-1, 1] of the crop. Only a
    frame of a single colour counts as one without a face.

    Args:
        weights: the file, such as InsightFace's ``2d106det.onnx``, which is not shipped.
        pixels: what the network is given: ``emola``, blue before red and in [0, 1], as EmoLA's
            code does; ``insightface``, red before blue and in [0, 255].

    Raises:
        RecipeError: onnxruntime is not installed.
        CheckpointError: the file is missing, damaged, or of another network.
    """

    map_width = token_width = 0
    points = _POINTS

    def __init__(self, weights: str, pixels: Literal["emola", "insightface"] = "emola") -> None:
        super().__init__()
        self.file, self.pixels = Path(weights).expanduser(), pixels
        self.session: Any = open_session(self.file)
        self.group_names: dict[str, tuple[str, ...]] = {}
        digest = hashlib.sha256(self.file.read_bytes()).hexdigest()[:16]
        self.fingerprint = f"{digest}-{pixels}"
        self(torch.zeros(1, 3, _SIZE, _SIZE, dtype=torch.uint8))

    @torch.no_grad()
    def forward(self, image: Tensor) -> FacePrior:
        """Return what is known of uint8 faces (N, 3, H, W)."""
        given = image.float()
        if given.shape[-2:] != (_SIZE, _SIZE):
            given = F.interpolate(given, (_SIZE, _SIZE), mode="bilinear", antialias=True)
        given = given.flip(1) / 255 if self.pixels == "emola" else given
        found = [self._find(face[None].cpu().numpy()) for face in given]
        landmarks = torch.from_numpy(np.concatenate(found)).to(image.device).view(-1, _POINTS, 2)
        flat = image.flatten(1)
        nothing = landmarks.new_zeros
        return FacePrior(
            map=nothing(len(image), 0, 1, 1),
            tokens=nothing(len(image), 0, 0),
            landmarks=landmarks,
            groups={},
            ok=flat.amax(1) > flat.amin(1),
        )

    def _find(self, face: Any) -> Any:
        """Return the landmarks of one face; the published network takes one at a time."""
        (name,) = [entry.name for entry in self.session.get_inputs()]
        try:
            found = np.asarray(self.session.run(None, {name: face})[0], np.float32)
        except Exception as error:  # onnxruntime has one of its own for each kind
            raise CheckpointError(f"{self.file}: {first_line(error)}") from None
        if found.size != 2 * _POINTS:
            raise CheckpointError(
                f"{self.file}: gives {found.size} numbers for a face, not those of 106 landmarks"
            )
        return found.reshape(1, -1)
