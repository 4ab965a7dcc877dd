"""Training by reward: TRL's GRPO makes the loss, everything else is as in any other training."""

import csv
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import vlm_tiny as tiny
from faceaffect.cli import main
from faceaffect.errors import RecipeError
from faceaffect.models.vlm import reward as rewards
from faceaffect.models.vlm.module import Vlm
from faceaffect.models.vlm.reward import Grpo, questions

pytest.importorskip("trl")
DESCRIBE = {"au": {"form": "describe"}, "expression": {"form": "describe"}}


@pytest.fixture(scope="module")
def llava(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.llava(tmp_path_factory.mktemp("llava") / "model")


def grpo_of(model: Vlm, folder: Path) -> Grpo:
    assert model.reward is not None
    return Grpo(
        model.llm, model.chat, model.schema, model.reward,
        max_new_tokens=model.max_new_tokens, seed=0, folder=folder,
    )  # fmt: skip


def asked_of(model: Vlm, n: int) -> list[rewards.Asked]:
    batch = tiny.batch_of(n)
    known = [rewards.Labels("anger", {1: True, 4: False}) for _ in range(n)]
    return questions(model.asker(batch), known, ["au", "expression"])


def worth(text: str) -> float:
    """Stands for a reader: whether the answer begins in the first half of the alphabet."""
    return float("a" <= text[:1].lower() < "n")


def test_tasks_that_are_asked_alike_share_a_question(llava: Path) -> None:
    together = tiny.make(llava, prompts=DESCRIBE, reward={})
    assert [one.tasks for one in asked_of(together, 2)] == [("au", "expression")] * 2
    apart = tiny.make(llava, reward={})
    assert [one.tasks for one in asked_of(apart, 1)] == [("au",), ("expression",)]
    unknown = [rewards.Labels("anger")]
    (one,) = questions(apart.asker(tiny.batch_of(1)), unknown, ["au", "expression"])
    assert one.tasks == ("expression",)


def test_the_loss_is_that_of_grpo(
    llava: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each token of an answer is weighed by how much better it is than others of its question."""
    model = tiny.make(
        llava, prompts=DESCRIBE, dtype="float32", max_new_tokens=3, reward={"answers": 4}
    ).train()
    monkeypatch.setattr(rewards, "au_reward", lambda text, truth: worth(text))
    monkeypatch.setattr(rewards, "expression_reward", lambda text, truth, classes: 2 * worth(text))
    grpo, seen = grpo_of(model, tmp_path), {}
    sample = grpo.trl._prepare_inputs
    monkeypatch.setattr(
        grpo.trl, "_prepare_inputs", lambda rows: seen.setdefault("sampled", sample(rows))
    )
    torch.manual_seed(1)
    grpo.loss(asked_of(model, 3)).backward()
    found = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    assert any(grad.abs().max() > 0 for grad in found)
    sampled = seen["sampled"]
    ids, mask = sampled["completion_ids"], sampled["completion_mask"]
    texts = model.llm.tokenizer.batch_decode(ids, skip_special_tokens=True)
    values = torch.tensor([3 * worth(text) for text in texts])
    assert grpo.rewards[""] == pytest.approx(values.mean().item())
    # Questions are told apart by their pictures, since the answers were shuffled.
    pictures = sampled["pixel_values"].flatten(1)
    advantage = torch.zeros(12)
    for row in range(12):
        group = values[(pictures == pictures[row]).all(1)]
        assert len(group) == 4
        advantage[row] = (values[row] - group.mean()) / (group.std() + 1e-4)
    torch.testing.assert_close(sampled["advantages"], advantage)
    model.zero_grad()
    whole = torch.cat([sampled["prompt_ids"], ids], 1)
    known = torch.cat([sampled["prompt_mask"], mask], 1)
    out = model.llm.net(input_ids=whole, attention_mask=known, pixel_values=sampled["pixel_values"])
    chance = out.logits[:, -ids.shape[1] - 1 : -1].log_softmax(-1).gather(2, ids[..., None])
    (-(chance[..., 0] * advantage[:, None] * mask).sum() / mask.sum()).backward()
    for grad, other in zip(
        found, (p.grad for p in model.parameters() if p.grad is not None), strict=True
    ):
        torch.testing.assert_close(grad, other, atol=1e-5, rtol=1e-3)
    grpo.close()
    assert "forward" not in vars(model.llm.base)


def test_the_reward_of_each_step_is_in_the_log(llava: Path, tmp_path: Path) -> None:
    words = [f"model.checkpoint={llava}", "model.reward.answers=2", "model.max_new_tokens=4",
             "data.n=24", "data.subjects=12", "data.batch_size=4", "data.image_size=32",
             "data.num_workers=0", "data.cache=null", "trainer.limit_train_batches=2",
             "trainer.limit_val_batches=1", "trainer.limit_test_batches=1",
             "trainer.accelerator=cpu", f"output={tmp_path}"]  # fmt: skip
    assert main(["train", "mini_vlm_reward", *words]) == 0
    (run,) = (tmp_path / "mini_vlm_reward").iterdir()
    (log,) = run.glob("log/**/metrics.csv")
    with log.open() as file:
        curve = [row["train/reward"] for row in csv.DictReader(file) if row["train/reward"]]
    assert len(curve) == 2


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"prompts": {"au": {"form": "yes_no"}}, "reward": {"weights": {"expression": 0, "va": 0}}},
         "no task is left"),
        ({"mining": "emola"}, "knows no facial priors"),
        ({"template": "plain"}, "own chat template"),
    ],
)  # fmt: skip
def test_what_trl_does_not_ask_is_refused(llava: Path, changes: dict, words: str) -> None:
    model = tiny.make(llava, **{"reward": {}} | changes)
    with pytest.raises(RecipeError, match=words):
        model._check_trainable()


def test_several_processes_are_refused(llava: Path) -> None:
    model = tiny.make(llava, reward={})
    model.trainer = SimpleNamespace(world_size=2)
    with pytest.raises(RecipeError, match="one process"):
        model.on_fit_start()


@pytest.mark.parametrize(
    ("reward", "words"),
    [
        ({"answers": 1}, "two or more"),
        ({"temperature": 0}, "is not positive"),
        ({"weights": {"mood": 1}}, "no such task"),
        ({"weights": {"au": -1}}, "is no weight"),
    ],
)
def test_wrong_settings_are_refused(reward: dict, words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        rewards.Reward(**reward)


def test_a_missing_extra_is_one_error(
    llava: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "trl", None)
    with pytest.raises(RecipeError, match=r"pip install 'faceaffect\[reward\]'"):
        grpo_of(tiny.make(llava, reward={}), tmp_path)
