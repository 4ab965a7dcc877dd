"""The command ``train``."""

import argparse

from faceaffect.cli.arguments import (
    Commands,
    add_command,
    add_recipe,
    add_send_faces,
    add_spreadsheet_safe,
)


def add(commands: Commands) -> None:
    """Declare the command."""
    text = "train a recipe's model, choose the best checkpoint, test it"
    goes_on = "the same command with --resume goes on from the last checkpoint"
    parser = add_command(commands, "train", run, text, goes_on=goes_on)
    add_recipe(parser)
    parser.add_argument(
        "--resume",
        action="store_true",
        help="go on with the newest unfinished run of the same recipe",
    )
    add_spreadsheet_safe(parser)
    add_send_faces(parser)


def run(args: argparse.Namespace) -> int:
    """Train; the recipe is read before heavy packages are imported."""
    from faceaffect.recipe import load_recipe

    recipe = load_recipe(args.recipe, args.overrides)
    from faceaffect.runs.train import train

    train(recipe, resume=args.resume, spreadsheet_safe=args.spreadsheet_safe)
    return 0
