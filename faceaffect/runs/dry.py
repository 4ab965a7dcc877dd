"""What a test of a model behind an endpoint would ask, and about what that takes."""

from collections.abc import Sequence

from faceaffect.errors import RecipeError
from faceaffect.models.endpoint import EndpointModel
from faceaffect.progress import console
from faceaffect.recipe import Recipe, load_recipe
from faceaffect.runs.train import build, is_recipe, reopen


def say_plan(source: str, overrides: Sequence[str]) -> bool:
    """Print how many requests a test would send, and about how many tokens; send none.

    Args:
        source: a recipe, a run folder or a checkpoint.
        overrides: ``key=value``.

    Returns:
        Whether it is a model behind an endpoint; of others nothing is printed.

    Raises:
        FaceAffectError: the recipe, the checkpoint or the data is wrong.
    """
    if is_recipe(source):
        recipe: Recipe = load_recipe(source, overrides)
        if recipe["model"]["name"] != "endpoint":
            return False
        data, model = build(recipe)
    else:
        model, data = reopen(source, overrides)
    if not isinstance(model, EndpointModel):
        return False
    plan = model.plan(data.test_dataloader())
    for line in plan.words(model.endpoint):
        console.print(f"{source}: {line}", markup=False)
    return True


def only_plan(sources: Sequence[str], overrides: Sequence[str]) -> None:
    """Print the plans of all models behind endpoints.

    Raises:
        RecipeError: there is none.
    """
    if not [source for source in sources if say_plan(source, overrides)]:
        raise RecipeError("--dry-run is about models behind an endpoint, and here is none")
