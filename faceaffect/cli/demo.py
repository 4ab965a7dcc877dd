"""The command ``demo``."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from faceaffect.cli.arguments import (
    Commands,
    add_command,
    add_finding,
    add_send_faces,
    check_source,
)

if TYPE_CHECKING:
    from faceaffect.prediction.predictor import Predictor


def add(commands: Commands) -> None:
    """Declare the command."""
    text = "open a page on this machine to try models on pictures, clips and a camera"
    parser = add_command(commands, "demo", run, text)
    parser.add_argument(
        "runs", nargs="+", metavar="RUN_OR_CKPT", help="run folders, checkpoints, exported models"
    )
    parser.add_argument("--port", type=int, default=7860, metavar="N")
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        metavar="ADDRESS",
        help="0.0.0.0 lets others in, who may then ask the models about any picture",
    )
    add_finding(parser)
    add_send_faces(parser)


def run(args: argparse.Namespace) -> int:
    """Serve the page until Ctrl-C."""
    sources = [check_source(source) for source in args.runs]
    from faceaffect.demo.page import check_port, import_gradio, serve

    import_gradio()
    check_port(args.host, args.port)
    from faceaffect.demo.look import differences
    from faceaffect.prediction.predictor import Predictor
    from faceaffect.progress import console

    settings = {"device": args.device, "finder": args.finder, "crop": args.crop}
    predictors = _named([(source, Predictor(source, **settings)) for source in sources])
    for line in differences(predictors):
        console.print(line)
    who = "this machine alone" if args.host in ("127.0.0.1", "localhost") else "whoever reaches it"
    console.print(f"http://{args.host}:{args.port}, for {who}; Ctrl-C ends it")
    serve(predictors, args.host, args.port)
    return 0


def _named(predictors: "list[tuple[Path, Predictor]]") -> "dict[str, Predictor]":
    """Return what to call each model: its recipe or file, with a number where two are alike."""
    named: dict[str, Predictor] = {}
    for source, predictor in predictors:
        recipe = predictor.model.recipe
        about = getattr(predictor.model, "about", {})
        name = str(recipe["name"] if recipe else about.get("trained_by") or source.name)
        name = f"{name} ({source.suffix[1:]})" if about else name
        named[name if name not in named else f"{name} ({len(named) + 1})"] = predictor
    return named
