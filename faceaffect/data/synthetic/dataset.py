"""SyntheticFaces: rendered faces with exact FACS ground truth, which need no download."""

import hashlib
import zlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from rich.progress import track
from safetensors import SafetensorError
from safetensors.numpy import load, save

from faceaffect.data.dataset import FaceDataset, Loaded, Samples
from faceaffect.data.synthetic import facs, fine
from faceaffect.data.synthetic.clips import draw_clip
from faceaffect.data.synthetic.eyes import FACE, draw_felt, shown_intensity
from faceaffect.data.synthetic.identity import ATTRIBUTES, Identity, attribute_table, make_identity
from faceaffect.data.synthetic.render import Picture, render
from faceaffect.data.synthetic.sampling import LabelSampler
from faceaffect.data.synthetic.scene import Scene, draw_scene
from faceaffect.data.synthetic.turning import check_yaws, turned, yaw_column, yaw_names
from faceaffect.data.workers import cores, one_thread
from faceaffect.errors import DataError, shown
from faceaffect.files import replacing
from faceaffect.progress import console
from faceaffect.schema import LabelSchema

VERSION: Final = 3
"""Counts changes of what a (seed, index) looks like; part of the cache key and the notes."""

POSITIVE_FROM: Final = 2
"""An AU is positive from this intensity on."""

FINE: Final = "fine"
"""Stands for the names of all fine-grained expressions."""

_WORTH_PROCESSES: Final = 500
"""So many faces take longer to draw than it takes to start processes."""

_DAMAGED: Final = (SafetensorError, KeyError)
"""What reading a cut or overwritten cache file raises."""

_SUFFIX: Final = ".safetensors"
"""Of cache files, which are read in a tenth of the time that NumPy's own format takes."""


class SyntheticFaces(FaceDataset):
    """Rendered faces whose labels are known exactly.

    What a sample shows depends on the seed and its index alone, whatever the process; who it shows
    depends on the seed and the subject number. Sample i shows subject i modulo `subjects`.
    With V `yaws`, samples V * k to V * k + V - 1 are the views of instance k, which shows subject k
    modulo `subjects`.

    Args:
        n: number of samples.
        subjects: number of people.
        seed: world: other seeds have other people, other labels.
        aus: label columns; faces show every AU of `facs.AUS` all the same.
        expressions: classes that occur, () for no expression label (the first seven of
            `facs.EXPRESSIONS` then occur), or "fine": the 54 combinations of AUs of `fine.CLASSES`,
            equally frequent, whatever `rates`.
        valence_arousal: whether to label valence and arousal.
        rates: share of positives per AU: "bp4d", "disfa", "uniform" or {AU: share}.
        cooccurrence: [AU, AU, correlation] triples that replace those of `facs.COOCCURRENCE`, None
            to replace none; a correlation of 1 makes the second AU a copy of the first.
        image_size: side of the rendered picture in pixels.
        clips: frames per sample, 0 for still pictures. A clip goes from calm to the labelled apex
            and back.
        label_noise: probability that an AU label is flipped or an expression replaced by another;
            intensities and valence and arousal then stay true.
        occlusion: probability of a random object before the face.
        hide: {AU: probability that an object covers its evidence}.
        yaws: degrees from -60 to 60; each expression of a person is drawn at each of them, and the
            samples are its views, with the attribute ``yaw``. None draws a yaw of up to 30 degrees
            for each sample.
        cache: folder where rendered samples are kept, None for none.
        deceive: share of faces that show another emotion than is felt. With it the felt emotion is
            labelled, among the expressions that occur, and how strongly the face shows its own;
            eyes and fixations, which follow what is felt, are measured; and the attribute ``face``
            says which deceive. None: nobody's feelings are known. Pictures are the same.

    Raises:
        DataError: a number out of range, an unknown AU, expression or preset.
    """

    def __init__(
        self,
        n: int = 6000,
        subjects: int = 300,
        seed: int = 0,
        aus: list[int] | tuple[int, ...] = facs.BP4D_AUS,
        expressions: list[str] | tuple[str, ...] | str = facs.EXPRESSIONS[:7],
        valence_arousal: bool = True,
        rates: str | dict[int, float] = "bp4d",
        cooccurrence: list[list[float]] | None = None,
        image_size: int = 112,
        clips: int = 0,
        label_noise: float = 0.0,
        occlusion: float = 0.08,
        hide: dict[int, float] | None = None,
        yaws: list[float] | None = None,
        cache: str | None = None,
        deceive: float | None = None,
    ) -> None:
        if yaws is not None:
            check_yaws(yaws, clips)
        hidden = {int(au): float(share) for au, share in (hide or {}).items()}
        _check(n=n, subjects=subjects, seed=seed, image_size=image_size, clips=clips)
        _check_shares(
            label_noise=label_noise,
            occlusion=occlusion,
            deceive=deceive or 0.0,
            **{f"hide.{au}": share for au, share in hidden.items()},
        )
        unknown = [au for au in (*aus, *hidden) if au not in facs.COLUMN]
        if unknown:
            raise DataError(f"synthetic: AU{unknown[0]} is not drawn; choose from {list(facs.AUS)}")
        self.seed, self.image_size, self.frames = seed, image_size, clips
        self.occlusion, self.hide = occlusion, hidden
        is_fine = expressions == FINE
        if isinstance(expressions, str):
            others = {"cooccurrence": cooccurrence, "deceive": deceive is not None}
            expressions = _fine_classes(expressions, rates, others)
        self._kinds = tuple(fine.CLASSES) if is_fine else facs.EXPRESSIONS
        drawn_kinds = tuple(expressions) or facs.EXPRESSIONS[:7]
        pairs = _pairs(cooccurrence or [])
        rates = rates if isinstance(rates, str) else {int(au): r for au, r in rates.items()}
        self._yaws = () if yaws is None else tuple(map(float, yaws))
        self._instance = np.arange(n) // max(1, len(self._yaws))
        sampler = fine.fine_labels if is_fine else LabelSampler(rates, drawn_kinds, pairs)
        of_instance = sampler(int(self._instance[-1]) + 1, seed)
        self._labels = of_instance.take(self._instance)
        self._subject = self._instance % subjects
        self._cache: Path | None = None
        if cache:
            unseen = sorted(hidden.items())
            world = (seed, subjects, image_size, clips, occlusion, unseen, drawn_kinds)
            drawn = rates if isinstance(rates, str) else sorted(rates.items())
            turns = (self._yaws,) if self._yaws else ()
            self._cache = _cache_folder(cache, (*world, drawn, sorted(pairs.items()), *turns))
        felt = drawn_kinds if deceive is not None else ()
        if len(felt) == 1:
            raise DataError("synthetic: deceive: needs two expressions or more")
        strong = bool(felt and expressions)
        schema = LabelSchema(tuple(aus), tuple(expressions), valence_arousal, felt, strong)
        table = self._table(schema, subjects, label_noise)
        if deceive is not None:
            self._add_felt(table, felt, deceive)
        faces = {"face": FACE} if deceive is not None else {}
        super().__init__(
            schema,
            table,
            attribute_names=ATTRIBUTES | yaw_names(self._yaws) | faces,
            notes={"renderer": VERSION, "positive_from": POSITIVE_FROM, "label_noise": label_noise},
        )

    def _table(self, schema: LabelSchema, subjects: int, label_noise: float) -> Samples:
        columns = [facs.COLUMN[au] for au in schema.aus]
        grade = self._labels.grade[:, columns]
        au = (grade >= POSITIVE_FROM).astype(np.float32)
        expression = _class_index(self._labels.expression, schema.expressions, self._kinds)
        if label_noise:
            rng = np.random.Generator(np.random.PCG64([self.seed, 104]))
            draw = rng.random((len(au), len(facs.AUS) + 2))
            au = np.where(draw[:, columns] < label_noise, 1 - au, au).astype(np.float32)
            wrong = draw[:, -2] < label_noise
            expression = np.where(
                wrong, _other_class(expression, draw[:, -1], len(schema.expressions)), expression
            )
        people = attribute_table(self.seed, subjects)
        return Samples(
            id=np.array([f"s{self.seed}/{i:06d}" for i in range(len(au))]),
            subject=np.array([subject_name(self.seed, s) for s in self._subject.tolist()]),
            au=au if schema.aus else None,
            au_intensity=grade if schema.aus else None,
            expression=expression if schema.expressions else None,
            va=self._labels.va if schema.valence_arousal else None,
            attributes={name: column[self._subject] for name, column in people.items()}
            | yaw_column(self._yaws, len(au)),
            instance=self._instance if self._yaws else None,
        )

    def _add_felt(self, table: Samples, felt: tuple[str, ...], deceive: float) -> None:
        of, first = self._instance, np.unique(self._instance, return_index=True)[1]
        shown = self._labels.expression
        drawn = draw_felt(shown[first], self._subject[first], felt, deceive, self.seed)
        table.felt = _class_index(drawn.felt[of], felt, self._kinds)
        table.eyes = drawn.eyes[of]
        table.fixations = drawn.fixations[of]
        if table.expression is not None:
            table.intensity = shown_intensity(shown, self._labels.grade)[:, None]
        table.attributes["face"] = (drawn.felt[of] != shown).astype(np.int64)

    def person(self, index: int) -> Identity:
        """Who the sample shows."""
        return make_identity(self.seed, int(self._subject[index]))

    def scene(self, index: int) -> Scene:
        """Under which circumstances, at the apex."""
        contempt = self._kinds[self._labels.expression[index]] == "contempt"
        scene = draw_scene(
            np.random.default_rng([self.seed, 105, int(self._instance[index])]),
            self._labels.grade[index],
            one_sided=contempt,
            occlusion=self.occlusion,
            hide=self.hide,
        )
        if not self._yaws:
            return scene
        rng = np.random.default_rng([self.seed, 110, index])
        return turned(scene, self._yaws[index % len(self._yaws)], rng)

    def render(self, index: int) -> Loaded:
        """Draw a sample anew, without the cache."""
        person, scene = self.person(index), self.scene(index)
        if not self.frames:
            picture = render(person, scene, self.image_size)
            return Loaded(picture.image, picture.landmarks, scene.pose)
        moments = draw_clip(np.random.default_rng([self.seed, 106, index]), scene, self.frames)
        pictures = [render(person, moment, self.image_size) for moment in moments]
        return Loaded(*_stack(pictures), scene.pose)

    def redraw(self, index: int, subject: int, seed: int) -> Loaded:
        """Draw the AUs of a sample, at its intensities, on another person in another scene.

        Args:
            index: of the sample.
            subject: number of the person.
            seed: of the scene.
        """
        rng = np.random.default_rng([self.seed, 155, index, subject, seed])
        scene = draw_scene(rng, self._labels.grade[index], occlusion=self.occlusion)
        picture = render(make_identity(self.seed, subject), scene, self.image_size)
        return Loaded(picture.image, picture.landmarks, scene.pose)

    def subject_of(self, index: int) -> int:
        """Return the number of the person whom a sample shows."""
        return int(self._subject[index])

    def load(self, index: int) -> Loaded:
        """Sample `index`, from the cache if it is there; a damaged file is written anew."""
        index = int(index)
        if not 0 <= index < len(self.samples):
            raise IndexError(index)
        if self._cache is None:
            return self.render(index)
        file = self._cache / f"{index:06d}{_SUFFIX}"
        try:
            return _read(file)
        except (FileNotFoundError, *_DAMAGED):
            sample = self.render(index)
            _write(file, sample)
            return sample

    def prepare(self) -> None:
        """Draw what the cache lacks, on all cores at once, if that is enough to be worth it."""
        if self._cache is None:
            return
        there = {file.name for file in self._cache.glob(f"*{_SUFFIX}")}
        missing = [i for i in range(len(self.samples)) if f"{i:06d}{_SUFFIX}" not in there]
        if len(missing) < _WORTH_PROCESSES:
            return
        with ProcessPoolExecutor(cores(), initializer=one_thread) as pool:
            drawn = pool.map(self._draw, missing, chunksize=16)
            for _ in track(drawn, "drawing faces", len(missing), console=console, transient=True):
                pass

    def _draw(self, index: int) -> None:
        self.load(index)

    def path(self, index: int) -> Path | None:
        """None: samples are generated."""
        return None


def subject_name(seed: int, subject: int) -> str:
    """Subject id; it holds the seed, so that people of two worlds are never mixed up."""
    return f"s{seed}-{subject:04d}"


def _fine_classes(word: str, rates: object, others: Mapping[str, object]) -> tuple[str, ...]:
    if word != FINE:
        raise DataError(f"synthetic: expressions: {word!r} is no list of names, nor '{FINE}'")
    given = [*(["rates"] if rates != "bp4d" else []), *(key for key, on in others.items() if on)]
    if given:
        raise DataError(
            f"synthetic: expressions: '{FINE}' draws AUs of its own; leave out {', '.join(given)}"
        )
    return tuple(fine.CLASSES)


def _class_index(
    expression: npt.NDArray[np.int64], names: tuple[str, ...], kinds: tuple[str, ...]
) -> npt.NDArray[np.int64]:
    position = np.full(len(kinds), -1)
    position[[kinds.index(name) for name in names]] = np.arange(len(names))
    return np.asarray(position[expression], np.int64)


def _other_class(
    expression: npt.NDArray[np.int64], draw: npt.NDArray[np.float64], classes: int
) -> npt.NDArray[np.int64]:
    step = 1 + (draw * (classes - 1)).astype(np.int64)
    return np.asarray((expression + step) % max(classes, 1), np.int64)


def _cache_folder(root: str, world: tuple[object, ...]) -> Path:
    """A folder of its own for everything that changes what an index looks like."""
    return Path(root) / hashlib.sha256(repr((VERSION, *world)).encode()).hexdigest()[:16]


def _stack(pictures: list[Picture]) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]:
    return np.stack([p.image for p in pictures]), np.stack([p.landmarks for p in pictures])


def _read(file: Path) -> Loaded:
    stored = load(file.read_bytes())
    if stored.pop("checksum").item() != _checksum(stored):
        raise SafetensorError("damaged")
    return Loaded(stored["image"], stored["landmarks"], stored["pose"])


def _write(file: Path, sample: Loaded) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    arrays = {
        "image": sample.image,
        "landmarks": np.asarray(sample.landmarks),
        "pose": np.asarray(sample.pose),
    }
    arrays["checksum"] = np.asarray(_checksum(arrays), np.uint32)
    with replacing(file, alone=False) as part:
        part.write_bytes(save(arrays))


def _checksum(arrays: Mapping[str, npt.NDArray[np.generic]]) -> int:
    return zlib.crc32(b"".join(arrays[name].tobytes() for name in sorted(arrays)))


def _pairs(triples: Sequence[Sequence[float]]) -> dict[tuple[int, int], float]:
    for triple in triples:
        if len(triple) != 3:
            raise DataError(f"synthetic: cooccurrence: {triple} is not [AU, AU, correlation]")
    return {(int(a), int(b)): float(value) for a, b, value in triples}


def _check(n: int, subjects: int, seed: int, image_size: int, clips: int) -> None:
    bounds = {
        "n": (n, 1, 2_000_000),
        "subjects": (subjects, 1, 2_000_000),
        "seed": (seed, 0, 2**32 - 1),
        "image_size": (image_size, 32, 4096),
        "clips": (clips, 0, 10_000),
    }
    for name, (value, least, most) in bounds.items():
        if value < least:
            raise DataError(f"synthetic: {name}={value}: at least {least}")
        if value > most:
            raise DataError(f"synthetic: {name}={shown(value)}: at most {most}")


def _check_shares(**shares: float) -> None:
    for name, share in shares.items():
        if not 0 <= share <= 1:
            raise DataError(f"synthetic: {name}={share}: a probability from 0 to 1")
