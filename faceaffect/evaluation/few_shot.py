"""Few-shot: how well models tell classes apart that they never learned, from K examples of each."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import track

from faceaffect.data.base import FaceDataModule, create_data
from faceaffect.data.few_shot import Episode, Episodes, episodes_of
from faceaffect.data.fingerprints import one_search
from faceaffect.errors import DataError, RecipeError, unknown
from faceaffect.evaluation import few_shot_augment as augment
from faceaffect.evaluation.entrants import Entrant, find_entrants
from faceaffect.evaluation.few_shot_generators import find_generators
from faceaffect.evaluation.few_shot_methods import (
    Pictures,
    Sight,
    base_pictures,
    by_prompt,
    check_can_be_asked,
    fine_tuned,
    linear,
    nearest_prototype,
    tuned_parts,
)
from faceaffect.evaluation.few_shot_report import NONE, Scores, write_report
from faceaffect.evaluation.fractions import learns
from faceaffect.evaluation.training import done, train_missing
from faceaffect.hardware import device_for
from faceaffect.models.loading import load_model
from faceaffect.progress import console
from faceaffect.runs.folder import new_folder
from faceaffect.runs.people import people_of
from faceaffect.runs.result import environment, read_result
from faceaffect.runs.train import build_model


@dataclass(frozen=True)
class Setting:
    """What is asked.

    Args:
        way: N, number of classes of an episode.
        shots: each K, number of examples of a class.
        query: pictures to name of each class.
        episodes: how many.
        fine_tune: tune a copy of the model in so many of them, the first; 0 in none, else 2 or
            more; None in 20 of a model of which the new layer alone is tuned, which takes
            a moment, and in none of others, where an episode takes ten seconds or more.
        augment: names of augmentations.
        extra: pictures that an augmentation makes of an example.
        generators: run folder or checkpoint of ``comp_gan``, for ``generated``.
        seed: of the episodes.
    """

    way: int = 5
    shots: tuple[int, ...] = (1, 5)
    query: int = 5
    episodes: int = 200
    fine_tune: int | None = None
    augment: tuple[str, ...] = ()
    extra: int = 5
    generators: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the numbers and names; those of an episode are checked where it is drawn."""
        for name, value, least in (
            ("--episodes", self.episodes, 2), ("--fine-tune", self.fine_tune or 0, 0),
            ("--extra", self.extra, 1),
        ):  # fmt: skip
            if value < least:
                raise RecipeError(f"{name}: {value} is below {least}")
        if self.fine_tune == 1:
            raise RecipeError("--fine-tune: 1 episode has no interval; take 0, or 2 at least")
        if not self.shots or len(set(self.shots)) < len(self.shots) or min(self.shots) < 1:
            raise RecipeError("--shot: different positive numbers are needed")
        for name in self.augment:
            if name not in augment.NAMES:
                raise RecipeError(unknown("--augment", name, augment.NAMES))
        if ("generated" in self.augment) != (self.generators is not None):
            raise RecipeError(
                "--augment generated needs --generators RUN, a trained comp_gan, and it alone does"
            )


@one_search()
def few_shot(
    sources: Sequence[str],
    overrides: Sequence[str] = (),
    setting: Setting | None = None,
    *,
    seeds: int = 1,
    folder: Path | None = None,
) -> Path:
    """Draw episodes, have every model answer them in every way, and write one report.

    Recipes are trained on the base classes first, unless a finished run is there.

    Args:
        sources: recipes, by name or path, and folders of finished runs.
        overrides: ``key=value``, for every recipe; of a run only its data may be placed anew.
        setting: what is asked.
        seeds: each recipe is trained with so many seeds, from its own on.
        folder: of the report; absent, a new one in ``few_shot`` below the runs.

    Raises:
        FaceAffectError: a model, an override, the data or a number is wrong, or somebody who is
            asked about was trained on, by a model or by the generators.
    """
    asked = setting or Setting()
    if seeds < 1:
        raise RecipeError(f"--seeds: {seeds} is not positive")
    if not sources:
        raise RecipeError("fewshot: name at least one recipe or run folder")
    entrants = find_entrants(sources, overrides, seeds)
    for entrant in entrants:
        check_can_be_asked(entrant.placed["model"]["name"])
    data, episodes = _episodes(entrants, asked)
    editors = None if asked.generators is None else find_generators(asked.generators, data)
    runs, failed = _trained(entrants)
    for entrant in entrants:
        _refuse_seen(entrant.name, runs.get(entrant.name, []), data)
    pictures = Pictures(data, episodes.index)
    episodes = _readable(episodes, pictures)
    drawn = [episodes.draw(number) for number in range(asked.episodes)]
    found = {}
    for entrant in entrants:
        if entrant.name not in failed:
            models = _models(entrant, runs.get(entrant.name), data)
            found[entrant.name] = [
                _answer(entrant.name, model, data, pictures, drawn, asked, editors)
                for model in models
            ]
    about = _about(entrants[0], data, asked, episodes) | {"failed": dict(failed)}
    folder = folder or new_folder(Path(entrants[0].placed["output"]) / "few_shot")
    return write_report(folder, found, about)


def _episodes(entrants: Sequence[Entrant], asked: Setting) -> tuple[FaceDataModule, Episodes]:
    """Return the data of all and where its episodes come from.

    Raises:
        DataError: the models' data differ in what episodes are drawn from.
    """
    built: dict[str, tuple[FaceDataModule, Episodes]] = {}
    for entrant in entrants:
        section = entrant.placed["data"]
        key = json.dumps(section, sort_keys=True)
        if key not in built:
            data = create_data(run_seed=0, **section)
            shape = (asked.way, max(asked.shots), asked.query, asked.seed)
            built[key] = (data, episodes_of(data.dataset, data.protocol, *shape))
    (data, first), *others = built.values()
    for other, pool in others:
        same = first.index.tolist() == pool.index.tolist()
        if not same or data.schema.expressions != other.schema.expressions:
            raise DataError(
                "the models' data differ, so their episodes would; an override (data.key=value) "
                "holds for every recipe"
            )
    first.draw(0)  # too few samples are known before anything is trained
    data.prepare_data()
    return data, first


def _trained(entrants: Sequence[Entrant]) -> tuple[dict[str, list[Path]], dict[str, str]]:
    """Train what is to be trained; return the runs of those, and who failed and why."""
    wanted = [e for e in entrants if e.run is not None or learns(e)]
    ready = {entrant.name: done(entrant) for entrant in wanted}
    return train_missing(wanted, ready, False) if wanted else ({}, {})


def _refuse_seen(name: str, runs: Sequence[Path], data: FaceDataModule) -> None:
    """See that nobody who is asked about, and no novel class, was trained on.

    Raises:
        DataError: somebody or a class was.
    """
    pool = data.dataset.samples.subject[data.protocol.pool(data.dataset)]  # type: ignore[attr-defined]
    novel = set(data.split.info["few_shot"]["novel"])
    for run in runs:
        result = read_result(run)
        sides, called = people_of(result)
        both = {called(str(person)) for person in set(pool.tolist())} & (
            sides["train"] | sides["val"]
        )
        if both:
            raise DataError(
                f"{name} ({run}) was trained on {len(both)} of the people who are asked about"
            )
        own = (result["protocol"].get("few_shot") or {}).get("base")
        learned = set(result["schema"]["expressions"] if own is None else own) & novel
        if learned:
            raise DataError(
                f"{name} ({run}) was trained on {len(learned)} of the novel classes: "
                f"{', '.join(sorted(learned)[:3])}"
            )


def _readable(episodes: Episodes, pictures: Pictures) -> Episodes:
    """Return the episodes without samples that cannot be read."""
    stays = np.isin(episodes.index, pictures.readable)
    if not stays.all():
        console.print(f"{int((~stays).sum())} pictures cannot be read and are left out")
    return Episodes(
        episodes.label[stays], episodes.subject[stays], episodes.index[stays], episodes.way,
        episodes.shot, episodes.query, episodes.seed,
    )  # fmt: skip


def _models(entrant: Entrant, runs: Sequence[Path] | None, data: FaceDataModule) -> list[Any]:
    """Return the models of an entrant, one for each seed; what is not trained as it is built."""
    device = device_for(entrant.placed["trainer"])
    if runs is not None:
        return [load_model(run).to(device).eval() for run in runs]
    return [build_model(entrant.placed, data.schema).to(device).eval()]


def _answer(
    name: str,
    model: Any,
    data: FaceDataModule,
    pictures: Pictures,
    drawn: Sequence[Episode],
    asked: Setting,
    editors: Any,
) -> Scores:
    """Return how one model does in every episode, in every way that it can be asked."""
    scores = Scores()
    if hasattr(model, "name_by_examples"):
        for episode in track(drawn, f"{name}: by prompt", console=console, transient=True):
            _by_prompt(scores, model, data, pictures, episode, asked)
        return scores
    base = base_pictures(data)
    sight = Sight(model, pictures, base)
    more = _augmentations(asked, data, pictures, base, editors)
    tuned = _episodes_to_tune(name, model, asked)
    for episode in track(drawn, f"{name}: episodes", console=console, transient=True):
        for shot in asked.shots:
            _by_features(scores, sight, episode.of(shot), asked, more)
            if episode.number < tuned:
                _by_tuning(scores, sight, episode.of(shot))
    return scores


def _episodes_to_tune(name: str, model: Any, asked: Setting) -> int:
    """Return in how many episodes a copy of a model is tuned."""
    if asked.fine_tune is not None:
        return asked.fine_tune
    if not tuned_parts(model):
        return _TUNED
    console.print(
        f"{name}: not fine-tuned, since more than a new layer learns and an episode takes long; "
        "--fine-tune N does it in N episodes",
        markup=False,
    )
    return 0


_TUNED = 20  # episodes, where nothing else is said and the new layer alone learns


def _augmentations(
    asked: Setting, data: FaceDataModule, pictures: Pictures, base: Any, editors: Any
) -> dict[str, augment.Augmentation]:
    found: dict[str, augment.Augmentation] = {}
    for name in asked.augment:
        if name == "mixup":
            found[name] = augment.mixup
        elif name == "renderer":
            found[name] = augment.renderer(data, asked.seed)
        else:
            found[name] = augment.generated(editors, pictures, base, asked.seed)
    return found


def _by_features(
    scores: Scores,
    sight: Sight,
    episode: Episode,
    asked: Setting,
    more: Mapping[str, augment.Augmentation],
) -> None:
    way, shot = episode.support.shape
    support, query = sight.of(episode.support), sight.of(episode.query)
    target = augment.one_hot(way, shot)
    for name in (NONE, *more):
        seen, labels = support, target
        if name != NONE:
            rng = np.random.default_rng([asked.seed, 153, episode.number, shot])
            extra = more[name](sight, episode, asked.extra, rng)
            seen = np.concatenate([support, extra.features])
            labels = np.concatenate([target, extra.target])
        said = nearest_prototype(seen, labels, query)
        scores.add(("prototype", name, shot), said, episode.query.shape[1])
        scores.add(("linear", name, shot), linear(seen, labels, query), episode.query.shape[1])


def _by_tuning(scores: Scores, sight: Sight, episode: Episode) -> None:
    way, shot = episode.support.shape
    said = fine_tuned(
        sight,
        sight.pictures.of(episode.support),
        augment.one_hot(way, shot),
        sight.pictures.of(episode.query),
        seed=episode.number,
    )
    scores.add(("fine-tuning", NONE, shot), said, episode.query.shape[1])


def _by_prompt(
    scores: Scores,
    model: Any,
    data: FaceDataModule,
    pictures: Pictures,
    episode: Episode,
    asked: Setting,
) -> None:
    names = [data.schema.expressions[c] for c in episode.classes.tolist()]
    query = pictures.of(episode.query)
    for shot in asked.shots:
        label = np.repeat(np.arange(len(names)), shot).tolist()
        support = pictures.of(episode.of(shot).support)
        said = by_prompt(model, support, label, query, names)
        scores.add(("prompt", NONE, shot), said, episode.query.shape[1])


def _about(
    first: Entrant, data: FaceDataModule, asked: Setting, episodes: Episodes
) -> dict[str, Any]:
    """Return what episodes were asked about whom."""
    info = data.split.info
    return {
        "chance": 1 / asked.way,
        "setting": asdict(asked),
        "classes": info["few_shot"] | {"samples": len(episodes.index)},
        "people": {**info["subjects"], "episodes": len(np.unique(episodes.subject))},
        "data": first.placed.stored["data"],
        "environment": environment(asked.seed),
    }
