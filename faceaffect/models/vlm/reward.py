"""Training by reward: answers are sampled and read, and the better ones made more likely.

The method is GRPO (Shao et al. 2024, arXiv 2402.03300) as TRL computes it: its trainer samples
several answers to each question, holds their rewards against each other and makes the loss of them.
Epochs, optimiser, validation and checkpoints are those of every other training here.
"""

import logging
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from faceaffect.errors import RecipeError, first_line, needs_extra
from faceaffect.instructions.items import Labels
from faceaffect.models.vlm.chat import Chat, Prompt
from faceaffect.models.vlm.net import VisionLanguageModel
from faceaffect.models.vlm.prompts import Asker, TaskPrompt
from faceaffect.schema import SPOKEN_TASKS, LabelSchema
from faceaffect.scores.rewards import au_reward, expression_reward, va_reward


@dataclass(frozen=True)
class Reward:
    """How answers are sampled and what their reading counts.

    Args:
        answers: sampled to each question and held against each other.
        temperature: of sampling.
        weights: of the tasks' rewards, which lie in [0, 1]: ``expression`` (the class is right),
            ``au`` (F1 of the AUs of a face), ``va`` (1 less half the mean distance). An absent task
            weighs 1, one of weight 0 is not asked for.

    Raises:
        RecipeError: a number is out of range, or there is no such task.
    """

    answers: int = 8
    temperature: float = 1.0
    weights: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.answers < 2:
            raise RecipeError(
                f"model.reward.answers: {self.answers}; two or more are held against each other"
            )
        if not 0 < self.temperature < math.inf:
            raise RecipeError(f"model.reward.temperature: {self.temperature} is not positive")
        for task, weight in self.weights.items():
            if task not in SPOKEN_TASKS:
                raise RecipeError(
                    f"model.reward.weights.{task}: no such task; they are {', '.join(SPOKEN_TASKS)}"
                )
            if not 0 <= weight < math.inf:
                raise RecipeError(f"model.reward.weights.{task}: {weight} is no weight")

    def weight(self, task: str) -> float:
        """Return what a task's reward counts."""
        return float(self.weights.get(task, 1.0))


_READ = ("options", "describe", "think")
"""Forms whose answer is read from what is said."""


def rewarded(forms: Mapping[str, TaskPrompt], reward: Reward, llm: Any, chat: Chat) -> list[str]:
    """Return the tasks that are trained by reward.

    Raises:
        RecipeError: there is none, or TRL does not ask the model as it is asked here.
    """
    found = [t for t, own in forms.items() if own.form in _READ and reward.weight(t) > 0]
    if not found:
        raise RecipeError(
            "model.reward: no task is left whose answer is read from words; set the form of one in "
            f"model.prompts to {', '.join(_READ)}, with a weight above 0"
        )
    if llm.priors is not None:
        raise RecipeError("model.mining: TRL, which trains by reward, knows no facial priors")
    if llm.whole:
        raise RecipeError(
            "model.tiles: TRL, which trains by reward, cuts pictures as their processor does; say "
            "model.tiles=true"
        )
    if chat.template != "chat" or not chat.converses:
        raise RecipeError(
            "model.template: TRL, which trains by reward, asks through a processor's own chat "
            "template, and needs a family that has one"
        )
    return found


def questions(asker: Asker, known: Sequence[Labels], tasks: Sequence[str]) -> "list[Asked]":
    """Return what is asked about each face; tasks that are asked alike share a question."""
    found = []
    for sample, labels in enumerate(known):
        there = {"expression": labels.expression, "au": labels.aus, "va": labels.va}
        alike: dict[str, list[str]] = {}
        prompts = {task: asker.unanswered(sample, task) for task in tasks if there[task]}
        for task, prompt in prompts.items():
            alike.setdefault(prompt.exchanges[-1].question, []).append(task)
        found += [Asked(prompts[same[0]], tuple(same), labels) for same in alike.values()]
    return found


@dataclass(frozen=True)
class Asked:
    """A question, the tasks whose answer is read from what is said, and the truth."""

    prompt: Prompt
    tasks: tuple[str, ...]
    labels: Labels


class Grpo:
    """TRL's GRPO on one model: a loss for a batch of questions.

    Needs ``pip install 'faceaffect[reward]'``.

    Args:
        llm: the model with its adapters, on its device.
        chat: its prompts.
        schema: the labels that answers are read for.
        reward: settings.
        max_new_tokens: of an answer.
        seed: of what TRL draws when it is made.
        folder: that exists; nothing is written there.

    Attributes:
        rewards: of the last batch, the mean reward by task and, as ``""``, their weighted sum.

    Raises:
        RecipeError: TRL is not installed, or does not take the model or this machine.
    """

    def __init__(
        self,
        llm: VisionLanguageModel,
        chat: Chat,
        schema: LabelSchema,
        reward: Reward,
        *,
        max_new_tokens: int,
        seed: int,
        folder: Path,
    ) -> None:
        self.llm, self.chat, self.schema, self.reward = llm, chat, schema, reward
        self.rewards: dict[str, float] = {}
        trl, datasets = _packages()
        generation = llm.base.generation_config
        assert generation is not None
        generation.eos_token_id = sorted({chat.end, llm.tokenizer.eos_token_id})
        settings = {
            "output_dir": str(folder), "report_to": "none", "disable_tqdm": True,
            "save_strategy": "no", "seed": seed, "use_cpu": llm.device.type == "cpu",
            "bf16": False, "fp16": False,  # precision is that of the trainer around it
            "gradient_checkpointing": False, "per_device_train_batch_size": reward.answers,
            "num_generations": reward.answers, "temperature": reward.temperature,
            "max_completion_length": max_new_tokens,
        }  # fmt: skip
        unused = datasets.Dataset.from_dict({"prompt": [""]})
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)
                self.trl: Any = trl.GRPOTrainer(
                    llm.net, [self._total], trl.GRPOConfig(**settings), unused,
                    processing_class=llm.processor,
                )  # fmt: skip
        except (ValueError, ImportError, AttributeError) as error:
            raise RecipeError(f"model.reward: TRL refuses: {first_line(error)}") from None
        self.trl.current_gradient_accumulation_steps = 1  # else set by a training of its own

    def loss(self, asked: Sequence[Asked]) -> Tensor:
        """Sample answers to some questions and return their loss.

        Args:
            asked: one or more questions.

        Raises:
            RecipeError: clips, which TRL shows as pictures and the model would as videos.
        """
        if self.chat.videos and any(len(clip) > 1 for one in asked for clip in one.prompt.media):
            raise RecipeError(
                "model.videos: TRL, which trains by reward, shows clips as several pictures; say "
                "model.videos=false, so that they are tested so too, or data.frames=1"
            )
        rows = [
            {"prompt": self.chat.messages(one.prompt.exchanges, _picture), "asked": one}
            for one in asked
            for _ in range(self.reward.answers)
        ]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of names that transformers changes
            sampled = self.trl._prepare_inputs(rows)
            loss: Tensor = self.trl.compute_loss(self.llm.net, sampled)
        self.trl._metrics["train"].clear()
        return loss

    def close(self) -> None:
        """Give the model its own forward pass back, which TRL has wrapped."""
        vars(self.llm.base).pop("forward", None)

    def _total(
        self, completions: Sequence[Any], asked: Sequence[Asked], **_: Any
    ) -> list[float | None]:
        """Return the weighted sum of the rewards of each answer; None where nothing is known."""
        texts = [said[0]["content"] for said in completions]
        found = [self._of(text, one) for text, one in zip(texts, asked, strict=True)]
        sums = [sum(r * self.reward.weight(t) for t, r in each.items()) for each in found]
        self.rewards = {"": sum(sums) / len(sums)}
        for task in self.schema.tasks:
            known = [each[task] for each in found if task in each]
            if known:
                self.rewards[f"/{task}"] = sum(known) / len(known)
        return [total if each else None for total, each in zip(sums, found, strict=True)]

    def _of(self, text: str, asked: Asked) -> Mapping[str, float]:
        """Return the rewards of an answer by task, of those whose truth is known."""
        truth = asked.labels
        values = {
            "expression": lambda: expression_reward(
                text, truth.expression, self.schema.expressions
            ),
            "au": lambda: au_reward(text, truth.aus),
            "va": lambda: va_reward(text, truth.va),
        }
        found = {task: values[task]() for task in asked.tasks}
        return {task: value for task, value in found.items() if value is not None}


def _picture(frame: Tensor) -> Image.Image:
    return Image.fromarray(frame.permute(1, 2, 0).cpu().numpy())


def _packages() -> tuple[Any, Any]:
    try:
        import datasets
        import trl
    except ImportError:
        raise RecipeError(needs_extra("model.reward", "trl", "reward")) from None
    for name in ("trl", "transformers.trainer", "accelerate"):
        logging.getLogger(name).setLevel(logging.ERROR)  # this trainer does not train by itself
    return trl, datasets
