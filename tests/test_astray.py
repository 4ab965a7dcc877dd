"""A training that goes astray stops before its weights are judged or kept."""

import lightning as L
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from batches import face_batch
from faceaffect import AffectModule, LabelSchema
from faceaffect.data.batch import FaceBatch
from faceaffect.errors import FaceAffectError

SCHEMA = LabelSchema(expressions=("neutral", "happiness"))


class Astray(AffectModule):
    """Its loss is 0, its gradient is not finite."""

    def __init__(self, schema: LabelSchema) -> None:
        super().__init__(schema)
        self.weight = nn.Parameter(torch.zeros(1))

    def loss(self, batch: FaceBatch) -> Tensor:
        return self.weight.sqrt().sum()

    def predict(self, batch: FaceBatch) -> dict[str, Tensor]:
        raise AssertionError("spoilt weights are not asked")


def test_spoilt_weights_are_not_validated_and_the_error_says_what_to_do() -> None:
    model = Astray(SCHEMA)
    loader = DataLoader([face_batch(SCHEMA)], batch_size=None)  # type: ignore[arg-type]
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = L.Trainer(
        accelerator="cpu", max_epochs=1, enable_checkpointing=False, num_sanity_val_steps=0, **quiet
    )
    model.optim.lr = 0.5
    with pytest.raises(FaceAffectError, match=r"weights weight became NaN .* in epoch 1") as caught:
        trainer.fit(model, loader, loader)
    for way_out in ("optim.lr=0.05", "trainer.gradient_clip_val=1", "optim.warmup_epochs"):
        assert way_out in str(caught.value)
