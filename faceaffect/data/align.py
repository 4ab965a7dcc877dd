"""The face crops of a dataset, made once by one finder and one crop, and kept on disk."""

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, get_args

import cv2
import numpy as np
from numpy.typing import NDArray

from faceaffect.components import Component, Options, create
from faceaffect.data.extract import encode_jpeg, write_atomic
from faceaffect.data.faces.crop import Crop, cut
from faceaffect.data.faces.finder import Face, FaceFinder, Frame, Points, largest
from faceaffect.data.faces.mtcnn import Mtcnn
from faceaffect.data.image import resize, scale_landmarks
from faceaffect.errors import DataError, RecipeError, unknown

Method = Literal["auto", "landmarks", "finder", "none"]

VERSION = 3  # of what a cached crop depends on: the template, the warp, finding, the file's form

_COMMENT = b"\xff\xd8\xff\xfe"  # a JPEG that begins with a comment


class Aligned(NamedTuple):
    """A crop and what is known of it.

    Attributes:
        image: (size, size, 3) uint8 RGB.
        landmarks: (68, 2) float32 pixels of the crop, None where nothing found or gave them.
    """

    image: Frame
    landmarks: Points | None


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
        crop: Crop | None = None,
        cache: Path | str | None = None,
        finder: FaceFinder | None = None,
    ) -> None:
        """Choose how faces are found and cut out.

        Args:
            method: ``landmarks`` takes the dataset's own, ``finder`` finds them in the image,
                ``auto`` takes the dataset's where a sample has them and finds the others, ``none``
                scales the whole image, for faces that are cropped already.
            crop: how faces are cut out; absent, upright by their points.
            cache: folder for the crops, one for each dataset; None keeps nothing on disk.
            finder: finds faces; absent, :class:`.Mtcnn`. Of several the largest is taken.

        Raises:
            RecipeError: an unknown method, or a crop of kind ``none`` where faces are to be cut.
        """
        if method not in get_args(Method):
            raise RecipeError(unknown("align method", method, get_args(Method)))
        self.crop = crop or Crop()
        if self.crop.kind == "none" and method != "none":
            raise RecipeError(f"crop.kind: 'none' contradicts align '{method}'; say align: none")
        self.method = method
        self.cache = None if cache is None else Path(cache)
        self.finder: FaceFinder = finder or Mtcnn()
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
            FaceAffectError: a face is to be found, but the finder has no weights.
        """
        how = self._how(landmarks is not None)
        if how == "landmarks" and landmarks is None:
            raise DataError(
                f"{source_id}: the dataset has no landmarks for this image; the align method "
                "'auto' finds the face in it"
            )
        known = self._known(how, source_id)
        if known is not None:
            return known
        frame = image() if callable(image) else image
        points = None
        if how != "finder":
            points = landmarks() if callable(landmarks) else landmarks
        if how == "none":
            size = self.crop.size
            scaled = None if points is None else scale_landmarks(points, frame.shape, size)
            return Aligned(resize(frame, size), scaled)
        try:
            face = largest(self.finder.find([frame])[0]) if how == "finder" else _face(points)
            if face is None:
                raise DataError("no face was found")
            picture, moved = cut(frame, face, self.crop)
        except DataError as error:
            raise self._fail(how, source_id, str(error)) from None
        whole = moved if moved is not None and len(moved) == 68 else None
        return self._keep(how, source_id, Aligned(picture, whole))

    def settings(self) -> dict[str, Any]:
        """Return what crops depend on besides the images, for a result."""
        kept = {"method": self.method, "version": VERSION}
        if self.method == "none":
            return kept | {"size": self.crop.size}
        return (
            kept
            | {"finder": type(self.finder).__name__.lower()}
            | self._looking()
            | self.crop.to_dict()
        )

    def _looking(self) -> dict[str, Any]:
        """Return the settings of the finder on which depends what it finds."""
        public = {k: v for k, v in vars(self.finder).items() if not k.startswith("_")}
        plain = {k: v for k, v in public.items() if isinstance(v, str | int | float)}
        return {k: v for k, v in plain.items() if k not in ("device", "download")}

    def made(self, images: Mapping[str, bool]) -> dict[str, str]:
        """Return what there is of each image in the cache folder (without one, seen here).

        Args:
            images: names, as they are given for a crop, and whether the dataset has landmarks.

        Returns:
            For each name ``landmarks`` or ``finder``, the way by which its crop was made,
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
            return "landmarks" if own else "finder"
        return self.method

    def _folder(self, how: str) -> Path | None:
        by = type(self.finder).__name__.lower() if how == "finder" else how
        looking = self._looking() if how == "finder" else {}
        text = json.dumps(self.crop.to_dict() | looking, sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()[:8]
        name = f"{by}-{self.crop.kind}-{self.crop.size}px-{digest}-v{VERSION}"
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
            raise DataError(file.with_suffix(".failed").read_text(encoding="utf-8"))
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


FinderNode = Annotated[str | dict[str, Any] | None, Component("finders")]
"""The argument ``finder`` of a reader."""

CropNode = Annotated[dict[str, Any] | None, Options(Crop)]
"""The argument ``crop`` of a reader: a mapping with the arguments of :class:`.Crop`."""


def open_aligner(
    method: Method,
    crop: CropNode,
    finder: FinderNode,
    cache: str | None,
    root: Path,
    *,
    own: bool = True,
) -> Aligner:
    """Return the aligner that the arguments of a reader ask for.

    Args:
        method: as in :class:`Aligner`.
        crop: arguments of :class:`.Crop`; None for its defaults.
        finder: a name of the table ``finders``, or a mapping with arguments; None for ``mtcnn``.
        cache: folder of the crops; None for ``faceaffect_crops`` in the root.
        root: the dataset's folder.
        own: whether the dataset has landmarks.

    Raises:
        RecipeError: a value is wrong.
    """
    if method == "landmarks" and not own:
        raise RecipeError("data.align: 'landmarks': this data has none; 'auto' finds the faces")
    found: FaceFinder = create("finders", finder or "mtcnn", "data.finder")
    place = Path(cache) if cache else root / "faceaffect_crops"
    return Aligner(method, crop=Crop(**(crop or {})), finder=found, cache=place)


def _face(points: NDArray[Any] | None) -> Face | None:
    if points is None:
        return None
    low, high = np.min(points, 0), np.max(points, 0)
    box = (*low.tolist(), *(high - low).tolist())
    return Face(box, 1.0, np.asarray(points, np.float32))


def _pack(source_id: str, result: Aligned) -> bytes:
    """One JPEG that any viewer opens, with the landmarks as JSON in its comment."""
    own = result.landmarks
    points = None if own is None else np.round(own.astype(np.float64), 3).tolist()
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
    points = note["landmarks"]
    own = None if points is None else np.asarray(points, np.float32)
    return Aligned(np.asarray(image, dtype=np.uint8), own)
