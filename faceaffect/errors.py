"""Errors meant for the person at the keyboard: the command line prints the message alone."""

import errno
import re
from collections.abc import Iterable
from difflib import get_close_matches

ENDING = ("SIGTERM", "SIGHUP", "SIGUSR1")
"""The signals by which schedulers, containers and terminals end a command."""

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What a disk without room says."""

REFUSING = (*FULL, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOENT, errno.ENOTDIR, errno.EIO)
"""What a disk says that takes nothing, or is gone."""


class FaceAffectError(Exception):
    """Base of every error that names a thing the user can put right."""


class RecipeError(FaceAffectError):
    """A recipe, an override or a component's argument is wrong."""


class DataError(FaceAffectError):
    """A dataset, a file of it or a split of it is missing, damaged or leaking."""


class SchemaError(FaceAffectError):
    """Two label schemas do not fit together."""


class CheckpointError(FaceAffectError):
    """A checkpoint is damaged, belongs to another model or lacks weights."""


class Stopped(BaseException):
    """A signal asked the command to end; ``number`` is that of the signal."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def suggest(word: str, choices: Iterable[str]) -> str:
    """Return ``"; did you mean 'width'?"`` for the nearest choice, or an empty string."""
    near = get_close_matches(word, list(choices), n=1, cutoff=0.5)
    return f"; did you mean '{near[0]}'?" if near else ""


def unknown(where: str, word: str, choices: Iterable[str]) -> str:
    """Return the one wording for a name that is not among the choices."""
    names = sorted(choices)
    near = suggest(word, names) or "."
    return f"{where}: unknown name '{word}'{near} Choose one of: {', '.join(names)}"


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, or its kind if it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def printable(text: str, most: int = 2000) -> str:
    r"""Return somebody else's text as one line that a terminal shows and does not obey.

    >>> printable("red \x1b[31m\n\ud83d")
    'red \\x1b[31m \\ud83d'
    """
    shown = " ".join(text[:most].split())
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in shown)


def needs_extra(what: str, package: str, extra: str) -> str:
    """Return the one wording for a part whose package is installed by an extra of this package."""
    return f"{what} needs the package {package}: pip install 'faceaffect[{extra}]'"


def shown(value: object) -> str:
    """Return a value of somebody else's for a message, in one line and not at length."""
    try:
        return printable(repr(value), 200)
    except (ValueError, RecursionError):  # a number of thousands of digits, a list in itself
        return f"a {type(value).__name__}"


_OBEYED = re.compile(
    "[\\x00-\\x08\\x0b-\\x1f\\x7f-\\x9f\\u200e\\u200f\\u202a-\\u202e\\u2066-\\u2069]"
)
"""What a terminal obeys instead of showing: control characters, and those that turn text round."""


def harmless(text: str) -> str:
    r"""Spell out what a terminal would obey, since names and answers come from anywhere.

    >>> harmless("a\x1b[31m, b")
    'a\\x1b[31m, b'
    """
    return _OBEYED.sub(lambda found: ascii(found[0])[1:-1], text)
