"""What a vision-language model costs: a LoRA step, option scores, batches, early exit.

A step is compared with plain transformers and peft on the same inputs, scores with one forward for
each option, a batch with its faces one by one, also where text is generated, and pictures that
leave early with pictures in all layers; with the package's small model, or another.

    python benchmarks/vlm.py
    python benchmarks/vlm.py --device cuda --checkpoint FOLDER --batch 8
"""

from typing import Any

import torch
from bench import Bench, parser
from peft import LoraConfig, get_peft_model
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from faceaffect.data.batch import FaceBatch
from faceaffect.models.vlm.chat import Prompt
from faceaffect.models.vlm.loading import load
from faceaffect.models.vlm.module import Vlm
from faceaffect.schema import LabelSchema

CLASSES = ("neutral", "happiness", "sadness", "surprise", "fear", "disgust", "anger", "contempt")
SCHEMA = LabelSchema((1, 2, 4, 6, 7, 10, 12, 14, 15, 17, 23, 24), CLASSES)
LORA = {"r": 16, "alpha": 32.0, "dropout": 0.0}


def faces(count: int, device: str) -> FaceBatch:
    """Return random pictures."""
    names = [str(n) for n in range(count)]
    image = torch.randint(0, 256, (count, 3, 112, 112), dtype=torch.uint8, device=device)
    return FaceBatch(id=names, subject=names, image=image)


def prompts(model: Vlm, batch: FaceBatch, task: str) -> list[Prompt]:
    asker = model.asker(batch)
    return [p for n in range(len(batch["id"])) for p in asker.score(n, task)]


def step(model: Vlm, checkpoint: str, bench: Bench, batch: FaceBatch) -> None:
    """Compare a training step, processor left out, with plain peft."""
    asked = prompts(model, batch, "expression")
    for prompt in asked:
        prompt.branches = prompt.branches[1:2]
    llm, chat = model.llm.train(), model.chat
    made, answers = dict(llm.inputs(asked, chat)), [p.branches[0] for p in asked]
    llm.inputs = lambda *_: dict(made)  # type: ignore[method-assign]

    def ours() -> None:
        llm.losses(asked, chat).mean().backward()
        llm.zero_grad()

    net = load(checkpoint, pretrained=False, revision=None, dtype="float32", attention="sdpa",
               four_bit=False)[0].to(llm.device).requires_grad_(False)  # fmt: skip
    names = {n.rpartition(".")[2] for n, m in llm.decoder.named_modules() if hasattr(m, "lora_A")}
    part = llm.decoder_name.replace(".", r"\.")
    targets = rf"{part}\.(.*\.)?({'|'.join(sorted(names))})"
    config = LoraConfig(r=16, lora_alpha=32, lora_dropout=0.0, target_modules=targets)
    plain_net: Any = get_peft_model(net, config).train()
    plain_net.get_base_model().model.vision_tower.eval()
    more = torch.tensor([[i for part in b for i in part.ids] for b in answers], device=llm.device)
    ids = torch.cat([made["input_ids"], more], 1)
    labels = torch.full_like(ids, -100)
    labels[:, -more.shape[1] :] = more
    own = made | {"input_ids": ids, "attention_mask": torch.nn.functional.pad(
        made["attention_mask"], (0, more.shape[1]), value=1)}  # fmt: skip

    def plain() -> None:
        plain_net(**own, labels=labels, use_cache=False).loss.backward()
        plain_net.zero_grad()

    mine, theirs = bench.run({"step, ours": ours, "step, transformers + peft": plain}).values()
    print(f"step of {len(ids)} x {ids.shape[1]} tokens: {mine / theirs:.2f} of plain peft\n")
    del llm.inputs


@torch.no_grad()
def scoring(model: Vlm, bench: Bench, batch: FaceBatch) -> None:
    """Compare scores with a shared prompt with one whole forward, tower included, an option."""
    llm = model.llm.eval()
    once = llm._once.expect
    for task, name in (("expression", "8 classes"), ("au", "12 AUs")):
        asked = prompts(model, batch, task)

        def scores(shares: bool, asked: Any = asked) -> Tensor:
            llm.shares = shares
            llm._once.expect = once if shares else lambda _: None  # type: ignore[method-assign]
            return llm.scores(asked, model.chat)

        shared, alone = bench.run({
            f"{name}, shared prompt": lambda scores=scores: scores(True),
            f"{name}, one forward each": lambda scores=scores: scores(False),
        }).values()  # fmt: skip
        llm.shares, llm._once.expect = True, once  # type: ignore[method-assign]
        options = len(asked[0].branches)
        print(f"{name}, {options} options, {len(asked)} faces: {alone / shared:.1f}x\n")


@torch.no_grad()
def batches(model: Vlm, bench: Bench, batch: FaceBatch) -> None:
    """Compare a batch with its faces one by one."""
    model.eval()
    size = len(batch["id"])
    singles: list[Any] = [
        {key: value[n : n + 1] for key, value in batch.items()}  # type: ignore[index]
        for n in range(size)
    ]
    whole, single = bench.run({
        f"{size} faces at once": lambda: model.predict(batch),
        f"{size} faces one by one": lambda: [model.predict(one) for one in singles],
    }).values()  # fmt: skip
    print(f"batch of {size} against single: {single / whole:.1f}x")


@torch.no_grad()
def generation(model: Vlm, bench: Bench, batch: FaceBatch) -> None:
    """Compare descriptions of a batch with those of its faces one by one."""
    llm, asker = model.eval().llm, model.asker(batch)
    asked = [asker.ask(row, "Describe this face.") for row in range(len(asker.clips))]
    whole, single = bench.run({
        f"{len(asked)} descriptions at once": lambda: llm.generate(asked, model.chat, 32),
        f"{len(asked)} one by one": lambda: [
            llm.generate([one], model.chat, 32) for one in asked],
    }).values()  # fmt: skip
    print(f"descriptions, batch of {len(asked)} against single: {single / whole:.1f}x\n")


@torch.no_grad()
def exits(checkpoint: str, bench: Bench, batch: FaceBatch, device: str) -> None:
    """Compare scores of 12 AUs where one layer, two, ... see the pictures, with all layers."""
    model = Vlm(SCHEMA, checkpoint=checkpoint, dtype="float32", visual_exit={"width": 8})
    model = model.to(device).eval()
    gates: Any = model.llm.exit
    asked = prompts(model, batch, "au")

    def scores(layers: int) -> Tensor:
        gates.forced = layers
        return model.llm.scores(asked, model.chat)

    flops = {}
    for layers in range(gates.floor, gates.depth + 1):
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
            scores(layers)
        flops[layers] = counter.get_total_flops()
    timed = bench.run({
        f"pictures in {layers} of {gates.depth} layers": lambda layers=layers: scores(layers)
        for layers in flops
    })  # fmt: skip
    all_flops, all_seconds = flops[gates.depth], list(timed.values())[-1]
    for (layers, count), seconds in zip(flops.items(), timed.values(), strict=True):
        print(f"pictures in {layers} layers: {count / all_flops:.2f} of the arithmetic of the "
              f"whole model, {seconds / all_seconds:.2f} of its time")  # fmt: skip


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--checkpoint", default="asset:mini_vlm")
    args = options.parse_args()
    bench = Bench(args.device, args.rounds)
    model = Vlm(SCHEMA, checkpoint=args.checkpoint, lora=LORA, dtype="float32").to(args.device)
    batch = faces(args.batch, args.device)
    step(model, args.checkpoint, bench, batch)
    scoring(model, bench, batch)
    batches(model, bench, batch)
    generation(model, bench, batch)
    exits(args.checkpoint, bench, batch, args.device)


if __name__ == "__main__":
    main()
