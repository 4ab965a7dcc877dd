import io
import pickle
import sys
from concurrent.futures import ProcessPoolExecutor
from contextlib import redirect_stderr
from multiprocessing import active_children, get_context
from pathlib import Path
from typing import Any

import cv2
import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from threadpoolctl import threadpool_info

from faceaffect.data.base import FaceDataModule, FaceDataset, Loaded, Samples, create_data
from faceaffect.data.image import read_image, resize, scale_landmarks
from faceaffect.data.loader import collate
from faceaffect.data.sampler import EpochBatches, au_weights, expression_weights, systematic
from faceaffect.data.workers import reading
from faceaffect.errors import DataError, RecipeError
from faceaffect.schema import LabelSchema
from faces import face, write_csv, write_image

SCHEMA = LabelSchema((1, 12), ("neutral", "happiness", "anger"), True)


class Generated(FaceDataset):
    """Faces that are drawn when they are loaded, of people who have six each."""

    def __init__(self, n: int = 48, unreadable: tuple[int, ...] = ()) -> None:
        index = np.arange(n)
        rng = np.random.default_rng(0)
        self.unreadable = unreadable
        samples = Samples(
            id=np.array([f"0/{i}" for i in index]),
            subject=np.array([f"person {i // 6}" for i in index]),
            au=(rng.random((n, 2)) < (0.5, 0.1)).astype(np.float32),
            expression=np.minimum(index % 6, 2),
            va=rng.uniform(-1, 1, (n, 2)).astype(np.float32),
            attributes={"group": index % 2},
        )
        super().__init__(SCHEMA, samples, attribute_names={"group": ("a", "b")})

    def load(self, index: int) -> Loaded:
        if index in self.unreadable:
            raise DataError(f"0/{index}: damaged")
        landmarks = np.full((68, 2), 10 + index % 7, np.float32)
        return Loaded(face(index % 3, index, (40, 20)), landmarks, np.zeros(3, np.float32))


def data(n: int = 48, unreadable: tuple[int, ...] = (), **args: Any) -> FaceDataModule:
    args = {"batch_size": 4, "image_size": 32, "num_workers": 0} | args
    return FaceDataModule(Generated(n, unreadable), **args)


def seen(loader: Any, epoch: int = 0) -> list[tuple[tuple[str, ...], int]]:
    """Return ids and a checksum of the pixels of each batch of an epoch."""
    loader.sampler.set_epoch(epoch)
    return [(tuple(batch["id"]), int(batch["image"].long().sum())) for batch in loader]


# Images


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp", ".webp"])
def test_images_of_any_kind_become_rgb_bytes(tmp_path: Path, suffix: str) -> None:
    image = cv2.GaussianBlur(face(1), (0, 0), 2)
    read = read_image(write_image(tmp_path / f"colour{suffix}", image))
    assert (read.shape, read.dtype) == ((48, 48, 3), np.uint8)
    assert np.abs(read.astype(int) - image).mean() < 6
    grey = read_image(write_image(tmp_path / f"grey{suffix}", image[..., 0]))
    assert grey.shape == (48, 48, 3)
    assert (grey == grey[..., :1]).all()


def test_sixteen_bits_and_transparency_are_reduced(tmp_path: Path) -> None:
    image = face(1)
    deep = read_image(write_image(tmp_path / "deep.png", image.astype(np.uint16) * 257))
    assert np.array_equal(deep, image)
    layered = np.dstack([image[..., ::-1], np.full((48, 48), 7, np.uint8)])
    assert np.array_equal(read_image(write_image(tmp_path / "clear.png", layered)), image)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("gone.jpg", None, "No such file"),
        ("zero.jpg", b"", "the file is empty"),
        ("text.png", b"hello world" * 9, "not readable as an image"),
        ("cut.jpg", "half", "truncated"),
        ("cut.png", "half", "not readable as an image"),
    ],
)
def test_unreadable_images_are_named(
    tmp_path: Path, name: str, content: bytes | str | None, reason: str
) -> None:
    path = tmp_path / name
    if content == "half":
        whole = write_image(path, face()).read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
    elif isinstance(content, bytes):
        path.write_bytes(content)
    with pytest.raises(DataError, match=reason) as error:
        read_image(path)
    assert str(path) in str(error.value)


def test_resizing_keeps_landmarks_on_their_pixels() -> None:
    image = np.zeros((40, 20, 3), np.uint8)
    image[30:34, 4:6] = 255
    small = resize(image, 80)
    centre = np.array([[4.5, 31.5]])
    x, y = scale_landmarks(centre, image.shape, 80)[0]
    rows, columns = np.nonzero(small[..., 0] > 127)
    assert np.allclose((columns.mean(), rows.mean()), (x, y), atol=0.3)
    assert resize(image[:20], 20) is not None
    assert resize(np.stack([image, image]), 16).shape == (2, 16, 16, 3)


# Batches


def test_a_batch_has_the_form_of_the_contract() -> None:
    batch = next(iter(data().train_dataloader()))
    assert batch["image"].shape == (4, 3, 32, 32)
    assert batch["image"].dtype == torch.uint8
    assert batch["image"].is_contiguous()
    assert (batch["au"].dtype, batch["va"].dtype) == (torch.float32, torch.float32)
    assert batch["expression"].dtype == torch.int64
    assert batch["landmarks"].shape == (4, 68, 2)
    assert batch["pose"].shape == (4, 3)
    assert set(batch["attributes"]) == {"group"}
    assert len(batch["id"]) == len(batch["subject"]) == 4
    assert all(isinstance(name, str) for name in batch["id"])


def test_labels_and_pixels_stay_with_their_id() -> None:
    module = data()
    samples = module.dataset.samples
    for batch in module.train_dataloader():
        for row, name in enumerate(batch["id"]):
            index = samples.id.tolist().index(name)
            image = resize(module.dataset.load(index).image, 32)
            assert np.array_equal(batch["image"][row].permute(1, 2, 0).numpy(), image)
            assert batch["expression"][row] == samples.expression[index]
            assert batch["subject"][row] == samples.subject[index]


def test_after_training_no_process_reads_on_and_another_training_starts_new_ones() -> None:
    module = data(num_workers=2)
    loader = module.train_dataloader()
    first = seen(loader)
    before = active_children()
    assert len(before) >= 2
    module.teardown("fit")
    assert len(active_children()) == len(before) - 2
    assert seen(loader) == first
    module.teardown("fit")


def test_order_and_augmentation_come_from_seed_and_epoch_alone() -> None:
    augmented = {"augment": ["light"]}
    first = data(**augmented).train_dataloader()
    zero, one = seen(first, 0), seen(first, 1)
    assert zero != one
    assert seen(first, 0) == zero
    assert seen(data(**augmented, num_workers=2).train_dataloader(), 1) == one
    assert seen(data(**augmented, seed=1).train_dataloader(), 0) != zero
    plain = dict(seen(data().train_dataloader(), 0))
    assert list(plain) == [ids for ids, _ in zero]
    assert list(plain.items()) != zero


def test_evaluation_is_in_order_whole_and_never_augmented() -> None:
    module = data(augment=["light"])
    test = seen(module.test_dataloader())
    assert [i for ids, _ in test for i in ids] == [f"0/{i}" for i in module.split.test]
    assert test == seen(data().test_dataloader())


def test_clips_and_images_share_a_batch() -> None:
    samples = Generated(3).samples
    clip = Loaded(np.ones((5, 16, 16, 3), np.uint8), np.ones((5, 68, 2), np.float32))
    image = Loaded(np.full((16, 16, 3), 2, np.uint8), pose=np.ones(3, np.float32))
    batch = collate(samples, [0, 2], [clip, image], 16)
    assert batch["video"].shape == (2, 5, 3, 16, 16)
    assert batch["frame_mask"].tolist() == [[True] * 5, [True] + [False] * 4]
    assert batch["video"][1].sum() == 2 * 3 * 16 * 16
    assert batch["landmarks"].shape == (2, 5, 68, 2)
    assert batch["landmarks"][1].isnan().all()
    assert batch["pose"].isnan().tolist() == [[True] * 3, [False] * 3]
    assert "image" not in batch


def test_a_dataset_survives_pickling() -> None:
    reader = pickle.loads(pickle.dumps(data(augment=["light"]).train_dataloader().loader.dataset))
    assert len(reader.__getitems__([(0, 0), (0, 1)])["id"]) == 2


# Samplers


@pytest.mark.parametrize("n", [9, 10, 21])
def test_processes_share_evaluation_without_repeats_and_training_in_equal_steps(n: int) -> None:
    indices = np.arange(100, 100 + n)
    for world in (1, 2, 3):
        test = [EpochBatches(indices, 4, rank=r, world=world) for r in range(world)]
        drawn = [index for b in test for batch in b for _, index in batch]
        assert sorted(drawn) == indices.tolist()
        train = [EpochBatches(indices, 4, train=True, rank=r, world=world) for r in range(world)]
        batches = [list(b) for b in train]
        assert len({len(b) for b in batches}) == 1
        assert all(len(b) == len(t) for b, t in zip(batches, train, strict=True))
        drawn = [index for b in batches for batch in b for _, index in batch]
        assert len(set(drawn)) == len(drawn)


def test_training_drops_an_incomplete_batch_only_beside_a_complete_one() -> None:
    assert [len(b) for b in EpochBatches(np.arange(10), 4, train=True)] == [4, 4]
    assert [len(b) for b in EpochBatches(np.arange(3), 4, train=True)] == [3]
    assert [len(b) for b in EpochBatches(np.arange(10), 4)] == [4, 4, 2]


def test_balanced_training_draws_every_class_equally_often() -> None:
    module = data(288, balance="expression")
    label = module.dataset.samples.expression
    drawn = module.train_dataloader().sampler.order(0)
    assert set(drawn.tolist()) <= set(module.split.train.tolist())
    count = np.bincount(label[drawn])
    assert count.max() - count.min() <= 2
    assert np.ptp(np.bincount(label[module.split.train])) > 50
    once = [np.bincount(module.train_dataloader().sampler.order(e)).max() for e in range(3)]
    assert max(once) <= 2  # the rare classes twice or thrice would be a scatter


def test_balance_can_go_half_the_way() -> None:
    def counts(power: float) -> np.ndarray:
        module = data(288, balance="expression", balance_power=power)
        drawn = module.train_dataloader().sampler.order(0)
        return np.bincount(module.dataset.samples.expression[drawn])

    none, half, full = (counts(power) for power in (0.0, 0.5, 1.0))
    # Class shares n^(1 - power): the square root's are between, each within a draw of its own.
    expected = none**0.5 / (none**0.5).sum() * none.sum()
    assert np.abs(half - expected).max() <= 2
    assert np.ptp(full) < np.ptp(half) < np.ptp(none)


def test_systematic_draws_are_expected_counts_rounded() -> None:
    weights = np.array([0.5, 1.0, 2.0, 0.25, 1.25])
    for offset in (0.0, 0.3, 0.999):
        count = np.bincount(systematic(weights, offset), minlength=5)
        assert (np.abs(count - weights) < 1).all()
        assert count.sum() == 5


def test_weights_leave_unknown_labels_their_share_and_raise_rare_units() -> None:
    samples = Generated(12).samples
    samples.expression = np.array([0] * 6 + [1] * 2 + [-1] * 4)
    weights = expression_weights(samples)
    assert np.allclose(weights, [2 / 3] * 6 + [2] * 2 + [1] * 4)
    assert np.isclose(weights.mean(), 1)
    samples.au = np.array([[1, 0]] * 6 + [[0, 1]] + [[0, 0]] * 4 + [[np.nan, np.nan]], np.float32)
    weights = au_weights(samples)
    assert np.allclose(weights[:6], 1)
    assert np.isclose(weights[6], np.sqrt(0.5 * 11))
    assert np.allclose(weights[7:], 1)


def test_statistics_are_those_of_the_training_part() -> None:
    module = data()
    part = module.dataset.samples.take(module.split.train)
    found = module.statistics()
    assert found["n"] == len(part)
    assert np.isclose(found["au_rate"]["AU12"], part.au[:, 1].mean())
    assert found["expression_count"]["anger"] == (part.expression == 2).sum()
    assert np.allclose(found["va_mean"], part.va.mean(0))
    assert type(found["expression_count"]["anger"]) is int


# What cannot be read


def test_unreadable_samples_are_left_out_and_noted() -> None:
    module = data(unreadable=(1, 2))
    batches = [batch for part in (module.train_dataloader(), module.val_dataloader(),
                                  module.test_dataloader()) for batch in part]  # fmt: skip
    assert module.skipped == {"0/1": "0/1: damaged", "0/2": "0/2: damaged"}
    assert {"0/1", "0/2"}.isdisjoint(name for batch in batches for name in batch["id"])
    assert sum(len(batch.get("skipped", [])) for batch in batches) == 2
    assert all(len(batch["image"]) == len(batch["id"]) for batch in batches)


@pytest.mark.parametrize("workers", [0, 1])
def test_on_error_raise_stops_with_the_one_line(workers: int) -> None:
    module = data(12, tuple(range(12)), on_error="raise", num_workers=workers,
                  protocol={"name": "subject_kfold", "folds": 2, "selection": "test"})  # fmt: skip
    with pytest.raises(DataError, match=r"^0/\d+: damaged. data.on_error=skip"):
        list(module.test_dataloader())


def test_many_unreadable_samples_stop_the_run() -> None:
    module = data(120, tuple(range(0, 120, 5)), protocol="all")
    with pytest.raises(DataError, match=r"11 of the first \d+ samples cannot be read"):
        list(module.test_dataloader())


def test_no_batch_is_empty() -> None:
    module = data(24, (0, 1, 2), protocol="all", batch_size=1)
    assert [batch["id"][0] for batch in module.test_dataloader()] == [
        f"0/{i}" for i in range(3, 24)
    ]
    module = data(36, (7, 8, 9), batch_size=1)
    loader = module.train_dataloader()
    assert len(list(loader)) == len(loader) == len(module.split.train)


# Resuming


class Kill(Exception):
    pass


class Recorder(L.LightningModule):
    def __init__(self, kill: int | None = None) -> None:
        super().__init__()
        self.net = torch.nn.Linear(3, 1)
        self.kill = kill
        self.seen: list[Any] = []

    def training_step(self, batch: Any, index: int) -> torch.Tensor:
        if self.global_step == self.kill:
            raise Kill
        self.seen.append((self.current_epoch, index, batch["id"], int(batch["image"].sum())))
        return self.net(batch["image"].float().mean((2, 3))).mean()

    def validation_step(self, batch: Any, index: int) -> None:
        self.log("v", self.net(batch["image"].float().mean((2, 3))).mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 1e-3)


def fit(kill: int | None, last: Path | None, *callbacks: Callback, **args: Any) -> list[Any]:
    model = Recorder(kill)
    trainer = L.Trainer(
        max_epochs=3, accelerator="cpu", logger=False, callbacks=list(callbacks),
        enable_checkpointing=bool(callbacks), enable_progress_bar=False,
        enable_model_summary=False, use_distributed_sampler=False, **args,
    )  # fmt: skip
    module = data(augment=["light"], balance="expression")
    try:
        trainer.fit(model, datamodule=module, ckpt_path=last, weights_only=True if last else None)
    except Kill:
        assert kill is not None
    return model.seen


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("limit", [1.0, 5])
@pytest.mark.parametrize("when", ["each step", "epoch", "validation"])
def test_a_resumed_run_sees_what_an_uninterrupted_one_sees(
    tmp_path: Path, when: str, limit: float
) -> None:
    options = {
        "each step": {"every_n_train_steps": 1},
        "epoch": {"save_on_train_epoch_end": True},
        "validation": {"save_on_train_epoch_end": False},
    }[when]
    whole = fit(None, None, limit_train_batches=limit)
    steps = len(whole) // 3
    for kill in (steps - 1, steps + 2, 2 * steps):
        keep = ModelCheckpoint(
            tmp_path / str(kill), "last", enable_version_counter=False, **options
        )
        fit(kill, None, keep, limit_train_batches=limit)
        last = tmp_path / str(kill) / "last.ckpt"
        done = kill if when == "each step" else kill // steps * steps
        if done:
            assert fit(None, last, limit_train_batches=limit) == whole[done:]


# Building


def test_create_data_splits_one_mapping_between_dataset_and_module(tmp_path: Path) -> None:
    table = write_csv(tmp_path)
    module = create_data("csv", table=str(table), batch_size=5, image_size=24, run_seed=3)
    assert (module.batch_size, module.seed, module.image_size) == (5, 3, 24)
    assert module.dataset.image_size == 24
    assert module.schema.au_names == ("AU1", "AU12")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"batch_sise": 3}, "data.batch_sise: unknown key; did you mean 'batch_size'"),
        ({"clases": ["a"]}, "did you mean 'classes'"),
        ({"batch_size": "many"}, "data.batch_size"),
        ({"batch_size": 0}, "data.batch_size: 0 is not positive"),
        ({"balance": "va"}, "data.balance"),
        ({"balance_power": 1.5}, "data.balance_power: 1.5 is not between 0 and 1"),
        ({"protocol": "subject_fold"}, "did you mean 'subject_kfold'"),
        ({"protocol": {"name": "subject_kfold", "flod": 1}}, "did you mean 'fold'"),
        ({"protocol": {"name": "subject_kfold", "fold": 6}}, "the folds are 1 to 5"),
        ({"protocol": {"name": "official", "selection": "best"}}, "selection"),
        ({"augment": ["lihgt"]}, "did you mean 'light'"),
        ({"on_error": "stop"}, "data.on_error"),
    ],
)
def test_a_wrong_argument_is_named(tmp_path: Path, args: dict[str, Any], message: str) -> None:
    table = write_csv(tmp_path, 2, 1)
    with pytest.raises(RecipeError) as error:
        create_data("csv", table=str(table), **args)
    assert message in str(error.value)


def test_balance_needs_labels_and_training_needs_samples() -> None:
    with pytest.raises(DataError, match="'all' leaves no sample to train on"):
        data(protocol="all").train_dataloader()
    dataset = Generated()
    dataset.schema = LabelSchema((1, 12))
    with pytest.raises(RecipeError, match="no labels for 'expression'"):
        FaceDataModule(dataset, balance="expression")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id": np.array(["a", "a"])}, "the id 'a' occurs twice"),
        ({"subject": np.array(["a"])}, r"subject has the shape \(1,\)"),
        ({"au": None}, "no labels for 'au'"),
        ({"au": np.array([[0, 2], [1, 0]], np.float32)}, "other than 0, 1 and NaN"),
        ({"expression": np.array([0, 3])}, "holds 0 to 3, expected -1 to 2"),
        ({"va": np.array([[0, 0], [1.5, 0]], np.float32)}, "outside"),
    ],
)
def test_a_label_table_that_cannot_be_is_refused(change: dict[str, Any], message: str) -> None:
    samples = Generated(2).samples
    for name, column in change.items():
        setattr(samples, name, column)
    with pytest.raises(DataError, match=message):
        FaceDataset(SCHEMA, samples)


def test_an_empty_table_is_refused() -> None:
    with pytest.raises(DataError, match="no sample is left"):
        FaceDataset(SCHEMA, Generated(2).samples.take([]))


def threads_of_a_loading_process() -> list[int]:
    reading(0)
    return [cv2.getNumThreads(), *(pool["num_threads"] for pool in threadpool_info())]


def test_a_loading_process_computes_on_one_thread() -> None:
    with ProcessPoolExecutor(1, mp_context=get_context("fork")) as pool:
        threads = pool.submit(threads_of_a_loading_process).result()
    assert len(threads) > 1
    assert max(threads) == 1


def shown_by_a_loading_process() -> str:
    reading(0)
    with redirect_stderr(io.StringIO()) as shown:
        for error in (ConnectionResetError("left"), EOFError("left"), ValueError("damaged")):
            sys.excepthook(type(error), error, None)
    return shown.getvalue()


def test_a_batch_that_nobody_takes_any_more_is_no_error_to_show() -> None:
    """As where Ctrl-C ends the process that trains while a batch is handed over."""
    with ProcessPoolExecutor(1, mp_context=get_context("fork")) as pool:
        shown = pool.submit(shown_by_a_loading_process).result()
    assert shown == "ValueError: damaged\n"
