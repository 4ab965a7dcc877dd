import pytest

from faceaffect.crossval import latex, markdown
from faceaffect.evaluation.published import published

BP4D = (1, 2, 4, 6, 7, 10, 12, 14, 15, 17, 23, 24)
DISFA = (1, 2, 4, 6, 9, 12, 25, 26)


@pytest.mark.parametrize(
    ("data", "aus", "means"),
    [
        ("bp4d", BP4D, {"AUFormer": 66.2, "SACL": 65.6, "ME-GraphAU": 65.5, "JAA-Net": 60.0}),
        ("disfa", DISFA, {"AUFormer": 66.4, "SACL": 65.5, "ME-GraphAU": 63.1, "KDSRL": 64.5}),
    ],
)
def test_cells_give_the_averages_that_are_quoted_with_them(
    data: str, aus: tuple[int, ...], means: dict[str, float]
) -> None:
    rows = published(data, aus)
    for method, mean in means.items():
        assert rows[method][-1] == pytest.approx(mean, abs=0.051)


def test_columns_follow_the_schema_and_other_sets_have_no_rows() -> None:
    assert published("disfa", DISFA[::-1])["SACL"][:2] == [53.1, 95.6]
    assert published("disfa", DISFA[1:]) == {}
    assert published("csv", DISFA) == {}


def test_the_summary_prints_them_as_quoted() -> None:
    ours = {"au_f1": 0.5, **{f"au_f1/AU{au}": 0.5 for au in DISFA}}
    summary = {
        "recipe": "auformer_disfa",
        "data": "disfa",
        "folds": [1, 2, 3],
        "n": [1, 1, 1],
        "schema": {"aus": list(DISFA)},
        "mean": ours,
        "std": ours,
        "pooled": ours,
        "baselines": {},
        "selection": ["val"],
    }
    line = "58.6 | 61.0 | 70.4 | 52.4 | 58.1 | 73.0 | 90.8 | 66.9 | 66.4 |"
    assert f"| AUFormer (quoted) | {line}" in markdown(summary)
    assert "AUFormer (quoted) & 58.6 & 61.0" in latex(summary)
