"""What EMO-LLaMA costs: option scores with a shared prompt, and training steps with LoRA.

The whole model's step comes with the frozen networks' features from a warm cache and without.

On random weights; a ratio compares the fastest of all rounds, see ``bench.py``.

    python benchmarks/emo_llama.py
    python benchmarks/emo_llama.py --device cuda --size 7b --batch 8
"""

import tempfile
from typing import Any

import torch
from bench import Bench, parser
from bench import training as stepper
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from faceaffect.data.batch import FaceBatch
from faceaffect.models.emo_llama import EmoLlama
from faceaffect.models.emo_llama.dialogue import Dialogue
from faceaffect.models.emo_llama.llm import LanguageLoRA, LanguageModel
from faceaffect.models.emo_llama.packing import Row, Visual, pack
from faceaffect.models.emo_llama.scoring import answer_loss, score_options
from faceaffect.models.emo_llama.tokenizer import build_tokenizer
from faceaffect.schema import LabelSchema

CLASSES = ["neutral", "happiness", "sadness", "surprise", "fear", "disgust", "anger", "contempt"]
AUS = [f"AU{au}" for au in (1, 2, 4, 6, 7, 10, 12, 14, 15, 17, 23, 24)]
SIZES: dict[str, dict[str, int]] = {
    "mini": {"hidden_size": 128, "intermediate_size": 352, "num_hidden_layers": 4,
             "num_attention_heads": 4, "vocab_size": 1024},
    "7b": {},
}  # fmt: skip


def language_model(size: str, device: str, dtype: torch.dtype) -> LanguageModel:
    text = " ".join(CLASSES + AUS) + ": yes no Which expression does the face in the image show?"
    words = build_tokenizer([text] * 100, 1000)
    with torch.device(device):
        torch.set_default_dtype(dtype)
        net = LlamaForCausalLM(LlamaConfig(**SIZES[size]))
        torch.set_default_dtype(torch.float32)
    return LanguageModel(net, words, lora=LanguageLoRA(r=64)).to(device)


def prompts(dialogue: Dialogue, count: int, visual: int) -> list[Row]:
    question = "Which expression does the face in the image show? " * 3
    return [Row(dialogue.prompt([], question, [Visual(slot, visual)])) for slot in range(count)]


@torch.no_grad()
def scoring(llm: LanguageModel, bench: Bench, batch: int, visual: int) -> None:
    dialogue = Dialogue(llm, "vicuna")
    choices = {
        "8 classes": [CLASSES],
        "12 AUs": [[f"{au}: yes", f"{au}: no"] for au in AUS],
    }
    faces = torch.randn(batch * visual, llm.width, device=llm.base.device, dtype=llm.dtype)
    for name, some in choices.items():
        rows = prompts(dialogue, batch, visual)
        branches = [option.texts() for choice in some for option in dialogue.options(choice)]
        for row in rows:
            row.branches = branches
        whole = pack([Row(r.prefix, [b]) for r in rows for b in branches], faces.device)

        def full(whole: Any = whole) -> Tensor:
            embeddings = whole.embed(llm.embed(whole.ids), faces)
            last = torch.arange(whole.ids.shape[1] - 8, whole.ids.shape[1], device=faces.device)
            answer = llm(embeddings, whole.known, whole.position, logits_to_keep=last)
            return answer.logits  # type: ignore[no-any-return]

        times = bench.run(
            {
                f"{name}, shared prompt": lambda rows=rows: score_options(llm, rows, faces),
                f"{name}, one full forward each": full,
            }
        )
        shared, plain = times.values()
        print(f"{name}, {len(branches)} options, {batch} faces: {plain / shared:.1f}x\n")


def training(llm: LanguageModel, bench: Bench, batch: int, visual: int) -> None:
    """Compare a step of ours with the same step in plain transformers and peft."""
    dialogue = Dialogue(llm, "vicuna")
    rows = prompts(dialogue, batch, visual)
    for row in rows:
        row.branches = [dialogue.options([CLASSES[1]])[0].texts()]
    device = llm.base.device
    faces = torch.randn(batch * visual, llm.width, device=device, dtype=llm.dtype)
    llm.train()

    def ours() -> None:
        answer_loss(llm, rows, faces).mean().backward()
        llm.zero_grad()

    packed = pack([Row([*row.prefix, *row.branches[0]]) for row in rows], device)
    labels = torch.full_like(packed.ids, -100)
    labels[packed.row, packed.column + 1] = packed.said

    def plain() -> None:
        embeddings = packed.embed(llm.embed(packed.ids), faces)
        mask = packed.known.long()
        llm.net(inputs_embeds=embeddings, attention_mask=mask, labels=labels).loss.backward()
        llm.zero_grad()

    tokens = int(packed.known.sum())
    times = bench.run({"step, ours": ours, "step, transformers + peft": plain})
    mine, theirs = times.values()
    print(f"step of {batch} x {tokens // batch} tokens: {theirs / mine:.2f}x, ", end="")
    print(f"{tokens / mine * 1e3:,.0f} tokens/s")


SCHEMA = LabelSchema(tuple(int(au[2:]) for au in AUS), tuple(CLASSES), True)
WHOLE: dict[str, dict[str, Any]] = {
    "mini": {
        "tower": "asset:mini_vit",
        "mining": {"key_width": 128, "inner": 128, "heads": 4},
        "aggregator": {"content": "grid:4", "width": 96, "hidden": 192},
        "llm": {"name": "asset:mini_llama", "attention": "eager", "lora": {"r": 16}},
    },
    "7b": {
        "tower": {"config": {"model_type": "instructblip_vision_model"}, "dtype": "bfloat16"},
        "aggregator": {"queries": 32, "width": 768, "layers": 12, "heads": 12, "hidden": 3072},
        "llm": {"config": {"model_type": "llama"}, "tokenizer": "asset:mini_llama",
                "dtype": "bfloat16", "lora": {"r": 64}, "grad_checkpointing": True},
        "template": "vicuna",
    },
}  # fmt: skip


def whole(size: str, bench: Bench, device: str, batch: int) -> None:
    """Compare a step of the whole model with and without cached features of the frozen networks."""
    pixels = 224 if size == "7b" else 112
    names = [str(i) for i in range(batch)]
    faces = FaceBatch(
        id=names,
        subject=names,
        image=torch.randint(0, 256, (batch, 3, pixels, pixels), dtype=torch.uint8, device=device),
        au=torch.randint(0, 2, (batch, len(AUS)), device=device).float(),
        expression=torch.randint(0, len(CLASSES), (batch,), device=device),
        va=torch.rand(batch, 2, device=device) * 2 - 1,
    )
    with tempfile.TemporaryDirectory() as folder:
        with torch.device(device):
            model = EmoLlama(SCHEMA, **WHOLE[size], cache=folder).to(device).train()
        step = stepper(
            lambda: model.loss(faces), [p for p in model.parameters() if p.requires_grad]
        )

        def run(cache: str | None) -> None:
            torch.manual_seed(0)  # the same phrasings
            model.faces.cache_folder = cache
            step()

        times = bench.run(
            {"whole step": lambda: run(None), "whole step, features cached": lambda: run(folder)}
        )
    plain, cached = times.values()
    print(f"whole step of {batch} faces: cached features make it {plain / cached:.2f}x as fast\n")


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--size", default="mini", choices=tuple(SIZES))
    options.add_argument("--visual", type=int, default=17, help="visual tokens of a face")
    args = options.parse_args()
    dtype = torch.bfloat16 if args.device == "cuda" else torch.float32
    bench = Bench(args.device, args.rounds)
    llm = language_model(args.size, args.device, dtype).eval()
    print(f"{args.size}: {sum(p.numel() for p in llm.parameters()):,} parameters, {dtype}")
    scoring(llm, bench, args.batch, args.visual)
    training(llm, bench, args.batch, args.visual)
    del llm
    half = Bench(args.device, args.rounds, bf16=args.device == "cuda")
    whole(args.size, half, args.device, args.batch)


if __name__ == "__main__":
    main()
