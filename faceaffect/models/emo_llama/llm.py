"""The language model: any causal one of transformers, frozen, with LoRA through peft."""

import inspect
import warnings
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import torch
import torch.nn.functional as F
from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from peft.tuners.lora import Linear as LoraLinear
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase
from transformers.modeling_layers import GradientCheckpointingLayer

from faceaffect.components import Options
from faceaffect.errors import CheckpointError, RecipeError
from faceaffect.hardware import choose_dtype
from faceaffect.models.emo_llama.checkpoint import (
    find_checkpoint,
    make_config,
    read_config,
    read_tokenizer,
)
from faceaffect.networks.weights import Freezable, fingerprint


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
        sharded: whether several processes share out the frozen weights; then all have to call the
            model equally often.

    Raises:
        RecipeError: the adapters do not fit the model.
        CheckpointError: the tokenizer has no end token, or the model is no transformer whose
            answers can share a prompt.
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
        _check_kind(net)
        self.net = net
        # transformers renamed the argument, and the field of its output, in 5.24.
        names = inspect.signature(net.forward).parameters
        self._cache = "cache" if "cache" in names else "past_key_values"
        self._window = _window(net.config)
        self.sharded = False
        self.width: int = net.get_input_embeddings().weight.shape[1]
        self.grad_checkpointing = grad_checkpointing
        if (
            grad_checkpointing
        ):  # the method's name in transformers from 5.24 on, else the one before
            enable = getattr(net, "activation_checkpointing_enable", None)
            (enable or net.gradient_checkpointing_enable)({"use_reentrant": False})
        if frozen:
            self.freeze()
        if lora is not None:
            self.net = _adapted(net, lora.config())
            net.register_forward_pre_hook(_cast_once)
            for module in net.modules():
                if isinstance(module, LoraLinear) and _pays_composed(module):
                    module.forward = partial(_composed, module)
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

    def forward(
        self,
        embeddings: Tensor,
        mask: Tensor,
        positions: Tensor,
        *,
        logits_to_keep: Tensor | int = 0,
        cache: Any = None,
        keep: bool = False,
    ) -> Any:
        """Run the model on embeddings.

        Args:
            embeddings: (B, L, D).
            mask: (B, L) of known positions, or (B, 1, L, L') added to the attention scores.
            positions: (B, L).
            logits_to_keep: columns whose logits are wanted, or 0 for all.
            cache: keys and values of what stands before, as :meth:`cache_of` returns them.
            keep: return keys and values for a further call.

        Returns:
            transformers' output with ``logits``.

        Raises:
            RecipeError: the model's attention does not reach as far as the prompt is long.
        """
        self.check_length(mask.shape[-1])
        before = {} if cache is None else {self._cache: cache}
        return self.net(
            inputs_embeds=embeddings,
            attention_mask=mask,
            position_ids=positions,
            logits_to_keep=logits_to_keep,
            use_cache=keep or cache is not None,
            **before,
        )

    def cache_of(self, answer: Any) -> Any:
        """Return the keys and values that a call with ``keep`` has kept."""
        return getattr(answer, self._cache)

    def check_length(self, length: int) -> None:
        """Refuse prompts that not every layer sees as a whole.

        Raises:
            RecipeError: the model has a sliding window, and it is shorter.
        """
        if self._window is not None and length > self._window:
            raise RecipeError(
                f"model.llm: {length} tokens of prompt and answers, but the attention of "
                f"{type(self.base).__name__} reaches {self._window} tokens back. Use fewer frames "
                "(data.frames), fewer visual tokens (model.aggregator.content: mean), or another "
                "model"
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
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "float32",
    attention: Literal["sdpa", "eager"] = "sdpa",
    grad_checkpointing: bool = False,
) -> LanguageModel:
    """Build a language model.

    Args:
        name: ``asset:mini_llama``, a folder written by ``save_pretrained``, or owner/model on the
            hub: a causal language model of transformers. docs/models/emo_llama.md lists the kinds
            that are tested.
        pretrained: the hub may be asked.
        revision: branch, tag or commit on the hub.
        config: in place of a name: ``model_type`` and settings, with random weights.
        tokenizer: a folder, asset or hub name; by default the model's own.
        lora: settings of the adapters; None freezes the whole model.
        dtype: of the frozen weights; ``auto`` takes what the machine computes in hardware.
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
    kind = choose_dtype(dtype, "model.llm.dtype")
    if name is None:
        settings = make_config(config or {}, "model.llm.config")
        if tokenizer is None:
            raise RecipeError("model.llm.tokenizer: a config needs a tokenizer beside it")
        net = _from_config(settings, kind, attention)
        source = None
    else:
        found = find_checkpoint(name, pretrained=pretrained, revision=revision, where=where)
        settings = read_config(found)
        net = _load(found.location, found.revision, attention, settings)
        known = fingerprint(net.state_dict())  # as stored: the same on every machine
        net = net.to(kind)
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


def _from_config(config: Any, dtype: torch.dtype, attention: str) -> Any:
    auto: Any = AutoModelForCausalLM
    try:
        return auto.from_config(config, dtype=dtype, attn_implementation=attention)
    except ValueError as error:
        raise RecipeError(f"model.llm.config: {_reason(error, config)}") from None


def _load(location: str, revision: str | None, attention: str, config: Any) -> Any:
    auto: Any = AutoModelForCausalLM
    try:
        net = auto.from_pretrained(
            location,
            revision=revision,
            dtype="auto",
            attn_implementation=attention,
            trust_remote_code=False,
        )
    except Exception as error:  # missing shards, damaged files, no causal language model, no memory
        reason = _reason(error, config)
        raise CheckpointError(f"{location}: not loadable as a language model: {reason}") from None
    return net


def _reason(error: Exception, config: Any) -> str:
    if "scaled_dot_product_attention" in str(error):
        return (
            f"transformers has no fused attention for {config.model_type}; "
            "say model.llm.attention: eager"
        )
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _check_kind(net: Any) -> None:
    """Refuse models in which answers cannot stand side by side behind one prompt.

    Raises:
        CheckpointError: the model keeps a state in place of keys and values, or takes no positions.
    """
    kinds = set(getattr(net.config, "layer_types", None) or ())
    recurrent = getattr(net, "_is_stateful", False) or "linear_attention" in kinds
    taken = inspect.signature(net.forward).parameters
    missing = {"inputs_embeds", "position_ids", "logits_to_keep"} - set(taken)
    if recurrent or missing:
        why = "is recurrent" if recurrent else f"takes no {', '.join(sorted(missing))}"
        raise CheckpointError(
            f"{type(net).__name__} {why}, so that options cannot be scored behind a shared "
            "prompt; use a transformer such as Llama, Qwen or SmolLM"
        )


def _window(config: Any) -> int | None:
    """Return how far back the layer of the shortest sight attends; None for all the way."""
    kinds = getattr(config, "layer_types", None)
    reach = {"sliding": "sliding_window", "chunked": "attention_chunk_size"}
    spans = [
        getattr(config, key, None)
        for kind, key in reach.items()
        if kinds is None or any(kind in name for name in kinds)
    ]
    return min((span for span in spans if span), default=None)


def _cast_once(net: Any, inputs: Any) -> None:
    """Keep peft from casting inputs to the adapters' float32 where autocast turns it back."""
    cast_inputs = not torch.is_autocast_enabled(net.device.type)
    for module in net.modules():
        if isinstance(module, LoraLayer):
            module.cast_input_dtype_enabled = cast_inputs


def _pays_composed(layer: LoraLinear) -> bool:
    """Whether a layer and its adapter are cheaper as one matrix than one beside the other.

    In training a token costs three products with the composed matrix, else two with the frozen one
    and three with each factor of the adapter.
    """
    size, factors = layer.in_features * layer.out_features, layer.in_features + layer.out_features
    return all(size < 3 * rank * factors for rank in layer.r.values())


def _composed(layer: LoraLinear, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Return ``(W + s B A) x`` where peft computes ``W x + s B (A x)``, which is the same.

    In full precision only: in half precision the sum of the matrices would lose what the adapter
    adds to large weights.
    """
    active = layer.active_adapters
    weight = layer.get_base_layer().weight
    plain = (
        not (args or kwargs or layer.disable_adapters or layer.merged)
        and len(active) == 1
        and active[0] in layer.lora_A
        and isinstance(layer.lora_dropout[active[0]], nn.Identity)
        and weight.dtype == x.dtype == torch.float32
        and not torch.is_autocast_enabled(x.device.type)
    )
    if not plain:
        return cast(Tensor, type(layer).forward(layer, x, *args, **kwargs))
    name = active[0]
    change = layer.lora_B[name].weight @ layer.lora_A[name].weight
    whole = torch.add(weight, change, alpha=layer.scaling[name])
    return F.linear(x, whole, layer.get_base_layer().bias)


def _adapted(net: Any, config: LoraConfig) -> Any:
    with warnings.catch_warnings():
        # peft asks for a property that transformers has renamed.
        warnings.filterwarnings("ignore", ".*is_gradient_checkpointing.*", FutureWarning)
        try:
            return get_peft_model(net, config)
        except ValueError as error:
            raise RecipeError(f"model.llm.lora: {str(error).splitlines()[0]}") from None
