"""Probes: a YAML file that turns labelled faces of any dataset into questions.

A file names data as a recipe does, and what to ask about them::

    data: {name: disfa, root: /data/DISFA}
    each: 6
    probes:
      - {about: au, form: describe}
      - {about: au, form: yes_no}
      - {about: au, form: options, options: 4, think: true}
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from omegaconf import OmegaConf

from faceaffect.components import arguments
from faceaffect.data.questions import LETTERS
from faceaffect.errors import RecipeError, suggest, unknown
from faceaffect.instructions.phrases import CONVERSATION_QUESTIONS
from faceaffect.recipe import read_config, recipe_folder, resolve
from faceaffect.scores.vocabulary import AU_NAMES

About = Literal["au", "expression", "valence"]
Form = Literal["describe", "yes_no", "options"]

VALENCES = ("unpleasant", "neutral", "pleasant")
"""What is asked about valence: below, within and above a margin around 0."""

QUESTIONS: dict[tuple[About, Form], str] = {
    ("au", "describe"): "Describe what the facial muscles do in this {media}, and name the action "
    "units (AU) that are active.",
    ("au", "yes_no"): "Is {label} active on the face in this {media}?",
    ("au", "options"): "Which of these action units is active on the face in this {media}?",
    ("expression", "describe"): CONVERSATION_QUESTIONS[2],
    ("expression", "yes_no"): "Is {label} the expression of the person in this {media}?",
    ("expression", "options"): "Which expression does the person in this {media} show?",
    ("valence", "describe"): "Describe how the person in this {media} feels: pleasant, neutral or "
    "unpleasant.",
    ("valence", "yes_no"): "Does the person in this {media} feel {label}?",
    ("valence", "options"): "How does the person in this {media} feel?",
}
"""What is asked if a probe has no words of its own; ``{media}``: image or video."""


@dataclass(frozen=True)
class Probe:
    """One way to ask about one kind of label.

    Args:
        about: ``au``, ``expression``, or ``valence``, of which the thirds are asked about.
        form: ``describe``: free words, which are read; ``yes_no``: of each label as many faces with
            it as without; ``options``: one of several texts.
        think: the model thinks before it answers.
        options: how many there are to choose from, the right one included; null for all that are
            wrong for the face.
        labels: the labels to ask about, by name (``AU12``); absent, all.
        question: in own words, with ``{media}`` and, for ``yes_no``, ``{label}``.
        margin: valence within it counts as neutral.

    Raises:
        RecipeError: a value is wrong, or the words lack the label.
    """

    about: About
    form: Form
    think: bool = False
    options: int | None = 4
    labels: list[str] | None = None
    question: str | None = None
    margin: float = 0.25

    def __post_init__(self) -> None:
        for name, choices in (("about", get_args(About)), ("form", get_args(Form))):
            if getattr(self, name) not in choices:
                raise RecipeError(unknown(f"probes.{name}", str(getattr(self, name)), choices))
        if self.options is not None and not 2 <= self.options <= len(LETTERS):
            raise RecipeError(f"probes.options: {self.options} is not between 2 and {len(LETTERS)}")
        if not 0 <= self.margin < 1:
            raise RecipeError(f"probes.margin: {self.margin} is not between 0 and 1")
        holes = {"media": "", "label": ""} if self.form == "yes_no" else {"media": ""}
        try:
            filled = (self.question or "").format(**holes)
        except (KeyError, IndexError, ValueError):
            named = ", ".join(f"{{{name}}}" for name in holes)
            raise RecipeError(f"probes.question: '{self.question}' may hold {named} only") from None
        if self.question is not None and not filled.strip():
            raise RecipeError("probes.question: no words")
        if self.question is not None and self.form == "yes_no" and "{label}" not in self.question:
            raise RecipeError("probes.question: a question of yes or no needs {label}")

    @property
    def task(self) -> str:
        """What a table calls it."""
        names = {"describe": "describe", "yes_no": "yes or no", "options": "options"}
        return f"{self.about}: {names[self.form]}{', thinking first' if self.think else ''}"

    def words(self, media: str, label: str = "") -> str:
        """Return the question about a face."""
        asked = self.question or QUESTIONS[self.about, self.form]
        return asked.format(media=media, label=label)


@dataclass(frozen=True)
class ProbeFile:
    """What a file says.

    Attributes:
        name: of the file.
        data: a data section of a recipe, whose test part is asked about.
        probes: what is asked.
        each: faces for each label and probe.
        seed: of the choice of faces and options.
        asking: how it is asked, see ``faceaffect.evaluation.questioning.Asking``.
    """

    name: str
    data: dict[str, Any]
    probes: tuple[Probe, ...]
    each: int = 6
    seed: int = 0
    asking: dict[str, Any] = field(default_factory=dict)


def list_probes() -> list[str]:
    """Return the names of the files that the package ships."""
    return sorted(path.stem for path in (recipe_folder() / "probes").glob("*.yaml"))


def find_probes(name: str) -> Path:
    """Return the file that a path, or the name of one that ships, points to.

    Raises:
        RecipeError: there is none.
    """
    path = Path(name).expanduser()
    if path.is_file():
        return path
    shipped = recipe_folder() / "probes" / f"{name.removesuffix('.yaml')}.yaml"
    if path.name == name and shipped.is_file():
        return shipped
    near = suggest(path.stem, list_probes()) or "."
    raise RecipeError(
        f"no probes '{name}': neither a file nor one that ships{near} "
        f"There are: {', '.join(list_probes())}"
    )


_KEYS = ("data", "probes", "each", "seed", "asking")


def read_probes(name: str, overrides: Sequence[str] = ()) -> ProbeFile:
    """Read a file of probes by path or name.

    Args:
        name: of the file.
        overrides: ``data.KEY=value``, ``asking.KEY=value``, ``each=N``, ``seed=N``.

    Raises:
        RecipeError: the file, a key or a value is wrong.
    """
    path = find_probes(name)
    plain: Any = OmegaConf.to_container(read_config(path))
    for key in plain:
        if key not in _KEYS:
            raise RecipeError(f"{path}: {unknown('probes', str(key), _KEYS)}")
    own = [word for word in overrides if not word.startswith("data.")]
    rest = {key: plain[key] for key in plain if key not in ("data", "probes")}
    changed: Any = OmegaConf.to_container(OmegaConf.merge(rest, OmegaConf.from_dotlist(own)))
    nodes = plain.get("probes")
    if not isinstance(nodes, list) or not nodes or not all(isinstance(n, dict) for n in nodes):
        raise RecipeError(f"{path}: probes: a list of what to ask is needed")
    for key, least in (("each", 1), ("seed", 0)):
        value = changed.get(key, least)
        if type(value) is not int or not least <= value <= 100_000:
            raise RecipeError(f"{path}: {key}: {value} is no number from {least} to 100000")
    if not isinstance(changed.get("asking", {}), dict):
        raise RecipeError(f"{path}: asking: no keys with values")
    # A data section is checked as that of a recipe, which has a model too.
    section = {"data": plain.get("data", {}), "model": {"name": "vlm"}}
    of_data = [word for word in overrides if word.startswith("data.")]
    data = resolve(path.stem, section, of_data, str(path))["data"]
    probes = tuple(
        Probe(**arguments(Probe, node, f"{path}: probes[{n}]")) for n, node in enumerate(nodes)
    )
    tasks = [probe.task for probe in probes]
    twice = next((task for task in tasks if tasks.count(task) > 1), None)
    if twice is not None:
        raise RecipeError(f"{path}: probes: '{twice}' stands twice")
    return ProbeFile(path.stem, data, probes, **changed)


def shown(label: str) -> str:
    """Return a label as it is asked about.

    >>> shown("AU12"), shown("happiness")
    ('AU12 (lip corner puller)', 'happiness')
    """
    if not label.startswith("AU") or not label[2:].isdigit():
        return label
    names = AU_NAMES.get(int(label[2:]))
    return f"{label} ({names[0]})" if names else label
