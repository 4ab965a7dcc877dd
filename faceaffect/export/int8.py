"""Exported models in eight bits, and what that costs in accuracy."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
from numpy.typing import NDArray

from faceaffect.data.base import FaceDataModule
from faceaffect.errors import DataError
from faceaffect.export.graph import quietly
from faceaffect.files import replacing
from faceaffect.models.onnx import Onnx
from faceaffect.module import AffectModule
from faceaffect.runs.calls import calling

CALIBRATION = 128
"""Training faces whose activations a network of convolutions is scaled by."""

MEASURED = ("score", "au_f1", "expression_uar", "va_ccc", "felt_uar", "intensity_ccc")
"""The metrics that the loss of accuracy is told in."""


def to_int8(source: Path, goal: Path, data: FaceDataModule) -> str:
    """Write an exported model with weights in eight bits.

    Where convolutions hold most weights, activations are scaled once by those of training faces
    (static quantisation); else of matrix products, by each batch's own (dynamic), as onnxruntime
    advises for CNNs and transformers.

    Args:
        source: the model in float32.
        goal: the file; replaced if it is there.
        data: whose training part the activations are taken from.

    Returns:
        ``static`` or ``dynamic``.

    Raises:
        DataError: the run has no training faces.
    """
    import onnx
    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quantize_dynamic,
        quantize_static,
    )

    graph = onnx.load(str(source))
    static = _in_convolutions(graph) > 0.5

    class Faces(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._batches = _training_faces(data)

        def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
            return next(self._batches, None)

    with replacing(goal) as part, quietly():
        if static:
            quantize_static(
                str(source), str(part), Faces(), quant_format=QuantFormat.QDQ, per_channel=True,
                activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
                op_types_to_quantize=["Conv", "Gemm", "MatMul"],
            )  # fmt: skip
        else:
            quantize_dynamic(
                str(source), str(part), per_channel=True, weight_type=QuantType.QInt8,
                op_types_to_quantize=["Gemm", "MatMul"],
            )  # fmt: skip
        made = onnx.load(str(part))
        if not made.metadata_props:
            made.metadata_props.extend(graph.metadata_props)
        onnx.save(made, str(part))
    return "static" if static else "dynamic"


def measure(model: AffectModule, data: FaceDataModule) -> dict[str, float]:
    """Return the metrics of :data:`MEASURED` on the validation part of a run.

    Raises:
        DataError: there is no such part.
    """
    if not len(data.split.val):
        raise DataError(
            "--int8: the run has no validation part to measure the loss of accuracy on; give one, "
            "such as data.protocol.val_fraction=0.1"
        )
    with quietly():
        trainer = L.Trainer(
            accelerator="cpu", devices=1, logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False,
        )  # fmt: skip
    with quietly(), calling(trainer):
        (found,) = trainer.validate(model, datamodule=data, verbose=False)
    names = {f"val/{name}": name for name in MEASURED}
    return {names[key]: float(value) for key, value in found.items() if key in names}


def told_loss(before: dict[str, float], after: dict[str, float], faces: int) -> str:
    """Return in words what quantisation changed."""
    parts = [
        f"{name} {before[name]:.3f} -> {after[name]:.3f}" for name in MEASURED if name in after
    ]
    return f"on {faces} validation faces, float32 -> int8: {', '.join(parts)}"


def load(file: Path) -> Onnx:
    """Return an exported model to measure."""
    return Onnx({"aus": [1]}, file=str(file))


def _in_convolutions(graph: Any) -> float:
    """Return the share of a graph's weights that convolutions hold."""
    size = {one.name: int(np.prod(one.dims)) for one in graph.graph.initializer}
    held = {"Conv": 0, "other": 0}
    for node in graph.graph.node:
        kind = "Conv" if node.op_type == "Conv" else "other"
        held[kind] += sum(size.get(name, 0) for name in node.input)
    return held["Conv"] / max(sum(held.values()), 1)


def _training_faces(data: FaceDataModule) -> Iterator[dict[str, NDArray[np.uint8]]]:
    """Yield batches of faces of the training part.

    Raises:
        DataError: it is empty.
    """
    left = CALIBRATION
    for batch in data.train_dataloader():
        if batch["id"] and "image" in batch:
            yield {"image": batch["image"][:left].numpy()}
            left -= len(batch["id"])
        if left <= 0:
            return
    if left == CALIBRATION:
        raise DataError("--int8: the run's data has no training faces to scale activations by")
