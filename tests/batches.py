"""Batches of noise with labels, in the form in which datamodules hand them out."""

import torch

from faceaffect.data.batch import FaceBatch
from faceaffect.schema import LabelSchema

FULL = LabelSchema((1, 4, 12), ("neutral", "happiness", "anger"), True)


def face_batch(
    schema: LabelSchema = FULL, n: int = 6, size: int = 64, *, clips: int = 0, known: bool = True
) -> FaceBatch:
    """Return n images, or clips of that many frames with a masked tail, labels known or not."""
    g = torch.Generator().manual_seed(n + size)
    names = [f"face/{i}" for i in range(n)]
    batch = FaceBatch(id=names, subject=[f"person {i // 2}" for i in range(n)])
    if clips:
        shape = (n, clips, 3, size, size)
        batch["video"] = torch.randint(0, 256, shape, dtype=torch.uint8, generator=g)
        batch["frame_mask"] = torch.arange(clips) < torch.randint(1, clips + 1, (n, 1), generator=g)
    else:
        batch["image"] = torch.randint(0, 256, (n, 3, size, size), dtype=torch.uint8, generator=g)
    if schema.aus:
        batch["au"] = torch.randint(0, 2, (n, len(schema.aus)), generator=g).float()
    if schema.expressions:
        batch["expression"] = torch.arange(n) % len(schema.expressions)
    if schema.valence_arousal:
        batch["va"] = torch.rand(n, 2, generator=g) * 2 - 1
    if schema.felt:
        batch["felt"] = torch.arange(n) % len(schema.felt)
    if schema.intensity:
        batch["intensity"] = torch.linspace(0, 3, n)[:, None]
    if not known:
        unknowns = {"au": torch.nan, "expression": -1, "va": torch.nan, "felt": -1,
                    "intensity": torch.nan}  # fmt: skip
        for key, unknown in unknowns.items():
            if key in batch:
                batch[key].fill_(unknown)
    return batch


def statistics(schema: LabelSchema = FULL) -> dict:
    """Return what a datamodule would say of a training part with these labels."""
    return {
        "n": 100,
        "au_rate": {name: 0.1 + 0.1 * i for i, name in enumerate(schema.au_names)},
        "expression_count": {name: 10 * (i + 1) for i, name in enumerate(schema.expressions)},
        "va_mean": [0.1, -0.2] if schema.valence_arousal else None,
        "felt_count": {name: 10 * (i + 1) for i, name in enumerate(schema.felt)},
        "intensity_mean": [1.5] if schema.intensity else None,
    }
