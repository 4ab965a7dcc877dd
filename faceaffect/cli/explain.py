"""The command ``explain``."""

import argparse
from pathlib import Path

from faceaffect.cli.arguments import (
    Commands,
    add_command,
    add_finding,
    add_folder,
    add_source,
    folder_for,
)
from faceaffect.errors import harmless


def add(commands: Commands) -> None:
    """Declare the command."""
    parser = add_command(commands, "explain", run, "save Grad-CAM pictures of faces")
    add_source(parser)
    add_folder(parser)
    parser.add_argument(
        "images", nargs="+", metavar="IMAGE", type=Path, help="pictures; of each its largest face"
    )
    parser.add_argument(
        "--target", action="append", metavar="AU12|happiness", help="answers to explain"
    )
    add_finding(parser)


def run(args: argparse.Namespace) -> int:
    """Explain and print the files."""
    folder = folder_for(args, "explain")
    from faceaffect.evaluation.explain import explain
    from faceaffect.prediction.predictor import Predictor

    predictor = Predictor(
        args.source, device=args.device, finder=args.finder, crop=args.crop, faces="largest"
    )
    pictures = explain(
        predictor.model, args.images, folder, read=predictor.face_in, targets=args.target
    )
    for path in pictures:
        print(harmless(str(path)))
    return 0
