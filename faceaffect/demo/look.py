"""What the page shows of a picture or clip: each model's answers, a heat map, its words."""

from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pytorch_grad_cam.utils.image import show_cam_on_image

from faceaffect.data.batch import FaceBatch
from faceaffect.data.faces.finder import Face, Frame
from faceaffect.data.video import read_media
from faceaffect.errors import DataError, FaceAffectError, harmless
from faceaffect.evaluation.explain import answer_names, grad_cam, noticed
from faceaffect.prediction.predictor import Predictor
from faceaffect.schema import STRONGEST, VA_NAMES, LabelSchema

FRAMES = 8
"""Evenly spaced frames of a clip that are looked at."""

Found = list[tuple[Frame, Face]]


def find_face(predictor: Predictor, path: Path) -> Found:
    """Return the largest face of a picture, or of each frame of a clip that shows one.

    Raises:
        DataError: it cannot be read, or shows no face.
    """
    pixels = read_media(path, FRAMES)
    frames = list(pixels) if pixels.ndim == 4 else [pixels]
    if predictor.crop is None:
        return [(f, Face((0.0, 0.0, float(f.shape[1]), float(f.shape[0])), 1.0)) for f in frames]
    found = [
        (frame, faces[0])
        for frame, faces in zip(frames, predictor.finder.find(frames), strict=True)
        if faces
    ]
    if not found:
        raise DataError("no face was found; with --crop none pictures are taken as face crops")
    return found


def crops_for(predictor: Predictor, found: Found) -> list[Frame]:
    """Return the faces as a model expects them."""
    return [predictor.face(frame, face) for frame, face in found]


def batch_of(predictor: Predictor, crops: Sequence[Frame]) -> FaceBatch:
    """Return faces as a clip of one person, on the model's device."""
    clip = torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2)[None].to(predictor.model.device)
    known = torch.ones(1, len(crops), dtype=torch.bool, device=clip.device)
    return FaceBatch(id=["face"], subject=["face"], video=clip, frame_mask=known)


def answers_about(predictor: Predictor, batch: FaceBatch) -> dict[str, float]:
    """Return a model's answers by name; of a clip, about all of it."""
    _, answers = predictor.model.answer(batch)
    values = [v for task in predictor.schema.tasks for v in answers[task][0].tolist()]
    return dict(zip(answer_names(predictor.schema), values, strict=True))


def heat_map(
    predictor: Predictor, crop: Frame, answers: dict[str, float], wanted: str | None
) -> tuple[NDArray[np.uint8], str]:
    """Return the face, over it what speaks for an answer, and a caption; else the face.

    Args:
        predictor: of the model.
        crop: the face.
        answers: about it.
        wanted: the answer; None takes the surest that the model sees.
    """
    names = answer_names(predictor.schema)
    seen = noticed(answers, predictor.schema)
    name = wanted or max(seen, key=answers.__getitem__)
    if name not in names:
        return crop, f"has no {name}"
    try:
        (cam,) = grad_cam(predictor.model, crop, [names.index(name)])
    except FaceAffectError:
        return crop, "no heat map of this model"
    if not cam.any():  # a map of one colour would look like an answer
        return crop, f"nothing speaks for {name}"
    return show_cam_on_image(np.float32(crop / 255), cam, use_rgb=True), f"speaks for {name}"


def bars(answers: dict[str, float], schema: LabelSchema) -> str:
    """Return the answers as bars in HTML: AUs, classes, intensity; valence, arousal around 0."""
    rows = []
    for title, names in (("Action units", schema.au_names), ("Expression", schema.expressions)):
        if names:
            rows.append(f"<h4>{title}</h4>")
            rows += [_bar(name, answers[name], 0.0, answers[name]) for name in names]
    if schema.valence_arousal:
        rows.append("<h4>Valence and arousal</h4>")
        for name in VA_NAMES:
            low, high = sorted((0.5, (answers[name] + 1) / 2))
            rows.append(_bar(name, answers[name], low, high))
    if schema.felt:
        rows.append("<h4>Felt emotion</h4>")
        felt = {name: answers[f"felt/{name}"] for name in schema.felt}
        rows += [_bar(name, value, 0.0, value) for name, value in felt.items()]
    if schema.intensity:
        strength = answers["intensity"]
        rows += [
            "<h4>Intensity, 0 to 3</h4>",
            _bar("intensity", strength, 0.0, strength / STRONGEST),
        ]
    return f'<div class="bars">{"".join(rows)}</div>'


def _bar(name: str, value: float, low: float, high: float) -> str:
    strong = " strong" if value >= 0.5 else ""
    style = f"left:{100 * low:.1f}%;width:{100 * (high - low):.1f}%"
    return (
        f'<div class="row"><span>{escape(name)}</span><div class="track"><div class="fill{strong}" '
        f'style="{style}"></div></div><span>{value:.2f}</span></div>'
    )


def words_about(predictor: Predictor, batch: FaceBatch) -> Iterator[str]:
    """Yield what a model says in words, longer with each step."""
    from transformers import TextIteratorStreamer

    model: Any = predictor.model
    if not hasattr(model, "llm"):  # says all at once
        yield harmless(model.describe(batch)[0])
        return
    streamer = TextIteratorStreamer(model.llm.tokenizer, skip_special_tokens=True)
    failed: list[BaseException] = []

    def speak() -> None:
        try:
            model.describe(batch, streamer=streamer)
        except BaseException as error:
            failed.append(error)
            streamer.end()  # type: ignore[no-untyped-call]

    thread = Thread(target=speak, daemon=True)
    thread.start()
    text = ""
    for piece in streamer:
        text += piece
        yield harmless(text)
    thread.join()
    if failed:
        raise failed[0]


def differences(predictors: dict[str, Predictor]) -> list[str]:
    """Return a line for each model that does not answer what the first does."""
    (first, one), *others = predictors.items()
    lines = []
    for name, other in others:
        parts = one.schema.difference(other.schema, (first, name))
        if parts:
            lines.append(f"{first} and {name} do not answer the same: {'; '.join(parts)}")
    return lines
