"""The stopwatch of the benchmarks: actions in turn, in one process, so that ratios can be trusted.

On a CPU one thread is used and its own processor time is taken, which other processes disturb less
than the clock.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

Action = Callable[[], object]


def parser(doc: str | None) -> argparse.ArgumentParser:
    """Return the options that these benchmarks share; ``doc`` is the script's docstring."""
    options = argparse.ArgumentParser(description=(doc or "").split("\n", 1)[0])
    options.add_argument("--batch", type=int, default=8)
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    return options


class Bench:
    """Times actions in turn, and their peak memory on a GPU."""

    def __init__(self, device: str, rounds: int, *, bf16: bool = False) -> None:
        if device == "cpu":
            torch.set_num_threads(1)
        torch.manual_seed(0)
        self.cuda, self.rounds = device == "cuda", rounds
        self.precision = torch.autocast(device, torch.bfloat16) if bf16 else nullcontext()

    def once(self, action: Action) -> tuple[float, float]:
        """Return milliseconds and peak GiB (NaN on a CPU) of one call."""
        if self.cuda:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        now = time.perf_counter if self.cuda else time.thread_time
        start = now()
        with self.precision:
            action()
        if self.cuda:
            torch.cuda.synchronize()
        peak = torch.cuda.max_memory_allocated() / 2**30 if self.cuda else float("nan")
        return (now() - start) * 1e3, peak

    def run(self, actions: dict[str, Action]) -> dict[str, float]:
        """Print a table and return the fastest call of each action in milliseconds."""
        for action in actions.values():
            self.once(action)  # warms up
        taken: dict[str, list[tuple[float, float]]] = {name: [] for name in actions}
        for _ in range(self.rounds):
            for name, action in actions.items():
                taken[name].append(self.once(action))
        print(f"| {'':34} |  fastest |   median | {'peak GiB |' if self.cuda else ''}")
        for name, values in taken.items():
            times = [t for t, _ in values]
            peak = f" {values[-1][1]:8.2f} |" if self.cuda else ""
            print(f"| {name:34} | {min(times):8.1f} | {statistics.median(times):8.1f} |{peak}")
        return {name: min(t for t, _ in values) for name, values in taken.items()}


def training(loss: Callable[[], Tensor], parameters: Iterable[Any]) -> Action:
    """Return a training step with AdamW."""
    optimizer = torch.optim.AdamW(parameters, 1e-4)

    def step() -> None:
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()

    return step
