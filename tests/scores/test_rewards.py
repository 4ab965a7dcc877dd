"""What answers are worth."""

import pytest

from faceaffect.scores.rewards import au_reward, expression_reward, va_reward

CLASSES = ("anger", "happiness", "neutral")


@pytest.mark.parametrize(
    ("text", "worth"),
    [
        ("Happy.", 1),
        ("not angry but happy", 1),
        ("anger", 0),
        ("happiness or anger", 0),  # two classes are no answer
        ("contempt", 0),
        ("%&/", 0),
    ],
)
def test_a_class_is_right_or_wrong(text: str, worth: float) -> None:
    assert expression_reward(text, "happiness", CLASSES) == worth


@pytest.mark.parametrize(
    ("text", "worth"),
    [
        ("AU6, AU12", 1),
        ("AU6", 2 / 3),  # one right, one missed
        ("AU4, AU6 and the lip corner puller", 4 / 5),
        ("AU4", 0),
        ("no action units", 0),
        ("a face", 0),  # says nothing of AUs
        ("AU6, AU12, AU25", 1),  # AU25 is not known
    ],
)
def test_aus_are_worth_their_f1(text: str, worth: float) -> None:
    assert au_reward(text, {4: False, 6: True, 12: True}) == pytest.approx(worth)


def test_a_face_at_rest_is_worth_all_where_nothing_is_said_to_be_active() -> None:
    assert au_reward("None.", {4: False, 6: False}) == 1
    assert au_reward("AU4", {4: False, 6: False}) == 0


@pytest.mark.parametrize(
    ("text", "worth"),
    [
        ("valence: 0.5, arousal: -1", 1),
        ("valence: -0.5, arousal: 0", 0.5),
        ("valence: 0.5", 0),
        ("valence: 5, arousal: 0", 0),
    ],
)
def test_values_are_worth_their_nearness(text: str, worth: float) -> None:
    assert va_reward(text, (0.5, -1.0)) == pytest.approx(worth)


def test_what_is_not_known_is_worth_nothing_at_all() -> None:
    assert expression_reward("anger", None, CLASSES) is None
    assert au_reward("AU4", {}) is None
    assert va_reward("valence: 0, arousal: 0", None) is None
