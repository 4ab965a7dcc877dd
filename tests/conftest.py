"""Fixtures that several test files share."""

import pytest


@pytest.fixture(scope="session")
def words(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the folder of a tokenizer of template texts."""
    from emo_tiny import save_tokenizer  # here, since it loads transformers

    return save_tokenizer(tmp_path_factory.mktemp("tokenizer"))
