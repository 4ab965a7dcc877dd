"""Tasks for other evaluators, and their results as contestants."""

import json
import runpy
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest

from faceaffect.cli import main
from faceaffect.data.base import create_data
from faceaffect.errors import DataError
from faceaffect.models.table import Table
from faceaffect.schema import LabelSchema
from faceaffect.scores.answers import read_answers
from faceaffect.scores.metrics import TaskMetrics

DATA = {"name": "synthetic", "n": 60, "subjects": 20, "aus": [1, 12], "image_size": 32,
        "expressions": ["neutral", "happiness", "anger"], "batch_size": 8,
        "valence_arousal": True}  # fmt: skip
SCHEMA = LabelSchema((1, 12), ("neutral", "happiness", "anger"), True)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return the folder of each tool's task."""
    place = tmp_path_factory.mktemp("tasks")
    file = place / "my-faces.yaml"
    file.write_text(json.dumps({"model": {"name": "timm_classifier"}, "data": DATA}))
    folders = {}
    for tool in ("lmms-eval", "vlmevalkit", "ferbench"):
        folders[tool] = place / tool
        assert main(["export", str(file), "--to", tool, "--folder", str(folders[tool])]) == 0
    assert main(["export", str(file), "--to", tool, "--folder", str(folders[tool])]) == 2
    return folders


def docs(written: dict[str, Path], task: str) -> list[dict[str, Any]]:
    text = (written["lmms-eval"] / f"{task}.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def test_pictures_and_labels_are_those_of_the_test_part(written: dict[str, Path]) -> None:
    data = create_data(**DATA)
    batch = next(iter(data.test_dataloader()))
    asked = docs(written, "expression")
    assert [json.loads(doc["about"])["id"] for doc in asked[:8]] == batch["id"]
    picture = cv2.imread(str(written["lmms-eval"] / asked[0]["image"]))[..., ::-1]
    np.testing.assert_array_equal(picture, batch["image"][0].permute(1, 2, 0))
    right = [SCHEMA.expressions[index] for index in batch["expression"].tolist()]
    assert [json.loads(doc["truth"]) for doc in asked[:8]] == right
    truth = [list(json.loads(doc["truth"]).values()) for doc in docs(written, "au")[:8]]
    np.testing.assert_array_equal(truth, batch["au"])
    assert "neutral, happiness, anger" in asked[0]["question"]
    assert "synthetic" not in asked[0]["question"]


# lmms-eval


def lmms_results(written: dict[str, Path], folder: Path, said: Any) -> dict[str, float]:
    """Answer as lmms-eval does, through the functions of the folder; return their metrics."""
    own = runpy.run_path(str(written["lmms-eval"] / "utils.py"))
    folder.mkdir(exist_ok=True)
    found = {}
    for task in ("expression", "au", "va"):
        lines, pooled = [], {}
        for number, doc in enumerate(docs(written, task)):
            (message,) = own["doc_to_messages"](doc)
            assert message["content"][0]["url"].size == (32, 32)
            result = own["process_results"](doc, [said(doc)])
            for name, value in result.items():
                pooled.setdefault(name, []).append(value)
            sample = {"doc_id": number, "target": doc["target"], "filtered_resps": said(doc)}
            lines.append(json.dumps(sample | result))
        file = folder / f"20261128_samples_faceaffect_my_faces_{task}.jsonl"
        file.write_text("\n".join(lines), encoding="utf-8")
        found |= {name: own[name](items) for name, items in pooled.items()}
    (folder / "20261128_results.json").write_text("{}")
    return found


def test_the_metrics_of_the_folder_are_pooled_and_ours(
    written: dict[str, Path], tmp_path: Path
) -> None:
    def said(doc: dict[str, Any]) -> str:  # right about most, wrong and unreadable about some
        number = int(doc["image"][7:13])
        wrong = {"expression": "happiness", "au": "AU12", "va": "valence: 0, arousal: 0.5"}
        return (
            "no idea"
            if number % 5 == 0
            else wrong[doc["task"]]
            if number % 3 == 0
            else doc["target"]
        )

    found = lmms_results(written, tmp_path / "out", said)
    data = create_data(**DATA)
    expected = TaskMetrics(SCHEMA, sync=False)
    own = {task: docs(written, task) for task in ("expression", "au", "va")}
    texts = {task: [said(doc) for doc in asked] for task, asked in own.items()}
    read, start = read_answers(texts, SCHEMA), 0
    for batch in data.test_dataloader():
        rows = slice(start, start + len(batch["id"]))
        expected.update({task: value[rows] for task, value in read.items()}, batch)
        start += len(batch["id"])
    values = expected.compute()
    names = {"uar": "expression_uar", "war": "expression_war", "au_f1": "au_f1", "va_ccc": "va_ccc"}
    assert found == pytest.approx({short: float(values[name]) for short, name in names.items()})
    # and back in, as a contestant
    model = Table(SCHEMA, file=str(tmp_path / "out"))
    again, start = TaskMetrics(SCHEMA, sync=False), 0
    for batch in data.test_dataloader():
        again.update(model.predict(batch), batch)
    assert {n: float(again.compute()[n]) for n in names.values()} == pytest.approx(
        {n: float(values[n]) for n in names.values()}
    )


def test_lmms_eval_loads_the_folder(written: dict[str, Path]) -> None:
    pytest.importorskip("lmms_eval")
    from lmms_eval.tasks import TaskManager, get_task_dict

    manager = TaskManager(include_path=str(written["lmms-eval"]), include_defaults=False)
    names = [f"faceaffect_my_faces_{task}" for task in ("expression", "au", "va")]
    tasks = get_task_dict(names, manager)
    for name, task in zip(names, ("expression", "au", "va"), strict=True):
        assert len(tasks[name].test_docs()) == len(docs(written, task))
        assert (
            tasks[name].doc_to_target(tasks[name].test_docs()[0])
            == docs(written, task)[0]["target"]
        )


def test_lmms_eval_scores_answers_itself(written: dict[str, Path]) -> None:
    pytest.importorskip("lmms_eval")
    from lmms_eval.api.model import lmms
    from lmms_eval.evaluator import evaluate
    from lmms_eval.tasks import TaskManager, get_task_dict

    manager = TaskManager(include_path=str(written["lmms-eval"]), include_defaults=False)
    names = [f"faceaffect_my_faces_{task}" for task in ("expression", "au", "va")]
    tasks = get_task_dict(names, manager)

    class Knowing(lmms):  # type: ignore[misc]
        def generate_until(self, requests: Any) -> list[str]:
            asked = [request.args for request in requests]
            assert all(args[2](tasks[args[4]].test_docs()[args[3]]) for args in asked)  # pictures
            return [tasks[args[4]].test_docs()[args[3]]["target"] for args in asked]

        def loglikelihood(self, requests: Any) -> Any:
            raise NotImplementedError

        generate_until_multi_round = loglikelihood

    found = evaluate(lm=Knowing(), task_dict=tasks, cli_args=None)["results"]
    for task, metric in (("expression", "uar"), ("expression", "war"), ("au", "au_f1")):
        assert found[f"faceaffect_my_faces_{task}"][f"{metric},none"] == 1.0
    assert found["faceaffect_my_faces_va"]["va_ccc,none"] > 0.95  # answers are in quarters


# VLMEvalKit


def test_tables_of_vlmevalkit_and_their_predictions(
    written: dict[str, Path], tmp_path: Path
) -> None:
    file = written["vlmevalkit"] / "faceaffect_my_faces_expression.tsv"
    table = pd.read_csv(file, sep="\t")
    assert {"index", "image_path", "question", "A", "B", "C", "answer"} <= set(table)
    assert table["index"].is_unique
    assert all(Path(place).is_file() for place in table["image_path"])
    assert [row[row["answer"]] for _, row in table.iterrows()] == [
        doc["target"] for doc in docs(written, "expression")
    ]
    told = [row["answer"] if n % 2 else f"{row['answer']}. {row[row['answer']]}"
            for n, (_, row) in enumerate(table.iterrows())]  # fmt: skip
    told[:3] = ["The answer is (B).", "A face that is hard to read.", "not happy but angry"]
    for name in ("out.xlsx", "out.tsv"):
        result = table.assign(prediction=told)
        place = tmp_path / name
        if name.endswith("xlsx"):
            result.to_excel(place, index=False)
        else:
            result.to_csv(place, sep="\t", index=False)
        model = Table(SCHEMA, file=str(place))
        assert model.schema == LabelSchema(expressions=SCHEMA.expressions)
        ids = [json.loads(about)["id"] for about in table["about"]]
        rows = [model._answers.get(one) for one in ids]
        assert rows[0].tolist() == [0, 1, 0]
        assert rows[1] is None
        assert rows[2].tolist() == [0, 0, 1]
        right = [json.loads(doc["truth"]) for doc in docs(written, "expression")][3:]
        assert [SCHEMA.expressions[row.argmax()] for row in rows[3:]] == right
    assert "A" not in pd.read_csv(written["vlmevalkit"] / "faceaffect_my_faces_au.tsv", sep="\t")


# FERBench


def test_records_of_ferbench_and_their_results(written: dict[str, Path], tmp_path: Path) -> None:
    records = json.loads((written["ferbench"] / "faceaffect_my_faces_qa.json").read_text())
    assert {"image_path", "true_label", "prompt", "candidate_labels"} <= set(records[0])
    assert records[0]["true_label"] in records[0]["candidate_labels"]
    for record in records:
        record["model_response"] = (
            f"<think>Not {record['true_label']}?</think> <answer>{record['true_label']}</answer>"
        )
    records[0] |= {"model_response": "ERROR: out of memory", "error": True}
    (tmp_path / "results.json").write_text(json.dumps(records))
    model = Table(SCHEMA, file=str(tmp_path / "results.json"))
    assert model.rows == len(records) - 1  # an error is no answer, which counts as wrong
    ids = [json.loads(record["about"])["id"] for record in records]
    said = [SCHEMA.expressions[model._answers[one].argmax()] for one in ids[1:]]
    assert said == [record["true_label"] for record in records[1:]]


# Results of something else


@pytest.mark.parametrize(("schema", "says"), [
    (LabelSchema(expressions=("neutral", "happiness")), "results of another task: it asks for"),
    (LabelSchema(aus=(1, 12)), "the data has no such labels"),
])  # fmt: skip
def test_results_of_another_task_are_refused(
    written: dict[str, Path], tmp_path: Path, schema: LabelSchema, says: str
) -> None:
    records = json.loads((written["ferbench"] / "faceaffect_my_faces_qa.json").read_text())
    records = [record | {"model_response": "anger"} for record in records]
    (tmp_path / "results.json").write_text(json.dumps(records))
    with pytest.raises(DataError, match=says):
        Table(schema, file=str(tmp_path / "results.json"))


@pytest.mark.parametrize(("name", "text", "says"), [
    ("x.json", '[{"model_response": "anger", "true_label": "anger"}]', "holds no answer to a task"),
    ("x.json", "{}", "holds no answer to a task"), ("x.json", "{", "not readable as results"),
    ("x.jsonl", '{"doc_id": 0, "filtered_resps": "anger"}', "holds no answer to a task"),
    ("x.jsonl", '{"about": "{}"}', "result 0"), ("x.json", '[{"about": "["}]', "result 0"),
])  # fmt: skip
def test_files_that_are_no_results_are_refused(
    tmp_path: Path, name: str, text: str, says: str
) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=says):
        Table(SCHEMA, file=str(tmp_path / name))


def test_results_about_other_samples_are_no_result(
    written: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lmms_results(written, tmp_path / "out", lambda doc: doc["target"])
    model = {"name": "table", "file": str(tmp_path / "out")}
    for seed, code in ((0, 0), (7, 2)):
        sections = {
            "model": model,
            "data": DATA | {"seed": seed},
            "trainer": {"accelerator": "cpu"},
        }
        if seed:
            sections["data"]["subjects"] = 12
            (tmp_path / "out" / "20261128_samples_faceaffect_my_faces_va.jsonl").unlink()
            for file in (tmp_path / "out").glob("*.jsonl"):
                file.write_text(file.read_text().replace("s0/", "elsewhere/"))
        file = tmp_path / "theirs.yaml"
        file.write_text(json.dumps(sections))
        assert main(["test", str(file), f"output={tmp_path}/runs"]) == code
    assert "has a row for none of the test samples" in capsys.readouterr().err


def test_what_is_no_option_is_refused(tmp_path: Path) -> None:
    assert main(["export", "mini_probe", "--to", "ferbench", "--int8"]) == 2
    words = ["data.expressions=[]", "data.n=60", "data.subjects=20", "data.cache=null"]
    command = ["export", "mini_probe", *words, "--folder", str(tmp_path / "x")]
    assert main([*command, "--to", "ferbench"]) == 2
