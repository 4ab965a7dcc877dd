"""Imported by a run that shall be killed: kills it at the third step of the second epoch."""

import os
import signal
from typing import Any

from faceaffect.module import AffectModule

_start = AffectModule.on_train_batch_start


def _die(self: AffectModule, batch: Any, batch_idx: int) -> None:
    if self.current_epoch == 1 and batch_idx == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    _start(self, batch, batch_idx)


AffectModule.on_train_batch_start = _die  # type: ignore[method-assign]
