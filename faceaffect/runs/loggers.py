"""Where a run reports to besides its own folder, with defaults that suit a run."""

import importlib.util
import logging
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger

from faceaffect.errors import RecipeError, needs_extra


def tensorboard(save_dir: str, name: str, *, log_graph: bool = False) -> TensorBoardLogger:
    """Write for TensorBoard, into the run's ``log``: ``tensorboard --logdir runs`` shows all runs.

    Args:
        save_dir: the run folder.
        name: of the folder in it.
        log_graph: draw the model's graph, where it can be traced.

    Raises:
        RecipeError: tensorboard is not installed.
    """
    _need("tensorboard")
    return TensorBoardLogger(save_dir, name, log_graph=log_graph)


def wandb(
    folder: str,
    *,
    project: str | None = None,
    entity: str | None = None,
    group: str | None = None,
    job_type: str | None = None,
    tags: list[str] | None = None,
    notes: str | None = None,
    id: str | None = None,
    offline: bool = False,
    log_model: bool = False,
    prefix: str = "",
) -> WandbLogger:
    """Report to Weights & Biases, where a run's page has the name of its folder.

    Args:
        folder: the run folder.
        project: absent, that of ``WANDB_PROJECT``, else ``faceaffect``.
        entity: user or team that owns the project.
        group: pages that belong together.
        job_type: what the run is for.
        tags: of the page.
        notes: text of the page.
        id: of a page to go on with.
        offline: write into the run folder only; ``wandb sync`` uploads it later.
        log_model: upload the checkpoints.
        prefix: of the metrics' names.

    Raises:
        RecipeError: wandb is not installed, or offline is to upload.
    """
    _need("wandb")
    if offline and log_model:
        raise RecipeError("logger wandb: offline uploads nothing, so not log_model either")
    return WandbLogger(
        name=_title(folder),
        save_dir=folder,
        project=project or os.environ.get("WANDB_PROJECT") or "faceaffect",
        offline=offline,
        log_model=log_model,
        prefix=prefix,
        id=id,
        entity=entity,
        group=group,
        job_type=job_type,
        tags=tags,
        notes=notes,
    )


def mlflow(
    folder: str,
    *,
    experiment: str | None = None,
    tracking_uri: str | None = None,
    tags: dict[str, str] | None = None,
    log_model: bool = False,
    prefix: str = "",
) -> MLFlowLogger:
    """Report to MLflow, by default into one SQLite file beside all runs.

    ``mlflow ui --backend-store-uri sqlite:///runs/mlflow.db`` shows them.

    Args:
        folder: the run folder.
        experiment: absent, the recipe's name.
        tracking_uri: a server or database; absent, that of ``MLFLOW_TRACKING_URI``, else the file
            ``mlflow.db`` in the root of the run folders.
        tags: of the run.
        log_model: store the checkpoints there too.
        prefix: of the metrics' names.

    Raises:
        RecipeError: mlflow is not installed.
    """
    _need("mlflow")
    for noisy in ("mlflow", "alembic", "lightning.pytorch.loggers.mlflow"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    run = Path(folder).resolve()
    root = run.parents[1]
    given = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI")
    return MLFlowLogger(
        experiment_name=experiment or run.parent.name,
        run_name=_title(folder),
        tracking_uri=given or f"sqlite:///{(root / 'mlflow.db').as_posix()}",
        artifact_location=None if given else (root / "mlflow_artifacts").as_uri(),
        tags=dict(tags or {}),
        log_model=log_model,
        prefix=prefix,
    )


def _title(folder: str) -> str:
    run = Path(folder).resolve()
    return f"{run.parent.name}/{run.name}"


def _need(package: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise RecipeError(needs_extra(f"logger {package}", package, package))


def start(loggers: Iterable[Logger], sections: Mapping[str, Any]) -> None:
    """Let each logger reach its server or open its files, before anything is trained.

    Args:
        loggers: of the run.
        sections: of the recipe; they stand among the settings that a logger shows.

    Raises:
        RecipeError: one cannot; the message says which and why.
    """
    for logger in loggers:
        try:
            logger.log_hyperparams({"recipe": dict(sections)})
        except Exception as error:  # each service has exceptions of its own
            kind = type(logger).__name__.removesuffix("Logger").lower()
            way_out = ", or say offline: true" if isinstance(logger, WandbLogger) else ""
            reason = " ".join(str(error).split()) or type(error).__name__
            raise RecipeError(f"logger {kind}: does not start: {reason}{way_out}") from None


def finish(loggers: Iterable[Logger], *, failed: bool) -> None:
    """End what would run on: wandb would take the next run of this process for the same one."""
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            logger.experiment.finish(exit_code=int(failed))
