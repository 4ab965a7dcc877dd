"""What facial priors are worth to a trained EMO-LLaMA: as they are, of other faces, and none.

On the test part of the run's own data, by option scores, at the run's precision. Shuffled priors
are those of all test frames in a random order (one seed), so a face gets those of another, on the
whole test part hardly ever of the same person. Without priors every face counts as one where no
face was found.

    python benchmarks/emo_priors.py runs/mini_emo_llama/20260101-120000
    python benchmarks/emo_priors.py RUN --limit 64 data.batch_size=16
"""

import argparse
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from faceaffect.data.base import FaceDataModule
from faceaffect.data.batch import FaceBatch
from faceaffect.evaluation.ask import find_device
from faceaffect.models.emo_llama import EmoLlama, FacePrior
from faceaffect.models.emo_llama.frozen import Faces
from faceaffect.models.loading import read_checkpoint
from faceaffect.runs.train import reopen
from faceaffect.scores.metrics import TaskMetrics

COLUMNS = {
    "au_f1": "AU F1", "expression_war": "WAR", "expression_uar": "UAR", "va_ccc": "VA CCC",
}  # fmt: skip
Change = Callable[[FacePrior], FacePrior]


def keep(pool: list[FacePrior]) -> Change:
    """Leave priors as they are and collect them."""

    def change(prior: FacePrior) -> FacePrior:
        pool.append(mapped(prior, lambda value: value.cpu()))
        return prior

    return change


def shuffled(pool: list[FacePrior], seed: int) -> Change:
    """Give each frame in turn the priors of another one of the pool."""
    count = sum(len(prior.ok) for prior in pool)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    whole = joined(pool)
    start = 0

    def change(prior: FacePrior) -> FacePrior:
        nonlocal start
        mine = order[start : start + len(prior.ok)]
        start += len(prior.ok)
        return mapped(whole.take(mine), lambda value: value.to(prior.ok.device))

    return change


def without(prior: FacePrior) -> FacePrior:
    """Say that no face was found."""
    return replace(prior, ok=torch.zeros_like(prior.ok))


def mapped(prior: FacePrior, move: Callable[[Tensor], Tensor]) -> FacePrior:
    groups = {name: move(value) for name, value in prior.groups.items()}
    return FacePrior(
        move(prior.map), move(prior.tokens), move(prior.landmarks), groups, move(prior.ok)
    )


def joined(pool: list[FacePrior]) -> FacePrior:
    groups = {name: torch.cat([p.groups[name] for p in pool]) for name in pool[0].groups}
    parts = [[p.map for p in pool], [p.tokens for p in pool], [p.landmarks for p in pool]]
    return FacePrior(*(torch.cat(part) for part in parts), groups, torch.cat([p.ok for p in pool]))


def batches(data: FaceDataModule, limit: int | None, device: torch.device) -> Iterator[FaceBatch]:
    seen = 0
    for batch in data.test_dataloader():
        if limit is not None and seen >= limit:
            return
        seen += len(batch["id"])
        moved = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in batch.items()}
        yield moved  # type: ignore[misc]


@torch.no_grad()
def measure(
    model: EmoLlama, data: FaceDataModule, change: Change, limit: int | None, half: bool
) -> dict[str, float]:
    metrics = TaskMetrics(model.schema)

    def put(module: Any, given: Any, faces: Faces) -> Faces:
        assert faces.prior is not None
        return replace(faces, prior=change(faces.prior))

    hook = model.faces.register_forward_hook(put)
    for batch in batches(data, limit, model.device):
        with torch.autocast(model.device.type, torch.bfloat16, enabled=half):
            batch, prediction = model.answer(batch)
        metrics.update(prediction, batch)
    hook.remove()
    return {name: float(value) for name, value in metrics.compute().items()}


def main() -> None:
    options = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    options.add_argument("source", metavar="RUN_OR_CKPT")
    options.add_argument("overrides", nargs="*", metavar="data.key=value")
    options.add_argument("--limit", type=int, help="stop after about so many samples")
    options.add_argument("--seed", type=int, default=0, help="of the shuffled order")
    options.add_argument("--device", default="auto")
    args = options.parse_args()
    model, data = reopen(args.source, args.overrides)
    if not isinstance(model, EmoLlama) or model.faces.prior is None:
        raise SystemExit(f"{args.source}: no EMO-LLaMA with facial priors")
    model.answer_mode = "score"
    model.to(find_device(args.device)).eval()
    data.prepare_data()
    trained = read_checkpoint(args.source)["faceaffect"]["recipe"]["sections"]["trainer"]
    half = "bf16" in str(trained.get("precision"))
    pool: list[FacePrior] = []
    columns = {name: title for name, title in COLUMNS.items() if has(model, name)}
    print(f"| priors | {' | '.join(columns.values())} |\n|---{'|---' * len(columns)}|")
    for title, make in (
        ("as they are", lambda: keep(pool)),
        ("of other faces", lambda: shuffled(pool, args.seed)),
        ("none", lambda: without),
    ):
        found = measure(model, data, make(), args.limit, half)
        cells = " | ".join(f"{found[name]:.3f}" for name in columns)
        print(f"| {title} | {cells} |", flush=True)
    print(f"\n{sum(len(prior.ok) for prior in pool)} frames of the test part, seed {args.seed}")


def has(model: EmoLlama, metric: str) -> bool:
    return metric.split("_")[0] in model.schema.tasks


if __name__ == "__main__":
    main()
