"""Several datasets as one, each under its own protocol."""

from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray

from faceaffect import registry
from faceaffect.components import Component, create
from faceaffect.data.batch import SIGNALS
from faceaffect.data.dataset import FaceDataset, Loaded, Samples
from faceaffect.data.names import expression_name
from faceaffect.data.protocols import SIDES, Split, default_protocol
from faceaffect.errors import DataError, RecipeError
from faceaffect.schema import LabelSchema


class Mixture(FaceDataset):
    """The samples of several datasets under the union of their schemas.

    A label that a source does not have is unknown in its samples. Ids and people carry the name of
    their source in front, so people of different sources are different people unless they share a
    byte-identical image. Each source is split by its own protocol, and these parts are the
    mixture's official split, which a datamodule takes by default.

    Args:
        sources: datasets, each a mapping with ``name``, its arguments, and ``protocol`` where the
            default is not wanted.
        power: a source with n training samples is drawn in proportion to n to this power: 1 draws
            all samples equally often, 0 all sources, 1/2 (ours) lies between.

    Attributes:
        sources: the datasets.
        names: what stands before the ids of each.

    Raises:
        RecipeError: no source, or a source that chooses on its own test part.
        DataError: a source cannot be read, or two sources have two names for one expression.
    """

    def __init__(
        self, sources: Annotated[list[Any], Component("data")], *, power: float = 0.5
    ) -> None:
        if not isinstance(sources, list) or not sources:
            raise RecipeError("data.sources: a list of at least one dataset is needed")
        nodes = [registry.as_node(node) for node in sources]
        built = [_build(node, f"data.sources[{i}]") for i, node in enumerate(nodes)]
        self.sources = [dataset for dataset, _ in built]
        self._first = np.cumsum([0, *(len(dataset) for dataset in self.sources)])
        schema = self.sources[0].schema
        for dataset in self.sources[1:]:
            schema = schema.union(dataset.schema)
        _refuse_synonyms(schema.expressions)
        _refuse_synonyms(schema.felt)
        self.names = _unique([node["name"] for node in nodes])
        groups, signals = _attribute_names(self.sources), _signal_shapes(self.sources)
        named = dict(zip(self.names, built, strict=True))
        super().__init__(
            schema,
            _concatenate([_table(d, s, n, schema, groups, signals) for n, (d, s) in named.items()]),
            subjects_known=all(dataset.subjects_known for dataset in self.sources),
            left_out={
                f"{n}: {why}": count
                for n, (d, _) in named.items()
                for why, count in d.left_out.items()
            },
            attribute_names=groups,
            notes={n: {"protocol": _brief(s), **d.notes} for n, (d, s) in named.items()},
            weights=np.concatenate([_weights(d, s, power) for d, s in built]),
        )
        self.origin = np.repeat(np.array(self.names), [len(dataset) for dataset in self.sources])

    def path(self, index: int) -> Path | None:
        """Return the file behind a sample; see :meth:`FaceDataset.path`."""
        dataset, own = self._find(index)
        return dataset.path(own)

    def twins(self) -> Iterator[list[int]]:
        """Return equal samples within each source; see :meth:`FaceDataset.twins`."""
        for first, dataset in zip(self._first, self.sources, strict=False):
            yield from ([int(first) + i for i in same] for same in dataset.twins())

    def prepare(self) -> None:
        """Prepare every source and note what it notes; see :meth:`FaceDataset.prepare`."""
        for name, dataset in zip(self.notes, self.sources, strict=True):
            dataset.prepare()
            self.notes[name] |= dataset.notes

    def load(self, index: int) -> Loaded:
        """Decode one sample; see :meth:`FaceDataset.load`."""
        dataset, own = self._find(index)
        return dataset.load(own)

    def _find(self, index: int) -> tuple[FaceDataset, int]:
        source = int(np.searchsorted(self._first, index, side="right")) - 1
        return self.sources[source], index - int(self._first[source])


def _build(node: dict[str, Any], where: str) -> tuple[FaceDataset, Split]:
    protocol = node.pop("protocol", None)
    dataset: FaceDataset = create("data", node, where)
    if protocol is None:
        return dataset, default_protocol(dataset).split(dataset)
    split: Split = create("protocols", protocol, f"{where}.protocol").split(dataset)
    if split.info["selection"] == "test":
        raise RecipeError(
            f"{where}.protocol.selection: a source cannot choose on its test part; "
            "set data.protocol={name: official, selection: test} for the whole"
        )
    return dataset, split


def _refuse_synonyms(classes: tuple[str, ...]) -> None:
    """Refuse two names of one class, which come of a source that was told to keep its own."""
    meant: dict[str, str] = {}
    for name in classes:
        first = meant.setdefault(expression_name(name), name)
        if first != name:
            raise DataError(
                f"mixture: '{first}' and '{name}' are one expression under two names: leave out "
                "synonyms=false, or give each source the same classes"
            )


def _unique(names: list[str]) -> list[str]:
    """Number the names that occur more than once: csv.1, csv.2.

    >>> _unique(["csv", "disfa", "csv"])
    ['csv.1', 'disfa', 'csv.2']
    """
    return [
        f"{name}.{names[: i + 1].count(name)}" if names.count(name) > 1 else name
        for i, name in enumerate(names)
    ]


def _brief(split: Split) -> dict[str, Any]:
    return {key: split.info[key] for key in ("name", "fold", "folds", "sizes", "subjects")}


def _weights(dataset: FaceDataset, split: Split, power: float) -> NDArray[np.float64]:
    n = len(split.train) or len(dataset)
    if dataset.weights is None:
        return np.full(len(dataset), n ** (power - 1))
    share: NDArray[np.float64] = dataset.weights / max(dataset.weights[split.train].sum(), 1e-12)
    return share * float(n**power)


def _attribute_names(sources: list[FaceDataset]) -> dict[str, tuple[str, ...]]:
    names: dict[str, tuple[str, ...]] = {}
    for dataset in sources:
        for attribute, classes in dataset.attribute_names.items():
            names[attribute] = tuple(dict.fromkeys((*names.get(attribute, ()), *classes)))
    return names


def _signal_shapes(sources: list[FaceDataset]) -> dict[str, tuple[int, int]]:
    """Return steps and values of what is measured beside the face, by name.

    Raises:
        DataError: two sources have another number of values.
    """
    shapes: dict[str, tuple[int, int]] = {}
    for name in SIGNALS:
        found = {s.shape[1:] for d in sources if (s := getattr(d.samples, name)) is not None}
        widths = sorted({width for _, width in found})
        if len(widths) > 1:
            raise DataError(
                f"mixture: the {name} of one source have {widths[0]} values a step and those of "
                f"another {widths[-1]}: they cannot be one input"
            )
        if found:
            shapes[name] = (max(steps for steps, _ in found), widths[0])
    return shapes


def _or_unknown(column: NDArray[np.float32] | None, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Return a column in a shape of at least as many steps, what it does not have NaN."""
    whole = np.full(shape, np.nan, np.float32)
    if column is not None:
        whole[tuple(slice(size) for size in column.shape)] = column
    return whole


def _table(
    dataset: FaceDataset,
    split: Split,
    name: str,
    schema: LabelSchema,
    groups: dict[str, tuple[str, ...]],
    signals: dict[str, tuple[int, int]],
) -> Samples:
    """Return the label table of a source in the names of the whole."""
    old, own, n = dataset.samples, dataset.schema, len(dataset)
    part = np.full(n, "", "<U5")
    for side in SIDES:
        part[getattr(split, side)] = side
    table = Samples(
        id=np.array([f"{name}/{one}" for one in old.id.tolist()]),
        subject=np.array([f"{name}/{one}" for one in old.subject.tolist()]),
        part=part,
    )
    columns = [schema.aus.index(au) for au in own.aus]
    if schema.aus:
        table.au = np.full((n, len(schema.aus)), np.nan, np.float32)
        table.au_intensity = table.au.copy()
        if old.au is not None:
            table.au[:, columns] = old.au
        if old.au_intensity is not None:
            table.au_intensity[:, columns] = old.au_intensity
    if schema.expressions:
        table.expression = np.full(n, -1)
        if old.expression is not None:
            table.expression = _rename(old.expression, own.expressions, schema.expressions)
        table.expression_share = np.full((n, len(schema.expressions)), np.nan, np.float32)
        if old.expression_share is not None:
            place = [schema.expressions.index(name) for name in own.expressions]
            known = ~np.isnan(old.expression_share).any(1)
            table.expression_share[known] = 0
            table.expression_share[:, place] = old.expression_share
    if schema.valence_arousal:
        table.va = _or_unknown(old.va, (n, 2))
    if schema.felt:
        table.felt = np.full(n, -1)
        if old.felt is not None:
            table.felt = _rename(old.felt, own.felt, schema.felt)
    if schema.intensity:
        table.intensity = _or_unknown(old.intensity, (n, 1))
    for name, shape in signals.items():
        setattr(table, name, _or_unknown(getattr(old, name), (n, *shape)))
    for group, classes in groups.items():
        label = old.attributes.get(group)
        if label is not None:
            label = _rename(label, dataset.attribute_names[group], classes)
        table.attributes[group] = np.full(n, -1) if label is None else label
    return table


def _rename(
    label: NDArray[np.int64], old: tuple[str, ...], new: tuple[str, ...]
) -> NDArray[np.int64]:
    return np.array([*(new.index(name) for name in old), -1], np.int64)[label]


def _concatenate(tables: list[Samples]) -> Samples:
    joined: dict[str, Any] = {}
    for name in (f.name for f in fields(Samples) if f.name != "attributes"):
        columns = [getattr(table, name) for table in tables]
        joined[name] = None if columns[0] is None else np.concatenate(columns)
    for name in ("au_intensity", "expression_share"):  # no source has them
        if joined[name] is not None and np.isnan(joined[name]).all():
            joined[name] = None
    groups = {n: np.concatenate([t.attributes[n] for t in tables]) for n in tables[0].attributes}
    return Samples(**joined, attributes=groups)
