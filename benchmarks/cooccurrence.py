"""Whether the graphs of SACL find two AUs that always come together, from the AU labels alone.

Synthetic faces in which AU26 (jaw drop) is a copy of AU4 (brow lowerer), which by default keep
apart; an object covers the evidence of either in 40 % of the faces, drawn for each by itself. The
model is ``sacl`` on the frozen mini ViT. What is printed is the place of the pair's edge, both
directions added, among the 15 edges of the mean graph of each stage on other faces:

* start: before training, which is where a graph that is frozen at its start stays;
* frozen scoring: the graphs' own layers stay as they were, but the nodes they compare are trained;
* trained: all of it.

    python benchmarks/cooccurrence.py [--seeds 5]

It takes about a minute and a half for a seed on one core.
"""

import argparse

import numpy as np
import torch
from torch import Tensor

from faceaffect.data.batch import FaceBatch
from faceaffect.data.synthetic import SyntheticFaces
from faceaffect.models.sacl import SACL, SACLOutput

AUS = (4, 6, 9, 12, 26, 43)
PAIR = (4, 26)
TRAIN, TEST, BATCH, EPOCHS, RATE = 2000, 600, 32, 10, 5e-3


class SACLOnMaps(SACL):
    """SACL whose frozen backbone has already looked: its maps stand in for the faces."""

    def look(self, image: Tensor) -> SACLOutput:
        """Return what SACL makes of maps (B, stages, C, H, W)."""
        return self.network(image.unbind(1))


def make(data: SyntheticFaces) -> SACLOnMaps:
    return SACLOnMaps(
        data.schema,
        backbone={"name": "asset:mini_vit", "frozen": True},
        width=16,
        key_width=16,
        rank=4,
        evidence_dropout=0.3,
    )


def faces(seed: int) -> SyntheticFaces:
    return SyntheticFaces(
        n=TRAIN + TEST,
        subjects=(TRAIN + TEST) // 10,
        seed=100 + seed,
        aus=AUS,
        expressions=(),
        valence_arousal=False,
        rates=dict.fromkeys(AUS, 0.4),
        cooccurrence=[[*PAIR, 1.0]],
        occlusion=0.0,
        hide=dict.fromkeys(PAIR, 0.4),
    )


@torch.no_grad()
def look(model: SACLOnMaps, data: SyntheticFaces) -> Tensor:
    """Return the pyramids of all faces, (N, stages, C, H, W)."""
    maps = []
    for part in torch.arange(len(data.samples.au)).split(64):
        image = np.stack([data.load(int(i)).image for i in part])
        image = torch.from_numpy(image).permute(0, 3, 1, 2)
        maps.append(torch.stack(model.backbone.pyramid(model.backbone.normalise(image)), 1))
    return torch.cat(maps)


@torch.no_grad()
def places(model: SACLOnMaps, maps: Tensor) -> list[int]:
    """Return the place of the pair's edge in the mean graph of each stage; 1 is the strongest."""
    graphs = [model.eval().look(part).graphs for part in maps.split(100)]
    mean = torch.cat(graphs).mean(0)
    both = mean + mean.mT
    row, column = torch.triu_indices(len(AUS), len(AUS), 1)
    a, b = (AUS.index(au) for au in PAIR)
    return (1 + (both[:, row, column] > both[:, a, b, None]).sum(1)).tolist()


def train(model: SACLOnMaps, maps: Tensor, au: Tensor) -> None:
    """Train with the model's own loss; nothing in it tells which edge is right."""
    rates = dict(zip(model.nodes, au.mean(0).tolist(), strict=True))
    model.prepare({"n": len(au), "au_rate": rates})
    weights = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(weights, RATE, weight_decay=0.05)
    steps = EPOCHS * (len(au) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, RATE, total_steps=steps, pct_start=0.1
    )
    for _ in range(EPOCHS):
        model.train()
        for part in torch.randperm(len(au))[: len(au) // BATCH * BATCH].view(-1, BATCH):
            loss = model.loss(FaceBatch(image=maps[part], au=au[part]))
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(weights, 1.0)
            optimizer.step()
            schedule.step()


def experiment(seed: int, *, frozen_too: bool = True) -> dict[str, list[int]]:
    """Return the places of the pair's edge: at the start, with frozen scoring, and trained."""
    data = faces(seed)
    au = torch.from_numpy(data.samples.au)
    found: dict[str, list[int]] = {}
    maps: Tensor | None = None
    for kind in ("frozen scoring", "trained") if frozen_too else ("trained",):
        torch.manual_seed(seed)
        model = make(data)
        maps = look(model, data) if maps is None else maps
        found["start"] = places(model, maps[TRAIN:])
        if kind == "frozen scoring":
            model.network.graphs.requires_grad_(False)
        train(model, maps[:TRAIN], au[:TRAIN])
        found[kind] = places(model, maps[TRAIN:])
    return found


def main() -> None:
    options = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    options.add_argument("--seeds", type=int, default=5)
    args = options.parse_args()
    torch.set_num_threads(1)
    for seed in range(args.seeds):
        print(f"seed {seed}:", experiment(seed), flush=True)


if __name__ == "__main__":
    main()
