"""Imported by a run that shall be killed: makes its training steps slow, changes nothing else."""

import time
from typing import Any

from faceaffect.module import AffectModule

_start = AffectModule.on_train_batch_start


def _slow(self: AffectModule, batch: Any, batch_idx: int) -> None:
    time.sleep(0.2 if self.current_epoch else 0)
    _start(self, batch, batch_idx)


AffectModule.on_train_batch_start = _slow  # type: ignore[method-assign]
