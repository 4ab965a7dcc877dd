"""Recipes: YAML plus ``key=value`` overrides, checked, resolved and turned into plain Python.

A recipe is data, never code. Sections and component names are checked without importing anything
heavy; a component's arguments are checked against its constructor's signature when it is built.
"""

import dataclasses
import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, get_origin, get_type_hints

from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from faceaffect.errors import RecipeError, suggest
from faceaffect.registry import Component, Options, as_node, check_name, get

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
        raise RecipeError(f"{where}: {f'{key}: ' if key else ''}{_first_line(error)}") from None
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


def arguments(
    target: Callable[..., Any],
    node: Mapping[str, Any],
    where: str,
    *,
    given: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Check the keys and values of a recipe node against a signature and return them converted.

    Nested components and options (arguments annotated with :class:`~faceaffect.registry.Component`
    or :class:`~faceaffect.registry.Options`) are checked all the way down and stay plain Python.

    Args:
        target: the class or function that will be called.
        node: its arguments as they stand in the recipe.
        where: what to call the node in an error, for instance ``model``.
        given: arguments that the program itself passes; a recipe must not name them.

    Raises:
        RecipeError: a key is unknown, a value has the wrong type, or a needed argument is missing.
    """
    signature = inspect.signature(target).parameters
    parameters = {key: value for key, value in signature.items() if key not in (given or {})}
    for key in node:
        if key not in parameters:
            near = suggest(str(key), parameters)
            raise RecipeError(
                f"{where}.{key}: unknown key{near or '.'} "
                f"{target.__name__} takes: {', '.join(parameters) or 'nothing'}"
            )
    hints = _hints(target)
    fields = [(name, _holdable(hints.get(name, Any)), MISSING) for name in parameters]
    try:
        schema = OmegaConf.structured(dataclasses.make_dataclass(target.__name__, fields))
        plain = OmegaConf.to_container(OmegaConf.merge(schema, dict(node)))
    except OmegaConfBaseException as error:
        key = f".{error.full_key}" if getattr(error, "full_key", None) else ""
        raise RecipeError(f"{where}{key}: {_first_line(error)}") from None
    assert isinstance(plain, dict)
    kwargs = {str(key): value for key, value in plain.items() if value != MISSING}
    absent = [n for n, p in parameters.items() if p.default is p.empty and n not in kwargs]
    if absent:
        raise RecipeError(f"{where}: {target.__name__} needs {', '.join(absent)}")
    for key, value in kwargs.items():
        for mark in getattr(hints.get(key), "__metadata__", ()):
            _check_nested(mark, value, f"{where}.{key}")
    return kwargs


def _check_nested(mark: object, value: Any, where: str) -> None:
    if value is None or not isinstance(mark, (Component, Options)):
        return
    if isinstance(value, list):
        for index, item in enumerate(value):
            _check_nested(mark, item, f"{where}[{index}]")
        return
    if isinstance(mark, Options):
        # A scalar stands for the target's own first argument, which is then called name.
        arguments(mark.target, as_node(value) if isinstance(value, str) else value, where)
        return
    node = as_node(value)
    component = get(mark.table, check_name(mark.table, node.pop("name", None), f"{where}.name"))
    if mark.table != "data":  # a nested dataset's keys are split between two signatures later
        arguments(component, node, where)


def _hints(target: Callable[..., Any]) -> dict[str, Any]:
    function = target.__init__ if inspect.isclass(target) else target
    try:
        return get_type_hints(function, include_extras=True)
    except NameError:  # a hint that exists only for type checkers: check names, not types
        return {}


def _holdable(hint: Any) -> Any:
    """Return the hint if OmegaConf can hold values of it, else Any."""
    if get_origin(hint) is Annotated:  # checked by its mark
        return Any
    try:
        OmegaConf.structured(dataclasses.make_dataclass("Probe", [("field", hint, MISSING)]))
    except Exception:
        return Any
    return hint


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0]
