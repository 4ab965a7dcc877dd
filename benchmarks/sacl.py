"""What the SACL-style network costs beside its plain backbone, and what of it the graphs cost.

On random weights; a ratio compares the fastest of all rounds, see ``bench.py``.

    python benchmarks/sacl.py
    python benchmarks/sacl.py --device cuda --batch 64 --bf16 [--compile]
"""

from collections.abc import Callable

import torch
from bench import Bench, parser, training
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


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--backbone", default="resnet18")
    options.add_argument("--size", type=int, default=224)
    options.add_argument("--bf16", action="store_true")
    options.add_argument("--compile", action="store_true")
    args = options.parse_args()
    bench = Bench(args.device, args.rounds, bf16=args.bf16)
    schema, device = LabelSchema(aus=BP4D), args.device
    arguments = {"backbone": {"name": args.backbone, "image_size": args.size}}
    sacl = create_model("sacl", schema, **arguments).to(device).eval()
    plain = create_model("timm_classifier", schema, **arguments).to(device).eval()
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

    best = bench.run({name: forward(name) for name in runs})
    print(f"forward, sacl / plain        {best['sacl'] / best['plain backbone']:9.2f}")
    print(f"graph part of the forward    {best['graph part'] / best['sacl']:9.1%}")
    steps = {
        name: training(lambda m=model: m.loss(batch), list(model.train().parameters()))
        for name, model in (("sacl", sacl), ("plain backbone", plain))
    }
    step = bench.run(steps)
    print(f"training step, sacl / plain  {step['sacl'] / step['plain backbone']:9.2f}")


if __name__ == "__main__":
    main()
