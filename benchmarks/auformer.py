"""What AUFormer's experts cost beside the frozen ViT, full fine-tuning and the plain experts.

On random weights; a ratio compares the fastest of all rounds, see ``bench.py``. Memory is measured
in a process for each model.

    python benchmarks/auformer.py
    python benchmarks/auformer.py --device cuda --batch 64 --bf16 [--compile]

With ``--compile`` forward passes and losses are compiled to one graph each, the plain experts are
left out.
"""

import argparse
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from bench import Action, Bench, alone, parser, training
from torch import Tensor, nn
from torch._dynamo.utils import counters

from faceaffect import LabelSchema, create_model
from faceaffect.data.batch import FaceBatch
from faceaffect.models.auformer import AUFormer
from faceaffect.module import AffectModule

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from plain_moke import PlainViT

AUS = (1, 2, 4, 5, 6, 7, 9, 10, 12, 14, 15, 17, 20, 23, 24, 25, 26, 43)


def make(name: str, args: argparse.Namespace) -> AffectModule:
    """Return ``auformer``, or ``full``: the same ViT with all its weights trained."""
    schema = LabelSchema(aus=AUS[: args.aus])
    backbone = {"name": args.backbone, "image_size": args.size}
    model = (
        create_model("auformer", schema, backbone=backbone, expert_width=args.expert_width)
        if name == "auformer"
        else create_model("timm_classifier", schema, backbone=backbone, au_loss="mdwa")
    )
    return model.to(args.device).train()


def noise(args: argparse.Namespace) -> FaceBatch:
    image = torch.randint(0, 256, (args.batch, 3, args.size, args.size), dtype=torch.uint8)
    au = torch.randint(0, 2, (args.batch, args.aus)).float()
    return FaceBatch(image=image.to(args.device), au=au.to(args.device))


def compiled(call: Callable[..., Any], args: argparse.Namespace) -> Callable[..., Any]:
    return torch.compile(call, fullgraph=True, backend=args.compile) if args.compile else call


def step(model: AffectModule, batch: FaceBatch, args: argparse.Namespace) -> Action:
    loss = compiled(model.loss, args)
    return training(lambda: loss(batch), model.parameter_groups())


def peak(name: str, args: argparse.Namespace) -> float:
    """Return the peak GiB of a training step where no other model is."""
    warnings.simplefilter("ignore")
    bench = Bench(args.device, 1, bf16=args.bf16)
    return bench.peak(step(make(name, args), noise(args), args))


def chain(groups: nn.ModuleList, grid: tuple[int, int], tokens: Tensor) -> Action:
    """Return forward and backward of the groups alone, one after another."""

    def run() -> None:
        x, stream = tokens, None
        for block in groups:
            for group in block.values():
                term, stream = group(x, grid, stream)
                x = x + term
        x.sum().backward()

    return run


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--backbone", default="vit_base_patch16_224.augreg_in21k")
    options.add_argument("--size", type=int, default=224)
    options.add_argument("--aus", type=int, default=12)
    options.add_argument("--expert-width", type=int, default=8)
    options.add_argument("--bf16", action="store_true")
    options.add_argument("--compile", nargs="?", const="inductor", metavar="BACKEND")
    args = options.parse_args()
    memory = {name: alone(peak, name, args) for name in ("auformer", "full")}

    bench = Bench(args.device, args.rounds, bf16=args.bf16)
    warnings.simplefilter("ignore")
    batch = noise(args)
    model, full = make("auformer", args).eval(), make("full", args)
    assert isinstance(model, AUFormer)
    backbone, groups = model.vit.backbone, model.vit.groups
    image = backbone.normalise(batch["image"])
    frozen, ours = compiled(backbone.net, args), compiled(model.vit, args)
    forward = {
        "forward, frozen ViT": lambda: frozen(image),
        "forward, AUFormer": lambda: ours(image),
    }
    if not args.compile:
        slow = PlainViT(model.vit)
        forward["forward, plain experts"] = lambda: slow(image)
    device = torch.cuda.get_device_name() if bench.cuda else "one CPU thread"
    how = ("bf16" if args.bf16 else "float32") + (", compiled" if args.compile else "")
    print(f"{args.backbone}, {args.size} px, {args.aus} AUs, h = {args.expert_width}, ", end="")
    print(f"batch {args.batch}, {device}, {how}; milliseconds\n")

    with torch.no_grad():
        vit, adapted, *plain = bench.run(forward).values()
    model.train()
    tuning, adapting = bench.run(
        {
            "step, full fine-tuning": step(full, batch, args),
            "step, AUFormer": step(model, batch, args),
        }
    ).values()
    rows = [
        f"forward / frozen ViT                 {adapted / vit:5.3f}   at most 1.25, aim 1.10",
        f"step / full fine-tuning              {adapting / tuning:5.3f}   at most 0.85, aim 0.75",
        f"memory of a step / full fine-tuning  {memory['auformer'] / memory['full']:5.3f}   "
        f"{memory['auformer']:.2f} / {memory['full']:.2f} GiB of "
        + ("the GPU" if bench.cuda else "the whole process"),
    ]
    if args.compile:
        graphs = counters["stats"]["unique_graphs"]
        if graphs < 4:
            raise SystemExit(f"only {graphs} graphs were compiled for two forwards and two losses")
        rows.append(f"graphs compiled                      {graphs:5}")
    else:
        prefix, (height, width) = backbone.num_prefix_tokens, backbone.grid
        tokens = torch.randn(args.batch, prefix + height * width, backbone.width)
        tokens = tokens.to(args.device).requires_grad_()
        fast, naive = bench.run(
            {
                "forward + backward, experts alone": chain(groups, backbone.grid, tokens),
                "forward + backward, plain alone": chain(slow.groups, backbone.grid, tokens),
            }
        ).values()
        rows += [
            f"plain / our experts, forward         {(plain[0] - vit) / (adapted - vit):5.1f}   "
            "at least 3",
            f"plain / our experts, with backward   {naive / fast:5.1f}",
        ]
    print("\n" + "\n".join(rows))


if __name__ == "__main__":
    main()
