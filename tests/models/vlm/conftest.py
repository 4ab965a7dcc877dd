"""The families of vision-language models, each written once for all tests of a process."""

from pathlib import Path

import pytest

import vlm_tiny as tiny


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return a dictionary that keeps the families that were written."""
    root = tmp_path_factory.mktemp("families")
    return {"root": root}


@pytest.fixture(params=sorted(tiny.FAMILIES))
def family(request: pytest.FixtureRequest) -> str:
    if request.param == "smolvlm":
        pytest.importorskip("num2words")
    return request.param


@pytest.fixture
def folder(family: str, folders: dict[str, Path]) -> Path:
    if family not in folders:
        folders[family] = tiny.FAMILIES[family](folders["root"] / family)
    return folders[family]
