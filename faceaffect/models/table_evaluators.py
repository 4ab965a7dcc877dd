"""Results of other evaluators on tasks that ``faceaffect export`` wrote, as a table of answers."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from faceaffect.data.cells import read_cells
from faceaffect.errors import DataError, printable
from faceaffect.files import read_json
from faceaffect.schema import LabelSchema
from faceaffect.scores.answers import read_answers
from faceaffect.scores.pooled import task_schema
from faceaffect.scores.predictions import answer_columns

ENDINGS = (".jsonl", ".json", ".xlsx", ".tsv")
"""How files of results end."""

_LETTER = re.compile(
    r"\W*([A-Z])\W*|\W*([A-Z])[.):](?:\s.*|$)|.*\banswer(?:\s+is)?\s*:?\s*\(?([A-Z])\b.*",
    re.DOTALL,
)
_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True)
class Said:
    """An answer to one task about one sample; ``text`` is empty where there is none."""

    id: str
    task: str
    labels: tuple[str, ...]
    text: str


def is_results(path: Path) -> bool:
    """Return whether a file, or a folder without CSV files, may hold results of an evaluator."""
    if path.is_dir():
        return not any(path.rglob("*.csv")) and bool(_files(path))
    if path.suffix.lower() == ".tsv":
        return {"about", "prediction"} <= set(read_cells(path).columns)
    return path.suffix.lower() in ENDINGS


def read_results(path: Path, asked: LabelSchema) -> pd.DataFrame:
    """Return the answers in a file of results, or in all of a folder, a row a sample.

    Read are the samples that lmms-eval logs (``--log_samples``), the tables with predictions of
    VLMEvalKit and the JSON of FERBench. An answer that cannot be read leaves empty cells.

    Args:
        path: a file or a folder.
        asked: what the data asks.

    Raises:
        DataError: not readable, or results of another task.
    """
    rows: dict[str, dict[str, str]] = {}
    for file in _files(path) if path.is_dir() else [path]:
        said = list(_read(file))
        if not said:
            raise DataError(
                f"{file}: holds no answer to a task that 'faceaffect export --to ...' wrote"
            )
        for task in dict.fromkeys(one.task for one in said):
            some = [one for one in said if one.task == task]
            for one, cells in zip(some, _cells(task, some, asked, file), strict=True):
                row = rows.setdefault(one.id, {"id": one.id})
                if row.keys() & cells.keys():
                    raise DataError(
                        f"{file}: answers about {printable(one.id)} twice; name one file of results"
                    )
                row.update(cells)
    return pd.DataFrame(list(rows.values())).fillna("")


def _files(folder: Path) -> list[Path]:
    """Return the files of results in a folder, but totals and scores that lie beside them."""
    every = [file for ending in ENDINGS for file in folder.rglob(f"*{ending}") if file.is_file()]
    left_out = re.compile(r"_(results|acc|score|metrics|submission)\.|^\.|judge|_aggregated")
    return sorted(file for file in every if not left_out.search(file.name))


def _cells(task: str, said: list[Said], asked: LabelSchema, file: Path) -> Iterator[dict[str, str]]:
    """Yield the cells of answers to one task.

    Raises:
        DataError: other labels were asked for than the data has.
    """
    for labels in {one.labels for one in said}:
        _check_task(task, labels, asked, file)
    schema = task_schema(task, said[0].labels)
    columns = answer_columns(schema)[task]
    for row in read_answers({task: [one.text for one in said]}, schema)[task].tolist():
        yield {c: "" if v != v else f"{v:g}" for c, v in zip(columns, row, strict=True)}


def _check_task(task: str, labels: Iterable[str], asked: LabelSchema, file: Path) -> None:
    own = {"expression": asked.expressions, "au": asked.au_names}.get(task)
    if task == "va":
        own = tuple(labels) if asked.valence_arousal else ()
    if own is None or not own or {*own} != {*labels}:
        raise DataError(
            f"{file}: results of another task: it asks for {', '.join(labels)}, and the data has "
            f"{', '.join(own or ()) or 'no such labels'}"
        )


def _read(file: Path) -> Iterator[Said]:
    try:
        if file.suffix.lower() == ".jsonl":
            lines = file.read_bytes().split(b"\n")
            records = [read_json(line) for line in lines if line.strip()]
        elif file.suffix.lower() == ".json":
            records = read_json(file.read_bytes())
        elif file.suffix.lower() == ".xlsx":
            table = pd.read_excel(file, dtype=str, keep_default_na=False)
            records = table.to_dict("records")
        else:
            records = read_cells(file).to_dict("records")
    except (ValueError, OSError, ImportError) as error:
        raise DataError(f"{file}: not readable as results: {error}") from None
    for number, record in enumerate(records if isinstance(records, list) else []):
        try:
            yield from _said(record)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise DataError(f"{file}: result {number}: {error!r}") from None


def _said(record: Mapping[str, Any]) -> Iterator[Said]:
    """Yield the answer of one record, nothing where it is about no task of ours."""
    inner = next((v for v in record.values() if isinstance(v, dict) and "about" in v), None)
    about = (inner or record).get("about")
    if about is None:
        return
    told = json.loads(about)
    labels = tuple(map(str, told["labels"]))
    if inner is not None:  # lmms-eval
        text = inner["said"]
    elif "prediction" in record:  # VLMEvalKit
        text = _option(str(record["prediction"]), record)
    elif "model_response" in record:  # FERBench
        text = "" if record.get("error") else str(record["model_response"])
    else:
        raise ValueError("questions without answers: neither prediction nor model_response")
    text = text if isinstance(text, str) else ""
    concluded = _ANSWER.findall(text)
    yield Said(str(told["id"]), str(told["task"]), labels, concluded[-1] if concluded else text)


def _option(text: str, record: Mapping[str, Any]) -> str:
    """Return the option that a letter stands for, a text without one as it is."""
    found = _LETTER.fullmatch(text)
    letter = next((group for group in found.groups() if group), "") if found else ""
    option = str(record.get(letter) or "") if letter else ""
    return option or text
