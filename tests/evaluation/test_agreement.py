"""What models have to agree on before they are compared."""

from faceaffect.evaluation.agreement import differences


def test_the_order_of_a_mapping_is_no_difference() -> None:
    one, other = {"Happy": "happiness", "SAD": "sadness"}, {"SAD": "sadness", "Happy": "happiness"}
    assert differences({"run": {"renamed": one}, "here": {"renamed": other}}) == []
    (line,) = differences({"run": {"renamed": one}, "here": {"renamed": {"Happy": "joy"}}})
    assert line.startswith("renamed: ")
