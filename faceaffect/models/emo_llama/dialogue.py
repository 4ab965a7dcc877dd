"""Dialogue formats, and text to token ids."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, get_args

from faceaffect.errors import CheckpointError, RecipeError
from faceaffect.models.emo_llama.llm import LanguageModel
from faceaffect.models.emo_llama.packing import Piece, Text, Visual

TemplateName = Literal["plain", "vicuna", "chat"]

_VICUNA = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives "
    "helpful, detailed, and polite answers to the user's questions."
)
_IMAGE = "<image>"


@dataclass(frozen=True)
class Option:
    """An answer to score or to learn: what is given of it, and what is said.

    Attributes:
        given: ids that stand before the choice, the same for all options of one choice.
        said: the ids that differ, with the end token.
    """

    given: tuple[int, ...]
    said: tuple[int, ...]

    def texts(self) -> list[Text]:
        """Return the option as a branch of a row."""
        return [Text(self.given), Text(self.said, said=True)]


class Dialogue:
    """Writes dialogues as token ids for one language model.

    Every question has visual tokens of its own in front of it, since they depend on the question.

    Args:
        llm: whose tokenizer.
        template: ``vicuna``: Vicuna's system line and roles, as LLaMA-VID; ``plain``: the same
            without a system line; ``chat``: the chat template of the tokenizer.

    Raises:
        RecipeError: an unknown template.
        CheckpointError: ``chat`` with a tokenizer that has no chat template.
    """

    def __init__(self, llm: LanguageModel, template: TemplateName) -> None:
        if template not in get_args(TemplateName):
            raise RecipeError(f"model.template: '{template}' is not plain, vicuna or chat")
        self.llm, self.template = llm, template
        self.begin, self.end = tuple(llm.beginning()), llm.end
        self.encode = lru_cache(maxsize=4096)(self._encode)
        self._tail, self._gap, self._space = "ASSISTANT:", "", " "
        if template == "chat":
            self._read_chat_template()

    def prompt(self, turns: Sequence[tuple[str, str]], question: str, visuals: list[Visual],
               profile: str = "") -> list[Piece]:  # fmt: skip
        """Return the prompt that ends where the model has to answer.

        Args:
            turns: earlier questions and answers; the answers are learned.
            question: the question to be answered.
            visuals: the visual tokens of each question, the last one's included.
            profile: a sentence on the person, put before the first question; never learned.
        """
        pieces: list[Piece] = []
        questions = [*(q for q, _ in turns), question]
        answers = [a for _, a in turns]
        for number, (asked, visual) in enumerate(zip(questions, visuals, strict=True)):
            asked = f"{profile} {asked}" if profile and number == 0 else asked
            before, after = self._around(questions[:number], answers[:number], asked)
            start = self.begin if number == 0 and self.template != "chat" else ()
            pieces += [Text(start + self.encode(before)), visual, Text(self.encode(after))]
            if number < len(answers):
                pieces.append(Text(self.answer(answers[number]), said=True))
        return pieces

    def answer(self, text: str) -> tuple[int, ...]:
        """Return the ids of an answer as it follows the prompt, with the end token."""
        return (*self._continue(text), self.end)

    def options(self, texts: Sequence[str], *, ended: bool = True) -> list[Option]:
        """Return the options of one choice; what all have in common at the start is given.

        Args:
            texts: one for each option.
            ended: whether the answer ends with the option, or goes on.
        """
        ids = [self.answer(text) if ended else self._continue(text) for text in texts]
        shared = 0
        while len(ids) > 1 and all(
            shared < len(i) - 1 and i[shared] == ids[0][shared] for i in ids
        ):
            shared += 1
        return [Option(i[:shared], i[shared:]) for i in ids]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of generated ids, up to the end token."""
        ids = list(ids)
        if self.end in ids:
            ids = ids[: ids.index(self.end)]
        return str(self.llm.tokenizer.decode(ids, skip_special_tokens=True)).strip()

    def _encode(self, text: str) -> tuple[int, ...]:
        return tuple(self.llm.encode(text))

    def _read_chat_template(self) -> None:
        """Find out what the tokenizer's chat template puts before, and after, an answer."""
        if not self.llm.tokenizer.chat_template:
            raise CheckpointError("template: chat, but the tokenizer has no chat template")
        asked = [{"role": "user", "content": _IMAGE}]
        self._tail, self._space = self._chat(asked).rpartition(_IMAGE)[2], ""
        said = self._chat([*asked, {"role": "assistant", "content": "@@"}], False)
        after = self.encode(said.rpartition("@@")[2])
        if after:
            self.end = after[0]
            self._gap = str(self.llm.tokenizer.decode(list(after[1:])))

    def _continue(self, text: str) -> tuple[int, ...]:
        """Encode an answer in its place, since tokenizers join words and what precedes them."""
        alone = self.encode(self._tail)
        both = self.encode(self._tail + self._space + text)
        if both[: len(alone)] != alone:
            raise CheckpointError(
                f"the tokenizer joins the prompt's end {self._tail!r} with an answer"
            )
        return both[len(alone) :]

    def _around(self, questions: list[str], answers: list[str], asked: str) -> tuple[str, str]:
        """Return the text before and after a question's visual tokens."""
        if self.template != "chat":
            system = f"{_VICUNA} " if self.template == "vicuna" and not questions else ""
            return f"{system}USER: ", f"\n{asked} ASSISTANT:"
        messages = []
        for question, answer in zip(questions, answers, strict=True):
            messages += [{"role": "user", "content": f"{_IMAGE}\n{question}"},
                         {"role": "assistant", "content": answer}]  # fmt: skip
        before = self._chat(messages, False) if messages else ""
        whole = self._chat([*messages, {"role": "user", "content": f"{_IMAGE}\n{asked}"}])
        if not whole.startswith(before):
            raise CheckpointError("the tokenizer's chat template rewrites earlier turns")
        # The end token of the answer before has been learned with the answer.
        rest = (self._gap if questions else "") + whole[len(before) :]
        head, _, tail = rest.partition(_IMAGE)
        return head, tail

    def _chat(self, messages: list[dict[str, str]], ask: bool = True) -> str:
        text = self.llm.tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=ask
        )
        return str(text)
