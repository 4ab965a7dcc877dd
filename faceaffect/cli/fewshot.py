"""The command ``fewshot``."""

import argparse
from pathlib import Path

from faceaffect.cli.arguments import Commands, add_command, numbers


def add(commands: Commands) -> None:
    """Declare the command."""
    text = "tell new classes apart from a few examples of each, in many episodes"
    goes_on = "the same command goes on where training stopped"
    parser = add_command(commands, "fewshot", run, text, goes_on=goes_on)
    parser.add_argument(
        "sources",
        nargs="+",
        metavar="RECIPE_OR_RUN|key=value",
        help="recipes and folders of finished runs on data with novel classes "
        "(data.protocol=n_way_k_shot); an override holds for every recipe",
    )
    parser.add_argument(
        "--way", type=int, default=5, metavar="N", help="classes of an episode (default: 5)"
    )
    parser.add_argument(
        "--shot",
        type=numbers(int),
        default=[1, 5],
        metavar="K ...",
        help="examples of each class (default: 1 5)",
    )
    parser.add_argument(
        "--query", type=int, default=5, metavar="Q", help="pictures to name of each (default: 5)"
    )
    parser.add_argument(
        "--episodes", type=int, default=200, metavar="N", help="how many (default: 200)"
    )
    parser.add_argument(
        "--fine-tune",
        type=int,
        default=None,
        metavar="N",
        help="tune the models in the first N episodes, ten seconds or more each where more than a "
        "new layer learns (default: 0 there, else 20)",
    )
    parser.add_argument(
        "--augment",
        type=lambda text: text.split(","),
        default=[],
        metavar="NAME,...",
        help="more examples by mixup, renderer (drawn faces), generated (--generators)",
    )
    parser.add_argument(
        "--extra", type=int, default=5, metavar="N", help="of each example so many (default: 5)"
    )
    parser.add_argument(
        "--generators", metavar="RUN_OR_CKPT", help="a trained comp_gan, for --augment generated"
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="of the episodes (default: 0), not of training"
    )
    parser.add_argument(
        "--seeds", type=int, default=1, metavar="N", help="train each recipe with N seeds"
    )
    parser.add_argument(
        "--folder", type=Path, metavar="FOLDER", help="of the report; else OUTPUT/few_shot/TIME"
    )


def run(args: argparse.Namespace) -> int:
    """Draw episodes; 1 if the report is written but lacks a model that failed."""
    import json

    from faceaffect.evaluation.few_shot import Setting, few_shot

    setting = Setting(
        args.way, tuple(args.shot), args.query, args.episodes, args.fine_tune,
        tuple(args.augment), args.extra, args.generators, args.seed,
    )  # fmt: skip
    folder = few_shot(args.sources, args.overrides, setting, seeds=args.seeds, folder=args.folder)
    return 1 if json.loads((folder / "few_shot.json").read_text(encoding="utf-8"))["failed"] else 0
