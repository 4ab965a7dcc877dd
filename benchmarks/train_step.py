"""Training step of timm_classifier under the Trainer against a bare PyTorch loop.

Both train the same timm network on the same uint8 faces in memory, in turn, in one process: what is
left is what faceaffect and Lightning add to a step. Aim: within 1.05x.

    python benchmarks/train_step.py --backbone resnet18 --size 80
"""

import argparse
import logging
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from itertools import pairwise

import lightning as L
import timm
import torch
import torch.nn.functional as F
from torch import Tensor

from faceaffect import LabelSchema
from faceaffect.data.batch import FaceBatch
from faceaffect.models.timm_classifier import TimmClassifier

CLASSES = ("neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear")
WARM_UP = 3


class Stopwatch(L.Callback):
    """Takes the time of every step, from the end of the one before."""

    def __init__(self, now: Callable[[], float]) -> None:
        self.now, self.ends = now, [now()]

    def on_train_batch_end(self, *_: object) -> None:
        """Note the time."""
        self.ends.append(self.now())


def median_step(ends: list[float]) -> float:
    steps = [after - before for before, after in pairwise(ends)]
    return statistics.median(steps[WARM_UP:])


def bare(backbone: str, size: int, batches: list[FaceBatch], device: str) -> float:
    args = {"img_size": size} if hasattr(timm.create_model(backbone), "patch_embed") else {}
    net = timm.create_model(backbone, num_classes=len(CLASSES), **args).to(device).train()
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, len(batches))
    mean = torch.tensor(net.pretrained_cfg["mean"], device=device).view(3, 1, 1)
    std = torch.tensor(net.pretrained_cfg["std"], device=device).view(3, 1, 1)
    now = clock(device)
    ends = [now()]
    for batch in batches:
        image = (batch["image"].to(device).float() / 255 - mean) / std
        loss = F.cross_entropy(net(image), batch["expression"].to(device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        ends.append(now())
    return median_step(ends)


def ours(backbone: str, size: int, batches: list[FaceBatch], device: str) -> float:
    schema = LabelSchema(expressions=CLASSES)
    model = TimmClassifier(schema, backbone={"name": backbone, "image_size": size})
    model.seed = 0
    watch = Stopwatch(clock(device))
    with tempfile.TemporaryDirectory() as folder:
        trainer = L.Trainer(
            max_epochs=1,
            accelerator="gpu" if device == "cuda" else "cpu",
            devices=1,
            logger=L.pytorch.loggers.CSVLogger(folder),
            callbacks=[watch],
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(model, torch.utils.data.DataLoader(batches, batch_size=None))
    return median_step(watch.ends)


def clock(device: str) -> Callable[[], float]:
    """Return the clock: on a CPU the process's own computing time, deaf to other work."""
    if device == "cpu":
        return time.process_time

    def synchronised() -> float:
        torch.cuda.synchronize()
        return time.perf_counter()

    return synchronised


def make_batches(steps: int, batch: int, size: int) -> list[FaceBatch]:
    def one() -> FaceBatch:
        image: Tensor = torch.randint(0, 256, (batch, 3, size, size), dtype=torch.uint8)
        names = [str(i) for i in range(batch)]
        label = torch.randint(0, len(CLASSES), (batch,))
        return FaceBatch(image=image, expression=label, id=names, subject=names)

    return [one() for _ in range(steps)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--size", type=int, default=80, help="side of the faces, pixels")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=13, help=f"in a round; {WARM_UP} warm up")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    batches = make_batches(options.steps, options.batch, options.size)
    ratios = []
    for _ in range(options.rounds):
        loop = bare(options.backbone, options.size, batches, options.device)
        trainer = ours(options.backbone, options.size, batches, options.device)
        ratios.append(trainer / loop)
        print(f"bare {1e3 * loop:8.1f} ms   ours {1e3 * trainer:8.1f} ms   {ratios[-1]:.3f}x")
    print(
        f"{options.backbone}, {options.size} px, batch {options.batch}, {options.device}: "
        f"median {statistics.median(ratios):.3f}x"
    )


if __name__ == "__main__":
    main()
