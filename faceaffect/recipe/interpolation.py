"""What ``${...}`` means in a recipe: other values of it, and folders named by the environment.

A recipe may come from anybody. So it reads nothing of the environment but what is listed here, a
stored one reads nothing at all, and references cannot become a bomb.
"""

import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from secrets import token_hex
from typing import Any

from faceaffect.errors import RecipeError, printable

Keys = tuple[Any, ...]
"""Where a value stands: keys of mappings and positions in lists, from the outside in."""

PLACES = (
    "output",
    "root",
    "table",
    "cache",
    "crop_cache",
    "weights",
    "instructions",
    "teacher",
    "without",
)
"""Keys that hold a folder or a file; for these alone a recipe may read the environment."""

allowed_env: set[str] = set()
"""What recipes may read of the environment besides ``FACEAFFECT_...`` and ``HOME``.

The person at the keyboard adds to it (``--allow-env NAME``).
"""

_WRITTEN = ("output", "cache", "crop_cache")
_MOST = 2**20
"""Characters of a recipe when all its references are written out."""

_REFERENCE = re.compile(r"\$\{(\.*)([\w-]+(?:\.[\w-]+|\[\d+\])*)\}")
_ENVIRONMENT = re.compile(r"\$\{oc\.env:(\w+)(?:,([^${}]*))?\}")


class Environment:
    """What a recipe reads of the environment, held back until its references are resolved."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.token = token_hex(8)
        self.found: list[tuple[re.Match[str], bool]] = []

    def mask(self, path: Keys, text: str, *, stays: bool = False) -> str:
        """Return a text with a mark for each variable; those that stay are never read."""

        def mark(match: re.Match[str]) -> str:
            self.found.append((match, stays))
            return f"{self.token}-{len(self.found) - 1}-"

        masked = _ENVIRONMENT.sub(mark, text)
        if "\0" in text:
            raise RecipeError(f"{self._key(path)}: holds a NUL character")
        if "${" in _REFERENCE.sub("", masked) or "\\${" in text:
            raise RecipeError(
                f"{self._key(path)}: {printable(text, 100)}: a recipe refers to other values as "
                "${data.image_size} and to the environment as ${oc.env:FACEAFFECT_DATA,data}, "
                "and does nothing else with ${; a file or folder with it in its name has to be "
                "renamed"
            )
        return masked

    def as_written(self, path: Keys, text: str) -> str:
        """Put back what the marks stand for."""
        return self._put(text, lambda match, stays: match[0])

    def read(self, path: Keys, text: str) -> str:
        """Put the values of the variables in place of the marks."""
        return self._put(text, lambda match, stays: match[0] if stays else self._value(path, match))

    def _put(self, text: str, value: Callable[[re.Match[str], bool], str]) -> str:
        return re.sub(f"{self.token}-(\\d+)-", lambda m: value(*self.found[int(m[1])]), text)

    def _value(self, path: Keys, match: re.Match[str]) -> str:
        name, default = match[1], match[2]
        place = next(part for part in reversed(path) if isinstance(part, str))
        if not (name.startswith("FACEAFFECT_") or name == "HOME" or name in allowed_env):
            raise RecipeError(
                f"{self._key(path)}: a recipe may not read the environment variable {name}, only "
                f"FACEAFFECT_... and HOME; --allow-env {name} allows it"
            )
        if place not in PLACES:
            raise RecipeError(
                f"{self._key(path)}: the environment is read for folders and files alone: "
                f"{', '.join(PLACES)}"
            )
        value = os.environ.get(name, default)
        if value is None:
            raise RecipeError(
                f"{self._key(path)}: the environment variable {name} is not set, and no default "
                "is given"
            )
        return value

    def _key(self, path: Keys) -> str:
        return f"{self.where}: {_dotted(path)}"


def check_references(sections: Any, where: str) -> None:
    """See that references end, and that written out they are no bomb.

    Raises:
        RecipeError: one refers to itself or to nothing, or the whole becomes too long.
    """
    sizes: dict[Keys, int] = {}

    def size(path: Keys) -> int:
        if path not in sizes:
            sizes[path] = -1
            sizes[path] = own_size(path)
        if sizes[path] < 0:
            raise RecipeError(f"{where}: {_dotted(path)}: refers to itself")
        if sizes[path] > _MOST:
            raise RecipeError(
                f"{where}: {_dotted(path)}: more than {_MOST:,} characters with its "
                "references written out"
            )
        return sizes[path]

    def own_size(path: Keys) -> int:
        node = _at(sections, path)
        if isinstance(node, dict):
            return sum(size((*path, key)) for key in node)
        if isinstance(node, list):
            return sum(size((*path, index)) for index in range(len(node)))
        text = str(node)
        found = [_target(sections, path, match, where) for match in _REFERENCE.finditer(text)]
        return len(text) + 1 + sum(size(target) for target in found)

    size(())


def _target(sections: Any, path: Keys, match: re.Match[str], where: str) -> Keys:
    """Return where the value stands that a reference names."""
    dots, name = len(match[1]), match[2]
    found = path[: len(path) - dots] if dots else ()
    for word in re.findall(r"[\w-]+", name):
        node = _at(sections, found)
        if isinstance(node, str) and (onwards := _REFERENCE.fullmatch(node)):
            found = _target(sections, found, onwards, where)
            node = _at(sections, found)
        keys = range(len(node)) if isinstance(node, list) else node
        keys = keys if isinstance(node, (list, dict)) else ()
        key = next((key for key in keys if str(key) == word), None)
        if key is None:
            raise RecipeError(
                f"{where}: {_dotted(path)}: Interpolation key '{match[1]}{name}' not found; a file "
                f"or folder with {printable(match[0], 60)} in its name has to be renamed"
            )
        found = (*found, key)
    return found


def _at(node: Any, path: Keys) -> Any:
    for key in path:
        node = node[key]
    return node


def forgotten(sections: Mapping[Any, Any]) -> list[str]:
    """Return the keys of a stored recipe that would choose where this machine is written to.

    A relative folder is harmless. Any other that somebody's checkpoint names is not taken.
    """

    def leads_out(path: Keys, text: str) -> bool:
        place = Path(text)
        out = place.is_absolute() or ".." in place.parts or text.startswith("~") or "$" in text
        return path[-1] in _WRITTEN and out

    return [_dotted(path) for path, text in strings(sections) if leads_out(path, text)]


def check_places(section: str, node: Mapping[str, Any]) -> None:
    """See that no value of a section waits for the environment, which a stored recipe may not read.

    Raises:
        RecipeError: one does; the message says how to give it.
    """
    for path, text in strings(node, (section,)):
        if _ENVIRONMENT.search(text):
            key = _dotted(path)
            raise RecipeError(
                f"{key} stands in a stored recipe as {text}, and those read nothing from the "
                f"environment; say where it is: {key}=FOLDER"
            )


def map_strings(node: Any, change: Callable[[Keys, str], str], path: Keys = ()) -> Any:
    """Return nested mappings and lists with every string changed.

    Args:
        node: plain Python.
        change: takes where a string stands and the string.
        path: where the node stands.
    """
    if isinstance(node, dict):
        return {key: map_strings(value, change, (*path, key)) for key, value in node.items()}
    if isinstance(node, list):
        return [map_strings(value, change, (*path, i)) for i, value in enumerate(node)]
    return change(path, node) if isinstance(node, str) else node


def without(sections: Any, keys: Collection[str], path: Keys = ()) -> Any:
    """Return nested mappings without some keys, each given with those around it."""
    if isinstance(sections, list):
        return [without(value, keys, (*path, i)) for i, value in enumerate(sections)]
    if not isinstance(sections, dict):
        return sections
    kept = {k: v for k, v in sections.items() if _dotted((*path, k)) not in keys}
    return {key: without(value, keys, (*path, key)) for key, value in kept.items()}


def strings(node: Any, path: Keys = ()) -> Iterator[tuple[Keys, str]]:
    """Yield every string with where it stands."""
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield from strings(value, (*path, key))
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from strings(value, (*path, index))
    elif isinstance(node, str):
        yield path, node


def _dotted(path: Keys) -> str:
    return printable(".".join(map(str, path)), 200)
