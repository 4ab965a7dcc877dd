"""Faces with five points by the package ``uniface`` (ONNX), which downloads its weights."""

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from faceaffect.data.faces.finder import Face, Frame
from faceaffect.errors import FaceAffectError

_MODELS = {"retinaface": "RetinaFace", "scrfd": "SCRFD", "yolov8": "YOLOv8Face"}


class UniFace:
    """RetinaFace, SCRFD or YOLOv8-Face: better than MTCNN on small, turned and covered faces.

    The network is loaded at the first call, in the process that calls.

    Args:
        model: which.
        download: allow the download of its weights into uniface's own cache.
        min_score: faces below this score are left out, 0 to 1.
    """

    def __init__(
        self,
        *,
        model: Literal["retinaface", "scrfd", "yolov8"] = "retinaface",
        download: bool = False,
        min_score: float = 0.6,
    ) -> None:
        self.model, self.download, self.min_score = model, download, min_score
        self._detector: Any = None

    def __getstate__(self) -> dict[str, Any]:
        """Leave the network behind: a worker process loads its own."""
        return self.__dict__ | {"_detector": None}

    def find(self, images: Sequence[Frame]) -> list[list[Face]]:
        """Return the faces of each picture, see :class:`.FaceFinder`.

        Raises:
            FaceAffectError: the package or its weights are not there.
        """
        self._detector = self._detector or self._load()
        return [self._find(image) for image in images]

    def _find(self, image: Frame) -> list[Face]:
        found = []
        for face in self._detector.detect(np.ascontiguousarray(image[..., ::-1])):
            x0, y0, x1, y1 = (float(value) for value in face.bbox)
            if face.confidence >= self.min_score:
                points = np.asarray(face.landmarks, np.float32)
                found.append(Face((x0, y0, x1 - x0, y1 - y0), float(face.confidence), points))
        return sorted(found, key=lambda face: -face.box[2] * face.box[3])

    def _load(self) -> Any:
        try:
            from uniface import detection, model_store
        except ImportError as error:
            raise FaceAffectError(
                f"the finder 'uniface' needs the package uniface ({error}): "
                "pip install 'uniface[cpu]'; the finder 'mtcnn' needs nothing"
            ) from None
        kind = getattr(detection, _MODELS[self.model])
        folder = Path(model_store.get_cache_dir())
        weights = _weights(kind)
        if not self.download and not (folder / f"{weights}.onnx").is_file():
            raise FaceAffectError(
                f"the finder 'uniface' has no weights at {folder / weights}.onnx; allow their "
                "download (finder.download: true) or put them there"
            )
        try:
            return kind(confidence_threshold=self.min_score)
        except Exception as error:
            raise FaceAffectError(f"uniface cannot load {weights}: {error}") from None


def _weights(kind: Any) -> str:
    """Return the name of the file that a detector of uniface takes by default."""
    return str(inspect.signature(kind.__init__).parameters["model_name"].default.value)
