"""What the command ``export`` does: one file or folder, never over one that is there."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from faceaffect.errors import RecipeError
from faceaffect.export.folder import to_folder, to_safetensors
from faceaffect.export.graph import to_onnx, to_torch
from faceaffect.export.int8 import load, measure, to_int8, told_loss
from faceaffect.models.loading import answering, load_model
from faceaffect.module import AffectModule
from faceaffect.progress import console
from faceaffect.runs.result import RESULT, read_result
from faceaffect.runs.train import reopen

Kind = Literal["onnx", "torch", "safetensors", "hf"]

NAMES: dict[str, str] = {
    "onnx": "model.onnx",
    "torch": "model.pt2",
    "safetensors": "model.safetensors",
    "hf": "hub",
}
"""What each kind of export is called in its folder."""


def export(
    source: str | Path,
    kind: Kind,
    folder: Path,
    *,
    overrides: Sequence[str] = (),
    int8: bool = False,
    merge: bool = False,
    half: bool = False,
) -> Path:
    """Export a trained model and say in a line what was made.

    Args:
        source: a run folder or a checkpoint.
        kind: ``onnx``, ``torch``, ``safetensors``, or ``hf``, a folder for the model hub.
        folder: where to; made if it is not there.
        overrides: ``data.key=value``, where the run's data lies; only for ``int8``.
        int8: write the ONNX file in eight bits too, and measure on the run's validation part what
            that costs in accuracy.
        merge: of a model that speaks, write the merged language model too.
        half: of ``safetensors``, write half precision.

    Returns:
        The file or folder; with ``int8`` the smaller file.

    Raises:
        RecipeError: options that contradict each other, something is there already, a package is
            missing.
        FaceAffectError: the model cannot be exported, or its export does not answer as it does.
    """
    if int8 and kind != "onnx":
        raise RecipeError(f"--int8 is an option of --to onnx, not of --to {kind}")
    if merge and kind != "hf":
        raise RecipeError(f"--merge is an option of --to hf, not of --to {kind}")
    if half and kind != "safetensors":
        raise RecipeError(f"--half is an option of --to safetensors, not of --to {kind}")
    if overrides and not int8:
        raise RecipeError(f"{overrides[0]}: the run's data is used by --int8 alone")
    goal = folder / NAMES[kind]
    small = goal.with_suffix(".int8.onnx")
    for there in (goal, small) if int8 else (goal,):
        if there.exists():
            raise RecipeError(f"{there} is there already; move it, or name another --folder")
    if int8:
        return _both(source, overrides, goal, small)
    model = answering(load_model(source)).eval()
    if kind == "safetensors":
        to_safetensors(model, goal, half=half)
        console.print(f"{goal}: {_megabytes(goal)}")
    else:
        _one(model, kind, goal, _result_of(Path(source)), merge)
    return goal


def _one(
    model: AffectModule, kind: Kind, goal: Path, result: dict[str, Any] | None, merge: bool
) -> None:
    if kind == "hf":
        written = to_folder(model, goal, result, merge=merge)
        console.print(f"{goal}: {', '.join(written)}")
        return
    apart = to_onnx(model, goal) if kind == "onnx" else to_torch(model, goal)
    console.print(f"{goal}: {_megabytes(goal)}; answers at most {apart:.1e} from the model's")


def _both(source: str | Path, overrides: Sequence[str], goal: Path, small: Path) -> Path:
    """Export in float32 and in eight bits, and say what the second costs."""
    model, data = reopen(source, overrides)
    _one(model.eval(), "onnx", goal, None, False)
    before = measure(model.eval(), data)
    how = to_int8(goal, small, data)
    try:
        after = measure(load(small), data)
    except BaseException:
        small.unlink(missing_ok=True)
        raise
    loss = told_loss(before, after, len(data.split.val))
    console.print(f"{small}: {_megabytes(small)}, {how} quantisation; {loss}")
    return small


def _result_of(source: Path) -> dict[str, Any] | None:
    there = source.is_dir() and (source / RESULT).is_file()
    return read_result(source) if there else None


def _megabytes(file: Path) -> str:
    return f"{file.stat().st_size / 1e6:.1f} MB"
