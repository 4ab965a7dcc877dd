"""The command line. Heavy packages are imported by the commands that need them, not before."""

import argparse
import importlib
import inspect
import json
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from faceaffect import __version__
from faceaffect.errors import DataError, FaceAffectError, RecipeError, unknown
from faceaffect.registry import TABLES, check_name, get


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; an error in what the user gave is one line, and the exit code is 2."""
    args = _parse(argv)
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # it asks the network on import
    try:
        for module in getattr(args, "imports", None) or ():
            _import(module)
        code: int = args.run(args)
    except FaceAffectError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; --resume goes on from the last checkpoint", file=sys.stderr)
        return 130
    return code


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse, taking overrides from anywhere on the line, also behind an option."""
    parser = _parser()
    args, rest = parser.parse_known_args(argv)
    if "sources" in args:
        words = [*args.sources, *(word for word in rest if not word.startswith("-"))]
        args.sources = [word for word in words if "=" not in word or Path(word).exists()]
        args.overrides = [word for word in words if word not in args.sources]
        rest = [word for word in rest if word.startswith("-")]
    wrong = [word for word in rest if word.startswith("-") or "=" not in word]
    if wrong or (rest and "overrides" not in args):
        parser.error(f"unrecognized arguments: {' '.join(wrong or rest)}")
    if rest:
        args.overrides += rest
    return args


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="faceaffect",
        description="Train and fairly compare facial-affect models.",
        epilog="'faceaffect COMMAND --help' says more.",
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(
        name: str, run: object, text: str, *, overrides: bool = False
    ) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text)
        sub.set_defaults(run=run)
        if overrides:
            sub.add_argument(
                "--import",
                dest="imports",
                action="append",
                metavar="MODULE",
                help="import a module or .py file first that registers own components",
            )
        return sub

    sub = command(
        "train",
        _train,
        "train a recipe's model, choose the best checkpoint, test it",
        overrides=True,
    )
    _recipe_and_overrides(sub)
    sub.add_argument(
        "--resume",
        action="store_true",
        help="go on with the newest unfinished run of the same recipe",
    )
    sub = command(
        "test", _test, "test a trained model, on its own or on other data", overrides=True
    )
    sub.add_argument("source", metavar="RUN_OR_CKPT", help="a run folder or a checkpoint")
    sub.add_argument(
        "overrides",
        nargs="*",
        metavar="key=value",
        help="for instance data.name=csv data.root=faces data.protocol=all",
    )
    sub = command(
        "crossval",
        _crossval,
        "train and test every fold of a recipe's protocol; one summary",
        overrides=True,
    )
    _recipe_and_overrides(sub)
    sub.add_argument(
        "--folds", type=int, nargs="+", metavar="FOLD", help="only these folds, counted from 1"
    )
    _add_compare(
        command(
            "compare",
            _compare,
            "train what is not trained yet, test all on the same samples, write one report",
            overrides=True,
        )
    )
    sub = command(
        "check",
        _check,
        "check a recipe, its data on disk, its splits and its model; no training",
        overrides=True,
    )
    _recipe_and_overrides(sub)
    sub = command(
        "graph", _graph, "draw a model's AU graphs as pictures and tables", overrides=True
    )
    _run_and_folder(sub)
    sub.add_argument("--sample", metavar="ID", help="the face to draw; else the first")
    sub.add_argument("overrides", nargs="*", metavar="key=value", help="for the data")
    sub = command("explain", _explain, "save Grad-CAM pictures of faces", overrides=True)
    _run_and_folder(sub)
    sub.add_argument("images", nargs="+", metavar="IMAGE", type=Path, help="face crops")
    sub.add_argument(
        "--target", action="append", metavar="AU12|happiness", help="answers to explain"
    )
    sub = command("ask", _ask, "ask a model that answers in words about a face", overrides=True)
    sub.add_argument("source", metavar="RUN_OR_CKPT", help="a run folder or a checkpoint")
    sub.add_argument(
        "image", metavar="IMAGE", type=Path, help="a face crop, a clip or a folder of frames"
    )
    sub.add_argument("question", nargs="?", metavar="QUESTION", help="else for a description")
    sub.add_argument(
        "--device", default="auto", help="auto (a GPU if there is one), cpu, cuda:1, ..."
    )
    _add_annotate(command("annotate", _annotate, "write instruction data", overrides=True))
    sub = command("sheet", _sheet, "draw contact sheets of the synthetic faces")
    sub.add_argument("folder", nargs="?", default="sheets", metavar="FOLDER")
    sub = command(
        "ls", _ls, "list models, data, recipes, backbones, ... or show one of them", overrides=True
    )
    sub.add_argument("what", nargs="?", metavar="models|data|recipes|backbones|NAME")
    sub = command("cp", _cp, "copy a shipped recipe to a file or folder, to edit it")
    sub.add_argument("recipe", metavar="RECIPE")
    sub.add_argument("target", metavar="TARGET", nargs="?", default=".")
    return parser


def _add_compare(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "sources",
        nargs="+",
        metavar="RECIPE_OR_RUN|key=value",
        help="recipes and folders of finished runs; an override holds for every recipe",
    )
    sub.add_argument(
        "--seeds", type=int, default=1, metavar="N", help="train each recipe with N seeds"
    )
    sub.add_argument(
        "--folder", type=Path, metavar="FOLDER", help="of the report; else OUTPUT/compare/TIME"
    )
    sub.add_argument(
        "--faces",
        action="store_true",
        help="show pictures of people in the report; drawn faces are always shown",
    )


def _add_annotate(sub: argparse.ArgumentParser) -> None:
    _recipe_and_overrides(sub)
    sub.add_argument("--out", type=Path, required=True, metavar="FILE", help="the file to write")
    sub.add_argument("--part", choices=("train", "val"), default="train")
    sub.add_argument("--style", choices=("jsonl", "llava", "llama_factory"), default="jsonl")
    sub.add_argument("--url", help="OpenAI-compatible endpoint, else templates are written")
    sub.add_argument("--model", help="the model's name at the endpoint")
    sub.add_argument("--parallel", type=int, default=4, help="requests in flight")


def _run_and_folder(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("source", metavar="RUN_OR_CKPT", help="a run folder or a checkpoint")
    sub.add_argument(
        "--folder", type=Path, metavar="FOLDER", help="where to write; else in the run"
    )


def _recipe_and_overrides(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("recipe", metavar="RECIPE", help="a YAML file or the name of a shipped recipe")
    sub.add_argument(
        "overrides",
        nargs="*",
        metavar="key=value",
        help="for instance data.batch_size=16 trainer.max_epochs=3",
    )


def _import(module: str) -> None:
    """Import a module or a Python file that the person at the keyboard names."""
    path = Path(module)
    folder = path.parent if path.suffix == ".py" else Path.cwd()
    sys.path.insert(0, str(folder.resolve()))
    try:
        importlib.import_module(path.stem if path.suffix == ".py" else module)
    except ModuleNotFoundError as error:
        raise RecipeError(f"--import {module}: {error}") from None


def _train(args: argparse.Namespace) -> int:
    from faceaffect.recipe import load_recipe

    recipe = load_recipe(args.recipe, args.overrides)
    from faceaffect.run import train

    train(recipe, resume=args.resume)
    return 0


def _test(args: argparse.Namespace) -> int:
    if not Path(args.source).exists():
        raise RecipeError(f"no run folder or checkpoint at {args.source}")
    from faceaffect.run import evaluate

    evaluate(args.source, args.overrides)
    return 0


def _crossval(args: argparse.Namespace) -> int:
    from faceaffect.recipe import load_recipe

    recipe = load_recipe(args.recipe, args.overrides)
    from faceaffect.crossval import crossval

    crossval(recipe, args.folds)
    return 0


def _compare(args: argparse.Namespace) -> int:
    """Compare; 1 if the report is written but lacks a model that failed."""
    from faceaffect.recipe import list_recipes, load_recipe

    for source in args.sources:  # wrong words are found before heavy packages are imported
        if source in list_recipes() or not Path(source).is_dir():
            load_recipe(source, args.overrides)
    from faceaffect.evaluation.compare import compare

    try:
        folder = compare(
            args.sources,
            args.overrides,
            args.seeds,
            args.folder,
            faces=args.faces,
            imports=args.imports or (),
        )
    except KeyboardInterrupt:
        print("interrupted; the same command goes on where it stopped", file=sys.stderr)
        return 130
    return 1 if json.loads((folder / "report.json").read_text())["failed"] else 0


def _check(args: argparse.Namespace) -> int:
    from faceaffect.recipe import load_recipe

    recipe = load_recipe(args.recipe, args.overrides)
    from faceaffect.check import check

    check(recipe)
    return 0


def _graph(args: argparse.Namespace) -> int:
    folder = _folder(args, "graphs")
    from faceaffect.evaluation.graphs import graph_report
    from faceaffect.run import reopen

    for path in graph_report(*reopen(args.source, args.overrides), folder, sample=args.sample):
        print(path)
    return 0


def _explain(args: argparse.Namespace) -> int:
    folder = _folder(args, "explain")
    from faceaffect.evaluation.explain import explain
    from faceaffect.module import load_model, read_checkpoint

    recipe = read_checkpoint(args.source)["faceaffect"]["recipe"] or {"sections": {"data": {}}}
    size = recipe["sections"]["data"].get("image_size", 112)
    model = load_model(args.source)
    for path in explain(model, args.images, folder, image_size=size, targets=args.target):
        print(path)
    return 0


def _folder(args: argparse.Namespace, name: str) -> Path:
    """Return where to write: what the user says, else beside the run's result."""
    source = Path(args.source)
    if not source.exists():
        raise RecipeError(f"no run folder or checkpoint at {source}")
    folder: Path | None = args.folder
    return folder or (source if source.is_dir() else source.parent) / name


def _ask(args: argparse.Namespace) -> int:
    if not Path(args.source).exists():
        raise RecipeError(f"no run folder or checkpoint at {args.source}")
    if not args.image.exists():
        raise DataError(f"no picture at {args.image}")
    from faceaffect.ask import ask, open_model

    model, size, frames = open_model(Path(args.source), args.device)
    ask(model, args.image, args.question, image_size=size, frames=frames)
    return 0


def _annotate(args: argparse.Namespace) -> int:
    from faceaffect.recipe import load_recipe

    if (args.url is None) != (args.model is None):
        raise RecipeError("annotate: --url and --model go together")
    recipe = load_recipe(args.recipe, args.overrides)
    from faceaffect.annotating import annotate_recipe
    from faceaffect.data.annotate import Endpoint

    endpoint = args.url and Endpoint(args.url, args.model, parallel=args.parallel)
    count = annotate_recipe(
        recipe, args.out, endpoint=endpoint or None, part=args.part, style=args.style
    )
    print(f"{args.out}: {count} items")
    return 0


def _sheet(args: argparse.Namespace) -> int:
    from faceaffect.data.synthetic.sheet import write_sheets

    for path in write_sheets(args.folder):
        print(path)
    return 0


def _ls(args: argparse.Namespace) -> int:
    from faceaffect.recipe import find_recipe, list_recipes

    what = args.what
    lists = {**{table: sorted(names) for table, names in TABLES.items()}, "recipes": list_recipes()}
    if what is None:
        for title, names in lists.items():
            print(f"{title}: {', '.join(names)}")
        print("backbones: every timm model; 'faceaffect ls backbones' lists them")
    elif what in lists:
        for name in lists[what]:
            first = _first_comment(find_recipe(name)) if what == "recipes" else ""
            print(f"{name}{f'  {first}' if first else ''}")
    elif what == "backbones":
        from faceaffect.backbones import list_backbones

        print("\n".join(list_backbones()))
    elif tables := [table for table in lists if table != "recipes" and what in TABLES[table]]:
        for table in tables:
            print(_describe(table, what))
    elif what in lists["recipes"]:
        print(find_recipe(what).read_text(), end="")
    else:
        known = {*lists, "backbones", *(name for names in lists.values() for name in names)}
        raise RecipeError(unknown("ls", what, known))
    return 0


def _first_comment(path: Path) -> str:
    line = path.read_text().partition("\n")[0]
    return (
        line.removeprefix("#").partition("faceaffect ")[0].strip() if line.startswith("#") else ""
    )


def _describe(table: str, name: str) -> str:
    """Return signature and docstring of a registered component."""
    check_name(table, name)
    target = get(table, name)
    lines = [
        f"{name} ({table.removesuffix('s')})",
        inspect.getdoc(target) or "",
        "",
        "keys and defaults:",
    ]
    for parameter in inspect.signature(target).parameters.values():
        if parameter.name == "schema":
            continue
        value = "needed" if parameter.default is parameter.empty else repr(parameter.default)
        lines.append(f"  {parameter.name}: {value}")
    return "\n".join(lines)


def _cp(args: argparse.Namespace) -> int:
    from faceaffect.recipe import find_recipe

    source = find_recipe(args.recipe)
    target = Path(args.target)
    target = target / source.name if target.is_dir() else target
    if target.exists():
        raise RecipeError(f"{target} is there already; name another target")
    shutil.copyfile(source, target)
    print(target)
    return 0


if __name__ == "__main__":
    sys.exit(main())
