"""The folder of a run: making it, holding it, what the run is made of, its checkpoints."""

import hashlib
import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import torch
from lightning.pytorch.plugins import TorchCheckpointIO
from numpy.typing import NDArray
from omegaconf import OmegaConf

import faceaffect
from faceaffect import hardware
from faceaffect.data.base import FaceDataModule
from faceaffect.data.protocols import SIDES
from faceaffect.data.truth import labels_of
from faceaffect.errors import RecipeError
from faceaffect.files import replacing, write_atomically
from faceaffect.module import FaceModule
from faceaffect.networks.weights import Freezable
from faceaffect.progress import console
from faceaffect.recipe import Recipe, read_config
from faceaffect.recipe.interpolation import strings
from faceaffect.runs.starting import checkpoint_before

if sys.platform != "win32":
    import fcntl

MADE_OF = "made_of.json"
"""The file that says what a run is made of, written before it trains."""

_WHOLE = 2**26
"""Bytes up to which a file that a recipe names is read to tell whether it has changed."""


def new_folder(root: Path) -> Path:
    """Make and return a folder in ``root`` named by the time, never one that was there.

    Raises:
        OSError: it cannot be made.
    """
    stamp = time.strftime("%Y%m%d-%H%M%S")
    for suffix in ("", *(f"-{n}" for n in range(2, 1000))):
        folder = root / f"{stamp}{suffix}"
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        return folder
    raise RecipeError(f"{root}: too many runs started in one second")


def hold(folder: Path, name: str = "lock") -> IO[str] | None:
    """Take a run, or a file of another name, for this process; None if another process has it.

    The lock ends when the file that is returned is closed, or with the process, however that ends.
    Where the system or the file system knows no locks, nobody else is seen.
    """
    file = (folder / name).open("a+", encoding="utf-8")
    if sys.platform != "win32":
        try:
            # Not flock, which workers that outlive a killed process would go on holding.
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            file.close()
            return None
        except OSError:
            pass
    return file


# What a run is made of.


def made_of(data: FaceDataModule, model: FaceModule, recipe: Recipe) -> dict[str, Any]:
    """Return, under readable names, what a run is made of besides its recipe.

    A run goes on, and its result is taken over, only where all of this is as it was. Weights and
    large files are not read: weights have fingerprints, and a file above 64 MB counts as the same
    while its size and its time are.

    Args:
        data: the data of the run.
        model: before training; the weights that its parts started from name themselves.
        recipe: of the run; its ``model`` section may name files.

    Returns:
        Plain values: the package's version, samples and labels of each side of the split, what the
        dataset notes, weights, files, and the source of a model that is not the package's own.
    """
    made: dict[str, Any] = {"version of faceaffect": faceaffect.__version__}
    made["precision"] = hardware.precision_for(recipe["trainer"]).name
    made["float types of weights"] = sorted({str(p.dtype)[6:] for p in model.parameters()})
    made |= {f"samples of the {side} part": data.split.info["sha256"][side] for side in SIDES}
    made |= labels_of(data)
    made["attributes, intensities and weights of samples"] = _beside_labels(data)
    made["notes of the dataset"] = data.dataset.notes
    for prefix, module in model.named_modules():
        if isinstance(module, Freezable) and module.source is not None:
            made[f"weights of {prefix or 'the model'}"] = module.source["fingerprint"]
    used, written = strings(recipe["model"]), strings(recipe.stored["model"])
    for (_, file), (_, name) in zip(used, written, strict=True):
        if Path(file).is_file():
            made[f"file {name}"] = _digest(Path(file))
    before = checkpoint_before(recipe)
    if before is not None:
        made["weights that the model starts from"] = _digest(before)
    made |= {f"source {file}": _digest(file) for file in _own_sources(model)}
    plain: dict[str, Any] = json.loads(json.dumps(made))
    return plain


def _beside_labels(data: FaceDataModule) -> str:
    samples, digest = data.dataset.samples, hashlib.sha256()
    columns: dict[str, NDArray[Any] | None] = {
        "intensity": samples.au_intensity,
        "weights": data.dataset.weights,
    }
    if samples.instance is not None:
        columns["instance"] = samples.instance
    for name, column in sorted((columns | samples.attributes).items()):
        digest.update(name.encode() + (b"" if column is None else column.tobytes()))
    return digest.hexdigest()[:12]


def _digest(file: Path) -> str:
    found = file.stat()
    if found.st_size > _WHOLE:
        return f"{found.st_size} bytes of {found.st_mtime_ns}"
    return hashlib.sha256(file.read_bytes()).hexdigest()[:12]


def _own_sources(model: FaceModule) -> list[Path]:
    """Return the files of a model's class and parts that lie beside or below that of the class.

    The package's own are told by its version.
    """
    module = type(model).__module__
    home = getattr(sys.modules.get(module), "__file__", None)
    if home is None or module.partition(".")[0] == faceaffect.__name__:
        return []
    modules = {cls.__module__ for part in model.modules() for cls in type(part).__mro__}
    files = {getattr(sys.modules.get(name), "__file__", None) for name in modules}
    folder = Path(home).parent
    return sorted(Path(file) for file in files if file and Path(file).is_relative_to(folder))


def other_settings(folder: Path, recipe: Recipe) -> list[str]:
    """Return the keys in which the recipe of a run differs from another."""
    try:
        was = _flat(OmegaConf.to_container(read_config(folder / "recipe.yaml")))
    except RecipeError:
        return []
    now = _flat(OmegaConf.to_container(OmegaConf.create(recipe.yaml())))
    return [key for key in {**was, **now} if was.get(key) != now.get(key)]


def _flat(node: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(node, dict) or not node:
        return {prefix: node}
    within = (
        _flat(value, f"{prefix}.{key}" if prefix else str(key)) for key, value in node.items()
    )
    return {key: value for part in within for key, value in part.items()}


def write_made_of(folder: Path, made: Mapping[str, Any]) -> None:
    """Write what a run is made of into its folder."""
    write_atomically(folder / MADE_OF, json.dumps(made, indent=2))


def read_made_of(folder: Path) -> dict[str, Any]:
    """Return what a run was made of; empty if the run did not note it."""
    try:
        found = json.loads((folder / MADE_OF).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def changed(folder: Path, made: Mapping[str, Any]) -> list[str]:
    """Return the names of what a run was made of that is another now, none if all is the same."""
    was = read_made_of(folder)
    if not was:
        return [f"{MADE_OF} (not there)"]
    return [name for name in {**was, **made} if was.get(name) != made.get(name)]


# Checkpoints.


class WholeCheckpoints(TorchCheckpointIO):
    """Writes each checkpoint beside its place and then moves it there.

    So a checkpoint is there whole or not at all. Lightning's own writing may pass through a
    temporary folder of another file system, from where a file is copied piece by piece.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None
    ) -> None:
        """Write a checkpoint; ``storage_options`` are not used."""
        path = Path(path)
        path.parent.mkdir(exist_ok=True)  # the run's own folder must not come back
        try:
            with replacing(path) as part, part.open("wb") as file:
                torch.save(checkpoint, file)
        except RuntimeError as error:  # of torch, about what the disk said
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise


def last_checkpoint(folder: Path) -> Path | None:
    """Return the checkpoint from which a run goes on, None if it has none that can be read."""
    last = folder / "checkpoints" / "last.ckpt"
    if not last.exists():
        return None
    try:
        torch.load(last, map_location="cpu", weights_only=True, mmap=True)
    except Exception:
        console.print(f"{last} is damaged: the run starts again", markup=False)
        return None
    return last


def epoch_of(checkpoint: Path) -> int:
    """Return the number, from 1, of the epoch after which a checkpoint was written."""
    stored = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)
    return int(stored["epoch"]) + 1
