"""Asks an endpoint a few questions, keeping the answers: ``python dies_in_asking.py URL FOLDER N``.

Run as a process of its own, which the test kills in between.
"""

import sys
from pathlib import Path

import numpy as np

from faceaffect.instructions.budget import Spent
from faceaffect.instructions.client import Client, work_off
from faceaffect.instructions.endpoint import Endpoint, Question


def ask(url: str, folder: Path, count: int, parallel: int = 2) -> Spent:
    """Ask ``count`` questions, each with a picture of its own; return what that took."""
    spent = Spent()

    async def one(client: Client, question: Question) -> None:
        await client.ask(question)

    pictures = [np.full((4, 4, 3), number, np.uint8) for number in range(count)]
    questions = [Question(f"What is number {n}?", (p,)) for n, p in enumerate(pictures)]
    work_off(Endpoint(url, "toy", cache=folder, parallel=parallel), spent, questions, one)
    return spent


if __name__ == "__main__":
    ask(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
