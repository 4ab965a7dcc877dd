"""What has to be the same before models are compared: data, labels, split, and every answer."""

import inspect
import json
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from faceaffect import registry
from faceaffect.data.base import FaceDataModule
from faceaffect.data.protocols import SIDES
from faceaffect.data.truth import LABELS, labels_of
from faceaffect.runs.people import people_of
from faceaffect.schema import LabelSchema
from faceaffect.scores.predictions import answer_columns

HOW_IT_IS_READ = tuple(
    key
    for key in inspect.signature(FaceDataModule).parameters
    if key not in ("dataset", "protocol", "seed", "people", "fraction", "subset_seed")
)
"""Keys of the data section that belong to a model's training, not to the dataset; may differ."""

WHERE_IT_LIES = ("root", "table", "cache", "crop_cache")
"""Keys that name places; what lies there is compared by ids and labels instead."""

_SHOWN = 3


def terms_of_data(section: Mapping[str, Any], data: FaceDataModule) -> dict[str, Any]:
    """Return, under readable names, everything about a datamodule on which models must agree.

    Args:
        section: the data section of the recipe that it was built from.
        data: the datamodule.
    """
    return _terms(section, data.schema, data.split.info, data.dataset.notes) | labels_of(data)


def terms_of_result(result: Mapping[str, Any], made: Mapping[str, Any]) -> dict[str, Any]:
    """Return the same of a finished run.

    Args:
        result: its ``metrics.json``.
        made: its ``made_of.json``, which tells the labels; empty if it has none.
    """
    schema = LabelSchema.from_dict(result["scored"])
    terms = _terms(result["data"], schema, result["protocol"], result["notes"])
    return terms | {name: made[name] for name in map(LABELS.format, SIDES) if name in made}


def _terms(
    section: Mapping[str, Any],
    schema: LabelSchema,
    info: Mapping[str, Any],
    notes: Mapping[str, Any],
) -> dict[str, Any]:
    free = {*HOW_IT_IS_READ, *WHERE_IT_LIES, "protocol"}
    terms = {
        f"data.{key}": value for key, value in full_section(section).items() if key not in free
    }
    terms |= {f"data, {key}": value for key, value in notes.items() if key not in free}
    terms |= {
        "schema.aus": sorted(schema.aus),
        "schema.expressions": sorted(schema.expressions),
        "schema.valence_arousal": schema.valence_arousal,
        "schema.felt": sorted(schema.felt),
        "schema.intensity": schema.intensity,
    }
    terms |= {f"protocol.{key}": info[key] for key in ("name", "fold", "folds", "selection")}
    for side in SIDES:
        terms[f"protocol, {side} samples"] = info["sizes"][side]
        terms[f"protocol, {side} sha256"] = info["sha256"][side][:12]
    return {key: json.loads(json.dumps(value)) for key, value in terms.items()}


def full_section(section: Mapping[str, Any]) -> dict[str, Any]:
    """Return a data section with the defaults of what it leaves out."""
    full: dict[str, Any] = {}
    for target in (FaceDataModule, registry.get("data", section["name"], "data.name")):
        for key, parameter in inspect.signature(target).parameters.items():
            if parameter.default is not parameter.empty:
                full[key] = parameter.default
    if "seed" not in inspect.signature(target).parameters:
        full.pop("seed")  # the run's, of order and augmentation
    return full | dict(section)


def differences(terms: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return a line for each term that is not the same for all who have it.

    Args:
        terms: for each name its terms.
    """
    lines = []
    for key in {key: None for own in terms.values() for key in own}:
        groups: dict[str, list[str]] = {}
        for name in [name for name, own in terms.items() if key in own]:
            groups.setdefault(json.dumps(terms[name][key], sort_keys=True), []).append(name)
        if len(groups) > 1:
            shown = "; ".join(f"{value} in {', '.join(who)}" for value, who in groups.items())
            lines.append(f"{key}: {shown}")
    return lines


def table_problems(
    table: pd.DataFrame, truth: pd.DataFrame, schema: LabelSchema, unreadable: Iterable[str]
) -> list[str]:
    """Return what is wrong with predictions, as ends of sentences that begin with their name.

    Args:
        table: the predictions.
        truth: from :func:`~faceaffect.data.truth.truth_table`.
        schema: what has to be answered.
        unreadable: ids that the run says it could not read.
    """
    ids = table["id"].tolist()
    known = set(ids)
    found = []
    if len(known) < len(ids):
        twice = table.loc[table["id"].duplicated(), "id"].tolist()
        found.append(f"answers samples more than once: {_some(twice)}")
    missing = sorted(set(truth.index) - known - set(unreadable))
    if missing:
        found.append(
            f"lacks {len(missing)} of the {len(truth)} test samples in its predictions: "
            f"{_some(missing)}"
        )
    extra = sorted(known - set(truth.index))
    if extra:
        found.append(f"answers {len(extra)} samples outside the test part: {_some(extra)}")
    answers = [column for columns in answer_columns(schema).values() for column in columns]
    absent = [name for name in (*answers, *truth.columns) if name not in table]
    if absent:
        found.append(f"lacks columns in its predictions: {_some(absent)}")
    if found:
        return found
    return _other_truth(table.set_index("id"), truth.loc[ids])


def _other_truth(table: pd.DataFrame, truth: pd.DataFrame) -> list[str]:
    found = []
    for column in truth.columns:
        own, true = table[column], truth[column]
        if true.dtype == float:
            # Numbers are written with six digits.
            same = np.isclose(own.to_numpy(float), true.to_numpy(), atol=1e-4, equal_nan=True)
        else:
            same = (own.fillna("") == true.fillna("")).to_numpy()
        if not same.all():
            which = table.index[~same].tolist()
            found.append(
                f"was tested with another {column.removeprefix('target/')} for {len(which)} "
                f"samples: {_some(which)}"
            )
    return found


def leaks(table: pd.DataFrame, result: Mapping[str, Any], seen: Iterable[str]) -> list[str]:
    """Return who is tested although the model was trained, or its checkpoint chosen, on them.

    Args:
        table: the predictions.
        result: of the run; the people that it tells of, by name or by hash, are looked at too.
        seen: people of the training side of the split.
    """
    sides, called = people_of(result)
    trained = {called(name) for name in seen} | sides["train"]
    if result["protocol"].get("selection") != "test":
        trained |= sides["val"]
    tested = {called(name): name for name in set(table["subject"])}
    both = trained & ({*tested} | sides["test"])
    if not both:
        return []
    names = sorted(tested.get(person, person) for person in both)
    return [f"is tested on {len(both)} people that it was trained on: {_some(names)}"]


def seen_people(data: FaceDataModule) -> set[str]:
    """Return the people of the training side, and of validation unless that is the test part."""
    split = data.split
    sides = [split.train] if split.info.get("selection") == "test" else [split.train, split.val]
    return {name for side in sides for name in data.dataset.samples.subject[side].tolist()}


def _some(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
