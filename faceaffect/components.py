"""Components by name: a recipe's node is checked against a signature, then built.

Which names there are, :mod:`faceaffect.registry` says.
"""

import dataclasses
import functools
import inspect
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from omegaconf import MISSING, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from faceaffect.errors import RecipeError, first_line, shown, suggest
from faceaffect.registry import as_node, check_name, get


@dataclasses.dataclass(frozen=True)
class Component:
    """Marks an argument that holds one named component, or a list of them, of a table."""

    table: str


@dataclasses.dataclass(frozen=True)
class Options:
    """Marks an argument that holds a mapping with the arguments of ``target``."""

    target: Callable[..., Any]


def create(
    table: str, node: str | Mapping[str, Any], where: str | None = None, **extra: Any
) -> Any:
    """Build the component that a recipe node names, its arguments checked first.

    Args:
        table: a key of :data:`~faceaffect.registry.TABLES`.
        node: a name, or a mapping with ``name`` and arguments.
        where: what to call the node in an error.
        extra: arguments that come from the program, not from the recipe.

    Raises:
        RecipeError: a name, key or value is wrong.
    """
    node = as_node(node)
    where = where or table.removesuffix("s")
    target = get(table, node.pop("name", None), f"{where}.name")
    return target(**arguments(target, node, where, given=extra), **extra)


def arguments(
    target: Callable[..., Any],
    node: Mapping[str, Any],
    where: str,
    *,
    given: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Check the keys and values of a recipe node against a signature and return them converted.

    Nested components and options (arguments annotated with :class:`Component`
    or :class:`Options`) are checked all the way down and stay plain Python.

    Args:
        target: the class or function that will be called.
        node: its arguments as they stand in the recipe.
        where: what to call the node in an error, for instance ``model``.
        given: arguments that the program itself passes; a recipe must not name them.

    Raises:
        RecipeError: a key is unknown, a value has the wrong type, or a needed argument is missing.
    """
    parameters = {k: v for k, v in named_parameters(target).items() if k not in (given or {})}
    for key in node:
        if key not in parameters:
            near = suggest(str(key), parameters)
            raise RecipeError(
                f"{where}.{key}: unknown key{near or '.'} "
                f"{target.__name__} takes: {', '.join(parameters) or 'nothing'}"
            )
    node = {key: at_home(value) for key, value in node.items()}
    hints = _hints(target)
    for key, value in node.items():
        if _is_list(hints.get(key)) and not (value is None or isinstance(value, (list, tuple))):
            hint = f"; write [{value}]" if isinstance(value, (str, int, float)) else ""
            raise RecipeError(f"{where}.{key}: {shown(value)} is no list{hint}")
    fields = [(name, _holdable(hints.get(name, Any)), MISSING) for name in parameters]
    try:
        schema = OmegaConf.structured(dataclasses.make_dataclass(target.__name__, fields))
        plain = OmegaConf.to_container(OmegaConf.merge(schema, dict(node)))
    except (OmegaConfBaseException, TypeError, ValueError) as error:
        full = getattr(error, "full_key", None)
        key = f".{full}" if full else ""
        raise RecipeError(f"{where}{key}: {first_line(error)}") from None
    assert isinstance(plain, dict)
    kwargs = {str(key): value for key, value in plain.items() if value != MISSING}
    absent = [n for n, p in parameters.items() if p.default is p.empty and n not in kwargs]
    if absent:
        raise RecipeError(f"{where}: {target.__name__} needs {', '.join(absent)}")
    for key, value in kwargs.items():
        _check_number(key, value, f"{where}.{key}")
        for mark in getattr(hints.get(key), "__metadata__", ()):
            _check_nested(mark, value, f"{where}.{key}")
    return kwargs


def _check_number(key: str, value: Any, where: str) -> None:
    """See that numbers, also in a list, are finite, and that seeds are what generators take."""
    for number in value if isinstance(value, list) else [value]:
        if isinstance(number, float) and not math.isfinite(number):
            raise RecipeError(f"{where}: {number} is no finite number")
        seed = key == "seed" or key.endswith("_seed")
        if seed and isinstance(number, int) and not 0 <= number < 2**32:
            raise RecipeError(f"{where}: {number} is not between 0 and {2**32 - 1}")


def at_home(value: Any) -> Any:
    """Return a value with ``~/`` before a path written out; no shell does that behind ``key=``."""
    if isinstance(value, list):
        return [at_home(item) for item in value]
    if isinstance(value, str) and value.startswith(("~/", "~\\")):
        return str(Path(value).expanduser())
    return value


def named_parameters(target: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """Return the parameters that a recipe may name: all but ``*args`` and ``**kwargs``."""
    unnamed = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    found = inspect.signature(target).parameters
    return {name: value for name, value in found.items() if value.kind not in unnamed}


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


def _is_list(hint: Any) -> bool:
    """Return whether a hint is of lists alone, or of none."""
    kinds = [kind for kind in (get_args(hint) or (hint,)) if kind is not NoneType]
    return get_origin(hint) is list or [get_origin(kind) or kind for kind in kinds] == [list]


@functools.cache  # trying takes milliseconds, and a training checks hundreds of arguments
def _holdable(hint: Any) -> Any:
    """Return the hint if OmegaConf can hold values of it, else Any."""
    if get_origin(hint) is Annotated:  # checked by its mark
        return Any
    try:
        OmegaConf.structured(dataclasses.make_dataclass("Probe", [("field", hint, MISSING)]))
    except Exception:
        return Any
    return hint
