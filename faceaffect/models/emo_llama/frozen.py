"""What the frozen networks see in a batch, computed once and kept on disk if asked for."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from faceaffect.data.batch import FaceBatch
from faceaffect.files import replacing
from faceaffect.models.emo_llama.priors import FacePrior, FacePriorNet
from faceaffect.models.emo_llama.tower import HuggingFaceTower, TimmTower

_GROUP = "group/"


@dataclass
class Faces:
    """The M known frames of a batch of B clips.

    Attributes:
        tokens: (M, prefix + P, C) of the vision tower.
        prior: of the frames, None without a face-analysis network.
        owner: (M,) the clip of each frame, ascending.
        count: frames of each clip, B numbers.
    """

    tokens: Tensor
    prior: FacePrior | None
    owner: Tensor
    count: list[int]


class FeatureCache:
    """Outputs of frozen networks on disk, one file a frame.

    A file is named by the networks' fingerprint, the precision and the frame's own bytes, so that
    another network, crop or image size never finds it. It is written under another name first, so
    that an interrupted run leaves no half file.

    Args:
        folder: where the files lie.
        key: names the networks.
    """

    def __init__(self, folder: str | Path, key: str) -> None:
        self.folder = Path(folder).expanduser() / hashlib.sha256(key.encode()).hexdigest()[:16]

    def path(self, image: Tensor) -> Path:
        """Return the file of a frame (3, H, W) uint8, there or not; each precision has its own."""
        data = image.cpu().contiguous().numpy()
        kind = image.device.type
        mixed = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else "full"
        about = f"{data.shape} {mixed}".encode()
        name = hashlib.sha256(about + data.tobytes()).hexdigest()[:32]
        return self.folder / name[:2] / f"{name}.safetensors"

    def read(self, path: Path) -> dict[str, Tensor] | None:
        """Return what a file holds; None if it is not there or not readable."""
        try:
            return load_file(path)
        except (OSError, SafetensorError):
            return None

    def write(self, path: Path, features: dict[str, Tensor]) -> None:
        """Write a file, whole or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path, alone=False) as part:
            save_file({name: value.cpu().contiguous() for name, value in features.items()}, part)


class FrozenFaces(nn.Module):
    """The vision tower and the face-analysis network, both frozen.

    Args:
        tower: the vision tower.
        prior: the face-analysis network, if any.
        cache: folder of a :class:`FeatureCache`, if any.
        grid: the model uses no more of the prior's map than grid x grid, so no more is kept.
    """

    def __init__(
        self,
        tower: TimmTower | HuggingFaceTower,
        prior: FacePriorNet | None,
        cache: str | None = None,
        grid: int = 7,
    ) -> None:
        super().__init__()
        self.grid = grid
        self.tower = tower
        self.prior = prior
        self.cache_folder = cache
        self._cache: FeatureCache | None = None

    def forward(self, batch: FaceBatch) -> Faces:
        """Return what the networks see in the known frames of a batch of clips."""
        owner, frame = batch["frame_mask"].nonzero(as_tuple=True)
        count = batch["frame_mask"].sum(1).tolist()
        if "features" in batch:
            return Faces(*_unflat(batch["features"]), owner, count)
        image = batch["video"][owner, frame]
        with torch.no_grad():
            tokens, prior = self._see(image) if self.cache is None else self._recall(image)
        return Faces(tokens, prior, owner, count)

    def features(self, batch: FaceBatch) -> dict[str, Tensor]:
        """Return what the networks see in a batch of images, name to (B, ...)."""
        with torch.no_grad():
            return _flat(*self._see(batch["image"]), self.grid)

    @property
    def cache(self) -> FeatureCache | None:
        """The cache of these very networks."""
        if self.cache_folder is None:
            return None
        if self._cache is None:
            key = self.tower.fingerprint
            key += f"+{self.prior.fingerprint}-{self.grid}" if self.prior is not None else ""
            self._cache = FeatureCache(self.cache_folder, key)
        return self._cache

    def _see(self, image: Tensor) -> tuple[Tensor, FacePrior | None]:
        return self.tower(image), None if self.prior is None else self.prior(image)

    def _recall(self, image: Tensor) -> tuple[Tensor, FacePrior | None]:
        """Read what is on disk, compute and write the rest."""
        cache = self.cache
        assert cache is not None
        paths = [cache.path(one) for one in image]
        kept = [cache.read(path) for path in paths]
        new = [row for row, features in enumerate(kept) if features is None]
        if new:
            seen = _flat(*self._see(image[new]), self.grid)
            for number, row in enumerate(new):
                one = {name: value[number] for name, value in seen.items()}
                cache.write(paths[row], one)
                kept[row] = one
        rows = [features for features in kept if features is not None]
        stacked = {
            name: torch.stack([row[name].to(image.device) for row in rows]) for name in rows[0]
        }
        return _unflat(stacked)


def _flat(tokens: Tensor, prior: FacePrior | None, grid: int) -> dict[str, Tensor]:
    if prior is None:
        return {"tokens": tokens}
    seen = prior.map
    if max(seen.shape[-2:]) > grid:  # FAN's map has 64 x 64 places, 4 MB a frame
        seen = F.adaptive_avg_pool2d(seen, grid)
    own = {"tokens": tokens, "prior_map": seen, "prior_tokens": prior.tokens}
    own |= {"landmarks": prior.landmarks, "ok": prior.ok}
    return own | {_GROUP + name: value for name, value in prior.groups.items()}


def _unflat(flat: dict[str, Tensor]) -> tuple[Tensor, FacePrior | None]:
    if "ok" not in flat:
        return flat["tokens"], None
    groups = {n.removeprefix(_GROUP): v for n, v in flat.items() if n.startswith(_GROUP)}
    prior = FacePrior(
        flat["prior_map"], flat["prior_tokens"], flat["landmarks"], groups, flat["ok"]
    )
    return flat["tokens"], prior
