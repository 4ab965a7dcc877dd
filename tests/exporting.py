"""Small trained models on disk, one of each specialist, to export."""

import atexit
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import torch

from batches import FULL, statistics
from faceaffect import AffectModule, create_model
from faceaffect.data.faces.crop import Crop
from faceaffect.export.graph import to_onnx
from test_contract import AFFECT, MODELS

SMALL: dict[str, dict[str, Any]] = {
    "auformer": {
        "backbone": {"name": "test_vit", "args": {"depth": 1}, "image_size": 48},
        "expert_width": 2,
        "readout": "grid:2",
    },
    "timm_classifier": {
        "backbone": {"name": "test_vit", "args": {"depth": 1}, "image_size": 48},
        "readout": "grid:2",
    },
    "sacl": {"backbone": {"name": "test_resnet", "image_size": 64}, "width": 32, "stages": 2},
}
"""Arguments that make a model small; their networks have another size than the faces."""

SPECIALISTS = [name for name in AFFECT if not MODELS[name].clips]


@cache
def specialist(name: str) -> AffectModule:
    """Return a model with weights that matter, on the CPU and in eval mode."""
    torch.manual_seed(0)
    made = create_model(name, FULL, **SMALL.get(name, {}))
    made.prepare(statistics(FULL))
    for parameter in made.parameters():
        if parameter.requires_grad:
            parameter.data.add_(0.02 * torch.randn_like(parameter))
    made.crop, made.image_size = Crop("landmarks", 56), 56
    made.recipe = {"name": "tiny", "sections": {"data": {"name": "synthetic"}}}
    return made.eval()


@cache
def onnx_file(name: str) -> Path:
    """Return a specialist as ONNX: written once, since that takes many times what running it does.

    Its answers were found to be those of the model but for rounding.
    """
    folder = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, folder)
    file = Path(folder) / "model.onnx"
    assert to_onnx(specialist(name), file) < 1e-5
    return file


def write(model: AffectModule, path: Path) -> Path:
    """Write a model as a checkpoint."""
    stored = {"state_dict": model.state_dict(), "hyper_parameters": dict(model.hparams)}
    model.on_save_checkpoint(stored)
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(stored, path)
    return path
