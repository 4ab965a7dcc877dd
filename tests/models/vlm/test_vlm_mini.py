"""The small model of the package's own: what it is taught, and that it knows something."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from faceaffect.cli import main
from faceaffect.data.base import create_data
from faceaffect.data.batch import as_clips
from faceaffect.models.emo_llama.prompts import labels_of
from faceaffect.models.vlm.mini import MiniVlm
from faceaffect.models.vlm.prompts import Asker
from faceaffect.scores.answers import parse_aus, parse_expression


def test_descriptions_that_are_learned_say_what_is_there_and_signs_are_yes_or_no() -> None:
    data = create_data("synthetic", n=24, subjects=12, image_size=112, num_workers=0, batch_size=4)
    batch: Any = next(iter(data.train_dataloader()))
    model = MiniVlm(data.schema, words_rate=1.0)
    aus, rng = data.schema.aus, np.random.default_rng(0)
    model.au_weights = dict.fromkeys(aus, 2.0)

    def words(branch: Any) -> str:
        return str(model.model.tokenizer.decode([i for text in branch for i in text.ids]))

    asker = Asker(model.schema, model.chat, list(as_clips(batch)["video"]), model.forms)
    for sample in range(4):
        labels = labels_of(batch, sample, data.schema)
        active = [labels.aus[au] for au in aus]
        told = model._described(asker, sample, labels, rng)
        assert told is not None
        first, whole = (words(branch) for branch in told.branches)
        assert whole.startswith(first)
        for text in (first, whole):
            assert data.schema.expressions[parse_expression(text, data.schema.expressions)] == (
                labels.expression
            )
        assert parse_aus(whole, aus) == active
        signs = model._signs(asker, sample, labels, rng)
        assert signs is not None
        assert [words(b).endswith("yes") for b in signs.branches[:-1]] == active
        assert signs.weights[:-1] == [2.0 if on else 1.0 for on in active]
        assert parse_aus(words(signs.branches[-1]), aus) == active
    losses = model.losses(batch, rng)
    assert losses.shape == (12,)
    losses.mean().backward()
    trained = {name for name, p in model.named_parameters() if p.grad is not None}
    assert trained
    assert not any("vision_tower" in name for name in trained)


@pytest.mark.slow
def test_untrained_on_these_people_it_beats_the_trivial_baselines(tmp_path: Path) -> None:
    torch.manual_seed(0)
    own = ["data.n=600", "data.subjects=60", "data.seed=77", "data.cache=null",
           "data.num_workers=0", "trainer.accelerator=cpu", f"output={tmp_path}"]  # fmt: skip
    assert main(["train", "mini_vlm_zero_shot", *own]) == 0
    (run,) = (tmp_path / "mini_vlm_zero_shot").iterdir()
    result = json.loads((run / "metrics.json").read_text())
    for name in ("au_f1", "expression_war", "expression_uar", "va_ccc"):
        assert result["metrics"][name] > result["baselines"][name] + 0.05, name
    assert result["answering"]["forms"]["au"] == "signs"
