"""What every family owes: the same answers as plain transformers gives, from pictures and clips."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel

import vlm_tiny as tiny
from faceaffect.errors import RecipeError
from faceaffect.models.vlm.module import Vlm


@pytest.fixture
def model(folder: Path) -> Vlm:
    model = tiny.make(folder, dtype="float32")
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:  # as if trained
            parameter.data = torch.randn(parameter.shape, generator=generator) / 10
    return model.eval()


@torch.no_grad()
def test_scores_are_those_of_plain_full_forwards(model: Vlm) -> None:
    batch = tiny.batch_of(2)
    for task in tiny.SCHEMA.tasks:
        prompts = tiny.prompts_of(model, batch, task)
        scores = model.llm.scores(prompts, model.chat)
        plain = torch.tensor([tiny.plainly(model, prompt) for prompt in prompts])
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
    prompts = tiny.prompts_of(model, clips, "expression")
    scores = model.llm.scores(prompts, model.chat)
    plain = torch.tensor([tiny.plainly(model, prompt) for prompt in prompts])
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


@torch.no_grad()
def test_a_padded_batch_says_what_each_says_alone(
    model: Vlm, monkeypatch: pytest.MonkeyPatch
) -> None:
    asker = model.asker(tiny.batch_of(3))
    questions = ("What is on this face, say it in short words?",
                 "What can be seen on this face, in few words?",
                 "Which emotion does it show, and where is it seen?")  # fmt: skip
    prompts = [asker.ask(row, question) for row, question in enumerate(questions)]
    alone = [model.llm.generate([prompt], model.chat, 6)[0] for prompt in prompts]
    sizes, plain = [], model.llm.net.generate

    def counted(**inputs: Any) -> Any:
        sizes.append(inputs["attention_mask"].sum(1).tolist())
        return plain(**inputs)

    monkeypatch.setattr(model.llm.net, "generate", counted)
    assert model.llm.generate(prompts, model.chat, 6) == alone
    (lengths,) = sizes  # all in one call
    assert len(set(lengths)) > 1  # some of them padded
