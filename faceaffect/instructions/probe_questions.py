"""From labelled faces to the questions of a file of probes."""

import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from faceaffect.data.base import FaceDataModule, create_data
from faceaffect.data.questions import LETTERS, Question, QuestionSet
from faceaffect.errors import DataError, RecipeError, unknown
from faceaffect.instructions.items import expression_answer, modality_at
from faceaffect.instructions.probes import VALENCES, Probe, ProbeFile, shown


@dataclass(frozen=True)
class Truth:
    """What is known of the faces of one kind of label.

    Attributes:
        names: of the labels, as they are scored.
        values: (N, L) 1, 0, or NaN where it is not known.
        exclusive: whether one label is right for each face.
    """

    names: tuple[str, ...]
    values: NDArray[np.float32]
    exclusive: bool

    def of(self, index: int) -> dict[str, bool]:
        """Return the known labels of a face."""
        row = zip(self.names, self.values[index].tolist(), strict=True)
        return {name: bool(value) for name, value in row if not np.isnan(value)}


@dataclass
class Probing:
    """Questions made of a file, and what their answers are held against.

    Attributes:
        file: that they were made of.
        asked: the questions.
        truths: by task, what is known of each face.
        face: by question, the number of its face.
        about: by question, the label that it is about; empty where it is about all.
        left_out: what could not be asked: reason to count.
    """

    file: ProbeFile
    asked: QuestionSet
    truths: dict[str, Truth]
    face: dict[str, int]
    about: dict[str, str]
    left_out: dict[str, int]


class _Pictures(Mapping[str, NDArray[np.uint8]]):
    """The faces of a dataset as media, read when they are looked at."""

    def __init__(self, data: FaceDataModule, indices: Sequence[int]) -> None:
        self.data = data
        self.places = {str(data.dataset.samples.id[index]): index for index in indices}

    def __getitem__(self, name: str) -> NDArray[np.uint8]:
        return self.data.dataset.load(self.places[name]).image

    def __contains__(self, name: object) -> bool:
        return name in self.places  # without reading it

    def __iter__(self) -> Iterator[str]:
        return iter(self.places)

    def __len__(self) -> int:
        return len(self.places)


def make_questions(file: ProbeFile) -> Probing:
    """Return the questions of a file about the test part of its data.

    Raises:
        DataError: the data is missing or damaged, or there is nothing to ask.
        RecipeError: a key of its data, or a label, is wrong.
    """
    data = create_data(run_seed=file.seed, **file.data)
    maker = _Maker(data, file)
    for probe in file.probes:
        maker.add(probe)
    data.prepare_data()
    if not maker.questions:
        raise DataError(f"{file.name}: no face of the test part can be asked about")
    pictures = _Pictures(data, list(maker.face.values()))
    asked = QuestionSet(file.name, maker.questions, drawn=pictures)
    return Probing(file, asked, maker.truths, maker.face, maker.labels, maker.left_out)


class _Maker:
    """Makes the questions of one file."""

    def __init__(self, data: FaceDataModule, file: ProbeFile) -> None:
        self.data, self.file = data, file
        self.questions: list[Question] = []
        self.truths: dict[str, Truth] = {}
        self.face: dict[str, int] = {}
        self.labels: dict[str, str] = {}
        self.left_out: dict[str, int] = {}

    @cached_property
    def part(self) -> NDArray[np.int64]:
        return np.sort(self.data.split.test)

    @cached_property
    def people(self) -> NDArray[np.str_]:
        return self.data.dataset.samples.subject

    def add(self, probe: Probe) -> None:
        truth = truth_of(self.data, probe)
        wanted = probe.labels or truth.names
        for name in wanted:
            if name not in truth.names:
                raise RecipeError(unknown("probes.labels", name, truth.names))
        self.truths[probe.task] = truth
        seen: set[int] = set()
        for name in wanted:
            column, rng = truth.names.index(name), self._rng(probe.about, name)
            faces = self._spread(self.part[truth.values[self.part, column] == 1], rng)
            if not faces:
                self._miss(f"{probe.task}: no face with {name}")
            for number, face in enumerate(faces):
                if probe.form == "yes_no":
                    self._pair(probe, truth, name, number, face, rng)
                elif probe.form == "options":
                    self._options(probe, truth, name, number, face, rng)
                elif face not in seen:
                    self._describe(probe, truth, name, number, face)
                seen.add(face)

    def _rng(self, *words: str) -> np.random.Generator:
        return np.random.default_rng((self.file.seed, *(zlib.crc32(w.encode()) for w in words)))

    def _miss(self, reason: str) -> None:
        self.left_out[reason] = self.left_out.get(reason, 0) + 1

    def _spread(self, faces: NDArray[np.int64], rng: np.random.Generator) -> list[int]:
        """Return up to ``each`` faces, of as many people as there are."""
        order = rng.permutation(faces)
        turns: dict[str, int] = {}
        rank = []
        for face in order.tolist():
            turns[self.people[face]] = turns.get(self.people[face], 0) + 1
            rank.append(turns[self.people[face]])
        best = np.argsort(rank, kind="stable")[: self.file.each]
        return [int(face) for face in order[best]]

    def _pair(
        self, probe: Probe, truth: Truth, name: str, number: int, face: int,
        rng: np.random.Generator,
    ) -> None:  # fmt: skip
        """Ask about a face with a label, and about one without it, of the same person if any."""
        without = self.part[truth.values[self.part, truth.names.index(name)] == 0]
        own = without[self.people[without] == self.people[face]]
        chosen = own if len(own) else without
        if not len(chosen):
            self._miss(f"{probe.task}: no face without {name}")
            return
        other = int(rng.choice(chosen))
        pair = f"{probe.task}/{name}/{number}"
        for key, one in (("yes", face), ("no", other)):
            media = modality_at(self.data.dataset, one)
            self._ask(f"{pair}/{key}", probe, one, name, probe.words(media, shown(name)), "yes_no",
                      key, pair=pair)  # fmt: skip

    def _options(
        self, probe: Probe, truth: Truth, name: str, number: int, face: int,
        rng: np.random.Generator,
    ) -> None:  # fmt: skip
        wrong = [other for other, on in truth.of(face).items() if not on]
        most = (probe.options or len(LETTERS)) - 1
        chosen = [wrong[n] for n in rng.permutation(len(wrong))[:most]]
        if not chosen:
            self._miss(f"{probe.task}: no other option than {name}")
            return
        texts = [name, *chosen]
        order = rng.permutation(len(texts)).tolist()
        key = LETTERS[order.index(0)]
        options = tuple(shown(texts[n]) for n in order)
        words = probe.words(modality_at(self.data.dataset, face))
        self._ask(f"{probe.task}/{name}/{number}", probe, face, name, words, "options", key,
                  options=options)  # fmt: skip

    def _describe(self, probe: Probe, truth: Truth, name: str, number: int, face: int) -> None:
        right = tuple(label for label, on in truth.of(face).items() if on)
        words = probe.words(modality_at(self.data.dataset, face))
        self._ask(f"{probe.task}/{name}/{number}", probe, face, "", words, "open",
                  ", ".join(right), labels=right)  # fmt: skip

    def _ask(
        self, name: str, probe: Probe, face: int, label: str, words: str, form: Any, key: str,
        **more: Any,
    ) -> None:  # fmt: skip
        medium = str(self.data.dataset.samples.id[face])
        known = self.data.dataset.subjects_known
        person = str(self.people[face]) if known else ""
        self.questions.append(
            Question(name, words, form, key, (medium,), task=probe.task, group=self.file.name,
                     person=person, think=probe.think, **more)
        )  # fmt: skip
        self.face[name], self.labels[name] = face, label


def truth_of(data: FaceDataModule, probe: Probe) -> Truth:
    """Return what a dataset knows of the labels that a probe is about.

    Raises:
        RecipeError: it has no such labels.
    """
    samples, schema = data.dataset.samples, data.dataset.schema
    if probe.about == "au" and samples.au is not None:
        return Truth(tuple(schema.au_names), samples.au, False)
    if probe.about == "expression" and samples.expression is not None:
        names = tuple(expression_answer(name) for name in schema.expressions)
        return Truth(names, _one_hot(samples.expression, len(names)), True)
    if probe.about == "valence" and samples.va is not None:
        valence = samples.va[:, 0]
        third = 1 + (valence > probe.margin) - (valence < -probe.margin).astype(np.int64)
        return Truth(VALENCES, _one_hot(np.where(np.isnan(valence), -1, third), 3), True)
    raise RecipeError(
        f"probes.about: {probe.about}, but the data's labels are of {', '.join(schema.tasks)}"
    )


def _one_hot(index: NDArray[Any], count: int) -> NDArray[np.float32]:
    values: NDArray[np.float32] = np.eye(count, dtype=np.float32)[np.maximum(index, 0)]
    values[index < 0] = np.nan
    return values
