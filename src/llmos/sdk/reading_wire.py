"""The bodies of requests to models that read, shared by the server and whoever writes a client."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, StrictInt, model_validator

from llmos.sdk.wire import MAX_DEADLINE_MS, MAX_LABELS, MAX_STOP_CHARS, Constrained, PriorityName

MAX_WORDS = 1024
"""Of a sentence."""

Label = Annotated[str, Field(max_length=MAX_STOP_CHARS)]
Labels = Annotated[list[Label], Field(fail_fast=True, min_length=2, max_length=MAX_LABELS)]
Word = Annotated[str, Field(min_length=1, max_length=MAX_STOP_CHARS)]
Words = Annotated[list[Word], Field(fail_fast=True, min_length=1, max_length=MAX_WORDS)]


class ClassifyBody(Constrained):
    """Label ``text``: with ``labels`` by one of those, each described by the ``template`` with the
    label in the place of ``{}``."""

    text: str
    labels: Labels | None = None
    template: str = Field("{}", max_length=MAX_STOP_CHARS)
    model: str = "sentiment"
    priority: PriorityName | None = None
    deadline_ms: StrictInt | None = Field(None, ge=1, le=MAX_DEADLINE_MS)

    @model_validator(mode="after")
    def _embeds(self) -> Self:
        if self.labels is not None and "model" not in self.model_fields_set:
            self.model = "embeddings"
        if self.labels is None and "template" in self.model_fields_set:
            raise ValueError("template is for labels: give some, or leave it out")
        return self


class EntitiesBody(Constrained):
    """Find the names in ``text``."""

    text: str
    model: str = "entities"
    priority: PriorityName | None = None
    deadline_ms: StrictInt | None = Field(None, ge=1, le=MAX_DEADLINE_MS)


class FillMaskBody(Constrained):
    """Fill each ``[MASK]`` of ``text`` with its ``top_k`` likeliest tokens, or with one span of any
    length where the model writes such."""

    text: str
    model: str = "fill_mask"
    top_k: int = Field(5, ge=1, le=100)
    priority: PriorityName | None = None
    deadline_ms: StrictInt | None = Field(None, ge=1, le=MAX_DEADLINE_MS)


class AnswerBody(Constrained):
    """Find the answer to ``question`` in ``context``."""

    question: str
    context: str
    model: str = "answer"
    priority: PriorityName | None = None
    deadline_ms: StrictInt | None = Field(None, ge=1, le=MAX_DEADLINE_MS)


class RateBody(Constrained):
    """Give ``text`` a number."""

    text: str
    model: str = "rate"
    priority: PriorityName | None = None
    deadline_ms: StrictInt | None = Field(None, ge=1, le=MAX_DEADLINE_MS)


class ParseBody(Constrained):
    """Find the trees of the sentences of ``text``, or that of one sentence of ``words``."""

    text: str | None = None
    words: Words | None = None
    model: str = "parse"
    priority: PriorityName | None = None
    deadline_ms: StrictInt | None = Field(None, ge=1, le=MAX_DEADLINE_MS)

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.text is None) == (self.words is None):
            raise ValueError("give text or words, not both")
        return self
