"""Two generators that edit faces, after the idea of Comp-GAN (arXiv 2001.06144).

Known of the paper: a unified task-driven GAN with two generators, one of which edits expressions,
makes examples of classes of which there are few. That the other edits pose and person is inferred
from half a sentence; layers and losses are ours, see docs/fewshot.md.
"""

from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from faceaffect.data.batch import FaceBatch
from faceaffect.data.synthetic.quartets import OTHER
from faceaffect.errors import DataError, RecipeError
from faceaffect.models.pretraining import PretrainingModule
from faceaffect.schema import LabelSchema


class CompGan(PretrainingModule):
    """Trains an editor of expressions and an editor of person and pose, against one judge.

    It learns from ``expression_quartets``: the same person in the same scene with another
    expression. The editor of expressions is shown a face and an example, and gives the face the
    example's expression; the other gives the example the person, pose and light of the face. The
    judge tells drawn from edited pictures and names their expression, which the editors have to get
    right ("task-driven").

    Args:
        schema: of the data, with expressions.
        width: channels of the first layer.
        code: width of what an editor takes of the second picture.
        adversarial: weight of looking drawn.
        task: weight of showing the right expression.
        focus: how many times as much a pixel counts that should change by a twentieth of the range
            or more; few do, and an editor that changes nothing would be nearly right.

    Raises:
        RecipeError: the data has no expressions, or a number is out of range.
    """

    def __init__(
        self,
        schema: LabelSchema | dict[str, Any],
        *,
        width: int = 12,
        code: int = 64,
        adversarial: float = 0.02,
        task: float = 0.05,
        focus: float = 10.0,
    ) -> None:
        super().__init__(schema)
        if not self.schema.expressions:
            raise RecipeError("model: comp_gan needs data with expressions")
        for name, value, least in (
            ("width", width, 4), ("code", code, 1), ("adversarial", adversarial, 0),
            ("task", task, 0), ("focus", focus, 1),
        ):  # fmt: skip
            if value < least:
                raise RecipeError(f"model.{name}: {value} is below {least}")
        self.editors = nn.ModuleDict(
            {"expression": Editor(width, code, keeps=True), "person": Editor(width, code)}
        )
        self.judge = Judge(2 * width, len(self.schema.expressions))
        self.adversarial, self.task, self.focus = adversarial, task, focus

    def exported(self) -> tuple[nn.Module, dict[str, Any]]:
        """Return the editors."""
        sizes = {key: self.hparams[key] for key in ("width", "code")}
        return self.editors, {**sizes, "labels": "expression classes"}

    @torch.no_grad()
    def edit(self, faces: Tensor, examples: Tensor) -> Tensor:
        """Return a picture for each pair of a face and an example of an expression.

        The first half are the faces with the example's expression, the others the examples with
        the person, pose and light of the face.

        Args:
            faces: (M, 3, H, W) uint8.
            examples: (M, 3, H, W) uint8.

        Returns:
            (M, 3, H, W) uint8.
        """
        half = (len(faces) + 1) // 2
        self.eval()
        x, y = (_signal(part.to(self.device)) for part in (faces, examples))
        made = [self.editors["expression"](x[:half], y[:half])]
        if half < len(faces):
            made.append(self.editors["person"](y[half:], x[half:]))
        pixels = (torch.cat(made) + 1) * 127.5
        return pixels.round().clamp(0, 255).to(torch.uint8).cpu()

    def loss(self, batch: FaceBatch) -> Tensor:
        """Return what editors and judge lose together; each learns from its own terms alone."""
        pairs = _pairs(batch)
        edited = self._edited(pairs)
        real = pairs["wanted"]
        own, said = self.judge(real)
        total = F.softplus(-own).mean() + F.cross_entropy(said, pairs["class"])
        frozen = {name: weight.detach() for name, weight in self.judge.named_parameters()}
        given = {"expression": pairs["face"], "person": pairs["example"]}
        for name, fake in edited.items():
            total = total + F.softplus(self.judge(fake.detach())[0]).mean() / len(edited)
            drawn, named = functional_call(self.judge, frozen, (fake,))
            total = total + self._distance(fake, real, given[name])
            total = total + self.adversarial * F.softplus(-drawn).mean()
            total = total + self.task * F.cross_entropy(named, pairs["class"])
        return total

    def _distance(self, fake: Tensor, real: Tensor, given: Tensor) -> Tensor:
        """Return the mean distance of what was made to what was wanted, of changes above all."""
        changes = (real - given).abs().amax(1, keepdim=True) >= 0.1
        weight = torch.where(changes, self.focus, 1.0).expand_as(real)
        return ((fake - real).abs() * weight).sum() / weight.sum()

    def _edited(self, pairs: dict[str, Tensor]) -> dict[str, Tensor]:
        face, example = pairs["face"], pairs["example"]
        return {
            "expression": self.editors["expression"](face, example),
            "person": self.editors["person"](example, face),
        }

    def validation_step(self, batch: FaceBatch, batch_idx: int) -> None:
        """Log how far edited pictures are from drawn ones."""
        self._measure("val", batch)

    def test_step(self, batch: FaceBatch, batch_idx: int) -> None:
        """Log the same."""
        self._measure("test", batch)

    def _measure(self, part: str, batch: FaceBatch) -> None:
        """Log mean distances, and as score how much nearer editing comes than leaving as is."""
        pairs = _pairs(batch)
        wanted = pairs["wanted"]
        distance = {n: (fake - wanted).abs().mean() for n, fake in self._edited(pairs).items()}
        unedited = {
            "expression": (pairs["face"] - wanted).abs().mean(),
            "person": (pairs["example"] - wanted).abs().mean(),
        }
        values = {f"{part}/{name}_l1": value / 2 for name, value in distance.items()}
        values |= {f"{part}/{name}_l1_unedited": value / 2 for name, value in unedited.items()}
        gains = [1 - distance[name] / unedited[name] for name in distance]
        values[f"{part}/score"] = torch.stack(gains).mean()
        self.log_dict(values, on_epoch=True, sync_dist=True, batch_size=len(batch["id"]))


def _pairs(batch: FaceBatch) -> dict[str, Tensor]:
    """Return faces, examples, what editing should give, and the class that it should show.

    Both directions are learned, by halves: of even rows a is the face, of odd rows b.

    Raises:
        DataError: these are no quartets.
    """
    video = batch.get("video")
    if video is None or video.shape[1] != 4 or OTHER not in batch.get("attributes", {}):
        raise DataError("comp_gan learns from data.name=expression_quartets")
    first, second, first_as_second, second_as_first = _signal(video).unbind(1)
    odd = torch.arange(len(video), device=video.device) % 2 == 1
    swap = odd[:, None, None, None]
    return {
        "face": torch.where(swap, second, first),
        "example": torch.where(swap, first, second),
        "wanted": torch.where(swap, second_as_first, first_as_second),
        "class": torch.where(odd, batch["expression"], batch["attributes"][OTHER]),
    }


def _signal(pixels: Tensor) -> Tensor:
    """uint8 to -1 .. 1."""
    return pixels.float() / 127.5 - 1


class Editor(nn.Module):
    """A small U-Net over one picture, steered by a code of another.

    Args:
        width: channels of the first layer.
        code: width of the code.
        keeps: begin with the picture as it is, and learn what to add.
    """

    def __init__(self, width: int, code: int, *, keeps: bool = False) -> None:
        super().__init__()
        self.keeps = keeps
        sizes = [width, 2 * width, 4 * width, 4 * width]
        self.begin = nn.Conv2d(3, width, 3, padding=1)
        self.down = nn.ModuleList(nn.Conv2d(a, b, 3, 2, 1) for a, b in pairwise(sizes))
        self.look = nn.Sequential(
            nn.Conv2d(3, 2 * width, 5, 2, 2), nn.LeakyReLU(0.2),
            nn.Conv2d(2 * width, 4 * width, 3, 2, 1), nn.LeakyReLU(0.2),
            nn.Conv2d(4 * width, 4 * width, 3, 2, 1), nn.LeakyReLU(0.2),
            nn.AdaptiveAvgPool2d(8), nn.Flatten(), nn.Linear(256 * width, code),
        )  # fmt: skip
        up = [(a + (0 if i == 0 else a), b) for i, (a, b) in
              enumerate(zip(sizes[::-1], sizes[-2::-1], strict=False))]  # fmt: skip
        self.up = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in up)
        self.steer = nn.ModuleList(nn.Linear(code, 2 * b) for _, b in up)
        self.end = nn.Conv2d(2 * width, 3, 3, padding=1)
        if keeps:
            nn.init.zeros_(self.end.weight)
            nn.init.zeros_(self.end.bias)  # type: ignore[arg-type]

    def forward(self, picture: Tensor, other: Tensor) -> Tensor:
        """Return (B, 3, H, W) about in -1 .. 1, of pictures (B, 3, H, W) in -1 .. 1."""
        code = self.look(other)
        layers = [F.leaky_relu(self.begin(picture), 0.2)]
        for down in self.down:
            layers.append(F.leaky_relu(down(layers[-1]), 0.2))
        x = layers.pop()
        for up, steer in zip(self.up, self.steer, strict=True):
            kept = layers.pop()
            x = up(F.interpolate(x, kept.shape[-2:], mode="nearest"))
            scale, shift = steer(code)[:, :, None, None].chunk(2, 1)
            x = torch.cat([F.leaky_relu(x * (1 + scale) + shift, 0.2), kept], 1)
        x = self.end(x)
        return picture + x if self.keeps else torch.tanh(x)  # what clips does not learn


class Judge(nn.Module):
    """Says of each patch whether it is drawn, and of the picture which expression it shows.

    Args:
        width: channels of the first layer.
        classes: number of expressions.
    """

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.trunk = nn.Sequential(
            nn.Conv2d(3, width, 5, 2, 2), nn.LeakyReLU(0.2),
            nn.Conv2d(width, 2 * width, 3, 2, 1), nn.LeakyReLU(0.2),
            nn.Conv2d(2 * width, 2 * width, 3, 2, 1), nn.LeakyReLU(0.2),
        )  # fmt: skip
        self.patch = nn.Conv2d(2 * width, 1, 1)
        self.classes = nn.Sequential(
            nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(32 * width, classes)
        )

    def forward(self, picture: Tensor) -> tuple[Tensor, Tensor]:
        """Return (B, 1, h, w) logits of being drawn, and (B, K) logits of classes."""
        x = self.trunk(picture)
        return self.patch(x), self.classes(x)
