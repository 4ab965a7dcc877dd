"""Names and what stands behind them."""

import pytest

from faceaffect.errors import RecipeError
from faceaffect.registry import TABLES, get, names_with


@pytest.mark.parametrize("path", ["faceaffect.schema:Own", "no_such_package.models:Own"])
def test_a_name_that_points_to_nothing_is_named(path: str) -> None:
    TABLES["models"]["own"] = path
    with pytest.raises(RecipeError, match=f"'own' points to {path}, which is not there"):
        get("models", "own")
    assert "own" not in names_with("models", "graphs")


def test_a_package_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(module: str) -> None:
        raise ModuleNotFoundError(f"No module named 'rays' in {module}", name="rays")

    monkeypatch.setattr("faceaffect.registry.import_module", missing)
    with pytest.raises(RecipeError, match="'sacl' needs the package rays: pip install rays"):
        get("models", "sacl")


def test_the_registry_is_left_as_it_was_found() -> None:
    assert "own" not in TABLES["models"]
