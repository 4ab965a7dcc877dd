"""People in results: told apart by salted hashes, named only where the recipe says so.

A result has to say who was trained on and who was tested, so that a comparison can see that nobody
was both. Hashes with a salt of the run do for that. They hide names from a reader and keep two
runs from being joined; against somebody who guesses names and tries them they are no protection.
"""

import hashlib
import secrets
from collections.abc import Callable, Mapping
from typing import Any

_NAMES, _JOINED = "subject_names", "joined"
"""What a split says about single people."""


def without_people(info: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a split says, without anything about single people."""
    return {key: value for key, value in info.items() if key not in (_NAMES, _JOINED)}


def people_section(info: Mapping[str, Any], *, names: bool) -> dict[str, Any]:
    """Return what a result says of single people.

    Args:
        info: of the split, with people by name.
        names: leave them so; else hashes stand for them.

    Returns:
        ``salt``, None for names; for each side of the split its people, where people are known;
        ``joined``: groups of people who share a byte-identical image.
    """
    salt = None if names else secrets.token_hex(16)
    called = _caller(salt)
    sides = {side: sorted(map(called, people)) for side, people in info.get(_NAMES, {}).items()}
    joined = [sorted(map(called, group)) for group in info[_JOINED]]
    return {"salt": salt, **sides, _JOINED: joined}


def people_of(result: Mapping[str, Any]) -> tuple[dict[str, set[str]], Callable[[str], str]]:
    """Return the people of each side as a result has them, and what a name is called there.

    Args:
        result: a ``metrics.json``; one that tells nothing of people gives empty sides.
    """
    section = result.get("people") or {}
    sides = {side: set(section.get(side, ())) for side in ("train", "val", "test")}
    return sides, _caller(section.get("salt"))


def _caller(salt: str | None) -> Callable[[str], str]:
    return str if salt is None else lambda name: hash_of(name, salt)


def hash_of(name: str, salt: str) -> str:
    """Return the hash of a person's name, 16 hexadecimal digits.

    >>> hash_of("ann", "00") == hash_of("ann", "00") != hash_of("ann", "01")
    True
    """
    text = name.encode(errors="surrogateescape")
    return hashlib.blake2b(text, key=bytes.fromhex(salt), digest_size=8).hexdigest()
