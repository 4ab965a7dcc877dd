"""What stands in the files of a set, and which expression it means."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from faceaffect.data.names import expression_name
from faceaffect.errors import DataError, RecipeError, shown, unknown


@dataclass(frozen=True)
class LabelTable:
    """The codes of a set's expressions.

    Args:
        codes: what is written to the name of the class, in the order of the set.
        unknown: what is written where no class is meant, to what it says.

    >>> table = LabelTable({"1": "surprise", "2": "fear"}, {"9": "uncertain"})
    >>> table.classes, table.read(["2", "9"], str)
    (('surprise', 'fear'), ['fear', ''])
    """

    codes: Mapping[str, str]
    unknown: Mapping[str, str] = field(default_factory=dict)

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes, in the order of the set."""
        return tuple(dict.fromkeys(self.codes.values()))

    def choose(self, asked: Sequence[str] | None) -> tuple[str, ...]:
        """Return the classes that a recipe asks for, in its order; absent, all.

        Raises:
            RecipeError: a name is no class of the set, or stands twice.
        """
        return choose_classes(asked, self.classes)

    def read(self, cells: Iterable[str], where: Callable[[int], object]) -> list[str]:
        """Return the class of each cell, an empty name where the code says that there is none.

        Args:
            cells: as they are written.
            where: returns how an error calls the place of a cell, by its number from 0.

        Raises:
            DataError: a code that the table does not have; its place is named.
        """
        meaning = {**self.codes, **dict.fromkeys(self.unknown, "")}
        found: list[str] = []
        for number, cell in enumerate(cells):
            if cell not in meaning:
                raise DataError(
                    f"{where(number)}: {shown(cell)} is no code of an expression; the codes are "
                    + ", ".join(f"{code} {name}" for code, name in self.pairs())
                )
            found.append(meaning[cell])
        return found

    def pairs(self) -> list[tuple[str, str]]:
        """Return each code with what it means, those without a class last."""
        return [*self.codes.items(), *self.unknown.items()]


def choose_classes(asked: Sequence[str] | None, classes: Sequence[str]) -> tuple[str, ...]:
    """Return the classes that a recipe asks for, in its order; absent, all.

    Raises:
        RecipeError: a name is none of them, or stands twice.
    """
    names = tuple(classes) if asked is None else tuple(expression_name(str(n)) for n in asked)
    for name in names:
        if name not in classes:
            raise RecipeError(unknown("data.classes", name, classes))
    if len(set(names)) < len(names):
        raise RecipeError(f"data.classes: a class is named twice: {', '.join(names)}")
    return names


def choose_tasks(asked: Sequence[str] | None, tasks: Sequence[str]) -> tuple[str, ...]:
    """Return the tasks that a recipe asks for, in the set's order; absent, all of the set's.

    Raises:
        RecipeError: a name is none of them, or there is none.
    """
    for name in asked or ():
        if name not in tasks:
            raise RecipeError(unknown("data.tasks", str(name), tasks))
    if asked is not None and not asked:
        raise RecipeError(f"data.tasks: none is left; choose among {', '.join(tasks)}")
    return tuple(task for task in tasks if asked is None or task in asked)


def line_of(file: Path, lines: Iterable[int]) -> Callable[[int], str]:
    """Return what calls the rows of a file by the lines that they stand on, from 1."""
    numbers = list(lines)
    return lambda row: f"{file}:{numbers[row]}"
