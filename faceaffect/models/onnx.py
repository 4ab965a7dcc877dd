"""An exported model that answers through onnxruntime, beside those that answer through torch."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from faceaffect.data.batch import FaceBatch
from faceaffect.data.faces.crop import Crop
from faceaffect.data.image import resize
from faceaffect.errors import (
    CheckpointError,
    FaceAffectError,
    RecipeError,
    first_line,
    needs_extra,
    printable,
)
from faceaffect.models.exported import HEADER, parse_description
from faceaffect.module import AffectModule
from faceaffect.schema import LabelSchema

_LARGEST = 8192  # pixels of a face's side that a file may ask for


def open_session(file: Path) -> Any:
    """Return an onnxruntime session on the CPU, with as many threads as torch uses.

    Raises:
        RecipeError: onnxruntime is not installed.
        CheckpointError: the file is missing, or no model that onnxruntime runs.
    """
    try:
        import onnxruntime
    except ImportError:
        raise RecipeError(needs_extra(f"{file}: ONNX", "onnxruntime", "export")) from None
    if not file.is_file():
        raise CheckpointError(f"no exported model at {file}")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 4  # what is wrong is raised, and said once
    try:
        return onnxruntime.InferenceSession(str(file), options, ["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has one of its own for each kind of damage
        reason = printable(first_line(error), 200)
        raise CheckpointError(f"{file}: no model that onnxruntime runs: {reason}") from None


class Onnx(AffectModule):
    """A model in ONNX, exported by ``faceaffect export``; it is tested and asked as it is.

    Args:
        schema: not used: the file says what the model answers.
        file: the ``.onnx`` file.

    Attributes:
        about: what the file says of itself, see :func:`.describe_model`.

    Raises:
        RecipeError: onnxruntime is not installed.
        CheckpointError: the file is missing, damaged, or was not exported by faceaffect.
    """

    needs_training = False
    has_cost = False

    def __init__(self, schema: LabelSchema | dict[str, Any], *, file: str) -> None:
        path = Path(file)
        session = open_session(path)
        about = parse_description(session.get_modelmeta().custom_metadata_map.get(HEADER), path)
        try:
            found = LabelSchema.from_dict(about["schema"])
            size, crop = about["image_size"], about["crop"]
            super().__init__(found)
            self.crop = None if crop is None else Crop.from_dict(crop)
        except (FaceAffectError, KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{file}: its description is damaged: {error!r}") from None
        if not (isinstance(size, int) and 0 < size <= _LARGEST):
            raise CheckpointError(f"{file}: its image size is no number of pixels: {size!r:.40}")
        self.about, self.image_size, self._session = about, size, session
        self._check(path)

    def _check(self, file: Path) -> None:
        """See that the graph takes and gives what the description says."""
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        size = self.image_size
        takes = [(one.name, one.type, one.shape[1:]) for one in inputs]
        gives = [(one.name, one.shape[1:]) for one in outputs]
        if takes != [("image", "tensor(uint8)", [3, size, size])] or gives != [
            (task, [len(self.schema.names(task))]) for task in self.schema.tasks
        ]:
            raise CheckpointError(f"{file}: its graph takes or gives other things than it says")

    def loss(self, batch: FaceBatch) -> Tensor:
        """Refuse: an exported model learns nothing more."""
        raise RecipeError("model 'onnx' is not trained; test, compare or predict with it")

    def predict(self, batch: FaceBatch) -> dict[str, Tensor]:
        """Return AU and expression probabilities, valence and arousal in [-1, 1]."""
        image = batch["image"]
        values = self._session.run(list(self.schema.tasks), {"image": self._fitting(image)})
        answers = map(torch.from_numpy, values)
        return {
            task: value.to(image.device)
            for task, value in zip(self.schema.tasks, answers, strict=True)
        }

    def _fitting(self, image: Tensor) -> NDArray[np.uint8]:
        """Return images as the graph takes them, on the CPU and scaled to its size."""
        pixels: NDArray[np.uint8] = image.cpu().numpy()
        assert self.image_size is not None
        if pixels.shape[-2:] == (self.image_size, self.image_size) or not len(pixels):
            return pixels
        scaled = resize(pixels.transpose(0, 2, 3, 1), self.image_size)
        return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2))
