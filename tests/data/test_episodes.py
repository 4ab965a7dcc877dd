"""N-way K-shot: who and what is on which side, and how episodes are drawn."""

import hashlib

import numpy as np
import pytest

from faceaffect.data.base import FaceDataModule, create_data
from faceaffect.data.few_shot import Episodes, NWayKShot, episodes_of
from faceaffect.data.synthetic import SyntheticFaces, facs, fine
from faceaffect.data.synthetic.quartets import OTHER, ExpressionQuartets
from faceaffect.errors import DataError, RecipeError

FINE = {"n": 1200, "subjects": 60, "aus": [], "expressions": "fine", "valence_arousal": False,
        "image_size": 32}  # fmt: skip


def fine_data(**protocol: object) -> FaceDataModule:
    node = {"name": "n_way_k_shot", "novel": 18, **protocol}
    return create_data("synthetic", protocol=node, num_workers=0, **FINE)


def test_classes_and_people_are_each_on_one_side() -> None:
    data = fine_data()
    samples, split = data.dataset.samples, data.split
    about = split.info["few_shot"]
    assert (len(about["base"]), len(about["novel"])) == (36, 18)
    assert not set(about["base"]) & set(about["novel"])
    names = np.array(data.schema.expressions)
    pool = data.protocol.pool(data.dataset)  # type: ignore[attr-defined]
    assert len(pool) == about["samples"]
    sides = {"train": split.train, "val": split.val, "test": split.test}
    for indices in sides.values():
        assert set(names[samples.expression[indices]]) <= set(about["base"])
    assert set(names[samples.expression[pool]]) == set(about["novel"])
    people = {side: set(samples.subject[indices]) for side, indices in sides.items()}
    assert not people["train"] & people["val"]
    assert not (people["train"] | people["val"]) & (people["test"] | set(samples.subject[pool]))
    seen = np.concatenate([*sides.values(), pool])
    assert len(seen) == len(set(seen.tolist()))
    # novel classes of people who are trained on are seen by nobody
    rest = np.setdiff1d(np.arange(len(samples)), seen)
    assert set(names[samples.expression[rest]]) <= set(about["novel"])


def test_the_seed_draws_the_classes_and_names_may_be_given() -> None:
    names = list(fine.CLASSES)
    assert NWayKShot().classes(names) == NWayKShot(novel=18).classes(names)
    assert NWayKShot(seed=1).classes(names) != NWayKShot(seed=0).classes(names)
    own = ["wide_gape", "calm_smile"]
    base, novel = NWayKShot(novel_classes=own).classes(names)
    assert set(novel) == set(own)
    assert len(base) == 52


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"novel": 1}, "1 of 54 classes cannot be novel; 2 to 52 can"),
        ({"novel": 53}, "53 of 54"),
        ({"novel": 18, "novel_classes": ["calm_smile", "wide_gape"]}, "say the same"),
        ({"novel": None, "novel_classes": ["calm_smle", "x"]}, "calm_smile"),
        ({"folds": 1}, "folds: 1 is fewer than 2"),
        ({"fold": 4}, "out of range"),
    ],
)
def test_wrong_settings_are_told(given: dict, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        fine_data(**given)


def test_data_with_few_classes_is_refused() -> None:
    with pytest.raises(RecipeError, match="3 expression classes"):
        create_data("synthetic", n=60, subjects=20, expressions=["neutral", "anger", "fear"],
                    protocol="n_way_k_shot")  # fmt: skip
    with pytest.raises(RecipeError, match="0 expression classes"):
        create_data("synthetic", n=60, subjects=20, expressions=[], protocol="n_way_k_shot")


def episodes(**changes: int) -> tuple[FaceDataModule, Episodes]:
    data = fine_data()
    form = {"way": 5, "shot": 3, "query": 2, "seed": 0} | changes
    return data, episodes_of(data.dataset, data.protocol, **form)


def test_examples_and_queries_are_of_other_people_and_right_classes() -> None:
    data, made = episodes()
    samples = data.dataset.samples
    novel = set(data.split.info["few_shot"]["novel"])
    seen_classes = set()
    for number in range(20):
        episode = made.draw(number)
        assert episode.support.shape == (5, 3)
        assert episode.query.shape == (5, 2)
        every = np.concatenate([episode.support, episode.query], 1)
        assert len(set(every.ravel().tolist())) == every.size
        assert np.array_equal(
            samples.expression[every], np.repeat(episode.classes, 5).reshape(5, 5)
        )
        assert len(set(episode.classes.tolist())) == 5
        gives, asked = (
            set(samples.subject[part.ravel()]) for part in (episode.support, episode.query)
        )
        assert not gives & asked
        seen_classes |= {data.schema.expressions[c] for c in episode.classes.tolist()}
    assert seen_classes <= novel
    assert len(seen_classes) > 12


def test_an_episode_depends_on_seed_and_number_alone() -> None:
    _, first = episodes()
    _, again = episodes()
    _, other = episodes(seed=1)
    one = first.draw(7)
    for number in range(4):
        again.draw(number)
    two = again.draw(7)
    assert np.array_equal(one.support, two.support)
    assert np.array_equal(one.query, two.query)
    assert not np.array_equal(one.support, first.draw(8).support)
    assert not np.array_equal(one.support, other.draw(7).support)
    assert np.array_equal(one.of(1).support, one.support[:, :1])
    assert np.array_equal(one.of(1).query, one.query)


def test_too_much_asked_of_too_little_data_is_an_error() -> None:
    _, made = episodes(shot=50)
    with pytest.raises(DataError, match="0 of 18 novel classes have 50 examples"):
        made.draw(0)
    with pytest.raises(RecipeError, match="--way: 1"):
        episodes(way=1)
    with pytest.raises(RecipeError, match="--query: 0"):
        episodes(query=0)
    plain = create_data("synthetic", **FINE)
    with pytest.raises(RecipeError, match="'subject_kfold' has no novel classes"):
        episodes_of(plain.dataset, plain.protocol, 5, 1, 1, 0)


def test_a_fine_class_shows_its_own_aus_and_no_other_class_s() -> None:
    faces = SyntheticFaces(n=3000, subjects=30, aus=facs.AUS, expressions="fine", image_size=32)
    assert len(faces.schema.expressions) == 54
    assert len({frozenset(aus) for aus in fine.CLASSES.values()}) == 54
    assert set(faces.samples.expression.tolist()) == set(range(54))
    for index in range(0, 3000, 7):
        name = faces.schema.expressions[faces.samples.expression[index]]
        active = {facs.AUS[k] for k in np.flatnonzero(faces.samples.au[index])}
        assert active - {6} == set(fine.CLASSES[name]) - {6}
    few = SyntheticFaces(n=40, subjects=30, aus=facs.AUS, expressions="fine", image_size=32)
    assert np.array_equal(few.samples.au, faces.samples.au[:40])


def test_the_basic_expressions_are_drawn_as_before() -> None:
    faces = SyntheticFaces(n=200, subjects=20, seed=3, aus=facs.AUS)
    drawn = [faces.samples.expression.astype("<i8"), faces.samples.au_intensity.astype("<f4")]
    digest = hashlib.sha256(b"".join(part.tobytes() for part in drawn)).hexdigest()
    assert digest[:16] == "3ebda853a48fc7d9"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"expressions": "fin"}, "'fin' is no list of names, nor 'fine'"),
        ({"rates": "disfa"}, "leave out rates"),
        ({"cooccurrence": [[1, 17, 0.8]]}, "leave out cooccurrence"),
        ({"deceive": 0.3}, "leave out deceive"),
    ],
)
def test_what_fine_expressions_do_not_take_is_refused(given: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        SyntheticFaces(**{"n": 20, "expressions": "fine", **given})


def test_a_face_is_drawn_anew_on_another_person_with_the_same_aus() -> None:
    faces = SyntheticFaces(**{**FINE, "n": 60})
    one, two = faces.redraw(5, 3, 0), faces.redraw(5, 3, 1)
    assert np.array_equal(one.image, faces.redraw(5, 3, 0).image)
    assert not np.array_equal(one.image, two.image)
    assert faces.subject_of(61 % 60) == 1


def test_quartets_change_the_expression_and_nothing_else() -> None:
    data = ExpressionQuartets(n=40, subjects=20, image_size=32)
    _, novel = NWayKShot(novel=18).classes(tuple(fine.CLASSES))
    shown = {data.schema.expressions[c] for c in
             [*data.samples.expression, *data.samples.attributes[OTHER]]}  # fmt: skip
    assert shown
    assert not shown & set(novel)
    clip = data.load(3).image.astype(int)
    assert clip.shape == (4, 32, 32, 3)
    same_scene = np.abs(clip[0] - clip[2]).mean()
    other_scene = np.abs(clip[0] - clip[3]).mean()
    assert 0 < same_scene < other_scene / 2
