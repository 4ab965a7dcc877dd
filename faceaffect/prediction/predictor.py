"""A trained model and all that it needs to answer about raw pictures and videos."""

import os
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from faceaffect.components import create
from faceaffect.data.batch import FaceBatch, as_clips
from faceaffect.data.faces.crop import Crop, crop_for, cut
from faceaffect.data.faces.finder import Face, FaceFinder, Frame
from faceaffect.data.faces.tracks import Smoother, Tracker
from faceaffect.data.image import IMAGE_SIZE, as_picture, read_image, resize
from faceaffect.errors import DataError, RecipeError
from faceaffect.hardware import find_device
from faceaffect.models.loading import answering, load_model
from faceaffect.module import AffectModule
from faceaffect.prediction.inputs import find_inputs
from faceaffect.prediction.reading import Ended, Shot, read_inputs
from faceaffect.prediction.seen import PLACES, Answered, Seen
from faceaffect.schema import LabelSchema

Cropping = Literal["trained", "landmarks", "tight", "none"]

_TOGETHER_BYTES = 200_000_000  # of pictures that are looked at together


class State:
    """Who was where in a video, as far as it has been looked at.

    Args:
        smooth: seconds over which answers are smoothed.
    """

    def __init__(self, smooth: float = 0.0) -> None:
        self.smooth = smooth
        self.begin()

    def begin(self) -> None:
        """Forget everybody, before the next input."""
        self.tracker, self.smoother = Tracker(), Smoother(self.smooth)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {"tracker": self.tracker.state(), "smoother": self.smoother.state()}

    def restore(self, plain: dict[str, Any]) -> None:
        """Go on from what :meth:`to_dict` returned."""
        self.tracker.restore(plain["tracker"])
        self.smoother.restore(plain["smoother"])


class Predictor:
    """Finds faces in pictures and videos, cuts them out as the model was trained, and asks it.

    ``Predictor("runs/mini_probe/20260101-120000").predict("photo.jpg")`` returns a table.

    Args:
        source: a run folder, a checkpoint, or a model.
        device: ``auto`` (a GPU if there is one), ``cpu``, ``cuda:1``, ...
        finder: finds faces: a name of ``faceaffect ls finders``, a mapping with its arguments, or
            any :class:`~faceaffect.data.faces.finder.FaceFinder`.
        crop: ``trained`` cuts faces out as those were that the model was trained on; ``landmarks``,
            ``tight`` or a :class:`~faceaffect.data.faces.crop.Crop` says how instead; ``none``
            takes every picture as one face that is cropped already.
        faces: ``all`` of a picture, or the ``largest``.
        batch_size: faces that the model gets at once, and pictures looked at together.
        smooth: seconds over which the answers about one person in a video are smoothed.

    Attributes:
        model: the model, on its device.
        schema: what it answers.
        crop: how faces are cut out; None where pictures are taken as they are.
        seconds: spent so far, by ``finding``, ``cropping`` and ``model``.

    Raises:
        CheckpointError: the checkpoint is missing or damaged.
        RecipeError: an argument makes no sense, or there is no such device.
    """

    def __init__(
        self,
        source: str | os.PathLike[str] | AffectModule,
        *,
        device: str = "auto",
        finder: str | dict[str, Any] | FaceFinder = "mtcnn",
        crop: Cropping | Crop = "trained",
        faces: Literal["all", "largest"] = "all",
        batch_size: int = 16,
        smooth: float = 0.0,
    ) -> None:
        if batch_size < 1:
            raise RecipeError(f"batch_size: {batch_size} is not positive")
        if not 0 <= smooth < float("inf"):
            raise RecipeError(f"smooth: {smooth} is no number of seconds")
        if faces not in ("all", "largest"):
            raise RecipeError(f"faces: '{faces}' is neither 'all' nor 'largest'")
        place = find_device(device)
        model = source if isinstance(source, AffectModule) else load_model(Path(source))
        self.model = answering(model).to(place).eval()
        self.schema: LabelSchema = self.model.schema
        self.image_size = self.model.image_size or IMAGE_SIZE
        self.crop = self._crop(crop)
        self.finder = _finder(finder, str(place))
        self.largest, self.batch_size, self.smooth = faces == "largest", batch_size, smooth
        self.seconds: dict[str, float] = dict.fromkeys(("finding", "cropping", "model"), 0.0)

    @property
    def columns(self) -> list[str]:
        """The columns of a table of answers, in order."""
        names = [*PLACES, *self.schema.answers]
        return [*names, "text"] if self.speaks else names

    @property
    def speaks(self) -> bool:
        """Whether the model answers in words."""
        return hasattr(self.model, "describe")

    def expects(self) -> str:
        """Return in words what the model is asked about: how faces are cut out, and what of clips.

        That says also whether faces are cut out as those that it was trained on, and what the model
        was trained to look at that pictures do not show.
        """
        said = self._cuts_out()
        if self.model.clips:
            said += (
                "; this model takes clips, and each frame of a video is to it a clip of one frame"
            )
        if self.model.signals:
            said += (
                f"; this model learned to look at {' and '.join(self.model.signals)} too, which "
                "pictures do not have, and answers without them surer than it should be"
            )
        return said

    def _cuts_out(self) -> str:
        trained = self.model.crop
        if self.crop is None:
            return "pictures are taken as faces that are cropped already"
        if trained is None:
            return (
                "how the model's training faces were cropped is not known; they are cut out "
                "upright, the outer corners of the eyes "
                f"{100 * self.crop.eye_span:.0f} % of the width apart"
            )
        if trained.kind == "none" and self.crop.eye_span == trained.eye_span:
            return (
                "the model was trained on ready crops, the outer corners of the eyes "
                f"{100 * self.crop.eye_span:.0f} % of the width apart; faces are cut out likewise "
                "(pictures that are such crops themselves: crop 'none')"
            )
        same = "as those it was trained on" if self.crop == trained else "as asked"
        return f"faces are cut out {same}: {self.crop.kind}, {self.crop.size} px"

    # What users call

    def predict(self, inputs: Any, *, fps: float | None = None) -> pd.DataFrame:
        """Return one row for each face.

        Args:
            inputs: a path (picture, video, folder, pattern, table of paths), an array (H, W, 3)
                uint8 RGB, a PIL picture, or a list of any of these.
            fps: looks a second at a video; None looks at every frame.

        Returns:
            the columns of :attr:`columns`; a picture without a face has a row without one. What
            could not be read of several inputs stands in ``attrs["unreadable"]``, name to reason.

        Raises:
            DataError: nothing is there, or the only input cannot be read.
        """
        rows: list[dict[str, Any]] = []
        unreadable: dict[str, str] = {}
        shots, count = _open(inputs, fps)
        for item in self.look(shots):
            if isinstance(item, Seen):
                rows += item.rows()
            elif item.reason is not None:
                unreadable[item.name] = item.reason
        if unreadable and count == 1 and not rows:
            raise DataError(next(iter(unreadable.values())))
        table = pd.DataFrame(rows, columns=self.columns).astype(
            {name: "Int64" for name in ("frame", "face", "track")}
        )
        table.attrs["unreadable"] = unreadable
        return table

    def stream(self, video: str | os.PathLike[str], *, fps: float | None = None) -> Iterator[Seen]:
        """Yield what is seen in each frame of a video or camera, as it goes.

        Args:
            video: a file, or ``camera:0``.
            fps: looks a second; None looks at every frame.

        Raises:
            DataError: it cannot be read, or not beyond a frame.
        """
        for item in self.look(read_inputs(find_inputs([video]), fps=fps)):
            if isinstance(item, Seen):
                yield item
            elif item.reason is not None:
                raise DataError(item.reason)

    def face_in(self, path: str | os.PathLike[str]) -> Frame:
        """Return the largest face of a picture as the model expects it, (S, S, 3) uint8 RGB.

        Raises:
            DataError: the picture cannot be read, or shows no face.
        """
        return self.face_of(read_image(Path(path)), str(path))

    def face_of(self, image: Frame, name: str) -> Frame:
        """Return the same of a picture that has been read.

        Raises:
            DataError: it shows no face; the name is in the message.
        """
        face = self.largest_face(image)
        if face is None:
            raise DataError(f"{name}: no face was found; --crop none takes it as a face crop")
        return face

    def largest_face(self, image: Frame) -> Frame | None:
        """Return the largest face of a picture as the model expects it, None without a face."""
        faces = self._find([image])[0]
        return self.face(image, faces[0]) if faces else None

    # The way through

    def look(
        self, shots: Iterable[Shot | Ended], state: State | None = None
    ) -> Iterator[Seen | Ended]:
        """Yield what is seen in each picture or frame, in order, and pass on what ends.

        Args:
            shots: from :func:`~faceaffect.prediction.reading.read_inputs`.
            state: of the video that comes first, if it is gone on with; kept up to date.
        """
        state = State(self.smooth) if state is None else state
        waiting: list[Shot | Ended] = []
        for item in shots:
            waiting.append(item)
            if self._enough(waiting):
                yield from self._look_at(waiting, state)
                waiting = []
        yield from self._look_at(waiting, state)

    def _enough(self, waiting: Sequence[Shot | Ended]) -> bool:
        images = [item.image for item in waiting if isinstance(item, Shot)]
        return len(images) >= self.batch_size or sum(i.nbytes for i in images) > _TOGETHER_BYTES

    def _look_at(self, items: Sequence[Shot | Ended], state: State) -> Iterator[Seen | Ended]:
        wanted = [item for item in items if isinstance(item, Shot) and item.wanted]
        faces = self._find([shot.image for shot in wanted])
        pairs = [(shot, face) for shot, own in zip(wanted, faces, strict=True) for face in own]
        answers = iter(self._answer(pairs))
        found = iter(faces)
        for item in items:
            if isinstance(item, Ended):
                state.begin()
                yield item
            elif not item.wanted:
                yield Seen(item, None)
            else:
                own = [(face, *next(answers)) for face in next(found)]
                yield Seen(item, self._follow(item, own, state))

    def _find(self, images: Sequence[Frame]) -> list[list[Face]]:
        if self.crop is None:
            return [[Face((0.0, 0.0, *map(float, i.shape[1::-1])), 1.0)] for i in images]  # type: ignore[arg-type]
        start = time.perf_counter()
        found = self.finder.find(images) if images else []
        self.seconds["finding"] += time.perf_counter() - start
        good = [[face for face in faces if _is_there(face)] for faces in found]
        return [faces[:1] if self.largest else faces for faces in good]

    def _answer(
        self, pairs: Sequence[tuple[Shot, Face]]
    ) -> Iterator[tuple[NDArray[np.float64], str | None]]:
        """Yield the answers about each face, as an array in the order of the schema's names."""
        for begin in range(0, len(pairs), self.batch_size):
            some = pairs[begin : begin + self.batch_size]
            start = time.perf_counter()
            faces = np.stack([self.face(shot.image, face) for shot, face in some])
            middle = time.perf_counter()
            values, texts = self.ask(faces)
            self.seconds["cropping"] += middle - start
            self.seconds["model"] += time.perf_counter() - middle
            yield from zip(values, texts, strict=True)

    def face(self, image: Frame, face: Face) -> Frame:
        """Return a face as the model expects it, (image_size, image_size, 3) uint8."""
        if self.crop is None:
            return resize(image, self.image_size)
        try:
            picture, _ = cut(image, face, self.crop)
        except DataError:  # points that are of no use
            picture, _ = cut(image, replace(face, points=None), self.crop)
        return resize(picture, self.image_size)

    @torch.inference_mode()
    def ask(self, faces: NDArray[np.uint8]) -> tuple[NDArray[np.float64], list[str | None]]:
        """Return the answers about faces that are cut out already.

        Args:
            faces: (N, S, S, 3) uint8 RGB.

        Returns:
            (N, answers) in the order of the schema's answers, and N texts.
        """
        image = torch.from_numpy(faces).permute(0, 3, 1, 2).contiguous().to(self.model.device)
        names = [f"face {n}" for n in range(len(faces))]
        batch = FaceBatch(image=image, id=names, subject=names)
        _, answers = self.model.answer(batch)
        texts = answers.get("text")
        describe: Any = getattr(self.model, "describe", None)
        if texts is None and describe is not None:
            texts = describe(as_clips(batch))
        parts = [answers[task].double().cpu().numpy() for task in self.schema.tasks]
        return np.concatenate(parts, 1), list(texts or [None] * len(faces))

    def _follow(
        self,
        shot: Shot,
        found: Sequence[tuple[Face, NDArray[np.float64], str | None]],
        state: State,
    ) -> list[Answered]:
        """Give persons of a video their numbers and smooth the answers about them."""
        names = self.columns[len(PLACES) :]
        tracks: list[int | None] = [None] * len(found)
        if shot.time is not None:
            faces = [face for face, _, _ in found]
            tracks = [*state.tracker.number(faces, shot.time, shot.image)]
            state.smoother.forget(shot.time - state.tracker.patience - self.smooth)
        seen = []
        for (face, values, text), track in zip(found, tracks, strict=True):
            if track is not None and shot.time is not None:
                values = state.smoother.smooth(track, shot.time, values)
            seen.append(
                Answered(face, track, dict(zip(names, values.tolist(), strict=False)), text)
            )
        return seen

    def _crop(self, wanted: Cropping | Crop) -> Crop | None:
        if isinstance(wanted, Crop):
            return None if wanted.kind == "none" else wanted
        if wanted == "none":
            return None
        if wanted != "trained":
            return Crop(wanted, self.image_size)
        return crop_for(self.model.crop, self.image_size)


def _is_there(face: Face) -> bool:
    return bool(np.isfinite(face.box).all()) and min(face.box[2:]) >= 1


def _finder(finder: str | dict[str, Any] | FaceFinder, device: str) -> FaceFinder:
    if not isinstance(finder, (str, dict)):
        return finder
    node = {"name": finder} if isinstance(finder, str) else dict(finder)
    if node.get("name") == "mtcnn":
        node.setdefault("device", device)
    made: FaceFinder = create("finders", node, "finder")
    return made


def _open(inputs: Any, fps: float | None) -> tuple[Iterator[Shot | Ended], int]:
    """Return what is in paths, arrays and pictures, and how many inputs there are."""
    items = list(inputs) if isinstance(inputs, (list, tuple)) else [inputs]
    if all(isinstance(item, (str, os.PathLike)) for item in items):
        found = find_inputs(items)
        return read_inputs(found, fps=fps), len(found)
    return _in_memory(items, fps), len(items)


def _in_memory(items: Sequence[Any], fps: float | None) -> Iterator[Shot | Ended]:
    for place, item in enumerate(items):
        if isinstance(item, (str, os.PathLike)):
            yield from read_inputs(find_inputs([item]), fps=fps)
            continue
        yield Shot(place, str(place), "", as_picture(item))
        yield Ended(place, str(place))
