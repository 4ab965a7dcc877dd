"""Vlm: any vision-language model as it is, with few-shot examples, or tuned."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from torch import Tensor

from faceaffect.components import Component, Options, create
from faceaffect.data.batch import FaceBatch, as_clips
from faceaffect.errors import RecipeError
from faceaffect.models.emo_llama.adapters import LanguageLoRA
from faceaffect.models.emo_llama.prompts import (
    labels_of,
    rare_au_weights,
    training_dialogues,
)
from faceaffect.models.emo_llama.sharding import ShardFrozen
from faceaffect.models.vlm.chat import Chat, Prompt, TemplateName
from faceaffect.models.vlm.exit import VisualExit
from faceaffect.models.vlm.gating import ExitReport, gate_losses
from faceaffect.models.vlm.loading import Attention, Dtype, find, load
from faceaffect.models.vlm.net import VisionLanguageModel
from faceaffect.models.vlm.prompts import OPEN, Asker, Prompts
from faceaffect.models.vlm.reward import Grpo, Reward, questions, rewarded
from faceaffect.models.vlm.shots import Shot, draw
from faceaffect.models.vlm.speaking import DESCRIBE, Speaking
from faceaffect.models.vlm.training import Lessons
from faceaffect.models.vlm.vllm_engine import VllmEngine, VllmOptions, check_vllm, need_vllm
from faceaffect.module import AffectModule
from faceaffect.optim import scaled_groups
from faceaffect.progress import console
from faceaffect.schema import SPOKEN_TASKS, LabelSchema
from faceaffect.scores.answers import join_answers, read_answers

_VIDEO_FAMILIES = {"llava_onevision", "qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe",
                   "smolvlm", "internvl", "llava_next_video", "video_llava"}  # fmt: skip
_READ = "0 and 1, read from text"
_ONE_PICTURE = {"instructblip"}


class Vlm(Speaking, AffectModule):
    """Any image-text model of transformers: as it is, with examples, or tuned by LoRA.

    Args:
        schema: what the model answers.
        checkpoint: ``asset:mini_vlm``, a folder that ``save_pretrained`` wrote, or owner/model on
            the hub: whatever transformers opens as ``AutoModelForImageTextToText`` with its
            ``AutoProcessor``. No code of a repository is ever run.
        pretrained: the hub may be asked.
        revision: branch, tag or commit on the hub; the result names the commit.
        lora: settings of the adapters in the language part; null trains nothing.
        dtype: of the frozen weights; ``auto`` takes what the machine computes in hardware.
        attention: kind of attention; with ``flash_attention_2`` options share no prompt.
        four_bit: load the weights in 4 bits (CUDA; ``pip install 'faceaffect[quantized]'``).
        grad_checkpointing: spend time to save memory in training.
        prior: the frozen face-analysis network whose findings ``mining`` brings in.
        mining: how facial priors enter: ``face_info_mining`` (EMO-LLaMA), ``emola`` (a token of
            landmarks behind each picture) or ``face_llava`` (attention to landmark regions), with
            settings; null leaves them out. Untrained, each leaves the model as it is.
        gate_lr: learning rate of the priors' gates relative to the others.
        projector: train what brings the tower's patches to the language model, too.
        projector_lr: its learning rate relative to the others.
        template: ``chat``, the processor's own, or ``plain``: USER and ASSISTANT.
        videos: show clips as videos where the family knows them; false shows several pictures.
        tiles: let processors that cut large pictures into tiles do so (SmolVLM, Idefics3,
            InternVL); false shows a picture whole, in far fewer tokens.
        prompts: what is asked, see :class:`~faceaffect.models.vlm.prompts.Prompts`.
        shots: examples of training people in front of every question.
        answer_mode: ``score`` takes the likelihood of every option; ``generate`` reads what the
            model says, unreadable answers being errors; ``both`` predicts by scores and adds the
            texts when testing.
        calibration: ``blank`` takes from every score that of a grey picture, so that what a model
            likes to say whatever it sees does not count.
        instructions: a file of dialogues that are trained on beside the templates, as in EMO-LLaMA.
        task_rate: chance that each known task of a sample is learned in a step; 0 leaves tasks
            out, so that dialogues alone are learned.
        talk_rate: chance that a sample is also asked for an answer in free words in a step.
        question_rate: likewise for a question of yes or no, or one with options, about its labels.
        au_balance: positives of an AU of rate r weigh ((1 - r) / r) to this power in the loss.
        max_new_tokens: of a generated answer.
        reward: train by reward in place of by right answers, see
            :class:`~faceaffect.models.vlm.reward.Reward`.
        engine: what generates: ``transformers``, or ``vllm`` where it is installed
            (``pip install 'faceaffect[vllm]'``); options are scored by transformers in any case.
        vllm: how vLLM runs.
        visual_exit: have pictures leave the language model early (DyVTE); then only the gates that
            say when are trained, and a test says what that saves and changes.

    Raises:
        RecipeError: settings that contradict each other or the schema.
        CheckpointError: it is no image-text model, or is damaged.
    """

    can_answer = SPOKEN_TASKS
    clips = True
    zero_shot = True

    def __init__(
        self,
        schema: LabelSchema | dict[str, Any],
        *,
        checkpoint: str = "asset:mini_vlm",
        pretrained: bool = False,
        revision: str | None = None,
        lora: Annotated[dict[str, Any] | None, Options(LanguageLoRA)] = None,
        dtype: Dtype = "auto",
        attention: Attention = "sdpa",
        four_bit: bool = False,
        grad_checkpointing: bool = False,
        prior: Annotated[str | dict[str, Any], Component("priors")] = "face_analysis",
        mining: Annotated[str | dict[str, Any] | None, Component("minings")] = None,
        gate_lr: float = 1.0,
        projector: bool = False,
        projector_lr: float = 1.0,
        template: TemplateName = "chat",
        videos: bool = True,
        tiles: bool = True,
        prompts: Annotated[dict[str, Any], Options(Prompts)] = {},  # noqa: B006
        shots: int = 0,
        answer_mode: Literal["score", "generate", "both"] = "score",
        calibration: Literal["none", "blank"] = "none",
        instructions: str | None = None,
        task_rate: float = 1.0,
        talk_rate: float = 0.5,
        question_rate: float = 0.0,
        au_balance: float = 0.0,
        max_new_tokens: int = 64,
        reward: Annotated[dict[str, Any] | None, Options(Reward)] = None,
        engine: Literal["transformers", "vllm"] = "transformers",
        vllm: Annotated[dict[str, Any], Options(VllmOptions)] = {},  # noqa: B006
        visual_exit: Annotated[dict[str, Any] | None, Options(VisualExit)] = None,
    ) -> None:
        super().__init__(schema)
        own = Prompts(**prompts)
        self.forms = own.tasks(self.schema)
        self._check(shots, answer_mode)
        if engine == "vllm":
            check_vllm(
                mining=mining is not None, gates=visual_exit is not None, projector=projector,
                bits=four_bit,
            )  # fmt: skip
        net, processor, source = load(
            checkpoint, pretrained=pretrained, revision=revision, dtype=dtype,
            attention=attention, four_bit=four_bit,
        )  # fmt: skip
        adapters = None if lora is None else LanguageLoRA(**lora)
        priors = None
        if mining is not None:
            priors = (
                create("priors", prior, "model.prior"),
                create("minings", mining, "model.mining"),
            )
        self.llm = VisionLanguageModel(
            net, processor, checkpoint, lora=adapters, grad_checkpointing=grad_checkpointing,
            priors=priors, tiles=tiles, projector=projector,
            visual_exit=None if visual_exit is None else VisualExit(**visual_exit),
        )  # fmt: skip
        self.llm.source = source
        if engine == "vllm":
            found = find(checkpoint, pretrained=pretrained, revision=revision)
            self.llm.engine = VllmEngine(found, VllmOptions(**vllm))
            self.computes_here = False
        knows = self.llm.model_type in _VIDEO_FAMILIES
        self.chat = Chat(self.llm, template, own.system, videos and knows)
        self.count, self.shots = shots, list[Shot]()
        self.answer_mode, self.calibration = answer_mode, calibration
        self.instructions, self.gate_lr = instructions, gate_lr
        self.au_balance, self.max_new_tokens = au_balance, max_new_tokens
        self.projector_lr = projector_lr
        self.reward = None if reward is None else Reward(**reward)
        self._grpo: Grpo | None = None
        self.lessons = Lessons(
            self.schema, self.forms, talk_rate, task_rate, question_rate,
            gates=self.llm.exit is not None,
        )  # fmt: skip
        self.exits: ExitReport | None = None
        self._blank: dict[str, Tensor] = {}
        self._only_scores = False

    def _check(self, shots: int, answer_mode: str) -> None:
        if shots < 0:
            raise RecipeError(f"model.shots: {shots} is less than 0")
        for task, prompt in self.forms.items():
            if shots and prompt.form in (*OPEN, "think"):
                raise RecipeError(
                    f"model.shots: examples have an answer and no {prompt.form}; set "
                    f"model.prompts.{task}.form to options"
                )
            if prompt.form == "yes_no" and answer_mode != "score":
                raise RecipeError(
                    f"model.prompts.{task}.form: yes_no is scored; say answer_mode: score"
                )

    # Training

    def setup(self, stage: str) -> None:
        """Draw the examples, read the instruction file; refuse what does not work."""
        super().setup(stage)
        if isinstance(self.trainer.strategy, ShardFrozen):
            raise RecipeError("trainer.strategy: shard_frozen is for emo_llama; use ddp")
        if self.llm.engine is not None:
            need_vllm(self.trainer.world_size)
        data = getattr(self.trainer, "datamodule", None)
        if stage == "fit":
            self._check_trainable()
        if self.count and not self.shots and data is not None:
            self.shots = draw(data, self.count, self.schema, self.seed or 0)
        if stage == "fit" and self.instructions is not None and data is not None:
            self.lessons.dialogues, told = training_dialogues(self.instructions, data)
            if self.trainer.is_global_zero:
                console.print(told)

    def _check_trainable(self) -> None:
        self.lessons.check([p for p in self.parameters() if p.requires_grad], self.reward is None)
        if self.reward is None:
            return
        if self.llm.exit is not None:
            raise RecipeError("model.visual_exit: gates do not learn by reward; leave one of both")
        rewarded(self.forms, self.reward, self.llm, self.chat)

    def prepare(self, statistics: dict[str, Any]) -> None:
        """Take the weights of rare AUs from the training part's rates."""
        super().prepare(statistics)
        weights = rare_au_weights(self.schema.aus, statistics, self.au_balance)
        self.lessons.au_weights = weights

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return what is trained; gates and projector have learning rates of their own."""
        gates = [] if self.llm.priors is None else self.llm.priors.gates()
        factor = {id(gate): self.gate_lr for gate in gates}
        factor |= {id(weight): self.projector_lr for weight in self.llm.projector_weights()}
        return scaled_groups(super().parameter_groups(), self.optim.lr, factor)

    def on_fit_start(self) -> None:
        """Have TRL make the loss of a training by reward.

        Raises:
            RecipeError: several processes; TRL would need equally many questions in each.
        """
        if self.reward is not None:
            if self.trainer.world_size > 1:
                raise RecipeError("model.reward: is for one process; say trainer.devices=1")
            self._grpo = Grpo(
                self.llm, self.chat, self.schema, self.reward, seed=self.seed or 0,
                max_new_tokens=self.max_new_tokens, folder=Path(self.trainer.default_root_dir),
            )  # fmt: skip

    def on_fit_end(self) -> None:
        """Let go of TRL."""
        if self._grpo is not None:
            self._grpo.close()
            self._grpo = None

    def loss(self, batch: FaceBatch) -> Tensor:
        """Return the mean cross-entropy of the answers, prompts counting alike, or GRPO's loss."""
        if self.reward is not None:
            return self._loss_by_reward(batch, self.reward)
        rng = np.random.default_rng(int(torch.randint(2**31, (1,))))
        asker = self.asker(batch)
        prompts = self.lessons.of(batch, asker, rng)
        return self._losses(prompts).mean() if prompts else self._nothing_to_learn(asker)

    def _loss_by_reward(self, batch: FaceBatch, reward: Reward) -> Tensor:
        assert self._grpo is not None, "a training by reward begins with on_fit_start"
        asker = self.asker(batch)
        known = [labels_of(batch, sample, self.schema) for sample in range(len(batch["id"]))]
        tasks = rewarded(self.forms, reward, self.llm, self.chat)
        asked = questions(asker, known, tasks)
        if not asked:
            return self._nothing_to_learn(asker)
        loss = self._grpo.loss(asked)
        for name, value in self._grpo.rewards.items():
            self.log(f"train/reward{name}", value, batch_size=len(asked), prog_bar=not name)
        return loss

    def _nothing_to_learn(self, asker: Asker) -> Tensor:
        """Without any label nothing is learned, but the graph stays whole."""
        asked = asker.ask(0, DESCRIBE.format(media=asker.media[0]))
        asked.branches = [self.chat.options(["yes"])[0].texts()]
        return self._losses([asked]).mean() * 0

    def _losses(self, prompts: Sequence[Prompt]) -> Tensor:
        if self.llm.exit is None:
            return self.llm.losses(prompts, self.chat)
        return gate_losses(self.llm, self.llm.exit, prompts, self.chat)

    def asker(self, batch: FaceBatch) -> Asker:
        """Return the writer of a batch's prompts.

        Raises:
            RecipeError: the family takes one picture, and there are clips.
        """
        batch = as_clips(batch)
        clips = [video[known] for video, known in
                 zip(batch["video"], batch["frame_mask"], strict=True)]  # fmt: skip
        longest = max(len(clip) for clip in clips)
        if longest > 1 and self.llm.model_type in _ONE_PICTURE:
            raise RecipeError(
                f"data: clips of up to {longest} frames, but {self.llm.model_type} takes one "
                "picture; say data.frames=1, or take a model of videos or of several pictures"
            )
        device = self.llm.device
        shots = [replace(shot, clip=shot.clip.to(device)) for shot in self.shots]
        return Asker(self.schema, self.chat, clips, self.forms, shots)

    # Answers

    def predict(self, batch: FaceBatch) -> dict[str, Any]:
        """Return probabilities, by option scores or by reading text; see ``answer_mode``."""
        asker = self.asker(batch)
        generate = self.answer_mode != "score" and not (
            self.answer_mode == "both" and self._only_scores
        )
        answers, texts = {}, {}
        for task in self.forms:
            if generate or self._is_read(task):
                texts[task] = self.say(asker, task)
            if self._is_read(task):
                read = read_answers({task: texts[task]}, self.schema)
                answers[task] = read[task].to(self.llm.device)
            else:
                answers[task] = self.scores(asker, task)
        if texts:
            rows = range(len(asker.clips))
            lines = [{task: texts[task][row] for task in texts} for row in rows]
            return answers | {"text": [join_answers(line) for line in lines]}
        return answers

    def _is_read(self, task: str) -> bool:
        """Return whether a task's answer is read from text, not scored."""
        return self.answer_mode == "generate" or self.forms[task].form == "describe"

    def answering(self) -> dict[str, Any]:
        """Return how answers come about, for the result."""
        scored = "likelihood of each option's words, normalised over the options"
        if self.calibration == "blank":
            scored += ", after that for a grey picture was taken away"
        read = {task: self._is_read(task) for task in self.forms}
        return {
            "probabilities": {t: _READ if r else scored for t, r in read.items()},
            "calibrated": [t for t, r in read.items() if self.calibration == "blank" and not r],
            "forms": {task: prompt.form for task, prompt in self.forms.items()},
            "shared_prompt": self.llm.shares,
            "examples": [shot.id for shot in self.shots],
            "engine": "transformers" if self.llm.engine is None else "vllm",
            "visual_exit": None if self.exits is None else self.exits.to_dict(),
        }

    def on_validation_start(self) -> None:
        """Do not generate text that validation has no use for."""
        self._only_scores, self._blank = True, {}

    def on_validation_end(self) -> None:
        """Generate again."""
        self._only_scores = False

    def on_test_start(self) -> None:
        """Forget the scores of grey pictures; weights may have changed."""
        self._blank = {}
        gates = self.llm.exit
        self.exits = None if gates is None else ExitReport(gates, self._scored)

    def test_step(self, batch: FaceBatch, batch_idx: int) -> None:
        """Answer; where pictures leave early, also as if they did not."""
        if self.exits is None or not batch["id"]:
            super().test_step(batch, batch_idx)
            return
        with self.exits.counted():
            super().test_step(batch, batch_idx)
        self.exits.add(self, batch)

    def on_test_epoch_end(self) -> None:
        """Log the metrics; say what the leaving of pictures saved and changed."""
        super().on_test_epoch_end()
        if self.exits is not None:
            self.exits.close(self)

    # Checkpoints

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the examples, pictures included, since questions are asked behind them."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["faceaffect"]["shots"] = [shot.to_dict() for shot in self.shots]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the examples."""
        super().on_load_checkpoint(checkpoint)
        stored = checkpoint["faceaffect"].get("shots", [])
        self.shots = [Shot.from_dict(plain) for plain in stored]

    def export_adapter(self, folder: str | Path) -> None:
        """Write the adapter in peft's own format."""
        self.llm.save_adapter(folder)
