"""What a vision-language model is trained on: questions with right answers, and what refuses."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from faceaffect.data.batch import FaceBatch
from faceaffect.errors import RecipeError
from faceaffect.instructions.face_questions import face_question
from faceaffect.instructions.items import Turn
from faceaffect.models.emo_llama.prompts import labels_of
from faceaffect.models.vlm.chat import Prompt
from faceaffect.models.vlm.prompts import OPEN, Asker, TaskPrompt
from faceaffect.schema import LabelSchema


@dataclass
class Lessons:
    """Writes the questions and answers of a training step.

    Args:
        schema: the labels.
        forms: how each task is asked.
        talk_rate: chance that a sample is also asked for an answer in free words.
        task_rate: chance that each known task of a sample is learned.
        question_rate: chance that a sample is also asked a question written from its labels.
        gates: gates of visual tokens learn, and no answers: a task whose form has no answer to
            learn is passed over, and free words stand in its place.
        dialogues: written ones of each sample, beside the templates.
        au_weights: of positives of each AU.
    """

    schema: LabelSchema
    forms: Mapping[str, TaskPrompt]
    talk_rate: float
    task_rate: float = 1.0
    question_rate: float = 0.0
    gates: bool = False
    dialogues: dict[str, list[list[Turn]]] = field(default_factory=dict)
    au_weights: dict[int, float] = field(default_factory=dict)

    def of(self, batch: FaceBatch, asker: Asker, rng: np.random.Generator) -> list[Prompt]:
        """Return each known task, free words and dialogues about the samples of a batch."""
        tasks = [task for task in self.schema.tasks if not (self.gates and self._is_open(task))]
        talk_rate = self.talk_rate if len(tasks) == len(self.schema.tasks) else 1.0
        prompts: list[Any] = []
        for sample, name in enumerate(batch["id"]):
            labels = labels_of(batch, sample, self.schema)
            for task in tasks:
                if self.task_rate < 1 and rng.random() >= self.task_rate:
                    continue
                learned = asker.learn(sample, task, labels, rng, self.au_weights)
                prompts += learned if isinstance(learned, list) else [learned]
            if rng.random() < talk_rate:
                prompts.append(asker.talk(sample, labels, rng))
            if self.question_rate and rng.random() < self.question_rate:
                asked = face_question(labels, self.schema, rng, asker.media[sample])
                prompts += [asker.tell(sample, asked)] if asked else []
            written = [turns for turns in self.dialogues.get(name, []) if turns]
            if written:
                turns = written[int(rng.integers(len(written)))]
                prompts.append(asker.tell(sample, turns[: 1 + int(rng.integers(len(turns)))]))
        return [prompt for prompt in prompts if prompt is not None]

    def _is_open(self, task: str) -> bool:
        return self.forms[task].form in (*OPEN, "think")

    def check(self, trained: Sequence[Any], answers: bool) -> None:
        """Refuse to train where nothing is there to learn.

        Args:
            trained: the parameters that learn.
            answers: they learn right answers, and are not rewarded.

        Raises:
            RecipeError: there are none, or a form has no answer.
        """
        if not trained:
            raise RecipeError(
                "model.lora: null, so there is nothing to train; give adapters, such as "
                "model.lora={r: 16}, or model.projector=true, or test it "
                "as it is: trainer.max_epochs=0"
            )
        for task, prompt in self.forms.items():
            if answers and self._is_open(task) and not self.gates:
                raise RecipeError(
                    f"model.prompts.{task}.form: {prompt.form} has no answer to learn from labels; "
                    "train with options, or by reward (model.reward={}), or test untrained: "
                    "trainer.max_epochs=0"
                )
