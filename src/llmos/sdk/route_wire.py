"""The bodies of requests about routes, and of verdicts on answers."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, StrictBool, StrictFloat, StrictInt, model_validator

from llmos.errors import InvalidRequestError
from llmos.sdk.wire import MAX_N, Body, Constrained, PriorityName, TokenCount

MAX_BEHIND = 16
MAX_CORRECTION_CHARS = 100_000
MAX_COMMENT_CHARS = 4000
MAX_ROWS = 1000
_LANGUAGE = r"^[A-Za-z]{2,3}(-[A-Za-z0-9]{2,8})?(_[A-Za-z]{2,3}(-[A-Za-z0-9]{2,8})?)?$"

Ref = Annotated[str, Field(min_length=1, max_length=1000)]
Language = Annotated[str, Field(pattern=_LANGUAGE)]
"""A code, such as ``zh``; ``en_zh`` for a translation."""


class TargetBody(Body):
    """A model and its share of a route's requests, in proportion to the others'."""

    model: Ref
    weight: StrictFloat = Field(1.0, ge=0, le=1e6)


class RouteBody(Body):
    """Let a name mean these models by their weights; when one fails, the fallbacks in order."""

    targets: Annotated[list[TargetBody], Field(fail_fast=True, min_length=1, max_length=MAX_BEHIND)]
    fallbacks: list[Ref] = Field([], fail_fast=True, max_length=MAX_BEHIND)


class ExplainBody(Constrained):
    """Ask which model would answer, and why, without asking it."""

    text: str
    model: Ref = "auto"
    task: str = "chat"
    source_lang: Annotated[str, Field(min_length=1, max_length=32)] | None = None
    target_lang: Annotated[str, Field(min_length=1, max_length=32)] | None = None
    max_tokens: TokenCount | None = None
    priority: PriorityName | None = None

    @model_validator(mode="after")
    def _both_languages(self) -> ExplainBody:
        if (self.source_lang is None) != (self.target_lang is None):
            raise ValueError("give source_lang and target_lang, or neither")
        return self


class RowsBody(Body):
    """Give rows to be learned by the models of a name, as data files have them; those that are
    there already are left out."""

    model: Ref
    rows: Annotated[list[dict[str, Any]], Field(fail_fast=True, min_length=1, max_length=MAX_ROWS)]
    first: TokenCount = 1
    """The number of the first of them, by which an error names a row."""


class FeedbackBody(Body):
    """Say whether an answer was good: of a model, or one that was stored or kept. Of one that is
    kept more can be said, to be learned from."""

    good: StrictBool | None = None
    model: Ref | None = None
    response_id: Annotated[str, Field(min_length=1, max_length=128)] | None = None
    task: Annotated[str, Field(min_length=1, max_length=32)] | None = None
    language: Language | None = None
    rating: Annotated[StrictInt, Field(ge=1, le=5)] | None = None
    """5 is best; 4 and 5 are good, 1 and 2 bad."""
    correction: Annotated[str, Field(min_length=1, max_length=MAX_CORRECTION_CHARS)] | None = None
    """What should have been answered."""
    comment: Annotated[str, Field(min_length=1, max_length=MAX_COMMENT_CHARS)] | None = None
    choice: StrictInt = Field(0, ge=0, lt=MAX_N)
    """Which of the answers of one response."""

    @property
    def teaches(self) -> bool:
        """Whether it says what only a kept answer can be told."""
        return (self.rating, self.correction, self.comment, self.choice) != (None, None, None, 0)

    @model_validator(mode="after")
    def _one_answer(self) -> FeedbackBody:
        if (self.model is None) == (self.response_id is None):
            raise ValueError("give either model or response_id")
        if self.model is not None and self.teaches:
            raise ValueError("rating, correction, comment and choice are of a response_id")
        if self.good is None and (self.rating, self.correction, self.comment) == (None,) * 3:
            raise InvalidRequestError(
                "say something of the answer: good; or of a kept one a rating, correction, comment",
                param="good",
            )
        return self
