"""Views of one instance side by side in training."""

from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch

from faceaffect.data.base import FaceDataModule, create_data
from faceaffect.data.dataset import Samples
from faceaffect.data.sampler import EpochBatches
from faceaffect.data.views import ViewOrder
from faceaffect.errors import RecipeError
from faceaffect.runs.uses import doubts
from faces import write_csv

SIZES = (5, 2, 4, 1, 5, 3, 2, 4)
"""Samples of each instance; the person of instance k is k modulo 3."""


def samples(sizes: tuple[int, ...] = SIZES, alone: int = 3) -> Samples:
    instance = np.array([*np.repeat(range(len(sizes)), sizes), *[-1] * alone])
    instance = np.random.default_rng(0).permutation(instance)
    return Samples(
        id=np.array([str(i) for i in range(len(instance))]),
        subject=np.array([f"p{k % 3}" for k in instance]),
        instance=instance,
    )


def drawn(order: ViewOrder, epoch: int) -> np.ndarray:
    return order.draw(np.random.default_rng((7, epoch)))


@pytest.mark.parametrize(("views", "blocks", "never"), [(2, 11, 4), (4, 4, 11), (5, 2, 19)])
def test_a_block_shows_one_instance_and_no_sample_twice(
    views: int, blocks: int, never: int
) -> None:
    table = samples()
    order = ViewOrder(table, views)
    assert (order.blocks, order.never) == (blocks, never)
    for epoch in range(3):
        found = drawn(order, epoch)
        assert found.shape == (blocks, views)
        assert len(np.unique(found)) == found.size
        shown = table.instance[found]
        assert (shown == shown[:, :1]).all()
        assert (shown >= 0).all()
    assert np.array_equal(drawn(order, 0), drawn(order, 0))
    assert not np.array_equal(drawn(order, 0), drawn(order, 1))


def test_every_sample_of_enough_views_has_its_turn() -> None:
    table = samples()
    order = ViewOrder(table, 2)
    seen = {int(i) for epoch in range(30) for i in drawn(order, epoch).ravel()}
    enough = np.isin(table.instance, [k for k, size in enumerate(SIZES) if size >= 2])
    assert seen == {*np.flatnonzero(enough).tolist()}


def test_instances_of_a_person_follow_each_other() -> None:
    instance = np.repeat(np.arange(24), 2)  # of six people, four each
    table = Samples(
        id=np.arange(48).astype(str), subject=(instance % 6).astype(str), instance=instance
    )
    for epoch in range(3):
        person = instance[drawn(ViewOrder(table, 2, instances=4), epoch)[:, 0]] % 6
        assert (person.reshape(6, 4) == person.reshape(6, 4)[:, :1]).all()
        halves = instance[drawn(ViewOrder(table, 2, instances=2), epoch)[:, 0]] % 6
        assert (halves.reshape(12, 2) == halves.reshape(12, 2)[:, :1]).all()
        assert (halves.reshape(6, 4) != halves.reshape(6, 4)[:, :1]).any()


def test_processes_share_whole_blocks_and_a_start_leaves_out_what_was_seen() -> None:
    table = samples((2,) * 25, alone=0)
    indices = np.arange(100, 150)
    order = ViewOrder(table, 2)
    parts = []
    for rank in range(3):
        batches = EpochBatches(indices, 4, train=True, views=order, seed=3, rank=rank, world=3)
        batches.set_epoch(2)
        whole = list(batches)
        assert len(whole) == len(batches) == 4
        for batch in whole:
            shown = table.instance[[i - 100 for _, i in batch]].reshape(-1, 2)
            assert (shown[:, 0] == shown[:, 1]).all()
            assert {epoch for epoch, _ in batch} == {2}
        batches.start = 3
        assert list(batches) == whole[3:]
        parts.append({i for batch in whole for _, i in batch})
    assert not parts[0] & parts[1]
    assert not (parts[0] | parts[1]) & parts[2]


def test_without_views_the_order_is_what_it_was() -> None:
    indices = np.arange(50, 90)
    batches = EpochBatches(indices, 8, train=True, seed=5)
    batches.set_epoch(4)
    wanted = indices[np.random.default_rng((5, 4)).permutation(40)]
    assert [i for batch in batches for _, i in batch] == wanted.tolist()


WORLD: dict[str, Any] = {"name": "synthetic", "n": 72, "subjects": 6, "seed": 3, "image_size": 32,
                         "yaws": [-40, 0, 40], "aus": [], "valence_arousal": False,
                         "batch_size": 6, "num_workers": 0}  # fmt: skip


def test_a_batch_of_the_datamodule_holds_whole_blocks() -> None:
    data = create_data(**WORLD, views=3, instances=2)
    (batch, *_) = list(data.train_dataloader())
    assert batch["instance"].dtype == torch.int64
    assert torch.unique(batch["instance"], return_counts=True)[1].tolist() == [3, 3]
    assert len(set(batch["subject"])) == 1
    assert [i // 3 for i in map(int, (name[3:] for name in batch["id"]))] == batch[
        "instance"
    ].tolist()
    plain = next(iter(data.val_dataloader()))
    assert [*map(int, (name[3:] for name in plain["id"]))] == sorted(
        map(int, (name[3:] for name in plain["id"]))
    )


class Recorder(L.LightningModule):
    def __init__(self, kill: int | None = None) -> None:
        super().__init__()
        self.net, self.kill, self.seen = torch.nn.Linear(1, 1), kill, list[Any]()

    def training_step(self, batch: Any, index: int) -> torch.Tensor:
        if self.global_step == self.kill:
            raise KeyError
        self.seen.append((self.current_epoch, batch["id"], int(batch["image"].sum())))
        return self.net(batch["image"].float().mean().view(1, 1)).mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 1e-3)


def fit(tmp_path: Path, kill: int | None = None, last: Path | None = None) -> list[Any]:
    model = Recorder(kill)
    keep = L.pytorch.callbacks.ModelCheckpoint(
        tmp_path, "last", every_n_train_steps=1, enable_version_counter=False
    )
    trainer = L.Trainer(
        max_epochs=2, accelerator="cpu", logger=False, callbacks=[keep], limit_val_batches=0,
        enable_progress_bar=False, enable_model_summary=False, use_distributed_sampler=False,
    )  # fmt: skip
    data = create_data(**WORLD, views=3, augment=["light"])
    try:
        trainer.fit(model, datamodule=data, ckpt_path=last, weights_only=True if last else None)
    except KeyError:
        assert kill is not None
    return model.seen


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_resumed_run_sees_the_same_views(tmp_path: Path) -> None:
    whole = fit(tmp_path / "whole")
    kill = len(whole) // 2 + 2
    assert fit(tmp_path / "cut", kill) == whole[:kill]
    assert fit(tmp_path / "more", None, tmp_path / "cut" / "last.ckpt") == whole[kill:]


def test_faces_that_are_never_drawn_are_said() -> None:
    data = create_data(**WORLD | {"n": 71}, views=3, protocol={"name": "subject_kfold", "folds": 6})
    lines = {fold: doubts(_fold(fold)) for fold in (1, 2, 3, 4, 5, 6)}
    assert data.view_order is not None
    told = [line for found in lines.values() for line in found if "never drawn" in line]
    assert told
    assert {
        "2 faces to train on have fewer than 3 views of their instance and are never drawn"
    } == {*told}


def _fold(fold: int) -> FaceDataModule:
    protocol = {"name": "subject_kfold", "folds": 6, "fold": fold}
    return create_data(**WORLD | {"n": 71}, views=3, protocol=protocol)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"views": 1}, "data.views: 1: at least 2"),
        ({"views": 3, "instances": 0}, "data.instances: 0 is not positive"),
        ({"views": 6}, "no instance of the training part has more than 3"),
        ({"views": 4, "batch_size": 8}, "no instance of the training part has more than 3"),
        ({"views": 4}, "data.batch_size: 6 is no multiple of 4 views"),
        ({"instances": 2}, "data.instances: goes with data.views"),
        ({"views": 3, "balance": "expression"}, "goes with no balance"),
        ({"views": 2, "yaws": None}, "does not tell which samples are views"),
    ],
)
def test_what_cannot_be_is_named(given: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        create_data(**WORLD | given)


def test_files_of_a_user_tell_of_no_views(tmp_path: Path) -> None:
    table = str(write_csv(tmp_path))
    with pytest.raises(RecipeError, match="'multiview' does"):
        create_data("csv", table=table, views=2, batch_size=8)
