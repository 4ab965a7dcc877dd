"""Cost of trained models, one after another on one device, each in a process of its own.

A process of its own is what makes the peak memory that of one model: the highest memory of a
process never falls again.
"""

import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_all_start_methods, get_context
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any

import torch

from faceaffect import registry
from faceaffect.models.loading import answering, load_model
from faceaffect.module import AffectModule
from faceaffect.runs import cost

BATCHES = (1, 4, 16, 64)
"""Batch sizes that are tried; the fastest per image counts."""

_LONGEST = 5.0
"""Seconds that a batch may take for a larger one to be tried."""

_BUDGET = 1.0
"""Seconds to spend on each batch size after one warm-up."""

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
    with ProcessPoolExecutor(1, mp_context=_context()) as pool:
        return pool.submit(_measure, checkpoint, image_size, device, models, sys.path).result()


def _context() -> BaseContext:
    """Return how processes start: clean, and where possible with the packages imported once."""
    if "forkserver" not in get_all_start_methods():
        return get_context("spawn")
    context = get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context


def throughput(model: AffectModule, image_size: int) -> dict[int, float]:
    """Return images a second for growing batches, until that stops growing.

    Args:
        model: on its device, in eval mode.
        image_size: height and width of the images, in pixels.
    """
    found: dict[int, float] = {}
    for size in BATCHES:
        try:
            seconds = cost.seconds_per_batch(model, size, image_size, _BUDGET)
        except torch.OutOfMemoryError:
            break
        found[size] = round(size / seconds, 2)
        if seconds > _LONGEST or found[size] < 0.9 * max(found.values()):
            break
    return found


@torch.no_grad()
def _measure(
    checkpoint: Path, image_size: int, device: str, models: dict[str, str], path: list[str]
) -> dict[str, Any]:
    sys.path[:] = path
    registry.TABLES["models"].update(models)
    model = answering(load_model(checkpoint)).to(device).eval()
    model.answer(cost.random_batch(1, image_size, model.device))
    peak = cost.peak_memory(model.device)  # before larger batches: how large depends on the speed
    found = throughput(model, image_size)
    best = max(found, key=lambda size: found[size])
    timed = {
        "milliseconds_per_image_at_batch_1": round(1e3 / found[1], 3),
        "images_per_second": found[best],
        "best_batch_size": best,
        "throughput": {str(size): value for size, value in found.items()},
        "peak_memory_bytes": peak,
    }
    return EMPTY | cost.size_of(model, image_size) | timed
