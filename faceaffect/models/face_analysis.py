"""A small face-analysis network: 68 landmarks, head pose, attributes and features, in one pass.

Ours. It offers what FaceXFormer (arXiv 2403.12960) offers to a model that mines faces for clues: a
fused feature map, one token for each task, and the tasks' answers.
"""

import math
from typing import Annotated, Any, Literal, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from faceaffect.components import Options
from faceaffect.data.batch import FaceBatch
from faceaffect.errors import CheckpointError, DataError, RecipeError
from faceaffect.models.pretraining import PretrainingModule
from faceaffect.models.teachers import MeshTeacher
from faceaffect.networks.assets import asset_path
from faceaffect.networks.backbones import create_backbone
from faceaffect.networks.weights import Freezable, load_asset
from faceaffect.registry import as_node
from faceaffect.schema import LabelSchema

LANDMARKS = 68
"""Landmarks of a face, in iBUG order."""

_EYES = (36, 45)  # outer corners, whose distance the errors are divided by
_REACH = 1.3  # landmarks may lie so far from the middle, in half sides of the image


class FaceAnalysisOutput(NamedTuple):
    """What the network sees in B faces.

    Attributes:
        landmarks: (B, 68, 2) x and y in pixels of the given image, whole numbers at pixel centres.
        pose: (B, 3) pitch, yaw, roll in radians.
        attributes: logits (B, K) of each attribute, in the order of its class names.
        map: (B, C, h, w) fused feature map; at 112 pixels h = w = 14.
        tokens: (B, T, C) one token for each of the network's ``tasks``.
        embedding: (B, C) the mean of the tokens.
    """

    landmarks: Tensor
    pose: Tensor
    attributes: dict[str, Tensor]
    map: Tensor
    tokens: Tensor
    embedding: Tensor


class FaceNetwork(Freezable):
    """Landmarks, pose, attributes and features from a face crop.

    A CNN's feature pyramid is fused into one map. Landmarks are the means of 68 heat maps on it,
    corrected by what their token says; pose and attributes are read from tokens that attend to it.

    Args:
        attributes: class names of each attribute, in index order.
        backbone: a CNN of timm, by name or by the options of
            :func:`faceaffect.networks.backbones.create_backbone`.
        levels: stages of the CNN that are fused.
        width: channels C of map and tokens.

    Attributes:
        tasks: what the tokens stand for: ``landmarks``, ``pose`` and the attributes.
        attributes: class names of each attribute.
    """

    def __init__(
        self,
        attributes: dict[str, list[str]],
        *,
        backbone: Annotated[str | dict[str, Any], Options(create_backbone)],
        levels: int = 3,
        width: int = 128,
    ) -> None:
        super().__init__()
        if width % 32:
            raise RecipeError(f"model.width: {width} is no multiple of 32")
        self.backbone = create_backbone(**as_node(backbone))
        self.attributes = {name: tuple(classes) for name, classes in attributes.items()}
        self.tasks = ("landmarks", "pose", *self.attributes)
        self.width, self.levels = width, levels
        self.description = {
            "attributes": {name: list(classes) for name, classes in attributes.items()},
            "backbone": {
                "name": self.backbone.name,
                "image_size": self.backbone.image_size,
                "args": self.backbone.args,
            },
            "levels": levels,
            "width": width,
        }
        self.lateral = nn.ModuleList(nn.Conv2d(c, width, 1) for c in self.backbone.channels(levels))
        self.fuse = nn.Sequential(
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
        )
        self.heat = nn.Conv2d(width, LANDMARKS, 1)
        self.queries = nn.Parameter(torch.randn(len(self.tasks), width) * 0.02)
        self.place = nn.Parameter(torch.randn(1, 49, width) * 0.02)
        self.attend = nn.TransformerDecoderLayer(
            width, width // 32, 2 * width, dropout=0.0, batch_first=True, norm_first=True
        )
        self.norm = nn.LayerNorm(width)
        self.correction = nn.Linear(width, 2 * LANDMARKS)
        self.pose = nn.Linear(width, 3)
        self.heads = nn.ModuleDict(
            {name: nn.Linear(width, len(classes)) for name, classes in self.attributes.items()}
        )
        nn.init.zeros_(self.correction.weight)
        nn.init.zeros_(self.correction.bias)

    def forward(self, image: Tensor) -> FaceAnalysisOutput:
        """Analyse uint8 faces (B, 3, H, W) of any size; they are resized and normalised inside."""
        levels = self.backbone.pyramid(self.backbone.normalise(image), self.levels)
        size = levels[0].shape[-2:]
        maps = [
            F.interpolate(lateral(level), size, mode="bilinear")
            for lateral, level in zip(self.lateral, levels, strict=True)
        ]
        fused = self.fuse(torch.stack(maps).sum(0))
        keys = F.adaptive_avg_pool2d(fused, 7).flatten(2).transpose(1, 2) + self.place
        tokens = self.norm(self.attend(self.queries.expand(len(image), -1, -1), keys))
        landmarks = _mean_place(self.heat(fused)) + self.correction(tokens[:, 0]).view(-1, 68, 2)
        height, width = image.shape[-2:]
        half = landmarks.new_tensor([width, height]) / 2
        return FaceAnalysisOutput(
            landmarks=(landmarks.float() + 1) * half - 0.5,
            pose=self.pose(tokens[:, 1]).float(),
            attributes={
                name: head(tokens[:, 2 + i]).float()
                for i, (name, head) in enumerate(self.heads.items())
            },
            map=fused,
            tokens=tokens,
            embedding=tokens.mean(1),
        )


def _mean_place(heat: Tensor) -> Tensor:
    """Return the mean x and y (B, N, 2) of heat maps (B, N, h, w), 1 at the image's edges."""
    weight = heat.float().flatten(2).softmax(2).view(heat.shape)
    x = _REACH * torch.linspace(-1, 1, heat.shape[3], device=heat.device)
    y = _REACH * torch.linspace(-1, 1, heat.shape[2], device=heat.device)
    return torch.stack([weight.sum(2) @ x, weight.sum(3) @ y], 2)


class FaceAnalysis(PretrainingModule):
    """Trains :class:`FaceNetwork` on landmarks, pose and attributes; never on AUs or expressions.

    Args:
        schema: of the data; no label that it names is used.
        attributes: class names of each attribute to learn, in index order; they have to be those
            of the data. None takes ``age_group``, ``gender_presentation`` and ``skin_tone`` of the
            synthetic faces.
        backbone: see :class:`FaceNetwork`.
        levels: see :class:`FaceNetwork`.
        width: see :class:`FaceNetwork`.
        pose_weight: of the mean pose error in radians, beside the landmark error in distances
            between the outer eye corners.
        attribute_weight: of the mean cross-entropy over the attributes.
        start: go on from these weights, as :func:`load_face_analysis` names them; the network's own
            settings are theirs then.
        teacher: ``mesh`` answers where the data has no landmarks, see
            :class:`faceaffect.models.teachers.MeshTeacher`; its errors are measured against it.
    """

    def __init__(
        self,
        schema: LabelSchema | dict[str, Any],
        *,
        attributes: dict[str, list[str]] | None = None,
        backbone: Annotated[str | dict[str, Any], Options(create_backbone)] = "resnet18",
        levels: int = 3,
        width: int = 128,
        pose_weight: float = 0.5,
        attribute_weight: float = 0.1,
        start: str | None = None,
        teacher: Literal["mesh"] | None = None,
    ) -> None:
        super().__init__(schema)
        self.teacher = MeshTeacher() if teacher == "mesh" else None
        self.photographs = False  # of which only the teacher's landmarks are known
        if attributes is None:
            from faceaffect.data.synthetic.identity import ATTRIBUTES

            attributes = {name: list(classes) for name, classes in ATTRIBUTES.items()}
        if start is None:
            self.net = FaceNetwork(attributes, backbone=backbone, levels=levels, width=width)
        else:
            self.net = load_face_analysis(start, frozen=False)
        self.pose_weight, self.attribute_weight = pose_weight, attribute_weight

    def setup(self, stage: str) -> None:
        """Compare the attributes' class names with the data's.

        Raises:
            DataError: the data lacks an attribute or has other classes.
        """
        data = getattr(self.trainer, "datamodule", None)
        known = data.dataset.attribute_names if data is not None else self.net.attributes
        if not known and self.teacher is not None:
            self.photographs = True
            return
        for name, classes in self.net.attributes.items():
            if tuple(known.get(name, ())) != classes:
                raise DataError(
                    f"model.attributes.{name}: the network's classes are {', '.join(classes)}; "
                    f"the data has {', '.join(known.get(name, ())) or 'no such attribute'}"
                )

    def forward(self, image: Tensor) -> FaceAnalysisOutput:
        """Analyse uint8 faces (B, 3, H, W)."""
        return cast(FaceAnalysisOutput, self.net(image))

    def loss(self, batch: FaceBatch) -> Tensor:
        """Return the weighted sum of landmark error, pose error and attribute cross-entropy."""
        found = self(batch["image"])
        loss = _known_mean(landmark_error(found.landmarks, self._landmarks(batch)))
        loss = loss + self.pose_weight * _known_mean((found.pose - self._pose(batch)).abs())
        terms = [
            _cross_entropy(found.attributes[name], target)
            for name, target in self._attributes(batch).items()
        ]
        return loss + self.attribute_weight * torch.stack(terms).mean() if terms else loss

    def _landmarks(self, batch: FaceBatch) -> Tensor:
        """Return (B, 68, 2): the data's, or the teacher's of faces of which the data has none."""
        known = batch.get("landmarks")
        if known is None:
            known = torch.full((len(batch["id"]), LANDMARKS, 2), torch.nan).to(self.device)
        if self.teacher is None:
            return known
        without = known.isnan().all(2).all(1)
        if not without.any():
            return known
        return known.masked_scatter(
            without[:, None, None].expand_as(known), self.teacher(batch["image"][without])
        )

    def _pose(self, batch: FaceBatch) -> Tensor:
        unknown = torch.full((len(batch["id"]), 3), torch.nan)
        return batch.get("pose", unknown).to(self.device)

    def _attributes(self, batch: FaceBatch) -> dict[str, Tensor]:
        """Return the batch's own answers for the attributes that it has."""
        return {
            name: batch["attributes"][name]
            for name in self.net.attributes
            if name in batch.get("attributes", {})
        }

    def validation_step(self, batch: FaceBatch, batch_idx: int) -> None:
        """Log errors and accuracies."""
        self._measure("val", batch)

    def test_step(self, batch: FaceBatch, batch_idx: int) -> None:
        """Log errors and accuracies."""
        self._measure("test", batch)

    def _measure(self, part: str, batch: FaceBatch) -> None:
        """Log each error over the faces whose answer is known, and the score of the batch."""
        found = self(batch["image"])
        nme = landmark_error(found.landmarks, self._landmarks(batch))
        pose = (found.pose - self._pose(batch)).abs()
        pose = pose[~pose.isnan().any(1)]
        values = {"nme_percent": 100 * nme}
        right = {}
        if not self.photographs:
            values["pose_degrees"] = pose.mean(1) * (180 / math.pi)
            for name, target in self._attributes(batch).items():
                hits = found.attributes[name].argmax(1) == target
                right[name] = hits[target >= 0].float()
            values |= {f"{name}_accuracy": hits for name, hits in right.items()}
        for name, value in values.items():
            # A batch without a known answer has no weight in the mean over batches.
            self.log(
                f"{part}/{name}", _known_mean(value), on_epoch=True, on_step=False,
                sync_dist=True, batch_size=len(value),
            )  # fmt: skip
        accuracy = torch.cat(list(right.values())).mean() if right and len(pose) else 0.0
        score = accuracy - _known_mean(nme) - _known_mean(pose)
        self.log(f"{part}/score", score, on_epoch=True, sync_dist=True, batch_size=len(batch["id"]))

    def exported(self) -> tuple[nn.Module, dict[str, Any]]:
        """Return the network, and how to build it."""
        purpose = "for learning, tests and continuous integration; of no value on real faces"
        names = (name.replace("_", " ") for name in self.net.attributes)
        labels = ", ".join(["68 landmarks", "head pose", *names])
        if self.teacher is not None:
            purpose = (
                "landmarks of faces that are cut out upright; its attributes know drawings only"
            )
            labels += "; of photographs the landmarks alone, as MediaPipe's face mesh sees them"
        about = {"face_network": self.net.description, "purpose": purpose, "labels": labels}
        return self.net, about


def load_face_analysis(name: str = "asset:mini_face", *, frozen: bool = True) -> FaceNetwork:
    """Build the face network of an asset or of an exported file, with its weights.

    Args:
        name: ``asset:mini_face``, or the path of an exported file.
        frozen: train nothing and stay in eval mode; checkpoints then leave its weights out.

    Raises:
        RecipeError: the package ships no such asset.
        CheckpointError: the file is missing, damaged or holds something else.
    """
    kind, _, title = name.rpartition(":")
    path = asset_path(title) if kind == "asset" else name
    state, about = load_asset(path)
    if "face_network" not in about:
        raise CheckpointError(f"{path}: holds no face-analysis network")
    net = FaceNetwork(**about["face_network"])
    net.load_state_dict(state)
    net.source = {
        "kind": kind or "file",
        "name": title,
        "fingerprint": about["fingerprint"],
    }
    if frozen:
        net.freeze()
    return net.eval()


def landmark_error(found: Tensor, known: Tensor) -> Tensor:
    """Return the mean distance of each face's landmarks, divided by that of the outer eye corners.

    The usual normalised mean error of 300-W, as a fraction.

    Args:
        found: (B, 68, 2) in pixels.
        known: (B, 68, 2) in pixels, NaN unknown.

    Returns:
        (M,), the faces with a known landmark and eye corners.
    """
    between = (known[:, _EYES[0]] - known[:, _EYES[1]]).norm(dim=1)
    there = ~known.isnan().any(2)
    use = there.any(1) & (between > 0)
    apart = (found - known.nan_to_num()).square().sum(2).clamp_min(1e-8).sqrt() * there
    error: Tensor = apart[use].sum(1) / there[use].sum(1) / between[use]
    return error


def _known_mean(error: Tensor) -> Tensor:
    known = ~error.isnan()
    return error.nan_to_num().sum() / known.sum().clamp_min(1)


def _cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    summed = F.cross_entropy(logits, target, ignore_index=-1, reduction="sum")
    return summed / (target >= 0).sum().clamp_min(1)
