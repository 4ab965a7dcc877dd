"""Votes for several classes stay what they are on their way from the data to the loss."""

from pathlib import Path

import numpy as np
import torch

from faceaffect.data.base import create_data
from faceaffect.data.batch import FaceBatch, frames, move_labels
from faceaffect.networks.heads import TaskLosses, expression_target
from faceaffect.schema import LabelSchema
from trees import rafdb, sets

NAN = float("nan")


def test_shares_move_by_name_and_votes_for_a_missing_class_do_not_count() -> None:
    source = LabelSchema(expressions=("neutral", "anger", "contempt"))
    target = LabelSchema(expressions=("anger", "neutral", "fear"))
    batch = FaceBatch(
        expression=torch.tensor([1, 2, -1]),
        expression_share=torch.tensor([[0.2, 0.6, 0.2], [0, 0, 1], [NAN, NAN, NAN]]),
    )
    moved = move_labels(batch, source, target)
    assert moved["expression"].tolist() == [0, -1, -1]
    torch.testing.assert_close(
        moved["expression_share"],
        torch.tensor([[0.75, 0.25, 0], [NAN, NAN, NAN], [NAN, NAN, NAN]]),
        equal_nan=True,
    )
    assert "expression_share" not in move_labels(batch, source, LabelSchema(aus=(1,)))


def test_frames_of_a_clip_have_its_shares() -> None:
    batch = FaceBatch(
        video=torch.zeros(2, 2, 3, 4, 4, dtype=torch.uint8),
        frame_mask=torch.tensor([[True, True], [True, False]]),
        expression_share=torch.tensor([[0.5, 0.5], [0.0, 1.0]]),
    )
    flat, _ = frames(batch)
    assert flat["expression_share"].tolist() == [[0.5, 0.5], [0.5, 0.5], [0, 1]]


def test_faces_without_votes_are_trained_on_their_class() -> None:
    schema = LabelSchema(expressions=("a", "b"))
    batch = FaceBatch(
        expression=torch.tensor([1, 0, -1]),
        expression_share=torch.tensor([[0.4, 0.6], [NAN, NAN], [NAN, NAN]]),
    )
    target = expression_target(batch, 2)
    torch.testing.assert_close(target[:2], torch.tensor([[0.4, 0.6], [1, 0]]))
    assert target[2].isnan().all()
    logits = torch.tensor([[1.0, -1.0], [0.5, 0.2], [3.0, 1.0]])
    expected = -(target[:2] * logits[:2].log_softmax(1)).sum() / 2
    torch.testing.assert_close(TaskLosses(schema)({"expression": logits}, batch), expected)


def test_a_mixture_keeps_the_votes_of_its_sources(tmp_path: Path) -> None:
    sources = [
        {"name": "rafdb", "root": str(rafdb.write(tmp_path / "r"))},
        {"name": "ferplus", "root": str(sets.ferplus(tmp_path / "f")), "votes": "soft"},
    ]
    data = create_data("mixture", sources=sources).dataset
    share, names = data.samples.expression_share, data.schema.expressions
    assert share is not None
    of = np.char.startswith(data.samples.id, "ferplus")
    assert np.isnan(share[~of]).all()
    np.testing.assert_allclose(share[of].sum(1), 1, atol=1e-6)
    first = dict(zip(names, share[of][0].tolist(), strict=True))
    assert first["neutral"] == np.float32(0.7)
    assert first["happiness"] == np.float32(0.3)
    assert data.left_out["ferplus: unknown"] == 4
    hard = [sources[0], {**sources[1], "votes": "majority"}]
    assert create_data("mixture", sources=hard).dataset.samples.expression_share is None
