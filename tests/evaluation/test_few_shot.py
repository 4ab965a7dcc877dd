"""Few-shot episodes through the command line, and each way of asking against its own arithmetic."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from faceaffect import registry
from faceaffect.cli import main
from faceaffect.data.base import create_data
from faceaffect.data.few_shot import episodes_of
from faceaffect.errors import DataError, RecipeError
from faceaffect.evaluation import few_shot_augment as augment
from faceaffect.evaluation.few_shot import Setting, _episodes_to_tune
from faceaffect.evaluation.few_shot_generators import find_generators
from faceaffect.evaluation.few_shot_methods import (
    BY_PROMPT,
    WITH_FEATURES,
    Pictures,
    Sight,
    base_pictures,
    by_prompt,
    check_can_be_asked,
    features,
    fine_tuned,
    linear,
    nearest_prototype,
)
from faceaffect.evaluation.few_shot_report import Scores, interval, rows, words
from faceaffect.models.comp_gan import CompGan
from faceaffect.models.loading import create_model
from faceaffect.models.timm_classifier import TimmClassifier
from faceaffect.models.vlm.module import Vlm
from faceaffect.module import AffectModule
from faceaffect.registry import TABLES

DATA = {"n": 700, "subjects": 45, "aus": [], "expressions": "fine", "valence_arousal": False,
        "image_size": 32, "num_workers": 0,
        "protocol": {"name": "n_way_k_shot", "novel": 18}}  # fmt: skip
RECIPE = """
seed: 1
model: {name: timm_classifier, backbone: test_vit, mode: %s}
data:
  name: synthetic
  n: 700
  subjects: 45
  aus: []
  expressions: fine
  valence_arousal: false
  image_size: 32
  num_workers: 0
  cache: %s
  protocol: {name: n_way_k_shot, novel: 18}
trainer: {max_epochs: 1, accelerator: cpu}
output: %s
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return create_data("synthetic", **DATA, cache=str(tmp_path_factory.mktemp("faces")))


@pytest.fixture(scope="module")
def sight(data: Any) -> Sight:
    torch.manual_seed(0)
    model = TimmClassifier(data.schema, backbone="test_vit").eval()
    pool = data.protocol.pool(data.dataset)
    return Sight(model, Pictures(data, pool), base_pictures(data))


def test_the_nearest_prototype_by_hand() -> None:
    support = np.array([[0.0, 0.0], [2.0, 0.0], [0.0, 4.0], [0.0, 6.0]])
    target = np.repeat(np.eye(2), 2, 0)  # means (1, 0) and (0, 5)
    query = np.array([[1.0, 2.0], [1.0, 2.9], [0.0, 3.0], [9.0, 0.0]])
    # squared distances: 4 and 10; 8.41 and 5.41; 10 and 4; 64 and 106
    assert nearest_prototype(support, target, query).tolist() == [0, 1, 1, 0]
    # half of the fourth example is of the first class: means (0.8, 1.2) and (0, 14/3)
    target[3] = [0.5, 0.5]
    assert nearest_prototype(support, target, np.array([[0.0, 2.8], [0.0, 3.0]])).tolist() == [0, 1]


def test_the_linear_classifier_takes_soft_labels_as_weights() -> None:
    rng = np.random.default_rng(0)
    support, target = rng.normal(size=(8, 3)), np.repeat(np.eye(2), 4, 0)
    query = rng.normal(size=(20, 3))
    twice = linear(np.concatenate([support, support]), np.concatenate([target, target]) / 2, query)
    assert np.array_equal(twice, linear(support, target, query))
    direction = support[:4].mean(0) - support[4:].mean(0)
    far = np.stack([50 * direction, -50 * direction])
    assert linear(support, target, far).tolist() == [0, 1]


def test_the_interval_is_student_s() -> None:
    values = [0.2, 0.4, 0.6, 0.8, 0.4]
    low, high = interval(values)
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (low, high) == pytest.approx((expected.low, expected.high))


def test_rows_average_over_seeds_and_hold_augmentations_against_none() -> None:
    seeds = [Scores(), Scores()]
    values = {
        "none": [[0.2, 0.4, 0.6], [0.4, 0.4, 0.4]],
        "mixup": [[0.3, 0.5, 0.6], [0.5, 0.5, 0.4]],
    }
    for name, of in values.items():
        for own, each in zip(seeds, of, strict=True):
            own.of["linear", name, 1] = each
    none, mixup = rows("m", seeds)
    assert none["accuracy"] == pytest.approx(0.4)
    assert none["per_seed"] == pytest.approx([0.4, 0.4])
    assert none["gain"] is None
    assert mixup["spread"] == pytest.approx(np.std([1.4 / 3, 1.4 / 3], ddof=1))
    assert mixup["gain"]["mean"] == pytest.approx(0.2 / 3)
    assert (mixup["gain"]["low"], mixup["gain"]["high"]) == pytest.approx(interval([0.1, 0.1, 0.0]))
    line = words([mixup])[0]
    assert line.startswith("m: linear with mixup, 1 example: 46.7 % right")
    assert "3 episodes), ± 0.0 over 2 seeds; +6.7 against none" in line


def test_features_are_what_the_last_layer_gets_and_centred(sight: Sight, data: Any) -> None:
    images = sight.pictures.of(sight.pictures.readable[:6])
    with torch.no_grad():
        raw = sight.model.features(images).numpy()
    moved = raw - sight.centre
    expected = moved / np.linalg.norm(moved, axis=1, keepdims=True)
    assert np.allclose(sight.of(sight.pictures.readable[:6]), expected, atol=1e-5)
    assert np.allclose(sight.see(images), expected, atol=1e-5)
    read = Pictures(data, data.split.train)
    with torch.no_grad():  # of the training part, which has fewer than 512
        whole = sight.model.features(read.of(data.split.train)).numpy().mean(0)
    assert np.allclose(sight.centre, whole, atol=1e-4)


EMERT = {"backbone": "test_resnet", "width": 8, "projected": 4, "lstm_layers": 1, "depth": 1,
         "heads": 2, "head_width": 4}  # fmt: skip
TINY: dict[str, tuple[dict[str, Any], int]] = {  # settings, and how many features they give
    "timm_classifier": ({"backbone": "test_vit"}, 64),
    "auformer": ({"backbone": "test_vit", "expert_width": 2}, 64),
    "sacl": ({"backbone": "test_resnet"}, 512),
    "gimefive": ({}, 1024),
    "emert": (EMERT, 4),
}
REFUSED = {"emo_llama", "endpoint", "onnx", "table", "trained"}


def test_every_model_of_the_zoo_is_asked_somehow_or_refused_by_name() -> None:
    answering = {n for n in TABLES["models"] if issubclass(registry.get("models", n), AffectModule)
                 and TABLES["models"][n].startswith("faceaffect.")}  # fmt: skip
    assert {*TINY} == {*WITH_FEATURES}
    assert answering == {*WITH_FEATURES, *BY_PROMPT} | REFUSED
    for name in sorted(REFUSED):
        with pytest.raises(RecipeError, match=f"'{name}' has no last layers") as told:
            check_can_be_asked(name)
        assert all(able in str(told.value) for able in (*WITH_FEATURES, *BY_PROMPT))


@pytest.mark.parametrize("name", sorted(TINY))
@pytest.mark.parametrize("aus", [(), (1, 4)])
@pytest.mark.filterwarnings("ignore:.*frozen with random weights")
def test_models_of_the_zoo_give_features_and_are_fine_tuned(
    data: Any, name: str, aus: tuple[int, ...]
) -> None:
    check_can_be_asked(name)
    args, width = TINY[name]
    torch.manual_seed(0)
    schema = replace(data.schema, aus=aus)
    model = create_model(name, schema, **args).eval()
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    assert features(model, images).shape == (2, width)
    episode = episodes_of(data.dataset, data.protocol, 2, 2, 1, 0).draw(0)
    own = Sight(model, Pictures(data, np.concatenate([episode.support, episode.query], 1).ravel()),
                images)  # fmt: skip
    said = nearest_prototype(own.of(episode.support), augment.one_hot(2, 2), own.of(episode.query))
    assert said.shape == (2,)
    support, query = own.pictures.of(episode.support), own.pictures.of(episode.query)
    assert fine_tuned(own, support, augment.one_hot(2, 2), query, steps=1).shape == (2,)


def test_a_recipe_of_a_model_without_features_is_refused_before_anything_is_trained(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (place / "full.yaml").read_text(encoding="utf-8")
    old = "{name: timm_classifier, backbone: test_vit, mode: full}"
    new = "{name: endpoint, model: some}"
    (place / "remote.yaml").write_text(text.replace(old, new), encoding="utf-8")
    assert main(["fewshot", str(place / "remote.yaml"), f"output={place / 'none'}"]) == 2
    assert "model 'endpoint' has no last layers" in capsys.readouterr().err
    assert not (place / "none").exists()


@pytest.mark.filterwarnings("ignore:.*frozen with random weights")
def test_without_a_number_only_models_that_tune_a_layer_are_tuned(data: Any) -> None:
    whole, probe = (TimmClassifier(data.schema, backbone="test_vit", mode=mode)
                    for mode in ("full", "linear"))  # fmt: skip
    assert [_episodes_to_tune("m", model, Setting()) for model in (whole, probe)] == [0, 20]
    assert _episodes_to_tune("m", whole, Setting(fine_tune=3)) == 3
    assert _episodes_to_tune("m", probe, Setting(fine_tune=0)) == 0


def test_fine_tuning_learns_its_examples_and_leaves_the_model_alone(
    sight: Sight, data: Any
) -> None:
    episode = episodes_of(data.dataset, data.protocol, 3, 2, 1, 0).draw(0)
    support = sight.pictures.of(episode.support)
    before = {name: value.clone() for name, value in sight.model.state_dict().items()}
    said = fine_tuned(sight, support, augment.one_hot(3, 2), support, steps=30, lr=1e-3)
    assert said.tolist() == [0, 0, 1, 1, 2, 2]
    assert all(torch.equal(value, before[n]) for n, value in sight.model.state_dict().items())
    query = sight.pictures.of(episode.query)
    start = fine_tuned(sight, support, augment.one_hot(3, 2), query, steps=0)
    with torch.no_grad():
        one, two = (features(sight.model, part).numpy() for part in (support, query))
    mean = one.reshape(3, 2, -1).mean(1)  # it begins at the prototypes
    assert start.tolist() == ((two[:, None] - mean) ** 2).sum(2).argmin(1).tolist()


def test_mixup_blends_pictures_and_labels_alike(sight: Sight, data: Any) -> None:
    episode = episodes_of(data.dataset, data.protocol, 3, 2, 1, 0).draw(0)
    more = augment.mixup(sight, episode, 4, np.random.default_rng(0))
    assert more.images.shape == (24, 3, 32, 32)
    assert np.allclose(more.target.sum(1), 1)
    own = np.repeat(augment.one_hot(3, 2), 4, 0)
    assert ((more.target * own).sum(1) >= 0.5).all()
    pure = np.flatnonzero(more.target.max(1) == 1)
    assert len(pure) < 24


def test_the_renderer_draws_training_people(sight: Sight, data: Any) -> None:
    episode = episodes_of(data.dataset, data.protocol, 3, 1, 1, 0).draw(0)
    again = augment.renderer(data, 0)
    more = again(sight, episode, 2, None)
    assert np.array_equal(more.target, np.repeat(np.eye(3), 2, 0))
    first = int(episode.support[0, 0])
    people = sorted({data.dataset.subject_of(i) for i in data.split.train.tolist()})
    faces = [data.dataset.redraw(first, who, 0).image for who in people]
    drawn = more.images[0].permute(1, 2, 0).numpy()
    assert any(np.array_equal(drawn, face) for face in faces)


def test_generators_edit_the_example_and_base_faces(sight: Sight, data: Any) -> None:
    torch.manual_seed(0)
    editors = CompGan(data.schema, width=4, code=8)
    base = base_pictures(data)
    again = augment.generated(editors, sight.pictures, base, 0)
    episode = episodes_of(data.dataset, data.protocol, 3, 2, 1, 0).draw(0)
    more = again(sight, episode, 2, None)
    assert more.images.shape == (12, 3, 32, 32)
    assert more.images.dtype == torch.uint8
    assert more.features.shape == (12, 64)
    assert np.array_equal(more.target, np.repeat(augment.one_hot(3, 2), 2, 0))
    # untrained, the editor of expressions leaves the base face as it is
    kept = [any(torch.equal(face, own) for own in base) for face in more.images]
    assert kept == [True, False] * 6
    assert torch.equal(again(sight, episode, 2, None).images, more.images)


class Parrot:
    """Names the class whose example's brightness is nearest."""

    def name_by_examples(self, clips: Any, names: Any, shots: Any) -> torch.Tensor:
        self.shots = [shot.labels.expression for shot in shots]
        light = torch.tensor([[shot.clip.float().mean() for shot in shots]])
        asked = torch.tensor([[clip.float().mean()] for clip in clips])
        nearest = (asked - light).abs().argmin(1)
        index = torch.tensor([names.index(shots[i].labels.expression) for i in nearest.tolist()])
        return torch.nn.functional.one_hot(index, len(names)).float()


def test_examples_take_turns_in_a_prompt() -> None:
    grey = torch.tensor([10, 20, 200, 210], dtype=torch.uint8)[:, None, None, None]
    support = grey.expand(4, 3, 8, 8)
    query = torch.tensor([205, 12], dtype=torch.uint8)[:, None, None, None].expand(2, 3, 8, 8)
    parrot = Parrot()
    assert by_prompt(parrot, support, [0, 0, 1, 1], query, ["dark", "light"]).tolist() == [1, 0]
    assert parrot.shots == ["dark", "light", "dark", "light"]


def test_a_vision_language_model_names_other_classes_than_its_own(data: Any) -> None:
    model = Vlm(data.schema).eval()
    face = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    with torch.no_grad():
        said = by_prompt(model, face[:2], [0, 1], face[2:], ["calm_smile", "wide_gape"])
    assert said.shape == (2,)
    from faceaffect.instructions.items import Labels
    from faceaffect.models.vlm.shots import Shot

    shots = [Shot("a", face[:1], Labels("calm_smile", {}, None))]
    chances = model.name_by_examples([face[2:3]], ["calm_smile", "wide_gape"], shots)
    assert torch.allclose(chances.sum(1), torch.ones(1), atol=1e-5)
    other = model.name_by_examples([face[2:3]], ["calm_smile", "wide_gape"], [])
    assert not torch.allclose(chances, other)
    model.calibration = "blank"  # a picture that shows nothing then speaks for nothing
    grey = torch.full_like(face[2:3], 127)
    even = model.name_by_examples([grey], ["calm_smile", "wide_gape"], shots)
    assert torch.allclose(even, torch.full((1, 2), 0.5), atol=1e-4)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("few_shot")
    for name, mode in (("full", "full"), ("probe", "linear")):
        text = RECIPE % (mode, folder / "cache", folder / "runs")
        (folder / f"{name}.yaml").write_text(text, encoding="utf-8")
    return folder


@pytest.mark.slow
def test_the_command_writes_a_report_that_another_run_repeats(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["fewshot", "--shot", "1", "2", str(place / "full.yaml"), "--way", "3", "--query", "1",
             "--episodes", "4", "--fine-tune", "2", "--augment", "mixup",
             "--extra", "1"]  # fmt: skip
    assert main([*words, "--folder", str(place / "first")]) == 0
    result = json.loads((place / "first" / "few_shot.json").read_text(encoding="utf-8"))
    found = {(r["method"], r["augmentation"], r["shot"]): r for r in result["rows"]}
    assert len(found) == (2 * 2 + 1) * 2
    table = pd.read_csv(place / "first" / "episodes.csv")
    for (method, augmentation, shot), row in found.items():
        own = table[(table.method == method) & (table.shot == shot)]
        own = own[own.augmentation == augmentation]
        assert len(own) == row["episodes"] == (2 if method == "fine-tuning" else 4)
        assert row["accuracy"] == pytest.approx(own.accuracy.mean())
        assert (row["low"], row["high"]) == pytest.approx(interval(own.accuracy.tolist()))
    assert result["chance"] == pytest.approx(1 / 3)
    page = (place / "first" / "report.html").read_text(encoding="utf-8")
    assert "2 examples of each class" in page
    run = str(next((place / "runs" / "full").iterdir()))
    capsys.readouterr()
    again = [run if word.endswith("full.yaml") else word for word in words]
    assert main([*again, "--folder", str(place / "second")]) == 0
    assert "done in" in capsys.readouterr().out.replace("\n", " ")
    assert (place / "second" / "episodes.csv").read_bytes() == (
        place / "first" / "episodes.csv"
    ).read_bytes()


def test_a_run_that_knows_who_or_what_is_asked_is_refused(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (place / "probe.yaml").read_text(encoding="utf-8")
    plain = text.replace("{name: n_way_k_shot, novel: 18}", "{name: subject_kfold, folds: 3}")
    (place / "plain.yaml").write_text(plain, encoding="utf-8")
    assert main(["train", str(place / "plain.yaml")]) == 0
    run = next((place / "runs" / "plain").iterdir())
    asked = ["fewshot", str(run), "--way", "3", "--query", "1", "--shot", "1"]
    capsys.readouterr()
    assert main(asked) == 2
    assert "has no novel classes" in capsys.readouterr().err
    assert main([*asked, "data.protocol={name: n_way_k_shot, novel: 18, fold: 2}"]) == 2
    assert "was trained on" in capsys.readouterr().err


def saved_generators(folder: Path, **data: Any) -> Path:
    """Write a checkpoint of untrained generators, as a training on such quartets would leave it."""
    section = {"name": "expression_quartets", "n": 60, "subjects": 20, "image_size": 32} | data
    model = CompGan(create_data(**section).schema, width=4, code=8)
    model.recipe = {"name": "few_shot_comp_gan", "sections": {"data": section}}
    checkpoint: dict[str, Any] = {"state_dict": model.state_dict(),
                                  "hyper_parameters": dict(model.hparams)}  # fmt: skip
    model.on_save_checkpoint(checkpoint)
    torch.save(checkpoint, folder / "generators.ckpt")
    return folder / "generators.ckpt"


def test_generators_that_know_none_of_what_is_asked_are_taken(data: Any, tmp_path: Path) -> None:
    editors = find_generators(str(saved_generators(tmp_path)), data)
    assert isinstance(editors, CompGan)


@pytest.mark.parametrize(
    ("learned", "message"),
    [
        ({"class_seed": 1}, "data.novel=18 data.class_seed=0"),
        ({"novel": 4}, "data.novel=18 data.class_seed=0"),
        ({"seed": 0}, "of the people who are asked about"),
    ],
)
def test_generators_that_know_who_or_what_is_asked_are_refused(
    place: Path, tmp_path: Path, learned: dict[str, int], message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    file = saved_generators(tmp_path, **learned)
    none = place / "none"
    assert main(["fewshot", str(place / "full.yaml"), "--augment", "generated", "--generators",
                 str(file), "--way", "3", "--shot", "1", "--query", "1",
                 f"output={none}"]) == 2  # fmt: skip
    err = " ".join(capsys.readouterr().err.split())
    assert f"--generators: {file} learned from" in err
    assert message in err
    assert not none.exists()


def test_second_people_of_quartets_count_among_those_who_were_seen(
    data: Any, tmp_path: Path
) -> None:
    # of five first people, and of second ones, who are numbered on from them
    of = create_data("expression_quartets", n=60, subjects=5, image_size=32, seed=0)
    seen = np.concatenate([of.split.train, of.split.val])
    first = {*of.dataset.samples.subject[seen]}
    second = {*of.dataset.second_people[seen]}
    pool = {*data.dataset.samples.subject[data.protocol.pool(data.dataset)]}
    assert second & pool
    file = saved_generators(tmp_path, seed=0, subjects=5)
    with pytest.raises(DataError, match=rf"from {len(pool & (first | second))} of the people"):
        find_generators(str(file), data)


def test_generators_of_which_nothing_is_known_or_that_are_none_are_refused(
    data: Any, tmp_path: Path
) -> None:
    file = saved_generators(tmp_path)
    checkpoint = torch.load(file, weights_only=True)
    checkpoint["faceaffect"]["recipe"] = None
    torch.save(checkpoint, file)
    with pytest.raises(RecipeError, match="does not say what it learned from"):
        find_generators(str(file), data)
    with pytest.raises(RecipeError, match="holds no generators"):
        find_generators("asset:real_expression", data)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--way", "1"], "--way: 1"),
        (["--shot", "0"], "--shot: different positive numbers"),
        (["--shot", "1", "1"], "--shot: different positive numbers"),
        (["--episodes", "1"], "--episodes: 1 is below 2"),
        (["--fine-tune", "1"], "--fine-tune: 1 episode has no interval"),
        (["--augment", "mixpu"], "mixup"),
        (["--augment", "generated"], "needs --generators RUN"),
        (["--generators", "x"], "needs --generators RUN"),
        (["--shot", "40"], "novel classes have 40 examples"),
        (["--seeds", "0"], "--seeds: 0"),
        (["data.protocol=subject_kfold"], "'subject_kfold' has no novel classes"),
    ],
)
def test_what_cannot_be_asked_is_refused_before_anything_is_trained(
    place: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    none = place / "none"
    assert main(["fewshot", str(place / "full.yaml"), *words, f"output={none}"]) == 2
    assert message in capsys.readouterr().err
    assert not none.exists()


def test_a_model_without_features_is_told(data: Any, sight: Sight) -> None:
    class Bare(torch.nn.Module):
        pass

    with pytest.raises(RecipeError, match="Bare has no last layers"):
        Sight(Bare(), sight.pictures, sight.pictures.of(sight.pictures.readable[:2]))  # type: ignore[arg-type]


def test_settings_are_checked() -> None:
    with pytest.raises(RecipeError, match="--extra: 0"):
        Setting(extra=0)
