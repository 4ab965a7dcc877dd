"""Probes: from a YAML file and labelled faces to questions."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from faceaffect.data.questions import LETTERS
from faceaffect.errors import RecipeError
from faceaffect.instructions.face_questions import face_question
from faceaffect.instructions.items import Labels
from faceaffect.instructions.probe_questions import Probing, make_questions
from faceaffect.instructions.probes import Probe, list_probes, read_probes, shown
from faceaffect.schema import LabelSchema
from probed import FORMS, write
from trees import disfa, rafdb, sets


def made(folder: Path, probes: list[dict[str, Any]] | None = None, **more: Any) -> Probing:
    return make_questions(read_probes(str(write(folder, probes, **more))))


def test_questions_and_keys_agree_with_the_labels(tmp_path: Path) -> None:
    probing = made(tmp_path)
    for asked in probing.asked.questions:
        known = probing.truths[asked.task].of(probing.face[asked.id])
        label = probing.about[asked.id]
        if asked.form == "yes_no":
            assert (asked.key == "yes") is known[label]
            assert shown(label) in asked.question
        elif asked.form == "options":
            texts = {shown(name): on for name, on in known.items()}
            right = [texts[option] for option in asked.options]
            assert sum(right) == 1
            assert LETTERS[right.index(True)] == asked.key
        else:
            assert asked.labels == tuple(name for name, on in known.items() if on)
        assert asked.media[0] in probing.asked.drawn
        assert probing.asked.load(asked.media[0], 8).ndim == 4
    thinking = {asked.task: asked.think for asked in probing.asked.questions}
    assert thinking["expression: options, thinking first"]
    assert sum(thinking.values()) == 1
    again = made(tmp_path).asked.questions
    assert again == probing.asked.questions
    other = made(tmp_path, seed=5).asked.questions
    assert other != again


def test_every_yes_has_a_matched_no_of_the_same_person(tmp_path: Path) -> None:
    questions = [q for q in made(tmp_path).asked.questions if q.form == "yes_no"]
    pairs: dict[str, list[Any]] = {}
    for asked in questions:
        pairs.setdefault(asked.pair, []).append(asked)
    for yes, no in pairs.values():
        assert (yes.key, no.key) == ("yes", "no")
        assert yes.question == no.question
        assert yes.media != no.media
        assert yes.person == no.person  # each of them has faces of both kinds


def test_faces_are_of_as_many_people_as_there_are(tmp_path: Path) -> None:
    yes = [q for q in made(tmp_path).asked.questions if q.key == "yes" and q.task[:2] == "ex"]
    for label in ("neutral", "happiness", "anger"):
        assert len({q.person for q in yes if label in q.question}) == 3


def test_what_cannot_be_asked_is_counted(tmp_path: Path) -> None:
    write(tmp_path)
    table = tmp_path / "csv" / "faces.csv"
    lines = [line for line in table.read_text().splitlines() if "anger" not in line]
    table.write_text("\n".join(lines) + "\n")
    probing = made(tmp_path, [{"about": "valence", "form": "yes_no"}])
    assert probing.left_out == {"valence: yes or no: no face with unpleasant": 1}


@pytest.mark.parametrize(
    ("probe", "said"),
    [
        ({"about": "age", "form": "describe"}, "probes.about: .*'age'|about"),
        ({"about": "au", "form": "riddle"}, "form"),
        ({"about": "au", "form": "yes_no", "question": "Is it?"}, "needs {label}"),
        ({"about": "au", "form": "options", "question": "Is {au}?"}, "may hold {media} only"),
        ({"about": "au", "form": "options", "question": " "}, "no words"),
        ({"about": "au", "form": "options", "options": 1}, "not between 2 and 26"),
        ({"about": "valence", "form": "options", "margin": 1.0}, "not between 0 and 1"),
        ({"about": "au", "form": "options", "optoins": 3}, "did you mean 'options'"),
        ({"about": "au", "form": "yes_no", "labels": ["AU99"]}, "probes.labels: .*'AU99'"),
    ],
)
def test_a_wrong_probe_is_told(tmp_path: Path, probe: dict[str, Any], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        made(tmp_path, [probe])


def test_a_wrong_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="did you mean 'synthetic'"):
        read_probes("synthetics")
    for more, said in (
        ({"eahc": 3}, "did you mean 'each'"),
        ({"each": 0}, "each: 0 is no number from 1"),
        ({"seed": "x"}, "seed: x is no number from 0"),
        ({"asking": 3}, "asking: no keys"),
        ({"probes": "all"}, "a list of what to ask"),
        ({"probes": [FORMS[0], FORMS[0]]}, "'au: describe' stands twice"),
        ({"data": {"name": "csw"}}, "data.name"),
    ):
        with pytest.raises(RecipeError, match=said):
            read_probes(str(write(tmp_path, **more)))
    text = write(tmp_path).read_text().replace(str(tmp_path), "${oc.env:SECRET}")
    (tmp_path / "leaks.yaml").write_text(text)
    with pytest.raises(RecipeError, match="SECRET"):
        read_probes(str(tmp_path / "leaks.yaml"))


def test_labels_that_the_data_has_not(tmp_path: Path) -> None:
    file = write(tmp_path, [{"about": "au", "form": "describe"}])
    data = {"name": "rafdb", "root": str(rafdb.write(tmp_path / "raf"))}
    file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()) | {"data": data}))
    with pytest.raises(RecipeError, match="au, but the data's labels are of expression"):
        make_questions(read_probes(str(file)))


def trees(root: Path) -> dict[str, list[str]]:
    """Write a tiny tree for each file that ships and return the overrides that point to it."""
    disfa.write_labels(root / "disfa")
    disfa.write_frames(root / "disfa")
    compound = rafdb.write(root / "raf")
    (compound / "basic").rename(root / "raf" / "compound")
    affectnet = sets.affectnet_npy(root / "net")
    np.save(affectnet / "val_set" / "annotations" / "0_val.npy", np.array("-0.5"))
    return {
        "au_disfa": [f"data.root={root / 'disfa'}", "data.align=none"],
        "expression_rafdb": [f"data.root={rafdb.write(root / 'basic')}"],
        "compound_rafdb": [f"data.root={root / 'raf'}"],
        "micro_casme2": [f"data.root={sets.casme2(root / 'casme')}"],
        "valence_affectnet": [f"data.root={affectnet}"],
        "synthetic": ["data.n=40", "data.subjects=20"],
    }


def test_every_file_that_ships_asks_all_that_it_names(tmp_path: Path) -> None:
    places = trees(tmp_path)
    assert set(places) == set(list_probes())
    for name, overrides in places.items():
        probing = make_questions(read_probes(name, [*overrides, "each=1"]))
        tasks = {asked.task for asked in probing.asked.questions}
        assert tasks == {probe.task for probe in probing.file.probes}, name
        frames = probing.asked.load(probing.asked.questions[0].media[0], 8)
        assert len(frames) == (3 if name == "micro_casme2" else 1)
        if name == "compound_rafdb":
            assert "happily surprised" in probing.truths["expression: options"].names


def test_a_probe_says_what_it_is() -> None:
    assert Probe("au", "yes_no").words("image", "AU1") == "Is AU1 active on the face in this image?"
    assert Probe("valence", "options", think=True).task == "valence: options, thinking first"


def test_questions_to_learn_from_are_right_and_balanced() -> None:
    labels = Labels("anger", {1: True, 4: True, 12: False, 15: False}, None)
    schema = LabelSchema((1, 4, 12, 15), ("anger", "happiness", "neutral"))
    said: Counter[str] = Counter()
    for seed in range(400):
        ((asked, answer),) = face_question(labels, schema, np.random.default_rng(seed))
        said[answer] += 1
        if answer in ("yes", "no"):
            here = any(word in asked for word in ("AU1 ", "AU4 ", "anger"))
            assert here is (answer == "yes")
            assert asked.endswith("Answer yes or no.")
        else:
            line = next(line for line in asked.splitlines() if line.startswith(f"{answer}. "))
            assert any(word in line for word in ("AU1 ", "AU4 ", "anger"))
    assert 0.8 < said["yes"] / said["no"] < 1.25
    assert set(said) <= {"yes", "no", "A", "B", "C", "D"}
    assert face_question(Labels(), schema, np.random.default_rng(0)) == []
