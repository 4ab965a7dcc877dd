"""Visual tokens that leave early: as if they were masked from there on, whatever the family."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import vlm_tiny as tiny
from faceaffect.cli import main
from faceaffect.errors import CheckpointError, RecipeError
from faceaffect.models.emo_llama.packing import Row, Text, pack
from faceaffect.models.vlm.chat import Prompt
from faceaffect.models.vlm.exit import VisualExit, VisualTokenExit, features
from faceaffect.models.vlm.exit_tally import Tally
from faceaffect.models.vlm.gating import gate_losses, unchanged
from faceaffect.models.vlm.media import media_ids
from faceaffect.models.vlm.module import Vlm

DEPTH = 4


@pytest.fixture
def deep(family: str, folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> Vlm:
    """Return a model of four layers, with adapters as if trained."""
    name = f"{family}-deep"
    if name not in folders:
        monkeypatch.setitem(tiny.TEXT, "num_hidden_layers", DEPTH)
        folders[name] = tiny.FAMILIES[family](folders["root"] / name)
    return of_folder(folders[name])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a LLaVA of four layers."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(tiny.TEXT, "num_hidden_layers", DEPTH)
        return tiny.llava(tmp_path_factory.mktemp("llava") / "model")


def of_folder(folder: Path, **options: Any) -> Vlm:
    model = tiny.make(folder, dtype="float32", visual_exit={"width": 8} | options)
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data = torch.randn(parameter.shape, generator=generator) / 10
    return model.eval()


@contextmanager
def masked(model: Vlm, prompt: Prompt, layers: int) -> Iterator[None]:
    """Have the later layers of a plain model see no column of a picture; nothing is taken out."""
    ids = model.llm.inputs([prompt], model.chat)["input_ids"]
    seen = torch.isin(ids[0], torch.tensor(media_ids(model.llm.base.config)))

    def hide(block: nn.Module, args: Any, given: dict[str, Any]) -> Any:
        length = (args[0] if args else given["hidden_states"]).shape[1]
        columns = nn.functional.pad(seen, (0, length - len(seen)))
        mask = given["attention_mask"]
        if mask is None:
            mask = torch.ones(length, length, dtype=torch.bool).tril()[None, None]
        if mask.dtype == torch.bool:  # the diagonal keeps rows of pictures from seeing nothing
            own = torch.eye(length, dtype=torch.bool)
            return args, given | {"attention_mask": mask & (~columns | own)}
        own = torch.zeros_like(mask).masked_fill(columns, -1e30)
        return args, given | {"attention_mask": mask + own}

    blocks = next(p for n, p in model.llm.decoder.named_modules() if n.endswith("layers"))
    hooks = [b.register_forward_pre_hook(hide, with_kwargs=True) for b in blocks[layers:]]
    try:
        with model.llm.exit.switched_off():
            yield
    finally:
        for hook in hooks:
            hook.remove()


def reference(model: Vlm, prompt: Prompt, layers: int) -> list[float]:
    """Return the score of each option, alone in a plain forward."""
    with masked(model, prompt, layers):
        return tiny.plainly(model, prompt)


def said_plainly(model: Vlm, prompt: Prompt, layers: int, count: int) -> list[int]:
    """Return greedy tokens, each from a whole forward without a cache."""
    found: list[int] = []
    with masked(model, prompt, layers):
        for _ in range(count):
            inputs = model.llm.inputs([prompt], model.chat)
            more = torch.tensor([found], dtype=torch.long)
            for key in ("input_ids", "attention_mask", "mm_token_type_ids", "token_type_ids"):
                if key in inputs:
                    fill = more if key == "input_ids" else torch.full_like(
                        more, int(key == "attention_mask"))  # fmt: skip
                    inputs[key] = torch.cat([inputs[key], fill], 1)
            found.append(int(model.llm.net(**inputs).logits[0, -1].argmax()))
    return found


@torch.no_grad()
def test_leaving_is_masking_from_there_on(deep: Vlm) -> None:
    llm, gates = deep.llm, deep.llm.exit
    assert gates is not None
    batch = tiny.batch_of(3)
    prompts = tiny.prompts_of(deep, batch, "expression")
    with gates.switched_off():
        whole = llm.scores(prompts, deep.chat)
    gates.forced = 2
    left = llm.scores(prompts, deep.chat)
    plain = torch.tensor([reference(deep, prompts[0], 2)])
    torch.testing.assert_close(left[:1], plain, rtol=0, atol=1e-5)
    assert not torch.allclose(left, whole, atol=1e-4)  # the pictures counted
    # Never, and gates that never say so, are the model itself, bit for bit.
    gates.forced = DEPTH
    assert torch.equal(llm.scores(prompts, deep.chat), whole)
    gates.forced = None
    gates.options = VisualExit(width=8, threshold=1.0)
    assert torch.equal(llm.scores(prompts, deep.chat), whole)
    _each_row_leaves_by_itself(deep, gates, prompts[2])
    _what_is_generated_is_the_same(deep, gates)


def _each_row_leaves_by_itself(deep: Vlm, gates: VisualTokenExit, last: Prompt) -> None:
    asker = deep.asker(tiny.batch_of(3))
    rows = [asker.ask(0, "Who?"), asker.ask(1, "Which emotion is on this face?"), last]
    for prompt in rows[:2]:
        prompt.branches = [deep.chat.options([word])[0].texts() for word in ("yes", "lips up")]
    with gates.leaving(torch.tensor([1, 3, DEPTH])):
        logits, answers = deep.llm.logits(rows, deep.chat)
    each = logits.log_softmax(-1)[torch.arange(len(logits)), answers.said]
    for row, layers in enumerate((1, 3, DEPTH)):
        own = answers.row == row
        sums = each.new_zeros(len(rows[row].branches))
        sums.index_add_(0, answers.answer[own] - 1, each[own])
        plain = torch.tensor(reference(deep, rows[row], layers))
        torch.testing.assert_close(sums, plain, rtol=0, atol=1e-5)


def _what_is_generated_is_the_same(deep: Vlm, gates: VisualTokenExit) -> None:
    asker = deep.asker(tiny.batch_of(2))
    prompts = [asker.ask(0, "What is on this face?"), asker.ask(1, "What is on that face now?")]
    ends = deep.llm.ends(deep.chat)
    for layers in ((2, 2), (1, 3)):
        with gates.leaving(torch.tensor(layers)):
            said = deep.llm.generate(prompts, deep.chat, 3)
        plain = [said_plainly(deep, prompt, own, 3)
                 for prompt, own in zip(prompts, layers, strict=True)]  # fmt: skip
        assert said == [deep.llm.decode(ids, ends) for ids in plain]


@torch.no_grad()
def test_the_first_gate_that_says_so_lets_go(folder: Path) -> None:
    model = of_folder(folder, min_layers=2)
    gates = model.llm.exit
    assert gates is not None
    prompts = tiny.prompts_of(model, tiny.batch_of(2), "expression")

    def exits(threshold: float) -> Any:
        gates.options = VisualExit(width=8, threshold=threshold)
        with gates.counted(gates.new_tally()):
            scores = model.llm.scores(prompts, model.chat)
            return scores, gates.tally.to_dict()["left"]

    assert exits(0.0)[1] == [1, 1, 0, 0]  # as early as it may
    assert exits(1.0)[1] == [1, 1, 1, 1]
    with gates.leaving(torch.full((2,), DEPTH)) as looked:
        model.llm.logits(prompts, model.chat)
    found = gates.gates[1](looked[0]).softmax(-1)[:, 1]
    between = float(found.mean())
    first = [2 if p > between else None for p in found.tolist()]
    assert first.count(2) == 1  # one of the two leaves at its first gate
    scores, left = exits(between)
    assert left[:2] == [1, 1]
    assert left[2] == 0.5
    gates.forced = 2
    forced = model.llm.scores(prompts, model.chat)
    torch.testing.assert_close(scores[first.index(2)], forced[first.index(2)], atol=1e-5, rtol=0)


def test_a_gate_looks_at_the_text_behind_the_pictures() -> None:
    states = torch.arange(12.0).view(1, 6, 2)
    seen = torch.tensor([[0, 1, 1, 0, 0, 0]]).bool()
    known = torch.tensor([[0, 1, 1, 1, 1, 1]]).bool()
    assert features(states, seen, known).tolist() == [[7, 8, 10, 11]]
    alone = torch.tensor([[0, 0, 0, 0, 1, 0]]).bool()
    assert features(states, alone, known).tolist() == [[10, 11, 10, 11]]


def test_what_is_left_and_saved_is_counted_for_each_prompt() -> None:
    tally = Tally(depth=4, weights=10, width=2)
    seen = torch.tensor([[0, 1, 1, 0], [0, 0, 1, 0], [0, 0, 0, 0]]).bool()
    known = torch.tensor([[1, 1, 1, 1], [0, 1, 1, 1], [1, 1, 1, 1]]).bool()
    tally.add(seen, known, torch.tensor([1, 3, 4]))  # the last has no picture

    def cost(n: int) -> int:
        return 2 * n * 10 + 4 * n * n * 2

    full = 4 * cost(4) + 4 * cost(3)
    done = cost(4) + 3 * cost(2) + 3 * cost(3) + cost(2)
    assert tally.to_dict() == {
        "prompts": 2, "visual_tokens": 1.5, "left": [1.0, round(1 / 3, 4), round(1 / 3, 4), 0.0],
        "compute_saved": round(1 - done / full, 4),
    }  # fmt: skip
    assert Tally(4, 10, 2).to_dict() == {"prompts": 0}


def test_unchanged_needs_the_same_words_and_nearly_the_same_loss() -> None:
    rows = [Row([], [[Text((1, 2), said=True)]]) for _ in range(3)]
    answers = pack(rows, torch.device("cpu"), "right")
    sure = torch.zeros(6, 4).scatter(1, answers.said[:, None], 4.0)
    early = sure.clone()
    early[2:4] *= 0.9  # the second row is less sure, of the same words
    early[4] = early[4].roll(1)  # the third says something else
    assert unchanged(sure, early, answers, 3).tolist() == [True, False, False]
    slightly = sure * 0.995
    assert unchanged(sure, slightly, answers, 3).tolist() == [True] * 3


def test_gates_learn_and_nothing_else_does(folder: Path) -> None:
    model = of_folder(folder).train()
    gates = model.llm.exit
    assert gates is not None
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained
    assert all("exit.gates" in name for name in trained)
    assert not any(part.training for part in model.llm.net.modules())
    before = {n: p.clone() for n, p in model.named_parameters()}
    prompts = tiny.prompts_of(model, tiny.batch_of(4), "expression")
    for prompt in prompts:
        prompt.branches = prompt.branches[:1]

    def loss() -> Tensor:
        torch.manual_seed(0)  # the same layers every time
        return gate_losses(model.llm, gates, prompts, model.chat).mean()

    first = float(loss().detach())
    optimiser = torch.optim.AdamW(model.parameter_groups(), lr=0.02)
    for _ in range(6):
        optimiser.zero_grad()
        loss().backward()
        optimiser.step()
    assert float(loss().detach()) < 0.9 * first
    changed = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    assert changed <= trained


DATA = ["data.name=synthetic", "data.n=60", "data.subjects=20", "data.num_workers=0",
        "data.batch_size=6", "data.image_size=32", "data.cache=null", "data.fraction=0.5",
        "trainer.accelerator=cpu"]  # fmt: skip


def test_a_test_says_what_was_left_saved_and_changed(folder: Path, tmp_path: Path) -> None:
    own = [f"model.checkpoint={folder}", f"output={tmp_path}/runs", "model.max_new_tokens=2",
           "trainer.max_epochs=1", "trainer.limit_train_batches=1", "trainer.limit_val_batches=1",
           "trainer.limit_test_batches=1", "model.dtype=float32", "trainer.precision=32-true",
           "model.visual_exit={width: 8, layers: 2}"]  # fmt: skip
    assert main(["train", "mini_vlm_dyvte", *own, *DATA]) == 0
    (run,) = (tmp_path / "runs" / "mini_vlm_dyvte").iterdir()
    result = json.loads((run / "metrics.json").read_text())
    found = result["answering"]["visual_exit"]
    assert found["left"] == [1, 1, 0, 0]
    assert 0.1 < found["compute_saved"] < 0.5
    assert set(found["change"]) == set(result["metrics"])
    assert result["cost"]["trainable_parameters"] == 3 * (2 * 32 * 8 + 8 * 2)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"layers": 5}, "not between 1 and 4"),
        ({"layers": 0}, "not between 1 and 4"),
        ({"min_layers": 4}, "nothing is saved"),
        ({"threshold": 2.0}, "not between 0 and 1"),
        ({"width": 0}, "not positive"),
        ({"min_layers": 0}, "less than 1"),
    ],
)
def test_what_cannot_be_is_refused(folder: Path, options: dict[str, Any], error: str) -> None:
    with pytest.raises(RecipeError, match=error):
        of_folder(folder, **options)


def test_pictures_stay_where_a_family_adds_them_again(folder: Path) -> None:
    net = of_folder(folder).llm.base
    net.config.vision_config.deepstack_visual_indexes = [0, 1]
    decoder: Any = net.get_decoder()
    with pytest.raises(RecipeError, match="not between 2 and 4"):
        VisualTokenExit(net, decoder, [0], VisualExit(layers=1))
    assert VisualTokenExit(net, decoder, [0], VisualExit()).floor == 2


def test_gates_are_no_part_of_a_merged_model(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="gates of visual tokens"):
        of_folder(folder).llm.save_merged(tmp_path / "merged")
    assert isinstance(of_folder(folder).llm.exit.gates[0][0].weight, Tensor)
