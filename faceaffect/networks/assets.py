"""The weights that the package ships, by name; nothing heavy is imported to look for them."""

from pathlib import Path

from faceaffect.errors import RecipeError, unknown

ASSETS = Path(__file__).parents[1] / "assets"
"""The folder of the weights that the package ships."""

PREFIX = "asset:"
"""What stands before the name of an asset where a file could be named as well."""


def list_assets() -> list[str]:
    """Return the names of the weights that the package ships."""
    return sorted(path.stem for path in ASSETS.glob("*.safetensors"))


def asset_path(name: str) -> Path:
    """Return the file of an asset.

    Raises:
        RecipeError: the package ships no such asset.
    """
    if name not in list_assets():
        raise RecipeError(unknown("asset", name, list_assets()))
    return ASSETS / f"{name}.safetensors"


def file_of(source: str | Path) -> Path:
    """Return the file that ``asset:NAME`` stands for, and any other path as it is.

    Raises:
        RecipeError: the package ships no such asset.
    """
    name = str(source)
    return asset_path(name.removeprefix(PREFIX)) if name.startswith(PREFIX) else Path(source)
