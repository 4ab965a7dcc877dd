"""What a dataset labels and a model answers: AUs, expressions, valence, arousal, felt emotion.

And how strongly an expression is shown.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from faceaffect.errors import SchemaError

TASKS = ("au", "expression", "va", "felt", "intensity")
CLASS_TASKS = ("expression", "felt")
"""The tasks that are about one of several classes."""

NUMBER_TASKS = ("va", "intensity")
"""The tasks that are about numbers on a scale."""

SPOKEN_TASKS = ("au", "expression", "va")
"""The tasks that a model can be asked for in words."""

VA_NAMES = ("valence", "arousal")

STRONGEST = 3
"""The largest intensity of an expression; the smallest is 0."""


@dataclass(frozen=True)
class LabelSchema:
    """Names of the labels, in column order.

    Matching is by name: two schemas with the same names in another order are the same schema, and
    columns are moved by name wherever two schemas meet.

    Args:
        aus: FACS numbers of the action units, in the order of the columns of ``au``.
        expressions: class names, in the order of the indices of ``expression``.
        valence_arousal: whether ``va`` is labelled.
        felt: class names of what a person feels, which need not be what the face shows, in the
            order of the indices of ``felt``.
        intensity: whether it is labelled how strongly the expression is shown, 0 to 3.

    Raises:
        SchemaError: a name occurs twice, an AU is no positive number, or a class name is empty.

    >>> LabelSchema(aus=(1, 12)).au_names
    ('AU1', 'AU12')
    """

    aus: tuple[int, ...] = ()
    expressions: tuple[str, ...] = ()
    valence_arousal: bool = False
    felt: tuple[str, ...] = ()
    intensity: bool = False

    def __post_init__(self) -> None:
        """Check the names and make the sequences tuples."""
        object.__setattr__(self, "aus", tuple(self.aus))
        object.__setattr__(self, "expressions", tuple(self.expressions))
        object.__setattr__(self, "felt", tuple(self.felt))
        for au in self.aus:
            if isinstance(au, bool) or not isinstance(au, int) or au < 1:
                raise SchemaError(f"schema.aus: {au!r} is no FACS number (1, 2, 4, ...)")
        for field, classes in (("expressions", self.expressions), ("felt", self.felt)):
            for name in classes:
                if not isinstance(name, str) or not name:
                    raise SchemaError(f"schema.{field}: {name!r} is no class name")
        clash = {f"felt/{name}" for name in self.felt} & set(self.expressions)
        if clash:
            raise SchemaError(f"schema.expressions: {min(clash)!r} is the name of a felt emotion")
        for field, names in (
            ("aus", self.aus),
            ("expressions", self.expressions),
            ("felt", self.felt),
        ):
            twice = sorted({str(name) for name in names if names.count(name) > 1})
            if twice:
                raise SchemaError(f"schema.{field}: named twice: {', '.join(twice)}")

    @property
    def tasks(self) -> tuple[str, ...]:
        """The labelled tasks, of :data:`TASKS`, in this order."""
        present = (
            bool(self.aus), bool(self.expressions), self.valence_arousal, bool(self.felt),
            self.intensity,
        )  # fmt: skip
        return tuple(task for task, there in zip(TASKS, present, strict=True) if there)

    @property
    def au_names(self) -> tuple[str, ...]:
        """Column names such as ``AU12``, in column order."""
        return tuple(f"AU{au}" for au in self.aus)

    def names(self, task: str) -> tuple[str, ...]:
        """Return the names of what a task asks for, in the order of the answers.

        >>> LabelSchema((1, 12), valence_arousal=True).names("va")
        ('valence', 'arousal')
        """
        names: dict[str, tuple[str, ...]] = {
            "au": self.au_names,
            "expression": self.expressions,
            "va": VA_NAMES,
            "felt": self.felt,
            "intensity": ("intensity",),
        }
        return names[task]

    @property
    def answers(self) -> tuple[str, ...]:
        """Names of all answers side by side, by task; of felt emotions such as ``felt/anger``."""
        return tuple(
            f"felt/{name}" if task == "felt" else name
            for task in self.tasks
            for name in self.names(task)
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain Python (lists, strings, a bool), as it lies in checkpoints and results.

        Felt emotions and intensity stand in it where there are any.
        """
        plain = asdict(self)
        for name in ("felt", "intensity"):
            if not plain[name]:
                del plain[name]
        return {
            key: list(value) if isinstance(value, tuple) else value for key, value in plain.items()
        }

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> "LabelSchema":
        """Read what :meth:`to_dict` wrote; an absent field takes its default.

        Raises:
            SchemaError: a field is unknown.
        """
        extra = set(plain) - set(cls.__dataclass_fields__)
        if extra:
            raise SchemaError(f"schema: unknown field {', '.join(sorted(extra))}")
        return cls(**plain)

    def scored_on(self, data: "LabelSchema") -> "LabelSchema":
        """Return what a model of this schema is scored in on data of another.

        Of AUs, valence and arousal, and intensity those that both have. Of expressions, and of felt
        emotions, all of this schema if any is shared: a model goes on choosing among all of its own
        classes, and one that the data never has is a wrong answer.
        """
        shared = any(name in data.expressions for name in self.expressions)
        felt = any(name in data.felt for name in self.felt)
        return LabelSchema(
            tuple(au for au in self.aus if au in data.aus),
            self.expressions if shared else (),
            self.valence_arousal and data.valence_arousal,
            self.felt if felt else (),
            self.intensity and data.intensity,
        )

    def union(self, other: "LabelSchema") -> "LabelSchema":
        """Return the names that either has: this schema's first, then what the other adds."""
        return LabelSchema(
            self.aus + tuple(au for au in other.aus if au not in self.aus),
            self.expressions + tuple(e for e in other.expressions if e not in self.expressions),
            self.valence_arousal or other.valence_arousal,
            self.felt + tuple(name for name in other.felt if name not in self.felt),
            self.intensity or other.intensity,
        )

    def difference(
        self, other: "LabelSchema", names: tuple[str, str] = ("this", "other")
    ) -> list[str]:
        """Return one line for each kind of name that only one of the two has, order ignored.

        Args:
            other: the schema to compare with.
            names: what to call this schema and the other in the lines.
        """
        lines = []
        for own, theirs, here, there in ((self, other, *names), (other, self, *names[::-1])):
            only = [n for n in own.au_names if n not in theirs.au_names]
            only += [n for n in own.expressions if n not in theirs.expressions]
            only += ["valence and arousal"] * (own.valence_arousal and not theirs.valence_arousal)
            only += [f"felt {name}" for name in own.felt if name not in theirs.felt]
            only += ["intensity"] * (own.intensity and not theirs.intensity)
            if only:
                lines.append(f"in the {here} but not in the {there}: {', '.join(only)}")
        return lines
