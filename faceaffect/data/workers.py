"""Processes that read or draw faces beside the one that computes."""

import atexit
import multiprocessing
import multiprocessing.util  # what it does at the end of a process is registered before ours
import os
import signal
import sys
from types import TracebackType

import cv2
from threadpoolctl import threadpool_limits


def processors() -> list[int]:
    """Return the numbers of the processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def cores() -> int:
    """Return how many processors this process may use."""
    return len(processors())


def one_thread() -> None:
    """Keep a process to one thread; there is a process for each core already.

    Threads of small matrix products would only wait.
    """
    limit_threads(1)
    _outlive_the_step()


def limit_threads(number: int) -> None:
    """Keep this process to so many threads, whatever its packages found when they were imported."""
    cv2.setNumThreads(number if number > 1 else 0)
    threadpool_limits(number)


def reading(worker: int) -> None:
    """Begin a process of a data loader.

    It leaves Ctrl-C, which a terminal sends to all, to the process that trains: that ends it.

    Args:
        worker: its number, which data loaders give.
    """
    one_thread()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.excepthook = _unless_left


def _unless_left(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """Show an error, but for that of handing a batch to a process which ended meanwhile."""
    if not issubclass(kind, (ConnectionError, EOFError)):
        sys.__excepthook__(kind, error, trace)


def _outlive_the_step() -> None:
    """Leave signals to the process that trains, which ends its step first; it ends this one then.

    Schedulers signal all processes of a job at once. Where it does not end them, they end by
    themselves half a minute later.
    """
    if hasattr(signal, "alarm"):
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, lambda *_: signal.alarm(30))


@atexit.register
def end_readers() -> None:
    """End what reads for a process that ends; multiprocessing would ask politely, and wait.

    A process that multiprocessing started has to call it: not every version of Python runs there
    what is registered for the end.
    """
    for child in multiprocessing.active_children():
        if child.daemon:
            child.kill()
