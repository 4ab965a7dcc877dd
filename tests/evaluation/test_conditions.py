"""The terms on which models of a comparison ran, and what a reader is told of them."""

from typing import Any

from compared import report_of
from faceaffect.evaluation.conditions import conditions, terms_table, unequal_terms
from faceaffect.evaluation.report import complete, html, words
from faceaffect.evaluation.tables import markdown, plain_text
from faceaffect.recipe import Recipe

TUNED = {
    "trials": 8, "pruned": 2, "failed": 0, "score": 0.7, "median": 0.6, "lowest": 0.4,
    "before": 0.5, "chosen": {"optim.lr": 0.004, "model.dropout": 0.1},
}  # fmt: skip
STARTED = [
    {"part": "tower", "weights": "vit", "data": "faces", "labels": "no labels", "frozen": True},
    {"part": "prior", "weights": "face", "data": "faces", "labels": "landmarks", "frozen": True},
]


def recipe(**optim: Any) -> Recipe:
    model = {"name": "timm_classifier", "dropout": 0.1}
    return Recipe("r", {"model": model, "data": {"name": "csv"}, "optim": optim})


def result(**changes: Any) -> dict[str, Any]:
    return {
        "tuned": TUNED,
        "started_from": STARTED,
        "training": {"epochs": 3},
        "precision": {"name": "32-true", "why": "auto: no bfloat16 in hardware, AVX2"},
    } | changes


def terms(**changes: Any) -> dict[str, Any]:
    return conditions(recipe(name="muon", lr=0.004), [result(**changes)])


def test_terms_say_what_the_runs_noted() -> None:
    found = terms()
    assert found["before"] == "vit: faces; no labels\nface: faces; landmarks"
    assert found["optimiser"] == "muon"
    assert found["epochs"] == [3]
    assert found["trials"] == 8
    assert found["scores"] == {"lowest": 0.4, "median": 0.6, "score": 0.7}
    assert found["chosen"] == "optim.lr 0.004, model.dropout 0.1"
    assert found["changed"] == []
    assert found["precision"] == "32-true"
    assert found["precision_why"] == "auto: no bfloat16 in hardware, AVX2"


def test_a_model_from_scratch_and_a_run_that_noted_nothing_are_told_apart() -> None:
    assert terms(started_from=[])["before"] == "nothing, from scratch"
    silent = conditions(recipe(), [{}])
    assert silent["before"] is None
    assert silent["trials"] is None
    assert silent["optimiser"] == "adamw"


def test_a_setting_that_was_changed_after_its_search_is_found() -> None:
    found = conditions(recipe(name="muon", lr=0.1), [result()])
    assert found["changed"] == ["optim.lr"]
    (line,) = unequal_terms({"a": {"terms": found}})
    assert line == "a: changed after its search: optim.lr"


def test_equal_terms_are_no_matter() -> None:
    assert unequal_terms({"a": {"terms": terms()}, "b": {"terms": terms()}}) == []


def test_unequal_terms_are_said_with_names() -> None:
    changed = {"tuned": None, "precision": {"name": "bf16-mixed", "why": "as the recipe says"}}
    other = conditions(recipe(lr=0.004), [result(**changed)])
    tuned, optimisers, precisions = unequal_terms({"a": {"terms": terms()}, "b": {"terms": other}})
    assert "8 trials: a" in tuned
    assert "none noted: b" in tuned
    assert "muon: a" in optimisers
    assert "adamw: b" in optimisers
    assert "32-true: a; bf16-mixed: b" in precisions


def test_precisions_of_several_seeds_are_all_said() -> None:
    other = {"name": "bf16-mixed", "why": "as the recipe says"}
    found = conditions(recipe(lr=0.004), [result(), result(precision=other)])
    assert found["precision"] == "32-true; bf16-mixed"
    assert conditions(recipe(), [{}])["precision"] is None


def test_the_report_has_a_table_of_terms_and_says_what_was_unequal() -> None:
    report = report_of()
    assert terms_table(report) is None
    assert "terms" not in html(complete(report)).split("<nav")[1].split("</nav")[0]
    first, second = report["models"]
    report["models"][first]["terms"] = terms()
    report["models"][second]["terms"] = conditions(recipe(), [{"started_from": []}])
    report["warnings"] = unequal_terms(report["models"])
    full = complete(report)
    table = terms_table(full)
    assert table is not None
    shown = [[plain_text(full, c.main + c.small) for c in row] for row in table.rows]
    assert shown[0][:4] == [first, "vit: faces; no labels\nface: faces; landmarks", "muon", "3"]
    assert shown[0][5:8] == ["8", "0.400 / 0.600 / 0.700", "optim.lr 0.004, model.dropout 0.1"]
    assert shown[1][1] == "nothing, from scratch"
    assert shown[0][-1] == "32-trueauto: no bfloat16 in hardware, AVX2"
    assert shown[1][5:7] == ["\N{EN DASH}"] * 2
    assert shown[1][-1] == "\N{EN DASH}"
    assert any("not run on equal terms" in sentence for sentence in words(full))
    page = html(full)
    assert 'id="terms"' in page
    assert "not tuned alike" in page
    assert "face: faces; landmarks" in markdown(full, table)
