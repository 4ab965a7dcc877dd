"""How the pictures of a dataset look to a finder of faces: cropped to the face, or whole scenes."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np

from faceaffect.data.faces.crop import Crop, seen_in
from faceaffect.data.faces.finder import Face, FaceFinder, Frame, Points

_FILLED = 0.45  # of a crop's width or height its face covers more than this
_CROWD = 0.5  # a second face of this part of the first's width makes a scene
_TOGETHER = 8  # pictures held at once
_SQUARE = 1.6  # a face crop's sides differ by less


@dataclass(frozen=True)
class Look:
    """What was seen in some pictures.

    Attributes:
        pictures: how many were looked at.
        faces: in how many of them a face was found.
        uncropped: how many look like scenes: their face is small, or they show several, or they
            are far from square.
        crop: of kind ``none``: where faces lie in them; None where too few were found.
    """

    pictures: int
    faces: int
    uncropped: int
    crop: Crop | None

    def words(self) -> str:
        """Return what to do about it, an empty string where nothing."""
        if self.uncropped <= 0.05 * self.pictures:
            return ""
        return (
            f"{self.uncropped} of {self.pictures} pictures look uncropped: their face is small or "
            "one of several, and they would be squeezed to a square. data.align=auto crops them "
            "to the face"
        )


def look(pictures: Iterable[tuple[Frame, Points | None]], finder: FaceFinder, size: int) -> Look:
    """Look at pictures that are taken as face crops.

    Args:
        pictures: (H, W, 3) uint8 RGB, and the 68 points where they are known; then no face is
            looked for.
        finder: finds faces in the others.
        size: side in pixels to which they are brought.
    """
    count = faces = uncropped = 0
    places: list[tuple[float, float]] = []
    for image, points, found in _found(pictures, finder):
        count += 1
        faces += bool(found) or points is not None
        uncropped += points is None and _is_scene(image, found)
        own = points if points is not None else found[0].points if found else None
        place = None if own is None else seen_in(own, image.shape)
        places += [] if place is None else [place]
    return Look(count, faces, uncropped, _crop(places, count, size))


def _found(
    pictures: Iterable[tuple[Frame, Points | None]], finder: FaceFinder
) -> Iterator[tuple[Frame, Points | None, list[Face]]]:
    rest = iter(pictures)
    while some := list(islice(rest, _TOGETHER)):
        unknown = [image for image, points in some if points is None]
        found = iter(finder.find(unknown) if unknown else [])
        for image, points in some:
            yield image, points, next(found) if points is None else []


def _is_scene(image: Frame, faces: list[Face]) -> bool:
    height, width = image.shape[:2]
    if max(height, width) > _SQUARE * min(height, width):
        return True
    if not faces:
        return False
    first = faces[0].box
    small = first[2] < _FILLED * width and first[3] < _FILLED * height
    return small or any(other.box[2] > _CROWD * first[2] for other in faces[1:])


def _crop(places: list[tuple[float, float]], pictures: int, size: int) -> Crop | None:
    """Return the crop that the middle one of the pictures shows, if half of them show a face."""
    if len(places) < max(1, pictures / 2):
        return None
    span, line = np.median(places, 0).tolist()
    if not (0.02 <= span <= 1 and 0 <= line <= 1):
        return None
    return replace(Crop("none", size), eye_span=round(span, 3), eye_line=round(line, 3))
