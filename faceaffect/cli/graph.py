"""The command ``graph``."""

import argparse

from faceaffect.cli.arguments import (
    Commands,
    add_command,
    add_folder,
    add_overrides,
    add_source,
    folder_for,
)
from faceaffect.errors import harmless


def add(commands: Commands) -> None:
    """Declare the command."""
    parser = add_command(commands, "graph", run, "draw a model's AU graphs as pictures and tables")
    add_source(parser)
    add_folder(parser)
    parser.add_argument("--sample", metavar="ID", help="the face to draw; else the first")
    add_overrides(parser, "for the data")


def run(args: argparse.Namespace) -> int:
    """Draw the graphs and print the files."""
    folder = folder_for(args, "graphs")
    from faceaffect.evaluation.graphs import graph_report
    from faceaffect.runs.train import reopen

    for path in graph_report(*reopen(args.source, args.overrides), folder, sample=args.sample):
        print(harmless(str(path)))
    return 0
