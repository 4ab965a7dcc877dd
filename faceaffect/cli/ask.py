"""The command ``ask``."""

import argparse
from pathlib import Path

from faceaffect.cli.arguments import Commands, add_command, add_source, check_source
from faceaffect.errors import DataError


def add(commands: Commands) -> None:
    """Declare the command."""
    text = "ask a model that answers in words about a face"
    parser = add_command(commands, "ask", run, text)
    add_source(parser)
    parser.add_argument(
        "image", metavar="IMAGE", type=Path, help="a face crop, a clip or a folder of frames"
    )
    parser.add_argument("question", nargs="?", metavar="QUESTION", help="else for a description")
    parser.add_argument(
        "--device", default="auto", help="auto (a GPU if there is one), cpu, cuda:1, ..."
    )


def run(args: argparse.Namespace) -> int:
    """Ask; the answer is printed as it comes."""
    source = check_source(args.source)
    if not args.image.exists():
        raise DataError(f"no picture at {args.image}")
    from faceaffect.evaluation.ask import ask, open_model

    model, size, frames = open_model(source, args.device)
    ask(model, args.image, args.question, image_size=size, frames=frames)
    return 0
