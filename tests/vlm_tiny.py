"""Tiny vision-language models of the real classes: random weights, processors, chat templates.

Each function writes a folder as ``save_pretrained`` does; pictures become four to sixteen tokens.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from faceaffect.data.batch import FaceBatch
from faceaffect.instructions.items import KINDS, Labels, template_turns
from faceaffect.models.emo_llama.tokenizer import build_tokenizer
from faceaffect.models.vlm.chat import Prompt
from faceaffect.models.vlm.module import Vlm
from faceaffect.schema import LabelSchema

SCHEMA = LabelSchema((1, 4, 12), ("anger", "happiness", "neutral"), True)
LORA = {"r": 4, "alpha": 8.0, "dropout": 0.0}
VISION = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
          "num_attention_heads": 2, "image_size": 28, "patch_size": 7}  # fmt: skip
TEXT = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.1,
        "max_position_embeddings": 2048}  # fmt: skip
SIZE = {"height": 28, "width": 28}
HALF = [0.5, 0.5, 0.5]

# Chat templates in the form of those that the families come with, written anew.
LLAVA = (
    "{% for m in messages %}{{ m.role|upper }}: {% for c in m.content if c.type == 'image' %}"
    "<image>\n{% endfor %}{% for c in m.content if c.type == 'text' %}{{ c.text }}{% endfor %}"
    "{{ '</s>' if m.role == 'assistant' else ' ' }}{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT: {% endif %}"
)


def chatml(media: dict[str, str], system: str = "") -> str:
    """Return a template of ``<|im_start|>role`` blocks; ``media``: what stands for each kind."""
    kinds = "".join(
        f"{{% {'if' if n == 0 else 'elif'} c.type == '{kind}' %}}{text}"
        for n, (kind, text) in enumerate(media.items())
    )
    return (
        f"{{% if messages[0].role != 'system' %}}{system}{{% endif %}}"
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{% for c in m.content %}"
        f"{kinds}{{% else %}}{{{{ c.text }}}}{{% endif %}}{{% endfor %}}<|im_end|>\n{{% endfor %}}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )


IDEFICS = (
    "<|im_start|>{% for m in messages %}{{ m.role|capitalize }}:{% for c in m.content %}"
    "{% if c.type == 'image' %}<image>{% elif c.type == 'video' %}<video>{% else %} {{ c.text }}"
    "{% endif %}{% endfor %}<end_of_utterance>\n{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% endif %}"
)
GEMMA = (
    "<s>{% for m in messages %}<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n"
    "{% for c in m.content %}{% if c.type == 'image' %}<start_of_image>{% else %}{{ c.text }}"
    "{% endif %}{% endfor %}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)


def texts(schema: LabelSchema = SCHEMA) -> list[str]:
    """Return questions and answers as the templates write them."""
    found = []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        name = schema.expressions[seed % len(schema.expressions)]
        labels = Labels(name, {au: bool(rng.integers(2)) for au in schema.aus}, (0.5, -0.25))
        for kind in KINDS:
            for question, answer in template_turns(labels, schema, kind, rng):
                found.append(f"USER: \n{question} ASSISTANT: {answer}")
        found += [f"ASSISTANT: AU{au}: yes AU{au}: no" for au in schema.aus]
    return found


def tokenizer(special: list[str], **named: str) -> PreTrainedTokenizerFast:
    """Return a tokenizer with special tokens, some of them under a name."""
    words = build_tokenizer(texts(), 500)
    words.add_special_tokens({"additional_special_tokens": [*special, *named.values()]})
    for name, token in named.items():
        setattr(words, name, token)
        words.init_kwargs[name] = token
    if named:
        words._set_model_specific_special_tokens(named)
    return words


def _write(folder: Path, model: Any, processor: Any) -> Path:
    model.eval().save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def _clip(**more: Any) -> Any:
    size = {"shortest_edge": 28}
    return transformers.CLIPImageProcessor(size=size, crop_size=SIZE, **more)


def llava(folder: Path) -> Path:
    words = tokenizer([], image_token="<image>")
    config = transformers.LlavaConfig(
        vision_config={"model_type": "clip_vision_model", **VISION},
        text_config={"model_type": "llama", **TEXT, "vocab_size": len(words)},
        image_token_id=words.convert_tokens_to_ids("<image>"),
    )
    torch.manual_seed(0)
    model = transformers.LlavaForConditionalGeneration(config)
    processor = transformers.LlavaProcessor(
        _clip(), words, patch_size=7, vision_feature_select_strategy="default",
        num_additional_image_tokens=1, chat_template=LLAVA,
    )  # fmt: skip
    return _write(folder, model, processor)


def llava_onevision(folder: Path) -> Path:
    words = tokenizer(["<|im_start|>", "<|im_end|>"], image_token="<image>", video_token="<video>")
    ids = words.convert_tokens_to_ids
    config = transformers.LlavaOnevisionConfig(
        vision_config={"model_type": "siglip_vision_model", **VISION},
        text_config={"model_type": "qwen2", **TEXT, "vocab_size": len(words)},
        image_token_id=ids("<image>"), video_token_id=ids("<video>"),
        image_grid_pinpoints=[[28, 28], [28, 56], [56, 28]],
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.LlavaOnevisionForConditionalGeneration(config)
    processor = transformers.LlavaOnevisionProcessor(
        transformers.LlavaOnevisionImageProcessor(
            size=SIZE, image_grid_pinpoints=config.image_grid_pinpoints
        ),
        words,
        transformers.LlavaOnevisionVideoProcessor(size=SIZE),
        num_image_tokens=16,
        vision_feature_select_strategy="full",
        chat_template=chatml({"image": "<image>\n", "video": "<video>\n"}),
    )
    return _write(folder, model, processor)


_QWEN = {"image": "<|vision_start|><|image_pad|><|vision_end|>",
         "video": "<|vision_start|><|video_pad|><|vision_end|>"}  # fmt: skip


def _qwen_tokens() -> PreTrainedTokenizerFast:
    special = ["<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>"]
    return tokenizer(special, image_token="<|image_pad|>", video_token="<|video_pad|>")


def _qwen_ids(words: PreTrainedTokenizerFast) -> dict[str, int]:
    names = {"image_token_id": "<|image_pad|>", "video_token_id": "<|video_pad|>",
             "vision_start_token_id": "<|vision_start|>",
             "vision_end_token_id": "<|vision_end|>"}  # fmt: skip
    return {key: words.convert_tokens_to_ids(token) for key, token in names.items()}


def qwen2_5_vl(folder: Path) -> Path:
    words = _qwen_tokens()
    rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}
    config = transformers.Qwen2_5_VLConfig(
        text_config={**TEXT, "vocab_size": len(words), "rope_parameters": rope},
        vision_config={"hidden_size": 16, "intermediate_size": 24, "depth": 2, "num_heads": 2,
                       "out_hidden_size": 32, "patch_size": 7, "spatial_merge_size": 2,
                       "window_size": 28, "fullatt_block_indexes": [1], "temporal_patch_size": 2},
        **_qwen_ids(words),
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.Qwen2_5_VLForConditionalGeneration(config)
    sizes = {"patch_size": 7, "merge_size": 2, "temporal_patch_size": 2,
             "size": {"shortest_edge": 28 * 28, "longest_edge": 56 * 56}}  # fmt: skip
    processor = transformers.Qwen2_5_VLProcessor(
        transformers.Qwen2VLImageProcessor(**sizes), words,
        transformers.Qwen2VLVideoProcessor(**sizes), chat_template=chatml(_QWEN),
    )  # fmt: skip
    return _write(folder, model, processor)


def qwen3_vl(folder: Path) -> Path:
    words = _qwen_tokens()
    rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0,
            "mrope_interleaved": True}  # fmt: skip
    config = transformers.Qwen3VLConfig(
        text_config={**TEXT, "vocab_size": len(words), "rope_parameters": rope, "head_dim": 8},
        vision_config={"hidden_size": 16, "intermediate_size": 24, "depth": 2, "num_heads": 2,
                       "out_hidden_size": 32, "patch_size": 7, "spatial_merge_size": 2,
                       "temporal_patch_size": 2, "num_position_embeddings": 64,
                       "deepstack_visual_indexes": [0]},
        **_qwen_ids(words),
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.Qwen3VLForConditionalGeneration(config)
    sizes = {"patch_size": 7, "merge_size": 2, "temporal_patch_size": 2,
             "size": {"shortest_edge": 28 * 28, "longest_edge": 56 * 56}}  # fmt: skip
    processor = transformers.Qwen3VLProcessor(
        transformers.Qwen2VLImageProcessor(**sizes, image_mean=HALF, image_std=HALF), words,
        transformers.Qwen3VLVideoProcessor(**sizes), chat_template=chatml(_QWEN),
    )  # fmt: skip
    return _write(folder, model, processor)


def smolvlm(folder: Path) -> Path:
    rows = [f"<row_{i}_col_{j}>" for i in range(1, 7) for j in range(1, 7)]
    words = tokenizer(
        ["<|im_start|>", *rows], image_token="<image>", video_token="<video>",
        fake_image_token="<fake_token_around_image>", global_image_token="<global-img>",
        end_of_utterance_token="<end_of_utterance>",
    )  # fmt: skip
    config = transformers.SmolVLMConfig(
        vision_config=VISION,
        text_config={"model_type": "llama", **TEXT, "vocab_size": len(words)},
        image_token_id=words.convert_tokens_to_ids("<image>"), scale_factor=2,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.SmolVLMForConditionalGeneration(config)
    sizes = {"size": {"longest_edge": 28}, "max_image_size": {"longest_edge": 28}}
    video = {"video_sampling": {"fps": 1, "max_frames": 8, "video_size": {"longest_edge": 28}}}
    processor = transformers.SmolVLMProcessor(
        transformers.SmolVLMImageProcessor(**sizes), words,
        transformers.SmolVLMVideoProcessor(**sizes, **video),
        image_seq_len=4, chat_template=IDEFICS,
    )  # fmt: skip
    return _write(folder, model, processor)


def idefics3(folder: Path) -> Path:
    rows = [f"<row_{i}_col_{j}>" for i in range(1, 7) for j in range(1, 7)]
    words = tokenizer(["<|im_start|>", *rows, "<global-img>", "<image>",
                       "<fake_token_around_image>", "<end_of_utterance>"])  # fmt: skip
    config = transformers.Idefics3Config(
        vision_config=VISION,
        text_config={"model_type": "llama", **TEXT, "vocab_size": len(words)},
        image_token_id=words.convert_tokens_to_ids("<image>"), scale_factor=2,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.Idefics3ForConditionalGeneration(config)
    sizes = {"size": {"longest_edge": 28}, "max_image_size": {"longest_edge": 28}}
    processor = transformers.Idefics3Processor(
        transformers.Idefics3ImageProcessor(**sizes), words, image_seq_len=4,
        chat_template=IDEFICS,
    )  # fmt: skip
    return _write(folder, model, processor)


def internvl(folder: Path) -> Path:
    words = tokenizer(
        ["<|im_start|>", "<|im_end|>"], start_image_token="<img>", end_image_token="</img>",
        context_image_token="<IMG_CONTEXT>", video_token="<video>",
    )  # fmt: skip
    vision = VISION | {"image_size": [28, 28], "patch_size": [7, 7]}
    config = transformers.InternVLConfig(
        vision_config={"model_type": "internvl_vision", **vision},
        text_config={"model_type": "qwen2", **TEXT, "vocab_size": len(words)},
        image_token_id=words.convert_tokens_to_ids("<IMG_CONTEXT>"), image_seq_length=4,
        downsample_ratio=0.5,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.InternVLForConditionalGeneration(config)
    processor = transformers.InternVLProcessor(
        transformers.GotOcr2ImageProcessor(size=SIZE, crop_to_patches=False), words,
        transformers.InternVLVideoProcessor(size=SIZE), image_seq_length=4,
        chat_template=chatml({"image": "<IMG_CONTEXT>\n", "video": "<video>\n"}),
    )  # fmt: skip
    return _write(folder, model, processor)


def gemma3(folder: Path) -> Path:
    words = tokenizer(
        ["<start_of_turn>", "<end_of_turn>"], boi_token="<start_of_image>",
        eoi_token="<end_of_image>", image_token="<image_soft_token>",
    )  # fmt: skip
    ids = words.convert_tokens_to_ids
    kinds = ["sliding_attention", "full_attention"] * (TEXT["num_hidden_layers"] // 2)
    config = transformers.Gemma3Config(
        vision_config=VISION,
        text_config={**TEXT, "vocab_size": len(words), "head_dim": 8, "sliding_window": 512,
                     "layer_types": kinds,
                     "query_pre_attn_scalar": 8},
        image_token_id=ids("<image_soft_token>"), boi_token_id=ids("<start_of_image>"),
        eoi_token_id=ids("<end_of_image>"), mm_tokens_per_image=4,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.Gemma3ForConditionalGeneration(config)
    torch.nn.init.normal_(model.model.multi_modal_projector.mm_input_projection_weight)
    processor = transformers.Gemma3Processor(
        transformers.Gemma3ImageProcessor(size=SIZE), words, image_seq_length=4,
        chat_template=GEMMA,
    )  # fmt: skip
    return _write(folder, model, processor)


def paligemma(folder: Path) -> Path:
    words = tokenizer([], image_token="<image>")
    image_processor = transformers.SiglipImageProcessor(size=SIZE)
    image_processor.image_seq_length = 16
    processor = transformers.PaliGemmaProcessor(image_processor, words)
    config = transformers.PaliGemmaConfig(
        vision_config={"model_type": "siglip_vision_model", **VISION, "projection_dim": 32},
        text_config={"model_type": "gemma", **TEXT, "vocab_size": len(words), "head_dim": 8},
        image_token_id=words.convert_tokens_to_ids("<image>"), projection_dim=32,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.PaliGemmaForConditionalGeneration(config)
    return _write(folder, model, processor)


def instructblip(folder: Path) -> Path:
    words = tokenizer(["<image>"])
    known = sorted({w.lower() for text in texts() for w in text.replace(".", " ").split()})
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *known]
    (folder / "vocab.txt").write_text("\n".join(vocabulary), encoding="utf-8")
    config = transformers.InstructBlipConfig(
        vision_config=VISION | {"initializer_range": 0.2},
        qformer_config={"vocab_size": len(vocabulary), "hidden_size": 16, "intermediate_size": 24,
                        "num_hidden_layers": 2, "num_attention_heads": 2,
                        "encoder_hidden_size": 16, "initializer_range": 0.2},
        text_config={"model_type": "llama", **TEXT, "vocab_size": len(words)},
        num_query_tokens=4, image_token_index=words.convert_tokens_to_ids("<image>"),
        initializer_range=0.1,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.InstructBlipForConditionalGeneration(config)
    processor = transformers.InstructBlipProcessor(
        transformers.BlipImageProcessor(size=SIZE), words,
        transformers.BertTokenizer(str(folder / "vocab.txt")), num_query_tokens=4,
    )  # fmt: skip
    return _write(folder, model, processor)


FAMILIES: dict[str, Callable[[Path], Path]] = {
    f.__name__: f for f in (llava, llava_onevision, qwen2_5_vl, qwen3_vl, smolvlm, idefics3,
                            internvl, gemma3, paligemma, instructblip)}  # fmt: skip
VIDEO = {"llava_onevision", "qwen2_5_vl", "qwen3_vl", "smolvlm", "internvl"}
"""Those that know videos."""


def batch_of(n: int, *, frames: int = 0, seed: int = 0, schema: LabelSchema = SCHEMA) -> FaceBatch:
    """Return random labelled faces, as clips of up to ``frames`` frames if any."""
    rng = torch.Generator().manual_seed(seed)
    shape = (n, frames, 3, 28, 28) if frames else (n, 1, 3, 28, 28)
    batch = FaceBatch(id=[f"{seed}/{i}" for i in range(n)], subject=[str(i) for i in range(n)])
    batch["video"] = torch.randint(1, 256, shape, generator=rng, dtype=torch.uint8)
    lengths = 1 + torch.arange(n) % max(frames, 1)
    batch["frame_mask"] = torch.arange(max(frames, 1)) < lengths[:, None]
    batch["au"] = torch.randint(0, 2, (n, len(schema.aus)), generator=rng).float()
    batch["expression"] = torch.randint(0, len(schema.expressions), (n,), generator=rng)
    batch["va"] = torch.rand(n, 2, generator=rng) * 2 - 1
    return batch


def make(folder: str | Path, schema: LabelSchema = SCHEMA, **changes: Any) -> Vlm:
    torch.manual_seed(0)
    return Vlm(schema, **{"checkpoint": str(folder), "lora": LORA} | changes)


def prompts_of(model: Vlm, batch: Any, task: str) -> list[Prompt]:
    asker = model.asker(batch)
    return [p for sample in range(len(batch["id"])) for p in asker.score(sample, task)]


def plainly(model: Vlm, prompt: Prompt) -> list[float]:
    """Return the log-likelihood of each option by a plain forward of its own, without padding."""
    llm = model.llm
    text = model.chat.text(prompt)
    given: dict[str, Any] = {}
    if any(len(clip) > 1 for clip in prompt.media) and model.chat.videos:
        count = len(prompt.media[0])
        about = {"fps": 8.0, "total_num_frames": count, "frames_indices": list(range(count))}
        given = {"videos": [*prompt.media], "video_metadata": [about], "do_sample_frames": False}
    else:
        given = {"images": [[frame for clip in prompt.media for frame in clip]]}
    special = not text.startswith(llm.tokenizer.bos_token)
    inputs = llm.processor(text=[text], return_tensors="pt", add_special_tokens=special, **given)
    inputs.pop("labels", None)
    ids, found = inputs["input_ids"], []
    for branch in prompt.branches:
        more = torch.tensor([[i for part in branch for i in part.ids]])
        own = {k: v for k, v in inputs.items() if isinstance(v, Tensor)}
        for key in ("mm_token_type_ids", "token_type_ids"):
            if key in own:
                kind = 1 if llm.model_type == "paligemma" else 0
                own[key] = torch.cat([own[key], torch.full_like(more, kind)], 1)
        own["input_ids"] = torch.cat([ids, more], 1)
        own["attention_mask"] = torch.ones_like(own["input_ids"])
        logits = llm.net(**own).logits[0].log_softmax(-1)
        at, total = ids.shape[1], 0.0
        for part in branch:
            for i in part.ids:
                total += float(logits[at - 1, i]) if part.said else 0.0
                at += 1
        found.append(total)
    return found
