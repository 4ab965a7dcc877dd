"""The language model: any causal one of transformers, frozen, with LoRA through peft."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import torch
from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase
from transformers.modeling_layers import GradientCheckpointingLayer

from faceaffect.errors import CheckpointError, RecipeError
from faceaffect.models.emo_llama.checkpoint import (
    find_checkpoint,
    make_config,
    read_config,
    read_tokenizer,
)
from faceaffect.registry import Options
from faceaffect.weights import Freezable, fingerprint


@dataclass(frozen=True)
class LanguageLoRA:
    """Low-rank adapters in the language model; the defaults are LLaMA-VID's.

    Args:
        r: rank.
        alpha: the adapters' output is scaled by alpha / r.
        dropout: rate on the adapters' input, in [0, 1).
        targets: last parts of the names of the layers that get an adapter, such as
            ``[q_proj, v_proj]``; by default every linear layer but the output head.
    """

    r: int = 64
    alpha: float = 16.0
    dropout: float = 0.05
    targets: list[str] | None = None

    def config(self) -> LoraConfig:
        """Return peft's form of the settings."""
        return LoraConfig(
            r=self.r,
            lora_alpha=self.alpha,  # type: ignore[arg-type]  # peft divides it, a float is fine
            lora_dropout=self.dropout,
            target_modules=self.targets or "all-linear",
            task_type=TaskType.CAUSAL_LM,
        )


class LanguageModel(Freezable):
    """A causal language model on embeddings, frozen but for its adapters.

    Args:
        net: the language model.
        tokenizer: its tokenizer, with an end token.
        lora: adapters to put in; None leaves the model frozen as it is.
        grad_checkpointing: spend time to save memory in training.
        frozen: train nothing but the adapters.

    Attributes:
        net: the model with its adapters, a ``PeftModel`` if it has any.
        width: of an embedding.
        end: id of the end token.
    """

    def __init__(
        self,
        net: Any,
        tokenizer: PreTrainedTokenizerBase,
        *,
        lora: LanguageLoRA | None,
        grad_checkpointing: bool = False,
        frozen: bool = True,
    ) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        if tokenizer.eos_token_id is None:
            raise CheckpointError(
                "the tokenizer has no end token (eos_token), so no answer would end"
            )
        self.end: int = cast(int, tokenizer.eos_token_id)
        self.net = net
        self.width: int = net.get_input_embeddings().weight.shape[1]
        self.grad_checkpointing = grad_checkpointing
        if grad_checkpointing:
            net.gradient_checkpointing_enable({"use_reentrant": False})
        if frozen:
            self.freeze()
        if lora is not None:
            try:
                self.net = get_peft_model(net, lora.config())
            except ValueError as error:
                raise RecipeError(f"model.llm.lora: {str(error).splitlines()[0]}") from None
        self.train(self.training)

    @property
    def base(self) -> PreTrainedModel:
        """The causal language model itself, adapters inside."""
        net = self.net.get_base_model() if isinstance(self.net, PeftModel) else self.net
        return cast(PreTrainedModel, net)

    @property
    def dtype(self) -> torch.dtype:
        """Float type of the embeddings."""
        return cast(torch.dtype, self.base.get_input_embeddings().weight.dtype)

    def train(self, mode: bool = True) -> "LanguageModel":
        """Set the mode; checkpointing layers follow it, which else would not checkpoint."""
        super().train(mode)
        if self.grad_checkpointing:
            for module in self.net.modules():
                if isinstance(module, GradientCheckpointingLayer):
                    module.training = mode
        return self

    def embed(self, ids: Tensor) -> Tensor:
        """Return embeddings (..., D) of token ids."""
        embeddings: Tensor = self.base.get_input_embeddings()(ids)
        return embeddings

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text, without special tokens."""
        return cast(list[int], self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def beginning(self) -> list[int]:
        """Return the begin token, if the tokenizer puts one before a text."""
        first = self.tokenizer.bos_token_id
        starts = cast(list[int], self.tokenizer("a")["input_ids"])
        return [cast(int, first)] if first is not None and starts[:1] == [first] else []

    def forward(self, embeddings: Tensor, mask: Tensor, positions: Tensor, **cache: Any) -> Any:
        """Run the model on embeddings.

        Args:
            embeddings: (B, L, D).
            mask: (B, L) of known positions, or (B, 1, L, L') added to the attention scores.
            positions: (B, L).
            cache: ``logits_to_keep``, ``use_cache``, ``past_key_values`` of transformers.

        Returns:
            transformers' output with ``logits``.
        """
        return self.net(
            inputs_embeds=embeddings, attention_mask=mask, position_ids=positions, **cache
        )

    def save_adapter(self, folder: str | Path) -> None:
        """Write the adapter in peft's own format.

        Raises:
            CheckpointError: the model has no adapter.
        """
        if not isinstance(self.net, PeftModel):
            raise CheckpointError("the language model has no adapter to export")
        self.net.save_pretrained(str(folder))


def create_llm(
    name: str | None = None,
    *,
    pretrained: bool = False,
    revision: str | None = None,
    config: dict[str, Any] | None = None,
    tokenizer: str | None = None,
    lora: Annotated[dict[str, Any] | None, Options(LanguageLoRA)] = None,
    dtype: Literal["float32", "bfloat16", "float16"] = "float32",
    attention: Literal["sdpa", "eager"] = "sdpa",
    grad_checkpointing: bool = False,
) -> LanguageModel:
    """Build a language model.

    Args:
        name: ``asset:mini_llama``, a folder written by ``save_pretrained``, or owner/model on the
            hub: Vicuna, Llama, Qwen, SmolLM, or any other that transformers reads as a causal
            language model.
        pretrained: the hub may be asked.
        revision: branch, tag or commit on the hub.
        config: in place of a name: ``model_type`` and settings, with random weights.
        tokenizer: a folder, asset or hub name; by default the model's own.
        lora: settings of the adapters; None freezes the whole model.
        dtype: of the frozen weights.
        attention: PyTorch's fused attention, or plain matrix products (``eager``), which train
            short prompts faster on a CPU.
        grad_checkpointing: spend time to save memory in training.

    Raises:
        RecipeError: settings that contradict each other.
        CheckpointError: the model or its tokenizer is missing or damaged.
    """
    if (name is None) == (config is None):
        raise RecipeError("model.llm: give either a name or a config")
    where = "model.llm.name"
    adapters = None if lora is None else LanguageLoRA(**lora)
    if name is None:
        settings = make_config(config or {}, "model.llm.config")
        if tokenizer is None:
            raise RecipeError("model.llm.tokenizer: a config needs a tokenizer beside it")
        net = _from_config(settings, dtype, attention)
        source = None
    else:
        found = find_checkpoint(name, pretrained=pretrained, revision=revision, where=where)
        read_config(found)
        net = _load(found.location, found.revision, dtype, attention)
        known = fingerprint(net.state_dict())
        source = {"kind": found.kind, "name": found.name, "fingerprint": known}
    place = tokenizer or name
    assert place is not None
    words = read_tokenizer(
        find_checkpoint(
            place, pretrained=pretrained, revision=revision, where="model.llm.tokenizer"
        )
    )
    size = net.get_input_embeddings().weight.shape[0]
    if len(words) > size:
        raise CheckpointError(f"{place}: a tokenizer of {len(words)} ids for a model of {size}")
    model = LanguageModel(net, words, lora=adapters, grad_checkpointing=grad_checkpointing)
    model.source = source
    return model


def _from_config(config: Any, dtype: str, attention: str) -> Any:
    auto: Any = AutoModelForCausalLM
    try:
        net = auto.from_config(config, attn_implementation=attention)
    except ValueError as error:
        raise RecipeError(f"model.llm.config: {str(error).splitlines()[0]}") from None
    return net.to(getattr(torch, dtype))


def _load(location: str, revision: str | None, dtype: str, attention: str) -> Any:
    auto: Any = AutoModelForCausalLM
    try:
        net = auto.from_pretrained(
            location,
            revision=revision,
            dtype=getattr(torch, dtype),
            attn_implementation=attention,
            trust_remote_code=False,
        )
    except Exception as error:  # missing shards, damaged files, no causal language model, no memory
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CheckpointError(f"{location}: not loadable as a language model: {reason}") from None
    return net


def trained_names(module: nn.Module) -> list[str]:
    """Return the names of the parameters that train."""
    return [name for name, parameter in module.named_parameters() if parameter.requires_grad]
