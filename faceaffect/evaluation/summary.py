"""The summary of a cross-validation as tables, in Markdown and LaTeX."""

from collections.abc import Mapping
from typing import Any

from faceaffect.evaluation.published import NOISE_FLOOR, READ_SPREAD, not_comparable, published
from faceaffect.evaluation.tables import Cell, Table, Value, md
from faceaffect.evaluation.tables import latex as latex_of
from faceaffect.evaluation.tables import markdown as markdown_of

Summary = Mapping[str, Any]
"""What :func:`~faceaffect.evaluation.crossval.summarise` returns."""

_COLUMNS = {
    "mean of folds": "mean",
    "std": "std",
    "spread of assignments": "spread",
    "pooled": "pooled",
    "trivial": "baselines",
}
_OF_DATASETS = (
    "au_f1", "au_auroc", "expression_war", "expression_uar", "va_ccc", "felt_uar", "intensity_ccc",
)  # fmt: skip


def markdown(summary: Summary) -> str:
    """Return the summary as Markdown.

    Beside its F1 of each AU stand the published figures of the dataset, marked as quoted, or a line
    says why not.
    """
    samples = sum(summary["n"]) // len(summary["assignments"])
    folds = ", ".join(map(str, summary["folds"]))
    lines = [
        f"{md(summary['recipe'])}, folds {folds}, {samples} test samples, "
        f"checkpoint chosen on: {', '.join(summary['selection'])}",
        "",
        *(markdown_of(summary, table) for table in tables(summary)),
    ]
    return "\n".join(lines)


def latex(summary: Summary) -> str:
    """Return the same tables as LaTeX."""
    head = "% Tables of a faceaffect cross-validation. Needs \\usepackage{booktabs}.\n"
    return head + "\n".join(latex_of(summary, table) for table in tables(summary))


def tables(summary: Summary) -> list[Table]:
    """Return all metrics; by dataset, if each was left out; F1 and AUC of each AU, as papers do."""
    of_aus = [_au_table(summary, *names) for names in (("F1", "au_f1"), ("AUC", "au_auroc"))]
    return [
        _metrics(summary),
        *([] if None in summary["tested"] else [_datasets(summary)]),
        *(of_aus if summary["schema"]["aus"] else []),
    ]


def _metrics(summary: Summary) -> Table:
    columns = {
        title: key
        for title, key in _COLUMNS.items()
        if key != "spread" or len(summary["assignments"]) > 1
    }
    table = Table("folds", "Mean of the folds", _note(summary), ["metric", *columns])
    for name in sorted(summary["mean"], key=lambda name: ("/" in name, name.split("/")[0])):
        table.add([name, *(_number(key, name) for key in columns.values())])
    return table


def _note(summary: Summary) -> str:
    """Say how to read it, and how much is the luck of who was in which fold, as far as known."""
    text = (
        "std: standard deviation over folds. pooled: of the samples of all folds together. "
        "trivial: always-positive AUs, the majority class, the mean."
    )
    number = len(summary["assignments"])
    if number > 1:
        return (
            f"{text} {number} assignments of people to folds; their spread is the standard "
            f"deviation of the means over folds. {READ_SPREAD}"
        )
    if summary["schema"]["aus"] and len(summary["folds"]) == 3:
        return f"{text} One assignment of people to folds. {NOISE_FLOOR}"
    return text


def _datasets(summary: Summary) -> Table:
    shown = [name for name in _OF_DATASETS if name in summary["per_fold"]]
    note = "Each dataset was tested by a model that was trained on the others."
    table = Table("datasets", "Datasets that were left out", note, ["left out", "samples", *shown])
    for i, name in enumerate(summary["tested"]):
        cells = (_number("per_fold", metric, i) for metric in shown)
        table.add([name, Cell((Value(("n", i), "count"),)), *cells])
    return table


def _au_table(summary: Summary, title: str, metric: str) -> Table:
    """Return a table in the form that papers print: AUs side by side, in percent, and their mean.

    The published figures stand in it, quoted, where they may; else its note says why not.
    """
    aus = summary["schema"]["aus"]
    quoted, why_none = _quoted(summary) if metric == "au_f1" else ({}, "")
    columns = [f"AU {title} (%)", *map(str, aus), "avg"]
    table = Table(f"aus-{title}", f"{title} of each AU", why_none or "Mean of the folds.", columns)
    for method, values in quoted.items():
        table.add([f"{method} (quoted)", *(f"{value:.1f}" for value in values)], quiet=True)
    names = [*(f"{metric}/AU{au}" for au in aus), metric]
    own = f"{'AUC of ' * (metric == 'au_auroc')}{summary['recipe']}"
    table.add([own, *(_number("mean", name, form="points") for name in names)])
    return table


def _quoted(summary: Summary) -> tuple[dict[str, list[float]], str]:
    """Return the published rows that may stand beside a summary, or a sentence why there are none.

    Both are empty for a dataset without published rows.
    """
    data, aus = summary["data"], tuple(summary["schema"]["aus"])
    difference = not_comparable(
        data,
        aus,
        protocol=summary["protocol"],
        folds=summary["folds"],
        threshold=summary["threshold"],
    )
    if difference:
        return {}, f"Published figures are not shown: {difference}."
    return published(data, aus), ""


def _number(*at: str | int, form: str = "fraction") -> Cell:
    return Cell((Value(at, form),))
