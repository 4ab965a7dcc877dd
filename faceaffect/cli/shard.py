"""The command ``shard``."""

import argparse
import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from faceaffect.cli.arguments import Commands, add_command, add_overrides
from faceaffect.errors import RecipeError


def add(commands: Commands) -> None:
    """Declare the command."""
    text = "write the data of a recipe as a few large files, for disks and stores that are slow"
    parser = add_command(commands, "shard", run, text)
    parser.add_argument(
        "recipe", metavar="RECIPE", help="a YAML file or the name of a shipped recipe"
    )
    parser.add_argument("folder", type=Path, metavar="OUT", help="a new folder for the shards")
    add_overrides(parser, "for instance data.table=faces.csv")
    parser.add_argument(
        "--mb", type=int, default=256, metavar="N", help="size of a file in MB (default: 256)"
    )
    parser.add_argument(
        "--webdataset",
        action="store_true",
        help="write tar files for WebDataset instead; an export, not read back by data.name=shards",
    )


def trains_from(recipe: str, folder: Path, data: Mapping[str, Any]) -> str:
    """Return the command that trains from shards as the recipe does from its own data.

    Another ``data.name`` replaces the whole section, so what is asked of all data is said again.

    Args:
        recipe: its name or file.
        folder: of the shards.
        data: the recipe's data section.
    """
    from faceaffect.data.base import common_keys

    kept = {key: data[key] for key in common_keys() if key in data}
    words = [f"data.{key}={json.dumps(value)}" for key, value in kept.items()]
    start = ["faceaffect", "train", recipe, "data.name=shards", f"data.root={folder}"]
    return shlex.join([*start, *words])


def run(args: argparse.Namespace) -> int:
    """Write; the recipe is read before heavy packages are imported."""
    from faceaffect.recipe import load_recipe

    if args.mb < 1:
        raise RecipeError(f"--mb: {args.mb} is not positive")
    recipe = load_recipe(args.recipe, args.overrides)
    from faceaffect.data.base import create_data
    from faceaffect.data.sharding import write_shards, write_tars
    from faceaffect.progress import console

    data = create_data(run_seed=recipe["seed"], **recipe["data"])
    data.prepare_data()
    write = write_tars if args.webdataset else write_shards
    about = write(
        data.dataset,
        args.folder,
        megabytes=args.mb,
        workers=recipe["data"].get("num_workers"),
        max_pixels=data.max_pixels,
    )
    files = about["files"]
    size = sum(file["bytes"] for file in files) / 1e6
    rows = sum(file["rows"] for file in files)
    console.print(f"{rows:,} samples in {len(files)} files, {size:,.1f} MB, in {args.folder}")
    if about["unreadable"]:
        console.print(f"unreadable: {about['unreadable']:,}; they are left out as before, counted")
    if not args.webdataset:
        words = trains_from(args.recipe, args.folder, recipe["data"])
        console.print(f"the same training from it:\n  {words}", markup=False, soft_wrap=True)
    return 0
