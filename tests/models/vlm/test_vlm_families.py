"""What every family owes: the same answers as plain transformers gives, from pictures and clips."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from torch import Tensor

import vlm_tiny as tiny
from faceaffect.errors import RecipeError
from faceaffect.models.vlm.chat import Prompt
from faceaffect.models.vlm.module import Vlm


@pytest.fixture
def model(folder: Path) -> Vlm:
    model = tiny.make(folder, dtype="float32")
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:  # as if trained
            parameter.data = torch.randn(parameter.shape, generator=generator) / 10
    return model.eval()


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


@torch.no_grad()
def test_scores_are_those_of_plain_full_forwards(model: Vlm) -> None:
    batch = tiny.batch_of(2)
    for task in tiny.SCHEMA.tasks:
        prompts = prompts_of(model, batch, task)
        scores = model.llm.scores(prompts, model.chat)
        plain = torch.tensor([plainly(model, prompt) for prompt in prompts])
        torch.testing.assert_close(scores, plain, rtol=0, atol=1e-4)
        assert not torch.allclose(scores[0], scores[1], atol=1e-5)  # the picture counts
        model.llm.shares = False
        alone = model.llm.scores(prompts, model.chat)
        model.llm.shares = True
        torch.testing.assert_close(alone, plain, rtol=0, atol=1e-4)


@torch.no_grad()
def test_clips_are_videos_or_several_pictures(model: Vlm, family: str) -> None:
    clips = tiny.batch_of(2, frames=2)
    clips["frame_mask"][:] = True
    if family == "instructblip":
        with pytest.raises(RecipeError, match="takes one picture"):
            model.predict(clips)
        return
    assert model.chat.videos == (family in tiny.VIDEO)
    prompts = prompts_of(model, clips, "expression")
    scores = model.llm.scores(prompts, model.chat)
    plain = torch.tensor([plainly(model, prompt) for prompt in prompts])
    torch.testing.assert_close(scores, plain, rtol=0, atol=1e-4)
    mixed = tiny.batch_of(3, frames=4)  # of one, two and three frames
    for task, value in model.predict(mixed).items():
        for row in range(3):
            one: Any = {k: v[row : row + 1] for k, v in mixed.items()}
            torch.testing.assert_close(model.predict(one)[task], value[row : row + 1])


@torch.no_grad()
def test_batches_and_padding_change_nothing(model: Vlm) -> None:
    batch = tiny.batch_of(3)
    together = model.predict(batch)
    for row in range(3):
        one: Any = {key: value[row : row + 1] for key, value in batch.items()}
        for task, value in model.predict(one).items():
            torch.testing.assert_close(value, together[task][row : row + 1], rtol=0, atol=1e-4)


def test_the_loss_is_that_of_plain_forwards_and_trains_the_language_part(
    model: Vlm, family: str
) -> None:
    batch = tiny.batch_of(2)
    prompts = model.lessons.of(batch, model.asker(batch), np.random.default_rng(0))
    assert {len(p.branches) for p in prompts} > {1}
    losses = model.llm.losses(prompts, model.chat)
    model.llm.shares = False
    torch.testing.assert_close(losses, model.llm.losses(prompts, model.chat), rtol=0, atol=1e-4)
    model.llm.shares = True
    losses.mean().backward()
    trained = {name for name, p in model.named_parameters() if p.grad is not None}
    assert trained
    assert all("lora_" in name for name in trained)
    decoder = model.llm.decoder_name
    assert all(f".{decoder}." in name for name in trained), decoder
    adapted = model.llm.net
    assert isinstance(adapted, PeftModel)
    layers = [p for n, p in model.llm.decoder.named_modules() if n.endswith("base_layer")]
    assert len(layers) == 14  # of two blocks


@torch.no_grad()
def test_generation_is_that_of_transformers(model: Vlm) -> None:
    batch = tiny.batch_of(2)
    model.max_new_tokens = 5
    said = model.describe(batch, "What is on this face?")
    asker = model.asker(batch)
    for row, text in enumerate(said):
        prompt = asker.ask(row, "What is on this face?")
        words = model.chat.text(prompt)
        special = not words.startswith(model.llm.tokenizer.bos_token)
        inputs = model.llm.processor(
            text=[words], images=[list(prompt.media[0])], return_tensors="pt",
            add_special_tokens=special,
        )  # fmt: skip
        inputs.pop("labels", None)
        ends = [model.chat.end, model.llm.tokenizer.eos_token_id]
        ids = model.llm.net.generate(
            **inputs, max_new_tokens=5, do_sample=False, eos_token_id=ends, pad_token_id=ends[0]
        )[0]
        answer = ids[inputs["input_ids"].shape[1] :].tolist()
        plain = [i for i in answer if i not in ends]
        assert text == model.llm.tokenizer.decode(plain, skip_special_tokens=True).strip()
