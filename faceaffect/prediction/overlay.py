"""Pictures and videos with what was seen drawn in, each beside a timeline of its persons."""

from collections.abc import Iterable
from pathlib import Path

from faceaffect.data.extract import encode_jpeg, write_atomic
from faceaffect.data.faces.finder import Frame
from faceaffect.errors import DataError, RecipeError
from faceaffect.prediction.draw import draw, hide
from faceaffect.prediction.film import Film
from faceaffect.prediction.inputs import Input
from faceaffect.prediction.reading import Ended
from faceaffect.prediction.seen import Answered, Seen
from faceaffect.prediction.timeline import Timeline
from faceaffect.schema import LabelSchema

_HIDDEN_FOR = 1.0  # seconds for which a face's place stays hidden after it was lost


class Overlay:
    """Writes a drawn-in copy of everything that is looked at.

    A picture becomes ``NAME.jpg``; a video ``NAME.mp4`` (``.mkv`` where its sound needs it), with
    its sound and its frames' own times, and a ``NAME.person1.png`` for each person.

    Args:
        folder: where to write; made if missing.
        schema: what the model answers.
        inputs: all that is looked at, so that a copy has the same name in a run that goes on.
        blur: make the faces unknown; the answers stay.

    Raises:
        DataError: the folder cannot be made.
        RecipeError: an input lies in it, which a copy could overwrite.
    """

    def __init__(
        self,
        folder: Path,
        schema: LabelSchema,
        inputs: Iterable[Input] = (),
        *,
        blur: bool = False,
    ) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DataError(f"{folder}: {error.strerror or error}") from None
        self.folder, self.schema, self.blur = folder, schema, blur
        self._names: dict[str, str] = {}
        self._taken: dict[str, int] = {}
        self._name(inputs)
        self._film: Film | None = None
        self._timeline = Timeline(schema)
        self._held: list[Answered] = []
        self._hidden: list[tuple[float, tuple[float, float, float, float]]] = []

    def take(self, item: Seen | Ended) -> None:
        """Draw what was seen, or finish what has ended."""
        if isinstance(item, Ended):
            self._finish(item.name)
        elif item.shot.time is None:
            self._write_picture(item)
        else:
            self._add_frame(item)

    def close(self) -> None:
        """Drop a video that has not come to its end."""
        if self._film is not None:
            self._film.drop()
            self._film = None

    def _write_picture(self, seen: Seen) -> None:
        faces = seen.faces or []
        image = self._drawn(seen.shot.image, faces, [found.face.box for found in faces])
        place = self._place(seen.shot.name)
        write_atomic(place.with_name(f"{place.name}.jpg"), encode_jpeg(image))

    def _add_frame(self, seen: Seen) -> None:
        now = seen.shot.time or 0.0
        if seen.faces is not None:
            self._held = seen.faces
            self._timeline.add(now, seen.faces)
            self._hidden += [(now, found.face.box) for found in seen.faces]
        self._hidden = [(time, box) for time, box in self._hidden if now - time <= _HIDDEN_FOR]
        if self._film is None:
            sound = Path(seen.shot.path) if seen.shot.path else None
            self._film = Film(self._place(seen.shot.name), sound)
        boxes = [box for _, box in self._hidden]
        self._film.add(self._drawn(seen.shot.image, self._held, boxes), now)

    def _drawn(
        self,
        image: Frame,
        faces: list[Answered],
        boxes: list[tuple[float, float, float, float]],
    ) -> Frame:
        return draw(hide(image, boxes) if self.blur else image, faces, self.schema)

    def _finish(self, name: str) -> None:
        if self._film is not None:
            self._film.finish()
            self._timeline.write(self._place(name))
        self._film, self._timeline = None, Timeline(self.schema)
        self._held, self._hidden = [], []

    def _name(self, inputs: Iterable[Input]) -> None:
        own = self.folder.resolve()
        for one in inputs:
            if not one.camera and Path(one.path).parent.resolve() == own:
                raise RecipeError(
                    f"--overlay {self.folder}: {one.name} lies there, and copies could overwrite "
                    "what is looked at; name another folder"
                )
            self._place(one.name)

    def _place(self, name: str) -> Path:
        """Return where an input's copy lies, without an ending: its own name where it is free."""
        if name not in self._names:
            stem = Path(name).stem.replace(":", "-") or "picture"
            chosen, known = stem, stem.lower()  # some systems do not tell cases apart
            while chosen.lower() in self._taken:
                self._taken[known] += 1
                chosen = f"{stem}-{self._taken[known]}"
            self._names[name] = chosen
            self._taken[chosen.lower()] = 1
        return self.folder / self._names[name]
