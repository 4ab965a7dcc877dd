"""Imported by a run that shall be killed: kills it amid writing the checkpoint of the second epoch.

Half of the file is then on the disk.
"""

import os
import signal
from typing import IO, Any

import torch

_save = torch.save


def _die(checkpoint: dict[str, Any], file: IO[bytes]) -> None:
    _save(checkpoint, file)
    if checkpoint["epoch"] == 1 and "optimizer_states" in checkpoint:
        file.flush()
        os.truncate(file.name, file.tell() // 2)
        os.kill(os.getpid(), signal.SIGKILL)


torch.save = _die
