"""Tests and comparisons on sets of questions, from the overrides to the report."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from faceaffect.components import arguments
from faceaffect.data.question_layouts import open_set
from faceaffect.data.questions import QuestionSet
from faceaffect.errors import RecipeError, harmless
from faceaffect.evaluation.pages import page_template
from faceaffect.evaluation.question_scores import difference, scores
from faceaffect.evaluation.questioning import Answer, Asking, answering, pose, put
from faceaffect.files import write_together
from faceaffect.hardware import device_for
from faceaffect.models.loading import load_model
from faceaffect.progress import console
from faceaffect.recipe import load_recipe
from faceaffect.recipe.interpolation import check_places
from faceaffect.runs.folder import new_folder
from faceaffect.runs.limits import trains
from faceaffect.runs.train import build_model, check_sections, is_recipe
from faceaffect.schema import LabelSchema

ANY = LabelSchema((12,), ("neutral", "happiness"), True)
"""What a model that is not trained is built for; questions do not go by it."""


def ask_all(sources: Sequence[str], overrides: Sequence[str], folder: Path | None = None) -> Path:
    """Put a set of questions to models, write answers and report, and return the folder.

    Args:
        sources: run folders and checkpoints, and recipes of models that are not trained.
        overrides: ``data.name=questions``, ``data.file``, ``data.layout``, ``data.root`` and what
            :class:`~faceaffect.evaluation.questioning.Asking` takes; ``output``. Others go to
            recipes.
        folder: of the report; by default OUTPUT/questions/TIME.

    Raises:
        FaceAffectError: a model, an override or the set is wrong.
    """
    given, output, others = _sort(overrides)
    asked, how = read_settings(given)
    models = {_name(source, sources): open_model(source, others) for source in sources}
    return report_on(models, asked, how, folder or new_folder(Path(output) / "questions"), given)


def report_on(
    models: Mapping[str, Any],
    asked: QuestionSet,
    how: Asking,
    folder: Path,
    settings: Mapping[str, Any],
) -> Path:
    """Put a set to models and write answers, scores and the page into a folder."""
    how = agreed(models, how)
    answers: dict[str, list[Answer]] = {}
    found: dict[str, Any] = {}
    for name, model in models.items():
        answers[name], about = ask(model, asked, how)
        found[name] = {**scores(asked, answers[name]), **about}
        _tell(name, found[name])
    first, *rest = answers
    result = {
        "set": asked.name,
        "questions": len(asked.questions),
        "notes": _notes(asked),
        "settings": {**asdict(how), **settings},
        "models": found,
        "differences": {
            f"{first} less {other}": difference(answers[first], answers[other], asked)
            for other in rest
        },
    }
    return write_report(folder, answers, result, "questions", html(result))


def agreed(models: Mapping[str, Any], how: Asking) -> Asking:
    """Return how all models are asked alike.

    Raises:
        RecipeError: a model does not answer in words, or gives no likelihoods that are wanted.
    """
    for model in models.values():
        answering(model)
    settled = how.settled(models)
    if how.answers == "auto" and settled.answers == "generate":
        without = next(name for name, model in models.items() if not hasattr(model, "weigh"))
        told = f"answers are generated and read, since {without} gives no likelihoods"
        console.print(harmless(told), markup=False, soft_wrap=True)
    return settled


def ask(model: Any, asked: QuestionSet, how: Asking) -> tuple[list[Answer], dict[str, Any]]:
    """Put a set to a model; return its answers, and what was skipped and what asking took."""
    if hasattr(model, "begin_asking"):
        model.begin_asking()
    answers, skipped = put(model, asked, how)
    took = model.end_asking() if hasattr(model, "end_asking") else {}
    return answers, {"skipped": skipped, **took}


def write_report(
    folder: Path,
    answers: Mapping[str, Sequence[Answer]],
    result: Mapping[str, Any],
    kind: str,
    page: str,
    key: str = "model",
) -> Path:
    """Write every answer, the numbers (as KIND.json) and the page into a folder; return it.

    In the file of answers ``key`` says what they are given by.
    """
    folder.mkdir(parents=True, exist_ok=True)
    texts = {
        "answers.jsonl": "".join(
            json.dumps({key: name, **asdict(answer)}, ensure_ascii=False) + "\n"
            for name, own in answers.items()
            for answer in own
        ),
        f"{kind}.json": json.dumps(result, indent=2, ensure_ascii=False),
        "report.html": page,
    }
    write_together(folder, texts)
    console.print(f"report: {folder / 'report.html'}", markup=False, soft_wrap=True)
    return folder


def plan_all(sources: Sequence[str], overrides: Sequence[str]) -> None:
    """Print what a set of questions would ask of models behind endpoints, and ask nothing.

    Raises:
        RecipeError: there is no such model.
    """
    given, _, others = _sort(overrides)
    asked, how = read_settings(given)
    models = {source: open_model(source, others) for source in sources}
    planned = {name: model for name, model in models.items() if hasattr(model, "plan_all")}
    if not planned:
        raise RecipeError("--dry-run is about models behind an endpoint, and here is none")
    for name, model in planned.items():
        posed = pose(asked.questions, asked, how, model, {})
        plan = model.plan_all((one.media, one.prompt) for one in posed)
        for line in plan.words(model.endpoint):
            console.print(f"{name}: {line}", markup=False)


def read_settings(given: Mapping[str, Any]) -> tuple[QuestionSet, Asking]:
    """Return the set and how it is asked, out of a data section without its name.

    Raises:
        RecipeError: a key or a value is wrong.
        DataError: the set is.
    """
    check_places("data", dict(given))
    of_set = {key: given[key] for key in ("file", "layout", "root") if key in given}
    of_asking = {key: value for key, value in given.items() if key not in of_set}
    if "file" not in of_set:
        raise RecipeError("data.file: the questions' file is needed; synthetic are drawn faces")
    if of_set.get("layout") == "humanvbench":
        of_asking.setdefault("repeats", 5)
    how = Asking(**arguments(Asking, of_asking, "data"))
    return open_set(**arguments(open_set, of_set, "data")), how


def open_model(source: str, overrides: Sequence[str] = ()) -> Any:
    """Return a model from a run or a checkpoint, or, where it needs no training, from a recipe.

    Raises:
        FaceAffectError: there is none, or it has to be trained first.
    """
    if not is_recipe(source):
        if overrides:
            raise RecipeError(f"{overrides[0]}: a trained model is used as it is")
        return _ready(load_model(source), {})
    recipe = load_recipe(source, overrides)
    if trains(recipe["model"]["name"], recipe["trainer"]):
        raise RecipeError(
            f"{source}: the model has to be trained before it is asked: faceaffect train {source}"
        )
    check_sections(recipe)
    model = build_model(recipe, ANY)  # without its data, which may not be here
    model.image_size = model.image_size or recipe["data"].get("image_size")
    return _ready(model, recipe["trainer"])


def _ready(model: Any, trainer: Mapping[str, Any]) -> Any:
    return model.to(device_for(dict(trainer))).eval()


def _sort(overrides: Sequence[str]) -> tuple[dict[str, Any], str, list[str]]:
    """Return the data section without its name, the root of reports, and what is left."""
    data = [item for item in overrides if item.startswith("data.")]
    section = OmegaConf.to_container(OmegaConf.from_dotlist(data), resolve=True)
    assert isinstance(section, dict)
    given = {str(key): value for key, value in section["data"].items() if key != "name"}
    output = [item.partition("=")[2] for item in overrides if item.startswith("output=")]
    others = [i for i in overrides if not i.startswith(("data.", "output="))]
    return given, output[-1] if output else "runs", others


def _name(source: str, sources: Sequence[str]) -> str:
    """Return a short name that no other source has."""
    path = Path(source)
    short = [f"{Path(s).parent.name}/{Path(s).name}" if Path(s).exists() else s for s in sources]
    own = f"{path.parent.name}/{path.name}" if path.exists() else source
    return own if short.count(own) == 1 else source


def _notes(asked: QuestionSet) -> dict[str, int]:
    counts: dict[str, int] = {}
    for question in asked.questions:
        if question.note:
            counts[question.note] = counts.get(question.note, 0) + 1
    return counts


def _tell(name: str, found: Mapping[str, Any]) -> None:
    """Print a line for each task."""
    for row in found["tasks"]:
        chance = "" if row["chance"] is None else f", by chance {percent(row['chance'])}"
        line = (
            f"{name}: {row['task']}: {percent(row['accuracy'])} right "
            f"({percent(row['low'])} to {percent(row['high'])}, n {row['n']}{chance})"
        )
        console.print(harmless(line), markup=False, highlight=False, soft_wrap=True)
    for task, row in found["rege"].items():
        both = ", ".join(f"{kind} {row[kind]['rege']:.1f}" for kind in ("legacy", "ours"))
        line = f"{name}: {task}: REGE {both} (n {row['n']})"
        console.print(harmless(line), markup=False, highlight=False, soft_wrap=True)
    refused = found.get("refused", {}).get("n", 0)
    if refused:
        console.print(
            harmless(f"{name}: {refused} questions refused, which are wrong"), markup=False
        )
    if found["skipped"]:
        (reason, *_) = found["skipped"].values()
        line = f"{name}: {len(found['skipped'])} questions left out, the first for: {reason}"
        console.print(harmless(line), markup=False, highlight=False, soft_wrap=True)


def percent(value: float | None) -> str:
    """Return a share in percent; a dash for what is not there."""
    return "-" if value is None else f"{100 * value:.1f}"


def html(result: Mapping[str, Any]) -> str:
    """Return the page of a result."""
    return page_template("questions.html.j2").render(result=result, percent=percent)
