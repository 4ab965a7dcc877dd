"""Do the marks on a synthetic face matter? A network on true landmarks beside a trained model.

The landmarks are exact and brought to one place, size and roll, so that the small network on them
is as good as any that sees no skin. What a model on pixels reaches beyond it is read from wrinkles,
folds and shades.

    faceaffect train mini_full
    python benchmarks/landmarks.py runs/mini_full/TIME [--seeds 3]
"""

import argparse
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from faceaffect.data.base import FaceDataModule
from faceaffect.networks.losses import au_class_weights, weighted_asymmetric_loss
from faceaffect.runs.result import read_result
from faceaffect.runs.train import reopen
from faceaffect.scores.metrics import au_f1

EPOCHS, BATCH = 60, 64


def frontal(landmarks: Tensor) -> Tensor:
    """Return (N, 136) coordinates centred, in units of the eyes' distance, with level eyes."""
    right, left = landmarks[:, 36:42].mean(1), landmarks[:, 42:48].mean(1)
    across = left - right
    angle = torch.atan2(across[:, 1], across[:, 0])
    turn = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], 1).view(-1, 2, 2)
    centred = landmarks - landmarks.mean(1, keepdim=True)
    return (centred / across.norm(dim=1)[:, None, None] @ turn).flatten(1)


def train(x: Tensor, au: Tensor, data: FaceDataModule, weight: Tensor, seed: int) -> Tensor:
    """Return the F1 (A,) on the test part of the epoch that is best on validation."""
    torch.manual_seed(seed)
    sizes = (x.shape[1], 256, 256, au.shape[1])
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), nn.ReLU(), nn.Dropout(0.3)]
    net = nn.Sequential(*layers[:-2])
    split = data.split
    part, val, test = (torch.as_tensor(side) for side in (split.train, split.val, split.test))
    optimizer = torch.optim.AdamW(net.parameters(), 1e-3, weight_decay=0.01)
    steps = EPOCHS * (len(part) // BATCH)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    best, found = -1.0, torch.zeros(au.shape[1])
    for _ in range(EPOCHS):
        net.train()
        for rows in part[torch.randperm(len(part))][: steps // EPOCHS * BATCH].split(BATCH):
            loss = weighted_asymmetric_loss(net(x[rows]), au[rows], weight=weight)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        net.eval()
        with torch.no_grad():
            score = float(au_f1(net(x[val]).sigmoid(), au[val]).mean())
            if score > best:
                best, found = score, au_f1(net(x[test]).sigmoid(), au[test])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("run", type=Path, help="of a model with AUs on synthetic faces")
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    _, data = reopen(args.run)
    samples = data.dataset.samples
    points = [data.dataset.load(index).landmarks for index in range(len(samples.id))]
    x = frontal(torch.as_tensor(np.stack(points)).float())
    train_part = data.split.train
    x = (x - x[train_part].mean(0)) / x[train_part].std(0)
    au = torch.as_tensor(samples.au)
    rates = data.statistics()["au_rate"]
    weight = au_class_weights(list(rates.values()))
    f1 = torch.stack([train(x, au, data, weight, seed) for seed in range(args.seeds)])
    metrics = read_result(args.run)["metrics"]
    print("| | landmarks | model | difference, points |\n| --- | --- | --- | --- |")
    for name, value in zip(rates, f1.mean(0).tolist(), strict=True):
        own = metrics[f"au_f1/{name}"]
        print(f"| {name} | {value:.3f} | {own:.3f} | {100 * (own - value):+.1f} |")
    mean, own = float(f1.mean()), metrics["au_f1"]
    print(f"| mean | {mean:.3f} | {own:.3f} | {100 * (own - mean):+.1f} |")


if __name__ == "__main__":
    main()
