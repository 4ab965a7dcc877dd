"""The small vision-language models beside specialists, in one report on the same samples."""

import json
from pathlib import Path

import pytest

from faceaffect.cli import main
from faceaffect.runs import cost

ENTRANTS = ["mini_auformer", "mini_vlm_zero_shot", "mini_vlm", "mini_vlm_priors", "mini_emo_llama"]


@pytest.mark.slow
def test_untrained_and_tuned_models_stand_in_one_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cost, "seconds_per_batch", lambda *_: 1.0)  # of this machine, not of it
    small = ["data.n=60", "data.subjects=20", "data.num_workers=0", "data.cache=null",
             "data.batch_size=4", "trainer.limit_train_batches=1", "trainer.limit_val_batches=1",
             "trainer.accelerator=cpu", f"output={tmp_path}"]  # fmt: skip
    assert main(["compare", *ENTRANTS, *small]) == 0
    (file,) = tmp_path.glob("compare/*/report.json")
    report = file.read_text()
    assert json.loads(report)
    assert all(name in report for name in ENTRANTS)
    for name in ENTRANTS:
        (run,) = (tmp_path / name).iterdir()
        result = json.loads((run / "metrics.json").read_text())
        assert ("training" in result) == (name != "mini_vlm_zero_shot")
