"""A small model on disk, and pictures and films whose faces are bright squares."""

from pathlib import Path

import av
import numpy as np
import torch
from torch import Tensor

from faceaffect import registry
from faceaffect.data.batch import FaceBatch
from faceaffect.data.faces.crop import Crop
from faceaffect.module import AffectModule
from faceaffect.schema import LabelSchema
from faces import write_image

SCHEMA = LabelSchema((1, 12), ("neutral", "happiness"), True)
ANSWERS = ["AU1", "AU12", "neutral", "happiness", "valence", "arousal"]


class Corners(AffectModule):
    """Answers by how bright the corners of a face are; stands in the table as `corners`."""

    def loss(self, batch: FaceBatch) -> Tensor:
        raise NotImplementedError

    def predict(self, batch: FaceBatch) -> dict[str, Tensor]:
        image = batch["image"].float().mean(1) / 255
        half = image.shape[-1] // 2
        parts = [(slice(None, half), slice(half, None))[i] for i in (0, 1)]
        corners = [image[:, a, b].mean((1, 2)) for a in parts for b in parts]
        shares = torch.stack([corners[2], 1 - corners[2]], 1)
        va = 2 * torch.stack([corners[3], 1 - corners[0]], 1) - 1
        return {"au": torch.stack(corners[:2], 1), "expression": shares, "va": va}


class Speaking(Corners):
    """Says in words how bright a face is."""

    def describe(self, batch: FaceBatch, question: str | None = None) -> list[str]:
        return [f"{clip.float().mean():.0f} bright" for clip in batch["video"]]


def model(crop: Crop | None = None, size: int = 32, kind: type[Corners] = Corners) -> AffectModule:
    """Return a model that answers everything."""
    made = kind(SCHEMA)
    made.crop, made.image_size = crop or Crop("tight", 40, margin=0.0), size
    return made.eval()


def write_model(path: Path, crop: Crop | None = None, kind: type[Corners] = Corners) -> Path:
    """Write the checkpoint of such a model."""
    registry.TABLES["models"]["corners"] = f"{Corners.__module__}:Corners"
    made = model(crop, kind=kind)
    stored = {"state_dict": made.state_dict(), "hyper_parameters": dict(made.hparams)}
    made.on_save_checkpoint(stored)
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(stored, path)
    return path


def scene(*squares: tuple[int, int, int], size: tuple[int, int] = (96, 128)) -> np.ndarray:
    """Return a dark picture with bright squares (x, y, side)."""
    ramp = np.linspace(20, 90, size[1])[None, :, None].repeat(size[0], 0).repeat(3, 2)
    image = ramp.astype(np.uint8)
    for x, y, side in squares:
        shade = np.linspace(205, 250, side)
        image[y : y + side, x : x + side] = (shade[:, None] / 2 + shade / 2)[..., None]
    return image


def write_scene(path: Path, *squares: tuple[int, int, int]) -> Path:
    """Write such a picture without loss."""
    return write_image(path, scene(*squares))


def write_film(
    path: Path, frames: list[np.ndarray], *, fps: int = 10, sound: bool = False, start: int = 0
) -> Path:
    """Write pictures as a film, from a number of frames after time 0 on, with a tone."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps, options={"crf": "1", "g": "8"})
        height, width = frames[0].shape[:2]
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv444p"
        tone = container.add_stream("aac", rate=16_000, layout="mono") if sound else None
        for number, image in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            frame.pts = number + start
            container.mux(stream.encode(frame))
            if tone is not None:
                container.mux(tone.encode(_tone(number, 16_000 // fps)))
        for one in filter(None, (stream, tone)):
            container.mux(one.encode(None))
    return path


def _tone(number: int, count: int) -> av.AudioFrame:
    wave = np.sin(np.arange(number * count, (number + 1) * count) / 5) * 9000
    frame = av.AudioFrame.from_ndarray(wave.astype(np.int16)[None], layout="mono")
    frame.sample_rate, frame.pts = 16_000, number * count
    return frame
