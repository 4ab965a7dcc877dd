"""What sizes cost: processor seconds, peak memory and slope for 10^4, 10^5, 10^6 rows.

    python benchmarks/scale.py [--rows 10000 100000] [--folder DIR] [--workers 0]
    python benchmarks/scale.py --rows      # the loader alone

For each number of rows a table of small JPEGs of 5,000 people is made (and kept, if ``--folder``
says where; a million take 4 GB), and each command runs in a process of its own: ``check`` as it is
the first time and again, when the fingerprints of the files are kept; ``train`` for one step;
statistics of two models, with people and with a person to each picture. Then the loader reads an
epoch from files and from shards, against bare decoding of the same files, and says how its memory
grew. Limits at a million rows: ``check`` 60 s and 3 GB, start of training 90 s; the loader 1.2.
"""

import argparse
import math
import os
import struct
import sys
import tempfile
import time
from multiprocessing import active_children
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd

RECIPE = """
model: {name: timm_classifier, backbone: test_vit}
data: {name: csv, image_size: 32, batch_size: 64, num_workers: 0}
trainer: {max_epochs: 1, limit_train_batches: 1, limit_val_batches: 1, limit_test_batches: 1,
          accelerator: cpu}
"""
LABELS = ("neutral", "happiness", "sadness", "anger", "fear", "surprise", "disgust")


def generate(folder: Path, rows: int) -> Path:
    """Write small JPEGs, each with a comment of its own, and their table; return it."""
    table = folder / f"faces-{rows}.csv"
    if table.exists():
        return table
    rng = np.random.default_rng(0)
    bases = [
        cv2.imencode(".jpg", cv2.resize(rng.integers(0, 256, (4, 4, 3), np.uint8), (32, 32)))[1]
        for _ in range(64)
    ]
    filling, lines = rng.bytes(1500), []
    for i in range(rows):
        name = f"{rows}/{i // 1000:04d}/{i % 1000:03d}.jpg"
        if i % 1000 == 0:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
        comment = struct.pack(">I", i) + filling[: i * 7919 % 1500]
        base = bases[i % 64].tobytes()
        head = base[:2] + b"\xff\xfe" + struct.pack(">H", len(comment) + 2) + comment
        (folder / name).write_bytes(head + base[2:])
        au = ",".join("1" if draw < 0.3 else "0" for draw in rng.random(5))
        va = f"{rng.uniform(-1, 1):.3f},{rng.uniform(-1, 1):.3f}"
        lines.append(f"{name},s{i * 2654435761 % 5000},{au},{LABELS[i % 7]},{va}")
    head_line = "image,subject,AU1,AU2,AU4,AU6,AU12,expression,valence,arousal"
    table.write_text("\n".join([head_line, *lines]) + "\n")
    return table


def alone(words: list[str], folder: Path) -> tuple[float, float, float]:
    """Return processor seconds, seconds and peak GB of a program that runs by itself."""
    start, log = time.perf_counter(), folder / "log"
    environment = os.environ | {"FACEAFFECT_CACHE": str(folder / "cache")}
    with log.open("w") as file:
        child = os.posix_spawn(
            sys.executable, [sys.executable, *words], environment,
            file_actions=[(os.POSIX_SPAWN_DUP2, file.fileno(), fd) for fd in (1, 2)],
        )  # fmt: skip
        _, code, used = os.wait4(child, 0)
    if code:
        raise SystemExit(f"{' '.join(words)} failed:\n{log.read_text()[-2000:]}")
    return used.ru_utime + used.ru_stime, time.perf_counter() - start, used.ru_maxrss / 2**20


def commands(table: Path, folder: Path) -> dict[str, list[str]]:
    recipe = folder / "scale.yaml"
    recipe.write_text(RECIPE)
    say = ["-m", "faceaffect.cli"]
    rest = [str(recipe), f"data.table={table}"]
    rows = table.stem.split("-")[1]
    return {
        "nothing but imports": [__file__, "--imports"],
        "check, first": [*say, "check", *rest],
        "check, again": [*say, "check", *rest],
        "train, one step": [*say, "train", *rest, f"output={folder / 'runs'}"],
        "statistics, 5,000 people": [__file__, "--statistics", rows, "5000"],
        "statistics, no people": [__file__, "--statistics", rows, rows],
    }


def statistics(rows: int, people: int) -> None:
    """Compare two models that guess."""
    from faceaffect.evaluation.statistics import analyse
    from faceaffect.schema import LabelSchema

    rng = np.random.default_rng(0)
    schema = LabelSchema((1, 2, 4, 6, 12), LABELS, valence_arousal=True)
    id_ = [f"{i:07d}" for i in range(rows)]
    subject = [f"s{i % people}" for i in range(rows)]
    common: dict[str, Any] = {"id": id_, "subject": subject}
    common["target/expression"] = np.array(LABELS, object)[rng.integers(7, size=rows)]
    common |= {f"target/{n}": rng.integers(2, size=rows) for n in schema.au_names}
    common |= {f"target/{n}": rng.uniform(-1, 1, rows) for n in ("valence", "arousal")}
    tables = {}
    for name in ("one", "other"):
        said = {f"prob/{n}": rng.random(rows) for n in (*schema.au_names, *LABELS)}
        said |= {f"pred/{n}": rng.uniform(-1, 1, rows) for n in ("valence", "arousal")}
        tables[name] = [pd.DataFrame(common | said)]
    analyse(tables, schema)


def loaders(folder: Path, workers: int) -> None:
    """Print processor milliseconds an image of bare decoding, files and shards, and memory."""
    from loader import bare, generate

    from faceaffect.data.base import create_data
    from faceaffect.data.sharding import write_shards

    (folder / "larger").mkdir(exist_ok=True)
    table = generate(folder / "larger", 3000, 128)
    common = {"protocol": "all", "image_size": 112, "batch_size": 64, "num_workers": workers}
    data = create_data("csv", table=str(table), **common)
    place = folder / "shards"
    if not place.exists():
        write_shards(data.dataset, place, max_pixels=data.max_pixels)
    sharded = create_data("shards", root=str(place), **common)
    paths = [str(path) for path in data.dataset.paths()]
    runs = {
        "bare decoding": lambda: bare(paths, 112),
        "loader, files": lambda: sum(len(b["id"]) for b in data.test_dataloader()),
        "loader, shards": lambda: sum(len(b["id"]) for b in sharded.test_dataloader()),
    }
    best = dict.fromkeys(runs, math.inf)
    for run in range(3):
        for name, work in runs.items():
            start = time.process_time()
            work()
            best[name] = min(best[name], time.process_time() - start)
            print(f"  pass {run + 1} {name}: {memory():,.0f} MB")
    for name, seconds in best.items():
        ratio = seconds / best["bare decoding"]
        print(f"| {name} | {seconds / len(paths) * 1e3:.3f} ms an image | {ratio:.2f} |")


def memory() -> float:
    """Return MB of this process and of those that read for it, what they share counted once."""
    found = 0
    for process in (os.getpid(), *(child.pid for child in active_children())):
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
        found += next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return found / 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="*", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--folder", type=Path, help="where files are made and kept")
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--imports", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--statistics", type=int, nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.imports:
        import faceaffect.runs.check  # noqa: F401

        return
    if args.statistics:
        statistics(*args.statistics)
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        before: dict[str, tuple[int, float]] = {}
        print("| rows | what | processor s | s | peak GB | slope |")
        print("| --- | --- | --- | --- | --- | --- |", flush=True)
        for rows in args.rows:
            table = generate(folder, rows)
            for name, words in commands(table, folder).items():
                used, wall, peak = alone(words, folder)
                slope = ""
                if name in before:
                    less, seconds = before[name]
                    slope = f"{math.log(used / seconds) / math.log(rows / less):.2f}"
                before[name] = rows, used
                print(
                    f"| {rows:,} | {name} | {used:.1f} | {wall:.1f} | {peak:.2f} | {slope} |",
                    flush=True,
                )
        loaders(folder, args.workers)


if __name__ == "__main__":
    main()
