"""From a recipe to a trained and tested model in a run folder."""

import os
import shutil
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import lightning as L

from faceaffect import hardware, registry
from faceaffect.components import arguments
from faceaffect.data.base import FaceDataModule, create_data
from faceaffect.errors import CheckpointError, RecipeError
from faceaffect.files import write_atomically
from faceaffect.models.loading import answering, create_model, read_checkpoint, restore
from faceaffect.module import AffectModule, FaceModule
from faceaffect.optim import Optim
from faceaffect.progress import console
from faceaffect.recipe import Recipe, list_recipes, load_recipe, resolve
from faceaffect.recipe.interpolation import forgotten
from faceaffect.runs import cost, processes
from faceaffect.runs import loggers as reports
from faceaffect.runs.callbacks import TrainingClock
from faceaffect.runs.calls import calling
from faceaffect.runs.folder import (
    changed,
    epoch_of,
    hold,
    last_checkpoint,
    made_of,
    new_folder,
    other_settings,
    write_made_of,
)
from faceaffect.runs.frozen import FrozenFeatures
from faceaffect.runs.limits import batches_of_one, trains
from faceaffect.runs.result import RESULT, write_result
from faceaffect.runs.starting import check_people, checkpoint_before, own_section, take_weights
from faceaffect.runs.trainer import (
    checkpoint_callbacks,
    checkpoint_section,
    create_trainer,
    given_to_logger,
    trainer_arguments,
)
from faceaffect.runs.tuned import tuned_section
from faceaffect.runs.uses import doubts, faces_used
from faceaffect.schema import LabelSchema


def train(
    recipe: Recipe, *, resume: bool = False, brief: bool = False, spreadsheet_safe: bool = False
) -> Path:
    """Train the recipe's model, test its best checkpoint and return the run folder.

    Args:
        recipe: a checked recipe.
        resume: go on with the newest unfinished run of the same recipe that is made of the same
            data, weights and code, and that no other process trains, if there is one. So does a
            training that torchrun or SLURM starts again.
        brief: print no metrics of single AUs and classes, and nothing if there is no such run.
        spreadsheet_safe: put an apostrophe before texts in ``predictions.csv`` that a spreadsheet
            would compute.

    Raises:
        FaceAffectError: something in the recipe or the data is wrong.
    """
    data, model = build(recipe)
    processes.meet(recipe["trainer"])
    run = _open_run(recipe, made_of(data, model, recipe), resume, brief)
    try:
        shown = {"brief": brief, "spreadsheet_safe": spreadsheet_safe}
        _fit_and_test(recipe, run.folder, run.last, data, model, shown)
    finally:
        os.environ.pop(processes.FOLDER, None)
        if run.lock is not None:
            run.lock.close()
    return run.folder


def _fit_and_test(
    recipe: Recipe,
    folder: Path,
    last: Path | None,
    data: FaceDataModule,
    model: FaceModule,
    shown: dict[str, bool],
) -> None:
    clock = TrainingClock()
    try:
        callbacks = [clock, FrozenFeatures(), *checkpoint_callbacks(recipe, folder)]
        trainer = create_trainer(recipe, folder, callbacks)
        reports.start(trainer.loggers, recipe.stored)
    except RecipeError:
        if last is None and processes.is_first():
            shutil.rmtree(folder, ignore_errors=True)  # nothing was trained
        raise
    console.print(_headline(recipe, data, model, trainer), markup=False)
    for line in doubts(data):
        console.print(f"warning: {line}", markup=False)
    best = folder / "checkpoints" / "best.ckpt"
    fits = trains(recipe["model"]["name"], recipe["trainer"])
    tested = False
    try:
        with calling(trainer):
            if fits:
                with batches_of_one():
                    trainer.fit(model, datamodule=data, ckpt_path=last, weights_only=True)
                _check_validated(folder, best)
                trained = {"epochs": _epochs(trainer), "optimiser": model.optim.name}
            found = best if fits else None
            trainer.test(model, datamodule=data, ckpt_path=found, weights_only=True, verbose=False)
            if not fits:
                trainer.save_checkpoint(best, weights_only=True)
        tested = True
    finally:
        reports.finish(trainer.loggers, failed=not tested)
    spent: dict[str, float] = {}
    extra: dict[str, Any] = {}
    if fits:
        spent["training_seconds"] = round(clock.time_elapsed("train"), 1)
        chosen = {"choose": checkpoint_section(recipe).choose, "epoch": epoch_of(best)}
        extra["checkpoint"] = chosen
        extra["training"] = trained
    write_result(folder, recipe, data, model, trainer, spent, extra, **shown)
    trainer.strategy.barrier()  # only now is the run finished for all processes


def _epochs(trainer: L.Trainer) -> float:
    """Return how many epochs were trained, as parts of one where each left out some batches."""
    loader: Any = trainer.train_dataloader
    whole = len(loader) if hasattr(loader, "__len__") else trainer.num_training_batches
    if trainer.num_training_batches >= whole:
        return trainer.current_epoch
    return round(trainer.current_epoch * trainer.num_training_batches / whole, 2)


def _check_validated(folder: Path, best: Path) -> None:
    if not best.exists():
        raise RecipeError(
            f"{folder}: training ended before an epoch was validated, so there is no "
            "checkpoint to test; allow at least one epoch (trainer.max_steps, max_epochs)"
        )


def evaluate(
    source: str | Path, overrides: Sequence[str] = (), *, spreadsheet_safe: bool = False
) -> Path:
    """Test a trained model and return the folder of the result.

    The data is that of the model's own recipe, changed by the overrides.

    Args:
        source: a run folder or a checkpoint, or a recipe of a model that is not trained.
        overrides: ``key=value``; another ``data.name`` replaces the whole data section, and
            ``output`` says where the result goes, else into the run.
        spreadsheet_safe: as in :func:`train`.

    Raises:
        FaceAffectError: the checkpoint, an override or the data is wrong.
    """
    if is_recipe(str(source)):
        return _test_recipe(load_recipe(str(source), overrides), spreadsheet_safe)
    model, data, recipe = _reopen(source, overrides)
    processes.meet(recipe["trainer"])
    folder = _test_folder(Path(source), recipe, overrides)
    try:
        trainer = create_trainer(recipe, folder, [], logger=False)
        with calling(trainer):
            trainer.test(model, datamodule=data, verbose=False)
        trained = {"trained_schema": model.schema.to_dict()}
        safe = {"spreadsheet_safe": spreadsheet_safe}
        write_result(folder, recipe, data, model, trainer, {}, trained, **safe)
    except BaseException:
        if processes.is_first() and not (folder / RESULT).exists():
            shutil.rmtree(folder, ignore_errors=True)  # a test that did not end is nothing
        raise
    finally:
        os.environ.pop(processes.FOLDER, None)
    return folder


def is_recipe(source: str) -> bool:
    """Return whether a word names a recipe, not a run or a checkpoint."""
    return source in list_recipes() or Path(source).suffix in (".yaml", ".yml")


def _test_recipe(recipe: Recipe, spreadsheet_safe: bool) -> Path:
    name = recipe["model"]["name"]
    if trains(name, recipe["trainer"]):
        raise RecipeError(
            f"{recipe.name}: the model '{name}' has to be trained before it is tested: "
            f"faceaffect train {recipe.name}"
        )
    return train(recipe, spreadsheet_safe=spreadsheet_safe)


def reopen(
    source: str | Path, overrides: Sequence[str] = ()
) -> tuple[AffectModule, FaceDataModule]:
    """Return a trained model and the data of its recipe, changed by overrides.

    Args:
        source: a run folder or a checkpoint.
        overrides: ``data.key=value``; another ``data.name`` replaces the whole data section.

    Raises:
        FaceAffectError: the checkpoint, an override or the data is wrong.
    """
    model, data, _ = _reopen(source, overrides)
    return answering(model), data


def _reopen(
    source: str | Path, overrides: Sequence[str]
) -> tuple[FaceModule, FaceDataModule, Recipe]:
    """Return a trained model, the data to test it on, and the recipe that says so."""
    checkpoint = read_checkpoint(source)
    recipe = _stored_recipe(checkpoint, source, overrides)
    data = create_data(run_seed=recipe["seed"], **recipe["data"])
    with hardware.building_for(hardware.device_for(recipe["trainer"])):
        return restore(checkpoint, source), data, recipe


def _stored_recipe(
    checkpoint: dict[str, Any], source: str | Path, overrides: Sequence[str]
) -> Recipe:
    """Return the recipe that a checkpoint was trained by, changed where a test may change it."""
    stored = checkpoint["faceaffect"]["recipe"]
    if stored is None:
        raise CheckpointError(f"{source}: trained without a recipe; use it from Python instead")
    for item in overrides:
        if item.partition("=")[0].split(".")[0] in ("model", "optim", "seed"):
            raise RecipeError(
                f"{item}: a trained model is used as it is; train it anew to change this"
            )
    for key in forgotten(stored["sections"]):
        if key != "output":
            console.print(f"{source}: its {key} is not used; give it again to use it", markup=False)
    return resolve(stored["name"], stored["sections"], overrides, str(source), stored=True)


def build(recipe: Recipe, data: FaceDataModule | None = None) -> tuple[FaceDataModule, FaceModule]:
    """Return the recipe's data and its model with untrained weights, all arguments checked.

    Args:
        recipe: a checked recipe.
        data: the recipe's data, where it has been built already.
    """
    L.seed_everything(recipe["seed"], workers=True, verbose=False)
    optim = check_sections(recipe)
    data = data or create_data(run_seed=recipe["seed"], **recipe["data"])
    before = checkpoint_before(recipe)
    if before is not None:
        check_people(data, before, recipe["data"]["name"])
    model = build_model(recipe, data.schema)
    model.optim, model.seed = optim, recipe["seed"]
    model.task_weights = _task_weights(recipe, data)
    model.recipe = {"name": recipe.name, "sections": recipe.stored}
    return data, model


def build_model(recipe: Recipe, schema: LabelSchema) -> FaceModule:
    """Return the recipe's model for some labels, as it is before training."""
    before = checkpoint_before(recipe)
    with hardware.building_for(hardware.device_for(recipe["trainer"])), warnings.catch_warnings():
        if before is not None:  # what is built without weights gets them here
            warnings.filterwarnings("ignore", ".* is frozen with random weights")
        model = create_model(schema=schema, **own_section(recipe))
    if before is not None:
        take_weights(model, before)
    return model


def check_sections(recipe: Recipe) -> Optim:
    """Check keys and values of all sections but the data's; no model is built.

    Returns:
        Optimiser and schedule.

    Raises:
        RecipeError: a key or a value is wrong.
    """
    optim = Optim(**arguments(Optim, recipe["optim"], "optim"))
    trainer_arguments(recipe)
    checkpoint_section(recipe)
    tuned_section(recipe)
    for section, table in (("callbacks", "callbacks"), ("logger", "loggers")):
        for index, value in enumerate(recipe[section]):
            node, where = registry.as_node(value), f"{section}[{index}]"
            name = node.pop("name")
            target = registry.get(table, name)
            given = given_to_logger(target, Path()) if section == "logger" else None
            arguments(target, node, where, given=given)
    node = registry.as_node(own_section(recipe))
    arguments(registry.get("models", node.pop("name")), node, "model", given={"schema": None})
    return optim


def _task_weights(recipe: Recipe, data: FaceDataModule) -> dict[str, float]:
    weights = recipe["task_weights"]
    for task, weight in weights.items():
        if task not in data.schema.tasks:
            raise RecipeError(
                f"task_weights.{task}: the data's tasks are {', '.join(data.schema.tasks)}"
            )
        if not isinstance(weight, (int, float)) or weight < 0:
            raise RecipeError(f"task_weights.{task}: {weight!r} is no weight")
    return dict(weights)


@dataclass(frozen=True)
class _Run:
    """The folder of a run, the checkpoint to go on from, and the lock of the first process."""

    folder: Path
    last: Path | None = None
    lock: IO[str] | None = None


def _open_run(recipe: Recipe, made: dict[str, Any], resume: bool, brief: bool) -> _Run:
    given = os.environ.get(processes.FOLDER)
    if given:
        return _Run(Path(given), last_checkpoint(Path(given)) if resume else None)
    own: list[_Run] = []

    def decide() -> tuple[Path, Path | None]:
        own.append(_choose_run(recipe, made, resume or processes.was_restarted(), brief))
        return own[0].folder, own[0].last

    folder, last = processes.of_first(decide)
    os.environ[processes.FOLDER] = str(folder)
    return own[0] if own else _Run(folder, last)


def _choose_run(recipe: Recipe, made: dict[str, Any], resume: bool, brief: bool) -> _Run:
    root = Path(recipe["output"]) / recipe.name
    run = _unfinished(recipe, made) if resume else None
    if run is None:
        if resume and not brief:
            other = _with_other_settings(root, recipe)
            where = f"no unfinished run of this recipe in {root}"
            console.print(f"{where}: starting a new one{other}", markup=False)
        folder = new_folder(root)
        run = _Run(folder, lock=hold(folder))  # before others can see that it is a run
        write_made_of(folder, made)
        write_atomically(folder / "recipe.yaml", recipe.yaml())
    return run


def _with_other_settings(root: Path, recipe: Recipe) -> str:
    """Say in what the newest unfinished run differs, which may have been meant."""
    unfinished = [file.parent for file in sorted(root.glob("*/recipe.yaml"), reverse=True)
                  if not (file.parent / RESULT).exists()]  # fmt: skip
    keys = other_settings(unfinished[0], recipe) if unfinished else []
    return f" ({unfinished[0]} is not finished, but has another {', '.join(keys)})" if keys else ""


def _unfinished(recipe: Recipe, made: dict[str, Any]) -> _Run | None:
    """Return the newest run to go on with, taken for this process; None if there is none."""
    for folder in matching_runs(recipe, finished=False, made=made):
        lock = hold(folder)
        if lock is None:
            console.print(f"{folder} is passed over: another process trains it", markup=False)
            continue
        last = last_checkpoint(folder)
        console.print(f"going on with {folder}" + ("" if last else " from its beginning"))
        return _Run(folder, last, lock)
    return None


def matching_runs(
    recipe: Recipe, *, finished: bool, made: dict[str, Any] | None = None
) -> list[Path]:
    """Return the runs of exactly this recipe that are made of the same things, newest first.

    If there are only others of this recipe, a line says in what the newest differs.

    Args:
        recipe: name and all settings have to be the same.
        finished: whether to return runs that have a result, or those that have none.
        made: what it is made of now, see :func:`~faceaffect.runs.folder.made_of`; absent, data and
            model are built to see, if there is a run to hold against them.
    """
    root = Path(recipe["output"]) / recipe.name
    found = [
        file.parent
        for file in sorted(root.glob("*/recipe.yaml"), reverse=True)
        if (file.parent / RESULT).exists() == finished
        and file.read_text(encoding="utf-8") == recipe.yaml()
    ]
    if found and made is None:
        made = made_of(*build(recipe), recipe)
    others = {run: changed(run, made or {}) for run in found}
    same = [run for run in found if not others[run]]
    if found and not same:
        what = ", ".join(others[found[0]])
        console.print(f"{found[0]} is passed over, not made of the same: {what}", markup=False)
    return same


def _test_folder(source: Path, recipe: Recipe, overrides: Sequence[str]) -> Path:
    """Return the folder of a test: in the run, unless it has none or ``output`` is given."""
    if os.environ.get(processes.FOLDER):
        return Path(os.environ[processes.FOLDER])
    run = source if source.is_dir() else source.absolute().parent.parent
    elsewhere = any(item.startswith("output=") for item in overrides)
    inside = (run / "recipe.yaml").exists() and not elsewhere
    root = run / "tests" if inside else Path(recipe["output"]) / f"{recipe.name}-test"
    folder = processes.of_first(lambda: new_folder(root))
    os.environ[processes.FOLDER] = str(folder)
    return folder


def _headline(recipe: Recipe, data: FaceDataModule, model: FaceModule, trainer: L.Trainer) -> str:
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    total = sum(p.numel() for p in model.parameters())
    device = cost.device_name(trainer.strategy.root_device)
    precision = hardware.precision_for(recipe["trainer"])
    return (
        f"{recipe.name}: {recipe['model']['name']}, {trained:,} of {total:,} parameters trained, "
        f"on {device} in {precision.name} ({precision.why}); data: {recipe['data']['name']}, "
        f"schema: {', '.join(data.schema.tasks)}; {faces_used(data)}"
    )
