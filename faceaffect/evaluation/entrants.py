"""Who takes part in a comparison: recipes, to be trained, and finished runs."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from omegaconf import OmegaConf

from faceaffect import registry
from faceaffect.errors import RecipeError
from faceaffect.module import AffectModule
from faceaffect.recipe import Recipe, list_recipes, load_recipe, read_config, resolve
from faceaffect.runs.limits import partial_test, refuse_partial_test
from faceaffect.runs.result import RESULT, read_result
from faceaffect.runs.train import check_sections
from faceaffect.runs.trainer import one_device

_ELSE = ", or train it with 'faceaffect train' and name the run folder"


@dataclass(frozen=True)
class Entrant:
    """One model of a comparison.

    Attributes:
        name: what the report calls it.
        source: as it was given.
        recipes: its recipe, once for each seed.
        placed: its recipe with this command's overrides, also of a run: where data and output are.
        run: the finished run that was given; None where a recipe was.
    """

    name: str
    source: str
    recipes: tuple[Recipe, ...]
    placed: Recipe
    run: Path | None = None


def find_entrants(sources: Sequence[str], overrides: Sequence[str], seeds: int) -> list[Entrant]:
    """Return the models that are named, each once.

    Args:
        sources: recipes, by name or path, and folders of finished runs.
        overrides: ``key=value``, for every recipe; of a run only its data may be placed anew.
        seeds: each recipe is entered with so many seeds, from its own on.

    Raises:
        RecipeError: a source is neither, is named twice, answers nothing, asks for several devices,
            or is a run that is not finished.
        DataError: the result of a run is damaged.
    """
    found: dict[str, Entrant] = {}
    for source in sources:
        made = _entrant(source, overrides, seeds)
        if made.name in found:
            place = made.run.name if made.run else source
            made = replace(made, name=f"{made.name} ({place})")
        if made.name in found:
            raise RecipeError(f"compare: {source} is named twice")
        found[made.name] = made
    return list(found.values())


def _entrant(source: str, overrides: Sequence[str], seeds: int) -> Entrant:
    folder = Path(source)
    if folder.is_dir() and source not in list_recipes():
        return _given_run(folder, overrides)
    recipe = load_recipe(source, overrides)
    try:
        check_sections(recipe)
        one_device(recipe, "compare", _ELSE)
        refuse_partial_test(recipe["trainer"])
    except RecipeError as error:
        raise RecipeError(f"{source}: {error}") from None
    if not issubclass(registry.get("models", recipe["model"]["name"]), AffectModule):
        raise RecipeError(f"{source}: a pre-training, which answers nothing to compare")
    numbers = range(recipe["seed"], recipe["seed"] + seeds)
    each = tuple(recipe.changed(lambda s, seed=seed: s | {"seed": seed}) for seed in numbers)  # type: ignore[misc]
    return Entrant(recipe.name, source, each, recipe)


def _given_run(folder: Path, overrides: Sequence[str]) -> Entrant:
    """Return a finished run; overrides say where its data and the output are, no more."""
    if not (folder / "recipe.yaml").is_file():
        raise RecipeError(f"{folder}: neither a recipe nor a run folder: it has no recipe.yaml")
    if not (folder / RESULT).is_file():
        raise RecipeError(
            f"{folder}: this run is not finished; 'faceaffect train RECIPE --resume' finishes it"
        )
    result = read_result(folder)
    if "n" not in result:
        raise RecipeError(f"{folder}: a pre-training, which answers nothing to compare")
    if partial := partial_test(result):
        raise RecipeError(f"{folder}: {partial}; test all of them to compare")
    placing = [o for o in overrides if o.partition("=")[0].split(".")[0] in ("data", "output")]
    config = OmegaConf.to_container(read_config(folder / "recipe.yaml"))
    assert isinstance(config, dict)
    sections = {str(key): value for key, value in config.items()}
    recipe, placed = (
        resolve(result["recipe"], sections, changes, str(folder), stored=True)
        for changes in ((), [f"output={folder.resolve().parents[1]}", *placing])
    )
    return Entrant(recipe.name, str(folder), (recipe,), placed, folder)
