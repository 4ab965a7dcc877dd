"""The language model: any causal one of transformers, frozen, with LoRA through peft."""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Annotated, Any, Literal, cast

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase
from transformers.modeling_layers import GradientCheckpointingLayer

from faceaffect.components import Options
from faceaffect.errors import CheckpointError, RecipeError, first_line
from faceaffect.hardware import choose_dtype
from faceaffect.models.emo_llama.adapters import Adapted, LanguageLoRA, put_adapters
from faceaffect.models.emo_llama.checkpoint import (
    find_checkpoint,
    make_config,
    read_config,
    read_tokenizer,
)
from faceaffect.networks.weights import Freezable, fingerprint


class LanguageModel(Adapted, Freezable):
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
        self._window = window_of(net.config)
        self.sharded = False
        self.width: int = net.get_input_embeddings().weight.shape[1]
        self.grad_checkpointing = grad_checkpointing
        if grad_checkpointing:
            enable_checkpointing(net)
        if frozen:
            self.freeze()
        if lora is not None:
            self.net = put_adapters(net, lora)
        # Under checkpointing the layer runs again later, when nobody tells which columns count.
        mlp = None if grad_checkpointing else _last_mlp(self.base)
        self._last_mlp = None if mlp is None else _OnlyWhere(mlp)
        self.train(self.training)

    @property
    def reader(self) -> PreTrainedTokenizerBase:
        """The tokenizer."""
        return self.tokenizer

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
            let_checkpoint(self.net, mode)
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
        wanted = logits_to_keep if isinstance(logits_to_keep, Tensor) else None
        with nullcontext() if self._last_mlp is None else self._last_mlp.at(wanted):
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


class _OnlyWhere:
    """Has a module that treats each column by itself see only some, and give 0 for the others.

    Args:
        module: from (B, L, D) to (B, L, D').
    """

    def __init__(self, module: nn.Module) -> None:
        self._columns: Tensor | None = None
        self._length = 0
        module.register_forward_pre_hook(self._before)
        module.register_forward_hook(self._after)

    @contextmanager
    def at(self, columns: Tensor | None) -> Iterator[None]:
        """Have it see these columns only, for as long as the context lasts; None for all."""
        self._columns = columns
        try:
            yield
        finally:
            self._columns = None

    def _before(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if self._columns is None:
            return None
        self._length = args[0].shape[1]
        return args[0][:, self._columns], *args[1:]

    def _after(self, module: nn.Module, args: tuple[Any, ...], out: Tensor) -> Tensor | None:
        if self._columns is None:
            return None
        whole = out.new_zeros(len(out), self._length, out.shape[-1])
        return whole.index_copy(1, self._columns, out)


def _last_mlp(net: Any) -> nn.Module | None:
    """Return the MLP of the last layer, behind which no column sees another; None if not known.

    Of a small model it is a third of the work, and most columns are of prompts, whose logits nobody
    wants.
    """
    layers = getattr(net.get_decoder(), "layers", None)
    mlp = getattr(layers[-1], "mlp", None) if layers else None
    return mlp if isinstance(mlp, nn.Module) and not hasattr(mlp, "experts") else None


def enable_checkpointing(net: Any) -> None:
    """Have the layers of a model of transformers spend time to save memory in training."""
    # The method's name in transformers from 5.24 on, else the one before.
    enable = getattr(net, "activation_checkpointing_enable", None)
    (enable or net.gradient_checkpointing_enable)({"use_reentrant": False})


def let_checkpoint(net: nn.Module, mode: bool) -> None:
    """Let checkpointing layers follow the mode; frozen in eval mode they would not checkpoint."""
    for module in net.modules():
        if isinstance(module, GradientCheckpointingLayer):
            module.training = mode


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
    return first_line(error)


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


def window_of(config: Any) -> int | None:
    """Return how far back the layer of the shortest sight attends; None for all the way."""
    kinds = getattr(config, "layer_types", None)
    reach = {"sliding": "sliding_window", "chunked": "attention_chunk_size"}
    spans = [
        getattr(config, key, None)
        for kind, key in reach.items()
        if kinds is None or any(kind in name for name in kinds)
    ]
    return min((span for span in spans if span), default=None)
