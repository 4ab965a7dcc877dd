"""The one datamodule: any dataset under any protocol, as batches for training and evaluation."""

import inspect
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, Any, Literal
from weakref import WeakSet

import lightning as L
import numpy as np
import torch
from numpy.typing import NDArray

from faceaffect import registry
from faceaffect.components import Component, arguments, create
from faceaffect.data.across import hide
from faceaffect.data.batch import SIGNALS
from faceaffect.data.dataset import FaceDataset as FaceDataset
from faceaffect.data.dataset import Loaded as Loaded
from faceaffect.data.dataset import Samples as Samples
from faceaffect.data.faces.crop import Crop
from faceaffect.data.faces.look import Look, look
from faceaffect.data.faces.mtcnn import Mtcnn
from faceaffect.data.image import IMAGE_SIZE, MAX_PIXELS, pixel_limit
from faceaffect.data.loader import BatchReader, FaceLoader, Features
from faceaffect.data.protocols import Protocol, Split, default_protocol
from faceaffect.data.sampler import EpochBatches, au_weights, expression_weights
from faceaffect.data.subset import fewer_people
from faceaffect.data.transforms import build
from faceaffect.data.views import ViewOrder
from faceaffect.data.workers import cores
from faceaffect.errors import DataError, FaceAffectError, RecipeError, shown, suggest
from faceaffect.recipe.interpolation import check_places
from faceaffect.schema import CLASS_TASKS, NUMBER_TASKS

_BALANCE: dict[str, Callable[[Samples], NDArray[np.float64]]] = {
    "expression": expression_weights,
    "au": au_weights,
}


class FaceDataModule(L.LightningDataModule):
    """Splits a dataset by a protocol and serves its parts in batches.

    Args:
        dataset: labelled faces.
        protocol: how people are shared out over training, validation and test. None takes the
            split that the data publishes (official parts, else published folds), else
            ``subject_kfold``.
        image_size: side of the images in pixels; other shapes are stretched to it.
        batch_size: samples in a batch, of one process.
        num_workers: processes that read for one loader; None chooses by machine and data. What is
            read does not depend on it.
        augment: transforms of training samples, drawn from (seed, epoch, index).
        balance: what training draws equally often: ``expression`` classes, or more often: faces
            with a rare ``au``.
        balance_power: how far, from 0, not at all, to 1, all the way; the weights are raised to it.
        views: so many views of one instance come side by side in the batches of training, for what
            learns from several views; absent, each sample is drawn by itself.
        instances: with ``views``, so many instances of one person at most follow each other, so
            that a batch holds different expressions of one person.
        people: so many people of the training part are left, for learning from less data; absent,
            all. Validation and test stay whole.
        fraction: the same as a share of them.
        subset_seed: of choosing them; a smaller part lies within a larger one of the same seed.
        on_error: ``skip`` leaves unreadable samples out, counts them in ``skipped`` and stops only
            where there are many; ``raise`` stops at the first.
        max_pixels: of the largest picture that is decoded; larger ones are left out as unreadable,
            since a small file can hold a picture that fills the memory. Files may have 200 MB, or
            0.8 bytes for each of so many pixels.
        seed: of order and augmentation; the split has a seed of its own.

    Attributes:
        split: the indices of each part, and what the result says of them.
        schema: names of the labels.
        skipped: samples that could not be read so far: id to reason.
        seen: what :meth:`crop` saw in pictures that are taken as they are.
        view_order: draws the training part in views of one instance; None without ``views``.
    """

    def __init__(
        self,
        dataset: FaceDataset,
        *,
        protocol: Annotated[str | dict[str, Any] | None, Component("protocols")] = None,
        image_size: int = IMAGE_SIZE,
        batch_size: int = 32,
        num_workers: int | None = None,
        augment: Annotated[list[Any] | None, Component("transforms")] = None,
        balance: Literal["none", "expression", "au"] = "none",
        balance_power: float = 1.0,
        views: int | None = None,
        instances: int = 1,
        people: int | None = None,
        fraction: float | None = None,
        subset_seed: int = 0,
        on_error: Literal["raise", "skip"] = "skip",
        max_pixels: int = MAX_PIXELS,
        seed: int = 0,
    ) -> None:
        super().__init__()
        positive = {"image_size": image_size, "batch_size": batch_size, "max_pixels": max_pixels}
        for name, value in positive.items():
            if value < 1:
                raise RecipeError(f"data.{name}: {value} is not positive")
        for name, value, most in (
            ("image_size", image_size, 4096),
            ("batch_size", batch_size, 2**20),
            ("num_workers", num_workers or 0, 256),
        ):
            if not 0 <= value <= most:
                raise RecipeError(f"data.{name}: {shown(value)} is not between 0 and {most}")
        if not 0 <= balance_power <= 1:
            raise RecipeError(f"data.balance_power: {balance_power} is not between 0 and 1")
        if balance != "none" and balance not in dataset.schema.tasks:
            raise RecipeError(
                f"data.balance: the data has no labels for '{balance}'; "
                f"its tasks are: {', '.join(dataset.schema.tasks)}"
            )
        if views is not None and (balance != "none" or dataset.weights is not None):
            raise RecipeError("data.views: goes with no balance and no weights of sources")
        if views is not None and batch_size % views:
            raise RecipeError(f"data.batch_size: {batch_size} is no multiple of {views} views")
        if views is None and instances != 1:
            raise RecipeError("data.instances: goes with data.views")
        self.schema = dataset.schema
        self.image_size = image_size
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.augment = build(augment) if augment else None
        self.balance, self.balance_power = balance, balance_power
        self.on_error: Literal["raise", "skip"] = on_error
        self.max_pixels = max_pixels
        self.seed = seed
        self.skipped: dict[str, str] = {}
        # A process may be left without a test sample, since none is tested twice.
        self.allow_zero_length_dataloader_with_multiple_devices = True
        self.protocol: Protocol = (
            default_protocol(dataset)
            if protocol is None
            else create("protocols", protocol, "data.protocol")
        )
        whole = self.protocol.split(dataset)
        self.split: Split = fewer_people(
            dataset, whole, people=people, fraction=fraction, seed=subset_seed
        )
        self.dataset = hide(dataset, self.split)
        self.view_order: ViewOrder | None = None
        if views is not None and len(self.split.train):
            part = self.dataset.samples.take(self.split.train)
            self.view_order = ViewOrder(part, views, instances)
        self._train: FaceLoader | None = None
        self._loaders: WeakSet[FaceLoader] = WeakSet()
        self._resume: dict[str, int] | None = None
        self.seen: Look | None = None

    def prepare_data(self) -> None:
        """Let the dataset prepare itself; Lightning calls this in one process of each machine."""
        with pixel_limit(self.max_pixels):
            self.dataset.prepare()

    def train_dataloader(self) -> FaceLoader:
        """Return shuffled, balanced and augmented batches of the training part.

        Raises:
            DataError: the protocol leaves nothing to train on.
        """
        if not len(self.split.train):
            raise DataError(f"protocol '{self.split.info['name']}' leaves no sample to train on")
        self._train = self._loader(self.split.train, train=True)
        if self._resume is not None:
            self._train.load_state_dict(self._resume)
        return self._train

    def val_dataloader(self) -> FaceLoader:
        """Return batches of the validation part, in order."""
        return self._loader(self.split.val)

    def test_dataloader(self) -> FaceLoader:
        """Return batches of the test part, in order."""
        return self._loader(self.split.test)

    def predict_dataloader(self) -> FaceLoader:
        """Return batches of the test part, in order; ``protocol: all`` puts every sample there."""
        return self.test_dataloader()

    def in_order(self, side: Literal["train", "val", "test"]) -> FaceLoader:
        """Return batches of a part in the order of the data, without augmentation."""
        return self._loader(getattr(self.split, side))

    def of(self, indices: Sequence[int]) -> FaceLoader:
        """Return batches of some samples in the order given, without augmentation."""
        return self._loader(np.asarray(indices, np.int64))

    def keep(self, features: Features) -> None:
        """Serve features in place of images in the loaders that there are."""
        for loader in list(self._loaders):
            loader.keep(features)

    def teardown(self, stage: str) -> None:
        """Stop the processes that read; Lightning calls this after training and testing."""
        for loader in list(self._loaders):
            loader.close()

    def state_dict(self) -> dict[str, Any]:
        """Return how far training has come within its epoch."""
        return {} if self._train is None else {"train": self._train.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on, in the next training, behind what was seen in the state's epoch.

        A data loader's own state does not do: where the length of training is asked for before a
        checkpoint is restored, as by every schedule, Lightning leaves it out.
        """
        self._resume = state_dict.get("train")

    def statistics(self) -> dict[str, Any]:
        """Return what the labels of the training part look like, for the schema's tasks.

        Returns:
            ``n``: samples; ``au_rate``: AU name to rate of positives among known labels (0 where
            none is known); ``expression_count`` and ``felt_count``: class name to count;
            ``va_mean``: mean valence and arousal; ``intensity_mean``, a list of one; ``eyes`` and
            ``fixations``, where they were measured: ``mean`` and ``std`` of each of their values.
        """
        part, schema = self.dataset.samples.take(self.split.train), self.schema
        found: dict[str, Any] = {"n": len(part)}
        if part.au is not None:
            known = np.maximum((~np.isnan(part.au)).sum(0), 1)
            rate = np.nansum(part.au, 0, dtype=np.float64) / known
            found["au_rate"] = dict(zip(schema.au_names, rate.tolist(), strict=True))
        for task in CLASS_TASKS:
            label = getattr(part, task)
            if label is not None:
                count = np.bincount(label[label >= 0], minlength=len(schema.names(task)))
                named = dict(zip(schema.names(task), count.tolist(), strict=True))
                found[f"{task}_count"] = named
        for task in NUMBER_TASKS:
            value = getattr(part, task)
            if value is not None:
                known = np.maximum((~np.isnan(value)).sum(0), 1)
                found[f"{task}_mean"] = (np.nansum(value, 0, dtype=np.float64) / known).tolist()
        for name in SIGNALS:
            signal = getattr(part, name)
            if signal is not None:
                found[name] = _spread(signal)
        return found

    def look(self, count: int = 32) -> Look:
        """Look at some pictures of the training part (else of the test part) for their faces.

        Args:
            count: how many; of a clip its middle frame.
        """
        part = self.split.train if len(self.split.train) else self.split.test
        chosen = part[np.unique(np.linspace(0, len(part) - 1, min(count, len(part))).astype(int))]
        return look(self._pictures(chosen.tolist()), Mtcnn(), self.image_size)

    def crop(self) -> Crop | None:
        """Return how the faces that a model gets are cut out of pictures.

        For pictures that are taken as they are, it is what some of them show; None where they show
        no face.
        """
        if self.dataset.crop is not None:
            return self.dataset.crop
        if self.seen is None:
            try:
                self.seen = self.look()
            except FaceAffectError as error:  # training needs no finder
                logging.getLogger(__name__).warning("how faces are cropped is not known: %s", error)
                self.seen = Look(0, 0, 0, None)
        return self.seen.crop

    def _pictures(self, indices: list[int]) -> Iterator[tuple[NDArray[np.uint8], Any]]:
        for index in indices:
            try:
                face = self.dataset.load(index)
            except (DataError, OSError):
                continue  # reading for training counts it
            middle = len(face.image) // 2
            clip = face.image.ndim == 4
            points = face.landmarks
            yield (
                face.image[middle] if clip else face.image,
                points[middle] if clip and points is not None else points,
            )

    def _loader(self, indices: NDArray[np.int64], train: bool = False) -> FaceLoader:
        world = self.trainer.world_size if self.trainer else 1
        if 0 < len(indices) < world:
            raise DataError(
                f"a part of the split has {len(indices)} samples, too few for {world} processes; "
                "take fewer devices"
            )
        batches = EpochBatches(
            indices,
            self.batch_size,
            train=train,
            weights=self._weights(indices) if train else None,
            views=self.view_order if train else None,
            seed=self.seed,
            rank=self.trainer.global_rank if self.trainer else 0,
            world=world,
        )
        reader = BatchReader(
            self.dataset,
            self.image_size,
            augment=self.augment if train else None,
            seed=self.seed,
            spare=indices if train else None,
            max_pixels=self.max_pixels,
        )
        workers = _workers(len(batches)) if self.num_workers is None else self.num_workers
        loader = FaceLoader(
            reader, batches, workers=workers, on_error=self.on_error, skipped=self.skipped
        )
        self._loaders.add(loader)
        return loader

    def _weights(self, indices: NDArray[np.int64]) -> NDArray[np.float64] | None:
        own = self.dataset.weights
        if own is None and self.balance == "none":
            return None
        weights = np.ones(len(indices)) if own is None else own[indices]
        if self.balance != "none":
            rarity = _BALANCE[self.balance](self.dataset.samples.take(indices))
            weights = weights * rarity**self.balance_power
        return weights


def _spread(signal: NDArray[np.float32]) -> dict[str, list[float]]:
    """Mean and standard deviation of the known entries of each value, 0 and 1 where none is."""
    rows = signal.reshape(-1, signal.shape[-1]).astype(np.float64)
    known = ~np.isnan(rows)
    count = np.maximum(known.sum(0), 1)
    mean = np.where(known, rows, 0).sum(0) / count
    std = np.sqrt(np.square(np.where(known, rows - mean, 0)).sum(0) / count)
    return {"mean": mean.tolist(), "std": np.where(std > 0, std, 1).tolist()}


def _workers(batches: int) -> int:
    """Return how many processes should read so many batches."""
    free = cores()
    if not torch.cuda.is_available():
        free -= 1  # the model's own
    return min(4, free, batches // 4)


def create_data(name: str, *, run_seed: int = 0, **args: Any) -> FaceDataModule:
    """Build a dataset by its registered name, and the datamodule around it.

    Args:
        name: a name of ``list_data()``.
        run_seed: of order and augmentation; a ``seed`` among the arguments is the dataset's own.
        args: arguments of the dataset and of :class:`FaceDataModule` in one mapping, as they stand
            in the data section of a recipe; one that both take goes to both.

    Raises:
        RecipeError: the name, a key or a value is wrong.
        DataError: the data is missing, damaged or leaking.
    """
    check_places("data", args)
    dataset_class = registry.get("data", name, "data.name")
    own = list(inspect.signature(dataset_class).parameters)
    common = common_keys()
    for key in args:
        if key not in own and key not in common:
            near = suggest(key, [*own, *common])
            raise RecipeError(
                f"data.{key}: unknown key{near or '.'} {name} takes: "
                f"{', '.join(own)}; all data takes: {', '.join(common)}"
            )
    of_dataset = {key: value for key, value in args.items() if key in own}
    of_module = {key: value for key, value in args.items() if key in common}
    checked = arguments(FaceDataModule, of_module, "data", given=_GIVEN)
    dataset = dataset_class(**arguments(dataset_class, of_dataset, "data"))
    return FaceDataModule(dataset, seed=run_seed, **checked)


def common_keys() -> list[str]:
    """Return the keys of a data section that every dataset takes, beside its own."""
    return [key for key in inspect.signature(FaceDataModule).parameters if key not in _GIVEN]


_GIVEN = {"dataset": None, "seed": None}
"""Arguments of the datamodule that do not come from the data section."""
