"""The command ``probe``."""

import argparse
from pathlib import Path

from faceaffect.cli.arguments import Commands, add_command, add_send_faces
from faceaffect.errors import RecipeError


def add(commands: Commands) -> None:
    """Declare the command."""
    text = "ask a model that answers in words about labelled faces, in several ways"
    parser = add_command(commands, "probe", run, text)
    parser.add_argument(
        "sources",
        nargs="+",
        metavar="RECIPE_OR_RUN PROBES|key=value",
        help="a model, then files of probes (see 'faceaffect ls probes'); data.KEY, asking.KEY, "
        "each and seed go to the probes, other overrides to the recipe",
    )
    parser.add_argument(
        "--folder", type=Path, metavar="FOLDER", help="of the report; else OUTPUT/probes/TIME"
    )
    add_send_faces(parser)


def run(args: argparse.Namespace) -> int:
    """Probe a run, a checkpoint, or a recipe of a model that is not trained."""
    source, *files = args.sources
    if not files:
        raise RecipeError(
            "probe: name files of probes behind the model; 'faceaffect ls probes' lists those that "
            "ship"
        )
    from faceaffect.evaluation.probing import probe

    probe(source, files, args.overrides, args.folder)
    return 0
