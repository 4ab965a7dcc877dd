"""EmoLlama: vision tower, facial priors, Face Info Mining, clue aggregator, language model."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from torch import Tensor
from transformers import TextStreamer

from faceaffect.components import Component, Options, create
from faceaffect.data.batch import FaceBatch, as_clips
from faceaffect.data.image import IMAGE_SIZE
from faceaffect.errors import RecipeError, harmless
from faceaffect.instructions.items import Turn
from faceaffect.models.emo_llama.aggregator import AggregatorOptions, ClueAggregator, text_tokenizer
from faceaffect.models.emo_llama.dialogue import Dialogue, TemplateName
from faceaffect.models.emo_llama.frozen import Faces, FrozenFaces
from faceaffect.models.emo_llama.llm import create_llm
from faceaffect.models.emo_llama.mining import FaceInfoMining, MiningOptions, PriorTokens
from faceaffect.models.emo_llama.packing import Row
from faceaffect.models.emo_llama.priors import profile
from faceaffect.models.emo_llama.prompts import (
    Prompter,
    Slot,
    labels_of,
    probabilities,
    rare_au_weights,
    training_dialogues,
)
from faceaffect.models.emo_llama.scoring import answer_loss, generate, score_options
from faceaffect.models.emo_llama.sharding import check_strategy
from faceaffect.models.emo_llama.tower import create_tower
from faceaffect.module import AffectModule
from faceaffect.optim import scaled_groups
from faceaffect.progress import console
from faceaffect.registry import as_node
from faceaffect.schema import SPOKEN_TASKS, LabelSchema
from faceaffect.scores.answers import join_answers, read_answers

MINI_LLAMA = {"name": "asset:mini_llama", "lora": {"r": 16, "alpha": 32.0, "dropout": 0.0}}
"""The language model that a model without another one gets."""

DESCRIBE = "Describe the emotion in the {media} and the facial evidence for it."
"""What :meth:`EmoLlama.describe` asks if nothing else is asked."""


class _Printed(TextStreamer):
    """Prints an answer as it comes; nothing in it moves the terminal."""

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        super().on_finalized_text(harmless(text), stream_end)


class EmoLlama(AffectModule):
    """An instruction-tuned language model that sees faces, after EMO-LLaMA.

    Args:
        schema: what the model answers.
        tower: the frozen vision tower, see
            :func:`~faceaffect.models.emo_llama.tower.create_tower`.
        prior: the frozen face-analysis network, or null for none.
        mining: settings of Face Info Mining, or null to leave the priors out.
        aggregator: settings of the clue aggregator.
        llm: the language model, see :func:`~faceaffect.models.emo_llama.llm.create_llm`.
        template: ``vicuna``, ``plain`` or the tokenizer's own ``chat``.
        face_profile: put estimated age, gender and group into the prompt; for reproduction only,
            since such estimates are sensitive and err.
        answer_mode: ``score`` takes the likelihood of every option; ``generate`` reads what the
            model says, unreadable answers being errors; ``both`` predicts by scores and adds the
            texts when testing.
        instructions: a file of dialogues (JSON lines, LLaVA or LLaMA-Factory) that are trained on
            beside the templates; those of samples outside the training part are left out.
        talk_rate: chance that a sample is also asked for an answer in free words in a step.
        au_balance: positives of an AU of rate r weigh ((1 - r) / r) to this power in the loss.
        aggregator_lr: learning rate of the aggregator relative to the others.
        gate_lr: learning rate of the gates of Face Info Mining relative to the others; they start
            at zero, and in a short training 1 leaves them nearly shut.
        max_new_tokens: of a generated answer.
        cache: folder for the outputs of the frozen networks; needs data without augmentation.

    Raises:
        RecipeError: settings that contradict each other.
        CheckpointError: weights are missing or damaged.
    """

    can_answer = SPOKEN_TASKS
    clips = True

    def __init__(
        self,
        schema: LabelSchema | dict[str, Any],
        *,
        tower: Annotated[str | dict[str, Any], Options(create_tower)] = "asset:mini_vit",
        prior: Annotated[str | dict[str, Any] | None, Component("priors")] = "face_analysis",
        mining: Annotated[dict[str, Any] | None, Options(MiningOptions)] = {},  # noqa: B006
        aggregator: Annotated[dict[str, Any], Options(AggregatorOptions)] = {},  # noqa: B006
        llm: Annotated[str | dict[str, Any], Options(create_llm)] = MINI_LLAMA,
        template: TemplateName = "plain",
        face_profile: bool = False,
        answer_mode: Literal["score", "generate", "both"] = "score",
        instructions: str | None = None,
        talk_rate: float = 0.5,
        au_balance: float = 0.0,
        aggregator_lr: float = 1.0,
        gate_lr: float = 1.0,
        max_new_tokens: int = 64,
        cache: str | None = None,
    ) -> None:
        super().__init__(schema)
        net = None if prior is None else create("priors", prior, "model.prior")
        if net is None and (face_profile or mining):
            raise RecipeError("model.prior: null, but mining or face_profile needs one")
        if face_profile and net is not None and not net.group_names:
            raise RecipeError(
                f"model.face_profile: the prior {as_node(prior or '')['name']} does not estimate "
                "age, gender or group; say false, or take another prior (face_analysis)"
            )
        settings = None if net is None or mining is None else MiningOptions(**mining)
        grid = settings.grid if settings and settings.inject == "pre_qformer" else 1
        self.faces = FrozenFaces(create_tower(**as_node(tower)), net, cache, grid)
        self.llm = create_llm(**as_node(llm))
        self.dialogue = Dialogue(self.llm, template)
        options = AggregatorOptions(**aggregator)
        reader = text_tokenizer(options)
        self.reader = self.llm.tokenizer if reader is None else reader
        self.max_text = options.max_text
        seen = self.faces.tower
        self.aggregator = ClueAggregator(
            seen.width, seen.num_prefix_tokens, self.llm.width, options, len(self.reader)
        )
        self.mining: FaceInfoMining | None = None
        self.prior_tokens: PriorTokens | None = None
        if net is not None and settings is not None:
            if settings.inject == "extra_tokens":
                self.prior_tokens = PriorTokens(net.map_width, self.llm.width)
            else:
                widths = (seen.width, net.map_width, net.token_width)
                self.mining = FaceInfoMining(*widths, settings)
        self.face_profile, self.answer_mode, self.instructions = (
            face_profile,
            answer_mode,
            instructions,
        )
        self.talk_rate, self.au_balance = talk_rate, au_balance
        self.aggregator_lr, self.gate_lr = aggregator_lr, gate_lr
        self.max_new_tokens = max_new_tokens
        self.dialogues: dict[str, list[list[Turn]]] = {}
        self.au_weights: dict[int, float] = {}
        self._only_scores = False

    # Training

    def setup(self, stage: str) -> None:
        """Read the instruction file for the training part; refuse what does not work."""
        super().setup(stage)
        check_strategy(self.trainer.strategy)
        data = getattr(self.trainer, "datamodule", None)
        if self.faces.cache_folder and getattr(data, "augment", None) is not None:
            raise RecipeError("model.cache: needs data without augmentation (data.augment)")
        if stage == "fit" and self.instructions is not None and data is not None:
            self.dialogues, told = training_dialogues(self.instructions, data)
            if self.trainer.is_global_zero:
                console.print(told)

    def prepare(self, statistics: dict[str, Any]) -> None:
        """Take the weights of rare AUs from the training part's rates."""
        super().prepare(statistics)
        self.au_weights = rare_au_weights(self.schema.aus, statistics, self.au_balance)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return what is trained; the aggregator and gates have learning rates of their own."""
        factor = {id(p): self.aggregator_lr for p in self.aggregator.parameters()}
        if self.mining is not None:
            factor |= {id(p): self.gate_lr for p in self.mining.gates()}
        return scaled_groups(super().parameter_groups(), self.optim.lr, factor)

    def loss(self, batch: FaceBatch) -> Tensor:
        """Return the mean cross-entropy of the answers; every row counts alike."""
        faces = self.look(batch)
        seed = int(torch.randint(2**31, (1,)))
        rng = np.random.default_rng(seed)
        prompter = self.prompter(faces, drop=rng)
        rows = self.training_rows(batch, prompter, rng)
        # Without any label a question is asked and no answer learned: the graph stays whole, and
        # every process calls the model equally often.
        rows = rows or [prompter.ask(0, DESCRIBE.format(media=prompter.media[0]))]
        return answer_loss(self.llm, rows, self.show(faces, prompter.slots)).mean()

    def training_rows(
        self, batch: FaceBatch, prompter: Prompter, rng: np.random.Generator
    ) -> list[Row]:
        """Write the questions and answers of a step: each known task, dialogues, free words."""
        rows: list[Row | None] = []
        for sample, name in enumerate(batch["id"]):
            labels = labels_of(batch, sample, self.schema)
            for task in self.schema.tasks:
                rows.append(prompter.learn(sample, task, labels, rng, self.au_weights))
            if rng.random() < self.talk_rate:
                rows.append(prompter.talk(sample, labels, rng))
            written = [turns for turns in self.dialogues.get(name, []) if turns]
            if written:
                rows.append(prompter.tell(sample, written[int(rng.integers(len(written)))]))
        return [row for row in rows if row is not None]

    # Seeing

    def frozen_features(self, batch: FaceBatch) -> dict[str, Tensor] | None:
        """Return what tower and face-analysis network see, unless that is kept on disk."""
        return None if self.faces.cache_folder else self.faces.features(batch)

    def look(self, batch: FaceBatch) -> Faces:
        """Return what the frozen networks see, the patches enriched by Face Info Mining."""
        faces: Faces = self.faces(as_clips(batch))
        if not torch.is_autocast_enabled(faces.tokens.device.type):
            # A tower in half precision, and nobody else who would cast what it sees.
            faces.tokens = faces.tokens.to(self.aggregator.norm.weight.dtype)
        if self.mining is not None and faces.prior is not None:
            split = self.faces.tower.num_prefix_tokens
            prefix, patches = faces.tokens[:, :split], faces.tokens[:, split:]
            faces.tokens = torch.cat([prefix, self.mining(patches, faces.prior)], 1)
        return faces

    def prompter(self, faces: Faces, drop: np.random.Generator | None = None) -> Prompter:
        """Return the writer of a batch's prompts; ``drop`` leaves out a tenth of the profiles."""
        patches = faces.tokens.shape[1] - self.faces.tower.num_prefix_tokens
        each = self.aggregator.tokens_per_frame(patches)
        each += PriorTokens.count if self.prior_tokens is not None else 0
        media = ["video" if count > 1 else "image" for count in faces.count]
        profiles = [""] * len(faces.count)
        if self.face_profile and faces.prior is not None and self.faces.prior is not None:
            for sample in range(len(faces.count)):
                own = faces.prior.take((faces.owner == sample).nonzero()[:, 0])
                if drop is None or drop.random() >= 0.1:
                    names = self.faces.prior.group_names
                    profiles[sample] = profile(own.groups, own.ok, names, 0.5)
        lengths = [count * each for count in faces.count]
        return Prompter(self.schema, self.dialogue, lengths, profiles, media)

    def show(self, faces: Faces, slots: list[Slot]) -> Tensor:
        """Return the visual tokens (V, D) of all slots: for each frame context, content, priors."""
        device = faces.tokens.device
        places = torch.arange(len(faces.owner), device=device)
        starts = np.cumsum([0, *faces.count])
        frame = torch.cat([places[starts[s.sample] : starts[s.sample + 1]] for s in slots])
        repeat = torch.tensor([faces.count[s.sample] for s in slots], device=device)
        slot = torch.repeat_interleave(torch.arange(len(slots), device=device), repeat)
        text, mask = self._guides([s.question for s in slots], device)
        tokens = [
            self.aggregator.context(faces.tokens[frame], text[slot], mask[slot]),
            self.aggregator.content(faces.tokens)[frame],
        ]
        if self.prior_tokens is not None and faces.prior is not None:
            tokens.append(self.prior_tokens(faces.prior)[frame])
        return torch.cat(tokens, 1).flatten(0, 1)

    def _guides(self, questions: Iterable[str], device: torch.device) -> tuple[Tensor, Tensor]:
        """Return ids (S, L) and mask of the questions; of a longer one the last tokens."""
        ids: list[list[int]] = self.reader(list(questions))["input_ids"]
        ids = [row[-self.max_text :] for row in ids]
        length = max(len(row) for row in ids)
        table = torch.tensor([row + [0] * (length - len(row)) for row in ids], device=device)
        known = torch.tensor([[n < len(row) for n in range(length)] for row in ids], device=device)
        return table, known

    # Answers

    def predict(self, batch: FaceBatch) -> dict[str, Any]:
        """Return probabilities, by option scores or by reading text; see ``answer_mode``."""
        faces = self.look(batch)
        scored = self.answer_mode != "generate"
        written = self.answer_mode == "generate" or (
            self.answer_mode == "both" and not self._only_scores
        )
        answers: dict[str, Any] = {}
        texts: dict[str, list[str]] = {}
        for task in self.schema.tasks:
            prompter = self.prompter(faces)
            rows = [prompter.score(sample, task) for sample in range(len(faces.count))]
            visual = self.show(faces, prompter.slots)
            if scored:
                scores = score_options(self.llm, rows, visual)
                answers[task] = probabilities(scores, task, self.schema)
            if written:
                texts[task] = self._write(rows, visual)
        if not written:
            return answers
        if not scored:
            read = read_answers(texts, self.schema)
            answers = {task: value.to(faces.tokens.device) for task, value in read.items()}
        lines = [{task: texts[task][row] for task in texts} for row in range(len(faces.count))]
        return answers | {"text": [join_answers(line) for line in lines]}

    def say(self, faces: Faces, question: str, streamer: Any = None) -> list[str]:
        """Return greedy answers to a question."""
        prompter = self.prompter(faces)
        asked = [question.format(media=media) for media in prompter.media]
        rows = [prompter.ask(sample, words) for sample, words in enumerate(asked)]
        return self._write(rows, self.show(faces, prompter.slots), streamer)

    def _write(self, rows: list[Row], visual: Tensor, streamer: Any = None) -> list[str]:
        limits = {"max_new_tokens": self.max_new_tokens, "end": self.dialogue.end}
        ids = generate(self.llm, rows, visual, streamer=streamer, **limits)
        return [self.dialogue.decode(row) for row in ids]

    @torch.no_grad()
    def describe(
        self,
        batch: FaceBatch,
        question: str | None = None,
        *,
        stream: bool = False,
        streamer: Any = None,
    ) -> list[str]:
        """Answer a question about each face in free words.

        Args:
            batch: images or clips; no labels are needed.
            question: by default :data:`DESCRIBE`.
            stream: print the answer as it comes; for one face.
            streamer: of transformers, gets the answer as it comes, in place of the terminal.
        """
        faces = self.look(batch)
        if stream:
            streamer = _Printed(self.llm.tokenizer, skip_special_tokens=True)
        asked = DESCRIBE if question is None else question.replace("{", "{{").replace("}", "}}")
        return self.say(faces, asked, streamer)

    # Questions of a set

    @torch.no_grad()
    def say_about(self, media: Sequence[Tensor], question: str) -> str:
        """Answer a question about several pictures and clips in free words.

        All frames are seen as one clip; without media it is a grey picture that is seen, since
        every question of this model has visual tokens.

        Args:
            media: each (T, 3, H, W) uint8; of a picture T is 1.
            question: in words.
        """
        asked = question.replace("{", "{{").replace("}", "}}")
        return self.say(self._seen(media), asked)[0]

    @torch.no_grad()
    def weigh(self, media: Sequence[Tensor], question: str, options: Sequence[str]) -> list[float]:
        """Return the log-likelihood of each option as the answer; see :meth:`say_about`."""
        faces = self._seen(media)
        prompter = self.prompter(faces)
        row = prompter.ask(0, question)
        row.branches = [option.texts() for option in self.dialogue.options(options)]
        scores: list[float] = score_options(self.llm, [row], self.show(faces, prompter.slots))[
            0
        ].tolist()
        return scores

    def _seen(self, media: Sequence[Tensor]) -> Faces:
        size = self.image_size or IMAGE_SIZE
        grey = torch.full((1, 3, size, size), 127, dtype=torch.uint8)
        clip = torch.cat([*media] or [grey])[None].to(self.device)
        known = torch.ones(1, clip.shape[1], dtype=torch.bool, device=clip.device)
        return self.look(FaceBatch(id=[""], subject=[""], video=clip, frame_mask=known))

    def on_validation_start(self) -> None:
        """Do not generate text that validation has no use for."""
        self._only_scores = True

    def on_validation_end(self) -> None:
        """Generate again."""
        self._only_scores = False

    def export_adapter(self, folder: str | Path) -> None:
        """Write the language model's adapter in peft's own format."""
        self.llm.save_adapter(folder)
