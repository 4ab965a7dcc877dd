"""The base classes of what is trained: steps, metrics, optimiser, checkpoints, statistics."""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor

from faceaffect import registry
from faceaffect.data.asked import as_batch, asked
from faceaffect.data.batch import (
    FaceBatch,
    as_clips,
    frames,
    mean_over_frames,
    move_labels,
    move_predictions,
)
from faceaffect.data.faces.crop import Crop
from faceaffect.data.image import IMAGE_SIZE
from faceaffect.errors import CheckpointError, FaceAffectError, SchemaError
from faceaffect.networks import backbones
from faceaffect.optim import Optim, decay_groups
from faceaffect.progress import console
from faceaffect.schema import TASKS, LabelSchema
from faceaffect.scores.metrics import TaskMetrics, score
from faceaffect.scores.predictions import Predictions

_LARGEST = 8192  # pixels of a face's side that a checkpoint may ask for
_NAMED = 3
"""So many samples are named in an error."""

FORMAT = 1
"""Version of what :class:`FaceModule` writes into a checkpoint besides Lightning's own keys."""


class FaceModule(L.LightningModule, ABC):
    """Base of all that a recipe trains: models (:class:`AffectModule`) and pre-training.

    Args:
        schema: label names and their order, as :class:`LabelSchema` or as its plain dict.

    Attributes:
        schema: the module's own label names and their order.
        optim: optimiser and schedule.
        task_weights: weights of the tasks in ``val/score``; an absent task weighs 1.
        seed: random numbers of a training step come from (seed, epoch, step), so that a resumed
            run repeats them; None leaves torch's generator alone.
        recipe: the recipe that trains the module, stored in its checkpoints.
    """

    needs_training = True

    def __init__(self, schema: LabelSchema | dict[str, Any]) -> None:
        super().__init__()
        if not isinstance(schema, LabelSchema):
            schema = LabelSchema.from_dict(schema)
        self.save_hyperparameters(ignore=["schema"])
        self.save_hyperparameters({"schema": schema.to_dict()})
        self.schema = schema
        self.optim = Optim()
        self.task_weights: dict[str, float] = {}
        self.seed: int | None = None
        self.recipe: dict[str, Any] | None = None

    @abstractmethod
    def loss(self, batch: FaceBatch) -> Tensor:
        """Return the training loss, a scalar with a graph, also where every label is unknown.

        Args:
            batch: labels in the order of ``self.schema``.
        """

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return what is trained; weights of fewer than two dimensions do not decay."""
        return decay_groups(self.parameters())

    def on_train_batch_start(self, batch: FaceBatch, batch_idx: int) -> None:
        """Seed this step."""
        if self.seed is not None:
            seed_step(self.seed, self.current_epoch, batch_idx, self.global_rank)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Build optimiser and schedule from ``self.optim``."""
        return self.optim.configure(self.trainer, self.parameter_groups())

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what loading by the module's registered name needs."""
        checkpoint["faceaffect"] = {
            "format": FORMAT,
            "model": registry.name_of("models", type(self)),
            "schema": self.schema.to_dict(),
            "statistics": None,
            "frozen": {},
            "recipe": self.recipe,
        }


class AffectModule(FaceModule):
    """Base of every affect model; a model writes :meth:`loss` and :meth:`predict`.

    A subclass passes the schema on first (``super().__init__(schema)``) and takes explicit keyword
    arguments of plain types, which are stored as hyper-parameters. With ``clips = True`` a model
    gets every batch as ``video``; else clips reach it frame by frame, and predictions are averaged
    over the frames of a clip. With ``needs_training = False`` it is tested as it is built, and with
    ``has_cost = False`` nothing of it is timed or counted, since it computes nothing here; a report
    says so in the words of ``unknown_cost``; where ``computes_here`` is False, part of an answer is
    computed in other processes, whose operations and memory are not counted. ``can_answer`` names
    the tasks that it can have, and ``signals`` what it looks at beside the face, of
    :data:`~faceaffect.data.batch.SIGNALS`. With ``frozen_clips = True`` its
    :meth:`frozen_features` takes clips too. With ``zero_shot = True`` it has something to say
    before any training, so that ``trainer.max_epochs: 0`` tests it as it is built.

    What it may have besides: ``heads``, its last layers; ``cam_layer``, a layer with an output of
    (B, C, H, W) for ``explain``; ``graphs(batch)``, (B, S, N, N) weights of edges between its N
    ``nodes``, for ``graph``; ``describe(batch, question, stream=False)``, B answers in words, for
    ``ask``.

    Args:
        schema: what the model answers, as :class:`LabelSchema` or as its plain dict.

    Attributes:
        statistics: of the training part, see :meth:`prepare`; None before training.
        crop: how the faces that it was trained on are cut out of pictures; None where not known.
        image_size: side in pixels of the faces that it was trained on; None where not known.
        predictions: the pooled predictions of the last test.
    """

    clips = False
    can_answer: tuple[str, ...] = TASKS
    signals: tuple[str, ...] = ()
    frozen_clips = False
    has_cost = True
    unknown_cost = "its answers were made elsewhere, at an unknown cost"
    computes_here = True
    zero_shot = False

    def __init__(self, schema: LabelSchema | dict[str, Any]) -> None:
        super().__init__(schema)
        if not self.schema.tasks:
            raise SchemaError(
                "schema: a model needs at least one task: aus, expressions, valence_arousal, felt "
                "or intensity"
            )
        beyond = [task for task in self.schema.tasks if task not in self.can_answer]
        if beyond:
            raise SchemaError(
                f"schema: {type(self).__name__} cannot answer '{beyond[0]}', which the data "
                f"labels; it answers {', '.join(self.can_answer)}"
            )
        self.statistics: dict[str, Any] | None = None
        self.crop: Crop | None = None
        self.image_size: int | None = None
        self.predictions: Predictions | None = None
        self._data_schema = self.schema
        self._scored = self.schema
        self._finite: tuple[Tensor, list[str]] | None = None

    # What a model writes

    @abstractmethod
    def predict(self, batch: Any) -> dict[str, Tensor]:
        """Return answers for every task of the schema.

        A model writes this for a batch. Whoever calls it may also hand over faces that are cut out
        already, in any form of :func:`faceaffect.data.asked.as_batch`: a tensor (B, 3, H, W) of
        uint8, an array (H, W, 3), the path of a picture. It runs without gradients, unless within
        :func:`faceaffect.data.asked.with_graph`. Whole photos are for
        :class:`~faceaffect.prediction.predictor.Predictor`, which finds the faces.

        Returns:
            ``au``: (B, A) probabilities; ``expression``: (B, K) probabilities that sum to 1;
            ``va``: (B, 2) in [-1, 1]; ``felt``: (B, F) probabilities that sum to 1; ``intensity``:
            (B, 1) in [0, 3]. A model that
            answers in words adds ``text``, B strings.

        Raises:
            DataError: what was handed over is no face, or a file cannot be read.
        """

    def __init_subclass__(cls, **options: Any) -> None:
        """Let what a model writes as :meth:`predict` be called with faces in any form."""
        super().__init_subclass__(**options)
        if "predict" in vars(cls):
            cls.predict = asked(cls.predict)  # type: ignore[method-assign]

    def prepare(self, statistics: dict[str, Any]) -> None:
        """Take the statistics of the training part; a model may derive weights from them.

        Called before training, and again when a checkpoint is loaded.

        Args:
            statistics: ``n``, ``au_rate`` (AU name to rate of positives), ``expression_count``
                and ``felt_count`` (class name to count), ``va_mean``, ``intensity_mean``; see
                ``FaceDataModule.statistics``.
        """
        self.statistics = statistics

    def frozen_features(self, batch: FaceBatch) -> dict[str, Tensor] | None:
        """Return what frozen networks make of images before anything that is trained sees them.

        Where nothing before them is random this is computed once, and :meth:`loss` and
        :meth:`predict` find it in the batch as ``features``.

        Returns:
            Name to (B, ...), or None if nothing frozen stands in front.
        """
        return None

    def answering(self) -> dict[str, Any] | None:
        """Return how answers come about, where the result should say so; plain values."""
        return None

    # Steps

    def setup(self, stage: str) -> None:
        """Match the data's schema by name and take the training part's statistics."""
        if stage == "predict":  # all is answered, and nothing is scored
            return
        data = getattr(self.trainer, "datamodule", None)
        self._data_schema = getattr(data, "schema", self.schema)
        if stage == "fit":
            different = self._data_schema.difference(self.schema, ("data", "model"))
            if different:
                raise SchemaError("data and model do not label the same: " + "; ".join(different))
            if self.statistics is None and data is not None:
                self.prepare(data.statistics())
            if hasattr(data, "crop"):
                self._take_crop(data)
        self._scored = self.schema.scored_on(self._data_schema)
        if not self._scored.tasks:
            raise SchemaError(
                "data and model share no label name: "
                + "; ".join(self._data_schema.difference(self.schema, ("data", "model")))
            )
        for task, what in (("expression", "expression"), ("felt", "felt emotion")):
            own, theirs = self.schema.names(task), self._data_schema.names(task)
            shared = [name for name in own if name in theirs]
            if len(shared) == 1 and {*own} != {*theirs}:
                raise SchemaError(
                    f"data and model share one {what} only, {shared[0]}, and whoever answers "
                    "nothing else is always right: "
                    + "; ".join(self._data_schema.difference(self.schema, ("data", "model")))
                )
        self.metrics = TaskMetrics(self._scored)

    def _take_crop(self, data: Any) -> None:
        self.crop, self.image_size = data.crop(), data.image_size
        if data.seen is not None and data.seen.words() and self.trainer.is_global_zero:
            console.print(f"warning: {data.seen.words()}", markup=False)

    def on_train_batch_start(self, batch: FaceBatch, batch_idx: int) -> None:
        """Seed this step and report the step before it if its loss was not finite."""
        self._raise_if_not_finite()
        super().on_train_batch_start(batch, batch_idx)

    def training_step(self, batch: FaceBatch, batch_idx: int) -> Tensor | None:
        """Return the loss of a batch; a batch without a readable sample is passed over."""
        if not batch["id"]:
            return None
        batch = move_labels(batch, self._data_schema, self.schema)
        if self.clips:
            batch = as_clips(batch)
        elif "video" in batch:
            batch, _ = frames(batch)
        loss = self.loss(batch)
        # Looked at one step later, so that a GPU is not made to wait.
        self._finite = (torch.isfinite(loss.detach()), batch["id"])
        log_loss(self, loss, len(batch["id"]))
        return loss

    def on_train_epoch_end(self) -> None:
        """Report a loss that was not finite before a checkpoint is written."""
        self._raise_if_not_finite()

    def on_validation_epoch_start(self) -> None:
        """Report a training that went astray before its weights are judged and kept."""
        self._raise_if_not_finite()
        if not self.trainer.sanity_checking:
            self._raise_if_weights_not_finite()

    def validation_step(self, batch: FaceBatch, batch_idx: int) -> None:
        """Add a batch to the validation metrics."""
        if batch["id"]:
            batch, prediction = self.answer(batch)
            self.metrics.update(prediction, batch)

    def on_validation_epoch_end(self) -> None:
        """Log the pooled metrics as ``val/...`` and their score as ``val/score``."""
        values = self.metrics.compute()
        values["score"] = score(values, self._scored, self.task_weights)
        self.metrics.reset()
        for name, value in values.items():
            self._log_pooled(f"val/{name}", value, prog_bar=name == "score")

    def on_test_epoch_start(self) -> None:
        """Start an empty table of predictions."""
        self.predictions = Predictions(self._scored)

    def test_step(self, batch: FaceBatch, batch_idx: int) -> None:
        """Add a batch to the table of predictions."""
        assert self.predictions is not None
        if batch["id"]:
            self.predictions.add(*self.answer(batch))

    def on_test_epoch_end(self) -> None:
        """Gather the predictions of all processes, each sample once, and log pooled metrics."""
        assert self.predictions is not None
        self.predictions.gather()
        for name, value in self.predictions.metrics().items():
            self._log_pooled(f"test/{name}", value)

    def _log_pooled(self, name: str, value: float | Tensor, *, prog_bar: bool = False) -> None:
        """Log what is the same in every process, having been gathered: so the greatest is it."""
        self.log(name, value, prog_bar=prog_bar, sync_dist=True, reduce_fx="max")

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Any]:
        """Return all answers for a batch with the samples' ids, whatever the data labels.

        The batch may be faces in any form that :meth:`predict` takes.
        """
        batch = self._as_batch(batch)
        if not batch.get("id", True):  # no sample of it was readable
            return {"id": []}
        answers = self._all_answers(batch)
        return {"id": batch["id"], **answers} if "id" in batch else answers

    def answer(self, batch: FaceBatch) -> tuple[FaceBatch, dict[str, Any]]:
        """Return a batch and the model's predictions for it, both in the scored names.

        Predictions of an image model for a clip are means over the clip's frames.
        """
        prediction = self._all_answers(batch)
        words = prediction.pop("text", None)
        moved: dict[str, Any] = dict(move_predictions(prediction, self.schema, self._scored))
        if words is not None:
            moved["text"] = words
        return move_labels(batch, self._data_schema, self._scored), moved

    def _all_answers(self, batch: FaceBatch) -> dict[str, Any]:
        """Return float32 answers in the model's own names; of clips, means over their frames."""
        if self.clips:
            prediction = self.predict(as_clips(batch))
        elif "video" in batch:
            flat, clip = frames(batch)
            prediction = mean_over_frames(self.predict(flat), clip, len(batch["frame_mask"]))
        else:
            prediction = self.predict(batch)
        return {k: v if k == "text" else v.float() for k, v in prediction.items()}

    def _as_batch(self, faces: Any) -> FaceBatch:
        """Return faces in any form as a batch on the model's device; a batch as it is."""
        if isinstance(faces, Mapping):
            return faces  # type: ignore[return-value]
        batch = as_batch(faces, self.image_size or IMAGE_SIZE)
        batch["image"] = batch["image"].to(self.device)
        return as_clips(batch) if self.clips else batch

    def _raise_if_not_finite(self) -> None:
        pending, self._finite = self._finite, None
        if pending is not None and not pending[0]:
            names = pending[1]
            more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
            raise FaceAffectError(
                f"the loss became NaN or infinite at epoch {self.current_epoch + 1}. "
                f"{self._remedy()}; if it goes on, look at the samples of this step: "
                f"{', '.join(names[:_NAMED])}{more}"
            )

    def _raise_if_weights_not_finite(self) -> None:
        """A last step may spoil the weights after a finite loss; they would answer NaN."""
        for name, parameter in self.named_parameters():
            if parameter.requires_grad and not torch.isfinite(parameter).all():
                raise FaceAffectError(
                    f"the weights {name} became NaN or infinite in epoch {self.current_epoch + 1}. "
                    f"{self._remedy()}"
                )

    def _remedy(self) -> str:
        lower = f"optim.lr={self.optim.lr / 10:g}"
        half = str(self.trainer.precision) in ("16-mixed", "16-true")
        return (
            f"The learning rate {self.optim.lr:g} is probably too high: try {lower}, then a longer "
            "warm-up (optim.warmup_epochs); clipping (trainer.gradient_clip_val=1) tames single "
            "batches, no rate that is too high"
            + (", or use trainer.precision=32-true, since float16 overflows" if half else "")
        )

    # Checkpoints

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Leave out frozen weights that something else names, and add what loading needs."""
        left_out = backbones.frozen_keys(self)
        state = checkpoint["state_dict"]
        checkpoint["state_dict"] = {k: v for k, v in state.items() if k not in left_out}
        super().on_save_checkpoint(checkpoint)
        checkpoint["faceaffect"] |= {
            "statistics": self.statistics,
            "frozen": backbones.frozen_sources(self),
            "crop": None if self.crop is None else self.crop.to_dict(),
            "image_size": self.image_size,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Verify schema and frozen weights, take the statistics and put frozen weights back.

        Raises:
            SchemaError: the checkpoint's names or their order differ from the model's.
            CheckpointError: the checkpoint was trained on other frozen weights.
        """
        own = checkpoint.get("faceaffect")
        if own is None:
            raise CheckpointError("the checkpoint was not written by faceaffect")
        stored = LabelSchema.from_dict(own["schema"])
        if stored != self.schema:
            lines = stored.difference(self.schema, ("checkpoint", "model"))
            raise SchemaError(
                "checkpoint and model do not label the same: "
                + "; ".join(lines or [f"the order of names differs: {stored} and {self.schema}"])
            )
        present = backbones.frozen_sources(self)
        for prefix, source in own["frozen"].items():
            here = present.get(prefix, {}).get("fingerprint")
            if here != source["fingerprint"]:
                raise CheckpointError(
                    f"the checkpoint was trained on the frozen weights '{source['name']}' "
                    f"(fingerprint {source['fingerprint']}) at {prefix.rstrip('.')}; "
                    f"the model holds others ({here or 'none that an asset, file or hub names'})"
                )
        if own["statistics"] is not None:
            self.prepare(own["statistics"])
        crop = own.get("crop")  # older checkpoints do not tell
        self.crop = None if crop is None else Crop.from_dict(crop)
        self.recipe = self.recipe or own.get("recipe")
        self.image_size = own.get("image_size") or _size_of(self.recipe)
        if self.image_size is not None and not (
            isinstance(self.image_size, int) and 0 < self.image_size <= _LARGEST
        ):
            shown = str(self.image_size)[:40]
            raise CheckpointError(f"the checkpoint's image size is no number of pixels: {shown}")
        state = checkpoint["state_dict"]
        left_out = backbones.frozen_keys(self) if own["frozen"] else set()
        state.update({k: v for k, v in self.state_dict().items() if k in left_out})


def _size_of(recipe: dict[str, Any] | None) -> int | None:
    """Return the image size that a recipe trains at; None without a recipe."""
    if recipe is None:
        return None
    from faceaffect.data.base import FaceDataModule  # heavier than a model needs otherwise

    default = inspect.signature(FaceDataModule).parameters["image_size"].default
    return int(recipe["sections"]["data"].get("image_size") or default)


def log_loss(module: L.LightningModule, loss: Tensor, samples: int) -> None:
    """Log a training loss: of each step this process's own, of an epoch that of all processes.

    A step is not worth a wait for the others.
    """
    loss = loss.detach()
    common: dict[str, Any] = {"batch_size": samples}
    module.log("train/loss", loss, prog_bar=True, on_step=True, on_epoch=False, **common)
    module.log("train/loss_epoch", loss, on_step=False, on_epoch=True, sync_dist=True, **common)


def seed_step(seed: int, epoch: int, step: int, rank: int) -> None:
    """Seed torch for one training step, so that a resumed run repeats its random numbers."""
    words = [seed, epoch, step, rank]
    torch.manual_seed(int(np.random.SeedSequence(words).generate_state(1)[0]))
