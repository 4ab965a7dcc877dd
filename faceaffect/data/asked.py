"""Faces that somebody hands over without a dataset: tensors, arrays, pictures in files."""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from faceaffect.data.batch import FaceBatch
from faceaffect.data.image import as_picture, read_image, resize
from faceaffect.errors import DataError


def as_batch(faces: Any, size: int) -> FaceBatch:
    """Return faces that are cut out already as a batch; a batch as it is.

    Args:
        faces: a batch; or a tensor (B, 3, H, W) or (3, H, W) of uint8 RGB, an array (B, H, W, 3) or
            (H, W, 3) of uint8 RGB, a PIL picture, the path of a picture, or a list of these.
        size: side in pixels to which arrays and pictures are brought; tensors stay as they are.

    Raises:
        DataError: it is none of these, or a file cannot be read.
    """
    if isinstance(faces, Mapping):
        return faces  # type: ignore[return-value]
    items = list(faces) if isinstance(faces, (list, tuple)) else [faces]
    if not items:
        raise DataError("an empty list holds no face")
    images = [_pixels(item, size) for item in items]
    if len({image.shape[1:] for image in images}) > 1:
        raise DataError("tensors of several sizes are no batch; bring them to one")
    names = [f"face {n}" for n in range(sum(map(len, images)))]
    if len(images) == len(names):
        names = [
            os.fspath(item) if isinstance(item, (str, os.PathLike)) else name
            for item, name in zip(items, names, strict=True)
        ]
    return FaceBatch(image=torch.cat(images), id=names, subject=names)


def _pixels(item: Any, size: int) -> Tensor:
    """Return (B, 3, H, W)."""
    if isinstance(item, Tensor):
        if item.dtype != torch.uint8 or item.ndim not in (3, 4) or item.shape[-3] != 3:
            raise DataError(
                f"a tensor of shape {tuple(item.shape)} and type {item.dtype} holds no faces: "
                "(B, 3, H, W) uint8 RGB does"
            )
        return item if item.ndim == 4 else item[None]
    if isinstance(item, (str, os.PathLike)):
        pictures = [read_image(Path(item))]
    elif isinstance(item, np.ndarray) and item.ndim == 4:
        pictures = [as_picture(one) for one in item]
    else:
        pictures = [as_picture(item)]
    if not pictures:
        raise DataError("an array of no pictures holds no face")
    stacked = np.stack([resize(picture, size) for picture in pictures])
    return torch.from_numpy(stacked).permute(0, 3, 1, 2).contiguous()


_graph: ContextVar[bool] = ContextVar("graph", default=False)


@contextmanager
def with_graph() -> Iterator[None]:
    """Let ``predict`` of a model keep its graph within, for gradients of the answers."""
    token = _graph.set(True)
    try:
        yield
    finally:
        _graph.reset(token)


def asked(predict: Callable[[Any, Any], dict[str, Tensor]]) -> Callable[..., dict[str, Tensor]]:
    """Return a model's ``predict`` that takes faces in any form and runs without gradients.

    Args:
        predict: takes the model and a batch; the model makes one by its ``_as_batch``.
    """

    @wraps(predict)
    def answered(self: Any, batch: Any) -> dict[str, Tensor]:
        with torch.set_grad_enabled(torch.is_grad_enabled() and _graph.get()):
            return predict(self, self._as_batch(batch))

    return answered
