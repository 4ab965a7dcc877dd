"""Facial priors in every family: nothing changes untrained, the right face counts once trained."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import emo_tiny
import vlm_tiny as tiny
from faceaffect.models.vlm.module import Vlm

MININGS: dict[str, Any] = {
    "face_info_mining": {"name": "face_info_mining", **emo_tiny.MINING},
    "face_llava": {"name": "face_llava", "heads": 2, "inner": 8},
    "emola": {"name": "emola"},
}


@pytest.fixture(params=sorted(MININGS))
def mining(request: pytest.FixtureRequest) -> str:
    return request.param


def make(folder: Path, mining: str, **changes: Any) -> Vlm:
    return tiny.make(folder, prior="random", mining=MININGS[mining], dtype="float32", **changes)


def as_if_trained(model: Vlm) -> None:
    priors = model.llm.priors
    assert priors is not None
    priors.trained.fill_(True)
    with torch.no_grad():
        for gate in priors.gates():
            gate.fill_(2.0)
        for name, parameter in priors.part.named_parameters():
            if "gate" not in name and parameter.ndim > 1:
                parameter.mul_(3)


def rows(batch: Any, *places: int) -> Any:
    return {key: value[list(places)] if isinstance(value, Tensor) else
            [value[i] for i in places] for key, value in batch.items()}  # fmt: skip


def scores(model: Vlm, batch: Any) -> Tensor:
    asker = model.asker(batch)
    prompts = [p for sample in range(len(batch["id"])) for p in asker.score(sample, "expression")]
    return model.llm.scores(prompts, model.chat)


@torch.no_grad()
def test_untrained_priors_leave_every_family_as_it_is(
    folder: Path, family: str, mining: str
) -> None:
    base = tiny.make(folder, dtype="float32").eval()
    model = make(folder, mining).eval()
    cases = [tiny.batch_of(2)] + ([] if family == "instructblip" else [tiny.batch_of(2, frames=3)])
    for batch in cases:
        assert torch.equal(scores(model, batch), scores(base, batch))
    model.max_new_tokens = base.max_new_tokens = 3
    assert model.describe(cases[0]) == base.describe(cases[0])


@torch.no_grad()
def test_trained_priors_are_those_of_the_face_that_is_asked_about(
    folder: Path, family: str, mining: str
) -> None:
    model, base = make(folder, mining).eval(), tiny.make(folder, dtype="float32").eval()
    as_if_trained(model)
    batch = tiny.batch_of(3, frames=0 if family == "instructblip" else 2)
    together = scores(model, batch)
    assert not torch.allclose(together, scores(base, batch), atol=1e-4)
    for row in range(3):
        alone = scores(model, rows(batch, row))
        torch.testing.assert_close(alone, together[row : row + 1], rtol=0, atol=1e-4)
    model.llm.shares = False
    torch.testing.assert_close(scores(model, batch), together, rtol=0, atol=1e-4)
    model.llm.shares = True
    batch["video"][1] = 0  # no face is found
    missing = scores(model, batch)
    torch.testing.assert_close(missing[1:2], scores(base, rows(batch, 1)), rtol=0, atol=1e-4)
    torch.testing.assert_close(missing[[0, 2]], together[[0, 2]], rtol=0, atol=1e-4)
    model.max_new_tokens = 3
    said = model.describe(batch)
    assert [model.describe(rows(batch, row))[0] for row in range(3)] == said


def test_priors_learn_and_the_frozen_networks_do_not(folder: Path, mining: str) -> None:
    model = make(folder, mining, gate_lr=10.0).train()
    batch = tiny.batch_of(2)
    model.loss(batch).backward()
    assert model.llm.priors is not None
    learned = {n for n, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    part = {n for n in learned if ".priors.part." in n}
    assert part  # gates at once, what is behind them from the next step
    assert all(".priors.part." in n or "lora_" in n for n in learned)
    gates = {id(gate) for gate in model.llm.priors.gates()}
    for group in model.parameter_groups():
        own = {id(p) for p in group["params"]}
        if own & gates:
            assert own <= gates
            assert group["lr"] == pytest.approx(model.optim.lr * 10)
