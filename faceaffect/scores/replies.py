"""What a reply in words says: a letter, yes or no, a number; and what such readings are worth."""

import re
from collections.abc import Sequence

from scipy.stats import binomtest

_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_SAID = re.compile(
    r"(?:answer|option|choice)\s*(?:is|:)?\s*(?:option\s*)?[\"'(\[*]*([A-Za-z])(?![A-Za-z'])", re.I
)
_NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


def read_letter(text: str, options: Sequence[str]) -> int | None:
    """Return the place of the option that a reply names; None if it names none, or several.

    Read, in this order: a reply that is a letter alone; "the answer is C"; the text of one option;
    one letter that stands alone. A letter in prose ("A man smiles") is no answer.

    >>> read_letter("(B)", ["sad", "glad"]), read_letter("A man looks.", ["sad", "glad"])
    (1, None)
    """
    known = _LETTERS[: len(options)]
    alone = re.fullmatch(r"\W*([A-Za-z])\W*", text.strip())
    if alone:
        return _place(alone[1], known)
    said = {_place(letter, known) for letter in _SAID.findall(text)} - {None}
    if said:
        return said.pop() if len(said) == 1 else None
    lettered = re.match(r"\s*[(\[]?([A-Z])[)\].:]", text)
    if lettered:
        return _place(lettered[1], known)
    named = [n for n, option in enumerate(options) if _names(text, option)]
    longest = [
        n for n in named
        if not any(m != n and _names(options[m], options[n]) for m in named)
    ]  # fmt: skip
    if longest:
        return longest[0] if len(longest) == 1 else None
    single = {letter for letter in re.findall(r"(?<![\w'])([B-HJ-Z])(?![\w'])", text)}
    return _place(single.pop(), known) if len(single) == 1 else None


def _place(letter: str, known: str) -> int | None:
    return known.index(letter.upper()) if letter.upper() in known else None


def _names(text: str, option: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(option.strip())}(?!\w)", text, re.I) is not None


def read_yes_no(text: str) -> str | None:
    """Return yes or no; None where a reply says neither, or both.

    >>> read_yes_no("Yes, it is."), read_yes_no("Not at all"), read_yes_no("yes and no")
    ('yes', None, None)
    """
    begins = re.match(r"\W*(yes|no)\b(?!\s*(?:and|or)\b)", text, re.I)
    if begins:
        return begins[1].lower()
    said = {word.lower() for word in re.findall(r"\b(yes|no)\b", text, re.I)}
    return said.pop() if len(said) == 1 and re.search(r"answer\W+(?:is\W+)?(?:yes|no)\b", text,
                                                      re.I) else None  # fmt: skip


def read_number(text: str) -> float | None:
    """Return the one number that a reply names, in digits or as a word up to ten; else None.

    >>> read_number("There are three people."), read_number("2 or 3")
    (3.0, None)
    """
    found = {float(n) for n in re.findall(r"(?<![\w.])-?\d+(?:\.\d+)?(?![\w]|\.\d)", text)}
    if not found:
        words = re.findall(r"[a-z]+", text.lower())
        found = {float(_NUMBERS.index(word)) for word in words if word in _NUMBERS}
    return found.pop() if len(found) == 1 else None


def wilson(right: int, n: int) -> tuple[float, float]:
    """Return the 95 % interval of Wilson for a share; of nothing it is everything.

    >>> [round(edge, 3) for edge in wilson(8, 10)]
    [0.49, 0.943]
    """
    if n == 0:
        return 0.0, 1.0
    found = binomtest(right, n).proportion_ci(0.95, method="wilson")
    return float(found.low), float(found.high)
