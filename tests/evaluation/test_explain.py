from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from emo_tiny import arguments, save_tokenizer
from faceaffect import AffectModule, LabelSchema, create_model
from faceaffect.cli import main
from faceaffect.data.batch import FaceBatch
from faceaffect.data.image import read_image, resize
from faceaffect.errors import FaceAffectError
from faceaffect.evaluation.explain import answer_names, explain, grad_cam, noticed
from faces import face as drawn_face
from faces import write_csv, write_image

SCHEMA = LabelSchema((1, 12), ("neutral", "happiness"), True)
MODELS = {
    "cnn": ("timm_classifier", {"backbone": "test_resnet"}),
    "vit": ("timm_classifier", {"backbone": "test_vit"}),
    "frozen_vit": ("timm_classifier", {"backbone": "test_vit", "mode": "linear"}),
    "auformer": ("auformer", {"backbone": "test_vit"}),
    "sacl": ("sacl", {"backbone": "test_vit", "width": 8, "rank": 2}),
    "gimefive": ("gimefive", {}),
}


def whole(file: Path) -> np.ndarray:
    """Take a picture as a face crop."""
    return resize(read_image(file), 48)


class Corner(AffectModule):
    """Answers by the brightness of the upper left quarter alone."""

    def __init__(self, schema: LabelSchema) -> None:
        super().__init__(schema)
        self.cam_layer = nn.Conv2d(3, 1, 1)
        nn.init.ones_(self.cam_layer.weight)

    def loss(self, batch: FaceBatch) -> Tensor:
        raise NotImplementedError

    def predict(self, batch: FaceBatch) -> dict[str, Tensor]:
        bright = self.cam_layer(batch["image"] / 255)
        return {"au": bright[:, :, :8, :8].mean((2, 3)).sigmoid()}


def test_map_shows_what_the_answer_depends_on() -> None:
    face = np.zeros((16, 16, 3), np.uint8)
    face[2:6, 2:6] = 255  # counts
    face[10:14, 10:14] = 128  # does not, but its features are as large as they are
    cam = grad_cam(Corner(LabelSchema(aus=(12,))), face, [0])[0]
    assert cam.shape == (16, 16)
    assert cam[3, 3] == pytest.approx(1, abs=1e-5)
    assert cam[3, 3] > cam[12, 12]


@pytest.mark.parametrize("kind", MODELS)
def test_every_kind_of_backbone(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    name, args = MODELS[kind]
    model = create_model(name, SCHEMA, **args)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    trains = [p.requires_grad for p in model.parameters()]
    faces = np.random.default_rng(0).integers(0, 256, (2, 40, 40, 3), np.uint8)
    (tmp_path / "other").mkdir()
    files = [tmp_path / "a.png", tmp_path / "other" / "a.png"]
    for file, face in zip(files, faces, strict=True):
        Image.fromarray(face).save(file)
    pictures = explain(model, files, tmp_path / "out", read=whole, targets=["AU12", "valence"])
    assert [p.name for p in pictures] == ["a.png", "a_1.png"]
    for picture in pictures:
        height, width = np.asarray(Image.open(picture)).shape[:2]
        assert width > 2 * height  # the face and two maps
    maps = grad_cam(model, faces[0], list(range(6)))
    beside = explain(model, files[:1], tmp_path, read=whole, targets=["AU12"])
    assert [p.name for p in beside] == ["a_1.png"], "never on a picture that is looked at"
    assert all(m.shape == (40, 40) and 0 <= m.min() <= m.max() <= 1 for m in maps)
    assert any(m.max() > 0.9 for m in maps)
    assert [p.requires_grad for p in model.parameters()] == trains
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())


def test_answers_that_are_shown_by_default() -> None:
    names = answer_names(SCHEMA)
    assert names == ("AU1", "AU12", "neutral", "happiness", "valence", "arousal")
    low = dict(zip(names, (0.1, 0.3, 0.4, 0.6, 0, 0), strict=True))
    assert noticed(low, SCHEMA) == ["AU12", "happiness"]
    assert noticed({**low, "AU1": 0.5}, SCHEMA) == ["AU1", "happiness"]
    va = LabelSchema(valence_arousal=True)
    assert noticed({"valence": 0.1, "arousal": 0.2}, va) == ["valence", "arousal"]


def test_errors_say_what_to_do(tmp_path: Path) -> None:
    model = create_model("gimefive", SCHEMA)
    with pytest.raises(FaceAffectError, match="did you mean 'happiness'"):
        explain(model, [tmp_path / "a.png"], tmp_path, read=whole, targets=["hapiness"])
    with pytest.raises(FaceAffectError, match=r"a\.png"):
        explain(model, [tmp_path / "a.png"], tmp_path, read=whole)

    class Shut(Corner):
        def predict(self, batch: FaceBatch) -> dict[str, Tensor]:
            with torch.no_grad():
                seen = self.cam_layer(batch["image"] / 255)
            return {"au": (seen.mean((1, 2, 3))[:, None] * self.weight).sigmoid()}

    shut = Shut(LabelSchema(aus=(12,)))
    shut.weight = nn.Parameter(torch.ones(1))
    with pytest.raises(FaceAffectError, match=r"no gradient .* Grad-CAM cannot say"):
        grad_cam(shut, np.zeros((8, 8, 3), np.uint8), [0])

    class Nothing(Corner):
        def __init__(self, schema: LabelSchema) -> None:
            AffectModule.__init__(self, schema)

    with pytest.raises(FaceAffectError, match="cam_layer"):
        grad_cam(Nothing(LabelSchema(aus=(12,))), np.zeros((8, 8, 3), np.uint8), [0])


def test_a_model_that_answers_without_gradients_says_so(tmp_path: Path) -> None:
    words = save_tokenizer(tmp_path / "words")
    model = create_model("emo_llama", SCHEMA, **arguments(words))
    with pytest.raises(FaceAffectError, match="EmoLlama: no gradient"):
        grad_cam(model, np.zeros((48, 48, 3), np.uint8), [0])


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = write_csv(tmp_path / "faces", people=4, each=3)
    (tmp_path / "tiny.yaml").write_text(f"""
model: {{name: timm_classifier, backbone: test_resnet}}
data:
  name: csv
  table: {table}
  protocol: {{name: subject_kfold, folds: 2, fold: 1, val_fraction: 0.5}}
  image_size: 32
  batch_size: 4
  num_workers: 0
trainer: {{max_epochs: 1, accelerator: cpu}}
output: {tmp_path}
""")
    assert main(["train", str(tmp_path / "tiny.yaml")]) == 0
    (run,) = map(str, (tmp_path / "tiny").iterdir())
    image = str(write_image(tmp_path / "me.png", drawn_face()))
    out = tmp_path / "out"
    argv = ["explain", run, image, "--target", "AU12", "--folder", str(out), "--crop", "none"]
    capsys.readouterr()
    assert main(argv) == 0
    assert capsys.readouterr().out.split() == [str(out / "me.png")]
    assert [file.name for file in out.iterdir()] == ["me.png"]
    for argv, message in (
        (["explain", run, str(tmp_path / "you.png")], "you.png: No such file"),
        (["explain", run, image, "--target", "AU13"], "unknown name 'AU13'"),
        (["explain", str(tmp_path / "nowhere"), image], "no run folder or checkpoint at"),
        (["explain", str(tmp_path / "faces"), image], "no checkpoint at"),
    ):
        assert main(argv) == 2
        error = capsys.readouterr().err.strip()
        assert message in error
        assert error.count("\n") == 0
