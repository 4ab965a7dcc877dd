"""Training of the gates by which visual tokens leave, and what their leaving does in a test."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from faceaffect.data.batch import FaceBatch
from faceaffect.models.emo_llama.packing import Packed
from faceaffect.models.vlm.chat import Chat, Prompt
from faceaffect.models.vlm.exit import VisualTokenExit
from faceaffect.models.vlm.net import VisionLanguageModel, alike
from faceaffect.progress import console
from faceaffect.schema import LabelSchema
from faceaffect.scores.predictions import Predictions

AGREE = 0.99
"""Share of an answer's tokens that have to stay the most likely ones (DyVTE's code)."""

WORSE = 1.03
"""Times that the loss of an answer may grow (DyVTE's code)."""


def gate_losses(
    llm: VisionLanguageModel, gates: VisualTokenExit, prompts: Sequence[Prompt], chat: Chat
) -> Tensor:
    """Return the cross-entropy of a gate of each prompt, (B,): do its pictures still count there?

    For each prompt one layer is drawn. They do not count where the answers come out alike with the
    pictures in all layers and with none behind that one, see :func:`unchanged`. Only gates learn.

    Args:
        llm: the model, which has the gates.
        gates: its gates.
        prompts: with pictures, and right answers.
        chat: the model's format.
    """
    found, order = [], []
    for group in alike(prompts):
        chosen = [prompts[i] for i in group]
        device = llm.device
        drawn = torch.randint(gates.floor, gates.depth, (len(group),)).to(device)
        with torch.no_grad():
            with gates.leaving(torch.full_like(drawn, gates.depth)) as looked:
                whole, answers = llm.logits(chosen, chat)
            with gates.leaving(drawn):
                early, _ = llm.logits(chosen, chat)
        target = unchanged(whole, early, answers, len(group)).long()
        with torch.autocast(device.type, enabled=False):
            for row, layer in enumerate(drawn.tolist()):
                said = gates.gates[layer - 1](looked[layer - gates.floor][row])
                found.append(F.cross_entropy(said, target[row]))
        order += group
    return torch.stack(found)[torch.tensor(order, device=llm.device).argsort()]


def unchanged(whole: Tensor, early: Tensor, answers: Packed, count: int) -> Tensor:
    """Return (B,) bool: more than 99 % of the likeliest tokens are the same, and the loss is.

    The loss of the right answer may be up to 1.03 times as high.

    Args:
        whole: (T, V) logits with the pictures in all layers.
        early: (T, V) logits without them in the later ones.
        answers: which tokens are to be said where.
        count: of prompts.
    """

    def mean(each: Tensor) -> Tensor:
        share = torch.bincount(answers.row, minlength=count).clamp_min(1)
        return each.new_zeros(count).index_add(0, answers.row, each) / share

    same = mean((whole.argmax(1) == early.argmax(1)).float())
    losses = [mean(F.cross_entropy(logits, answers.said, reduction="none"))
              for logits in (whole, early)]  # fmt: skip
    return (same > AGREE) & (losses[1] < WORSE * losses[0])


class ExitReport:
    """A test with pictures that leave early, beside the same test with pictures in all layers.

    Args:
        gates: of the model that is tested.
        schema: what is scored.
    """

    def __init__(self, gates: VisualTokenExit, schema: LabelSchema) -> None:
        self.gates, self.tally = gates, gates.new_tally()
        self.base = Predictions(schema)
        self.change: dict[str, float] = {}

    def counted(self) -> AbstractContextManager[None]:
        """Count the prompts of what runs within."""
        return self.gates.counted(self.tally)

    def add(self, model: Any, batch: FaceBatch) -> None:
        """Have the model answer about a batch with the pictures in all layers."""
        with self.gates.switched_off():
            self.base.add(*model.answer(batch))

    def close(self, model: Any) -> None:
        """Gather what all processes counted; compare the metrics."""
        self.base.gather()
        if model.trainer.world_size > 1:
            sums = self.tally.sums.to(model.device)
            self.tally.sums = model.trainer.strategy.reduce(sums, reduce_op="sum").cpu()
        after, before = model.predictions.metrics(), self.base.metrics()
        self.change = {name: float(after[name]) - float(before[name]) for name in after}
        if model.trainer.is_global_zero:
            console.print(self._words(), markup=False)

    def _words(self) -> str:
        found = self.tally.to_dict()
        if not found["prompts"]:
            return "no prompt had a picture that could leave"
        left = ", ".join(f"{share:.0%}" for share in found["left"])
        changes = ", ".join(f"{name} {value:+.4f}" for name, value in self.change.items()
                            if "/" not in name)  # fmt: skip
        return (
            f"visual tokens left in each layer: {left}; {found['compute_saved']:.1%} of the "
            f"language model's arithmetic over prompts saved; change of the metrics: {changes}"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return what was left, what was saved and how each metric changed."""
        return self.tally.to_dict() | {"change": self.change}
