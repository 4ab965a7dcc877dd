"""The command ``ask``."""

import argparse
from pathlib import Path

from faceaffect.cli.arguments import (
    Commands,
    add_command,
    add_finding,
    add_send_faces,
    add_source,
    check_source,
)
from faceaffect.errors import DataError


def add(commands: Commands) -> None:
    """Declare the command."""
    text = "ask a model that answers in words about a face"
    parser = add_command(commands, "ask", run, text)
    add_source(parser)
    parser.add_argument(
        "image", metavar="IMAGE", type=Path, help="a picture, a clip or a folder of frames"
    )
    parser.add_argument("question", nargs="?", metavar="QUESTION", help="else for a description")
    add_finding(parser)
    add_send_faces(parser)


def run(args: argparse.Namespace) -> int:
    """Ask; the answer is printed as it comes."""
    source = check_source(args.source)
    if not args.image.exists():
        raise DataError(f"no picture at {args.image}")
    from faceaffect.evaluation.ask import ask, frames_of, quiet
    from faceaffect.prediction.predictor import Predictor

    quiet()
    predictor = Predictor(
        source, device=args.device, finder=args.finder, crop=args.crop, faces="largest"
    )
    ask(predictor, args.image, args.question, frames=frames_of(source))
    return 0
