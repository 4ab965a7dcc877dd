"""The report of few-shot episodes: a mean and an interval for every way of asking."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import t as student

from faceaffect.errors import harmless
from faceaffect.evaluation.pages import page_template
from faceaffect.files import write_together
from faceaffect.progress import console
from faceaffect.runs.result import plain

NONE = "none"
"""No augmentation."""

KEY = ("method", "augmentation", "shot")


@dataclass
class Scores:
    """Accuracies of one model: (method, augmentation, shot) to one value an episode."""

    of: dict[tuple[str, str, int], list[float]] = field(default_factory=dict)

    def add(self, key: tuple[str, str, int], said: NDArray[np.int64], query: int) -> None:
        """Add an episode's answers, ``query`` of each class in order."""
        right = np.repeat(np.arange(len(said) // query), query)
        self.of.setdefault(key, []).append(float((said == right).mean()))


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the 95 % interval of a mean over episodes, by Student's t.

    It is about other episodes of the same people and classes, not about other people.

    >>> low, high = interval([0.4, 0.6, 0.5])
    >>> round(low, 3), round(high, 3)
    (0.252, 0.748)
    """
    n, mean = len(values), float(np.mean(values))
    half = float(student.ppf(0.975, n - 1) * np.std(values, ddof=1) / np.sqrt(n))
    return mean - half, mean + half


def rows(name: str, scores: Sequence[Scores]) -> list[dict[str, Any]]:
    """Return a row for each way in which a model was asked.

    ``accuracy`` is the mean over episodes and seeds, ``low`` to ``high`` its interval over
    episodes, ``spread`` the sample standard deviation over seeds; ``gain`` is over no augmentation
    in the same episodes, with its interval.
    """
    found = []
    for key in scores[0].of:
        every = np.array([own.of[key] for own in scores])  # (seeds, episodes)
        values = every.mean(0)
        low, high = interval(values.tolist())
        row: dict[str, Any] = {"model": name, **dict(zip(KEY, key, strict=True))}
        row |= {"episodes": len(values), "accuracy": float(values.mean()), "low": low, "high": high}
        row["per_seed"] = every.mean(1).tolist()
        row["spread"] = float(every.mean(1).std(ddof=1)) if len(every) > 1 else None
        plainly = (key[0], NONE, key[2])
        row["gain"] = None
        if key != plainly:
            lead = values - np.array([own.of[plainly] for own in scores]).mean(0)
            low, high = interval(lead.tolist())
            row["gain"] = {"mean": float(lead.mean()), "low": low, "high": high}
        found.append(row)
    return found


def words(found: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a sentence for each row."""
    lines = []
    for row in found:
        line = f"{row['model']}: {row['method']}"
        line += f" with {row['augmentation']}" if row["augmentation"] != NONE else ""
        line += f", {row['shot']} examples" if row["shot"] > 1 else ", 1 example"
        line += f": {_points(row['accuracy'])} % right ({_points(row['low'])} to "
        line += f"{_points(row['high'])}, {row['episodes']} episodes)"
        if row["spread"] is not None:
            line += f", ± {_points(row['spread'])} over {len(row['per_seed'])} seeds"
        if row["gain"]:
            gain = row["gain"]
            line += f"; {100 * gain['mean']:+.1f} against none ({100 * gain['low']:+.1f} to "
            line += f"{100 * gain['high']:+.1f})"
        lines.append(line)
    return lines


def _points(value: float) -> str:
    return f"{100 * value:.1f}"


def write_report(
    folder: Path, found: Mapping[str, Sequence[Scores]], about: Mapping[str, Any]
) -> Path:
    """Print the result in words; write page, numbers and the accuracy in every single episode.

    Args:
        folder: made if it is not there.
        found: of each model its scores, one for each seed.
        about: what else ``few_shot.json`` shall say, ``failed`` among it.
    """
    every = [row for name, scores in found.items() for row in rows(name, scores)]
    lines = words(every) + [f"{name} failed: {why}" for name, why in about["failed"].items()]
    for line in lines:
        console.print(harmless(line), markup=False, highlight=False, soft_wrap=True)
    result = plain({"rows": every, "words": lines, **about})
    folder.mkdir(parents=True, exist_ok=True)
    table = pd.DataFrame(
        [
            {"model": name, "seed": seed, **dict(zip(KEY, key, strict=True)), "episode": number,
             "accuracy": value}
            for name, scores in found.items()
            for seed, own in enumerate(scores)
            for key, values in own.of.items()
            for number, value in enumerate(values)
        ]
    )  # fmt: skip
    page = page_template("few_shot.html.j2").render(result=result, points=_points)
    write_together(
        folder,
        {
            "episodes.csv": table.to_csv(index=False),
            "few_shot.json": json.dumps(result, indent=2, ensure_ascii=False),
            "report.html": page,
        },
    )
    console.print(f"report: {folder / 'report.html'}", markup=False, soft_wrap=True)
    return folder
