import csv
import json
import logging
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from faceaffect.cli import main
from faceaffect.cli.arguments import without_launcher
from faceaffect.errors import FaceAffectError
from faceaffect.recipe import load_recipe
from faceaffect.runs import launch

RECIPE = """
model: {name: timm_classifier, backbone: test_vit}
data: {name: synthetic, n: 24, subjects: 8, image_size: 32, batch_size: 8, num_workers: 0,
       protocol: {name: subject_kfold, folds: 2}}
trainer: {max_epochs: 1, accelerator: cpu}
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(RECIPE)
    return path


def summary(output: Path) -> dict[str, object]:
    (file,) = output.glob("tiny-crossval/*/summary.json")
    found: dict[str, object] = json.loads(file.read_text())
    del found["runs"]
    return found


@pytest.fixture
def tasks(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Run the parts of a command in this process, in the order in which a cluster may end them."""
    done: list[list[str]] = []

    def on_cluster(words: list[str], parts: int) -> None:
        for part in reversed(range(1, parts + 1)):
            done.append([*words, "--part", str(part)])
            assert main(done[-1]) == 0

    monkeypatch.setattr(launch, "on_ray", on_cluster)
    return done


def test_a_spread_crossval_is_that_of_one_machine(
    recipe: Path, tmp_path: Path, tasks: list[list[str]]
) -> None:
    one, other = f"output={tmp_path / 'one'}", f"output={tmp_path / 'other'}"
    assert main(["crossval", str(recipe), one]) == 0
    assert main(["crossval", str(recipe), "--launcher", "ray", other]) == 0
    assert len(tasks) == 2
    assert summary(tmp_path / "one") == summary(tmp_path / "other")
    assert len(list((tmp_path / "other/tiny").iterdir())) == 2  # nothing was trained twice


@pytest.mark.slow
def test_a_spread_comparison_trains_each_seed_once(
    recipe: Path, tmp_path: Path, tasks: list[list[str]]
) -> None:
    words = ["compare", str(recipe), "--seeds", "2", f"output={tmp_path}", "--launcher=ray"]
    assert main(words) == 0
    assert len(tasks) == 2
    assert len(list((tmp_path / "tiny").iterdir())) == 2
    assert len(list((tmp_path / "compare").iterdir())) == 1


@pytest.mark.parametrize("part", ["0", "3"])
def test_a_part_that_is_none_is_refused(
    recipe: Path, part: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["crossval", str(recipe), "--part", part]) == 2
    assert "parts 1 to 2" in capsys.readouterr().err


def test_the_script_of_an_array_runs_every_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """bash is what SLURM would start; a program that notes its words stands for ours."""
    noted = tmp_path / "noted"
    program = tmp_path / "program"
    program.write_text(f'#!/bin/bash\necho "${{@:3}}" >> {noted}\n')
    program.chmod(0o755)
    monkeypatch.setattr(launch.sys, "executable", str(program))
    script = launch.for_slurm(["crossval", "a b.yaml", "x=1"], 2, tmp_path)
    assert "#SBATCH --array=1-2" in script.read_text()
    for task in ("1", "2"):
        environment = os.environ | {"SLURM_ARRAY_TASK_ID": task}
        subprocess.run(["bash", str(script)], env=environment, check=True)
    assert noted.read_text().splitlines() == [
        f"crossval a b.yaml x=1 --part {task}" for task in ("1", "2")
    ]


def test_a_task_that_is_told_to_end_is_queued_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program, queued = tmp_path / "program", tmp_path / "queued"
    program.write_text(
        "#!/bin/bash\ntrap 'exit 143' TERM\nsleep 0.5\nkill -TERM $PPID\nsleep 20 & wait\n"
    )
    scontrol = tmp_path / "bin/scontrol"
    scontrol.parent.mkdir()
    scontrol.write_text(f'#!/bin/bash\necho "$@" > {queued}\n')
    for file in (program, scontrol):
        file.chmod(0o755)
    monkeypatch.setattr(launch.sys, "executable", str(program))
    script = launch.for_slurm(["crossval", "x"], 1, tmp_path)
    environment = os.environ | {
        "PATH": f"{scontrol.parent}:{os.environ['PATH']}",
        "SLURM_ARRAY_TASK_ID": "1",
        "SLURM_ARRAY_JOB_ID": "77",
    }
    assert subprocess.run(["bash", str(script)], env=environment, check=False).returncode == 143
    assert queued.read_text() == "requeue 77_1\n"


@pytest.fixture
def words(recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The words of a command of which a file stands for each part, see there; on eight cores."""
    stand_in = shutil.copy(Path(__file__).parent.parent / "stands_for_a_part.py", tmp_path)
    monkeypatch.setattr(launch, "processors", lambda: sorted(os.sched_getaffinity(0)) * 4)
    return ["crossval", str(recipe), "--import", str(stand_in)]


def noted(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(file.read_text()) for file in sorted(folder.glob("part-*.json"))]


@pytest.mark.parametrize("at_once", [None, 1, 2])
def test_parts_on_this_machine_share_its_cores(
    recipe: Path,
    words: list[str],
    tmp_path: Path,
    at_once: int | None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Each is a program of its own, with the words, variables and place of the command."""
    monkeypatch.setenv("GIVEN", "now")
    cores = len(launch.processors())
    launch.on_this_machine(words, [load_recipe(str(recipe))] * 3, at_once)
    threads = -(-cores // min(at_once or cores, 3)), cores // min(at_once or cores, 3)
    parts = noted(tmp_path)
    assert [part["words"] for part in parts] == [[*words, "--part", str(i)] for i in (1, 2, 3)]
    for part in parts:
        assert int(part["OMP_NUM_THREADS"]) in threads
        assert part["threads"] == [int(part["OMP_NUM_THREADS"])]
        assert set(part["cores"]) <= set(launch.processors())
        assert part["program"] == "faceaffect.cli.__main__"  # which starts those of more devices
        assert part["GIVEN"] == "now"
        assert not part["terminal"]
    said = capsys.readouterr().out
    assert "2: words of part 2" in said
    assert "3: errors of part 3" in said
    assert "part 3 of 3 is done" in said


def test_a_part_on_this_machine_has_a_gpu_of_its_own(
    recipe: Path, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7")
    launch.on_this_machine(words, [load_recipe(str(recipe))] * 2, None)
    assert {part["CUDA_VISIBLE_DEVICES"] for part in noted(tmp_path)} == {"5", "7"}


def test_a_part_that_fails_on_this_machine_ends_the_others(
    recipe: Path, words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "fail").touch()
    begun = time.monotonic()
    with pytest.raises(FaceAffectError, match="part 2 of 3 failed, the others are stopped"):
        launch.on_this_machine(words, [load_recipe(str(recipe))] * 3, 3)
    assert time.monotonic() - begun < 30  # they would sleep for a minute
    assert "2: words of part 2" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--launcher", "local", "--at-once", "0"], "--at-once: 0 is not positive"),
        (["--launcher", "slurm", "--at-once", "2"], "slurm has its own queue"),
    ],
)
def test_so_many_at_once_that_cannot_be(
    recipe: Path, words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["crossval", str(recipe), *words]) == 2
    assert said in capsys.readouterr().err


def test_words_of_the_launcher_are_left_out() -> None:
    words = ["tune", "--launcher", "slurm", "x", "--trials", "3"]
    assert without_launcher(words) == ["tune", "x", "--trials", "3"]
    assert without_launcher(["tune", "--launcher=ray", "x"]) == ["tune", "x"]
    assert without_launcher(["tune", "--at-once", "2", "x", "--at-once=3"]) == ["tune", "x"]


def test_a_cluster_that_cannot_be_reached_is_one_line(
    recipe: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ray = pytest.importorskip("ray")

    def refused(**_options: object) -> None:
        raise ConnectionError("Could not find any running Ray instance.")

    monkeypatch.setattr(ray, "init", refused)
    assert main(["crossval", str(recipe), "--launcher", "ray"]) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1
    assert "no cluster can be reached" in said[0]


@pytest.fixture
def cluster() -> Iterator[None]:
    """A cluster of Ray on this machine, which the commands of a test share."""
    ray = pytest.importorskip("ray")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    yield
    ray.shutdown()


@pytest.mark.slow
def test_a_comparison_and_a_search_on_a_local_cluster(
    recipe: Path, tmp_path: Path, cluster: None
) -> None:
    """The comparison is that of one machine; the search makes as many trials, none twice."""
    one, other, second = tmp_path / "one", tmp_path / "other", tmp_path / "second.yaml"
    second.write_text(RECIPE + "optim: {lr: 1e-2}\n")
    words = ["compare", str(recipe), str(second)]
    assert main([*words, f"output={one}"]) == 0
    assert main([*words, "--launcher", "ray", f"output={other}"]) == 0
    assert report(one) == report(other)
    answers = [sorted(file.read_text() for file in output.glob("[ts]*/2*/predictions.csv"))
               for output in (one, other)]  # fmt: skip
    assert len(answers[0]) == 2
    assert answers[0] == answers[1]
    space = tmp_path / "space.yaml"
    space.write_text("optim.lr: {low: 1e-4, high: 1e-2, log: true}\n")
    words = ["tune", str(recipe), str(space), "--trials", "3", f"output={other}"]
    assert main([*words, "--launcher", "ray", "--workers", "2"]) == 0
    (history,) = other.glob("tune/*/history.csv")
    with history.open() as file:
        trials = list(csv.DictReader(file))
    assert {row["state"] for row in trials} == {"complete"}
    for key in ("trial", "optim.lr"):  # of the numbers some may stand for what two began at once
        assert len(trials) == len({row[key] for row in trials}) == 3


def report(output: Path) -> dict[str, object]:
    """Return what a comparison found, without times and places."""
    (file,) = output.glob("compare/*/report.json")
    found = json.loads(file.read_text())
    metrics = {name: model["metrics"] for name, model in found["models"].items()}
    return {"models": metrics, "pairs": found["pairs"], "n": found["n"]}


@pytest.mark.slow
def test_side_by_side_on_this_machine_gives_the_result_of_one_after_another(
    recipe: Path, tmp_path: Path
) -> None:
    one, other = f"output={tmp_path / 'one'}", f"output={tmp_path / 'other'}"
    assert main(["crossval", str(recipe), one]) == 0
    assert main(["crossval", str(recipe), "--launcher", "local", other]) == 0
    assert summary(tmp_path / "one") == summary(tmp_path / "other")
