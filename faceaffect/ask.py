"""Questions in free words about one picture or clip, answered by a trained model."""

from pathlib import Path

import torch

from faceaffect.data.batch import FaceBatch
from faceaffect.data.csv import CLIPS
from faceaffect.data.image import read_image, resize
from faceaffect.data.video import read_frames
from faceaffect.errors import DataError, RecipeError
from faceaffect.module import AffectModule


def load_face(path: Path, image_size: int, frames: int = 8) -> FaceBatch:
    """Return a face crop, a clip, or a folder of numbered frames as a batch of one.

    Args:
        path: what to read.
        image_size: side in pixels.
        frames: evenly spaced ones of a clip.

    Raises:
        DataError: it is missing or cannot be read.
    """
    if not path.exists():
        raise DataError(f"no picture at {path}")
    if path.is_dir() or path.suffix.lower() in CLIPS:
        pixels = read_frames(path, count=frames, size=image_size)
    else:
        pixels = resize(read_image(path), image_size)[None]
    clip = torch.from_numpy(pixels).permute(0, 3, 1, 2)[None]
    known = torch.ones(1, clip.shape[1], dtype=torch.bool)
    return FaceBatch(id=[str(path)], subject=[str(path)], video=clip, frame_mask=known)


def ask(
    model: AffectModule, path: Path, question: str | None, *, image_size: int, stream: bool = True
) -> str:
    """Return a model's answer about a picture, and print it word by word as it comes.

    Args:
        model: one that answers in words.
        path: a face crop, a clip or a folder of frames.
        question: None asks for a description.
        image_size: side in pixels that the model was trained at.
        stream: print while the model speaks.

    Raises:
        RecipeError: the model does not answer in words.
        DataError: the picture cannot be read.
    """
    describe = getattr(model, "describe", None)
    if describe is None:
        raise RecipeError(f"{type(model).__name__} gives no answers in words; emo_llama does")
    batch = load_face(path, image_size)
    (answer,) = describe(batch, question, stream=stream)
    return str(answer)
