"""The command ``annotate``."""

import argparse
from pathlib import Path

from faceaffect.cli.arguments import Commands, add_command, add_recipe
from faceaffect.errors import RecipeError, harmless


def add(commands: Commands) -> None:
    """Declare the command."""
    parser = add_command(commands, "annotate", run, "write instruction data")
    add_recipe(parser)
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the file to write")
    parser.add_argument("--part", choices=("train", "val"), default="train")
    parser.add_argument("--style", choices=("jsonl", "llava", "llama_factory"), default="jsonl")
    parser.add_argument("--url", help="OpenAI-compatible endpoint, else templates are written")
    parser.add_argument("--model", help="the model's name at the endpoint")
    parser.add_argument("--parallel", type=int, default=4, help="requests in flight")


def run(args: argparse.Namespace) -> int:
    """Write the items and print how many there are."""
    from faceaffect.recipe import load_recipe

    if (args.url is None) != (args.model is None):
        raise RecipeError("annotate: --url and --model go together")
    recipe = load_recipe(args.recipe, args.overrides)
    from faceaffect.instructions.annotate import annotate_recipe
    from faceaffect.instructions.endpoint import Endpoint

    endpoint = args.url and Endpoint(args.url, args.model, parallel=args.parallel)
    count = annotate_recipe(
        recipe, args.out, endpoint=endpoint or None, part=args.part, style=args.style
    )
    print(harmless(f"{args.out}: {count} items"))
    return 0
