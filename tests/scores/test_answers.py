import math

import pytest
import torch

from faceaffect.data.batch import FaceBatch
from faceaffect.instructions.phrases import NEUTRAL_EVIDENCE
from faceaffect.schema import LabelSchema
from faceaffect.scores.answers import (
    UNREADABLE,
    au_table,
    expression_index,
    generated_metrics,
    join_answers,
    parse_aus,
    parse_expression,
    parse_va,
    split_answers,
    va_table,
)
from faceaffect.scores.predictions import Predictions
from faceaffect.scores.vocabulary import AU_NAMES, EXPRESSION_WORDS

SEVEN = ["surprise", "fear", "disgust", "happiness", "sadness", "anger", "neutral"]
MAFW = [
    "anger",
    "disgust",
    "fear",
    "happiness",
    "neutral",
    "sadness",
    "surprise",
    "contempt",
    "anxiety",
    "helplessness",
    "disappointment",
]
AUS = [1, 2, 4, 6, 12, 25]


@pytest.mark.parametrize("table", [AU_NAMES, EXPRESSION_WORDS])
def test_no_word_stands_for_two_labels(table: dict) -> None:
    words = [word for names in table.values() for word in names]
    assert len(words) == len(set(words))


@pytest.mark.parametrize("name", SEVEN)
@pytest.mark.parametrize(
    "form",
    [
        "{}",
        "{}.",
        " {}\n",
        "**{}**",
        "The expression is {}.",
        "Answer: {}",
        "'{}'",
        "I would say {}!",
        "The person in the image shows {}",
        "It's {}, clearly.",
    ],
)
def test_class_words_in_many_forms(name: str, form: str) -> None:
    for word in (name, name.upper(), name.capitalize()):
        assert parse_expression(form.format(word), SEVEN) == SEVEN.index(name)


@pytest.mark.parametrize("name", SEVEN)
def test_every_synonym_is_read(name: str) -> None:
    for word in EXPRESSION_WORDS[name]:
        assert parse_expression(f"The face looks {word}.", SEVEN) == SEVEN.index(name), word


@pytest.mark.parametrize(
    ("text", "name"),
    [
        # substrings that a careless search takes for a negation or an emotion
        ("The nose is normal, noticeably happy, nothing special about another thing", "happiness"),
        ("He is unhappy.", "sadness"),
        # denial before a mention
        ("not sad but happy", "happiness"),
        ("Not happy. Sad.", "sadness"),
        ("not happy, sad", "sadness"),
        ("She is not angry, sad or afraid; she is surprised.", "surprise"),
        ("There is no anger, fear, or disgust. The face is neutral.", "neutral"),
        ("no anger, fear. Sadness", "sadness"),
        ("neither sad nor angry, simply neutral", "neutral"),
        ("The person doesn't look happy, but disgusted.", "disgust"),
        ("He isn\N{RIGHT SINGLE QUOTATION MARK}t angry; he's afraid", "fear"),
        ("I cannot see any fear in this face: it is joy", "happiness"),
        ("I do not think that the person is happy. It is sadness.", "sadness"),
        ("without fear, happy", "happiness"),
        ("shows a lack of joy, sadness is visible", "sadness"),
        ("surprise rather than fear", "surprise"),
        ("Instead of anger the face shows sadness.", "sadness"),
        ("No emotion other than happiness is visible", "happiness"),
        ("No, the person is sad.", "sadness"),
        # what only looks like a denial
        ("not only happy, a truly joyful face", "happiness"),
        ("No doubt the person is angry", "anger"),
        ("There is nothing but fear in these eyes", "fear"),
        ("This can not be called anything but disgust", "disgust"),
        # denial behind a mention
        ("Anger is not visible and the person is happy.", "happiness"),
        ("Fear and anger are not present; sadness is", "sadness"),
        ("Happiness is absent, the person is sad", "sadness"),
        ("anger: no, happiness: yes", "happiness"),
        ("Fear seems unlikely. Surprise.", "surprise"),
        # strength
        ("The raised cheeks could hint at surprise. The expression is happiness.", "happiness"),
        ("happiness with a touch of surprise", "happiness"),
        ("While there is some hint of fear, the dominant emotion is surprise", "surprise"),
        ("Options: surprise, fear, disgust. Answer: fear", "fear"),
        ("The emotion is sadness? On second thought the expression is anger.", "anger"),
        ("The person looks sad. Her brows are drawn as in fear.", "sadness"),
        ("It might be fear.", "fear"),
        # the same class twice is one answer
        ("happy, joyful and delighted", "happiness"),
        ("The face is expressionless and shows no particular emotion", "neutral"),
    ],
)
def test_expression_grammar(text: str, name: str) -> None:
    assert parse_expression(text, SEVEN) == SEVEN.index(name)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "   ",
        "...",
        "\n",
        "I can not tell.",
        "a person with a red hat",
        "asdf qwer",
        "5",
        "happ",
        "happiness and surprise",
        "happy or sad",
        "surprise, fear, disgust, happiness, sadness, anger, neutral",
        "not happy",
        "no fear, no anger",
        "contempt",
        "neither happy nor sad",
        "nose",
        "The madam is a sadist",
        "\x00\ud7ff",
        "AU12",
    ],
)
def test_unreadable_is_never_class_zero(text: str) -> None:
    assert parse_expression(text, SEVEN) == UNREADABLE


def test_class_names_as_datasets_spell_them() -> None:
    dfew = ["happy", "sad", "neutral", "angry", "surprise", "disgust", "fear"]
    assert parse_expression("She is full of joy", dfew) == 0
    assert parse_expression("Anger", dfew) == 3
    assert parse_expression("Happy", ["Joy", "Angry"]) == 0
    # Both are asked for: each only by its own name.
    assert parse_expression("joy", ["happy", "joy"]) == 1
    assert parse_expression("delighted", ["happy", "joy"]) == UNREADABLE
    assert parse_expression("clear pain", ["pain", "no pain"]) == 0
    assert parse_expression("no pain", ["pain", "no pain"]) == 1


def test_narrow_classes_fall_to_broader_ones_only_where_not_asked_for() -> None:
    assert MAFW[parse_expression("anxious", MAFW)] == "anxiety"
    assert SEVEN[parse_expression("anxious", SEVEN)] == "fear"
    assert MAFW[parse_expression("disappointed", MAFW)] == "disappointment"


@pytest.mark.parametrize(
    ("text", "active"),
    [
        ("AU6, AU12", {6, 12}),
        ("au6 au12", {6, 12}),
        ("AU06 and AU 12.", {6, 12}),
        ("AU6+12", {6, 12}),
        ("AU6+AU12+AU25", {6, 12, 25}),
        ("AUs 1, 2 and 4", {1, 2, 4}),
        ("action units 6, 12 and 25 are active", {6, 12, 25}),
        ("Action unit 4", {4}),
        ("1, 2, 25", {1, 2, 25}),
        ("[6 12]", {6, 12}),
        ("12", {12}),
        ("AU12B", {12}),
        ("AU-12", {12}),
        ("Cheek raiser (AU6) and lip corner puller (AU12)", {6, 12}),
        ("cheek raiser, lip-corner puller", {6, 12}),
        ("Lowered brows are visible.", {4}),
        ("AU1: no\nAU2: yes\nAU4: no\nAU6: yes\nAU12: yes\nAU25: no", {2, 6, 12}),
        ("AU1: 0, AU2: 1, AU4 = 0, AU12 = 1", {2, 12}),
        ("AU1 is absent, AU2 is present", {2}),
        ("AU1, AU2 and AU4 are not active. AU12 is.", {12}),
        ("AU6 and AU12 but not AU25", {6, 12}),
        ("no AU1, AU2, only AU4", {4}),
        ("no action units except AU12", {12}),
        *[(text, set()) for text in NEUTRAL_EVIDENCE],  # what the package itself teaches to say
        ("Most muscles are at rest, but the chin is raised", {17}),
        ("No action units are active.", set()),
        ("none", set()),
        ("None of them", set()),
        ("no active action units", set()),
        ("There is no facial movement", set()),
        ("AU4 is not active", set()),
        ("AU9, AU45", set()),  # readable, and not asked for
    ],
)
def test_au_grammar(text: str, active: set[int]) -> None:
    assert parse_aus(text, AUS) == [au in active for au in AUS]


@pytest.mark.parametrize(
    "text", ["", "happy", "I can not say", "the AU is unclear", "Austria 12 points to", "AU"]
)
def test_unreadable_aus(text: str) -> None:
    assert parse_aus(text, AUS) is None


def test_every_au_by_number_and_by_every_name() -> None:
    for au, names in AU_NAMES.items():
        others = [1 if au != 1 else 2, au]
        for text in (f"AU{au}", f"AU {au:02d}", *names):
            assert parse_aus(text, others) == [False, True], text
            assert parse_aus(f"no {text}", others) == [False, False], text


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("valence: 0.5, arousal: -0.25", (0.5, -0.25)),
        ("Valence is about -0.5 and arousal is 1", (-0.5, 1.0)),
        ("arousal=.3 valence=\N{MINUS SIGN}.2", (-0.2, 0.3)),
        ("(0.1, 0.2)", (0.1, 0.2)),
        ("valence 0.5", None),
        ("valence: 5, arousal: 0", None),
        ("0.1", None),
        ("happy", None),
        ("", None),
    ],
)
def test_valence_and_arousal(text: str, answer: tuple[float, float] | None) -> None:
    assert parse_va(text) == answer


def test_tables_of_texts() -> None:
    assert expression_index(["fear", "?"], SEVEN).tolist() == [1, UNREADABLE]
    au = au_table(["AU6", "?"], [6, 12])
    assert au[0].tolist() == [1.0, 0.0]
    assert torch.isnan(au[1]).all()
    assert au_table([], [6, 12]).shape == (0, 2)
    assert math.isnan(va_table(["valence 0"])[0, 0])


def test_answers_to_several_tasks_as_one_text() -> None:
    answers = {"expression": "fear", "au": "AU1,\n AU4: yes", "va": "valence: 0"}
    assert split_answers(join_answers(answers)) == answers | {"au": "AU1, AU4: yes"}
    assert split_answers("A happy face.\nReally: yes") == {}


def test_metrics_of_generated_answers_by_hand() -> None:
    schema = LabelSchema((6, 12), ("anger", "fear"))
    texts = [
        "expression: anger\nau: AU6",
        "expression: ?\nau: AU6, AU12",
        "expression: fear\nau: ?",
    ]
    batch = FaceBatch(
        id=["a", "b", "c"],
        expression=torch.tensor([0, 0, 1]),
        au=torch.tensor([[1.0, 0.0], [1.0, math.nan], [1.0, 1.0]]),
    )
    values = generated_metrics(texts, batch, schema)
    # Class 0 stands first, and the unreadable answer is still wrong.
    assert values["generated/expression_war"] == pytest.approx(2 / 3)
    assert values["generated/expression_uar"] == pytest.approx(0.75)
    # AU6: 2 true positives, 1 missed by the unreadable answer. AU12: 1 missed.
    assert values["generated/au_f1/AU6"] == pytest.approx(0.8)
    assert values["generated/au_f1/AU12"] == 0
    assert values["generated/unreadable/expression"] == pytest.approx(1 / 3)
    assert values["generated/unreadable"] == pytest.approx(1 / 3)
    assert generated_metrics(["a happy face"] * 3, batch, schema) == {}


def test_predictions_report_what_was_said_beside_what_was_scored() -> None:
    schema = LabelSchema(expressions=("anger", "fear"))
    table = Predictions(schema)
    scores = torch.tensor([[0.9, 0.1], [0.2, 0.8]])
    batch = FaceBatch(id=["a", "b"], subject=["a", "b"], expression=torch.tensor([0, 0]))
    said = ["expression: anger", "expression: no idea"]
    table.add(batch, {"expression": scores, "text": said})
    values = table.metrics()
    assert values["expression_war"] == 0.5
    assert values["generated/expression_war"] == 0.5
    assert values["generated/unreadable"] == 0.5
    assert "generated/unreadable" not in Predictions(schema).metrics()
