"""How Lightning is called: which of its remarks are heard, its errors, and Ctrl-C."""

import re
import signal
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import lightning as L
from lightning.fabric.utilities.exceptions import MisconfigurationException

from faceaffect.errors import FaceAffectError, RecipeError, first_line

_LOST = re.compile(r"gloo|nccl|connection (reset|closed|refused)|broken pipe", re.I)
"""What torch says where another process does not answer; of gloo there is no class of error."""

_READER = re.compile(r"DataLoader worker.*(killed|exited)")


@contextmanager
def calling(trainer: L.Trainer) -> Iterator[None]:
    """Call Lightning without remarks that are no news here, and give back Ctrl-C.

    Lightning makes an exit with code 1 of Ctrl-C and leaves the key without effect.

    Raises:
        KeyboardInterrupt: it was pressed.
        RecipeError: Lightning refuses the settings.
        FaceAffectError: another process of this training, or one that reads its faces, is gone.
    """
    handler = signal.getsignal(signal.SIGINT)
    with warnings.catch_warnings():
        quiet()
        try:
            yield
        except MisconfigurationException as error:
            raise RecipeError(f"trainer: {error}") from None
        except RuntimeError as error:
            if _READER.search(str(error)):
                raise FaceAffectError(
                    "a process that reads faces was killed, as happens where memory runs out; "
                    "data.num_workers=0 does without them, and the same command with --resume goes "
                    f"on from the last checkpoint ({first_line(error)})"
                ) from None
            if trainer.world_size == 1 or not _LOST.search(str(error)):
                raise
            raise FaceAffectError(
                "another process has died or cannot be reached, so this one ends too; the same "
                f"command with --resume goes on from the last checkpoint ({first_line(error)})"
            ) from None
        except SystemExit:
            if not trainer.interrupted:
                raise
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGINT, handler)
            raise KeyboardInterrupt from None


def quiet() -> None:
    """Silence remarks of Lightning that are no news here."""
    for text in (
        ".*does not have many workers.*",
        ".*in eval mode at the start of training.*",
        ".*number of training batches.*smaller than the logging interval.*",
        ".*Checkpoint directory.*exists and is not empty.*",
        ".*treespec.*",
        ".*you need to define a `flops_per_batch`.*",
    ):
        warnings.filterwarnings("ignore", text)
