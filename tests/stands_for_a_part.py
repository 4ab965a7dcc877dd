"""Stands for a part of a command, with ``--import``: notes where it runs, and ends as it is told.

It writes beside itself: what it found in ``part-I.json``. With a file ``fail`` there, part 2 fails,
and others go on until they are ended.
"""

import json
import os
import sys
import time
from pathlib import Path

import torch
from threadpoolctl import threadpool_info

HERE = Path(__file__).parent
PART = sys.argv[sys.argv.index("--part") + 1]

print(f"words of part {PART}", flush=True)
print(f"errors of part {PART}", file=sys.stderr, flush=True)
found = {
    "words": sys.argv[1:],
    "cores": sorted(os.sched_getaffinity(0)),
    "threads": sorted(
        {torch.get_num_threads(), *(pool["num_threads"] for pool in threadpool_info())}
    ),
    "OMP_NUM_THREADS": os.environ["OMP_NUM_THREADS"],
    "CUDA_VISIBLE_DEVICES": os.environ.get("CUDA_VISIBLE_DEVICES"),
    "GIVEN": os.environ.get("GIVEN"),
    "program": sys.modules["__main__"].__spec__.name,
    "terminal": sys.stdout.isatty(),
}
(HERE / f"part-{PART}.json").write_text(json.dumps(found), encoding="utf-8")
if (HERE / "fail").exists():
    if PART == "2":
        raise SystemExit(3)
    time.sleep(60)
raise SystemExit(0)
