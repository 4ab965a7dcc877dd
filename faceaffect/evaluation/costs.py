"""What the models of a comparison cost, all measured in the same way on one device."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from faceaffect import registry
from faceaffect.evaluation import agreement
from faceaffect.evaluation.entrants import Entrant
from faceaffect.progress import console
from faceaffect.runs import cost
from faceaffect.runs.result import read_result

_NO_TRAINING = dict.fromkeys(("training_seconds", "training_device", "checkpoint_bytes"))


def measure_all(
    entrants: Sequence[Entrant], runs: Mapping[str, Sequence[Path]]
) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Return the cost of each model, all measured on one device, and warnings."""
    wanted = [entrant for entrant in entrants if entrant.name in runs]
    device = _device(wanted)
    costs: dict[str, dict[str, Any]] = {}
    warnings = []
    for number, entrant in enumerate(wanted, 1):
        where = f"model {number} of {len(wanted)}, {entrant.name}"
        console.print(f"{where}: measuring its cost on {device}", markup=False)
        own = runs[entrant.name]
        checkpoint = own[0] / "checkpoints" / "best.ckpt"
        size = agreement.full_section(entrant.recipes[0]["data"])["image_size"]
        kind = registry.get("models", entrant.recipes[0]["model"]["name"])
        if not kind.has_cost:
            warnings.append(f"{entrant.name}: {kind.unknown_cost}")
            costs[entrant.name] = {**cost.EMPTY, **_NO_TRAINING}
            continue
        try:
            found = cost.measure_alone(checkpoint, size, device)
        except Exception as error:
            found = dict(cost.EMPTY)
            warnings.append(f"{entrant.name}: its cost could not be measured: {error!r}")
        trained = [read_result(run)["cost"] for run in own]
        costs[entrant.name] = found | {
            "training_seconds": mean_of_each({"": c.get("training_seconds")} for c in trained)[""],
            "training_device": trained[0].get("device"),
            "checkpoint_bytes": checkpoint.stat().st_size if checkpoint.is_file() else None,
        }
    devices = sorted({of["training_device"] for of in costs.values()} - {None})
    if len(devices) > 1:
        warnings.append(f"training times were taken on different devices: {'; '.join(devices)}")
    return costs, warnings


def _device(entrants: Sequence[Entrant]) -> str:
    """Return the device on which all are measured: a GPU unless a recipe keeps to the CPU."""
    on_cpu = any(recipe["trainer"].get("accelerator") == "cpu" for e in entrants
                 for recipe in e.recipes)  # fmt: skip
    return "cuda" if torch.cuda.is_available() and not on_cpu else "cpu"


def mean_of_each(values: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the mean of each key over some mappings, None where it is nowhere defined."""
    frame = pd.DataFrame(list(values), dtype=float)
    return {str(k): None if pd.isna(v) else float(v) for k, v in frame.mean().items()}
