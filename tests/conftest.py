"""Fixtures that several test files share."""

import gc
import hashlib
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from faceaffect.registry import TABLES
from servers import Reply, serving


def pytest_configure() -> None:
    """Of several processes (``-n``) let each use one core."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        os.environ.setdefault("OMP_NUM_THREADS", "1")
    gc.disable()  # what is imported stays: looking for garbage meanwhile takes a third of the time


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int | None:
    """With ``-n auto`` have one process more than cores: some tests wait for what they started."""
    if "PYTEST_XDIST_AUTO_NUM_WORKERS" in os.environ:
        return None  # xdist takes it
    own = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return (own or 1) + 1


def pytest_collection_finish() -> None:
    gc.collect()
    gc.freeze()  # nor is it looked through again and again while the tests run
    gc.set_threshold(20_000)  # nor all that a test makes, as often as by default
    gc.enable()


@pytest.fixture(autouse=True)
def as_found() -> Iterator[None]:
    """Leave the registry as a test found it; Ctrl-C arrives as it does at a keyboard.

    A shell's background jobs ignore Ctrl-C, and so does a command whose last words it called for.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # which nohup ignores
    before = {name: dict(table) for name, table in TABLES.items()}
    yield
    for name, table in before.items():
        TABLES[name].clear()
        TABLES[name].update(table)


@pytest.fixture(scope="session", autouse=True)
def timed_once() -> Iterator[None]:
    """Take the time of one prediction, where a result says how fast a model is, not of seconds.

    Its arithmetic is counted once for all models of the same settings.
    """
    cost = sys.modules.get("faceaffect.runs.cost")
    if cost is None:  # no file of tests has imported it, and doing so here takes seconds
        yield
        return

    def once(model: Any, size: int, image_size: int, budget: float = 0.0) -> float:
        batch = cost.random_batch(size, image_size, model.device)
        start = time.perf_counter()
        model.answer(batch)
        return time.perf_counter() - start

    count, known = cost.flops_per_image, {}

    def counted(model: Any, image_size: int) -> int | None:
        shapes = [(name, value.shape) for name, value in model.state_dict().items()]
        key = repr((type(model), dict(model.hparams), shapes, image_size))
        if key not in known:
            known[key] = count(model, image_size)
        return known[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cost, "seconds_per_batch", once)
        patch.setattr(cost, "flops_per_image", counted)
        yield


@pytest.fixture(scope="session", autouse=True)
def searched_once() -> Iterator[None]:
    """Search the same pictures for faces once: most tests train on the same drawn ones."""
    mtcnn = sys.modules.get("faceaffect.data.faces.mtcnn")
    if mtcnn is None:  # as for the time
        yield
        return
    search, known = mtcnn.Mtcnn._search, {}

    def remembering(self: Any, images: Any) -> Any:
        self._nets = self._nets or mtcnn._load(self.device)  # which may fail
        digest = hashlib.sha256(repr((self.min_face, self.min_score, self.device)).encode())
        for image in images:
            digest.update(repr((image.shape, image.dtype)).encode() + image.tobytes())
        key = digest.digest()
        if key not in known:
            known[key] = search(self, images)
        return [list(faces) for faces in known[key]]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mtcnn.Mtcnn, "_search", remembering)
        yield


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the plots out of reports; drawing them takes longer than the rest."""
    monkeypatch.setattr("faceaffect.evaluation.report.plots", lambda _: [])


@pytest.fixture
def serve() -> Iterator[Callable[[Reply], str]]:
    """Return what starts a server of some behaviour; it ends with the test."""
    with serving() as start:
        yield start


@pytest.fixture(scope="session")
def words(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the folder of a tokenizer of template texts."""
    from emo_tiny import save_tokenizer  # here, since it loads transformers

    return save_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="session")
def data_block() -> Callable[[Path], str]:
    """Return what reads the text of the data section of a recipe."""

    def text_of(path: Path) -> str:
        text = path.read_text()
        start = text.index("\ndata:\n") + 1
        lines = text[start:].splitlines()
        end = next(i for i, line in enumerate(lines[1:], 1) if not line.startswith(" "))
        return "\n".join(lines[:end])

    return text_of
