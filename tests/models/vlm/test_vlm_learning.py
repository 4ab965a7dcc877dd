"""What a vision-language model learns from: tasks, talk, questions; and that its projector does."""

from pathlib import Path

import numpy as np
import pytest

import vlm_tiny
from faceaffect.data.questions import WISHES


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return vlm_tiny.llava(tmp_path_factory.mktemp("base") / "llava")


def test_a_step_reaches_the_projector_and_leaves_the_tower(base: Path) -> None:
    model = vlm_tiny.make(base, projector=True, projector_lr=0.2).train()
    model.loss(vlm_tiny.batch_of(2)).backward()
    weights = model.llm.projector_weights()
    assert len(weights) == 4
    assert all(w.grad is not None and w.grad.abs().sum() > 0 for w in weights)
    others = [n for n, p in model.named_parameters() if p.requires_grad and "lora" not in n]
    assert all("multi_modal_projector" in name for name in others)
    rates = {group["lr"] for group in model.parameter_groups() if "lr" in group}
    assert model.optim.lr * 0.2 in rates
    assert not vlm_tiny.make(base).llm.projector_weights()


def test_questions_alone_are_learned_where_a_recipe_says_so(base: Path) -> None:
    model = vlm_tiny.make(base, task_rate=0.0, talk_rate=0.0, question_rate=1.0)
    batch = vlm_tiny.batch_of(6)
    prompts = model.lessons.of(batch, model.asker(batch), np.random.default_rng(0))
    asked = [prompt.exchanges[-1].question for prompt in prompts]
    assert len(asked) == 6
    assert all(q.endswith((WISHES["yes_no"], WISHES["options"])) for q in asked)
    silent = vlm_tiny.make(base, task_rate=0.0, talk_rate=0.0)
    assert not silent.lessons.of(batch, silent.asker(batch), np.random.default_rng(0))
    assert float(silent.loss(batch)) == 0.0
