"""What a recipe says of the search that found its settings."""

from dataclasses import dataclass, field
from typing import Any

from faceaffect.components import arguments
from faceaffect.recipe import Recipe


@dataclass(frozen=True)
class Tuned:
    """The ``tuned`` section of a recipe: the search that found its settings.

    ``faceaffect tune`` writes it, and it goes into every result, so that a comparison can say how
    much each model was tuned.

    Args:
        trials: that ended.
        pruned: how many of them were ended early.
        failed: how many of them failed.
        score: ``val/score`` of the best.
        median: of the trials that came to their end.
        lowest: of the trials that came to their end.
        before: of the recipe as it stood.
        chosen: the searched keys and what was found for them.
    """

    trials: int
    pruned: int = 0
    failed: int = 0
    score: float | None = None
    median: float | None = None
    lowest: float | None = None
    before: float | None = None
    chosen: dict[str, Any] = field(default_factory=dict)


def tuned_section(recipe: Recipe) -> Tuned | None:
    """Return what a recipe says of its search, None if it knows of none.

    Raises:
        RecipeError: a key or a value is wrong.
    """
    return Tuned(**arguments(Tuned, recipe["tuned"], "tuned")) if recipe["tuned"] else None
