"""Fixtures that several test files share."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from servers import Reply, serving


@pytest.fixture
def serve() -> Iterator[Callable[[Reply], str]]:
    """Return what starts a server of some behaviour; it ends with the test."""
    with serving() as start:
        yield start


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
