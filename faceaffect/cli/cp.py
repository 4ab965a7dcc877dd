"""The command ``cp``."""

import argparse
import shutil
from pathlib import Path

from faceaffect.cli.arguments import Commands, add_command
from faceaffect.errors import RecipeError


def add(commands: Commands) -> None:
    """Declare the command."""
    text = "copy a shipped recipe to a file or folder, to edit it"
    parser = add_command(commands, "cp", run, text, imports=False)
    parser.add_argument("recipe", metavar="RECIPE")
    parser.add_argument("target", metavar="TARGET", nargs="?", default=".")


def run(args: argparse.Namespace) -> int:
    """Copy, and print where to."""
    from faceaffect.recipe import find_recipe

    source = find_recipe(args.recipe)
    target = Path(args.target)
    target = target / source.name if target.is_dir() else target
    if target.exists():
        raise RecipeError(f"{target} is there already; name another target")
    shutil.copyfile(source, target)
    print(target)
    return 0
