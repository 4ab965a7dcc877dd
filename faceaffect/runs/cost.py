"""What a model costs: parameters, arithmetic, time and memory.

Of a run it is measured where the model was tested, of a comparison for one model after another on
one device, each in a process of its own: the highest memory of a process never falls again.
"""

import platform
import resource
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from faceaffect import registry
from faceaffect.data.batch import FaceBatch
from faceaffect.models.loading import answering, load_model
from faceaffect.module import AffectModule
from faceaffect.runs import prepared

BATCHES = (1, 4, 16, 64)
"""Batch sizes that are tried; the fastest per image counts."""

_LONGEST = 5.0
"""Seconds that a batch may take for a larger one to be tried."""

_BUDGET = 0.5
"""Seconds to spend on each batch size after one warm-up; one that takes longer is timed once."""

EMPTY: dict[str, Any] = dict.fromkeys(
    (
        "parameters",
        "trainable_parameters",
        "flops_per_image",
        "milliseconds_per_image_at_batch_1",
        "images_per_second",
        "best_batch_size",
        "throughput",
        "peak_memory_bytes",
        "device",
    )
)
"""What :func:`measure_alone` measures, unknown."""


def random_batch(size: int, image_size: int, device: torch.device) -> FaceBatch:
    """Return ``size`` images of noise with names, as input for measuring.

    Args:
        size: number of images.
        image_size: height and width in pixels.
        device: where the images lie.
    """
    generator = torch.Generator().manual_seed(0)
    shape = (size, 3, image_size, image_size)
    image = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator).to(device)
    names = [str(i) for i in range(size)]
    return FaceBatch(image=image, id=names, subject=names)


def flops_per_image(model: AffectModule, image_size: int) -> int | None:
    """Return the floating-point operations of one prediction: twice its multiply-adds.

    Counted by PyTorch's counter over convolutions and matrix products, attention included; None of
    a model that computes in other processes, too.
    """
    if not model.computes_here:
        return None
    # In plain matrix products: the counter does not know every fused attention, none of a CPU.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        model.answer(random_batch(1, image_size, model.device))
    return int(counter.get_total_flops())


def seconds_per_batch(
    model: AffectModule, size: int, image_size: int, budget: float = _BUDGET
) -> float:
    """Return the median seconds of one prediction for a batch, the last begun within ``budget``.

    Args:
        model: on its device, in eval mode.
        size: images in the batch.
        image_size: height and width in pixels.
        budget: seconds to spend after one warm-up.
    """
    batch = random_batch(size, image_size, model.device)
    times: list[float] = []
    model.answer(batch)
    while not times or (sum(times) < budget and len(times) < 30):
        _wait(model.device)
        start = time.perf_counter()
        model.answer(batch)
        _wait(model.device)
        times.append(time.perf_counter() - start)
    return sorted(times)[len(times) // 2]


def peak_memory(device: torch.device) -> int:
    """Return the peak memory in bytes: of the GPU's allocator, or of this process on a CPU."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    status = Path("/proc/self/status")
    if status.exists():  # where getrusage inherits the peak of the process that started this one
        return 1024 * int(status.read_text(encoding="utf-8").partition("VmHWM:")[2].split()[0])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def device_name(device: torch.device) -> str:
    """Return the device's own name, with the number of threads on a CPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type != "cpu":
        return device.type
    return f"{_processor()}, {torch.get_num_threads()} threads"


def _processor() -> str:
    """Return what the processor calls itself, as far as the system tells."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return next(filter(None, (*named, platform.processor(), platform.machine())), "cpu")


def size_of(model: AffectModule, image_size: int) -> dict[str, Any]:
    """Return what of a model's cost is counted, not timed, and the device that it is on.

    Args:
        model: in eval mode.
        image_size: height and width of the images it gets, in pixels.
    """
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "trainable_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "flops_per_image": flops_per_image(model, image_size),
        "device": device_name(model.device),
    }


@torch.no_grad()
def measure(model: AffectModule, image_size: int, batch_size: int) -> dict[str, Any]:
    """Return the ``cost`` section of a result, without the training time.

    Args:
        model: a model on its device.
        image_size: height and width of the images it gets, in pixels.
        batch_size: images in a batch for the throughput.
    """
    training = model.training
    model.eval()
    seconds = seconds_per_batch(model, batch_size, image_size)
    found = size_of(model, image_size) | {
        "images_per_second": round(batch_size / seconds, 2),
        "batch_size": batch_size,
        "milliseconds_per_image_at_batch_1": round(
            1e3 * seconds_per_batch(model, 1, image_size), 3
        ),
        "peak_memory_bytes": peak_memory(model.device) if model.computes_here else None,
    }
    model.train(training)
    return found


def measure_alone(checkpoint: Path, image_size: int, device: str) -> dict[str, Any]:
    """Measure a trained model in a fresh process.

    Weights and images are float32 for every model, whatever it was trained in. Own models that
    ``--import`` has registered are found there too.

    Args:
        checkpoint: of the model.
        image_size: height and width of the images it gets, in pixels.
        device: ``cpu``, ``cuda``, ...

    Returns:
        The keys of :data:`EMPTY`. ``throughput`` maps the batch sizes tried to images a second;
        ``peak_memory_bytes`` is that of a process which loads the model and answers about one
        image, Python and its packages included, on a GPU that of its allocator.

    Raises:
        Exception: whatever went wrong in the process, or with the process.
    """
    models = dict(registry.TABLES["models"])
    with ProcessPoolExecutor(1, prepared.context(), prepared.interruptible) as pool:
        words = (checkpoint, image_size, device, BATCHES, models, sys.path)
        return pool.submit(_measure_here, *words).result()


def throughput(
    model: AffectModule, image_size: int, batches: Sequence[int] = BATCHES
) -> dict[int, float]:
    """Return images a second for growing batches, until that stops growing.

    Args:
        model: on its device, in eval mode.
        image_size: height and width of the images, in pixels.
        batches: the sizes to try, the smallest first.
    """
    found: dict[int, float] = {}
    for size in batches:
        try:
            seconds = seconds_per_batch(model, size, image_size)
        except torch.OutOfMemoryError:
            break
        found[size] = round(size / seconds, 2)
        if seconds > _LONGEST or found[size] < 0.9 * max(found.values()):
            break
    return found


@torch.no_grad()
def _measure_here(
    checkpoint: Path,
    image_size: int,
    device: str,
    batches: Sequence[int],
    models: dict[str, str],
    path: list[str],
) -> dict[str, Any]:
    sys.path[:] = path
    registry.TABLES["models"].update(models)
    model = answering(load_model(checkpoint)).to(device).eval()
    model.answer(random_batch(1, image_size, model.device))
    peak = peak_memory(model.device)  # before larger batches: how large depends on the speed
    found = throughput(model, image_size, batches)
    best = max(found, key=lambda size: found[size])
    timed = {
        "milliseconds_per_image_at_batch_1": round(1e3 / found[1], 3),
        "images_per_second": found[best],
        "best_batch_size": best,
        "throughput": {str(size): value for size, value in found.items()},
        "peak_memory_bytes": peak if model.computes_here else None,
    }
    return EMPTY | size_of(model, image_size) | timed


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
