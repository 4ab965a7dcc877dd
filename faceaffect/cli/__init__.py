"""The command line: a file for each command.

Each has ``add``, which declares the command, and ``run``. Heavy packages are imported when a
command runs, not before.
"""

import argparse
import atexit
import contextlib
import gc
import importlib
import io
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from faceaffect import __version__
from faceaffect.cli import (
    annotate,
    ask,
    check,
    compare,
    cp,
    crossval,
    demo,
    explain,
    export,
    fewshot,
    graph,
    ls,
    predict,
    probe,
    shard,
    sheet,
    test,
    train,
    tune,
)
from faceaffect.cli.arguments import with_numbers_joined
from faceaffect.errors import (
    ENDING,
    FULL,
    FaceAffectError,
    RecipeError,
    Stopped,
    harmless,
    printable,
)

COMMANDS = (
    train, test, tune, crossval, compare, check, predict, demo, export, graph, explain, ask, probe,
    fewshot, annotate, shard, sheet, ls, cp,
)  # fmt: skip
"""The commands, in the order in which the help lists them."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; an error in what the user gave is one line, and the exit code is 2."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a name that a terminal lacks letters for
            stream.reconfigure(errors="backslashreplace")
    args = _parse(argv)
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # it asks the network on import
    # Threads that wait for others sleep; spinning, they take the core from who they wait for.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    # Hardly a thing of what packages bring is garbage. Looking for it takes a quarter of their
    # import's time and, once more at the very end, seconds.
    gc.set_threshold(100_000)
    atexit.register(gc.freeze)
    with _unwound_by_signals():
        try:
            return _run(args)
        except FaceAffectError as error:
            print(harmless(f"{_process()}error: {error}"), file=sys.stderr)
            return 2
        except OSError as error:
            print(f"{_process()}error: {_told(error, args.goes_on)}", file=sys.stderr)
            return 2
        except Stopped as stop:
            _ignore_signals()
            with contextlib.suppress(OSError):  # the terminal may be gone
                if not _process():
                    name = signal.Signals(stop.number).name
                    print(f"stopped by {name}{args.goes_on}", file=sys.stderr, flush=True)
            return 143
        except KeyboardInterrupt:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # pressed again, it must not stop the exit
            if not _process():
                print(f"interrupted{args.goes_on}", file=sys.stderr)
            return 130


def _run(args: argparse.Namespace) -> int:
    if getattr(args, "allow_env", None):
        from faceaffect.recipe.interpolation import allowed_env

        allowed_env.update(args.allow_env)
    for module in getattr(args, "imports", None) or ():
        _import(module)
    with _sending(args):
        code: int = args.run(args)
    return code


def _sending(args: argparse.Namespace) -> contextlib.AbstractContextManager[None]:
    """Return the permission to send pictures of people elsewhere, if it was given."""
    if not getattr(args, "send_faces", False):
        return contextlib.nullcontext()
    from faceaffect.instructions.endpoint import faces_may_leave

    return faces_may_leave()


@contextlib.contextmanager
def _unwound_by_signals() -> Iterator[None]:
    """Let the signals by which machines end a command unwind it, unless they are ignored."""
    numbers = [getattr(signal, name) for name in ENDING if hasattr(signal, name)]
    if threading.current_thread() is not threading.main_thread():
        numbers = []
    before = {number: signal.getsignal(number) for number in numbers}
    before = {number: handler for number, handler in before.items() if handler != signal.SIG_IGN}
    try:
        for number in before:
            signal.signal(number, _stop)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _stop(number: int, frame: object) -> None:
    raise Stopped(number)


def _ignore_signals() -> None:
    """Let the last words be said: a launcher passes on the signal that a scheduler sent to all."""
    if threading.current_thread() is threading.main_thread():
        for name in ENDING:
            if hasattr(signal, name):
                signal.signal(getattr(signal, name), signal.SIG_IGN)


def _told(error: OSError, goes_on: str) -> str:
    """Return one line about a disk that is full, a folder that is gone, a right that is missing."""
    place = f"{error.filename}: " if error.filename else ""
    text = printable(f"{place}{error.strerror or error}")
    return text + (f". Make room{goes_on}" if error.errno in FULL else "")


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse, taking overrides from anywhere on the line, also behind an option."""
    parser = _parser()
    given = list(sys.argv[1:] if argv is None else argv)
    args, rest = parser.parse_known_args(with_numbers_joined(given))
    args.words = given
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
    for command in COMMANDS:
        command.add(commands)
    return parser


def _process() -> str:
    """Return which of several processes this is, nothing for the first or for one alone."""
    names = ("RANK", "SLURM_PROCID", "LOCAL_RANK")
    number = next((os.environ[name] for name in names if name in os.environ), "0")
    return "" if number == "0" else f"process {number}: "


def _import(module: str) -> None:
    """Import a module or a Python file that the person at the keyboard names."""
    path = Path(module)
    folder = path.parent if path.suffix == ".py" else Path.cwd()
    sys.path.insert(0, str(folder.resolve()))
    try:
        importlib.import_module(path.stem if path.suffix == ".py" else module)
    except ModuleNotFoundError as error:
        raise RecipeError(f"--import {module}: {error}") from None
