"""What the SACL-style network costs beside its plain backbone, and what of it the graphs cost.

Everything runs in turn in one process, on random weights; a ratio compares the fastest of all
rounds. On a CPU one thread is used and its own processor time is taken, which other processes
disturb less than the clock.

    python benchmarks/sacl.py
    python benchmarks/sacl.py --device cuda --batch 64 --bf16 [--compile]
"""

import argparse
import time
from collections.abc import Callable
from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from faceaffect import LabelSchema, create_model
from faceaffect.data.batch import FaceBatch

BP4D = (1, 2, 4, 6, 7, 10, 12, 14, 15, 17, 23, 24)


class GraphPart(nn.Module):
    """What of the network works on nodes, with the maps left out: graphs, updates, hand-over."""

    def __init__(self, network: nn.Module, nodes: Tensor) -> None:
        super().__init__()
        self.network, self.nodes = network, nodes

    def forward(self) -> Tensor:
        """Return the nodes of the last stage."""
        net, memory, updated = self.network, None, None
        for stage in range(len(net.graphs)):
            nodes = self.nodes
            if updated is not None and len(net.handovers):
                nodes = nodes + net.handovers[stage - 1](updated)
            gate = net.emotion[stage](nodes.mean(1)).sigmoid().unsqueeze(1)
            graph, memory = net.graphs[stage](nodes * gate, memory)
            updated = net.updates[stage](nodes, graph)
        return updated


def measure(
    actions: dict[str, Callable[[], object]], rounds: int, device: str, bf16: bool
) -> dict[str, float]:
    """Print and return the fastest milliseconds of each action; on a GPU also the peak GiB."""
    cuda = device == "cuda"
    now = time.perf_counter if cuda else time.thread_time
    best = dict.fromkeys(actions, float("inf"))
    peak = dict.fromkeys(actions, 0.0)
    for turn in range(rounds + 1):
        for name, action in actions.items():
            if cuda:
                torch.cuda.synchronize()
                torch.cuda.reset_peak_memory_stats()
            start = now()
            with torch.autocast(device, torch.bfloat16) if bf16 else nullcontext():
                action()
            if cuda:
                torch.cuda.synchronize()
                peak[name] = torch.cuda.max_memory_allocated() / 2**30
            if turn:  # the first round warms up
                best[name] = min(best[name], 1e3 * (now() - start))
    for name, milliseconds in best.items():
        memory = f"{peak[name]:8.2f} GiB" if cuda else ""
        print(f"{name:28} {milliseconds:9.2f} ms {memory}")
    return best


def training(loss: Callable[[], Tensor], parameters: list[Tensor]) -> Callable[[], None]:
    optimizer = torch.optim.AdamW(parameters, 1e-4)

    def step() -> None:
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--compile", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    schema, device = LabelSchema(aus=BP4D), args.device
    options = {"backbone": {"name": args.backbone, "image_size": args.size}}
    sacl = create_model("sacl", schema, **options).to(device).eval()
    plain = create_model("timm_classifier", schema, **options).to(device).eval()
    image = torch.randint(0, 256, (args.batch, 3, args.size, args.size), dtype=torch.uint8)
    labels = torch.randint(0, 2, (args.batch, len(BP4D))).float()
    batch = FaceBatch(image=image.to(device), au=labels.to(device))
    for name, model in (("sacl", sacl), ("plain backbone", plain)):
        count = sum(p.numel() for p in model.parameters())
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(batch["image"][:1])
        print(f"{name:28} {count / 1e6:9.2f} M   {counter.get_total_flops() / 2e9:.3f} GMACs")
    part = GraphPart(sacl.network, torch.randn(args.batch, len(BP4D), 256, device=device))
    runs = {"sacl": sacl, "plain backbone": plain, "graph part": part}
    if args.compile:
        runs = {name: torch.compile(run) for name, run in runs.items()}

    def forward(name: str) -> Callable[[], object]:
        inputs = () if name == "graph part" else (batch["image"],)
        return torch.no_grad()(lambda: runs[name](*inputs))

    best = measure({name: forward(name) for name in runs}, args.rounds, device, args.bf16)
    print(f"forward, sacl / plain        {best['sacl'] / best['plain backbone']:9.2f}")
    print(f"graph part of the forward    {best['graph part'] / best['sacl']:9.1%}")
    steps = {
        name: training(lambda m=model: m.loss(batch), list(model.train().parameters()))
        for name, model in (("sacl", sacl), ("plain backbone", plain))
    }
    step = measure(steps, args.rounds, device, args.bf16)
    print(f"training step, sacl / plain  {step['sacl'] / step['plain backbone']:9.2f}")


if __name__ == "__main__":
    main()
