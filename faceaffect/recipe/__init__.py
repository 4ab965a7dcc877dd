"""Recipes: YAML plus ``key=value`` overrides, checked, resolved and turned into plain Python.

A recipe is data, never code. Sections and component names are checked without importing anything
heavy; a component's arguments are checked when it is built, see :mod:`faceaffect.components`.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from faceaffect.components import at_home
from faceaffect.errors import RecipeError, first_line, printable, shown, suggest
from faceaffect.recipe.interpolation import (
    Environment,
    check_references,
    forgotten,
    map_strings,
    without,
)
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
    "subject_names": bool,
}
"""The sections of a recipe and what each holds."""

_DEFAULTS: dict[str, Any] = {"seed": 0, "output": "runs", "logger": ["csv"]}


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A checked recipe as plain Python.

    Attributes:
        name: its short name.
        sections: as the program uses them.
        stored: the same as it is written to disk: references are resolved, the environment not.
    """

    name: str
    sections: dict[str, Any]
    stored: dict[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.stored:
            object.__setattr__(self, "stored", self.sections)

    def __getitem__(self, section: str) -> Any:
        """Return a section; an absent one is empty."""
        return self.sections.get(section, SECTIONS[section]())

    def changed(self, change: Callable[[dict[str, Any]], dict[str, Any]]) -> "Recipe":
        """Return the recipe with other sections, those that are used and those that are stored."""
        return Recipe(self.name, change(self.sections), change(self.stored))

    def yaml(self) -> str:
        """Return the recipe as it is stored, as YAML."""
        return OmegaConf.to_yaml(OmegaConf.create(self.stored))


def recipe_folder() -> Path:
    """Return the folder of the recipes that the package ships."""
    package = Path(__file__).parents[1]
    inside = package / "recipes"
    return inside if inside.is_dir() else package.parent / "recipes"


def list_recipes() -> list[str]:
    """Return the names of the shipped recipes."""
    return sorted(path.stem for path in recipe_folder().glob("*.yaml"))


def find_recipe(name: str) -> Path:
    """Return the file that a path or the bare name of a shipped recipe points to.

    Raises:
        RecipeError: there is no such file and no such shipped recipe; the nearest name is given.
    """
    path = Path(name).expanduser()
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
    return resolve(path.stem, read_config(path), overrides, str(path))


def read_config(path: Path) -> DictConfig:
    """Return the sections of a file as they are written.

    Raises:
        RecipeError: it is no YAML, or holds no sections.
    """
    try:
        config = OmegaConf.load(path)
    except Exception as error:
        raise RecipeError(f"{path}: not readable as YAML: {' '.join(str(error).split())}") from None
    if not isinstance(config, DictConfig):
        raise RecipeError(f"{path}: a recipe is a mapping of sections: {', '.join(SECTIONS)}")
    return config


def resolve(
    name: str,
    config: DictConfig | Mapping[str, Any],
    overrides: Sequence[str],
    where: str = "recipe",
    *,
    stored: bool = False,
) -> Recipe:
    """Merge overrides into a recipe, resolve interpolations and check sections and names.

    An override that gives ``data.name`` or ``model.name`` another value replaces that whole
    section, since the arguments of one component mean nothing to another.

    Args:
        name: of the recipe, from which the folder of its runs is named.
        config: its sections.
        overrides: ``key=value``, from the person at the keyboard.
        where: what to call the recipe in an error.
        stored: whether it comes out of a checkpoint or a run folder. Such a recipe reads no
            environment (what does so stays as it is written, see :func:`check_places`), and
            chooses no absolute folder to write to.

    Raises:
        RecipeError: an override, a section or a component's name is wrong.
    """
    _check_name(name, where)
    for item in overrides:
        if "=" not in item:
            raise RecipeError(
                f"'{item}' is no override: write key=value, for instance data.batch_size=16"
            )
    environment = Environment(where)
    try:
        resolved = _merge(config, overrides, environment, stored)
    except OmegaConfBaseException as error:
        key = getattr(error, "full_key", None)
        raise RecipeError(f"{where}: {f'{key}: ' if key else ''}{first_line(error)}") from None
    except RecursionError:
        raise RecipeError(f"{where}: nests too deep") from None
    sections, written = (
        {**_DEFAULTS, **_check_sections(map_strings(resolved, put), where)}
        for put in (environment.read, environment.as_written)
    )
    sections["output"] = at_home(sections["output"])
    return Recipe(name, sections, written)


def _merge(
    config: DictConfig | Mapping[str, Any],
    overrides: Sequence[str],
    environment: Environment,
    stored: bool,
) -> Any:
    """Return the sections with overrides merged and references resolved, the environment masked."""
    config = OmegaConf.create(config if isinstance(config, DictConfig) else dict(config))
    plain: Any = OmegaConf.to_container(config)
    if stored:
        plain = without(plain, forgotten(plain))
    for section in ("data", "model"):
        renamed = [o.partition("=")[2] for o in overrides if o.startswith(f"{section}.name=")]
        before = plain.get(section)
        if renamed and isinstance(before, dict) and renamed[-1] != before.get("name"):
            plain[section] = {}
    plain = map_strings(plain, partial(environment.mask, stays=stored))
    check_references(plain, environment.where)  # merging resolves what it merges into
    masked = OmegaConf.create(plain)
    typed = [_path_as_it_is(item).partition("=") for item in _outer_first(overrides)]
    masked.merge_with_dotlist([k + e + environment.mask((k,), v) for k, e, v in typed])
    check_references(OmegaConf.to_container(masked), environment.where)
    return OmegaConf.to_container(masked, resolve=True)


def _check_name(name: str, where: str) -> None:
    """See that a name is one, since it becomes a folder below ``output``."""
    if name in ("", ".", "..") or set(name) & set("/\\\0") or len(name) > 200:
        raise RecipeError(
            f"{where}: '{printable(name, 80)}' is no name of a recipe, from which the folder of "
            "its runs is named"
        )


_SPECIAL = re.compile(r"[\[\]{}#&*!|>'\"%@`]|: |:$")


def _path_as_it_is(override: str) -> str:
    """Quote the value of an override that names something on disk.

    YAML would read a folder called ``a: b`` as a mapping, and cut ``a #1`` short.
    """
    key, _, value = override.partition("=")
    special = _SPECIAL.search(value) and "${" not in value and "\0" not in value
    if not special or len(value) > 4096 or not Path(value).expanduser().exists():
        return override
    quoted = value.replace("'", "''")
    return f"{key}='{quoted}'"


def _outer_first(overrides: Sequence[str]) -> list[str]:
    """Put an override of a section before those of its keys, so that the keys are not lost."""
    return sorted(overrides, key=lambda item: item.partition("=")[0].count("."))


def _check_sections(sections: dict[Any, Any], where: str) -> dict[str, Any]:
    for section, value in sections.items():
        if section not in SECTIONS:
            near = suggest(str(section), SECTIONS) or "."
            raise RecipeError(
                f"{where}: unknown section {shown(section)}{near} Sections: {', '.join(SECTIONS)}"
            )
        kind = SECTIONS[section]
        if section == "logger" and isinstance(value, (str, dict)):
            sections[section] = value = [value]
        if not isinstance(value, kind) or isinstance(value, bool) != (kind is bool):
            raise RecipeError(f"{where}: {section}: {shown(value)} is no {kind.__name__}")
        if kind is int and isinstance(value, int) and not 0 <= value < 2**32:  # the seed
            raise RecipeError(f"{where}: seed: {shown(value)} is not between 0 and {2**32 - 1}")
    for section in ("model", "data"):
        if section not in sections:
            raise RecipeError(f"{where}: the section '{section}' is missing")
    check_name("models", sections["model"].get("name"), "model.name")
    check_name("data", sections["data"].get("name"), "data.name")
    for section, table in (("callbacks", "callbacks"), ("logger", "loggers")):
        for index, node in enumerate(sections.get(section, [])):
            check_name(table, as_node(node).get("name"), f"{section}[{index}].name")
    return sections
