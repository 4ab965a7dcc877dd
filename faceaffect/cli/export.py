"""The command ``export``."""

import argparse
from pathlib import Path

from faceaffect.cli.arguments import (
    Commands,
    add_command,
    add_folder,
    add_overrides,
    add_source,
    folder_for,
)
from faceaffect.errors import RecipeError, harmless

KINDS = ("onnx", "torch", "safetensors", "hf")
TOOLS = ("lmms-eval", "vlmevalkit", "ferbench")


def add(commands: Commands) -> None:
    """Declare the command."""
    text = (
        "write a trained model as ONNX, as a program of torch, as weights, as a folder for a hub; "
        "or the test part of a recipe as a task of another evaluator"
    )
    parser = add_command(commands, "export", run, text)
    add_source(parser)
    add_overrides(parser, "where the run's data lies, for --int8, such as data.root=faces")
    parser.add_argument(
        "--to",
        choices=(*KINDS, *TOOLS),
        required=True,
        help="hf: weights, config and model card, as the model hub takes them; lmms-eval, "
        "vlmevalkit, ferbench: of a recipe, not of a run",
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
    parser.add_argument(
        "--half", action="store_true", help="with safetensors: in half precision, half the size"
    )


def run(args: argparse.Namespace) -> int:
    """Export and say what was written."""
    if args.to in TOOLS:
        return _to_evaluator(args)
    folder = folder_for(args, "export")
    from faceaffect.export.run import export

    export(
        args.source,
        args.to,
        folder,
        overrides=args.overrides,
        int8=args.int8,
        merge=args.merge,
        half=args.half,
    )
    return 0


def _to_evaluator(args: argparse.Namespace) -> int:
    if args.int8 or args.merge:
        raise RecipeError(f"--to {args.to}: writes questions, so there is nothing to shrink")
    from faceaffect.recipe import load_recipe

    recipe = load_recipe(args.source, args.overrides)
    folder = args.folder or Path(recipe["output"]) / recipe.name / args.to
    from faceaffect.export.evaluators import export_task

    for file in export_task(recipe, args.to, folder):
        print(harmless(str(file)))
    return 0
