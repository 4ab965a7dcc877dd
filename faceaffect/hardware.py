"""What this machine computes in hardware, and so what ``auto`` means for precision and dtype.

A CPU without bfloat16 instructions takes bfloat16 all the same and is a hundred times slower at it,
so a recipe leaves the choice to the machine and the result says what was taken.
"""

import ctypes
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

from faceaffect.errors import RecipeError, unknown

PRECISIONS = {torch.bfloat16: "bf16-mixed", torch.float16: "16-mixed", torch.float32: "32-true"}
"""Lightning's names for autocast to a float type, and for none."""

_KNOWN = (
    *("auto", "16-mixed", "bf16-mixed", "32-true", "64-true", "16-true", "bf16-true"),
    *("transformer-engine", "transformer-engine-float16", "16", "bf16", "32", "64"),
)

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Of ``mallopt``, as glibc's malloc.h numbers them."""

_target: ContextVar[torch.device | None] = ContextVar("target", default=None)


@dataclass(frozen=True)
class Precision:
    """In which precision a model is trained or tested, and why.

    Attributes:
        name: as Lightning calls it, such as ``bf16-mixed`` or ``32-true``.
        why: what decided it, a few words.
    """

    name: str
    why: str

    def to_dict(self) -> dict[str, str]:
        """Return plain Python, as it lies in results."""
        return {"name": self.name, "why": self.why}


def device_for(trainer: Mapping[str, Any]) -> torch.device:
    """Return the kind of device that Lightning takes for the ``trainer`` section of a recipe."""
    name = str(trainer.get("accelerator", "auto"))
    if name in ("cpu", "tpu"):
        return torch.device("cpu")
    if name in ("cuda", "mps"):
        return torch.device(name)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


@contextmanager
def building_for(device: torch.device) -> Iterator[None]:
    """Let ``dtype: auto`` mean, within this context, what a device computes best."""
    token = _target.set(device)
    try:
        yield
    finally:
        _target.reset(token)


def best_dtype(device: torch.device) -> tuple[torch.dtype, str]:
    """Return the fastest float type that a device computes in hardware, and the reason in words.

    bfloat16 on GPUs of compute capability 8.0 and up and on CPUs with AVX512-BF16, AMX or Arm's
    BF16; float16 on older GPUs and on Apple's; else float32.
    """
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        name = f"compute capability {major}.{minor}"
        if major >= 8:
            return torch.bfloat16, f"bfloat16 in hardware, {name}"
        return torch.float16, f"no bfloat16 in hardware, {name}"
    if device.type == "mps":
        return torch.float16, "float16 in hardware, MPS"
    if device.type == "cpu":
        found = _cpu_bfloat16()
        if found:
            return torch.bfloat16, f"bfloat16 in hardware, {found}"
        level = torch.backends.cpu.get_cpu_capability()
        return torch.float32, f"no bfloat16 in hardware, {level}"
    return torch.float32, f"nothing is known of {device.type}"


def _cpu_bfloat16() -> str:
    """Return the instructions by which this CPU computes bfloat16 and PyTorch uses them, or ''."""
    # oneDNN does the products; it can be told to leave instructions alone (ONEDNN_MAX_CPU_ISA),
    # and takes bfloat16 for supported from AVX512 on, where it emulates.
    if not _onednn_takes_bfloat16():
        return ""
    known = torch.cpu.get_capabilities()
    names = {"amx_bf16": "AMX", "avx512_bf16": "AVX512-BF16", "bf16": "Arm BF16"}
    return next((name for key, name in names.items() if known.get(key)), "")


def _onednn_takes_bfloat16() -> bool:
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


@cache
def warn_emulated(where: str, asked: str, why: str, better: str) -> None:
    """Say once in a process that a float type is emulated here, and what ``auto`` would take."""
    warnings.warn(
        f"{where}: {asked} is emulated on this machine ({why}) and may be a hundred times slower; "
        f"{where}=auto would take {better}",
        stacklevel=3,
    )


def precision_for(trainer: Mapping[str, Any]) -> Precision:
    """Return the precision of a training or test; one that is emulated here earns a warning.

    Args:
        trainer: this section of a recipe; its ``precision`` is ``auto``, or what Lightning takes.

    Raises:
        RecipeError: there is no such precision.
    """
    asked, device = trainer.get("precision"), device_for(trainer)
    if asked is not None and str(asked) not in _KNOWN:
        raise RecipeError(unknown("trainer.precision", str(asked), _KNOWN))
    dtype, why = best_dtype(device)
    if asked == "auto":
        return Precision(PRECISIONS[dtype], f"auto: {why}")
    name = "32-true" if asked is None else str(asked)
    if name.startswith("bf16") and dtype != torch.bfloat16 and device.type != "mps":
        warn_emulated("trainer.precision", name, why, PRECISIONS[dtype])
    return Precision(name, "as the recipe says" if asked is not None else "Lightning's default")


def choose_dtype(asked: str, where: str) -> torch.dtype:
    """Return the float type of frozen weights; one that is emulated here earns a warning.

    Args:
        asked: ``auto``, for the device of :func:`building_for`, else for a GPU if there is one; or
            the name of a float type of torch.
        where: the key of the recipe, for the warning.
    """
    best, why = best_dtype(_target.get() or device_for({}))
    if asked == "auto":
        return best
    dtype: torch.dtype = getattr(torch, asked)
    if dtype == torch.bfloat16 and best == torch.float32:
        warn_emulated(where, "bfloat16", why, "float32")
    return dtype


def keep_freed_memory() -> None:
    """Have the C library keep the memory that a step frees: the next one takes as much again.

    Given back to the system and asked for again, page by page, it costs a CPU a twentieth of a
    step. Only glibc has the call; elsewhere nothing is done.
    """
    change = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if change is not None:
        change(_TRIM_THRESHOLD, 2**31 - 1)
        change(_MMAP_THRESHOLD, 2**25)  # the largest that it takes


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
