"""From (epoch, index) pairs to batches: reading, augmenting, collating, what is unreadable."""

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from faceaffect.data.batch import LABELS, SIGNALS, FaceBatch
from faceaffect.data.dataset import FaceDataset, Loaded, Samples
from faceaffect.data.image import MAX_PIXELS, pixel_limit, resize, scale_landmarks
from faceaffect.data.sampler import EpochBatches
from faceaffect.data.transforms import Augment
from faceaffect.data.workers import reading
from faceaffect.errors import DataError

MAX_UNREADABLE = 10
"""So many unreadable samples in one pass are borne, and a tenth of those seen."""


class BatchReader(Dataset[FaceBatch]):
    """Reads whole batches, in whichever worker.

    Args:
        dataset: where samples come from.
        image_size: side of the images in pixels.
        augment: what is done to a sample, seeded by (seed, epoch, index) alone; None for nothing.
        seed: the first part of that seed.
        spare: indices to read instead where fewer than two samples of a batch are readable, so
            that a training batch is not empty, and no single sample meets batch norm; None leaves
            it as it is.
        max_pixels: of the largest picture that is decoded.

    Attributes:
        features: served in place of images once they are known, see :meth:`FaceLoader.keep`.
    """

    def __init__(
        self,
        dataset: FaceDataset,
        image_size: int,
        *,
        augment: Augment | None = None,
        seed: int = 0,
        spare: NDArray[np.int64] | None = None,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        self.dataset = dataset
        self.max_pixels = max_pixels
        self.image_size = image_size
        self.augment = augment
        self.seed = seed
        self.spare = spare
        self.features: Features | None = None

    def __getitems__(self, keys: Sequence[tuple[int, int]]) -> FaceBatch:
        """Return the batch of some (epoch, index) pairs, less the samples that are unreadable."""
        if self.features is not None:
            return self.features.batch(self.dataset.samples, [*keys, *self._spare(keys)], len(keys))
        rows: list[int] = []
        faces: list[Loaded] = []
        skipped: list[tuple[str, str]] = []
        least = min(2, len(keys))
        for epoch, index in [*keys, *self._spare(keys)]:
            if len(rows) + len(skipped) >= len(keys) and len(rows) >= least:
                break
            try:
                faces.append(self.read(epoch, index))
                rows.append(index)
            except (DataError, OSError) as error:
                skipped.append((str(self.dataset.samples.id[index]), str(error)))
        batch = collate(self.dataset.samples, rows, faces, self.image_size)
        if skipped:
            batch["skipped"] = skipped
        return batch

    def read(self, epoch: int, index: int) -> Loaded:
        """Return one sample, resized and augmented.

        Raises:
            DataError: it cannot be read.
        """
        with pixel_limit(self.max_pixels):
            face = self.dataset.load(index)
        image, landmarks, pose = resize(face.image, self.image_size), face.landmarks, face.pose
        if landmarks is not None:
            landmarks = scale_landmarks(landmarks, face.image.shape, self.image_size)
        if self.augment is not None:
            seed = (self.seed, epoch, index)
            image, landmarks, pose = self.augment(image, landmarks, pose, seed=seed)
        return Loaded(image, landmarks, pose)

    def _spare(self, keys: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
        if self.spare is None:
            return []
        epoch, index = keys[0]
        drawn = np.random.default_rng((self.seed, epoch, index)).choice(self.spare, 16)
        return [(epoch, other) for other in drawn.tolist()]


class Features:
    """What frozen networks see of the faces of a dataset, in memory.

    Args:
        table: name to (N, ...).
        ids: whose features the N rows are.
    """

    def __init__(self, table: dict[str, Tensor], ids: Sequence[str]) -> None:
        self.table = table
        self.row = {name: row for row, name in enumerate(ids)}

    def batch(self, samples: Samples, keys: Sequence[tuple[int, int]], size: int) -> FaceBatch:
        """Return labels and features of the first ``size`` of (epoch, index) that have any."""
        known = [index for _, index in keys if str(samples.id[index]) in self.row][:size]
        rows = [self.row[str(samples.id[index])] for index in known]
        batch = label_rows(samples, known)
        batch["features"] = {name: column[rows] for name, column in self.table.items()}
        return batch


def label_rows(samples: Samples, rows: Sequence[int]) -> FaceBatch:
    """Return names and labels of some rows of the label table."""
    index = np.asarray(rows, np.int64)
    batch = FaceBatch(id=samples.id[index].tolist(), subject=samples.subject[index].tolist())
    for name in (*LABELS, *SIGNALS, "instance"):
        column = getattr(samples, name)
        if column is not None:
            batch[name] = torch.from_numpy(column[index])  # type: ignore[literal-required]
    if samples.attributes:
        batch["attributes"] = {n: torch.from_numpy(c[index]) for n, c in samples.attributes.items()}
    return batch


def collate(
    samples: Samples, rows: Sequence[int], faces: Sequence[Loaded], image_size: int
) -> FaceBatch:
    """Return the batch of some rows of the label table and what was loaded for them.

    If any of them is a clip, all become clips; shorter ones are filled up and masked.
    """
    batch = label_rows(samples, rows)
    if any(face.image.ndim == 4 for face in faces):
        frames = [face.image.reshape(-1, *face.image.shape[-3:]) for face in faces]
        length = max(len(clip) for clip in frames)
        video = np.zeros((len(faces), length, 3, image_size, image_size), np.uint8)
        batch["frame_mask"] = torch.zeros(len(faces), length, dtype=torch.bool)
        for row, clip in enumerate(frames):
            batch["frame_mask"][row, : len(clip)] = True
            for planes, frame in zip(video[row], clip, strict=False):
                cv2.split(frame, list(planes))
        batch["video"] = torch.from_numpy(video)
    else:
        image = np.empty((len(faces), 3, image_size, image_size), np.uint8)
        for planes, face in zip(image, faces, strict=True):
            cv2.split(face.image, list(planes))  # several times faster than transposing
        batch["image"] = torch.from_numpy(image)
    return _add_geometry(batch, faces)


def _add_geometry(batch: FaceBatch, faces: Sequence[Loaded]) -> FaceBatch:
    """Add landmarks and pose if any face has them; NaN stands for those of the others."""
    if any(face.pose is not None for face in faces):
        batch["pose"] = torch.full((len(faces), 3), torch.nan)
    if any(face.landmarks is not None for face in faces):
        time = batch["video"].shape[1:2] if "video" in batch else ()
        batch["landmarks"] = torch.full((len(faces), *time, 68, 2), torch.nan)
    for row, face in enumerate(faces):
        if face.pose is not None:
            batch["pose"][row] = _float(face.pose)
        if face.landmarks is not None and "video" in batch:
            clip = _float(face.landmarks).reshape(-1, 68, 2)
            batch["landmarks"][row, : len(clip)] = clip
        elif face.landmarks is not None:
            batch["landmarks"][row] = _float(face.landmarks)
    return batch


def _float(array: NDArray[Any]) -> Tensor:
    return torch.from_numpy(np.asarray(array, np.float32))


class FaceLoader:
    """Iterates over the batches of one side of a split and watches what cannot be read.

    For Lightning it is a data loader that can go on within an epoch: its state is the epoch and
    the number of batches handed out.

    Args:
        reader: reads a batch.
        batches: which samples come when.
        workers: processes that read; 0 reads in this one. They start at the first batch and stay
            until ``close``.
        on_error: what an unreadable sample does: ``skip`` leaves it out and notes it.
        skipped: where the ids of unreadable samples and the reasons are noted.
    """

    def __init__(
        self,
        reader: BatchReader,
        batches: EpochBatches,
        *,
        workers: int = 0,
        on_error: Literal["raise", "skip"] = "skip",
        skipped: dict[str, str] | None = None,
    ) -> None:
        self.sampler = batches
        self.batch_sampler = None  # Lightning asks for both and gives the epoch to either
        self.on_error = on_error
        self.skipped = {} if skipped is None else skipped
        self.reader = reader
        self.loader = self._loader(workers)
        self._done = (0, 0)
        self._resume = (0, 0)

    def _loader(self, workers: int) -> DataLoader[FaceBatch]:
        return DataLoader(
            self.reader,
            batch_sampler=self.sampler,
            collate_fn=_as_it_is,  # type: ignore[arg-type]
            num_workers=workers,
            persistent_workers=workers > 0,
            worker_init_fn=reading,
            pin_memory=torch.cuda.is_available(),
        )

    def keep(self, features: Features) -> None:
        """Serve features in place of images from now on, without processes that read."""
        self.close()
        self.reader.features = features
        self.loader = self._loader(0)

    def __len__(self) -> int:
        """Return the batches of a whole epoch."""
        return len(self.sampler)

    def __iter__(self) -> Iterator[FaceBatch]:
        """Yield the batches of the sampler's epoch; a batch without a readable sample is left out.

        Raises:
            DataError: a sample cannot be read under ``on_error: raise``, too many cannot, or none
                can.
        """
        # A generator, so that nothing is drawn before the trainer has set the epoch.
        epoch, start = self._resume
        self._resume = (0, 0)
        self.sampler.start = start if epoch == self.sampler.epoch else 0
        epoch, done = self.sampler.epoch, self.sampler.start
        seen = unreadable = 0
        for batch in self.loader:
            done += 1
            self._done = (epoch, done)
            bad = batch.get("skipped", [])
            seen += len(batch["id"]) + len(bad)
            unreadable += len(bad)
            self._watch(bad, seen, unreadable)
            if batch["id"]:
                yield batch
        if self.sampler.world == 1 and start == 0 and seen and unreadable == seen:
            raise _unreadable(f"none of the {seen} samples can be read", self.skipped)

    def _watch(self, bad: list[tuple[str, str]], seen: int, unreadable: int) -> None:
        self.skipped.update(bad)
        if bad and self.on_error == "raise":
            raise DataError(f"{bad[0][1]}. data.on_error=skip leaves out and counts such samples")
        if unreadable > max(MAX_UNREADABLE, seen / 10):
            what = f"{unreadable} of the first {seen} samples cannot be read"
            raise _unreadable(what, self.skipped)

    def close(self) -> None:
        """Stop the processes that read; the next iteration starts others.

        Left to the garbage collector, each of them would be waited for in vain, for five seconds.
        """
        if self.loader._iterator is not None:
            self.loader._iterator._shutdown_workers()  # type: ignore[attr-defined]
            self.loader._iterator = None

    def state_dict(self) -> dict[str, int]:
        """Return the epoch and how many of its batches were handed out."""
        return {"epoch": self._done[0], "batches": self._done[1]}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Leave out, in the next iteration, what was handed out in the state's epoch."""
        self._resume = (state["epoch"], state["batches"])


def _unreadable(what: str, skipped: dict[str, str]) -> DataError:
    reasons = list(skipped.values())[:3]
    return DataError(f"{what}, such as {'; '.join(reasons)}")


def _as_it_is(batch: FaceBatch) -> FaceBatch:
    return batch
