"""Optimiser and learning-rate schedule from the ``optim`` section of a recipe."""

import math
from collections.abc import Iterable, Sequence
from typing import Any, cast

import lightning as L
import torch
from lightning.pytorch.callbacks import GradientAccumulationScheduler
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from timm.optim import create_optimizer_v2, list_optimizers
from timm.optim import muon as timm_muon
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from faceaffect.errors import RecipeError, unknown
from faceaffect.hardware import best_dtype

SCHEDULES = {
    "constant": "constant_with_warmup",
    "cosine": "cosine",
    "linear": "linear",
    "inverse_sqrt": "inverse_sqrt",
}
"""Names of schedules here and in transformers; all step once per optimiser step."""


class Optim:
    """Settings of the optimiser; the schedule runs over the whole training, step by step.

    Args:
        name: any optimiser of timm (``adamw``, ``sgd``, ``lamb``, ``muon``, ...).
        lr: peak learning rate.
        weight_decay: of weights with two or more dimensions; biases and norms have none.
        momentum: of optimisers that have one.
        betas: of optimisers that have them; absent, the optimiser's own.
        schedule: ``cosine`` and ``linear`` fall to zero, ``constant`` stays at the peak.
        warmup_epochs: epochs of linear warm-up; fractions are allowed.

    Raises:
        RecipeError: a name is unknown or a number is out of range.
    """

    def __init__(
        self,
        name: str = "adamw",
        lr: float = 1e-3,
        weight_decay: float = 0.05,
        momentum: float = 0.9,
        betas: list[float] | None = None,
        schedule: str = "cosine",
        warmup_epochs: float = 0.0,
    ) -> None:
        names = [str(known) for known in list_optimizers()]
        if name not in names:
            raise RecipeError(unknown("optim.name", name, names))
        if schedule not in SCHEDULES:
            raise RecipeError(unknown("optim.schedule", schedule, SCHEDULES))
        for key, value in (
            ("lr", lr),
            ("weight_decay", weight_decay),
            ("warmup_epochs", warmup_epochs),
        ):
            if value < 0:
                raise RecipeError(f"optim.{key}: {value} is negative")
        self.name, self.lr, self.weight_decay, self.momentum = name, lr, weight_decay, momentum
        self.betas, self.schedule, self.warmup_epochs = betas, schedule, warmup_epochs

    def optimizer(self, groups: list[dict[str, Any]]) -> Optimizer:
        """Return the optimiser over parameter groups; a group's own ``lr`` and decay win."""
        betas: dict[str, Any] = {} if self.betas is None else {"betas": tuple(self.betas)}
        optimizer = create_optimizer_v2(
            groups,
            opt=self.name,
            lr=self.lr,
            weight_decay=self.weight_decay,
            momentum=self.momentum,
            filter_bias_and_bn=False,
            **betas,
        )
        if isinstance(optimizer, timm_muon.Muon):
            _iterate_as_the_machine_can(optimizer)
        return optimizer

    def scheduler(self, optimizer: Optimizer, steps: int, steps_per_epoch: float) -> LRScheduler:
        """Return the schedule over ``steps`` optimiser steps."""
        from transformers import get_scheduler  # which brings the trainer of transformers along

        warmup = min(round(self.warmup_epochs * steps_per_epoch), steps)
        schedule: LRScheduler = get_scheduler(SCHEDULES[self.schedule], optimizer, warmup, steps)
        return schedule

    def configure(self, trainer: L.Trainer, groups: list[dict[str, Any]]) -> OptimizerLRScheduler:
        """Return what ``configure_optimizers`` returns, for a training of the trainer's length."""
        optimizer = self.optimizer([group for group in groups if group["params"]])
        trainer.fit_loop.setup_data()  # before it, nothing knows how long an epoch is
        steps = total_steps(trainer)
        scheduler = self.scheduler(optimizer, steps, steps_per_epoch(trainer))
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }


def muon_dtype(device: torch.device) -> torch.dtype:
    """Return the float type of Muon's iterations on a device: bfloat16 only if in hardware."""
    found = best_dtype(device)[0]
    return found if found == torch.bfloat16 else torch.float32


def _iterate_as_the_machine_can(optimizer: Optimizer) -> None:
    """Have Muon's Newton-Schulz iterations run in the float type that the machine computes.

    timm has no argument for it and always takes bfloat16, so its function is replaced for the time
    of a step; in float32 by :func:`by_products`, where that pays.
    """

    def before(optimizer: Optimizer, *_: Any) -> None:
        device = optimizer.param_groups[0]["params"][0].device
        dtype, iterate = muon_dtype(device), _iterations_of_timm()

        def run(matrix: Tensor, *words: Any, **settings: Any) -> Any:
            scaled = settings.pop("scale_eps", False)
            if dtype == torch.float32 and not scaled and _pays_by_products(matrix):
                return by_products(matrix, *words, **settings)
            return iterate(matrix, *words, **settings | {"scale_eps": scaled, "dtype": dtype})

        setattr(run, "of_timm", iterate)  # noqa: B010
        setattr(timm_muon, "zeropower_via_newtonschulz", run)  # noqa: B010

    def after(*_: Any) -> None:
        timm_muon.zeropower_via_newtonschulz = _iterations_of_timm()

    optimizer.register_step_pre_hook(before)
    optimizer.register_step_post_hook(after)


def _iterations_of_timm() -> Any:
    """Return timm's function, also where a step that failed has left another in its place."""
    found = timm_muon.zeropower_via_newtonschulz
    return getattr(found, "of_timm", found)


def _pays_by_products(matrix: Tensor) -> bool:
    """Whether a matrix is so large and long that fewer multiply-adds are less time."""
    if matrix.ndim != 2:
        return False
    short, long = sorted(matrix.shape)
    return short >= 128 and long >= 2 * short


def by_products(
    matrix: Tensor,
    steps: int,
    coefficients: Sequence[tuple[float, float, float]],
    *,
    eps: float,
    safety_factor: float = 1.0,
) -> Tensor:
    """Return what timm's ``zeropower_via_newtonschulz`` returns, with fewer multiply-adds.

    Each iteration multiplies the (m, n) matrix X, m <= n, by a polynomial of X X^T. All of these
    commute, so the products of m x m matrices are iterated, and X is multiplied once at the end:
    17 m^3 + 2 m^2 n multiply-adds in five steps, not 5 m^3 + 10 m^2 n. Not for bfloat16, whose
    rounding the products would carry on.

    Args:
        matrix: float32, of two dimensions.
        steps: iterations.
        coefficients: of the polynomial of each iteration; the last one again if there are fewer.
        eps: least norm that is divided by.
        safety_factor: the norm is multiplied by it.
    """
    x = matrix.mT if matrix.shape[0] > matrix.shape[1] else matrix
    x = x / (x.norm() * safety_factor).clamp(min=eps)
    product = x @ x.mT
    whole: Tensor | None = None
    for step in range(steps):
        a, b, c = coefficients[min(step, len(coefficients) - 1)]
        factor = torch.addmm(product, product, product, beta=b, alpha=c)
        factor.diagonal().add_(a)
        whole = factor if whole is None else factor @ whole
        if step + 1 < steps:
            product = factor @ product @ factor
    x = x if whole is None else whole @ x
    return cast(Tensor, x.mT if matrix.shape[0] > matrix.shape[1] else x)


def total_steps(trainer: L.Trainer) -> int:
    """Return the optimiser steps of a training whose data loader is set up.

    Lightning's own estimate takes the accumulation of the moment for that of all epochs.
    """
    schedules = [c for c in trainer.callbacks if isinstance(c, GradientAccumulationScheduler)]  # type: ignore[attr-defined]
    if not schedules or not trainer.max_epochs or trainer.max_epochs < 0:
        return int(trainer.estimated_stepping_batches)
    factors = map(schedules[0].get_accumulate_grad_batches, range(trainer.max_epochs))
    steps = sum(math.ceil(trainer.num_training_batches / factor) for factor in factors)
    return steps if trainer.max_steps == -1 else min(steps, trainer.max_steps)


def steps_per_epoch(trainer: L.Trainer) -> int:
    """Return the optimiser steps of an epoch whose data loader is set up."""
    return math.ceil(trainer.num_training_batches / trainer.accumulate_grad_batches)


def decay_groups(parameters: Iterable[nn.Parameter]) -> list[dict[str, Any]]:
    """Return groups of what is trained; weights of fewer than two dimensions do not decay."""
    trained = [p for p in parameters if p.requires_grad]
    return [
        {"params": [p for p in trained if p.ndim >= 2]},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]


def scaled_groups(
    groups: Iterable[dict[str, Any]], lr: float, factor: dict[int, float]
) -> list[dict[str, Any]]:
    """Return groups in which some parameters have learning rates of their own.

    Args:
        groups: with ``params`` and settings.
        lr: of all others.
        factor: ``id`` of a parameter to what ``lr`` is multiplied by for it.
    """
    found = []
    for group in groups:
        settings = {key: value for key, value in group.items() if key != "params"}
        for rate in dict.fromkeys([1.0, *factor.values()]):
            params = [p for p in group["params"] if factor.get(id(p), 1.0) == rate]
            found.append({"params": params, "lr": lr * rate, **settings})
    return [group for group in found if group["params"]]
