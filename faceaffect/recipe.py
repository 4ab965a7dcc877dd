"""Recipes: YAML plus ``key=value`` overrides, checked, resolved and turned into plain Python.

A recipe is data, never code. Sections and component names are checked without importing anything
heavy; a component's arguments are checked when it is built, see :mod:`faceaffect.components`.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from faceaffect.errors import RecipeError, first_line, suggest
from faceaffect.registry import as_node, check_name

SECTIONS: dict[str, type] = {
    "seed": int,
    "model": dict,
    "data": dict,
    "optim": dict,
    "trainer": dict,
    "checkpoint": dict,
    "callbacks": list,
    "logger": list,
    "task_weights": dict,
    "tuned": dict,
    "output": str,
}
"""The sections of a recipe and what each holds."""

_DEFAULTS: dict[str, Any] = {"seed": 0, "output": "runs", "logger": ["csv"]}


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A checked recipe: its short name and its sections as plain Python."""

    name: str
    sections: dict[str, Any]

    def __getitem__(self, section: str) -> Any:
        """Return a section; an absent one is empty."""
        return self.sections.get(section, SECTIONS[section]())

    def yaml(self) -> str:
        """Return the resolved recipe as YAML."""
        return OmegaConf.to_yaml(OmegaConf.create(self.sections))


def recipe_folder() -> Path:
    """Return the folder of the recipes that the package ships."""
    inside = Path(__file__).parent / "recipes"
    return inside if inside.is_dir() else Path(__file__).parents[1] / "recipes"


def list_recipes() -> list[str]:
    """Return the names of the shipped recipes."""
    return sorted(path.stem for path in recipe_folder().glob("*.yaml"))


def find_recipe(name: str) -> Path:
    """Return the file that a path or the bare name of a shipped recipe points to.

    Raises:
        RecipeError: there is no such file and no such shipped recipe; the nearest name is given.
    """
    path = Path(name)
    if path.is_file():
        return path
    shipped = recipe_folder() / f"{name.removesuffix('.yaml')}.yaml"
    if shipped.is_file() and path.name == name:
        return shipped
    near = suggest(path.stem, list_recipes())
    raise RecipeError(
        f"no recipe '{name}': neither a file nor a shipped recipe{near or '.'} "
        "'faceaffect ls recipes' lists them"
    )


def load_recipe(name: str, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe by path or shipped name, apply ``key=value`` overrides and check it.

    Raises:
        RecipeError: the file, an override, a section or a component's name is wrong.
    """
    path = find_recipe(name)
    try:
        config = OmegaConf.load(path)
    except Exception as error:
        raise RecipeError(f"{path}: not readable as YAML: {' '.join(str(error).split())}") from None
    if not isinstance(config, DictConfig):
        raise RecipeError(f"{path}: a recipe is a mapping of sections: {', '.join(SECTIONS)}")
    return resolve(path.stem, config, overrides, str(path))


def resolve(
    name: str,
    config: DictConfig | Mapping[str, Any],
    overrides: Sequence[str],
    where: str = "recipe",
) -> Recipe:
    """Merge overrides into a recipe, resolve interpolations and check sections and names.

    An override that gives ``data.name`` or ``model.name`` another value replaces that whole
    section, since the arguments of one component mean nothing to another.

    Raises:
        RecipeError: an override, a section or a component's name is wrong.
    """
    config = OmegaConf.create(dict(config)) if not isinstance(config, DictConfig) else config
    for item in overrides:
        if "=" not in item:
            raise RecipeError(
                f"'{item}' is no override: write key=value, for instance data.batch_size=16"
            )
    for section in ("data", "model"):
        renamed = [o.partition("=")[2] for o in overrides if o.startswith(f"{section}.name=")]
        before = OmegaConf.select(config, f"{section}.name")
        if renamed and before is not None and renamed[-1] != before:
            config[section] = {}
    try:
        config.merge_with_dotlist(_outer_first(overrides))
        sections = OmegaConf.to_container(config, resolve=True)
    except OmegaConfBaseException as error:
        key = getattr(error, "full_key", None)
        raise RecipeError(f"{where}: {f'{key}: ' if key else ''}{first_line(error)}") from None
    assert isinstance(sections, dict)
    return Recipe(name, {**_DEFAULTS, **_check_sections(sections, where)})


def _outer_first(overrides: Sequence[str]) -> list[str]:
    """Put an override of a section before those of its keys, so that the keys are not lost."""
    return sorted(overrides, key=lambda item: item.partition("=")[0].count("."))


def _check_sections(sections: dict[Any, Any], where: str) -> dict[str, Any]:
    for section, value in sections.items():
        if section not in SECTIONS:
            near = suggest(str(section), SECTIONS)
            raise RecipeError(
                f"{where}: unknown section '{section}'{near or '.'} Sections: {', '.join(SECTIONS)}"
            )
        kind = SECTIONS[section]
        if section == "logger" and isinstance(value, (str, dict)):
            sections[section] = value = [value]
        if not isinstance(value, kind) or isinstance(value, bool):
            raise RecipeError(f"{where}: {section}: {value!r} is no {kind.__name__}")
    for section in ("model", "data"):
        if section not in sections:
            raise RecipeError(f"{where}: the section '{section}' is missing")
    check_name("models", sections["model"].get("name"), "model.name")
    check_name("data", sections["data"].get("name"), "data.name")
    for section, table in (("callbacks", "callbacks"), ("logger", "loggers")):
        for index, node in enumerate(sections.get(section, [])):
            check_name(table, as_node(node).get("name"), f"{section}[{index}].name")
    return sections
