import math
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from torch import Tensor

from compared import SCHEMA, answer, truth_table
from faceaffect.evaluation import resampling
from faceaffect.evaluation.headlines import (
    BLOCKS,
    headlines_of,
    metric_names,
    metrics_of,
    subject_counts,
)
from faceaffect.evaluation.resampling import bootstrap, holm, mcnemar_p, sign_flip
from faceaffect.evaluation.statistics import analyse, calibration_error, reliability
from faceaffect.schema import LabelSchema
from faceaffect.scores.answers import join_answers
from faceaffect.scores.metrics import TaskMetrics
from faceaffect.scores.predictions import Outcome

TASKS = SCHEMA.tasks


def counts_of(table: pd.DataFrame, task: str) -> Tensor:
    return subject_counts(Outcome.read(table, SCHEMA), SCHEMA)[task]


# Counts and metrics.


def with_gaps(table: pd.DataFrame) -> pd.DataFrame:
    """Unknown truths and unreadable answers."""
    table = table.copy()
    table["target/AU12"] = table["target/AU12"].astype("Int64")
    table.loc[::7, "target/AU12"] = pd.NA
    table.loc[1::7, "prob/AU12"] = np.nan
    table.loc[2::7, "target/expression"] = None
    table.loc[3::7, ["prob/neutral", "prob/happiness", "prob/anger"]] = np.nan
    table.loc[4::7, "target/valence"] = np.nan
    table.loc[5::7, "pred/valence"] = np.nan
    return table


def test_metrics_of_counts_are_the_metrics() -> None:
    table = with_gaps(answer(truth_table(12, 5), 1.0, 1))
    outcome = Outcome.read(table, SCHEMA)
    reference = TaskMetrics(SCHEMA)
    reference.update(outcome.answers, outcome.truth)
    expected = reference.compute()
    for task, counts in subject_counts(outcome, SCHEMA).items():
        values = metrics_of(task, counts.sum(0)).tolist()
        for name, value in zip(metric_names(task, SCHEMA), values, strict=True):
            assert value == pytest.approx(expected[name], abs=1e-7), name


@pytest.mark.parametrize("task", TASKS)
def test_weighted_counts_are_the_resampled_table(task: str) -> None:
    table = with_gaps(answer(truth_table(6, 5), 1.0, 1))
    weights = torch.tensor([[2.0, 0, 1, 0, 3, 0]], dtype=torch.float64)
    values = metrics_of(task, weights @ counts_of(table, task))[0].tolist()
    drawn = [0, 0, 2, 4, 4, 4]
    parts = [table[table["subject"] == f"p{i:03d}"] for i in drawn]
    again = pd.concat(
        [part.assign(id=part["id"] + f"-{k}", subject=str(k)) for k, part in enumerate(parts)]
    )
    outcome = Outcome.read(again, SCHEMA)
    reference = TaskMetrics(SCHEMA)
    reference.update(outcome.answers, outcome.truth)
    expected = reference.compute()
    assert values == pytest.approx([expected[n] for n in metric_names(task, SCHEMA)], abs=1e-7)


def test_a_constant_prediction_has_no_concordance() -> None:
    table = truth_table(5, 4).assign(**{"pred/valence": 0.1, "pred/arousal": -0.7})
    schema = LabelSchema((), (), True)
    counts = subject_counts(Outcome.read(table, schema), schema)["va"]
    assert metrics_of("va", counts.sum(0)).tolist() == [0, 0, 0]


def test_an_au_without_positives_is_0_if_predicted_and_else_left_out_of_the_mean() -> None:
    cells = torch.tensor([[3.0, 0, 1, 2, 1, 0, 5, 5], [3.0, 0, 1, 0, 1, 0, 5, 5]])
    expected = [[0.375, 0.75, 0], [0.75, 0.75, math.nan]]
    for row, values in zip(cells, expected, strict=True):
        assert metrics_of("au", row).tolist() == pytest.approx(values, nan_ok=True)


# Bootstrap.


def accuracy(counts: Tensor) -> Tensor:
    """(..., 2) right answers and samples."""
    return counts[..., :1] / counts[..., 1:]


def test_the_standard_error_is_the_ratio_estimators() -> None:
    right, n = torch.tensor([3.0, 0, 4, 2, 5, 1]), torch.tensor([4.0, 2, 5, 5, 5, 3])
    counts = torch.stack([right, n], 1).double()
    one = torch.ones(1, 6, dtype=torch.float64)
    value, error = resampling._with_errors([counts], [1.0], accuracy, one)
    p = 15 / 24
    residual = right.numpy() - p * n.numpy()
    expected = math.sqrt(6 / 5 * (residual**2).sum()) / 24  # Cochran, Sampling Techniques, 6.3
    assert value.item() == p
    assert error.item() == pytest.approx(expected)


def test_the_interval_agrees_with_scipy_where_both_are_good() -> None:
    rng = np.random.default_rng(0)
    n = rng.integers(4, 9, 200)
    right = rng.binomial(n, rng.beta(6, 4, 200))
    counts = torch.tensor(np.stack([right, n], 1), dtype=torch.float64)
    value, low, high = bootstrap([counts], [1.0], accuracy, resamples=4000, seed=1)
    expected = stats.bootstrap(
        (right, n),
        lambda r, m, axis: r.sum(axis) / m.sum(axis),
        paired=True,
        vectorized=True,
        n_resamples=4000,
        method="BCa",
        rng=np.random.default_rng(1),
    )
    assert value.item() == right.sum() / n.sum()
    assert [low.item(), high.item()] == pytest.approx(expected.confidence_interval, abs=2e-3)


def test_frames_of_one_person_are_no_independent_evidence() -> None:
    table = answer(truth_table(30, 4), 0.5, 1)
    counts = counts_of(table, "au")
    often = counts * 25  # the same people, each frame 25 times
    score = partial(metrics_of, "au")
    few, many = bootstrap([counts], [1.0], score), bootstrap([often], [1.0], score)
    for a, b in zip(few, many, strict=True):
        assert a.tolist() == pytest.approx(b.tolist())


def test_resamples_are_the_same_people_in_any_chunking(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = torch.cat(list(resampling._drawn(7, 50, 3)))
    monkeypatch.setattr(resampling, "_CHUNK", 60)
    parts = list(resampling._drawn(7, 50, 3))
    assert len(parts) > 1
    assert torch.equal(whole, torch.cat(parts))
    assert whole.sum(1).eq(7).all()


def test_one_person_has_no_interval_and_a_perfect_model_a_point() -> None:
    one = torch.tensor([[3.0, 4.0]], dtype=torch.float64)
    assert bootstrap([one], [1.0], accuracy)[1].isnan().all()
    perfect = torch.tensor([[3.0, 3.0], [5.0, 5.0]], dtype=torch.float64)
    assert [v.item() for v in bootstrap([perfect], [1.0], accuracy)] == [1, 1, 1]


# Simulation: people differ in expressions, in skill and in number of frames.

RATES = torch.tensor([0.15, 0.4])


def population(people: int, rng: torch.Generator, shift: float = 0.0) -> list[dict[str, Tensor]]:
    """Counts of two models; at shift 0 their answers about a person are exchangeable."""
    frames = torch.randint(3, 16, (people,), generator=rng)
    person = torch.arange(people).repeat_interleave(frames)
    n = len(person)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=rng, dtype=torch.float64)

    base = torch.distributions.Normal(0, 1).icdf(RATES).double() * 1.2
    au = (base + 0.66 * normal(people, 2)[person] + normal(n, 2) > 0).double()
    habit = 0.5 * normal(people, 3) + torch.tensor([1.0, 0.3, -0.3])
    gumbel = -(-torch.rand(n, 3, generator=rng, dtype=torch.float64).log()).log()
    expression = (habit[person] + gumbel).argmax(1)
    va = (0.4 * normal(people, 2)[person] + 0.3 * normal(n, 2)).tanh()
    ids, names = [str(i) for i in range(n)], [str(i) for i in range(people)]
    truth = {"au": au, "expression": expression, "va": va}
    common = 0.6 * normal(people, 2)
    models = []
    for extra in (0.0, shift):
        skill = 0.9 + extra + common + 0.5 * normal(people, 2)
        prob = ((2 * au - 1) * skill[person] + normal(n, 2)).sigmoid()
        logits = -(-torch.rand(n, 3, generator=rng, dtype=torch.float64).log()).log()
        logits[torch.arange(n), expression] += (1.2 + extra + 0.5 * normal(people))[person]
        said = 0.6 * va + 0.15 * normal(people, 2)[person] + 0.2 * normal(n, 2)
        answers = {"au": prob, "expression": logits.softmax(1), "va": said}
        models.append(subject_counts(Outcome(ids, names, person, answers, truth, {}, []), SCHEMA))
    return models


def coverage(people: int, trials: int, resamples: int, seed: int) -> dict[str, float]:
    """Share of the trials whose interval holds the population's metric or difference."""
    rng = torch.Generator().manual_seed(seed)
    shift = 0.3
    world = population(40_000, rng, shift)
    hits: dict[str, list[bool]] = {}
    for trial in range(trials):
        sample = population(people, rng, shift)
        for task in TASKS:
            score = partial(metrics_of, task)
            of_model = [model[task] for model in sample]
            true = [metrics_of(task, model[task].sum(0)) for model in world]
            for label, of, factors, value in (
                ("model", of_model[:1], [1.0], true[0]),
                ("pair", of_model, [1.0, -1.0], true[0] - true[1]),
            ):
                _, low, high = bootstrap(of, factors, score, resamples=resamples, seed=trial)
                inside = (low <= value) & (value <= high)
                for name, hit in zip(metric_names(task, SCHEMA), inside.tolist(), strict=True):
                    hits.setdefault(f"{label} {name}", []).append(hit)
    return {name: float(np.mean(of)) for name, of in hits.items()}


@pytest.mark.slow
@pytest.mark.parametrize(("people", "trials"), [(40, 1000), (120, 400)])
def test_intervals_cover_at_the_stated_rate(people: int, trials: int) -> None:
    rates = coverage(people, trials=trials, resamples=1000, seed=people)
    error = math.sqrt(0.95 * 0.05 / trials)  # of one rate; the metrics' rates hang together
    assert abs(np.mean(list(rates.values())) - 0.95) < 2 * error
    assert min(rates.values()) > 0.95 - 4 * error, rates


def false_alarms(people: int, trials: int, seed: int) -> dict[str, float]:
    rng = torch.Generator().manual_seed(seed)
    found = []
    for trial in range(trials):
        a, b = population(people, rng)
        p = [
            sign_flip([a[t]], [b[t]], partial(metrics_of, t), permutations=299, seed=trial)
            for t in TASKS
        ]
        found.append(torch.cat(p) <= 0.05)
    names = [name for task in TASKS for name in metric_names(task, SCHEMA)]
    rates = torch.stack(found).double().mean(0).tolist()
    return dict(zip(names, rates, strict=True))


def test_the_paired_test_keeps_its_error_rate() -> None:
    rates = false_alarms(people=40, trials=300, seed=0)
    assert max(rates.values()) < 0.05 + 3 * math.sqrt(0.05 * 0.95 / 300)
    assert np.mean(list(rates.values())) < 0.06


@pytest.mark.slow
@pytest.mark.parametrize("people", [12, 40])
def test_the_paired_test_keeps_its_error_rate_closely(people: int) -> None:
    rates = false_alarms(people, trials=2000, seed=people)
    assert max(rates.values()) < 0.05 + 3 * math.sqrt(0.05 * 0.95 / 2000), rates


Errors = tuple[float, float, float, float, float]
"""Rate of an AU, F1 of both models, false positives of the timid one, true positives of the bold
one, how alike people are."""
MILD: Errors = (0.3, 0.7, 0.05, 0.85, 6)
STRONG: Errors = (0.3, 0.5, 0.02, 0.9, 6)
EXTREME: Errors = (0.1, 0.4, 0.005, 0.9, 1.5)


def equals(people: int, errors: Errors, rng: np.random.Generator) -> list[Tensor]:
    """Counts of one AU of two models of the same F1: one misses more, one sees more than there is.

    Rates of people are drawn from beta distributions, whose means give the F1 in the population.
    """
    present, score, few_alarms, many_hits, alike = errors

    def rate(mean: float) -> np.ndarray:
        return rng.beta(alike * mean, alike * (1 - mean), people)

    frames = rng.integers(3, 16, people)
    positive = rng.binomial(frames, rate(present))
    few_hits = score * (present + (1 - present) * few_alarms) / ((2 - score) * present)
    many_alarms = present * (2 * many_hits / score - 1 - many_hits) / (1 - present)
    models = []
    for hits, alarms in ((few_hits, few_alarms), (many_hits, many_alarms)):
        true = rng.binomial(positive, rate(hits))
        false = rng.binomial(frames - positive, rate(alarms))
        cells = (true, false, positive - true, frames - positive - false)
        models.append(torch.tensor(np.stack(cells, 1), dtype=torch.float64))
    return models


@pytest.mark.parametrize("errors", [MILD, STRONG, EXTREME])
def test_the_models_of_equal_score_have_equal_score(errors: Errors) -> None:
    timid, bold = (model.sum(0) for model in equals(200_000, errors, np.random.default_rng(0)))
    scores = [metrics_of("au", model)[0].item() for model in (timid, bold)]
    assert scores == pytest.approx([errors[1]] * 2, abs=5e-3)
    assert bold[1] > 4 * timid[1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("errors", "people", "rate"),
    [(MILD, 40, 0.047), (MILD, 100, 0.046), (STRONG, 40, 0.062), (STRONG, 100, 0.058),
     (EXTREME, 40, 0.087), (EXTREME, 100, 0.068)],
)  # fmt: skip
def test_equal_scores_of_other_errors_are_told_apart_as_often_as_the_docs_say(
    errors: Errors, people: int, rate: float
) -> None:
    rng, trials, alarms = np.random.default_rng(people), 4000, 0
    for trial in range(trials):
        a, b = equals(people, errors, rng)
        p = sign_flip([a], [b], partial(metrics_of, "au"), permutations=299, seed=trial)
        alarms += p[0].item() <= 0.05
    assert alarms / trials == pytest.approx(rate, abs=3 * math.sqrt(rate / trials))


def test_frames_instead_of_people_would_raise_false_alarms() -> None:
    """The reason for all of this: a test that takes frames for independent errs often."""
    rng, alarms = np.random.default_rng(0), 0
    for _ in range(200):
        own = rng.normal(size=(2, 20, 1)) * 0.8  # each model has its own easy people
        right = rng.random((2, 20, 15)) < 1 / (1 + np.exp(-own))
        a, b = (torch.tensor(of.ravel()) for of in right)
        alarms += mcnemar_p(a, b) < 0.05
    assert alarms / 200 > 0.12


def test_the_paired_test_finds_a_difference() -> None:
    a, b = population(60, torch.Generator().manual_seed(5), shift=0.8)
    for task in TASKS[:2]:
        assert sign_flip([b[task]], [a[task]], partial(metrics_of, task))[0] < 0.01


# Tests.


def test_sign_flip_is_scipys_exact_test_of_paired_samples() -> None:
    truth = truth_table(7, 4)
    a, b = (counts_of(answer(truth, skill, i), "au") for i, skill in enumerate((0.5, 1.0)))
    both = torch.cat([a, b])

    def difference(x: np.ndarray, y: np.ndarray, axis: int) -> np.ndarray:
        f1 = [metrics_of("au", both[of.astype(int)].sum(-2))[..., 0] for of in (x, y)]
        return (f1[0] - f1[1]).numpy()

    expected = stats.permutation_test(
        (np.arange(7), np.arange(7, 14)),
        difference,
        permutation_type="samples",
        vectorized=True,
        n_resamples=np.inf,
        axis=-1,
    )
    p = sign_flip([a], [b], partial(metrics_of, "au"))
    assert p[0].item() == pytest.approx(expected.pvalue)


def test_sign_flip_of_a_mean_flips_the_signs_of_the_differences() -> None:
    a, b = torch.tensor([1.0, 0, 1, 1, 1, 1, 0, 1]), torch.tensor([0.0, 0, 0, 1, 0, 0, 1, 0])
    n = torch.ones(8)
    p = sign_flip(
        [torch.stack([a, n], 1).double()], [torch.stack([b, n], 1).double()], accuracy
    ).item()
    assert p == pytest.approx(mcnemar_p(a.bool(), b.bool()))  # its exact form for single samples


def test_random_permutations_count_the_observed_one() -> None:
    a = torch.tensor([[1.0, 1.0]] * 30, dtype=torch.float64)
    b = torch.tensor([[0.0, 1.0]] * 30, dtype=torch.float64)
    assert sign_flip([a], [b], accuracy, permutations=99).item() == 0.01


def test_equal_models_differ_in_nothing() -> None:
    a = counts_of(answer(truth_table(25, 3), 0.5, 0), "expression")
    assert sign_flip([a], [a], partial(metrics_of, "expression")).tolist() == [1.0] * 5


def test_mcnemar_is_the_binomial_test_of_the_disagreements() -> None:
    a = torch.tensor([True] * 21 + [False] * 9 + [True] * 40 + [False] * 10)
    b = torch.tensor([False] * 21 + [True] * 9 + [True] * 40 + [False] * 10)
    assert mcnemar_p(a, b) == pytest.approx(stats.binomtest(9, 30).pvalue)


def test_holm() -> None:
    # Holm (1979): the smallest times 4, the next times 3, ...; never below a smaller one's.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.02, math.nan, 0.8]) == pytest.approx([0.04, math.nan, 0.8], nan_ok=True)
    assert holm([]) == []


# The whole.


@pytest.fixture(scope="module")
def analysed() -> dict:
    truth = truth_table(24, 4)
    tables = {
        "good": [answer(truth, 1.5, seed) for seed in (1, 2, 3)],
        "poor": [answer(truth, 0.2, seed) for seed in (4, 5, 6)],
        "single": [answer(truth, 0.8, 7)],
    }
    baselines = {"expression_recall/neutral": 0.0, "expression_recall/happiness": 1.0}
    return {
        "tables": tables,
        "report": analyse(tables, SCHEMA, baselines=baselines, resamples=300),
    }


def test_metrics_are_means_over_seeds_with_their_spread(analysed: dict) -> None:
    good = analysed["report"]["models"]["good"]
    for name, values in good["per_seed"].items():
        assert len(values) == 3
        assert good["metrics"][name] == pytest.approx(np.mean(values))
        assert good["spread"][name] == pytest.approx(np.std(values, ddof=1))
    assert analysed["report"]["models"]["single"]["spread"]["au_f1"] is None


def test_intervals_hold_their_estimates_within_the_range(analysed: dict) -> None:
    for model in analysed["report"]["models"].values():
        assert set(model["intervals"]) == {n for t in TASKS for n in metric_names(t, SCHEMA)}
        for name, (low, high) in model["intervals"].items():
            assert low <= model["metrics"][name] <= high
            assert low >= -1
            assert high <= 1


def test_pairs_are_all_pairs_with_holm_within_a_metric(analysed: dict) -> None:
    report = analysed["report"]
    pairs = report["pairs"]
    assert len(pairs) == 3 * 4
    for pair in pairs:
        a, b = (report["models"][pair[side]]["metrics"][pair["metric"]] for side in "ab")
        assert pair["difference"] == pytest.approx(a - b)
        assert pair["interval"][0] <= pair["difference"] <= pair["interval"][1]
        assert pair["test"] == "sign-flip over 24 subjects"
    au = [pair for pair in pairs if pair["metric"] == "au_f1"]
    assert [pair["p_holm"] for pair in au] == pytest.approx(holm([pair["p"] for pair in au]))
    assert au[0]["p"] < 0.01


def test_mcnemar_only_with_one_sample_a_person_and_one_seed() -> None:
    truth = truth_table(30, 1)
    tables = {"a": [answer(truth, 1.5, 1)], "b": [answer(truth, 0.3, 2)]}
    tests = {p["metric"]: p["test"] for p in analyse(tables, SCHEMA, resamples=50)["pairs"]}
    assert tests["expression_war"] == "McNemar"
    assert set(tests.values()) == {"McNemar", "sign-flip over 30 subjects"}
    tables["a"] *= 2
    tests = {p["metric"]: p["test"] for p in analyse(tables, SCHEMA, resamples=50)["pairs"]}
    assert tests["expression_war"] == "sign-flip over 30 subjects"


def test_confusion_and_calibration_pool_the_seeds(analysed: dict) -> None:
    good = analysed["report"]["models"]["good"]
    assert np.sum(good["confusion"]["counts"]) == 3 * 96
    assert good["confusion"]["unreadable"] == [0, 0, 0]
    for task, labels in (("au", 2), ("expression", 1)):
        assert sum(row["n"] for row in good["calibration"][task]["bins"]) == 3 * 96 * labels
    single = analysed["report"]["models"]["single"]
    assert single["calibration"]["expression"]["ece"] == pytest.approx(
        single["metrics"]["expression_ece"], abs=1e-6
    )


def test_reliability_of_a_worked_example() -> None:
    confidence, true = torch.tensor([0.1, 0.1, 0.9, 0.9, 1.0]), torch.tensor([0.0, 1, 1, 1, 1])
    bins = reliability(confidence.double(), true.double(), bins=2)
    assert [row["n"] for row in bins] == [2, 2, 1]  # certainty has a bin of its own, as in the ECE
    assert calibration_error(bins) == pytest.approx((2 * 0.4 + 2 * 0.1) / 5)
    assert math.isnan(calibration_error([]))


def test_groups_have_metrics_intervals_baselines_and_gap(analysed: dict) -> None:
    group = analysed["report"]["models"]["good"]["groups"]["skin_tone"]
    both = group["groups"]
    assert set(both) == {"II", "V"}
    assert sum(of["n"] for of in both.values()) == 96
    assert sum(of["subjects"] for of in both.values()) == 24
    table = analysed["tables"]["single"][0]
    outcome = Outcome.read(table[table["attribute/skin_tone"] == "II"], SCHEMA)
    reference = TaskMetrics(SCHEMA)
    reference.update(outcome.answers, outcome.truth)
    single = analysed["report"]["models"]["single"]["groups"]["skin_tone"]["groups"]["II"]
    for name, value in single["metrics"].items():
        assert value == pytest.approx(reference.compute()[name])
    for name, gap in group["gap"].items():
        assert gap == pytest.approx(abs(both["II"]["metrics"][name] - both["V"]["metrics"][name]))
        assert 0 < group["gap_p"][name] <= 1
    share = (table["target/expression"][table["attribute/skin_tone"] == "II"] == "happiness").mean()
    assert both["II"]["baselines"]["expression_war"] == pytest.approx(share)
    assert both["II"]["baselines"]["va_ccc"] == 0


def test_an_attribute_that_varies_within_people_has_a_gap_without_test() -> None:
    table = answer(truth_table(20, 4), 1.0, 1)
    table["attribute/light"] = np.tile(["day", "night"], 40)
    groups = analyse({"a": [table]}, SCHEMA, resamples=20)["models"]["a"]["groups"]
    assert math.isnan(groups["light"]["gap_p"]["au_f1"])
    assert not math.isnan(groups["skin_tone"]["gap_p"]["au_f1"])


def test_warnings_say_what_is_uncertain() -> None:
    truth = truth_table(4, 3)
    table = with_gaps(answer(truth, 1.0, 1))
    table["target/AU1"] = 0
    text = " ".join(analyse({"a": [table]}, SCHEMA, resamples=20)["warnings"])
    assert "Only 4 people" in text
    assert "p below 0.125" in text
    assert "one seed" in text
    assert "Never in the truth: AU1. Their F1 is 0 for a model that reports them" in text
    assert "a: 2 of 12 answers to task 'au' are unreadable" in text
    assert "Groups of 'skin_tone'" in text
    many = [answer(truth_table(40, 2), 1.0, seed) for seed in (1, 2)]
    assert analyse({"a": many}, SCHEMA, resamples=20)["warnings"] == []


def test_only_people_with_labels_of_a_task_count() -> None:
    tables = {}
    for name, skill in (("a", 1.0), ("b", 0.3)):
        table = answer(truth_table(30, 3), skill, 1)
        without = table["subject"] >= "p012"
        table.loc[without, "target/expression"] = None
        tables[name] = [table]
    report = analyse(tables, SCHEMA, resamples=50)
    tests = {pair["metric"]: pair["test"] for pair in report["pairs"]}
    assert tests["expression_uar"] == "sign-flip over 12 subjects"
    assert tests["au_f1"] == tests["va_ccc"] == "sign-flip over 30 subjects"
    (few,) = [w for w in report["warnings"] if "Only" in w]
    assert "Only 12 people with labels of expression" in few
    tables["a"][0].loc[:, "target/expression"] = None
    nobody = analyse({"a": tables["a"]}, SCHEMA, resamples=50)
    assert "Only 0 people with labels of expression" in " ".join(nobody["warnings"])


def test_groups_stand_in_the_order_of_the_data() -> None:
    table = answer(truth_table(9, 2), 1.0, 1)
    ages = ("young", "middle", "old")
    table["attribute/age"] = np.resize(ages, len(table))
    report = analyse({"a": [table]}, SCHEMA, attribute_names={"age": ages}, resamples=20)
    assert tuple(report["models"]["a"]["groups"]["age"]["groups"]) == ages
    report = analyse({"a": [table]}, SCHEMA, resamples=20)
    assert tuple(report["models"]["a"]["groups"]["age"]["groups"]) == tuple(sorted(ages))


def test_other_samples_people_or_truth_are_refused() -> None:
    one = answer(truth_table(5, 3), 1.0, 1)
    with pytest.raises(ValueError, match="b: not tested on the same samples"):
        analyse({"a": [one], "b": [one.iloc[1:]]}, SCHEMA)
    with pytest.raises(ValueError, match="b: not tested on the same samples"):
        analyse({"a": [one], "b": [one.assign(subject=one["subject"].to_numpy()[::-1])]}, SCHEMA)
    other = one.assign(**{"target/AU12": 1 - one["target/AU12"]})
    with pytest.raises(ValueError, match="b: another truth of task 'au'"):
        analyse({"a": [one], "b": [other]}, SCHEMA)


def test_the_order_of_rows_does_not_matter() -> None:
    one, two = (answer(truth_table(6, 3), 1.0, seed) for seed in (1, 2))
    first = analyse({"a": [one], "b": [two]}, SCHEMA, resamples=50)
    again = analyse({"a": [one], "b": [two.sample(frac=1, random_state=1)]}, SCHEMA, resamples=50)
    assert first["pairs"] == again["pairs"]
    assert first["models"]["b"]["intervals"] == again["models"]["b"]["intervals"]


def test_texts_are_scored_beside_the_probabilities() -> None:
    schema = LabelSchema((), SCHEMA.expressions, False)
    table = answer(truth_table(6, 2), 1.0, 1)
    table["text"] = [
        join_answers({"expression": f"The expression is {n}."}) for n in table["target/expression"]
    ]
    metrics = analyse({"a": [table]}, schema, resamples=20)["models"]["a"]["metrics"]
    assert metrics["generated/expression_war"] == 1


def test_intervals_and_tests_of_very_many_people_keep_their_promise() -> None:
    """Blocks of 6,000 people: 95 % are covered, and 5 % of equal models are told apart.

    The true F1, 0.62009, is by quadrature over the people's habits.
    """
    rng, people, repeats = np.random.default_rng(0), 6000, 240
    names, ids = [str(i) for i in range(people)], [str(i) for i in range(2 * people)]
    person = torch.arange(people).repeat_interleave(2)
    covered = rejected = 0
    score = partial(headlines_of, "au")
    for _ in range(repeats):
        true = rng.random(2 * people) < 0.2
        tables = []
        for _model in range(2):
            habit = np.repeat(rng.normal(0, 0.8, people), 2)  # frames of a person are alike
            chance = 1 / (1 + np.exp(-(np.where(true, 1.0, -2.0) + habit)))
            said = torch.as_tensor(rng.random(2 * people) < chance)[:, None].double()
            truth = {"au": torch.as_tensor(true)[:, None].double()}
            outcome = Outcome(ids, names, person, {"au": said}, truth, {}, [])
            tables.append(subject_counts(outcome, LabelSchema((12,)))["au"])
        assert len(tables[0]) == BLOCKS
        _, low, high = bootstrap(tables[:1], [1], score, resamples=120)
        covered += bool(low[0] <= 0.62009 <= high[0])
        rejected += bool(sign_flip(tables[:1], tables[1:], score, permutations=99)[0] <= 0.05)
    assert 0.91 <= covered / repeats <= 0.985
    assert 0.02 <= rejected / repeats <= 0.09
