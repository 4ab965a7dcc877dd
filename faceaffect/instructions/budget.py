"""What asking costs: counted as it goes, held below a cap, and estimated before it begins."""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from faceaffect.instructions.answered import Answer, opened
from faceaffect.instructions.endpoint import Endpoint, EndpointError, Question

_UNBOUNDED = 1000
"""Tokens that an answer is taken to have at most where the recipe sets no bound."""


@dataclass
class Spent:
    """What the answers of a run took.

    Attributes:
        asked: answers that were asked for now.
        kept: answers that were kept from before.
        prompt_tokens: of all of them, as the server counts.
        answer_tokens: likewise.
        uncounted: answers of which the server counted nothing; they count by estimate.
        cost: of all of them.
    """

    asked: int = 0
    kept: int = 0
    prompt_tokens: int = 0
    answer_tokens: int = 0
    uncounted: int = 0
    cost: float = 0.0
    _held: float = field(default=0.0, repr=False)

    async def hold(self, endpoint: Endpoint, question: Question) -> float:
        """Set aside what an answer costs at most, once others have left room for it.

        Raises:
            EndpointError: it would be more than is allowed.
        """
        most = endpoint.price.of(question.tokens, endpoint.max_tokens or _UNBOUNDED)
        cap = endpoint.max_cost
        while cap is not None and self.cost + self._held + most > cap:
            if self.cost + most > cap:
                raise EndpointError(
                    f"max_cost: {self.cost:.6g} of {cap:g} is spent on {self.asked + self.kept} "
                    "answers, and the next may not fit. They are kept: with a higher cap the same "
                    "command goes on and asks for none of them again"
                )
            await asyncio.sleep(0.01)
        self._held += most
        return most

    def release(self, held: float) -> None:
        """Give back what was set aside."""
        self._held -= held

    def count(self, endpoint: Endpoint, question: Question, answer: Answer, *, kept: bool) -> None:
        """Count an answer."""
        self.kept += kept
        self.asked += not kept
        unknown = answer.prompt_tokens is None or answer.answer_tokens is None
        self.uncounted += unknown
        asked = question.tokens if answer.prompt_tokens is None else answer.prompt_tokens
        said = len(answer.text or "") // 4 if unknown else answer.answer_tokens or 0
        self.prompt_tokens += asked
        self.answer_tokens += said
        self.cost += endpoint.price.of(asked, said)

    def to_dict(self, endpoint: Endpoint) -> dict[str, Any]:
        """Return it for a result; what was kept from before depends on the day, so both are one."""
        found: dict[str, Any] = {
            "answers": self.asked + self.kept,
            "prompt_tokens": self.prompt_tokens,
            "answer_tokens": self.answer_tokens,
            "answers_without_count": self.uncounted,
        }
        return found | ({"cost": self.cost} if endpoint.price != type(endpoint.price)() else {})

    def words(self, endpoint: Endpoint) -> str:
        """Return it in a line."""
        text = (
            f"{self.asked} answers asked for, {self.kept} kept from before; "
            f"{self.prompt_tokens} tokens in, {self.answer_tokens} out"
        )
        return text + (f"; {self.cost:.6g} in all" if self.cost else "")


@dataclass
class Plan:
    """What a run would ask, without asking.

    Attributes:
        questions: all of them, each once.
        kept: those that are answered already.
        tokens: of the others, in, by estimate.
    """

    questions: int = 0
    kept: int = 0
    tokens: int = 0
    _seen: set[str] = field(default_factory=set, repr=False)

    def add(self, endpoint: Endpoint, questions: Iterable[Question]) -> None:
        """Count questions."""
        digests = {question.digest(endpoint): question for question in questions}
        new = {d: q for d, q in digests.items() if d not in self._seen}
        self._seen.update(new)
        self.questions += len(new)
        there = _answered(endpoint, new)
        self.kept += len(there)
        self.tokens += sum(q.tokens for d, q in new.items() if d not in there)

    def words(self, endpoint: Endpoint) -> list[str]:
        """Return it in lines."""
        left = self.questions - self.kept
        lines = [
            f"{left} requests to {endpoint.model} at {endpoint.url}; {self.kept} more are "
            "answered already",
        ]
        measured = _mean_tokens(endpoint)
        if left and measured is not None:
            count, asked, said = measured
            lines.append(
                f"about {left * asked:.0f} tokens in and {left * said:.0f} out, by the mean of "
                f"{count} answers of this model"
            )
        elif left:
            asked, said = self.tokens / left, float(endpoint.max_tokens or _UNBOUNDED)
            lines.append(
                f"about {self.tokens} tokens in, and at most {left * said:.0f} out"
                + ("" if endpoint.max_tokens else f" if an answer has {_UNBOUNDED}")
            )
        if left and endpoint.price.of(1e6, 1e6):
            lines.append(f"about {left * endpoint.price.of(asked, said):.6g} to pay")
        return lines


def _answered(endpoint: Endpoint, digests: Iterable[str]) -> set[str]:
    if endpoint.cache is None or not endpoint.cache.exists():
        return set()
    with opened(endpoint.cache) as answers:
        return {digest for digest in digests if answers.get(digest) is not None}


def _mean_tokens(endpoint: Endpoint) -> tuple[int, float, float] | None:
    if endpoint.cache is None or not endpoint.cache.exists():
        return None
    with opened(endpoint.cache) as answers:
        return answers.mean_tokens(endpoint.model)
