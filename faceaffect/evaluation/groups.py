"""Performance in groups of people who share a value of an attribute, and the gap between groups."""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from faceaffect.evaluation.headlines import (
    BLOCKS,
    MANY_PEOPLE,
    counted_as,
    headlines,
    headlines_of,
    pooled_counts,
)
from faceaffect.evaluation.resampling import chunks, mean_intervals
from faceaffect.schema import LabelSchema
from faceaffect.scores.predictions import Outcome

Counts = list[dict[str, Tensor]]
"""Of each seed, by task, a table (S, C)."""


def by_group(
    outcomes: list[Outcome],
    trivial: Outcome | None,
    schema: LabelSchema,
    resamples: int,
    seed: int,
    attribute_names: Mapping[str, Sequence[str]],
) -> dict[str, Any]:
    """Return headline metrics for each value of each attribute that has several.

    ``gap`` is the largest less the smallest value. Some gap always arises by chance: ``gap_p`` is
    the share of random assignments of the values to the people with a gap at least as large
    (uncorrected), NaN where a person has several values or none.

    Args:
        outcomes: one per seed.
        trivial: answers that look at no face, for ``baselines`` of each group; may be absent.
        schema: the labels to score.
        resamples: of the bootstrap.
        seed: of bootstrap and permutations.
        attribute_names: the order of each attribute's values, which may be one of size or age.
    """
    coded_values = {
        name: coded(values, attribute_names.get(name, ()))
        for name, values in outcomes[0].attributes.items()
    }
    return {
        name: _of_attribute(outcomes, trivial, schema, code, names, resamples, seed)
        for name, (code, names) in coded_values.items()
        if len(names) > 1
    }


def _of_attribute(
    outcomes: list[Outcome],
    trivial: Outcome | None,
    schema: LabelSchema,
    code: Tensor,
    names: list[str],
    resamples: int,
    seed: int,
) -> dict[str, Any]:
    subject, people = outcomes[0].subject, len(outcomes[0].people)
    groups: dict[str, dict[str, Any]] = {}
    for i, name in enumerate(names):
        rows = (code == i).nonzero().flatten()
        here, inside = torch.unique(subject[rows], return_inverse=True)
        owner, owners = counted_as(inside, len(here))
        of = [pooled_counts(outcome, schema, owner, owners, rows) for outcome in outcomes]
        groups[name] = {
            "n": len(rows),
            "subjects": len(here),
            "metrics": _headlines(of),
            "intervals": _intervals(of, resamples, seed),
        }
        if trivial:
            nobody = pooled_counts(trivial, schema, owner, owners, rows)
            groups[name]["baselines"] = _headlines([nobody])
    gap = _gaps([group["metrics"] for group in groups.values()])
    chance = dict.fromkeys(gap, math.nan)
    value = _of_people(code, subject, people)
    if value is not None:
        unit, value = _units(value)
        everyone = [pooled_counts(o, schema, unit[subject], len(value)) for o in outcomes]
        chance = _gap_p(everyone, gap, value, len(names), seed)
    return {"groups": groups, "gap": gap, "gap_p": chance}


def _units(value: Tensor) -> tuple[Tensor, Tensor]:
    """Return the unit of each person (S,) and the value of each unit; many people share units."""
    if len(value) <= MANY_PEOPLE:
        return torch.arange(len(value)), value
    size, rank = -(-len(value) // BLOCKS), torch.empty_like(value)
    order = torch.as_tensor(np.random.default_rng(0).permutation(len(value)))
    for i in torch.unique(value).tolist():
        own = order[value[order] == i]
        rank[own] = torch.arange(len(own)) // size
    pairs, unit = torch.unique(torch.stack([value, rank], 1), dim=0, return_inverse=True)
    return unit, pairs[:, 0]


def coded(values: list[Any], order: Sequence[str] = ()) -> tuple[Tensor, list[str]]:
    """Return the index (N,) of each value, -1 unknown, and the names of the values that occur.

    Args:
        values: of N samples, None unknown.
        order: of the names; those that are not in it come last, sorted.

    >>> coded(["old", None, "young", "old"], ["young", "middle", "old"])
    (tensor([ 1, -1,  0,  1]), ['young', 'old'])
    """
    known = [f"{v:g}" if isinstance(v, float) else None if v is None else str(v) for v in values]
    rank = {name: i for i, name in enumerate(order)}
    names = sorted({n for n in known if n is not None}, key=lambda n: (rank.get(n, len(rank)), n))
    place = {name: i for i, name in enumerate(names)}
    return torch.tensor([-1 if name is None else place[name] for name in known]), names


def _mean(counts: Counts, task: str, weights: Tensor) -> Tensor:
    """Mean over the seeds of the headline metrics of weighted people, (R, S) to (R, M)."""
    return torch.stack([headlines_of(task, weights @ of[task]) for of in counts]).mean(0)


def _headlines(counts: Counts) -> dict[str, float]:
    values: dict[str, float] = {}
    for task, table in counts[0].items():
        everyone = torch.ones(1, len(table), dtype=torch.float64)
        mean = _mean(counts, task, everyone)[0]
        values |= dict(zip(headlines(task), mean.tolist(), strict=True))
    return values


def _intervals(counts: Counts, resamples: int, seed: int) -> dict[str, list[float]]:
    intervals: dict[str, list[float]] = {}
    for task in counts[0]:
        of, score = [table[task] for table in counts], partial(headlines_of, task)
        intervals |= mean_intervals(of, score, headlines(task), resamples=resamples, seed=seed)
    return intervals


def _gaps(groups: list[dict[str, float]]) -> dict[str, float]:
    """Largest less smallest of the groups' defined values, NaN with fewer than two."""
    gaps = {}
    for name in groups[0]:
        defined = [group[name] for group in groups if not math.isnan(group[name])]
        gaps[name] = max(defined) - min(defined) if len(defined) > 1 else math.nan
    return gaps


def _of_people(code: Tensor, subject: Tensor, people: int) -> Tensor | None:
    """The one value of each person (S,), None if somebody has several or none."""
    lowest = torch.full((people,), len(code)).scatter_reduce_(0, subject, code, "amin")
    highest = torch.full((people,), -1).scatter_reduce_(0, subject, code, "amax")
    return lowest if lowest.equal(highest) and bool((lowest >= 0).all()) else None


def _gap_p(
    counts: Counts,
    observed: dict[str, float],
    value: Tensor,
    number: int,
    seed: int,
    permutations: int = 1999,
) -> dict[str, float]:
    """Permutation test of each gap over assignments of the values (S,) to the people."""
    rng = np.random.default_rng(seed)
    extreme = dict.fromkeys(observed, 1)  # the observed assignment is one of them
    for size in chunks(permutations, len(value)):
        shuffled = torch.as_tensor(rng.permuted(np.tile(value.numpy(), (size, 1)), axis=1))
        groups = [(shuffled == i).double() for i in range(number)]
        for task in counts[0]:
            scores = torch.stack([_mean(counts, task, group) for group in groups])
            highest = scores.nan_to_num(-math.inf).amax(0)
            gaps = highest - scores.nan_to_num(math.inf).amin(0)
            for i, name in enumerate(headlines(task)):
                extreme[name] += int((gaps[:, i] >= observed[name] - 1e-12).sum())
    return {
        name: math.nan if math.isnan(observed[name]) else count / (permutations + 1)
        for name, count in extreme.items()
    }
