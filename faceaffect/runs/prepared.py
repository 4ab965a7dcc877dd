"""Processes that begin with the packages imported already.

Importing them takes most of the time in which a process starts. Where the system can fork, a
server imports them once and is forked for each process: they are as clean as those from scratch,
for the server computes nothing. Elsewhere each imports for itself.
"""

import signal
import threading
from multiprocessing import get_all_start_methods, get_context
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from multiprocessing.context import ForkServerContext, SpawnContext

PACKAGES = "faceaffect.runs.cost"
"""The module that the server imports. What is measured there is that of a process which has
imported this and no more, so nothing is added that only trainings need."""


def begin() -> None:
    """Begin to import beside what comes next, in a process of its own.

    Its environment is that of now. A server that runs already is left as it is.
    """
    if "forkserver" not in get_all_start_methods():
        return
    from multiprocessing import forkserver

    get_context("forkserver").set_forkserver_preload([PACKAGES])
    main = threading.current_thread() is threading.main_thread()
    # Ctrl-C is sent to all of a terminal; in the midst of its imports the server would lament.
    before = signal.signal(signal.SIGINT, signal.SIG_IGN) if main else None
    try:
        forkserver.ensure_running()
    finally:
        if main:
            signal.signal(signal.SIGINT, before)


def context() -> "ForkServerContext | SpawnContext":
    """Return how processes start; each of them has to call :func:`interruptible` first."""
    if "forkserver" not in get_all_start_methods():
        return get_context("spawn")
    begin()
    return get_context("forkserver")


def interruptible() -> None:
    """Let Ctrl-C end this process, which the server ignores."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
