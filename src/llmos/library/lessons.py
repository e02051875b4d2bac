"""What feedback teaches: rows to train on, made of what was asked, answered and said of it. Pure.

A correction is a better answer; without one, a good answer that ended by itself is as good as any.
An answer with a correction is also the worse one of two. Tools and their calls are not learned.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

LEARNED_ROLES = frozenset({"system", "user", "assistant"})
READS = ("chat", "preferences", "generate")
"""What feedback can be made into: examples as recipes read them."""
GOOD_RATING, BAD_RATING = 4, 2
"""Of 1 to 5: from here on, and up to here."""
STREAM = "stream"
"""The param of a train job that says what it takes of which source: ``{"source", "after", "upto",
"rows"}``, ``after`` and ``upto`` the numbers of pieces of feedback."""


@dataclass(frozen=True, slots=True)
class Feedback:
    """What somebody said of an answer, and that answer.

    Attributes:
        answer: the kept answer's id; ``row-…``: a row that was given to be learned.
        model: the version that answered, ``name:number``, or two with a ``+`` between.
        prompt: what was asked: turns, a text or token ids, as plain JSON.
        text: the answer; of a row given to be learned, a worse one, or empty.
        good: the verdict; None: neither.
        rating: 1 to 5.
        correction: what should have been answered.
        actor: the key that said so.
        at: Unix seconds.
    """

    id: int
    answer: str
    model: str
    prompt: Any
    text: str
    finish_reason: str | None
    good: bool | None
    rating: int | None
    correction: str | None
    comment: str | None
    actor: str
    owner: str
    at: float

    def is_on(self, name: str) -> bool:
        """Whether it is on a model of this name: any of its versions, or one, ``name:number``."""
        return is_on(self.model, name)


def is_on(model: str, name: str) -> bool:
    """Whether what answered, a version or two with a "+" between, is a model of this name."""
    return any(name in (ref, ref.rpartition(":")[0]) for ref in model.split("+"))


def conversation(prompt: Any, output: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the row that a kept answer is, as it was said; None for no conversation, and for one
    with tools."""
    turns, text = _turns(prompt), output.get("text")
    if turns is None or not text or output["finish_reason"] == "tool_calls":
        return None
    answer = {"role": "assistant", "content": text}
    return {"messages": [*turns, answer], "finish_reason": output["finish_reason"]}


def source_of(name: str) -> str:
    """Return what feedback on the models of a name is called as a source of data."""
    return f"feedback:{name}"


def verdict(good: bool | None, rating: int | None, correction: str | None) -> bool | None:
    """Return whether an answer was good, by what was said of it; None: that says neither."""
    if good is not None:
        return good
    if rating is not None and not BAD_RATING < rating < GOOD_RATING:
        return rating >= GOOD_RATING
    return None if correction is None else False


def lesson(given: Feedback, reads: str) -> dict[str, Any] | None:
    """Return the row that a piece of feedback is, as a data file has it; None: it teaches nothing.

    Args:
        reads: one of `READS`.
    """
    if reads == "generate":
        return _text(given)
    turns = _turns(given.prompt)
    if turns is None:
        return None
    if reads == "preferences":
        return _pair(given, turns)
    target = _target(given)
    if target is None:
        return None
    turns = [turn | {"weight": 0} if turn["role"] == "assistant" else turn for turn in turns]
    learned = {"role": "assistant", "content": target}
    return {"messages": [*turns, learned], "feedback": given.id}


def _text(given: Feedback) -> dict[str, Any] | None:
    target = _target(given)
    if target is None or not isinstance(given.prompt, str):
        return None
    return {"text": given.prompt + target, "feedback": given.id}


def _pair(given: Feedback, turns: list[dict[str, Any]]) -> dict[str, Any] | None:
    chosen, rejected = given.correction, given.text
    has_both = bool(chosen) and bool(rejected) and chosen != rejected
    if not has_both or given.finish_reason == "tool_calls" or turns[-1]["role"] == "assistant":
        return None
    return {"messages": turns, "chosen": chosen, "rejected": rejected, "feedback": given.id}


def _target(given: Feedback) -> str | None:
    """What should be answered: an answer that was cut short is no example of how one ends."""
    if given.correction is not None:
        return given.correction or None
    is_example = given.good and given.finish_reason == "stop"
    return given.text or None if is_example else None


def _turns(prompt: Any) -> list[dict[str, Any]] | None:
    """Return the turns of a conversation; None where that is none, or has tools in it."""
    if not isinstance(prompt, list) or not prompt:
        return None
    turns = []
    for turn in prompt:
        if not isinstance(turn, Mapping) or turn.get("tool_calls"):
            return None
        if turn["role"] not in LEARNED_ROLES:
            return None
        turns.append({"role": turn["role"], "content": turn["content"]})
    return turns
