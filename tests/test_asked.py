"""What ``predict``, ``forward`` and ``Trainer.predict`` promise for every model."""

from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from PIL import Image

from batches import FULL, face_batch
from emo_tiny import EXPRESSIONS
from faceaffect import LabelSchema
from faceaffect.data.asked import with_graph
from faceaffect.data.base import create_data
from faceaffect.data.batch import as_clips
from faceaffect.errors import DataError
from faceaffect.networks.heads import answers
from faces import write_image
from predicting import model as corners
from test_contract import AFFECT, MODELS, build

SPECIALISTS = [name for name in AFFECT if not MODELS[name].clips]


@pytest.mark.parametrize("name", SPECIALISTS)
@pytest.mark.parametrize("schema", [FULL, LabelSchema(aus=(1, 2)), EXPRESSIONS])
def test_forward_is_logits_by_task_of_any_number_of_faces(name: str, schema: LabelSchema) -> None:
    model = build(name, schema).eval()
    sizes = {"au": len(schema.aus), "expression": len(schema.expressions), "va": 2}
    for count in (1, 3):
        image = face_batch(schema, count)["image"]
        with torch.no_grad():
            logits = model(image)
        assert {t: tuple(z.shape) for t, z in logits.items()} == {
            t: (count, sizes[t]) for t in schema.tasks
        }
        asked = model.predict({"image": image})
        assert all(torch.equal(asked[t], value) for t, value in answers(logits).items())


@pytest.mark.parametrize("name", AFFECT)
def test_predict_takes_a_batch_a_tensor_an_array_and_a_path(name: str, tmp_path: Path) -> None:
    model = build(name).eval()
    model.image_size = 64
    batch = face_batch(n=2)
    image = batch["image"]
    arrays = image.permute(0, 2, 3, 1).numpy()
    files = [write_image(tmp_path / f"{n}.png", array) for n, array in enumerate(arrays)]
    expected = model.predict(as_clips(batch) if model.clips else batch)
    for given in (image, arrays, list(arrays), files, list(image)):
        got = model.predict(given)
        for task in FULL.tasks:
            assert not got[task].requires_grad
            torch.testing.assert_close(got[task], expected[task], rtol=0, atol=1e-6)
    one = model.predict(str(files[1]))["va"]
    torch.testing.assert_close(one, expected["va"][1:], rtol=0, atol=1e-5)
    torch.testing.assert_close(model.predict(image[1])["va"], one, rtol=0, atol=1e-6)


def test_gradients_are_kept_where_they_are_asked_for() -> None:
    model, image = build("timm_classifier").eval(), face_batch(n=1)["image"]
    with with_graph():
        assert model.predict(image)["au"].requires_grad
        with torch.no_grad():
            assert not model.predict(image)["au"].requires_grad
    assert not model.predict(image)["au"].requires_grad


def test_arrays_and_pictures_are_brought_to_the_size_of_training() -> None:
    model = corners(size=32)
    grey = np.linspace(0, 255, 64, dtype=np.uint8)[None].repeat(64, 0)
    picture = Image.fromarray(grey)
    got = model.predict([picture, grey, np.dstack([grey] * 3)])["au"]
    assert torch.equal(got[0], got[1])
    assert torch.equal(got[0], got[2])
    assert got[0, 1] > got[0, 0]


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (torch.zeros(1, 3, 8, 8), "float32 holds no faces"),
        (torch.zeros(1, 8, 8, 3, dtype=torch.uint8), r"\(1, 8, 8, 3\).*holds no faces"),
        (np.zeros((8, 8, 4), np.uint8), "is no picture"),
        (np.zeros((0, 8, 8, 3), np.uint8), "no face"),
        (np.zeros((8, 8, 3)), "float64 is no picture"),
        ([], "empty list"),
        ("nowhere.png", "nowhere.png"),
        ([torch.zeros(3, n, n, dtype=torch.uint8) for n in (8, 9)], "several sizes"),
    ],
)
def test_what_is_no_face_is_named(wrong: Any, words: str) -> None:
    with pytest.raises(DataError, match=words):
        corners().predict(wrong)


def test_the_trainer_predicts_a_datamodule_and_any_loader(tmp_path: Path) -> None:
    model = build("timm_classifier").eval()
    trainer = L.Trainer(logger=False, enable_progress_bar=False, accelerator="cpu")
    data = create_data(
        "synthetic", n=12, subjects=6, image_size=64, aus=[12, 25], batch_size=5, num_workers=0,
        protocol="all",
    )  # fmt: skip
    found = trainer.predict(model, datamodule=data)
    ids = [name for batch in found for name in batch["id"]]
    assert ids == data.dataset.samples.id.tolist()
    assert all(batch["au"].shape == (len(batch["id"]), len(FULL.aus)) for batch in found)
    image = face_batch(n=4)["image"]
    tensors = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(image), batch_size=2)
    got = torch.cat([batch["va"] for batch in trainer.predict(model, tensors)])
    torch.testing.assert_close(got, model.predict(image)["va"])
    batches = [face_batch(clips=3, n=2), {"image": image}]
    clips = trainer.predict(model, torch.utils.data.DataLoader(batches, batch_size=None))
    assert clips[0]["au"].shape == (2, 3)
    assert clips[1]["au"].shape == (4, 3)
