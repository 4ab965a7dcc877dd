"""Fixtures that several test files share."""

from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def words(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the folder of a tokenizer of template texts."""
    from emo_tiny import save_tokenizer  # here, since it loads transformers

    return save_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="session")
def data_block() -> Callable[[Path], str]:
    """Return what reads the text of the data section of a recipe."""

    def text_of(path: Path) -> str:
        text = path.read_text()
        start = text.index("\ndata:\n") + 1
        lines = text[start:].splitlines()
        end = next(i for i, line in enumerate(lines[1:], 1) if not line.startswith(" "))
        return "\n".join(lines[:end])

    return text_of
