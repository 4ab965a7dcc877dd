"""What a search may change in a recipe: keys with a range or choices, read from YAML and checked.

A space is data, as a recipe is. Each entry names a key of the recipe and what it may be::

    optim.lr: {low: 3e-4, high: 3e-2, log: true}
    model.expert_width: {type: int, low: 2, high: 16}
    model.au_loss: {choices: [bce, wa]}
"""

import inspect
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from omegaconf import DictConfig, OmegaConf

from faceaffect import registry
from faceaffect.components import arguments
from faceaffect.data.base import FaceDataModule
from faceaffect.errors import RecipeError, unknown
from faceaffect.optim import Optim
from faceaffect.recipe import Recipe, recipe_folder
from faceaffect.registry import as_node
from faceaffect.runs.train import check_sections

if TYPE_CHECKING:
    from optuna import Trial

SEARCHED = ("model", "optim", "data", "trainer")
"""Sections whose keys may be searched."""

_FIXED = {
    "model.name": "another model is another recipe",
    "data.name": "other data is another question",
    "data.protocol": "all trials are held to the same validation people",
    **dict.fromkeys(
        ("data.people", "data.fraction", "data.subset_seed"),
        "how many people are learned from is a question, not a setting",
    ),
}
_DIGITS = 4
_ABSENT = object()


@dataclass(frozen=True)
class Search:
    """What one key may be.

    Args:
        low: least value.
        high: greatest value.
        log: whether orders of magnitude are equally likely.
        type: ``float``, or ``int`` for whole numbers.
        choices: instead of a range, any values that a recipe could hold there.
    """

    low: float | None = None
    high: float | None = None
    log: bool = False
    type: Literal["float", "int"] = "float"
    choices: list[Any] | None = None

    def __post_init__(self) -> None:
        if self.choices is not None:
            self._check_choices(self.choices)
        elif self.low is None or self.high is None:
            raise RecipeError("needs low and high, or choices")
        else:
            self._check_range(self.low, self.high)

    def _check_choices(self, choices: list[Any]) -> None:
        if self.low is not None or self.high is not None or self.log or self.type != "float":
            raise RecipeError("choices stand alone, without low, high, log and type")
        labels = [_label(choice) for choice in choices]
        if len(labels) < 2:
            raise RecipeError(f"choices: {choices} leave nothing to choose")
        if len(set(labels)) < len(labels):
            raise RecipeError(f"choices: {choices} name something twice")

    def _check_range(self, low: float, high: float) -> None:
        if low >= high:
            raise RecipeError(f"low {low:g} is not below high {high:g}: an empty range")
        if self.log and low <= 0:
            raise RecipeError(f"low {low:g} has to be positive where log is true")
        if self.type == "int" and (low != round(low) or high != round(high)):
            raise RecipeError(f"low {low:g} and high {high:g} have to be whole numbers")

    @property
    def ends(self) -> tuple[float, float]:
        """Least and greatest value of a range."""
        assert self.low is not None
        assert self.high is not None
        return self.low, self.high

    def suggest(self, trial: "Trial", key: str) -> Any:
        """Draw a value in a trial of Optuna, and return what a recipe gets for it."""
        if self.choices is not None:
            return self.value(trial.suggest_categorical(key, [_label(c) for c in self.choices]))
        low, high = self.ends
        if self.type == "int":
            return trial.suggest_int(key, int(low), int(high), log=self.log)
        return self.value(trial.suggest_float(key, low, high, log=self.log))

    def value(self, drawn: Any) -> Any:
        """Return what a recipe gets for a value that was drawn; four digits of a number do."""
        if self.choices is not None:
            return next(choice for choice in self.choices if _label(choice) == drawn)
        if self.type == "int":
            return int(drawn)
        low, high = self.ends
        return min(max(float(f"{drawn:.{_DIGITS}g}"), low), high)

    def drawn(self, value: Any) -> Any:
        """Return what would have been drawn for a value of a recipe, None if nothing could."""
        if self.choices is not None:
            label = _label(value)
            return label if label in map(_label, self.choices) else None
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return None
        low, high = self.ends
        if not low <= value <= high or (self.type == "int" and value != int(value)):
            return None
        return int(value) if self.type == "int" else float(value)

    def extremes(self) -> list[Any]:
        """Return the values that show whether a key can hold what is searched."""
        if self.choices is not None:
            return self.choices
        return [self.value(end) for end in self.ends]

    def plain(self) -> dict[str, Any]:
        """Return the entry as it would stand in a file."""
        if self.choices is not None:
            return {"choices": self.choices}
        low, high = self.extremes()
        entry: dict[str, Any] = {"low": low, "high": high}
        return (
            entry
            | ({"log": True} if self.log else {})
            | ({"type": self.type} if self.type != "float" else {})
        )


def _label(choice: Any) -> str:
    """Return a text that stands for a choice, which Optuna can store whatever it is."""
    if isinstance(choice, (int, float)) and not isinstance(choice, bool):
        choice = float(choice)  # 1 and 1.0 are the same setting
    return choice if isinstance(choice, str) else json.dumps(choice, sort_keys=True)


@dataclass(frozen=True)
class Space:
    """The keys of a recipe that are searched.

    Attributes:
        where: the file, for messages.
        keys: dotted keys and what each may be.
    """

    where: str
    keys: dict[str, Search]

    def own(self, recipe: Recipe) -> dict[str, Any]:
        """Return, in Optuna's terms, what a recipe has for each key, where the space holds it."""
        found = {key: search.drawn(value_of(recipe, key)) for key, search in self.keys.items()}
        return {key: drawn for key, drawn in found.items() if drawn is not None}

    def outside(self, recipe: Recipe) -> dict[str, Any]:
        """Return the recipe's values that the space does not hold, as far as they are known."""
        inside = self.own(recipe)
        return {k: value for k, value in self.values(recipe).items() if k not in inside}

    def values(self, recipe: Recipe) -> dict[str, Any]:
        """Return what a recipe has for each key, as far as that is known."""
        values = {key: value_of(recipe, key) for key in self.keys}
        return {key: value for key, value in values.items() if value is not _ABSENT}

    def plain(self) -> dict[str, dict[str, Any]]:
        """Return the space as it would stand in a file."""
        return {key: search.plain() for key, search in self.keys.items()}


def list_spaces() -> list[str]:
    """Return the names of the models for which a space ships."""
    return sorted(path.stem for path in (recipe_folder() / "spaces").glob("*.yaml"))


def load_space(recipe: Recipe, file: str | Path | None = None) -> Space:
    """Read a space and check each of its keys against the recipe that it is for.

    Args:
        recipe: that shall be searched.
        file: YAML; absent, the space that ships for the recipe's model.

    Raises:
        RecipeError: there is no such file or shipped space, it is not readable, a key is not one
            of the recipe's, a range is empty, or a key cannot hold what the space has for it.
    """
    model = recipe["model"]["name"]
    if file is None and model not in list_spaces():
        raise RecipeError(
            f"no space ships for the model '{model}': name a file with the keys to search "
            f"('faceaffect tune RECIPE space.yaml'). Spaces ship for: {', '.join(list_spaces())}"
        )
    path = recipe_folder() / "spaces" / f"{model}.yaml" if file is None else Path(file)
    if not path.is_file():
        raise RecipeError(f"no space at {path}")
    space = Space(str(path), _read(path))
    try:
        for key in space.keys:
            _check_place(key)
        for values in _probes(space):
            changed = with_values(recipe, values)
            _check_data(changed)
            check_sections(changed)
    except RecipeError as error:
        raise RecipeError(f"{path}: {error}") from None
    return space


def _read(path: Path) -> dict[str, Search]:
    try:
        config = OmegaConf.load(path)
        content = OmegaConf.to_container(config, resolve=True)
    except Exception as error:
        raise RecipeError(f"{path}: not readable as YAML: {' '.join(str(error).split())}") from None
    if not isinstance(config, DictConfig) or not content:
        raise RecipeError(
            f"{path}: a space maps keys of a recipe to what they may be, for instance "
            "'optim.lr: {low: 1e-4, high: 1e-2, log: true}'"
        )
    assert isinstance(content, dict)
    entries = {str(key): node for key, node in content.items()}
    return {key: _search(node, f"{path}: {key}") for key, node in entries.items()}


def _search(node: Any, where: str) -> Search:
    if not isinstance(node, Mapping):
        raise RecipeError(f"{where}: {node!r} is no range: write {{low: 0.1, high: 1}}")
    checked = arguments(Search, node, where)
    try:
        return Search(**checked)
    except RecipeError as error:
        raise RecipeError(f"{where}: {error}") from None


def _probes(space: Space) -> list[dict[str, Any]]:
    """Return settings in which every key has each of its ends or choices at least once."""
    every = {key: search.extremes() for key, search in space.keys.items()}
    longest = max(len(values) for values in every.values())
    return [{k: v[min(i, len(v) - 1)] for k, v in every.items()} for i in range(longest)]


def _check_place(key: str) -> None:
    """Refuse a key that is none, or one that must be the same in all trials."""
    section, _, rest = key.partition(".")
    if section not in SEARCHED:
        raise RecipeError(unknown(key, section, SEARCHED))
    for fixed, why in _FIXED.items():
        if key == fixed or key.startswith(f"{fixed}."):
            raise RecipeError(f"{key}: not searched: {why}")
    if not rest:
        raise RecipeError(f"{key}: a section; name a key in it")
    # What belongs to the dataset decides who is looked at, and is not searched.
    first = rest.partition(".")[0]
    if section == "data" and first not in _data_keys():
        raise RecipeError(unknown(key, first, _data_keys()))


def _check_data(recipe: Recipe) -> None:
    node = {key: value for key, value in recipe["data"].items() if key in _data_keys()}
    arguments(FaceDataModule, node, "data", given={"dataset": None, "seed": None})


def _data_keys() -> list[str]:
    keys = inspect.signature(FaceDataModule).parameters
    return [key for key in keys if key not in ("dataset", "seed") and f"data.{key}" not in _FIXED]


# Reading and changing a recipe.


def with_values(recipe: Recipe, values: Mapping[str, Any]) -> Recipe:
    """Return a recipe with some dotted keys set; a name alone becomes a mapping where needed.

    Raises:
        RecipeError: a key leads through something that has no keys.
    """

    def put(sections: Any) -> Any:
        for key, value in values.items():
            sections = _put(sections, key.split("."), value, key)
        return sections

    return recipe.changed(put)


def _put(node: Any, path: list[str], value: Any, key: str) -> Any:
    head, *rest = path
    if isinstance(node, list):
        if not head.isdigit() or int(head) >= len(node):
            raise RecipeError(f"{key}: '{head}' is no number of an item, 0 to {len(node) - 1}")
        item = _put(node[int(head)], rest, value, key) if rest else value
        return [*node[: int(head)], item, *node[int(head) + 1 :]]
    if node is not None and not isinstance(node, (str, Mapping)):
        raise RecipeError(f"{key}: {node!r} has no key '{head}'")
    own = {} if node is None else as_node(node)
    return own | {head: _put(own.get(head), rest, value, key) if rest else value}


def value_of(recipe: Recipe, key: str) -> Any:
    """Return what a recipe has for a dotted key, or its default; a marker where nobody knows."""
    node: Any = recipe.sections
    for part in key.split("."):
        if isinstance(node, Mapping) and part in node:
            node = node[part]
        elif isinstance(node, list) and part.isdigit() and int(part) < len(node):
            node = node[int(part)]
        else:
            return _default(recipe, key)
    return node


def _default(recipe: Recipe, key: str) -> Any:
    section, _, rest = key.partition(".")
    target: Any = {"optim": Optim, "data": FaceDataModule}.get(section)
    if section == "model":
        target = registry.get("models", recipe["model"]["name"])
    if target is None or "." in rest:
        return _ABSENT
    parameter = inspect.signature(target).parameters.get(rest)
    if parameter is None or parameter.default is inspect.Parameter.empty:
        return _ABSENT
    return parameter.default
