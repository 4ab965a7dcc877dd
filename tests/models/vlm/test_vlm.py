"""Prompts as data, few-shot examples, zero-shot runs, and what is refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import vlm_tiny as tiny
from faceaffect.cli import main
from faceaffect.data.base import create_data
from faceaffect.errors import CheckpointError, DataError, RecipeError
from faceaffect.instructions.items import Labels
from faceaffect.instructions.phrases import AU_SIGNS
from faceaffect.models.vlm.shots import draw
from faceaffect.schema import LabelSchema
from faceaffect.scores.answers import parse_aus

DATA = ["data.name=synthetic", "data.n=60", "data.subjects=20", "data.num_workers=0",
        "data.batch_size=6", "data.image_size=32", "data.cache=null",
        "trainer.accelerator=cpu", "trainer.limit_test_batches=1"]  # fmt: skip


@pytest.fixture(scope="module")
def llava(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.llava(tmp_path_factory.mktemp("llava") / "model")


@torch.no_grad()
@pytest.mark.parametrize("form", ["signs", "yes_no", "describe", "retell", "think"])
def test_forms_answer_in_range(llava: Path, form: str) -> None:
    prompts: dict[str, Any] = {"au": {"form": form}}
    if form not in ("signs", "yes_no"):
        prompts["expression"] = {"form": form}
    model = tiny.make(llava, prompts=prompts, dtype="float32", max_new_tokens=4).eval()
    answers = model.predict(tiny.batch_of(2))
    assert answers["au"].shape == (2, 3)
    assert answers["expression"].shape == (2, 3)
    read = form == "describe"
    assert answers["au"].isnan().any() == read  # random weights say nothing readable
    assert ("text" in answers) == read
    if not read:
        torch.testing.assert_close(answers["expression"].sum(1), torch.ones(2))
    assert model.answering()["forms"]["au"] == form


@torch.no_grad()
def test_yes_no_asks_each_au_by_itself_and_own_words_are_filled_in(llava: Path) -> None:
    own = {"system": "Be brief.", "au": {"form": "yes_no", "question": "{name}? {media} AU{au}"},
           "expression": {"question": "Of {options}?"}}  # fmt: skip
    model = tiny.make(llava, prompts=own, dtype="float32").eval()
    asker = model.asker(tiny.batch_of(1))
    asked = [prompt.exchanges[-1].question for prompt in asker.score(0, "au")]
    assert asked == ["inner brow raiser? image AU1", "brow lowerer? image AU4",
                     "lip corner puller? image AU12"]  # fmt: skip
    (prompt,) = asker.score(0, "expression")
    assert prompt.exchanges[-1].question == "Of anger, happiness, neutral?"
    assert model.chat.text(prompt).startswith("SYSTEM: Be brief.")


@torch.no_grad()
def test_signs_are_asked_in_words_and_learned_as_they_are_scored(llava: Path) -> None:
    form = {"au": {"form": "signs", "question": "Which of {options}?"}}
    schema = LabelSchema((1, 27, 12))  # of AU27 there is a name and no sign
    model = tiny.make(llava, schema, prompts=form, dtype="float32").eval()
    asker = model.asker(tiny.batch_of(1))
    (prompt,) = asker.score(0, "au")
    said = ["the inner brows are raised", "mouth stretch", "the lip corners are pulled up"]
    assert prompt.exchanges[-1].question == f"Which of {', '.join(said)}?"
    whole = [model.llm.tokenizer.decode([i for text in b for i in text.ids]).strip()
             for b in prompt.branches]  # fmt: skip
    assert whole == [f"{sign}: {word}" for sign in said for word in ("yes", "no")]
    labels = Labels(aus={1: True, 27: True, 12: False})
    learned = asker.learn(0, "au", labels, np.random.default_rng(0), {1: 3.0})
    chosen = [whole.index(model.llm.tokenizer.decode([i for t in b for i in t.ids]).strip())
              for b in learned.branches[:-1]]  # fmt: skip
    assert chosen == [0, 2, 5]
    assert learned.weights[:3] == [3.0, 1.0, 1.0]
    plain = tiny.make(llava, schema, dtype="float32").eval()
    assert not torch.allclose(model.predict(tiny.batch_of(1))["au"],
                              plain.predict(tiny.batch_of(1))["au"])  # fmt: skip


@torch.no_grad()
def test_calibration_takes_away_what_a_grey_picture_scores(llava: Path) -> None:
    model = tiny.make(llava, calibration="blank", dtype="float32").eval()
    grey = tiny.batch_of(2)
    grey["video"][:] = 127
    answers = model.predict(grey)
    torch.testing.assert_close(answers["expression"], torch.full((2, 3), 1 / 3))
    torch.testing.assert_close(answers["au"], torch.full((2, 3), 0.5))
    assert model.answering()["calibrated"] == ["expression", "au", "va"]


def test_examples_are_of_training_people_alone() -> None:
    data = create_data("synthetic", n=60, subjects=20, image_size=32, num_workers=0)
    shots = draw(data, 5, data.schema, seed=1)
    ids, people = data.dataset.samples.id, data.dataset.samples.subject
    training = set(ids[data.split.train].tolist())
    assert {shot.id for shot in shots} <= training
    who = {str(person) for name, person in zip(ids, people, strict=True)
           if name in {s.id for s in shots}}  # fmt: skip
    assert len(who) == 5
    assert len({shot.labels.expression for shot in shots}) > 2
    with pytest.raises(DataError, match="training part has"):
        draw(data, 1000, data.schema, seed=1)


def test_zero_shot_is_a_recipe_that_tests_and_can_be_tested_again(
    llava: Path, tmp_path: Path
) -> None:
    overrides = [f"model.checkpoint={llava}", "model.shots=2",
                 *(f"model.prompts.{task}.form=options" for task in ("expression", "au", "va")),
                 "data.aus=[1,4,12]", f"output={tmp_path}", *DATA]  # fmt: skip
    assert main(["train", "mini_vlm_zero_shot", *overrides]) == 0
    (run,) = (tmp_path / "mini_vlm_zero_shot").iterdir()
    result = json.loads((run / "metrics.json").read_text())
    assert result["answering"]["shared_prompt"]
    assert len(result["answering"]["examples"]) == 2
    assert "training" not in result
    assert main(["test", str(run)]) == 0
    (tested,) = (run / "tests").iterdir()
    again = json.loads((tested / "metrics.json").read_text())
    assert again["metrics"] == pytest.approx(result["metrics"], abs=1e-5, nan_ok=True)


def test_only_models_that_know_something_are_tested_untrained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "mini_probe", "trainer.max_epochs=0", f"output={tmp_path}"]) == 2
    assert "max_epochs: with 0 nothing is trained" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"prompts": {"au": {"form": "options"}}}, "the data has no such labels"),
        ({"prompts": {"expression": {"question": "{mood}?"}}}, "nothing fills {mood}"),
        ({"prompts": {"expression": {"question": "{options"}}}, "expected '}'"),
        ({"prompts": {"expression": {"form": "yes_no"}}}, "yes_no is about AUs"),
        ({"prompts": {"expression": {"form": "signs"}}}, "signs is about AUs"),
        ({"prompts": {"expression": {"form": "hm"}}}, "is no form"),
        ({"shots": 2, "prompts": {"expression": {"form": "think"}}}, "examples have an answer"),
        ({"lora": {"targets": ["q_prj"]}}, "did you mean 'q_proj'"),
        ({"revision": "main"}, "needs pretrained: true"),
        ({"checkpoint": "owner/model"}, "pretrained: true"),
    ],
)
def test_wrong_settings_are_one_error(llava: Path, changes: dict[str, Any], words: str) -> None:
    schema = LabelSchema(expressions=("anger", "happiness"))
    with pytest.raises(RecipeError, match=words):
        tiny.make(llava, schema, **changes)


def test_what_is_no_vision_language_model_is_one_error(llava: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="not open as an image-text model"):
        tiny.make(Path("asset:mini_llama"))
    for number, (name, key, words) in enumerate(
        [
            ("chat_template.jinja", "", "no chat template"),
            ("model.safetensors", "", "not loadable as an image-text model"),
            ("config.json", "auto_map", "type 'other'"),
        ]
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        for file in llava.iterdir():
            if file.name != name:
                (folder / file.name).write_bytes(file.read_bytes())
        if key:
            about = {"model_type": "other", "auto_map": {"AutoModel": "code.Model"}}
            (folder / name).write_text(json.dumps(about))
            words = "not readable as a configuration"
        with pytest.raises(CheckpointError, match=words):
            tiny.make(folder)


def test_prompts_beyond_the_context_are_one_error(llava: Path) -> None:
    model = tiny.make(llava, dtype="float32").eval()
    model.llm.context = 40
    with pytest.raises(RecipeError, match=r"takes 40. Use fewer frames"):
        model.predict(tiny.batch_of(1, frames=4))


def test_every_sign_of_a_description_is_read_as_its_action_unit() -> None:
    for au, signs in AU_SIGNS.items():
        for sign in signs:
            assert parse_aus(f"On this face {sign}.", list(AU_SIGNS)) == [a == au for a in AU_SIGNS]
