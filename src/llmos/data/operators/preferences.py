"""Pairs of answers to learn from, of which one is better: a model's own, judged."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Self

from pydantic import Field, model_validator

from llmos.data.operators.agreement import (
    MAX_SAMPLES,
    MAX_TEMPLATE_CHARS,
    SampledOptions,
    note,
    values_of,
    voted,
)
from llmos.data.operators.chance import number_of
from llmos.data.operators.prompts import CHAT, Said, chat, filled, names_in, said
from llmos.data.pipeline.operator import Batcher
from llmos.data.pipeline.options import ChatModel
from llmos.data.pipeline.record import Record, Row
from llmos.errors import DataError

MESSAGES = "messages"
BEST = 10
JUDGING = (
    "Below is what somebody was asked, and an answer. How good is the answer, from 1, which is of "
    "no use, to 10, which could not be better? Say nothing but the number.\n\n"
    "Asked: {prompt}\n\nAnswer: {answer}"
)
_NUMBER = re.compile(r"\d+")
Pair = tuple[str, str, dict[str, Any]]
"""The better answer, the other, and what is noted of them."""


class PreferencesOptions(SampledOptions):
    prompt: str | None = Field(
        default=None,
        max_length=MAX_TEMPLATE_CHARS,
        description="template of what is asked; the messages, up to the user's last, by default",
    )
    samples: int = Field(default=4, ge=2, le=MAX_SAMPLES, description="answers to choose from")
    judge: ChatModel | None = Field(
        default=None, description="a chat model that gives answers marks; else most agree"
    )
    judging: str = Field(
        default=JUDGING,
        max_length=MAX_TEMPLATE_CHARS,
        description="template that asks for a mark from 1 to 10 of {answer} to {prompt}",
    )

    @model_validator(mode="after")
    def _templates(self) -> Self:
        if self.prompt is not None and not names_in(self.prompt):
            raise ValueError("prompt needs the name of a field in it, as {text}")
        if "answer" not in names_in(self.judging):
            raise ValueError("judging needs {answer} in it")
        return self


class Preferences(Batcher[PreferencesOptions]):
    """Has a model answer several times, and keeps a better and a worse answer: `messages`, `chosen`
    and `rejected`.

    Better is what a judge gives the higher mark, or, without one, what most answers say.

    >>> preferences = Preferences(model="chat", prompt="{text}", samples=3)
    >>> preferences.ask = lambda path, bodies: [
    ...     {"choices": [{"message": {"content": text}, "finish_reason": "stop"}
    ...                  for text in ("Four.", "Five.", "four")]}
    ...     for body in bodies
    ... ]
    >>> (made,) = apply([preferences], [Record("1", {"text": "2 + 2?"})]).records
    >>> made.fields["chosen"], made.fields["rejected"], made.meta["synthesise"]["agreed"]
    ('Four.', 'Five.', 0.667)
    """

    name = "preferences"
    adds = (MESSAGES, "chosen", "rejected")
    group = "synthesise"
    options_type = PreferencesOptions

    def batch(self, records: list[Record]) -> list[Record]:
        """Return records with pairs; without one they are dropped.

        Raises:
            LlmosError: a model refuses one.
            DataError: a field is missing.
        """
        asked = [self._asked(record) for record in records]
        bodies = [self._body(*one) for one in zip(records, asked, strict=True)]
        answers = [said(answer) for answer in self.ask(CHAT, bodies)]
        if self.options.judge is None:
            pairs = [self._agreed(some) for some in answers]
        else:
            pairs = self._judged(self.options.judge, records, asked, answers)
        for record, messages, pair in zip(records, asked, pairs, strict=True):
            if isinstance(pair, str):
                record.dropped_reason = pair
                continue
            chosen, rejected, known = pair
            record.fields |= {MESSAGES: messages, "chosen": chosen, "rejected": rejected}
            note(record, self.name, **known)
        return records

    def _asked(self, record: Record) -> list[Row]:
        """Return the messages that are answered."""
        if self.options.prompt is not None:
            return [{"role": "user", "content": filled(self.options.prompt, values_of(record))}]
        turns: Any = record.fields.get(MESSAGES)
        asked = [
            place
            for place, turn in enumerate(turns if isinstance(turns, list) else [])
            if isinstance(turn, dict) and turn.get("role") == "user"
        ]
        if not asked:
            raise DataError(f"there are no {MESSAGES!r} of a user: set `prompt`, a template")
        return list(turns[: asked[-1] + 1])

    def _body(self, record: Record, messages: list[Row]) -> Row:
        options = self.options
        seed = number_of(self.seed, self.name, record.id)
        sampling = {"temperature": options.temperature, "max_tokens": options.max_tokens}
        return chat(options.model, messages, seed, options.system, n=options.samples, **sampling)

    def _agreed(self, answers: Sequence[Said]) -> Pair | str:
        """Return an answer that most agree with, and one of the fewest; or why there is none."""
        groups = voted(answers, self.options.compare)
        share = len(groups[0]) / self.options.samples if groups else 0.0
        if share < self.options.agree:
            return f"no agreement: {share:.0%} of the answers say the same"
        if len(groups) < 2 or len(groups[-1]) == len(groups[0]):
            return "no preference: no answer stands out"
        return groups[0][0].text, groups[-1][0].text, {"agreed": round(share, 3)}

    def _judged(
        self,
        judge: str,
        records: Sequence[Record],
        asked: Sequence[list[Row]],
        answers: Sequence[Sequence[Said]],
    ) -> list[Pair | str]:
        texts = [
            list(dict.fromkeys(one.text for one in some if one.is_whole and one.text))
            for some in answers
        ]
        bodies = []
        for record, messages, some in zip(records, asked, texts, strict=True):
            prompt = "\n".join(str(turn.get("content") or "") for turn in messages)
            for text in some:
                known = values_of(record) | {"prompt": prompt, "answer": text}
                told = filled(self.options.judging, known)
                bodies.append(chat(judge, told, self.seed, temperature=0, max_tokens=16))
        marks = (_mark(said(answer)[0].text) for answer in self.ask(CHAT, bodies))
        return [_best_and_worst([(next(marks), text) for text in some]) for some in texts]


def _best_and_worst(marked: Sequence[tuple[int | None, str]]) -> Pair | str:
    known = [(mark, text) for mark, text in marked if mark is not None]
    if not known:
        return "no preference: the judge gave no mark"
    best, worst = max(known, key=lambda one: one[0]), min(known, key=lambda one: one[0])
    if best[0] == worst[0]:
        return "no preference: the judge finds all as good"
    return best[1], worst[1], {"marks": [best[0], worst[0]]}


def _mark(text: str) -> int | None:
    """Return the first number of a judge's answer, None where it is no mark."""
    found = _NUMBER.search(text)
    mark = int(found[0]) if found and len(found[0]) <= 2 else 0
    return mark if 1 <= mark <= BEST else None
