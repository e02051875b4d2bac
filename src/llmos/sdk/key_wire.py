"""The bodies of requests about API keys, and what is hidden in the requests that come with one."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StrictBool

from llmos.sdk.wire import MAX_NAMES, Body, PriorityName
from llmos.types import PERSONAL_TYPES, Anonymise, PersonalType


class AnonymiseBody(Body):
    """Which personal data is hidden in requests to models and in their answers; what is left out
    has its default."""

    types: (
        Annotated[list[PersonalType], Field(fail_fast=True, min_length=1, max_length=MAX_NAMES)]
        | None
    ) = None
    language: Literal["auto", "en", "zh"] = "auto"
    names: Literal["cautious", "eager"] = "cautious"
    action: Literal["replace", "mask", "pseudonym"] = "replace"
    answers: StrictBool = True

    def settings(self) -> Anonymise:
        """Return this as the rest of llmos knows it."""
        types = PERSONAL_TYPES if self.types is None else tuple(self.types)
        return Anonymise(types, self.language, self.names, self.action, self.answers)


class KeyBody(Body):
    """Make an API key. ``actions`` and ``models`` left out mean all that the role allows."""

    name: str = Field(min_length=1, max_length=128)
    role: Literal["admin", "user"] = "user"
    actions: Annotated[list[str], Field(fail_fast=True, max_length=MAX_NAMES)] | None = None
    models: Annotated[list[str], Field(fail_fast=True, max_length=MAX_NAMES)] | None = None
    best_priority: PriorityName = "standard"
    anonymise: AnonymiseBody | None = None
    expires_in_s: float | None = Field(None, gt=0)
