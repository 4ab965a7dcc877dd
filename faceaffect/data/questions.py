"""Questions about pictures and clips, with their keys, as JSON lines."""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from faceaffect.data.video import read_media
from faceaffect.errors import DataError
from faceaffect.files import read_json, write_atomically

Form = Literal["options", "yes_no", "numeric", "open"]
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

WISHES: dict[str, str] = {
    "options": "Answer with the letter of the best option only.",
    "yes_no": "Answer yes or no.",
    "numeric": "Answer with a number.",
    "open": "",
}
"""What stands behind a question of each form."""


@dataclass(frozen=True)
class Question:
    """A question with what answers it.

    Attributes:
        id: unique in its set.
        question: in words; options are not part of it.
        form: ``options``: one of several texts; ``yes_no``; ``numeric``: a number; ``open``: words
            that are held against a reference text.
        key: a letter of ``options``, ``yes`` or ``no``, a number, or the reference text.
        media: files of pictures, clips or folders of frames, relative to the set's root.
        options: the texts to choose from, the first being A.
        task: what is asked for; scores are given for each.
        group: of tasks; a mean is given for each.
        person: who is shown, empty if unknown.
        pair: questions of one name count as right only together; empty for none.
        note: what a reader has to know of the question, such as where its pictures come from.
        labels: of an open question, what its text has to say: one expression, or AUs.
        think: the model is asked to think before it answers.

    Raises:
        ValueError: the fields contradict each other.
    """

    id: str
    question: str
    form: Form
    key: str
    media: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    task: str = "all"
    group: str = "all"
    person: str = ""
    pair: str = ""
    note: str = ""
    labels: tuple[str, ...] = ()
    think: bool = False

    def __post_init__(self) -> None:
        if self.form not in get_args(Form):
            raise ValueError(f"form '{self.form}' is none of {', '.join(get_args(Form))}")
        for name in ("id", "question", "key", "task", "group"):
            if not getattr(self, name).strip():
                raise ValueError(f"no {name}")
        _FORMS[self.form](self)

    @property
    def unit(self) -> str:
        """Who or what is drawn anew in intervals: the person, else the media, else the question."""
        return self.person or " ".join(self.media) or self.id

    @property
    def chance(self) -> float | None:
        """The rate of right answers by guessing; None where nothing can be guessed from."""
        if self.form == "options":
            return 1 / len(self.options)
        return 0.5 if self.form == "yes_no" else None

    @classmethod
    def from_dict(cls, plain: Any) -> "Question":
        """Read a JSON object.

        Raises:
            ValueError: a field is missing, unknown or of a wrong kind.
        """
        if not isinstance(plain, dict):
            raise ValueError("no JSON object")
        extra = set(plain) - set(cls.__dataclass_fields__)
        if extra:
            raise ValueError(f"unknown fields: {', '.join(sorted(extra))}")
        given = {key: _field(key, value) for key, value in plain.items()}
        missing = [name for name in ("id", "question", "form", "key") if name not in given]
        if missing:
            raise ValueError(f"no {', '.join(missing)}")
        return cls(**given)


def _field(name: str, value: Any) -> Any:
    if name in ("media", "options", "labels"):
        if not isinstance(value, (list, tuple)) or not all(isinstance(v, str) for v in value):
            raise ValueError(f"{name} is no list of texts")
        return tuple(value)
    if name == "key" and isinstance(value, (list, tuple)):
        raise ValueError(f"{len(value)} keys; a question has one")
    if name == "key" and isinstance(value, (int, float)) and not isinstance(value, bool):
        return str(value)
    kind, word = (bool, "true or false") if name == "think" else (str, "text")
    if not isinstance(value, kind):
        raise ValueError(f"{name} is no {word}")
    return value


def _check_options(asked: Question) -> None:
    texts = [option.strip().lower() for option in asked.options]
    if not 2 <= len(texts) <= len(LETTERS):
        raise ValueError(f"{len(texts)} options; between 2 and {len(LETTERS)} are asked about")
    twice = sorted(text for text, count in Counter(texts).items() if count > 1)
    if twice or "" in texts:
        raise ValueError(f"the option '{twice[0]}' repeats" if twice else "an empty option")
    if asked.key not in tuple(LETTERS[: len(texts)]):
        raise ValueError(f"the key '{asked.key}' is no letter from A to {LETTERS[len(texts) - 1]}")


def _check_yes_no(asked: Question) -> None:
    if asked.key not in ("yes", "no"):
        raise ValueError(f"the key '{asked.key}' is neither yes nor no")


def _check_numeric(asked: Question) -> None:
    try:
        finite = np.isfinite(float(asked.key))
    except ValueError:
        finite = False
    if not finite:
        raise ValueError(f"the key '{asked.key}' is no number")


_FORMS: dict[str, Callable[[Question], None]] = {
    "options": _check_options,
    "yes_no": _check_yes_no,
    "numeric": _check_numeric,
    "open": lambda asked: None,
}


@dataclass
class QuestionSet:
    """Questions and where their media lie.

    Attributes:
        name: of the set.
        questions: in order.
        root: of the media.
        drawn: pictures and clips that are in no file: name to (H, W, 3) or (T, H, W, 3).
        left_out: what the reader could not use: reason to count.
    """

    name: str
    questions: list[Question]
    root: Path = Path()
    drawn: Mapping[str, NDArray[np.uint8]] = field(default_factory=dict)
    left_out: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        ids = Counter(asked.id for asked in self.questions)
        twice = [name for name, count in ids.items() if count > 1]
        if twice:
            raise DataError(f"{self.name}: two questions have the id {twice[0]}")
        if not self.questions:
            raise DataError(f"{self.name}: no question that could be asked")

    def load(self, name: str, frames: int) -> NDArray[np.uint8]:
        """Return (T, H, W, 3) uint8 RGB of a medium; of a picture T is 1.

        Raises:
            DataError: it is missing or cannot be read.
        """
        if name in self.drawn:
            pixels = self.drawn[name]
        else:
            path = self.root / name
            if not path.exists():
                raise DataError(f"no picture or clip at {path}")
            pixels = read_media(path, frames)
        if pixels.ndim == 3:
            return pixels[None]
        chosen = np.linspace(0, len(pixels) - 1, min(frames, len(pixels))).round().astype(int)
        clip: NDArray[np.uint8] = pixels[chosen]
        return clip


def lettered(question: str, options: Sequence[str]) -> str:
    """Return a question with its options, a line each."""
    lines = [f"{LETTERS[n]}. {option}" for n, option in enumerate(options)]
    return "\n".join([question, *lines])


def read_questions(path: Path, root: Path | None = None) -> QuestionSet:
    """Read questions in the package's own format, one JSON object a line.

    Args:
        path: the file.
        root: of the media; by default the folder of the file.

    Raises:
        DataError: it is missing, or a line is no question; file and line are named.
    """
    made = each_line(path, lambda plain, number: Question.from_dict(plain))
    return QuestionSet(path.stem, list(made), root or path.parent)


def each_line(path: Path, make: Callable[[Any, int], Question]) -> Iterator[Question]:
    """Yield what is made of each line of a file of JSON lines.

    Raises:
        DataError: it is missing, or a line cannot be made a question; file and line are named.
    """
    if not path.is_file():
        raise DataError(f"no questions at {path}")
    for number, line in enumerate(path.read_bytes().split(b"\n"), 1):
        if line.strip():
            try:
                yield make(read_json(line), number)
            except (ValueError, TypeError, KeyError) as error:
                raise DataError(f"{path}:{number}: no question: {told(error)}") from None


def told(error: Exception) -> str:
    """Return what is wrong with a question; of a missing field its name."""
    return f"no field {error}" if isinstance(error, KeyError) else str(error)


def write_questions(path: Path, questions: Iterable[Question]) -> None:
    """Write questions as :func:`read_questions` reads them."""
    lines = []
    for asked in questions:
        plain = {k: v for k, v in asdict(asked).items() if v not in ("", (), False)}
        lines.append(json.dumps(plain, ensure_ascii=False) + "\n")
    write_atomically(path, "".join(lines))
