"""The bodies of requests about routes, and of verdicts on answers."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, StrictBool, StrictFloat, model_validator

from llmos.sdk.wire import Body, Constrained, PriorityName, TokenCount

MAX_BEHIND = 16
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


class FeedbackBody(Body):
    """Say whether an answer was good: of a model, or one that was stored or kept."""

    good: StrictBool
    model: Ref | None = None
    response_id: Annotated[str, Field(min_length=1, max_length=128)] | None = None
    task: Annotated[str, Field(min_length=1, max_length=32)] | None = None
    language: Language | None = None

    @model_validator(mode="after")
    def _one_answer(self) -> FeedbackBody:
        if (self.model is None) == (self.response_id is None):
            raise ValueError("give either model or response_id")
        return self
