"""What a dataset is: a table of labels, and a way to load one sample."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from faceaffect.data.align import Aligner
from faceaffect.data.batch import SIGNALS
from faceaffect.data.cropping import crop_one, make_crops
from faceaffect.data.faces.crop import Crop
from faceaffect.data.image import read_image
from faceaffect.data.labels import LabelTable
from faceaffect.data.names import alike, plain, sorted_unique
from faceaffect.data.places import joined
from faceaffect.errors import DataError
from faceaffect.schema import CLASS_TASKS, STRONGEST, TASKS, LabelSchema


@dataclass
class Samples:
    """The label table of N samples; labels that a dataset does not have are None.

    Attributes:
        id: (N,) unique names: path relative to the root, or seed/index.
        subject: (N,) the person of each sample.
        au: (N, A) float32 in {0, 1}, NaN unknown; columns as in the schema.
        au_intensity: (N, A) float32 in [0, 5], NaN unknown.
        expression: (N,) int64 class index, -1 unknown.
        expression_share: (N, K) float32 share of each class in the votes for a sample, rows that
            add up to 1, NaN unknown; what is trained on where it is there.
        va: (N, 2) float32 valence and arousal in [-1, 1], NaN unknown.
        felt: (N,) int64 class index of what the person feels, -1 unknown.
        intensity: (N, 1) float32 how strongly the expression is shown, in [0, 3], NaN unknown.
        eyes: (N, S, D) float32 what an eye tracker measured in S steps, NaN unknown.
        fixations: (N, F, 2) float32 where the eyes rested, see
            :class:`~faceaffect.data.batch.FaceBatch`.
        attributes: name to (N,) int64 class index, -1 unknown.
        instance: (N,) int64 which samples are views of one instance: one expression of one person
            at one time, seen from several sides; -1 for a sample by itself.
        part: (N,) the published part: ``train``, ``val``, ``test`` or empty.
    """

    id: NDArray[np.str_]
    subject: NDArray[np.str_]
    au: NDArray[np.float32] | None = None
    au_intensity: NDArray[np.float32] | None = None
    expression: NDArray[np.int64] | None = None
    expression_share: NDArray[np.float32] | None = None
    va: NDArray[np.float32] | None = None
    felt: NDArray[np.int64] | None = None
    intensity: NDArray[np.float32] | None = None
    eyes: NDArray[np.float32] | None = None
    fixations: NDArray[np.float32] | None = None
    attributes: dict[str, NDArray[np.int64]] = field(default_factory=dict)
    part: NDArray[np.str_] | None = None
    instance: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.id)

    def take(self, indices: Sequence[int] | NDArray[Any]) -> "Samples":
        """Return the samples at some indices, or under a boolean mask, as a table of their own."""
        taken: dict[str, Any] = {}
        for name in (f.name for f in fields(self) if f.name != "attributes"):
            column = getattr(self, name)
            taken[name] = None if column is None else column[indices]
        return Samples(**taken, attributes={n: c[indices] for n, c in self.attributes.items()})


@dataclass
class Loaded:
    """One decoded sample.

    Attributes:
        image: (H, W, 3) uint8 RGB, or (T, H, W, 3) for a clip.
        landmarks: (68, 2) or (T, 68, 2) float32 pixels of ``image``, iBUG order.
        pose: (3,) pitch, yaw, roll in radians.
    """

    image: NDArray[np.uint8]
    landmarks: NDArray[np.float32] | None = None
    pose: NDArray[np.float32] | None = None


class FaceDataset:
    """Base of the datasets; one that reads image files only writes ``__init__``.

    A dataset reads its labels, calls ``super().__init__`` with the table, and overrides
    :meth:`path` or :meth:`load` where the defaults do not fit. It knows nothing of splits, batches
    and models, and it must survive pickling, since workers of a data loader get a copy.

    Args:
        schema: names of the labels.
        samples: the label table.
        root: the folder that sample ids are relative to; None for generated faces.
        subjects_known: false if there is no subject column, so that each sample counts as a person
            of its own; the result says so.
        left_out: what reading left out: reason to count.
        attribute_names: class names of each attribute, in index order.
        folds: published parts by people: part name to subjects.
        notes: what else the result shall say, plain values only: threshold, crop method, ...
        weights: (N,) positive sampling weights of training samples; None for equal ones.
        crop: how :meth:`load` cuts out faces; None where the pictures are taken as they are.
        aligner: cuts out the faces of pictures that :meth:`cropped` is given; its crop is then the
            dataset's.
        labels: what the files of the dataset write for each expression.
        own_points: (N, 68, 2) landmarks that the dataset has of its pictures, in pixels; a sample
            without has a row of NaN.

    Attributes:
        origin: (N,) the name of the dataset that each sample is from; None if there is but one.

        usual_protocol: name of the protocol of those who publish on a dataset that publishes no
            parts; None for folds of people.

    Raises:
        DataError: the table is empty, an id occurs twice, or labels do not fit the schema.
    """

    usual_protocol: str | None = None

    def __init__(
        self,
        schema: LabelSchema,
        samples: Samples,
        *,
        root: Path | None = None,
        subjects_known: bool = True,
        left_out: dict[str, int] | None = None,
        attribute_names: dict[str, tuple[str, ...]] | None = None,
        folds: dict[str, tuple[str, ...]] | None = None,
        notes: dict[str, Any] | None = None,
        weights: NDArray[np.float64] | None = None,
        crop: Crop | None = None,
        aligner: Aligner | None = None,
        labels: LabelTable | None = None,
        own_points: NDArray[np.float32] | None = None,
    ) -> None:
        self.schema = schema
        self.samples = _known_people(samples, type(self).__name__) if subjects_known else samples
        self.root = root
        self.subjects_known = subjects_known
        self.left_out = dict(left_out or {})
        self.attribute_names = dict(attribute_names or {})
        self.folds = folds
        self.notes = dict(notes or {})
        self.weights = weights
        self.aligner = None if aligner is None or aligner.method == "none" else aligner
        self.crop = crop if self.aligner is None else self.aligner.crop
        if self.aligner is not None:
            self.notes["crop"] = self.aligner.settings()
        self.labels, self.own_points = labels, own_points
        self.origin: NDArray[np.str_] | None = None
        _check(schema, samples, type(self).__name__)

    def __len__(self) -> int:
        return len(self.samples)

    def path(self, index: int) -> Path | None:
        """Return the file behind a sample, None if the sample is generated."""
        return None if self.root is None else self.root / str(self.samples.id[index])

    def paths(self) -> list[str | None]:
        """Return the file behind each sample, see :meth:`path`."""
        if type(self).path is FaceDataset.path and self.root is not None:
            # A Path for each of a million samples takes seconds.
            return [*joined(str(self.root), self.samples.id.tolist())]
        places = map(self.path, range(len(self)))
        return [None if place is None else str(place) for place in places]

    def twins(self) -> Iterable[list[int]]:
        """Return groups of samples that are equal in every pixel, where no files tell it."""
        return ()

    def prepare(self) -> None:
        """Do what would be slow to do sample by sample, such as cropping faces out of videos.

        Called once before training and testing, in one process; what is done already is not done
        again. What only then is known may be added to ``notes``, for the result. The default makes
        the crops of an aligner.
        """
        if self.aligner is not None:
            own: NDArray[np.bool_] | None = None
            if self.own_points is not None:
                own = np.array([not np.isnan(points).any() for points in self.own_points])
            ids = self.samples.id.tolist()
            self.notes["crops"] = make_crops(self.aligner, ids, self.load, own)

    def load(self, index: int) -> Loaded:
        """Decode one sample.

        Raises:
            DataError: it cannot be read; the message names the file.
        """
        path = self.path(index)
        assert path is not None, "a dataset without files overrides load"
        return self.cropped(index, lambda: read_image(path))

    def cropped(self, index: int, read: Callable[[], NDArray[np.uint8]]) -> Loaded:
        """Return the face of a picture or clip that is read; all of it without an aligner.

        Args:
            index: of the sample.
            read: returns (H, W, 3) or (T, H, W, 3) uint8 RGB; not called for a picture whose crop
                is there.

        Raises:
            DataError: it cannot be read, or no face is found in it.
        """
        if self.aligner is None:
            return Loaded(read())
        points = None if self.own_points is None else self.own_points[index]
        if points is not None and np.isnan(points).any():
            points = None
        found = crop_one(self.aligner, str(self.samples.id[index]), read, points)
        return Loaded(found.image, found.landmarks)


def _known_people(samples: Samples, where: str) -> Samples:
    """Return the samples with each person in one spelling.

    Raises:
        DataError: two names differ in case or leading zeros only.
    """
    names, index = sorted_unique(samples.subject)
    people = [plain(name) for name in names.tolist()]
    for one, other, *_ in alike(people):
        raise DataError(
            f"{where}: people whose names differ in case or leading zeros only, such as '{one}' "
            f"and '{other}': spell one person in one way, and two people in two"
        )
    return replace(samples, subject=np.array(people, str)[index])


def _check(schema: LabelSchema, samples: Samples, where: str) -> None:
    n, aus, classes = len(samples), len(schema.aus), len(schema.expressions)
    if n == 0:
        raise DataError(f"{where}: no sample is left to use")
    twice = pd.Index(samples.id.astype(object)).duplicated()
    if twice.any():
        raise DataError(f"{where}: the id '{np.sort(samples.id[twice])[0]}' occurs twice")
    shapes = {"subject": (n,), "au": (n, aus), "au_intensity": (n, aus), "expression": (n,),
              "expression_share": (n, classes), "va": (n, 2),
              "felt": (n,), "intensity": (n, 1), "part": (n,), "instance": (n,)}  # fmt: skip
    for name, shape in shapes.items():
        column = getattr(samples, name)
        if column is not None and column.shape != shape:
            raise DataError(f"{where}: {name} has the shape {column.shape}, expected {shape}")
    for task in TASKS:
        there = getattr(samples, task) is not None
        if (task in schema.tasks) != there:
            has = "labels" if there else "no labels"
            raise DataError(
                f"{where}: {has} for '{task}', but the tasks of the schema are {schema.tasks}"
            )
    if samples.au is not None and not np.isin(samples.au[~np.isnan(samples.au)], (0, 1)).all():
        raise DataError(f"{where}: au holds values other than 0, 1 and NaN")
    if samples.va is not None and np.nanmax(np.abs(samples.va), initial=0) > 1:
        raise DataError(f"{where}: va holds values outside [-1, 1]")
    if samples.intensity is not None:
        known = samples.intensity[~np.isnan(samples.intensity)]
        if ((known < 0) | (known > STRONGEST)).any():
            raise DataError(f"{where}: intensity holds values outside [0, {STRONGEST}]")
    for task in CLASS_TASKS:
        column = getattr(samples, task)
        if column is not None:
            low, high, last = column.min(), column.max(), len(schema.names(task)) - 1
            if low < -1 or high > last:
                raise DataError(f"{where}: {task} holds {low} to {high}, expected -1 to {last}")
    for name in SIGNALS:
        signal = getattr(samples, name)
        if signal is not None and (signal.ndim != 3 or len(signal) != n or np.isinf(signal).any()):
            raise DataError(f"{where}: {name} are not (samples, steps, values), NaN where unknown")
