"""The command ``crossval``."""

import argparse

from faceaffect.cli.arguments import Commands, add_command, add_recipe


def add(commands: Commands) -> None:
    """Declare the command."""
    text = "train and test every fold of a recipe's protocol; one summary"
    goes_on = "the same command goes on where it stopped"
    parser = add_command(commands, "crossval", run, text, goes_on=goes_on)
    add_recipe(parser)
    parser.add_argument(
        "--folds", type=int, nargs="+", metavar="FOLD", help="only these folds, counted from 1"
    )


def run(args: argparse.Namespace) -> int:
    """Train the folds; the recipe is read before heavy packages are imported."""
    from faceaffect.recipe import load_recipe

    recipe = load_recipe(args.recipe, args.overrides)
    from faceaffect.evaluation.crossval import crossval

    crossval(recipe, args.folds)
    return 0
