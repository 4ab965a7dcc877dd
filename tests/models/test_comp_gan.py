"""The two editing generators: what they learn from, what they return, their recipe."""

import json
from pathlib import Path

import pytest
import torch

from faceaffect.cli import main
from faceaffect.data.base import create_data
from faceaffect.errors import DataError, RecipeError
from faceaffect.models.comp_gan import CompGan, Editor
from faceaffect.models.loading import load_model
from faceaffect.schema import LabelSchema

QUARTETS = {"n": 24, "subjects": 12, "image_size": 32, "batch_size": 8, "num_workers": 0}


def test_editors_learn_on_a_few_quartets_and_the_judge_gets_nothing_from_them() -> None:
    torch.manual_seed(0)
    data = create_data("expression_quartets", **QUARTETS)
    model = CompGan(data.schema, width=4, code=8)
    batch = next(iter(data.in_order("train")))
    loss = model.loss(batch)
    loss.backward()
    grads = {name: p.grad for name, p in model.named_parameters()}
    assert all(grad is not None and torch.isfinite(grad).all() for grad in grads.values())
    # What the editors lose by the judge moves the editors alone.
    judged = {n: g.clone() for n, g in grads.items() if n.startswith("judge.")}
    model.zero_grad()
    without = CompGan(data.schema, width=4, code=8, adversarial=0.0, task=0.0)
    without.load_state_dict(model.state_dict())
    without.loss(batch).backward()
    for name, grad in judged.items():
        assert torch.allclose(grad, without.get_parameter(name).grad, atol=1e-6), name
    optimiser = torch.optim.Adam(model.parameters(), 3e-3)
    before = float(loss.detach())
    for _ in range(12):
        optimiser.zero_grad()
        loss = model.loss(batch)
        loss.backward()
        optimiser.step()
    assert float(loss.detach()) < before


def test_an_editor_that_keeps_begins_with_the_picture_as_it_is() -> None:
    editor = Editor(4, 8, keeps=True)
    x, y = torch.rand(2, 3, 32, 32) * 2 - 1, torch.rand(2, 3, 32, 32) * 2 - 1
    assert torch.equal(editor(x, y), x)
    (editor(x, y) - y).abs().mean().backward()
    assert editor.end.weight.grad.abs().max() > 0  # and is moved from there
    assert Editor(4, 8)(x, y).abs().max() <= 1


def test_edited_pictures_are_pictures() -> None:
    model = CompGan(LabelSchema(expressions=("a", "b")), width=4, code=8)
    faces = torch.randint(0, 256, (5, 3, 40, 40), dtype=torch.uint8)
    made = model.edit(faces, faces.flip(0))
    assert made.shape == faces.shape
    assert made.dtype == torch.uint8


@pytest.mark.parametrize(
    ("args", "message"), [({"width": 2}, "model.width: 2"), ({"task": -1.0}, "model.task")]
)
def test_wrong_numbers_are_told(args: dict, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        CompGan(LabelSchema(expressions=("a", "b")), **args)
    with pytest.raises(RecipeError, match="needs data with expressions"):
        CompGan(LabelSchema(aus=(1,)))


def test_other_data_than_quartets_is_refused() -> None:
    data = create_data("synthetic", n=20, subjects=10, image_size=32, num_workers=0)
    model = CompGan(data.schema, width=4, code=8)
    with pytest.raises(DataError, match="expression_quartets"):
        model.loss(next(iter(data.in_order("test"))))


def test_the_recipe_trains_and_its_run_edits(tmp_path: Path) -> None:
    short = ["data.n=40", "data.subjects=20", "data.image_size=32", "data.num_workers=0",
             "data.protocol.folds=4", "data.cache=null", "trainer.max_epochs=1", "model.width=4",
             "trainer.accelerator=cpu", f"output={tmp_path}"]  # fmt: skip
    assert main(["train", "few_shot_comp_gan", *short]) == 0
    (run,) = (tmp_path / "few_shot_comp_gan").iterdir()
    metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))["metrics"]
    assert {"expression_l1", "expression_l1_unedited", "person_l1"} <= set(metrics)
    model = load_model(run)
    faces = torch.zeros(2, 3, 32, 32, dtype=torch.uint8)
    assert model.edit(faces, faces).shape == faces.shape
