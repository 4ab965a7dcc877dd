"""The trainings of a command side by side: here, on a Ray cluster, or in an array of SLURM.

A command that needs N trainings is given N parts: the same words with ``--part I``, which train
number I and write nothing else. Then the command itself finds all of them done and writes its
result, so that it is that of one machine. All machines see the same folders.
"""

import logging
import os
import runpy
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from faceaffect.data.base import create_data
from faceaffect.data.workers import end_readers, limit_threads, processors
from faceaffect.errors import FaceAffectError, RecipeError, first_line, needs_extra
from faceaffect.files import write_atomically
from faceaffect.progress import console, look_again
from faceaffect.recipe import Recipe
from faceaffect.runs import prepared

_TOLD = 5  # last lines of a part that failed


def check_part(part: int, number: int) -> None:
    """Raise a RecipeError unless a part is one of 1 to ``number``."""
    if not 1 <= part <= number:
        raise RecipeError(f"--part: {part}, and there are parts 1 to {number}")


def spread(
    launcher: str, words: Sequence[str], recipes: Sequence[Recipe], at_once: int | None = None
) -> bool:
    """Run the parts of a command by a launcher; false if what comes next is for the person to do.

    Args:
        launcher: ``local``, ``ray`` or ``slurm``.
        words: of the command, without the program's name.
        recipes: of the parts, in their order.
        at_once: of ``local``: so many at a time.

    Raises:
        FaceAffectError: as the launchers.
    """
    if at_once is not None and launcher != "local":
        raise RecipeError(f"--at-once: for --launcher local; {launcher} has its own queue")
    if not recipes:
        return True
    if launcher == "slurm":
        for_slurm(words, len(recipes), Path(recipes[0]["output"]))
        return False
    if launcher == "ray":
        on_ray(words, len(recipes))
    elif launcher == "local":
        on_this_machine(words, recipes, at_once)
    return True


def on_this_machine(words: Sequence[str], recipes: Sequence[Recipe], at_once: int | None) -> None:
    """Run the parts of a command in processes of this machine, and return when all have ended.

    Two trainings side by side, with half of the cores each, end sooner than one after the other:
    small matrix products gain little from a second core. Each GPU is for one part at a time. What
    parts would all make anew (drawn faces, crops) is made before.

    Args:
        words: of the command, without the program's name.
        recipes: of the parts, in their order.
        at_once: so many run at a time; None for one to a GPU, else one to a core.

    Raises:
        RecipeError: ``at_once`` is not positive.
        FaceAffectError: a part failed; the others are stopped.
    """
    if at_once is not None and at_once < 1:
        raise RecipeError(f"--at-once: {at_once} is not positive")
    _prepare(recipes)
    free = list(_places(len(recipes), at_once))
    console.print(f"{len(recipes)} parts, {len(free)} at a time")
    waiting = [(i, _command(words, i)) for i in range(1, len(recipes) + 1)]
    running: list[_Part] = []
    with TemporaryDirectory() as said:
        try:
            while waiting or running:
                while waiting and free:
                    running.append(_Part(*waiting.pop(0), free.pop(0), Path(said)))
                time.sleep(0.2)
                ended = [part for part in running if part.process.exitcode is not None]
                for part in running:
                    part.pass_on()
                for part in ended:
                    running.remove(part)
                    free.append(part.place)
                    part.end()
                    if part.process.exitcode:
                        raise FaceAffectError(
                            f"part {part.number} of {len(recipes)} failed, the others are stopped; "
                            "the same command goes on after what is done"
                        )
                    left = len(waiting) + len(running)
                    console.print(f"part {part.number} of {len(recipes)} is done, {left} left")
        finally:
            for part in running:
                part.process.terminate()
            for part in running:
                part.process.join()
                part.end()


class _Part:
    """A part that runs in a process of its own, at its place: some cores, perhaps a GPU."""

    def __init__(
        self, number: int, words: list[str], place: tuple[list[int], str | None], folder: Path
    ) -> None:
        cores, gpu = self.place = place
        self.number, self._rest = number, b""
        environment = os.environ | {"OMP_NUM_THREADS": str(len(cores))}
        if gpu is not None:
            environment["CUDA_VISIBLE_DEVICES"] = gpu
        file = folder / str(number)
        file.touch()
        self._said = file.open("rb")
        self.process = prepared.context().Process(
            target=_run, args=(words, cores, environment, file), name=f"part {number}"
        )
        self.process.start()

    def pass_on(self) -> None:
        """Print the whole lines that it said since."""
        *lines, self._rest = (self._rest + self._said.read()).split(b"\n")
        for line in lines:
            text = line.decode("utf-8", "replace").rpartition("\r")[2]
            console.print(f"{self.number}: {text}", markup=False, highlight=False)

    def end(self) -> None:
        self.pass_on()
        self._said.close()


def _run(words: list[str], cores: list[int], environment: dict[str, str], said: Path) -> None:
    """Be ``python -m faceaffect.cli`` in a process that is there already.

    Args:
        words: of the command.
        cores: the processors to compute on.
        environment: all variables; what packages read of them on import is that of the launcher.
        said: the file for what it prints.
    """
    prepared.interruptible()
    os.environ.clear()
    os.environ.update(environment)
    with said.open("wb") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    look_again()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)
    limit_threads(len(cores))  # OMP_NUM_THREADS is for processes that this one starts
    sys.argv = ["faceaffect", *words]
    try:
        runpy.run_module("faceaffect.cli", run_name="__main__", alter_sys=True)
    finally:
        end_readers()


def _places(parts: int, at_once: int | None) -> Iterator[tuple[list[int], str | None]]:
    """Yield the cores and the GPU of each part that runs at the same time."""
    gpus, cores = _gpus(), processors()
    number = min(at_once or len(gpus) or len(cores), parts)
    for i in range(number):
        yield cores[i % len(cores) :: number], gpus[i % len(gpus)] if gpus else None


def _gpus() -> list[str]:
    import torch  # where --help is asked for, nothing heavy is imported

    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    number = torch.cuda.device_count()
    return named.split(",")[:number] if named else [str(i) for i in range(number)]


def _prepare(recipes: Sequence[Recipe]) -> None:
    """Draw faces and make crops, once for all recipes that share their data."""
    made: list[Any] = []
    for recipe in recipes:
        if recipe["data"] not in made:
            made.append(recipe["data"])
            create_data(run_seed=recipe["seed"], **recipe["data"]).prepare_data()


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
