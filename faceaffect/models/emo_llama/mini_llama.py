"""The mini Llama: a small language model that speaks of faces, trained on template texts alone.

Where a picture would stand in a dialogue there are words for what it shows; so the model learns the
forms of question and answer, and what signs mean, but never sees a face.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from faceaffect.data.batch import FaceBatch
from faceaffect.errors import RecipeError
from faceaffect.instructions.items import (
    KINDS,
    VA_BINS,
    Labels,
    au_answer,
    evidence,
    expression_answer,
    template_turns,
    va_answer,
)
from faceaffect.models.emo_llama.dialogue import Dialogue
from faceaffect.models.emo_llama.llm import LanguageModel
from faceaffect.models.emo_llama.packing import Row, Text, Visual
from faceaffect.models.emo_llama.prompts import Prompter, labels_of
from faceaffect.models.emo_llama.scoring import answer_loss
from faceaffect.models.emo_llama.tokenizer import build_tokenizer
from faceaffect.models.pretraining import LanguagePretraining
from faceaffect.schema import LabelSchema
from faceaffect.scores.vocabulary import AU_NAMES, EXPRESSION_WORDS

_TASKS = ("expression", "au", "va", "talk", "talk")


class MiniLlama(LanguagePretraining):
    """Trains a small Llama and builds its tokenizer.

    After a recipe's test the model (half precision) and the tokenizer lie in ``mini_llama`` in the
    run folder, as ``save_pretrained`` writes them; ``model.llm.name`` of EMO-LLaMA takes that
    folder.

    Args:
        schema: of the data.
        width: of the embeddings, a multiple of 32.
        layers: transformer blocks.
        hidden: width of the MLPs.
        vocabulary: most ids of the tokenizer.
        drop_evidence: chance that a sign of the picture is left out of the words for it.

    Raises:
        RecipeError: the data lacks expressions or AUs.
    """

    folder = "mini_llama"

    def __init__(
        self,
        schema: LabelSchema | dict[str, Any],
        *,
        width: int = 128,
        layers: int = 4,
        hidden: int = 352,
        vocabulary: int = 1024,
        drop_evidence: float = 0.1,
    ) -> None:
        super().__init__(schema)
        if not (self.schema.expressions and self.schema.aus):
            raise RecipeError(
                "model: mini_llama needs data with expressions and AUs: template_labels"
            )
        tokenizer = build_tokenizer(corpus(self.schema), vocabulary)
        self.llama = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=len(tokenizer),
                hidden_size=width,
                intermediate_size=hidden,
                num_hidden_layers=layers,
                num_attention_heads=width // 32,
                max_position_embeddings=2048,
                tie_word_embeddings=True,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            )
        )
        self.model = LanguageModel(self.llama, tokenizer, lora=None, frozen=False)
        self.dialogue = Dialogue(self.model, "plain")
        self.drop_evidence = drop_evidence

    def losses(self, batch: FaceBatch, rng: Generator) -> Tensor:
        """Return (B,) cross-entropies of the answers to one question a sample."""
        rows = []
        for sample in range(len(batch["id"])):
            labels = labels_of(batch, sample, self.schema)
            rows.append(row(labels, self.schema, self.dialogue, rng, self.drop_evidence))
        nothing = torch.empty(0, self.model.width, device=self.device)
        return answer_loss(self.model, rows, nothing)

    def exported(self) -> tuple[nn.Module, dict[str, Any]]:
        """Return the language model, and what it is good for."""
        return self.llama, {"purpose": "for learning, tests and continuous integration"}

    def export(self, folder: str | Path) -> None:
        """Write the model in half precision and the tokenizer as ``save_pretrained`` does."""
        llama: Any = self.llama
        llama.half().save_pretrained(folder)
        llama.float()
        self.model.tokenizer.save_pretrained(folder)


def row(
    labels: Labels, schema: LabelSchema, dialogue: Dialogue, rng: Generator, drop: float
) -> Row:
    """Return a question on a random subset of classes and AUs, words in the picture's place.

    Args:
        labels: what the picture shows.
        schema: all classes and AUs.
        dialogue: the format.
        rng: draws what is asked, how, and in which words.
        drop: chance that a sign is left out of the picture's words.
    """
    asking, known, task = part_of(labels, schema, rng)
    prompter = Prompter(asking, dialogue, [0], [""], "image")
    written = (
        prompter.talk(0, known, rng)
        if task == "talk"
        else prompter.learn(0, task, known, rng, weights={})
    )
    assert written is not None
    words = Text(dialogue.encode(picture(labels, rng, drop)))
    written.prefix = [words if isinstance(piece, Visual) else piece for piece in written.prefix]
    return written


def part_of(labels: Labels, schema: LabelSchema, rng: Generator) -> tuple[LabelSchema, Labels, str]:
    """Return a random subset of classes and AUs, what is known of it, and a task or ``talk``."""
    others = [name for name in schema.expressions if name != labels.expression]
    count = int(rng.integers(2, len(others) + 1))
    classes = [*rng.permutation(np.array(others))[:count].tolist(), str(labels.expression)]
    aus = np.array(list(labels.aus))
    asked = np.sort(rng.permutation(aus)[: int(rng.integers(4, len(aus) + 1))]).tolist()
    known = Labels(labels.expression, {au: labels.aus[au] for au in asked}, labels.va)
    asking = LabelSchema(tuple(asked), tuple(classes), True)
    return asking, known, _TASKS[int(rng.integers(len(_TASKS)))]


def picture(labels: Labels, rng: Generator, drop: float) -> str:
    """Describe a face in words, as a picture would: signs in any order, or AUs, or the mood."""
    seen = [au for au in labels.active if rng.random() >= drop]
    order = rng.permutation(np.array(seen, int)).tolist()
    if rng.random() < 0.3:
        words = [au_answer(order)]
    else:
        words = [evidence(Labels(aus=dict.fromkeys(order, True) or {0: False}), rng)]
    if labels.expression is not None and rng.random() < 0.5:
        words.append(expression_answer(labels.expression))
    if labels.va is not None and rng.random() < 0.5:
        words.append(va_answer(labels.va))
    return " ".join(words)


def corpus(schema: LabelSchema, size: int = 4000) -> list[str]:
    """Return texts from which the tokenizer learns: dialogues, names, and words for emotions."""
    rng = np.random.default_rng(0)
    texts = []
    for number in range(size):
        name = schema.expressions[number % len(schema.expressions)]
        aus = {au: bool(rng.random() < 0.3) for au in schema.aus}
        labels = Labels(name, aus, (rng.uniform(-1, 1), rng.uniform(-1, 1)))
        for kind in KINDS:
            for question, answer in template_turns(labels, schema, kind, rng):
                texts.append(f"USER: {picture(labels, rng, 0.1)}\n{question} ASSISTANT: {answer}")
    names = [name for words in (*AU_NAMES.values(), *EXPRESSION_WORDS.values()) for name in words]
    texts += [f"ASSISTANT: {name}. The {name}" for name in names] * 20
    texts += [f"ASSISTANT: AU{au}: yes AU{au}: no, AU{au}" for au in AU_NAMES] * 40
    texts += [f"ASSISTANT: valence: {value} arousal: {value}" for value in VA_BINS] * 40
    return texts
