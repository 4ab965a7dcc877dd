"""Few-shot examples: faces of training people, with their answers, in front of every question."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from faceaffect.data.batch import as_clips, move_labels
from faceaffect.errors import CheckpointError, DataError
from faceaffect.instructions.items import Labels
from faceaffect.models.emo_llama.prompts import labels_of
from faceaffect.schema import LabelSchema


@dataclass(frozen=True)
class Shot:
    """One example.

    Attributes:
        id: of the sample.
        clip: its frames (T, 3, H, W) uint8.
        labels: what is known of it.
    """

    id: str
    clip: Tensor
    labels: Labels

    def to_dict(self) -> dict[str, Any]:
        """Return plain values and a tensor, for a checkpoint."""
        own = self.labels
        aus = {str(au): on for au, on in own.aus.items()}
        labels = {"expression": own.expression, "aus": aus, "va": list(own.va or ())}
        return {"id": self.id, "clip": self.clip.cpu(), "labels": labels}

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> "Shot":
        """Read what :meth:`to_dict` returned.

        Raises:
            CheckpointError: it is something else.
        """
        try:
            own = plain["labels"]
            aus = {int(au): bool(on) for au, on in own["aus"].items()}
            va = (float(own["va"][0]), float(own["va"][1])) if own["va"] else None
            clip = plain["clip"]
            if not (isinstance(clip, Tensor) and clip.dtype == torch.uint8 and clip.ndim == 4):
                raise ValueError("no frames")
            return cls(str(plain["id"]), clip, Labels(own["expression"], aus, va))
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            raise CheckpointError(f"the checkpoint's examples are damaged: {error}") from None


def draw(data: Any, count: int, schema: LabelSchema, seed: int) -> list[Shot]:
    """Return examples of the training part, each of another person, as many classes as there are.

    Args:
        data: the datamodule; its split says who trains.
        count: number of examples.
        schema: the model's labels.
        seed: of the draw.

    Raises:
        DataError: the training part has too few people whose pictures can be read.
    """
    samples = data.dataset.samples
    order = np.random.default_rng(seed).permutation(data.split.train)
    chosen: list[int] = []
    people: set[str] = set()
    for index in _by_class(order, samples.expression):
        person = str(samples.subject[index])
        if person not in people:
            people.add(person)
            chosen.append(int(index))
        if len(chosen) == count:
            break
    shots = _read(data, chosen, schema)
    if len(shots) < count:
        raise DataError(
            f"model.shots: {count} examples are asked for, but the training part has {len(shots)} "
            "people with a readable picture; ask for fewer"
        )
    return shots


def _by_class(order: Any, expression: Any) -> list[int]:
    """Return indices so that each round shows every class once, in the given order within it."""
    if expression is None:
        return [int(i) for i in order]
    seen: dict[int, int] = {}
    ranked = []
    for place, index in enumerate(order):
        kind = int(expression[index])
        seen[kind] = seen.get(kind, 0) + 1
        ranked.append((seen[kind], place, int(index)))
    return [index for _, _, index in sorted(ranked)]


def _read(data: Any, chosen: list[int], schema: LabelSchema) -> list[Shot]:
    shots = []
    for batch in data.of(chosen):
        clips = as_clips(move_labels(batch, data.schema, schema))
        for row, name in enumerate(clips["id"]):
            known = clips["video"][row][clips["frame_mask"][row]]
            shots.append(Shot(name, known.clone(), labels_of(clips, row, schema)))
    return shots
