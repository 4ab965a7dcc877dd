"""What AUFormer's experts cost beside the frozen ViT, full fine-tuning and the plain experts.

Everything runs in turn in one process, on random weights; a ratio compares the fastest of all
rounds. On a CPU one thread is used and its own processor time is taken, which other processes
disturb less than the clock.

    python benchmarks/auformer.py
    python benchmarks/auformer.py --device cuda --batch 64 --bf16 [--compile]
"""

import argparse
import copy
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import torch
from torch import Tensor, nn

from faceaffect import LabelSchema, create_model
from faceaffect.data.batch import FaceBatch
from faceaffect.models.auformer import AUFormer, ExpertViT
from faceaffect.module import AffectModule

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from plain_moke import PlainGroup

AUS = (1, 2, 4, 5, 6, 7, 9, 10, 12, 14, 15, 17, 20, 23, 24, 25, 26, 43)


class Bench:
    """Times actions in turn, and their peak memory on a GPU."""

    def __init__(self, device: str, bf16: bool, rounds: int) -> None:
        self.cuda, self.rounds = device == "cuda", rounds
        self.precision = torch.autocast(device, torch.bfloat16) if bf16 else nullcontext()

    def once(self, action: Callable[[], object]) -> tuple[float, float]:
        """Return milliseconds and peak GiB of one call."""
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

    def run(self, actions: dict[str, Callable[[], object]]) -> dict[str, float]:
        """Print a table and return the fastest call of each action in milliseconds."""
        for action in actions.values():
            self.once(action)
        taken = {name: [] for name in actions}
        for _ in range(self.rounds):
            for name, action in actions.items():
                taken[name].append(self.once(action))
        print(f"| {'':34} |  fastest |   median | {'peak GiB |' if self.cuda else ''}")
        for name, values in taken.items():
            times = [t for t, _ in values]
            peak = f" {values[-1][1]:8.2f} |" if self.cuda else ""
            print(f"| {name:34} | {min(times):8.1f} | {statistics.median(times):8.1f} |{peak}")
        return {name: min(t for t, _ in values) for name, values in taken.items()}


def plain(vit: ExpertViT) -> ExpertViT:
    """Return the same network with its experts one at a time, at full width."""
    twin = copy.deepcopy(vit)
    for block in twin.groups:
        for position in block:
            block[position] = PlainGroup(block[position])
    return twin


def training(model: AffectModule, batch: FaceBatch) -> Callable[[], None]:
    optimizer = torch.optim.AdamW(model.parameter_groups(), 1e-3)

    def step() -> None:
        loss = model.loss(batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def chain(vit: ExpertViT, tokens: Tensor) -> Callable[[], None]:
    """Return forward and backward of the groups alone, one after another."""
    groups: list[nn.Module] = [group for block in vit.groups for group in block.values()]

    def step() -> None:
        x, stream = tokens, None
        for group in groups:
            term, stream = group(x, vit.backbone.grid, stream)
            x = x + term
        x.sum().backward()

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--backbone", default="vit_base_patch16_224.augreg_in21k")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--aus", type=int, default=12)
    parser.add_argument("--expert-width", type=int, default=8)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--compile", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    warnings.simplefilter("ignore")

    schema = LabelSchema(aus=AUS[: args.aus])
    backbone = {"name": args.backbone, "image_size": args.size}
    model = create_model("auformer", schema, backbone=backbone, expert_width=args.expert_width)
    assert isinstance(model, AUFormer)
    full = create_model("timm_classifier", schema, backbone=backbone, au_loss="mdwa")
    model, full = model.to(args.device), full.to(args.device).train()
    batch = FaceBatch(
        image=torch.randint(0, 256, (args.batch, 3, args.size, args.size), dtype=torch.uint8),
        au=torch.randint(0, 2, (args.batch, args.aus)).float(),
    )
    batch = FaceBatch(**{k: v.to(args.device) for k, v in batch.items()})  # type: ignore[typeddict-item]
    image = model.vit.backbone.normalise(batch["image"])
    slow = plain(model.vit)
    net = model.vit.backbone.net
    if args.compile:
        net, model.vit, full.backbone.net = (
            torch.compile(module) for module in (net, model.vit, full.backbone.net)
        )
    bench = Bench(args.device, args.bf16, args.rounds)
    device = torch.cuda.get_device_name() if bench.cuda else "one CPU thread"
    how = ("bf16" if args.bf16 else "float32") + (", compiled" if args.compile else "")
    print(f"{args.backbone}, {args.size} px, {args.aus} AUs, h = {args.expert_width}, ", end="")
    print(f"batch {args.batch}, {device}, {how}; milliseconds\n")

    model.eval()
    slow.eval()
    with torch.no_grad():
        forward = bench.run(
            {
                "forward, frozen ViT": lambda: net(image),
                "forward, AUFormer": lambda: model.vit(image),
                "forward, plain experts": lambda: slow(image),
            }
        )
    vit, ours, theirs = forward.values()
    model.train()
    step = bench.run(
        {
            "step, full fine-tuning": training(full, batch),
            "step, AUFormer": training(model, batch),
        }
    )
    tuning, adapting = step.values()
    tokens = torch.randn(
        args.batch, net.num_prefix_tokens + model.vit.backbone.grid[0] ** 2, net.embed_dim
    )
    tokens = tokens.to(args.device).requires_grad_()
    alone = bench.run(
        {
            "forward + backward, experts alone": chain(model.vit, tokens),
            "forward + backward, plain alone": chain(slow.train(), tokens),
        }
    )
    fast, naive = alone.values()
    print(f"""
forward / frozen ViT                 {ours / vit:5.3f}   at most 1.25, aim 1.10
step / full fine-tuning              {adapting / tuning:5.3f}   at most 0.85, aim 0.75
plain / our experts, forward         {(theirs - vit) / (ours - vit):5.1f}   at least 3
plain / our experts, with backward   {naive / fast:5.1f}""")


if __name__ == "__main__":
    main()
