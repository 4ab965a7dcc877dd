"""Mentions of named things in running text, and whether the text affirms or denies them."""

import re
from dataclasses import dataclass
from itertools import pairwise

from faceaffect.scores.vocabulary import Vocabulary

_HARMLESS = re.compile(
    r"\b(not (only|just|merely|simply|least)|no doubt|without (a |any )?(doubt|question)"
    r"|no question|no wonder|no less|nothing but|none other than)\b"
)
_DENIAL = re.compile(
    r"\b(no|not|nor|never|neither|none|non|without|rather than|instead of|as opposed to|unlike"
    r"|unlikely|anything but|lack|lacks|lacking|absence|devoid of|free of|fails?|hardly|scarcely"
    r"|excludes?|excluding|rul(?:e|es|ed|ing) out)\b"
)
_BOUNDARY = re.compile(
    r"[,()]|\b(and|but|so|because|while|whereas|since|however|instead(?! of)|though|although|yet"
    r"|except|other than|apart from|besides|rather(?! than))\b"
)
_GLUE = re.compile(r"[\s,/&+]*(?:(?:and|or|nor|any|an?|the|even|signs?|of)\b[\s,/&+]*)*")
_JOIN = re.compile(r"\b(and|or|nor)\b|[/&]")
_STATUS_NO = re.compile(r"\s*(?:[:=(]|->)\s*(?:no|not|none|absent|inactive|false|off|0)\b")
_AFTER_NO = re.compile(
    r"\s*(?:(?P<verb>is|are|was|were|be|been|can|could|do|does|did|has|have|seems?|appears?|looks?)\b.*)?"
    r"\b(?:not|no|never|absent|inactive|unlikely|missing|ruled out|excluded|invisible)\b.*"
)
_PLURAL = ("are", "were", "do", "have")


@dataclass
class Mention:
    """A named thing at a place of a clause.

    Attributes:
        name: what is mentioned.
        start: first character.
        end: one behind the last character.
        joined: the mention continues the list that the mention before it began.
        denied: the text says that it is not so.
    """

    name: str
    start: int
    end: int
    joined: bool = False
    denied: bool = False


def sentences(text: str) -> list[str]:
    """Return the sentences of a text, in lower case, contractions spelt out, without mark-up."""
    text = text.lower().replace("\N{RIGHT SINGLE QUOTATION MARK}", "'").replace("→", "->")
    text = text.replace("can't", "can not").replace("cannot", "can not").replace("n't", " not")
    text = re.sub(r"[*_`\"]|(?<!-)-(?!>)", " ", text)
    return [part for part in re.split(r"[!?;\n]+|\.(?!\d)", text) if part.strip()]


def find_mentions(sentence: str, vocabulary: Vocabulary) -> list[Mention]:
    """Return the mentions in a sentence of :func:`sentences`, in order, each affirmed or denied."""
    matches = vocabulary.pattern.finditer(sentence)
    found = [Mention(vocabulary.name(match), match.start(), match.end()) for match in matches]
    # Blanked at equal length, so that places stay what they are.
    sentence = _HARMLESS.sub(lambda match: " " * len(match[0]), sentence)
    status = [_STATUS_NO.match(sentence, mention.end) for mention in found]
    for match in status:
        if match:
            sentence = sentence[: match.start()] + "," * len(match[0]) + sentence[match.end() :]
    gaps = [sentence[a.end : b.start] for a, b in pairwise(found)]
    for mention, gap in zip(found[1:], gaps, strict=True):
        mention.joined = _GLUE.fullmatch(gap) is not None
    _deny_forwards(found, sentence)
    for index, match in enumerate(status):
        if match:
            found[index].denied = True
            _deny_backwards(found, index, sentence, everything=False)
    for index in range(len(found)):
        _deny_from_behind(found, index, sentence)
    return found


def _deny_forwards(found: list[Mention], sentence: str) -> None:
    """Apply the denials that stand before a mention, and hand them down a list."""
    runs_on = False
    for index, mention in enumerate(found):
        start = found[index - 1].end if index else 0
        gap = _tail(sentence[start : mention.start], mention.joined)
        words = [match[0] for match in _DENIAL.finditer(gap)]
        if words:
            mention.denied = len(words) % 2 == 1
            # "not sad, happy" is a contrast; "no sadness, joy" and "not sad or happy" are lists.
            a_list = words[-1] in ("no", "neither", "nor") or _has_join(found, index, sentence)
            runs_on = mention.denied and a_list
        elif mention.joined:
            mention.denied = runs_on and found[index - 1].denied
        else:
            runs_on = False


def _tail(gap: str, joined: bool) -> str:
    """Return what stands behind the last boundary of a gap; a list's own glue is no boundary."""
    if joined:
        return gap
    ends = [match.end() for match in _BOUNDARY.finditer(gap)]
    return gap[ends[-1] if ends else 0 :]


def _has_join(found: list[Mention], index: int, sentence: str) -> bool:
    """Return whether the list that goes on behind a mention has an "and", "or" or "nor"."""
    for before, mention in pairwise(found[index:]):
        if not mention.joined:
            return False
        if _JOIN.search(sentence[before.end : mention.start]):
            return True
    return False


def _deny_from_behind(found: list[Mention], index: int, sentence: str) -> None:
    """Apply "... is not visible", unless the denial is about the next mention."""
    mention = found[index]
    rest = sentence[mention.end :]
    boundary = _BOUNDARY.search(rest)
    end = boundary.start() if boundary else len(rest)
    if index + 1 < len(found) and found[index + 1].start - mention.end <= end:
        return
    match = _AFTER_NO.fullmatch(rest[:end])
    if match:
        mention.denied = True
        _deny_backwards(found, index, sentence, everything=match["verb"] in _PLURAL)


def _deny_backwards(found: list[Mention], index: int, sentence: str, *, everything: bool) -> None:
    """Hand a denial up the list that ends here, if it is one: "fear and anger are not visible"."""
    if not found[index].joined:
        return
    if everything or _JOIN.search(sentence[found[index - 1].end : found[index].start]):
        while found[index].joined:
            index -= 1
            found[index].denied = True
