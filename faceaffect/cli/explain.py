"""The command ``explain``."""

import argparse
from pathlib import Path

from faceaffect.cli.arguments import Commands, add_command, add_folder, add_source, folder_for


def add(commands: Commands) -> None:
    """Declare the command."""
    parser = add_command(commands, "explain", run, "save Grad-CAM pictures of faces")
    add_source(parser)
    add_folder(parser)
    parser.add_argument("images", nargs="+", metavar="IMAGE", type=Path, help="face crops")
    parser.add_argument(
        "--target", action="append", metavar="AU12|happiness", help="answers to explain"
    )


def run(args: argparse.Namespace) -> int:
    """Explain and print the files."""
    folder = folder_for(args, "explain")
    from faceaffect.evaluation.explain import explain
    from faceaffect.models.loading import answering, read_checkpoint, restore

    checkpoint = read_checkpoint(args.source)
    recipe = checkpoint["faceaffect"]["recipe"] or {"sections": {"data": {}}}
    size = recipe["sections"]["data"].get("image_size", 112)
    model = answering(restore(checkpoint, args.source))
    for path in explain(model, args.images, folder, image_size=size, targets=args.target):
        print(path)
    return 0
