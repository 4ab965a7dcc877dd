"""The model card in a folder for the model hub."""

from collections.abc import Mapping, Sequence
from typing import Any

_TOLD = ("au_f1", "expression_war", "expression_uar", "va_ccc", "felt_uar", "intensity_ccc")
"""Metrics that a card names, where the model has them."""

_HELD = {
    "model.safetensors": "weights",
    "config.json": "what the model answers, how faces are cut out, the arguments it is built with",
    "adapter": "the language model's adapter, as peft reads it",
    "language_model": "the language model with its adapter merged in, as transformers reads it",
}


def model_card(
    about: Mapping[str, Any], result: Mapping[str, Any] | None, files: Sequence[str]
) -> str:
    """Return a model card in Markdown, with the hub's header.

    Args:
        about: of :func:`.describe_weights`.
        result: the ``metrics.json`` of the run; None where there is none.
        files: what lies in the folder beside the card.
    """
    lines = ["---", "library_name: faceaffect", "pipeline_tag: image-classification"]
    lines += ["tags: [facial-affect, action-units, facial-expression]", "---", ""]
    trained = f" trained on the data `{about['data']}`" if about["data"] else ""
    lines += [f"# {about['trained_by'] or about['model']}", ""]
    lines += [f"A model of facial affect: `{about['model']}` of faceaffect{trained}.", ""]
    lines += ["## What it answers", "", *_names(about["names"]), ""]
    lines += ["## Use", "", "```python", "import faceaffect", ""]
    lines += ['predictor = faceaffect.Predictor("FOLDER")  # this folder']
    lines += ['predictor.predict("photo.jpg")  # a table, one row a face', "```", ""]
    lines += ["No code of this folder is run. In it are:", ""]
    lines += [f"* `{name}`: {_HELD[name]}" for name in files]
    lines += ["", "## How faces are cut out", "", _crop(about), ""]
    lines += ["## Results", "", *_results(result), "", "## Limits", ""]
    if about["data"] == "synthetic":
        lines.append("It has seen drawn faces only: about photographs of people it says nothing.")
    lines += [
        "An expression is not a feeling: the model estimates what a face shows. Ask people before",
        "their faces are looked at, and test the model on people like those it is used on.",
    ]
    return "\n".join([*lines, ""])


def _names(names: Mapping[str, Sequence[str]]) -> list[str]:
    said = {
        "au": "probabilities of action units: {}",
        "expression": "probabilities of expressions, which sum to 1: {}",
        "va": "{}, from -1 to 1",
        "felt": "probabilities of felt emotions, which sum to 1: {}",
        "intensity": "{} of the shown expression, from 0 to 3",
    }
    return [f"* {said[task].format(', '.join(own))}" for task, own in names.items()]


def _crop(about: Mapping[str, Any]) -> str:
    crop, trained = about["cut"], about["crop"]
    text = f"`{crop['kind']}`, {crop['size']} px, then scaled to {about['image_size']} px"
    if trained is None:
        return f"How the training faces were cut out is not known; taken: {text}."
    if trained["kind"] == "none":
        return (
            f"Upright, the eyes where they lie in the training pictures, which were crops: {text}."
        )
    return f"As the training faces: {text}."


def _results(result: Mapping[str, Any] | None) -> list[str]:
    if result is None or "metrics" not in result:
        return ["None are stored with this model."]
    values = result["metrics"]
    lines = [f"On {result['n']} test samples of `{result['protocol']['name']}`:", ""]
    lines += ["| metric | value |", "| --- | --- |"]
    return lines + [f"| {n} | {values[n]:.3f} |" for n in _TOLD if values.get(n) is not None]
