"""Where a model looks: Grad-CAM pictures of its answers, for CNNs and ViTs."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from numpy.typing import NDArray
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.image import show_cam_on_image
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from rich.progress import track
from torch import Tensor, nn

from faceaffect.data.asked import with_graph
from faceaffect.data.batch import FaceBatch, as_clips
from faceaffect.errors import FaceAffectError, unknown
from faceaffect.files import replacing
from faceaffect.module import AffectModule
from faceaffect.networks.backbones import Backbone
from faceaffect.schema import CLASS_TASKS, VA_NAMES, LabelSchema

Map = NDArray[np.float32]


def explain(
    model: AffectModule,
    files: Sequence[Path],
    folder: Path,
    *,
    read: Callable[[Path], NDArray[np.uint8]],
    targets: Sequence[str] | None = None,
) -> list[Path]:
    """Save one picture per image file: the face, and over it what speaks for each answer.

    Args:
        model: on its device.
        files: pictures.
        folder: made if it is not there.
        read: returns the face in a picture (S, S, 3) uint8 RGB, cut out as the model was trained:
            :meth:`.Predictor.face_in`.
        targets: names such as ``AU12``, ``happiness`` or ``valence``; None: the AUs and the
            expression that the model sees in each image.

    Returns:
        The pictures, in the order of the files.

    Raises:
        FaceAffectError: an unknown target, an unreadable file, or a model without a feature map.
    """
    names = answer_names(model.schema)
    for target in targets or ():
        if target not in names:
            raise FaceAffectError(unknown("target", target, names))
    folder.mkdir(parents=True, exist_ok=True)
    pictures: list[Path] = []
    for file in track(files, "Grad-CAM", transient=True):
        face = read(file)
        answers = dict(zip(names, _answer(model, face), strict=True))
        chosen = list(targets) if targets else noticed(answers, model.schema)
        maps = grad_cam(model, face, [names.index(name) for name in chosen])
        picture = _free(folder, file.stem, [*files, *pictures])
        _draw(
            face, {f"{n} {answers[n]:.2f}": m for n, m in zip(chosen, maps, strict=True)}, picture
        )
        pictures.append(picture)
    return pictures


def _free(folder: Path, stem: str, taken: Sequence[Path]) -> Path:
    """Return where the picture of a face goes: on none that is looked at or was written."""
    known = {path.resolve() for path in taken}
    names = (f"{stem}{end}.png" for end in ("", *(f"_{n}" for n in range(1, len(taken) + 2))))
    return next(folder / name for name in names if (folder / name).resolve() not in known)


def answer_names(schema: LabelSchema) -> tuple[str, ...]:
    """Return the names of all answers: AUs, expressions, valence and arousal, felt emotions."""
    return schema.answers


def noticed(answers: dict[str, float], schema: LabelSchema) -> list[str]:
    """Return the AUs of at least 0.5 (else the most probable) and the expression.

    A model of valence and arousal alone gets these two.

    Args:
        answers: name to probability, or to the value of valence and arousal.
        schema: which of them are AUs and expressions.
    """
    aus = [name for name in schema.au_names if answers[name] >= 0.5]
    if schema.aus and not aus:
        aus = [max(schema.au_names, key=answers.__getitem__)]
    expression = [max(schema.expressions, key=answers.__getitem__)] if schema.expressions else []
    if not (aus or expression) and not schema.valence_arousal:
        return [max(schema.answers, key=answers.__getitem__)]
    return aus + expression or list(VA_NAMES)


def grad_cam(model: AffectModule, face: NDArray[np.uint8], answers: Sequence[int]) -> list[Map]:
    """Return Grad-CAM (Selvaraju et al., ICCV 2017) for answers of a model.

    Args:
        model: on its device; put into eval mode.
        face: (H, W, 3) uint8 RGB.
        answers: indices into :func:`answer_names`.

    Returns:
        One (H, W) map in [0, 1] per answer; all zero if nothing in the face speaks for it.

    Raises:
        FaceAffectError: the model has no feature map, or its answers do not depend on it.
    """
    model.eval()
    layer, to_map = feature_layer(model)
    image = _tensor(face)
    with _differentiable(layer):
        cam = GradCAM(_Logits(model), [layer], reshape_transform=to_map)
        try:
            logits = cam.activations_and_grads(image.to(model.device))
            if logits.requires_grad:
                logits.sum().backward()
            # What the answers do not depend on, or without a gradient, has left none here.
            if not cam.activations_and_grads.gradients:
                raise FaceAffectError(
                    f"{type(model).__name__}: no gradient goes from its answers to its feature "
                    "map, so that Grad-CAM cannot say where it looks"
                )
            return [cam(image, [ClassifierOutputTarget(i)])[0] for i in answers]
        finally:
            cam.activations_and_grads.release()
            model.zero_grad()


def feature_layer(model: AffectModule) -> tuple[nn.Module, Callable[[Tensor], Tensor]]:
    """Return the layer that Grad-CAM looks at, and what makes its output (B, C, H, W).

    A model names it by ``cam_layer``; else it is the last stage of its backbone or, of a ViT, the
    norm before the attention of the last block, after which patches still differ for the class
    token.

    Raises:
        FaceAffectError: the model has neither.
    """
    named = getattr(model, "cam_layer", None)
    if named is not None:
        return named, lambda x: x
    backbone = next((part for part in model.modules() if isinstance(part, Backbone)), None)
    if backbone is None:
        raise FaceAffectError(
            f"{type(model).__name__} has no backbone that Grad-CAM could look at; "
            "a model of your own names a layer by 'cam_layer'"
        )
    blocks = getattr(backbone.net, "blocks", None)
    if blocks is not None and hasattr(blocks[-1], "norm1"):
        layer: nn.Module = blocks[-1].norm1
    else:
        layer = backbone.net.get_submodule(backbone.net.feature_info[-1]["module"])

    def to_map(x: Tensor) -> Tensor:
        if x.ndim == 3:
            patches = x[:, backbone.num_prefix_tokens :]
            x = patches.reshape(len(x), *backbone.grid, x.shape[-1])
        channels_last = x.shape[-1] == backbone.width != x.shape[1]
        return x.permute(0, 3, 1, 2) if channels_last else x

    return layer, to_map


class _Logits(nn.Module):
    """All answers of a model side by side, without their squashing, which would hide gradients."""

    def __init__(self, model: AffectModule) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> Tensor:
        answers = _predict(self.model, image)
        return torch.cat([_straight(t, answers[t].float()) for t in self.model.schema.tasks], 1)


def _straight(task: str, answer: Tensor) -> Tensor:
    """Undo the squashing of a task's answer."""
    if task == "au":
        return torch.logit(answer, eps=1e-6)
    return answer.log() if task in CLASS_TASKS else answer


def _predict(model: AffectModule, image: Tensor) -> dict[str, Tensor]:
    batch = FaceBatch(image=image, id=["face"] * len(image), subject=["?"] * len(image))
    with with_graph():
        return model.predict(as_clips(batch) if model.clips else batch)


def _answer(model: AffectModule, face: NDArray[np.uint8]) -> list[float]:
    model.eval()
    with torch.no_grad():
        answers = _predict(model, _tensor(face).to(model.device))
    return [value for task in model.schema.tasks for value in answers[task][0].float().tolist()]


def _tensor(face: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(face)).permute(2, 0, 1)[None]


@contextmanager
def _differentiable(layer: nn.Module) -> Iterator[None]:
    """Let a graph begin at a layer, also inside a frozen backbone."""
    frozen = [p for p in layer.parameters() if not p.requires_grad]
    for parameter in frozen:
        parameter.requires_grad_(True)
    try:
        yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)


def _draw(face: NDArray[np.uint8], maps: dict[str, Map], picture: Path) -> None:
    panels: dict[str, NDArray[np.uint8]] = {"": face}
    for title, cam in maps.items():
        panels[title] = show_cam_on_image(np.float32(face / 255), cam, use_rgb=True)
    figure, axes = plt.subplots(
        1, len(panels), figsize=(2.2 * len(panels), 2.5), squeeze=False, layout="constrained"
    )
    for axis, (title, image) in zip(axes[0], panels.items(), strict=True):
        axis.imshow(image)
        axis.set_title(title, fontsize=10, parse_math=False)  # a name may hold any sign
        axis.set_axis_off()
    with replacing(picture) as part:
        figure.savefig(part, dpi=120, format="png")
    plt.close(figure)
