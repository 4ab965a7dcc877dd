"""When two spellings are one name: of a person, a class, a file; and what stands for no name."""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

UNKNOWN = frozenset(
    ("", "nan", "na", "n/a", "n.a.", "n.a", "na.", "n / a", "null", "none", "nil", "unknown",
     "missing", "undefined", "unlabeled", "unlabelled", "not available", "not applicable", "-nan",
     "1.#qnan", "1.#ind", "nat", r"\n", "#n/a", "#na", "#value!", "#div/0!", "#ref!", "#name?",
     "#num!", "#null!")
)  # fmt: skip
"""Cells that stand for an unknown label, in lower case; codes such as 999 have to be named.

So do these in brackets, such as ``<NA>``, and dashes, dots and question marks alone.
"""

_WHOLE = re.compile(r"\+?(-?\d+)(?:[.,]0*)?")
_NOTHING = re.compile("[-.?\N{EN DASH}\N{EM DASH}]+")

# fmt: off
EXPRESSION_SYNONYMS: dict[str, tuple[str, ...]] = {
    "neutral": ("neutrality", "neutral face", "neutral expression", "no expression", "no emotion",
                "neu"),
    "happiness": ("happy", "joy", "joyful", "hap"),
    "sadness": ("sad",),
    "surprise": ("surprised", "suprise", "suprised", "sur", "astonishment", "astonished"),
    "fear": ("fearful", "afraid", "scared", "fea"),
    "disgust": ("disgusted", "dis"),
    "anger": ("angry", "ang"),
    "contempt": ("contemptuous",),
    "anxiety": ("anxious",),
    "helplessness": ("helpless",),
    "disappointment": ("disappointed",),
}
# fmt: on
"""Class to the other names that datasets of the field give it.

Narrower than the words by which an answer in free text is understood: who names a class ``calm``
or ``rage`` beside ``neutral`` or ``anger`` means another one.
"""

_CANONICAL = {word: name for name, words in EXPRESSION_SYNONYMS.items() for word in (name, *words)}


def plain(text: str) -> str:
    r"""Return a name without what two programs write in two ways.

    Blanks around it and twice in it, invisible characters, other Unicode forms of the same letters,
    the ``.0`` that a spreadsheet adds to a number, its plus, and the minus of typesetters.

    >>> plain(" s22\u200b "), plain("22.0"), plain("22,00"), plain("v1.0")
    ('s22', '22', '22', 'v1.0')
    """
    if not (text.isascii() and text.isprintable()):  # most are, and these lines are the slow ones
        text = unicodedata.normalize("NFKC", text).replace("\N{MINUS SIGN}", "-")
        kept = (c for c in text if unicodedata.category(c) not in ("Cf", "Cc") or c.isspace())
        text = "".join(kept)
    text = " ".join(text.split())
    number = _WHOLE.fullmatch(text)
    return number[1] if number else text


def is_unknown(text: str, codes: Sequence[Any] = ()) -> bool:
    """Return whether a cell stands for an unknown label.

    Args:
        text: the cell, as :func:`plain` returns it.
        codes: what else does in this table, numbers or words.

    >>> is_unknown("N/A"), is_unknown("999"), is_unknown("999", [999, "x"])
    (True, False, True)
    """
    bare = text.lower().strip("<>()[]{} ")
    if bare in UNKNOWN or _NOTHING.fullmatch(bare):
        return True
    return any(_same(text, str(code)) for code in codes)


def _same(text: str, code: str) -> bool:
    if text.lower() == plain(code).lower():
        return True
    try:
        return float(text) == float(code)
    except ValueError:
        return False


def expression_name(text: str) -> str:
    """Return the one name of an expression class: in lower case, and that of the field's synonyms.

    >>> expression_name("HAPPY"), expression_name("Happiness"), expression_name("Pain")
    ('happiness', 'happiness', 'pain')
    """
    name = plain(text).lower()
    return _CANONICAL.get(re.sub(r"[_-]+", " ", name), name)


def alike(names: Iterable[str]) -> list[list[str]]:
    """Return the groups of different names that differ in case or leading zeros only.

    >>> alike(["s22", "S22", "s1", "s01", "s10"])
    [['S22', 's22'], ['s01', 's1']]
    """
    groups: dict[str, set[str]] = defaultdict(set)
    for name in names:
        groups[re.sub(r"(?<!\d)0+(?=\d)", "", name.casefold())].add(name)
    return [sorted(group) for group in groups.values() if len(group) > 1]


def sorted_unique(names: NDArray[np.str_]) -> tuple[NDArray[np.str_], NDArray[np.int64]]:
    """Return the different names in order, and the place of each of N names among them, (N,).

    As ``np.unique``, without sorting a million names.

    >>> sorted_unique(np.array(["b", "a", "b"]))
    (array(['a', 'b'], dtype='<U1'), array([1, 0, 1]))
    """
    code, found = pd.factorize(names.astype(object))
    once = np.asarray(found, names.dtype)
    order = np.argsort(once)
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    return once[order], place[code]
