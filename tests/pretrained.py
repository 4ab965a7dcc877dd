"""Pretrained models as people have them on disk: the real classes, with few and narrow layers."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece
import timm
import torch
import transformers
from safetensors.torch import save_file

from faceaffect.instructions.items import KINDS, Labels, template_turns
from faceaffect.schema import LabelSchema

EXPRESSIONS = ("anger", "disgust", "fear", "happiness", "neutral", "sadness", "surprise")
LLAMA = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "max_position_embeddings": 4096, "initializer_range": 0.1,
}  # fmt: skip
VISION = {
    "hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
    "image_size": 56, "patch_size": 14, "initializer_range": 0.02,
}  # fmt: skip
QFORMER = {
    "hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
    "encoder_hidden_size": 24,
}  # fmt: skip


def texts() -> list[str]:
    """Return questions and answers as the templates write them."""
    schema, found = LabelSchema(expressions=EXPRESSIONS), []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        labels = Labels(EXPRESSIONS[seed % 7], {}, None)
        for kind in KINDS:
            turns = template_turns(labels, schema, kind, rng)
            found += [f"USER: \n{question} ASSISTANT: {answer}" for question, answer in turns]
    return found


def vicuna(folder: Path) -> Path:
    """Write a small Llama as Vicuna comes: weights, and ``tokenizer.model`` for a tokenizer."""
    folder.mkdir(parents=True)
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts()), model_prefix=str(folder / "tokenizer"), vocab_size=400,
        model_type="bpe", byte_fallback=True, hard_vocab_limit=False, minloglevel=2,
    )  # fmt: skip
    (folder / "tokenizer.vocab").unlink()
    about = {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True, "legacy": False,
             "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(about))
    torch.manual_seed(1)
    config = transformers.LlamaConfig(**LLAMA, vocab_size=400)
    transformers.LlamaForCausalLM(config).to(torch.float16).save_pretrained(folder)
    return folder


def instructblip(folder: Path) -> Path:
    """Write a small InstructBLIP: vision model, Q-Former with 32 queries, its BERT tokenizer."""
    words = sorted({word.lower() for text in texts() for word in text.replace(".", " ").split()})
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]", *words]
    config = transformers.InstructBlipConfig(
        vision_config=VISION,
        qformer_config=QFORMER | {"vocab_size": len(vocabulary)},
        text_config={"model_type": "llama", **LLAMA, "vocab_size": 64},
        num_query_tokens=32,
    )
    torch.manual_seed(2)
    model = transformers.InstructBlipForConditionalGeneration(config)
    model.save_pretrained(folder, max_shard_size="40KB")
    transformers.BlipImageProcessor(size={"height": 56, "width": 56}).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(vocabulary))
    tokenizer = transformers.BertTokenizer(str(folder / "vocab.txt"))
    tokenizer.save_pretrained(folder / "qformer_tokenizer")
    return folder


def fan(file: Path, hourglasses: int = 1) -> Path:
    """Write random weights of the network of face-alignment, which has four hourglasses."""
    from face_alignment.models import FAN

    torch.manual_seed(3)
    torch.save(FAN(hourglasses).state_dict(), file)
    return file


def timm_weights(file: Path, name: str, **args: Any) -> Path:
    """Write random weights of a timm model, other than in its own size where arguments say so."""
    torch.manual_seed(4)
    save_file(timm.create_model(name.partition(".")[0], **args).state_dict(), file)
    return file
