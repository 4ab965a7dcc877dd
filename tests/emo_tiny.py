"""Tiny parts of EMO-LLaMA for tests: everything random, nothing from disk but a tokenizer."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from faceaffect.data.batch import FaceBatch
from faceaffect.instructions.items import KINDS, Labels, template_turns
from faceaffect.models.emo_llama import EmoLlama
from faceaffect.models.emo_llama.mining import FaceInfoMining
from faceaffect.models.emo_llama.priors import FacePrior
from faceaffect.models.emo_llama.tokenizer import build_tokenizer
from faceaffect.registry import TABLES
from faceaffect.schema import LabelSchema

SCHEMA = LabelSchema((1, 4, 6, 12), ("anger", "happiness", "neutral"), True)
EXPRESSIONS = LabelSchema(expressions=("anger", "happiness", "neutral"))
LLAMA = {
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 610,
    "initializer_range": 0.1,
}
AGGREGATOR = {"queries": 4, "width": 24, "layers": 2, "heads": 2, "hidden": 32}
MINING = {"key_width": 16, "inner": 16, "heads": 2, "grid": 2}
LORA = {"r": 4, "alpha": 8.0, "dropout": 0.0}


class RandomPrior(nn.Module):
    """Priors that depend on the face; a black face is not found."""

    map_width, token_width, fingerprint = 12, 10, "random"

    def __init__(self) -> None:
        super().__init__()
        self.group_names = {"age": ("young", "old"), "gender": ("woman", "man", "other")}
        self.calls = 0

    def forward(self, image: Tensor) -> FacePrior:
        self.calls += 1
        pooled = nn.functional.adaptive_avg_pool2d(image.float() / 255, 4)
        spread = pooled.flatten(1).repeat(1, 4)
        groups = {"age": spread[:, :2] * 4, "gender": spread[:, 2:5] * 4}
        ok = image.flatten(1).amax(1) > 0
        tokens = spread[:, :30].view(-1, 3, 10)
        landmarks = spread[:, :136].view(-1, 68, 2) * 2 - 1
        return FacePrior(pooled.repeat(1, 4, 1, 1), tokens, landmarks, groups, ok)


TABLES["priors"]["random"] = f"{__name__}:RandomPrior"


def priors(n: int, seed: int = 0) -> FacePrior:
    image = torch.randint(1, 256, (n, 3, 32, 32), generator=torch.Generator().manual_seed(seed))
    return RandomPrior()(image.to(torch.uint8))


def open_gates(mining: FaceInfoMining) -> None:
    with torch.no_grad():
        mining.global_gate.fill_(0.7)
        mining.local_gate.fill_(-0.7)


def save_tokenizer(folder: Path) -> str:
    """Write a tokenizer of template texts, a configuration beside it as in a model's folder."""
    texts = []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        name = SCHEMA.expressions[seed % 3]
        aus = {au: bool(rng.integers(2)) for au in SCHEMA.aus}
        labels = Labels(name, aus, (0.5, -0.25))
        for kind in KINDS:
            for question, answer in template_turns(labels, SCHEMA, kind, rng):
                texts.append(f"USER: \n{question} ASSISTANT: {answer}")
        texts += [f"ASSISTANT: AU{au}: yes AU{au}: no" for au in SCHEMA.aus]
    build_tokenizer(texts, 600).save_pretrained(folder)
    (folder / "config.json").write_text('{"model_type": "llama"}')
    return str(folder)


def arguments(tokenizer: str, **changes: Any) -> dict[str, Any]:
    """Return the arguments of a tiny EmoLlama."""
    tower = {"name": "test_vit", "image_size": 64}
    llm = {"config": LLAMA, "tokenizer": tokenizer, "lora": LORA}
    plain: dict[str, Any] = {
        "tower": tower,
        "prior": "random",
        "mining": MINING,
        "aggregator": AGGREGATOR,
        "llm": llm,
        "template": "plain",
    }
    return plain | changes


def batch_of(n: int, *, frames: int = 0, seed: int = 0, schema: LabelSchema = SCHEMA) -> FaceBatch:
    """Return random labelled faces, as clips of up to ``frames`` frames if any."""
    rng = torch.Generator().manual_seed(seed)
    shape = (n, frames, 3, 64, 64) if frames else (n, 3, 64, 64)
    pixels = torch.randint(1, 256, shape, generator=rng, dtype=torch.uint8)
    batch = FaceBatch(id=[f"{seed}/{i}" for i in range(n)], subject=[str(i) for i in range(n)])
    if frames:
        batch["video"] = pixels
        lengths = 1 + torch.arange(n) % frames
        batch["frame_mask"] = torch.arange(frames) < lengths[:, None]
    else:
        batch["image"] = pixels
    if schema.aus:
        batch["au"] = torch.randint(0, 2, (n, len(schema.aus)), generator=rng).float()
    if schema.expressions:
        batch["expression"] = torch.randint(0, len(schema.expressions), (n,), generator=rng)
    if schema.valence_arousal:
        batch["va"] = torch.rand(n, 2, generator=rng) * 2 - 1
    return batch


def make(words: str, schema: LabelSchema = SCHEMA, **changes: Any) -> EmoLlama:
    torch.manual_seed(0)
    return EmoLlama(schema, **arguments(words, **changes))
