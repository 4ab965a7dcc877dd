"""A finished model as an entrant of its own: it is tested and compared as it is."""

from typing import Any

from torch import Tensor

from faceaffect.data.batch import FaceBatch
from faceaffect.errors import RecipeError
from faceaffect.models.loading import answering, load_model
from faceaffect.module import AffectModule
from faceaffect.schema import LabelSchema


class Trained(AffectModule):
    """A model that needs no training here: one that the package ships, or an exported one.

    Args:
        schema: not used: the file says what the model answers.
        file: ``asset:real_expression``, a checkpoint, or what ``faceaffect export`` wrote.

    Raises:
        CheckpointError: the file is missing or damaged, or holds no model that answers.
        RecipeError: the package ships no such model, or it speaks, and then a run folder or its
            own recipe is what to name.
    """

    needs_training = False

    def __init__(self, schema: LabelSchema | dict[str, Any], *, file: str) -> None:
        model = answering(load_model(file))
        if hasattr(model, "describe"):
            raise RecipeError(f"model.file: {file} answers in words; name its run folder instead")
        super().__init__(model.schema)
        self.inner = model.requires_grad_(False)
        self.crop, self.image_size = model.crop, model.image_size

    def loss(self, batch: FaceBatch) -> Tensor:
        """Refuse: it is used as it is."""
        raise RecipeError("model 'trained' is not trained on; see real_expression_finetune")

    def predict(self, batch: FaceBatch) -> dict[str, Tensor]:
        """Return what the model answers."""
        return self.inner.predict(batch)
