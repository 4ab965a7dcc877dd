"""Questions in free words about one picture or clip, answered by a trained model."""

from pathlib import Path

import torch
from transformers.utils.logging import disable_progress_bar

from faceaffect.data.batch import FaceBatch
from faceaffect.data.image import resize
from faceaffect.data.video import read_media
from faceaffect.errors import DataError, RecipeError
from faceaffect.models.loading import answering, read_checkpoint, restore
from faceaffect.module import AffectModule
from faceaffect.registry import names_with

FRAMES = 8
"""Frames of a clip that are looked at where a model's own data says nothing."""


def load_face(path: Path, image_size: int, frames: int = FRAMES) -> FaceBatch:
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
    pixels = read_media(path, frames, image_size)
    pixels = resize(pixels, image_size)
    pixels = pixels[None] if pixels.ndim == 3 else pixels
    clip = torch.from_numpy(pixels).permute(0, 3, 1, 2)[None]
    known = torch.ones(1, clip.shape[1], dtype=torch.bool)
    return FaceBatch(id=[str(path)], subject=[str(path)], video=clip, frame_mask=known)


def open_model(source: Path, device: str = "auto") -> tuple[AffectModule, int, int]:
    """Return a trained model on a device, and the image size and frames of a clip of its data.

    Args:
        source: a run folder or a checkpoint.
        device: ``auto`` takes a GPU if there is one; else a device of torch: ``cpu``, ``cuda:1``.

    Raises:
        CheckpointError: the checkpoint is missing or damaged.
        RecipeError: there is no such device.
    """
    checkpoint = read_checkpoint(source)
    recipe = checkpoint["faceaffect"]["recipe"] or {"sections": {"data": {}}}
    data = recipe["sections"]["data"]
    nodes = [data, *(node for node in data.get("sources", []) if isinstance(node, dict))]
    frames = next((int(node["frames"]) for node in nodes if "frames" in node), FRAMES)
    # No bar of reading the weights: only the answer is wanted.
    disable_progress_bar()  # type: ignore[no-untyped-call]
    model = answering(restore(checkpoint, source))
    return model.to(find_device(device)), int(data.get("image_size", 112)), frames


def find_device(name: str) -> torch.device:
    """Return a device of torch by its name; ``auto`` is a GPU if there is one.

    Raises:
        RecipeError: there is no such device.
    """
    if name == "auto":
        found = torch.accelerator.current_accelerator(check_available=True)
        return torch.device("cpu") if found is None else found
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except Exception as error:  # torch has one of its own for each kind of absence
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise RecipeError(f"--device {name}: not usable here: {reason}") from None
    return device


def ask(
    model: AffectModule,
    path: Path,
    question: str | None,
    *,
    image_size: int,
    frames: int = FRAMES,
    stream: bool = True,
) -> str:
    """Return a model's answer about a picture, and print it word by word as it comes.

    Args:
        model: one that answers in words.
        path: a face crop, a clip or a folder of frames.
        question: None asks for a description.
        image_size: side in pixels that the model was trained at.
        frames: evenly spaced ones of a clip.
        stream: print while the model speaks.

    Raises:
        RecipeError: the model does not answer in words.
        DataError: the picture cannot be read.
    """
    describe = getattr(model, "describe", None)
    if describe is None:
        others = ", ".join(names_with("models", "describe"))
        raise RecipeError(
            f"{type(model).__name__} gives no answers in words; models that do: {others}"
        )
    batch = load_face(path, image_size, frames)
    batch["video"] = batch["video"].to(model.device)
    batch["frame_mask"] = batch["frame_mask"].to(model.device)
    (answer,) = describe(batch, question, stream=stream)
    return str(answer)
