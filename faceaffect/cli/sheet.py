"""The command ``sheet``."""

import argparse

from faceaffect.cli.arguments import Commands, add_command
from faceaffect.errors import harmless


def add(commands: Commands) -> None:
    """Declare the command."""
    text = "draw contact sheets of the synthetic faces"
    parser = add_command(commands, "sheet", run, text, imports=False)
    parser.add_argument("folder", nargs="?", default="sheets", metavar="FOLDER")


def run(args: argparse.Namespace) -> int:
    """Draw the sheets and print the files."""
    from faceaffect.data.synthetic.sheet import write_sheets

    for path in write_sheets(args.folder):
        print(harmless(str(path)))
    return 0
