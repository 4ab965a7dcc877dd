"""The stopwatch of the benchmarks: actions in turn, in one process, so that ratios can be trusted.

On a CPU one thread is used and its own processor time is taken, which other processes disturb less
than the clock.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from multiprocessing import get_context
from typing import Any

import torch
from torch import Tensor

from faceaffect.runs.cost import peak_memory

Action = Callable[[], object]


def parser(doc: str | None) -> argparse.ArgumentParser:
    """Return the options that these benchmarks share; ``doc`` is the script's docstring."""
    options = argparse.ArgumentParser(description=(doc or "").split("\n", 1)[0])
    options.add_argument("--batch", type=int, default=8)
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    return options


class Bench:
    """Times actions in turn, or takes the peak memory of one."""

    def __init__(self, device: str, rounds: int, *, bf16: bool = False) -> None:
        if device == "cpu":
            torch.set_num_threads(1)
        torch.manual_seed(0)
        self.cuda, self.rounds = device == "cuda", rounds
        self.precision = torch.autocast(device, torch.bfloat16) if bf16 else nullcontext()

    def once(self, action: Action) -> float:
        """Return the milliseconds of one call."""
        if self.cuda:
            torch.cuda.synchronize()
        now = time.perf_counter if self.cuda else time.thread_time
        start = now()
        with self.precision:
            action()
        if self.cuda:
            torch.cuda.synchronize()
        return (now() - start) * 1e3

    def run(self, actions: dict[str, Action]) -> dict[str, float]:
        """Print a table and return the fastest call of each action in milliseconds."""
        for action in actions.values():
            self.once(action)  # warms up
        taken: dict[str, list[float]] = {name: [] for name in actions}
        for _ in range(self.rounds):
            for name, action in actions.items():
                taken[name].append(self.once(action))
        print(f"| {'':34} |  fastest |   median |")
        for name, times in taken.items():
            print(f"| {name:34} | {min(times):8.1f} | {statistics.median(times):8.1f} |")
        return {name: min(times) for name, times in taken.items()}

    def peak(self, action: Action) -> float:
        """Return the peak GiB of the third call: of the GPU's allocator, or of the whole process.

        All else that this process holds is counted with it, so models are to be told apart in
        processes of their own, see :func:`alone`.
        """
        for _ in range(2):
            self.once(action)  # gradients and the optimiser's states are there from now on
        if self.cuda:
            torch.cuda.reset_peak_memory_stats()
        self.once(action)
        return peak_memory(torch.device("cuda" if self.cuda else "cpu")) / 2**30


def alone(function: Callable[..., float], *args: object) -> float:
    """Return what a function of a module returns in a fresh process, which ends with it."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *args).result()


def training(loss: Callable[[], Tensor], parameters: Iterable[Any]) -> Action:
    """Return a training step with AdamW."""
    optimizer = torch.optim.AdamW(parameters, 1e-4)

    def step() -> None:
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()

    return step
