"""What AUFormer's experts cost beside the frozen ViT, full fine-tuning and the plain experts.

On random weights; a ratio compares the fastest of all rounds, see ``bench.py``.

    python benchmarks/auformer.py
    python benchmarks/auformer.py --device cuda --batch 64 --bf16 [--compile]
"""

import copy
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from bench import Bench, parser, training
from torch import Tensor, nn

from faceaffect import LabelSchema, create_model
from faceaffect.data.batch import FaceBatch
from faceaffect.models.auformer import AUFormer, ExpertViT

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from plain_moke import PlainGroup

AUS = (1, 2, 4, 5, 6, 7, 9, 10, 12, 14, 15, 17, 20, 23, 24, 25, 26, 43)


def plain(vit: ExpertViT) -> ExpertViT:
    """Return the same network with its experts one at a time, at full width."""
    twin = copy.deepcopy(vit)
    for block in twin.groups:
        for position in block:
            block[position] = PlainGroup(block[position])
    return twin


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
    options = parser(__doc__)
    options.add_argument("--backbone", default="vit_base_patch16_224.augreg_in21k")
    options.add_argument("--size", type=int, default=224)
    options.add_argument("--aus", type=int, default=12)
    options.add_argument("--expert-width", type=int, default=8)
    options.add_argument("--bf16", action="store_true")
    options.add_argument("--compile", action="store_true")
    args = options.parse_args()
    bench = Bench(args.device, args.rounds, bf16=args.bf16)
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
            "step, full fine-tuning": training(lambda: full.loss(batch), full.parameter_groups()),
            "step, AUFormer": training(lambda: model.loss(batch), model.parameter_groups()),
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
