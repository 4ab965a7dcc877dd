"""Processes that read or draw faces beside the one that computes."""

import os

import cv2
from threadpoolctl import threadpool_limits


def cores() -> int:
    """Return how many processors this process may use."""
    found = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return found or 1


def one_thread(worker: int = 0) -> None:
    """Keep a process to one thread; there is a process for each core already.

    Threads of small matrix products would only wait.

    Args:
        worker: number of the process, which data loaders give.
    """
    cv2.setNumThreads(0)
    threadpool_limits(1)
