"""A stand-in for vLLM 0.33: the part of its interface that is documented, answered by transformers.

It takes what vLLM takes and refuses what vLLM has no name for; each prompt is run by itself.
"""

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import torch
from peft import PeftModel
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

_ENGINE = {"revision", "tokenizer_revision", "dtype", "trust_remote_code", "generation_config",
           "gpu_memory_utilization", "tensor_parallel_size", "max_model_len", "quantization",
           "enforce_eager", "enable_lora", "max_lora_rank", "mm_processor_kwargs", "seed",
           "limit_mm_per_prompt", "enable_prefix_caching", "model_impl"}  # fmt: skip
RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)

started: list["LLM"] = []


@dataclass
class SamplingParams:
    n: int = 1
    repetition_penalty: float = 1.0
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None
    stop_token_ids: list[int] = field(default_factory=list)
    max_tokens: int | None = 16
    logprobs: int | None = None
    detokenize: bool = True
    skip_special_tokens: bool = True


class LLM:
    def __init__(self, model: str, **engine: Any) -> None:
        unknown = set(engine) - _ENGINE
        if unknown:
            raise TypeError(f"EngineArgs got an unexpected keyword argument '{min(unknown)}'")
        if engine.get("enable_lora") and engine["max_lora_rank"] not in RANKS:
            raise ValueError(f"max_lora_rank: {engine['max_lora_rank']}")
        if engine.get("model_impl", "auto") not in ("auto", "vllm", "transformers"):
            raise ValueError(f"model_impl: {engine['model_impl']}")
        self.engine, self.asked, self.loras = engine, [], []
        dtype = getattr(torch, engine["dtype"])
        auto: Any = AutoModelForImageTextToText
        self.net = auto.from_pretrained(model, dtype=dtype).eval()
        self.processor: Any = AutoProcessor.from_pretrained(model)
        started.append(self)

    def generate(
        self,
        prompts: Any,
        sampling_params: SamplingParams | None = None,
        *,
        use_tqdm: bool = True,
        lora_request: Any = None,
        priority: Any = None,
        tokenization_kwargs: dict[str, Any] | None = None,
        mm_processor_kwargs: dict[str, Any] | None = None,
    ) -> list[Any]:
        assert sampling_params is not None
        assert sampling_params.temperature == 0.0
        self.loras.append(lora_request)
        return [self._one(prompt, sampling_params, lora_request, tokenization_kwargs or {})
                for prompt in prompts]  # fmt: skip

    def length(self, prompt: Any) -> int:
        """Return the tokens of a prompt, for tests."""
        return int(self._inputs(prompt, {})["input_ids"].shape[1])

    @torch.no_grad()
    def _one(self, prompt: Any, params: SamplingParams, lora: Any, words: dict[str, Any]) -> Any:
        assert set(prompt) <= {"prompt", "multi_modal_data"}
        self.asked.append(prompt)
        net = self.net
        if lora is not None:
            assert self.engine["enable_lora"]
            net = PeftModel.from_pretrained(net, lora.lora_path).eval()
        inputs = self._inputs(prompt, words)
        asked = inputs["input_ids"].shape[1]
        room = self.engine.get("max_model_len") or net.config.text_config.max_position_embeddings
        if asked > room:
            raise ValueError(f"The prompt (length {asked}) is longer than the maximum model length")
        ids = net.generate(
            **inputs, max_new_tokens=min(params.max_tokens or room, room - asked), do_sample=False,
            eos_token_id=params.stop_token_ids, pad_token_id=params.stop_token_ids[0],
        )[0, asked:].tolist()  # fmt: skip
        if lora is not None:
            net.unload()
        ended = bool(ids) and ids[-1] in params.stop_token_ids
        answer = SimpleNamespace(
            token_ids=ids, text="", finish_reason="stop" if ended else "length"
        )
        return SimpleNamespace(outputs=[answer], prompt_token_ids=inputs["input_ids"][0].tolist())

    def _inputs(self, prompt: Any, words: dict[str, Any]) -> Any:
        given: dict[str, Any] = dict(words) | (self.engine.get("mm_processor_kwargs") or {})
        data = prompt.get("multi_modal_data", {})
        assert set(data) <= {"image", "video"}
        text = prompt["prompt"]
        if "image" in data:
            assert all(isinstance(picture, Image.Image) for picture in data["image"])
            given["images"] = [data["image"]]
            if self.net.config.model_type == "paligemma":  # vLLM puts them in front itself
                assert self.processor.image_token not in text
                text = self.processor.image_token * len(data["image"]) + text
        if "video" in data:
            about = [{k: v for k, v in one.items() if k != "do_sample_frames"}
                     for _, one in data["video"]]  # fmt: skip
            assert all(one["do_sample_frames"] is False for _, one in data["video"])
            given |= {"videos": [frames for frames, _ in data["video"]], "video_metadata": about,
                      "do_sample_frames": False}  # fmt: skip
        made = self.processor(text=[text], return_tensors="pt", **given)
        made.pop("labels", None)
        return made
