"""A vision-language model behind an OpenAI-compatible endpoint, as a contestant as it is."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from faceaffect.components import Options
from faceaffect.data.batch import FaceBatch, as_clips
from faceaffect.errors import RecipeError, printable
from faceaffect.instructions.budget import Plan, Spent
from faceaffect.instructions.endpoint import (
    OPENAI,
    Endpoint,
    EndpointError,
    Price,
    Question,
    Refused,
    Unanswered,
    answers_folder,
)
from faceaffect.models.endpoint_answers import answer_schema, example, read_json_answers
from faceaffect.models.vlm.prompts import Asker, Prompts
from faceaffect.module import AffectModule
from faceaffect.progress import console
from faceaffect.recipe.interpolation import allowed_env
from faceaffect.schema import SPOKEN_TASKS, LabelSchema
from faceaffect.scores.answers import join_answers, read_answers

DESCRIBE = "Describe the emotion in the {media} and the facial evidence for it."

_FORMS = {"structured": ("options", "think"), "text": ("options", "think", "describe")}
_FEW = 20
"""So many refusals before any answer are the settings' fault, not the pictures'."""


class EndpointModel(AffectModule):
    """Asks a model behind an OpenAI-compatible endpoint; nothing is trained.

    Every answer is kept on disk, so that none is paid for twice. A sample that the endpoint refuses
    has no answer, which counts as wrong and is counted; where it is busy or down the test ends with
    an error, and goes on with the answers that are kept.

    Args:
        schema: what is asked.
        url: up to and with the version, such as ``http://localhost:8000/v1``.
        model: the model's name there.
        answers: ``structured``: one request a sample, whose answer the server holds to a JSON
            schema; ``text``: one request a task, the words read by the tested grammar.
        prompts: what is asked, see :class:`~faceaffect.models.vlm.prompts.Prompts`; the forms are
            ``options`` and ``think``, of ``text`` also ``describe``.
        key_variable: environment variable with the key, which the person at the keyboard allows by
            ``--allow-env NAME``; absent, ``OPENAI_API_KEY`` for OpenAI alone, and no key else.
        temperature: null leaves it to the server.
        max_tokens: of an answer; null leaves it to the server.
        detail: how closely pictures are looked at, where the server knows that.
        extra: further settings of a request, such as ``{reasoning_effort: low}``.
        parallel: requests in flight.
        timeout: seconds for one whole answer.
        attempts: requests for one answer before it is given up.
        cache: folder where answers are kept; absent, what ``FACEAFFECT_ANSWERS`` names, else
            ``runs/answers``. That of a checkpoint is not used: files choose no place to write.
        price: what answers cost: ``input`` and ``output`` of a million tokens, ``request`` of one.
        max_cost: what all answers of a test may cost together, whenever they were paid for.

    Raises:
        RecipeError: settings that contradict each other or the schema.
    """

    can_answer = SPOKEN_TASKS
    clips = True
    needs_training = False
    has_cost = False
    unknown_cost = (
        "runs behind an endpoint, so FLOPs, memory and speed cannot be measured and are left out; "
        "tokens and money are in its result (answering)"
    )

    def __init__(
        self,
        schema: LabelSchema | dict[str, Any],
        *,
        url: str = "http://localhost:8000/v1",
        model: str,
        answers: Literal["structured", "text"] = "structured",
        prompts: Annotated[dict[str, Any], Options(Prompts)] = {},  # noqa: B006
        key_variable: str | None = None,
        temperature: float | None = 0.0,
        max_tokens: int | None = 300,
        detail: Literal["low", "high", "auto"] | None = None,
        extra: dict[str, Any] = {},  # noqa: B006
        parallel: int = 8,
        timeout: float = 120.0,
        attempts: int = 6,
        cache: str | None = None,
        price: Annotated[dict[str, Any], Options(Price)] = {},  # noqa: B006
        max_cost: float | None = None,
    ) -> None:
        super().__init__(schema)
        self.structured = answers == "structured"
        self._prompts = Prompts(**prompts)
        self.forms = self._prompts.tasks(self.schema)
        for task, prompt in self.forms.items():
            if prompt.form not in _FORMS[answers]:
                raise RecipeError(
                    f"model.prompts.{task}.form: answers: {answers} knows "
                    f"{', '.join(_FORMS[answers])}"
                )
        kept = answers_folder() if cache is None else Path(cache)
        try:
            self.endpoint = Endpoint(
                url, model, "", timeout, attempts, parallel, max_tokens, temperature, detail,
                extra, kept, Price(**price), max_cost,
            )  # fmt: skip
        except EndpointError as error:
            raise RecipeError(f"model: {error}") from None
        self._given_variable = key_variable
        self.spent, self.refused = Spent(), dict[str, str]()
        self._unanswered: dict[str, str] = {}
        self._in_a_row = 0
        self._testing = False

    def loss(self, batch: FaceBatch) -> Tensor:
        """Refuse: what is behind an endpoint is not trained from here."""
        raise RecipeError("model 'endpoint' is not trained; test or compare it")

    # Asking

    def predict(self, batch: FaceBatch) -> dict[str, Any]:
        """Return zeros and ones, and numbers, as they were answered; NaN where nothing was.

        Raises:
            RecipeError: pictures would leave the machine, or a key, and nobody allowed it.
            EndpointError: it cannot be used; outside of a test also where one sample got no answer.
        """
        asker = self._asker(batch)
        names = list(batch.get("id") or map(str, range(len(asker.clips))))
        said: dict[tuple[int, str], str] = {}
        asked = [(s, task, q) for s in range(len(names)) for task, q in self._questions(asker, s)]
        self._ask(names, asked, said)
        if not self._testing and self._unanswered:
            name, reason = self._unanswered.popitem()
            raise EndpointError(f"{self.endpoint.url}: {name}: {reason}")
        return self._read(len(names), said)

    @torch.no_grad()
    def describe(
        self, batch: FaceBatch, question: str | None = None, *, stream: bool = False
    ) -> list[str]:
        """Answer a question about each face in free words.

        Args:
            batch: images or clips; no labels are needed.
            question: by default :data:`DESCRIBE`.
            stream: print the answers.

        Raises:
            EndpointError: a question got no answer.
        """
        asker, said = self._asker(batch), dict[tuple[int, str], str]()
        asked = []
        for sample, media in enumerate(asker.media):
            words = DESCRIBE.format(media=media) if question is None else question
            asked.append((sample, "", self._about(asker, sample, words)))
        names = [f"face {sample}" for sample in range(len(asked))]
        self._ask(names, asked, said)
        wrong = self._unanswered | self.refused
        if wrong and not self._testing:
            self._unanswered, self.refused = {}, {}
            raise EndpointError(f"{self.endpoint.url}: {next(iter(wrong.values()))}")
        if stream:
            console.print("\n".join(said.values()), markup=False)
        return [said.get((sample, ""), "") for sample in range(len(asked))]

    # Questions of a set

    @property
    def at_once(self) -> int:
        """So many questions are handed over together, to keep all requests in flight."""
        return 2 * self.endpoint.parallel

    def begin_asking(self) -> None:
        """Say where pictures go, and count anew.

        Raises:
            RecipeError: pictures would leave the machine, or a key, and nobody allowed it.
        """
        self._allowed()
        console.print(f"pictures go to {self.endpoint.url}, model {self.endpoint.model}")
        self.spent, self.refused, self._unanswered = Spent(), {}, {}
        self._in_a_row = 0

    def say_about(self, media: Sequence[Tensor], question: str) -> str:
        """Answer a question about several pictures and clips, or about none, in free words.

        Args:
            media: each (T, 3, H, W) uint8; of a clip all frames are sent, in order.
            question: in words.

        Raises:
            EndpointError: it got no answer; where it was refused the answer is empty.
        """
        return self.say_all([(question, media, question)])[0]

    def say_all(self, asked: Sequence[tuple[str, Sequence[Tensor], str]]) -> list[str]:
        """Answer questions, each with a name for messages; see :meth:`say_about`."""
        said: dict[tuple[int, str], str] = {}
        names = [name for name, *_ in asked]
        posed = [(n, "", self._posed(media, words)) for n, (_, media, words) in enumerate(asked)]
        self._ask(names, posed, said)
        if self._unanswered:
            raise EndpointError(self._lacking("questions"))
        return [said.get((n, ""), "") for n in range(len(asked))]

    def plan_all(self, asked: Iterable[tuple[Sequence[Tensor], str]]) -> Plan:
        """Return what questions would be asked, without asking."""
        found = Plan()
        found.add(self.endpoint, [self._posed(media, words) for media, words in asked])
        return found

    def end_asking(self) -> dict[str, Any]:
        """Return what the answers took and what was refused.

        Raises:
            EndpointError: everything was refused.
        """
        console.print(self.spent.words(self.endpoint))
        self._tell_refused("questions")
        return self._taken()

    def _posed(self, media: Sequence[Tensor], words: str) -> Question:
        pictures = tuple(_picture(frame) for clip in media for frame in clip)
        return Question(words, pictures, self._prompts.system)

    # What a test would ask

    def plan(self, batches: Iterable[FaceBatch]) -> Plan:
        """Return what would be asked about batches, without asking."""
        found = Plan()
        for batch in batches:
            if batch["id"]:
                asker = self._asker(batch)
                rows = range(len(batch["id"]))
                found.add(
                    self.endpoint, [q for row in rows for _, q in self._questions(asker, row)]
                )
        return found

    def _asker(self, batch: FaceBatch) -> Asker:
        batch = as_clips(batch)
        clips = [video[known] for video, known in
                 zip(batch["video"], batch["frame_mask"], strict=True)]  # fmt: skip
        nobody: Any = None  # words alone are asked for, no model's own format
        return Asker(self.schema, nobody, clips, self.forms)

    def _questions(self, asker: Asker, sample: int) -> list[tuple[str, Question]]:
        """Return the requests about a sample, with the task of each, empty for all."""
        if not self.structured:
            return [
                (task, self._about(asker, sample, self._words(asker, sample, task)))
                for task in self.forms
            ]
        words = [self._words(asker, sample, task) for task in self.forms]
        reasons = any(prompt.form == "think" for prompt in self.forms.values())
        words.append(f"Answer with JSON only: {example(self.schema, reasons)}")
        form = answer_schema(self.schema, reasons)
        return [("", self._about(asker, sample, "\n".join(words), form))]

    def _words(self, asker: Asker, sample: int, task: str) -> str:
        if self.forms[task].form == "describe":
            return asker.describing(sample, task)
        return asker.question(sample, task)

    def _about(
        self, asker: Asker, sample: int, words: str, form: dict[str, Any] | None = None
    ) -> Question:
        pictures = tuple(_picture(frame) for frame in asker.clips[sample])
        return Question(words, pictures, self._prompts.system, form)

    def _ask(
        self,
        names: Sequence[str],
        asked: Sequence[tuple[int, str, Question]],
        said: dict[tuple[int, str], str],
    ) -> None:
        """Ask, and put what was answered under sample and task."""
        endpoint = self._allowed()
        from faceaffect.instructions.client import Client, work_off  # an extra

        async def one(client: Client, item: tuple[int, str, Question]) -> None:
            sample, task, question = item
            try:
                answer = await client.ask(question)
            except Refused as error:
                self._refuse(names[sample], str(error))
            except Unanswered as error:
                self._miss(names[sample], str(error))
            else:
                self._in_a_row = 0
                if answer.text is None:
                    self._refuse(names[sample], f"an answer without text {answer.finish}".strip())
                else:  # halves of characters are in no file
                    words = answer.text.encode(errors="replace").decode()
                    said[sample, task] = words

        work_off(endpoint, self.spent, asked, one)

    def _allowed(self) -> Endpoint:
        """Return the endpoint with its key, after a look at what may leave the machine.

        Raises:
            RecipeError: nobody allowed the pictures, or the key, to go there.
        """
        self.endpoint.check_sending()
        name = self._given_variable
        openai = self.endpoint.host == OPENAI and self.endpoint.url.startswith("https:")
        if name is None:
            name = "OPENAI_API_KEY" if openai else ""
        elif name and name not in allowed_env and not (openai and name == "OPENAI_API_KEY"):
            raise RecipeError(
                f"model.key_variable: {name} would be read from the environment and sent to "
                f"{self.endpoint.host}; say --allow-env {name} if it may"
            )
        return replace(self.endpoint, key_variable=name)

    def _refuse(self, name: str, reason: str) -> None:
        self._in_a_row = 0  # an endpoint that refuses is there
        self.refused[name] = printable(reason, 300)
        if len(self.refused) >= _FEW and not self.spent.asked + self.spent.kept:
            raise EndpointError(
                f"{self.endpoint.url}: the first {len(self.refused)} samples were all refused, the "
                f"last with: {reason}"
            )

    def _miss(self, name: str, reason: str) -> None:
        self._unanswered[name] = reason
        self._in_a_row += 1
        if self._in_a_row >= max(8, 2 * self.endpoint.parallel):
            raise EndpointError(f"{self._lacking()} It seems to be down")

    def _lacking(self, what: str = "samples") -> str:
        name, reason = next(iter(self._unanswered.items()))
        return (
            f"{self.endpoint.url}: {len(self._unanswered)} {what} got no answer, the first "
            f"{printable(name)}: {reason}. What was answered is kept: the same command asks for "
            "the rest alone."
        )

    # Reading

    def _read(self, rows: int, said: dict[tuple[int, str], str]) -> dict[str, Any]:
        if self.structured:
            texts = [said.get((row, ""), "") for row in range(rows)]
            answers, words = read_json_answers(texts, self.schema)
            return self._moved(answers) | {"text": words}
        by_task = {t: [said.get((row, t), "") for row in range(rows)] for t in self.forms}
        lines = [{task: by_task[task][row] for task in by_task} for row in range(rows)]
        read = read_answers(by_task, self.schema)
        return self._moved(read) | {"text": [join_answers(line) for line in lines]}

    def _moved(self, answers: dict[str, Tensor]) -> dict[str, Any]:
        return {task: value.to(self.device) for task, value in answers.items()}

    # The test

    def on_test_epoch_start(self) -> None:
        """Count anew."""
        super().on_test_epoch_start()
        self.begin_asking()
        self._testing = True

    def on_test_epoch_end(self) -> None:
        """See that every sample was answered, or refused.

        Raises:
            EndpointError: some were not, or all were refused.
        """
        self._testing = False
        console.print(self.spent.words(self.endpoint))
        if self._unanswered:
            raise EndpointError(self._lacking())
        self._tell_refused("samples")
        super().on_test_epoch_end()

    def _tell_refused(self, what: str) -> None:
        if self.refused:
            name, reason = next(iter(self.refused.items()))
            told = f"{len(self.refused)} {what} were refused, the first, {printable(name)}"
            if not self.spent.asked + self.spent.kept:
                raise EndpointError(f"{self.endpoint.url}: all {told}: {reason}")
            console.print(f"{told}: {reason}", markup=False)

    def answering(self) -> dict[str, Any]:
        """Return who answered, how, what it took, and what was refused, for the result."""
        how = (
            "0 and 1, from JSON that the server was asked to hold to a schema"
            if self.structured
            else "0 and 1, read from text"
        )
        return {
            "probabilities": dict.fromkeys(self.forms, how),
            "forms": {task: prompt.form for task, prompt in self.forms.items()},
            **self._taken(),
        }

    def _taken(self) -> dict[str, Any]:
        return {
            "spent": self.spent.to_dict(self.endpoint),
            "refused": {"n": len(self.refused), "reasons": dict(list(self.refused.items())[:_FEW])},
        }


def _picture(frame: Tensor) -> NDArray[np.uint8]:
    """Return a frame (3, H, W) as (H, W, 3)."""
    picture: NDArray[np.uint8] = frame.permute(1, 2, 0).contiguous().cpu().numpy()
    return picture
