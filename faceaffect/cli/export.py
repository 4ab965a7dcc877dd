"""The command ``export``."""

import argparse

from faceaffect.cli.arguments import (
    Commands,
    add_command,
    add_folder,
    add_overrides,
    add_source,
    folder_for,
)

KINDS = ("onnx", "torch", "safetensors", "hf")


def add(commands: Commands) -> None:
    """Declare the command."""
    text = "write a trained model as ONNX, as a program of torch, as weights, as a folder for a hub"
    parser = add_command(commands, "export", run, text)
    add_source(parser)
    add_overrides(parser, "where the run's data lies, for --int8, such as data.root=faces")
    parser.add_argument(
        "--to",
        choices=KINDS,
        required=True,
        help="hf: weights, config and model card, as the model hub takes them",
    )
    add_folder(parser)
    parser.add_argument(
        "--int8",
        action="store_true",
        help="ONNX in eight bits too; what that costs is measured on validation faces",
    )
    parser.add_argument(
        "--merge",
        action="store_true",
        help="with hf: the language model with its adapter merged in",
    )


def run(args: argparse.Namespace) -> int:
    """Export and say what was written."""
    folder = folder_for(args, "export")
    from faceaffect.export.run import export

    export(
        args.source,
        args.to,
        folder,
        overrides=args.overrides,
        int8=args.int8,
        merge=args.merge,
    )
    return 0
