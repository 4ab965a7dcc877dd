"""What a model is scored in on data that labels something else than it answers."""

import lightning as L
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from faceaffect import AffectModule, LabelSchema
from faceaffect.data.batch import FaceBatch

OWN = LabelSchema((4, 12), ("neutral", "happiness", "anger"))


class Fixed(AffectModule):
    """Says anger of the first face and what is right of the others."""

    def loss(self, batch: FaceBatch) -> Tensor:
        raise NotImplementedError

    def predict(self, batch: FaceBatch) -> dict[str, Tensor]:
        prob = torch.tensor([[0.1, 0.3, 0.6], [0.1, 0.8, 0.1], [0.9, 0.1, 0.0], [0.9, 0.1, 0.0]])
        au = torch.tensor([[0.9, 0.1], [0.9, 0.9], [0.1, 0.1], [0.1, 0.1]])
        return {"au": au, "expression": prob}


class Data(L.LightningDataModule):
    def __init__(self, schema: LabelSchema, batch: FaceBatch) -> None:
        super().__init__()
        self.schema, self.batch = schema, batch

    def test_dataloader(self) -> DataLoader[FaceBatch]:
        return DataLoader([self.batch], batch_size=None)  # type: ignore[arg-type]


def outcome(schema: LabelSchema, expression: list[int], au: list[list[float]]) -> Fixed:
    batch = FaceBatch(
        id=list("abcd"),
        subject=list("abcd"),
        image=torch.zeros(4, 3, 8, 8, dtype=torch.uint8),
        expression=torch.tensor(expression),
        au=torch.tensor(au),
    )
    model = Fixed(OWN)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = L.Trainer(accelerator="cpu", **quiet)
    trainer.test(model, datamodule=Data(schema, batch), verbose=False)
    return model


def test_a_models_own_classes_stay_its_options_on_data_with_fewer() -> None:
    """Of two faces of happiness one is called anger, which the data never has: a wrong answer."""
    data = LabelSchema((12,), ("happiness", "neutral"))
    model = outcome(data, [0, 0, 1, 1], [[0], [1], [0], [0]])
    assert model.predictions is not None
    metrics = model.predictions.metrics()
    assert metrics["expression_war"] == pytest.approx(3 / 4)
    assert metrics["expression_uar"] == pytest.approx((1 / 2 + 1) / 2)
    assert metrics["au_f1"] == 1
    table = model.predictions.table()
    assert [c for c in table if c.startswith("prob/")] == [
        "prob/neutral", "prob/happiness", "prob/anger", "prob/AU12",
    ]  # fmt: skip
    assert table["prob/anger"].tolist() == pytest.approx([0.6, 0.1, 0, 0])
    assert table["target/expression"].tolist() == ["happiness"] * 2 + ["neutral"] * 2


def test_a_class_that_the_model_does_not_know_is_not_scored() -> None:
    data = LabelSchema((4, 12), ("happiness", "neutral", "contempt"))
    model = outcome(data, [2, 0, 2, 1], [[1, 0], [1, 1], [0, 0], [0, 0]])
    assert model.predictions is not None
    assert model.predictions.metrics()["expression_war"] == 1
    assert model.predictions.table()["target/expression"].isna().sum() == 2
