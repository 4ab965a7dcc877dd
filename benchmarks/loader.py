"""Throughput of the data loader against a bare loop that decodes and resizes the same files.

    python benchmarks/loader.py [--faces DIR] [--workers 0 1 2] [--size 112]

The bare loop runs in as many processes as the loader has workers (in this one for 0) and throws its
images away; the loader also draws, collates and hands over whole batches with their labels. Passes
alternate, and the best of each is taken, so that a busy machine disturbs the ratio little. Without
``--faces`` (a folder in the layout of facial_expressions) JPEGs are generated. Aim: within 1.5.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from faceaffect.data.base import FaceDataModule, create_data
from faceaffect.data.loader import FaceLoader


def generate(folder: Path, n: int, side: int) -> Path:
    """Write n smooth random JPEGs and a table of them; return the table."""
    rng = np.random.default_rng(0)
    rows = []
    for i in range(n):
        coarse = rng.integers(0, 256, (12, 12, 3), dtype=np.uint8)
        cv2.imwrite(str(folder / f"{i}.jpg"), cv2.resize(coarse, (side, side)))
        rows.append({"image": f"{i}.jpg", "subject": i % 50, "AU1": i % 2, "AU12": i % 3 // 2})
    pd.DataFrame(rows).to_csv(folder / "faces.csv", index=False)
    return folder / "faces.csv"


def bare(paths: list[str], size: int) -> int:
    """Decode and resize files, nothing else."""
    cv2.setNumThreads(0)
    for path in paths:
        image = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR_RGB)
        assert image is not None, path
        how = cv2.INTER_AREA if min(image.shape[:2]) >= size else cv2.INTER_LINEAR
        cv2.resize(image, (size, size), interpolation=how)
    return len(paths)


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def compare(data: FaceDataModule, workers: int, passes: int) -> tuple[float, float]:
    """Return images a second of the bare loop and of the loader, each the best of some passes."""
    data.num_workers = workers
    loader: FaceLoader = data.test_dataloader()
    paths = [str(data.dataset.path(index)) for index in data.split.test.tolist()]
    shares = [paths[i :: max(workers, 1)] for i in range(max(workers, 1))]
    times: dict[str, list[float]] = {"bare": [], "loader": []}
    with ProcessPoolExecutor(max(workers, 1), mp_context=get_context("fork")) as pool:

        def bare_pass() -> object:
            if workers == 0:
                return bare(paths, data.image_size)
            return list(pool.map(bare, shares, [data.image_size] * workers))

        def loader_pass() -> int:
            return sum(len(batch["id"]) for batch in loader)

        bare_pass(), loader_pass()  # start the processes, fill the file cache
        for _ in range(passes):
            times["bare"].append(seconds(bare_pass))
            times["loader"].append(seconds(loader_pass))
    return len(paths) / min(times["bare"]), len(paths) / min(times["loader"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--faces", type=Path, help="a folder in the layout of facial_expressions")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--size", type=int, default=112, help="side of the images handed out")
    parser.add_argument("--source", type=int, default=128, help="side of generated JPEGs")
    parser.add_argument("--n", type=int, default=3000, help="number of generated JPEGs")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--passes", type=int, default=5)
    args = parser.parse_args()
    common = {"protocol": "all", "image_size": args.size, "batch_size": args.batch}
    with tempfile.TemporaryDirectory() as folder:
        if args.faces:
            data = create_data("facial_expressions", root=str(args.faces), **common)
        else:
            table = generate(Path(folder), args.n, args.source)
            data = create_data("csv", table=str(table), **common)
        print(f"{len(data.dataset)} images at {args.size} px, batches of {args.batch}")
        print("workers   bare loop      loader   ratio")
        for workers in args.workers:
            one, other = compare(data, workers, args.passes)
            print(f"{workers:7}  {one:8,.0f}/s  {other:8,.0f}/s  {one / other:6.2f}")


if __name__ == "__main__":
    main()
