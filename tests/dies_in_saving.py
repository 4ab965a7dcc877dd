"""Imported by a run that shall be killed: kills it amid writing the checkpoint of the second epoch.

Half of the file is then on the disk.
"""

import os
import signal
from pathlib import Path
from typing import Any

import torch

_save = torch.save


def _die(checkpoint: dict[str, Any], file: Path) -> None:
    _save(checkpoint, file)
    if checkpoint["epoch"] == 1 and "optimizer_states" in checkpoint:
        os.truncate(file, Path(file).stat().st_size // 2)
        os.kill(os.getpid(), signal.SIGKILL)


torch.save = _die
