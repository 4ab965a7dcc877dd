"""The commands as functions: what ``faceaffect train``, ``test`` and ``compare`` do, in Python."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from faceaffect.recipe import load_recipe

Overrides = Sequence[str] | Mapping[str, Any]
"""``["data.n=300"]`` or ``{"data.n": 300}``."""


def train(recipe: str | Path, overrides: Overrides = (), *, resume: bool = False) -> Path:
    """Train a recipe's model, test its best checkpoint and return the run folder.

    Args:
        recipe: a YAML file or the name of a shipped recipe.
        overrides: values for keys, as on the command line.
        resume: go on with the newest unfinished run of the same recipe.

    Raises:
        FaceAffectError: something in the recipe or the data is wrong.
    """
    from faceaffect.runs.train import train as run

    return run(load_recipe(str(recipe), words(overrides)), resume=resume)


def test(source: str | Path, overrides: Overrides = ()) -> Path:  # noqa: PT028
    """Test a trained model, or a table of predictions, and return the folder of the result.

    Args:
        source: a run folder or a checkpoint; a recipe of a model that is not trained.
        overrides: values for keys; another ``data.name`` replaces the whole data section.

    Raises:
        FaceAffectError: the checkpoint, an override or the data is wrong.
    """
    from faceaffect.runs.train import evaluate

    return evaluate(source, words(overrides))


def compare(
    *sources: str | Path,
    overrides: Overrides = (),
    seeds: int = 1,
    folder: str | Path | None = None,
    faces: bool = False,
) -> Path:
    """Train what is not trained yet, test all on the same samples and return the report's folder.

    Args:
        sources: recipes, by name or path, and folders of finished runs.
        overrides: values for keys, for every recipe.
        seeds: each recipe is trained with so many seeds.
        folder: of the report; None makes a new one.
        faces: show pictures of real people in the report.

    Raises:
        FaceAffectError: the models do not answer the same questions about the same samples.
    """
    from faceaffect.evaluation.compare import compare as run

    place = None if folder is None else Path(folder)
    return run([str(one) for one in sources], words(overrides), seeds, place, faces=faces)


def words(overrides: Overrides) -> list[str]:
    """Return overrides as words of a command line.

    >>> words({"data.n": 300, "data.cache": None, "data.aus": [1, 12], "model.lora": True})
    ['data.n=300', 'data.cache=null', 'data.aus=[1,12]', 'model.lora=true']
    """
    if isinstance(overrides, Mapping):
        return [f"{key}={_word(value)}" for key, value in overrides.items()]
    return list(overrides)


def _word(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, (list, tuple)):
        return f"[{','.join(map(_word, value))}]"
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}: {_word(item)}" for key, item in value.items()) + "}"
    return str(value)
