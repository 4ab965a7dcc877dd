"""Faces from several sides: drawn ones, KDEF's layout, tables of views."""

import hashlib
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from faceaffect.data.base import create_data
from faceaffect.data.multiview import MultiviewFaces
from faceaffect.data.synthetic import SyntheticFaces, facs
from faceaffect.data.synthetic.dataset import VERSION
from faceaffect.data.synthetic.scene import draw_scene
from faceaffect.errors import DataError, RecipeError
from faces import face, write_image
from trees import sets

YAWS = [-60, -30, 0, 30, 60]


# Drawn faces


def drawn(**args: Any) -> SyntheticFaces:
    return SyntheticFaces(
        **{"n": 40, "subjects": 4, "seed": 5, "image_size": 48, "yaws": YAWS} | args
    )


def same(one: Any, other: Any, names: tuple[str, ...]) -> list[bool]:
    return [np.array_equal(getattr(one, name), getattr(other, name)) for name in names]


def test_views_of_an_instance_show_one_person_one_expression_at_each_yaw() -> None:
    data, table = drawn(), drawn().samples
    assert table.instance.tolist() == [i // 5 for i in range(40)]
    assert data.attribute_names["yaw"] == ("-60", "-30", "0", "30", "60")
    for first in range(0, 40, 5):
        group = slice(first, first + 5)
        assert len(set(table.subject[group])) == len(set(table.expression[group])) == 1
        assert len(np.unique(table.au[group], axis=0)) == 1
        assert table.attributes["yaw"][group].tolist() == [0, 1, 2, 3, 4]
        scenes = [data.scene(i) for i in range(first, first + 5)]
        np.testing.assert_allclose([np.rad2deg(s.pose[1]) for s in scenes], YAWS, atol=1e-4)
        for scene in scenes[1:]:
            assert all(same(scene, scenes[0], ("amount", "gaze", "clothes")))
            assert scene.pose[[0, 2]].tolist() == scenes[0].pose[[0, 2]].tolist()
            assert not any(same(scene, scenes[0], ("light", "tint", "shift")))


def test_the_nose_turns_with_the_yaw() -> None:
    data = drawn()
    for first in range(0, 40, 5):
        points = [data.load(i).landmarks for i in range(first, first + 5)]
        offset = [p[30, 0] - 0.5 * (p[36, 0] + p[45, 0]) for p in points]
        assert offset == sorted(offset)
        assert offset[0] < -4 < 4 < offset[-1]


def test_yaws_come_in_the_order_given_and_are_named_from_left_to_right() -> None:
    data = drawn(yaws=[45, 0, -10.5])
    assert data.attribute_names["yaw"] == ("-10.5", "0", "45")
    assert data.samples.attributes["yaw"][:4].tolist() == [2, 1, 0, 2]
    assert np.rad2deg(data.scene(2).pose[1]) == pytest.approx(-10.5, abs=1e-4)


def test_without_yaws_nothing_is_drawn_otherwise(tmp_path: Path) -> None:
    """Each scene is what its seed and index alone draw, as before there were views."""
    data = SyntheticFaces(12, 4, seed=9, cache=str(tmp_path))
    assert data.samples.instance is None
    assert "yaw" not in data.samples.attributes
    for i in range(12):
        wanted = draw_scene(np.random.default_rng([9, 105, i]), data._labels.grade[i])
        found = data.scene(i)
        for name in (f.name for f in fields(wanted) if f.name != "occluders"):
            assert np.array_equal(getattr(found, name), getattr(wanted, name)), name
    # The folder of the drawn faces is that of before, so that nothing is drawn a second time.
    data.load(0)
    world = (9, 4, 112, 0, 0.08, [], facs.EXPRESSIONS[:7], "bp4d", [])
    place = hashlib.sha256(repr((VERSION, *world)).encode()).hexdigest()[:16]
    assert {p.parent.name for p in tmp_path.rglob("*.safetensors")} == {place}
    turned = drawn(cache=str(tmp_path))
    turned.load(0)
    assert len({p.parent.name for p in tmp_path.rglob("*.safetensors")}) == 2


@pytest.mark.parametrize(
    ("bad", "named"),
    [
        ({"yaws": [0, 61]}, "61: from -60 to 60"),
        ({"yaws": [10]}, "at least two"),
        ({"yaws": []}, "at least two"),
        ({"yaws": [0, 30, 30]}, "a degree or more apart"),
        ({"yaws": [0, float("nan")]}, "nan: from -60"),
        ({"clips": 4}, "clips move by themselves"),
    ],
)
def test_yaws_that_cannot_be_drawn(bad: dict[str, Any], named: str) -> None:
    with pytest.raises(DataError, match=named):
        drawn(**bad)


# KDEF's layout


def test_names_of_kdef_say_everything(tmp_path: Path) -> None:
    sets.kdef(tmp_path)
    data = MultiviewFaces(str(tmp_path))
    table = data.samples
    assert data.schema.expressions == (
        "fear", "anger", "disgust", "happiness", "neutral", "sadness", "surprise"
    )  # fmt: skip
    row = table.id.tolist().index("AF01/AF01SUHL.JPG")
    assert table.subject[row] == "F01"
    assert data.schema.expressions[table.expression[row]] == "surprise"
    assert data.attribute_names["yaw"][table.attributes["yaw"][row]] == "-45"
    assert {*table.subject.tolist()} == {"F01", "F02", "M01"}
    names = {i: {n[5:] for n in table.id[table.instance == i]} for i in {*table.instance.tolist()}}
    assert all(len({n[:6] for n in views}) == 1 for views in names.values())  # AF01SU
    assert all(len(views) == 5 for views in names.values())
    assert data.left_out == {"no picture": 1, "not named as KDEF's pictures": 1}


def test_sessions_of_a_person_are_instances_apart(tmp_path: Path) -> None:
    sets.kdef(tmp_path)
    table = MultiviewFaces(str(tmp_path)).samples
    at = {name[5:11]: int(i) for name, i in zip(table.id, table.instance, strict=True)}
    assert at["AF01HA"] != at["BF01HA"]
    assert {*table.subject[[n[5:9] == "BF01" for n in table.id]].tolist()} == {"F01"}


def test_views_and_classes_are_chosen_and_what_is_left_out_is_counted(tmp_path: Path) -> None:
    sets.kdef(tmp_path)
    data = MultiviewFaces(str(tmp_path), yaws=[-45, 0, 45], classes=["happiness", "neutral"])
    assert data.attribute_names["yaw"] == ("-45", "0", "45")
    assert len(data) == 4 * 2 * 3
    assert data.left_out["yaw 90"] == data.left_out["yaw -90"] == 4 * 7
    assert data.left_out["class fear"] == 4 * 3
    with pytest.raises(
        RecipeError, match="no picture is seen from 30 degrees; there are: -90, -45"
    ):
        MultiviewFaces(str(tmp_path), yaws=[30])


def test_a_folder_without_such_names(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"missing.*AF01ANFL.JPG"):
        MultiviewFaces(str(tmp_path / "no"))
    write_image(tmp_path / "ann.jpg", face(1, 0, (32, 32)))
    with pytest.raises(DataError, match=r"no picture named as KDEF's.*data.table"):
        MultiviewFaces(str(tmp_path))


# Tables


def table(root: Path, rows: list[str], header: str = "image,person,instance,yaw,expression") -> str:
    for number, row in enumerate(rows):
        if not (root / row.partition(",")[0]).exists() and "gone" not in row:
            write_image(root / row.partition(",")[0], face(number % 3, number, (32, 32)))
    (root / "views.csv").write_text("\n".join([header, *rows]) + "\n")
    return str(root)


def test_a_table_says_what_belongs_together(tmp_path: Path) -> None:
    root = table(
        tmp_path,
        ["1.png,ann,a,-30,Happy", "2.png,ann,a,30,happiness", "3.png,ann,,0,sad", "4.png,bob,a,0,",
         "5.png,bob,a,,", "gone.png,bob,a,30,", "1.png,ann,a,-30,Happy"],
    )  # fmt: skip
    data = MultiviewFaces(root, table="views.csv")
    found = data.samples
    assert data.schema.expressions == ("happiness", "sadness")
    assert found.expression.tolist() == [0, 0, 1, -1, -1]
    assert found.instance[0] == found.instance[1] != found.instance[3] == found.instance[4]
    assert found.instance[2] == -1
    assert [data.attribute_names["yaw"][i] if i >= 0 else "" for i in found.attributes["yaw"]] == [
        "-30", "30", "0", "0", "",
    ]  # fmt: skip
    assert data.left_out == {"duplicate rows": 1, "not on disk": 1}


def test_a_table_without_expressions_is_enough_for_pretraining(tmp_path: Path) -> None:
    rows = [f"{i}.png,p{i // 4},{i // 2},{30 * (i % 2)}" for i in range(24)]
    root = table(tmp_path, rows, "image,person,instance,yaw")
    data = create_data("multiview", root=root, table="views.csv", views=2, batch_size=4,
                       num_workers=0, protocol={"name": "subject_kfold", "folds": 3})  # fmt: skip
    assert data.schema.tasks == ()
    batch = next(iter(data.train_dataloader()))
    assert batch["instance"].view(-1, 2)[:, 0].equal(batch["instance"].view(-1, 2)[:, 1])


def test_published_parts_are_the_split(tmp_path: Path) -> None:
    rows = [f"{i}.png,p{i},a,0,sad,{'test' if i > 2 else 'training'}" for i in range(5)]
    root = table(tmp_path, rows, "image,person,instance,yaw,expression,part")
    assert MultiviewFaces(root, table="views.csv").samples.part.tolist() == [
        *["train"] * 3, *["test"] * 2,
    ]  # fmt: skip
    table(tmp_path, [*rows, "9.png,p9,a,0,sad,other"], "image,person,instance,yaw,expression,part")
    with pytest.raises(DataError, match=r"views.csv:7: 'other' is no part"):
        MultiviewFaces(root, table="views.csv")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["1.png,ann,a,left,sad"], r"views.csv:2: yaw is 'left'; expected -180 to 180"),
        (["1.png,ann,a,0,sad", "2.png,,a,0,sad"], r"views.csv:3: 'person' is empty"),
        ([f"{i}.png,ann,{i},{i},sad" for i in range(30)], "30 different yaws; round them"),
    ],
)
def test_a_table_that_cannot_be_read(tmp_path: Path, rows: list[str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        MultiviewFaces(table(tmp_path, rows), table="views.csv")


def test_a_table_that_is_not_there_or_lacks_a_column(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data.table: .*views.csv is missing"):
        MultiviewFaces(str(tmp_path), table="views.csv")
    with pytest.raises(DataError, match="no column instance, yaw"):
        MultiviewFaces(table(tmp_path, ["1.png,ann"], "image,person"), table="views.csv")
