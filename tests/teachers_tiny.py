"""Teachers of the form of those that others publish, with random weights."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch


def write_teacher(folder: Path, seed: int = 0) -> Path:
    """Write weights in the form and with the names of the network, random ones of eight bits."""
    rng, parts, entries = np.random.default_rng(seed), [], []
    widths = (3, 32, 64, 128, 256)

    def add(name: str, shape: tuple[int, ...], *, coded: bool = True) -> None:
        entry: dict[str, Any] = {"name": name, "shape": list(shape), "dtype": "float32"}
        if coded:
            fan_in = max(1, int(np.prod(shape[:-1])))
            spread = (3 / fan_in) ** 0.5
            entry["quantization"] = {"dtype": "uint8", "scale": 2 * spread / 255, "min": -spread}
            parts.append(rng.integers(0, 256, shape, np.uint8).tobytes())
        else:
            parts.append(rng.normal(0, 0.1, shape).astype(np.float32).tobytes())
        entries.append(entry)

    for block in range(4):
        before, width = widths[block], widths[block + 1]
        for layer in range(4):
            name, wide = f"dense{block}/conv{layer}", before if layer == 0 else width
            if block == layer == 0:
                add(f"{name}/filters", (3, 3, 3, 32))
            else:
                add(f"{name}/depthwise_filter", (3, 3, wide, 1))
                add(f"{name}/pointwise_filter", (1, 1, wide, width))
            add(f"{name}/bias", (width,), coded=False)
    add("fc/weights", (256, 7))
    add("fc/bias", (7,), coded=False)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "face_expression_model.bin").write_bytes(b"".join(parts))
    manifest = folder / "face_expression_model-weights_manifest.json"
    manifest.write_text(json.dumps([{"weights": entries}]))
    return folder


class MiddleMesh:
    """A face mesh that sees every face in the middle of the picture."""

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        """Return (B, 68, 2) pixels."""
        spread = torch.linspace(-0.3, 0.3, 68)
        place = torch.stack([spread, spread.square()], 1) + 0.5
        return (place * image.shape[-1]).expand(len(image), -1, -1).to(image.device)
