"""Made-up answers of models about the same samples, and a report of them."""

import base64
import copy
import functools
import io
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from faceaffect.evaluation.statistics import analyse
from faceaffect.schema import LabelSchema

SCHEMA = LabelSchema((1, 12), ("neutral", "happiness", "anger"), True)


def truth_table(people: int, each: int, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    n = people * each
    person = np.repeat(np.arange(people), each)
    table = pd.DataFrame({"id": [f"{i:05d}" for i in range(n)]})
    table["subject"] = [f"p{i:03d}" for i in person]
    table["target/expression"] = np.array(SCHEMA.expressions)[rng.integers(3, size=n)]
    for name in SCHEMA.au_names:
        table[f"target/{name}"] = (rng.random(n) < 0.4).astype(int)
    for name in ("valence", "arousal"):
        table[f"target/{name}"] = rng.uniform(-1, 1, n)
    table["attribute/skin_tone"] = np.array(["II", "V"])[rng.integers(2, size=people)[person]]
    return table


def answer(truth: pd.DataFrame, skill: float, seed: int) -> pd.DataFrame:
    """Predictions whose quality differs between people."""
    rng = np.random.default_rng(seed)
    table, n = truth.copy(), len(truth)
    person = pd.factorize(truth["subject"])[0]
    own = rng.normal(size=person.max() + 1)[person] * 0.5
    for name in SCHEMA.au_names:
        z = (2 * truth[f"target/{name}"].fillna(0) - 1) * (skill + own) + rng.normal(size=n)
        table[f"prob/{name}"] = 1 / (1 + np.exp(-z))
    logits = rng.gumbel(size=(n, 3))
    index = pd.Index(SCHEMA.expressions).get_indexer(pd.Index(truth["target/expression"]))
    logits[np.arange(n), index] += skill + own
    prob = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    for k, name in enumerate(SCHEMA.expressions):
        table[f"prob/{name}"] = prob[:, k]
    for name in ("valence", "arousal"):
        table[f"pred/{name}"] = 0.5 * skill * truth[f"target/{name}"] + rng.normal(size=n) * 0.2
    return table


BASELINES = {
    "au_f1": 0.571, "au_f1/AU1": 0.571, "au_f1/AU12": 0.571, "au_ece": 0.6,
    "expression_war": 0.331, "expression_uar": 1 / 3, "expression_ece": 0.01,
    "expression_recall/neutral": 0.0, "expression_recall/happiness": 1.0,
    "expression_recall/anger": 0.0, "va_ccc": 0.0, "va_ccc/valence": 0.0, "va_ccc/arousal": 0.0,
}  # fmt: skip


def cost(flops: float) -> dict[str, Any]:
    return {
        "parameters": 3_268_286,
        "trainable_parameters": 1_234,
        "flops_per_image": flops,
        "milliseconds_per_image_at_batch_1": flops / 1e8,
        "images_per_second": 51.55,
        "best_batch_size": 32,
        "peak_memory_bytes": 1_469_669_376,
        "training_seconds": 154.2,
        "checkpoint_bytes": None,
        "device": "cpu, 2 threads",
    }


def picture() -> str:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), (200, 120, 90)).save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


@functools.cache
def _analysed(schema: LabelSchema, seeds: int) -> dict[str, Any]:
    truth = truth_table(24, 4)
    skills = {"mini_auformer": 1.5, "mini_emo_llama": 0.6}
    tables = {
        name: [answer(truth, skill, 10 * i + seed) for seed in range(seeds)]
        for i, (name, skill) in enumerate(skills.items())
    }
    return analyse(tables, schema, baselines=BASELINES, resamples=100)


def report_of(schema: LabelSchema = SCHEMA, seeds: int = 2) -> dict[str, Any]:
    """A report of two models, of which one writes, as compare makes it."""
    report = copy.deepcopy(_analysed(schema, seeds))
    for i, (name, model) in enumerate(report["models"].items()):
        model |= {
            "recipe": name,
            "model": {"name": name},
            "runs": [f"runs/{name}/{seed}" for seed in range(seeds)],
            "seeds": list(range(seeds)),
            "checkpoint": [{"choose": "best", "epoch": 7 + seed} for seed in range(seeds)],
            "skipped": i,
            "baselines": BASELINES,
            "cost": cost((1 + 39 * i) * 1e8),
        }
    right = {"expression": "anger", "au": ["AU1"], "valence": 0.25, "arousal": -0.5}
    wrong = {"expression": None, "au": ["AU12"], "valence": None, "arousal": None}
    keys = [
        key for key, there in (("au", schema.aus), ("expression", schema.expressions)) if there
    ] + (["valence", "arousal"] if schema.valence_arousal else [])
    faces = [
        {
            "id": f"faces/{name}.png",
            "subject": "p000",
            "truth": {key: right[key] for key in keys},
            "answers": {
                "mini_auformer": {key: right[key] for key in keys},
                "mini_emo_llama": {key: wrong[key] for key in keys},
            },
            "text": {"mini_emo_llama": "I see <b>anger</b> & AU12 | 100 % sure."},
            "image": image,
        }
        for name, image in (("a", picture()), ("b", None), ("c", "https://example.org/c.png"))
    ]
    return report | {
        "title": "mini_auformer and mini_emo_llama on synthetic",
        "command": "faceaffect compare mini_auformer mini_emo_llama --seeds 2",
        "created": "2026-01-31T12:00:00+00:00",
        "version": "0.1.0",
        "schema": schema.to_dict(),
        "protocol": {
            "name": "subject_kfold",
            "fold": 1,
            "selection": "val",
            "sizes": {"train": 300, "test": 96},
            "subjects": {"train": 60, "test": 24},
            "sha256": {"test": "79098698916dc84cabdd324d9e2ac24c"},
            "subjects_known": True,
        },
        "data": {"name": "synthetic", "seed": 0, "aus": [1, 12]},
        "n": 96,
        "subjects": 24,
        "seeds": list(range(seeds)),
        "environment": {"versions": {"torch": "2.11.0"}, "seed": 0},
        "failed": {"mini_sacl": "the loss became NaN"},
        "disagreements": faces,
    }
