"""A set of questions about drawn faces, whose answers are known exactly."""

import numpy as np
from numpy.typing import NDArray

from faceaffect.data.image import resize
from faceaffect.data.questions import LETTERS, Question, QuestionSet
from faceaffect.data.synthetic import facs
from faceaffect.data.synthetic.identity import make_identity
from faceaffect.data.synthetic.render import render
from faceaffect.data.synthetic.scene import plain_scene

_SIGNS = {
    1: "the inner brows are raised",
    4: "the brows are drawn together",
    9: "the nose is wrinkled",
    12: "the lip corners are pulled up",
    15: "the lip corners are pulled down",
    26: "the jaw is dropped",
}
_WHEN = ("in the first third", "in the middle", "in the last third")
_SIDE = 112
Pixels = NDArray[np.uint8]


def drawn_questions(each: int = 8, seed: int = 0) -> QuestionSet:
    """Return the package's own set: one AU, the stronger of two, when in a clip, how many people.

    Args:
        each: questions of each of the five tasks.
        seed: of people and answers.
    """
    rng = np.random.default_rng((seed, 0x0A5C))
    drawn: dict[str, Pixels] = {}
    questions: list[Question] = []
    for number in range(each):
        for make in (_present, _active, _stronger, _opens, _people):
            questions += make(rng, drawn, number, seed)
    return QuestionSet("synthetic", questions, drawn=drawn)


def _face(seed: int, person: int, grades: dict[int, float]) -> Pixels:
    return render(make_identity(seed + 7100, person), plain_scene(grades), _SIDE).image


def _letter(rng: np.random.Generator, texts: list[str], right: int) -> tuple[tuple[str, ...], str]:
    """Return texts in a random order and the letter of one of them."""
    order = rng.permutation(len(texts)).tolist()
    return tuple(texts[i] for i in order), LETTERS[order.index(right)]


def _present(
    rng: np.random.Generator, drawn: dict[str, Pixels], number: int, seed: int
) -> list[Question]:
    aus = [int(au) for au in rng.choice(list(_SIGNS), 4, replace=False)]
    name = f"present/{number}"
    drawn[name] = _face(seed, number, {aus[0]: 5.0})
    options, key = _letter(rng, [f"AU{au}: {_SIGNS[au]}" for au in aus], 0)
    asked = "Which action unit is active on this face?"
    return [Question(name, asked, "options", key, (name,), options, "which AU", "face",
                     f"person {number}")]  # fmt: skip


def _active(
    rng: np.random.Generator, drawn: dict[str, Pixels], number: int, seed: int
) -> list[Question]:
    on, off = (int(au) for au in rng.choice(list(_SIGNS), 2, replace=False))
    name = f"active/{number}"
    drawn[name] = _face(seed, number, {on: 5.0})
    return [
        Question(f"{name}/{key}", f"Is AU{au} active: {_SIGNS[au]}?", "yes_no", key, (name,),
                 task="is it active", group="face", person=f"person {number}", pair=name)
        for au, key in ((on, "yes"), (off, "no"))
    ]  # fmt: skip


def _stronger(
    rng: np.random.Generator, drawn: dict[str, Pixels], number: int, seed: int
) -> list[Question]:
    right = int(rng.integers(2))
    names = tuple(f"stronger/{number}-{n}" for n in (1, 2))
    for place, name in enumerate(names):
        drawn[name] = _face(seed, number, {12: 5.0 if place == right else 1.5, 6: 1.0})
    asked = "Which of the two pictures shows the stronger smile?"
    return [Question(f"stronger/{number}", asked, "options", LETTERS[right], names,
                     ("the first", "the second"), "stronger of two", "face",
                     f"person {number}")]  # fmt: skip


def _opens(
    rng: np.random.Generator, drawn: dict[str, Pixels], number: int, seed: int
) -> list[Question]:
    when = int(rng.integers(3))
    name = f"opens/{number}"
    middle = (1, 4, 7)[when]
    frames = [
        _face(seed, number, {26: max(0.0, 5.0 - 3.5 * abs(frame - middle))}) for frame in range(9)
    ]
    drawn[name] = np.stack(frames)
    asked = "When in this clip does the mouth open widest?"
    return [Question(name, asked, "options", LETTERS[when], (name,), _WHEN, "when", "clip",
                     f"person {number}")]  # fmt: skip


def _people(
    rng: np.random.Generator, drawn: dict[str, Pixels], number: int, seed: int
) -> list[Question]:
    count = 1 + int(rng.integers(4))
    picture = np.full((2 * _SIDE, 2 * _SIDE, 3), 205, np.uint8)
    for place in rng.permutation(4)[:count].tolist():
        top, left = _SIDE * (place // 2), _SIDE * (place % 2)
        au = int(rng.choice(facs.BP4D_AUS))
        picture[top : top + _SIDE, left : left + _SIDE] = _face(
            seed, 1000 + 4 * number + place, {au: 3.0}
        )
    name = f"people/{number}"
    drawn[name] = resize(picture, _SIDE)
    return [Question(name, "How many people are in this picture?", "numeric", str(count), (name,),
                     task="how many people", group="people")]  # fmt: skip
