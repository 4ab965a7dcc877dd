"""Facial priors from the package's own face-analysis network."""

import torch
from torch import Tensor, nn

from faceaffect.models.emo_llama.priors import FacePrior
from faceaffect.models.face_analysis import load_face_analysis
from faceaffect.networks.weights import fingerprint


class FaceAnalysisPrior(nn.Module):
    """A frozen :class:`~faceaffect.models.face_analysis.FaceNetwork` as a source of priors.

    The network is made for face crops and does not say whether there is a face; only a frame of a
    single colour counts as one without.

    Args:
        weights: ``asset:mini_face``, or a file that ``pretrain_mini_face`` exported.

    Raises:
        RecipeError: the package ships no such asset.
        CheckpointError: the file is missing or damaged.
    """

    def __init__(self, weights: str = "asset:mini_face") -> None:
        super().__init__()
        self.net = load_face_analysis(weights)
        self.map_width = self.token_width = self.net.width
        self.group_names = self.net.attributes
        self.fingerprint = fingerprint(self.net.state_dict())

    def forward(self, image: Tensor) -> FacePrior:
        """Return what is known of uint8 faces (N, 3, H, W)."""
        with torch.no_grad():
            found = self.net(image)
        size = found.landmarks.new_tensor([image.shape[-1], image.shape[-2]])
        pixels = image.flatten(1)
        return FacePrior(
            map=found.map,
            tokens=found.tokens,
            landmarks=(found.landmarks + 0.5) * 2 / size - 1,
            groups=found.attributes,
            ok=pixels.amax(1) > pixels.amin(1),
        )
