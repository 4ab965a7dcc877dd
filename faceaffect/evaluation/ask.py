"""Questions in free words about one picture or clip, answered by a trained model."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from transformers.utils.logging import disable_progress_bar

from faceaffect.data.batch import FaceBatch
from faceaffect.data.video import read_media
from faceaffect.errors import DataError, RecipeError
from faceaffect.models.loading import read_checkpoint
from faceaffect.prediction.predictor import Predictor
from faceaffect.registry import names_with

FRAMES = 8
"""Frames of a clip that are looked at where a model's own data says nothing."""


def load_face(predictor: Predictor, path: Path, frames: int = FRAMES) -> FaceBatch:
    """Return the largest face of a picture, a clip, or a folder of frames as a batch of one.

    Frames of a clip without a face are left out.

    Args:
        predictor: finds faces and cuts them out as its model expects them.
        path: what to read.
        frames: evenly spaced ones of a clip.

    Raises:
        DataError: it is missing, cannot be read, or shows no face.
    """
    if not path.exists():
        raise DataError(f"no picture at {path}")
    pixels = read_media(path, frames)
    faces = (
        _faces_of_clip(predictor, path, pixels)
        if pixels.ndim == 4
        else [predictor.face_of(pixels, str(path))]
    )
    clip = torch.from_numpy(np.stack(faces)).permute(0, 3, 1, 2)[None].to(predictor.model.device)
    known = torch.ones(1, clip.shape[1], dtype=torch.bool, device=clip.device)
    return FaceBatch(id=[str(path)], subject=[str(path)], video=clip, frame_mask=known)


def _faces_of_clip(
    predictor: Predictor, path: Path, frames: NDArray[np.uint8]
) -> list[NDArray[np.uint8]]:
    found = [predictor.largest_face(frame) for frame in frames]
    faces = [face for face in found if face is not None]
    if not faces:
        raise DataError(f"{path}: no face was found in {len(found)} frames; {_NO_FACE}")
    return faces


_NO_FACE = "--crop none takes each as a face crop"


def frames_of(source: Path) -> int:
    """Return how many frames of a clip the data of a trained model takes.

    Args:
        source: a run folder or a checkpoint.
    """
    recipe = read_checkpoint(source)["faceaffect"]["recipe"] or {"sections": {"data": {}}}
    data = recipe["sections"]["data"]
    nodes = [data, *(node for node in data.get("sources", []) if isinstance(node, dict))]
    return next((int(node["frames"]) for node in nodes if "frames" in node), FRAMES)


def quiet() -> None:
    """Show no bar of reading weights: only the answer is wanted."""
    disable_progress_bar()  # type: ignore[no-untyped-call]


def ask(
    predictor: Predictor,
    path: Path,
    question: str | None,
    *,
    frames: int = FRAMES,
    stream: bool = True,
) -> str:
    """Return a model's answer about a picture, and print it word by word as it comes.

    Args:
        predictor: with a model that answers in words.
        path: a picture, a clip or a folder of frames.
        question: None asks for a description.
        frames: evenly spaced ones of a clip.
        stream: print while the model speaks.

    Raises:
        RecipeError: the model does not answer in words.
        DataError: the picture cannot be read, or shows no face.
    """
    describe = getattr(predictor.model, "describe", None)
    if describe is None:
        others = ", ".join(names_with("models", "describe"))
        kind = type(predictor.model).__name__
        raise RecipeError(f"{kind} gives no answers in words; models that do: {others}")
    (answer,) = describe(load_face(predictor, path, frames), question, stream=stream)
    return str(answer)
