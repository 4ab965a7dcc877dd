"""Metrics of facial affect: pure functions, and all of them by task, accumulated.

All are computed on pooled predictions, never as a mean over batches. Unknown labels (NaN, for
classes -1) are left out. A prediction may be unreadable (NaN, for classes -1), as the answer of a
language model can be: it is wrong in F1, accuracy, WAR and UAR, and left out of AUROC and
calibration error, for which it has no probability; :class:`TaskMetrics` takes it as 0, the middle
of the scale, for valence and arousal, and for intensity. Values are float64 on the CPU.
"""

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import MeanAbsoluteError, Metric

from faceaffect.schema import CLASS_TASKS, NUMBER_TASKS, TASKS, LabelSchema
from faceaffect.scores.counts import (
    AUConfusion,
    ClassConfusion,
    Curves,
    Moments,
    au_confusion,
    ccc_of,
    class_confusion,
    class_f1,
    f1,
    icc31_of,
    moments,
    present,
    ratio,
    recall,
    rmse_of,
)

SCORE = {"au": "au_f1", "expression": "expression_uar", "va": "va_ccc", "felt": "felt_uar",
         "intensity": "intensity_ccc"}  # fmt: skip
"""The metric of each task that enters the model's score."""


def au_f1(prob: Tensor, target: Tensor, threshold: float = 0.5) -> Tensor:
    """Binary F1 of each AU.

    Args:
        prob: (N, A) probabilities.
        target: (N, A) in {0, 1}, NaN unknown.
        threshold: a probability above it is positive.

    Returns:
        (A,); of an AU without a positive in the truth 0 if it was predicted at all, as everywhere
        in the field, else NaN, since there is nothing to score.

    >>> au_f1(torch.tensor([[0.9, 0.2], [0.8, 0.1]]), torch.tensor([[1.0, 0.0], [0.0, 0.0]]))
    tensor([0.6667,    nan], dtype=torch.float64)
    """
    return f1(au_confusion(prob, target, threshold))


def war(pred: Tensor, target: Tensor) -> Tensor:
    """Weighted average recall, which is the accuracy.

    Args:
        pred: (N,) class indices, -1 unreadable.
        target: (N,) class indices, -1 unknown.

    Returns:
        Scalar, NaN if no label is known.

    >>> war(torch.tensor([0, 1, 1, -1]), torch.tensor([0, 1, 0, 1]))
    tensor(0.5000, dtype=torch.float64)
    """
    known = target != -1
    return ratio(((pred == target) & known).sum(), known.sum())


def uar(pred: Tensor, target: Tensor, num_classes: int) -> Tensor:
    """Unweighted average recall: the mean recall over the classes that occur in the truth.

    Args:
        pred: (N,) class indices, -1 unreadable.
        target: (N,) class indices, -1 unknown.
        num_classes: K of the label schema.

    Returns:
        Scalar, NaN if no label is known.

    Raises:
        ValueError: an index of the truth is out of range.

    >>> uar(torch.tensor([0, 1, 1, 2]), torch.tensor([0, 0, 1, 1]), num_classes=3)
    tensor(0.5000, dtype=torch.float64)
    """
    return recall(class_confusion(pred, target, num_classes)).nanmean()


def ccc(pred: Tensor, target: Tensor) -> Tensor:
    """Concordance correlation coefficient with ddof 0; a constant prediction scores 0.

    Args:
        pred: (N,) or (N, D).
        target: the same shape, NaN unknown.

    Returns:
        Scalar, or (D,) for two dimensions; NaN where no label is known.

    >>> ccc(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1.0, 2.0, 4.0]))
    tensor(0.8571, dtype=torch.float64)
    """
    return ccc_of(moments(pred.cpu().double(), target)).reshape(pred.shape[1:])


def icc31(pred: Tensor, target: Tensor) -> Tensor:
    """Intraclass correlation ICC(3,1), consistency of single raters, of prediction and truth.

    Args:
        pred: (N,) or (N, D).
        target: the same shape, NaN unknown.

    Returns:
        Scalar, or (D,) for two dimensions; NaN where neither prediction nor truth varies.

    >>> icc31(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1.0, 2.0, 4.0]))
    tensor(0.9000, dtype=torch.float64)
    """
    return icc31_of(moments(pred.cpu().double(), target)).reshape(pred.shape[1:])


class TaskMetrics(nn.Module):
    """All metrics of a schema's tasks, pooled over batches and processes.

    Names: ``au_f1``, ``au_accuracy``, ``au_auroc``, ``au_ece``, each the mean over the AUs and, as
    ``au_f1/AU12``, of one AU; ``au_f1_present``, the mean F1 over the AUs that occur in the truth;
    ``expression_war``, ``expression_uar``, ``expression_f1`` (macro F1, the UF1 of the
    micro-expression challenges), ``expression_ece`` and ``expression_recall/<class>``; ``va_ccc``,
    ``va_rmse``, each the mean of both and, as ``va_ccc/valence``, of one; ``felt_war`` and so on of
    felt emotions, as of expressions; ``intensity_ccc``, ``intensity_rmse`` and ``intensity_mae``,
    the mean distance in grades. The names depend on the schema alone; what is undefined is NaN, and
    left out of the mean. ECE has 15 bins, for AUs over the probability of presence, for expressions
    over that of the predicted class.

    Args:
        schema: labels and predictions come in its order.
        sync: whether ``compute`` pools over the processes; all of them must then call it.
    """

    def __init__(self, schema: LabelSchema, *, sync: bool = True) -> None:
        super().__init__()
        self.schema = schema
        self.confusion_matrix: dict[str, Tensor] = {}
        """Of ``expression`` and ``felt`` (K, K) counts of the last ``compute``, truth in rows;
        unreadable answers in no column."""
        if "au" in schema.tasks:
            self.au_confusion = AUConfusion(len(schema.aus), sync=sync)
            self.au_curves = Curves(len(schema.aus), sync=sync)
        classes = [task for task in CLASS_TASKS if task in schema.tasks]
        self.class_confusion = nn.ModuleDict(
            {task: ClassConfusion(len(schema.names(task)), sync=sync) for task in classes}
        )
        self.class_curve = nn.ModuleDict({task: Curves(1, sync=sync) for task in classes})
        self.moments = nn.ModuleDict(
            {
                task: Moments(len(schema.names(task)), sync=sync)
                for task in NUMBER_TASKS
                if task in schema.tasks
            }
        )
        if "intensity" in schema.tasks:
            self.intensity_mae = MeanAbsoluteError(sync_on_compute=sync)

    def update(self, prediction: Mapping[str, Tensor], batch: Mapping[str, Any]) -> None:
        """Add a batch.

        Args:
            prediction: ``au`` (B, A), ``expression`` (B, K) and ``felt`` (B, F) probabilities,
                ``va`` (B, 2), ``intensity`` (B, 1); NaN unreadable.
            batch: ``au`` (B, A), ``va`` (B, 2) and ``intensity`` (B, 1), NaN unknown;
                ``expression`` and ``felt`` (B,), -1 unknown; an absent task is unknown.

        Raises:
            ValueError: prediction and truth differ in shape, or a class index is out of range.
        """
        for task in self.schema.tasks:
            if task in batch:
                self._add(task, prediction[task].detach().float(), batch[task])

    def compute(self) -> dict[str, float]:
        """Return all metrics by name, as plain numbers."""
        with warnings.catch_warnings():
            # Labels of a task may be absent throughout: that is no mistake here.
            warnings.filterwarnings("ignore", "The ``compute`` method")
            return {name: v for task in self.schema.tasks for name, v in self._of(task).items()}

    def reset(self) -> None:
        """Forget all batches."""
        for metric in self.modules():
            if isinstance(metric, Metric):
                metric.reset()

    def _add(self, task: str, answer: Tensor, target: Tensor) -> None:
        if task in CLASS_TASKS:
            self._add_class(task, answer, target)
        elif task == "au":
            self._add_au(answer, target)
        else:
            self._add_numbers(task, answer, target)

    def _of(self, task: str) -> dict[str, float]:
        if task in CLASS_TASKS:
            return self._of_class(task)
        return self._of_au() if task == "au" else self._of_numbers(task)

    def _add_au(self, prob: Tensor, target: Tensor) -> None:
        self.au_confusion.update(prob, target)
        self.au_curves.update(prob, target)

    def _add_class(self, task: str, prob: Tensor, target: Tensor) -> None:
        classes = len(self.schema.names(task))
        if prob.shape != (len(target), classes):
            raise ValueError(
                f"{task} probabilities {tuple(prob.shape)} for {len(target)} samples and "
                f"{classes} classes"
            )
        confidence, pred = prob.max(1)  # NaN where any class is NaN
        pred = pred.where(~confidence.isnan(), -1)
        confusion, curve = self._of_classes(task)
        confusion.update(pred, target)
        correct = (pred == target).float().where(target != -1, torch.nan)
        curve.update(confidence[:, None], correct[:, None])

    def _of_classes(self, task: str) -> tuple[ClassConfusion, Curves]:
        counted, curve = self.class_confusion[task], self.class_curve[task]
        assert isinstance(counted, ClassConfusion)
        assert isinstance(curve, Curves)
        return counted, curve

    def _add_numbers(self, task: str, pred: Tensor, target: Tensor) -> None:
        pred = pred.where(~pred.isnan(), 0)
        self._moments_of(task).update(pred, target)
        if task == "intensity":
            known = ~target.isnan()
            self.intensity_mae.update(pred[known], target[known])

    def _moments_of(self, task: str) -> Moments:
        found = self.moments[task]
        assert isinstance(found, Moments)
        return found

    def _of_au(self) -> dict[str, float]:
        confusion = self.au_confusion.compute()
        auroc, ece = self.au_curves.compute()
        accuracy = ratio(confusion[0] + confusion[3], confusion.sum(0))
        there, each = present(confusion), f1(confusion)
        columns = {"au_f1": each, "au_accuracy": accuracy, "au_auroc": auroc, "au_ece": ece}
        mean = each.where(there, torch.nan).nanmean().item()
        return _named(columns, self.schema.au_names) | {"au_f1_present": mean}

    def _of_class(self, task: str) -> dict[str, float]:
        counted, curve = self._of_classes(task)
        confusion = counted.compute().cpu()
        _, ece = curve.compute()
        self.confusion_matrix[task] = confusion[:, :-1]
        recalls = recall(confusion)
        return {
            f"{task}_war": ratio(confusion.diagonal().sum(), confusion.sum()).item(),
            f"{task}_uar": recalls.nanmean().item(),
            f"{task}_f1": class_f1(confusion).nanmean().item(),
            f"{task}_ece": ece.item(),
        } | {
            f"{task}_recall/{name}": value
            for name, value in zip(self.schema.names(task), recalls.tolist(), strict=True)
        }

    def _of_numbers(self, task: str) -> dict[str, float]:
        values = self._moments_of(task).compute()
        found = {f"{task}_ccc": ccc_of(values), f"{task}_rmse": rmse_of(values)}
        if task != "intensity":
            return _named(found, self.schema.names(task))
        found["intensity_mae"] = self.intensity_mae.compute()
        return {name: value.item() for name, value in found.items()}


def _named(columns: Mapping[str, Tensor], names: Sequence[str]) -> dict[str, float]:
    """Mean over the defined values under the column's name, and each value under its own."""
    values = {}
    for key, column in columns.items():
        values[key] = column.nanmean().item()
        values |= {f"{key}/{n}": v for n, v in zip(names, column.tolist(), strict=True)}
    return values


def score(
    metrics: Mapping[str, float],
    schema: LabelSchema,
    task_weights: Mapping[str, float] | None = None,
) -> float:
    """Weighted mean of the metrics of :data:`SCORE` over the schema's tasks.

    A task whose metric is undefined (NaN: nothing known) is left out.

    Args:
        metrics: what :meth:`TaskMetrics.compute` returned.
        schema: names the tasks.
        task_weights: weight >= 0 of each task, 1 where not named.

    Returns:
        NaN if no weighted task is defined.

    Raises:
        ValueError: a weight of an unknown task, or a negative one.

    >>> score({"au_f1": 0.5, "va_ccc": 0.25}, LabelSchema((1,), (), True), {"au": 3})
    0.4375
    """
    weights = dict.fromkeys(TASKS, 1.0) | dict(task_weights or {})
    wrong = [task for task, weight in weights.items() if task not in TASKS or not weight >= 0]
    if wrong:
        raise ValueError(f"task_weights.{wrong[0]}: need a number >= 0 for one of {TASKS}")
    parts = [(metrics[SCORE[task]], weights[task]) for task in schema.tasks if weights[task]]
    parts = [(value, weight) for value, weight in parts if not math.isnan(value)]
    whole = sum(weight for _, weight in parts)
    return sum(value * weight for value, weight in parts) / whole if parts else math.nan


def absent(schema: LabelSchema, target: Mapping[str, Any]) -> list[str]:
    """Return the AUs and classes that the truth of some samples never has.

    Args:
        schema: names of the labels.
        target: truth as in a batch: ``au`` (N, A), ``expression`` and ``felt`` (N,).

    >>> absent(LabelSchema((1, 4)), {"au": torch.tensor([[1.0, 0.0], [0.0, torch.nan]])})
    ['AU4']
    """
    names = []
    if "au" in target:
        there = (torch.as_tensor(target["au"]) == 1).any(0).tolist()
        names += [name for name, any_ in zip(schema.au_names, there, strict=True) if not any_]
    for task in (task for task in CLASS_TASKS if task in target):
        known, before = set(torch.as_tensor(target[task]).tolist()), "felt " * (task == "felt")
        names += [before + name for i, name in enumerate(schema.names(task)) if i not in known]
    return names


def trivial_baselines(
    schema: LabelSchema, statistics: Mapping[str, Any], target: Mapping[str, Any]
) -> dict[str, float]:
    """Metrics of answers that look at no face, under the names of :class:`TaskMetrics`.

    Every AU is present with probability 1; the probability of an expression, or of a felt emotion,
    is its share of the training part, so that the majority class is predicted; valence, arousal and
    intensity are the training part's mean.

    Args:
        schema: names of the labels.
        statistics: ``expression_count`` and ``felt_count`` by class name, ``va_mean`` and
            ``intensity_mean``, of the training part.
        target: truth of all samples as in a batch, by task.
    """
    metrics = TaskMetrics(schema, sync=False)
    known = {task: torch.as_tensor(target[task]) for task in schema.tasks if task in target}
    answers = {}
    if "au" in known:
        answers["au"] = torch.ones_like(known["au"])
    for task in (task for task in CLASS_TASKS if task in known):
        counts = statistics[f"{task}_count"]
        prior = torch.tensor([float(counts.get(name, 0)) for name in schema.names(task)])
        prior = prior / prior.sum() if prior.any() else torch.ones_like(prior) / len(prior)
        answers[task] = prior.expand(len(known[task]), -1)
    for task in (task for task in NUMBER_TASKS if task in known):
        mean = torch.tensor([float(value) for value in statistics[f"{task}_mean"]])
        answers[task] = mean.expand(len(known[task]), -1)
    metrics.update(answers, known)
    return metrics.compute()
