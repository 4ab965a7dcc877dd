"""The mini vision-language model: LLaVA's class around the mini ViT and the mini Llama.

It learns to describe drawn faces, and to say of each visible sign whether it is there. What recipes
ask of it (which class, which AUs, which values) it has been asked about faces in words alone, where
the mini Llama learned it.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from numpy.random import Generator
from torch import Tensor, nn
from transformers import (
    CLIPImageProcessor,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerBase,
)

from faceaffect.data.batch import FaceBatch, as_clips
from faceaffect.errors import RecipeError
from faceaffect.instructions import phrases
from faceaffect.instructions.items import Labels, Turn, evidence, expression_answer, pick
from faceaffect.models.emo_llama.checkpoint import find_checkpoint, read_tokenizer
from faceaffect.models.emo_llama.mini_llama import part_of, picture
from faceaffect.models.emo_llama.packing import Text
from faceaffect.models.emo_llama.prompts import labels_of, rare_au_weights
from faceaffect.models.pretraining import LanguagePretraining
from faceaffect.models.vlm.chat import Chat, Exchange, Prompt
from faceaffect.models.vlm.net import VisionLanguageModel
from faceaffect.models.vlm.prompts import Asker, Prompts
from faceaffect.networks.backbones import Backbone, create_backbone
from faceaffect.schema import LabelSchema

IMAGE = "<image>"

_SIGNS = 0.15
"""Weight of a token of a sentence that lists signs; of the words that decide it is 1."""

TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'assistant' %}ASSISTANT: {% else %}USER: {% endif %}"
    "{% for c in m.content %}{% if c.type == 'image' %}<image>\n{% else %}{{ c.text }}{% endif %}"
    "{% endfor %}{{ '</s>' if m.role == 'assistant' else ' ' }}{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
"""The form in which the mini Llama has learned to talk, pictures in front."""


class MiniVlm(LanguagePretraining):
    """Trains projector and language model of a small LLaVA to describe faces; the tower stays.

    After a recipe's test the model (half precision) and its processor lie in ``mini_vlm`` in the
    run folder; ``model.checkpoint`` of ``vlm`` takes that folder.

    Args:
        schema: of the data, which describes the faces.
        tower: a ViT of the package or of timm.
        llm: a Llama, as ``save_pretrained`` wrote it.
        au_balance: a sign that is there, of an AU of rate r, weighs ((1 - r) / r) to this power
            in the loss, else rare ones are never named.
        words_rate: chance that a sample is also asked about in words, without its picture, so that
            the language model keeps what it knows.
        drop_evidence: chance that a sign is left out of these words.

    Raises:
        RecipeError: the data lacks expressions or AUs.
    """

    folder = "mini_vlm"

    def __init__(
        self,
        schema: LabelSchema | dict[str, Any],
        *,
        tower: str = "asset:mini_vit",
        llm: str = "asset:mini_llama",
        au_balance: float = 0.5,
        words_rate: float = 0.5,
        drop_evidence: float = 0.1,
    ) -> None:
        super().__init__(schema)
        if not (self.schema.expressions and self.schema.aus):
            raise RecipeError("model: mini_vlm needs data with expressions and AUs to describe")
        found = find_checkpoint(llm, pretrained=False, revision=None, where="model.llm")
        tokenizer = read_tokenizer(found)
        llama = LlamaForCausalLM.from_pretrained(found.location, dtype=torch.float32)
        vit = create_backbone(tower, frozen=True)
        self.llava, processor = build(vit, llama, tokenizer)
        self.model = VisionLanguageModel(
            self.llava, processor, self.folder, lora=None, frozen=False
        )
        self.llava.model.vision_tower.requires_grad_(False)
        self.llava.set_attn_implementation("eager")  # on a CPU faster backward than fused
        self.chat = Chat(self.model, "chat", "", videos=False)
        self.forms = Prompts(au={"form": "signs"}).tasks(self.schema)
        self.au_balance, self.au_weights = au_balance, dict[int, float]()
        self.words_rate, self.drop_evidence = words_rate, drop_evidence

    def setup(self, stage: str) -> None:
        """Take the weights of rare signs from the training part's rates."""
        super().setup(stage)
        statistics = self.trainer.datamodule.statistics()  # type: ignore[attr-defined]
        self.au_weights = rare_au_weights(self.schema.aus, statistics, self.au_balance)

    def losses(self, batch: FaceBatch, rng: Generator) -> Tensor:
        """Return (N,) cross-entropies of descriptions, signs, and answers about faces in words."""
        clips = list(as_clips(batch)["video"])
        asker = Asker(self.schema, self.chat, clips, self.forms)
        prompts: list[Prompt | None] = []
        for sample in range(len(clips)):
            labels = labels_of(batch, sample, self.schema)
            prompts += [
                self._described(asker, sample, labels, rng),
                self._signs(asker, sample, labels, rng),
            ]
            if rng.random() < self.words_rate:
                prompts.append(self._in_words(labels, rng))
        return self.model.losses([p for p in prompts if p is not None], self.chat)

    def _described(
        self, asker: Asker, sample: int, labels: Labels, rng: Generator
    ) -> Prompt | None:
        """Return an open question with its answer: what the face shows, then by which signs."""
        if labels.expression is None:
            return None
        prompt = asker.ask(
            sample, pick(phrases.CONVERSATION_QUESTIONS, rng).format(media=asker.media[sample])
        )
        first, then = impression(labels, rng), evidence(labels, rng)
        begun = self.chat.options([first], ended=False)[0].said
        whole = self.chat.options([f"{first} {then}"])[0].said
        said = whole[: len(begun)]
        prompt.branches = [
            [Text(said, said=True)],
            [Text(said), Text(whole[len(begun) :], said=True)],
        ]
        prompt.weights = [1.0, _SIGNS]
        return prompt

    def _signs(self, asker: Asker, sample: int, labels: Labels, rng: Generator) -> Prompt | None:
        """Return a question about all signs, with yes or no to each, and the sentence of them."""
        prompt: Prompt | None = asker.learn(sample, "au", labels, rng, self.au_weights)
        if prompt is not None:
            prompt.weights[-1] = _SIGNS
        return prompt

    def _in_words(self, labels: Labels, rng: Generator) -> Prompt | None:
        asking, known, task = part_of(labels, self.schema, rng)
        words = picture(labels, rng, self.drop_evidence)
        if labels.expression is not None and rng.random() < 0.5:  # as it describes faces itself
            aus = {au: on and rng.random() >= self.drop_evidence for au, on in labels.aus.items()}
            words = f"{impression(labels, rng)} {evidence(Labels(aus=aus), rng)}"
        told = _Told(asking, self.chat, words)
        if task == "talk":
            return told.talk(0, known, rng)  # type: ignore[return-value]
        return told.learn(0, task, known, rng, weights={})  # type: ignore[no-any-return]

    def exported(self) -> tuple[nn.Module, dict[str, Any]]:
        """Return the model, and what it is good for."""
        return self.llava, {"purpose": "for learning, tests and continuous integration"}

    def export(self, folder: str | Path) -> None:
        """Write the model in half precision and the processor as ``save_pretrained`` does."""
        llava: Any = self.llava
        llava.half().save_pretrained(folder)
        llava.float()
        self.model.processor.save_pretrained(folder)


def impression(labels: Labels, rng: Generator) -> str:
    """Return a sentence that names the expression."""
    name = expression_answer(str(labels.expression))
    return pick(phrases.CONCLUSIONS, rng).format(expression=name)


class _Told(Asker):
    """Asks about a face that is described in words, where a picture would stand."""

    def __init__(self, schema: LabelSchema, chat: Chat, words: str) -> None:
        self.words = words
        super().__init__(schema, chat, [torch.empty(1)], Prompts().tasks(schema))

    def ask(self, sample: int, question: str, earlier: Sequence[Turn] = ()) -> Prompt:
        turns = [*earlier, (question, "")]
        exchanges = [
            Exchange((), f"{self.words}\n{asked}" if number == 0 else asked, answer)
            for number, (asked, answer) in enumerate(turns)
        ]
        return Prompt([], sample=sample, exchanges=exchanges)


def build(
    vit: Backbone, llama: LlamaForCausalLM, tokenizer: PreTrainedTokenizerBase
) -> tuple[LlavaForConditionalGeneration, LlavaProcessor]:
    """Return a LLaVA of a ViT and a Llama, with a new projector, and its processor."""
    tokenizer.add_special_tokens({"additional_special_tokens": [IMAGE]})
    tokenizer.bos_token = None  # no text of it begins with one
    llama.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    about = vit.describe()
    patch, size = about["args"]["patch_size"], about["image_size"]
    language = llama.config.to_dict()
    language.pop("_name_or_path", None)  # a path of this machine
    config_of: Any = LlavaConfig
    config = config_of(
        vision_config=_vision(vit, patch, size),
        text_config=language,
        image_token_id=tokenizer.convert_tokens_to_ids(IMAGE),
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        tie_word_embeddings=True,
    )
    llava = LlavaForConditionalGeneration(config)
    llava.model.vision_tower.load_state_dict(_weights(vit), strict=False)
    llava.model.language_model.load_state_dict(llama.model.state_dict())
    llava.tie_weights()
    images = CLIPImageProcessor(
        do_resize=True, size={"height": size, "width": size}, do_center_crop=False,
        image_mean=about["mean"], image_std=about["std"],
    )  # fmt: skip
    processor_of: Any = LlavaProcessor
    processor = processor_of(
        images, tokenizer, patch_size=patch, vision_feature_select_strategy="default",
        num_additional_image_tokens=1, chat_template=TEMPLATE,
    )  # fmt: skip
    return llava, processor


def _vision(vit: Backbone, patch: int, size: int) -> dict[str, Any]:
    net: Any = vit.net
    return {
        "model_type": "vit", "hidden_size": vit.width, "num_hidden_layers": len(net.blocks),
        "num_attention_heads": net.blocks[0].attn.num_heads,
        "intermediate_size": net.blocks[0].mlp.fc1.out_features,
        "image_size": size, "patch_size": patch, "layer_norm_eps": net.norm.eps,
    }  # fmt: skip


def _weights(vit: Backbone) -> dict[str, Tensor]:
    """Return a timm ViT's weights under the names of transformers."""
    net: Any = vit.net
    state = net.state_dict()
    named = {
        "embeddings.cls_token": state["cls_token"],
        "embeddings.position_embeddings": state["pos_embed"],
        "layernorm.weight": state["norm.weight"],
        "layernorm.bias": state["norm.bias"],
    }
    parts = {"norm1": "layernorm_before", "norm2": "layernorm_after", "mlp.fc1": "mlp.fc1",
             "mlp.fc2": "mlp.fc2", "attn.proj": "attention.o_proj"}  # fmt: skip
    for kind in ("weight", "bias"):
        own = f"embeddings.patch_embeddings.projection.{kind}"
        named[own] = state[f"patch_embed.proj.{kind}"]
        for number in range(len(net.blocks)):
            ours, theirs = f"layers.{number}", f"blocks.{number}"
            for old, new in parts.items():
                named[f"{ours}.{new}.{kind}"] = state[f"{theirs}.{old}.{kind}"]
            three = state[f"{theirs}.attn.qkv.{kind}"].chunk(3)
            for letter, value in zip("qkv", three, strict=True):
                named[f"{ours}.attention.{letter}_proj.{kind}"] = value
    return named
