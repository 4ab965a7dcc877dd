"""Faces with 68 points by the package ``face-alignment``, whose weights are not shipped."""

import threading
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from faceaffect.data.faces.finder import Face, Frame
from faceaffect.errors import FaceAffectError, needs_extra


class FaceAlignment:
    """SFD and FAN (Bulat and Tzimiropoulos 2017): slower, with 68 points.

    The networks are loaded at the first call, in the process that calls.

    Args:
        download: allow the download of 200 MB of weights.
        min_score: faces below this score are left out, 0 to 1.
        device: where the networks run; ``auto`` takes CUDA if it is there, and the CPU in a worker
            process, which cannot use a device that its parent has started.
    """

    def __init__(
        self, *, download: bool = False, min_score: float = 0.5, device: str = "auto"
    ) -> None:
        self.download, self.min_score, self.device = download, min_score, device
        self._network: Any = None
        self._lock = threading.Lock()

    def find(self, images: Sequence[Frame]) -> list[list[Face]]:
        """Return the faces of each picture, see :class:`.FaceFinder`.

        Raises:
            FaceAffectError: the package or its weights are not there.
        """
        return [self._find(image) for image in images]

    def _find(self, image: Frame) -> list[Face]:
        with self._lock, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # no face is an answer here
            if self._network is None:
                self._network = self._load()
            points, _, boxes = self._network.get_landmarks_from_image(image, return_bboxes=True)
        faces = [_face(*pair) for pair in zip(points or [], boxes or [], strict=True)]
        faces = [face for face in faces if face.score >= self.min_score]
        return sorted(faces, key=lambda face: -face.box[2] * face.box[3])

    def __getstate__(self) -> dict[str, Any]:
        """Leave networks and lock behind: a worker process loads its own."""
        return {name: getattr(self, name) for name in ("download", "min_score", "device")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Start without networks."""
        self.__init__(**state)  # type: ignore[misc]

    def _load(self) -> Any:
        import torch
        from torch.utils.data import get_worker_info

        try:
            from face_alignment import FaceAlignment, LandmarksType
        except ImportError as error:
            raise FaceAffectError(
                needs_extra("the finder 'face_alignment'", "face-alignment", "align")
                + f" ({error}); the finder 'mtcnn' needs nothing"
            ) from None
        missing = [url for url in _weights() if not _weight_file(url).exists()]
        if missing and not self.download:
            raise _no_weights(missing, "they are not on this machine")
        device = self.device
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() and get_worker_info() is None else "cpu"
        try:
            return FaceAlignment(
                LandmarksType.TWO_D, device=device, flip_input=False, compile=False
            )
        except (OSError, RuntimeError) as error:
            raise _no_weights(missing or _weights(), str(error)) from None


def _face(points: NDArray[Any], box: NDArray[Any]) -> Face:
    x0, y0, x1, y1, score = (float(value) for value in box)
    points = np.asarray(points, dtype=np.float32)
    return Face((x0, y0, x1 - x0, y1 - y0), min(max(score, 0.0), 1.0), points)


def _weights() -> list[str]:
    from face_alignment import api
    from face_alignment.detection.sfd import sfd_detector

    return [sfd_detector.models_urls["s3fd"], api.models_urls["2DFAN-4"]]


def _weight_file(url: str) -> Path:
    from torch.hub import get_dir

    return Path(get_dir()) / "checkpoints" / Path(url).name


def _no_weights(urls: list[str], reason: str) -> FaceAffectError:
    files = "\n".join(f"  {url}\n    -> {_weight_file(url)}" for url in urls)
    return FaceAffectError(
        f"face-alignment cannot load its weights: {reason}. Put these files in place:\n{files}\n"
        "or allow the download (finder.download: true), or use the finder 'mtcnn', which needs "
        "none, or the dataset's own landmarks (align: landmarks)"
    )
