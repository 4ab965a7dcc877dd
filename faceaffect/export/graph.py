"""Models of images as graphs that run without this package: ONNX and programs of torch."""

import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from faceaffect.data.batch import FaceBatch
from faceaffect.data.image import IMAGE_SIZE
from faceaffect.errors import FaceAffectError, RecipeError, first_line, needs_extra, printable
from faceaffect.files import replacing
from faceaffect.models.exported import HEADER, describe_model, header_of
from faceaffect.models.onnx import open_session
from faceaffect.module import AffectModule

CLOSE = 1e-4
"""How far the answers of an exported model may be from those of the model itself."""

_BATCHES = (1, 2, 5)
"""Numbers of faces that an exported model is checked with."""

_ONE_FILE = 1_900_000_000
"""Bytes of weights that a file of ONNX holds, a little below protobuf's 2 GiB."""


class Answers(nn.Module):
    """A model from uint8 faces (B, 3, S, S) to its answers by task, as one graph.

    Args:
        model: of images.
    """

    def __init__(self, model: AffectModule) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Return what ``predict`` does, the tasks in the schema's order."""
        answers = self.model.predict(FaceBatch(image=image))
        return {task: answers[task].float() for task in self.model.schema.tasks}


def check_exportable(model: AffectModule) -> None:
    """Refuse a model that is no graph from faces to answers, and say why.

    Raises:
        RecipeError: it is not.
    """
    kind = type(model).__name__
    if not model.has_cost:
        raise RecipeError(f"{kind} holds no network of torch that could be exported")
    if hasattr(model, "describe"):
        raise RecipeError(
            f"{kind} asks a language model, whose words and options are no fixed graph of numbers: "
            "export it with --to hf (trained weights, adapter, with --merge the merged language "
            "model) or --to safetensors"
        )
    if model.clips:
        raise RecipeError(
            f"{kind} takes clips of any length, and only models of single faces are exported as "
            "graphs; --to safetensors or hf writes its weights"
        )


def to_onnx(model: AffectModule, goal: Path) -> float:
    """Write a model as one ONNX file that takes any number of faces.

    The input ``image`` is (B, 3, S, S) uint8 RGB; outputs are named by task, and the description of
    :func:`.describe_model` stands in the metadata. It is run by onnxruntime beside the model before
    it is kept.

    Args:
        model: on the CPU, in eval mode.
        goal: the file; replaced if it is there.

    Returns:
        How far the two answers were apart at most.

    Raises:
        RecipeError: a package is missing.
        FaceAffectError: the model cannot be exported, or answers otherwise than its export.
    """
    check_exportable(model)
    _need("onnx", "onnxscript", "onnxruntime")
    size = sum(t.numel() * t.element_size() for t in model.state_dict().values())
    if size > _ONE_FILE:
        raise FaceAffectError(
            f"{type(model).__name__}: {size / 1e9:.1f} GB of weights are more than a file of ONNX "
            "holds; --to torch or --to safetensors takes them"
        )
    program = _traced(model)
    with quietly(), _told(model, "ONNX"):
        onnx: Any = torch.onnx.export(
            program,
            input_names=["image"],
            output_names=list(model.schema.tasks),
            dynamo=True,
            verbose=False,
        )
    onnx.model.metadata_props.update(metadata_of(model))
    goal.parent.mkdir(parents=True, exist_ok=True)
    with replacing(goal) as part:
        with quietly():
            onnx.save(str(part), external_data=False)
        session = open_session(part)

        def run(image: Tensor) -> list[Any]:
            answers: list[Any] = session.run(list(model.schema.tasks), {"image": image.numpy()})
            return answers

        return _check(model, run)


def to_torch(model: AffectModule, goal: Path) -> float:
    """Write a model as a program of ``torch.export`` (``.pt2``) that takes any number of faces.

    ``torch.export.load(FILE).module()(image)`` returns the answers by task. The description of
    :func:`.describe_model` is its extra file ``faceaffect.json``. Arguments, result and errors as
    :func:`to_onnx`.
    """
    check_exportable(model)
    program = _traced(model)
    goal.parent.mkdir(parents=True, exist_ok=True)
    text = metadata_of(model)[HEADER]
    file = goal.with_name(f"{goal.stem}.part.pt2")  # torch.export asks for the ending
    try:
        with quietly(), _told(model, "torch.export"):
            torch.export.save(program, file, extra_files={"faceaffect.json": text})
            loaded: Any = torch.export.load(file).module()
        apart = _check(model, lambda image: list(loaded(image).values()))
        file.replace(goal)
    finally:
        file.unlink(missing_ok=True)
    return apart


def metadata_of(model: AffectModule) -> dict[str, str]:
    """Return the description of a model as metadata of a file."""
    return header_of(describe_model(model))


def _traced(model: AffectModule) -> Any:
    size = model.image_size or IMAGE_SIZE
    image = torch.zeros(2, 3, size, size, dtype=torch.uint8)
    batch = {"image": {0: torch.export.Dim("batch", min=1)}}
    with torch.no_grad(), quietly(), _told(model, "torch.export"):
        return torch.export.export(Answers(model).eval(), (image,), dynamic_shapes=batch)


def example_faces(count: int, size: int) -> Tensor:
    """Return (count, 3, size, size) uint8 images to compare answers on: noise on smooth shades."""
    draw = torch.Generator().manual_seed(count)
    coarse = torch.rand(count, 3, 4, 4, generator=draw)
    shades = torch.nn.functional.interpolate(coarse, (size, size), mode="bilinear")
    noise = torch.rand(count, 3, size, size, generator=draw)
    return ((0.8 * shades + 0.2 * noise) * 255).to(torch.uint8)


@torch.no_grad()
def _check(model: AffectModule, run: Callable[[Tensor], list[Any]]) -> float:
    """Return how far an exported model's answers are from the model's.

    Raises:
        FaceAffectError: too far, or it does not answer.
    """
    answers, apart = Answers(model).eval(), 0.0
    for count in _BATCHES:
        image = example_faces(count, model.image_size or IMAGE_SIZE)
        with _told(model, f"its export, asked about {count} faces"):
            theirs = [np.asarray(value) for value in run(image)]
        for (task, own), other in zip(answers(image).items(), theirs, strict=True):
            if own.shape != other.shape or not np.isfinite(other).all():
                raise FaceAffectError(f"not kept: the export gives no {task} of {count} faces")
            apart = max(apart, float(np.abs(own.numpy() - other).max()))
    if apart > CLOSE:
        raise FaceAffectError(
            f"not kept: the export answers up to {apart:.1e} otherwise than the model, and "
            f"{CLOSE:g} is allowed"
        )
    return apart


def _need(*packages: str) -> None:
    for package in packages:
        if find_spec(package) is None:
            raise RecipeError(needs_extra("--to onnx", package, "export"))


@contextmanager
def _told(model: AffectModule, what: str) -> Iterator[None]:
    """Say in a line what a tracer says in hundreds.

    Raises:
        FaceAffectError: something went wrong.
    """
    try:
        yield
    except FaceAffectError:
        raise
    except Exception as error:
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        reason = printable(first_line(cause if isinstance(cause, Exception) else error), 300)
        raise FaceAffectError(
            f"{type(model).__name__} cannot be exported: {what}: {reason}"
        ) from None


@contextmanager
def quietly() -> Iterator[None]:
    """Keep remarks of libraries about their own doings from the terminal."""
    names = (
        "onnxscript",
        "onnx_ir",
        "torch.onnx",
        "torch.export",
        "torch.fx",
        "lightning.pytorch",
        "",
    )
    before: Mapping[str, int] = {name: logging.getLogger(name).level for name in names}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            for name in names:
                logging.getLogger(name).setLevel(logging.ERROR)
            yield
        finally:
            for name, level in before.items():
                logging.getLogger(name).setLevel(level)
