"""What was seen in a picture or frame: its faces and the model's answers about them."""

from dataclasses import dataclass
from typing import Any

from faceaffect.data.faces.finder import Face
from faceaffect.prediction.reading import Shot

PLACES = ("input", "frame", "time", "face", "track", "x", "y", "w", "h", "score")
"""The columns of a table of answers that say where a face is."""


@dataclass(frozen=True)
class Answered:
    """A face and what the model says of it.

    Attributes:
        face: where it is.
        track: the person's number in a video; None in a picture.
        answers: name to probability (AUs, expressions) or value in [-1, 1] (valence, arousal).
        text: words of a model that answers in words.
    """

    face: Face
    track: int | None
    answers: dict[str, float]
    text: str | None = None


@dataclass(frozen=True)
class Seen:
    """A picture or frame that was looked at.

    Attributes:
        shot: the picture and where it comes from.
        faces: largest first; None for a frame that is only there to be shown.
    """

    shot: Shot
    faces: list[Answered] | None

    def rows(self) -> list[dict[str, Any]]:
        """Return a row a face; one without a face where there is none."""
        if self.faces is None:
            return []
        place = {"input": self.shot.name, "frame": self.shot.frame, "time": self.shot.time}
        return [place | _row(n, face) for n, face in enumerate(self.faces, 1)] or [place]


def _row(number: int, found: Answered) -> dict[str, Any]:
    box = dict(zip("xywh", found.face.box, strict=True))
    row = {"face": number, "track": found.track, **box, "score": found.face.score, **found.answers}
    return row if found.text is None else row | {"text": found.text}
