"""Train and fairly compare facial-affect models: specialists and instruction-tuned LLMs.

Public names are loaded on first use, so that ``import faceaffect`` stays quick.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from faceaffect.data.base import FaceDataModule as FaceDataModule
    from faceaffect.data.base import FaceDataset as FaceDataset
    from faceaffect.data.base import create_data as create_data
    from faceaffect.evaluation.verbs import compare as compare
    from faceaffect.evaluation.verbs import test as test
    from faceaffect.evaluation.verbs import train as train
    from faceaffect.instructions.endpoint import faces_may_leave as faces_may_leave
    from faceaffect.models.loading import create_model as create_model
    from faceaffect.models.loading import load_model as load_model
    from faceaffect.module import AffectModule as AffectModule
    from faceaffect.prediction.predictor import Predictor as Predictor
    from faceaffect.schema import LabelSchema as LabelSchema

__version__ = "0.2.0"

_PUBLIC = {
    "AffectModule": "faceaffect.module",
    "FaceDataModule": "faceaffect.data.base",
    "FaceDataset": "faceaffect.data.base",
    "LabelSchema": "faceaffect.schema",
    "create_data": "faceaffect.data.base",
    "create_model": "faceaffect.models.loading",
    "faces_may_leave": "faceaffect.instructions.endpoint",
    "load_model": "faceaffect.models.loading",
    "Predictor": "faceaffect.prediction.predictor",
    "compare": "faceaffect.evaluation.verbs",
    "test": "faceaffect.evaluation.verbs",
    "train": "faceaffect.evaluation.verbs",
}
__all__ = [*_PUBLIC, "list_data", "list_models"]


def list_models() -> list[str]:
    """Return the names that :func:`create_model` knows."""
    from faceaffect.registry import TABLES

    return sorted(TABLES["models"])


def list_data() -> list[str]:
    """Return the names that :func:`create_data` knows."""
    from faceaffect.registry import TABLES

    return sorted(TABLES["data"])


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'faceaffect' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted(__all__)
