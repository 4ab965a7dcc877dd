"""The command ``tune``."""

import argparse
import shlex

from faceaffect.cli.arguments import (
    Commands,
    add_command,
    add_launcher,
    begin_launching,
    given_options,
    without_launcher,
)
from faceaffect.errors import RecipeError


def add(commands: Commands) -> None:
    """Declare the command."""
    text = "search a recipe's settings by trials on its validation people"
    goes_on = "the same command goes on after the trials that ended"
    parser = add_command(commands, "tune", run, text, goes_on=goes_on)
    parser.add_argument(
        "sources",
        nargs="+",
        metavar="RECIPE [space.yaml]|key=value",
        help="a recipe, the keys to search (else those that ship for its model), overrides",
    )
    parser.add_argument(
        "--trials", type=int, default=16, metavar="N", help="that have to end in all (default: 16)"
    )
    parser.add_argument(
        "--storage",
        metavar="URL",
        help="a database of Optuna that several machines share; else a file in the folder",
    )
    add_launcher(parser)
    parser.add_argument(
        "--workers",
        type=int,
        default=2,
        metavar="N",
        help="with --launcher: so many search at once and share the trials (default: 2)",
    )


def run(args: argparse.Namespace) -> int:
    """Search; the recipe is read before heavy packages are imported."""
    from faceaffect.recipe import load_recipe

    recipe_file, *space = args.sources
    if len(space) > 1:
        raise RecipeError(f"tune: one recipe and one space, not also {', '.join(space[1:])}")
    recipe = load_recipe(recipe_file, args.overrides)
    begin_launching(args)
    from faceaffect.runs.study import without_password
    from faceaffect.runs.tune import tune

    if args.launcher:
        from faceaffect.runs.launch import spread

        parts = [recipe] * args.workers
        if not spread(args.launcher, without_launcher(args.words), parts, args.at_once):
            return 0
    words = ["faceaffect", "tune", *args.sources, *args.overrides, "--trials", str(args.trials)]
    words += ["--storage", without_password(args.storage)] if args.storage else []
    words += given_options(args)
    tune(recipe, *space, trials=args.trials, storage=args.storage, command=shlex.join(words))
    return 0
