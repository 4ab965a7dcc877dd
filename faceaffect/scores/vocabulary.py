"""The words of facial affect: FACS names of action units and synonyms of expression classes."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

AU_NAMES: dict[int, tuple[str, ...]] = {
    1: ("inner brow raiser", "inner brow raise", "raised inner brows"),
    2: ("outer brow raiser", "outer brow raise", "raised outer brows"),
    4: ("brow lowerer", "lowered brows", "furrowed brows", "brow furrow"),
    5: ("upper lid raiser", "raised upper lids"),
    6: ("cheek raiser", "raised cheeks"),
    7: ("lid tightener", "tightened lids"),
    9: ("nose wrinkler", "wrinkled nose"),
    10: ("upper lip raiser", "raised upper lip"),
    11: ("nasolabial deepener",),
    12: ("lip corner puller", "pulled lip corners"),
    13: ("cheek puffer", "sharp lip puller"),
    14: ("dimpler",),
    15: ("lip corner depressor", "depressed lip corners"),
    16: ("lower lip depressor",),
    17: ("chin raiser", "raised chin boss"),
    18: ("lip puckerer", "lip pucker"),
    20: ("lip stretcher", "stretched lips"),
    22: ("lip funneler",),
    23: ("lip tightener", "tightened lips"),
    24: ("lip pressor", "pressed lips"),
    25: ("lips part", "parted lips"),
    26: ("jaw drop", "dropped jaw"),
    27: ("mouth stretch",),
    28: ("lip suck",),
    43: ("eyes closed", "eye closure", "closed eyes"),
    45: ("blink",),
    46: ("wink",),
}
"""FACS number to names; the first is the official one. No name stands for two action units."""

AU_SIGNS: dict[int, tuple[str, ...]] = {
    1: ("inner brows are raised", "inner ends of the brows are lifted"),
    2: ("outer brows are raised", "outer ends of the brows are lifted"),
    4: ("brows are lowered and drawn together", "furrow between the brows"),
    5: ("upper lids are raised", "eyes are opened wide"),
    6: ("cheeks are raised", "wrinkles beside the eyes"),
    7: ("lids are tightened", "eyes are narrowed"),
    9: ("nose is wrinkled", "wrinkles along the nose"),
    10: ("upper lip is raised", "upper lip is pulled up"),
    12: ("lip corners are pulled up", "mouth corners are drawn back and up"),
    14: ("lip corners are tightened into dimples", "dimples beside the mouth"),
    15: ("lip corners are pulled down", "mouth corners point down"),
    17: ("chin is raised", "chin is pushed up"),
    20: ("lips are stretched sideways", "mouth is stretched"),
    23: ("lips are tightened", "lips are narrow and tight"),
    24: ("lips are pressed together", "mouth is pressed shut"),
    25: ("lips are parted", "mouth is slightly open"),
    26: ("jaw is dropped", "mouth hangs open"),
    43: ("eyes are closed", "lids are shut"),
}
"""FACS number to what a description says of a face on which it is active."""

# fmt: off
EXPRESSION_WORDS: dict[str, tuple[str, ...]] = {
    "neutral": (
        "neutral", "neutrality", "expressionless", "emotionless", "calm", "relaxed", "composed",
        "blank", "impassive", "no expression", "no emotion", "no clear emotion",
        "no particular emotion", "no specific emotion", "no strong emotion", "no visible emotion",
        "without expression", "without emotion",
    ),
    "happiness": (
        "happiness", "happy", "happily", "joy", "joyful", "joyous", "cheerful", "glad", "delight",
        "delighted", "pleased", "elated",
    ),
    "sadness": (
        "sadness", "sad", "sadly", "unhappy", "unhappiness", "sorrow", "sorrowful", "grief",
        "melancholy", "gloomy", "depressed", "dejected", "mournful",
    ),
    "surprise": (
        "surprise", "surprised", "astonished", "astonishment", "amazed", "amazement", "shock",
        "shocked", "startled", "stunned",
    ),
    "fear": (
        "fear", "fearful", "afraid", "scared", "frightened", "fright", "terrified", "terror",
        "panic", "horror",
    ),
    "disgust": (
        "disgust", "disgusted", "revulsion", "repulsed", "repulsion", "aversion", "distaste",
        "nauseated",
    ),
    "anger": (
        "anger", "angry", "angrily", "rage", "fury", "furious", "mad", "irritated", "irritation",
        "annoyed", "annoyance", "outraged",
    ),
    "contempt": ("contempt", "contemptuous", "scorn", "scornful", "disdain", "disdainful"),
    "anxiety": ("anxiety", "anxious", "nervous", "worried", "worry", "uneasy"),
    "helplessness": ("helplessness", "helpless", "powerless"),
    "disappointment": ("disappointment", "disappointed"),
}
# fmt: on
"""Canonical class to the words that affirm it; no word affirms two classes."""

_BROADER = {"anxiety": "fear", "helplessness": "sadness", "disappointment": "sadness"}
"""Where a class is not asked for, its words affirm the class that holds it."""


@dataclass(frozen=True)
class Vocabulary:
    """Words to look for and the name that each stands for.

    Attributes:
        pattern: matches any of the words; the group ``au`` holds a FACS number, if it has one.
        names: word in lower case to name.
    """

    pattern: re.Pattern[str]
    names: dict[str, str]

    def name(self, match: re.Match[str]) -> str:
        """Return the name of a match of the pattern."""
        number = match.groupdict().get("au")
        return str(int(number)) if number else self.names[" ".join(match[0].split())]


@lru_cache(maxsize=64)
def expression_vocabulary(classes: tuple[str, ...]) -> Vocabulary:
    """Return the words of the given classes, and of the known classes that are not among them.

    A class name as the dataset spells it ("joy", "Angry") takes over the synonyms of the class that
    it is a word of. Names without synonyms ("pain") stand for themselves.
    """
    canonical = {word: name for name, words in EXPRESSION_WORDS.items() for word in words}
    asked: dict[str, list[str]] = {}
    for name in classes:
        asked.setdefault(canonical.get(name.lower(), name.lower()), []).append(name)
    names: dict[str, str] = {}
    for kind, words in EXPRESSION_WORDS.items():
        holder = kind if kind in asked or kind not in _BROADER else _BROADER[kind]
        own = asked.get(holder, [holder])
        # Two asked classes that mean the same ("happy" and "joy") share no synonyms.
        names |= {word: own[0] for word in words} if len(own) == 1 else {}
    names |= {name.lower(): name for name in classes}
    return Vocabulary(_any_of(names), names)


@lru_cache(maxsize=1)
def au_vocabulary() -> Vocabulary:
    """Return numbers, FACS names and visible signs of action units; each stands for its number."""
    names = {w: str(au) for told in (AU_NAMES, AU_SIGNS) for au, words in told.items()
             for w in words}  # fmt: skip
    number = r"(?:aus?|action units?) ?#?0*(?P<au>[1-9]\d?)[a-e]?"
    return Vocabulary(_any_of(names, number), names)


def _any_of(words: Sequence[str] | dict[str, str], also: str | None = None) -> re.Pattern[str]:
    longest_first = sorted(words, key=len, reverse=True)
    parts = [re.escape(word).replace(r"\ ", r"\s+") for word in longest_first]
    # "no emotion other than fear" does not say neutral.
    alone = "(?! (?:other|except|but|apart|besides))"
    parts = [part + alone if part.startswith("no\\s") else part for part in parts]
    return re.compile(rf"\b(?:{'|'.join([*([also] if also else []), *parts])})\b")
