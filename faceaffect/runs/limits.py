"""Settings of the trainer that leave samples unseen, or a training without an end."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from faceaffect import registry
from faceaffect.errors import RecipeError

_KEYS = ("limit_train_batches", "limit_val_batches", "limit_test_batches", "overfit_batches")


def check_trainer(section: Mapping[str, Any], model: str = "") -> None:
    """Refuse settings of which no result can come.

    Args:
        section: the ``trainer`` section of a recipe.
        model: its name; one that has something to say untrained may have ``max_epochs: 0``.

    Raises:
        RecipeError: it is a trial of code (``fast_dev_run``), has no end, or allows nothing to be
            learned or validated.
    """
    if section.get("fast_dev_run"):
        raise RecipeError(
            "trainer.fast_dev_run: writes no checkpoint and looks at a few batches, so there would "
            "be no result; 'faceaffect check' tries a recipe, and trainer.max_epochs=1 with "
            "trainer.limit_train_batches=1 is the shortest training"
        )
    for key in ("max_epochs", "max_steps", "limit_train_batches", "limit_val_batches"):
        if section.get(key) == 0 and not (key == "max_epochs" and _zero_shot(model)):
            raise RecipeError(
                f"trainer.{key}: with {section[key]} nothing is trained, or no epoch validated, so "
                "there would be no checkpoint to test"
            )
    epochs = section.get("max_epochs", 1)
    if epochs in (-1, None) and section.get("max_steps", -1) in (-1, None):
        raise RecipeError(
            f"trainer.max_epochs: {epochs} has no end; give a number of epochs, or of steps with "
            "trainer.max_steps (trainer.max_time may end either earlier)"
        )


def trains(model: str, section: Mapping[str, Any]) -> bool:
    """Return whether there is anything to train, and so to tune, in a recipe.

    Args:
        model: its name.
        section: the ``trainer`` section; ``max_epochs: 0`` leaves a model as it is built.
    """
    needed = getattr(registry.get("models", model, "model.name"), "needs_training", True)
    return bool(needed) and section.get("max_epochs") != 0


def _zero_shot(model: str) -> bool:
    """Return whether a model has something to say before it is trained."""
    known = model in registry.TABLES["models"]
    return known and bool(getattr(registry.get("models", model), "zero_shot", False))


def limits_of(section: Mapping[str, Any]) -> dict[str, float]:
    """Return the settings of a ``trainer`` section under which batches are passed over.

    >>> limits_of({"max_epochs": 3, "limit_val_batches": 1.0, "limit_test_batches": 1})
    {'limit_test_batches': 1}
    """
    found = {key: section.get(key) for key in _KEYS}
    return {key: value for key, value in found.items() if value is not None and _limits(key, value)}


def _limits(key: str, value: float) -> bool:
    if key == "overfit_batches":
        return value > 0
    return not (isinstance(value, float) and value == 1)  # 1.0 is all of them, 1 is one batch


def refuse_partial_test(section: Mapping[str, Any]) -> None:
    """Refuse a training whose test would pass over samples of its protocol.

    Args:
        section: the ``trainer`` section of a recipe.

    Raises:
        RecipeError: ``trainer.limit_test_batches`` is set.
    """
    limits = limits_of(section)
    if "limit_test_batches" in limits:
        raise RecipeError(
            f"trainer.limit_test_batches: {limits['limit_test_batches']} leaves test samples "
            "unseen, and what is compared or summed up needs all of them"
        )


def partial_test(result: dict[str, Any]) -> str:
    """Return in words what a partial test left unseen, nothing if it saw all.

    Args:
        result: the ``metrics.json`` of a run.
    """
    seen = result.get("partial")
    if not seen:
        return ""
    limits = ", ".join(f"trainer.{key}={value}" for key, value in result["limits"].items())
    return f"a partial test, {seen['seen']} of {seen['of']} samples" + (
        f" ({limits})" if limits else ""
    )


@contextmanager
def batches_of_one() -> Iterator[None]:
    """Say what to do where batch norm meets a single sample."""
    try:
        yield
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise RecipeError(
            "data.batch_size: batch norm cannot learn from a batch of one sample; let a batch, "
            "and the training part, have two or more, or choose a model without batch norm"
        ) from None
