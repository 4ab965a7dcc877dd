"""Face crops in one canonical pose: shift, scale and rotation from 68 landmarks, cached on disk.

The crop follows only points that an expression does not move (corners of the eyes, bridge and base
of the nose), so a raised brow or an open jaw moves within the crop instead of moving the crop.
"""

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import cv2
import numpy as np
from numpy.typing import NDArray

from faceaffect.data.detector import Detector, FaceAlignmentDetector
from faceaffect.data.extract import encode_jpeg, write_atomic
from faceaffect.data.image import resize, scale_landmarks
from faceaffect.errors import DataError, RecipeError, unknown

Frame = NDArray[np.uint8]
Points = NDArray[np.float32]
Method = Literal["auto", "landmarks", "face_alignment", "none"]

VERSION = 1  # of what a cached crop depends on: the template, the warp, the file's form
EYE_SPAN = 0.4
EYE_LINE = 0.36  # height of the eyes, as a part of the crop: forehead and a dropped jaw are in

# iBUG index to (x, y): the origin between the eyes, the unit their outer corners' distance, y down.
# Ours, from mean adult face proportions: inner corners at 0.19, base of the nose half a unit down.
_TEMPLATE = {
    36: (-0.50, 0.00), 39: (-0.19, 0.01), 42: (0.19, 0.01), 45: (0.50, 0.00),
    27: (0.00, -0.03), 28: (0.00, 0.10), 29: (0.00, 0.24), 30: (0.00, 0.38), 33: (0.00, 0.50),
}  # fmt: skip
STABLE_POINTS = list(_TEMPLATE)

_COMMENT = b"\xff\xd8\xff\xfe"  # a JPEG that begins with a comment


class Aligned(NamedTuple):
    """A crop and what is known of it.

    Attributes:
        image: (size, size, 3) uint8 RGB.
        landmarks: (68, 2) float32 pixels of the crop, None where nothing found or gave them.
    """

    image: Frame
    landmarks: Points | None


def similarity_matrix(
    landmarks: NDArray[Any], size: int, *, eye_span: float = EYE_SPAN
) -> NDArray[np.float64]:
    """Return the (2, 3) matrix that takes image pixels to pixels of the crop.

    Least squares over shift, scale and rotation (Umeyama 1991; in the plane, a quotient of complex
    numbers), from the stable points to the template.

    Args:
        landmarks: (68, 2) pixels, iBUG order.
        size: side of the crop in pixels.
        eye_span: distance of the outer eye corners as a part of ``size``; less shows more around.

    Raises:
        DataError: the points are not finite or all in one place.
    """
    if landmarks.shape != (68, 2):
        raise DataError(f"68 landmarks (68, 2) are needed, not {landmarks.shape}")
    if not np.isfinite(landmarks[STABLE_POINTS]).all():
        raise DataError("the landmarks are not finite")
    source = np.asarray(landmarks, dtype=np.float64)[STABLE_POINTS] @ [1, 1j]
    middle = (0.5 + EYE_LINE * 1j) * size - (0.5 + 0.5j)  # pixel centres lie at whole numbers
    template = np.array(list(_TEMPLATE.values())) @ [1, 1j] * (eye_span * size) + middle
    centred = source - source.mean()
    spread = (abs(centred) ** 2).sum()
    if spread < 1:
        raise DataError("the landmarks lie all in one place")
    turn = (centred.conj() * (template - template.mean())).sum() / spread
    shift = template.mean() - turn * source.mean()
    return np.array([[turn.real, -turn.imag, shift.real], [turn.imag, turn.real, shift.imag]])


def crop(
    image: Frame, landmarks: NDArray[Any], size: int, *, eye_span: float = EYE_SPAN
) -> tuple[Frame, Points]:
    """Cut out a face in canonical pose; what lies outside the image is black.

    Args:
        image: (H, W, 3) uint8.
        landmarks: (68, 2) pixels of the image.
        size: side of the crop in pixels.
        eye_span: as in :func:`similarity_matrix`.

    Returns:
        the (size, size, 3) crop and its (68, 2) float32 landmarks.

    Raises:
        DataError: no crop can be made from these landmarks.
    """
    matrix = similarity_matrix(landmarks, size, eye_span=eye_span)
    points = landmarks @ matrix[:, :2].T + matrix[:, 2]
    shrink = int(1 / max(np.hypot(*matrix[:, 0]), 1e-3))
    if shrink >= 2:  # a warp samples single pixels: average first
        height, width = image.shape[:2]
        small = (max(1, round(width / shrink)), max(1, round(height / shrink)))
        image = np.asarray(cv2.resize(image, small, interpolation=cv2.INTER_AREA), dtype=np.uint8)
        ratio = np.array([width / small[0], height / small[1]])
        matrix = np.column_stack(
            [matrix[:, :2] * ratio, matrix[:, 2] + matrix[:, :2] @ (0.5 * ratio - 0.5)]
        )
    out = cv2.warpAffine(image, matrix, (size, size), flags=cv2.INTER_LINEAR)
    return np.asarray(out, dtype=np.uint8), points.astype(np.float32)


class Aligner:
    """Makes the face crops of a dataset once and keeps them in a folder.

    Safe in many processes and threads: a file appears whole or not at all. A face that is not found
    leaves a ``.failed`` file with the reason and is not looked for again until that file is
    deleted.
    """

    def __init__(
        self,
        method: Method = "auto",
        *,
        size: int = 256,
        cache: Path | str | None = None,
        eye_span: float = EYE_SPAN,
        detector: Detector | None = None,
        download: bool = False,
    ) -> None:
        """Choose how faces are found.

        Args:
            method: ``landmarks`` takes the dataset's own, ``face_alignment`` finds them in the
                image, ``auto`` takes the dataset's where a sample has them and finds the others,
                ``none`` scales the whole image, for faces that are cropped already.
            size: side of the crop in pixels.
            cache: folder for the crops, one for each dataset; None keeps nothing on disk.
            eye_span: as in :func:`similarity_matrix`.
            detector: finds (68, 2) landmarks in an image, or None; by default face-alignment.
            download: allow face-alignment to download its weights.

        Raises:
            RecipeError: an unknown method.
        """
        if method not in get_args(Method):
            raise RecipeError(unknown("align method", method, get_args(Method)))
        self.method, self.size, self.eye_span = method, size, eye_span
        self.cache = None if cache is None else Path(cache)
        self.detector = detector or FaceAlignmentDetector(download=download)
        self._seen: dict[tuple[str, str], str] = {}  # (method, id) -> reason, empty for a crop

    def __call__(
        self,
        source_id: str,
        image: Frame | Callable[[], Frame],
        landmarks: NDArray[Any] | Callable[[], NDArray[Any]] | None = None,
    ) -> Aligned:
        """Return the crop of one image, from the cache if it is there.

        Args:
            source_id: unique name of the image in its dataset.
            image: (H, W, 3) uint8 RGB, or a function that reads it: not called for a cached crop.
            landmarks: (68, 2) pixels of the image, or a function that reads them, where the dataset
                has them.

        Raises:
            DataError: no face found, now or before; unusable landmarks.
            FaceAffectError: a face is to be found, but face-alignment has no weights.
        """
        how = self._how(landmarks is not None)
        if how == "landmarks" and landmarks is None:
            raise DataError(
                f"{source_id}: the dataset has no landmarks for this image; the align method "
                "'auto' finds them by face-alignment"
            )
        known = self._known(how, source_id)
        if known is not None:
            return known
        frame = image() if callable(image) else image
        if how == "face_alignment":
            points = self.detector(frame)
        else:
            points = landmarks() if callable(landmarks) else landmarks
        if how == "none":
            scaled = None if points is None else scale_landmarks(points, frame.shape, self.size)
            return Aligned(resize(frame, self.size), scaled)
        try:
            if points is None:
                raise DataError("no face was found")
            result = Aligned(*crop(frame, points, self.size, eye_span=self.eye_span))
        except DataError as error:
            raise self._fail(how, source_id, str(error)) from None
        return self._keep(how, source_id, result)

    def settings(self) -> dict[str, Any]:
        """Return what crops depend on besides the images, for a result."""
        return {
            "method": self.method,
            "size": self.size,
            "eye_span": self.eye_span,
            "version": VERSION,
        }

    def made(self, images: Mapping[str, bool]) -> dict[str, str]:
        """Return what there is of each image in the cache folder (without one, seen here).

        Args:
            images: names, as they are given for a crop, and whether the dataset has landmarks.

        Returns:
            For each name ``landmarks`` or ``face_alignment``, the way by which its crop was made,
            or ``failed``, or ``missing``.
        """
        ways = {name: self._how(own) for name, own in images.items()}
        kept = {how: self._kept(how) for how in set(ways.values())}
        return {name: self._state(how, name, kept[how]) for name, how in ways.items()}

    def _state(self, how: Method, source_id: str, kept: set[str]) -> str:
        file = self._file(how, source_id)
        if file is None:
            reason = self._seen.get((how, source_id))
            return "missing" if reason is None else "failed" if reason else how
        if file.name in kept:
            return how
        return "failed" if file.with_suffix(".failed").name in kept else "missing"

    def _kept(self, how: Method) -> set[str]:
        """Return the names of the files of a method: one listing, not a look at each file."""
        folder = self._folder(how)
        return {file.name for file in folder.glob("??/*")} if folder else set()

    def _how(self, own: bool) -> Method:
        if self.method == "auto":
            return "landmarks" if own else "face_alignment"
        return self.method

    def _folder(self, how: str) -> Path | None:
        name = f"{how}-{self.size}px-{self.eye_span:g}-v{VERSION}"
        return None if self.cache is None else self.cache / name

    def _file(self, how: str, source_id: str) -> Path | None:
        folder = self._folder(how)
        digest = hashlib.sha256(source_id.encode()).hexdigest()
        readable = re.sub(r"[^\w.-]+", "_", source_id)[-60:]
        return folder and folder / digest[:2] / f"{readable}-{digest[2:18]}.jpg"

    def _known(self, how: str, source_id: str) -> Aligned | None:
        file = self._file(how, source_id)
        if file is None:
            if reason := self._seen.get((how, source_id)):
                raise DataError(reason)
            return None
        try:
            return _unpack(file.read_bytes())
        except (FileNotFoundError, ValueError):  # ValueError: damaged from outside, made again
            pass
        try:
            raise DataError(file.with_suffix(".failed").read_text())
        except FileNotFoundError:
            return None

    def _keep(self, how: str, source_id: str, result: Aligned) -> Aligned:
        file = self._file(how, source_id)
        if file is None:
            self._seen[how, source_id] = ""
            return result
        file.parent.mkdir(parents=True, exist_ok=True)
        data = _pack(source_id, result)
        write_atomic(file, data)
        return _unpack(data)  # the first epoch sees what the later ones see

    def _fail(self, how: str, source_id: str, reason: str) -> DataError:
        file = self._file(how, source_id)
        reason = f"{source_id}: {reason} (align method '{how}')"
        if file is None:
            self._seen[how, source_id] = reason
        else:
            reason += f"; to try again, delete {file.with_suffix('.failed')}"
            file.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(file.with_suffix(".failed"), reason.encode())
        return DataError(reason)


def _pack(source_id: str, result: Aligned) -> bytes:
    """One JPEG that any viewer opens, with the landmarks as JSON in its comment."""
    points = np.round(np.asarray(result.landmarks, dtype=np.float64), 3).tolist()
    note = json.dumps({"id": source_id[-1000:], "landmarks": points}).encode()
    picture = encode_jpeg(result.image)
    return _COMMENT + (len(note) + 2).to_bytes(2, "big") + note + picture[2:]


def _unpack(data: bytes) -> Aligned:
    if not data.startswith(_COMMENT):
        raise ValueError("not a crop")
    note = json.loads(data[6 : 4 + int.from_bytes(data[4:6], "big")])
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
    if image is None:
        raise ValueError("not a picture")
    return Aligned(np.asarray(image, dtype=np.uint8), np.asarray(note["landmarks"], np.float32))
