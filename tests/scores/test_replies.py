"""What replies in words say."""

import pytest

from faceaffect.scores.rege import (
    legacy_aus,
    legacy_expression,
    mean_f1,
    our_aus,
    our_expression,
    rege,
    rouge_l,
)
from faceaffect.scores.replies import read_letter, read_number, read_yes_no, wilson

OPTIONS = ["happy", "sad", "very sad", "angry"]


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("B", 1), ("(c).", 2), ("B. sad", 1), ("D) angry", 3), ("The best answer is option D.", 3),
        ("Answer: B", 1), ("She is happy", 0), ("It is very sad.", 2), ("E", None), ("", None),
        ("A man looks at us", None), ("happy or angry", None), ("Answer: A. No, answer: B", None),
        ("I choose C", 2), ("unhappy", None),
    ],
)  # fmt: skip
def test_letters(text: str, place: int | None) -> None:
    assert read_letter(text, OPTIONS) == place


@pytest.mark.parametrize(
    ("text", "said"),
    [("Yes.", "yes"), ("no, it is not", "no"), ("yes or no", None), ("The answer is no.", "no"),
     ("I know", None), ("", None), ("There is no doubt", None)],
)  # fmt: skip
def test_yes_and_no(text: str, said: str | None) -> None:
    assert read_yes_no(text) == said


@pytest.mark.parametrize(
    ("text", "number"),
    [("3", 3), ("There are two people.", 2), ("-0.5", -0.5), ("1 or 2", None), ("AU12", None),
     ("many", None), ("Number: 4.", 4)],
)  # fmt: skip
def test_numbers(text: str, number: float | None) -> None:
    assert read_number(text) == number


def test_wilson_agrees_with_its_formula() -> None:
    z, n, p = 1.959963984540054, 25, 0.2
    centre, half = (p + z * z / (2 * n)), z * (p * (1 - p) / n + z * z / (4 * n * n)) ** 0.5
    low, high = wilson(5, 25)
    assert low == pytest.approx((centre - half) / (1 + z * z / n))
    assert high == pytest.approx((centre + half) / (1 + z * z / n))
    assert wilson(0, 0) == (0.0, 1.0)


def test_the_faults_of_the_legacy_rule_and_our_reading_beside_them() -> None:
    nose = "Her nose is wrinkled, and she looks angry."  # "no" in nose drops the sentence
    assert (legacy_expression(nose), our_expression(nose)) == ("happiness", "anger")
    open_end = "He looks angry"  # without a full stop there is no sentence
    assert (legacy_expression(open_end), our_expression(open_end)) == ("happiness", "anger")
    silent = "The picture shows a table."  # no word of the table is happiness
    assert (legacy_expression(silent), our_expression(silent)) == ("happiness", None)
    denied = "AU4 is absent, AU12 is active."
    assert (legacy_aus(denied), our_aus(denied)) == ({4, 12}, {12})
    assert legacy_expression("He looks angry.") == "anger"
    assert legacy_expression("A face. He is sad and sad, and afraid.") == "sadness"


def test_rege_agrees_with_values_worked_by_hand() -> None:
    # the longest common subsequence is "the cat the mat": 4 of 6 and of 5 words
    assert rouge_l("the cat sat on the mat", "the cat likes the mat") == pytest.approx(8 / 11)
    found = rege(["He looks angry.", "Hm."], ["He looks angry.", "x"], [["anger"], ["happiness"]])
    assert found["rouge_l"] == pytest.approx(50)
    assert found["legacy"] == {"recognition": 100, "rege": pytest.approx(150)}
    assert found["ours"] == {"recognition": 50, "rege": pytest.approx(100)}
    aus = rege(["AU12 and AU6."], ["AU12."], [["AU12", "AU4"]])
    assert aus["ours"]["recognition"] == pytest.approx(100 / 12)  # AU12 alone of twelve
    assert mean_f1([{1, 2}, {1}], [{1}, {2}]) == pytest.approx((2 / 3) / 12)
