"""The command ``predict``."""

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
from faceaffect.errors import RecipeError


def add(commands: Commands) -> None:
    """Declare the command."""
    text = "find the faces in pictures and videos and write what a trained model says of each"
    goes_on = "the same command goes on where it stopped"
    parser = add_command(commands, "predict", run, text, goes_on=goes_on)
    add_source(parser)
    parser.add_argument(
        "inputs",
        nargs="+",
        metavar="PATH",
        help="pictures, videos, folders, patterns, tables of paths, camera:0",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help=".csv, .parquet or .jsonl; else predictions.csv, or .jsonl of a model that speaks",
    )
    parser.add_argument(
        "--faces", choices=("all", "largest"), default="all", help="which faces of a picture"
    )
    add_finding(parser)
    add_send_faces(parser)
    parser.add_argument(
        "--fps", type=float, metavar="N", help="looks a second at a video; else every frame"
    )
    parser.add_argument(
        "--smooth",
        type=float,
        default=0.0,
        metavar="SECONDS",
        help="smooth the answers about each person of a video",
    )
    parser.add_argument("--batch", type=int, default=16, metavar="N", help="faces at once")
    parser.add_argument(
        "--overlay",
        type=Path,
        metavar="FOLDER",
        help="draw the answers into copies of the pictures and videos, with a timeline a video",
    )
    parser.add_argument("--blur", action="store_true", help="make the overlay's faces unknown")


def run(args: argparse.Namespace) -> int:
    """Predict; 1 if an input could not be read."""
    source = check_source(args.source)
    if args.fps is not None and not args.fps > 0:
        raise RecipeError(f"--fps {args.fps}: not positive")
    if args.blur and args.overlay is None:
        raise RecipeError("--blur hides the faces of the overlay: add --overlay FOLDER")
    if args.blur and (args.fps is not None or args.faces != "all"):
        raise RecipeError("--blur has to find every face in every frame: leave out --fps, --faces")
    from faceaffect.prediction.inputs import find_inputs

    inputs = find_inputs(args.inputs, leave_out=args.overlay)
    from faceaffect.prediction.overlay import Overlay
    from faceaffect.prediction.predictor import Predictor
    from faceaffect.prediction.run import predict_to_table
    from faceaffect.progress import console

    predictor = Predictor(
        source,
        device=args.device,
        finder=args.finder,
        crop=args.crop,
        faces=args.faces,
        batch_size=args.batch,
        smooth=args.smooth,
    )
    out = args.out or Path("predictions.jsonl" if predictor.speaks else "predictions.csv")
    console.print(f"{len(inputs)} inputs; {predictor.expects()}", markup=False)
    overlay = args.overlay and Overlay(args.overlay, predictor.schema, inputs, blur=args.blur)
    count = predict_to_table(predictor, inputs, out, fps=args.fps, overlay=overlay or None)
    console.print(f"{count.words()}; written to {out}", markup=False)
    return 1 if count.unreadable else 0
