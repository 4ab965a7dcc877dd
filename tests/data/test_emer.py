"""EMER: a tree of the form that the authors' loader reads, written by the test."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest

from faceaffect.data.base import create_data
from faceaffect.data.emer import CLASSES, STEPS, Emer
from faceaffect.errors import DataError, RecipeError

CODES = ["neutral", "happy", "sad", "fear", "surprise", "disgust", "angry"]
"""Any order will do: the true one is not published."""


def write(root: Path, people: int = 10) -> Path:
    rng = np.random.default_rng(0)
    rows = []
    (root / "eye").mkdir(parents=True)
    for i in range(2 * people):
        name = f"{i}_film_happy Happy"
        clip = root / "face" / f"set{1 + (i // 2) % 5}" / name
        clip.mkdir(parents=True)
        for frame in range(3):
            picture = rng.integers(0, 256, (24, 24, 3), np.uint8)
            cv2.imwrite(str(clip / f"{frame}.png"), picture)
        unit = " [DACS px]" if i % 2 else ""
        track = pd.DataFrame(
            {
                f"Gaze point X{unit}": np.arange(64.0) * 10 + i,
                f"Gaze point Y{unit}": np.full(64, 540.0),
                "Pupil diameter left": rng.normal(3, 0.1, 64),
            }
        )
        track.loc[5, "Pupil diameter left"] = np.nan
        if i == 1 and find_spec("openpyxl"):  # an extra
            track.to_excel(root / "eye" / f"{name}.xlsx", index=False)
        elif i:
            track.to_csv(root / "eye" / f"{name}.csv", index=False)
        rows.append((name, i % 7, (i + 1) % 7, 0.5, -0.25, i % 4, f"P{i // 2:02d}"))
    columns = ["ID", "Emotion", "FER", "Valence", "Arousal", "Intensity", "Participant"]
    pd.DataFrame(rows, columns=columns).to_csv(root / "new_label.csv", index=False)
    return root


def test_labels_parts_and_tracks(tmp_path: Path) -> None:
    root = write(tmp_path)
    data = create_data(
        "emer", root=str(root), fold=2, codes=CODES, shown="FER", person="Participant", frames=2,
        batch_size=4, num_workers=0, image_size=24,
    )  # fmt: skip
    samples, schema = data.dataset.samples, data.schema
    assert schema.tasks == ("expression", "va", "felt", "intensity")
    assert schema.felt == schema.expressions == CLASSES
    row = samples.id.tolist().index("face/set2/3_film_happy Happy")
    assert samples.subject[row] == "P01"
    assert schema.felt[samples.felt[row]] == "fear"
    assert schema.expressions[samples.expression[row]] == "surprise"
    assert samples.intensity[row] == 3
    assert samples.va[row].tolist() == [0.5, -0.25]
    tested = {samples.id[i].split("/")[1] for i in data.split.test}
    assert tested == {"set2"}
    assert samples.eyes.shape == (20, STEPS, 3)
    assert samples.fixations.shape == (20, STEPS, 2)
    # Two rows a piece: 10 (2 k) + 3 and 10 (2 k + 1) + 3, of a screen of 1920 x 1080.
    np.testing.assert_allclose(
        samples.fixations[row, :, 0], (10 * (2 * np.arange(32) + 0.5) + 3) / 1920, rtol=1e-5
    )
    np.testing.assert_allclose(samples.fixations[row, :, 1], 0.5)
    assert np.isfinite(samples.eyes[row]).all()
    first = samples.id.tolist().index("face/set1/0_film_happy Happy")
    assert np.isnan(samples.eyes[first]).all()  # not recorded
    batch = next(iter(data.test_dataloader()))
    assert batch["video"].shape[1:] == (2, 3, 24, 24)
    assert batch["eyes"].shape[1:] == (STEPS, 3)
    again = Emer(str(root), codes=CODES, eye_cache=str(root / "faceaffect_eyes")).samples
    np.testing.assert_allclose(again.eyes, samples.eyes, rtol=1e-5)


def test_without_more_knowledge_only_feelings_are_labelled(tmp_path: Path) -> None:
    dataset = Emer(str(write(tmp_path)), codes=CODES)
    assert dataset.schema.tasks == ("va", "felt", "intensity")
    assert not dataset.subjects_known


def test_words_need_no_codes_and_codes_are_never_guessed(tmp_path: Path) -> None:
    root = write(tmp_path)
    with pytest.raises(DataError, match=r"not published: say data.codes=\[...\]"):
        Emer(str(root))
    table = pd.read_csv(root / "new_label.csv")
    table["Emotion"] = "Happy"
    table.loc[2, "Emotion"] = ""
    table.to_csv(root / "new_label.csv", index=False)
    felt = Emer(str(root)).samples.felt
    assert sorted(set(felt.tolist())) == [-1, CLASSES.index("happiness")]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"fold": 6}, "fold: 6 is out of range"),
        ({"codes": ["happy"]}, "data.codes: each of happiness"),
        ({"screen": [0, 1]}, "data.screen"),
    ],
)
def test_wrong_arguments_are_named(tmp_path: Path, args: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        Emer(str(tmp_path), **args)


def _lose(root: Path, what: str) -> None:
    table = pd.read_csv(root / "new_label.csv")
    if what == "labels":
        (root / "new_label.csv").unlink()
    elif what == "code":
        table.loc[3, "Emotion"] = 7
    elif what == "word":
        table["Emotion"] = table["Emotion"].astype(object)
        table.loc[3, "Emotion"] = "bored"
    elif what == "column":
        table = table.drop(columns="Emotion")
    elif what == "valence":
        table.loc[3, "Valence"] = 1.5
    elif what == "gaze":
        file = root / "eye" / "3_film_happy Happy.csv"
        pd.read_csv(file).drop(columns="Gaze point X [DACS px]").to_csv(file, index=False)
    elif what == "eyes":
        for file in (root / "eye").iterdir():
            file.unlink()
    if what not in ("labels", "gaze", "eyes"):
        table.to_csv(root / "new_label.csv", index=False)


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("labels", "new_label.xlsx is missing"),
        ("code", "'3_film_happy Happy'.*Emotion is 7, expected 0 to 6"),
        ("word", "Emotion is 'bored'; expected one of"),
        ("column", "no column Emotion; it has ID, FER"),
        ("valence", "Valence is '?1.5"),
        ("gaze", "3_film_happy Happy.csv: no column Gaze point X"),
        ("eyes", "no eye track of any clip"),
    ],
)
def test_what_is_missing_or_wrong_is_named(tmp_path: Path, what: str, message: str) -> None:
    root = write(tmp_path, people=5)
    _lose(root, what)
    with pytest.raises(DataError, match=message):
        Emer(str(root), codes=CODES)


def test_what_is_left_out_is_counted(tmp_path: Path) -> None:
    root = write(tmp_path)
    table = pd.read_csv(root / "new_label.csv")
    more = pd.concat([table[1:], table[:1].assign(ID="nobody")])
    more.to_csv(root / "new_label.csv", index=False)
    assert Emer(str(root), codes=CODES).left_out == {"without a label": 1, "not on disk": 1}
