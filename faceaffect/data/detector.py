"""Finding 68 landmarks in an image by the face-alignment package, whose weights are not shipped."""

import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from faceaffect.errors import FaceAffectError

Detector = Callable[[NDArray[np.uint8]], NDArray[np.float32] | None]
"""Takes (H, W, 3) uint8 RGB, returns (68, 2) pixels in iBUG order, or None where no face is."""


class FaceAlignmentDetector:
    """The 2D landmarks of the largest face, by SFD and FAN (Bulat and Tzimiropoulos 2017).

    The networks are loaded at the first call, in the process that calls.
    """

    def __init__(self, *, download: bool = False) -> None:
        """Allow or forbid the download of 200 MB of weights."""
        self.download = download
        self._network: Any = None
        self._lock = threading.Lock()

    def __call__(self, image: NDArray[np.uint8]) -> NDArray[np.float32] | None:
        """Return (68, 2) pixels, or None where no face is found.

        Raises:
            FaceAffectError: the weights are not there.
        """
        with self._lock, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # no face is an answer here
            if self._network is None:
                self._network = self._load()
            faces = self._network.get_landmarks_from_image(image)
        if not faces:
            return None
        return np.asarray(max(faces, key=lambda face: np.ptp(face, 0).prod()), dtype=np.float32)

    def __getstate__(self) -> dict[str, Any]:
        """Leave networks and lock behind: a worker process loads its own."""
        return {"download": self.download}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Start without networks."""
        self.__init__(**state)  # type: ignore[misc]

    def _load(self) -> Any:
        import torch
        from face_alignment import FaceAlignment, LandmarksType
        from torch.utils.data import get_worker_info

        missing = [url for url in _weights() if not _weight_file(url).exists()]
        if missing and not self.download:
            raise _no_weights(missing, "they are not on this machine")
        # A forked worker cannot use a device that its parent has started.
        device = "cuda" if torch.cuda.is_available() and get_worker_info() is None else "cpu"
        try:
            return FaceAlignment(
                LandmarksType.TWO_D, device=device, flip_input=False, compile=False
            )
        except (OSError, RuntimeError) as error:
            raise _no_weights(missing or _weights(), str(error)) from None


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
        "or allow the download (align download: true), or use the dataset's own landmarks "
        "(method: landmarks) or faces that are cropped already (method: none)"
    )
