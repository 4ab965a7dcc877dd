"""What several commands share: how one is declared, and the arguments that they take alike."""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeAlias

from faceaffect.errors import RecipeError
from faceaffect.networks.assets import PREFIX, file_of

Parser: TypeAlias = argparse.ArgumentParser
Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def add_command(
    commands: Commands,
    name: str,
    run: Callable[[argparse.Namespace], int],
    text: str,
    *,
    imports: bool = True,
    goes_on: str = "",
) -> Parser:
    """Declare a command and return its parser.

    Args:
        commands: where to.
        name: the word on the command line.
        run: what it does; returns the exit code.
        text: one line about it.
        imports: whether it may need components of the user's own.
        goes_on: how the user can go on after Ctrl-C, which is printed.
    """
    parser = commands.add_parser(name, help=text, description=text)
    parser.set_defaults(run=run, goes_on=f"; {goes_on}" if goes_on else "")
    if imports:
        parser.add_argument(
            "--import",
            dest="imports",
            action="append",
            metavar="MODULE",
            help="import a module or .py file first that registers own components",
        )
        parser.add_argument(
            "--allow-env",
            action="append",
            metavar="NAME",
            help="let recipes name folders by this environment variable, as by FACEAFFECT_... ones",
        )
    return parser


def given_options(args: argparse.Namespace) -> list[str]:
    """Return the words of what every command takes, to repeat a command."""
    given = {"--import": args.imports, "--allow-env": args.allow_env}
    words = [word for name, values in given.items() for one in values or () for word in (name, one)]
    return words + ["--send-faces"] * getattr(args, "send_faces", False)


def add_recipe(parser: Parser) -> None:
    """Take a recipe and overrides."""
    parser.add_argument(
        "recipe", metavar="RECIPE", help="a YAML file or the name of a shipped recipe"
    )
    add_overrides(parser, "for instance data.batch_size=16 trainer.max_epochs=3")


def add_overrides(parser: Parser, text: str) -> None:
    """Take ``key=value`` words."""
    parser.add_argument("overrides", nargs="*", metavar="key=value", help=text)


def add_source(parser: Parser) -> None:
    """Take a trained model."""
    parser.add_argument(
        "source", metavar="RUN_OR_CKPT", help="a run folder, a checkpoint, or asset:NAME"
    )


def add_folder(parser: Parser) -> None:
    """Take the folder to write to, see :func:`folder_for`."""
    parser.add_argument(
        "--folder", type=Path, metavar="FOLDER", help="where to write; else in the run"
    )


def add_spreadsheet_safe(parser: Parser) -> None:
    """Take the wish for tables that a spreadsheet only shows."""
    parser.add_argument(
        "--spreadsheet-safe",
        action="store_true",
        help="put an apostrophe before a text of predictions.csv that begins like a formula",
    )


def add_send_faces(parser: Parser) -> None:
    """Take the permission to send pictures of people to another machine."""
    parser.add_argument(
        "--send-faces",
        action="store_true",
        help="let pictures leave this machine for the endpoint that a recipe or --url names",
    )


def add_dry_run(parser: Parser) -> None:
    """Take the wish to see what an endpoint would be asked."""
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="say how many requests of about how many tokens an endpoint would get; send none",
    )


def add_launcher(parser: Parser) -> None:
    """Take where trainings run, and which of them this process does."""
    parser.add_argument(
        "--launcher",
        choices=("local", "ray", "slurm"),
        help="train side by side: on the GPUs or cores of this machine, on a Ray cluster, or by "
        "a SLURM array, whose script is written",
    )
    parser.add_argument(
        "--at-once",
        type=int,
        metavar="N",
        help="with --launcher local: so many at a time (default: one to a GPU, else to a core)",
    )
    parser.add_argument(
        "--part", type=int, metavar="I", help="one of the trainings that --launcher spreads, alone"
    )


def begin_launching(args: argparse.Namespace) -> None:
    """Let the packages that parts on this machine need be imported beside what comes next."""
    if args.launcher == "local":
        from faceaffect.runs import prepared

        prepared.begin()


def without_launcher(words: list[str]) -> list[str]:
    """Return the words of a command as one machine takes them.

    >>> without_launcher(["crossval", "x", "--launcher", "local", "--at-once=2", "a=1"])
    ['crossval', 'x', 'a=1']
    """
    rest: list[str] = []
    left = iter(words)
    for word in left:
        if word in ("--launcher", "--at-once"):
            next(left, None)
        elif not word.startswith(("--launcher=", "--at-once=")):
            rest.append(word)
    return rest


_NUMBERS = ("--fractions", "--shot")
"""Options that take several numbers, behind which other words may follow."""


def with_numbers_joined(words: Sequence[str]) -> list[str]:
    """Return the words of a command line with the numbers behind such an option in one word.

    So a recipe may stand behind them too.

    >>> with_numbers_joined(["compare", "--fractions", "0.1", "1", "a", "b"])
    ['compare', '--fractions=0.1,1', 'a', 'b']
    """
    joined: list[str] = []
    taking = False
    for word in words:
        if taking and _is_number(word):
            joined[-1] += ("" if joined[-1].endswith("=") else ",") + word
            continue
        taking = word in _NUMBERS
        joined.append(f"{word}=" if taking else word)
    return joined


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def numbers(kind: Callable[[str], float]) -> Callable[[str], list[float]]:
    """Return a type for argparse that reads numbers between commas."""

    def read(text: str) -> list[float]:
        try:
            return [kind(part) for part in text.split(",")]
        except ValueError:
            what = "whole numbers" if kind is int else "numbers"
            raise argparse.ArgumentTypeError(f"'{text}': {what} are needed") from None

    return read


def check_source(source: str) -> Path:
    """Return the path of a trained model; ``asset:NAME`` is one that the package ships.

    Raises:
        RecipeError: nothing is there.
    """
    if source.startswith(PREFIX):
        return file_of(source)
    if not Path(source).exists():
        raise RecipeError(f"no run folder or checkpoint at {source}")
    return Path(source)


def folder_for(args: argparse.Namespace, name: str) -> Path:
    """Return where to write: what the user says, else ``name`` beside the run's result.

    What is made of a model that the package ships lies in the working directory.

    Raises:
        RecipeError: there is no such run.
    """
    source = check_source(args.source)
    folder: Path | None = args.folder
    if args.source.startswith(PREFIX):
        return folder or Path(name)
    return folder or (source if source.is_dir() else source.parent) / name


def add_finding(parser: Parser) -> None:
    """Take how faces are found and cut out, and where the model runs."""
    parser.add_argument(
        "--crop",
        choices=("trained", "landmarks", "tight", "none"),
        default="trained",
        help="how faces are cut out; none: every picture is a face crop already",
    )
    parser.add_argument("--finder", default="mtcnn", help="see 'faceaffect ls finders'")
    parser.add_argument(
        "--device", default="auto", help="auto (a GPU if there is one), cpu, cuda:1, ..."
    )
