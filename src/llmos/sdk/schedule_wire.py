"""Schedules and webhooks as the API has them, shared by the server and whoever writes a client."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, JsonValue

from llmos.sdk.wire import Body

MAX_CRON_CHARS = 200
MAX_ZONE_CHARS = 64
MAX_NAME_CHARS = 128
MAX_EVENTS = 32


class ScheduleBody(Body):
    """Run a pipeline again and again: ``cron`` has five fields, in the time of ``timezone``."""

    cron: str = Field(min_length=1, max_length=MAX_CRON_CHARS)
    pipeline: dict[str, JsonValue]
    timezone: str = Field("UTC", min_length=1, max_length=MAX_ZONE_CHARS)
    name: str | None = Field(None, min_length=1, max_length=MAX_NAME_CHARS)
    """The pipeline's own unless given."""


class WebhookBody(Body):
    """Send these events of one's jobs and runs to ``url``; all of them unless given."""

    url: str
    events: Annotated[list[str], Field(fail_fast=True, max_length=MAX_EVENTS)] | None = None
