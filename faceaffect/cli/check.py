"""The command ``check``."""

import argparse

from faceaffect.cli.arguments import Commands, add_command, add_recipe


def add(commands: Commands) -> None:
    """Declare the command."""
    text = "check a recipe, its data on disk, its splits and its model; no training"
    add_recipe(add_command(commands, "check", run, text))


def run(args: argparse.Namespace) -> int:
    """Check; the recipe is read before heavy packages are imported."""
    from faceaffect.recipe import load_recipe

    recipe = load_recipe(args.recipe, args.overrides)
    from faceaffect.runs.check import check

    check(recipe)
    return 0
