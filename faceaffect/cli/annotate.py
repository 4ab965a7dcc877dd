"""The command ``annotate``."""

import argparse
from pathlib import Path

from faceaffect.cli.arguments import (
    Commands,
    add_command,
    add_dry_run,
    add_recipe,
    add_send_faces,
)
from faceaffect.errors import RecipeError, harmless

STYLES = ("jsonl", "llava", "llama_factory", "trl", "swift")


def add(commands: Commands) -> None:
    """Declare the command."""
    parser = add_command(commands, "annotate", run, "write instruction data")
    add_recipe(parser)
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the file to write")
    parser.add_argument("--part", choices=("train", "val"), default="train")
    parser.add_argument("--style", choices=STYLES, default="jsonl", help="whose form")
    parser.add_argument("--url", help="OpenAI-compatible endpoint, else templates are written")
    parser.add_argument("--model", help="the model's name at the endpoint")
    parser.add_argument("--parallel", type=int, default=4, help="requests in flight")
    parser.add_argument(
        "--cache", type=Path, metavar="FOLDER",
        help="where answers are kept, so that none is paid for twice; else runs/answers",
    )  # fmt: skip
    parser.add_argument(
        "--price", type=float, nargs=2, default=(0, 0), metavar=("IN", "OUT"),
        help="of a million tokens in and out, in any currency",
    )  # fmt: skip
    parser.add_argument(
        "--max-cost", type=float, metavar="COST", help="stop before more is spent, by --price"
    )
    add_dry_run(parser)
    add_send_faces(parser)


def run(args: argparse.Namespace) -> int:
    """Write the items and print how many there are."""
    from faceaffect.recipe import load_recipe

    if (args.url is None) != (args.model is None):
        raise RecipeError("annotate: --url and --model go together")
    if args.dry_run and args.url is None:
        raise RecipeError("annotate: --dry-run is about what an endpoint would be asked (--url)")
    recipe = load_recipe(args.recipe, args.overrides)
    from faceaffect.instructions.annotate import annotate_recipe
    from faceaffect.instructions.endpoint import Endpoint, Price, answers_folder

    endpoint = args.url and Endpoint(
        args.url, args.model, parallel=args.parallel, cache=args.cache or answers_folder(),
        price=Price(*args.price), max_cost=args.max_cost,
    )  # fmt: skip
    count = annotate_recipe(
        recipe, args.out, endpoint=endpoint or None, part=args.part, style=args.style,
        dry_run=args.dry_run,
    )  # fmt: skip
    if args.dry_run:
        return 0
    print(harmless(f"{args.out}: {count} items"))
    return 0
