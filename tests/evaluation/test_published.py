import re
from pathlib import Path
from typing import Any

import pytest

from faceaffect.evaluation.published import published
from faceaffect.evaluation.summary import latex, markdown

AUS = {
    "bp4d": (1, 2, 4, 6, 7, 10, 12, 14, 15, 17, 23, 24),
    "disfa": (1, 2, 4, 6, 9, 12, 25, 26),
}
DISFA = AUS["disfa"]
OTHER_MEAN = {("bp4d", "DRML"), ("disfa", "SRERL"), ("disfa", "UGN-B"), ("disfa", "FAUDT")}
PAGE = Path(__file__).parents[2] / "docs" / "models" / "auformer.md"


@pytest.mark.parametrize("data", AUS)
def test_cells_give_the_mean_that_is_quoted_with_them(data: str) -> None:
    rows = published(data, AUS[data])
    assert len(rows) == 16
    for method, (*cells, mean) in rows.items():
        close = sum(cells) / len(cells) == pytest.approx(mean, abs=0.0501)
        assert close != ((data, method) in OTHER_MEAN), method


@pytest.mark.parametrize("data", AUS)
def test_the_docs_have_the_same_rows(data: str) -> None:
    text = PAGE.read_text().partition(f"\n{data.upper()}:\n")[2]
    lines = re.match(r"\n((?:\|.*\n)+)", text)
    assert lines is not None
    header, _, *rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in lines[1].splitlines()
    ]
    assert header == ["method", *map(str, AUS[data]), "mean"]
    theirs = {name: cells for name, *cells in rows if name != "*ours*"}
    ours = published(data, AUS[data])
    assert theirs == {name: [f"{v:.1f}" for v in values] for name, values in ours.items()}


def test_columns_follow_the_schema_and_other_sets_have_no_rows() -> None:
    assert published("disfa", DISFA[::-1])["SACL"][:2] == [53.1, 95.6]
    assert published("disfa", DISFA[::-1])["SACL"][-1] == 65.5
    assert published("disfa", DISFA[1:]) == {}
    assert published("csv", DISFA) == {}


def summary(**changed: Any) -> dict[str, Any]:
    """Return what ``summarise`` gives for three folds of DISFA, or with something changed."""
    aus = changed.pop("aus", DISFA)
    ours = {"au_f1": 0.5, **{f"au_f1/AU{au}": 0.5 for au in aus}}
    usual = {
        "recipe": "auformer_disfa",
        "data": "disfa",
        "protocol": "three_fold",
        "threshold": 2.0,
        "folds": [1, 2, 3],
        "tested": [None, None, None],
        "assignments": [0],
        "n": [1, 1, 1],
        "schema": {"aus": list(aus)},
        "mean": ours,
        "std": ours,
        "pooled": ours,
        "baselines": {},
        "selection": ["val"],
    }
    return usual | changed


def test_the_summary_prints_them_as_quoted() -> None:
    line = "58.6 | 61.0 | 70.4 | 52.4 | 58.1 | 73.0 | 90.8 | 66.9 | 66.4 |"
    assert f"| AUFormer (quoted) | {line}" in markdown(summary())
    assert markdown(summary()).count("(quoted)") == 16
    assert "AUFormer (quoted) & 58.6 & 61.0" in latex(summary())
    assert "not shown" not in markdown(summary()) + latex(summary())


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"protocol": "subject_kfold"}, "follow the protocol three_fold, this is subject_kfold"),
        ({"folds": [1, 3], "n": [1, 1]}, "means of folds 1, 2, 3, this is of 1, 3"),
        ({"threshold": 3.0}, "positive from intensity 2 on, this from 3.0"),
        ({"aus": DISFA[:-1]}, "of the AUs 1, 2, 4, 6, 9, 12, 25, 26, all of them and no others"),
        ({"data": "bp4d", "threshold": None}, "of the AUs 1, 2, 4, 6, 7, 10"),
    ],
)
def test_what_cannot_be_compared_stands_alone_and_says_why(
    changed: dict[str, Any], reason: str
) -> None:
    for text in (markdown(summary(**changed)), latex(summary(**changed))):
        assert "(quoted)" not in text
        (line,) = [line for line in text.splitlines() if "Published figures are not shown" in line]
        assert reason in line.replace("\\_", "_")


def test_other_data_has_nothing_to_be_compared_with() -> None:
    text = markdown(summary(data="csv", protocol="subject_kfold"))
    assert "(quoted)" not in text
    assert "not shown" not in text
