"""Packed rows against plain sequences: the loss, option scores and greedy text."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from emo_tiny import LLAMA, LORA
from faceaffect.errors import CheckpointError
from faceaffect.models.emo_llama.dialogue import Dialogue
from faceaffect.models.emo_llama.llm import LanguageModel, create_llm
from faceaffect.models.emo_llama.packing import Row, Text, Visual, by_length, pack
from faceaffect.models.emo_llama.scoring import answer_loss, generate, score_options

QWEN = {**LLAMA, "model_type": "qwen2"}
SMOL = {**LLAMA, "model_type": "smollm3", "pad_token_id": 0}
QWEN3 = {**LLAMA, "model_type": "qwen3", "head_dim": 8}
MISTRAL = {**LLAMA, "model_type": "mistral", "sliding_window": 4096}
GEMMA2 = {**LLAMA, "model_type": "gemma2", "head_dim": 8}
PHI3 = {**LLAMA, "model_type": "phi3", "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
GPT2 = {"model_type": "gpt2", "n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 610,
        "bos_token_id": 1, "eos_token_id": 2}  # fmt: skip
KINDS = [LLAMA, QWEN, QWEN3, SMOL, MISTRAL, GEMMA2, PHI3, GPT2]


def make(words: str, config: dict[str, Any] = LLAMA, **args: Any) -> LanguageModel:
    torch.manual_seed(0)
    llm = create_llm(config=config, tokenizer=words, **{"lora": LORA, **args})
    for name, parameter in llm.named_parameters():
        if "lora_B" in name:  # at zero the adapters would go untested
            torch.nn.init.normal_(parameter, std=0.1)
    return llm.eval()


def rows_of(dialogue: Dialogue, count: int = 3) -> tuple[list[Row], Tensor]:
    """Return prompts of different lengths with options of different lengths and number."""
    rows, lengths = [], [3, 5, 1, 4, 2, 6, 7, 2][:count]
    choices = [["happiness", "anger", "no particular emotion"], ["AU12: yes", "AU12: no"], ["fear"]]
    for slot, length in enumerate(lengths):
        question = f"Which expression? {'please ' * slot}"
        prompt = dialogue.prompt([], question, [Visual(slot, length)])
        branches = [option.texts() for option in dialogue.options(choices[slot % 3])]
        if slot % 3 == 1:
            branches += [option.texts() for option in dialogue.options(["AU1: yes", "AU1: no"])]
        rows.append(Row(prompt, branches))
    return rows, torch.randn(sum(lengths), 32, generator=torch.Generator().manual_seed(1))


def plainly(llm: LanguageModel, row: Row, branch: list[Text], visual: Tensor, start: int) -> float:
    """Score one option by one plain forward of one sequence, without packing, mask or cache."""
    parts, ids = [], []
    for piece in row.prefix:
        if isinstance(piece, Visual):
            parts.append(visual[start : start + piece.length])
            ids += [-1] * piece.length
        else:
            parts.append(llm.embed(torch.tensor(piece.ids)))
            ids += piece.ids
    learned = []
    for text in branch:
        if text.ids:
            parts.append(llm.embed(torch.tensor(text.ids)))
        learned += range(len(ids), len(ids) + len(text.ids)) if text.said else []
        ids += text.ids
    logits = llm.net(inputs_embeds=torch.cat(parts)[None]).logits[0]
    chance = F.log_softmax(logits.float(), -1)
    return sum(float(chance[at - 1, ids[at]]) for at in learned)


@pytest.mark.parametrize("config", KINDS, ids=lambda c: c["model_type"])
def test_the_last_mlp_sees_only_the_columns_whose_logits_are_wanted(
    words: str, config: dict[str, Any]
) -> None:
    llm = make(words, config, attention="eager")
    x = torch.randn(2, 9, llm.width, requires_grad=True)
    inputs = (x, torch.ones(2, 9, dtype=torch.long), torch.arange(9).expand(2, -1))
    seen = []
    if config is not GPT2:  # whose layers have other names
        mlp = llm.base.get_decoder().layers[-1].mlp
        mlp.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape[1]))
    columns = torch.tensor([4, 7, 8])
    some = llm(*inputs, logits_to_keep=columns).logits
    (grad,) = torch.autograd.grad(some.square().sum(), x)
    every = llm(*inputs).logits[:, columns]
    (wanted,) = torch.autograd.grad(every.square().sum(), x)
    assert (some - every).abs().max() < 1e-4 * every.abs().max()
    assert (grad - wanted).abs().max() < 1e-4 * wanted.abs().max()
    assert seen == ([] if config is GPT2 else [3, 9])


@pytest.mark.parametrize("padding", ["left", "right"])
@pytest.mark.parametrize("config", KINDS, ids=lambda c: c["model_type"])
@torch.no_grad()
def test_shared_prefix_scores_equal_one_forward_per_option(
    words: str, config: dict[str, Any], padding: Any
) -> None:
    attention = "eager" if config is GEMMA2 else "sdpa"
    llm = make(words, config, attention=attention)
    rows, visual = rows_of(Dialogue(llm, "vicuna"))
    scores = score_options(llm, rows, visual, padding)
    assert scores.shape == (3, 4)
    starts = [0, 3, 8]
    for row, start, found in zip(rows, starts, scores, strict=True):
        expected = [plainly(llm, row, branch, visual, start) for branch in row.branches]
        known = found[: len(expected)]
        torch.testing.assert_close(known, torch.tensor(expected), atol=1e-4, rtol=0)
        assert found[len(expected) :].isneginf().all()


@pytest.mark.parametrize("padding", ["left", "right"])
def test_the_loss_is_the_mean_of_what_scores_sum(words: str, padding: Any) -> None:
    llm = make(words)
    rows, visual = rows_of(Dialogue(llm, "plain"))
    with torch.no_grad():
        scores = score_options(llm, rows, visual)
    losses = answer_loss(llm, rows, visual, padding)
    for row, loss, score in zip(rows, losses, scores, strict=True):
        said = sum(len(t.ids) for branch in row.branches for t in branch if t.said)
        total = score[: len(row.branches)].sum()
        torch.testing.assert_close(loss, -total / said, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_long_rows_are_packed_apart_and_lose_nothing(words: str) -> None:
    llm = make(words)
    rows, visual = rows_of(Dialogue(llm, "plain"))
    many = [rows[0], *[Row(rows[0].prefix, rows[0].branches * 9)] * 2, rows[1], rows[2]]
    *short, long = by_length(many)
    assert sorted(i for group in short for i in group) == [0, 3, 4]
    assert sorted(long) == [1, 2]
    assert len(by_length([rows[0]] * 3)) == 1
    longest = Row(rows[0].prefix, rows[0].branches * 40)
    assert by_length([*many, longest])[-2:] == [long, [5]]
    losses = answer_loss(llm, many, visual)
    torch.testing.assert_close(losses[[0, 3, 4]], answer_loss(llm, rows, visual))
    torch.testing.assert_close(losses[1], losses[0])


@torch.no_grad()
def test_scores_do_not_depend_on_the_batch(words: str) -> None:
    llm = make(words)
    rows, visual = rows_of(Dialogue(llm, "plain"), 8)
    together = score_options(llm, rows, visual)
    start = 0
    for number, row in enumerate(rows):
        (place,) = [p for p in row.prefix if isinstance(p, Visual)]
        alone = Row([Visual(0, p.length) if isinstance(p, Visual) else p for p in row.prefix])
        alone.branches = row.branches
        single = score_options(llm, [alone], visual[start : start + place.length])
        torch.testing.assert_close(
            together[number, : single.shape[1]], single[0], atol=1e-4, rtol=0
        )
        start += place.length


@torch.no_grad()
def test_greedy_text_is_the_same_at_batch_one_and_eight(words: str) -> None:
    llm = make(words)
    dialogue = Dialogue(llm, "plain")
    rows, visual = rows_of(dialogue, 8)
    limits = {"max_new_tokens": 12, "end": dialogue.end}
    together = [dialogue.decode(ids) for ids in generate(llm, rows, visual, **limits)]
    assert len(set(together)) > 1
    start = 0
    for row, text in zip(rows, together, strict=True):
        (place,) = [p for p in row.prefix if isinstance(p, Visual)]
        alone = Row([Visual(0, p.length) if isinstance(p, Visual) else p for p in row.prefix])
        own = visual[start : start + place.length]
        (ids,) = generate(llm, [alone], own, **limits)
        assert dialogue.decode(ids) == text
        start += place.length


@torch.no_grad()
def test_the_first_generated_token_is_the_most_likely_one(words: str) -> None:
    llm = make(words)
    dialogue = Dialogue(llm, "plain")
    rows, visual = rows_of(dialogue, 3)
    first = [ids[0] for ids in generate(llm, rows, visual, max_new_tokens=1, end=dialogue.end)]
    for row in rows:
        row.branches = [[Text((token,), said=True)] for token in range(600)]
    assert score_options(llm, rows, visual).argmax(1).tolist() == first


@torch.no_grad()
def test_generation_ignores_settings_of_the_checkpoint(words: str) -> None:
    llm = make(words)
    dialogue = Dialogue(llm, "plain")
    rows, visual = rows_of(dialogue, 3)
    limits = {"max_new_tokens": 12, "end": dialogue.end}
    before = generate(llm, rows, visual, **limits)
    llm.base.generation_config.update(
        do_sample=True, temperature=9.0, top_p=0.9, repetition_penalty=5.0
    )
    assert generate(llm, rows, visual, **limits) == before


def test_answers_do_not_see_each_other(words: str) -> None:
    llm = make(words)
    dialogue = Dialogue(llm, "plain")
    options = [o.texts() for o in dialogue.options(["AU12: yes", "AU12: no"])]
    prompt = dialogue.prompt([], "Which?", [Visual(0, 2)])
    visual = torch.randn(2, 32)
    with torch.no_grad():
        pair = score_options(llm, [Row(prompt, options)], visual)[0]
        swapped = score_options(llm, [Row(prompt, options[::-1])], visual)[0]
        alone = score_options(llm, [Row(prompt, options[1:])], visual)[0]
    torch.testing.assert_close(pair.flip(0), swapped)
    torch.testing.assert_close(pair[1:], alone)


def test_weights_of_answers_enter_the_loss(words: str) -> None:
    llm = make(words)
    dialogue = Dialogue(llm, "plain")
    branches = [o.texts() for o in dialogue.options(["yes", "no"])]
    prompt = dialogue.prompt([], "Which?", [Visual(0, 2)])
    visual = torch.randn(2, 32)
    one, two = (answer_loss(llm, [Row(prompt, [b])], visual).item() for b in branches)
    mixed = answer_loss(llm, [Row(prompt, branches, [3.0, 1.0])], visual).item()
    lengths = [sum(len(t.ids) for t in b if t.said) for b in branches]
    weight = [3.0 * lengths[0], 1.0 * lengths[1]]
    assert mixed == pytest.approx((weight[0] * one + weight[1] * two) / sum(weight), rel=1e-5)


def test_only_answers_are_learned(words: str) -> None:
    dialogue = Dialogue(make(words), "vicuna")
    prefix = dialogue.prompt(
        [("What is it?", "joy")], "Sure?", [Visual(0, 2), Visual(1, 3)], "Profile: old."
    )
    row = Row(prefix, [dialogue.options(["yes, quite"])[0].texts()])
    packed = pack([row], torch.device("cpu"))
    assert packed.said.tolist() == [*dialogue.answer("joy"), *dialogue.answer("yes, quite")]
    assert packed.weight.sum().item() == pytest.approx(1)
    assert packed.visual[packed.visual >= 0].tolist() == [0, 1, 2, 3, 4]
    # What is said stands one column after the output that says it; the last token stands nowhere.
    assert packed.ids[0, packed.column[:-1] + 1].tolist() == packed.said[:-1].tolist()
    assert packed.column[-1] + 1 == packed.ids.shape[1]
    others = [i for n, i in enumerate(packed.ids[0].tolist()) if n - 1 not in packed.column]
    unlearned = dialogue.llm.tokenizer.decode(others)
    assert "Profile: old." in unlearned
    assert "ASSISTANT" in unlearned


def test_options_split_where_they_differ(words: str) -> None:
    dialogue = Dialogue(make(words), "plain")
    yes, no = dialogue.options(["AU12: yes", "AU12: no"])
    assert yes.given == no.given
    assert dialogue.llm.tokenizer.decode(list(yes.given)).strip() == "AU12:"
    assert yes.said[-1] == no.said[-1] == dialogue.end
    (only,) = dialogue.options(["fear"])
    assert only.given == ()
    # An option that begins another keeps its own end token.
    short, long = dialogue.options(["sad", "sad and afraid"])
    assert short.said[-1] == dialogue.end
    assert len(long.said) > len(short.said)


def test_chat_templates_of_tokenizers(words: str) -> None:
    llm = make(words)
    with pytest.raises(CheckpointError, match="no chat template"):
        Dialogue(llm, "chat")
    llm.tokenizer.chat_template = (
        "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}</s>\n{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
    )
    dialogue = Dialogue(llm, "chat")
    assert dialogue.end == llm.end
    visuals = [Visual(0, 1), Visual(1, 1)]
    pieces = dialogue.prompt([("One?", "1")], "Two?", visuals)
    text = "".join(
        "<image>" if isinstance(p, Visual) else llm.tokenizer.decode(list(p.ids)) for p in pieces
    )
    messages = [
        {"role": "user", "content": "<image>\nOne?"},
        {"role": "assistant", "content": "1"},
        {"role": "user", "content": "<image>\nTwo?"},
    ]
    assert text == llm.tokenizer.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=True
    )


def test_a_tokenizer_without_pad_token_will_do_and_one_without_end_will_not(words: str) -> None:
    llm = make(words)
    llm.tokenizer.pad_token = None
    rows, visual = rows_of(Dialogue(llm, "plain"))
    assert torch.isfinite(answer_loss(llm, rows, visual)).all()
    llm.tokenizer.eos_token = None
    with pytest.raises(CheckpointError, match="no end token"):
        LanguageModel(llm.base, llm.tokenizer, lora=None)


def test_gradient_checkpointing_changes_nothing_but_memory(words: str) -> None:
    losses, gradients = [], []
    for checkpointing in (False, True):
        llm = make(words, grad_checkpointing=checkpointing).train()
        layers = [m for m in llm.modules() if type(m).__name__ == "LlamaDecoderLayer"]
        assert all(layer.training == checkpointing for layer in layers)
        rows, visual = rows_of(Dialogue(llm, "plain"))
        loss = answer_loss(llm, rows, visual).mean()
        loss.backward()
        losses.append(loss.detach())
        gradients.append([p.grad for p in llm.parameters() if p.requires_grad])
    torch.testing.assert_close(*losses)
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)
