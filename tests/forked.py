"""Commands in processes of their own, which do not take seconds to import the packages.

A server, which is this file run as a program, imports them once; each command is a fork of it: a
real process with its own signals, environment, output and exit code. What depends on how Python
starts, or is read of the environment on import, as which of several processes it is, needs a
process from scratch.
"""

import atexit
import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from importlib import import_module
from pathlib import Path
from typing import Any

PACKAGES = ("faceaffect.cli", "faceaffect.evaluation.compare", "faceaffect.evaluation.crossval",
            "faceaffect.models.timm_classifier", "faceaffect.runs.check",
            "faceaffect.runs.train", "faceaffect.runs.tune")  # fmt: skip


class Command:
    """``faceaffect`` with some words, running; used as :class:`subprocess.Popen` is.

    Args:
        argv: the words behind ``faceaffect``.
        session: whether it leads a process group of its own, as where a shell starts it.
    """

    def __init__(self, *argv: str, session: bool = False) -> None:
        self._folder = tempfile.mkdtemp()
        self.returncode: int | None = None
        self.pid: int = _asked(
            argv=argv, session=session, folder=self._folder, place=str(Path.cwd()),
            environment=dict(os.environ),
        )  # fmt: skip

    def poll(self) -> int | None:
        if self.returncode is None:
            self.returncode = _asked(pid=self.pid)
        return self.returncode

    def communicate(self, timeout: float = 300) -> tuple[str, str]:
        """Wait for the end and return what was written to both streams."""
        deadline = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > deadline:
                self.send_signal(signal.SIGKILL)
                raise TimeoutError(f"still running after {timeout} s")
            time.sleep(0.02)
        out, err = (Path(self._folder, name).read_text("utf-8") for name in ("out", "err"))
        shutil.rmtree(self._folder)
        return out, err

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)


@functools.cache
def _server() -> "subprocess.Popen[str]":
    server = subprocess.Popen(
        [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        encoding="utf-8", env={**os.environ, "PYTHONIOENCODING": "utf-8"},
    )  # fmt: skip
    atexit.register(server.communicate)  # which ends it
    return server


def _asked(**request: Any) -> Any:
    server = _server()
    assert server.stdin is not None
    assert server.stdout is not None
    server.stdin.write(json.dumps(request) + "\n")
    server.stdin.flush()
    return json.loads(server.stdout.readline())


def _serve() -> None:
    """Answer requests until there are no more; return in a process that is to run a command."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for name in PACKAGES:
        import_module(name)
    for line in sys.stdin:
        request = json.loads(line)
        if "pid" in request:
            pid, status = os.waitpid(request["pid"], os.WNOHANG)
            answer = os.waitstatus_to_exitcode(status) if pid else None
        else:
            answer = os.fork()
            if not answer:
                return _become(request)
        print(json.dumps(answer), flush=True)
    raise SystemExit


def _become(request: dict[str, Any]) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if request["session"]:
        os.setsid()
    os.chdir(request["place"])
    os.environ.clear()
    os.environ.update(request["environment"])
    paths = {0: os.devnull, 1: f"{request['folder']}/out", 2: f"{request['folder']}/err"}
    for number, path in paths.items():
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        os.dup2(file, number)
        os.close(file)
    sys.argv = ["faceaffect", *request["argv"]]


if __name__ == "__main__":
    _serve()
    sys.exit(import_module("faceaffect.cli").main())
