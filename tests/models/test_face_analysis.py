"""The face-analysis network and the module that trains it."""

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch

from faceaffect import LabelSchema, load_model
from faceaffect.data.batch import FaceBatch
from faceaffect.errors import CheckpointError, RecipeError
from faceaffect.models import face_analysis
from faceaffect.models.face_analysis import (
    FaceAnalysis,
    FaceNetwork,
    landmark_error,
    load_face_analysis,
)
from faceaffect.networks.weights import frozen_keys, load_asset_metadata

CLASSES = {"age_group": ["young", "old"], "tone": ["a", "b", "c"]}
SMALL: dict[str, Any] = {
    "attributes": CLASSES,
    "backbone": {
        "name": "resnet18",
        "image_size": 64,
        "args": {"layers": [1, 1, 1, 1], "channels": [8, 8, 16, 16]},
    },
    "width": 32,
}


def faces(n: int = 6, size: int = 64) -> FaceBatch:
    """Return dark images with a bright square, around which the landmarks lie."""
    g = torch.Generator().manual_seed(0)
    place = torch.rand(n, 2, generator=g) * 24 + 16
    image = torch.zeros(n, 3, size, size, dtype=torch.uint8)
    for i, (x, y) in enumerate(place.round().int().tolist()):
        image[i, :, y - 6 : y + 6, x - 6 : x + 6] = 255
    template = torch.rand(68, 2, generator=g) * 16 - 8
    return FaceBatch(
        image=image,
        landmarks=place[:, None] + template,
        pose=(place / 32 - 1).repeat(1, 2)[:, :3],
        attributes={name: torch.arange(n) % len(k) for name, k in CLASSES.items()},
        id=[str(i) for i in range(n)],
        subject=["p"] * n,
    )


def network() -> FaceNetwork:
    torch.manual_seed(0)
    return FaceNetwork(**SMALL)


def module() -> FaceAnalysis:
    torch.manual_seed(0)
    return FaceAnalysis(LabelSchema(), **SMALL)


def test_gives_all_that_a_model_may_want_of_a_face() -> None:
    net = network().eval()
    found = net(faces(3)["image"])
    assert found.landmarks.shape == (3, 68, 2)
    assert found.pose.shape == (3, 3)
    assert {name: tuple(v.shape) for name, v in found.attributes.items()} == {
        "age_group": (3, 2),
        "tone": (3, 3),
    }
    assert found.map.shape == (3, 32, 8, 8)
    assert net.tasks == ("landmarks", "pose", "age_group", "tone")
    assert found.tokens.shape == (3, 4, 32)
    torch.testing.assert_close(found.embedding, found.tokens.mean(1))


def test_landmarks_are_pixels_of_the_image_given() -> None:
    net = network().eval()
    image = faces(2)["image"]
    double = image.repeat_interleave(2, 2).repeat_interleave(2, 3)
    small, large = net(image).landmarks, net(double).landmarks
    torch.testing.assert_close((large + 0.5) / 2, small + 0.5, atol=1.0, rtol=0)


def test_landmark_error_is_the_mean_distance_in_eye_distances() -> None:
    known = torch.zeros(2, 68, 2)
    known[:, 45, 0] = 10.0  # between the outer eye corners
    known[1, 3] = torch.nan
    found = known.nan_to_num() + torch.tensor([3.0, 4.0])
    torch.testing.assert_close(landmark_error(found, known), torch.tensor([0.5, 0.5]))
    unknown = torch.full((1, 68, 2), torch.nan)
    assert landmark_error(found[:1], unknown).shape == (0,)


def test_learns_where_things_are() -> None:
    net = module().train()
    batch = faces()
    optimiser = torch.optim.AdamW(net.parameters(), 3e-3)
    losses = []
    for _ in range(40):
        loss = net.loss(batch)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.4 * losses[0]
    assert all(p.grad is not None for p in net.parameters())


def test_unknown_labels_cost_nothing_but_keep_the_graph() -> None:
    batch = faces(2)
    batch["landmarks"].fill_(torch.nan)
    batch["pose"].fill_(torch.nan)
    for value in batch["attributes"].values():
        value.fill_(-1)
    loss = module().train().loss(batch)
    assert loss.item() == 0
    loss.backward()


def test_an_export_brings_the_same_network_back(tmp_path: Path) -> None:
    net = module()
    net.recipe = {"name": "mine", "sections": {"data": {"name": "synthetic"}}}
    loader = torch.utils.data.DataLoader([faces()], batch_size=None)
    trainer = L.Trainer(
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        accelerator="cpu",
        default_root_dir=tmp_path,
    )
    trainer.fit(net, loader, loader)
    assert torch.isfinite(trainer.callback_metrics["val/score"])
    trainer.test(net, loader, verbose=False)
    assert {"test/nme_percent", "test/pose_degrees", "test/tone_accuracy"} <= set(
        trainer.callback_metrics
    )
    file = tmp_path / "export.safetensors"
    about = load_asset_metadata(file)
    assert about["trained_by"] == "mine"
    assert about["schema"] == LabelSchema().to_dict()
    loaded = load_face_analysis(str(file))
    with torch.no_grad():
        ours, theirs = net.eval()(faces()["image"]), loaded(faces()["image"])
    torch.testing.assert_close(theirs.landmarks, ours.landmarks, atol=0.5, rtol=0)
    assert loaded.attributes == {name: tuple(k) for name, k in CLASSES.items()}
    assert not any(p.requires_grad for p in loaded.parameters())
    assert loaded.frozen_source == {
        "kind": "file",
        "name": str(file),
        "fingerprint": about["fingerprint"],
    }
    assert frozen_keys(loaded) == set(loaded.state_dict())

    checkpoint = tmp_path / "model.ckpt"
    trainer.save_checkpoint(checkpoint, weights_only=True)
    again = load_model(checkpoint)
    torch.testing.assert_close(again(faces()["image"]).pose, ours.pose)


def test_wrong_numbers_and_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="width: 30 is no multiple of 32"):
        FaceNetwork(**{**SMALL, "width": 30})
    with pytest.raises(CheckpointError, match=r"no such file|not readable|missing"):
        load_face_analysis(str(tmp_path / "none.safetensors"))
    with pytest.raises(RecipeError, match="asset"):
        load_face_analysis("asset:none")


def test_the_shipped_network_finds_faces_of_people_it_never_saw() -> None:
    from faceaffect.data.synthetic import SyntheticFaces

    data = SyntheticFaces(n=24, subjects=24, seed=77)
    loaded = [data.load(i) for i in range(len(data))]
    image = torch.stack([torch.from_numpy(x.image).permute(2, 0, 1) for x in loaded])
    known = torch.stack([torch.from_numpy(x.landmarks) for x in loaded])
    net = load_face_analysis()
    with torch.no_grad():
        found = net(image)
    assert landmark_error(found.landmarks, known).mean() < 0.08
    assert net.attributes == data.attribute_names


class Knows:
    """A teacher that answers with a known place."""

    def __init__(self, landmarks: torch.Tensor) -> None:
        self.landmarks = landmarks

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        return self.landmarks[: len(image)]


def taught(landmarks: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> FaceAnalysis:
    monkeypatch.setattr(face_analysis, "MeshTeacher", lambda: Knows(landmarks))
    torch.manual_seed(0)
    return FaceAnalysis(LabelSchema(), **SMALL, teacher="mesh").eval()


def test_a_teacher_answers_where_the_data_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = faces()
    module = taught(batch["landmarks"][3:] + 1, monkeypatch)
    whole = module.loss(batch).item()
    with_unknown = FaceBatch(**{**batch, "landmarks": batch["landmarks"].clone()})
    with_unknown["landmarks"][3:] = torch.nan
    told = FaceBatch(**{**batch, "landmarks": batch["landmarks"].clone()})
    told["landmarks"][3:] += 1
    assert module.loss(with_unknown).item() == pytest.approx(module.loss(told).item())
    assert module.loss(with_unknown).item() != pytest.approx(whole)


def test_photographs_are_measured_by_their_landmarks_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    batch = faces()
    module = taught(batch["landmarks"], monkeypatch)
    module.photographs = True
    bare = FaceBatch(image=batch["image"], id=batch["id"], subject=batch["subject"])
    loader = torch.utils.data.DataLoader([bare], batch_size=None, collate_fn=lambda b: b)
    trainer = L.Trainer(
        default_root_dir=tmp_path, logger=False, enable_progress_bar=False, accelerator="cpu"
    )
    (measured,) = trainer.test(module, loader, verbose=False)
    known = landmark_error(module(batch["image"]).landmarks, batch["landmarks"]).mean()
    assert measured == {
        "test/nme_percent": pytest.approx(100 * known.item()),
        "test/score": pytest.approx(-known.item()),
    }
    assert torch.isfinite(module.loss(bare))


def test_accuracies_count_faces_whose_answer_is_known(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = FaceAnalysis(LabelSchema(), **SMALL).eval()
    first, second = faces(), faces()
    second["attributes"] = {name: torch.full((6,), -1) for name in CLASSES}
    loader = torch.utils.data.DataLoader([first, second], batch_size=None, collate_fn=lambda b: b)
    trainer = L.Trainer(
        default_root_dir=tmp_path, logger=False, enable_progress_bar=False, accelerator="cpu"
    )
    (measured,) = trainer.test(module, loader, verbose=False)
    said = module(first["image"]).attributes["tone"].argmax(1)
    right = (said == first["attributes"]["tone"]).float().mean().item()
    assert measured["test/tone_accuracy"] == pytest.approx(right)


def test_training_goes_on_from_an_asset() -> None:
    module = FaceAnalysis(LabelSchema(), start="asset:mini_face")
    image = torch.randint(0, 256, (1, 3, 112, 112), dtype=torch.uint8)
    with torch.no_grad():
        found = module.eval()(image).landmarks
        torch.testing.assert_close(found, load_face_analysis()(image).landmarks)
    assert all(p.requires_grad for p in module.net.parameters())
