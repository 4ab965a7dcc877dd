"""The command ``crossval``."""

import argparse

from faceaffect.cli.arguments import (
    Commands,
    add_command,
    add_launcher,
    add_recipe,
    add_send_faces,
    add_spreadsheet_safe,
    begin_launching,
    without_launcher,
)


def add(commands: Commands) -> None:
    """Declare the command."""
    text = "train and test every fold of a recipe's protocol; one summary"
    goes_on = "the same command goes on where it stopped"
    parser = add_command(commands, "crossval", run, text, goes_on=goes_on)
    add_recipe(parser)
    parser.add_argument(
        "--folds", type=int, nargs="+", metavar="FOLD", help="only these folds, counted from 1"
    )
    parser.add_argument(
        "--repeats",
        type=int,
        default=1,
        metavar="N",
        help="N assignments of people to folds, and the spread between them",
    )
    add_spreadsheet_safe(parser)
    add_send_faces(parser)
    add_launcher(parser)


def run(args: argparse.Namespace) -> int:
    """Train the folds; the recipe is read before heavy packages are imported."""
    from faceaffect.recipe import load_recipe

    recipe = load_recipe(args.recipe, args.overrides)
    begin_launching(args)
    from faceaffect.evaluation.crossval import crossval, train_part, trainings

    safe = args.spreadsheet_safe
    if args.part is not None:
        train_part(recipe, args.folds, args.repeats, args.part, safe)
        return 0
    if args.launcher:
        from faceaffect.runs.launch import spread

        parts = trainings(recipe, args.folds, args.repeats)
        if not spread(args.launcher, without_launcher(args.words), parts, args.at_once):
            return 0
    crossval(recipe, args.folds, repeats=args.repeats, spreadsheet_safe=safe)
    return 0
