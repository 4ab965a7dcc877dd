"""What an answer in words is worth, in [0, 1]: what the tested reader makes of it.

An answer that cannot be read is worth nothing, as it counts as wrong in every metric.
"""

from collections.abc import Mapping, Sequence

from faceaffect.scores.answers import parse_aus, parse_expression, parse_va


def expression_reward(text: str, truth: str | None, classes: Sequence[str]) -> float | None:
    """Return 1 for the right class, else 0; None where the truth is not known.

    Args:
        text: what a model said.
        truth: class name.
        classes: class names, in index order.

    >>> expression_reward("Not sad but happy.", "happiness", ["sadness", "happiness"])
    1.0
    """
    if truth is None:
        return None
    return float(parse_expression(text, classes) == list(classes).index(truth))


def au_reward(text: str, truth: Mapping[int, bool]) -> float | None:
    """Return the F1 of the AUs that a text affirms; 1 where none is active and none is said to be.

    Args:
        text: what a model said.
        truth: FACS number to active or not; AUs that are not known are absent.

    >>> round(au_reward("AU6 and lip corner puller", {4: True, 6: True, 12: True}), 2)
    0.8
    """
    if not truth:
        return None
    said = parse_aus(text, list(truth))
    if said is None:
        return 0.0
    right = sum(one and other for one, other in zip(said, truth.values(), strict=True))
    named = sum(said) + sum(truth.values())
    return 2 * right / named if named else 1.0


def va_reward(text: str, truth: tuple[float, float] | None) -> float | None:
    """Return 1 less half the mean distance from valence and arousal.

    >>> va_reward("valence: 0.5, arousal: 0", (0.5, 1.0))
    0.75
    """
    if truth is None:
        return None
    said = parse_va(text)
    if said is None:
        return 0.0
    return 1 - sum(abs(one - other) for one, other in zip(said, truth, strict=True)) / 4
