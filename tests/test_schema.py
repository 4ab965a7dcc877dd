import pytest

from faceaffect.errors import SchemaError
from faceaffect.schema import LabelSchema

SCHEMA = LabelSchema((1, 12), ("neutral", "happiness"), True)


def test_plain_dict_round_trip() -> None:
    plain = SCHEMA.to_dict()
    assert plain == {
        "aus": [1, 12],
        "expressions": ["neutral", "happiness"],
        "valence_arousal": True,
    }
    assert LabelSchema.from_dict(plain) == SCHEMA


def test_every_field_has_a_default_and_tasks_follow() -> None:
    assert LabelSchema().tasks == ()
    assert SCHEMA.tasks == ("au", "expression", "va")
    assert LabelSchema(valence_arousal=True).tasks == ("va",)


def test_difference_ignores_order_and_names_both_sides() -> None:
    assert SCHEMA.difference(LabelSchema((12, 1), ("happiness", "neutral"), True)) == []
    lines = SCHEMA.difference(LabelSchema((1, 4), ("neutral", "happiness")), ("data", "model"))
    assert lines == [
        "in the data but not in the model: AU12, valence and arousal",
        "in the model but not in the data: AU4",
    ]


def test_a_model_is_scored_in_shared_aus_and_among_all_of_its_classes() -> None:
    other = LabelSchema((12, 4, 1), ("happiness", "fear"))
    assert SCHEMA.scored_on(other) == LabelSchema((1, 12), SCHEMA.expressions)
    assert SCHEMA.scored_on(LabelSchema((12,), ("fear",))) == LabelSchema((12,))


def test_union_keeps_the_first_order() -> None:
    other = LabelSchema((12, 4, 1), ("happiness", "fear"))
    assert SCHEMA.union(other) == LabelSchema((1, 12, 4), ("neutral", "happiness", "fear"), True)


@pytest.mark.parametrize(
    ("plain", "message"),
    [
        ({"aus": [1, 1]}, "named twice: 1"),
        ({"aus": ["AU1"]}, "'AU1' is no FACS number"),
        ({"expressions": [""]}, "'' is no class name"),
        ({"va": True}, "unknown field va"),
    ],
)
def test_wrong_names_are_refused(plain: dict, message: str) -> None:
    with pytest.raises(SchemaError, match=message):
        LabelSchema.from_dict(plain)
