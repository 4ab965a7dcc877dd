"""Image-text models and their processors, from folders and the hub, running no code of theirs."""

import importlib.util
import re
from dataclasses import replace
from typing import Any, Literal

import torch
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    BitsAndBytesConfig,
    PreTrainedConfig,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

from faceaffect.errors import CheckpointError, RecipeError, first_line, needs_extra
from faceaffect.hardware import choose_dtype
from faceaffect.models.emo_llama.checkpoint import Checkpoint, find_checkpoint, read_config
from faceaffect.networks.weights import fingerprint

Dtype = Literal["auto", "float32", "bfloat16", "float16"]
Attention = Literal["sdpa", "eager", "flash_attention_2"]


def load(
    name: str,
    *,
    pretrained: bool,
    revision: str | None,
    dtype: Dtype,
    attention: Attention,
    four_bit: bool,
) -> tuple[Any, Any, dict[str, Any]]:
    """Return an image-text model, its processor, and what names its weights.

    Args:
        name: ``asset:NAME``, a folder that ``save_pretrained`` wrote, or owner/model on the hub.
        pretrained: the hub may be asked.
        revision: branch, tag or commit on the hub.
        dtype: of the weights.
        attention: kind of attention.
        four_bit: load the weights in 4 bits through bitsandbytes.

    Raises:
        RecipeError: the hub may not be asked, or settings do not fit.
        CheckpointError: it is no image-text model, needs code of its own, or is damaged.
    """
    found = find(name, pretrained=pretrained, revision=revision)
    config = _image_text_config(found)
    processor = read_processor(found)
    more: dict[str, Any] = {"dtype": "auto"}
    if four_bit:
        more = {"quantization_config": _four_bits(dtype)}
    net = _load(found, config, attention, more)
    known = fingerprint(net.state_dict())  # as stored: the same on every machine
    if not four_bit:
        net = net.to(choose_dtype(dtype, "model.dtype"))
    pinned = f"{found.name}@{found.revision}" if found.kind == "hub" else found.name
    return net, processor, {"kind": found.kind, "name": pinned, "fingerprint": known}


def find(name: str, *, pretrained: bool, revision: str | None) -> Checkpoint:
    """Return where an image-text model lies, on the hub its commit; see :func:`load`."""
    if revision is not None and not pretrained:
        raise RecipeError("model.revision: is about the hub and needs pretrained: true")
    return _pinned(
        find_checkpoint(name, pretrained=pretrained, revision=revision, where="model.checkpoint")
    )


def _pinned(found: Checkpoint) -> Checkpoint:
    """Return the commit of the hub that a branch, a tag or nothing stands for now.

    Model and processor are then of one commit, and the result can name it.
    """
    if found.kind != "hub":
        return found
    folder = found.file(("config.json",)).parent.name  # of the hub's cache: a commit
    return replace(
        found, revision=folder if re.fullmatch("[0-9a-f]{40}", folder) else found.revision
    )


def read_processor(found: Checkpoint) -> Any:
    """Return the processor of a checkpoint: of pictures and of text.

    Raises:
        CheckpointError: there is none, it needs code of its own, or knows no token of pictures.
    """
    auto: Any = AutoProcessor
    try:
        processor: Any = auto.from_pretrained(
            found.location, revision=found.revision, trust_remote_code=False
        )
    except ImportError as error:
        raise CheckpointError(f"{found.location}: its processor {first_line(error)}") from None
    except Exception as error:  # anything from a missing file to a Rust panic
        reason = first_line(error)
        raise CheckpointError(f"{found.location}: no readable processor: {reason}") from None
    if not (hasattr(processor, "image_processor") and hasattr(processor, "tokenizer")):
        kind = type(processor).__name__
        raise CheckpointError(
            f"{found.location}: its processor is a {kind}, which takes no pictures beside text; "
            "are preprocessor_config.json and the tokenizer's files there?"
        )
    if getattr(processor, "image_token", None) is None:
        raise CheckpointError(
            f"{found.location}: its {type(processor).__name__} has no image token, so that no "
            "prompt can say where a picture stands"
        )
    if processor.tokenizer.eos_token_id is None:
        raise CheckpointError(
            f"{found.location}: its tokenizer has no end token (eos_token), so no answer would end"
        )
    return processor


def _image_text_config(found: Checkpoint) -> PreTrainedConfig:
    config = read_config(found)
    kind = config.model_type
    if kind not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
        raise CheckpointError(
            f"{found.location}: a model of type '{kind}', which transformers does not open as an "
            "image-text model; give one such as LLaVA, Qwen3-VL, SmolVLM2, InternVL-hf or Gemma 3"
        )
    if getattr(config, "is_encoder_decoder", False) or _encodes_text(config):
        raise CheckpointError(
            f"{found.location}: an encoder-decoder; answers are scored behind a prompt, which "
            "needs a language model that only decodes"
        )
    return config


def _encodes_text(config: Any) -> bool:
    return bool(getattr(config.get_text_config(), "is_encoder_decoder", False))


def _load(found: Checkpoint, config: Any, attention: str, more: dict[str, Any]) -> Any:
    auto: Any = AutoModelForImageTextToText
    try:
        net, about = auto.from_pretrained(
            found.location,
            revision=found.revision,
            attn_implementation=attention,
            trust_remote_code=False,
            output_loading_info=True,
            **more,
        )
    except Exception as error:  # missing shards, damaged files, no memory
        reason = first_line(error)
        if "scaled_dot_product_attention" in str(error):
            reason = f"{config.model_type} has no fused attention; say model.attention: eager"
        raise CheckpointError(
            f"{found.location}: not loadable as an image-text model: {reason}"
        ) from None
    missing = sorted(about.get("missing_keys") or ())
    if missing:
        shown = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
        raise CheckpointError(
            f"{found.location}: lacks {len(missing)} weights of {type(net).__name__}: {shown}"
        )
    return net


def _four_bits(dtype: Dtype) -> Any:
    if importlib.util.find_spec("bitsandbytes") is None:
        raise RecipeError(needs_extra("model.four_bit", "bitsandbytes", "quantized"))
    if not torch.cuda.is_available():
        raise RecipeError("model.four_bit: needs a CUDA device; say false here")
    kind = choose_dtype("auto" if dtype == "float32" else dtype, "model.dtype")
    config: Any = BitsAndBytesConfig
    return config(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=kind)
