"""The command ``compare``."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from faceaffect.cli.arguments import (
    Commands,
    add_command,
    add_dry_run,
    add_launcher,
    add_send_faces,
    add_spreadsheet_safe,
    begin_launching,
    given_options,
    numbers,
    without_launcher,
)
from faceaffect.errors import RecipeError

if TYPE_CHECKING:
    from faceaffect.evaluation.entrants import Entrant


def add(commands: Commands) -> None:
    """Declare the command."""
    text = "train what is not trained yet, test all on the same samples, write one report"
    goes_on = "the same command goes on where it stopped"
    parser = add_command(commands, "compare", run, text, goes_on=goes_on)
    parser.add_argument(
        "sources",
        nargs="+",
        metavar="RECIPE_OR_RUN|key=value",
        help="recipes and folders of finished runs; an override holds for every recipe",
    )
    parser.add_argument(
        "--seeds", type=int, default=1, metavar="N", help="train each recipe with N seeds"
    )
    parser.add_argument(
        "--tune",
        type=int,
        default=0,
        metavar="N",
        help="search each recipe by N trials on the validation people before it is trained",
    )
    parser.add_argument(
        "--space",
        type=Path,
        action="append",
        metavar="MODEL.yaml",
        help="the keys to search in recipes of this model; else those that ship for it",
    )
    parser.add_argument(
        "--repeats",
        type=int,
        default=1,
        metavar="N",
        help="train under N assignments of people to folds, to see the spread of each lead",
    )
    parser.add_argument(
        "--fractions",
        type=numbers(float),
        default=[],
        metavar="SHARE ...",
        help="train on these shares of the training people, such as 0.01 0.1 1, for a curve",
    )
    parser.add_argument(
        "--folder", type=Path, metavar="FOLDER", help="of the report; else OUTPUT/compare/TIME"
    )
    parser.add_argument(
        "--faces",
        action="store_true",
        help="show pictures of people in the report; drawn faces are always shown",
    )
    add_spreadsheet_safe(parser)
    add_dry_run(parser)
    add_send_faces(parser)
    add_launcher(parser)


def run(args: argparse.Namespace) -> int:
    """Compare; 1 if the report is written but lacks a model that failed."""
    from faceaffect.recipe import list_recipes, load_recipe

    if "data.name=questions" in args.overrides:
        if (
            args.seeds != 1
            or args.repeats != 1
            or args.tune
            or args.fractions
            or args.space
            or args.faces
            or args.launcher
            or args.part is not None
        ):
            raise RecipeError(
                "compare: questions are put to models as they are; --seeds, --repeats, --tune, "
                "--fractions, --space, --faces, --launcher and --part are not for them (see "
                "data.repeats)"
            )
        from faceaffect.evaluation.questions import ask_all, plan_all

        if args.dry_run:
            plan_all(args.sources, args.overrides)
            return 0
        ask_all(args.sources, args.overrides, args.folder)
        return 0
    for source in args.sources:  # wrong words are found before heavy packages are imported
        if source in list_recipes() or not Path(source).is_dir():
            load_recipe(source, args.overrides)
    if args.dry_run:
        from faceaffect.runs.dry import only_plan

        only_plan(args.sources, args.overrides)
        return 0
    begin_launching(args)
    from faceaffect.evaluation.compare import compare
    from faceaffect.evaluation.training import train_part

    if args.launcher or args.part is not None:
        if args.tune or args.repeats > 1:
            raise RecipeError("--launcher: not with --tune or --repeats; 'tune' has its own")
        if args.part is not None:
            train_part(_trainings(args), args.part, args.spreadsheet_safe)
            return 0
        if _launched(args):
            return 0
    folder = compare(
        args.sources,
        args.overrides,
        args.seeds,
        args.folder,
        faces=args.faces,
        options=given_options(args),
        trials=args.tune,
        spaces=args.space or (),
        repeats=args.repeats,
        fractions=args.fractions,
        spreadsheet_safe=args.spreadsheet_safe,
    )
    return 1 if json.loads((folder / "report.json").read_text(encoding="utf-8"))["failed"] else 0


def _launched(args: argparse.Namespace) -> bool:
    """Spread the trainings; true if what comes next is for the person to start."""
    from faceaffect.runs.launch import spread

    parts = [r for entrant in _trainings(args) if entrant.run is None for r in entrant.recipes]
    return not spread(args.launcher, without_launcher(args.words), parts, args.at_once)


def _trainings(args: argparse.Namespace) -> "list[Entrant]":
    """Return all that the command trains, in the order of the parts."""
    from faceaffect.evaluation.entrants import find_entrants
    from faceaffect.evaluation.fractions import every_training

    entrants = find_entrants(args.sources, args.overrides, args.seeds)
    return every_training(entrants, args.fractions)
