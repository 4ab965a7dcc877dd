"""EMO-LLaMA as a whole: acceptance tests of the dossier among them."""

from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from sklearn.metrics import recall_score

from emo_tiny import (
    AGGREGATOR,
    EXPRESSIONS,
    LLAMA,
    LORA,
    SCHEMA,
    batch_of,
    make,
    open_gates,
)
from faceaffect.data.batch import FaceBatch, as_clips
from faceaffect.errors import harmless
from faceaffect.instructions.items import Item, write_jsonl
from faceaffect.models.emo_llama import ClueAggregator, EmoLlama
from faceaffect.models.emo_llama.aggregator import AggregatorOptions
from faceaffect.models.emo_llama.prompts import Slot
from faceaffect.optim import Optim
from faceaffect.runs.cost import measure
from faceaffect.scores.answers import parse_expression, split_answers
from faceaffect.scores.metrics import uar, war

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*frozen with random weights.*", "error::FutureWarning", "ignore:.*treespec.*"
)
VISION = {
    "model_type": "clip_vision_model", "hidden_size": 16, "intermediate_size": 24, "image_size": 32,
    "patch_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2,
}  # fmt: skip


# Full size, without memory


def test_full_size_parts_have_the_published_numbers_of_parameters(words: str) -> None:
    with torch.device("meta"):
        model = EmoLlama(
            SCHEMA,
            tower={"config": {"model_type": "instructblip_vision_model"}},
            prior=None,
            llm={"config": {"model_type": "llama"}, "tokenizer": words, "lora": {}},
            aggregator={"content": "mean"},
        )
        options = AggregatorOptions(queries=32, width=768, layers=12, heads=12, hidden=3072)
        published = ClueAggregator(1408, 1, 4096, options, 30_523)
    count = lambda module: sum(p.numel() for p in module.parameters())  # noqa: E731
    lora = sum(p.numel() for n, p in model.llm.named_parameters() if "lora_" in n)
    assert count(model.faces.tower) == 985_952_256
    assert count(model.llm) - lora == 6_738_415_616
    assert count(published.qformer) == 185_660_160
    assert lora == 159_907_840  # r = 64 in seven linear layers of 32 blocks
    assert count(published.projector) == pytest.approx(22.55e6, rel=1e-3)


# The whole


def test_lora_touches_no_vision_module_and_only_the_named_parts_train(words: str) -> None:
    model = make(words)
    adapted = [name for name, _ in model.named_modules() if name.endswith("lora_A.default")]
    assert len(adapted) == 2 * 7
    assert all(name.startswith("llm.") and ".layers." in name for name in adapted)
    assert not any("lm_head" in name or "embed" in name for name in adapted)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    allowed = ("mining.", "aggregator.")
    assert all(name.startswith(allowed) or "lora_" in name for name in trained)
    assert {n for n, _ in model.named_parameters() if n.startswith(allowed)} <= trained


def test_aggregator_and_gates_have_learning_rates_of_their_own(words: str) -> None:
    model = make(words, aggregator_lr=0.5, gate_lr=10.0)
    model.optim = Optim(lr=0.01)
    rates = {id(p): group["lr"] for group in model.parameter_groups() for p in group["params"]}
    for name, parameter in model.named_parameters():
        expected = 0.01 * (0.5 if "aggregator" in name else 10 if "_gate" in name else 1)
        assert rates.get(id(parameter)) == (expected if parameter.requires_grad else None), name


def test_frozen_parts_stay_in_eval_mode(words: str) -> None:
    model = make(words).train()
    assert model.mining is not None
    assert model.mining.training
    assert not model.llm.base.training
    assert not model.faces.tower.backbone.net.training


@pytest.mark.parametrize("frames", [0, 3])
def test_every_trained_weight_gets_a_gradient(words: str, frames: int) -> None:
    model = make(words)
    assert model.mining is not None
    open_gates(model.mining)
    loss = model.loss(batch_of(3, frames=frames))
    loss.backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name
    # LoRA's A waits for its B; the question's own feed-forward in the last block leads nowhere.
    expected = ("lora_A", "layer.1.intermediate.", "layer.1.output.", ".key.bias")
    silent = [n for n, p in model.named_parameters() if p.requires_grad and not p.grad.any()]
    assert all(any(part in name for part in expected) for name in silent), silent


def test_an_image_is_a_clip_of_one_frame(words: str) -> None:
    model = make(words).eval()
    batch = batch_of(3)
    with torch.no_grad():
        one, other = model.predict(batch), model.predict(as_clips(batch))
    for task in one:
        torch.testing.assert_close(one[task], other[task])


def test_samples_do_not_disturb_each_other(words: str) -> None:
    model = make(words).eval()
    batch = batch_of(4, frames=3)
    with torch.no_grad():
        together = model.predict(batch)
        for row in range(4):
            length = int(batch["frame_mask"][row].sum())
            alone = FaceBatch(
                id=["x"],
                subject=["x"],
                video=batch["video"][row : row + 1, :length],
                frame_mask=torch.ones(1, length, dtype=torch.bool),
            )
            for task, value in model.predict(alone).items():
                torch.testing.assert_close(value[0], together[task][row], atol=1e-4, rtol=1e-3)


def test_an_image_beside_clips_is_asked_about_as_an_image(words: str) -> None:
    model = make(words).eval()
    batch = batch_of(3, frames=3)  # of one, two and three frames
    prompter = model.prompter(model.look(batch))
    asked = [prompter.question(sample, "expression") for sample in range(3)]
    assert ["image" in question for question in asked] == [True, False, False]
    assert ["video" in question for question in asked] == [False, True, True]
    rng = np.random.default_rng(0)
    rows = model.training_rows(batch, prompter, rng)
    assert rows
    for slot in prompter.slots:
        assert ("image" if slot.sample else "video") not in slot.question


@pytest.mark.parametrize("frames", [0, 2])
def test_half_precision_works_without_autocast(words: str, frames: int) -> None:
    """All frozen weights in bfloat16, as at full size; what trains is float32."""
    llm = {"config": LLAMA, "tokenizer": words, "lora": LORA, "dtype": "bfloat16"}
    tower = {"config": VISION, "dtype": "bfloat16"}
    model = make(words, llm=llm, tower=tower, answer_mode="both", max_new_tokens=3).eval()
    assert model.mining is not None
    open_gates(model.mining)
    for name, parameter in model.llm.named_parameters():
        if "lora_" in name:
            assert parameter.dtype == torch.float32
            torch.nn.init.normal_(parameter, std=0.1)
    batch = batch_of(3, frames=frames)
    with torch.no_grad():
        answers = model.predict(batch)
        with torch.autocast("cpu", torch.bfloat16):
            mixed = model.predict(batch)
    assert torch.isfinite(answers["expression"]).all()
    torch.testing.assert_close(answers["expression"], mixed["expression"], atol=0.05, rtol=0.05)
    assert len(model.describe(batch)) == 3
    cost = measure(model, 64, 2)
    assert cost["flops_per_image"] > 0
    model.loss(batch).backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def test_priors_matter_only_through_open_gates(words: str) -> None:
    model = make(words).eval()
    without = make(words, mining=None).eval()
    without.load_state_dict(model.state_dict(), strict=False)
    batch = batch_of(2)
    with torch.no_grad():
        base = model.predict(batch)
        assert torch.equal(base["expression"], without.predict(batch)["expression"])
        assert model.mining is not None
        open_gates(model.mining)
        assert not torch.allclose(model.predict(batch)["expression"], base["expression"])
        black = batch_of(2)
        black["image"] = torch.zeros_like(black["image"])
        assert torch.equal(model.predict(black)["expression"], without.predict(black)["expression"])


def test_priors_as_tokens_of_their_own(words: str) -> None:
    model = make(words, mining={"inject": "extra_tokens"})
    assert model.mining is None
    loss = model.loss(batch_of(2, frames=2))
    loss.backward()
    assert model.prior_tokens is not None
    assert all(p.grad is not None and p.grad.any() for p in model.prior_tokens.parameters())


def test_a_question_changes_the_context_and_not_the_content(words: str) -> None:
    model = make(words).eval()
    with torch.no_grad():
        shown = model.show(model.look(batch_of(1)), [Slot(0, "Which AUs?"), Slot(0, "Is it joy?")])
    context, content = shown.view(2, 2, -1).unbind(1)  # content: mean, so two tokens a question
    assert torch.equal(content[0], content[1])
    assert not torch.allclose(context[0], context[1])


def test_the_profile_enters_the_prompt_and_not_the_guide(words: str) -> None:
    model = make(words, face_profile=True).eval()
    faces = model.look(batch_of(2))
    prompter = model.prompter(faces)
    row = prompter.score(0, "expression")
    text = "".join(model.llm.tokenizer.decode(list(p.ids)) for p in row.prefix if hasattr(p, "ids"))
    assert "Estimated subject profile" in text
    assert "profile" not in prompter.slots[0].question
    dropped = [model.prompter(faces, drop=np.random.default_rng(s)).profiles[0] for s in range(60)]
    assert 0 < sum(not text for text in dropped) < 20
    plain = make(words).eval()
    assert plain.prompter(plain.look(batch_of(2))).profiles == ["", ""]


def test_no_known_label_costs_nothing_but_keeps_the_graph(words: str) -> None:
    model = make(words)
    batch = batch_of(2)
    batch["au"][:] = torch.nan
    batch["va"][:] = torch.nan
    batch["expression"][:] = -1
    loss = model.loss(batch)
    assert loss.item() == 0
    loss.backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def test_unknown_aus_are_not_asked_for(words: str) -> None:
    model = make(words, talk_rate=0.0)
    batch = batch_of(1)
    batch["au"][0] = torch.tensor([1.0, torch.nan, 0.0, torch.nan])
    rows = model.training_rows(batch, model.prompter(model.look(batch)), np.random.default_rng(0))
    (row,) = [row for row in rows if "AU" in decoded(model, row)[0]]
    assert decoded(model, row) == ["AU1: yes", "AU6: no", "AU1</s>"]


def test_values_are_learned_one_by_one_and_as_one_text(words: str) -> None:
    model = make(words, talk_rate=0.0)
    batch = batch_of(1)
    batch["va"][0] = torch.tensor([0.3, -0.9])
    rows = model.training_rows(batch, model.prompter(model.look(batch)), np.random.default_rng(0))
    (row,) = [row for row in rows if "valence" in decoded(model, row)[0]]
    assert decoded(model, row) == [
        "valence: 0.25,",
        "arousal: -1.0</s>",
        "valence: 0.25, arousal: -1.0</s>",
    ]
    names, whole = row.branches[0][0], row.branches[2][-1]
    assert not names.said  # what is asked for is given, only its value is learned
    assert whole.said


def decoded(model: EmoLlama, row: Any) -> list[str]:
    return [
        model.llm.tokenizer.decode([i for text in branch for i in text.ids]).strip()
        for branch in row.branches
    ]


def test_rare_aus_weigh_more_if_asked_for(words: str) -> None:
    model = make(words, au_balance=0.5)
    model.prepare({"au_rate": {"AU1": 0.1, "AU4": 0.5, "AU6": 0.9, "AU12": 0.0}})
    assert model.au_weights[1] == pytest.approx(3)
    assert model.au_weights[4] == pytest.approx(1)
    assert model.au_weights[6] == pytest.approx(1 / 3)
    assert 12 not in model.au_weights


def test_written_dialogues_of_the_training_part_are_learned(
    words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    items = [
        Item(f"0/{i}", "conversation", [("Hm?", f"answer {i}"), ("So?", "well")]) for i in range(9)
    ]
    write_jsonl(tmp_path / "talk.jsonl", items)
    model = make(words, instructions=str(tmp_path / "talk.jsonl"), talk_rate=0.0)

    class Data(L.LightningDataModule):
        schema, dataset, split = SCHEMA, None, None

        def train_dataloader(self) -> Any:
            return torch.utils.data.DataLoader([batch_of(4)], batch_size=None)

        def statistics(self) -> dict[str, Any]:
            return {}

    class Named:
        id = np.array([f"0/{i}" for i in range(9)])
        samples = property(lambda self: self)
        train = np.arange(3)

    data = Data()
    data.dataset = data.split = Named()  # type: ignore[assignment]
    L.Trainer(
        max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, accelerator="cpu",
    ).fit(model, datamodule=data)  # fmt: skip
    assert sorted(model.dialogues) == ["0/0", "0/1", "0/2"]
    batch = batch_of(4)
    rows = model.training_rows(batch, model.prompter(model.look(batch)), np.random.default_rng(0))
    told = [row for row in rows if decoded(model, row) == ["well</s>"]]
    assert len(told) == 3
    assert "3 dialogues about 3 training samples; 6 left out" in capsys.readouterr().out


# Answers


def test_generated_answers_are_read_and_unreadable_ones_are_no_class(words: str) -> None:
    model = make(words, answer_mode="generate").eval()
    with torch.no_grad():
        answers = model.predict(batch_of(3))
    assert len(answers["text"]) == 3
    assert answers["text"][0].startswith("au: ")
    for text, chance in zip(answers["text"], answers["expression"], strict=True):
        index = parse_expression(split_answers(text)["expression"], SCHEMA.expressions)
        assert chance.isnan().all() if index < 0 else chance.argmax() == index
    model.answer_mode = "both"
    with torch.no_grad():
        both = model.predict(batch_of(3))
        assert not both["expression"].isnan().any()
        assert both["text"] == answers["text"]
        model.on_validation_start()
        assert "text" not in model.predict(batch_of(3))
        model.on_validation_end()
        assert "text" in model.predict(batch_of(3))


def test_describe_answers_any_question(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    model = make(words, max_new_tokens=5).eval()
    assert len(model.describe(batch_of(2))) == 2
    assert len(model.describe(batch_of(2), "What {is} this?")) == 2
    capsys.readouterr()
    (text,) = model.describe(batch_of(1), "Well?", stream=True)
    assert capsys.readouterr().out.strip() == harmless(text).strip()


def test_learns_two_hundred_faces_by_heart(words: str) -> None:
    """Dossier test 7, on few steps: brightness decides the class."""
    model = make(words, EXPRESSIONS, talk_rate=0.0, aggregator={**AGGREGATOR, "content": "mean"})
    target = torch.arange(200) % 3
    level = torch.tensor([40, 125, 210])[target][:, None, None, None]
    image = (level + torch.randint(-20, 21, (200, 3, 64, 64))).clamp(1, 255).to(torch.uint8)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], 3e-3)
    for step in range(45):
        rows = torch.randperm(200, generator=torch.Generator().manual_seed(step))[:24]
        ids = [str(i) for i in rows.tolist()]
        batch = FaceBatch(id=ids, subject=ids, image=image[rows], expression=target[rows])
        loss = model.loss(batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    ids = [str(i) for i in range(200)]
    with torch.no_grad():
        answers = model.eval().predict(FaceBatch(id=ids, subject=ids, image=image))
    pred = answers["expression"].argmax(1)
    assert (pred == target).float().mean() > 0.95
    truth, said = target.numpy(), pred.numpy()
    assert war(pred, target).item() == pytest.approx(recall_score(truth, said, average="weighted"))
    assert uar(pred, target, 3).item() == pytest.approx(recall_score(truth, said, average="macro"))
