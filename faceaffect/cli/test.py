"""The command ``test``."""

import argparse

from faceaffect.cli.arguments import (
    Commands,
    add_command,
    add_dry_run,
    add_overrides,
    add_send_faces,
    add_source,
    add_spreadsheet_safe,
    check_source,
)


def add(commands: Commands) -> None:
    """Declare the command."""
    text = "test a trained model, or a table of predictions, on its own or on other data"
    parser = add_command(commands, "test", run, text)
    add_source(parser)
    add_overrides(parser, "for instance data.name=csv data.root=faces data.protocol=all")
    add_spreadsheet_safe(parser)
    add_dry_run(parser)
    add_send_faces(parser)


def run(args: argparse.Namespace) -> int:
    """Test a run or a checkpoint, on labelled faces or on questions."""
    from faceaffect.recipe import list_recipes

    if "data.name=questions" in args.overrides:
        from faceaffect.evaluation.questions import ask_all, plan_all

        (plan_all if args.dry_run else ask_all)([args.source], args.overrides)
        return 0
    if args.source not in list_recipes():
        check_source(args.source)
    if args.dry_run:
        from faceaffect.runs.dry import only_plan

        only_plan([args.source], args.overrides)
        return 0
    from faceaffect.runs.train import evaluate

    evaluate(args.source, args.overrides, spreadsheet_safe=args.spreadsheet_safe)
    return 0
