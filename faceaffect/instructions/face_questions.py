"""Questions with short answers, written from the labels of a face, to learn from.

They are asked in the words in which probes and sets of questions ask.
"""

from numpy.random import Generator

from faceaffect.data.questions import LETTERS, WISHES, lettered
from faceaffect.instructions.items import Labels, Turn, expression_answer
from faceaffect.instructions.probes import QUESTIONS, About, shown
from faceaffect.schema import LabelSchema

_OPTIONS = 4


def face_question(
    labels: Labels, schema: LabelSchema, rng: Generator, media: str = "image"
) -> list[Turn]:
    """Write a question of yes or no, or one with options, about an AU or the expression.

    Yes is right as often as no, and every letter as often as another.

    Args:
        labels: what is known of the face.
        schema: the classes that questions name.
        rng: draws what is asked.
        media: ``image`` or ``video``.

    Returns:
        One turn; none where no label is known that could be asked about.
    """
    known = _known(labels, schema)
    if not known:
        return []
    about, here, absent = known[int(rng.integers(len(known)))]
    if rng.random() < 0.5 or not here:
        return [_yes_no(about, here, absent, rng, media)]
    right = here[int(rng.integers(len(here)))]
    texts = [right, *(absent[n] for n in rng.permutation(len(absent))[: _OPTIONS - 1])]
    order = rng.permutation(len(texts)).tolist()
    asked = lettered(QUESTIONS[about, "options"].format(media=media),
                     [shown(texts[n]) for n in order])  # fmt: skip
    return [(f"{asked}\n{WISHES['options']}", LETTERS[order.index(0)])]


def _known(labels: Labels, schema: LabelSchema) -> list[tuple[About, list[str], list[str]]]:
    """Return what can be asked about: which labels a face has, and which it has not."""
    found: list[tuple[About, list[str], list[str]]] = []
    absent = [f"AU{au}" for au, on in labels.aus.items() if not on]
    if absent:
        found.append(("au", [f"AU{au}" for au in labels.active], absent))
    others = [expression_answer(name) for name in schema.expressions if name != labels.expression]
    if labels.expression is not None and others:
        found.append(("expression", [expression_answer(labels.expression)], others))
    return found


def _yes_no(
    about: About, here: list[str], absent: list[str], rng: Generator, media: str
) -> Turn:  # fmt: skip
    said_yes = bool(here) and rng.random() < 0.5
    names = here if said_yes else absent
    label = shown(names[int(rng.integers(len(names)))])
    asked = QUESTIONS[about, "yes_no"].format(media=media, label=label)
    return f"{asked} {WISHES['yes_no']}", "yes" if said_yes else "no"
