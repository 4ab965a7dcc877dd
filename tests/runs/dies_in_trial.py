"""Imported by a search that shall be killed: kills it in the second epoch of its third trial."""

import os
import signal
from typing import Any

from faceaffect.module import AffectModule

_start = AffectModule.on_train_batch_start
_models: list[int] = []


def _die(self: AffectModule, batch: Any, batch_idx: int) -> None:
    if self.current_epoch == 0 and batch_idx == 0:
        _models.append(id(self))
    if len(_models) == 3 and self.current_epoch == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    _start(self, batch, batch_idx)


AffectModule.on_train_batch_start = _die  # type: ignore[method-assign]
