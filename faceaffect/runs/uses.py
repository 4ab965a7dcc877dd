"""What a run uses of the data it was given, and what in that data makes a result doubtful."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from faceaffect.data.base import FaceDataModule
from faceaffect.data.dataset import Samples
from faceaffect.schema import NUMBER_TASKS, LabelSchema

_TWICE = "duplicate rows"
"""Rows left out that are no lost faces."""


def faces_used(data: FaceDataModule) -> str:
    """Return how many of the faces that were listed are used, and what became of the others.

    A face is used if it is on a side of the split and any of its labels is known. Those that turn
    out to be unreadable are known only after a run.
    """
    samples, split = data.dataset.samples, data.split
    on_side = np.zeros(len(samples), bool)
    for side in (split.train, split.val, split.test):
        on_side[side] = True
    labelled = _labelled(samples)
    lost = {why: n for why, n in data.dataset.left_out.items() if n and not why.endswith(_TWICE)}
    lost |= {
        "on no side of the split": int((~on_side).sum()),
        "without a label": int((on_side & ~labelled).sum()),
    }
    used = int((on_side & labelled).sum())
    listed = len(samples) + sum(data.dataset.left_out.get(why, 0) for why in lost)
    if used == listed:
        return f"uses all {used:,} faces"
    reasons = ", ".join(f"{n:,} {why}" for why, n in lost.items() if n)
    return f"uses {used:,} of {listed:,} faces ({reasons})"


def faces_scored(known: int, tested: int, model: LabelSchema, data: LabelSchema) -> str:
    """Return how many of the tested faces are scored, and in which classes if not in all.

    Args:
        known: samples with a known label that the model answers.
        tested: samples of the test part that could be read.
        model: what the model answers.
        data: what the data labels.

    >>> three, two = LabelSchema((), ("a", "b", "c")), LabelSchema((), ("b", "c", "d"))
    >>> faces_scored(22, 55, three, two)
    '22 of 55 test samples, classes: b, c only'
    """
    count = (
        f"{tested:,} test samples" if known == tested else f"{known:,} of {tested:,} test samples"
    )
    shared = [name for name in model.expressions if name in data.expressions]
    if not shared:
        lost = model.expressions and data.expressions
        return f"{count}, no class of expressions is shared" if lost else count
    if {*shared} == {*model.expressions} == {*data.expressions}:
        return count
    return f"{count}, classes: {', '.join(shared)} only"


def doubts(data: FaceDataModule) -> list[str]:
    """Return a line for each thing in the labels that leaves little to learn or to test.

    One expression or one value of valence on a side, an expression or an action unit that is never
    there to train on or to test, one person for all faces, faces with too few views of theirs.
    """
    found = []
    order = data.view_order
    if order is not None and order.never:
        found.append(
            f"{order.never:,} faces to train on have fewer than {order.views} views of their "
            "instance and are never drawn"
        )
    for side, words in (("train", "to train on"), ("test", "to test")):
        part = data.dataset.samples.take(getattr(data.split, side))
        if len(part):
            found += [f"{line} {words}" for line in _poor(part, data.schema)]
    subject = data.dataset.samples.subject
    if data.dataset.subjects_known and len(subject) > 1 and len(np.unique(subject)) == 1:
        found.append(f"all {len(subject):,} faces are of one person, '{subject[0]}'")
    return found


def _poor(part: Samples, schema: LabelSchema) -> Iterator[str]:
    for task, one, none in (
        ("expression", "one expression", "no face of"),
        ("felt", "one felt emotion", "nobody who feels"),
    ):
        label = getattr(part, task)
        if label is None:
            continue
        names = np.array(schema.names(task))
        seen = np.bincount(label[label >= 0], minlength=len(names))
        if (seen > 0).sum() == 1:
            yield f"there is {one} only, {names[seen > 0][0]},"
        elif (seen == 0).any():
            yield f"there is {none} {', '.join(names[seen == 0])}"
    if part.au is not None:
        for what, value in (("no positive of", 1), ("nothing but positives of", 0)):
            never = ~(part.au == value).any(0)
            if value == 0:
                never &= (part.au == 1).any(0)
            if never.any():
                units = ", ".join(np.array(schema.au_names)[never])
                yield f"there is {what} {units}"
    for task in NUMBER_TASKS:
        value = getattr(part, task)
        for name, column in (
            zip(schema.names(task), value.T, strict=True) if value is not None else ()
        ):
            if np.isnan(column).all():
                yield f"there is no {name}"
            elif len(np.unique(column[~np.isnan(column)])) == 1:
                yield f"there is one value of {name} only"


def _labelled(samples: Samples) -> NDArray[np.bool_]:
    known = np.zeros(len(samples), bool)
    for label in (samples.expression, samples.felt):
        if label is not None:
            known |= label >= 0
    for numbers in (samples.au, samples.va, samples.intensity, samples.expression_share):
        if numbers is not None:
            known |= ~np.isnan(numbers).all(1)
    return known
