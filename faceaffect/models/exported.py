"""What an exported model says of itself, and reading its weights again."""

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from faceaffect import __version__, registry
from faceaffect.data.faces.crop import crop_for
from faceaffect.data.image import IMAGE_SIZE
from faceaffect.errors import CheckpointError, shown
from faceaffect.files import read_json
from faceaffect.module import FORMAT, AffectModule
from faceaffect.networks.backbones import Backbone, fingerprint

WEIGHTS = "model.safetensors"
"""The weights in a folder for the model hub."""

HEADER = "faceaffect"
"""The key of an exported file under which its description stands, as JSON."""


def describe_model(model: AffectModule) -> dict[str, Any]:
    """Return what somebody needs who has an exported model and not this package, as plain JSON.

    Returns:
        ``model`` (its name in the registry), ``version`` (of this package), ``format``, ``schema``,
        ``names`` (of each output, task to names in order), ``image_size`` (side of the faces it
        takes), ``crop`` (of the training faces, see :class:`~faceaffect.data.faces.crop.Crop`;
        null where not known), ``cut`` (how to cut faces out of a photo, with ``points``, where
        those of a face land in it, see ``Crop.landing``), ``network`` (size, mean and std inside
        of the graph, where a backbone has them; images go in as they are), ``trained_by`` (the
        recipe's name) and ``data`` (what it was trained on).
    """
    schema, size = model.schema, model.image_size or IMAGE_SIZE
    cut = crop_for(model.crop, size)
    backbone = next((part for part in model.modules() if isinstance(part, Backbone)), None)
    recipe = model.recipe or {"name": None, "sections": {"data": {}}}
    return {
        "format": FORMAT,
        "version": __version__,
        "model": registry.name_of("models", type(model)),
        "schema": schema.to_dict(),
        "names": {task: list(schema.names(task)) for task in schema.tasks},
        "image_size": size,
        "crop": None if model.crop is None else model.crop.to_dict(),
        "cut": cut.to_dict() | {"points": cut.landing()},
        "network": None if backbone is None else backbone.describe(),
        "trained_by": recipe["name"],
        "data": recipe["sections"]["data"].get("name"),
    }


def parse_description(text: str | None, file: Path) -> dict[str, Any]:
    """Return the JSON object in the header of an exported file.

    Raises:
        CheckpointError: there is none, or it is of a format that this version does not read.
    """
    if text is None:
        raise CheckpointError(f"{file}: says nothing of faceaffect: not exported by it")
    try:
        about = read_json(text)
    except ValueError as error:
        raise CheckpointError(f"{file}: its description is damaged: {shown(error)}") from None
    if not isinstance(about, dict):
        raise CheckpointError(f"{file}: its description is damaged: no JSON object")
    if "format" not in about and "fingerprint" in about:
        raise CheckpointError(
            f"{file}: weights for other models to build on, which answer nothing by themselves; "
            "'asset:real_expression' is a model"
        )
    if about.get("format") != FORMAT:
        raise CheckpointError(
            f"{file}: of format {shown(about.get('format'))}; this version of faceaffect reads "
            f"{FORMAT}"
        )
    return about


def read_exported(file: Path) -> dict[str, Any]:
    """Return an exported ``.safetensors`` file in the form of a checkpoint; no code is run.

    Raises:
        CheckpointError: it is damaged, or faceaffect did not write it.
    """
    try:
        with safe_open(str(file), framework="pt") as opened:
            header = (opened.metadata() or {}).get(HEADER)
        about = parse_description(header, file)
        state = load_file(file)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{file}: not readable as weights: {shown(error)}") from None
    if "fingerprint" in about and fingerprint(state) != about["fingerprint"]:
        raise CheckpointError(f"{file}: damaged: the weights do not match the file's fingerprint")
    hyper_parameters = about.pop("hyper_parameters", None)
    return {"state_dict": state, "hyper_parameters": hyper_parameters, "faceaffect": about}


def header_of(about: dict[str, Any]) -> dict[str, str]:
    """Return a description as the header of a file."""
    return {HEADER: json.dumps(about)}
