"""The CSV log of a run, in UTF-8 whatever the locale: class names may be in any script."""

from typing import Any

from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter


class Utf8CSVLogger(CSVLogger):
    """Lightning's CSV logger, which by itself writes in the encoding of the locale."""

    @property
    def experiment(self) -> Any:
        """The writer of the log."""
        writer = super().experiment
        if isinstance(writer, ExperimentWriter) and not isinstance(writer._fs, _Utf8Files):
            writer._fs = _Utf8Files(writer._fs)
        return writer


class _Utf8Files:
    """A file system in which every file that is opened is text in UTF-8."""

    def __init__(self, files: Any) -> None:
        self._files = files

    def open(self, path: str, mode: str, **options: Any) -> Any:
        return self._files.open(path, mode, encoding="utf-8", **options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._files, name)
