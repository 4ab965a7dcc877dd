"""How far training is from what this machine can do: multiply-adds over the rate of a product.

For each recipe a step of 32 faces is counted (matrix products and convolutions, forward and
backward) and timed, beside the rate at which this machine multiplies two float32 matrices in the
same process. Seconds are those of the processor, all threads together, so that other work on the
machine does not count; with one thread (OMP_NUM_THREADS=1) nobody waits in them either. The limit
of a training is its multiply-adds at that rate; nothing but products would be done in it.

    python benchmarks/limit.py mini_probe mini_auformer mini_sacl mini_emo_llama

Under ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 MKL_ENABLE_INSTRUCTIONS=AVX2 a machine with
more instructions behaves as one with AVX2 alone.
"""

import statistics
import sys
import time
from itertools import islice
from typing import Any

import lightning as L
import torch
from torch.utils.flop_counter import FlopCounterMode

from faceaffect.data.loader import Features
from faceaffect.hardware import keep_freed_memory, precision_for
from faceaffect.module import AffectModule
from faceaffect.recipe import load_recipe
from faceaffect.runs.cost import device_name
from faceaffect.runs.train import build

STEPS, WARM_UP = 8, 2


def product_rate(side: int = 2048, rounds: int = 8) -> float:
    """Return multiply-adds of a float32 product per processor second, the best of some rounds."""
    a, b = torch.randn(side, side), torch.randn(side, side)
    best = float("inf")
    for _ in range(rounds):
        start = time.process_time()
        a @ b
        best = min(best, time.process_time() - start)
    return side**3 / best


def batches_of(data: Any, model: AffectModule) -> list[Any]:
    """Return training batches, with frozen features where a training would have them."""
    found = list(islice(iter(data.train_dataloader()), STEPS + WARM_UP))
    if data.augment is not None:
        return found
    with torch.no_grad():
        for batch in found:
            seen = model.eval().frozen_features(batch)
            if seen is not None:
                features = Features(seen, batch["id"])
                batch["features"] = features.table
    return found


def measure(name: str, overrides: list[str], rate: float) -> None:
    recipe = load_recipe(name, overrides)
    data, model = build(recipe)
    data.prepare_data()
    assert isinstance(model, AffectModule)
    model.prepare(data.statistics())
    batches = batches_of(data, model)
    model.train()
    optimizer = model.optim.optimizer(model.parameter_groups())

    def step(batch: Any) -> None:
        optimizer.zero_grad()
        model.loss(batch).backward()
        optimizer.step()

    with FlopCounterMode(display=False) as counter:
        step(batches[0])
    multiply_adds = counter.get_total_flops() / 2
    times = []
    for batch in batches[1:]:
        start = time.process_time()
        step(batch)
        times.append(time.process_time() - start)
    seconds = statistics.median(times[WARM_UP - 1 :])
    trainer = recipe["trainer"]
    epochs = round(trainer["max_epochs"] * trainer.get("limit_train_batches", 1.0), 2)
    steps = epochs * (len(data.split.train) // recipe["data"]["batch_size"])
    limit = steps * multiply_adds / rate
    print(
        f"| {name} | {multiply_adds / 1e9:.1f} | {1e3 * seconds:.0f} | "
        f"{100 * multiply_adds / rate / seconds:.0f} % | {epochs} | {limit:.0f} | "
        f"{steps * seconds:.0f} |"
    )


def main() -> None:
    names = [word for word in sys.argv[1:] if "=" not in word]
    overrides = [word for word in sys.argv[1:] if "=" in word]
    L.seed_everything(0, verbose=False)
    rate = product_rate()
    keep_freed_memory()  # as a training does
    precision = precision_for({"precision": "auto", "accelerator": "cpu"})
    print(
        f"{device_name(torch.device('cpu'))}, {torch.backends.cpu.get_cpu_capability()}: ", end=""
    )
    print(f"{rate / 1e9:.0f} G multiply-adds a second in float32; auto takes {precision.name}")
    print("| recipe | G multiply-adds a step | ms a step | of the rate | epochs ", end="")
    print("| limit of all steps, s | all steps, s |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name in names:
        measure(name, [*overrides, "trainer.precision=32-true"], rate)


if __name__ == "__main__":
    main()
