"""The test part of a recipe as a task of other evaluators: lmms-eval, VLMEvalKit, FERBench."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import pandas as pd

from faceaffect.data.base import FaceDataModule, create_data
from faceaffect.errors import RecipeError
from faceaffect.files import write_atomically
from faceaffect.instructions.items import (
    Labels,
    au_answer,
    au_question,
    expression_answer,
    expression_question,
    labels_at,
    va_answer,
    va_question,
)
from faceaffect.progress import console
from faceaffect.recipe import Recipe
from faceaffect.schema import VA_NAMES, LabelSchema

Tool = Literal["lmms-eval", "vlmevalkit", "ferbench"]
TOOLS: tuple[Tool, ...] = ("lmms-eval", "vlmevalkit", "ferbench")
METRICS = {
    "expression": {"uar": "expression_uar", "war": "expression_war"},
    "au": {"au_f1": "au_f1"},
    "va": {"va_ccc": "va_ccc"},
}
"""Of each task, the metrics of a task of lmms-eval and what they are called here."""

_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclass(frozen=True)
class Asked:
    """One question about one picture.

    Attributes:
        about: JSON of the sample's ``id``, the ``task`` and the ``labels`` that are asked for,
            which every tool hands through to its results.
        task: ``expression``, ``au`` or ``va``.
        image: the picture, relative to the folder.
        question: in words.
        options: what may be answered, where that is one of some.
        answer: the right one, in words.
        truth: the label as JSON, see :func:`faceaffect.scores.pooled.pooled`.
    """

    about: str
    task: str
    image: str
    question: str
    options: list[str]
    answer: str
    truth: str


def export_task(recipe: Recipe, tool: Tool, folder: Path) -> list[Path]:
    """Write the test part of a recipe as a task that a tool loads offline; return its files.

    The pictures are those that models here are shown, as PNG files in ``images``.

    Args:
        recipe: its data section and protocol say which samples are asked about.
        tool: whose task.
        folder: where to; it must not be there.

    Raises:
        RecipeError: the folder is there, the tool has no place for the labels, or clips.
        DataError: the data is wrong.
    """
    if folder.exists():
        raise RecipeError(f"{folder} is there already; move it, or name another --folder")
    data = create_data(run_seed=recipe["seed"], **recipe["data"])
    if tool == "ferbench" and not data.schema.expressions:
        raise RecipeError("--to ferbench: asks for expressions, and the data has none")
    if tool == "vlmevalkit" and len(data.schema.expressions) > len(_LETTERS):
        raise RecipeError("--to vlmevalkit: has letters for 26 options")
    asked = list(_questions(data, folder))
    if not asked:
        raise RecipeError(f"{recipe.name}: the test part has no labelled picture to ask about")
    name = "faceaffect_" + "".join(c if c.isalnum() else "_" for c in recipe.name)
    files = _WRITERS[tool](asked, name, folder.resolve())
    write_atomically(folder / "README.md", _README[tool].format(name=name, folder=folder.resolve()))
    if data.skipped:
        console.print(f"{len(data.skipped)} pictures could not be read and are not asked about")
    return files


def _questions(data: FaceDataModule, folder: Path) -> Iterator[Asked]:
    """Yield the questions about each test sample, its picture written."""
    (folder / "images").mkdir(parents=True)
    where = {str(name): n for n, name in enumerate(data.dataset.samples.id)}
    number = 0
    for batch in data.test_dataloader():
        if "video" in batch:
            raise RecipeError("data: clips are no task of these tools; say data.frames=1")
        for row, name in enumerate(batch["id"]):
            image = f"images/{number:06}.png"
            pixels = batch["image"][row].permute(1, 2, 0).numpy()[..., ::-1]
            png = cv2.imencode(".png", np.ascontiguousarray(pixels))[1]
            (folder / image).write_bytes(png.tobytes())
            yield from _about(name, image, labels_at(data.dataset, where[name]), data.schema)
            number += 1


def _about(name: str, image: str, labels: Labels, schema: LabelSchema) -> Iterator[Asked]:
    def asked(
        task: str, names: list[str], question: str, options: list[str], answer: str, truth: Any
    ) -> Asked:
        about = json.dumps({"id": name, "task": task, "labels": names}, ensure_ascii=False)
        told = json.dumps(truth, ensure_ascii=False)
        return Asked(about, task, image, question, options, answer, told)

    if labels.expression is not None:
        options = [expression_answer(one) for one in schema.expressions]
        answer = expression_answer(labels.expression)
        question = expression_question(schema.expressions)
        names = list(schema.expressions)
        yield asked("expression", names, question, options, answer, labels.expression)
    if labels.aus:
        names = list(schema.au_names)
        truth = {f"AU{au}": int(labels.aus[au]) if au in labels.aus else None for au in schema.aus}
        yield asked("au", names, au_question(schema.aus), [], au_answer(labels.active), truth)
    if labels.va is not None:
        yield asked("va", list(VA_NAMES), va_question(), [], va_answer(labels.va), list(labels.va))


# lmms-eval


def _lmms_eval(asked: list[Asked], name: str, folder: Path) -> list[Path]:
    files = []
    for task in dict.fromkeys(one.task for one in asked):
        lines = folder / f"{task}.jsonl"
        records = [
            {
                "about": one.about,
                "task": task,
                "image": one.image,
                "question": one.question,
                "target": one.answer,
                "truth": one.truth,
            }
            for one in asked
            if one.task == task
        ]
        text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
        write_atomically(lines, text)
        metrics = "".join(
            f"  - metric: {metric}\n    aggregation: !function utils.{metric}\n"
            "    higher_is_better: true\n"
            for metric in METRICS[task]
        )
        file = folder / f"{name}_{task}.yaml"
        data = json.dumps(str(lines))
        write_atomically(file, _YAML.format(name=name, task=task, data=data, metrics=metrics))
        files.append(file)
    write_atomically(folder / "utils.py", _UTILS.format(metrics=METRICS))
    return files


_YAML = """\
task: {name}_{task}
tag: {name}
dataset_path: json
dataset_kwargs:
  data_files:
    test: {data}
test_split: test
output_type: generate_until
doc_to_visual: !function utils.doc_to_visual
doc_to_text: !function utils.doc_to_text
doc_to_messages: !function utils.doc_to_messages
doc_to_target: target
generation_kwargs:
  max_new_tokens: 64
  temperature: 0
  do_sample: false
process_results: !function utils.process_results
metric_list:
{metrics}metadata:
  - version: 1.0
"""

_UTILS = '''\
"""Questions of faceaffect for lmms-eval; faceaffect has to be installed to read the answers."""

from pathlib import Path

from PIL import Image

FOLDER = Path(__file__).resolve().parent
METRICS = {metrics!r}


def doc_to_visual(doc):
    return [Image.open(FOLDER / doc["image"]).convert("RGB")]


def doc_to_text(doc, lmms_eval_specific_kwargs=None):
    return doc["question"]


def doc_to_messages(doc, lmms_eval_specific_kwargs=None):
    parts = [{{"type": "image", "url": picture}} for picture in doc_to_visual(doc)]
    return [{{"role": "user", "content": [*parts, {{"type": "text", "text": doc_to_text(doc)}}]}}]


def process_results(doc, results):
    item = {{"about": doc["about"], "truth": doc["truth"], "said": results[0]}}
    return {{metric: item for metric in METRICS[doc["task"]]}}


def _pooled(items, task, metric):
    from faceaffect.scores.pooled import pooled

    return pooled(items)[METRICS[task][metric]]


def uar(items):
    return _pooled(items, "expression", "uar")


def war(items):
    return _pooled(items, "expression", "war")


def au_f1(items):
    return _pooled(items, "au", "au_f1")


def va_ccc(items):
    return _pooled(items, "va", "va_ccc")
'''


# VLMEvalKit


def _vlmevalkit(asked: list[Asked], name: str, folder: Path) -> list[Path]:
    files = []
    for task in dict.fromkeys(one.task for one in asked):
        rows = []
        for index, one in enumerate(a for a in asked if a.task == task):
            letters = dict(zip(_LETTERS, one.options, strict=False))
            right = next((c for c, option in letters.items() if option == one.answer), one.answer)
            row = {"index": index, "image_path": str(folder / one.image), "question": one.question}
            rows.append(row | letters | {"answer": right, "category": task, "split": "test",
                                         "about": one.about})  # fmt: skip
        file = folder / f"{name}_{task}.tsv"
        pd.DataFrame(rows).to_csv(file, sep="\t", index=False, encoding="utf-8")
        files.append(file)
    return files


# FERBench


def _ferbench(asked: list[Asked], name: str, folder: Path) -> list[Path]:
    records = [
        {"image_path": str(folder / one.image), "true_label": one.answer,
         "prompt": f"{one.question} {_THINK}", "candidate_labels": one.options, "about": one.about}
        for one in asked if one.task == "expression"
    ]  # fmt: skip
    file = folder / f"{name}_qa.json"
    write_atomically(file, json.dumps(records, ensure_ascii=False, indent=1))
    return [file]


_THINK = (
    "First reason about the visible signs within <think> </think>, then give the one expression "
    "within <answer> </answer>."
)

_WRITERS: Mapping[Tool, Callable[[list[Asked], str, Path], list[Path]]] = {
    "lmms-eval": _lmms_eval,
    "vlmevalkit": _vlmevalkit,
    "ferbench": _ferbench,
}

_BACK = """
The results come back as a contestant: a recipe with the same data and
`model: {{name: table, file: RESULTS}}` goes into `faceaffect compare`.
"""

_README: Mapping[Tool, str] = {
    "lmms-eval": """# {name}

    python -m lmms_eval --model MODEL --model_args ... --include_path {folder} --tasks {name} \\
        --log_samples --output_path RESULTS

faceaffect has to be installed there too, whose grammar reads the answers. The files name this
folder: export again where it has moved.
"""
    + _BACK,
    "vlmevalkit": """# {name}

    LMUData={folder} python run.py --data {name}_expression --model MODEL

One table a task. The tables name this folder: export again where it has moved.
"""
    + _BACK,
    "ferbench": """# {name}

`{name}_qa.json` is the input of `infer_unifer.py` and the like; results hold `model_response`.
The file names this folder: export again where it has moved.
"""
    + _BACK,
}
