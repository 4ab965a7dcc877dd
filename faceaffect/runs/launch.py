"""The trainings of a command over several machines: a Ray cluster, or an array of SLURM.

A command that needs N trainings is given N parts: the same words with ``--part I``, which train
number I and write nothing else. Then the command itself finds all of them done and writes its
result, so that it is that of one machine. All machines see the same folders.
"""

import logging
import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from faceaffect.errors import FaceAffectError, RecipeError, first_line, needs_extra
from faceaffect.files import write_atomically
from faceaffect.progress import console

_TOLD = 5  # last lines of a part that failed


def check_part(part: int, number: int) -> None:
    """Raise a RecipeError unless a part is one of 1 to ``number``."""
    if not 1 <= part <= number:
        raise RecipeError(f"--part: {part}, and there are parts 1 to {number}")


def on_ray(words: Sequence[str], parts: int) -> None:
    """Run the parts of a command on a Ray cluster, and return when all have ended.

    The cluster is that of ``RAY_ADDRESS``, else the one that runs on this machine; the address
    ``local`` starts one. A part has a GPU of its own where the cluster has any, else a core.

    Args:
        words: of the command, without the program's name.
        parts: how many.

    Raises:
        RecipeError: Ray is not installed or its cluster cannot be reached.
        FaceAffectError: a part failed, or its machine died; the others are stopped.
    """
    try:
        import ray
    except ImportError:
        raise RecipeError(needs_extra("--launcher ray", "ray", "ray")) from None
    begun = not ray.is_initialized()
    if begun:
        try:
            address = os.environ.get("RAY_ADDRESS", "auto")
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise RecipeError(
                f"--launcher ray: no cluster can be reached ({first_line(error)}); 'ray start "
                "--head' begins one, RAY_ADDRESS names another, RAY_ADDRESS=local starts one here"
            ) from None
    try:
        _on_cluster(ray, words, parts)
    finally:
        if begun:
            ray.shutdown()


def _on_cluster(ray: Any, words: Sequence[str], parts: int) -> None:
    needs = {"num_gpus": 1} if ray.cluster_resources().get("GPU") else {"num_cpus": 1}

    def run_part(words: list[str], folder: str) -> tuple[int, str]:
        """Run a part where Ray put it; return its exit code and its last lines."""
        done = subprocess.run(  # a function of its own: a worker need not import this package
            [sys.executable, "-m", "faceaffect.cli", *words],
            cwd=folder,
            text=True,
            encoding="utf-8",
            errors="replace",
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )
        return done.returncode, "\n".join(done.stdout.strip().splitlines()[-lines:])

    lines = _TOLD
    run = ray.remote(max_retries=0, **needs)(run_part)
    here = str(Path.cwd())
    waiting = {run.remote(_command(words, i), here): i for i in range(1, parts + 1)}
    console.print(f"{parts} parts on a Ray cluster")
    while waiting:
        (ended, *_), _ = ray.wait(list(waiting))
        number = waiting.pop(ended)
        try:
            code, said = ray.get(ended)
        except Exception as error:  # of a machine or a process that died, in Ray's many classes
            code, said = 1, f"its machine or process died: {first_line(error)}"
        if code:
            for other in waiting:
                ray.cancel(other, force=True)
            raise FaceAffectError(
                f"part {number} of {parts} failed, the others are stopped; the same command goes "
                f"on after what is done:\n{said}"
            )
        console.print(f"part {number} of {parts} is done, {len(waiting)} left")


def _command(words: Sequence[str], part: int | str) -> list[str]:
    return [*words, "--part", str(part)]


def for_slurm(words: Sequence[str], parts: int, folder: Path) -> Path:
    """Write the script of a SLURM array whose tasks are the parts of a command, and return it.

    A task that is told to end (at its time limit, or for another job) has two minutes to stop,
    is queued again, and goes on from its last checkpoint.

    Args:
        words: of the command, without the program's name.
        parts: how many.
        folder: for the script and what the tasks print.
    """
    logs = folder / "slurm"
    logs.mkdir(parents=True, exist_ok=True)
    script = logs / f"{words[0]}.sh"
    command = shlex.join([sys.executable, "-m", "faceaffect.cli", *words])
    write_atomically(script, _SCRIPT.format(
        name=f"faceaffect-{words[0]}", parts=parts, logs=logs.resolve(),
        folder=shlex.quote(str(Path.cwd())), command=command,
    ))  # fmt: skip
    console.print(f"{parts} parts in {script}; partition, time and GPUs are yours to add:")
    console.print(f"  sbatch --wait {shlex.quote(str(script))}")
    console.print("and then, for the result:")
    console.print(f"  {shlex.join(['faceaffect', *words])}")
    return script


_SCRIPT = """#!/bin/bash
#SBATCH --job-name={name}
#SBATCH --array=1-{parts}
#SBATCH --ntasks=1
#SBATCH --output={logs}/%A_%a.log
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=B:TERM@120
cd {folder} || exit 1
trap 'kill -TERM "$part"' TERM
{command} --part "$SLURM_ARRAY_TASK_ID" &
part=$!
wait "$part"
code=$?
if [ "$code" -gt 128 ] && kill -0 "$part" 2>/dev/null; then  # the signal ended the waiting
    wait "$part"
    code=$?
fi
if [ "$code" -eq 143 ] && command -v scontrol >/dev/null; then
    scontrol requeue "${{SLURM_ARRAY_JOB_ID}}_${{SLURM_ARRAY_TASK_ID}}"
fi
exit "$code"
"""
