"""Checkpoints of strangers: damaged, incomplete, or made to hurt."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from faceaffect.cli import main
from faceaffect.errors import CheckpointError
from faceaffect.models.loading import create_model, load_model
from faceaffect.schema import LabelSchema

SCHEMA = LabelSchema((1, 12), ("happy", "sad"), True)


@pytest.fixture(scope="module")
def whole() -> dict[str, Any]:
    """Return the contents of a checkpoint."""
    model = create_model("gimefive", SCHEMA)
    checkpoint = {"state_dict": model.state_dict(), "hyper_parameters": dict(model.hparams)}
    model.recipe = {"name": "r", "sections": {"data": {"name": "csv", "table": "no.csv"},
                                              "model": {"name": "gimefive"}}}  # fmt: skip
    model.on_save_checkpoint(checkpoint)
    return checkpoint


def write(folder: Path, checkpoint: Any) -> str:
    torch.save(checkpoint, folder / "x.ckpt")
    return str(folder / "x.ckpt")


def test_a_whole_one_is_read(whole: dict[str, Any], tmp_path: Path) -> None:
    model = load_model(write(tmp_path, whole))
    assert {k: v.shape for k, v in model.state_dict().items()} == {
        k: v.shape for k, v in whole["state_dict"].items()
    }


WRONG: tuple[Any, ...] = (7, {1: 2}, None, 10**5000)


@pytest.mark.parametrize("key", [
    "state_dict", "hyper_parameters", "faceaffect", "faceaffect.format", "faceaffect.model",
    "faceaffect.schema", "faceaffect.frozen", "faceaffect.statistics", "faceaffect.recipe",
    "hyper_parameters.schema", "hyper_parameters.block_dropout",
])  # fmt: skip
def test_a_missing_or_wrong_key_is_one_line(
    whole: dict[str, Any], tmp_path: Path, key: str, capsys: pytest.CaptureFixture[str]
) -> None:
    outer, _, inner = key.partition(".")
    for value in ("missing", *WRONG):
        checkpoint = dict(whole)
        holder = checkpoint if not inner else dict(whole[outer])
        if inner:
            checkpoint[outer] = holder
        if value == "missing":
            del holder[inner or outer]
        else:
            holder[inner or outer] = value
        code = main(["test", write(tmp_path, checkpoint)])
        error = capsys.readouterr().err
        assert code == 2, (key, str(type(value)))
        assert error.startswith("error: ")
        assert error.count("\n") == 1, error


class _Runs:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch ran",)


def test_a_pickle_runs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["test", write(tmp_path, {"faceaffect": _Runs()})]) == 2
    assert "could run code" in capsys.readouterr().err
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["../../up", "..", "/etc/up", "a\0b"])
def test_a_name_does_not_lead_out_of_the_output(
    whole: dict[str, Any], tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = whole["faceaffect"]["recipe"] | {"name": name}
    source = write(tmp_path, whole | {"faceaffect": whole["faceaffect"] | {"recipe": recipe}})
    assert main(["test", source]) == 2
    assert "is no name of a recipe" in capsys.readouterr().err


def test_a_cut_file_is_named(whole: dict[str, Any], tmp_path: Path) -> None:
    source = write(tmp_path, whole)
    os.truncate(source, 1000)
    with pytest.raises(CheckpointError, match=r"x\.ckpt"):
        load_model(source)
