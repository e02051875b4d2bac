"""Conversations to learn from, made by a model out of records: a question about each, an answer."""

from __future__ import annotations

from typing import Self

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
from llmos.data.operators.prompts import CHAT, chat, filled, names_in, said
from llmos.data.pipeline.operator import Batcher
from llmos.data.pipeline.record import Record, Row
from llmos.errors import DataError

QUESTION, MESSAGES = "question", "messages"
ASK = (
    "Write one question that the text below answers, in the language of the text. Say nothing but "
    "the question.\n\n{text}"
)
ANSWER = (
    "Answer the question by the text, in the language of the question.\n\nText: {text}\n\n"
    "Question: {question}"
)


class InstructOptions(SampledOptions):
    question: str | None = Field(
        default=ASK,
        max_length=MAX_TEMPLATE_CHARS,
        description="template that asks for a {question} about the fields; null: they have one",
    )
    answer: str = Field(
        default=ANSWER, max_length=MAX_TEMPLATE_CHARS, description="template that is answered"
    )
    prompt: str = Field(
        default="{question}",
        max_length=MAX_TEMPLATE_CHARS,
        description="template of what the user says in the conversation",
    )
    samples: int = Field(default=1, ge=1, le=MAX_SAMPLES, description="answers to choose from")

    @model_validator(mode="after")
    def _templates(self) -> Self:
        for template in (self.question, self.answer, self.prompt):
            if template is not None and not names_in(template):
                raise ValueError("a template needs the name of a field in it, as {text}")
        if self.question is None and QUESTION in names_in(self.answer + self.prompt):
            raise ValueError("there is no {question}: set answer and prompt, with fields' names")
        return self


class Instruct(Batcher[InstructOptions]):
    """Has a model ask a question about a record and answer it: `messages` to learn from.

    With `samples` above 1 the answer is one that most of them agree with; the record is dropped
    where too few do. Double braces stand for braces in a template.

    >>> instruct = Instruct(model="chat", samples=3, compare="([0-9]+)")
    >>> answers = {1: ["How old is it?"], 3: ["It is 80.", "About 90", "80 years"]}
    >>> instruct.ask = lambda path, bodies: [
    ...     {"choices": [{"message": {"content": text}, "finish_reason": "stop"}
    ...                  for text in answers[body.get("n", 1)]]}
    ...     for body in bodies
    ... ]
    >>> (made,) = apply([instruct], [Record("1", {"text": "The bridge is 80 years old."})]).records
    >>> [turn["content"] for turn in made.fields["messages"]], made.meta
    (['How old is it?', 'It is 80.'], {'synthesise': {'by': 'instruct', 'agreed': 0.667}})
    """

    name = "instruct"
    adds = (MESSAGES,)
    group = "synthesise"
    options_type = InstructOptions

    def batch(self, records: list[Record]) -> list[Record]:
        """Return records with conversations; without a good one they are dropped.

        Raises:
            LlmosError: the model refuses one.
            DataError: a field is missing, or there are messages already.
        """
        values = [self._values(record) for record in records]
        reasons: list[str | None] = [None] * len(records)
        if (template := self.options.question) is not None:
            bodies = [
                self._body(record, filled(template, known))
                for record, known in zip(records, values, strict=True)
            ]
            for place, answer in enumerate(self.ask(CHAT, bodies)):
                (question,) = said(answer)
                values[place][QUESTION] = question.text
                if not question.text or not question.is_whole:
                    reasons[place] = "no question: the model asked none"
        asked = [place for place, reason in enumerate(reasons) if reason is None]
        bodies = [
            self._body(records[place], filled(self.options.answer, values[place]), answers=True)
            for place in asked
        ]
        prompts = [filled(self.options.prompt, known) for known in values]
        found = [voted(said(answer), self.options.compare) for answer in self.ask(CHAT, bodies)]
        for place, groups in zip(asked, found, strict=True):
            most = len(groups[0]) if groups else 0
            share = most / self.options.samples
            if share < self.options.agree or not most:
                told = f"{most} of {self.options.samples} answers say the same"
                reasons[place] = f"no agreement: {told}"
                continue
            turns = [("user", prompts[place]), ("assistant", groups[0][0].text)]
            messages = [{"role": role, "content": text} for role, text in turns]
            records[place].fields[MESSAGES] = messages
            note(records[place], self.name, agreed=round(share, 3))
        for record, reason in zip(records, reasons, strict=True):
            record.dropped_reason = reason
        return records

    def _values(self, record: Record) -> dict[str, str]:
        if record.fields.get(MESSAGES) is not None:
            raise DataError(f"there are {MESSAGES!r} already: this would replace them")
        return values_of(record)

    def _body(self, record: Record, prompt: str, *, answers: bool = False) -> Row:
        options = self.options
        what = "answer" if answers else QUESTION
        body = chat(
            options.model,
            prompt,
            number_of(self.seed, self.name, record.id, what),
            options.system,
            temperature=options.temperature,
            max_tokens=options.max_tokens,
        )
        return body | {"n": options.samples} if answers else body
