"""Expressions by yaw on few labels: a backbone that learned from several views, and its twin.

python benchmarks/multiview.py --seeds 0 1 2 [key=value ...]

For each seed trains mini_multiview_pretraining, then from it and from nothing
(mini_multiview_finetuned, mini_multiview_scratch) on parts of the training people, and prints the
WAR and UAR of the test people at each yaw, mean and standard deviation over the seeds. All in one
process; what is finished is not trained again, and overrides apply to every recipe, those of
--pretraining to the pre-training alone (then give an --output of its own).
"""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from faceaffect.recipe import load_recipe
from faceaffect.runs.result import RESULT
from faceaffect.runs.train import train
from faceaffect.scores.predictions import read_table

EPOCHS = {0.01: 60, 0.1: 30, 1.0: 5}
"""Of fine-tuning on each share of the people; fewer faces take more epochs."""

TWINS = ("mini_multiview_finetuned", "mini_multiview_scratch")


def finished(recipe: str, output: Path, overrides: Sequence[str]) -> Path:
    """Return the folder of a finished run, which is trained if there is none, and say its cost."""
    for run in sorted((output / recipe).glob("*")):
        if (run / RESULT).is_file():
            return run
    start = time.process_time()
    run = train(load_recipe(recipe, [*overrides, f"output={output}"]), brief=True)
    print(f"{recipe} {output}: {time.process_time() - start:.0f} s of a processor", flush=True)
    return run


def scores(run: Path) -> dict[str, float]:
    """Return WAR and UAR of a run, of all test faces and at each yaw."""
    table = read_table(run / "predictions.csv")
    names = [c.removeprefix("prob/") for c in table if c.startswith("prob/")]
    chosen = table[[f"prob/{name}" for name in names]].to_numpy(float).argmax(1)
    right = pd.Series(np.array(names)[chosen] == table["target/expression"], table.index)
    found = {}
    yaw = table["attribute/yaw"].astype(float)
    for part, rows in {
        "all": yaw.notna(),
        **{f"{y:g}": yaw == y for y in sorted(set(yaw))},
    }.items():
        found[f"WAR {part}"] = float(right[rows].mean())
        found[f"UAR {part}"] = float(right[rows].groupby(table["target/expression"]).mean().mean())
    return found


def main() -> None:
    """Train what is missing and print a table for each share of the people."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--fractions", nargs="+", type=float, default=[*EPOCHS])
    parser.add_argument("--output", type=Path, default=Path("runs/multiview"))
    parser.add_argument("--pretraining", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--without-twin", action="store_true", help="do not train from nothing")
    parser.add_argument("overrides", nargs="*")
    args = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for seed in args.seeds:
        given = [*args.overrides, f"seed={seed}"]
        place, first = args.output / f"seed{seed}", [*given, *args.pretraining]
        before = finished("mini_multiview_pretraining", place, first)
        for fraction in args.fractions:
            epochs = EPOCHS.get(fraction, EPOCHS[1.0])
            place = args.output / f"seed{seed}_{fraction:g}"
            part = [f"data.fraction={fraction}", f"data.subset_seed={seed}",
                    f"trainer.max_epochs={epochs}",
                    f"trainer.check_val_every_n_epoch={max(1, epochs // 6)}"]  # fmt: skip
            for name in TWINS[: 1 if args.without_twin else 2]:
                start = [f"model.from={before}"] if name == TWINS[0] else []
                run = finished(name, place, [*given, *part, *start])
                rows.append({"fraction": fraction, "recipe": name, "seed": seed, **scores(run)})
    table = pd.DataFrame(rows).groupby(["fraction", "recipe"]).agg(["mean", "std"])
    for score in ("WAR", "UAR"):
        columns = [c for c, _ in table if c.startswith(score)]
        for key, row in table.iterrows():
            cells = [f"{row[c, 'mean']:.3f} ± {row[c, 'std']:.3f}" for c in dict.fromkeys(columns)]
            print(score, key, " | ".join(cells))
        print(*dict.fromkeys(columns), sep=" | ")


if __name__ == "__main__":
    main()
