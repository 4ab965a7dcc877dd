"""Pooled figures of cross-validations with intervals: one row a seed, then the mean.

faceaffect crossval real_expression data.root=... seed=0 output=runs/seed0   (and 1, 2)
python benchmarks/real_expression.py runs/seed0/real_expression runs/seed1/real_expression ...

Each argument is the folder of the runs of one cross-validation. The samples of all its folds are
taken together; intervals are the middle 95 % of 2,000 draws of people with replacement.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

from faceaffect.runs.result import read_result
from faceaffect.scores.predictions import read_table

DRAWS = 2000


def read(folder: Path) -> tuple[pd.DataFrame, list[str], int]:
    """Return the predictions of all folds, the classes, and how many faces were not found."""
    runs = sorted(run for run in folder.iterdir() if (run / "metrics.json").is_file())
    if not runs:
        raise SystemExit(f"{folder}: holds no finished run")
    results = [read_result(run) for run in runs]
    table = pd.concat([read_table(run / "predictions.csv") for run in runs])
    if table["id"].duplicated().any():
        raise SystemExit(f"{folder}: a face was tested twice: runs of several cross-validations")
    return table, list(results[0]["schema"]["expressions"]), max(len(r["skipped"]) for r in results)


def counts(table: pd.DataFrame, classes: list[str]) -> np.ndarray:
    """Return (people, classes, 2): faces of each class, and how many of them were seen right."""
    chosen = table[[f"prob/{name}" for name in classes]].to_numpy(float).argmax(1)
    true = table["target/expression"].map({c: i for i, c in enumerate(classes)}).to_numpy(int)
    people, person = np.unique(table["subject"].astype(str), return_inverse=True)
    found = np.zeros((len(people), len(classes), 2))
    np.add.at(found, (person, true, 0), 1)
    np.add.at(found, (person, true, 1), chosen == true)
    return found


def figures(total: np.ndarray) -> np.ndarray:
    """Return WAR, UAR and each class's recall of (..., classes, 2) counts."""
    recall = total[..., 1] / np.maximum(total[..., 0], 1)
    war = total[..., 1].sum(-1) / total[..., 0].sum(-1)
    return np.concatenate([war[..., None], recall.mean(-1)[..., None], recall], -1)


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="+", type=Path)
    rng = np.random.default_rng(0)
    rows = {}
    draws = []
    for folder in parser.parse_args().folders:
        table, classes, unseen = read(folder)
        count = counts(table, classes)
        drawn = rng.multinomial(len(count), np.full(len(count), 1 / len(count)), DRAWS)
        draws.append(figures(np.einsum("dp,pcs->dcs", drawn, count)))
        rows[str(folder)] = figures(count.sum(0))
        print(f"{folder}: {len(table)} faces of {len(count)} people, {unseen} not found")
    low, high = np.quantile(np.mean(draws, 0), (0.025, 0.975), axis=0)
    shown = pd.DataFrame(rows, index=["WAR", "UAR", *classes])
    shown["mean"], shown["std"] = shown.mean(axis=1), shown.std(axis=1)
    shown["from"], shown["to"] = low, high
    print(shown.round(3).to_string())


if __name__ == "__main__":
    main()
